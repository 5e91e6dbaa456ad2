// The picture unit (2C02), as nes-py 8.2.1 times it.
//
// A frame is a pre-render line (-1), 240 visible lines, an idle line (240) and 20 lines of vertical blank (241-260), of 341
// dots each; every second frame is one dot shorter if both layers are shown. Dots are numbered from 1 (the very first line
// after a reset has a dot 0 in front). In a line:
//
//     dots 1-256  pixel `dot - 1` of visible lines; the background address moves right after each eighth pixel
//     dot 257     background address one row down
//     dot 258     horizontal part of the background address reloaded (also in the pre-render line)
//     dots 281-304 of the pre-render line: vertical part reloaded
//     dot 341     sprites of the next line chosen. Line 0 shows those chosen at the end of line 239 of the frame before.
//     dot 1 of line -1: vertical blank and sprite-0 flags cleared; dot 1 of line 241: vertical blank set, NMI
//
// Nothing happens between the CPU's accesses that the CPU could see, so `run_to` is called only just before an access,
// and works through whole lines. A frame that nobody looks at is not drawn: then a line costs a few additions, and only the
// lines that sprite 0 touches are put together, until it hits.
#pragma once

#include <array>
#include <cstdint>

#include "cartridge.hpp"

namespace nes {

constexpr int kWidth = 256;
constexpr int kHeight = 240;
constexpr int kDotsPerLine = 341;
constexpr int kNever = 1 << 30;

class Ppu {
 public:
    explicit Ppu(const Cartridge& cartridge) : cartridge_(cartridge) {}

    // Power button of nes-py: registers start over, memories, the read buffer and the edge masks stay.
    void reset();

    // Time is counted in dots since the start of the console's current step.
    void begin_step(bool draw) { done_ = 0, draw_ = draw; }
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
    uint8_t read_oam() const { return oam_[r_.oam_address]; }
    uint8_t read_data();
    void write_control(uint8_t value);
    void write_mask(uint8_t value);
    void write_oam_address(uint8_t value) { r_.oam_address = value, sprites_valid_ = false; }
    void write_oam(uint8_t value) { oam_[r_.oam_address++] = value, sprites_valid_ = false; }
    void write_scroll(uint8_t value);
    void write_address(uint8_t value);
    void write_data(uint8_t value);
    void copy_oam(const uint8_t* page);  // 256 bytes by DMA

    // Colour numbers 0-63, row by row. Every pixel is written at least once in each drawn step.
    const uint8_t* screen() const { return screen_.data(); }

    // Every field that outlives a step, in a fixed order; `Archive` saves, loads or measures.
    template <class Archive>
    void serialize(Archive& archive);

    // Throws std::invalid_argument if a loaded state could not have come from a running picture unit.
    void check() const;

 private:
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

    bool showing_both() const { return r_.show_background && r_.show_sprites; }
    bool waits_for_hit() const { return !r_.hit && showing_both() && r_.sprite_count > 0 && r_.sprites[0] == 0; }

    void advance(int dots);
    void advance_pre_render(int last);
    void advance_visible(int last);
    void advance_blank(int dots);
    void draw(int y, int x0, int x1);
    void draw_background(uint8_t* pixels, int x0, int x1);
    void draw_sprites(uint8_t* pixels, int y, int x0, int x1);
    void choose_sprites();
    void index_sprites();
    uint64_t background_row() const;
    uint64_t sprite_row(const uint8_t* sprite, int y) const;
    uint8_t read_bus(uint16_t address) const;
    void write_bus(uint16_t address, uint8_t value);

    const Cartridge& cartridge_;
    Registers r_;
    int32_t done_ = 0;
    bool draw_ = true;
    bool nmi_ = false;
    bool sprites_valid_ = false;
    std::array<uint8_t, 0x800> vram_{};
    std::array<uint8_t, 0x20> palette_{};
    std::array<uint8_t, 0x100> oam_{};
    std::array<uint8_t, kHeight> line_sprite_count_{};                // valid if sprites_valid_: the choice at the end of each line
    std::array<std::array<uint8_t, 8>, kHeight> line_sprites_{};
    std::array<uint8_t, kWidth * kHeight> screen_{};
};

template <class Archive>
void Ppu::serialize(Archive& archive) {
    archive(r_.line), archive(r_.dot), archive(r_.address), archive(r_.temporary);
    for (uint8_t* field : {&r_.fine_x, &r_.first_write, &r_.read_buffer, &r_.oam_address, &r_.increment, &r_.even_frame, &r_.vblank,
                           &r_.hit, &r_.nmi_enabled, &r_.tall_sprites, &r_.background_page, &r_.sprite_page, &r_.show_background,
                           &r_.show_sprites, &r_.hide_background_edge, &r_.hide_sprite_edge, &r_.sprite_count})
        archive(*field);
    archive(r_.sprites), archive(vram_), archive(palette_), archive(oam_), archive(screen_);
    sprites_valid_ = false;
}

}  // namespace nes
