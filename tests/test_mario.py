"""Mario: ids, actions, preprocessing, rules, the frame logic over a scripted console, and nes-py itself.

D1..D11 are the known defects of published Mario code: here those that concern environments are excluded.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

import envs
from envs import checks
from envs.mario import actions, demonstrations, preprocess, rules, stages
from envs.mario.backends import EMULATORS
from envs.mario.python_vector import MarioVec
from ppo import config
from ppo.run import train
from utils.folder import Refused
from utils.seeding import Purpose, generator

RIGHT_B, RIGHT_A_B = 3, 4  # of the sets right_only, simple and complex


# ---------------------------------------------------------------------------------------------- a scripted console


class FakeConsole:
    """A console whose frame f (from 1) is a picture of one shade, f % 200 + 40, and which moves Mario 2 pixels right.

    It ends at frame `END`, at the flag where `FLAG`; every frame pays 1. As in nes-py, `screen` is one buffer for ever.
    """

    END, FLAG, SCORE_AT = 10_000, False, 0
    built: list[FakeConsole] = []

    def __init__(self, game, target):
        self.target = target
        self.screen = np.zeros((240, 256, 4), np.uint8)
        self.ram = np.zeros(2048, np.uint8)
        self.buttons: list[int] = []
        self.resets = 0
        FakeConsole.built.append(self)

    def reset(self):
        self.resets += 1
        self.buttons = []
        self.ram[:] = 0
        world, stage = self.target or (1, 1)
        self.ram[[0x75F, 0x75C, 0xB5, 0x0E, 0x7F8]] = [world - 1, stage - 1, 1, 8, 4]
        self._draw()

    def _draw(self):
        frame = len(self.buttons)
        self.screen[:] = frame % 200 + 40
        x = 40 + 2 * frame
        self.ram[0x6D], self.ram[0x86] = divmod(x, 256)
        self.ram[0x7E2] = 1 if self.SCORE_AT and frame >= self.SCORE_AT else 0  # tens of the score
        self.judged = self.ram.tobytes()

    def step(self, buttons):
        self.buttons.append(buttons)
        done = len(self.buttons) >= self.END
        if done:
            self.ram[0x770] = 2 if self.FLAG else 1
            self.ram[0x0E] = 8 if self.FLAG else 0x0B
        self._draw()
        return 1.0, done

    def close(self):
        self.screen = self.ram = np.zeros(0, np.uint8)


def versions():
    """The scripted console's stand-in for package versions."""
    return {"fake": "1"}


@pytest.fixture
def fake(monkeypatch):
    """Make Mario environments over the scripted console: fake(end=, flag=, **options)."""
    monkeypatch.setitem(EMULATORS, "fake", (__name__, "FakeConsole"))
    monkeypatch.setattr(FakeConsole, "built", [])

    def make(
        num_envs=1, seed=0, first_index=0, env_id="SuperMarioBros-1-1-v0", end=10_000, flag=False, score_at=0, **kw
    ):
        monkeypatch.setattr(FakeConsole, "END", end)
        monkeypatch.setattr(FakeConsole, "FLAG", flag)
        monkeypatch.setattr(FakeConsole, "SCORE_AT", score_at)
        return envs.make_vec(env_id, num_envs, seed, first_index=first_index, emulator="fake", **kw)

    return make


def shades(obs):
    """Return the one shade of every frame of the first environment's stack."""
    assert (obs[0] == obs[0, :, :1, :1]).all()
    return obs[0, :, 0, 0].tolist()


def one(action):
    """Return an action for one environment."""
    return np.array([action])


# ------------------------------------------------------------------------------------------------ ids and actions


def test_ids_are_those_of_the_ecosystem():
    """Every id names its ROM file, stage and area; there are 32 stages in 4 variants and 16 Lost stages in 2."""
    names = stages.ids()
    assert len(names) == len(set(names)) == 4 * (32 + 2) + 2 * (16 + 1)
    assert all(stages.parse(name) is not None for name in names)
    assert stages.parse("SuperMarioBros-8-4-v3") == stages.Game(False, "rectangle", (8, 4), False)
    assert stages.parse("SuperMarioBros2-1-2-v1").rom_file == "super-mario-bros-2-downsample.nes"
    assert stages.parse("SuperMarioBros-v0").rom_file == "super-mario-bros.nes"
    for bad in ("SuperMarioBros-0-1-v0", "SuperMarioBros-1-5-v0", "SuperMarioBros-01-1-v0", "SuperMarioBros-1-1-v4"):
        assert stages.parse(bad) is None
    for bad in (
        "SuperMarioBros-1-1-v0 ",
        "SuperMarioBrosRandomStages-1-1-v0",
        "SuperMarioBros2-v2",
        "SuperMarioBros-1-1",
    ):
        assert stages.parse(bad) is None


@pytest.mark.reference
def test_ids_cover_what_the_package_registers():
    """Every id that gym-super-mario-bros registers is known, with its ROM file, target and area."""
    from envs.mario.nespy import _import_quietly

    _import_quietly()
    import gym
    from gym_super_mario_bros._roms import decode_target, rom_path

    registered = {name: spec for name, spec in gym.envs.registry.items() if name.startswith("SuperMario")}
    assert len(registered) == 4 * 34 + 2
    for name, spec in registered.items():
        game = stages.parse(name)
        assert (game.rom_mode, game.lost, game.target) == (
            spec.kwargs["rom_mode"],
            spec.kwargs.get("lost_levels", False),
            spec.kwargs.get("target"),
        )
        assert str(stages.rom_path(game)) == rom_path(game.lost, game.rom_mode)
    for lost, known in ((False, stages.STAGES), (True, stages.LOST_STAGES)):
        for world, stage in known:
            assert stages.area(world, stage, lost) == decode_target((world, stage), lost)[2]


