#include "console.hpp"

#include <algorithm>

namespace nes {

void Console::reset() {
    cpu_.reset(bus_);
    bus_.ppu.reset();
    bus_.cycles_before = 0;
}

void Console::step(uint8_t buttons, Screen* screen) {
    bus_.controllers[0].buttons = buttons;
    bus_.ppu.begin_step(screen);
    for (int cycle = 0; cycle < kCyclesPerStep;) {
        const int event = bus_.ppu.next_event();
        cycle = std::min((event - 1) / 3, kCyclesPerStep);  // dots 3c + 1 to 3c + 3 come before cycle c
        cpu_.run(bus_, cycle);
        bus_.ppu.run_to(std::min(event, 3 * kCyclesPerStep));
        if (bus_.ppu.take_nmi()) cpu_.interrupt(bus_, cycle);
    }
    cpu_.end_step(kCyclesPerStep);
    bus_.cycles_before += kCyclesPerStep;
}

void Console::set_state(const State& state) {
    bus_.ram = state.ram;
    bus_.controllers = state.controllers;
    bus_.cycles_before = state.cycles_before;
    cpu_ = state.cpu;
    bus_.ppu.set_state(state.ppu);
}

}  // namespace nes
