"""Start states: taken along a stage by a command, and what a run then starts from."""

import json

import pytest

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
    cfg = build(start_states=str(out), num_envs=2, steps_per_epoch=16, minibatch_size=16, network="small", epochs=1,
                max_episode_steps=1, eval_every=1, eval_episodes=2, data_dir=str(tmp_path))  # fmt: skip
    folder = train(cfg)
    row = table_of(folder)[0]
    assert float(row["XMax"]) >= 60 and float(row["EvalXMax"]) < 60
    assert "start_states_sha256" in json.loads((folder / "config.json").read_text())["spec"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--after", "9999", "--count", "1", "--every", "1"], "beyond x = 9999"),
     (["--env", "CartPole-v1"], "CartPole-v1"), (["--count", "0"], "count")],
)  # fmt: skip
def test_bad_input_is_one_line(flags, said, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "s"), *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "s").exists()
