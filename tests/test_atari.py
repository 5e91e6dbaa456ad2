"""Atari: frames, lives, starts, stickiness and states, against hand-made games and against the usual wrappers."""

from __future__ import annotations

import importlib.util
import types

import numpy as np
import pytest

import envs
from envs import checks
from envs.atari import rules
from tests.test_envs import maker
from utils.seeding import Purpose, generator

INSTALLED = importlib.util.find_spec("ale_py") is not None
if INSTALLED:
    import ale_py
    from ale_py.env import AtariEnv as GymnasiumEnv

    from envs.atari import game

needs_ale = pytest.mark.skipif(not INSTALLED, reason="ale-py is not installed (pip install -e '.[atari]')")

BARE = {"noop_max": 0, "fire_reset": False, "episodic_life": False, "clip_reward": "none"}


# Ids and options ------------------------------------------------------------------------------------------------------


@needs_ale
def test_ids_are_those_of_ale_py_and_mean_the_same():
    """Every id exists in ale-py's registration, with this stickiness and the small action set; none is missing."""
    import gymnasium

    defaults = envs.check_options("ALE/Pong-v5")
    theirs = {
        name: spec.kwargs for name, spec in gymnasium.registry.items() if spec.entry_point == "ale_py.env:AtariEnv"
    }
    wanted = {name for name in theirs if "NoFrameskip-v" in name or name.startswith("ALE/")}
    assert set(rules.ids()) == wanted
    for name in wanted:
        parsed = rules.parse(name)
        assert (parsed.rom, parsed.sticky) == (theirs[name]["game"], theirs[name]["repeat_action_probability"])
        assert theirs[name]["full_action_space"] is defaults["full_actions"]
        assert theirs[name]["max_num_frames_per_episode"] == defaults["max_episode_frames"]


@pytest.mark.parametrize(
    ("env_id", "options", "words"),
    [
        ("BreakoutNoFrameskip-v5", {}, ["did you mean", "BreakoutNoFrameskip-v"]),
        ("BreakoutNoFrameskip-v4", {"max_episode_frames": 3_000_000_000}, ["max_episode_frames", "2147483647"]),
        ("BreakoutNoFrameskip-v4", {"mode": 99_999_999_999}, ["mode", "2147483647"]),
        ("ALE/Breakot-v5", {}, ["did you mean", "ALE/Breakout-v5"]),
        ("ALE/Joust-v5", {}, ["unknown id"]),  # has no game for one player
        ("ALE/Pong-v5", {"skip": 0}, ["skip", "0", "1..60"]),
        ("ALE/Pong-v5", {"noop_max": -1}, ["noop_max", "-1"]),
        ("ALE/Pong-v5", {"sticky": 1.0}, ["sticky", "1.0", "[0, 1)"]),
        ("ALE/Pong-v5", {"clip_reward": "tanh"}, ["clip_reward", "tanh", "sign, none"]),
        ("ALE/Pong-v5", {"fire_reset": 1}, ["fire_reset", "true or false"]),
        ("ALE/Pong-v5", {"max_episode_frames": 0}, ["max_episode_frames", "0", "1..2147483647"]),
        ("ALE/Pong-v5", {"crop_hud": True}, ["crop_hud", "not an option"]),
    ],
)
def test_bad_options_are_named(env_id, options, words):
    """Bad input is refused by one line that names the argument, the value and what is allowed."""
    with pytest.raises(ValueError) as caught:
        envs.check_options(env_id, **options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@needs_ale
def test_a_mode_that_the_game_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"mode.*99.*\[0, 4"):
        envs.make_vec("ALE/Breakout-v5", 1, 0, mode=99)


def test_without_ale_py_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"ale-py.*\[atari\]"):
        envs.check_options("ALE/Pong-v5")


def test_checking_an_id_does_not_import_the_emulator():
    """Ids and options are known without ale-py."""
    from tests.conftest import run

    code = "import sys, envs.atari as a; assert a.FAMILY.known('ALE/Pong-v5'); sys.exit('ale_py' in sys.modules)"
    assert run(["-c", code]).code == 0


