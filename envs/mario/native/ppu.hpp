// The picture unit (2C02), as nes-py 8.2.1 times it.
//
// A frame is a pre-render line (-1), 240 visible lines, an idle line (240) and 20 lines of vertical blank (241-260), of
// 341 dots each; every second frame is one dot shorter if both layers are shown. Dots are numbered from 1 (the very
// first line after a reset has a dot 0 in front). In a line:
//
//     dots 1-256  pixel `dot - 1` of visible lines; the background address moves right after each eighth pixel
//     dot 257     background address one row down
//     dot 258     horizontal part of the background address reloaded (also in the pre-render line)
//     dots 281-304 of the pre-render line: vertical part reloaded
//     dot 341     sprites of the next line chosen. Line 0 shows those chosen at the end of line 239 of the frame
//     before. dot 1 of line -1: vertical blank and sprite-0 flags cleared; dot 1 of line 241: vertical blank set, NMI
//
// Nothing happens between the CPU's accesses that the CPU could see, so `run_to` is called only just before an access,
// and works through whole lines. A frame that is not shown is not drawn: then a line costs a few additions, and only
// the lines that sprite 0 touches are composed, until it hits.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "cartridge.hpp"
#include "kernels.hpp"

namespace nes {

constexpr int kWidth = 256;
constexpr int kHeight = 240;
constexpr int kDotsPerLine = 341;

// Colour numbers 0-63, row by row.
using Screen = std::array<uint8_t, kWidth * kHeight>;

class Ppu {
 public:
    explicit Ppu(const Cartridge& cartridge) : cartridge_(cartridge), kernels_(best_kernels()) { paint_tables(); }

    // Power button of nes-py: registers start over, memories, the read buffer and the edge masks stay.
    void reset();

    // Time is counted in dots since the start of the console's current step. `screen` is where this step draws (every
    // pixel at least once), null if nobody looks.
    void begin_step(Screen* screen) { done_ = 0, screen_ = screen; }
    void run_to(int dots) {
        while (done_ < dots) advance(dots - done_);
    }

    // The first dot count at which the timing of later dots, or an NMI, is decided; always after the present one.
    int next_event() const;

    // Tells (once) whether an NMI was raised by the dots run so far.
    bool take_nmi() {
        const bool raised = nmi_;
        nmi_ = false;
        return raised;
    }

    // No dot count before this one changes what read_status returns (a lower bound of the next change).
    int status_stable_until();

    // Registers, as the CPU sees them; the caller has run the dots up to the access.
    uint8_t read_status();
    uint8_t read_oam() const { return memory_.oam[r_.oam_address]; }
    uint8_t read_data();
    void write_control(uint8_t value);
    void write_mask(uint8_t value);
    void write_oam_address(uint8_t value) { r_.oam_address = value, sprites_valid_ = false; }
    void write_oam(uint8_t value) { memory_.oam[r_.oam_address++] = value, sprites_valid_ = false; }
    void write_scroll(uint8_t value);
    void write_address(uint8_t value);
    void write_data(uint8_t value);
    void copy_oam(const uint8_t* page);  // 256 bytes by DMA

    // All that changes from dot to dot; small, so that looking ahead is a copy of it.
    struct Registers {
        int32_t line = -1;
        int32_t dot = 0;               // the next dot to run
        uint16_t address = 0;          // "v": video RAM address, also the background's position
        uint16_t temporary = 0;        // "t": where the position is reloaded from
        uint8_t fine_x = 0;
        uint8_t first_write = 1;       // which of the two writes of 0x2005 and 0x2006 comes next
        uint8_t read_buffer = 0;
        uint8_t oam_address = 0;
        uint8_t increment = 1;         // 1 or 32, after each access to 0x2007
        uint8_t even_frame = 1;
        uint8_t vblank = 0;
        uint8_t hit = 0;               // sprite 0 met an opaque background pixel in this frame
        uint8_t nmi_enabled = 0;
        uint8_t tall_sprites = 0;      // 8x16 pixels instead of 8x8
        uint8_t background_page = 0;   // 0 or 1: which half of the pattern ROM
        uint8_t sprite_page = 0;
        uint8_t show_background = 1;
        uint8_t show_sprites = 1;
        uint8_t hide_background_edge = 0;  // leftmost 8 pixels
        uint8_t hide_sprite_edge = 0;
        uint8_t sprite_count = 0;
        std::array<uint8_t, 8> sprites{};  // chosen for this line, numbers 0-63 in order
    };

