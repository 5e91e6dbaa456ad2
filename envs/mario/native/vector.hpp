// N environments stepped by one call: controller bytes, frame skip, rewards, ends of episodes, observations.
//
// Random numbers are the caller's: it names the start of each episode, the buttons of its start frames, and the frames
// in which the console holds the last button byte (sticky actions).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "game.hpp"
#include "observe.hpp"

namespace mario {

enum class Reward : int32_t { kEnv, kScore, kScoreRules, kScoreLoops };

// Why an episode ended; the order is that of CAUSES in envs/mario/base.py.
enum class Cause : int32_t { kNone, kFlag, kGameOver, kTimeout, kPit, kEnemy, kRule };

struct Options {
    int32_t count;    // N
    int32_t skip;     // frames of a decision
    int32_t stack;    // frames of an observation
    int32_t top;      // rows of the screen left out
    int32_t reward;   // Reward
    int32_t threads;  // working at the same time, the caller's included
};

// What the caller reads after each call; one per environment, fixed layout.
struct Report {
    double env_reward;    // of the last decision: the environment's own
    double reward;        // and the one that PPO is shown
    int64_t frames;       // played in this episode after its start frames
    int32_t cause;        // Cause of the end of the episode, 0 while it goes on
    int32_t x_max, score, time, coins, world, stage;
    int32_t cleared;      // stages, in this episode
    int32_t cleared_world, cleared_stage;  // the last of them: it counts once, however often its flag flickers
    int32_t start_frames; // played before it
    int32_t pressed;      // controller byte of the last frame
};

class Vector {
 public:
    // `observations` is (N, stack, 84, 84), or null if nothing is to be drawn, `reports` (N); both belong to the caller
    // and outlive this.
    Vector(std::shared_ptr<const nes::Cartridge> cartridge, const Options& options, uint8_t* observations,
           Report* reports);
    ~Vector();

    // Plays to the beginning of a stage, or takes a snapshot; returns its number for `begin`.
    int add_start(const Target& target);
    int add_start(const Target& target, const uint8_t* snapshot, size_t size);

    // Starts an episode of environment `i`: the buttons of `count` start frames are pressed first. An episode that ends
    // in them starts again without any.
    void begin(int i, int start, const uint8_t* buttons, int count);

    // Plays one decision in each environment with `buttons[i]`. `sticky` is null or (N, skip): non-zero holds the byte
    // of the frame before. Throws std::runtime_error, after all have played, if one did not return to play.
    void step(const uint8_t* buttons, const uint8_t* sticky);

    // A running episode as bytes, but for its observation and its report, which the caller has.
    static size_t snapshot_size();
    void save(int i, uint8_t* snapshot) const;
    void load(int i, const Target& target, const uint8_t* snapshot, size_t size);

    const Ram& ram(int i) const { return environments_[i]->game.ram(); }
    const nes::Screen& screen(int i) const { return environments_[i]->screen(); }

 private:
    struct Environment {
        explicit Environment(std::shared_ptr<const nes::Cartridge> cartridge) : game(std::move(cartridge)) {}
        const nes::Screen& screen() const { return screens[shown]; }

        Game game;
        std::array<nes::Screen, 2> screens{};  // of the last two frames, in turn
        int shown = 0;
    };
    struct Start {
        Target target;
        Snapshot snapshot;
    };

    void play(int i, uint8_t buttons, const uint8_t* sticky);
    void play_guarded(int i);
    double shape(const Outcome& outcome, const Info& before, const Info& after, bool& end) const;
    void redraw(Environment& environment, const Snapshot& before, const uint8_t* pressed, int last);
    void push(int i, int last_frame);
    void work(int worker);
    void play_share(int worker);

    const Options options_;
    std::shared_ptr<const nes::Cartridge> cartridge_;
    uint8_t* const observations_;
    Report* const reports_;
    const Observer observer_;
    std::vector<std::unique_ptr<Environment>> environments_;
    std::vector<std::unique_ptr<Start>> starts_;
    std::vector<std::string> errors_;  // one per environment
    std::vector<std::atomic<bool>> taken_;  // one per environment: whether a thread has begun to play it in this step

    // The other threads.
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable begin_, end_;
    std::atomic<uint64_t> round_ = 0;
    std::atomic<int> running_ = 0;
    std::atomic<bool> stop_ = false;
    const uint8_t* buttons_ = nullptr;
    const uint8_t* sticky_ = nullptr;
};

}  // namespace mario
