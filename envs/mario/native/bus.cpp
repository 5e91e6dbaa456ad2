#include "bus.hpp"

namespace nes {

namespace {

// The address after mirroring: 0x2000-0x3fff hold eight picture unit registers again and again.
uint16_t unmirror(uint16_t address) { return address < 0x4000 ? address & 0x2007 : address; }

}  // namespace

// Everything unconnected reads as 0, not as the last value on the bus.
uint8_t Bus::read_register(uint16_t address, int cycle) {
    switch (unmirror(address)) {
        case 0x2002: return ppu.run_to(3 * (cycle + 1)), ppu.read_status();
        case 0x2004: return ppu.read_oam();
        case 0x2007: return ppu.run_to(3 * (cycle + 1)), ppu.read_data();
        case 0x4016: return controllers[0].read();
        case 0x4017: return controllers[1].read();
        default: return 0;
    }
}

int Bus::write_register(uint16_t address, uint8_t value, int cycle) {
    ppu.run_to(3 * (cycle + 1));
    switch (unmirror(address)) {
        case 0x2000: ppu.write_control(value); break;
        case 0x2001: ppu.write_mask(value); break;
        case 0x2003: ppu.write_oam_address(value); break;
        case 0x2004: ppu.write_oam(value); break;
        case 0x2005: ppu.write_scroll(value); break;
        case 0x2006: ppu.write_address(value); break;
        case 0x2007: ppu.write_data(value); break;
        case 0x4014:
            // 256 reads, 256 writes, one idle cycle, one more after an odd one. nes-py crashes outside of RAM.
            if (value < 0x20) ppu.copy_oam(&ram[(value << 8) & 0x7ff]);
            return 513 + ((cycles_before + cycle + 1) & 1);
        case 0x4016:
            for (Controller& controller : controllers) controller.write_strobe(value);
            break;
        default: break;  // sound registers and the rest
    }
    return 0;
}

}  // namespace nes