    struct Memory {
        std::array<uint8_t, 0x800> video{};
        std::array<uint8_t, 0x20> palette{};
        std::array<uint8_t, 0x100> oam{};  // 64 sprites: y - 1, tile, attributes, x
    };

    // All that outlives a step.
    struct State {
        Registers registers;
        Memory memory;

        template <class Archive>
        void serialize(Archive& archive);
        void check() const;  // throws std::invalid_argument if no running picture unit has such registers
    };
    State state() const {
        State state{r_, memory_};
        // Entries after the chosen ones are leftovers of earlier lines: cleared, so that equal consoles have equal
        // states.
        std::fill(state.registers.sprites.begin() + r_.sprite_count, state.registers.sprites.end(), uint8_t{0});
        return state;
    }
    void set_state(const State& state);

 private:
    bool showing_both() const { return r_.show_background && r_.show_sprites; }
    bool waits_for_hit() const { return !r_.hit && showing_both() && r_.sprite_count > 0 && r_.sprites[0] == 0; }

    void advance(int dots);
    void advance_pre_render(int last);
    void advance_visible(int last);
    void skip_lines(int lines);
    void advance_blank(int dots);
    void draw(int y, int x0, int x1);
    void draw_background(uint8_t* pixels, int x0, int x1);
    void paint_tile(int table, int at);
    void paint_attribute(int table, int at);
    void paint_tables();
    void draw_sprites(uint8_t* pixels, int y, int x0, int x1);
    void choose_sprites();
    void index_sprites();
    uint64_t sprite_row(const uint8_t* sprite, int y) const;
    uint8_t read_bus(uint16_t address) const;
    void write_bus(uint16_t address, uint8_t value);

    const Cartridge& cartridge_;
    const Kernels& kernels_;
    Registers r_;
    int32_t done_ = 0;
    Screen* screen_ = nullptr;
    std::array<uint8_t, 0x20>
        colours_{};  // of the palette: its low six bits, where nes-py reads outside its colour table for 64-255
    bool nmi_ = false;
    bool sprites_valid_ = false;
    Memory memory_;
    // The name tables of the 2 KiB of video RAM as pixels (palette entries), always up to date: scrolling lines are cut
    // out of them. 32 rows of tiles, as the last two, which hold attributes, can be shown too.
    std::array<std::array<uint8_t, 256 * 256>, 2> painted_;
    std::array<uint8_t, kHeight> line_sprite_count_{};  // valid if sprites_valid_: the choice at the end of each line
    std::array<std::array<uint8_t, 8>, kHeight> line_sprites_{};
};

template <class Archive>
void Ppu::State::serialize(Archive& archive) {
    Registers& r = registers;
    archive(r.line), archive(r.dot), archive(r.address), archive(r.temporary);
    for (uint8_t* field :
         {&r.fine_x, &r.first_write, &r.read_buffer, &r.oam_address, &r.increment, &r.even_frame, &r.vblank, &r.hit,
          &r.nmi_enabled, &r.tall_sprites, &r.background_page, &r.sprite_page, &r.show_background, &r.show_sprites,
          &r.hide_background_edge, &r.hide_sprite_edge, &r.sprite_count})
        archive(*field);
    archive(r.sprites), archive(memory.video), archive(memory.palette), archive(memory.oam);
}

}  // namespace nes
