// An inverted residual block over NHWC memory, a picture at a time: what it expands to never leaves its core's cache.
//
// models/fused.py has it compiled into a package, behind coordatt.cpp. A row of the picture is expanded, and convolved
// channel by channel as soon as the rows around it are there; the means that Coordinate Attention wants are summed on
// the way; and its gates are applied to a row just before that is projected.

#pragma GCC push_options
#pragma GCC optimize("O3", "fp-contract=fast")

namespace coordatt {

typedef uint16_t Bfloat16;
enum Activation { RELU6, RELU, SILU, NONE };

template <typename T>
struct Product {  // a 1x1 convolution
    int64_t in, out;
    const T* weight;  // [out / LANES, in, LANES]; bfloat16: [out / LANES, in / 2, LANES, 2]; with zeros up to LANES
    const float* bias;  // likewise
    Activation activation;
};

struct Depthwise {
    int64_t kernel, stride;
    const float *weight, *bias;  // [kernel, kernel, channels], [channels]
};

template <typename T>
struct Residual {
    int64_t height, width, channels, out_height, out_width, hidden;
    Product<T> expand;  // in is 0 where there is none
    Depthwise depthwise;
    Block attention;  // squeezed is 0 where there is none
    Product<T> project;
    Activation activation;
    bool shortcut;
};

INLINE Floats activate(Activation a, Floats x) {
    if (a == NONE) return x;
    if (a == SILU) return x * sigmoid(x);
    x = x > 0.0f ? x : Floats{};
    return a == RELU6 ? (x < 6.0f ? x : Floats{} + 6.0f) : x;
}

INLINE void store(float* to, Floats values, int64_t lanes) { __builtin_memcpy(to, &values, lanes * sizeof(float)); }
INLINE void store(Bfloat16* to, Floats values, int64_t lanes) {
    Bfloat16 all[LANES];
    store(all, values);
    __builtin_memcpy(to, all, lanes * sizeof(Bfloat16));
}
INLINE Floats load(const float* from, int64_t lanes) {
    Floats values{};
    __builtin_memcpy(&values, from, lanes * sizeof(float));
    return values;
}
INLINE Floats load(const Bfloat16* from, int64_t lanes) {
    Bfloat16 all[LANES]{};
    __builtin_memcpy(all, from, lanes * sizeof(Bfloat16));
    return load(all);
}

// sums[r][v] += the products of R pixels with V * LANES columns of the weights
template <int R, int V>
INLINE void multiply(const Product<float>& p, const float* x, const float* weight, Floats (&sums)[R][V]) {
    for (int64_t k = 0; k < p.in; k++, weight += LANES) {
        Floats columns[V];
        for (int v = 0; v < V; v++) columns[v] = load(weight + v * p.in * LANES);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] += columns[v] * x[r * p.in + k];
    }
}
template <int R, int V>
INLINE void multiply(const Product<Bfloat16>& p, const Bfloat16* x, const Bfloat16* weight, Floats (&sums)[R][V]) {
    for (int64_t k = 0; k < p.in; k += 2, weight += 2 * LANES) {
        Words columns[V];  // the rows k and k + 1 of the weights, in the lower and upper half of each
        for (int v = 0; v < V; v++) columns[v] = *(const Words*)(weight + v * p.in * LANES);
        for (int r = 0; r < R; r++) {
            uint32_t pair;
            __builtin_memcpy(&pair, x + r * p.in + k, sizeof(pair));
            for (int v = 0; v < V; v++) {
#ifdef __AVX512BF16__
                sums[r][v] = (Floats)_mm512_dpbf16_ps(
                    (__m512)sums[r][v], (__m512bh)columns[v], (__m512bh)_mm512_set1_epi32((int)pair));
#else
                Words both = Words{} + pair;
                sums[r][v] += (Floats)(columns[v] << 16) * (Floats)(both << 16);
                sums[r][v] += (Floats)(columns[v] & 0xffff0000) * (Floats)(both & 0xffff0000);
#endif
            }
        }
    }
}

