#include "ppu.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace nes {

namespace {

constexpr int kFirstBlankLine = 241;
constexpr int kLines = 262;
constexpr int kShortFrameDot = 340;  // of the pre-render line: the last one of a short frame
constexpr int kIncrementRowDot = 257;
constexpr int kReloadColumnDot = 258;
constexpr uint16_t kColumnBits = 0x041f;
constexpr uint16_t kRowBits = 0x7be0;
constexpr uint64_t kEveryByte = 0x0101010101010101;

// Moves the background address `tiles` (0 to 32) to the right; past column 31 it enters the neighbouring name table.
uint16_t move_right(uint16_t address, int tiles) {
    const int column = (address & 31) + tiles;
    return ((address & ~31) | (column & 31)) ^ ((column & 32) << 5);
}

// Moves the background address one pixel row down; rows 30 and 31 hold attributes and wrap without a change of table.
uint16_t move_down(uint16_t address) {
    if ((address & 0x7000) != 0x7000) return address + 0x1000;
    address &= ~0x7000;
    const int row = (address >> 5) & 31;
    if (row == 29) return (address & ~0x03e0) ^ 0x0800;
    if (row == 31) return address & ~0x03e0;
    return address + 0x20;
}

uint16_t replace_bits(uint16_t value, uint16_t source, uint16_t mask) { return (value & ~mask) | (source & mask); }

// Position of a dot in a full-length frame, counted from 0x0: line -1 dot 0.
int position(int line, int dot) { return (line + 1) * kDotsPerLine + dot; }

}  // namespace

void Ppu::reset() {
    Registers fresh;
    fresh.read_buffer = r_.read_buffer;
    fresh.hit = r_.hit;
    fresh.hide_background_edge = r_.hide_background_edge;
    fresh.hide_sprite_edge = r_.hide_sprite_edge;
    const bool other_page = r_.background_page != fresh.background_page;
    r_ = fresh;
    if (other_page) paint_tables();
    nmi_ = false;
    sprites_valid_ = false;
}

// ---------------------------------------------------------------------------------------------------------------- time

int Ppu::next_event() const {
    const int here = position(r_.line, r_.dot);
    const int shorten = position(-1, kShortFrameDot), blank = position(kFirstBlankLine, 1),
              frame = position(kLines - 2, kDotsPerLine);
    if (here <= shorten && !r_.even_frame) return done_ + shorten - here + 1;
    if (here <= blank) return done_ + blank - here + 1;
    const int rest_of_frame = done_ + frame - here + 1;
    return rest_of_frame + (r_.even_frame ? shorten : blank);  // the next frame has the other parity
}

int Ppu::status_stable_until() {
    const int here = position(r_.line, r_.dot);
    const int blank = position(kFirstBlankLine, 1), frame = position(kLines - 2, kDotsPerLine);
    if (here > blank) return done_ + frame - here + 2;  // dot 1 of the next frame
    int stable = done_ + blank - here;                  // one less, should this frame turn out short
    if (r_.line < 0 && r_.dot <= 1) stable = done_ + 1;
    if (r_.line < kHeight && !r_.hit && showing_both()) {
        const Registers registers = r_;
        const int done = std::exchange(done_, 0);
        Screen* const screen = std::exchange(screen_, nullptr);
        while (r_.line < kHeight && !r_.hit && done + done_ < stable) {
            int dots = kDotsPerLine + 1 - r_.dot;
            if (r_.line >= 0 &&
                waits_for_hit()) {  // pixel by pixel where sprite 0 is, so that the dot of the hit is exact
                const int before = memory_.oam[3] + 1 - r_.dot;
                if (before > 0)
                    dots = before;
                else if (before > -8)
                    dots = 1;
            }
            advance(dots);
        }
        if (r_.hit) stable = std::min(stable, done + done_);
        r_ = registers, done_ = done, screen_ = screen;
    }
    return stable;
}

// Runs at least one dot and at most `dots`, within one line or within the blank lines.
void Ppu::advance(int dots) {
    if (r_.line >= kHeight) return advance_blank(dots);
    const int whole_lines = r_.line >= 0 && r_.dot == 1 ? std::min(dots / kDotsPerLine, kHeight - r_.line) : 0;
    if (whole_lines > 0 && !screen_ && r_.hit && showing_both()) return skip_lines(whole_lines);
    const int first = r_.dot, last = std::min(first + dots - 1, kDotsPerLine);
    r_.line < 0 ? advance_pre_render(last) : advance_visible(last);
}