# The contract ---------------------------------------------------------------------------------------------------------


@needs_ale
@pytest.mark.parametrize(
    ("env_id", "options", "steps"),
    [
        ("BreakoutNoFrameskip-v4", {}, 260),  # a game of five lives is over after about 200 random steps
        ("ALE/Pong-v5", {"max_episode_steps": 25}, 60),
        ("ALE/SpaceInvaders-v5", {"max_episode_frames": 160, "clip_reward": "none", "stack": 1}, 60),
        ("ALE/Freeway-v5", {"full_actions": True, "skip": 3, "max_episode_steps": 20}, 45),
    ],
)
def test_contract(env_id, options, steps):
    """Seeds, ranks, shapes, ends, and states that another object resumes bit for bit, sticky actions included."""
    checks.check_vec_env(maker(env_id, **options), steps)


@needs_ale
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(rules.GAMES))
def test_states_of_every_game_resume_bit_for_bit(name):
    checks.check_states(maker(f"ALE/{name}-v5", stack=1), 60, 3)


@needs_ale
def test_a_reset_with_a_seed_repeats_its_episodes():
    """A vector that has played other seeds plays seed 5 as a new one does: nothing of the emulator is left over."""
    trace = []
    for seeds in ([5], [2, 5], [5, 5]):
        env = envs.make_vec("ALE/SpaceInvaders-v5", 1, seeds[0], max_episode_steps=10)
        for seed in seeds:
            rows = [env.reset(seed=seed)[0].copy()]
            rows += [env.step(np.array([k % 6]))[0].copy() for k in range(25)]  # into the third episode
        trace.append(np.stack(rows))
    assert np.array_equal(trace[0], trace[1]) and np.array_equal(trace[0], trace[2])


# Against Gymnasium on real games --------------------------------------------------------------------------------------


class FixedNoops:
    """Stands for Gymnasium's generator where its wrapper draws the number of no-ops."""

    def __init__(self, count):
        self.count = count

    def integers(self, low, high):
        assert low <= self.count < high
        return self.count


def gymnasium_env(env, noops=0, **options):
    """Gymnasium's AtariPreprocessing around the same game after the same power-up, without sticky actions."""
    from gymnasium.wrappers import AtariPreprocessing

    said = env.envs[0].rules
    base = GymnasiumEnv(said.rom, frameskip=1, repeat_action_probability=0.0, max_num_frames_per_episode=108_000)
    base.ale.setInt("system_random_seed", env.envs[0].ale.getInt("system_random_seed"))
    base.load_game()
    base._np_random = FixedNoops(noops)
    return AtariPreprocessing(base, noop_max=30 if noops else 0, frame_skip=said.skip)


@needs_ale
@pytest.mark.parametrize("name", ["Breakout", "SpaceInvaders", "Pong"])
def test_frames_equal_gymnasiums_atari_preprocessing(name):
    """Same start, same actions: the same picture, reward and end after every step, over several games.

    The picture of a game's end is left out: Gymnasium's mixes in frames of the step before.
    """
    env = envs.make_vec(f"{name}NoFrameskip-v4", 1, 11, **BARE, stack=1)
    theirs = gymnasium_env(env)
    draws = np.random.default_rng(0).integers(env.single_action_space.n, size=400)
    assert np.array_equal(env.reset()[0][0, 0], theirs.reset()[0])
    ends = 0
    for action in draws:
        obs, rewards, terminated, truncated, _ = env.step(np.array([action]))
        seen, reward, over, cut, _ = theirs.step(action)
        assert (rewards[0], terminated[0], truncated[0]) == (reward, over, cut)
        if over:
            seen, ends = theirs.reset()[0], ends + 1
        assert np.array_equal(obs[0, 0], seen)
    assert ends or name != "Breakout"


