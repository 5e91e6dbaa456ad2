"""The vector contract, Echo and the Gymnasium family."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import envs
from envs import checks
from envs.vector import pack, unpack


def maker(env_id, **options):
    return lambda **place: envs.make_vec(
        env_id, place["num_envs"], place["seed"], first_index=place["first_index"], **options
    )


@pytest.mark.parametrize(
    ("env_id", "options", "steps"),
    [
        ("Echo-v0", {}, 80),
        ("Echo-v0", {"truncate": True}, 80),
        ("Echo-v0", {"max_episode_steps": 5}, 30),
        ("CartPole-v1", {}, 120),
        ("CartPole-v1", {"max_episode_steps": 12}, 60),
        ("Pendulum-v1", {"max_episode_steps": 20}, 50),
        ("FrozenLake-v1", {}, 60),
        ("Taxi-v4", {"max_episode_steps": 20}, 50),
    ],
)
def test_contract(env_id, options, steps):
    """Every family keeps the vector contract."""
    checks.check_vec_env(maker(env_id, **options), steps)


def test_the_checker_notices_a_rank_dependent_environment():
    """The checker fails an environment whose randomness depends on its place in the rank."""

    def make(num_envs, seed, first_index):
        return envs.make_vec("Echo-v0", num_envs, seed, first_index=0)

    with pytest.raises(AssertionError, match="two and two"):
        checks.check_vec_env(make)


def test_seeds_give_other_episodes():
    """Another seed, environment or episode gives another start."""
    env = envs.make_vec("CartPole-v1", 2, 0)
    first = env.reset()[0].copy()
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(env.reset()[0], first)  # the next episode
    assert np.array_equal(env.reset(seed=0)[0], first)  # episode 0 again
    assert not np.array_equal(env.reset(seed=1)[0], first)


def test_time_limit_is_a_truncation_and_a_fall_is_not():
    """CartPole's time limit is a truncation, a fall a termination, and their records say so."""
    env = envs.make_vec("CartPole-v1", 1, 3, max_episode_steps=5)
    env.reset()
    for step in range(5):
        _, _, terminated, truncated, infos = env.step(np.array([step % 2]))
    assert truncated.tolist() == [True] and terminated.tolist() == [False]
    assert infos["episodes"][0]["ep_len"] == 5 and infos["episodes"][0]["terminated"] is False
    env = envs.make_vec("CartPole-v1", 1, 3)
    env.reset()
    terminated = np.array([False])
    while not terminated[0]:
        _, _, terminated, truncated, infos = env.step(np.array([0]))
        assert not truncated[0]
    assert infos["episodes"][0]["terminated"] is True
    assert abs(infos["final_obs"][0][2]) > 0.2  # the pole has fallen
    assert abs(env.reset(seed=3)[0][0][2]) < 0.06


def test_echo_pays_for_the_digit():
    """Naming the digit on every step earns 32 in an episode of 32 steps, which ends by termination."""
    env = envs.make_vec("Echo-v0", 3, 0)
    obs, _ = env.reset()
    for _ in range(32):
        obs, rewards, terminated, truncated, infos = env.step(obs.argmax(1))
        assert rewards.tolist() == [1.0, 1.0, 1.0]
    assert terminated.all() and not truncated.any()
    assert [row["ep_ret"] for row in infos["episodes"]] == [32.0, 32.0, 32.0]


def test_a_box_action_is_clipped_and_a_discrete_one_is_not():
    """Box actions beyond the bounds act like the bound; a Discrete action beyond them is an error."""
    results = []
    for torque in (2.0, 50.0):
        env = envs.make_vec("Pendulum-v1", 1, 0)
        env.reset()
        results.append(env.step(np.array([[torque]]))[0].copy())
    assert np.array_equal(*results)
    env = envs.make_vec("CartPole-v1", 2, 0)
    env.reset()
    for bad in ([0, 2], [0, -1], [0], [[0], [1]], [0.0, 1.0]):
        with pytest.raises(ValueError, match="actions"):
            env.step(np.array(bad))


def test_step_before_reset_is_refused():
    """Stepping or saving an environment that was never reset is an error."""
    env = envs.make_vec("Echo-v0", 1, 0)
    with pytest.raises(ValueError, match="reset"):
        env.step(np.array([0]))
    with pytest.raises(ValueError, match="reset"):
        env.get_state()


def test_state_of_another_environment_is_refused():
    """A state of another id, other options, or another global index is refused with what differs."""
    env = envs.make_vec("CartPole-v1", 1, 0)
    env.reset()
    state = env.get_state()
    others = [
        envs.make_vec("Echo-v0", 1, 0),
        envs.make_vec("Acrobot-v1", 1, 0),
        envs.make_vec("CartPole-v1", 1, 0, max_episode_steps=9),
        envs.make_vec("CartPole-v1", 1, 0, first_index=4),
    ]
    for other, what in zip(others, ["written by", "env_id", "options", "environment 0"], strict=True):
        with pytest.raises(ValueError, match=what):
            other.set_state(state)


