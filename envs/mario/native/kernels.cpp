#include "kernels.hpp"

#include <algorithm>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_AVX2 1
#include <immintrin.h>
#endif

namespace nes {

namespace {

constexpr int kLine = 256, kTapRows = 4, kTaps = 8, kOutputs = 84;

void map_line(const uint8_t* in, const uint8_t* table, uint8_t* out) {
    for (int i = 0; i < kLine; ++i) out[i] = table[in[i]];
}

void map_maximum(const uint8_t* one, const uint8_t* other, const uint8_t* table, uint8_t* out, int count) {
    for (int i = 0; i < count; ++i) out[i] = std::max(table[one[i]], table[other[i]]);
}

void add_rows(const uint8_t* rows, const int16_t* weights, int16_t* out) {
    for (int x = 0; x < kLine; ++x) {
        int sum = 0;
        for (int k = 0; k < kTapRows; ++k) sum += weights[k] * rows[kLine * k + x];
        out[x] = static_cast<int16_t>(sum);
    }
}

void average_columns(const int16_t* in, const int* first, const int16_t* weights, int total, uint8_t* out) {
    for (int i = 0; i < kOutputs; ++i) {
        int sum = 0;
        for (int k = 0; k < kTaps; ++k) sum += weights[kTaps * i + k] * in[first[i] + k];
        out[i] = static_cast<uint8_t>((2 * sum + total) / (2 * total));
    }
}

#ifdef HAS_AVX2

#define AVX2 __attribute__((target("avx2")))

AVX2 __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
AVX2 void store(void* to, __m256i value) { _mm256_storeu_si256(static_cast<__m256i*>(to), value); }
AVX2 __m256i table16(const uint8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}

AVX2 void map_line_avx2(const uint8_t* in, const uint8_t* table, uint8_t* out) {
    const __m256i low = table16(table), high = table16(table + 16);
    for (int i = 0; i < kLine; i += 32) {
        const __m256i index = load(in + i);
        const __m256i bit4 = _mm256_slli_epi16(index, 3);  // moved to the top of each byte, where the choice is made
        store(out + i, _mm256_blendv_epi8(_mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index), bit4));
    }
}

AVX2 inline __m256i map64(__m256i index, __m256i t0, __m256i t1, __m256i t2, __m256i t3) {
    const __m256i bit4 = _mm256_slli_epi16(index, 3), bit5 = _mm256_slli_epi16(index, 2);
    const __m256i low = _mm256_blendv_epi8(_mm256_shuffle_epi8(t0, index), _mm256_shuffle_epi8(t1, index), bit4);
    const __m256i high = _mm256_blendv_epi8(_mm256_shuffle_epi8(t2, index), _mm256_shuffle_epi8(t3, index), bit4);
    return _mm256_blendv_epi8(low, high, bit5);
}

AVX2 void map_maximum_avx2(const uint8_t* one, const uint8_t* other, const uint8_t* table, uint8_t* out, int count) {
    const __m256i t0 = table16(table), t1 = table16(table + 16), t2 = table16(table + 32), t3 = table16(table + 48);
    for (int i = 0; i < count; i += 32)
        store(out + i, _mm256_max_epu8(map64(load(one + i), t0, t1, t2, t3), map64(load(other + i), t0, t1, t2, t3)));
}

AVX2 void add_rows_avx2(const uint8_t* rows, const int16_t* weights, int16_t* out) {
    for (int x = 0; x < kLine; x += 16) {
        __m256i sum = _mm256_setzero_si256();
        for (int k = 0; k < kTapRows; ++k) {
            const __m256i pixels =
                _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + kLine * k + x)));
            sum = _mm256_add_epi16(sum, _mm256_mullo_epi16(pixels, _mm256_set1_epi16(weights[k])));
        }
        store(out + x, sum);
    }
}

AVX2 void average_columns_avx2(const int16_t* in, const int* first, const int16_t* weights, int total, uint8_t* out) {
    // (sum + total / 2 + 1/2) / total differs from every whole number by at least 1 / (2 total): far more than the
    // rounding of floats.
    const __m128 half = _mm_set1_ps(0.5f * static_cast<float>(total) + 0.5f),
                 scale = _mm_set1_ps(1.0f / static_cast<float>(total));
    const __m128i low_bytes = _mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    for (int i = 0; i < kOutputs; i += 4) {
        __m128i sums[4];
        for (int k = 0; k < 4; ++k) {
            const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + first[i + k]));
            sums[k] =
                _mm_madd_epi16(values, _mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + kTaps * (i + k))));
        }
        const __m128i four = _mm_hadd_epi32(_mm_hadd_epi32(sums[0], sums[1]), _mm_hadd_epi32(sums[2], sums[3]));
        const __m128i rounded = _mm_cvttps_epi32(_mm_mul_ps(_mm_add_ps(_mm_cvtepi32_ps(four), half), scale));
        _mm_storeu_si32(out + i, _mm_shuffle_epi8(rounded, low_bytes));
    }
}

#endif

}  // namespace

const Kernels& portable_kernels() {
    static constexpr Kernels kernels{map_line, map_maximum, add_rows, average_columns};
    return kernels;
}

const Kernels& best_kernels() {
#ifdef HAS_AVX2
    static constexpr Kernels kernels{map_line_avx2, map_maximum_avx2, add_rows_avx2, average_columns_avx2};
    static const bool usable = __builtin_cpu_supports("avx2");
    if (usable) return kernels;
#endif
    return portable_kernels();
}

}  // namespace nes
