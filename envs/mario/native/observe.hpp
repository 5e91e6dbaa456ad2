// From screens to an observation: preprocessing version 1 of envs/mario/preprocess.py, in exact integers.
#pragma once

#include <array>
#include <cstdint>

#include "kernels.hpp"
#include "ppu.hpp"

namespace mario {

constexpr int kSize = 84;
constexpr int kObservation = kSize * kSize;

// Weights with which neighbouring rows (or columns) make up each of 84, in whole parts of a row: at most 4 rows, at
// most 5 columns; the rest of the 8 are 0.
struct Boxes {
    static constexpr int kTaps = 8;
    Boxes(int length, int reach);  // no box reads more than `reach` inputs from its first one

    std::array<int, kSize> first;
    std::array<int16_t, kSize * kTaps> weights;
    int total;  // sum of the weights of each
};

class Observer {
 public:
    // Leaves out the first `top` rows of the screen (0 or 32). `portable` forgoes the processor's special instructions.
    explicit Observer(int top, bool portable = false);

    // Writes 84 x 84 gray pixels: the box average of the maximum of one or two screens.
    void observe(const nes::Screen& last, const nes::Screen* before, uint8_t* out) const;

 private:
    const nes::Kernels& kernels_;
    int top_;
    Boxes rows_, columns_;
};

}  // namespace mario
