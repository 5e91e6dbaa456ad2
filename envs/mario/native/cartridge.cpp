#include "cartridge.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace nes {

namespace {

constexpr size_t kHeader = 16;
constexpr size_t kProgramBank = 0x4000;
constexpr size_t kPatternBank = 0x2000;

[[noreturn]] void reject(const std::string& why) { throw std::invalid_argument("ROM: " + why); }

void check_header(const uint8_t* file, size_t size) {
    if (size < kHeader || std::memcmp(file, "NES\x1a", 4) != 0)
        reject("not an iNES file (it must begin with 'NES' 0x1a)");
    const int mapper = (file[6] >> 4) | (file[7] & 0xf0);
    if (mapper != 0) reject("mapper " + std::to_string(mapper) + ", only mapper 0 (NROM) is supported");
    if (file[9] & 1) reject("PAL, only NTSC is supported");
    if (std::any_of(file + 11, file + kHeader, [](uint8_t byte) { return byte != 0; }))
        reject("header bytes 11 to 15 must be zero");
    if (file[6] & 0x0e) reject("battery RAM, trainer or four-screen video RAM, which NROM does not have");
    if (file[4] != 1 && file[4] != 2) reject(std::to_string(file[4]) + " program banks, NROM has 1 or 2");
    if (file[5] != 1) reject(std::to_string(file[5]) + " character banks, exactly 1 is supported");
    const size_t expected = kHeader + file[4] * kProgramBank + kPatternBank;
    if (size < expected) reject("truncated: " + std::to_string(size) + " bytes of " + std::to_string(expected));
}

}  // namespace

uint64_t decode_row(uint8_t low, uint8_t high) {
    uint8_t pixels[8];
    for (int i = 0; i < 8; ++i) pixels[i] = ((low >> (7 - i)) & 1) | (((high >> (7 - i)) & 1) << 1);
    uint64_t row;
    std::memcpy(&row, pixels, sizeof row);
    return row;
}

Cartridge::Cartridge(const uint8_t* file, size_t size) {
    check_header(file, size);
    const size_t program_size = file[4] * kProgramBank;
    for (size_t i = 0; i < program.size(); ++i) program[i] = file[kHeader + i % program_size];
    std::copy_n(file + kHeader + program_size, pattern.size(), pattern.begin());
    for (size_t tile = 0; tile < 512; ++tile)
        for (size_t row = 0; row < 8; ++row)
            tile_rows[tile >> 8][row][tile & 255] = decode_row(pattern[tile * 16 + row], pattern[tile * 16 + row + 8]);
    translator = Translator::make(program.data());
    const bool vertical = file[6] & 1;
    name_tables = vertical ? std::array<uint16_t, 4>{0, 0x400, 0, 0x400} : std::array<uint16_t, 4>{0, 0, 0x400, 0x400};
}

}  // namespace nes
