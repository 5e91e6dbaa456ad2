#include "translator.hpp"

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "cpu.hpp"

#if defined(__x86_64__) && defined(__linux__)
#define CAN_TRANSLATE 1
#include <cpuid.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace nes {

#ifndef CAN_TRANSLATE

std::unique_ptr<Translator> Translator::make(const uint8_t*) { return nullptr; }
Translator::~Translator() = default;
Translator::Reason Translator::run(Registers&) { return kInterpret; }

#else

namespace {

constexpr uint32_t kCapacity = 8 << 20;  // more than 32,766 instructions with their exits can take
constexpr uint16_t kRom = 0x8000, kEnd = 0xfffe;  // an instruction begins before kEnd

// Registers of the host. RAX, RCX and R15 are free for use within one instruction.
enum Host {
    kRax, kRcx, kCarry, kRam, kRsp, kState, kNegative, kZero, kA, kX, kY, kSp, kProgram, kCycle, kUntil, kR15,
    kNoIndex = -1
};

// Conditions as the low bits of a conditional jump; `condition ^ 1` is the opposite.
enum Condition { kBelow = 2, kAboveOrEqual = 3, kEqual = 4, kNotEqual = 5, kGreaterOrEqual = 13 };

// Operations "rm32 = rm32 op r32"; the immediate forms have the number `operation >> 3`.
enum Operation { kAdd = 0x01, kOr = 0x09, kAnd = 0x21, kSub = 0x29, kXor = 0x31, kCmp = 0x39 };
enum Shift { kLeft = 4, kRight = 5 };

struct Memory {
    int base, index;
    int32_t offset;
    int scale = 0;
};

}  // namespace

class Assembler {
 public:
    Assembler(uint8_t* memory, uint32_t& used) : memory_(memory), used_(used) {}

    void byte(uint32_t value) { memory_[used_++] = static_cast<uint8_t>(value); }
    void word(uint32_t value) { std::memcpy(memory_ + used_, &value, 4), used_ += 4; }

    void move(int to, int from) { registers(0x89, to, from); }
    void move(int to, uint32_t value) { rex(0, 0, to), byte(0xb8 | (to & 7)), word(value); }
    void calculate(Operation operation, int to, int from) { registers(operation, to, from); }
    void calculate(Operation operation, int to, uint32_t value) {
        rex(0, 0, to), byte(0x81), byte(0xc0 | (operation & 0x38) | (to & 7)), word(value);
    }
    void test(int one, uint32_t value) { rex(0, 0, one), byte(0xf7), byte(0xc0 | (one & 7)), word(value); }
    void shift(Shift shift, int to, int count) {
        rex(0, 0, to), byte(0xc1), byte(0xc0 | (shift << 3) | (to & 7)), byte(count);
    }
    void extend8(int to, int from) {
        rex(to, 0, from), byte(0x0f), byte(0xb6), byte(0xc0 | ((to & 7) << 3) | (from & 7));
    }
    void extend16(int to, int from) {
        rex(to, 0, from), byte(0x0f), byte(0xb7), byte(0xc0 | ((to & 7) << 3) | (from & 7));
    }

    void load8(int to, const Memory& from) { memory(0, {0x0f, 0xb6}, to, from); }
    void load32(int to, const Memory& from) { memory(0, {0x8b}, to, from); }
    void load64(int to, const Memory& from) { memory(8, {0x8b}, to, from); }
    void store8(const Memory& to, int from) { memory(0, {0x88}, from, to); }
    void store8_value(const Memory& to, uint32_t value) { memory(0, {0xc6}, 0, to), byte(value); }
    void store32(const Memory& to, int from) { memory(0, {0x89}, from, to); }
    void store32_value(const Memory& to, uint32_t value) { memory(0, {0xc7}, 0, to), word(value); }
    void address(int to, const Memory& of) { memory(0, {0x8d}, to, of); }

