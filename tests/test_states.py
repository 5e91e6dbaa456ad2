"""Start states: taken along a stage by a command, and what a run then starts from."""

import json

import numpy as np
import pytest

import envs
from envs.mario.explore import MEMORY, explore
from envs.mario.native_vector import read_states
from ppo.config import build
from ppo.run import train
from scripts.states import main
from tests.test_evaluate import table_of


def test_states_are_taken_and_trained_from(tmp_path, capsys):
    """Only beyond the wanted x; a run from them starts there, and its evaluations at the start of the stage."""
    out = tmp_path / "states"
    assert main(["--out", str(out), "--count", "5", "--after", "60", "--every", "3"]) == 0
    said = capsys.readouterr().out
    assert "5 states of SuperMarioBros-1-1-v0, x from " in said and int(said.split("x from ")[1].split()[0]) >= 60
    cfg = build(start_states=str(out), start_share=1.0, num_envs=2, steps_per_epoch=16, minibatch_size=16,
                network="small", epochs=1, max_episode_steps=1, eval_every=1, eval_episodes=2,
                data_dir=str(tmp_path))  # fmt: skip
    folder = train(cfg)
    row = table_of(folder)[0]
    assert float(row["XMax"]) >= 60 and float(row["EvalXMax"]) < 60
    assert "start_states_sha256" in json.loads((folder / "config.json").read_text())["spec"]


def test_an_exploration_reaches_the_flag_and_keeps_where_mario_stood(tmp_path, capsys):
    """Without a policy, the same places for the same seed; nearly every state is one where he lives on."""
    assert main(["--out", str(tmp_path / "states"), "--explore", "2", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "exploration 3: the flag after " in said and "exploration 4: " in said
    found = explore("SuperMarioBros-1-1-v0", 3, 100_000, actions="right_only")
    assert found.way and f"after {found.steps:,} steps, {len(found.places)} states" in said
    states = read_states(tmp_path / "states")
    assert states[: len(found.places)] == [place.state for place in found.places]
    assert max(place.x for place in found.places) > 2500 and len({place.state for place in found.places}) > 100
    env = envs.make_vec("SuperMarioBros-1-1-v0", 1, 3, actions="right_only", ram_info=list(MEMORY))
    env.reset()
    lives = []
    for place in found.places:
        env.set_state([place.state])
        _, _, terminated, _, infos = env.step(np.array([0]))
        x = 256 * int(infos["player_page"][0]) + int(infos["player_x"][0])
        assert terminated[0] or abs(x - place.x) < 16
        lives.append(not terminated[0])
    assert np.mean(lives) > 0.95
    env.close()


def test_the_way_to_the_flag_is_kept_step_by_step(tmp_path, capsys):
    """From the start to just before the flag, a few pixels at a time; with --every, each so manieth step of it."""
    out = tmp_path / "states"
    assert main(["--out", str(out), "--explore", "1", "--seed", "3", "--every", "4", "--after", "100"]) == 0
    way = explore("SuperMarioBros-1-1-v0", 3, 100_000, actions="right_only").way
    kept = [state for state, x in way[::4] if x >= 100]
    assert read_states(out) == kept and f"{len(kept)} states" in capsys.readouterr().out
    xs = [x for _, x in way]
    assert xs[0] == 40 and max(abs(after - before) for before, after in zip(xs[:-1], xs[1:], strict=True)) < 16
    env = envs.make_vec("SuperMarioBros-1-1-v0", 1, 3, actions="right_only", ram_info=list(MEMORY))
    env.reset()
    env.set_state([way[-1][0]])
    flags = []
    while not flags:
        _, _, _, _, infos = env.step(np.array([1]))
        flags = [episode["flag"] for episode in infos["episodes"]]
    assert flags == [True]
    env.close()


def test_an_exploration_that_finds_no_flag_says_how_far_it_came(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "states"), "--explore", "1", "--max-steps", "200"]) == 0
    assert ", no flag after 200 steps" in capsys.readouterr().out
    count = len(read_states(tmp_path / "states"))
    flags = ["--explore", "1", "--max-steps", "200", "--before", "200"]
    assert main(["--out", str(tmp_path / "states"), *flags]) == 0
    fewer = len(read_states(tmp_path / "states"))
    assert 1 < fewer < count
    assert main(["--out", str(tmp_path / "states"), *flags, "--append"]) == 0
    assert len(read_states(tmp_path / "states")) == 2 * fewer
    (tmp_path / "other").write_text("not states")
    assert main(["--out", str(tmp_path / "other"), *flags, "--append"]) == 2
    assert "is not a file of states" in capsys.readouterr().err and (tmp_path / "other").read_text() == "not states"


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--after", "9999", "--count", "1", "--every", "1"], "between x = 9999"),
     (["--env", "CartPole-v1"], "CartPole-v1"), (["--count", "0"], "count"), (["--explore", "0"], "explore"),
     (["--explore", "1", "--actions", "fly"], "fly"), (["SuperMarioBros-1-1-v0", "--explore", "1"], "without a policy"),
     (["--explore", "1", "--max-steps", "50", "--after", "9999"], "between x = 9999")],
)  # fmt: skip
def test_bad_input_is_one_line(flags, said, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "s"), *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "s").exists()
