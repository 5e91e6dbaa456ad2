"""What an agent is shown of the console's memory, in the picture's place, and what episodes.csv keeps of it."""

import csv
import functools
import json

import numpy as np
import pytest

import envs
from envs import checks
from envs.mario import ram
from envs.mario.native_vector import NativeMarioVec
from envs.mario.python_vector import MarioVec
from envs.mario.rules import RAM
from ppo import arguments
from ppo.config import build
from ppo.policy import load_policy
from ppo.run import train
from scripts import evaluate, play, solve, states, teach
from tests.conftest import run
from tests.same_logs import differences

STAGE = "SuperMarioBros-1-1-v0"
NAMES = ["mario", "enemies", "blocks", "player_x_speed", "0x000f"]
SIZE = 11 + 25 + 13 * 12 + 2
TINY = {"env": STAGE, "network": "mlp", "ram_obs": NAMES, "num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 16,
        "train_pi_iters": 1, "train_v_iters": 1, "max_episode_steps": 12, "save_every": 1}  # fmt: skip


def memory(**given):
    """A console's memory (1, 2048) with these bytes, by name."""
    found = np.zeros((1, 2048), np.uint8)
    for name, value in given.items():
        found[0, RAM[name]] = value % 256
    return found


def values(*names, **given):
    return ram.Values(names)(memory(**given))[0].tolist()


def test_bytes_are_shares_and_speeds_have_a_sign():
    """A byte / 255, a speed / 128, in the order of the names; an address is a byte."""
    found = values("player_x", "player_x_speed", "0x0057", player_x=255, player_x_speed=-32)
    assert found == [1.0, -0.25, np.float32(224 / 255)]


def test_mario_by_hand():
    """Page 2, x 8: 520 pixels, in the middle of a block; y 64 on the screen; running left at 24, rising at 5."""
    bytes_of = {"player_page": 2, "player_x": 8, "player_y_page": 1, "player_y": 64, "player_power": 1}
    found = values("mario", **bytes_of, player_x_speed=-24, player_y_speed=-5, player_facing=2, player_float_state=1)
    assert found == [np.float32(520 / 4096), 0.5, 0.25, -0.5, -1.0, 0, 0, 0, 0.5, 0, 0]
    above = values("mario", player_y=240, player_facing=1, star_timer=3, swimming=1)  # the screen before the first
    assert above[2:] == [-0.0625, 0, 0, 1, 0, 1, 0, 1, 1]


def test_enemies_by_hand():
    """One 64 pixels ahead over the border of a page and 16 above, going left; who is not there is all zeros."""
    place = {"player_page": 1, "player_x": 224, "player_y_page": 1, "player_y": 176}
    enemy = {"enemy_active_1": 1, "enemy_page_1": 2, "enemy_x_1": 32, "enemy_y_1": 160, "enemy_id_1": 6}
    found = values("enemies", **place, **enemy, enemy_x_speed_1=-12, enemy_x_0=9, enemy_id_0=7)
    assert found[5:10] == [1, 0.25, -0.0625, -0.25, 6 / 64] and found[:5] + found[10:] == [0] * 20


def test_blocks_by_hand():
    """Mario at x = 240 stands in column 15, the last of page 0: column 16 is in the other half of the memory."""
    bytes_of = memory(player_x=240)
    bytes_of[0, 0x500 + 11 * 16 + 15] = 0x54  # under him
    bytes_of[0, 0x500 + 13 * 16 + 10 * 16 + 0] = 0xC2  # ahead, one row higher
    shown = ram.Values(["blocks"])(bytes_of).reshape(13, 12)
    assert shown[11, 2] == shown[10, 3] == 1 and shown.sum() == 2
    beyond = memory(player_x=240, player_page=2)  # two pages on, the same memory
    beyond[:, 0x500:] = bytes_of[:, 0x500:]
    assert np.array_equal(ram.Values(["blocks"])(beyond).reshape(13, 12), shown)


def test_the_ground_of_1_1_is_under_mario():
    """At the stage's start two full rows of ground, Mario on them, nobody there yet."""
    env = envs.make_vec(STAGE, 1, 0, ram_obs=["blocks", "mario", "enemies"])
    obs, _ = env.reset()
    blocks = obs[0, :156].reshape(13, 12)
    assert not blocks[:11].any() and blocks[11:].all()
    assert obs[0, 156] == np.float32(40 / 4096) and obs[0, 161] == 1 and not obs[0, 167:].any()


@pytest.mark.reference
def test_native_and_nes_py_show_the_same():
    """Bit for bit, over deaths and cut episodes; so does the implementation in Python over the native core."""
    options = {"ram_obs": NAMES, "ram_info": ["coins", "player_x"], "start_frames": 20, "max_episode_steps": 25}
    kinds = [{"emulator": "native"}, {"emulator": "nes-py"}, {"reward": "envs.mario.rules:reward_env"}]
    vectors = [envs.make_vec(STAGE, 2, 3, **options, **kind) for kind in kinds]
    assert [type(env) for env in vectors] == [NativeMarioVec, MarioVec, MarioVec]
    traces = [checks.play(env, 60) for env in vectors]
    assert sum("final_obs" in row["infos"] for row in traces[0]) >= 2 and traces[0][0]["obs"].shape == (2, SIZE)
    for trace in traces[1:]:
        checks.compare(traces[0], trace, "the native vector shows something else")