@needs_ale
def test_the_no_op_start_equals_gymnasiums():
    """As many no-ops as the episode's own stream says, 1 to 30, and then Gymnasium's picture."""
    env = envs.make_vec("BreakoutNoFrameskip-v4", 1, 4, **BARE | {"noop_max": 30}, stack=1)
    obs, _ = env.reset()
    count = int(generator(4, 0, Purpose.START, 0).integers(1, 31))
    assert env.envs[0].ale.getEpisodeFrameNumber() == count
    assert np.array_equal(obs[0, 0], gymnasium_env(env, count).reset()[0])
    counts = {int(generator(4, i, Purpose.START, k).integers(1, 31)) for i in range(20) for k in range(20)}
    assert counts == set(range(1, 31))


@needs_ale
@pytest.mark.parametrize(
    "env_id", ["ALE/SpaceInvaders-v5", "SpaceInvadersNoFrameskip-v4", "SpaceInvadersNoFrameskip-v0"]
)
def test_an_action_lasts_four_frames_and_never_sixteen(env_id):
    """Whatever the id, a step is `skip` frames. Gymnasium's v5 under a wrapper that skips four plays sixteen."""
    env = envs.make_vec(env_id, 1, 0, **BARE)
    env.reset()
    frames = [env.envs[0].ale.getEpisodeFrameNumber()]
    for _ in range(3):
        env.step(np.array([0]))
        frames.append(env.envs[0].ale.getEpisodeFrameNumber())
    assert np.diff(frames).tolist() == [4, 4, 4]
    theirs = GymnasiumEnv("space_invaders", frameskip=4)  # what gymnasium.make("ALE/SpaceInvaders-v5") builds
    theirs.reset(seed=0)
    before = theirs.ale.getEpisodeFrameNumber()
    for _ in range(4):  # what a SkipFrame(env, skip=4) does with one action
        theirs.step(0)
    assert theirs.ale.getEpisodeFrameNumber() - before == 16


@needs_ale
def test_lives_scores_and_records_of_real_games():
    """Breakout: four lost lives end PPO's path, the fifth the game, whose return is the score of all of them."""
    env = envs.make_vec("BreakoutNoFrameskip-v4", 1, 1)
    played = []
    emulator = env.envs[0].ale
    env.envs[0].ale = Spy(emulator, played)
    env.reset()
    shown, paths = 0.0, 0
    rng = np.random.default_rng(2)
    while True:
        lives = emulator.lives()
        _, rewards, terminated, truncated, infos = env.step(rng.integers(4, size=1))
        shown += rewards[0]
        assert abs(rewards[0]) in (0.0, 1.0) and not truncated[0]
        paths += terminated[0]
        assert ("final_obs" in infos) == terminated[0]
        if infos["episodes"]:
            break
        assert emulator.lives() == lives - terminated[0]
    row = infos["episodes"][0]
    assert paths == 5 and row["lives_lost"] == 5 and row["terminated"] is True
    score = sum(points for points, _ in played[: row["frames"]])
    assert row["ep_ret"] == score > 0 and row["train_ret"] == shown <= score
    assert row["frames"] > 4 * row["ep_len"]  # FIRE and what is played after a lost life are frames but no steps


class Spy:
    """An emulator that notes what every frame paid and which action was played."""

    def __init__(self, ale, played):
        self._ale, self._played = ale, played

    def __getattr__(self, name):
        return getattr(self._ale, name)

    def act(self, action):
        points = self._ale.act(action)
        self._played.append((points, action))
        return points


@needs_ale
def test_a_frame_repeats_the_frame_before_where_its_draw_says_so():
    """Sticky actions are drawn per frame from the episode's own stream, and by nobody else."""
    env = envs.make_vec("ALE/SpaceInvaders-v5", 1, 9, **BARE)
    assert env.envs[0].ale.getFloat("repeat_action_probability") == 0.0
    played = []
    env.envs[0].ale = Spy(env.envs[0].ale, played)
    env.reset()
    choices = np.random.default_rng(1).integers(6, size=100)
    for choice in choices:
        env.step(np.array([choice]))
    wanted, held = np.repeat(choices, 4), 0
    draws = generator(9, 0, Purpose.STICKY, 0).random(400)
    for frame, (_, action) in enumerate(played):
        held = held if draws[frame] < 0.25 else wanted[frame]
        assert action == env.envs[0].actions[held]
    assert np.mean([action != env.envs[0].actions[w] for (_, action), w in zip(played, wanted, strict=True)]) > 0.05


