#include "cpu.hpp"

#include <algorithm>
#include <stdexcept>

// A call would force the registers into memory.
#define INLINE __attribute__((always_inline))

namespace nes {

namespace {

constexpr uint16_t kNmiVector = 0xfffa, kResetVector = 0xfffc, kBreakVector = 0xfffe;

// Bits of the status byte. The four in the middle are only kept.
constexpr uint8_t kKept = 0x3c, kDecimal = 0x10, kInterruptOff = 0x20;

// Cycles without branches taken and pages crossed. 0: undocumented.
constexpr uint8_t kCycles[256] = {
    14, 6, 0, 0, 0, 3, 5, 0, 3, 2, 2, 0, 0, 4, 6, 0,  //
    2,  5, 0, 0, 0, 4, 6, 0, 2, 4, 0, 0, 0, 4, 7, 0,  //
    6,  6, 0, 0, 3, 3, 5, 0, 4, 2, 2, 0, 4, 4, 6, 0,  //
    2,  5, 0, 0, 0, 4, 6, 0, 2, 4, 0, 0, 0, 4, 7, 0,  //
    6,  6, 0, 0, 0, 3, 5, 0, 3, 2, 2, 0, 3, 4, 6, 0,  //
    2,  5, 0, 0, 0, 4, 6, 0, 2, 4, 0, 0, 0, 4, 7, 0,  //
    6,  6, 0, 0, 0, 3, 5, 0, 4, 2, 2, 0, 5, 4, 6, 0,  //
    2,  5, 0, 0, 0, 4, 6, 0, 2, 4, 0, 0, 0, 4, 7, 0,  //
    0,  6, 0, 0, 3, 3, 3, 0, 2, 0, 2, 0, 4, 4, 4, 0,  //
    2,  6, 0, 0, 4, 4, 4, 0, 2, 5, 2, 0, 0, 5, 0, 0,  //
    2,  6, 2, 0, 3, 3, 3, 0, 2, 2, 2, 0, 4, 4, 4, 0,  //
    2,  5, 0, 0, 4, 4, 4, 0, 2, 4, 2, 0, 4, 4, 4, 0,  //
    2,  6, 0, 0, 3, 3, 5, 0, 2, 2, 2, 0, 4, 4, 6, 0,  //
    2,  5, 0, 0, 0, 4, 6, 0, 2, 4, 0, 0, 0, 4, 7, 0,  //
    2,  6, 0, 0, 3, 3, 5, 0, 2, 2, 2, 0, 4, 4, 6, 0,  //
    2,  5, 0, 0, 0, 4, 6, 0, 2, 4, 0, 0, 0, 4, 7, 0,  //
};

bool same_page(uint16_t one, uint16_t other) { return (one & 0xff00) == (other & 0xff00); }

// The cycles that polls of the status register take which cannot change anything, or 0. The CPU has just read `status`
// in cycle `cycle`; `after` is the address after that LDA. Two forms of loop are known:
//     wait: LDA $2002; AND #$40; BNE/BEQ wait     and     wait: LDA $2002; BPL wait
int skippable_polls(Bus& bus, uint16_t after, uint8_t status, int cycle, int until) {
    if (after < 0x8003 || after > 0xfffb) return 0;
    const uint8_t* const code = bus.code(after);
    int period;
    if (code[0] == 0x29 && code[1] == 0x40 && code[3] == 0xf9 && code[2] == (status & 0x40 ? 0xd0 : 0xf0))
        period = same_page(after + 4, after - 3) ? 4 + 2 + 3 : 4 + 2 + 5;
    else if (code[0] == 0x10 && code[1] == 0xfb && !(status & 0x80))
        period = same_page(after + 2, after - 3) ? 4 + 3 : 4 + 5;
    else
        return 0;
    // The last poll of cycle c = cycle + k * period with c < until and 3 (c + 1) < the dot of the next change.
    const int last = std::min((bus.ppu.status_stable_until() - 1) / 3 - 1, until - 1);
    return last > cycle ? (last - cycle) / period * period : 0;
}

}  // namespace

int cycles_of(uint8_t opcode) { return kCycles[opcode]; }

void Cpu::reset(const Bus& bus) {
    a_ = x_ = y_ = 0;
    sp_ = 0xfd;
    status_ = 0x34;
    pc_ = bus.read_vector(kResetVector);
    next_ = 0;
    idle_ = -2;
}

void Cpu::interrupt(Bus& bus, int cycle) {
    for (int byte : {pc_ >> 8, pc_ & 0xff, status_ | kInterruptOff})
        bus.ram[0x100 | sp_--] = static_cast<uint8_t>(byte);
    status_ |= kInterruptOff;
    pc_ = bus.read_vector(kNmiVector);
    next_ += idle_ == cycle - 1 ? 6 : 7;
}

void Cpu::end_step(int cycles) {
    next_ -= cycles;
    idle_ = std::max(idle_ - cycles, -2);
}

void Cpu::check() const {
    if (next_ < 0 || next_ > 4096 || idle_ < -2 || idle_ >= 0)
        throw std::invalid_argument("state: impossible processor timing");
}

void Cpu::run(Bus& bus, int until) {
    while (next_ < until) {
        if (pc_ < 0x8000 || pc_ >= 0xfffe)
            execute<false, false>(bus, until);
        else if (bus.translator && bus.translator->usable())
            run_translated(bus, until);
        else
            execute<true, false>(bus, until);
    }
}

void Cpu::run_translated(Bus& bus, int until) {
    Translator::Registers r{};
    r.ram = bus.ram.data();
    r.pc = pc_, r.a = a_, r.x = x_, r.y = y_, r.sp = sp_, r.cycle = next_, r.until = until;
    r.negative = static_cast<uint8_t>(status_ << 7), r.overflow = (status_ >> 1) & 1, r.zero = !(status_ & 0x40),
    r.carry = status_ >> 7;
    const Translator::Reason reason = bus.translator->run(r);
    pc_ = static_cast<uint16_t>(r.pc), next_ = r.cycle;
    a_ = static_cast<uint8_t>(r.a), x_ = static_cast<uint8_t>(r.x), y_ = static_cast<uint8_t>(r.y),
    sp_ = static_cast<uint8_t>(r.sp);
    status_ = static_cast<uint8_t>((r.negative >> 7) | (r.overflow << 1) | (status_ & kKept) |
                                   (r.zero == 0 ? 0x40 : 0) | (r.carry << 7));
    if (reason == Translator::kInterpret && next_ < until) execute<true, true>(bus, until);
}

// Executes one instruction (kOnce) or all while the program counter stays inside (kInRom) or outside of the program
// ROM. Registers live in locals.
template <bool kInRom, bool kOnce>
void Cpu::execute(Bus& bus, int until) {
    uint16_t pc = pc_;
    uint8_t a = a_, x = x_, y = y_, sp = sp_;
    uint8_t negative = static_cast<uint8_t>(status_ << 7), overflow = (status_ >> 1) & 1;  // N is bit 7 of `negative`
    uint8_t kept = status_ & kKept, zero = !(status_ & 0x40), carry = status_ >> 7;        // Z is set if `zero` is 0
    int cycle = next_, next = next_, idle = idle_;
    uint8_t* const ram = bus.ram.data();

    // Memory.
    const auto read = [&](uint16_t address) INLINE { return bus.read(address, cycle); };
    const auto write = [&](uint16_t address, uint8_t value) INLINE { next += bus.write(address, value, cycle); };
    const auto fetch = [&](int offset) INLINE -> uint8_t {
        if constexpr (kInRom) return bus.code(pc)[offset];
        return read(static_cast<uint16_t>(pc + offset));
    };
    const auto fetch_address = [&]() INLINE {
        const uint8_t low = fetch(1);
        return static_cast<uint16_t>(low | (fetch(2) << 8));
    };
    const auto push = [&](uint8_t value) INLINE { ram[0x100 | sp--] = value; };
    const auto pop = [&]() INLINE { return ram[0x100 | ++sp]; };
    const auto status = [&]() INLINE {
        return static_cast<uint8_t>((negative >> 7) | (overflow << 1) | kept | (zero == 0 ? 0x40 : 0) | (carry << 7));
    };
    const auto set_status = [&](uint8_t value) INLINE {
        negative = static_cast<uint8_t>(value << 7), overflow = (value >> 1) & 1, kept = value & kKept;
        zero = !(value & 0x40), carry = value >> 7;
    };

    // Addressing modes: the operand's address; the program counter moves past the instruction.
    const auto immediate = [&]() INLINE { return pc += 2, static_cast<uint16_t>(pc - 1); };
    const auto zero_page = [&](uint8_t index = 0) INLINE {
        const uint16_t at = static_cast<uint8_t>(fetch(1) + index);
        return pc += 2, at;
    };
    const auto absolute = [&]() INLINE {
        const uint16_t at = fetch_address();
        return pc += 3, at;
    };
    const auto indexed = [&](uint8_t index) INLINE {
        const uint16_t base = absolute(), at = base + index;
        if (!same_page(base, at)) ++next;
        return at;
    };
    const auto pointer = [&](uint8_t at) INLINE {
        return static_cast<uint16_t>(ram[at] | (ram[static_cast<uint8_t>(at + 1)] << 8));
    };
    const auto indexed_indirect = [&]() INLINE { return pointer(static_cast<uint8_t>(zero_page(x))); };
    const auto indirect_indexed = [&]() INLINE {
        const uint16_t base = pointer(static_cast<uint8_t>(zero_page())), at = base + y;
        if (!same_page(base, at)) ++next;
        return at;
    };

    // Operations.
    const auto result = [&](uint8_t value) INLINE { return negative = zero = value; };
    const auto load = [&](uint8_t& to, uint16_t at) INLINE { to = result(read(at)); };
    const auto transfer = [&](uint8_t& to, uint8_t from) INLINE { to = result(from); };
    const auto compare = [&](uint8_t with, uint8_t value) INLINE {
        carry = with >= value, result(static_cast<uint8_t>(with - value));
    };
    const auto add = [&](uint8_t value) INLINE {
        const int sum = a + value + carry;
        carry = sum >> 8;
        overflow = ((a ^ sum) & (value ^ sum) & 0x80) != 0;
        a = result(static_cast<uint8_t>(sum));
    };
    const auto test = [&](uint8_t value) INLINE { zero = a & value, overflow = (value >> 6) & 1, negative = value; };
    const auto shift_left = [&](uint8_t value, uint8_t in) INLINE {
        return carry = value >> 7, result(static_cast<uint8_t>((value << 1) | in));
    };
    const auto shift_right = [&](uint8_t value, uint8_t in) INLINE {
        return carry = value & 1, result(static_cast<uint8_t>((value >> 1) | (in << 7)));
    };
    const auto branch = [&](bool condition) INLINE {
        if (!condition) {
            pc += 2;
            return;
        }
        const int8_t offset = static_cast<int8_t>(fetch(1));
        pc += 2;
        const uint16_t target = pc + offset;
        next += same_page(pc, target) ? 1 : 3;
        pc = target;
    };
    // An opcode without a documented length has taken 0 cycles so far, or 1 if its address left the page.
    const auto undocumented = [&]() INLINE {
        if (next == cycle) idle = cycle, next = cycle + 1;
    };
    // After LDA $2002: passes over the repetitions of a waiting loop. Only the first poll can see the vertical blank
    // flag, which it clears.
    const auto poll = [&]() INLINE {
        const int skipped = skippable_polls(bus, pc, a, cycle, until);
        if (skipped) next += skipped, a = result(a & 0x40);
    };

// A group of opcodes 0bxxx___01: the same operation with eight addressing modes.
#define EIGHT_MODES(base, operation)                     \
    case base | 0x01: operation(indexed_indirect()); break; \
    case base | 0x05: operation(zero_page()); break;        \
    case base | 0x09: operation(immediate()); break;        \
    case base | 0x0d: operation(absolute()); break;         \
    case base | 0x11: operation(indirect_indexed()); break; \
    case base | 0x15: operation(zero_page(x)); break;       \
    case base | 0x19: operation(indexed(y)); break;         \
    case base | 0x1d: operation(indexed(x)); break;

// Read, modify, write in memory. The immediate form is undocumented: it works on the operand byte itself.
#define MODIFY(base, modified)                                                                                      \
    case base | 0x02: { const uint16_t at = immediate(); const uint8_t value = read(at);                            \
        write(at, modified); undocumented(); break; }                                                               \
    case base | 0x06: { const uint16_t at = zero_page(); const uint8_t value = ram[at]; ram[at] = modified; break; }\
    case base | 0x0e: { const uint16_t at = absolute(); const uint8_t value = read(at); write(at, modified); break; }\
    case base | 0x16: { const uint16_t at = zero_page(x); const uint8_t value = ram[at]; ram[at] = modified; break; }\
    case base | 0x1e: { const uint16_t at = indexed(x); const uint8_t value = read(at); write(at, modified); break; }

    while (cycle < until) {
        const bool in_rom = static_cast<uint16_t>(pc - 0x8000) < 0x7ffe;
        if (in_rom != kInRom) break;
        const uint8_t opcode = fetch(0);
        next = cycle + kCycles[opcode];
        switch (opcode) {
            EIGHT_MODES(0x00, [&](uint16_t at) INLINE { a = result(a | read(at)); })
            EIGHT_MODES(0x20, [&](uint16_t at) INLINE { a = result(a & read(at)); })
            EIGHT_MODES(0x40, [&](uint16_t at) INLINE { a = result(a ^ read(at)); })
            EIGHT_MODES(0x60, [&](uint16_t at) INLINE { add(read(at)); })
            EIGHT_MODES(0xc0, [&](uint16_t at) INLINE { compare(a, read(at)); })
            EIGHT_MODES(0xe0, [&](uint16_t at) INLINE { add(static_cast<uint8_t>(~read(at))); })

            case 0xa1: load(a, indexed_indirect()); break;
            case 0xa5: load(a, zero_page()); break;
            case 0xa9: load(a, immediate()); break;
            case 0xad: {
                const uint16_t at = absolute();
                load(a, at);
                if (at == 0x2002) poll();
                break;
            }
            case 0xb1: load(a, indirect_indexed()); break;
            case 0xb5: load(a, zero_page(x)); break;
            case 0xb9: load(a, indexed(y)); break;
            case 0xbd: load(a, indexed(x)); break;

            // Stores take a fixed time.
            case 0x81: write(indexed_indirect(), a); break;
            case 0x85: ram[zero_page()] = a; break;
            case 0x8d: write(absolute(), a); break;
            case 0x91: write(static_cast<uint16_t>(pointer(static_cast<uint8_t>(zero_page())) + y), a); break;
            case 0x95: ram[zero_page(x)] = a; break;
            case 0x99: write(static_cast<uint16_t>(absolute() + y), a); break;
            case 0x9d: write(static_cast<uint16_t>(absolute() + x), a); break;
            case 0x84: ram[zero_page()] = y; break;
            case 0x8c: write(absolute(), y); break;
            case 0x94: ram[zero_page(x)] = y; break;
            case 0x86: ram[zero_page()] = x; break;
            case 0x8e: write(absolute(), x); break;
            case 0x96: ram[zero_page(y)] = x; break;

            case 0xa2: load(x, immediate()); break;
            case 0xa6: load(x, zero_page()); break;
            case 0xae: load(x, absolute()); break;
            case 0xb6: load(x, zero_page(y)); break;
            case 0xbe: load(x, indexed(y)); break;
            case 0xa0: load(y, immediate()); break;
            case 0xa4: load(y, zero_page()); break;
            case 0xac: load(y, absolute()); break;
            case 0xb4: load(y, zero_page(x)); break;
            case 0xbc: load(y, indexed(x)); break;

            case 0xe0: compare(x, read(immediate())); break;
            case 0xe4: compare(x, read(zero_page())); break;
            case 0xec: compare(x, read(absolute())); break;
            case 0xc0: compare(y, read(immediate())); break;
            case 0xc4: compare(y, read(zero_page())); break;
            case 0xcc: compare(y, read(absolute())); break;
            case 0x24: test(read(zero_page())); break;
            case 0x2c: test(read(absolute())); break;

            MODIFY(0x00, shift_left(value, 0))
            MODIFY(0x20, shift_left(value, carry))
            MODIFY(0x40, shift_right(value, 0))
            MODIFY(0x60, shift_right(value, carry))
            MODIFY(0xc0, result(static_cast<uint8_t>(value - 1)))
            MODIFY(0xe0, result(static_cast<uint8_t>(value + 1)))
            case 0x0a: a = shift_left(a, 0), ++pc; break;
            case 0x2a: a = shift_left(a, carry), ++pc; break;
            case 0x4a: a = shift_right(a, 0), ++pc; break;
            case 0x6a: a = shift_right(a, carry), ++pc; break;

            case 0x88: transfer(y, static_cast<uint8_t>(y - 1)), ++pc; break;
            case 0x8a: transfer(a, x), ++pc; break;
            case 0x98: transfer(a, y), ++pc; break;
            case 0x9a: sp = x, ++pc; break;
            case 0xa8: transfer(y, a), ++pc; break;
            case 0xaa: transfer(x, a), ++pc; break;
            case 0xba: transfer(x, sp), ++pc; break;
            case 0xc8: transfer(y, static_cast<uint8_t>(y + 1)), ++pc; break;
            case 0xca: transfer(x, static_cast<uint8_t>(x - 1)), ++pc; break;
            case 0xe8: transfer(x, static_cast<uint8_t>(x + 1)), ++pc; break;
            case 0xea: ++pc; break;

            case 0x18: carry = 0, ++pc; break;
            case 0x38: carry = 1, ++pc; break;
            case 0x58: kept &= ~kInterruptOff, ++pc; break;
            case 0x78: kept |= kInterruptOff, ++pc; break;
            case 0xb8: overflow = 0, ++pc; break;
            case 0xd8: kept &= ~kDecimal, ++pc; break;
            case 0xf8: kept |= kDecimal, ++pc; break;

            case 0x08: push(status()), ++pc; break;
            case 0x28: set_status(pop()), ++pc; break;
            case 0x48: push(a), ++pc; break;
            case 0x68: transfer(a, pop()), ++pc; break;

            case 0x10: branch(!(negative & 0x80)); break;
            case 0x30: branch(negative & 0x80); break;
            case 0x50: branch(!overflow); break;
            case 0x70: branch(overflow); break;
            case 0x90: branch(!carry); break;
            case 0xb0: branch(carry); break;
            case 0xd0: branch(zero != 0); break;
            case 0xf0: branch(zero == 0); break;

            case 0x00:
                pc += 2;
                push(pc >> 8), push(pc & 0xff);
                push(status() | kInterruptOff | kDecimal);  // the bit that nes-py takes for B
                kept |= kInterruptOff;
                pc = bus.read_vector(kBreakVector);
                break;
            case 0x20: {
                const uint16_t last = pc + 2;
                push(last >> 8), push(last & 0xff);
                pc = fetch_address();
                break;
            }
            case 0x40: {
                set_status(pop());
                const uint8_t low = pop();
                pc = low | (pop() << 8);
                break;
            }
            case 0x4c: {
                const uint16_t target = fetch_address();
                if (target == pc)
                    next += (until - 1 - cycle) / 3 * 3;  // waits for the NMI by jumping to itself: until then at once
                pc = target;
                break;
            }
            case 0x60: {
                const uint8_t low = pop();
                pc = static_cast<uint16_t>((low | (pop() << 8)) + 1);
                break;
            }
            case 0x6c: {  // the pointer's second byte comes from the same page
                const uint16_t at = fetch_address();
                const uint8_t low = read(at);
                pc = low | (read((at & 0xff00) | ((at + 1) & 0xff)) << 8);
                break;
            }

            // Undocumented opcodes that nes-py executes all the same.
            case 0x80: write(immediate(), y), undocumented(); break;
            case 0x82: write(immediate(), x), undocumented(); break;
            case 0x89: write(immediate(), a), undocumented(); break;
            case 0x9c: write(indexed(x), y), undocumented(); break;
            case 0x9e: write(indexed(y), x), undocumented(); break;
            case 0x34: test(read(zero_page(x))), undocumented(); break;
            case 0x3c: test(read(indexed(x))), undocumented(); break;
            case 0xd4: compare(y, read(zero_page(x))), undocumented(); break;
            case 0xdc: compare(y, read(indexed(x))), undocumented(); break;
            case 0xf4: compare(x, read(zero_page(x))), undocumented(); break;
            case 0xfc: compare(x, read(indexed(x))), undocumented(); break;

            // And those of which it reads the operand only.
            case 0x04: case 0x14: case 0x44: case 0x54: case 0x64: case 0x74: zero_page(), undocumented(); break;
            case 0x0c: absolute(), undocumented(); break;
            case 0x1c: case 0x5c: case 0x7c: indexed(x), undocumented(); break;
            default: ++pc, undocumented(); break;
        }
        cycle = next;
        if (kOnce) break;
    }
#undef EIGHT_MODES
#undef MODIFY

    pc_ = pc, a_ = a, x_ = x, y_ = y, sp_ = sp, status_ = status();
    next_ = cycle, idle_ = idle;
}

}  // namespace nes
