"""Environments that others wrote: those that break their promises are named, old ones are adapted, wrappers applied."""

import json
import sys

import numpy as np
import pytest

import envs
from envs import checks
from envs.foreign import BrokenEnvironment
from ppo import evaluate as evaluation
from ppo import recorder
from ppo.config import build
from ppo.evaluate import evaluate
from ppo.policy import BadPolicy
from ppo.run import train
from scripts import evaluate as evaluate_command
from tests import hostile
from utils.folder import Refused


def played(name, steps=8, **options):
    """Play two environments whose global indices are 4 and 5."""
    env = envs.make_vec(f"tests.hostile:{name}-v0", 2, 0, first_index=4, **options)
    env.reset()
    return [env.step(np.zeros(2, np.int64)) for _ in range(steps)]


@pytest.mark.parametrize("name", hostile.ROWS)
def test_a_broken_promise_is_named(name):
    """What was wrong, in which environment, in which step of which episode."""
    _, where, words = hostile.ROWS[name]
    with pytest.raises(BrokenEnvironment) as broken:
        played(name)
    said, number = str(broken.value), 0 if where == "reset" else 3
    assert said.startswith(f"tests.hostile:{name}-v0: environment 4, step {number} of episode 0: ") and words in said


def test_threads_step_environments_at_the_same_time_and_change_nothing():
    """Two that wait for each other get on; what others give, their states and their blame stay the same."""
    pair = envs.make_vec("tests.hostile:Meeting-v0", 2, 0, threads=2)
    pair.reset()
    assert pair.step(np.zeros(2, np.int64))[1].tolist() == [1.0, 1.0]
    pair.close()
    checks.check_vec_env(lambda **place: envs.make_vec("CartPole-v1", **place, threads=3), steps=40)
    traces = []
    for threads in (1, 3):
        env = envs.make_vec("CartPole-v1", 4, 7, threads=threads)
        env.reset(seed=7)
        traces.append(checks.play(env, 60))
    checks.compare(*traces, "with threads")
    with pytest.raises(BrokenEnvironment, match="environment 4, step 3 of episode 0: SystemExit: bye"):
        played("StepExits", threads=2)


def test_spaces_that_change():
    """The second episode has other actions."""
    with pytest.raises(BrokenEnvironment, match=r"environment 4, step 0 of episode 1: action_space is Discrete\(3\)"):
        played("Changing")