@needs_ale
def test_the_frame_limit_is_a_truncation_with_a_true_final_observation():
    """108,000 frames by default; here 42: a truncation after 10 whole steps and 2 frames of the eleventh."""
    assert envs.check_options("ALE/Pong-v5")["max_episode_frames"] == 108_000
    env = envs.make_vec("ALE/Pong-v5", 1, 0, **BARE, max_episode_frames=42)
    env.reset()
    for step in range(11):
        _, _, terminated, truncated, infos = env.step(np.array([2]))
        assert truncated[0] == (step == 10) and not terminated[0]
    row = infos["episodes"][0]
    assert row["frames"] == 42 and row["ep_len"] == 11 and row["terminated"] is False
    assert infos["final_obs"][0].any() and not np.array_equal(infos["final_obs"][0], env._observe()[0])


@needs_ale
def test_pictures_are_the_emulators_screen():
    """render gives the console's colours, a copy; after a state is restored, the newest observation until a step."""
    env = envs.make_vec("ALE/Breakout-v5", 1, 0)
    env.reset()
    picture = env.render()[0]
    assert (
        picture.shape == (210, 160, 3)
        and picture.dtype == np.uint8
        and len(np.unique(picture.reshape(-1, 3), axis=0)) > 5
    )
    state = env.get_state()
    other = envs.make_vec("ALE/Breakout-v5", 1, 0)
    other.set_state(state)
    assert other.render()[0].shape == picture.shape
    for vec in (env, other):
        vec.step(np.array([1]))
    assert np.array_equal(env.render()[0], other.render()[0])


# Hand-made games ------------------------------------------------------------------------------------------------------


class Script:
    """A game of which every frame is written down: a gray level, points, lives. It is over after the last frame."""

    def __init__(self, grays, points=(), lives=(), limit=10**9):
        self.grays, self.limit = grays, limit
        self.points = {frame: paid for frame, paid in points}
        self.lives_at = lives or [0] * (len(grays) + 1)
        self.frame, self.resets, self.played = 0, 0, []

    def getMinimalActionSet(self):
        return [ale_py.Action(k) for k in (0, 1, 3, 4)]

    def getScreenDims(self):
        return (84, 84)

    def cloneState(self, include_rng):
        return None

    def restoreState(self, state):
        pass

    def reset_game(self):
        self.frame, self.resets = 0, self.resets + 1

    def act(self, action):
        if self.game_over():
            return 0
        self.frame += 1
        self.played.append(action.value)
        return self.points.get(self.frame, 0)

    def getScreenGrayscale(self, out):
        out[:] = self.grays[self.frame - 1] if self.frame else 0

    def game_over(self, with_truncation=True):
        return self.frame >= len(self.grays) or (with_truncation and self.game_truncated())

    def game_truncated(self):
        return self.frame >= self.limit

    def lives(self):
        return self.lives_at[self.frame]

    def getEpisodeFrameNumber(self):
        return self.frame


def scripted(monkeypatch, script, **options):
    monkeypatch.setattr(game, "load", lambda said, seed: script)
    env = envs.make_vec("BreakoutNoFrameskip-v4", 1, 0, **BARE | options)
    env.reset()
    return env


def newest(obs):
    return int(obs[0, -1, 0, 0])


