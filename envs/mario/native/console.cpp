#include "console.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "archive.hpp"

namespace nes {

void Console::reset() {
    cpu_.reset(bus_);
    bus_.ppu.reset();
    bus_.cycles_before = 0;
}

void Console::step(uint8_t buttons, bool draw) {
    bus_.controllers[0].buttons = buttons;
    bus_.ppu.begin_step(draw);
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

void load(Console& console, const uint8_t* state, size_t size) {
    Sizer sizer;
    console.serialize(sizer);
    if (size != sizer.size) throw std::invalid_argument("state: of another size");
    std::vector<uint8_t> before(size);
    Writer writer(before.data(), size);
    console.serialize(writer);
    Reader reader(state, size);
    console.serialize(reader);
    try {
        console.check();
    } catch (const std::invalid_argument&) {
        Reader undo(before.data(), size);
        console.serialize(undo);
        throw;
    }
}

}  // namespace nes
