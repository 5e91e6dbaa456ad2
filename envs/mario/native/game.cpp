#include "game.hpp"

#include <algorithm>
#include <stdexcept>

namespace mario {

namespace {

// Addresses, named after the public disassembly and RAM maps.
constexpr int kPlayerState = 0x000e, kEnemyIds = 0x0016, kFloatState = 0x001d, kPage = 0x006d, kX = 0x0086,
              kPageY = 0x00b5;
constexpr int kScreenY = 0x03b8, kAreaTimer = 0x06de, kLives = 0x075a, kStage = 0x075c, kWorld = 0x075f, kArea = 0x0760;
constexpr int kAreaType = 0x074e, kUnderground = 2, kAreaData = 0x00e7;
constexpr int kMode = 0x0770, kLevelTimer = 0x07a0, kScore = 0x07de, kCoins = 0x07ed, kTime = 0x07f8;
constexpr uint8_t kOnPole = 0x04, kDead = 0x06, kDying = 0x0b, kWorldOver = 2, kSliding = 3, kBowser = 0x2d;
constexpr uint8_t kFlag = 0x31, kGameOver = 0xff;
constexpr uint8_t kNothing = 0, kStartButton = 8;
constexpr int kLastWorld = 7;

// The package joins the bytes as decimal texts, so a byte above 9 takes two or three places.
int number(const Ram& ram, int address, int digits) {
    int64_t value = 0;
    for (int i = 0; i < digits; ++i) {
        const int digit = ram[address + i];
        value = value * (digit > 99 ? 1000 : digit > 9 ? 100 : 10) + digit;
        value = std::min<int64_t>(value, INT32_MAX);
    }
    return static_cast<int>(value);
}

int time_left(const Ram& ram) { return number(ram, kTime, 3); }
int position(const Ram& ram) { return ram[kPage] * 256 + ram[kX]; }
bool world_over(const Ram& ram) { return ram[kMode] == kWorldOver; }
bool falls(const Ram& ram) { return ram[kPageY] > 1; }
bool dying(const Ram& ram) { return ram[kPlayerState] == kDying || falls(ram); }

// Mario walks by himself, is in a pipe, or the screen is black.
bool occupied(const Ram& ram) { return ram[kPlayerState] <= 5 || ram[kPlayerState] == 7; }

bool flag(const Ram& ram) {
    const auto ends_stage = [](uint8_t enemy) { return enemy == kBowser || enemy == kFlag; };
    return world_over(ram) ||
           (ram[kFloatState] == kSliding && std::any_of(&ram[kEnemyIds], &ram[kEnemyIds] + 5, ends_stage));
}

}  // namespace

Info decode(const Ram& ram) {
    Info info;
    info.x = position(ram);
    info.y = (ram[kPageY] < 1 ? 510 : 255) - ram[kScreenY];
    info.time = time_left(ram);
    info.score = number(ram, kScore, 6);
    info.coins = number(ram, kCoins, 2);
    info.world = ram[kWorld] + 1;
    info.stage = ram[kStage] + 1;
    info.flag = flag(ram);
    info.cleared = info.flag || ram[kPlayerState] == kOnPole;
    info.fell = falls(ram);
    info.dying = dying(ram) || ram[kPlayerState] == kDead;
    info.underground = ram[kAreaType] == kUnderground;
    info.area = ram[kAreaData] + 256 * ram[kAreaData + 1];
    return info;
}

void Snapshot::check() const {
    console.check();
    if (std::any_of(screen.begin(), screen.end(), [](uint8_t colour) { return colour >= 64; }))
        throw std::invalid_argument("state: impossible colours");
}

void Game::boot(const Target& target, nes::Screen& screen) {
    target_ = target;
    skipped_ = 0;
    Ram& ram = console_.ram();
    console_.reset();
    advance(kStartButton, nullptr);
    advance(kNothing, nullptr);
    while (time_left(ram) == 0) {
        advance(kStartButton, nullptr);
        if (target.single_stage()) {
            ram[kWorld] = static_cast<uint8_t>(target.world - 1);
            ram[kStage] = static_cast<uint8_t>(target.stage - 1);
            ram[kArea] = static_cast<uint8_t>(target.area - 1);
        }
        advance(kNothing, nullptr);
        ram[kLevelTimer] = 0;
    }
    // Waits for the clock's first tick: then the level is there and Mario can move.
    for (int last = time_left(ram); time_left(ram) >= last;) {
        last = time_left(ram);
        advance(kStartButton, nullptr);
        advance(kNothing, &screen);
    }
    judge();
}

// Reward: x moved (0 where it moved more than 5 pixels: a pipe or a new area) + clock ticks (<= 0) - 25 when dying, in
// +-15.
Outcome Game::step(uint8_t buttons, nes::Screen* screen) {
    skipped_ = 0;
    console_.step(buttons, screen);
    const Info before = info_;
    judge();
    const int moved = info_.x - before.x;
    const int reward =
        (moved >= -5 && moved <= 5 ? moved : 0) + std::min(info_.time - before.time, 0) - (info_.dying ? 25 : 0);
    const Ram& ram = console_.ram();
    bool done;
    if (target_.single_stage())
        done = info_.dying || info_.flag;
    else  // after the last world the game waits for a button for ever
        done = ram[kLives] == kGameOver || (world_over(ram) && ram[kWorld] >= kLastWorld);
    if (!done) {
        if (dying(ram)) {
            console_.ram()[kPlayerState] = kDead;
            advance(kNothing, screen);
        }
        if (!target_.single_stage()) skip_end_of_world(screen);
        skip_change_of_area();
        skip_occupied(screen);
    }
    return {static_cast<double>(std::clamp(reward, -15, 15)), done};
}

void Game::load(const Target& target, const nes::Console::State& console, const Ram& judged) {
    target_ = target;
    console_.set_state(console);
    judged_ = judged;
    info_ = decode(judged_);
}

void Game::advance(uint8_t buttons, nes::Screen* screen) {
    if (++skipped_ > kMaxSkipped) throw std::runtime_error("the game did not return to play within 6000 frames");
    console_.step(buttons, screen);
}

void Game::judge() {
    judged_ = console_.ram();
    info_ = decode(judged_);
}

void Game::skip_end_of_world(nes::Screen* screen) {
    const Ram& ram = console_.ram();
    if (!world_over(ram)) return;
    for (const int time = time_left(ram); time_left(ram) == time;) advance(kNothing, screen);
}

void Game::skip_change_of_area() {
    uint8_t& timer = console_.ram()[kAreaTimer];
    if (timer > 1 && timer < 255) timer = 1;
}

void Game::skip_occupied(nes::Screen* screen) {
    Ram& ram = console_.ram();
    while (occupied(ram) || world_over(ram)) {
        ram[kLevelTimer] = 0;
        advance(kNothing, screen);
    }
}

}  // namespace mario