void Ppu::advance_pre_render(int last) {
    const int first = r_.dot;
    const auto passes = [&](int from, int to) { return first <= to && from <= last; };
    if (passes(1, 1)) r_.vblank = r_.hit = 0;
    if (showing_both()) {
        if (passes(kReloadColumnDot, kReloadColumnDot))
            r_.address = replace_bits(r_.address, r_.temporary, kColumnBits);
        if (passes(281, 304)) r_.address = replace_bits(r_.address, r_.temporary, kRowBits);
        if (!r_.even_frame && passes(kShortFrameDot, kShortFrameDot)) {
            done_ += kShortFrameDot - first + 1;
            r_.line = 0, r_.dot = 1;
            return;
        }
    }
    done_ += last - first + 1;
    r_.dot = last + 1;
    if (last == kDotsPerLine) r_.line = 0, r_.dot = 1;
}

void Ppu::advance_visible(int last) {
    const int first = r_.dot;
    const auto passes = [&](int dot) { return first <= dot && dot <= last; };
    if (first <= kWidth) draw(r_.line, first - 1, std::min(last, kWidth));
    if (passes(kIncrementRowDot) && r_.show_background) r_.address = move_down(r_.address);
    if (passes(kReloadColumnDot) && showing_both()) r_.address = replace_bits(r_.address, r_.temporary, kColumnBits);
    done_ += last - first + 1;
    r_.dot = last + 1;
    if (last == kDotsPerLine) {
        choose_sprites();
        ++r_.line, r_.dot = 1;
    }
}

// Whole lines that are not drawn, after sprite 0 has hit: all they change is the background's address.
void Ppu::skip_lines(int lines) {
    for (int i = 0; i < lines; ++i) r_.address = move_down(r_.address);
    r_.address = replace_bits(r_.address, r_.temporary, kColumnBits);
    done_ += lines * kDotsPerLine;
    r_.line += lines - 1;
    choose_sprites();
    ++r_.line;
}

void Ppu::advance_blank(int dots) {
    const int blank = position(kFirstBlankLine, 1), frame = position(kLines - 2, kDotsPerLine);
    const int first = position(r_.line, r_.dot), last = std::min(first + dots - 1, frame);
    if (first <= blank && blank <= last) {
        r_.vblank = 1;
        nmi_ = r_.nmi_enabled;
    }
    done_ += last - first + 1;
    if (last == frame) {
        r_.line = -1, r_.dot = 1;
        r_.even_frame ^= 1;
    } else {
        r_.line = last / kDotsPerLine - 1, r_.dot = last % kDotsPerLine + 1;
    }
}

// ------------------------------------------------------------------------------------------------------------- picture

// Pixels x0 to x1 - 1 of line y, and with them the background's way to the right.
void Ppu::draw(int y, int x0, int x1) {
    if (!screen_ && !waits_for_hit()) {
        if (r_.show_background) r_.address = move_right(r_.address, ((r_.fine_x + x1) >> 3) - ((r_.fine_x + x0) >> 3));
        return;
    }
    // Palette entries 0-31 with eight spare bytes on either side, since tiles are stored whole.
    uint8_t line[8 + kWidth + 8];
    uint8_t* const pixels = line + 8;
    if (r_.show_background)
        draw_background(pixels, x0, x1);
    else
        std::memset(pixels + x0, 0, x1 - x0);
    if (r_.show_sprites && r_.sprite_count) draw_sprites(pixels, y, x0, x1);
    if (!screen_) return;
    uint8_t* const out = screen_->data() + y * kWidth;
    if (x0 == 0 && x1 == kWidth) {
        kernels_.map_line(pixels, colours_.data(), out);
        return;
    }
    for (int x = x0; x < x1; ++x) out[x] = colours_[pixels[x]];
}

// Cuts a run of pixels out of the painted tables, from the present address to the right.
void Ppu::draw_background(uint8_t* pixels, int x0, int x1) {
    const int line = ((r_.address >> 2) & 0xf8) | ((r_.address >> 12) & 7);
    int left = (r_.address & 31) * 8 + ((r_.fine_x + x0) & 7);
    int table = (r_.address >> 10) & 3;
    for (int x = x0; x < x1; left = 0, table ^= 1) {
        const int count = std::min(x1 - x, 256 - left);
        std::memcpy(pixels + x, &painted_[cartridge_.name_tables[table] >> 10][line * 256 + left], count);
        x += count;
    }
    r_.address = move_right(r_.address, ((r_.fine_x + x1) >> 3) - ((r_.fine_x + x0) >> 3));
    if (r_.hide_background_edge && x0 < 8) std::memset(pixels + x0, 0, std::min(8, x1) - x0);
}