// Of R pixels [R, in] and V * LANES columns. Out [R, pitch]; added [R, out] if it is not null
template <int R, int V, typename T>
INLINE void tile(const Product<T>& p, const T* x, int64_t panel, T* out, int64_t pitch, const T* added) {
    Floats sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = load(p.bias + (panel + v) * LANES);
    multiply<R, V>(p, x, p.weight + panel * p.in * LANES, sums);
    for (int v = 0; v < V; v++) {
        int64_t column = (panel + v) * LANES, lanes = std::min(LANES, pitch - column);
        for (int r = 0; r < R; r++) {
            Floats value = sums[r][v];
            if (added) value += lanes == LANES ? load(added + r * pitch + column) : load(added + r * pitch + column, lanes);
            value = activate(p.activation, value);
            if (lanes == LANES) store(out + r * pitch + column, value);
            else store(out + r * pitch + column, value, lanes);
        }
    }
}

template <int V, typename T>
INLINE void panels(const Product<T>& p, const T* x, int64_t pixels, int64_t panel, T* out, int64_t pitch, const T* added) {
    int64_t i = 0;
#define TILES(R)                                                                                                  \
    for (; i + R <= pixels; i += R)                                                                               \
        tile<R, V>(p, x + i * p.in, panel, out + i * pitch, pitch, added ? added + i * pitch : nullptr);
    TILES(7) TILES(4) TILES(2) TILES(1)
#undef TILES
}

// out [pixels, pitch] = x [pixels, in] times the weights, plus the bias and what is added; pitch: as many columns as matter
template <typename T>
static void product(const Product<T>& p, const T* x, int64_t pixels, T* out, int64_t pitch, const T* added) {
    int64_t panel = 0, all = (p.out + LANES - 1) / LANES;
    for (; panel + 3 <= all; panel += 3) panels<3>(p, x, pixels, panel, out, pitch, added);
    if (panel + 2 <= all) panels<2>(p, x, pixels, panel, out, pitch, added), panel += 2;
    if (panel < all) panels<1>(p, x, pixels, panel, out, pitch, added);
}

// P pixels of a row, from `left` on; rows: K rows of the padded input
template <int K, int S, int P, typename T>
INLINE void convolve(const Residual<T>& b, const T* const* rows, int64_t left, T* out, float* row, float* columns) {
    for (int64_t c = 0; c < b.hidden; c += LANES) {
        Floats sums[P];
        for (int i = 0; i < P; i++) sums[i] = load(b.depthwise.bias + c);
        for (int y = 0; y < K; y++) {
            const T* pixel = rows[y] + left * S * b.hidden + c;
            const float* weight = b.depthwise.weight + y * K * b.hidden + c;
            for (int x = 0; x < (P - 1) * S + K; x++) {
                Floats value = load(pixel + x * b.hidden);
                for (int i = 0; i < P; i++)
                    if (x - i * S >= 0 && x - i * S < K) sums[i] += value * load(weight + (x - i * S) * b.hidden);
            }
        }
        Floats total{};
        for (int i = 0; i < P; i++) {
            sums[i] = activate(b.activation, sums[i]);
            store(out + (left + i) * b.hidden + c, sums[i]);
            if (row) {
                total += sums[i];
                float* column = columns + (left + i) * b.hidden + c;
                store(column, load(column) + sums[i]);
            }
        }
        if (row) store(row + c, load(row + c) + total);
    }
}

template <int K, int S, typename T>
static void convolve_row(const Residual<T>& b, const T* const* rows, T* out, float* row, float* columns) {
    int64_t w = 0;
    for (; w + 4 <= b.out_width; w += 4) convolve<K, S, 4>(b, rows, w, out, row, columns);
    for (; w < b.out_width; w++) convolve<K, S, 1>(b, rows, w, out, row, columns);
}

template <typename T>
static T* scratch(std::vector<Aligned>& memory, int64_t size) {
    int64_t vectors = (size * sizeof(T) + sizeof(Aligned) - 1) / sizeof(Aligned);
    if ((int64_t)memory.size() < vectors) memory.resize(vectors);
    return (T*)memory.data();
}

