// Vectors as GCC and Clang know them, and two kinds of numbers in memory: float and bfloat16.
//
// models/fused.py has these files compiled into a package, one behind the other. `Scalar` is what activations are there,
// LANES the floats in a register of the CPU: 16 with AVX-512, 8 with AVX2.

#include <omp.h>
#if LANES == 16 && defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// The wrapper that they become a part of is optimised little.
#pragma GCC push_options
#pragma GCC optimize("O3", "fp-contract=fast")

#define INLINE static inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace coordserve {

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float Aligned __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint8_t Bytes __attribute__((vector_size(LANES), aligned(1)));
typedef uint16_t Bfloat16;  // the upper half of a float

INLINE Floats load(const float* from) { return *(const Floats*)from; }
INLINE Floats load(const Bfloat16* from) {
    return (Floats)(__builtin_convertvector(*(const Halves*)from, Words) << 16);
}
INLINE void store(float* to, Floats values) { *(Floats*)to = values; }
INLINE void store(Bfloat16* to, Floats values) {
#if LANES == 16 && defined(__AVX512BF16__)
    *(Halves*)to = (Halves)_mm512_cvtneps_pbh((__m512)values);
#else
    Words bits = (Words)values;
    *(Halves*)to = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);  // to nearest, ties to even
#endif
}

// The first lanes alone
template <typename T>
INLINE void store(T* to, Floats values, int64_t lanes) {
    T all[LANES];
    store(all, values);
    __builtin_memcpy(to, all, lanes * sizeof(T));
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

INLINE Floats between(Floats x, float least, float most) {
    x = x < least ? Floats{} + least : x;  // what is not a number stays so
    return x > most ? Floats{} + most : x;
}

enum Activation { NONE, RELU6, RELU, SILU, HARD_SWISH, SIGMOID };

INLINE Floats activate(Activation kind, Floats x) {
    if (kind == RELU6) return between(x, 0, 6);
    if (kind == RELU) return between(x, 0, INFINITY);
    if (kind == SILU) return x * sigmoid(x);
    if (kind == HARD_SWISH) return x * between(x + 3.0f, 0, 6) * (1.0f / 6);
    if (kind == SIGMOID) return sigmoid(x);
    return x;
}

static __attribute__((noinline)) void activate_all(Activation kind, Floats* x, int count) {
    for (int i = 0; i < count; i++) x[i] = activate(kind, x[i]);
}

// All of them, without a branch for each
template <int R, int V>
INLINE void activate(Activation kind, Floats (&x)[R][V]) {
    if (kind <= RELU) {
        const float least = kind == NONE ? -INFINITY : 0, most = kind == RELU6 ? 6 : INFINITY;
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) x[r][v] = between(x[r][v], least, most);
        return;
    }
    Floats all[R][V];  // x itself never has an address: it stays in registers
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) all[r][v] = x[r][v];
    activate_all(kind, all[0], R * V);
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) x[r][v] = all[r][v];
}

template <typename T>
static T* scratch(std::vector<Aligned>& memory, int64_t size) {
    int64_t vectors = (size * sizeof(T) + sizeof(Aligned) - 1) / sizeof(Aligned);
    if ((int64_t)memory.size() < vectors) memory.resize(vectors);
    return (T*)memory.data();
}

INLINE float* floats(AtenTensorHandle tensor) {
    void* pointer = nullptr;
    aoti_torch_get_data_ptr(tensor, &pointer);
    return (float*)pointer;
}
INLINE Scalar* scalars(AtenTensorHandle tensor) { return (Scalar*)floats(tensor); }

INLINE int64_t size(AtenTensorHandle tensor, int dimension) {
    int64_t found;
    aoti_torch_get_size(tensor, dimension, &found);
    return found;
}

// A new tensor of the dtype of another one, in contiguous memory
INLINE AOTITorchError empty(AtenTensorHandle like, std::initializer_list<int64_t> sizes, AtenTensorHandle* out) {
    std::vector<int64_t> strides(sizes.size(), 1);
    for (size_t i = sizes.size() - 1; i > 0; i--) strides[i - 1] = strides[i] * sizes.begin()[i];
    int32_t dtype;
    aoti_torch_get_dtype(like, &dtype);
    return aoti_torch_empty_strided(sizes.size(), sizes.begin(), strides.data(), dtype, aoti_torch_device_type_cpu(), 0, out);
}

}  // namespace coordserve
