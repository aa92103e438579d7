// Coordinate Attention over NHWC memory: a picture is read once for both means and once for the product.
//
// models/fused.py has it compiled into a package, whose wrapper the compiler optimises little: hence the pragma, and
// vectors of 16 lanes by hand, which GCC and Clang make of what the CPU has. The equations are the paper's.

#include <omp.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#pragma GCC push_options
#pragma GCC optimize("O3", "fp-contract=fast")

namespace coordatt {

constexpr int64_t LANES = 16;
typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef float Aligned __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2)));

#define INLINE static inline __attribute__((always_inline))

INLINE Floats load(const float* from) { return *(const Floats*)from; }
INLINE void store(float* to, Floats values) { *(Floats*)to = values; }
INLINE Floats load(const uint16_t* from) {  // bfloat16: the upper half of a float
    return (Floats)(__builtin_convertvector(*(const Halves*)from, Words) << 16);
}
INLINE void store(uint16_t* to, Floats values) {
#ifdef __AVX512BF16__
    *(Halves*)to = (Halves)_mm512_cvtneps_pbh((__m512)values);
#else
    Words bits = (Words)values;
    *(Halves*)to = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);  // to nearest, ties to even
#endif
}

INLINE Floats sigmoid(Floats x) {
    // exp(-x) = 2^n * e^r; the polynomial is Cephes' expf's, good to 2 units in the last place.
    x = x < -80.0f ? Floats{} - 80.0f : x;
    x = x > 80.0f ? Floats{} + 80.0f : x;
    Floats t = x * -1.44269504f;
    const Floats magic = Floats{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    Floats n = (t + magic) - magic;
    Floats r = x * -1.0f - n * 0.693359375f + n * 2.12194440e-4f;
    Floats e = r * 1.9875691500e-4f + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * r * r + r + 1.0f;
    Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return 1.0f / (1.0f + e * (Floats)power);
}

INLINE float sum(Floats x) {
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    return (x[0] + x[1]) + (x[2] + x[3]);
}

INLINE float hard_swish(float x) {
    float clipped = x < -3 ? 0 : x > 3 ? 6 : x + 3;
    return x * clipped / 6;
}

struct Linear {
    const float *weight, *bias;
};

struct Block {
    int64_t height, width, channels, squeezed;
    Linear squeeze, rows, columns;  // weights [squeezed, channels]
};

// Adds V vectors of channels of R rows of x to the sums of the rows, which are new, and of the columns.
template <int R, int V, typename T>
INLINE void add(const Block& b, const T* x, float* row, float* columns) {
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
INLINE void add_rows(const Block& b, const T* x, float* row, float* columns, int64_t from, int64_t to) {
    int64_t c = from;
    for (; c + 4 * LANES <= to; c += 4 * LANES) add<R, 4>(b, x + c, row + c, columns + c);
    for (; c < to; c += LANES) add<R, 1>(b, x + c, row + c, columns + c);
}

// means [height + width, channels] of x [height, width, channels], for the channels of [from, to): equations 4 and 5
template <typename T>
INLINE void pool(const Block& b, const T* x, float* means, int64_t from, int64_t to) {
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

// The means [N, channels] of N rows or of N columns become their gates: equations 6 to 8
template <int N>
INLINE void gate(const Block& b, const Linear& expand, float* means) {
    float hidden[b.squeezed][N];
    for (int64_t m = 0; m < b.squeezed; m++) {
        const float* weight = b.squeeze.weight + m * b.channels;
        Floats products[N]{};
        for (int64_t c = 0; c < b.channels; c += LANES)
            for (int n = 0; n < N; n++) products[n] += load(weight + c) * load(means + n * b.channels + c);
        for (int n = 0; n < N; n++) hidden[m][n] = hard_swish(sum(products[n]) + b.squeeze.bias[m]);
    }
    for (int64_t c = 0; c < b.channels; c += LANES) {
        Floats products[N];
        for (int n = 0; n < N; n++) products[n] = load(expand.bias + c);
        for (int64_t m = 0; m < b.squeezed; m++)
            for (int n = 0; n < N; n++) products[n] += load(expand.weight + m * b.channels + c) * hidden[m][n];
        for (int n = 0; n < N; n++) store(means + n * b.channels + c, sigmoid(products[n]));
    }
}

// out = x * a_h * a_w, for the rows of [from, to): equation 9
template <typename T>
INLINE void apply(const Block& b, const T* x, const float* gates, T* out, int64_t from, int64_t to) {
    const float* columns = gates + b.height * b.channels;
    for (int64_t h = from; h < to; h++)
        for (int64_t w = 0; w < b.width; w++) {
            int64_t pixel = (h * b.width + w) * b.channels;
            for (int64_t c = 0; c < b.channels; c += LANES)
                store(out + pixel + c, load(x + pixel + c) * (load(gates + h * b.channels + c) * load(columns + w * b.channels + c)));
        }
}

INLINE void gate_lines(const Block& b, float* means, int64_t from, int64_t to) {
    for (int64_t l = from; l < to;) {
        const Linear& expand = l < b.height ? b.rows : b.columns;
        if (l + 4 <= (l < b.height ? std::min(b.height, to) : to)) {
            gate<4>(b, expand, means + l * b.channels);
            l += 4;
        } else {
            gate<1>(b, expand, means + l * b.channels);
            l++;
        }
    }
}

template <typename T>
static void attend(const Block& b, int64_t images, const T* x, T* out) {
    const int64_t pixels = b.height * b.width * b.channels, lines = b.height + b.width;
    if (images >= omp_get_max_threads()) {
#pragma omp parallel
        {
            std::vector<Aligned> scratch(lines * b.channels / LANES);
            float* means = (float*)scratch.data();
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < images; n++) {  // one stays in its core's cache from the means to the product
                pool(b, x + n * pixels, means, 0, b.channels);
                gate_lines(b, means, 0, lines);
                apply(b, x + n * pixels, means, out + n * pixels, 0, b.height);
            }
        }
        return;
    }
    std::vector<Aligned> scratch(lines * b.channels / LANES);
    float* means = (float*)scratch.data();
    for (int64_t n = 0; n < images; n++, x += pixels, out += pixels) {
#pragma omp parallel
        {
#pragma omp for
            for (int64_t c = 0; c < b.channels; c += 2 * LANES) pool(b, x, means, c, std::min(c + 2 * LANES, b.channels));
#pragma omp for
            for (int64_t l = 0; l < lines; l += 4) gate_lines(b, means, l, std::min(l + 4, lines));
#pragma omp for
            for (int64_t h = 0; h < b.height; h++) apply(b, x, means, out, h, h + 1);
        }
    }
}

INLINE float* floats(AtenTensorHandle tensor) {
    void* pointer = nullptr;
    aoti_torch_get_data_ptr(tensor, &pointer);
    return (float*)pointer;
}

}  // namespace coordatt

extern "C" AOTITorchError aoti_torch_cpu_coordatt(
    AtenTensorHandle x, AtenTensorHandle squeeze, AtenTensorHandle squeeze_bias, AtenTensorHandle rows,
    AtenTensorHandle rows_bias, AtenTensorHandle columns, AtenTensorHandle columns_bias, AtenTensorHandle* out) {
    using namespace coordatt;
    int64_t *sizes, *strides, squeezed;
    int32_t dtype;
    aoti_torch_get_sizes(x, &sizes);
    aoti_torch_get_strides(x, &strides);
    aoti_torch_get_dtype(x, &dtype);
    aoti_torch_get_size(squeeze, 0, &squeezed);
    AOTITorchError error = aoti_torch_empty_strided(4, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, out);
    if (error) return error;
    Block b{sizes[1], sizes[2], sizes[3], squeezed, {floats(squeeze), floats(squeeze_bias)},
            {floats(rows), floats(rows_bias)}, {floats(columns), floats(columns_bias)}};
    attend(b, sizes[0], (Scalar*)floats(x), (Scalar*)floats(*out));
    return 0;
}

#pragma GCC pop_options