@needs_ale
def test_a_step_shows_the_maximum_of_its_last_two_frames(monkeypatch):
    """Of the gray levels 10 20 30 40 | 80 70 60 50 | 1 2 9 8 it shows 40, 60 and 9."""
    env = scripted(monkeypatch, Script([10, 20, 30, 40, 80, 70, 60, 50, 1, 2, 9, 8, 0]))
    assert [newest(env.step(np.array([0]))[0]) for _ in range(3)] == [40, 60, 9]
    assert [int(x) for x in env._observe()[0, :, 0, 0]] == [0, 40, 60, 9]  # the oldest first; 0 is the game's start
    env = scripted(monkeypatch, Script([10, 30, 20, 5, 9]), skip=1)
    assert [newest(env.step(np.array([0]))[0]) for _ in range(4)] == [10, 30, 20, 5]
    env = scripted(monkeypatch, Script([10, 30, 20, 5, 9, 7, 0]), skip=3)
    assert [newest(env.step(np.array([0]))[0]) for _ in range(2)] == [30, 9]


@needs_ale
@pytest.mark.parametrize(("length", "shown"), [(5, 80), (6, 70), (7, 60), (8, 60)])
def test_a_game_that_ends_within_a_step_shows_its_own_last_frames(monkeypatch, length, shown):
    """Nothing of the step before: of 80 70 60 50 cut after 1, 2, 3 and 4 frames it shows 80, 70, 60 and 60."""
    env = scripted(monkeypatch, Script([200, 210, 220, 230, 80, 70, 60, 50][:length], points=[(5, 3), (8, 4)]))
    env.step(np.array([0]))
    obs, rewards, terminated, _, infos = env.step(np.array([2]))
    assert terminated[0] and infos["final_obs"][0, -1, 0, 0] == shown
    assert rewards[0] == (7.0 if length == 8 else 3.0)
    assert infos["episodes"][0]["frames"] == length and newest(obs) == 0  # the next game has begun


@needs_ale
def test_a_lost_life_ends_the_path_and_not_the_game(monkeypatch):
    """A life is lost in frame 3. The step is terminal and shows its own frames. Then come a step of NOOP, one of FIRE
    and one of the action after it, whose points belong to the game, and a stack of what is seen then. The end comes
    later."""
    grays = [10, 20, 30, 40, *([50] * 11), 90, 100, 110, 120, 130, 140]
    lives = [2, 2, 2, *([1] * 30)]
    script = Script(grays, points=[(2, 5), (7, 9), (20, 100)], lives=lives)
    env = scripted(monkeypatch, script, episodic_life=True, clip_reward="sign")
    env.envs[0]._fire = True
    obs, rewards, terminated, truncated, infos = env.step(np.array([2]))
    assert terminated[0] and not truncated[0] and infos["episodes"] == []
    assert infos["_final_obs"].tolist() == [True] and infos["final_obs"][0, :, 0, 0].tolist() == [0, 0, 0, 40]
    assert script.played == [3] * 4 + [0] * 4 + [1] * 4 + [3] * 4
    assert obs[0, :, 0, 0].tolist() == [90] * 4  # of 50 and 90
    assert rewards[0] == 1.0 and infos["env_reward"][0] == 14.0
    obs, rewards, terminated, _, infos = env.step(np.array([0]))
    assert not terminated[0] and newest(obs) == 130 and obs[0, 0, 0, 0] == 90
    obs, rewards, terminated, _, infos = env.step(np.array([0]))
    row = infos["episodes"][0]
    assert terminated[0] and (row["ep_ret"], row["train_ret"], row["ep_len"]) == (114.0, 2.0, 3)
    assert row["frames"] == 21 and row["lives_lost"] == 1 and row["episode"] == 0


@needs_ale
@pytest.mark.parametrize(("length", "limit", "frames"), [(6, 10**9, 6), (100, 7, 7)])
def test_a_game_that_ends_after_the_lost_life_is_recorded_at_once(monkeypatch, length, limit, frames):
    """The no-op step after a lost life ends the game, by itself or by its limit: path, record and next game in one."""
    script = Script([10 * k for k in range(1, length + 1)][:25] or [], lives=[2, 2, *([1] * 200)], limit=limit)
    env = scripted(monkeypatch, script, episodic_life=True)
    _, _, terminated, truncated, infos = env.step(np.array([0]))
    assert terminated[0] and not truncated[0]
    assert infos["episodes"][0]["frames"] == frames and infos["episodes"][0]["terminated"] is True
    assert infos["final_obs"][0, -1, 0, 0] == 40 and script.resets == 2 and env.episodes.number[0] == 1


