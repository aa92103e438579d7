// The first layer, a 3x3 convolution: from the bytes of a picture, which are normalised row by row, to NHWC activations.

namespace coordserve {

template <typename T>
struct Stem {
    int64_t height, width, out_height, out_width, stride;
    const float *mean, *scale;  // [3]; of bytes
    Product<T> convolve;        // inputs by row, column, colour; in each row as many as TAPS
};

constexpr int64_t COLOURS = 3;
template <typename T>
constexpr int64_t TAPS = sizeof(T) == sizeof(float) ? 9 : 10;  // bfloat16 goes in pairs: the tenth is weighted with 0

// to [width + 2, 3] = (bytes [width, 3] - mean) * scale, and what is beside the picture
template <typename T>
static void normalise(const Stem<T>& s, const uint8_t* bytes, T* to) {
    Floats mean[COLOURS], scale[COLOURS];  // of three vectors in a row, which begin with different colours
    for (int64_t i = 0; i < COLOURS * LANES; i++) {
        mean[i / LANES][i % LANES] = s.mean[i % COLOURS];
        scale[i / LANES][i % LANES] = s.scale[i % COLOURS];
    }
    const int64_t values = s.width * COLOURS;
    int64_t i = 0;
    for (; i + LANES <= values; i += LANES) {
        Floats value = __builtin_convertvector(*(const Bytes*)(bytes + i), Floats);
        store(to + COLOURS + i, (value - mean[i / LANES % COLOURS]) * scale[i / LANES % COLOURS]);
    }
    for (; i < values; i++) {
        Floats value = Floats{} + (bytes[i] - s.mean[i % COLOURS]) * s.scale[i % COLOURS];
        store(to + COLOURS + i, value, 1);
    }
    std::fill(to, to + COLOURS, T{});
    std::fill(to + COLOURS + values, to + 2 * COLOURS + values + 1, T{});  // and what the tenth tap may read
}

template <int V, typename T>
INLINE void stem_columns(const Stem<T>& s, const T* const* rows, int64_t panel, T* out) {
    const Product<T>& p = s.convolve;
    in_tiles<ROWS>(s.out_width, [&]<int R>(Fixed<R>, int64_t w) INLINE_LAMBDA {
        Floats sums[R][V];
        begin(p.bias, panel, sums);
        const T* weight = p.weight + panel * p.in * LANES;
        for (int y = 0; y < 3; y++)
            multiply(rows[y] + w * s.stride * COLOURS, s.stride * COLOURS, TAPS<T>, weight + y * TAPS<T> * LANES, p.in * LANES, sums);
        finish(sums, p.activation, p.out, panel, out + w * p.out, (const T*)nullptr);
    });
}

template <typename T>
static void compute(const Stem<T>& s, int64_t images, const uint8_t* x, T* out) {
#pragma omp parallel
    {
        static thread_local std::vector<Aligned> memory;
        const int64_t pitch = (s.width + 2) * COLOURS + LANES, ring = 3;
        T* normalised = scratch<T>(memory, (ring + 1) * pitch);
        T* zeros = normalised + ring * pitch;
        std::fill(zeros, zeros + pitch, T{});
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads(), lines = images * s.out_height;
        int64_t image = -1, next = 0;  // row of that image to be normalised
        for (int64_t line = thread * lines / count; line < (thread + 1) * lines / count; line++) {
            const int64_t top = line % s.out_height * s.stride - 1;
            if (image != line / s.out_height) image = line / s.out_height, next = std::max<int64_t>(0, top);
            for (int64_t end = std::min(s.height, top + 3); next < end; next++)
                normalise(s, x + (image * s.height + next) * s.width * COLOURS, normalised + next % ring * pitch);
            const T* rows[3];
            for (int64_t y = 0; y < 3; y++) {
                const int64_t row = top + y;
                rows[y] = row < 0 || row >= s.height ? zeros : normalised + row % ring * pitch;
            }
            T* to = out + line * s.out_width * s.convolve.out;
            in_tiles<2>((s.convolve.out + LANES - 1) / LANES, [&]<int V>(Fixed<V>, int64_t panel) INLINE_LAMBDA {
                stem_columns<V>(s, rows, panel, to);
            });
        }
    }
}

}  // namespace coordserve

extern "C" AOTITorchError aoti_torch_cpu_stem(
    AtenTensorHandle x, AtenTensorHandle mean, AtenTensorHandle scale, AtenTensorHandle weight, AtenTensorHandle bias,
    int64_t stride, int64_t activation, int64_t out_channels, AtenTensorHandle* out) {
    using namespace coordserve;
    const int64_t images = size(x, 0), height = size(x, 1), width = size(x, 2);
    const int64_t out_height = (height - 1) / stride + 1, out_width = (width - 1) / stride + 1;
    AOTITorchError error = empty(weight, {images, out_height, out_width, out_channels}, out);
    if (error) return error;
    Stem<Scalar> stem{height, width, out_height, out_width, stride, floats(mean), floats(scale),
              {3 * TAPS<Scalar>, out_channels, scalars(weight), floats(bias), (Activation)activation}};
    compute(stem, images, (const uint8_t*)floats(x), scalars(*out));
    return 0;
}
