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
        grays[i] = static_cast<uint8_t>((4899 * (colour >> 16) + 9617 * ((colour >> 8) & 255) + 1868 * (colour & 255) + 8192) >> 14);
    }
    return grays;
}
constexpr std::array<uint8_t, 64> kGrays = make_grays();

}  // namespace

// In units of gcd(length, 84) / 84 of an input the borders of inputs and outputs fall on whole numbers.
Boxes::Boxes(int length) {
    const int groups = std::gcd(length, kSize), input = kSize / groups, output = length / groups;
    total = output;
    for (int i = 0; i < kSize; ++i) {
        Box& box = boxes[i];
        box.first = std::min(i * output / input, length - kTaps);
        for (int tap = 0; tap < kTaps; ++tap) {
            const int begin = (box.first + tap) * input, end = begin + input;
            box.weights[tap] = static_cast<uint16_t>(std::max(0, std::min(end, (i + 1) * output) - std::max(begin, i * output)));
        }
    }
}

void Observer::observe(const nes::Screen& last, const nes::Screen* before, uint8_t* out) const {
    uint8_t gray[nes::kWidth * nes::kHeight];
    const int begin = top_ * nes::kWidth;
    for (int i = begin; i < nes::kWidth * nes::kHeight; ++i) {
        gray[i] = kGrays[last[i]];
        if (before) gray[i] = std::max(gray[i], kGrays[(*before)[i]]);
    }
    const uint32_t total = rows_.total * columns_.total;
    for (int row = 0; row < kSize; ++row) {
        const Boxes::Box& box = rows_.boxes[row];
        uint16_t sums[nes::kWidth] = {};  // at most 255 * 52
        for (int tap = 0; tap < Boxes::kTaps; ++tap)
            for (int x = 0; x < nes::kWidth; ++x) sums[x] += box.weights[tap] * gray[begin + (box.first + tap) * nes::kWidth + x];
        for (int column = 0; column < kSize; ++column) {
            const Boxes::Box& taps = columns_.boxes[column];
            uint32_t sum = 0;
            for (int tap = 0; tap < Boxes::kTaps; ++tap) sum += static_cast<uint32_t>(taps.weights[tap]) * sums[taps.first + tap];
            out[row * kSize + column] = static_cast<uint8_t>((2 * sum + total) / (2 * total));
        }
    }
}

}  // namespace mario
