"""Procgen: levels, ends, states, and the library itself against the package's own interface."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import envs
from envs import checks, procgen
from ppo import config
from ppo.run import train
from tests.test_envs import maker
from utils.analysis.tables import read_table

try:
    procgen._find_package()
    INSTALLED = True
except ValueError:
    INSTALLED = False

needs_procgen = pytest.mark.skipif(not INSTALLED, reason="procgen is not installed (see the README)")
BIGFISH = "procgen-bigfish-v0"


@pytest.mark.parametrize(
    ("env_id", "options", "words"),
    [
        ("procgen-bigfsh-v0", {}, ["did you mean", BIGFISH]),
        ("procgen-bigfish-v1", {}, ["unknown id"]),
        (BIGFISH, {"distribution_mode": "extreme"}, ["distribution_mode", "extreme", "easy, hard", "bigfish"]),
        (BIGFISH, {"distribution_mode": "medium"}, ["distribution_mode", "medium"]),
        (BIGFISH, {"num_levels": -1}, ["num_levels", "-1"]),
        (BIGFISH, {"start_level": 2**31 - 2, "num_levels": 2}, ["num_levels", "0..1"]),
        (BIGFISH, {"levels": "test", "num_levels": 0}, ["levels", "test", "num_levels 0"]),
        (BIGFISH, {"test_levels": "test", "num_levels": 0}, ["test_levels", "num_levels 0"]),
        (BIGFISH, {"stack": 4}, ["stack", "not an option"]),
    ],
)
def test_bad_options_are_named(env_id, options, words):
    """Bad input is refused by one line that names the argument, the value and what is allowed."""
    with pytest.raises(ValueError) as caught:
        envs.check_options(env_id, **options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@needs_procgen
@pytest.mark.parametrize("options", [{}, {"max_episode_steps": 20, "threads": 2, "levels": "test"}])
def test_contract(options):
    """Seeds, ranks, shapes, ends, and states that another object resumes bit for bit."""
    checks.check_vec_env(maker(BIGFISH, **options), 160)


@needs_procgen
@pytest.mark.parametrize("game", procgen.GAMES)
def test_every_game_keeps_the_contract(game):
    checks.check_vec_env(maker(f"procgen-{game}-v0"), 40)


def levels_played(steps, seed=0, num_envs=4, first_index=0, **options):
    """The levels of the episodes that end within some steps, by environment."""
    env = envs.make_vec("procgen-leaper-v0", num_envs, seed, first_index=first_index, **options)
    env.reset()
    found = {first_index + i: [] for i in range(num_envs)}
    for step in range(steps):
        for row in env.step(checks.actions_of(env, step, first_index))[-1]["episodes"]:
            found[row["env"]].append(row["level"])
    env.close()
    return found


@needs_procgen
def test_train_levels_are_those_and_test_levels_are_never_among_them():
    """5 levels from 40 on: training plays 40 to 44, all of them; testing only others; "all" is not bound to either."""
    drawn = {}
    for name in ("train", "test", "all"):
        by_env = levels_played(300, num_levels=5, start_level=40, levels=name, max_episode_steps=15)
        drawn[name] = [level for levels in by_env.values() for level in levels]
        assert len(drawn[name]) >= 80
    assert set(drawn["train"]) == {40, 41, 42, 43, 44}
    assert min(drawn["test"]) >= 45 and len(set(drawn["test"])) == len(drawn["test"])
    assert procgen.drawn_levels(envs.check_options(BIGFISH, levels="all")) == (0, 0)
    assert procgen.drawn_levels(envs.check_options(BIGFISH, levels="test", num_levels=200)) == (200, 2**31 - 201)


@needs_procgen
def test_levels_belong_to_the_environment_and_not_to_its_rank():
    """Environments 2 and 3 of four play the levels that they play on a rank of their own; other seeds play others."""
    together = levels_played(120, num_levels=0, max_episode_steps=15)
    apart = levels_played(120, num_levels=0, max_episode_steps=15, num_envs=2, first_index=2)
    assert apart == {i: together[i] for i in (2, 3)} and len(apart[2]) > 7
    assert together[0] != together[1]
    assert levels_played(120, seed=1, num_levels=0, max_episode_steps=15)[0] != together[0]


@needs_procgen
def test_an_end_shows_the_last_picture_there_is():
    """At procgen's own end that is the one before the end; at our limit the true last one, and neither is the next
    episode's first."""
    env = envs.make_vec("procgen-leaper-v0", 8, 3, max_episode_steps=60)
    before = env.reset()[0].copy()
    seen = set()
    for step in range(200):
        obs, _, terminated, truncated, infos = env.step(checks.actions_of(env, step))
        for i in np.flatnonzero(terminated):
            assert np.array_equal(infos["final_obs"][i], before[i]) and not np.array_equal(obs[i], before[i])
        for i in np.flatnonzero(truncated):
            assert not np.array_equal(infos["final_obs"][i], obs[i])
        seen |= {"terminated"} if terminated.any() else set()
        seen |= {"truncated"} if truncated.any() else set()
        before = obs.copy()
    assert seen == {"terminated", "truncated"}