@pytest.mark.reference
def test_action_sets_are_those_of_the_package():
    """The named action sets hold the package's combinations in its order, and the bytes are those of its joypad."""
    from envs.mario.nespy import _import_quietly

    _import_quietly()
    from gym_super_mario_bros.actions import COMPLEX_MOVEMENT, RIGHT_ONLY, SIMPLE_MOVEMENT
    from nes_py.wrappers import JoypadSpace

    assert actions.resolve("right_only") == RIGHT_ONLY
    assert actions.resolve("simple") == SIMPLE_MOVEMENT
    assert actions.resolve("complex") == COMPLEX_MOVEMENT
    assert JoypadSpace._button_map == actions.BUTTONS
    assert actions.button_byte(["right", "A", "B"]) == 0b10000011
    assert actions.resolve([[], ["left", "A"]]) == [[], ["left", "A"]]


# -------------------------------------------------------------------------------------------------- preprocessing


def test_gray_is_opencvs():
    """Gray equals cv2.cvtColor on each of the 2**24 colours, and on strided pictures."""
    cv2 = pytest.importorskip("cv2")
    shade = np.arange(256, dtype=np.uint8)
    image = np.zeros((256, 256, 4), np.uint8)
    image[..., 1], image[..., 2] = shade[:, None], shade[None, :]
    for blue in range(256):
        image[..., 0] = blue
        assert np.array_equal(preprocess.gray(image), cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY))
    noise = np.random.default_rng(0).integers(0, 256, (240, 256, 4), dtype=np.uint8)
    assert np.array_equal(preprocess.gray(noise), cv2.cvtColor(noise[:, :, 2::-1].copy(), cv2.COLOR_RGB2GRAY))
    strided = noise[::2, ::-1]
    assert np.array_equal(preprocess.gray(strided), cv2.cvtColor(strided.copy(), cv2.COLOR_BGRA2GRAY))


def test_gray_by_hand():
    """White is 255, red (9798 * 255 + 16384) >> 15 = 76, green 150, blue 29; the fourth byte does not count."""
    colours = np.array([[[255, 255, 255, 9], [0, 0, 255, 9], [0, 255, 0, 9], [255, 0, 0, 9]]], np.uint8)
    assert preprocess.gray(colours).tolist() == [[255, 76, 150, 29]]


def test_box_weights_by_hand():
    """240 rows: output row 0 is 2 whole rows and 6/7 of the third; 256 columns: 3 whole ones and 1/21 of the fourth."""
    rows, groups = preprocess._pattern(240)
    assert (rows.shape, groups) == ((7, 20), 12)
    assert rows[0].tolist() == [7, 7, 6] + 17 * [0]
    assert rows[1, :7].tolist() == [0, 0, 1, 7, 7, 5, 0]
    columns, groups = preprocess._pattern(256)
    assert (columns.shape, groups) == ((21, 64), 4)
    assert columns[0, :5].tolist() == [21, 21, 21, 1, 0]
    assert (rows.sum(1) == 20).all() and (columns.sum(1) == 64).all()


@pytest.mark.parametrize("height", [240, 208, 239, 84, 42])
def test_box_resize_is_the_exact_area_average(height):
    """The resized image is the exact box average, rounded half up, for any number of rows."""
    image = np.random.default_rng(height).integers(0, 256, (height, 256), dtype=np.uint8)
    rows = np.repeat(image.astype(np.int64), 84, 0).reshape(84, height, 256).sum(1)  # every row 84 times, then grouped
    sums = np.repeat(rows, 84, 1).reshape(84, 84, 256).sum(2)
    expected = (2 * sums + height * 256) // (2 * height * 256)
    assert np.array_equal(preprocess.BoxResize(height, 256)(image), expected)


def test_box_resize_rounds_half_up():
    """Of two rows that share an output pixel equally, 1 and 2 average to 2, and 0 and 1 to 1."""
    image = np.tile(np.array([[0], [1], [1], [2]], np.uint8), (42, 84))
    assert preprocess.BoxResize(168, 84)(image)[:2, 0].tolist() == [1, 2]


def test_preprocess_is_frozen():
    """Version 1 gives these very bytes for this picture: trained policies depend on it."""
    frames = np.random.default_rng(1).integers(0, 256, (2, 240, 256, 4), dtype=np.uint8)
    full, cropped = (preprocess.Preprocess(crop)(*frames) for crop in (False, True))
    assert preprocess.PREPROCESS_VERSION == 1
    assert hashlib.sha256(full.tobytes()).hexdigest()[:16] == "c794a78dc86faa59"
    assert hashlib.sha256(cropped.tobytes()).hexdigest()[:16] == "c9a39aa839be3a08"


def test_cropping_leaves_out_the_score_line():
    """With crop_hud the first 32 rows of the screen do not matter, and the others do."""
    screen = np.zeros((240, 256, 4), np.uint8)
    screen[:32] = 255
    assert not preprocess.Preprocess(True)(screen).any() and preprocess.Preprocess(False)(screen).any()
    screen[32] = 255
    assert preprocess.Preprocess(True)(screen)[0].all()


# ---------------------------------------------------------------------------------------------------------- rules


def memory(**cells):
    """Return 2048 bytes of RAM: Mario alive on the screen of 1-1, with some cells set by name."""
    ram = bytearray(2048)
    for name, value in {"player_y_page": 1, "player_state": 8, "game_mode": 1, "time_hundreds": 4, **cells}.items():
        ram[rules.RAM[name]] = value
    return bytes(ram)


