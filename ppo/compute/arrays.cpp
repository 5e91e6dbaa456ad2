// Drop-in for torch's operations on long arrays of numbers in an update, in one pass. ppo/compute/arrays.py calls it by
// ctypes.
//
// On x86-64 each function is compiled for several processors, and the one that fits is taken; nothing is contracted or
// reordered, so that all compute the same bits.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "team.hpp"

#if defined(__x86_64__) && defined(__GLIBC__) && (defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 8)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

namespace {

constexpr int64_t kBlock = 1 << 12;  // numbers that stay in the first cache from one loop to the next

// Rounded to the nearest bfloat16 number, to the even one of two; for numbers that are finite.
inline uint16_t half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace

// One step of Adam: Kingma and Ba 2015, algorithm 1, with its corrections of the bias taken out of the loop.
struct Adam {
    float rate1, beta2, rate2, eps;  // 1 - beta1, beta2, 1 - beta2, each rounded once
    float scale;                     // of the gradient, for clipping
    float step_size, root;           // lr / (1 - beta1^t); sqrt(1 - beta2^t)
};

FOR_EACH_PROCESSOR
static void adam_of(const Adam& a, int64_t count, float* w, const float* g, float* m, float* v) {
    for (int64_t i = 0; i < count; ++i) {
        const float gradient = g[i] * a.scale;
        m[i] += (gradient - m[i]) * a.rate1;
        v[i] = a.beta2 * v[i] + a.rate2 * gradient * gradient;
        w[i] -= a.step_size * m[i] / (std::sqrt(v[i]) / a.root + a.eps);
    }
}

FOR_EACH_PROCESSOR
static void round_to_halves(int64_t count, const float* from, uint16_t* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = half(from[i]);
}

// Moves the weights w (P,) by the gradient g (P,), with both moments; writes the first `copied` of them as bfloat16 to
// `low`.
EXPORT void adam_step(const Adam* a, int64_t count, float* w, const float* g, float* m, float* v, uint16_t* low,
                      int64_t copied, const Team* team) noexcept {
    share(*team, (count + kBlock - 1) / kBlock, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first * kBlock; i < std::min(last * kBlock, count); i += kBlock) {
            adam_of(*a, std::min(kBlock, count - i), w + i, g + i, m + i, v + i);
            if (i < copied) round_to_halves(std::min(kBlock, copied - i), w + i, low + i);
        }
    });
}

FOR_EACH_PROCESSOR
static void scale_image(int64_t size, const uint8_t* from, float scale, uint16_t* to) {
    for (int64_t i = 0; i < size; ++i) to[i] = half(float(from[i]) * scale);
}

// Writes rows of `from` (N, size) uint8, by their numbers, times `scale` to `to` (count, size) bfloat16.
EXPORT void scale_images(int64_t count, int64_t size, const int64_t* rows, const uint8_t* from, float scale,
                         uint16_t* to, const Team* team) noexcept {
    share(*team, count, [&](int64_t, int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) scale_image(size, from + rows[i] * size, scale, to + i * size);
    });
}

// Raised, with VERSION of native.py, when the arguments of an exported function change.
EXPORT int compute_version() noexcept { return 3; }
