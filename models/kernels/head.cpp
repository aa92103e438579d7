// The last 1x1 convolution, and the mean over space of what it gives, which is nowhere written.

namespace coordserve {

template <int V, typename T>
INLINE void mean_columns(const Product<T>& p, const T* x, int64_t pixels, int64_t panel, T* out) {
    Floats totals[V]{};
    in_tiles<ROWS>(pixels, [&]<int R>(Fixed<R>, int64_t i) INLINE_LAMBDA {
        Floats sums[R][V];
        tile(p, x + i * p.in, panel, sums);
        activate(p.activation, sums);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) totals[v] += sums[r][v];
    });
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
    for (int64_t first = 0; first < all; first += PANELS)  // whose weights stay in the nearest cache for all images
        for (int64_t n = 0; n < images; n++)
            in_tiles<PANELS>(std::min<int64_t>(PANELS, all - first), [&]<int V>(Fixed<V>, int64_t panel) INLINE_LAMBDA {
                mean_columns<V>(p, x + n * pixels * p.in, pixels, first + panel, out + n * p.out);
            });
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