def test_positions_do_not_overflow():
    """D9: page 12 and byte 200 are pixel 3272 and y above the screen is beyond 255, as plain Python ints."""
    info = rules.decode(memory(player_page=12, player_x=200, player_y_page=0, player_y_on_screen=200))
    assert (info.x_pos, info.y_pos) == (12 * 256 + 200, 255 + 55)
    assert all(type(value) in (int, bool, str) for value in info)


def test_decoding_by_hand():
    """Digits, lives, stage and power are read from their places."""
    ram = bytearray(memory(world=7, stage=3, lives=255, player_power=2, time_hundreds=3, time_tens=9, time_ones=8))
    ram[0x7DE:0x7E4] = bytes([0, 1, 2, 3, 5, 0])
    ram[0x7ED:0x7EF] = bytes([4, 2])
    info = rules.decode(bytes(ram))
    assert (info.world, info.stage, info.life, info.status) == (8, 4, 255, "fireball")
    assert (info.score, info.coins, info.time, info.flag_get) == (12350, 42, 398, False)


def test_flag_is_the_pole_or_the_last_castle_but_not_a_vine():
    """Sliding counts as the flag only while the flag (or Bowser) is on the screen; the end of a world always does."""
    assert not rules.decode(memory(player_float_state=3)).flag_get
    assert rules.decode(memory(player_float_state=3, enemy_id_4=0x31)).flag_get
    assert rules.decode(memory(player_float_state=3, enemy_id_0=0x2D)).flag_get
    assert not rules.decode(memory(enemy_id_0=0x31)).flag_get
    assert rules.decode(memory(game_mode=2)).flag_get


def test_cause_of_an_end():
    """An end is told apart as flag, timeout, pit or enemy; the whole game ends by game over."""
    assert rules.end_cause(rules.decode(memory(game_mode=2)), True) == "flag"
    assert rules.end_cause(rules.decode(memory(player_state=0x0B)), True) == "enemy"
    assert rules.end_cause(rules.decode(memory(player_y_page=2)), True) == "pit"
    assert rules.end_cause(rules.decode(memory(player_state=0x0B, time_hundreds=0)), True) == "timeout"
    assert rules.end_cause(rules.decode(memory(player_state=0x0B, lives=255)), False) == "game_over"


def transition(before, after, done=False, env_reward=0.0):
    """Return the transition between two memories."""
    return rules.Transition(env_reward, done, rules.decode(before), rules.decode(after), before, after)


def test_environment_reward_by_hand():
    """3 pixels right and a tick of the clock are 3 - 1; a jump of 6 counts 0; a death is clipped to -15."""
    before = memory(player_x=40)
    steps = [
        (memory(player_x=43, time_hundreds=3, time_tens=9, time_ones=9), 2),
        (memory(player_x=46), 0),
        (memory(player_x=35), -5),
        (memory(player_x=42, player_state=0x0B), -15),
        (memory(player_x=42, player_y_page=2), -15),
        (memory(player_x=40, time_hundreds=5), 0),
    ]
    for after, reward in steps:
        assert rules.env_reward(rules.decode(before), rules.decode(after)) == reward


def test_score_reward_by_hand():
    """(2 + 200 / 40) / 10 = 0.7; at the flag 50 more, at any other end 50 less; a truncation is none."""
    plain, scored = memory(), memory(score_digit_4=2)  # digits of 10**2: 200 points, as 0x7DE + 3
    score = rules.decode(scored).score
    assert score == 200
    assert rules.reward_score(transition(plain, scored, env_reward=2.0)) == (pytest.approx(0.7), False)
    flag = memory(score_digit_4=2, game_mode=2)
    assert rules.reward_score(transition(plain, flag, True, 2.0)) == (pytest.approx(5.7), False)
    assert rules.reward_score(transition(plain, scored, True, -15.0)) == (pytest.approx(-6.0), False)
    assert rules.reward_env(transition(plain, flag, True, 2.0)) == (2.0, False)