    void push(int which) { rex(0, 0, which), byte(0x50 | (which & 7)); }
    void pop(int which) { rex(0, 0, which), byte(0x58 | (which & 7)); }
    void jump_to_register(int which) { rex(0, 0, which), byte(0xff), byte(0xe0 | (which & 7)); }
    void jump_through(const Memory& pointer) { memory(0, {0xff}, 4, pointer); }
    void leave() { byte(0xc3); }

    // Jumps whose distance is set later: they return its offset.
    uint32_t jump() { return byte(0xe9), distance(); }
    uint32_t jump_if(int condition) { return byte(0x0f), byte(0x80 | condition), distance(); }
    void land(uint32_t at, uint32_t target) {
        const uint32_t way = target - (at + 4);
        std::memcpy(memory_ + at, &way, 4);
    }
    void land_here(uint32_t at) { land(at, used_); }
    uint32_t here() const { return used_; }

 private:
    uint32_t distance() { return word(0), used_ - 4; }
    void rex(int reg, int index, int base, int wide = 0) {
        byte(0x40 | wide | ((reg >> 3) << 2) | ((index >> 3) << 1) | (base >> 3));
    }
    void registers(int operation, int to, int from) {
        rex(from, 0, to), byte(operation), byte(0xc0 | ((from & 7) << 3) | (to & 7));
    }
    void memory(int wide, std::initializer_list<int> operation, int reg, const Memory& at) {
        rex(reg, at.index == kNoIndex ? 0 : at.index, at.base, wide);
        for (int one : operation) byte(one);
        byte(0x84 | ((reg & 7) << 3)),
            byte((at.scale << 6) | ((at.index == kNoIndex ? 4 : at.index & 7) << 3) | (at.base & 7)), word(at.offset);
    }

    uint8_t* memory_;
    uint32_t& used_;
};

namespace {

#define STATE(field) Memory{kState, kNoIndex, static_cast<int32_t>(offsetof(Translator::Registers, field))}

bool in_rom(int pc) { return pc >= kRom && pc < kEnd; }

// How an instruction finds its operand; kNone: it is the interpreter's.
enum Mode {
    kNone, kImplied, kImmediate, kZeroPage, kZeroPageX, kZeroPageY, kAbsolute, kAbsoluteX, kAbsoluteY, kIndirectY,
    kRelative
};
constexpr int kLengths[] = {0, 1, 2, 2, 2, 2, 3, 3, 3, 2, 2};

Mode mode_of(uint8_t opcode) {
    constexpr Mode arithmetic[] = {kNone,      kZeroPage,  kImmediate, kAbsolute,
                                   kIndirectY, kZeroPageX, kAbsoluteY, kAbsoluteX};
    const int column = (opcode >> 2) & 7, row = opcode >> 5;
    switch (opcode) {
        case 0x0a: case 0x2a: case 0x4a: case 0x6a: case 0x88: case 0x8a: case 0x98: case 0x9a: case 0xa8: case 0xaa:
        case 0xba: case 0xc8: case 0xca: case 0xe8: case 0xea: case 0x18: case 0x38: case 0x48: case 0x68: case 0x60:
            return kImplied;
        case 0xa2: case 0xa0: case 0xc0: case 0xe0: return kImmediate;
        case 0x24: case 0x84: case 0xa4: case 0xc4: case 0xe4: return kZeroPage;
        case 0x2c: case 0x8c: case 0xac: case 0xcc: case 0xec: case 0x20: case 0x4c: case 0x6c: return kAbsolute;
        case 0x94: case 0xb4: return kZeroPageX;
        case 0x96: case 0xb6: return kZeroPageY;
        case 0xbc: return kAbsoluteX;
        case 0xbe: return kAbsoluteY;
        case 0x89: case 0x9e: return kNone;
        default: break;
    }
    if ((opcode & 3) == 1) return arithmetic[column];
    if ((opcode & 0x1f) == 0x10) return kRelative;
    if ((opcode & 3) == 2 && (column & 1))
        return column == 1   ? kZeroPage
               : column == 3 ? kAbsolute
               : column == 5 ? kZeroPageX
               : row == 4    ? kNone
                             : kAbsoluteX;
    return kNone;
}

}  // namespace

