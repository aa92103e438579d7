// The last 1x1 convolution, and the mean over space of what it gives, which is nowhere written.

namespace coordserve {

template <int V, typename T>
INLINE void mean_columns(const Product<T>& p, const T* x, int64_t pixels, int64_t panel, T* out) {
    Floats totals[V]{};
    int64_t i = 0;
    auto tiles = [&]<int R>(Fixed<R>) INLINE_LAMBDA {
        for (; i + R <= pixels; i += R) {
            Floats sums[R][V];
            tile(p, x + i * p.in, panel, sums);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) totals[v] += activate(p.activation, sums[r][v]);
        }
    };
    tiles(Fixed<7>{}), tiles(Fixed<4>{}), tiles(Fixed<2>{}), tiles(Fixed<1>{});
    Floats means[1][V];
    for (int v = 0; v < V; v++) means[0][v] = totals[v] * (1.0f / pixels);
    finish(means, NONE, p.out, panel, out, (const T*)nullptr);
}

// out [images, p.out], of x [images, pixels, p.in]
template <typename T>
static void compute(const Product<T>& p, int64_t images, int64_t pixels, const T* x, T* out) {
    if (pixels == 1) return product(p, x, images, out);
    const int64_t all = (p.out + LANES - 1) / LANES;
#pragma omp parallel for collapse(2)
    for (int64_t group = 0; group < (all + 2) / 3; group++)  // whose weights stay in the nearest cache for all images
        for (int64_t n = 0; n < images; n++) {
            const T* from = x + n * pixels * p.in;
            T* to = out + n * p.out;
            if (3 * group + 3 <= all) mean_columns<3>(p, from, pixels, 3 * group, to);
            else
                for (int64_t panel = 3 * group; panel < all; panel++) mean_columns<1>(p, from, pixels, panel, to);
        }
}

}  // namespace coordserve

extern "C" AOTITorchError aoti_torch_cpu_head(
    AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle bias, int64_t activation, int64_t out_channels, AtenTensorHandle* out) {
    using namespace coordserve;
    const int64_t images = size(x, 0), pixels = size(x, 1) * size(x, 2);
    AOTITorchError error = empty(x, {images, out_channels}, out);
    if (error) return error;
    compute(Product<Scalar>{size(x, 3), out_channels, scalars(weight), floats(bias), (Activation)activation}, images, pixels,
            scalars(x), scalars(*out));
    return 0;
}
#pragma GCC pop_options
