// Coordinate Attention over NHWC memory: a picture is read once for both means and once for the product.
//
// The equations are those of the paper, https://arxiv.org/abs/2103.02907.

namespace coordserve {

struct Attention {
    int64_t height, width, channels;
    Product<float> squeeze, rows, columns;
    int64_t lines() const { return height + width; }
};

// Adds V vectors of channels of R rows of x to the sums of the rows, which are new, and of the columns.
template <int R, int V, typename T>
INLINE void add(const Attention& b, const T* x, float* row, float* columns) {
    Floats sums[R][V]{};
    for (int64_t w = 0; w < b.width; w++)
        for (int v = 0; v < V; v++) {
            float* column = columns + w * b.channels + v * LANES;
            Floats total = load(column);
            for (int r = 0; r < R; r++) {
                Floats value = load(x + (r * b.width + w) * b.channels + v * LANES);
                sums[r][v] += value;
                total += value;
            }
            store(column, total);
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(row + r * b.channels + v * LANES, sums[r][v] * (1.0f / b.width));
}

template <int R, typename T>
INLINE void add_rows(const Attention& b, const T* x, float* row, float* columns, int64_t from, int64_t to) {
    int64_t c = from;
    for (; c + 4 * LANES <= to; c += 4 * LANES) add<R, 4>(b, x + c, row + c, columns + c);
    for (; c < to; c += LANES) add<R, 1>(b, x + c, row + c, columns + c);
}

// means [height + width, channels] of x [height, width, channels], for the channels of [from, to): equations 4 and 5
template <typename T>
INLINE void pool(const Attention& b, const T* x, float* means, int64_t from, int64_t to) {
    float* columns = means + b.height * b.channels;
    for (int64_t w = 0; w < b.width; w++)
        for (int64_t c = from; c < to; c += LANES) store(columns + w * b.channels + c, Floats{});
    int64_t h = 0;
    for (; h + 2 <= b.height; h += 2)
        add_rows<2>(b, x + h * b.width * b.channels, means + h * b.channels, columns, from, to);
    for (; h < b.height; h++) add_rows<1>(b, x + h * b.width * b.channels, means + h * b.channels, columns, from, to);
    for (int64_t w = 0; w < b.width; w++)
        for (int64_t c = from; c < to; c += LANES)
            store(columns + w * b.channels + c, load(columns + w * b.channels + c) * (1.0f / b.height));
}

// Means [lines, channels] of rows and then of columns become their gates, for the lines [from, to): equations 6 to 8
static void gate(const Attention& b, float* means, int64_t from, int64_t to) {
    static thread_local std::vector<Aligned> memory;
    float* squeezed = scratch<float>(memory, (to - from) * b.squeeze.out);
    product(b.squeeze, means + from * b.channels, to - from, squeezed);
    const int64_t columns = std::clamp(b.height, from, to);
    product(b.rows, squeezed, columns - from, means + from * b.channels);
    product(b.columns, squeezed + (columns - from) * b.squeeze.out, to - columns, means + columns * b.channels);
}

// out = x * a_h * a_w, for the rows of [from, to): equation 9
template <typename T>
INLINE void apply(const Attention& b, const T* x, const float* gates, T* out, int64_t from, int64_t to) {
    const float* columns = gates + b.height * b.channels;
    for (int64_t h = from; h < to; h++)
        for (int64_t w = 0; w < b.width; w++) {
            int64_t pixel = (h * b.width + w) * b.channels;
            for (int64_t c = 0; c < b.channels; c += LANES)
                store(out + pixel + c, load(x + pixel + c) * (load(gates + h * b.channels + c) * load(columns + w * b.channels + c)));
        }
}

template <typename T>
static void attend(const Attention& b, int64_t images, const T* x, T* out) {
    const int64_t pixels = b.height * b.width * b.channels;
    if (images >= omp_get_max_threads()) {
#pragma omp parallel
        {
            static thread_local std::vector<Aligned> memory;
            float* means = scratch<float>(memory, b.lines() * b.channels);
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < images; n++) {  // one stays in its core's cache from the means to the product
                pool(b, x + n * pixels, means, 0, b.channels);
                gate(b, means, 0, b.lines());
                apply(b, x + n * pixels, means, out + n * pixels, 0, b.height);
            }
        }
        return;
    }
    static std::vector<Aligned> memory;
    float* means = scratch<float>(memory, b.lines() * b.channels);
    for (int64_t n = 0; n < images; n++, x += pixels, out += pixels) {
#pragma omp parallel
        {
#pragma omp for
            for (int64_t c = 0; c < b.channels; c += 2 * LANES) pool(b, x, means, c, std::min(c + 2 * LANES, b.channels));
#pragma omp for
            for (int64_t l = 0; l < b.lines(); l += ROWS) gate(b, means, l, std::min(l + ROWS, b.lines()));
#pragma omp for
            for (int64_t h = 0; h < b.height; h++) apply(b, x, means, out, h, h + 1);
        }
    }
}

// Of an output of so many rows and columns; weights are `panels`, float32
INLINE Attention attention(
    int64_t height, int64_t width, int64_t channels, AtenTensorHandle squeeze, AtenTensorHandle squeeze_bias,
    AtenTensorHandle rows, AtenTensorHandle rows_bias, AtenTensorHandle columns, AtenTensorHandle columns_bias) {
    int64_t squeezed = size(rows, 1);
    return {height, width, channels,
            {channels, squeezed, floats(squeeze), floats(squeeze_bias), HARD_SWISH},
            {squeezed, channels, floats(rows), floats(rows_bias), SIGMOID},
            {squeezed, channels, floats(columns), floats(columns_bias), SIGMOID}};
}

}  // namespace coordserve

extern "C" AOTITorchError aoti_torch_cpu_coordatt(
    AtenTensorHandle x, AtenTensorHandle squeeze, AtenTensorHandle squeeze_bias, AtenTensorHandle rows,
    AtenTensorHandle rows_bias, AtenTensorHandle columns, AtenTensorHandle columns_bias, AtenTensorHandle* out) {
    using namespace coordserve;
    const int64_t images = size(x, 0), height = size(x, 1), width = size(x, 2), channels = size(x, 3);
    AOTITorchError error = empty(x, {images, height, width, channels}, out);
    if (error) return error;
    attend(attention(height, width, channels, squeeze, squeeze_bias, rows, rows_bias, columns, columns_bias), images,
           scalars(x), scalars(*out));
    return 0;
}
