"""Settings: flat over algorithm and family, from presets, files and flags, and back to a command line."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import envs
from ppo import config
from ppo.config import PPOConfig, build
from ppo.run import main, parse, train
from utils.settings import FACTS, Setting

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "data" / "results").rglob("config.json"))
ECHO = {
    "env": "Echo-v0",
    "num_envs": 4,
    "steps_per_epoch": 128,
    "minibatch_size": 64,
    "anneal_lr": False,
    "anneal_clip": False,
}


def printed(args, capsys):
    """What `ppo.run ARGS` prints before it ends with code 0."""
    with pytest.raises(SystemExit) as end:
        parse(args)
    assert end.value.code == 0
    return capsys.readouterr().out


def test_numbers_of_numpy_are_numbers():
    """Seeds of np.arange, step sizes of np.float32, options too: config.json holds them."""
    given = {"seed": np.int64(3), "norm_obs": np.bool_(True), "pi_lr": np.float32(0.5), "truncate": np.bool_(True)}
    found = json.loads(json.dumps(build(env="Echo-v0", **given).to_dict()))
    assert [found[name] for name in given] == [3, True, 0.5, True]
    kept = build(env="CartPole-v1", env_kwargs={"sutton_barto_reward": np.bool_(True)}).to_dict()
    assert json.loads(json.dumps(kept))["env_kwargs"] == {"sutton_barto_reward": True}


def test_an_explicit_none_is_a_value(capsys):
    """None over a preset's or default's number means none of it, in Python and on the command line."""
    assert build(max_grad_norm=None).max_grad_norm is None
    assert parse(["--max-grad-norm", "none"])[0].max_grad_norm is None
    assert build(preset="spinup", target_kl=None).target_kl is None
    assert build(env="CartPole-v1", preset="spinup", max_episode_steps=None).env_options["max_episode_steps"] is None
    with pytest.raises(ValueError, match="gamma must be a number in"):
        build(gamma=None)


def test_one_length_replaces_the_other():
    """Steps replace the preset's epochs; both given at once are refused."""
    assert build(total_steps=4097).num_epochs == 2
    assert (build(epochs=3).num_epochs, build(epochs=None).num_epochs) == (3, 50)
    with pytest.raises(ValueError, match="total-steps"):
        build(epochs=3, total_steps=9)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "tianchi", "seed": 2},
        {"preset": "spinup", "env": "CartPole-v1", "total_steps": 9000},
        {"max_grad_norm": None, "anneal_lr": False, "crop_hud": True, "sticky": 0.1},
        {"env": "SuperMarioBrosRandomStages-v0", "stages": ["1-1", "2-1"], "actions": '[["right"]]'},
        {"env": "Echo-v0", "truncate": True, "save_minutes": 5.0, "stop_at": "EvalEpRet >= 20", "eval_every": 1},
        {"epochs": None},
    ],
)
def test_a_command_reproduces_its_run(settings):
    """What `command` says gives the same settings, the preset and values of none included."""
    cfg = build(**settings)
    again, _ = parse(shlex.split(cfg.command())[3:])
    assert again == cfg
    if "preset" in settings:
        assert f"--preset {settings['preset']}" in cfg.command()


def test_what_is_printed_can_be_read_back(tmp_path, capsys):
    """--print-config of a command, given to --config, is the same command; flags win, nothing is written."""
    args = ["--preset", "tianchi", "--max-grad-norm", "none", "--sticky", "0.1", "--data-dir", str(tmp_path / "d")]
    (tmp_path / "c.json").write_text(printed([*args, "--print-config"], capsys))
    assert parse(["--config", str(tmp_path / "c.json")])[0] == parse(args)[0]
    cfg, _ = parse(["--config", str(tmp_path / "c.json"), "--gamma", "0.5", "--total-steps", "10000"])
    assert (cfg.gamma, cfg.num_epochs, cfg.env_options["sticky"], cfg.preset) == (0.5, 1, 0.1, "tianchi")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_configs_of_earlier_runs_are_taken(path):
    """Every run folder in the repository can be run again by its config.json, with the same settings."""
    old = json.loads(path.read_text())
    if old.get("start_states") or old.get("start_curriculum"):
        pytest.skip("its file of states is not in the repository")
    if "procgen" in old["env"]:
        pytest.importorskip("procgen")
    cfg, _ = parse(["--config", str(path)])
    differing = {name for name, value in cfg.to_dict().items() if name in old and old[name] != value}
    assert differing <= {"total_steps", "epochs"} and cfg.num_epochs > 0


