// From screens to an observation: preprocessing version 1 of envs/mario/preprocess.py, in exact integers.
#pragma once

#include <array>
#include <cstdint>

#include "ppu.hpp"

namespace mario {

constexpr int kSize = 84;
constexpr int kObservation = kSize * kSize;

// Weights with which up to `kTaps` neighbouring rows (or columns) make up one of 84, in whole parts of a row.
struct Boxes {
    static constexpr int kTaps = 5;
    struct Box {
        int first;
        std::array<uint16_t, kTaps> weights;
    };
    explicit Boxes(int length);

    std::array<Box, kSize> boxes;
    int total;  // sum of the weights of each
};

class Observer {
 public:
    // Leaves out the first `top` rows of the screen (0 or 32).
    explicit Observer(int top) : top_(top), rows_(nes::kHeight - top), columns_(nes::kWidth) {}

    // Writes 84 x 84 gray pixels: the box average of the maximum of one or two screens.
    void observe(const nes::Screen& last, const nes::Screen* before, uint8_t* out) const;

 private:
    int top_;
    Boxes rows_, columns_;
};

}  // namespace mario
