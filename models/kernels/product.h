// Products of pixels and weights: ROWS pixels by PANELS vectors of columns at a time, whose sums are what the registers hold.

namespace coordserve {

template <typename T>
struct Product {  // a 1x1 convolution and the activation behind it
    int64_t in, out;
    const T* weight;  // [out / LANES, in, LANES]; bfloat16: [out / LANES, in / 2, LANES, 2]; with zeros up to LANES
    const float* bias;  // likewise
    Activation activation;
};

constexpr int ROWS = LANES == 16 ? 7 : 6, PANELS = LANES == 16 ? 3 : 2;  // of 32 registers, or 16

template <int N>
struct Fixed {};  // a number that is known when compiling

// f(Fixed<R>, i) for what is in [i, i + R) of [0, count): R is MOST as long as there are so many, and then less
template <int MOST, typename F>
INLINE void in_tiles(int64_t count, F f, int64_t i = 0) {
    for (; i + MOST <= count; i += MOST) f(Fixed<MOST>{}, i);
    if constexpr (MOST > 1) in_tiles<(MOST + 1) / 2>(count, f, i);
}

// sums[r][v] += one input, or a pair of them, of R pixels, `pitch` apart, times V vectors of columns, `panel` apart
template <int R, int V>
INLINE void add_products(const float* x, int64_t pitch, const float* weight, int64_t panel, Floats (&sums)[R][V]) {
    Floats columns[V];
    for (int v = 0; v < V; v++) columns[v] = load(weight + v * panel);
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] += columns[v] * x[r * pitch];
}
template <int R, int V>
INLINE void add_products(const Bfloat16* x, int64_t pitch, const Bfloat16* weight, int64_t panel, Floats (&sums)[R][V]) {
    Words columns[V];  // the two rows of the weights, in the lower and upper half of each
    for (int v = 0; v < V; v++) columns[v] = *(const Words*)(weight + v * panel);
    for (int r = 0; r < R; r++) {
        uint32_t pair;
        __builtin_memcpy(&pair, x + r * pitch, sizeof(pair));
        for (int v = 0; v < V; v++) {
#if LANES == 16 && defined(__AVX512BF16__)
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

// sums[r][v] += the products of R pixels with V vectors of columns, over `in` inputs
template <int R, int V, typename T>
INLINE void multiply(const T* x, int64_t pitch, int64_t in, const T* weight, int64_t panel, Floats (&sums)[R][V]) {
    constexpr int64_t step = sizeof(float) / sizeof(T);
    constexpr int CHAINS = R * V >= 6 ? 1 : R * V >= 3 ? 2 : 4;  // an addition waits for the one before it: there must be others meanwhile
    int64_t k = 0;
    if (CHAINS > 1) {
        Floats more[CHAINS][R][V]{};
        for (; k + CHAINS * step <= in; k += CHAINS * step)
            for (int i = 0; i < CHAINS; i++)
                add_products(x + k + i * step, pitch, weight + (k + i * step) * LANES, panel, more[i]);
        for (int i = 0; i < CHAINS; i++)
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] += more[i][r][v];
    }
    for (; k < in; k += step) add_products(x + k, pitch, weight + k * LANES, panel, sums);
}

// The sums of R pixels and V vectors of columns, from a panel on, are done: out [R, columns]; added likewise, if it is not null
template <int R, int V, typename T>
INLINE void finish(Floats (&sums)[R][V], Activation activation, int64_t columns, int64_t panel, T* out, const T* added) {
    const int64_t first = panel * LANES, left = columns - first;
    if (left >= V * LANES) {
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V && added; v++) sums[r][v] += load(added + r * columns + first + v * LANES);
        activate(activation, sums);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) store(out + r * columns + first + v * LANES, sums[r][v]);
        return;
    }
    for (int r = 0; r < R; r++) {  // the last of the vectors goes beyond the columns
        T row[V * LANES]{};
        if (added) __builtin_memcpy(row, added + r * columns + first, left * sizeof(T));
        for (int v = 0; v < V; v++) store(row + v * LANES, activate(activation, sums[r][v] + load(row + v * LANES)));
        __builtin_memcpy(out + r * columns + first, row, left * sizeof(T));
    }
}

// sums = the bias of the columns from a panel on
template <int R, int V>
INLINE void begin(const float* bias, int64_t panel, Floats (&sums)[R][V]) {
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = load(bias + (panel + v) * LANES);
}

template <int R, int V, typename T>
INLINE void tile(const Product<T>& p, const T* x, int64_t panel, Floats (&sums)[R][V]) {
    begin(p.bias, panel, sums);
    multiply(x, p.in, p.in, p.weight + panel * p.in * LANES, p.in * LANES, sums);
}

// out [pixels, out] = x [pixels, in] times the weights, plus the bias and what is added
template <typename T>
static void product(const Product<T>& p, const T* x, int64_t pixels, T* out, const T* added = nullptr) {
    auto columns = [&]<int V, int MOST>(Fixed<V>, Fixed<MOST>, int64_t panel) INLINE_LAMBDA {
        in_tiles<MOST>(pixels, [&]<int R>(Fixed<R>, int64_t i) INLINE_LAMBDA {
            Floats sums[R][V];
            tile(p, x + i * p.in, panel, sums);
            finish(sums, p.activation, p.out, panel, out + i * p.out, added ? added + i * p.out : nullptr);
        });
    };
    int64_t panel = 0, all = (p.out + LANES - 1) / LANES;
    if (pixels < ROWS)
        for (; panel + 2 * PANELS <= all; panel += 2 * PANELS) columns(Fixed<2 * PANELS>{}, Fixed<(ROWS + 1) / 2>{}, panel);
    in_tiles<PANELS>(all, [&]<int V>(Fixed<V> vectors, int64_t panel) INLINE_LAMBDA { columns(vectors, Fixed<ROWS>{}, panel); }, panel);
}

}  // namespace coordserve
