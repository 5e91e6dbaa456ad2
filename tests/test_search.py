"""The search over settings: its space, what it refuses, and with Optuna a small one that is cut and goes on."""

import importlib
import importlib.util

import pytest

from scripts import search

optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")
ECHO = "--env Echo-v0 --epochs 2 --num-envs 2 --steps-per-epoch 32 --minibatch-size 16".split()


def test_ranges_and_choices():
    """LOW..HIGH is a range, several values are a choice, one value stays; the lowest of each is tried first."""
    words = "--env Echo-v0 --pi-lr 1e-5..0.1 --train-pi-iters 2..9 --minibatch-size 64 128 --anneal-lr".split()
    fixed, space = search.split(words)
    assert fixed == {"env": "Echo-v0", "anneal-lr": ""}
    assert space == {"pi-lr": (1e-5, 0.1), "train-pi-iters": (2.0, 9.0), "minibatch-size": ["64", "128"]}
    assert search.lowest(space) == {"pi-lr": "1e-05", "train-pi-iters": "2", "minibatch-size": "64"}
    assert search.config_of(fixed, search.lowest(space)).train_pi_iters == 2


class Trial:
    """Notes what is asked of a trial."""

    def __init__(self):
        self.asked = {}

    def __getattr__(self, kind):
        return lambda name, *between, **how: self.asked.update({name: (kind, *between, how)})


def test_wide_ranges_are_searched_by_their_logarithm():
    """From a factor of ten on and above zero; whole numbers where the setting is one."""
    trial, space = (
        Trial(),
        search.split("--pi-lr 1e-5..0.1 --lam 0.9..0.99 --ent-coef 0..1 --chunk-size 8..80".split())[1],
    )
    search.suggest(trial, space | {"gamma": ["0.9", "1"]}, "Echo-v0")
    assert trial.asked == {
        "pi-lr": ("suggest_float", 1e-5, 0.1, {"log": True}),
        "lam": ("suggest_float", 0.9, 0.99, {"log": False}),
        "ent-coef": ("suggest_float", 0.0, 1.0, {"log": False}),
        "chunk-size": ("suggest_int", 8, 80, {"log": True}),
        "gamma": ("suggest_categorical", ["0.9", "1"], {}),
    }


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--gamma 0.9", "nothing is searched"),
        ("--gamma 0.9..x", "gamma: 0.9..x, expected two numbers"),
        ("--gamma 0.99..0.9", "the lower one first"),
        ("--gamma 2..3", "gamma must be a number in [0, 1]"),
        ("--gama 0.9..0.99", "did you mean gamma"),
        ("--gamma 0.9..0.99 --resume", "--resume: is chosen by"),
        ("--gamma 0.9..0.99 --seed 0 1", "seed, env: one value each"),
        ("--gamma 0.9..0.99 --trials 0", "trials: 0"),
        ("--gamma 0.9..0.99 --column Return", "column: 'Return'"),
        ("--gamma 0.9..0.99 --column EvalEpRet", "EvalEpRet stays empty in such runs"),
    ],
)
def test_bad_input_is_one_line(words, named, capsys, tmp_path):
    """Exit code 2, and nothing is written."""
    try:
        code = search.main(["--env", "Echo-v0", "--data-dir", str(tmp_path), *words.split()])
    except SystemExit as end:  # of ppo.run's own parser
        code = end.code
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1 and named in said, said
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_one_line_says_what_to_install(capsys, tmp_path, monkeypatch):
    """And nothing is written."""
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    assert search.main([*ECHO, "--gamma", "0.5..0.9", "--data-dir", str(tmp_path)]) == 2
    assert ".[search]" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def values(folder):
    """What the trials drew and came to."""
    optuna = importlib.import_module("optuna")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}")
    return [(trial.state.name, trial.params, trial.value) for trial in study.trials]


@optuna
def test_a_search_that_is_cut_goes_on(tmp_path, capsys, monkeypatch):
    """Cut within its second trial, the same command ends with the trials of one in one go; other flags are refused."""
    words = [*ECHO, "--pi-lr", "1e-4..1e-1", "--train-pi-iters", "1", "2", "--trials", "3", "--data-dir"]
    assert search.main([*words, str(tmp_path / "whole")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[:5] for line in said[:3]] == [
        "t0000",
        "t0001",
        "t0002",
    ] and "3 trials (3 complete); best: t000" in said[3]
    assert said[4].startswith("python -m ppo.run --env Echo-v0") and said[5].endswith("--seed 1 2 3")
    assert search.config_of(*search.split(said[4].split()[3:] + ["--gamma", "0.1", "0.2"])[:1], {}).epochs == 2

    train, begun = search.run.train, []

    def cut(cfg, **how):
        begun.append(cfg.exp_name)
        if len(begun) == 2:
            how["on_epoch"] = lambda row: (_ for _ in ()).throw(KeyboardInterrupt)
        return train(cfg, **how)

    monkeypatch.setattr(search.run, "train", cut)
    assert search.main([*words, str(tmp_path / "cut")]) == 130
    assert search.main([*words, str(tmp_path / "cut")]) == 0
    assert begun == ["t0000", "t0001", "t0001", "t0002"]
    assert values(tmp_path / "cut" / "search_echo-v0") == values(tmp_path / "whole" / "search_echo-v0")
    capsys.readouterr()
    assert search.main([*words, str(tmp_path / "cut"), "--gamma", "0.5"]) == 2
    assert "was begun with" in capsys.readouterr().err


@optuna
def test_a_search_may_have_another_seed(tmp_path, capsys):
    """Its trials' runs are found by it."""
    words = [*ECHO, "--pi-lr", "1e-4..1e-1", "--trials", "1", "--seed", "3", "--data-dir", str(tmp_path)]
    assert search.main(words) == 0
    assert "1 trials (1 complete)" in capsys.readouterr().out


@optuna
def test_trials_that_fail_or_lag_do_not_end_the_search(tmp_path, capsys, monkeypatch):
    """Settings that do not fit fail; a trial below the median is ended early; the others count."""
    words = [*ECHO, "--epochs", "4", "--pi-lr", "1e-4..1e-1", "--num-envs", "2", "3", "--trials", "8"]
    monkeypatch.setattr(search, "FIRST", 1)
    del words[2:6]
    assert search.main([*words, "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "must be a multiple of num-envs (3)" in said and "8 trials (" in said and " fail" in said