// Tiles become palette entries: 0 where the tile is transparent, otherwise its two attribute bits in front of its own
// two.
void Ppu::paint_tile(int table, int at) {
    const uint8_t* const memory = memory_.video.data() + table * 0x400;
    const int attribute = memory[0x3c0 | ((at >> 4) & 0x38) | ((at >> 2) & 7)] >> (((at >> 4) & 4) | (at & 2));
    uint8_t* const corner = &painted_[table][(at >> 5) * 8 * 256 + (at & 31) * 8];
    for (int row = 0; row < 8; ++row) {
        const uint64_t tile = cartridge_.tile_rows[r_.background_page][row][memory[at]];
        const uint64_t entries =
            tile | ((tile | (tile >> 1)) & kEveryByte) * static_cast<uint64_t>((attribute & 3) << 2);
        std::memcpy(corner + row * 256, &entries, sizeof entries);
    }
}

// An attribute byte colours 4 x 4 tiles.
void Ppu::paint_attribute(int table, int at) {
    const int corner = ((at & 0x38) << 4) | ((at & 7) << 2);
    for (int tile = 0; tile < 16; ++tile) paint_tile(table, corner | ((tile >> 2) << 5) | (tile & 3));
}

void Ppu::paint_tables() {
    for (int at = 0; at < 0x400; ++at) paint_tile(0, at), paint_tile(1, at);
}

// The first opaque sprite of a pixel takes it, and only then it is asked whether that sprite stands behind the
// background.
void Ppu::draw_sprites(uint8_t* pixels, int y, int x0, int x1) {
    std::array<bool, kWidth + 8> taken{};
    const int from = r_.hide_sprite_edge ? std::max(x0, 8) : x0;
    for (int i = 0; i < r_.sprite_count; ++i) {
        const uint8_t* const sprite = &memory_.oam[r_.sprites[i] * 4];
        const uint64_t row = sprite_row(sprite, y);
        if (row == 0) continue;
        uint8_t row_pixels[8];
        std::memcpy(row_pixels, &row, sizeof row);
        const int left = sprite[3];
        const uint8_t palette = 0x10 | ((sprite[2] & 3) << 2);
        const bool in_front = !(sprite[2] & 0x20);
        for (int x = std::max(left, from); x < std::min(left + 8, x1); ++x) {
            const uint8_t value = row_pixels[x - left];
            if (value == 0 || taken[x]) continue;
            taken[x] = true;
            if (r_.sprites[i] == 0 && r_.show_background && pixels[x]) r_.hit = 1;
            if (in_front || pixels[x] == 0) pixels[x] = palette | value;
        }
    }
}

// The eight pixels (0-3) of a sprite on line y. A sprite that was chosen at the end of line 239 appears on line 0,
// where its row is negative: nes-py then reads the bytes in front of its tile, and so do we.
uint64_t Ppu::sprite_row(const uint8_t* sprite, int y) const {
    const int height = r_.tall_sprites ? 16 : 8;
    const int tile = sprite[1], attributes = sprite[2];
    int row = (y - static_cast<uint8_t>(sprite[0] + 1)) % height;
    if (attributes & 0x80) row ^= height - 1;
    uint16_t address;
    if (r_.tall_sprites)
        address = ((tile >> 1) * 32 + ((row & 7) | ((row & 8) << 1))) | ((tile & 1) << 12);
    else
        address = tile * 16 + row + (r_.sprite_page << 12);
    const bool regular = address < 0x2000 && !(address & 8);
    const uint64_t pixels = regular ? cartridge_.tile_rows[address >> 12][address & 7][(address >> 4) & 255]
                                    : decode_row(read_bus(address), read_bus(static_cast<uint16_t>(address + 8)));
    return attributes & 0x40 ? __builtin_bswap64(pixels) : pixels;
}

// At the end of each visible line: the first eight sprites, from the one at the OAM address on, that cover the next
// line.
void Ppu::choose_sprites() {
    if (!sprites_valid_) index_sprites();
    r_.sprite_count = line_sprite_count_[r_.line];
    r_.sprites = line_sprites_[r_.line];
}

void Ppu::index_sprites() {
    line_sprite_count_.fill(0);
    const int height = r_.tall_sprites ? 16 : 8;
    for (int i = r_.oam_address / 4; i < 64; ++i) {
        const int top = memory_.oam[i * 4];
        for (int line = top; line < std::min(top + height, kHeight); ++line)
            if (line_sprite_count_[line] < 8) line_sprites_[line][line_sprite_count_[line]++] = i;
    }
    sprites_valid_ = true;
}

// ----------------------------------------------------------------------------------------------------------- registers

uint8_t Ppu::read_status() {
    const uint8_t status = (r_.hit << 6) | (r_.vblank << 7);
    r_.vblank = 0;
    r_.first_write = 1;
    return status;
}

