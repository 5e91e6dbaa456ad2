"""Files that come from a stranger: whatever is changed in one, a command answers with one line, or it works."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import make_vec
from envs.mario import demonstrations
from envs.mario.native_vector import read_states, write_states
from envs.vector import MAGIC, pack, unpack
from ppo import arguments, config
from ppo.evaluate import PRETRAINED
from ppo.networks import ActorCritic
from ppo.policy import load_policy, save_policy
from ppo.run import train
from scripts import play, scoreboard, solve, states, sweep
from tests.test_atari import needs_ale
from tests.test_damaged_folders import mutated, special, time_limit
from tests.test_policy import INFO
from tests.test_procgen import needs_procgen
from tests.test_train import ECHO
from utils import checkpoint
from utils.files import remove
from utils.folder import Refused, read_json

TRIES = 200
ODD = (
    None,
    True,
    -1,
    2**31,
    2**63,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x" * 500,
    "\x1b[2J",
    [],
    {},
    [[]] * 40,
    {"a": {}},
    "1",
    10**15,
    10**400,
)
SOME = [TRIES // 10, pytest.param(TRIES, marks=pytest.mark.slow)]
DEEP = "[" * 100_000
EXPLORED = {"decisions": 3, "cpu_seconds": 0.5, "way": 2, "frames": 8}


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return data with some bytes changed, cut off, doubled or inserted."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(out):
            out[place] = rng.randrange(256)
        elif kind == 1:
            del out[place:]
        elif kind == 2:
            out[place:place] = rng.randbytes(rng.choice((1, 8, 100)))
        elif kind == 3:
            del out[place : place + rng.choice((1, 8, 100))]
        else:
            out[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))
    return bytes(out)


def mutate_json(value, rng: random.Random):
    """Return a JSON value with something in it replaced, removed or added, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        what = rng.randrange(8)
        if what == 0:
            return {n: v for n, v in value.items() if n != name}
        if what == 1:
            return value | {rng.choice(("x", "\x1b[31m", "")): rng.choice(ODD)}
        return value | {name: mutate_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], mutate_json(value[place], rng), *value[place + 1 :]]
    return rng.choice(ODD)


def seal(body: bytes) -> bytes:
    return MAGIC + hashlib.sha256(body).digest() + body


def mutate_state(state: bytes, rng: random.Random) -> bytes:
    """Return a state with a checksum that fits, and something wrong in its header, its arrays or its sizes."""
    body = state[len(MAGIC) + 32 :]
    size, raw_size = struct.unpack("<QQ", body[:16])
    fields, raw = json.loads(body[16 : 16 + size]), zlib.decompress(body[16 + size :])
    kind = rng.randrange(6)
    if kind < 3:
        fields = mutate_json(fields, rng)
    elif kind == 3:
        raw = mutate_bytes(raw[:400], rng) + raw[400:]
    elif kind == 4:
        raw_size = rng.choice((0, raw_size + 1, 2**40, 2**64 - 1))
    else:
        return seal(mutate_bytes(body[: 16 + size], rng) + body[16 + size :])
    text = json.dumps(fields).encode()
    raw_size = len(raw) if kind != 4 else raw_size
    return seal(struct.pack("<QQ", len(text), raw_size) + text + zlib.compress(raw, 1))


def assert_one_line(error: Refused) -> None:
    """What a command shows of it: one line that is not long and cannot drive a terminal."""
    line = str(error)
    assert line.isprintable() and len(line) <= 1000, line


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("tries", SOME)
@pytest.mark.parametrize(
    ("env_id", "options", "steps"),
    [
        ("Echo-v0", {}, 5),
        ("Memory-v0", {}, 5),
        ("CartPole-v1", {}, 8),
        pytest.param("ALE/Breakout-v5", {}, 3, marks=needs_ale),
        pytest.param("procgen-bigfish-v0", {}, 3, marks=needs_procgen),
        ("SuperMarioBros-1-1-v0", {}, 3),
        ("SuperMarioBros-1-1-v0", {"emulator": "nes-py"}, 2),
    ],
    ids=["echo", "memory", "classic", "atari", "procgen", "mario", "mario-nes-py"],
)
def test_mutated_states_are_refused_or_work(env_id, options, steps, tries):
    """Two hundred states of every family, each with a checksum that fits: a ValueError on one line, or it goes on."""
    env = make_vec(env_id, 1, 0, **options)
    env.reset()
    for _ in range(steps):
        env.step(np.array([0]))
    (good,) = env.get_state()
    rng, refused, before = random.Random(1), 0, peak_mb()
    for _ in range(tries):
        try:
            env.set_state([mutate_state(good, rng)])
            env.step(np.array([0]))
        except ValueError as error:
            refused += 1
            assert len(str(error)) < 1500, error
    env.set_state([good])
    assert refused > tries // 8
    assert peak_mb() - before < 200 or "ALE" in env_id  # ale-py takes up to 2 GB where a length in its part says so
    env.close()


