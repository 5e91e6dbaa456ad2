// The program ROM in the host's own instructions: what the interpreter in cpu.cpp does, without fetching and decoding.
//
// Instructions are translated one by one, each with its own check of the time, so that the console can stop in front of
// any of them. What is rare or touches a register of the machine is left to the interpreter, one instruction at a time.
// Code is made where it is first reached, and shared by all consoles of a cartridge.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace nes {

class Translator {
 public:
    // Why the translated code came back.
    enum Reason : uint32_t { kUntranslated, kInterpret, kTime, kOutside };

    // The processor's registers while translated code runs; see `Cpu::execute` for the flags.
    struct Registers {
        uint8_t* ram;
        const uint8_t* program;
        const std::atomic<const uint8_t*>* code;
        uint32_t pc, a, x, y, sp, negative, zero, overflow, carry;
        int32_t cycle, until;
        uint32_t reason;
    };

    // Null where there is no translator: not an x86-64 with Linux, no right to make code, or NES_TRANSLATE=0 in the
    // environment.
    static std::unique_ptr<Translator> make(const uint8_t* program);
    ~Translator();

    // False in a process forked from the one that made it: both would write to the same memory.
    bool usable() const { return forks_then_ == forks_.load(std::memory_order_relaxed); }

    // Runs from a program counter in the ROM until the time is over (kTime), or until the next instruction is one for
    // the interpreter (kInterpret) or is outside of the ROM (kOutside).
    Reason run(Registers& registers);

 private:
    explicit Translator(const uint8_t* program) : program_(program) {}
    bool reserve();
    void emit_entry();
    void translate(uint16_t pc);
    void emit_line(uint16_t pc);
    bool emit_instruction(uint16_t pc);

    const uint8_t* const program_;
    static inline std::atomic<int> forks_ = 0;  // on the way from the first translator's process to this one
    int forks_then_ = 0;
    std::mutex mutex_;
    uint8_t* writable_ = nullptr;          // the same memory twice: to be written ...
    const uint8_t* executable_ = nullptr;  // ... and to be run
    uint32_t used_ = 0;
    uint32_t enter_ = 0, leave_[4] = {};   // offsets of the way in and of the ways out
    std::vector<uint32_t> offsets_;        // of every translated instruction's code, 0 if there is none
    std::unique_ptr<std::atomic<const uint8_t*>[]> code_;

    // Of the translation in progress:
    std::vector<uint16_t> reached_;  // instructions that may still have to be translated
    std::vector<uint16_t> made_;     // and those that have been
    struct Jump {
        uint32_t at;  // offset of its 32-bit distance
        uint16_t target;
    };
    std::vector<Jump> jumps_;  // to be resolved when everything is emitted
    struct Exit {
        uint32_t at;
        uint16_t pc;
        Reason reason;
    };
    std::vector<Exit> exits_;  // to be emitted after the straight line of instructions
};

}  // namespace nes