def at(x, y, **cells):
    """Return the memory of Mario at pixel x, y above the bottom."""
    return memory(player_page=x // 256, player_x=x % 256, player_y_on_screen=255 - y, **cells)


@pytest.mark.parametrize(
    ("x", "y", "lost"),
    [
        (1500, 126, True),
        (1500, 127, False),
        (1501, 0, False),
        (1588, 127, True),
        (1588, 126, False),
        (2380, 200, False),
    ],
)
def test_rule_of_4_4(x, y, lost):
    """On the wrong path of 4-4 the frame pays -5 and the episode ends; elsewhere it is `score`."""
    where = {"world": 3, "stage": 3}
    t = transition(at(x, y, **where), at(x, y, **where), env_reward=3.0)
    assert rules.reward_score_rules(t) == ((-5.0, True) if lost else (pytest.approx(0.3), False))
    away = transition(at(x, y), at(x, y), env_reward=3.0)
    assert rules.reward_score_rules(away) == (pytest.approx(0.3), False)


@pytest.mark.parametrize(
    ("x", "y", "lost"),
    [
        *((506, 128, True), (506, 127, False), (505, 200, False), (832, 128, True), (833, 79, True), (833, 80, False)),
        *((1113, 0, False), (1114, 190, True), (1464, 191, False), (1580, 190, True), (1943, 191, False)),
        *((1947, 191, True), (1964, 190, False), (1985, 126, True), (1985, 127, False), (2060, 191, True)),
        *((2115, 190, True), (2439, 191, False), (2440, 0, False)),
    ],
)
def test_rule_of_7_4(x, y, lost):
    """On a wrong floor of 7-4 the frame pays 5 less and the episode ends."""
    where = {"world": 6, "stage": 3}
    t = transition(at(x, y, **where), at(x, y, **where), env_reward=3.0)
    assert rules.reward_score_rules(t) == ((pytest.approx(-4.7), True) if lost else (pytest.approx(0.3), False))


def test_rule_of_7_4_when_sent_back():
    """Being sent back by more than 500 pixels ends 7-4; exactly 500 does not."""
    where = {"world": 6, "stage": 3}
    for back, lost in ((500, False), (501, True)):
        assert rules.reward_score_rules(transition(at(980, 0, **where), at(980 - back, 0, **where)))[1] is lost


@pytest.mark.parametrize(("back", "area", "lost"), [(500, 0, False), (501, 0, True), (1024, 0, True), (1024, 1, False)])
def test_rule_of_loops(back, area, lost):
    """Sent back in one area, the frame pays 5 less and the episode ends; another area begins where it likes."""
    t = transition(at(1480, 0, world=3, stage=3), at(1480 - back, 0, world=3, stage=3, area_data_low=area))
    assert rules.reward_score_loops(t) == (pytest.approx(-5.0 if lost else 0.0), lost)
    low = at(1400, 79, world=3, stage=3)  # where the rule of 4-4 sees a wrong way
    assert rules.reward_score_loops(transition(low, low)) == (0.0, False)


@pytest.mark.parametrize(("to", "area", "paid"), [(480, 0, -100.0), (980, 0, 0.0), (3000, 0, 152.0), (40, 1, 0.0)])
def test_the_loops_of_8_4_are_part_of_its_way(to, area, paid):
    """Ground that is lost is paid, and what a pipe skips is earned; the episode goes on."""
    t = transition(at(1480, 0, world=7, stage=3), at(to, 0, world=7, stage=3, area_data_low=area))
    assert rules.reward_score_loops(t) == (pytest.approx(paid), False)


@pytest.mark.parametrize("reward", [rules.reward_score_rules, rules.reward_score_loops])
@pytest.mark.parametrize(
    ("world", "stage", "x", "kind", "lost"),
    [
        *((1, 2, 2721, 2, True), (1, 2, 2720, 2, False), (1, 2, 2900, 1, False)),
        *((4, 2, 3057, 2, True), (4, 2, 3056, 2, False), (4, 2, 3100, 1, False), (5, 2, 3100, 2, False)),
    ],
)
def test_rule_of_the_warp_zones(world, stage, x, kind, lost, reward):
    """Past the pipe that leads out of 1-2 or 4-2 the frame pays 5 less and the episode ends; outside it goes on."""
    there = at(x, 100, world=world - 1, stage=stage - 1, area_type=kind)
    found = reward(transition(there, there, env_reward=3.0))
    assert found == ((pytest.approx(-4.7), True) if lost else (pytest.approx(0.3), False))


def reward_of_frame_counter(t):
    """A user's reward: what the RAM holds, and the end at pixel 60."""
    return float(t.ram[rules.RAM["player_x"]]), t.after.x_pos >= 60


def test_user_reward_sees_the_ram_and_ends_episodes(fake):
    """A reward "module:function" is paid per frame from the RAM; its end is a termination with the cause "rule"."""
    env = fake(reward=f"{__name__}:reward_of_frame_counter", end=1000)
    env.reset()
    _, rewards, terminated, _, infos = env.step(one(0))
    assert rewards[0] == 42 + 44 + 46 + 48 and infos["env_reward"][0] == 4
    env.step(one(0))
    _, rewards, terminated, _, infos = env.step(one(0))
    assert (rewards[0], bool(terminated[0])) == (58 + 60, True)
    record = infos["episodes"][0]
    assert (record["cause"], record["ep_ret"], record["x_max"], record["flag"]) == ("rule", 10.0, 60, False)


@pytest.mark.parametrize("found", ["1", None, (1.0, "no"), (1.0, float("nan")), (1.0, True, 2), float("inf"), [1.0]])
def test_what_a_user_reward_must_not_return(found, fake, monkeypatch):
    """A message that names the function and what it gave: at the start, and wherever it gives it later."""
    monkeypatch.setitem(globals(), "odd_reward", lambda t: found)
    with pytest.raises(ValueError, match="odd_reward returned .*expected a finite number"):
        fake(reward=f"{__name__}:odd_reward").reset()
    given = iter([0.0, found])
    monkeypatch.setitem(globals(), "odd_reward", lambda t: next(given))
    env = fake(reward=f"{__name__}:odd_reward")
    env.reset()
    with pytest.raises(ValueError, match="odd_reward returned .*expected a finite number"):
        env.step(one(0))


def test_a_reward_that_fails_is_refused_before_anything_is_written(tmp_path):
    """It is called once at the start, for a frame in which nothing moves."""
    settings = {"preset": "near", "num_envs": 1, "steps_per_epoch": 8, "minibatch_size": 8, "epochs": 1}
    cfg = config.build(**settings, reward=f"{__name__}:no_such_attribute", data_dir=str(tmp_path))
    with pytest.raises(Refused, match="reward: .*no_such_attribute: AttributeError: .*'speed'"):
        train(cfg)
    assert not any(tmp_path.iterdir())


def no_such_attribute(t):
    return t.after.speed


def odd_reward(t):
    """Replaced by the tests."""


def test_a_user_reward_cannot_end_the_process_in_silence(fake, monkeypatch):
    monkeypatch.setitem(globals(), "odd_reward", lambda t: sys.exit(0))
    with pytest.raises(ValueError, match="odd_reward raised SystemExit"):
        fake(reward=f"{__name__}:odd_reward").reset()


def test_names_of_ram():
    """Every name of the table is an address of the console's memory; addresses are taken as well."""
    assert all(0 <= address < 2048 for address in rules.RAM.values())
    assert rules.ram_address("player_x_speed") == 0x57 == rules.ram_address("0x0057")
    assert rules.ram_address("buttons_ab") == 0x0A


# ---------------------------------------------------------------------------------------------- logic of the frames


def test_a_decision_is_four_frames_and_pays_their_sum(fake):
    """D2: skip 4 plays exactly 4 frames with the same buttons and pays the sum of all four rewards."""
    env = fake()
    env.reset()
    _, rewards, _, _, infos = env.step(one(RIGHT_B))
    assert FakeConsole.built[0].buttons == [0b10000010] * 4
    assert rewards.tolist() == [4.0] and infos["env_reward"].tolist() == [4.0]


@pytest.mark.parametrize("skip", [1, 2, 3, 4, 6])
def test_the_stack_is_spaced_by_decisions(fake, skip):
    """D2: the frames of a stack are `skip` frames apart, each the brighter of the decision's last two frames."""
    env = fake(skip=skip)
    obs, _ = env.reset()
    assert shades(obs) == [40] * 4
    for _ in range(5):
        obs, *_ = env.step(one(0))
    assert shades(obs) == [40 + skip * k for k in (2, 3, 4, 5)]


def test_the_maximum_is_of_copies(fake):
    """The screen is one buffer that every frame overwrites: the frame before the last is still seen in the maximum."""
    env = fake()
    env.reset()
    for _ in range(50):
        obs, *_ = env.step(one(0))
    assert shades(obs)[-1] == 239  # frame 199 has shade 239, frame 200 shade 40


@pytest.mark.parametrize(("end", "last"), [(5, 45), (6, 46), (7, 47), (8, 48)])
def test_an_early_end_shows_its_own_last_two_frames(fake, end, last):
    """D10: an episode that ends within a decision is shown by the maximum of its own last two frames."""
    env = fake(end=end, flag=True)
    env.reset()
    env.step(one(0))
    obs, rewards, terminated, truncated, infos = env.step(one(0))
    assert terminated[0] and not truncated[0] and rewards[0] == end - 4
    assert shades(infos["final_obs"]) == [40, 40, 44, last]
    assert shades(obs) == [40] * 4  # D6: the new episode's first frame, not a stale one


def test_an_early_end_after_one_frame_does_not_see_the_decision_before(fake):
    """The only frame of a decision is shown alone, though the frame before it was brighter."""
    env = fake(end=201)
    env.reset()
    for _ in range(51):
        *_, infos = env.step(one(0))
    assert shades(infos["final_obs"])[-1] == 41  # frame 201; frame 200 had 40, frame 199 239
    assert infos["final_obs"][0, -2].max() == 239


def test_a_step_limit_is_a_truncation(fake):
    """D3, D8: the step limit truncates, with its own cause, and takes nothing from the reward."""
    env = fake(max_episode_steps=3, reward="score")
    env.reset()
    for _ in range(3):
        obs, rewards, terminated, truncated, infos = env.step(one(0))
    assert truncated[0] and not terminated[0] and rewards[0] == pytest.approx(0.4)
    record = infos["episodes"][0]
    assert (record["cause"], record["ep_len"], record["terminated"]) == ("step_limit", 3, False)
    assert shades(infos["final_obs"]) == [40, 44, 48, 52] and shades(obs) == [40] * 4


def test_an_end_at_the_step_limit_is_a_termination(fake):
    """An episode whose last allowed step is also its death has died."""
    env = fake(max_episode_steps=3, end=12)
    env.reset()
    for _ in range(3):
        _, _, terminated, truncated, infos = env.step(one(0))
    assert terminated[0] and not truncated[0] and infos["episodes"][0]["cause"] == "enemy"


def test_every_episode_is_recorded(fake):
    """D11: every finished episode has its record, flag or not, with all of the promised fields."""
    env = fake(end=8, flag=True, reward="score", score_at=8)
    env.reset()
    records = []
    for _ in range(6):
        records += env.step(one(0))[-1]["episodes"]
    assert [record["episode"] for record in records] == [0, 1, 2]
    assert tuple(sorted(records[0])) == tuple(sorted(MarioVec.episode_fields))
    assert records[0] == {
        "env": 0,
        "episode": 0,
        "ep_ret": 8.0,
        "train_ret": pytest.approx((8 + 10 / 40 + 50) / 10),
        "ep_len": 2,
        "terminated": True,
        "flag": True,
        "cause": "flag",
        "x_max": 56,
        "score": 10,
        "time_left": 400,
        "coins": 0,
        "world": 1,
        "stage": 1,
        "stages_cleared": 1,
        "start_frames": 0,
    }


def test_sticky_frames_repeat_the_buttons_before(fake):
    """Frame by frame, one uniform below `sticky` repeats the frame before; 0 never does, and the stream is named."""
    env = fake(sticky=0.5, seed=3, first_index=2)
    env.reset()
    for action in (1, 2, 3, 4, 5, 6):
        env.step(one(action))
    wanted = [actions.button_byte(buttons) for buttons in actions.ACTION_SETS["simple"][1:] for _ in range(4)]
    expected, previous = [], 0
    for byte, draw in zip(wanted, generator(3, 2, Purpose.STICKY, 0).random(24), strict=True):
        previous = previous if draw < 0.5 else byte
        expected.append(previous)
    assert FakeConsole.built[0].buttons == expected != wanted
    env = fake(sticky=0.0)
    env.reset()
    for action in (1, 2, 3, 4, 5, 6):
        env.step(one(action))
    assert FakeConsole.built[1].buttons == wanted


def test_almost_always_sticky(fake):
    """With sticky near 1 hardly any button gets through."""
    env = fake(sticky=0.999)
    env.reset()
    for _ in range(10):
        env.step(one(RIGHT_B))
    assert FakeConsole.built[0].buttons.count(0) > 35


def test_start_frames_are_drawn_per_episode(fake):
    """0..start_frames frames are played before an episode, another count each time; they pay nothing."""
    env = fake(start_frames=30, end=40, num_envs=2)
    obs, _ = env.reset()
    counts = [env.envs[0].start_count, env.envs[1].start_count]
    assert shades(obs) == [40 + counts[0]] * 4
    records = []
    for _ in range(200):
        records += env.step(np.array([RIGHT_B, RIGHT_B]))[-1]["episodes"]
    assert len({record["start_frames"] for record in records}) > 10
    assert all(0 <= record["start_frames"] <= 30 for record in records)
    assert all(record["ep_ret"] == 40 - record["start_frames"] for record in records)
    for record in records:
        draw = generator(0, record["env"], Purpose.START, record["episode"]).integers(31)
        assert record["start_frames"] == draw


@pytest.mark.parametrize("mode", ["noop", "random"])
def test_start_modes(fake, mode):
    """ "noop" presses nothing in the start frames; "random" presses actions of the set."""
    env = fake(start_frames=30, start_mode=mode, seed=1, actions="complex")
    env.reset()
    pressed = set(FakeConsole.built[0].buttons)
    assert len(FakeConsole.built[0].buttons) == env.envs[0].start_count > 5
    allowed = {actions.button_byte(buttons) for buttons in actions.ACTION_SETS["complex"]}
    assert pressed == {0} if mode == "noop" else (len(pressed) > 2 and pressed <= allowed)


def test_an_end_in_the_start_frames_starts_again_without_them(fake):
    """An episode that ends in its start frames begins again at its first frame."""
    env = fake(start_frames=30, end=3, seed=1)
    obs, _ = env.reset()
    assert (shades(obs), env.envs[0].start_count, FakeConsole.built[0].resets) == ([40] * 4, 0, 2)


def test_ram_info(fake):
    """RAM by name comes in the infos of reset and step, one byte per environment, of what the observation shows."""
    env = fake(num_envs=2, ram_info=("player_x", "0x0075f"), end=8)
    _, infos = env.reset()
    assert infos["player_x"].dtype == np.uint8 and infos["player_x"].tolist() == [40, 40]
    assert env.step(np.array([0, 0]))[-1]["player_x"].tolist() == [48, 48]
    infos = env.step(np.array([0, 0]))[-1]
    assert infos["player_x"].tolist() == [40, 40] and [row["x_max"] for row in infos["episodes"]] == [56, 56]


def test_random_stages_share_their_consoles(fake):
    """Random stages draw from the named stream among the given stages, and build a console per stage in use only."""
    env = fake(num_envs=3, env_id="SuperMarioBrosRandomStages-v0", stages=["1-1", "4-2", "8-4"], end=4)
    env.reset()
    records = []
    for _ in range(30):
        records += env.step(np.zeros(3, int))[-1]["episodes"]
    drawn = [(record["world"], record["stage"]) for record in records]
    assert set(drawn) == {(1, 1), (4, 2), (8, 4)}
    for record, stage in zip(records, drawn, strict=True):
        pick = generator(0, record["env"], Purpose.STAGE, record["episode"]).integers(3)
        assert stage == [(1, 1), (4, 2), (8, 4)][pick]
    assert len(FakeConsole.built) <= 9


def test_a_stage_is_cleared_once(fake):
    """A flag that is seen, lost and seen again in the same stage counts once; in the next stage it counts again."""
    env = fake(env_id="SuperMarioBros-v0")
    env.reset()
    console = FakeConsole.built[0]
    counts = []
    for mode, stage in ((1, 0), (2, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 1)):
        console.ram[0x770], console.ram[0x75C] = mode, stage
        env.step(one(0))
        counts.append(env.envs[0].cleared)
    assert counts == [0, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sticky": 0.3, "start_frames": 30, "start_mode": "random", "max_episode_steps": 13, "ram_info": ["player_x"]},
        {"env_id": "SuperMarioBrosRandomStages-v0", "stages": ["1-1", "2-2", "3-3"], "end": 37, "reward": "score"},
        {"skip": 3, "stack": 2, "crop_hud": True, "end": 50, "threads": 2},
    ],
)
def test_contract_over_the_scripted_console(fake, options):
    """The frame logic keeps the vector contract with all of its options."""
    checks.check_vec_env(lambda **place: fake(**{"end": 90, **options, **place}), steps=60)


