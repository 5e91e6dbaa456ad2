// The processor (6502 without decimal mode), as nes-py 8.2.1 times it.
//
// A whole instruction acts in its first cycle; the next one acts as many cycles later as the table says, plus one for a
// taken branch (and two more if it leaves the page), plus one for an indexed address that leaves the page (stores by
// opcodes xxxxxx01 excepted, read-modify-write not), plus DMA. An NMI pushes its three bytes at once and delays
// whatever comes next by seven cycles. BRK takes fourteen. Opcodes that the documents do not know do what the bit
// pattern of their group says, or nothing, and take one cycle. The order of the flags in the status byte is N V 1 B D I
// Z C from bit 0 up, which is what reaches the stack, and thus RAM.
#pragma once

#include <cstdint>

#include "bus.hpp"

namespace nes {

// Cycles of an instruction without branches taken and pages crossed; 0: undocumented.
int cycles_of(uint8_t opcode);

class Cpu {
 public:
    void reset(const Bus& bus);

    // Runs every instruction that acts before cycle `until` of the current step.
    void run(Bus& bus, int until);

    // Non-maskable interrupt in cycle `cycle`, before the instruction of that cycle.
    void interrupt(Bus& bus, int cycle);

    // The step of `cycles` cycles is over: counts from the start of the next one.
    void end_step(int cycles);

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pc_), archive(sp_), archive(a_), archive(x_), archive(y_), archive(status_), archive(next_),
            archive(idle_);
    }
    void check() const;

 private:
    template <bool kInRom, bool kOnce>
    void execute(Bus& bus, int until);
    void run_translated(Bus& bus, int until);

    uint16_t pc_ = 0;
    uint8_t sp_ = 0, a_ = 0, x_ = 0, y_ = 0;
    uint8_t status_ = 0;
    int32_t next_ = 0;   // cycle in which the next instruction acts
    int32_t idle_ = -2;  // last cycle in which an opcode of no length at all acted: an NMI in the very next one delays
                         // one cycle less
};

}  // namespace nes
