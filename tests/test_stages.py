"""A random stage per episode: from the command line, and measured stage by stage, those never trained on included."""

import json

import numpy as np
import pytest

from envs.mario import FAMILY
from ppo import arguments, config
from ppo.run import train
from scripts import evaluate
from tests.same_logs import differences
from tests.same_logs import rows as rows_of
from utils import columns, report
from utils.seeding import evaluation_seed

RANDOM = "SuperMarioBrosRandomStages-v0"
TINY = {"num_envs": 4, "steps_per_epoch": 256, "minibatch_size": 64, "epochs": 1, "max_episode_steps": 20}


def test_stages_are_words_with_commas_or_json():
    """Both are the same list, which config.json keeps; the run's own command line gives it back."""
    for text in ("1-1,2-1", '["1-1", "2-1"]'):
        cfg, _ = arguments.parse(["--env", RANDOM, "--stages", text])
        assert cfg.env_options["stages"] == ["1-1", "2-1"]
    assert """--stages '["1-1", "2-1"]'""" in cfg.command()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stages", "1-1,1-2"], "--env SuperMarioBrosRandomStages-v0"),
        (["--env", RANDOM, "--stages", "1-1,9-9"], "stages: '9-9', expected some of 1-1 .. 8-4"),
        (["--env", RANDOM, "--stages", ""], "stages: ''"),
        (["--test-stages", "1-2"], "test_stages: ['1-2'], only RandomStages ids draw stages"),
        (["--env", RANDOM, "--test-stages", "1-2", "--eval-every", "1"], "test_stages: 1-2 is trained on"),
        (["--env", RANDOM, "--stages", "1-1", "--test-stages", "9-9"], "test_stages: '9-9', expected some of"),
        (["--env", RANDOM, "--stages", "1-1", "--test-stages", "1-2"], "eval-every must be at least 1 where"),
        (["--env", RANDOM, "--stop-at", "TestClearRate>=0.9", "--eval-every", "1"], "names nothing to test on"),
        (["--env", "Echo-v0", "--stop-at", "TestEpRet>=9", "--eval-every", "1"], "stop-at must be a goal for a column"),
    ],
)
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
    for other in ("SuperMarioBros-4-1-v0", "SuperMarioBros2-1-1-v0", "SuperMarioBros-v0"):  # where no stage is drawn
        assert evaluate.main([str(run), "--env", other, "--episodes", "2", "--jobs", "1"]) == 0
    assert report.main([str(run), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    section = page[page.index("id='parts'") :]
    assert "by the world and stage in which they ended: clear rate, 95% interval" in section
    assert ">1-1</th>" in section and ">2-1</th>" in section and "0% (0 to " in section


def test_a_run_tests_itself_on_stages_that_it_does_not_train_on(tmp_path):
    """Every evaluation plays both sets: Test columns beside those of Eval, in the log, resumed, in the report."""
    given = {"env": RANDOM, "stages": ["1-1"], "test_stages": ["1-4"], "eval_every": 2, "eval_episodes": 4}
    given |= TINY | {"epochs": 4, "data_dir": str(tmp_path), "save_every": 2, "anneal_lr": False, "anneal_ent": False}
    given |= {"max_episode_steps": 30, "steps_per_epoch": 128, "train_pi_iters": 1, "train_v_iters": 1}
    whole = train(config.build(**given, exp_name="whole"))
    train(config.build(**given | {"epochs": 2}, exp_name="cut"))
    cut = train(config.build(**given, exp_name="cut"), resume=True)
    assert differences(whole, cut) == []
    rows = [dict(zip(rows_of(whole)[0], row, strict=True)) for row in rows_of(whole)[1]]
    for name in ("EpRet", "EpLen", "ClearRate", "XMax", "Starts", "Trajectories"):
        assert [bool(row[f"Test{name}"]) for row in rows] == [bool(row[f"Eval{name}"]) for row in rows] == [0, 1, 0, 1]
    last = rows[-1]
    assert last["TestXMax"] != last["EvalXMax"] and float(last["TestClearRate"]) == 0.0
    assert apart(whole) == (float(last["EvalXMax"]), float(last["TestXMax"]))
    assert report.main([str(whole), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "Clear rate, test" in page and "Clear rate, evaluation" in page


def apart(run):
    """What scripts.evaluate's function finds with the run's last policy on either set."""
    policy, seed = run / "policy" / "last", evaluation_seed(0)
    how = {"num_envs": 16, "start_frames": 30, "start_mode": "random", "max_episode_steps": 30}
    found = [evaluate.evaluate(policy, 4, seed, stages=[stage], **how) for stage in ("1-1", "1-4")]
    return tuple(float(np.mean([record["x_max"] for record in records])) for records in found)


def test_rates_by_stage_are_those_counted_by_hand():
    """Two of three episodes of 1-1 and none of 1-2 reached the flag."""
    ends = [(1, 1, True), (1, 1, False), (1, 2, False), (1, 1, True)]
    records = [{"world": w, "stage": s, "flag": f, "independent": str(i)} for i, (w, s, f) in enumerate(ends)]
    found = evaluate.by_stage(records, ("world", "stage"), "flag", ["1-2"])
    assert [(name, s["cleared"], s["episodes"], s["trained"]) for name, s in found.items()] == [
        ("1-1", 2, 3, False),
        ("1-2", 0, 1, True),
    ]


def test_columns_of_a_test_have_their_meaning():
    """They follow from the plain ones, and stand with the evaluations'."""
    own = {column.name: column for column in FAMILY.columns}
    assert columns.find_column("TestClearRate", own).label == "Clear rate, test"
    assert "not trained on" in columns.find_column("TestEpRet").meaning and columns.find_column("TestStarts").label
    assert columns.group("TestClearRate") == "eval" and {"TestClearRate", "TestStarts"} <= set(
        config.progress_columns(RANDOM)
    )
