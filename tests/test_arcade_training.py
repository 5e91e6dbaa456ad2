"""Training on Atari and Procgen by the normal commands: ranks, resuming, evaluating, playing, faults."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from envs import procgen
from ppo import config, ppo
from ppo.build import build_training
from ppo.run import train
from scripts import evaluate, play
from tests.conftest import run
from tests.test_train import assert_same, rows
from utils import mpi

ATARI = {
    "env": "ALE/Breakout-v5",
    "num_envs": 4,
    "steps_per_epoch": 4 * 32,
    "minibatch_size": 64,
    "train_pi_iters": 1,
    "train_v_iters": 1,
    "network": "small",
    "precision": "float32",
    "max_episode_steps": 40,
}
PROCGEN = ATARI | {"env": "procgen-leaper-v0", "network": "small"}


def installed(name):
    """Whether the family's simulator is there."""
    if name == "atari":
        return importlib.util.find_spec("ale_py") is not None
    try:
        return bool(procgen._find_package())
    except ValueError:
        return False


BOTH = [
    pytest.param(settings, id=name, marks=pytest.mark.skipif(not installed(name), reason=f"{name} is not installed"))
    for name, settings in (("atari", ATARI), ("procgen", PROCGEN))
]
both = pytest.mark.parametrize("settings", BOTH)


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


@both
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, settings):
    """Weights, optimisers, environments and log rows, bit for bit: 2 epochs and 2 more are 4."""
    settings = settings | {"save_every": 1, "anneal_lr": False, "anneal_clip": False}
    whole = train(config.build(**settings, epochs=4, data_dir=str(tmp_path / "whole")))
    for epochs in (2, 4):
        cut = train(config.build(**settings, epochs=epochs, data_dir=str(tmp_path / "cut")), resume=True)
    assert_same(whole, cut)
    assert (whole / "episodes.csv").read_text().count("\n") > 4


@pytest.mark.slow
@pytest.mark.mpi
@both
def test_two_ranks_resume_exactly_from_the_command_line(tmp_path, settings):
    """The same on two ranks, as a person starts it."""
    flags = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]
    flags += ["--save-every", "1", "--no-anneal-lr", "--no-anneal-clip", "--exp-name", "run"]
    for place, epochs in (("whole", 4), ("cut", 2), ("cut", 4)):
        args = ["-m", "ppo.run", *flags, "--epochs", str(epochs), "--data-dir", str(tmp_path / place), "--resume"]
        done = run(args, ranks=2, timeout=120)
        assert done.code == 0, done.err
    assert_same(tmp_path / "whole" / "run" / "run_s0", tmp_path / "cut" / "run" / "run_s0")


@both
def test_a_policy_is_evaluated_and_filmed(tmp_path, settings, capsys):
    """Evaluations play whole episodes with the policy's own options; the film has a picture of every frame shown."""
    folder = train(config.build(**settings, epochs=1, data_dir=str(tmp_path)))
    assert evaluate.main([str(folder), "--episodes", "3", "--jobs", "1", "--json", str(tmp_path / "e.json")]) == 0
    assert "3 episodes" in capsys.readouterr().out and json.loads((tmp_path / "e.json").read_text())
    if settings is PROCGEN:
        args = ["--levels", "train", "test", "--episodes", "6", "--jobs", "1", "--json", str(tmp_path / "gap.json")]
        assert evaluate.main([str(folder), *args]) == 0
        said, facts = capsys.readouterr().out, json.loads((tmp_path / "gap.json").read_text())
        assert "train levels" in said and "test levels" in said and "gap" in said
        means = [summary["ep_ret"]["mean"] for summary in facts["evaluations"]]
        low, high = facts["gap"]["interval_95"]
        assert facts["gap"]["ep_ret"] == pytest.approx(means[0] - means[1]) and low <= means[0] - means[1] <= high
    pytest.importorskip("imageio_ffmpeg")
    assert play.main([str(folder), "--video", str(tmp_path / "film.mp4"), "--scale", "1"]) == 0
    assert "frames" in capsys.readouterr().out and (tmp_path / "film.mp4").stat().st_size > 5000


@both
def test_an_epoch_without_a_finished_episode_is_logged(tmp_path, settings):
    """No game ends within 8 steps: EpCount 0 and empty returns, no exception."""
    folder = train(
        config.build(
            **settings | {"steps_per_epoch": 32, "minibatch_size": 32, "max_episode_steps": None},
            epochs=1,
            data_dir=str(tmp_path),
        )
    )
    row = rows(folder)[0]
    assert row["EpCount"] == "0" and row["AverageEpRet"] in ("", "nan")


@pytest.mark.slow
@pytest.mark.mpi
@both
def test_a_rank_whose_game_fails_ends_the_job(tmp_path, settings):
    """That rank's traceback, once, with its number; a non-zero code; nobody left."""
    flags = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]
    args = ["tests/programs/faulty_run.py", "raise@1:20", *flags, "--epochs", "9", "--data-dir", str(tmp_path)]
    done = run(args, ranks=2)
    assert done.code != 0 and done.err.count("Traceback") == 1
    assert "RuntimeError: the emulator broke" in done.err and "rank 1 failed" in done.err


@both
def test_a_reward_that_is_no_number_stops_the_run(tmp_path, settings):
    """It is named with its environment and step before it reaches a parameter."""
    training = build_training(config.build(**settings, data_dir=str(tmp_path)), mpi.Comm())
    step = training.env.step

    def broken(actions):
        obs, rewards, *rest = step(actions)
        rewards[2] = np.nan
        return obs, rewards, *rest

    training.env.step = broken
    with pytest.raises(ppo.NotFinite, match="environment 2"):
        ppo.collect(training)
    training.close()
