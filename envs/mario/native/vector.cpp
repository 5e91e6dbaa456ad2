#include "vector.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "archive.hpp"

namespace mario {

namespace {

size_t measure() {
    nes::Sizer sizer;
    Snapshot snapshot;
    snapshot.serialize(sizer);
    return sizer.size;
}

void parse(Snapshot& snapshot, const uint8_t* bytes, size_t size) {
    if (size != Vector::snapshot_size()) throw std::invalid_argument("state: of another size");
    nes::Reader reader(bytes, size);
    snapshot.serialize(reader);
    snapshot.check();
}

Cause end_cause(const Info& info, bool single_stage) {
    if (info.flag) return Cause::kFlag;
    if (!single_stage) return Cause::kGameOver;
    if (info.time == 0) return Cause::kTimeout;
    return info.fell ? Cause::kPit : Cause::kEnemy;
}

// The fork of 4-4: the upper path up to x = 1500, the lower one from 1588 to 2380.
bool lost_in_4_4(const Info& info) {
    return (info.x <= 1500 && info.y < 127) || (1588 <= info.x && info.x < 2380 && info.y >= 127);
}

// The two mazes of 7-4: a wrong floor in one of seven windows, or the game has sent Mario back.
bool lost_in_7_4(const Info& before, const Info& info) {
    const int x = info.x, y = info.y;
    return (506 <= x && x <= 832 && y > 127) || (832 < x && x <= 1064 && y < 80) ||
           (1113 < x && x <= 1464 && y < 191) || (1579 < x && x <= 1943 && y < 191) ||
           (1946 < x && x <= 1964 && y >= 191) || (1984 < x && x <= 2060 && (y >= 191 || y < 127)) ||
           (2114 < x && x < 2440 && y < 191) || x < before.x - 500;
}

// Under ground to the right of the pipe that leads out of 1-2 or 4-2: only a warp zone is there.
bool past_the_pipe(const Info& info) {
    const int end = info.world == 1 ? 2720 : 3056;
    return info.stage == 2 && (info.world == 1 || info.world == 4) && info.underground && info.x > end;
}

// By how many pixels the game has moved Mario at once: back in a maze, or forward through a pipe.
int moved_at_once(const Info& before, const Info& info) {
    const int moved = info.area == before.area ? info.x - before.x : 0;
    return std::abs(moved) > 500 ? moved : 0;
}

// Waits for a moment without sleeping: falling asleep and waking up takes longer than what a thread usually waits for.
template <typename Condition>
void spin(const Condition& met) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(300);
    while (!met() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
}

}  // namespace

Vector::Vector(std::shared_ptr<const nes::Cartridge> cartridge, const Options& options, uint8_t* observations,
               Report* reports)
    : options_(options),
      cartridge_(std::move(cartridge)),
      observations_(observations),
      reports_(reports),
      observer_(options.top),
      errors_(options.count),
      taken_(options.count) {
    for (int i = 0; i < options_.count; ++i) environments_.push_back(std::make_unique<Environment>(cartridge_));
    for (int worker = 1; worker < options_.threads; ++worker) threads_.emplace_back(&Vector::work, this, worker);
}

Vector::~Vector() {
    {
        const std::lock_guard lock(mutex_);
        stop_.store(true);
    }
    begin_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

// ------------------------------------------------------------------------------------------------------------ episodes

int Vector::add_start(const Target& target) {
    auto start = std::make_unique<Start>();
    Game game(cartridge_);
    game.boot(target, start->snapshot.screen);
    game.save(start->snapshot);
    start->target = target;
    starts_.push_back(std::move(start));
    return static_cast<int>(starts_.size()) - 1;
}

int Vector::add_start(const Target& target, const uint8_t* snapshot, size_t size) {
    auto start = std::make_unique<Start>();
    parse(start->snapshot, snapshot, size);
    start->target = target;
    starts_.push_back(std::move(start));
    return static_cast<int>(starts_.size()) - 1;
}

void Vector::begin(int i, int start, const uint8_t* buttons, int count) {
    Environment& environment = *environments_[i];
    Report& report = reports_[i];
    const Start& from = *starts_.at(start);
    const auto rewind = [&] {
        environment.game.load(from.target, from.snapshot.console, from.snapshot.console.ram);
        environment.screens[0] = from.snapshot.screen;
        environment.shown = 0;
        report = Report{};
    };
    rewind();
    for (int frame = 0; frame < count; ++frame) {
        nes::Screen* const screen = observations_ ? &environment.screens[0] : nullptr;
        const Outcome outcome = environment.game.step(buttons[frame], screen);
        report.pressed = buttons[frame];
        ++report.start_frames;
        if (outcome.done) {
            rewind();
            break;
        }
    }
    report.x_max = environment.game.info().x;
    if (!observations_) return;
    uint8_t* const stack = observations_ + static_cast<size_t>(i) * options_.stack * kObservation;
    observer_.observe(environment.screen(), nullptr, stack);
    for (int k = 1; k < options_.stack; ++k) std::memcpy(stack + k * kObservation, stack, kObservation);
}

// -------------------------------------------------------------------------------------------------------------- a step

void Vector::step(const uint8_t* buttons, const uint8_t* sticky) {
    buttons_ = buttons, sticky_ = sticky;
    for (auto& taken : taken_) taken.store(false);
    if (!threads_.empty()) {
        running_.store(static_cast<int>(threads_.size()));
        {
            const std::lock_guard lock(mutex_);
            ++round_;
        }
        begin_.notify_all();
    }
    play_share(0);
    spin([&] { return running_.load() == 0; });
    if (running_.load() > 0) {
        std::unique_lock lock(mutex_);
        end_.wait(lock, [&] { return running_.load() == 0; });
    }
    for (int i = 0; i < options_.count; ++i)
        if (!errors_[i].empty()) throw std::runtime_error("environment " + std::to_string(i) + ": " + errors_[i]);
}

void Vector::work(int worker) {
    for (uint64_t round = 1;; ++round) {
        const auto wanted = [&] { return stop_.load() || round_.load() >= round; };
        spin(wanted);
        if (!wanted()) {
            std::unique_lock lock(mutex_);
            begin_.wait(lock, wanted);
        }
        if (stop_) return;
        play_share(worker);
        if (running_.fetch_sub(1) == 1) {
            const std::lock_guard lock(mutex_);
            end_.notify_one();
        }
    }
}

// A thread plays its own environments first, whose memory is in its core's cache. Then it helps the others from the end
// of their share, but leaves them their next one: to move it to another cache would take longer than to wait for it.
void Vector::play_share(int worker) {
    for (int k = 0; k < options_.threads; ++k) {
        const int share = (worker + k) % options_.threads;
        const int begin = options_.count * share / options_.threads,
                  end = options_.count * (share + 1) / options_.threads;
        if (k == 0) {
            for (int i = begin; i < end; ++i)
                if (!taken_[i].exchange(true)) play_guarded(i);
        } else {
            for (int i = end - 1; i > begin && !taken_[i - 1].load(); --i)
                if (!taken_[i].exchange(true)) play_guarded(i);
        }
    }
}

void Vector::play_guarded(int i) {
    try {
        play(i, buttons_[i], sticky_ ? sticky_ + static_cast<size_t>(i) * options_.skip : nullptr);
    } catch (const std::exception& exception) {
        errors_[i] = exception.what();
    }
}

// One decision. Only its last two frames are drawn; should the episode end before them, its frames are played once
// more.
void Vector::play(int i, uint8_t buttons, const uint8_t* sticky) {
    Environment& environment = *environments_[i];
    Game& game = environment.game;
    Report& report = reports_[i];
    Snapshot before;
    if (observations_ && options_.skip > 2) game.save(before);
    uint8_t pressed[256];
    report.env_reward = report.reward = 0;
    report.cause = 0;
    int frame = 0;
    for (;; ++frame) {
        if (!(sticky && sticky[frame])) report.pressed = buttons;
        pressed[frame] = static_cast<uint8_t>(report.pressed);
        const Info last = game.info();
        const bool drawn = observations_ && frame >= options_.skip - 2;
        const Outcome outcome = game.step(pressed[frame], drawn ? &environment.screens[frame & 1] : nullptr);
        const Info& info = game.info();
        bool end = false;
        report.env_reward += outcome.reward;
        report.reward += shape(outcome, last, info, end);
        report.x_max = std::max(report.x_max, info.x);
        const bool counted = info.world == report.cleared_world && info.stage == report.cleared_stage;
        if (info.cleared && !last.cleared && !counted) {
            ++report.cleared;
            report.cleared_world = info.world, report.cleared_stage = info.stage;
        }
        ++report.frames;
        if (outcome.done)
            report.cause = static_cast<int32_t>(end_cause(info, game.target().single_stage()));
        else if (end)
            report.cause = static_cast<int32_t>(Cause::kRule);
        if (report.cause || frame == options_.skip - 1) break;
    }
    if (observations_ && std::max(frame - 1, 0) < options_.skip - 2) redraw(environment, before, pressed, frame);
    const Info& info = game.info();
    report.score = info.score, report.time = info.time, report.coins = info.coins, report.world = info.world,
    report.stage = info.stage;
    environment.shown = frame & 1;
    if (observations_) push(i, frame);
}

// Plays the frames 0 to `last` of a decision again in order to draw the last two.
void Vector::redraw(Environment& environment, const Snapshot& before, const uint8_t* pressed, int last) {
    environment.game.load(environment.game.target(), before.console, before.judged);
    for (int frame = 0; frame <= last; ++frame)
        environment.game.step(pressed[frame], frame >= last - 1 ? &environment.screens[frame & 1] : nullptr);
}

// The reward that PPO is shown: see the functions `reward_...` in envs/mario/rules.py.
double Vector::shape(const Outcome& outcome, const Info& before, const Info& after, bool& end) const {
    const Reward kind = static_cast<Reward>(options_.reward);
    if (kind == Reward::kEnv) return outcome.reward;
    double total = outcome.reward + (after.score - before.score) / 40.0;
    if (outcome.done) total += after.flag ? 50.0 : -50.0;
    if (kind == Reward::kScoreRules && after.world == 4 && after.stage == 4 && lost_in_4_4(after)) {
        end = true;
        return -50.0 / 10.0;
    }
    const bool rules = kind == Reward::kScoreRules, loops = kind == Reward::kScoreLoops;
    const bool in_7_4 = after.world == 7 && after.stage == 4;
    const int moved = loops ? moved_at_once(before, after) : 0;
    if (after.world == 8 && after.stage == 4) return (total + moved) / 10.0;
    if ((rules && in_7_4 && lost_in_7_4(before, after)) || moved < 0 ||
        ((rules || loops) && past_the_pipe(after))) {
        end = true;
        return (total - 50.0) / 10.0;
    }
    return total / 10.0;
}

void Vector::push(int i, int last_frame) {
    Environment& environment = *environments_[i];
    uint8_t* const stack = observations_ + static_cast<size_t>(i) * options_.stack * kObservation;
    uint8_t* const newest = stack + (options_.stack - 1) * kObservation;
    std::memmove(stack, stack + kObservation, newest - stack);
    observer_.observe(environment.screen(), last_frame > 0 ? &environment.screens[1 - environment.shown] : nullptr,
                      newest);
}

// -------------------------------------------------------------------------------------------------------------- states

size_t Vector::snapshot_size() {
    static const size_t size = measure();
    return size;
}

void Vector::save(int i, uint8_t* bytes) const {
    const Environment& environment = *environments_[i];
    const auto snapshot = std::make_unique<Snapshot>();
    environment.game.save(*snapshot);
    snapshot->screen = environment.screen();
    nes::Writer writer(bytes, snapshot_size());
    snapshot->serialize(writer);
}

void Vector::load(int i, const Target& target, const uint8_t* bytes, size_t size) {
    const auto snapshot = std::make_unique<Snapshot>();
    parse(*snapshot, bytes, size);
    Environment& environment = *environments_[i];
    environment.game.load(target, snapshot->console, snapshot->judged);
    environment.screens[0] = snapshot->screen;
    environment.shown = 0;
}

}  // namespace mario
