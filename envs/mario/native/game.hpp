// Super Mario Bros as an environment: the rules of gym-super-mario-bros 7.4.0, frame by frame.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "console.hpp"

namespace mario {

using Ram = std::array<uint8_t, 0x800>;

// What the memory says about the game after a frame.
struct Info {
    int32_t x = 0;         // pixels from the start of the area
    int32_t y = 0;         // pixels above the bottom of the screen
    int32_t time = 0;      // ticks left
    int32_t score = 0;
    int32_t coins = 0;
    int32_t world = 1;     // from 1
    int32_t stage = 1;     // 1-4
    bool flag = false;     // slides down the flagpole, or has won the world, by the rule that ends an episode
    bool cleared = false;  // the same; also where Mario touched the pole in a fall, which that rule misses
    bool dying = false;    // has died or is about to
    bool fell = false;     // below the screen
    bool underground = false;
    int32_t area = 0;  // where in the ROM the area is described
};
Info decode(const Ram& ram);

// The stage at which every episode starts and ends; world 0 is the whole game.
struct Target {
    int32_t world = 0, stage = 0, area = 0;
    bool single_stage() const { return world > 0; }
};

// The console and its picture at one moment, with what the next frame's reward is counted from.
struct Snapshot {
    nes::Console::State console;
    nes::Screen screen;
    Ram judged;

    template <class Archive>
    void serialize(Archive& archive) {
        console.serialize(archive), archive(screen), archive(judged);
    }
    void check() const;  // throws std::invalid_argument
};

struct Outcome {
    double reward;
    bool done;
};

class Game {
 public:
    // Frames that the environment plays by itself within one step before it gives up with a std::runtime_error. The
    // longest wait of the game, the end of a world, is about a thousand.
    static constexpr int kMaxSkipped = 6000;

    explicit Game(std::shared_ptr<const nes::Cartridge> cartridge) : console_(std::move(cartridge)) {}

    // Switches on and presses start until the stage (the first one for the whole game) has begun: the start of all its
    // episodes. Draws into `screen`.
    void boot(const Target& target, nes::Screen& screen);

    // Plays one frame, and the ones after it that the environment skips: what is left of a death, changes of area, cut
    // scenes.
    Outcome step(uint8_t buttons, nes::Screen* screen);

    void save(Snapshot& snapshot) const {
        snapshot.console = console_.state(), snapshot.judged = judged_;
    }  // all but the screen
    void load(const Target& target, const nes::Console::State& console, const Ram& judged);

    Ram& ram() { return console_.ram(); }
    const Ram& ram() const { return console_.ram(); }

    // The memory when the last frame's reward and end were decided, before anything was skipped.
    const Ram& judged() const { return judged_; }
    const Info& info() const { return info_; }
    const Target& target() const { return target_; }

 private:
    void advance(uint8_t buttons, nes::Screen* screen);
    void judge();
    void skip_end_of_world(nes::Screen* screen);
    void skip_change_of_area();
    void skip_occupied(nes::Screen* screen);

    nes::Console console_;
    Target target_;
    Ram judged_{};
    Info info_;
    int skipped_ = 0;
};

}  // namespace mario