def test_a_run_is_started_again_from_its_own_config(tmp_path):
    """Every key that a run writes is a setting or known to be none, after a resume with other settings too."""
    cfg = build(**ECHO, epochs=1, data_dir=str(tmp_path))
    folder = train(cfg)
    again, _ = parse(["--config", str(folder / "config.json")])
    assert again.to_dict() | {"exp_name": None} == cfg.to_dict()
    facts = json.loads((folder / "config.json").read_text())
    assert facts["free_settings"] == config.free_settings(cfg)
    train(build(**ECHO | {"gamma": 0.5}, epochs=2, data_dir=str(tmp_path)), resume=True, allow_mismatch=True)
    facts = json.loads((folder / "config.json").read_text())
    assert "mismatch" in facts and parse(["--config", str(folder / "config.json")])[0].gamma == 0.5


def test_another_environment_gets_another_name(tmp_path):
    """A name that was made from the file's environment does not stick to another one; a chosen name does."""
    for name, expected in (("ppo_cartpole-v1", "ppo_acrobot-v1"), ("mine", "mine")):
        (tmp_path / "c.json").write_text(json.dumps({"env": "CartPole-v1", "exp_name": name}))
        assert parse(["--config", str(tmp_path / "c.json"), "--env", "Acrobot-v1"])[0].experiment == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"gama": 0.9}, ["gama", "did you mean gamma"]),
        ({"gamma": "high"}, ["gamma", "number", "'high'"]),
        ({"num_envs": True}, ["num_envs", "integer", "True"]),
        ({"env": "CartPole-v1", "reward": "score"}, ["reward", "mario", "CartPole-v1"]),
        ({"env": 3}, ["env"]),
        ({"exp_name": "\u00e9" * 101}, ["exp-name", "200 bytes"]),
        ({"env": "Nowhere-v0"}, ["Nowhere-v0"]),
        ([1], ["c.json"]),
        (None, ["c.json", "no such file"]),
    ],
)
def test_a_bad_file_of_settings_is_one_line(tmp_path, content, words, capfd):
    """Code 2, and the line names the key, the value and what is allowed."""
    if content is not None:
        (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as end:
        main(["--config", str(tmp_path / "c.json")])
    said = capfd.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and all(word in said for word in words), said


def test_help_shows_what_this_command_would_use(capsys):
    """Groups in order, the family's last; defaults after the preset; the presets with their sources."""
    said = " ".join(printed(["--help"], capsys).split())
    titles = "what is run:,collecting:,learning:,saving and watching:,machine:,starting:"
    titles += ",environments of the family mario:,presets ("
    places = [said.index(title) for title in titles.split(",")]
    assert places == sorted(places)
    assert "discount per step (default 0.9)" in said and "MODULE:FUNCTION (default small)" in said
    assert "mario: gamma 0.9" in said and "spinup: openai/spinningup" in said
    said = " ".join(printed(["--help", "--env", "CartPole-v1", "--preset", "spinup"], capsys).split())
    assert "discount per step (default 0.99)" in said and "no bound (default none)" in said and "--sticky" not in said


def test_presets_side_by_side(capsys):
    """A column for each preset of the environment, a row for each setting in which they differ."""
    lines = [line.split() for line in printed(["--presets"], capsys).splitlines()]
    assert lines[0] == ["setting", "mario", "near", "tianchi", "modelarts", "spinup", "baselines"]
    assert ["gamma", "0.9", "0.95", "0.999", "0.9", "0.99", "0.99"] in lines
    assert ["max-grad-norm", "0.5", "0.5", "none", "0.5", "none", "0.5"] in lines
    assert not any(line[0] in ("seed", "preset") for line in lines)


def test_an_unknown_flag_says_what_was_meant(capfd):
    for args, word in ((["--gama", "1"], "gamma"), (["--no-aneal-lr"], "anneal-lr"), (["4"], "not a flag")):
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code == 2 and word in capfd.readouterr().err


def test_what_makes_an_experiment():
    """Seed, places, saving and threads are free; the length only where no schedule runs over it."""
    free = config.free_settings(build(anneal_lr=False, anneal_ent=False))
    assert {"seed", "data_dir", "save_every", "eval_every", "threads", "device", "epochs", "total_steps"} <= set(free)
    assert not {"env", "gamma", "sticky", "reward", "network", "precision"} & set(free)
    assert "epochs" not in config.free_settings(build())
    assert {"epochs", "threads"} <= config.free_on_resume(build()) and "seed" not in config.free_on_resume(build())


def test_a_folder_of_an_earlier_version_is_resumed(tmp_path):
    """Its config.json held every family's options and not yet the ones that came later."""
    folder = train(build(**ECHO, epochs=1, data_dir=str(tmp_path)))
    facts = json.loads((folder / "config.json").read_text())
    for name in ("truncate", *(FACTS & set(facts) - {"world_size", "spec", "versions"})):
        del facts[name]
    facts |= {"actions": "simple", "reward": "env", "skip": 4, "emulator": None, "threads": 1}
    (folder / "config.json").write_text(json.dumps(facts))
    train(build(**ECHO, epochs=2, data_dir=str(tmp_path)), resume=True)
    assert (folder / "progress.txt").read_text().count("\n") == 3


def test_a_setting_says_what_is_allowed():
    """Each bound in words, and the values on it, beside it and of another kind."""
    share = Setting(name="share", default=0.5, help="", kind=float, above=0, at_most=1, optional=True)
    assert share.allowed == "a number in (0, 1] or none"
    assert [v for v in (0, 0.1, 1, 1.1, None, float("nan"), True, "1") if share.accepts(v)] == [0.1, 1, None]
    assert Setting(name="n", default=1, help="", kind=int, at_least=1).allowed == "an integer >= 1"
    with pytest.raises(ValueError, match="affects"):
        Setting(name="n", default=1, help="", affects="mood")


def test_ppo_names_no_game():
    """Neither the algorithm's settings nor their presets know a family's options by more than a common name."""
    for path in (ROOT / "ppo").glob("*.py"):
        words = path.read_text()
        assert "FAMILY_PRESETS" not in words and "KEPT_OPTIONS" not in words and "envs.mario" not in words, path
    own = {setting.name for setting in config.settings()}
    assert not own & {option.name for family in envs.families() for option in family.options}


def test_the_end_of_a_name_is_enough_for_a_hint():
    """Spinning Up's users and others ask for --lr first."""
    assert config.unknown("lr", "CartPole-v1") == "no setting 'lr', did you mean pi-lr or v-lr?"


def test_a_command_takes_back_a_value_that_begins_like_a_flag():
    """A folder called --x, for instance."""
    cfg = build(env="Echo-v0", init_from="--x", network="--resume")
    assert parse(shlex.split(cfg.command())[3:])[0] == cfg
    cfg = build(env="Pendulum-v1", log_std=-1e-7)
    assert parse(shlex.split(cfg.command())[3:])[0] == cfg


def test_settings_of_an_environment_need_not_be_given():
    """The class alone fills them in, as `build` does."""
    cfg = PPOConfig(env="CartPole-v1")
    assert cfg.env_options == build(env="CartPole-v1").env_options and "CartPole-v1" in cfg.command()


def test_a_reader_that_goes_is_no_error():
    """`ppo.run --print-config | head -1` says nothing of a broken pipe."""
    argv = [sys.executable, "-c", "import time; time.sleep(1); from ppo.run import main; main(['--print-config'])"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