def test_a_state_cannot_fill_the_memory():
    """A few kilobytes that claim hundreds of megabytes are refused before anything is allocated."""
    env = make_vec("SuperMarioBros-1-1-v0", 1, 0)
    env.reset()
    (good,) = env.get_state()
    header, arrays = unpack("mario:native", 1, good)
    tracemalloc.start()
    bomb = pack("mario:native", 1, header, arrays | {"stack": np.zeros((1 << 20, 4, 84), np.uint8)})
    assert len(bomb) < 4 << 20 and tracemalloc.get_traced_memory()[1] > 300 << 20
    tracemalloc.reset_peak()
    with pytest.raises(ValueError, match="are possible"):
        env.set_state([bomb])
    assert tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0] < 20 << 20
    tracemalloc.stop()
    for stack in (np.zeros((1,), np.uint8), np.zeros((4, 84, 84), np.float64), np.zeros((1, 1, 1), np.uint8)):
        with pytest.raises(ValueError, match="state: stack is|are possible"):
            env.set_state([pack("mario:native", 1, header, arrays | {"stack": stack})])
    env.close()


@pytest.mark.parametrize("tries", SOME)
def test_mutated_files_of_states_are_refused_or_work(tmp_path, tries):
    """Two hundred files for --start-states: one line, or states that episodes start from."""
    env = make_vec("SuperMarioBros-1-1-v0", 2, 0)
    env.reset()
    saved, path, rng, refused = env.get_state(), tmp_path / "states", random.Random(2), 0
    write_states(path, saved)
    good = path.read_bytes()
    for i in range(tries):
        if i % 2:
            data = mutate_bytes(good[:200], rng) + good[200:]
            path.write_bytes(data)
        else:
            parts = [mutate_state(saved[0], rng), saved[1]]
            sizes = b"".join(len(part).to_bytes(8, "little") for part in parts)
            path.write_bytes(good[:8] + (2).to_bytes(8, "little") + sizes + b"".join(parts))
        try:
            read_states(path)
            made = make_vec("SuperMarioBros-1-1-v0", 1, 0, start_states=str(path), start_share=1.0)
            made.reset()
            made.close()
        except ValueError as error:
            refused += 1
            assert len(str(error)) < 1500
    assert refused > tries // 2
    env.close()


