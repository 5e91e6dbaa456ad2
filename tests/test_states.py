"""Start states: taken along a stage by a command, and what a run then starts from."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

import envs
from envs.mario import demonstrations, stages
from envs.mario.actions import BUTTONS
from envs.mario.backends import Consoles
from envs.mario.explore import explore
from envs.mario.native_vector import read_states
from ppo.config import build
from ppo.run import train
from scripts import states as states_module
from scripts.play import main as play_main
from scripts.states import main
from tests.test_evaluate import table_of

STAGE = "SuperMarioBros-1-1-v0"


def test_states_are_taken_and_trained_from(tmp_path, capsys):
    """Only beyond the wanted x; a run from them starts there, and its evaluations at the start of the stage."""
    out = tmp_path / "states"
    assert main(["--out", str(out), "--count", "5", "--after", "60", "--every", "3"]) == 0
    said = capsys.readouterr().out
    assert "5 states of SuperMarioBros-1-1-v0, x from " in said and int(said.split("x from ")[1].split()[0]) >= 60
    cfg = build(
        start_states=str(out),
        start_share=1.0,
        num_envs=2,
        steps_per_epoch=16,
        minibatch_size=16,
        network="small",
        epochs=1,
        max_episode_steps=1,
        eval_every=1,
        eval_episodes=2,
        data_dir=str(tmp_path),
    )
    folder = train(cfg)
    row = table_of(folder)[0]
    assert float(row["XMax"]) >= 60 and float(row["EvalXMax"]) < 60
    assert "start_states_sha256" in json.loads((folder / "config.json").read_text())["spec"]


def test_an_exploration_reaches_the_flag_and_keeps_where_mario_stood(tmp_path, capsys):
    """Without a policy, the same places for the same seed; nearly every state is one where he lives on."""
    assert main(["--out", str(tmp_path / "states"), "--explore", "2", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "exploration 3: the flag after " in said and "exploration 4: " in said
    found = explore(STAGE, 3, 100_000)
    assert found.buttons and f"after {found.steps:,} steps, a way of {len(found.buttons)}, {len(found.places)}" in said
    assert max(place.x for place in found.places) > 2500
    moments = demonstrations.place_moments(STAGE, found)
    states = read_states(tmp_path / "states")
    assert states[: len(found.places)] == [moment.state for moment in moments] and len(set(states)) > 100
    assert [(m.x, m.decision) for m in moments] == [(place.x, len(place.way())) for place in found.places]
    env = envs.make_vec(STAGE, len(moments), 3, ram_info=["player_page", "player_x"])
    obs = env.reset(options={"state": [moment.state for moment in moments]})[0]
    assert sum(not np.array_equal(frames[0], frames[3]) for frames in obs) > 0.9 * len(obs)  # he sees that he moves
    _, _, terminated, _, infos = env.step(np.zeros(len(moments), np.int64))
    x = 256 * infos["player_page"].astype(int) + infos["player_x"]
    assert np.mean(terminated) < 0.05
    assert np.all(terminated | (np.abs(x - [moment.x for moment in moments]) < 16))
    env.close()


def test_one_who_looks_ahead_leaves_states_too(tmp_path, capsys):
    """Each play from another start; a play that does not come to the flag leaves none."""
    out, flags = tmp_path / "states", ["--plan", "2", "--start-frames", "30", "--every", "10"]
    assert main(["--out", str(out), *flags]) == 0
    ways = [int(line.split()[5][:-1]) for line in capsys.readouterr().out.splitlines() if line.startswith("play")]
    assert len(ways) == 2 and all(150 < way < 400 for way in ways)
    assert len(set(read_states(out))) == sum(-(-way // 10) for way in ways)
    assert main(["--out", str(tmp_path / "none"), "--plan", "1", "--max-steps", "9"]) == 2
    assert "no way to the flag" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_the_way_to_the_flag_is_kept_decision_by_decision(tmp_path, capsys):
    """From the start to just before the flag, a few pixels at a time; with --every, each so manieth decision of it."""
    out = tmp_path / "states"
    assert main(["--out", str(out), "--explore", "1", "--seed", "3", "--every", "4", "--after", "100"]) == 0
    way = demonstrations.of_exploration(STAGE, explore(STAGE, 3, 100_000))
    moments = demonstrations.moments(way)
    kept = [moment.state for moment in moments[::4] if moment.x >= 100]
    assert read_states(out) == kept and f"{len(kept)} states" in capsys.readouterr().out
    xs = [moment.x for moment in moments]
    assert len(xs) == len(way.buttons) and xs[0] == 40
    assert max(abs(after - before) for before, after in zip(xs[:-1], xs[1:], strict=True)) < 16
    assert main(["--out", str(out), "--explore", "1", "--max-steps", "9", "--every", "4"]) == 2  # no flag, no way
    demonstrations.write(tmp_path / "way", way)
    assert main(["--out", str(out), "--from-demonstration", str(tmp_path / "way"), "--every", "4"]) == 0
    assert read_states(out) == [moment.state for moment in moments[::4]]
    bits = [[name for name, bit in BUTTONS.items() if bit & way.buttons[-1]]]
    env = envs.make_vec(STAGE, 1, 0, actions=bits)
    env.reset(options={"state": moments[-1].state})
    infos = env.step(np.array([0]))[4]
    assert [episode["flag"] for episode in infos["episodes"]] == [True]
    env.close()


def test_another_start_gives_another_way():
    """Random buttons before the first decision belong to the way, and lead to the flag again with it."""
    plain, disturbed = (explore(STAGE, 5, 200_000, start_frames=frames) for frames in (0, 30))
    assert plain.start == b"" and 0 < len(disturbed.start) <= 30 and disturbed.buttons != plain.buttons
    way = demonstrations.of_exploration(STAGE, disturbed)
    demonstrations.replay(way, Consoles("native", way.game).take(way.game.target))
    first = demonstrations.moments(way, every=len(way.buttons))
    assert len(first) == 1 and first[0].x == disturbed.places[0].x
    with pytest.raises(ValueError, match="did not end as it should"):
        demonstrations.replay(replace(way, start=b""), Consoles("native", way.game).take(way.game.target))


def test_all_stages_are_explored_by_one_command_that_resumes(tmp_path, capsys, monkeypatch):
    """A way and a row of the table for each stage; only what failed is explored again, with more steps."""
    monkeypatch.setattr(stages, "STAGES", ((1, 1), (1, 4)))
    flags = ["--all", "--out", str(tmp_path / "ways"), "--seed", "3"]
    assert main([*flags, "--max-steps", "9000"]) == 0
    assert "2 of 2" not in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in (tmp_path / "ways").iterdir()}
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert "2 of 2" in said and [line[:3] for line in said.splitlines()[1:3]] == ["1-1", "1-4"]
    ways = demonstrations.read_all(tmp_path / "ways")
    assert [way.env for way in ways] == [STAGE, "SuperMarioBros-1-4-v0"]
    rows = [line.split() for line in said.replace(",", "").splitlines()[1:3]]
    assert [len(way.buttons) for way in ways] == [int(row[3]) for row in rows]
    after = {path.name: path.read_bytes() for path in (tmp_path / "ways").iterdir()}
    assert all(after[name] == data for name, data in before.items() if name.startswith("Super"))
    monkeypatch.setattr(states_module, "explore", lambda *args, **kwargs: pytest.fail("explored again"))
    assert main(flags) == 0 and capsys.readouterr().out == said
    assert main([*flags[:-1], "4"]) == 2 and "other settings" in capsys.readouterr().err


WAYS = demonstrations.read_all()
SHORT = sorted(WAYS, key=lambda way: way.frames)[:2]


@pytest.mark.reference
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[] if way in SHORT else pytest.mark.slow) for way in WAYS], ids=lambda way: way.env
)
def test_a_demonstration_is_the_same_in_unmodified_nes_py(way):
    """All 2,048 bytes of memory and all pixels after every frame, on both back ends, and the flag at the end."""
    seen = []
    native = Consoles("native", way.game).take(way.game.target)
    demonstrations.replay(way, native, lambda c: seen.append((zlib.crc32(c.ram), zlib.crc32(c.screen))))
    count = iter(range(len(seen)))

    def compare(console):
        frame = next(count)
        assert (zlib.crc32(console.ram), zlib.crc32(np.ascontiguousarray(console.screen))) == seen[frame], frame

    reference = Consoles("nes-py", way.game)
    demonstrations.replay(way, reference.take(way.game.target), compare)
    reference.close()
    assert next(count, None) is None and len(seen) == len(way.start) + way.frames


def test_the_shipped_demonstrations_lead_through_all_stages():
    """One for each of the 32, small, and each reaches its flag on the native core."""
    assert [way.game.target for way in WAYS] == list(stages.STAGES)
    files = [demonstrations.SHIPPED / demonstrations.file_name(way.env) for way in WAYS]
    assert sum(path.stat().st_size for path in files) < 100 * 1024
    for way in WAYS:
        demonstrations.replay(way, Consoles("native", way.game).take(way.game.target))


def test_demonstrations_are_filmed_one_after_the_other(tmp_path, capsys):
    """Every so manieth of all their frames; a folder without any is refused."""
    (tmp_path / "ways").mkdir()
    for way in SHORT:
        demonstrations.write(tmp_path / "ways" / demonstrations.file_name(way.env), way)
    flags = ["--demonstrations", str(tmp_path / "ways"), "--video", str(tmp_path / "film.mp4"), "--scale", "1"]
    assert play_main([*flags, "--every", "8"]) == 0
    said = capsys.readouterr().out
    assert all(f"{way.env}: flag after {len(way.buttons)} decisions" in said for way in SHORT)
    assert (
        f"{-(-sum(way.frames for way in SHORT) // 8)} frames" in said and (tmp_path / "film.mp4").stat().st_size > 9999
    )
    assert play_main(["--demonstrations", str(tmp_path), "--video", str(tmp_path / "no.mp4")]) == 2
    assert play_main(["--random", "--every", "2"]) == 2 and "only with --demonstrations" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"format": 2}, "format"),
        ({"buttons": "xx"}, "hex"),
        ({"env": "SuperMarioBros-v0"}, "one stage"),
        ({"rom_sha256": "0" * 64}, "another ROM"),
        ({"skip": 0}, "skip"),
        ({"extra": 1}, "extra"),
        ({"buttons": 3}, "read"),
    ],
)
def test_a_damaged_demonstration_is_refused(damage, said, tmp_path):
    facts = json.loads((demonstrations.SHIPPED / demonstrations.file_name(STAGE)).read_text())
    (tmp_path / "way").write_text(json.dumps({**facts, **damage}))
    with pytest.raises(ValueError, match=said):
        demonstrations.read(tmp_path / "way")


@pytest.mark.parametrize("option", ["start_states", "start_curriculum"])
def test_a_damaged_state_is_refused_by_its_file(option, tmp_path):
    """Whatever is wrong with it: a flipped bit, or another stage than it is to start."""
    path = tmp_path / "states"
    assert main(["--out", str(path), "--count", "2"]) == 0
    with pytest.raises(ValueError, match=f"^{option}: {path}: state: one of stage"):
        envs.make_vec("SuperMarioBros-2-1-v0", 1, 0, **{option: str(path)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{option}: {path}: state: damaged, its checksum"):
        envs.make_vec(STAGE, 1, 0, **{option: str(path)})


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
    [
        (["--after", "9999", "--count", "1", "--every", "1"], "between x = 9999"),
        (["--env", "CartPole-v1"], "CartPole-v1"),
        (["--count", "0"], "count"),
        (["--explore", "0"], "explore"),
        (["--plan", "0"], "plan: 0"),
        (["--plan", "1", "--start-frames", "31"], "0..30"),
        (["--plan", "1", "--env", "SuperMarioBros-v0"], "one stage"),
        (["--plan", "1", "--explore", "1"], "one of"),
        (["--explore", "1", "--actions", "fly"], "fly"),
        (["SuperMarioBros-1-1-v0", "--explore", "1"], "expected one of: a policy"),
        (["--explore", "1", "--max-steps", "50", "--after", "9999"], "between x = 9999"),
        (["--explore", "1", "--start-frames", "31"], "0..30"),
        (["--explore", "1", "--env", "SuperMarioBros-v0"], "one stage"),
        (["--from-demonstration", "nowhere"], "nowhere"),
        (["--all", "--explore", "1"], "one of"),
        (["--all", "--every", "3"], "--every"),
    ],
)
def test_bad_input_is_one_line(flags, said, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "s"), *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "s").exists()
