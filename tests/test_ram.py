"""What an agent is shown of the console's memory, in the picture's place, and what episodes.csv keeps of it."""

import csv
import functools
import json

import numpy as np
import pytest

import envs
from envs import checks
from envs.mario import near, ram
from envs.mario.native_vector import NativeMarioVec
from envs.mario.python_vector import MarioVec
from envs.mario.rules import RAM
from ppo import arguments
from ppo.config import build
from ppo.policy import load_policy
from ppo.run import train
from scripts import evaluate, play, states, teach
from tests.conftest import run
from tests.same_logs import differences

STAGE = "SuperMarioBros-1-1-v0"
NAMES = ["near", "player_x_speed", "0x000f"]
SIZE = near.SIZE + 2
TINY = {
    "env": STAGE,
    "network": "mlp",
    "ram_obs": NAMES,
    "num_envs": 2,
    "steps_per_epoch": 32,
    "minibatch_size": 16,
    "train_pi_iters": 1,
    "train_v_iters": 1,
    "max_episode_steps": 12,
    "save_every": 1,
}


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


def test_place_by_hand():
    """Page 5 of 32, column 7 of 16, and the bits of the area's number, the lowest first."""
    found = values("place", player_page=5, player_x=7 * 16 + 15, area_data_low=0b1000_0011)
    assert len(found) == 32 + 16 + 8
    assert [i for i, number in enumerate(found) if number == 1] == [5, 32 + 7, 48, 49, 55] and sum(found) == 5


def parts(ram):
    """What `near` shows of one memory: map (14, 16), things (6, 20), shots (9, 5), Mario (34,)."""
    shown = near.near(ram.astype(np.int64))[0]
    assert shown.shape == (near.SIZE,) and np.abs(shown).max() <= 3
    ends = np.cumsum([near.ROWS * near.COLUMNS, near.THINGS * 20, near.SHOTS * 5])
    around, things, shots, mario = np.split(shown, ends)
    return around.reshape(near.ROWS, near.COLUMNS), things.reshape(-1, 20), shots.reshape(-1, 5), mario


STANDING = {"player_y_page": 1, "player_y": 176, "player_state": 8}


def test_mario_by_hand():
    """Page 2, x 8: in the middle of a block; y 64 on the screen; running left at 24, rising at 5."""
    place = {"player_page": 2, "player_x": 8, "player_y_page": 1, "player_y": 64}
    *_, mario = parts(memory(**place, player_x_speed=-24, player_y_speed=-5, player_float_state=1, player_power=1))
    assert mario[:5].tolist() == [0.5, 0.0, 0.5, np.float32(-1.2), -1.25]
    assert mario[7:11].tolist() == [0, 1, 0, 0] and mario[13] == 0.5 and mario[26] == 0.25
    *_, above = parts(memory(player_y=240, player_facing=1, swimming=1))  # the screen before the first
    assert above[2] == -0.125 and above[25] == 1 and above[11] == 1


def test_the_map_by_hand():
    """Mario at x = 240 is in column 15, the last of page 0: column 16 is in the other half of the memory."""
    ram = memory(player_x=240, **STANDING)
    ram[0, 0x500 + 11 * 16 + 15] = 0x54  # under him
    ram[0, 0x500 + 13 * 16 + 10 * 16 + 0] = 0x51  # ahead, one row higher
    ram[0, 0x500 + 13 * 16 + 10 * 16 + 1] = 0xC2  # a coin is no obstacle
    around = parts(ram)[0]
    assert around[near.ABOVE, near.LEFT] == around[near.ABOVE - 1, near.LEFT + 1] == 1 and around.sum() == 2
    ram[0, RAM["player_page"]] = 2  # two pages on, the same memory
    assert np.array_equal(parts(ram)[0], around)


