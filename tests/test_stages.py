"""A random stage per episode: from the command line, and measured stage by stage, those never trained on included."""

import json

import pytest

from ppo import arguments, config
from ppo.run import train
from scripts import evaluate
from utils import report

RANDOM = "SuperMarioBrosRandomStages-v0"
TINY = {"num_envs": 4, "steps_per_epoch": 256, "minibatch_size": 64, "epochs": 1, "max_episode_steps": 20}


def test_stages_are_words_with_commas_or_json():
    """Both are the same list, which config.json keeps; the run's own command line gives it back."""
    for text in ("1-1,2-1", '["1-1", "2-1"]'):
        cfg, _ = arguments.parse(["--env", RANDOM, "--stages", text])
        assert cfg.env_options["stages"] == ["1-1", "2-1"]
    assert """--stages '["1-1", "2-1"]'""" in cfg.command()


@pytest.mark.parametrize(("flags", "words"), [
    (["--stages", "1-1,1-2"], "--env SuperMarioBrosRandomStages-v0"),
    (["--env", RANDOM, "--stages", "1-1,9-9"], "stages: '9-9', expected some of 1-1 .. 8-4"),
    (["--env", RANDOM, "--stages", ""], "stages: ''"),
])  # fmt: skip
def test_stages_that_cannot_be_drawn_are_refused(flags, words):
    """With one line that names the stage, or the id to give."""
    with pytest.raises(ValueError, match=words.replace("[", "\\[")):
        arguments.parse(flags)


def test_each_stage_is_counted_and_unseen_ones_are_marked(tmp_path, capsys):
    """Trained on 1-1 and 2-1, measured on 1-1 and 3-1: counts by stage add up, 3-1 is marked; the report too."""
    run = train(config.build(env=RANDOM, stages=["1-1", "2-1"], data_dir=str(tmp_path), **TINY))
    capsys.readouterr()
    flags = ["--stages", "1-1,3-1", "--episodes", "12", "--jobs", "1", "--json", str(tmp_path / "e.json")]
    assert evaluate.main([str(run), *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    stages = json.loads((tmp_path / "e.json").read_text())["stages"]
    assert set(stages) == {"1-1", "3-1"} and sum(stage["episodes"] for stage in stages.values()) == 12
    assert stages["1-1"]["trained"] and not stages["3-1"]["trained"]
    assert ["not trained on" in line for line in said if line.startswith(("  1-1", "  3-1"))] == [False, True]
    assert report.main([str(run), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    section = page[page.index("id='stages'") :]
    assert ">1-1</th>" in section and ">2-1</th>" in section and "0% (0 to " in section


def test_rates_by_stage_are_those_counted_by_hand():
    """Two of three episodes of 1-1 and none of 1-2 reached the flag."""
    ends = [(1, 1, True), (1, 1, False), (1, 2, False), (1, 1, True)]
    records = [{"world": w, "stage": s, "flag": f, "independent": str(i)} for i, (w, s, f) in enumerate(ends)]
    found = evaluate.by_stage(records, ["1-2"])
    assert [(name, s["cleared"], s["episodes"], s["trained"]) for name, s in found.items()] == [
        ("1-1", 2, 3, False), ("1-2", 0, 1, True)]  # fmt: skip
