// What Python calls through ctypes. No exception crosses this border: functions that can fail return null or false and
// write one line to `error` (kErrorSize bytes). Every object may be used from any thread, but from one at a time.

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "archive.hpp"
#include "cartridge.hpp"
#include "console.hpp"
#include "palette.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t kErrorSize = 256;

struct SharedCartridge {
    std::shared_ptr<const nes::Cartridge> cartridge;
};

template <class Function>
auto guarded(char* error, Function function) -> decltype(function()) {
    try {
        return function();
    } catch (const std::exception& exception) {
        std::snprintf(error, kErrorSize, "%s", exception.what());
        return {};
    }
}

}  // namespace

EXPORT SharedCartridge* nes_cartridge_new(const uint8_t* file, size_t size, char* error) {
    return guarded(error, [&] { return new SharedCartridge{std::make_shared<const nes::Cartridge>(file, size)}; });
}
EXPORT void nes_cartridge_free(SharedCartridge* cartridge) { delete cartridge; }

EXPORT nes::Console* nes_console_new(const SharedCartridge* cartridge, char* error) {
    return guarded(error, [&] { return new nes::Console(cartridge->cartridge); });
}
EXPORT void nes_console_free(nes::Console* console) { delete console; }
EXPORT void nes_console_reset(nes::Console* console) { console->reset(); }
EXPORT void nes_console_step(nes::Console* console, uint8_t buttons, bool draw) { console->step(buttons, draw); }
EXPORT uint8_t* nes_console_ram(nes::Console* console) { return console->ram(); }
EXPORT const uint8_t* nes_console_screen(const nes::Console* console) { return console->screen(); }

// 240 x 256 x 3 bytes of RGB.
EXPORT void nes_console_rgb(const nes::Console* console, uint8_t* rgb) {
    const uint8_t* const screen = console->screen();
    for (int i = 0; i < nes::kWidth * nes::kHeight; ++i) {
        const uint32_t colour = nes::kColours[screen[i]];
        rgb[3 * i] = static_cast<uint8_t>(colour >> 16);
        rgb[3 * i + 1] = static_cast<uint8_t>(colour >> 8);
        rgb[3 * i + 2] = static_cast<uint8_t>(colour);
    }
}

EXPORT size_t nes_console_state_size(nes::Console* console) {
    nes::Sizer sizer;
    console->serialize(sizer);
    return sizer.size;
}
EXPORT void nes_console_save(nes::Console* console, uint8_t* state, size_t size) {
    nes::Writer writer(state, size);
    console->serialize(writer);
}
EXPORT bool nes_console_load(nes::Console* console, const uint8_t* state, size_t size, char* error) {
    return guarded(error, [&] {
        nes::load(*console, state, size);
        return true;
    });
}
