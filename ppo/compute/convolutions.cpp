// Drop-in for torch's Conv2d, in stacks, forward and backward: in bfloat16 for processors with AVX512-BF16 and without
// a matrix unit, in float32 for those with AVX-512 or AVX2. Called from ppo/compute/convolutions.py by ctypes.
//
// A sample goes through all layers before the next one does: activations between two layers, forward, and the gradients
// of them, backward, stay in the core's own cache. Layer by layer, as torch computes, each passes through main memory,
// which all cores share.
//
// Letters: N samples, C channels in, O channels out, K kernel, S stride, P padding. Images and weights are channels
// last: x (N, H, W, C), y and dy (N, OH, OW, O), w (O, K, K, C), with H = W and square kernels. All are bfloat16 or all
// are float32, as `kind` says; sums are float32.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "team.hpp"

// One convolution, as ppo/compute/convolutions.py has it. `y` is its output, after the ReLU if it has one.
struct Layer {
    int64_t side, channels, outputs, kernel, stride, padding, relu;
    const void *weight, *bias;                // (O, K, K, C) and (O,)
    void* y;                                  // (N, OH, OW, O); written forward, read backward
    float *weight_gradient, *bias_gradient;  // (O, K, K, C) and (O,); written backward
};

enum Kind : int64_t { kBfloat16, kAvx512, kAvx2 };  // as ppo/compute/convolutions.py numbers them

#if defined(__x86_64__) && (!defined(__GNUC__) || defined(__clang__) || __GNUC__ >= 10)
#include <immintrin.h>

#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 warns of its own header
#pragma GCC diagnostic ignored "-Wignored-attributes"   // of Array<Lane>, which is read through Lane*
#endif

// ppo/compute/convolutions.py asks what the processor has before it calls.
#define INLINE WIDE __attribute__((always_inline)) inline

// vdpbf16ps adds to each of 16 floats the products of two pairs of bfloat16 numbers.
namespace bfloat16 {

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

using Number = uint16_t;
typedef uint32_t __attribute__((may_alias)) Lane;
using Row = __m512bh;
using Sums = __m512;
constexpr int64_t kPer = 2, kLanes = 16;
constexpr int kSums = 24, kMost = 4;
constexpr Lane kOnes = 0x3F803F80;

inline float to_float(Number number) {
    const uint32_t bits = uint32_t(number) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE Row load(const Lane* from) { return (Row)_mm512_loadu_si512(from); }
INLINE Row repeat(Lane lane) { return (Row)_mm512_set1_epi32(int(lane)); }
INLINE Sums add_product(Sums sums, Row a, Row b) { return _mm512_dpbf16_ps(sums, a, b); }
INLINE Sums load_sums(const float* from) { return _mm512_loadu_ps(from); }
INLINE void store_sums(float* to, Sums sums) { _mm512_storeu_ps(to, sums); }

// Adds the first `count` sums to what is there.
INLINE void add_to(float* to, Sums sums, int64_t count) {
    const __mmask16 mask = count >= kLanes ? 0xFFFF : __mmask16((1u << count) - 1);
    _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, to)));
}

// The numbers where `y`, a ReLU's output, is above zero, and zeros elsewhere.
INLINE __m256i where_positive(__m256i numbers, const Number* y) {
    const __m256i output =
        _mm256_loadu_si256((const __m256i*)y);  // a bfloat16 number above zero is an int16 above zero
    return _mm256_maskz_mov_epi16(_mm256_cmpgt_epi16_mask(output, _mm256_setzero_si256()), numbers);
}

INLINE void keep_positive(const Number* numbers, const Number* y, Number* to) {
    _mm256_storeu_si256((__m256i*)to, where_positive(_mm256_loadu_si256((const __m256i*)numbers), y));
}

// Writes sums as numbers: after a ReLU, or with zeros where `mask` is zero, or as they are.
INLINE void write(Sums sums, bool relu, const Number* mask, Number* to) {
    __m256i numbers = (__m256i)_mm512_cvtneps_pbh(sums);
    if (relu) numbers = _mm256_max_epi16(numbers, _mm256_setzero_si256());  // a negative one is a negative int16
    if (mask) numbers = where_positive(numbers, mask);
    _mm256_storeu_si256((__m256i*)to, numbers);
}

