// An inverted residual block over NHWC memory, a picture at a time: what it expands to never leaves its core's cache.
//
// A row of the picture is expanded, and convolved channel by channel as soon as the rows around it are there; the means
// that Coordinate Attention wants are summed on the way; its gates are applied to a row just before that is projected.

namespace coordserve {

struct Depthwise {
    int64_t kernel, stride;
    const float *weight, *bias;  // [kernel, kernel, channels], [channels]
    Activation activation;
};

template <typename T>
struct InvertedResidual {
    int64_t height, width, channels, out_height, out_width, hidden;
    Product<T> expand;  // in is 0 where there is none
    Depthwise depthwise;
    bool attends;
    Attention attention;
    Product<T> project;
    bool shortcut;
};

// P pixels of a row, from `left` on; rows: K rows of the padded input
template <int K, int S, int P, typename T>
INLINE void convolve(const InvertedResidual<T>& b, const T* const* rows, int64_t left, T* out, float* row, float* columns) {
    for (int64_t c = 0; c < b.hidden; c += LANES) {
        Floats sums[1][P];
        for (int i = 0; i < P; i++) sums[0][i] = load(b.depthwise.bias + c);
        for (int y = 0; y < K; y++) {
            const T* pixel = rows[y] + left * S * b.hidden + c;
            const float* weight = b.depthwise.weight + y * K * b.hidden + c;
            for (int x = 0; x < (P - 1) * S + K; x++) {
                Floats value = load(pixel + x * b.hidden);
                for (int i = 0; i < P; i++)
                    if (x - i * S >= 0 && x - i * S < K) sums[0][i] += value * load(weight + (x - i * S) * b.hidden);
            }
        }
        activate(b.depthwise.activation, sums);
        for (int i = 0; i < P; i++) store(out + (left + i) * b.hidden + c, sums[0][i]);
        if (!row) continue;
        Floats total = load(row + c);
        for (int i = 0; i < P; i++) {
            total += sums[0][i];
            float* column = columns + (left + i) * b.hidden + c;
            store(column, load(column) + sums[0][i]);
        }
        store(row + c, total);
    }
}

template <int K, int S, typename T>
static void convolve_row(const InvertedResidual<T>& b, const T* const* rows, T* out, float* row, float* columns) {
    in_tiles<4>(b.out_width, [&]<int P>(Fixed<P>, int64_t left) INLINE_LAMBDA { convolve<K, S, P>(b, rows, left, out, row, columns); });
}

// Rows [from, to) of what is projected, [out_height, out_width, hidden]; and the sums of these rows, and of the columns in them
template <int K, int S, typename T>
static void expand_and_convolve(const InvertedResidual<T>& b, const T* x, T* out, float* sums, float* columns, int64_t from, int64_t to) {
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
            if (b.expand.in) product(b.expand, pixels, b.width, row);
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
        if (!b.attends) convolve_row<K, S>(b, rows, to_row, nullptr, nullptr);
        else {
            std::fill(sums + h * b.hidden, sums + (h + 1) * b.hidden, 0.0f);
            convolve_row<K, S>(b, rows, to_row, sums + h * b.hidden, columns);
        }
    }
}

template <typename T>
static void rows_for(const InvertedResidual<T>& b, const T* x, T* out, float* sums, float* columns, int64_t from, int64_t to) {
    if (b.depthwise.kernel == 3 && b.depthwise.stride == 1) expand_and_convolve<3, 1>(b, x, out, sums, columns, from, to);
    else if (b.depthwise.kernel == 3) expand_and_convolve<3, 2>(b, x, out, sums, columns, from, to);
    else if (b.depthwise.stride == 1) expand_and_convolve<5, 1>(b, x, out, sums, columns, from, to);
    else expand_and_convolve<5, 2>(b, x, out, sums, columns, from, to);
}

// Rows [from, to) of the block's output: gated, if there are gates, projected, and the input added
template <typename T>
static void gate_and_project(const InvertedResidual<T>& b, const T* x, const T* hidden, const float* gates, T* out, int64_t from, int64_t to) {
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
        product(b.project, row, b.out_width, out + at, b.shortcut ? x + at : (const T*)nullptr);
    }
}