@pytest.mark.parametrize("name", ["pipe", "device", "folder"])
def test_a_file_of_states_that_never_ends_is_refused(tmp_path, name):
    """A pipe does not hang, a device does not fill the memory."""
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "device":
        path = Path("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ValueError, match="start_states"):
        read_states(path)


@pytest.mark.parametrize("tries", SOME)
@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_mutated_policies_are_refused_or_work(tmp_path, name, tries):
    """Two hundred texts and as many tensors of a policy: one line, or a policy that acts."""
    good, rng, refused = tmp_path / "good", random.Random(3), 0
    save_policy(good, ActorCritic("mlp", (4,), 4, "xavier", 0), INFO)
    info, data = json.loads((good / "policy.json").read_text()), (good / "policy.safetensors").read_bytes()
    for i in range(tries):
        tensors = mutate_bytes(data[:900], rng) + data[900:] if name == "policy.safetensors" else data
        changed = info | {"sha256": hashlib.sha256(tensors).hexdigest()}
        (good / "policy.safetensors").write_bytes(tensors)
        text = json.dumps(changed if name == "policy.safetensors" else mutate_json(changed, rng))
        (good / "policy.json").write_text(DEEP if i == 0 else text)
        try:
            load_policy(good).act(np.zeros((1, 4), np.float32))
        except Refused as error:
            refused += 1
            assert_one_line(error)
    assert refused > tries // 8


@pytest.mark.parametrize("tries", SOME)
def test_mutated_checkpoints_are_refused_or_work(tmp_path, tries, capsys):
    """Two hundred checkpoints with manifests that fit: one line and code 2, an older one, or a run that goes on."""
    path = train(
        config.build(**ECHO | {"train_pi_iters": 1, "train_v_iters": 1}, epochs=2, data_dir=str(tmp_path / "a"))
    )
    newest, rng, refused = max((path / "checkpoints").iterdir()), random.Random(4), 0
    kept = {p.name: p.read_bytes() for p in newest.iterdir()}
    meta = json.loads(kept["meta.json"])
    cfg = config.build(**ECHO | {"train_pi_iters": 1, "train_v_iters": 1}, epochs=2, data_dir=str(tmp_path / "b"))
    for i in range(tries):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        there = tmp_path / "b" / newest.relative_to(tmp_path / "a")
        if i % 4 == 3:
            (there / "MANIFEST.json").write_bytes(mutate_bytes(kept["MANIFEST.json"], rng))
        else:
            name = "meta.json" if i % 4 < 2 else "state.safetensors"
            head = kept[name][:1500]
            data = (
                json.dumps(mutate_json(meta, rng)).encode()
                if i % 4 < 2
                else mutate_bytes(head, rng) + kept[name][1500:]
            )
            data = DEEP.encode() if i == 0 else data
            (there / name).write_bytes(data)
            manifest = json.loads(kept["MANIFEST.json"])
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            (there / "MANIFEST.json").write_text(json.dumps(manifest))
        try:
            train(cfg, resume=True)
        except Refused as error:
            refused += 1
            assert_one_line(error)
        assert "\x1b" not in capsys.readouterr().out
    assert refused > tries // 8


@pytest.mark.parametrize("tries", SOME)
@pytest.mark.parametrize("name", ["config.json", "exit.json"])
def test_mutated_settings_and_endings_are_refused_or_work(tmp_path, name, tries, capsys):
    """Two hundred of config.json and exit.json each: one line and code 2, or a run that goes on; no raw text."""
    path = train(config.build(**ECHO, epochs=1, data_dir=str(tmp_path)))
    rng = random.Random(5)
    kept = {name: (path / name).read_bytes() for name in ("config.json", "exit.json")}
    cfg = config.build(**ECHO, epochs=1, data_dir=str(tmp_path))
    for i in range(tries):
        for other, data in kept.items():
            (path / other).write_bytes(data)
        text = json.dumps(mutate_json(json.loads(kept[name]), rng)).encode()
        (path / name).write_bytes(DEEP.encode() if i < 2 else mutate_bytes(kept[name], rng) if i % 3 == 0 else text)
        capsys.readouterr()
        try:
            train(cfg, resume=True)
        except Refused as error:
            assert_one_line(error)
        assert "\x1b" not in capsys.readouterr().out


READERS = {
    "demonstration": lambda path: demonstrations.read(path),
    "recording": lambda path: play.read_recording(path),
    "evaluation.json": lambda path: scoreboard.read(path.parent),
    "settings": lambda path: arguments.parse(["--config", str(path)]),
    "explorations.json": lambda path: states.explore_all(states_arguments(path.parent)),
    "proof": lambda path: read_proof(path.parent),
}


def states_arguments(folder: Path) -> argparse.Namespace:
    """Those of `scripts.states --all --max-steps 1`."""
    given = {"env": None, "append": False, "every": None, "out": folder, "seed": 0, "start_frames": 0, "actions": None}
    return argparse.Namespace(**given, max_steps=1)


def read_proof(folder: Path) -> None:
    """What `scripts.solve` does with figures of the weights that it has."""
    figure = scoreboard.shown_line(solve.known(folder, {}) or {}, "Random buttons")
    if figure is not None:
        print(figure["cleared"], figure["episodes"], figure["clear_rate"] >= 0.9)


@pytest.mark.parametrize("tries", SOME)
@pytest.mark.parametrize("kind", READERS)
def test_mutated_files_of_json_are_refused_or_work(tmp_path, kind, tries, monkeypatch):
    """Two hundred of each kind that a command reads: a ValueError, or what the command goes on with; a pipe does not
    hang, and what is nested deep or never ends is no traceback."""
    monkeypatch.setattr(states, "explore_one", lambda args, env_id: EXPLORED)
    path = tmp_path / (states.TABLE if kind == states.TABLE else "evaluation.json")
    rng, random_bytes, refused = np.random.default_rng(8), random.Random(8), 0
    good = {
        "demonstration": lambda: (demonstrations.SHIPPED / "SuperMarioBros-1-1-v0.json").read_bytes(),
        "recording": lambda: json.dumps(
            {
                "format": play.RECORDING,
                "env": "SuperMarioBros-1-1-v0",
                "emulator": "native",
                "checks": [1, 2],
                "episodes": ["0080", "01"],
            }
        ).encode(),
        "evaluation.json": lambda: (PRETRAINED / "SuperMarioBros-1-1-v0" / "evaluation.json").read_bytes(),
        "settings": lambda: json.dumps(config.build(env="Echo-v0").to_dict()).encode(),
        "explorations.json": lambda: json.dumps(
            {"seed": 0, "start_frames": 0, "actions": None, "stages": {f"1-{stage}": EXPLORED for stage in (1, 2, 3)}}
        ).encode(),
        "proof": lambda: (PRETRAINED / "SuperMarioBros-1-1-v0" / "evaluation.json").read_bytes(),
    }[kind]()
    path.write_bytes(good)
    READERS[kind](path)
    for i in range(tries):
        remove(path)
        path.write_bytes(good)
        if i < 5:
            special(path, i)
        elif i == 5:
            path.write_bytes(DEEP.encode())
        elif i % 3 == 0:
            path.write_text(json.dumps(mutate_json(json.loads(good), random_bytes)))
        else:
            path.write_bytes(mutated(good, rng) if i % 3 == 1 else mutate_bytes(good, random_bytes))
        try:
            with time_limit(20):
                READERS[kind](path)
        except ValueError:
            refused += 1
    assert refused > tries // 8


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"env": "Echo-v0", "network": "evil:anything"}, "--network"),
        ({"env": "evil:Anything-v0"}, "--env"),
        ({"env": "SuperMarioBros-1-1-v0", "reward": "evil:anything"}, "--reward"),
        ({"env": "CartPole-v1", "wrapper": "evil:anything"}, "--wrapper"),
    ],
)
def test_settings_of_a_stranger_import_no_module(tmp_path, settings, flag, monkeypatch):
    """--config refuses what names one, in one line that says how to trust it; so does it with another --env."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nanything = len\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "c.json").write_text(json.dumps(settings))
    for more in ([], ["--env", "Acrobot-v1"]):
        with pytest.raises(ValueError, match=f"if you trust it, add {flag}|no setting|is an option of"):
            arguments.parse(["--config", str(tmp_path / "c.json"), *more])
    assert not (tmp_path / "ran").exists()
    if flag != "--env":
        assert arguments.parse(["--config", str(tmp_path / "c.json"), flag, "evil:anything"])


READ_BY = [
    *(("sweep", name) for name in ("config.json", "exit.json", "progress.txt")),
    *(("solve", name) for name in ("config.json", "exit.json", "policy.json")),
]


@pytest.mark.parametrize("tries", SOME)
@pytest.mark.parametrize(("command", "name"), READ_BY)
def test_mutated_runs_are_passed_over_by_sweep_and_solve(tmp_path, command, name, tries, capsys):
    """Two hundred of each file of a run that they look at: a run that is done, or one that is not; nothing else."""
    flags = {"env": "Echo-v0", "num-envs": "4", "steps-per-epoch": "64", "minibatch-size": "64", "epochs": "1"}
    settings = {flag.replace("-", "_"): int(value) if value.isdigit() else value for flag, value in flags.items()}
    folder = train(config.build(**settings, exp_name="e", data_dir=str(tmp_path)))
    job = sweep.Job("e", "0", folder, flags, state="running")
    path = folder / "policy" / "last" / name if name == "policy.json" else folder / name
    rng, random_bytes, good, done = np.random.default_rng(9), random.Random(9), path.read_bytes(), 0
    args = argparse.Namespace(budget=64, goal=0.9)
    assert sweep.complete(job) and solve.trained(folder, args)
    for i in range(tries):
        remove(path)
        path.write_bytes(good)
        if i < 5:
            special(path, i)
        elif i % 3 == 0 and name != "progress.txt":
            path.write_text(json.dumps(mutate_json(json.loads(good), random_bytes)))
        else:
            path.write_bytes(mutated(good, rng) if i % 3 == 1 else mutate_bytes(good, random_bytes))
        with time_limit(20):
            if command == "sweep":
                done += sweep.complete(job)
                sweep.overview([job], 1.0)
            else:
                done += solve.trained(folder, args)
    assert done < tries or name == "progress.txt"  # which does not say whether a run has ended


@pytest.mark.parametrize("tries", SOME)
@pytest.mark.parametrize("name", ["progress.txt", "episodes.csv"])
def test_mutated_logs_are_refused_or_continued(tmp_path, name, tries, capsys):
    """Two hundred logs: one line and nothing changed, or a run that goes on and whose new rows are whole."""
    settings = ECHO | {"train_pi_iters": 1, "train_v_iters": 1, "steps_per_epoch": 64, "minibatch_size": 64}
    path = train(config.build(**settings, epochs=2, data_dir=str(tmp_path / "a")))
    cfg = config.build(**settings, epochs=3, data_dir=str(tmp_path / "b"))
    damaged, rng, random_bytes = cfg.run_dir / name, np.random.default_rng(6), random.Random(6)
    good, refused = (path / name).read_bytes(), 0
    for i in range(tries):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        data = mutate_bytes(good, random_bytes) if i % 2 else mutated(good, rng)
        damaged.write_bytes(data)
        try:
            train(cfg, resume=True)
        except Refused as error:
            refused += 1
            assert_one_line(error)
            assert damaged.read_bytes() == data
        else:
            lines = (cfg.run_dir / "progress.txt").read_bytes().split(b"\n")
            assert lines[-1] == b"" and lines[-2].count(b"\t") == lines[0].count(b"\t")
        assert "\x1b" not in capsys.readouterr().out
    assert (refused > tries // 8) == (name == "progress.txt")


def test_a_row_that_was_cut_off_does_not_swallow_the_next(tmp_path):
    """The rest of it stays a line of its own; bytes that are no text are kept as they are."""
    settings = ECHO | {"steps_per_epoch": 64, "minibatch_size": 64}
    path = train(config.build(**settings, epochs=2, data_dir=str(tmp_path)))
    whole = (path / "progress.txt").read_bytes()
    (path / "progress.txt").write_bytes(whole[:-30])
    train(config.build(**settings, epochs=3, data_dir=str(tmp_path)), resume=True)
    lines = (path / "progress.txt").read_bytes().split(b"\n")
    assert b"\n".join(lines[:3]) == whole[:-30] and lines[3].startswith(b"2\t") and len(lines) == 5
    with (path / "progress.txt").open("ab") as file:
        file.write(b"\x8e\xff\n")
    train(config.build(**settings, epochs=4, data_dir=str(tmp_path)), resume=True)
    assert (path / "progress.txt.bak").read_bytes() == lines[0] + b"\n\x8e\xff\n"


# Links, pipes and words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "progress.txt",
        "episodes.csv",
        "progress.txt.bak",
        "episodes.csv.bak",
        "config.json",
        "exit.json",
        "checkpoints",
        "policy",
        "tensorboard",
    ],
)
def test_links_in_a_run_folder_are_refused(tmp_path, name, capsys):
    """What would be written through them is not: one line, code 2, and the victim is as it was."""
    path = train(config.build(**ECHO | {"save_every": 1}, epochs=2, data_dir=str(tmp_path / "data")))
    if "." in name:
        victim = tmp_path / "victim"
        victim.write_bytes((path / name).read_bytes() if (path / name).exists() else b"precious")
        (path / name).unlink(missing_ok=True)
    else:
        victim = tmp_path / "victims"
        (path / name).mkdir(exist_ok=True)
        shutil.move(path / name, victim)
    (path / name).symlink_to(victim)
    before = {p: p.read_bytes() for p in [victim, *victim.rglob("*")] if p.is_file()}
    with pytest.raises(Refused, match=f"{name} is a link"):
        train(config.build(**ECHO | {"save_every": 1}, epochs=9, data_dir=str(tmp_path / "data")), resume=True)
    assert {p: p.read_bytes() for p in [victim, *victim.rglob("*")] if p.is_file()} == before


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_link_in_the_place_of_a_policy_is_replaced(tmp_path, name):
    """Not what it points to."""
    victim = tmp_path / "victim"
    save_policy(victim, ActorCritic("mlp", (4,), 4, "xavier", 0), INFO)
    before = (victim / "policy.json").read_bytes()
    (tmp_path / name).symlink_to(victim)
    save_policy(tmp_path / name, ActorCritic("mlp", (4,), 4, "xavier", 1), INFO | {"epoch": 3})
    assert (victim / "policy.json").read_bytes() == before and len(list(victim.iterdir())) == 2
    assert load_policy(tmp_path / name).info["epoch"] == 3 and not (tmp_path / name).is_symlink()


def test_checkpoints_that_are_links_are_not_followed(tmp_path):
    """Retention removes the link, not what it points to."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    root = tmp_path / "checkpoints"
    root.mkdir()
    (root / "step_0000000001").symlink_to(victim)
    (root / ".tmp-1").symlink_to(victim)
    for step in (2, 3, 4):
        checkpoint.save_checkpoint(root, step, {"a": torch.zeros(2)}, {}, 2)
    assert (victim / "precious").exists() and not (root / ".tmp-1").is_symlink()
    assert checkpoint.load_newest(root)[0] == root / "step_0000000004"