@pytest.mark.parametrize(
    ("name", "words"), [("Spaceless", "observation_space 5, expected a space"), ("Unbuildable", "no board")]
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(name, words, tmp_path):
    """By a run, in one line."""
    with pytest.raises(Refused, match=words) as refused:
        train(build(env=f"tests.hostile:{name}-v0", data_dir=str(tmp_path)))
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_missing_simulator_is_named_with_what_to_install(tmp_path, monkeypatch):
    """In one line, not in a traceback."""
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(Refused, match=r"env: 'LunarLander-v3' cannot be built: .*\(pip install -e '\.\[box2d\]'\)"):
        train(build(env="LunarLander-v3", data_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


SIMULATED = {
    "LunarLander-v3": "Box2D",
    "LunarLanderContinuous-v3": "Box2D",
    "BipedalWalker-v3": "Box2D",
    "HalfCheetah-v5": "mujoco",
    "Hopper-v5": "mujoco",
    "Walker2d-v5": "mujoco",
}


@pytest.mark.parametrize("name", SIMULATED)
def test_the_simulators_of_the_extras_keep_the_contract(name):
    """The checker passes them, states by playing again included."""
    pytest.importorskip(SIMULATED[name], reason="needs the extra box2d or mujoco")
    checks.check_vec_env(lambda **place: envs.make_vec(name, **place))


def test_one_that_cannot_be_closed_loses_no_run():
    """A warning names it; the others are closed."""
    env = envs.make_vec("tests.hostile:Unclosable-v0", 2, 0)
    env.reset()
    with pytest.warns(UserWarning, match="environment 1: close raised OSError: stuck"):
        env.close()


def test_an_episode_without_end_trains(tmp_path, capsys, monkeypatch):
    """Epochs cut it; nothing is counted as finished, which is said; no evaluation waits for its end."""
    monkeypatch.setattr(recorder, "LONG", 64)
    cfg = build(env="tests.hostile:Fair-v0", epochs=3, data_dir=str(tmp_path), exp_name="x")
    train(cfg)
    assert (cfg.run_dir / "episodes.csv").read_text().count("\n") == 1
    said = capsys.readouterr().out
    assert said.count("note: no episode has ended in 64 steps of each environment: --max-episode-steps ends them") == 1
    monkeypatch.setattr(evaluation, "LONGEST", 50)
    with pytest.raises(ValueError, match="no end after 50 steps of an episode: --max-episode-steps sets one"):
        evaluate(cfg.run_dir / "policy" / "last", 2, env="tests.hostile:Fair-v0", jobs=1)


def test_what_cannot_be_drawn_is_refused_where_films_are_asked_for(tmp_path):
    """At the start, not in a warning at every film."""
    pytest.importorskip("imageio_ffmpeg", reason="needs the extra video")
    with pytest.raises(Refused, match="has no pictures"):
        train(build(env="tests.hostile:Fair-v0", video_every=1, data_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_preset_for_other_actions_is_named(tmp_path, capsys):
    settings = {"epochs": 1, "num_envs": 1, "steps_per_epoch": 16, "minibatch_size": 16, "v_clip": 0.5}
    train(build(env="MountainCarContinuous-v0", **settings, data_dir=str(tmp_path)))
    said = capsys.readouterr().out
    assert "note: preset classic is for discrete actions, --preset continuous for numbers" in said
    assert "note: --v-clip has no effect without --v-loss clipped" in said
    train(build(env="CartPole-v1", **settings, v_loss="clipped", data_dir=str(tmp_path)))
    assert "note:" not in capsys.readouterr().out


def test_the_old_gym_keeps_the_contract():
    """Seeded, adapted, resumed exactly; its time limit is a truncation, its other ends are terminations."""
    name = "tests.hostile:Old-v0"
    checks.check_vec_env(lambda **place: envs.make_vec(name, **place), steps=24)
    for length, flags in ((3, (True, False)), (4, (False, True))):
        _, _, terminated, truncated, _ = played("Old", length, env_kwargs={"length": length})[-1]
        assert (bool(terminated[0]), bool(truncated[0])) == flags
    assert played("Old", 2, max_episode_steps=2)[-1][3].all()


def test_arguments_and_wrapper_are_settings_that_a_file_cannot_give(tmp_path, capsys):
    """Trained with, resumed with, and asked for again in an evaluation, which otherwise would be of another task."""
    given = {"env_kwargs": {"board": "yes"}, "wrapper": "tests.hostile:double"}
    assert played("Unbuildable", 1, **given)[0][1].tolist() == [2, 2]
    old = {"env": "tests.hostile:Old-v0", "env_kwargs": {"length": 4}, "wrapper": "tests.hostile:double"}
    cfg = build(**old, epochs=1, data_dir=str(tmp_path), exp_name="x")
    train(cfg)
    assert "--env-kwargs '{\"length\": 4}' --wrapper tests.hostile:double" in cfg.command()
    policy = cfg.run_dir / "policy" / "last"
    with pytest.raises(BadPolicy, match=r"add --env-kwargs '\{\"length\": 4\}'"):
        evaluate(policy, 2, env=old["env"])
    with pytest.raises(BadPolicy, match="add --wrapper 'tests.hostile:double'"):
        evaluate(policy, 2, env=old["env"], env_kwargs={"length": 4})
    words = ["--episodes", "2", "--jobs", "1", "--env", old["env"], "--json", str(tmp_path / "e.json")]
    words += ["--env-kwargs", '{"length": 4}', "--wrapper", "tests.hostile:double"]
    assert evaluate_command.main([str(policy), *words]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["ep_ret"]["mean"] == 8
    with pytest.raises(SystemExit, match="2"):
        evaluate_command.main([str(policy), "--env-kwargs", "{]"])
    assert "expected a table of JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        ("tests.hostile:nothing", "returned NoneType"),
        ("tests.hostile:missing", "cannot be loaded"),
        ("double", "expected MODULE:FUNCTION"),
        ("no.such:thing", "cannot be loaded"),
        (
            "tests.hostile:import_nothing",
            "wrapper: 'tests.hostile:import_nothing': ModuleNotFoundError: .*nothing_here",
        ),
        ("tests.hostile:double_of_two", "wrapper: 'tests.hostile:double_of_two': TypeError: .* missing"),
        ("tests.hostile:normalised", "NormalizeObservation keeps statistics .*: --norm-obs does the same"),
    ],
)
def test_a_wrapper_that_is_none_is_named(wrapper, words):
    """One line."""
    with pytest.raises(ValueError, match=words):
        played("Fair", wrapper=wrapper)
