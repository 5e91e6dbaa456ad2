"""A family of environments needs one module: nothing in ppo/ knows it."""

import importlib
import json
from dataclasses import replace

import pytest

import envs
from envs import checks
from ppo import config
from ppo.config import build
from ppo.run import main, parse, train
from scripts import evaluate
from tests import made_up
from tests.conftest import run
from tests.same_logs import differences, rows
from utils import plot, report

COIN = "tests.made_up:Coin-v0"


def test_it_keeps_the_contract():
    """What the checker says of every family holds for one that the project does not know."""
    checks.check_vec_env(lambda **place: envs.make_vec(COIN, bias=0.4, **place), steps=40)


def test_it_is_trained_resumed_evaluated_and_plotted(tmp_path, capsys):
    """Its own column is in progress.txt and can be plotted; a resumed run equals one in one go."""
    settings = {"env": COIN, "anneal_lr": False, "eval_every": 2, "eval_episodes": 4, "bias": 0.7, "hurry": True}
    whole = train(build(**settings, epochs=4, data_dir=str(tmp_path / "whole")))
    train(build(**settings, epochs=2, data_dir=str(tmp_path / "cut")))
    made_up.built.clear()
    cut = train(build(**settings, epochs=4, data_dir=str(tmp_path / "cut")), resume=True)
    assert differences(whole, cut) == []
    assert [options["hurry"] for options in made_up.built] == [True, False]  # evaluations are not given it
    log = dict(zip(rows(whole)[0], rows(whole)[1][-1], strict=True))
    assert 0.5 < float(log["Heads"]) < 0.9 and 0.0 <= float(log["EvalHeads"]) <= 1.0
    facts = json.loads((whole / "config.json").read_text())
    assert facts["bias"] == 0.7 and facts["length"] == 4 and facts["columns"][0]["name"] == "Heads"
    assert {"quiet", "seed", "epochs", "data_dir"} <= set(facts["free_settings"])
    assert not {"bias", "hurry", "gamma", "env"} & set(facts["free_settings"])
    assert facts["plays_as"] == {"coin": "penny"} and facts["drawn_parts"] == ["ep_len"]
    assert evaluate.main([str(whole), "--env", COIN, "--episodes", "8", "--jobs", "1"]) == 0
    assert "8 episodes" in (said := capsys.readouterr().out) and "heads" in said
    assert plot.main([str(whole), "-y", "Heads", "--out", str(tmp_path / "heads.png")]) in (0, None)
    assert (tmp_path / "heads.png").stat().st_size > 1000
    assert report.main([str(whole), "--out", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "by the ep_len in which they ended: won, 95% interval" in page and ">4</th>" in page


def test_its_flags_its_help_and_its_preset(capsys):
    """Flags come from its options, defaults from its preset; its group is the last of the help."""
    cfg, _ = parse(["--env", COIN, "--bias", "0.5", "--no-quiet"])
    assert cfg.env_options == {"bias": 0.5, "length": 4, "hurry": False, "quiet": False}
    assert (cfg.preset, cfg.num_envs, cfg.steps_per_env) == ("coin", 4, 32)
    with pytest.raises(SystemExit):
        parse(["--env", COIN, "--help"])
    said = capsys.readouterr().out
    groups = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert groups[-2:] == ["environments of the family coin:", "presets (--presets compares them):"]
    assert "--length INT" in said and "(default 4)" in said
    assert "--sticky" not in said and "coin: made up" in said


def test_it_starts_from_the_command_line(tmp_path):
    """As a stranger would start it, in a process of its own."""
    done = run(["-m", "ppo.run", "--env", COIN, "--epochs", "1", "--exp-name", "c", "--data-dir", str(tmp_path)])
    assert done.code == 0, done.err
    assert "Heads" in (tmp_path / "c" / "c_s0" / "progress.txt").read_text().splitlines()[0].split("\t")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--env", COIN, "--bias", "1.5"], ["bias", "1.5", "[0, 1]"]),
        (["--env", COIN, "--length", "0"], ["length", "0", "1..64"]),
        (["--env", COIN, "--sticky", "0.1"], ["sticky", "mario", COIN]),
        (["--env", "CartPole-v1", "--reward", "score"], ["reward", "mario", "CartPole-v1"]),
        (["--env", "tests.made_up:Coin-v1"], ["tests.made_up:Coin-v1"]),
        (["--env", "no_such_module:Coin-v0"], ["no_such_module"]),
    ],
)
def test_what_is_not_its_own_is_refused(args, words, capfd):
    """One line that names the option, its owner and the value; code 2."""
    with pytest.raises(SystemExit) as end:
        main(args)
    said = capfd.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and all(word in said for word in words), said


@pytest.mark.parametrize("family", [*envs.families(), made_up.FAMILY], ids=lambda family: family.name)
def test_a_declaration_is_consistent(family):
    """Names are free of the algorithm's, defaults within their bounds, presets and columns of known names."""
    own = {setting.name for setting in config.settings()}
    options = {option.name: option for option in family.options}
    assert len(options) == len(family.options) and not own & set(options)
    assert all(option.accepts(option.default) for option in family.options)
    for preset in family.presets:
        assert set(preset.settings) <= own | set(options), preset.name
    assert set(family.defaults) <= own
    names = [column.name for column in (*family.columns, *family.learned)]
    assert len(set(names)) == len(names) and all(column.field for column in family.columns)
    assert all(options[name].accepts(value) for name, value in family.evaluation.items())
    assert not any(options[name].training_only for name in family.evaluation)
    assert {*family.evaluated, *filter(None, [family.best_by])} <= set(names)
    module, _, function = family.make.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def drawn(env_id, seed, options):
    """Coins that can be seen, 5 to a second."""
    vec = made_up.CoinVec(env_id, 1, seed, 0, options)
    vec.metadata = vec.metadata | {"render_fps": 5}
    return vec


def test_it_says_how_it_is_drawn(monkeypatch):
    """By a function of its own, which gets checked options; one that has none has no pictures."""
    with pytest.raises(ValueError, match="no pictures"):
        envs.make_visible(COIN, 3)
    monkeypatch.setattr(made_up, "FAMILY", replace(made_up.FAMILY, draw="tests.test_family:drawn"))
    vec = envs.make_visible(COIN, 3, length=7)
    assert (vec.num_envs, vec.seed, vec.options["length"], vec.metadata["render_fps"]) == (1, 3, 7, 5)
    with pytest.raises(ValueError, match="length"):
        envs.make_visible(COIN, 3, length=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluated": ("Tails",)}, "evaluated names 'Tails'"),
        ({"best_by": "Tails"}, "best_by names 'Tails'"),
        ({"evaluation": {"wind": 1}}, "evaluation names 'wind'"),
        ({"columns": (replace(made_up.FAMILY.columns[0], field=None),)}, "column Heads does not say"),
    ],
)
def test_names_that_lead_nowhere_are_refused_where_it_is_declared(changes, said):
    """Not after an epoch."""
    with pytest.raises(ValueError, match=said):
        replace(made_up.FAMILY, **changes)


def test_an_option_is_not_named_as_a_setting(monkeypatch, capsys):
    """The command line and Python alike would give both the same value."""
    shared = (*made_up.FAMILY.options, replace(made_up.FAMILY.options[0], name="shared"))
    monkeypatch.setattr(made_up, "FAMILY", replace(made_up.FAMILY, options=shared))
    with pytest.raises(ValueError, match="names an option 'shared'"):
        build(env=COIN)
    with pytest.raises(SystemExit, match="2"):
        main(["--env", COIN])
    assert "names an option 'shared'" in capsys.readouterr().err