def test_render_is_a_copy_in_rgb(fake):
    """The rendered pictures are (240, 256, 3) copies."""
    env = fake()
    env.reset()
    picture = env.render()[0]
    env.step(one(0))
    assert picture.shape == (240, 256, 3) and (picture == 40).all()


# --------------------------------------------------------------------------------------------------------- nes-py


def mario(env_id="SuperMarioBros-1-1-v0", num_envs=1, seed=0, **options):
    """Return Mario environments over nes-py."""
    return envs.make_vec(env_id, num_envs, seed, emulator="nes-py", **options)


@pytest.mark.reference
def test_nespy_keeps_the_contract():
    """Mario 1-1 over nes-py keeps the vector contract: split, seeds, autoreset, exact states."""
    options = {"sticky": 0.25, "start_frames": 8, "start_mode": "random", "max_episode_steps": 9, "reward": "score"}
    checks.check_vec_env(lambda **place: mario(**place, **options), steps=14)


@pytest.mark.reference
def test_running_right_dies_at_the_first_goomba():
    """Running right without a jump in 1-1 dies at the first goomba after 27 decisions, and dies there every time."""
    env = mario(num_envs=1, reward="env")
    first = env.reset()[0].copy()
    assert np.array_equal(first[0, 0], first[0, 3]) and first.std() > 10
    for _ in range(27):
        obs, rewards, terminated, truncated, infos = env.step(one(RIGHT_B))
    record = infos["episodes"][0]
    assert terminated[0] and (record["cause"], record["x_max"], record["ep_len"]) == ("enemy", 315, 27)
    assert record["ep_ret"] == 252.0 and record["time_left"] == 395
    assert np.array_equal(obs, first) and not np.array_equal(infos["final_obs"], first)
    env.close()


