// What Python calls through ctypes. No exception crosses this border: functions that can fail take `error`, to which
// they write one line (at most kErrorSize bytes), and return null or -1. Every object may be used from any thread, but
// from one at a time; cartridges by all at once.

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "archive.hpp"
#include "cartridge.hpp"
#include "console.hpp"
#include "game.hpp"
#include "palette.hpp"
#include "vector.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t kErrorSize = 256;

struct SharedCartridge {
    std::shared_ptr<const nes::Cartridge> cartridge;
};

struct Machine {
    explicit Machine(const SharedCartridge* shared) : console(shared->cartridge) {}
    nes::Console console;
    nes::Screen screen{};

    template <class Archive>
    void serialize(Archive& archive, nes::Console::State& state) {
        state.serialize(archive), archive(screen);
    }
};

struct Player {
    explicit Player(const SharedCartridge* shared) : game(shared->cartridge) {}
    mario::Game game;
    mario::Snapshot start;
    nes::Screen screen{};
};

// Returns what `function` returns, or `failed` if it throws.
template <class Function, class Result>
Result guarded(char* error, Result failed, Function function) {
    try {
        return function();
    } catch (const std::exception& exception) {
        std::snprintf(error, kErrorSize, "%s", exception.what());
        return failed;
    }
}

template <class Function>
int succeeds(char* error, Function function) {
    return guarded(error, -1, [&] {
        function();
        return 0;
    });
}

}  // namespace

// ----------------------------------------------------------------------------------------------------------- cartridge

EXPORT SharedCartridge* cartridge_new(const uint8_t* file, size_t size, char* error) {
    return guarded(error, static_cast<SharedCartridge*>(nullptr),
                   [&] { return new SharedCartridge{std::make_shared<const nes::Cartridge>(file, size)}; });
}
EXPORT void cartridge_free(SharedCartridge* cartridge) { delete cartridge; }
EXPORT bool cartridge_translates(const SharedCartridge* cartridge) {
    return cartridge->cartridge->translator != nullptr;
}

// 240 x 256 x `channels` bytes: red, green, blue (3) or blue, green, red, 0 (4).
EXPORT void screen_colours(const uint8_t* screen, uint8_t* out, int channels) {
    for (int i = 0; i < nes::kWidth * nes::kHeight; ++i, out += channels) {
        const uint32_t colour = nes::kColours[screen[i]];
        const uint8_t red = static_cast<uint8_t>(colour >> 16), green = static_cast<uint8_t>(colour >> 8),
                      blue = static_cast<uint8_t>(colour);
        out[0] = channels == 3 ? red : blue, out[1] = green, out[2] = channels == 3 ? blue : red;
        if (channels == 4) out[3] = 0;
    }
}

// Preprocessing alone; `portable` forgoes the processor's special instructions.
EXPORT void observe(const nes::Screen* last, const nes::Screen* before, int top, bool portable, uint8_t* out) {
    mario::Observer(top, portable).observe(*last, before, out);
}

// ------------------------------------------------------------------------------------------------------------- console

EXPORT Machine* machine_new(const SharedCartridge* cartridge, char* error) {
    return guarded(error, static_cast<Machine*>(nullptr), [&] { return new Machine(cartridge); });
}
EXPORT void machine_free(Machine* machine) { delete machine; }
EXPORT void machine_reset(Machine* machine) { machine->console.reset(); }
EXPORT void machine_step(Machine* machine, uint8_t buttons, bool draw) {
    machine->console.step(buttons, draw ? &machine->screen : nullptr);
}
EXPORT uint8_t* machine_ram(Machine* machine) { return machine->console.ram().data(); }
EXPORT uint8_t* machine_screen(Machine* machine) { return machine->screen.data(); }

EXPORT size_t machine_state_size(Machine* machine) {
    nes::Console::State state = machine->console.state();
    nes::Sizer sizer;
    machine->serialize(sizer, state);
    return sizer.size;
}
EXPORT void machine_save(Machine* machine, uint8_t* bytes, size_t size) {
    nes::Console::State state = machine->console.state();
    nes::Writer writer(bytes, size);
    machine->serialize(writer, state);
}
EXPORT int machine_load(Machine* machine, const uint8_t* bytes, size_t size, bool controllers, char* error) {
    return succeeds(error, [&] {
        mario::Snapshot loaded;
        nes::Reader reader(bytes, size);
        loaded.console.serialize(reader), reader(loaded.screen);
        loaded.check();
        if (!controllers) loaded.console.controllers = machine->console.state().controllers;
        machine->console.set_state(loaded.console);
        machine->screen = loaded.screen;
    });
}

// ------------------------------------------------------------------------------------------------- one environment