// Sums of rows and columns become means, and these gates, for the lines [from, to)
INLINE void gate_sums(const Attention& b, float* sums, int64_t from, int64_t to) {
    for (int64_t l = from; l < to; l++)
        for (int64_t c = 0; c < b.channels; c += LANES) {
            float* line = sums + l * b.channels + c;
            store(line, load(line) * (1.0f / (l < b.height ? b.width : b.height)));
        }
    gate(b, sums, from, to);
}

template <typename T>
static void compute(const InvertedResidual<T>& b, int64_t images, const T* x, T* out) {
    const int64_t in_size = b.height * b.width * b.channels, out_size = b.out_height * b.out_width * b.project.out;
    const int64_t hidden_size = b.out_height * b.out_width * b.hidden, lines = b.out_height + b.out_width;
    const int64_t row_sums = b.out_height * b.hidden, column_sums = b.out_width * b.hidden;
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
                if (b.attends) std::fill(sums + row_sums, sums + row_sums + column_sums, 0.0f);
                rows_for(b, x + n * in_size, hidden, sums, sums + row_sums, 0, b.out_height);
                if (b.attends) gate_sums(b.attention, sums, 0, lines);
                gate_and_project(b, x + n * in_size, hidden, b.attends ? sums : nullptr, out + n * out_size, 0, b.out_height);
            }
        }
        const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
        const int64_t from = thread * b.out_height / count, to = (thread + 1) * b.out_height / count;
        for (int64_t n = whole; n < images; n++) {  // fewer than threads are left: they share each one's rows
            float* columns = all_sums + row_sums;
            if (b.attends) std::fill(columns + thread * column_sums, columns + (thread + 1) * column_sums, 0.0f);
            rows_for(b, x + n * in_size, all_hidden, all_sums, columns + thread * column_sums, from, to);
#pragma omp barrier
            if (b.attends) {
#pragma omp for
                for (int64_t c = 0; c < column_sums; c += LANES)
                    for (int64_t t = 1; t < count; t++)
                        store(columns + c, load(columns + c) + load(columns + t * column_sums + c));
#pragma omp for
                for (int64_t l = 0; l < lines; l += ROWS) gate_sums(b.attention, all_sums, l, std::min(l + ROWS, lines));
            }
            gate_and_project(b, x + n * in_size, all_hidden, b.attends ? all_sums : nullptr, out + n * out_size, from, to);
#pragma omp barrier
        }
    }
}

}  // namespace coordserve

extern "C" AOTITorchError aoti_torch_cpu_inverted_residual(
    AtenTensorHandle x, AtenTensorHandle expand, AtenTensorHandle expand_bias, AtenTensorHandle depthwise,
    AtenTensorHandle depthwise_bias, AtenTensorHandle project, AtenTensorHandle project_bias, AtenTensorHandle squeeze,
    AtenTensorHandle squeeze_bias, AtenTensorHandle rows, AtenTensorHandle rows_bias, AtenTensorHandle columns,
    AtenTensorHandle columns_bias, int64_t stride, int64_t activation, int64_t out_channels, int32_t shortcut, AtenTensorHandle* out) {
    using namespace coordserve;
    const int64_t images = size(x, 0), height = size(x, 1), width = size(x, 2), channels = size(x, 3);
    const int64_t out_height = (height - 1) / stride + 1, out_width = (width - 1) / stride + 1, hidden = size(depthwise, 2);
    AOTITorchError error = empty(x, {images, out_height, out_width, out_channels}, out);
    if (error) return error;
    const bool expands = size(expand, 0), attends = size(rows, 0);
    Attention attended{};
    if (attends) attended = attention(out_height, out_width, hidden, squeeze, squeeze_bias, rows, rows_bias, columns, columns_bias);
    InvertedResidual<Scalar> block{
        height, width, channels, out_height, out_width, hidden,
        {expands ? channels : 0, hidden, scalars(expand), floats(expand_bias), (Activation)activation},
        {size(depthwise, 0), stride, floats(depthwise), floats(depthwise_bias), (Activation)activation},
        attends, attended, {hidden, out_channels, scalars(project), floats(project_bias), NONE}, (bool)shortcut};
    compute(block, images, scalars(x), scalars(*out));
    return 0;
}