def test_contract():
    """Values of the memory keep the vector contract, states and last observations included."""
    options = {"ram_obs": NAMES, "ram_info": ["coins"], "sticky": 0.2, "max_episode_steps": 30}
    checks.check_vec_env(lambda **place: envs.make_vec(STAGE, **place, **options), steps=60)


@pytest.mark.parametrize(("flags", "words"), [
    (["--ram-obs", "mario,luigi"], "ram_obs: 'luigi', expected an address 0x0000..0x07ff or one of mario, enemies"),
    (["--ram-obs", "[]"], "ram_obs: [], expected names, each once"),
    (["--ram-obs", "mario,mario"], "each once"),
    (["--ram-obs", '[["mario"]]'], "ram_obs: ['mario'], expected"),
    (["--ram-info", "speed"], "ram_info: 'speed', expected"),
])  # fmt: skip
def test_unknown_names_are_refused(flags, words):
    """With one line that names the option and what it takes."""
    with pytest.raises(ValueError) as error:
        arguments.parse(flags)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_network_for_pictures_is_refused(tmp_path):
    """With one line that says which takes numbers."""
    done = run(["-m", "ppo.run", "--ram-obs", "mario", "--data-dir", str(tmp_path)])
    assert done.code == 2 and done.err.count("\n") == 1 and "expected mlp" in done.err, done.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs that sees the memory and keeps two bytes of it."""
    folder = tmp_path_factory.mktemp("ram")
    return train(build(**TINY, epochs=2, norm_obs=True, ram_info=["coins", "0x0009"], data_dir=str(folder)))


def test_the_run_keeps_what_it_saw(trained):
    """config.json and the policy say the names; episodes.csv has a column for each byte, as at the episode's end."""
    facts = json.loads((trained / "config.json").read_text())
    assert facts["ram_obs"] == NAMES and facts["ram_info"] == ["coins", "0x0009"]
    policy = load_policy(trained / "policy" / "last")
    assert policy.info["spec"]["options"]["ram_obs"] == NAMES and policy.info["obs_shape"] == [SIZE]
    with (trained / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["ram_coins"] for row in rows} == {"0"} and len({row["ram_0x0009"] for row in rows}) > 1


def test_resume_equals_no_interruption(trained, tmp_path):
    """One epoch and another after it give the files that two epochs give; other names are refused."""
    given = {**TINY, "norm_obs": True, "ram_info": ["coins", "0x0009"], "data_dir": str(tmp_path)}
    schedules = {"anneal_lr": False, "anneal_ent": False}
    whole = train(build(**given, **schedules, epochs=2, exp_name="whole"))
    train(build(**given, **schedules, epochs=1, exp_name="cut"))
    cut = train(build(**given, **schedules, epochs=2, exp_name="cut"), resume=True)
    assert differences(whole, cut) == []
    words = ["-m", "ppo.run", *"--resume --epochs 3 --network mlp --ram-obs mario --exp-name cut".split()]
    done = run([*words, "--num-envs", "2", "--data-dir", str(tmp_path)])
    assert done.code == 2 and done.err.count("\n") == 1 and "ram_obs was" in done.err, done.err


def test_it_is_evaluated_played_and_kept_as_states(trained, tmp_path, capsys):
    """The policy's file says what it must be shown, on either back end; bytes of the memory stand in the table."""
    table = tmp_path / "episodes.csv"
    flags = ["--episodes", "2", "--jobs", "1", "--ram-info", "coins,player_page", "--csv", str(table)]
    assert evaluate.main([str(trained), *flags]) == 0, capsys.readouterr().err
    assert {"ram_coins", "ram_player_page"} <= set(table.read_text().split("\n")[0].split(","))
    pictures = tmp_path / "play.gif"
    assert play.main([str(trained), "--gif", str(pictures), "--overlay"]) == 0, capsys.readouterr().err
    assert pictures.stat().st_size > 1000
    kept = tmp_path / "states"
    assert states.main([str(trained), "--out", str(kept), "--count", "2", "--every", "3"]) == 0
    assert kept.exists(), capsys.readouterr()


def test_a_planner_teaches_it(tmp_path, capsys, monkeypatch):
    """scripts.teach keeps numbers as they are, and normalising is refused, there and in scripts.solve."""
    monkeypatch.setattr(teach, "ROUND", 32)
    flags = "--network mlp --ram-obs mario,blocks --num-envs 2 --minibatch-size 32".split()
    assert teach.main([STAGE, "--out", str(tmp_path / "taught"), "--labels", "64", *flags]) == 0
    assert load_policy(tmp_path / "taught").info["spec"]["options"]["ram_obs"] == ["mario", "blocks"]
    assert "ram_obs" in solve.SEEN
    assert teach.main([STAGE, "--out", str(tmp_path / "b"), "--norm-obs", *flags]) == 2
    assert solve.main([STAGE, "--norm-obs", "--data-dir", str(tmp_path / "c"), *flags]) == 2
    assert "norm_obs" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_frames_of_one_environment_are_not_anothers():
    """Four environments show what two and two show."""
    make = functools.partial(envs.make_vec, STAGE, seed=5, ram_obs=["mario"], start_frames=30, start_mode="random")
    whole = make(4).reset()[0]
    assert np.array_equal(whole, np.concatenate([make(2).reset()[0], make(2, first_index=2).reset()[0]]))
    assert len(np.unique(whole[:, 0])) > 1