@pytest.mark.reference
def test_reward_and_frames_are_the_packages():
    """Rewards, ends and observations equal those of the package's environment, stepped by hand and its RGB copied."""
    cv2 = pytest.importorskip("cv2")
    from gym_super_mario_bros.smb_env import SuperMarioBrosEnv

    env, peer = mario(actions="complex"), SuperMarioBrosEnv(target=(1, 1))
    env.reset()
    peer.reset()
    buttons = [actions.button_byte(one_action) for one_action in actions.ACTION_SETS["complex"]]
    resize = preprocess.BoxResize(240, 256)
    for action in np.random.default_rng(5).choice([1, 2, 3, 4, 4, 4], 60):
        before = rules.decode(peer.ram.tobytes())
        total, grays = 0.0, []
        for _ in range(4):
            screen, reward, done, info = peer.step(buttons[action])
            after = rules.decode(peer.ram.tobytes())
            assert rules.env_reward(before, after) == reward
            assert all(getattr(after, name) == value for name, value in info.items())
            before = after
            grays.append(cv2.cvtColor(screen.copy(), cv2.COLOR_RGB2GRAY))
            total += reward
            if done:
                break
        obs, rewards, terminated, _, infos = env.step(one(action))
        assert rewards[0] == total and terminated[0] == done
        shown = infos["final_obs"] if done else obs
        assert np.array_equal(shown[0, -1], resize(np.maximum.reduce(grays[-2:])))
        if done:
            record = infos["episodes"][0]
            assert (record["score"], record["time_left"]) == (info["score"], info["time"])
            break
    env.close()
    peer.close()