@pytest.mark.parametrize("name", ["exit.json", "config.json"])
def test_a_pipe_in_a_run_folder_does_not_hang(tmp_path, name, capsys):
    """Nobody writes into it: it is refused, or passed over."""
    path = train(config.build(**ECHO, epochs=1, data_dir=str(tmp_path)))
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(Refused):
        read_json(path / name)
    if name == "exit.json":
        train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)), resume=True)
        assert "it had been killed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["progress.txt", "episodes.csv", "progress.txt.bak", "episodes.csv.bak"])
def test_a_pipe_in_the_place_of_a_log_is_refused_before_anything_is_written(tmp_path, name):
    """Not after config.json has the new settings and exit.json says that it failed."""
    path = train(config.build(**ECHO | {"save_every": 1}, epochs=2, data_dir=str(tmp_path)))
    shutil.rmtree(path / "checkpoints" / "step_0000000512")  # so that a row is cut off
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with pytest.raises(Refused, match=f"{name} is not a file"):
        train(config.build(**ECHO | {"save_every": 1}, epochs=9, data_dir=str(tmp_path)), resume=True)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["progress.txt", "episodes.csv", "checkpoints", "policy", "videos"])
def test_what_may_not_be_written_in_a_run_folder_is_refused_before_anything_is_written(tmp_path, name, monkeypatch):
    """A log or a folder of another user: not after hours, when the first checkpoint is due."""
    path = train(config.build(**ECHO | {"save_every": 1}, epochs=2, data_dir=str(tmp_path)))
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    monkeypatch.setattr(os, "access", lambda place, mode: place != path / name)  # root may write everywhere
    with pytest.raises(Refused, match=f"{name} cannot be written"):
        train(config.build(**ECHO | {"save_every": 1}, epochs=9, data_dir=str(tmp_path)), resume=True)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_run_that_lost_its_config_is_not_written_over(tmp_path):
    """Neither a start nor --resume takes its folder for an empty one; --overwrite moves it aside."""
    cfg = config.build(**ECHO | {"save_every": 1}, epochs=3, data_dir=str(tmp_path))
    path = train(cfg)
    (path / "config.json").unlink()
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for resume in (False, True):
        with pytest.raises(Refused, match="without its config.json"):
            train(cfg, resume=resume)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    train(cfg, overwrite=True)
    assert any((old / "checkpoints" / "step_0000000768").exists() for old in path.parent.glob("*.old-*"))


def test_words_from_a_file_cannot_drive_the_terminal(tmp_path, capsys):
    """Escape sequences in how a run ended are shown as blanks."""
    path = train(config.build(**ECHO, epochs=1, data_dir=str(tmp_path)))
    (path / "exit.json").write_text(json.dumps({"reason": "\x1b]0;evil\x07\nline two"}))
    capsys.readouterr()
    train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)), resume=True)
    out = capsys.readouterr().out
    assert "evil" in out and "\x1b" not in out and "\x07" not in out and "\nline two" not in out