def test_things_by_hand():
    """The nearest first, over the border of a page; who is not there, or defeated, is all zeros."""
    place = {"player_page": 1, "player_x": 224, **STANDING}
    goomba = {"enemy_active_1": 1, "enemy_page_1": 2, "enemy_x_1": 32, "enemy_y_1": 184, "enemy_id_1": 6}
    bar = {"enemy_active_3": 1, "enemy_page_3": 1, "enemy_x_3": 208, "enemy_y_3": 160, "enemy_id_3": 0x1B}
    defeated = {"enemy_active_0": 1, "enemy_page_0": 1, "enemy_x_0": 224, "enemy_id_0": 6, "enemy_state_0": 0x22}
    ram = memory(**place, **goomba, **bar, **defeated, enemy_x_speed_1=-12)
    ram[0, [0xB6 + 1, 0xB6 + 3]], ram[0, 0xA0 + 3] = 1, 8  # both on the screen; a quarter of a turn
    around, things, _, _ = parts(ram)
    assert things[0, :3].tolist() == [1, -0.25, -0.25] and np.allclose(things[0, 3:5], [0, 1], atol=1e-6)
    assert things[1, :7].tolist() == [1, 1, 0.125, -0.75, 0, 0, 0] and things[1, 7] == 1
    assert not things[2:].any()
    assert around[near.ABOVE - 1, near.LEFT + 4] == -1  # 64 pixels ahead, on the row above the ground
    assert list(near.KINDS)[int(things[0, 7:].argmax())] == "fire bar"


@pytest.mark.parametrize(("kind", "direction", "shown"), [(0x1B, 0, [0, 0]), (0x1D, 16, [0, 1]), (0x1F, 0, [1, 0])])
def test_a_fire_bar_shows_its_length_and_how_it_turns(kind, direction, shown):
    """In one picture a bar that comes and one that goes look alike; the game keeps the direction at 0x34."""
    ram = memory(enemy_active_0=1, enemy_id_0=kind, enemy_y_0=160, **STANDING)
    ram[0, 0xB6], ram[0, 0x34] = 1, direction
    assert parts(ram)[1][0, 5:7].tolist() == shown


@pytest.mark.parametrize("kind", [0x08, 0x33])
def test_bullets_are_in_the_map(kind):
    """Those from beyond the screen and those of cannons, which have a number of their own."""
    ram = memory(enemy_active_0=1, enemy_id_0=kind, enemy_x_0=64, enemy_y_0=160, **STANDING)
    ram[0, 0xB6] = 1
    around, things, _, _ = parts(ram)
    assert list(near.KINDS)[int(things[0, 7:].argmax())] == "flies" and (around < 0).sum() == 1


def test_shots_by_hand():
    """A hammer 32 pixels ahead, 16 above, flying left and down."""
    ram = memory(player_x=100, **STANDING)
    ram[0, [0x2A, 0x93, 0xDC, 0x64, 0xAC]] = 0x90, 132, 160, 256 - 16, 2
    assert parts(ram)[2][0].tolist() == [1, 0.5, -0.25, -1, 0.5]


def test_the_ground_of_1_1_is_under_mario():
    """At the stage's start two full rows of ground, Mario on them, nobody there yet."""
    env = envs.make_vec(STAGE, 1, 0, ram_obs=["near"])
    env.reset()
    around, things, shots, mario = parts(env.memories())
    assert not around[: near.ABOVE].any() and around[near.ABOVE : near.ABOVE + 2, near.LEFT - 2 :].all()
    assert not things.any() and not shots.any() and mario[7] == 1


def test_bytes_beside_the_picture():
    """A plane more for each; a speed is moved so that 128 is a standstill. The picture stays what it is without."""
    names = ["player_x_speed", "0x000e", "player_x"]
    env, plain = envs.make_vec(STAGE, 2, 3, ram_planes=names), envs.make_vec(STAGE, 2, 3)
    seen, pictures = env.reset()[0], plain.reset()[0]
    assert env.single_observation_space.shape == seen.shape[1:] == (7, 84, 84) and seen.dtype == np.uint8
    for action in (3, 3, 3, 6, 6, 6):
        seen, pictures = (e.step(np.array([action, 0]))[0] for e in (env, plain))
        assert np.array_equal(seen[:, :4], pictures)
        for i in range(2):
            speed, state, x = (env._ram(i)[RAM[name]] for name in ("player_x_speed", "player_state", "player_x"))
            assert np.array_equal(seen[i, 4:], np.uint8([speed ^ 128, state, x])[:, None, None] + np.zeros((84, 84)))
    assert seen[0, 4, 0, 0] < 128 == seen[1, 4, 0, 0]