def test_pack_keeps_numbers_exactly_and_refuses_other_versions():
    """Packed headers and arrays come back with their exact values, dtypes and shapes, for one kind and version only."""
    header = {"sum": 0.1 + 0.2, "name": "x"}
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array([], np.uint8)}
    blob = pack("kind", 1, header, arrays)
    found, back = unpack("kind", 1, blob)
    assert found == header
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)
    for kind, version in (("kind", 2), ("other", 1)):
        with pytest.raises(ValueError, match="expected"):
            unpack(kind, version, blob)
    for i in range(0, len(blob), 7):
        with pytest.raises(ValueError, match="state"):
            unpack("kind", 1, blob[:i] + bytes([blob[i] ^ 1]) + blob[i + 1 :])


def test_pack_never_writes_or_reads_pickles():
    """Arrays of objects, which only pickle can hold, are refused."""
    with pytest.raises(ValueError):
        pack("kind", 1, {}, {"a": np.array([object()])})


@pytest.mark.parametrize(
    ("env_id", "options", "words"),
    [
        ("SuperMarioBros-1-9-v0", {}, ["SuperMarioBros-1-9-v0", "did you mean", "SuperMarioBros-1-"]),
        ("SuperMarioBros-9-1-v0", {}, ["did you mean"]),
        ("supermariobros-1-1", {}, ["did you mean SuperMarioBros-1-1-v0 or"]),
        ("1-1", {}, ["did you mean SuperMarioBros-1-1-v0 or"]),
        ("bigfish", {}, ["did you mean procgen-bigfish-v0"]),
        ("SuperMarioBros2-1-1-v2", {}, ["did you mean"]),
        ("SuperMarioBros2-5-1-v0", {}, ["did you mean"]),
        ("CartPole-v17", {}, ["CartPole-v1"]),
        ("Cartpole-v1", {}, ["CartPole-v1"]),
        ("nothing like it", {}, ["unknown id"]),
        ("", {}, ["env"]),
        ("CartPole-v1", {"skip": 4}, ["skip", "max_episode_steps"]),
        ("SuperMarioBros-1-1-v0", {"skip": 0}, ["skip", "0", "1..60"]),
        ("SuperMarioBros-1-1-v0", {"skip": 2.0}, ["skip"]),
        ("SuperMarioBros-1-1-v0", {"sticky": 1.0}, ["sticky", "1.0"]),
        ("SuperMarioBros-1-1-v0", {"sticky": float("nan")}, ["sticky", "nan"]),
        ("SuperMarioBros-1-1-v0", {"start_frames": 31}, ["start_frames", "31", "0..30"]),
        ("SuperMarioBros-1-1-v0", {"start_mode": "jump"}, ["start_mode", "noop, random"]),
        ("SuperMarioBros-1-1-v0", {"start_share": 0.0}, ["start_share", "0.0", "(0, 1]"]),
        ("SuperMarioBros-1-1-v0", {"actions": "all"}, ["actions", "right_only, simple, complex"]),
        ("SuperMarioBros-1-1-v0", {"actions": [["right", "C"]]}, ["'C'"]),
        ("SuperMarioBros-1-1-v0", {"actions": []}, ["actions"]),
        ("SuperMarioBros-1-1-v0", {"actions": [["A", "right"], ["right", "A"]]}, ["twice"]),
        ("SuperMarioBros-1-1-v0", {"reward": "best"}, ["best", "env, score, score-rules, score-loops"]),
        ("SuperMarioBros-1-1-v0", {"reward": "no_such_module:f"}, ["no_such_module"]),
        ("SuperMarioBros-1-1-v0", {"reward": "math:no_such_function"}, ["no_such_function"]),
        ("SuperMarioBros-1-1-v0", {"ram_info": ["player_speed"]}, ["player_speed", "player_x_speed"]),
        ("SuperMarioBros-1-1-v0", {"ram_info": ["0x0800"]}, ["0x0800"]),
        ("SuperMarioBros-1-1-v0", {"emulator": "zsnes"}, ["zsnes", "nes-py"]),
        ("SuperMarioBros-1-1-v0", {"stages": ["1-1"]}, ["RandomStages"]),
        ("SuperMarioBrosRandomStages-v0", {"stages": ["9-1"]}, ["9-1"]),
        ("SuperMarioBros-1-1-v0", {"max_episode_steps": 0}, ["max_episode_steps", ">= 1"]),
        ("SuperMarioBros-1-1-v0", {"threads": 0}, ["threads"]),
    ],
)
def test_bad_options_are_named(env_id, options, words):
    """Bad input is refused by one line that names the argument, the value and what is allowed."""
    with pytest.raises(ValueError) as caught:
        envs.check_options(env_id, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "place", [{"num_envs": 0, "seed": 0}, {"num_envs": 1, "seed": -1}, {"num_envs": True, "seed": 0}]
)
def test_bad_numbers_are_refused(place):
    """Numbers of environments and seeds out of range are refused."""
    with pytest.raises(ValueError, match="expected an integer"):
        envs.make_vec("Echo-v0", **place)


def test_checking_imports_no_simulator():
    """Options of every family are checked without importing gym, nes_py, torch or MPI."""
    code = """
import sys, envs
envs.check_options("SuperMarioBros-1-1-v0", sticky=0.25)
envs.check_options("CartPole-v1")
for bad in ("SuperMarioBros-1-9-v0", "CartPole-v9"):
    try:
        envs.check_options(bad)
    except ValueError:
        continue
    raise SystemExit("accepted")
found = [name for name in ("gym", "nes_py", "gym_super_mario_bros", "torch", "mpi4py") if name in sys.modules]
raise SystemExit(str(found) if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
