#include "observe.hpp"

#include <algorithm>
#include <numeric>

#include "palette.hpp"

namespace mario {

namespace {

constexpr std::array<uint8_t, 64> make_grays() {
    std::array<uint8_t, 64> grays{};
    for (int i = 0; i < 64; ++i) {
        const uint32_t colour = nes::kColours[i];
        grays[i] = static_cast<uint8_t>(
            (4899 * (colour >> 16) + 9617 * ((colour >> 8) & 255) + 1868 * (colour & 255) + 8192) >> 14);
    }
    return grays;
}
constexpr std::array<uint8_t, 64> kGrays = make_grays();

}  // namespace

// In units of gcd(length, 84) / 84 of an input the borders of inputs and outputs fall on whole numbers.
Boxes::Boxes(int length, int reach) {
    const int groups = std::gcd(length, kSize), input = kSize / groups, output = length / groups;
    total = output;
    for (int i = 0; i < kSize; ++i) {
        first[i] = std::min(i * output / input, length - reach);
        for (int tap = 0; tap < kTaps; ++tap) {
            const int begin = (first[i] + tap) * input, end = begin + input;
            weights[i * kTaps + tap] =
                static_cast<int16_t>(std::max(0, std::min(end, (i + 1) * output) - std::max(begin, i * output)));
        }
    }
}

Observer::Observer(int top, bool portable)
    : kernels_(portable ? nes::portable_kernels() : nes::best_kernels()),
      top_(top),
      rows_(nes::kHeight - top, 4),
      columns_(nes::kWidth, 8) {}

void Observer::observe(const nes::Screen& last, const nes::Screen* before, uint8_t* out) const {
    uint8_t gray[nes::kWidth * nes::kHeight];
    const int begin = top_ * nes::kWidth;
    const nes::Screen& other = before ? *before : last;
    kernels_.map_maximum(last.data() + begin, other.data() + begin, kGrays.data(), gray,
                         nes::kWidth * nes::kHeight - begin);
    for (int row = 0; row < kSize; ++row) {
        int16_t sums[nes::kWidth];  // at most 255 * 52
        kernels_.add_rows(gray + rows_.first[row] * nes::kWidth, &rows_.weights[row * Boxes::kTaps], sums);
        kernels_.average_columns(sums, columns_.first.data(), columns_.weights.data(), rows_.total * columns_.total,
                                 out + row * kSize);
    }
}

}  // namespace mario