def test_bytes_beside_the_picture_are_trained_on_and_played(tmp_path, capsys):
    """By a network for pictures; the policy's file says which, and the vector contract holds."""
    sizes = {"env": STAGE, "network": "small", "num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 32, "epochs": 1}
    folder = train(build(**sizes, ram_planes=["coins", "player_y_speed"], data_dir=str(tmp_path)))
    info = load_policy(folder / "policy" / "last").info
    assert info["obs_shape"] == [6, 84, 84] and info["spec"]["options"]["ram_planes"] == ["coins", "player_y_speed"]
    assert evaluate.main([str(folder), "--episodes", "1", "--jobs", "1", "--max-episode-steps", "20"]) == 0
    options = {"ram_planes": ["coins", "player_y_speed"], "sticky": 0.2, "max_episode_steps": 30}
    checks.check_vec_env(lambda **place: envs.make_vec(STAGE, **place, **options), steps=40)
    capsys.readouterr()


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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ram-obs", "7"], "ram_obs"),
        (["--ram-obs", "near,luigi"], "ram_obs: 'luigi', expected an address 0x0000..0x07ff or one of near, "),
        (["--ram-obs", "[]"], "ram_obs: [], expected names, each once"),
        (["--ram-obs", "near,near"], "each once"),
        (["--ram-obs", '[["near"]]'], "ram_obs: ['near'], expected"),
        (["--ram-info", "speed"], "ram_info: 'speed', expected"),
        (["--ram-planes", "near"], "ram_planes: 'near', expected an address 0x0000..0x07ff or one of"),
        (["--ram-planes", "coins,coins"], "ram_planes: ['coins', 'coins'], expected names, each once"),
        (
            ["--ram-planes", "coins", "--ram-obs", "near"],
            "ram_planes stand beside the picture",
        ),
    ],
)
def test_unknown_names_are_refused(flags, words):
    """With one line that names the option and what it takes."""
    with pytest.raises(ValueError) as error:
        arguments.parse(flags)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_network_for_pictures_is_refused(tmp_path):
    """With one line that says which takes numbers."""
    done = run(["-m", "ppo.run", "--ram-obs", "near", "--data-dir", str(tmp_path)])
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
    words = ["-m", "ppo.run", *"--resume --epochs 3 --network mlp --ram-obs near --exp-name cut".split()]
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
    """scripts.teach keeps numbers as they are, and normalising is refused, in one line."""
    monkeypatch.setattr(teach, "ROUND", 32)
    flags = "--network mlp --ram-obs near,player_x --num-envs 2 --minibatch-size 32".split()
    assert teach.main([STAGE, "--out", str(tmp_path / "taught"), "--labels", "64", *flags]) == 0
    assert load_policy(tmp_path / "taught").info["spec"]["options"]["ram_obs"] == ["near", "player_x"]
    assert teach.main([STAGE, "--out", str(tmp_path / "b"), "--norm-obs", *flags]) == 2
    assert "norm-obs" in capsys.readouterr().err


def test_frames_of_one_environment_are_not_anothers():
    """Four environments show what two and two show."""
    make = functools.partial(envs.make_vec, STAGE, seed=5, ram_obs=["near"], start_frames=30, start_mode="random")
    whole = make(4).reset()[0]
    assert np.array_equal(whole, np.concatenate([make(2).reset()[0], make(2, first_index=2).reset()[0]]))
    assert len(np.unique(whole, axis=0)) > 1
