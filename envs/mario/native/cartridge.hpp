// The game cartridge: an iNES file of the NROM board, checked once and shared, read-only, by any number of consoles.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "translator.hpp"

namespace nes {

class Cartridge {
 public:
    // Parses the bytes of an iNES file. Throws std::invalid_argument with one clear line if this is no NTSC NROM
    // cartridge with character ROM and without trainer or battery, or if the file is truncated.
    Cartridge(const uint8_t* file, size_t size);

    // 32 KiB at CPU addresses 0x8000-0xffff; a 16 KiB ROM appears twice.
    std::array<uint8_t, 0x8000> program;

    // Pattern ROM as the picture unit's bus sees it, 0x0000-0x1fff.
    std::array<uint8_t, 0x2000> pattern;

    // The same patterns decoded: eight pixels of value 0-3, leftmost at the lowest address. A line of the picture reads
    // one row of many tiles, so they are ordered by half of the ROM, row and tile.
    uint64_t tile_rows[2][8][256];

    std::unique_ptr<Translator> translator;  // of the program; null where there is none

    // Offset of each of the four name tables in the 2 KiB of video RAM.
    std::array<uint16_t, 4> name_tables;
};

// The eight pixels of one tile row, from its two bit planes.
uint64_t decode_row(uint8_t low, uint8_t high);

}  // namespace nes