@needs_procgen
def test_the_games_own_time_limit_is_an_end():
    """Leaper gives up after 500 steps: terminated, so that no value is asked of a picture that was never drawn."""
    env = envs.make_vec("procgen-leaper-v0", 1, 0)
    env.reset()
    for _ in range(500):
        _, _, terminated, truncated, infos = env.step(np.array([4]))  # stand still
    assert terminated[0] and not truncated[0] and infos["episodes"][0]["ep_len"] == 500
    assert infos["episodes"][0]["level_complete"] is False


@needs_procgen
def test_pictures_are_large_and_do_not_disturb_the_game():
    """render draws 512 x 512; a game that is looked at goes the same way as one that is not."""
    looked, alone = (envs.make_vec(BIGFISH, 1, 5) for _ in range(2))
    assert np.array_equal(looked.reset()[0], alone.reset()[0])
    for step in range(30):
        picture = looked.render()[0]
        assert picture.shape == (512, 512, 3) and picture.std() > 5
        act = checks.actions_of(alone, step)
        assert np.array_equal(looked.step(act)[0], alone.step(act)[0])
    assert looked.get_state() == alone.get_state()


@needs_procgen
def test_checking_and_stepping_import_neither_gym_nor_gym3():
    code = """
import sys, envs, numpy as np
env = envs.make_vec("procgen-maze-v0", 1, 0)
env.reset(); env.step(np.array([0]))
found = [name for name in ("gym", "gym3", "procgen", "torch") if name in sys.modules]
sys.exit(str(found) if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OTHERS = """
import sys, numpy as np
from procgen import ProcgenGym3Env
env = ProcgenGym3Env(1, sys.argv[1], distribution_mode="easy", num_levels=200, start_level=0,
                     rand_seed=int(sys.argv[2]), num_threads=0)
rows = []
for act in np.load(sys.argv[3]):
    rew, obs, first = env.observe()
    rows.append((obs["rgb"][0].copy(), rew[0], first[0]))
    env.act(np.array([act]))
np.savez(sys.argv[4], obs=[row[0] for row in rows], rew=[row[1] for row in rows], first=[row[2] for row in rows])
"""


@needs_procgen
@pytest.mark.parametrize("game", ["bigfish", "coinrun"])
def test_the_same_seed_gives_what_the_packages_own_interface_gives(game, tmp_path):
    """Pictures, rewards and ends of 300 steps are those of ProcgenGym3Env."""
    pytest.importorskip("gym3", reason="the package's own interface needs gym3")
    acts = np.random.default_rng(0).integers(15, size=300)
    np.save(tmp_path / "acts.npy", acts)
    env = envs.make_vec(f"procgen-{game}-v0", 1, 8)
    seed = procgen.episode_seed(8, 0, 0)
    args = [game, str(seed), str(tmp_path / "acts.npy"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", OTHERS, *args], check=True)
    theirs = np.load(tmp_path / "out.npz")
    obs, rewards, ended = env.reset()[0], np.zeros(1), np.zeros(1, bool)
    for step, act in enumerate(acts):
        assert np.array_equal(obs[0].transpose(1, 2, 0), theirs["obs"][step])
        if step:
            assert (rewards[0], ended[0]) == (theirs["rew"][step], theirs["first"][step])
        obs, rewards, ended, _, _ = env.step(np.array([act]))


@needs_procgen
def test_a_run_is_tested_on_levels_that_it_does_not_train_on(tmp_path):
    """Its own evaluations keep the training levels; a state does not care what the run is tested on."""
    given = {"env": BIGFISH, "test_levels": "test", "eval_every": 1, "eval_episodes": 4, "num_levels": 1}
    small = {"network": "small", "num_envs": 2, "steps_per_epoch": 64, "minibatch_size": 64, "epochs": 1}
    cfg = config.build(**given, **small, train_pi_iters=1, train_v_iters=1, data_dir=str(tmp_path))
    assert cfg.test_options()["levels"] == "test" and "levels" not in cfg.evaluation_options()
    run_dir = train(cfg)
    row = read_table(run_dir / "progress.txt").columns
    assert row["EvalStarts"][0] == 1 and row["TestStarts"][0] == 4  # one level; as many as there are episodes
    spec = json.loads((run_dir / "policy" / "last" / "policy.json").read_text())["spec"]
    assert "test_levels" not in spec["options"]