std::unique_ptr<Translator> Translator::make(const uint8_t* program) {
    const char* const wanted = std::getenv("NES_TRANSLATE");
    if (wanted && std::strcmp(wanted, "0") == 0) return nullptr;
    std::unique_ptr<Translator> translator(new Translator(program));
    if (!translator->reserve()) return nullptr;
    translator->emit_entry();
    return translator;
}

Translator::~Translator() {
    if (writable_) munmap(writable_, kCapacity);
    if (executable_) munmap(const_cast<uint8_t*>(executable_), kCapacity);
}

bool Translator::reserve() {
    static const int watching = pthread_atfork(nullptr, nullptr, [] { ++forks_; });
    if (watching != 0) return false;
    forks_then_ = forks_;
    const int file = memfd_create("nes-code", MFD_CLOEXEC);
    if (file < 0) return false;
    void *writable = MAP_FAILED, *executable = MAP_FAILED;
    if (ftruncate(file, kCapacity) == 0) {
        writable = mmap(nullptr, kCapacity, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        executable = mmap(nullptr, kCapacity, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    }
    close(file);
    if (writable != MAP_FAILED) writable_ = static_cast<uint8_t*>(writable);
    if (executable != MAP_FAILED) executable_ = static_cast<const uint8_t*>(executable);
    return writable_ && executable_;
}

// The way in: void enter(Registers*, const uint8_t* code). The ways out, one for each reason, with the program counter
// in EAX.
void Translator::emit_entry() {
    Assembler out(writable_, used_);
    constexpr int kept[] = {kRam, kState, kProgram, kCycle, kUntil, kR15};
    enter_ = out.here();
    for (int which : kept) out.push(which);
    out.byte(0x48), out.byte(0x89), out.byte(0xfd);  // mov rbp, rdi
    out.byte(0x48), out.byte(0x89), out.byte(0xf1);  // mov rcx, rsi
    out.load64(kRam, STATE(ram)), out.load64(kProgram, STATE(program));
    out.load32(kA, STATE(a)), out.load32(kX, STATE(x)), out.load32(kY, STATE(y)), out.load32(kSp, STATE(sp));
    out.load32(kNegative, STATE(negative)), out.load32(kZero, STATE(zero)), out.load32(kCarry, STATE(carry));
    out.load32(kCycle, STATE(cycle)), out.load32(kUntil, STATE(until)), out.load32(kRax, STATE(pc));
    out.jump_to_register(kRcx);
    const uint32_t end = out.here();
    out.store32(STATE(pc), kRax);
    out.store32(STATE(a), kA), out.store32(STATE(x), kX), out.store32(STATE(y), kY), out.store32(STATE(sp), kSp);
    out.store32(STATE(negative), kNegative), out.store32(STATE(zero), kZero), out.store32(STATE(carry), kCarry);
    out.store32(STATE(cycle), kCycle);
    for (int i = 5; i >= 0; --i) out.pop(kept[i]);
    out.leave();
    for (Reason reason : {kUntranslated, kInterpret, kTime, kOutside}) {
        leave_[reason] = out.here();
        out.store32_value(STATE(reason), reason);
        out.land(out.jump(), end);
    }
    offsets_.assign(kEnd - kRom, 0);
    code_.reset(new std::atomic<const uint8_t*>[kEnd - kRom]);
    for (int i = 0; i < kEnd - kRom; ++i)
        code_[i].store(executable_ + leave_[kUntranslated], std::memory_order_relaxed);
}

Translator::Reason Translator::run(Registers& registers) {
    const auto enter =
        reinterpret_cast<void (*)(Registers*, const uint8_t*)>(reinterpret_cast<uintptr_t>(executable_ + enter_));
    registers.program = program_, registers.code = code_.get();
    for (;;) {
        enter(&registers, code_[registers.pc - kRom].load(std::memory_order_acquire));
        if (registers.reason != kUntranslated) return static_cast<Reason>(registers.reason);
        translate(static_cast<uint16_t>(registers.pc));
    }
}

// Translates what can be reached from here, but for what is reached through memory: returns and jumps through pointers.
void Translator::translate(uint16_t pc) {
    const std::lock_guard lock(mutex_);
    Assembler out(writable_, used_);
    reached_ = {pc};
    while (!reached_.empty()) {
        const uint16_t next = reached_.back();
        reached_.pop_back();
        if (!offsets_[next - kRom]) emit_line(next);
    }
    for (const Jump& jump : jumps_) out.land(jump.at, offsets_[jump.target - kRom]);
    unsigned ignored[4];
    // Nothing of the new code may have been fetched before it was written.
    __get_cpuid(0, &ignored[0], &ignored[1], &ignored[2], &ignored[3]);
    for (uint16_t one : made_) code_[one - kRom].store(executable_ + offsets_[one - kRom], std::memory_order_release);
    jumps_.clear(), made_.clear();
}

// Instructions one after the other, until one that does not go on to the next or until code that is there already.
void Translator::emit_line(uint16_t pc) {
    Assembler out(writable_, used_);
    exits_.clear();
    for (bool goes_on = true; goes_on;) {
        if (!in_rom(pc)) {
            exits_.push_back({out.jump(), pc, kOutside});
            break;
        }
        if (offsets_[pc - kRom]) {
            out.land(out.jump(), offsets_[pc - kRom]);
            break;
        }
        const uint32_t begin = offsets_[pc - kRom] = out.here();
        made_.push_back(pc);
        const uint8_t opcode = program_[pc - kRom];
        const Mode mode = mode_of(opcode);
        const size_t exits = exits_.size(), jumps = jumps_.size();
        out.calculate(kCmp, kCycle, kUntil);
        exits_.push_back({out.jump_if(kGreaterOrEqual), pc, kTime});
        const bool jumps_away = opcode == 0x4c || opcode == 0x60 || opcode == 0x6c;
        if (mode != kNone && emit_instruction(pc)) {
            goes_on = !jumps_away && opcode != 0x20;
        } else {
            used_ = begin, exits_.resize(exits), jumps_.resize(jumps);
            exits_.push_back({out.jump(), pc, kInterpret});
            goes_on = false;
        }
        const uint16_t following = static_cast<uint16_t>(pc + kLengths[mode]);  // where the interpreter comes back to
        if (!goes_on && !jumps_away && mode != kNone && in_rom(following)) reached_.push_back(following);
        pc = following;
    }
    for (const Exit& exit : exits_) {
        out.land_here(exit.at);
        out.move(kRax, static_cast<uint32_t>(exit.pc));
        out.land(out.jump(), leave_[exit.reason]);
    }
}

// Emits a check of the time and one instruction; returns false if the interpreter must run it, whatever was emitted
// until then.
bool Translator::emit_instruction(uint16_t pc) {
    Assembler out(writable_, used_);
    const uint8_t* const code = program_ + (pc - kRom);
    const uint8_t opcode = code[0];
    const Mode mode = mode_of(opcode);
    const uint8_t operand = code[1];
    const uint16_t absolute = static_cast<uint16_t>(code[1] | (code[2] << 8));
    const int cycles = cycles_of(opcode);

    // Where the operand is: in the instruction; in memory at `place`; anywhere, at the address in R15; or nowhere
    // (writes that do nothing).
    bool constant = false, anywhere = false, nowhere = false;
    Memory place{kRam, kNoIndex, 0};
    const bool stores = (opcode & 0xe3) == 0x81 || opcode == 0x84 || opcode == 0x8c || opcode == 0x94 ||
                        opcode == 0x86 || opcode == 0x8e || opcode == 0x96;
    const auto at = [&](uint16_t address, int index) {  // an address, or 256 of them, in RAM or ROM
        const int last = address + (index == kNoIndex ? 0 : 255);
        if (index == kNoIndex && address < 0x2000)
            place = {kRam, kNoIndex, address & 0x7ff};
        else if (last < 0x800)
            place = {kRam, index, address};
        else if (address >= kRom && last <= 0xffff && !stores)
            place = {kProgram, index, address - kRom};
        else if (address >= 0x4020 && last <= 0xffff && stores)
            nowhere = true;
        else
            return false;
        return true;
    };
    const auto crossing = [&](int index) {  // a cycle more where the index leaves the page
        if (stores || !(absolute & 0xff)) return;
        out.address(kRcx, {index, kNoIndex, absolute & 0xff});
        out.shift(kRight, kRcx, 8);
        out.calculate(kAdd, kCycle, kRcx);
    };
    switch (mode) {
        case kImmediate: constant = true; break;
        case kZeroPage: place.offset = operand; break;
        case kZeroPageX: case kZeroPageY:
            out.address(kR15, {mode == kZeroPageX ? kX : kY, kNoIndex, operand});
            out.extend8(kR15, kR15);
            place.index = kR15;
            break;
        case kAbsolute:
            if (opcode != 0x20 && opcode != 0x4c && opcode != 0x6c && !at(absolute, kNoIndex)) return false;
            break;
        case kAbsoluteX: case kAbsoluteY: {
            const int index = mode == kAbsoluteX ? kX : kY;
            if (!at(absolute, index)) return false;
            crossing(index);
            break;
        }
        case kIndirectY:  // RCX becomes the cycle for leaving the page
            out.load8(kR15, {kRam, kNoIndex, operand}), out.calculate(kAdd, kR15, kY);
            out.move(kRcx, kR15), out.shift(kRight, kRcx, 8);
            out.load8(kRax, {kRam, kNoIndex, static_cast<uint8_t>(operand + 1)}), out.shift(kLeft, kRax, 8);
            out.calculate(kAdd, kR15, kRax), out.extend16(kR15, kR15);
            anywhere = true;
            break;
        default: break;
    }

    const auto tick = [&](int more) { out.calculate(kAdd, kCycle, static_cast<uint32_t>(more)); };
    const auto result = [&](int from) { out.move(kNegative, from), out.move(kZero, from); };
    const auto fetch = [&](int to) {  // the operand's value
        if (constant) return out.move(to, static_cast<uint32_t>(operand));
        if (!anywhere) return out.load8(to, place);
        out.calculate(kCmp, kR15, 0x2000u);
        const uint32_t beyond = out.jump_if(kAboveOrEqual);
        out.calculate(kAnd, kR15, 0x7ffu), out.load8(to, {kRam, kR15, 0});
        const uint32_t done = out.jump();
        out.land_here(beyond);
        out.calculate(kCmp, kR15, static_cast<uint32_t>(kRom));
        exits_.push_back({out.jump_if(kBelow), pc, kInterpret});
        out.load8(to, {kProgram, kR15, -static_cast<int32_t>(kRom)});
        out.land_here(done);
        out.calculate(kAdd, kCycle, kRcx);
    };
    const auto store = [&](int from) {
        if (nowhere) return;
        if (!anywhere) return out.store8(place, from);
        out.calculate(kCmp, kR15, 0x2000u);
        const uint32_t beyond = out.jump_if(kAboveOrEqual);
        out.calculate(kAnd, kR15, 0x7ffu), out.store8({kRam, kR15, 0}, from);
        const uint32_t done = out.jump();
        out.land_here(beyond);
        out.calculate(kCmp, kR15, 0x4020u);
        exits_.push_back({out.jump_if(kBelow), pc, kInterpret});
        out.land_here(done);
    };
    const auto move_sp = [&](int by) { out.calculate(kAdd, kSp, static_cast<uint32_t>(by)), out.extend8(kSp, kSp); };
    const Memory top{kRam, kSp, 0x100};
    const auto add = [&] {  // A + EAX + carry
        out.move(kRcx, kA), out.calculate(kAdd, kRcx, kRax), out.calculate(kAdd, kRcx, kCarry);
        out.move(kR15, kA), out.calculate(kXor, kR15, kRcx), out.calculate(kXor, kRax, kRcx),
            out.calculate(kAnd, kRax, kR15);
        out.shift(kRight, kRax, 7), out.calculate(kAnd, kRax, 1u), out.store32(STATE(overflow), kRax);
        out.move(kCarry, kRcx), out.shift(kRight, kCarry, 8);
        out.extend8(kA, kRcx), result(kA);
    };
    const auto compare = [&](int which) {
        fetch(kRax);
        out.move(kNegative, which), out.calculate(kSub, kNegative, kRax);
        out.move(kCarry, kNegative), out.shift(kRight, kCarry, 31), out.calculate(kXor, kCarry, 1u);
        out.extend8(kNegative, kNegative), out.move(kZero, kNegative);
    };
    const auto change = [&](int which) {  // shift or rotate, one of the four by the opcode
        const bool right = opcode & 0x40, rotates = opcode & 0x20;
        if (right) {
            if (rotates) out.move(kRcx, kCarry), out.shift(kLeft, kRcx, 7);
            out.move(kCarry, which), out.calculate(kAnd, kCarry, 1u), out.shift(kRight, which, 1);
            if (rotates) out.calculate(kOr, which, kRcx);
        } else {
            out.shift(kLeft, which, 1);
            if (rotates) out.calculate(kOr, which, kCarry);
            out.move(kCarry, which), out.shift(kRight, kCarry, 8), out.extend8(which, which);
        }
        result(which);
    };
    const auto go_to_eax = [&] {  // a program counter that is not known before
        out.address(kRcx, {kRax, kNoIndex, -static_cast<int32_t>(kRom)});
        out.calculate(kCmp, kRcx, static_cast<uint32_t>(kEnd - kRom));
        out.land(out.jump_if(kAboveOrEqual), leave_[kOutside]);
        out.load64(kR15, STATE(code));
        out.jump_through({kR15, kRcx, 0, 3});
    };
    const auto go_to = [&](uint16_t target) {
        jumps_.push_back({out.jump(), target});
        reached_.push_back(target);
    };

    if (mode == kRelative) {
        const uint16_t following = pc + 2, target = static_cast<uint16_t>(following + static_cast<int8_t>(operand));
        if (!in_rom(target)) return false;
        int taken = kEqual;  // when the branch is taken, as the host sees it
        switch (opcode) {
            case 0x10: case 0x30: out.test(kNegative, 0x80), taken = opcode == 0x30 ? kNotEqual : kEqual; break;
            case 0x50: case 0x70:
                out.load32(kRax, STATE(overflow)), out.calculate(kCmp, kRax, 0u),
                    taken = opcode == 0x70 ? kNotEqual : kEqual;
                break;
            case 0x90: case 0xb0: out.calculate(kCmp, kCarry, 0u), taken = opcode == 0xb0 ? kNotEqual : kEqual; break;
            default: out.calculate(kCmp, kZero, 0u), taken = opcode == 0xd0 ? kNotEqual : kEqual; break;
        }
        const uint32_t stay = out.jump_if(taken ^ 1);
        tick(cycles + ((following ^ target) & 0xff00 ? 3 : 1));
        go_to(target);
        out.land_here(stay);
        tick(cycles);
        return true;
    }

    switch (opcode) {
        case 0x20: {
            if (!in_rom(absolute)) return false;
            const uint16_t last = pc + 2;
            for (int half : {last >> 8, last & 0xff}) out.store8_value(top, static_cast<uint32_t>(half)), move_sp(-1);
            tick(cycles), go_to(absolute);
            return true;
        }
        case 0x4c:
            if (!in_rom(absolute) || absolute == pc) return false;
            tick(cycles), go_to(absolute);
            return true;
        case 0x6c:
            if (absolute >= 0x2000) return false;
            out.load8(kRax, {kRam, kNoIndex, absolute & 0x7ff});
            out.load8(kRcx, {kRam, kNoIndex, ((absolute & 0xff00) | ((absolute + 1) & 0xff)) & 0x7ff});
            out.shift(kLeft, kRcx, 8), out.calculate(kOr, kRax, kRcx);
            tick(cycles), go_to_eax();
            return true;
        case 0x60:
            move_sp(1), out.load8(kRax, top), move_sp(1), out.load8(kRcx, top);
            out.shift(kLeft, kRcx, 8), out.calculate(kOr, kRax, kRcx), out.calculate(kAdd, kRax, 1u),
                out.extend16(kRax, kRax);
            tick(cycles), go_to_eax();
            return true;

        case 0x0a: case 0x2a: case 0x4a: case 0x6a: change(kA); break;
        case 0x88: case 0xca: case 0xc8: case 0xe8: {
            const int which = opcode == 0x88 || opcode == 0xc8 ? kY : kX;
            out.calculate(kAdd, which, opcode == 0x88 || opcode == 0xca ? ~0u : 1u), out.extend8(which, which),
                result(which);
            break;
        }
        case 0x8a: out.move(kA, kX), result(kA); break;
        case 0x98: out.move(kA, kY), result(kA); break;
        case 0xa8: out.move(kY, kA), result(kY); break;
        case 0xaa: out.move(kX, kA), result(kX); break;
        case 0xba: out.move(kX, kSp), result(kX); break;
        case 0x9a: out.move(kSp, kX); break;
        case 0xea: break;
        case 0x18: out.move(kCarry, 0u); break;
        case 0x38: out.move(kCarry, 1u); break;
        case 0x48: out.store8(top, kA), move_sp(-1); break;
        case 0x68: move_sp(1), out.load8(kA, top), result(kA); break;

        case 0x24: case 0x2c:
            fetch(kRax);
            out.move(kZero, kA), out.calculate(kAnd, kZero, kRax), out.move(kNegative, kRax);
            out.shift(kRight, kRax, 6), out.calculate(kAnd, kRax, 1u), out.store32(STATE(overflow), kRax);
            break;
        case 0xa2: case 0xa6: case 0xae: case 0xb6: case 0xbe: fetch(kX), result(kX); break;
        case 0xa0: case 0xa4: case 0xac: case 0xb4: case 0xbc: fetch(kY), result(kY); break;
        case 0xe0: case 0xe4: case 0xec: compare(kX); break;
        case 0xc0: case 0xc4: case 0xcc: compare(kY); break;
        case 0x84: case 0x8c: case 0x94: store(kY); break;
        case 0x86: case 0x8e: case 0x96: store(kX); break;

        default:
            if ((opcode & 3) == 1) {
                switch (opcode >> 5) {
                    case 0: fetch(kRax), out.calculate(kOr, kA, kRax), result(kA); break;
                    case 1: fetch(kRax), out.calculate(kAnd, kA, kRax), result(kA); break;
                    case 2: fetch(kRax), out.calculate(kXor, kA, kRax), result(kA); break;
                    case 3: fetch(kRax), add(); break;
                    case 4: store(kA); break;
                    case 5: fetch(kA), result(kA); break;
                    case 6: compare(kA); break;
                    default: fetch(kRax), out.calculate(kXor, kRax, 0xffu), add(); break;
                }
            } else {  // read, modify, write
                if (place.base != kRam) return false;
                fetch(kRax);
                if (opcode >= 0xc0)
                    out.calculate(kAdd, kRax, opcode >= 0xe0 ? 1u : ~0u), out.extend8(kRax, kRax), result(kRax);
                else
                    change(kRax);
                store(kRax);
            }
    }
    tick(cycles);
    return true;
}

#endif

}  // namespace nes