void Ppu::write_control(uint8_t value) {
    r_.nmi_enabled = value >> 7;  // enabling it inside the vertical blank raises no NMI
    r_.tall_sprites = (value >> 5) & 1;
    if (r_.background_page != ((value >> 4) & 1)) {
        r_.background_page ^= 1;
        paint_tables();
    }
    r_.sprite_page = (value >> 3) & 1;
    r_.increment = value & 4 ? 32 : 1;
    r_.temporary = replace_bits(r_.temporary, (value & 3) << 10, 0x0c00);
    sprites_valid_ = false;
}

void Ppu::write_mask(uint8_t value) {
    r_.hide_background_edge = !(value & 2);
    r_.hide_sprite_edge = !(value & 4);
    r_.show_background = (value >> 3) & 1;
    r_.show_sprites = (value >> 4) & 1;
}

void Ppu::write_scroll(uint8_t value) {
    if (r_.first_write) {
        r_.temporary = replace_bits(r_.temporary, value >> 3, 0x001f);
        r_.fine_x = value & 7;
    } else {
        r_.temporary = replace_bits(r_.temporary, ((value & 7) << 12) | ((value & 0xf8) << 2), 0x73e0);
    }
    r_.first_write ^= 1;
}

void Ppu::write_address(uint8_t value) {
    if (r_.first_write) {
        r_.temporary = replace_bits(r_.temporary, (value & 0x3f) << 8, 0xff00);
    } else {
        r_.temporary = replace_bits(r_.temporary, value, 0x00ff);
        r_.address = r_.temporary;
    }
    r_.first_write ^= 1;
}

uint8_t Ppu::read_data() {
    uint8_t value = read_bus(r_.address);
    r_.address += r_.increment;
    if (r_.address < 0x3f00) std::swap(value, r_.read_buffer);  // the address after the increment decides, as in nes-py
    return value;
}

void Ppu::write_data(uint8_t value) {
    write_bus(r_.address, value);
    r_.address += r_.increment;
}

void Ppu::copy_oam(const uint8_t* page) {
    for (int i = 0; i < 256; ++i) memory_.oam[static_cast<uint8_t>(r_.oam_address + i)] = page[i];
    sprites_valid_ = false;
}

// nes-py's map: the last byte of each region belongs to the next one, and there is no mirror above 0x3fff.
uint8_t Ppu::read_bus(uint16_t address) const {
    if (address < 0x2000) return cartridge_.pattern[address];
    if (address < 0x3eff)
        return memory_.video[cartridge_.name_tables[std::min((address - 0x2000) >> 10, 3)] + (address & 0x3ff)];
    if (address < 0x3fff) return memory_.palette[address & 0x1f];
    return 0;
}

void Ppu::write_bus(uint16_t address, uint8_t value) {
    if (address < 0x2000 || address >= 0x3fff) return;
    if (address < 0x3eff) {
        const int table = cartridge_.name_tables[std::min((address - 0x2000) >> 10, 3)] >> 10, at = address & 0x3ff;
        if (memory_.video[table * 0x400 + at] == value) return;
        memory_.video[table * 0x400 + at] = value;
        paint_tile(table, at);
        if (at >= 0x3c0) paint_attribute(table, at & 0x3f);
    } else {
        const int entry = address == 0x3f10 ? 0 : address & 0x1f;  // of the four mirrored entries nes-py knows this one
        memory_.palette[entry] = value;
        colours_[entry] = value & 63;
    }
}

void Ppu::set_state(const State& state) {
    r_ = state.registers;
    memory_ = state.memory;
    for (size_t i = 0; i < colours_.size(); ++i) colours_[i] = memory_.palette[i] & 63;
    paint_tables();
    sprites_valid_ = false;
}

void Ppu::State::check() const {
    const Registers& r = registers;
    bool valid = r.line >= -1 && r.line <= kLines - 2 && r.dot >= (r.line < 0 ? 0 : 1) && r.dot <= kDotsPerLine;
    valid = valid && r.fine_x < 8 && (r.increment == 1 || r.increment == 32) && r.sprite_count <= 8;
    for (uint8_t flag : {r.first_write, r.even_frame, r.vblank, r.hit, r.nmi_enabled, r.tall_sprites, r.background_page,
                         r.sprite_page, r.show_background, r.show_sprites, r.hide_background_edge, r.hide_sprite_edge})
        valid = valid && flag < 2;
    for (uint8_t sprite : r.sprites) valid = valid && sprite < 64;
    if (!valid) throw std::invalid_argument("state: impossible picture unit registers");
}

}  // namespace nes