@pytest.mark.reference
def test_other_process_resumes_exactly(tmp_path):
    """A state restored in another process gives the same observation and the same next steps."""
    options = {"sticky": 0.2, "start_frames": 10, "reward": "score"}
    env = mario(num_envs=2, seed=5, **options)
    env.reset()
    for _ in range(12):
        obs = env.step(np.array([RIGHT_B, RIGHT_A_B]))[0]
    states = env.get_state()
    assert all(len(state) < 20_000 for state in states)
    for i, state in enumerate(states):
        (tmp_path / f"{i}").write_bytes(state)
    code = f"""
import sys, hashlib, pathlib, numpy as np, envs
env = envs.make_vec("SuperMarioBros-1-1-v0", 2, 5, emulator="nes-py", **{options!r})
digest = hashlib.sha256(env.set_state([pathlib.Path(sys.argv[1], name).read_bytes() for name in "01"]).tobytes())
for _ in range(12):
    obs, rewards, *_ = env.step(np.array([3, 4]))
    digest.update(obs.tobytes() + rewards.tobytes())
print(digest.hexdigest())
"""
    digest = hashlib.sha256(obs.tobytes())
    for _ in range(12):
        obs, rewards, *_ = env.step(np.array([RIGHT_B, RIGHT_A_B]))
        digest.update(obs.tobytes() + rewards.tobytes())
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (digest.hexdigest(), "")  # and gym prints no notice
    env.close()


@pytest.mark.reference
def test_reset_forgets_what_was_played():
    """The same buttons lead to the same memory and screen, whatever was played before the reset and in any console."""
    from envs.mario.nespy import NesPyBackend

    game = stages.parse("SuperMarioBros-4-2-v0")
    keys = np.random.default_rng(0).choice([128, 129, 130, 131, 1, 64], 40).tolist()

    def trace(console):
        console.reset()
        return [(console.step(key), console.ram.tobytes(), console.screen.tobytes()) for key in keys]

    console = NesPyBackend(game, (4, 2))
    first = trace(console)
    for _ in range(50):
        console.step(131)
    assert trace(console) == first
    console.close()
    again = NesPyBackend(game, (4, 2))
    assert trace(again) == first
    again.close()


@pytest.mark.reference
def test_running_out_of_time():
    """When the clock runs out the episode ends with the cause "timeout"."""
    env = mario()
    env.reset()
    env.envs[0].backend.ram[0x7F8:0x7FB] = [0, 0, 2]
    infos = {"episodes": []}
    for _ in range(30):
        if infos["episodes"]:
            break
        *_, infos = env.step(one(0))
    assert infos["episodes"][0]["cause"] == "timeout" and infos["episodes"][0]["time_left"] == 0
    env.close()