@needs_ale
def test_no_lives_left_is_no_lost_life(monkeypatch):
    """Qbert shows 0 lives for a few frames before its game is over: that is no end of a path of its own."""
    env = scripted(monkeypatch, Script([10] * 12, lives=[1, 1, *([0] * 20)]), episodic_life=True)
    ends = [bool(env.step(np.array([0]))[2][0]) for _ in range(3)]
    assert ends == [False, False, True]


@needs_ale
def test_a_start_presses_fire_and_its_points_count(monkeypatch):
    """One step of FIRE, one of the action after it; points of the start frames belong to the game's first step."""
    script = Script([10] * 40, points=[(3, 7), (11, 2)])
    monkeypatch.setattr(game, "load", lambda said, seed: script)
    env = envs.make_vec("BreakoutNoFrameskip-v4", 1, 0, **BARE | {"fire_reset": True, "noop_max": 2})
    env.reset()
    noops = int(generator(0, 0, Purpose.START, 0).integers(1, 3))
    assert script.played == [0] * noops + [1] * 4 + [3] * 4
    _, rewards, _, _, infos = env.step(np.array([0]))
    assert rewards[0] == 2.0 and infos["env_reward"][0] == 9.0


@needs_ale
def test_games_without_a_fire_button_start_without_it():
    """Freeway's second action is UP: nothing is pressed."""
    env = envs.make_vec("ALE/Freeway-v5", 1, 0, noop_max=0)
    env.reset()
    assert env.envs[0].ale.getEpisodeFrameNumber() == 0


# Against Stable-Baselines3 --------------------------------------------------------------------------------------------


@needs_ale
@pytest.mark.parametrize("name", ["Breakout", "SpaceInvaders", "Pong", "Freeway"])
def test_steps_equal_stable_baselines3s_atari_wrapper(name, monkeypatch):
    """Lost lives, FIRE, no-ops, clipped rewards, game after game: the same as their whole stack of wrappers.

    It sees the emulator's gray here, as we do; its own is computed from colours, whose maximum may mix two of them.
    """
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers", reason="needs the extra bench")
    monkeypatch.setattr(
        wrappers,
        "cv2",
        types.SimpleNamespace(
            cvtColor=lambda frame, code: frame, resize=game.cv2.resize, COLOR_RGB2GRAY=0, INTER_AREA=game.cv2.INTER_AREA
        ),
    )
    env = envs.make_vec(f"{name}NoFrameskip-v4", 1, 21, stack=1)
    base = GymnasiumEnv(env.envs[0].rules.rom, obs_type="grayscale", frameskip=1, repeat_action_probability=0.0)
    base.ale.setInt("system_random_seed", env.envs[0].ale.getInt("system_random_seed"))
    base.load_game()
    theirs = wrappers.AtariWrapper(base)
    episode, counts = 0, FixedNoops(0)
    base._np_random = counts
    counts.count = int(generator(21, 0, Purpose.START, 0).integers(1, 31))
    assert np.array_equal(env.reset()[0][0, 0], theirs.reset()[0][:, :, 0])
    paths = 0
    for action in np.random.default_rng(5).integers(env.single_action_space.n, size=700):
        obs, rewards, terminated, _, infos = env.step(np.array([action]))
        seen, reward, done, _, _ = theirs.step(action)
        assert (rewards[0], terminated[0]) == (reward, done)
        if done:
            paths, episode = paths + 1, episode + len(infos["episodes"])
            counts.count = int(generator(21, 0, Purpose.START, episode).integers(1, 31))
            seen = theirs.reset()[0]
        assert np.array_equal(obs[0, 0], seen[:, :, 0])
    assert paths > 1 or name in ("Pong", "Freeway")
    assert episode or name != "Breakout"
