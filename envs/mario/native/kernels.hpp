// The inner loops over pixels, once in plain C++ and once for processors with AVX2, chosen when the program runs. Both
// give the same bytes.
#pragma once

#include <cstdint>

namespace nes {

struct Kernels {
    // out[i] = table[in[i]] for i < 256, table of 32.
    void (*map_line)(const uint8_t* in, const uint8_t* table, uint8_t* out);

    // out[i] = max(table[one[i]], table[other[i]]) for i < count (a multiple of 256), table of 64.
    void (*map_maximum)(const uint8_t* one, const uint8_t* other, const uint8_t* table, uint8_t* out, int count);

    // out[x] = sum of weights[k] * rows[256 * k + x] for x < 256 and k < 4. The sums stay below 2^15.
    void (*add_rows)(const uint8_t* rows, const int16_t* weights, int16_t* out);

    // out[i] = round(sum of weights[8 i + k] * in[first[i] + k] over k < 8, divided by total), halves up, for i < 84.
    // Sums below 2^24.
    void (*average_columns)(const int16_t* in, const int* first, const int16_t* weights, int total, uint8_t* out);
};

const Kernels& portable_kernels();
const Kernels& best_kernels();

}  // namespace nes