// Rows [from, to) of what is projected, [out_height, out_width, hidden]; and the sums of these rows, and of the columns in them
template <int K, int S, typename T>
static void expand_and_convolve(const Residual<T>& b, const T* x, T* out, float* sums, float* columns, int64_t from, int64_t to) {
    static thread_local std::vector<Aligned> memory;
    const int64_t padding = K / 2, pitch = (b.width + 2 * padding) * b.hidden, ring = K;
    T* expanded = scratch<T>(memory, (ring + 1) * pitch);
    const T* zeros = expanded + ring * pitch;
    for (int64_t r = 0; r <= ring; r++) {  // the columns beside the picture, and the row above and below
        T* row = expanded + r * pitch;
        int64_t side = r < ring ? padding * b.hidden : pitch;
        std::fill(row, row + side, T{});
        std::fill(row + pitch - side, row + pitch, T{});
    }
    int64_t next = std::max<int64_t>(0, from * S - padding);
    for (int64_t h = from; h < to; h++) {
        for (int64_t end = std::min(b.height, h * S - padding + K); next < end; next++) {
            T* row = expanded + next % ring * pitch + padding * b.hidden;
            const T* pixels = x + next * b.width * b.channels;
            if (b.expand.in) product(b.expand, pixels, b.width, row, b.hidden, (const T*)nullptr);
            else
                for (int64_t w = 0; w < b.width; w++) {
                    std::copy(pixels + w * b.channels, pixels + (w + 1) * b.channels, row + w * b.hidden);
                    std::fill(row + w * b.hidden + b.channels, row + (w + 1) * b.hidden, T{});
                }
        }
        const T* rows[K];
        for (int64_t y = 0; y < K; y++) {
            int64_t from_row = h * S - padding + y;
            rows[y] = from_row < 0 || from_row >= b.height ? zeros : expanded + from_row % ring * pitch;
        }
        T* to_row = out + h * b.out_width * b.hidden;
        if (!b.attention.squeezed) convolve_row<K, S>(b, rows, to_row, nullptr, nullptr);
        else {
            std::fill(sums + h * b.hidden, sums + (h + 1) * b.hidden, 0.0f);
            convolve_row<K, S>(b, rows, to_row, sums + h * b.hidden, columns);
        }
    }
}

template <typename T>
static void rows_for(const Residual<T>& b, const T* x, T* out, float* sums, float* columns, int64_t from, int64_t to) {
    if (b.depthwise.kernel == 3 && b.depthwise.stride == 1) expand_and_convolve<3, 1>(b, x, out, sums, columns, from, to);
    else if (b.depthwise.kernel == 3) expand_and_convolve<3, 2>(b, x, out, sums, columns, from, to);
    else if (b.depthwise.stride == 1) expand_and_convolve<5, 1>(b, x, out, sums, columns, from, to);
    else expand_and_convolve<5, 2>(b, x, out, sums, columns, from, to);
}

// Rows [from, to) of the block's output: gated, if there are gates, projected, and the input added
template <typename T>
static void gate_and_project(const Residual<T>& b, const T* x, const T* hidden, const float* gates, T* out, int64_t from, int64_t to) {
    static thread_local std::vector<Aligned> memory;
    const int64_t pitch = b.out_width * b.hidden;
    T* gated = gates ? scratch<T>(memory, pitch) : nullptr;
    for (int64_t h = from; h < to; h++) {
        const T* row = hidden + h * pitch;
        if (gates) {
            const float *own = gates + h * b.hidden, *columns = gates + b.out_height * b.hidden;
            for (int64_t w = 0; w < b.out_width; w++)
                for (int64_t c = 0; c < b.hidden; c += LANES) {
                    int64_t at = w * b.hidden + c;
                    store(gated + at, load(row + at) * (load(own + c) * load(columns + at)));
                }
            row = gated;
        }
        int64_t at = h * b.out_width * b.project.out;
        product(b.project, row, b.out_width, out + at, b.project.out, b.shortcut ? x + at : nullptr);
    }
}

// Sums of rows and columns become means, and these gates, for the lines [from, to)
INLINE void means_to_gates(const Block& b, float* sums, int64_t from, int64_t to) {
    for (int64_t l = from; l < to; l++)
        for (int64_t c = 0; c < b.channels; c += LANES) {
            float* line = sums + l * b.channels + c;
            store(line, load(line) * (1.0f / (l < b.height ? b.width : b.height)));
        }
    gate_lines(b, sums, from, to);
}