// out[i] = the pair (low[i], high[i]); zeros for high if it is null.
WIDE inline void interleave(const Number* low, const Number* high, Lane* out, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        __m512i pairs = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(low + i)));
        if (high) {
            const __m512i upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(high + i)));
            pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(upper, 16));
        }
        _mm512_storeu_si512(out + i, pairs);
    }
    for (; i < count; ++i) out[i] = Lane(low[i]) | (high ? Lane(high[i]) << 16 : 0);
}

#include "convolutions.hpp"
#undef WIDE

}  // namespace bfloat16

namespace avx512 {

#define WIDE __attribute__((target("avx512f")))

using Row = __m512;
using Sums = __m512;
constexpr int64_t kLanes = 16;
constexpr int kSums = 24, kMost = 4;

INLINE Row load(const float* from) { return _mm512_loadu_ps(from); }
INLINE Row repeat(float lane) { return _mm512_set1_ps(lane); }
INLINE Sums add_product(Sums sums, Row a, Row b) { return _mm512_fmadd_ps(a, b, sums); }
INLINE Sums load_sums(const float* from) { return _mm512_loadu_ps(from); }
INLINE void store_sums(float* to, Sums sums) { _mm512_storeu_ps(to, sums); }
INLINE Sums max_with_zero(Sums sums) { return _mm512_max_ps(Sums{}, sums); }  // of a NaN the NaN
INLINE Row where_positive(Row numbers, Row y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, Row{}, _CMP_GT_OQ), numbers);
}

INLINE void add_to(float* to, Sums sums, int64_t count) {
    const __mmask16 mask = count >= kLanes ? 0xFFFF : __mmask16((1u << count) - 1);
    _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask, to)));
}

#include "float32.hpp"
#include "convolutions.hpp"
#undef WIDE

}  // namespace avx512

namespace avx2 {

#define WIDE __attribute__((target("avx2,fma")))

using Row = __m256;
using Sums = __m256;
constexpr int64_t kLanes = 8;
constexpr int kSums = 12, kMost = 2;

INLINE Row load(const float* from) { return _mm256_loadu_ps(from); }
INLINE Row repeat(float lane) { return _mm256_set1_ps(lane); }
INLINE Sums add_product(Sums sums, Row a, Row b) { return _mm256_fmadd_ps(a, b, sums); }
INLINE Sums load_sums(const float* from) { return _mm256_loadu_ps(from); }
INLINE void store_sums(float* to, Sums sums) { _mm256_storeu_ps(to, sums); }
INLINE Sums max_with_zero(Sums sums) { return _mm256_max_ps(Sums{}, sums); }  // of a NaN the NaN
INLINE Row where_positive(Row numbers, Row y) {
    return _mm256_and_ps(_mm256_cmp_ps(y, Row{}, _CMP_GT_OQ), numbers);
}

INLINE void add_to(float* to, Sums sums, int64_t count) {
    if (count >= kLanes) return store_sums(to, load_sums(to) + sums);
    float numbers[kLanes];
    store_sums(numbers, sums);
    for (int64_t i = 0; i < count; ++i) to[i] += numbers[i];
}

#include "float32.hpp"
#include "convolutions.hpp"
#undef WIDE

}  // namespace avx2

// Writes `y` of each layer from x (N, H, W, C).
EXPORT void convolutions_forward(Kind kind, const Layer* layers, int64_t count, int64_t samples, const void* x,
                                 const Team* team) noexcept {
    const auto pass = kind == kBfloat16 ? bfloat16::forward : kind == kAvx512 ? avx512::forward : avx2::forward;
    pass(layers, count, samples, x, *team);
}

// Writes both gradients of each layer, and dx (N, H, W, C) unless it is null, from dy of the last one.
EXPORT void convolutions_backward(Kind kind, const Layer* layers, int64_t count, int64_t samples, const void* x,
                                  const void* dy, void* dx, const Team* team) noexcept {
    const auto pass = kind == kBfloat16 ? bfloat16::backward : kind == kAvx512 ? avx512::backward : avx2::backward;
    pass(layers, count, samples, x, dy, dx, *team);
}

#else  // another processor: ppo/compute/convolutions.py does not call them

EXPORT void convolutions_forward(Kind, const Layer*, int64_t, int64_t, const void*, const Team*) noexcept {}
EXPORT void convolutions_backward(Kind, const Layer*, int64_t, int64_t, const void*, const void*, void*,
                                  const Team*) noexcept {}

#endif
