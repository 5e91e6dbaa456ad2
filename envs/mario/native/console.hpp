// One Nintendo Entertainment System: the parts, and the 29,781 cycles that nes-py calls a frame.
#pragma once

#include <memory>

#include "bus.hpp"
#include "cpu.hpp"

namespace nes {

// One step of nes-py. A picture of the real machine takes 29,780 2/3 or 29,780 1/3: so the picture unit gains a dot or two
// in each step, and a step shows the top of one picture and the rest of the one before.
constexpr int kCyclesPerStep = 29781;

class Console {
 public:
    explicit Console(std::shared_ptr<const Cartridge> cartridge) : cartridge_(std::move(cartridge)), bus_(*cartridge_) { reset(); }
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    // RAM, video memory and controllers keep their contents, as in nes-py.
    void reset();

    // Runs one step with the buttons of controller 1: bits A, B, select, start, up, down, left, right from 0. Without `draw` the
    // screen keeps its old contents; all else is the same.
    void step(uint8_t buttons, bool draw);

    uint8_t* ram() { return bus_.ram.data(); }
    const uint8_t* screen() const { return bus_.ppu.screen(); }

    template <class Archive>
    void serialize(Archive& archive) {
        archive(bus_.ram), bus_.ppu.serialize(archive), cpu_.serialize(archive), archive(bus_.cycles_before);
        for (Controller& controller : bus_.controllers) archive(controller.buttons), archive(controller.shift), archive(controller.strobe);
    }
    void check() const { bus_.ppu.check(), cpu_.check(); }

    // Shift registers included, which nes-py's backup leaves out; see there.
    std::array<Controller, 2>& controllers() { return bus_.controllers; }

 private:
    std::shared_ptr<const Cartridge> cartridge_;
    Bus bus_;
    Cpu cpu_;
};

// Overwrites the console's whole state, or leaves it alone and throws std::invalid_argument.
void load(Console& console, const uint8_t* state, size_t size);

}  // namespace nes
