// Runs the native core where it is most likely to break, for the sanitizers: any buttons on real ROMs and on programs
// of random bytes, damaged states, damaged ROM files, vectors with threads. `make fuzz` compiles it with the core's
// sources and -fsanitize=address,undefined, or -fsanitize=thread, and gives it the ROM files and a number of rounds.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <vector>

#include "archive.hpp"
#include "vector.hpp"

namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::mt19937;

Bytes read_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// Plays a cartridge with any buttons, drawn or not, from states in which single bytes are damaged now and then.
void play(const Bytes& rom, Random& random, int frames) {
    const auto cartridge = std::make_shared<const nes::Cartridge>(rom.data(), rom.size());
    nes::Console console(cartridge);
    nes::Screen screen{};
    for (int frame = 0; frame < frames; ++frame) {
        console.step(static_cast<uint8_t>(random()), random() % 2 ? &screen : nullptr);
        if (random() % 64 == 0) console.reset();
        if (random() % 16) continue;
        nes::Console::State state = console.state();
        nes::Sizer sizer;
        state.serialize(sizer);
        Bytes bytes(sizer.size);
        nes::Writer writer(bytes.data(), bytes.size());
        state.serialize(writer);
        for (unsigned i = random() % 4; i > 0; --i) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
        try {
            nes::Reader reader(bytes.data(), bytes.size() - (random() % 8 == 0));
            state.serialize(reader);
            state.check();
            console.set_state(state);
        } catch (const std::invalid_argument&) {  // impossible or too short: the console goes on as it was
        }
    }
}

// A program of random bytes whose jumps and register accesses mostly hit something.
Bytes random_program(const Bytes& rom, Random& random) {
    Bytes program = rom;
    for (size_t i = 16; i < program.size(); ++i) program[i] = static_cast<uint8_t>(random());
    for (size_t i = 16; i + 8 < 16 + 0x8000; i += 1 + random() % 24) {
        const uint8_t kinds[] = {0x8d, 0xad, 0xee, 0x4c, 0x20, 0x2c};
        const uint8_t kind = kinds[random() % 6];
        const bool jump = kind == 0x4c || kind == 0x20;
        program[i] = kind;
        program[i + 1] = static_cast<uint8_t>(jump ? random() : random() % 8 ? random() % 8 : 0x14);
        program[i + 2] = static_cast<uint8_t>(jump ? 0x80 + random() % 128 : program[i + 1] == 0x14 ? 0x40 : 0x20);
    }
    return program;
}

void damage(const Bytes& rom, Random& random) {
    Bytes bytes = rom;
    bytes.resize(random() % 4 ? bytes.size() : random() % bytes.size());
    for (unsigned i = random() % 3; i > 0 && !bytes.empty(); --i)
        bytes[random() % std::min<size_t>(16, bytes.size())] = static_cast<uint8_t>(random());
    try {
        nes::Cartridge cartridge(bytes.data(), bytes.size());
    } catch (const std::invalid_argument&) {
    }
}

void play_vector(const Bytes& rom, Random& random, int steps) {
    const auto cartridge = std::make_shared<const nes::Cartridge>(rom.data(), rom.size());
    const mario::Options options{
        5, 1 + static_cast<int>(random() % 6), 3, random() % 2 ? 32 : 0, static_cast<int>(random() % 3), 3};
    Bytes observations(5 * 3 * mario::kObservation), sticky(5 * 6), snapshot(mario::Vector::snapshot_size());
    std::vector<mario::Report> reports(5);
    mario::Vector vector(cartridge, options, observations.data(), reports.data());
    const mario::Target target{1 + static_cast<int>(random() % 4), 1, 1};
    vector.add_start(target);
    for (int i = 0; i < 5; ++i) vector.begin(i, 0, sticky.data(), 5);
    for (int step = 0; step < steps; ++step) {
        uint8_t buttons[5];
        for (uint8_t& byte : buttons) byte = static_cast<uint8_t>(random() % 4 ? 130 + random() % 2 : random());
        for (uint8_t& hold : sticky) hold = random() % 4 == 0;
        vector.step(buttons, random() % 2 ? sticky.data() : nullptr);
        for (int i = 0; i < 5; ++i)
            if (reports[i].cause) vector.begin(i, 0, nullptr, 0);
        if (random() % 32) continue;
        vector.save(0, snapshot.data());
        vector.load(1, target, snapshot.data(), snapshot.size());
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) return std::fprintf(stderr, "usage: native_fuzz ROUNDS ROM...\n"), 2;
    for (int round = 0; round < std::atoi(arguments[1]); ++round) {
        Random random(round);
        const Bytes rom = read_file(arguments[2 + round % (count - 2)]);
        play(rom, random, 200);
        play(random_program(rom, random), random, 40);
        for (int i = 0; i < 100; ++i) damage(rom, random);
        play_vector(rom, random, 60);
    }
    std::printf("%s rounds\n", arguments[1]);
    return 0;
}
