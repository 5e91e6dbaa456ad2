// One Nintendo Entertainment System: the parts, and the 29,781 cycles that nes-py calls a frame.
#pragma once

#include <memory>

#include "bus.hpp"
#include "cpu.hpp"

namespace nes {

// One step of nes-py. A picture of the real machine takes 29,780 2/3 or 29,780 1/3: so the picture unit gains a dot or
// two in each step, and a step shows the top of one picture and the rest of the one before.
constexpr int kCyclesPerStep = 29781;

class Console {
 public:
    // All that outlives a step; the screen belongs to the caller.
    struct State {
        std::array<uint8_t, 0x800> ram;
        std::array<Controller, 2> controllers;
        uint32_t cycles_before;
        Cpu cpu;
        Ppu::State ppu;

        template <class Archive>
        void serialize(Archive& archive) {
            archive(ram), ppu.serialize(archive), cpu.serialize(archive), archive(cycles_before);
            for (Controller& one : controllers) archive(one.buttons), archive(one.shift), archive(one.strobe);
        }
        void check() const { ppu.check(), cpu.check(); }  // throws std::invalid_argument
    };

    explicit Console(std::shared_ptr<const Cartridge> cartridge) : cartridge_(std::move(cartridge)), bus_(*cartridge_) {
        reset();
    }
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;

    // RAM, video memory and controllers keep their contents, as in nes-py.
    void reset();

    // Runs one step with the buttons of controller 1: bits A, B, select, start, up, down, left, right from 0. Draws
    // into `screen`, or nothing if that is null; all else is the same.
    void step(uint8_t buttons, Screen* screen);

    std::array<uint8_t, 0x800>& ram() { return bus_.ram; }
    const std::array<uint8_t, 0x800>& ram() const { return bus_.ram; }

    State state() const { return {bus_.ram, bus_.controllers, bus_.cycles_before, cpu_, bus_.ppu.state()}; }
    void set_state(const State& state);

 private:
    std::shared_ptr<const Cartridge> cartridge_;
    Bus bus_;
    Cpu cpu_;
};

}  // namespace nes
