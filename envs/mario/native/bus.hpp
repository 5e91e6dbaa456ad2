// The main bus: 2 KiB of RAM, the picture unit's registers, two controllers and the cartridge, as the CPU addresses
// them.
#pragma once

#include <array>
#include <cstdint>

#include "cartridge.hpp"
#include "ppu.hpp"

namespace nes {

// A standard controller: while strobed it shows the first button, afterwards it shifts out all eight, A first.
struct Controller {
    uint8_t buttons = 0;
    uint8_t shift = 0;
    uint8_t strobe = 1;

    void write_strobe(uint8_t value) {
        strobe = value & 1;
        if (!strobe) shift = buttons;
    }
    uint8_t read() {
        const uint8_t bit = (strobe ? buttons : shift) & 1;
        if (!strobe) shift >>= 1;
        return bit | 0x40;
    }
};

class Bus {
 public:
    explicit Bus(const Cartridge& cartridge)
        : ppu(cartridge), translator(cartridge.translator.get()), program(cartridge.program.data()) {}

    // `cycle` counts from the start of the console's current step. When the CPU acts in it, the three dots before each
    // cycle, this one included, have been run.
    uint8_t read(uint16_t address, int cycle) {
        if (address < 0x2000) return ram[address & 0x7ff];
        if (address >= 0x8000) return program[address & 0x7fff];
        return read_register(address, cycle);
    }

    // Returns the cycles for which the write stalls the CPU (sprite DMA; otherwise 0).
    int write(uint16_t address, uint8_t value, int cycle) {
        if (address < 0x2000) {
            ram[address & 0x7ff] = value;
            return 0;
        }
        return address < 0x4020 ? write_register(address, value, cycle) : 0;
    }

    // Program ROM at an address of 0x8000 and above.
    const uint8_t* code(uint16_t address) const { return program + (address & 0x7fff); }
    uint16_t read_vector(uint16_t address) const { return code(address)[0] | (code(address)[1] << 8); }

    std::array<uint8_t, 0x800> ram{};
    Ppu ppu;
    std::array<Controller, 2> controllers;
    Translator* const translator;  // null: there is none
    uint32_t cycles_before = 0;  // CPU cycles since the last reset, up to the current step: its parity lengthens DMA

 private:
    uint8_t read_register(uint16_t address, int cycle);
    int write_register(uint16_t address, uint8_t value, int cycle);

    const uint8_t* program;
};

}  // namespace nes