@pytest.mark.reference
def test_falling_is_a_pit():
    """A fall below the screen ends the episode with the cause "pit"."""
    env = mario()
    env.reset()
    env.envs[0].backend.ram[0xB5] = 2
    *_, infos = env.step(one(0))
    assert infos["episodes"][0]["cause"] == "pit"
    env.close()


@pytest.mark.reference
def test_whole_game_survives_a_death_and_ends_when_it_is_won():
    """A death in the whole game costs a life and goes on; after 8-4 the episode ends instead of waiting for ever."""
    env = mario("SuperMarioBros-v0", ram_info=("lives",))
    assert env.reset()[1]["lives"][0] == 2
    for _ in range(30):
        *_, terminated, _, infos = env.step(one(RIGHT_B))
        assert not terminated[0]
    assert infos["lives"][0] == 1
    env.envs[0].backend.ram[0x75F], env.envs[0].backend.ram[0x770] = 7, 2
    *_, infos = env.step(one(0))
    record = infos["episodes"][0]
    assert (record["cause"], record["flag"], record["stages_cleared"], record["world"]) == ("flag", True, 1, 8)
    env.close()


@pytest.mark.parametrize("emulator", ["native", pytest.param("nes-py", marks=pytest.mark.reference)])
def test_a_pole_that_is_touched_in_a_fall_counts(emulator):
    """The rule that ends an episode asks for a climb; in the whole game the stage is cleared all the same."""
    way = demonstrations.read(demonstrations.SHIPPED / demonstrations.file_name("SuperMarioBros-1-1-v0"))
    used = sorted(set(way.buttons))
    combinations = [[name for name, bit in actions.BUTTONS.items() if bit & byte] for byte in used]
    env = envs.make_vec("SuperMarioBros-v0", 1, 0, emulator=emulator, actions=combinations, skip=way.skip)
    env.reset()
    ram, counts = env._ram(0), []
    for byte in way.buttons:
        env.step(one(used.index(byte)))
        counts.append(env._row(0, "")["stages_cleared"])
        if 256 * int(ram[0x6D]) + int(ram[0x86]) >= 3148 and ram[0x0E] == 8:  # beside the pole
            ram[0x0E], ram[0x1D] = 4, 2  # on it, and falling
    assert ram[0x75C] == 1 and set(counts[:380]) == {0} and counts[-1] == 1
    env.close()


@pytest.mark.reference
def test_whole_game_over():
    """The whole game is over when no life is left."""
    env = mario("SuperMarioBros-v0")
    env.reset()
    env.envs[0].backend.ram[0x75A] = 0
    infos = {"episodes": []}
    for _ in range(40):
        if infos["episodes"]:
            break
        *_, infos = env.step(one(RIGHT_B))
    assert infos["episodes"][0]["cause"] == "game_over" and not infos["episodes"][0]["flag"]
    env.close()


@pytest.mark.reference
@pytest.mark.parametrize(
    ("env_id", "world", "stage"),
    [
        ("SuperMarioBros-1-1-v1", 1, 1),
        ("SuperMarioBros-2-2-v2", 2, 2),
        ("SuperMarioBros-8-4-v3", 8, 4),
        ("SuperMarioBros2-v0", 1, 1),
        ("SuperMarioBros2-v1", 1, 1),
        ("SuperMarioBros2-3-4-v0", 3, 4),
        ("SuperMarioBros2-4-1-v1", 4, 1),
    ],
)
def test_other_roms_and_stages(env_id, world, stage):
    """The ROM variants and the Lost Levels start at their stage and move; 14-bit gray agrees on their colours."""
    env = mario(env_id, max_episode_steps=4, crop_hud=True)
    first = env.reset()[0].copy()
    for _ in range(4):
        *_, infos = env.step(one(RIGHT_B))
    record = infos["episodes"][0]
    assert (record["world"], record["stage"]) == (world, stage)
    blue, green, red, _ = env.envs[0].backend.screen.astype(int).transpose(2, 0, 1)
    short = (4899 * red + 9617 * green + 1868 * blue + 8192) >> 14
    assert np.array_equal(preprocess.gray(env.envs[0].backend.screen), short)
    assert not np.array_equal(infos["final_obs"], first) and first.std() > 5
    env.close()


@pytest.mark.reference
def test_random_stages_over_nespy():
    """Random stages start at the stage that the stream of their episode names."""
    env = mario("SuperMarioBrosRandomStages-v0", stages=["1-2", "5-3"], max_episode_steps=1, seed=2)
    env.reset()
    drawn = []
    for _ in range(6):
        record = env.step(one(0))[-1]["episodes"][0]
        drawn.append((record["world"], record["stage"]))
    picks = [generator(2, 0, Purpose.STAGE, episode).integers(2) for episode in range(6)]
    assert drawn == [[(1, 2), (5, 3)][pick] for pick in picks] and len(set(drawn)) == 2
    env.close()


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.parametrize("env_id", [name for name in stages.ids() if "v0" in name and "Random" not in name])
def test_every_stage_starts(env_id):
    """Every stage of both games starts where its id says and stays reproducible after a reset."""
    env = mario(env_id, max_episode_steps=5, actions="right_only")
    env.reset()
    finals = []
    for _ in range(10):
        *_, infos = env.step(one(RIGHT_A_B))
        if infos["episodes"]:
            game, record = stages.parse(env_id), infos["episodes"][0]
            assert (record["world"], record["stage"]) == (game.target or (1, 1))
            finals.append(infos["final_obs"].copy())
    assert np.array_equal(finals[0], finals[1])
    env.close()