EXPORT Player* player_new(const SharedCartridge* cartridge, int world, int stage, int area, char* error) {
    return guarded(error, static_cast<Player*>(nullptr), [&] {
        auto player = std::make_unique<Player>(cartridge);
        player->game.boot({world, stage, area}, player->start.screen);
        player->game.save(player->start);
        player->screen = player->start.screen;
        return player.release();
    });
}
EXPORT void player_free(Player* player) { delete player; }
EXPORT void player_reset(Player* player) {
    const mario::Target target = player->game.target();
    player->game.load(target, player->start.console, player->start.console.ram);
    player->screen = player->start.screen;
}
// Returns 1 if the episode is over, 0 if not, -1 for an error.
EXPORT int player_step(Player* player, uint8_t buttons, bool draw, double* reward, char* error) {
    return guarded(error, -1, [&] {
        const mario::Outcome outcome = player->game.step(buttons, draw ? &player->screen : nullptr);
        *reward = outcome.reward;
        return static_cast<int>(outcome.done);
    });
}
// Holds the buttons for some frames, undrawn, or until the episode ends. Returns 0 while it goes on, 2 at the flag, 1
// at any other end, -1 for an error.
EXPORT int player_hold(Player* player, uint8_t buttons, int frames, char* error) {
    return guarded(error, -1, [&] {
        for (int frame = 0; frame < frames; ++frame)
            if (player->game.step(buttons, nullptr).done) return player->game.info().flag ? 2 : 1;
        return 0;
    });
}
// The game as bytes, without its picture: to go back to a moment often, in the process that saved it.
EXPORT size_t player_state_size() {
    static const size_t size = [] {
        nes::Sizer sizer;
        mario::Snapshot snapshot;
        snapshot.console.serialize(sizer), sizer(snapshot.judged);
        return sizer.size;
    }();
    return size;
}
EXPORT void player_save(const Player* player, uint8_t* bytes) {
    mario::Snapshot snapshot;
    player->game.save(snapshot);
    nes::Writer writer(bytes, player_state_size());
    snapshot.console.serialize(writer), writer(snapshot.judged);
}
EXPORT int player_load(Player* player, const uint8_t* bytes, size_t size, char* error) {
    return succeeds(error, [&] {
        mario::Snapshot snapshot;
        nes::Reader reader(bytes, size);
        snapshot.console.serialize(reader), reader(snapshot.judged);
        if (!reader.at_end()) throw std::invalid_argument("state: of another size");
        snapshot.console.check();
        player->game.load(player->game.target(), snapshot.console, snapshot.judged);
    });
}
EXPORT uint8_t* player_ram(Player* player) { return player->game.ram().data(); }
EXPORT const uint8_t* player_judged(Player* player) { return player->game.judged().data(); }
EXPORT uint8_t* player_screen(Player* player) { return player->screen.data(); }

// --------------------------------------------------------------------------------------------------- N environments

EXPORT mario::Vector* vector_new(const SharedCartridge* cartridge, const mario::Options* options, uint8_t* observations,
                                 mario::Report* reports, char* error) {
    return guarded(error, static_cast<mario::Vector*>(nullptr),
                   [&] { return new mario::Vector(cartridge->cartridge, *options, observations, reports); });
}
EXPORT void vector_free(mario::Vector* vector) { delete vector; }
EXPORT int vector_add_stage(mario::Vector* vector, int world, int stage, int area, char* error) {
    return guarded(error, -1, [&] { return vector->add_start({world, stage, area}); });
}
EXPORT int vector_add_state(mario::Vector* vector, int world, int stage, int area, const uint8_t* bytes, size_t size,
                            char* error) {
    return guarded(error, -1, [&] { return vector->add_start({world, stage, area}, bytes, size); });
}
EXPORT int vector_begin(mario::Vector* vector, int i, int start, const uint8_t* buttons, int count, char* error) {
    return succeeds(error, [&] { vector->begin(i, start, buttons, count); });
}
EXPORT int vector_step(mario::Vector* vector, const uint8_t* buttons, const uint8_t* sticky, char* error) {
    return succeeds(error, [&] { vector->step(buttons, sticky); });
}
EXPORT const uint8_t* vector_ram(const mario::Vector* vector, int i) { return vector->ram(i).data(); }
EXPORT void vector_colours(const mario::Vector* vector, int i, uint8_t* rgb) {
    screen_colours(vector->screen(i).data(), rgb, 3);
}
EXPORT size_t vector_snapshot_size() { return mario::Vector::snapshot_size(); }
EXPORT void vector_save(const mario::Vector* vector, int i, uint8_t* bytes) { vector->save(i, bytes); }
EXPORT int vector_load(mario::Vector* vector, int i, int world, int stage, int area, const uint8_t* bytes, size_t size,
                       char* error) {
    return succeeds(error, [&] { vector->load(i, {world, stage, area}, bytes, size); });
}

// Raised, with INTERFACE of __init__.py, when what an exported function takes changes.
EXPORT int core_version() noexcept { return 2; }