template <typename T>
static void compute(const Residual<T>& b, int64_t images, const T* x, T* out) {
    const int64_t in_size = b.height * b.width * b.channels, out_size = b.out_height * b.out_width * b.project.out;
    const int64_t hidden_size = b.out_height * b.out_width * b.hidden, lines = b.out_height + b.out_width;
    const int64_t row_sums = b.out_height * b.hidden, column_sums = b.out_width * b.hidden;
    const bool gated = b.attention.squeezed;
    static std::vector<Aligned> shared_hidden, shared_sums;
    const int64_t threads = omp_get_max_threads(), whole = images - images % threads;
    T* all_hidden = whole < images ? scratch<T>(shared_hidden, hidden_size) : nullptr;
    float* all_sums = whole < images ? scratch<float>(shared_sums, row_sums + threads * column_sums) : nullptr;
#pragma omp parallel
    {
        static thread_local std::vector<Aligned> memory, sums_memory;
        if (whole) {
            T* hidden = scratch<T>(memory, hidden_size);
            float* sums = scratch<float>(sums_memory, row_sums + column_sums);
#pragma omp for
            for (int64_t n = 0; n < whole; n++) {
                if (gated) std::fill(sums + row_sums, sums + row_sums + column_sums, 0.0f);
                rows_for(b, x + n * in_size, hidden, sums, sums + row_sums, 0, b.out_height);
                if (gated) means_to_gates(b.attention, sums, 0, lines);
                gate_and_project(b, x + n * in_size, hidden, gated ? sums : nullptr, out + n * out_size, 0, b.out_height);
            }
        }
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
        const int64_t from = thread * b.out_height / count, to = (thread + 1) * b.out_height / count;
        for (int64_t n = whole; n < images; n++) {  // fewer than threads are left: they share each one's rows
            float* columns = all_sums + row_sums;
            if (gated) std::fill(columns + thread * column_sums, columns + (thread + 1) * column_sums, 0.0f);
            rows_for(b, x + n * in_size, all_hidden, all_sums, columns + thread * column_sums, from, to);
#pragma omp barrier
            if (gated) {
#pragma omp for
                for (int64_t c = 0; c < column_sums; c += LANES)
                    for (int64_t t = 1; t < count; t++)
                        store(columns + c, load(columns + c) + load(columns + t * column_sums + c));
#pragma omp for
                for (int64_t l = 0; l < lines; l += 4) means_to_gates(b.attention, all_sums, l, std::min(l + 4, lines));
            }
            gate_and_project(b, x + n * in_size, all_hidden, gated ? all_sums : nullptr, out + n * out_size, from, to);
#pragma omp barrier
        }
    }
}

INLINE int64_t size(AtenTensorHandle tensor, int dimension) {
    int64_t found;
    aoti_torch_get_size(tensor, dimension, &found);
    return found;
}

}  // namespace coordatt

extern "C" AOTITorchError aoti_torch_cpu_inverted_residual(
    AtenTensorHandle x, AtenTensorHandle expand, AtenTensorHandle expand_bias, AtenTensorHandle depthwise,
    AtenTensorHandle depthwise_bias, AtenTensorHandle project, AtenTensorHandle project_bias, AtenTensorHandle squeeze,
    AtenTensorHandle squeeze_bias, AtenTensorHandle rows, AtenTensorHandle rows_bias, AtenTensorHandle columns,
    AtenTensorHandle columns_bias, int64_t stride, int64_t activation, int64_t out_channels, int32_t shortcut, AtenTensorHandle* out) {
    using namespace coordatt;
    int64_t images = size(x, 0), height = size(x, 1), width = size(x, 2), channels = size(x, 3);
    int64_t kernel = size(depthwise, 0), hidden = size(depthwise, 2);
    int64_t out_height = (height - 1) / stride + 1, out_width = (width - 1) / stride + 1;
    int64_t sizes[] = {images, out_height, out_width, out_channels};
    int64_t strides[] = {out_height * out_width * out_channels, out_width * out_channels, out_channels, 1};
    int32_t dtype;
    aoti_torch_get_dtype(x, &dtype);
    AOTITorchError error = aoti_torch_empty_strided(4, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, out);
    if (error) return error;
    Block attention{out_height, out_width, hidden, size(squeeze, 0), {floats(squeeze), floats(squeeze_bias)},
                    {floats(rows), floats(rows_bias)}, {floats(columns), floats(columns_bias)}};
    Activation active = (Activation)activation;
    Residual<Scalar> block{
        height, width, channels, out_height, out_width, hidden,
        {size(expand, 0) ? channels : 0, hidden, (Scalar*)floats(expand), floats(expand_bias), active},
        {kernel, stride, floats(depthwise), floats(depthwise_bias)}, attention,
        {hidden, out_channels, (Scalar*)floats(project), floats(project_bias), NONE}, active, (bool)shortcut};
    compute(block, images, (Scalar*)floats(x), (Scalar*)floats(*out));
    return 0;
}

#pragma GCC pop_options
