"""A checkpoint is complete and verified, or invisible: killed at any line, on a full disk, from a stranger."""

import csv
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ppo import config, monitor, recorder
from ppo import policy as module
from ppo.evaluate import find_policy
from ppo.networks import ActorCritic
from ppo.policy import load_policy, previous, save_policy
from ppo.recorder import Recorder
from ppo.run import parse, train
from ppo.training import NotFinite
from tests.conftest import finish, run, start
from tests.test_faults import FLAGS, assert_files_valid, folder, wait_for_rows
from tests.test_train import ECHO, assert_same, rows
from utils import checkpoint, files, logger
from utils import folder as folders
from utils.folder import Refused
from utils.watchdog import Watchdog

TENSORS = {"a": torch.arange(1000.0), "b": torch.ones(7, dtype=torch.uint8)}


@pytest.fixture
def in_memory():
    """A folder in memory, where syncing costs nothing: for tests that save hundreds of times."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)


def save_step(root, step):
    checkpoint.save_checkpoint(root, step, TENSORS, {"epoch": step}, keep=2)


def save_until_line(root, step, line):
    """Save in a child process that dies at the given line that `utils/checkpoint.py` executes; whether it died."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename not in (checkpoint.__file__, files.__file__):
                return None
            left -= event == "line"
            if left < 0:
                os._exit(9)
            return trace

        sys.settrace(trace)
        save_step(root, step)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_at_every_line_of_saving(in_memory):
    """Whatever line is the last one, at least two checkpoints verify, the newest is the old or the new one."""
    save_step(in_memory, 1)
    save_step(in_memory, 2)
    line, newest_found = 0, set()
    while save_until_line(in_memory, 3, line):
        newest, _, rejected = checkpoint.load_newest(in_memory)
        assert newest is not None and newest.name in ("step_0000000002", "step_0000000003")
        newest_found.add(newest.name)
        assert rejected == []
        assert len(list(in_memory.glob("step_*"))) >= 2
        checkpoint.clean_temporary(in_memory)
        assert sorted(p.name[:5] for p in in_memory.iterdir()) == ["step_"] * len(list(in_memory.iterdir()))
        line += 1
    assert line > 30 and len(newest_found) == 2


def test_killed_while_replacing_a_checkpoint_of_the_same_step(in_memory):
    """A resumed run reaches a step again: what verifies is that step or the one before."""
    for line in range(200):
        save_step(in_memory, 1)
        save_step(in_memory, 2)
        died = save_until_line(in_memory, 2, line)
        newest, _, rejected = checkpoint.load_newest(in_memory)
        assert newest is not None and len(rejected) <= 1
        if not died:
            return
    raise AssertionError("it never came to its end")


def test_every_file_and_folder_is_synced(tmp_path, monkeypatch):
    """Power may fail: the three files and the folder before the rename, the parent after it."""
    synced = []
    fsync = os.fsync

    def noted(handle):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))[:5])
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    save_step(tmp_path / "checkpoints", 5)
    assert synced == ["state", "meta.", "MANIF", ".tmp-", "check"]


@contextmanager
def small_disk(path, *options):
    """A file system of 4 MB."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=4m", *options]), "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path, leave):
    free = os.statvfs(path)
    (path / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - leave)))


@pytest.mark.parametrize(
    "leave", [pytest.param(200_000, id="checkpoint"), pytest.param(0, id="log", marks=pytest.mark.slow)]
)
def test_a_full_disk_ends_the_run_in_the_end_and_loses_nothing(tmp_path, leave):
    """Three checkpoints fail loudly, or three rows of the log; the run ends, and continues exactly with more room."""
    with small_disk(tmp_path / "disk") as disk:
        flags = [*FLAGS, "--epochs", "400", "--save-every", "2", "--no-anneal-lr", "--no-anneal-clip"]
        process, mark = start(["-m", "ppo.run", *flags, "--data-dir", str(disk)])
        wait_for_rows(folder(disk), 5)
        fill(disk, leave)
        done = finish(process, mark)
        assert done.code == 1, done.err
        if leave:
            assert done.out.count("WARNING: checkpoint not saved") == 3
            assert "KiB free" in done.out or "No space left on device" in done.out
        else:
            assert "WARNING: row of the log not saved" in done.out and "(3 in a row)" in done.out
            assert "No space left on device" in done.err
        newest, _, rejected = checkpoint.load_newest(folder(disk) / "checkpoints")
        assert newest is not None and rejected == []
        (disk / "filler").unlink()
        epochs = str(len(rows(folder(disk))) + 4)
        assert run(["-m", "ppo.run", *flags, "--epochs", epochs, "--resume", "--data-dir", str(disk)]).code == 0
        assert_files_valid(disk)
        cfg, _ = parse([*flags, "--epochs", epochs, "--data-dir", str(tmp_path / "whole")])
        train(cfg)
        assert_same(folder(tmp_path / "whole"), folder(disk))


def test_places_that_cannot_be_written_are_refused_at_the_start(tmp_path):
    """A file where the folder should be, and a file system that is mounted for reading: one line, code 2."""
    (tmp_path / "taken").write_text("")
    done = run(["-m", "ppo.run", *FLAGS, "--data-dir", str(tmp_path / "taken")])
    assert done.code == 2 and done.err.count("\n") == 1 and "taken" in done.err
    with small_disk(tmp_path / "disk", "ro") as disk:
        done = run(["-m", "ppo.run", *FLAGS, "--data-dir", str(disk)])
        assert done.code == 2 and done.err.count("\n") == 1 and str(disk) in done.err


def test_a_start_that_the_disk_has_no_room_for_leaves_nothing(tmp_path, monkeypatch):
    """Not the folders that it made, its lock or half of the file that tells whose it is."""

    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(folders, "write_synced", full)
    with pytest.raises(Refused, match="No space left"):
        train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path / "data")))
    assert not list(tmp_path.iterdir())


def rewrite(step, tensors=None, **meta):
    """Change a checkpoint as a stranger could: with a manifest that fits."""
    old_tensors, old_meta = checkpoint.load_checkpoint(step)
    root, number = step.parent, int(step.name[5:])
    checkpoint.save_checkpoint(root, number, tensors or old_tensors, old_meta | meta, keep=9)


@pytest.mark.parametrize(
    "meta",
    [
        {"log": {"../../../victim": 0}},
        {"log": {"progress.txt": -1, "episodes.csv": 0}},
        {"epoch": "1"},
        {"epoch": 2**60},
        {"resumes": None},
        {"best": "much"},
        {"seconds": float("inf")},
    ],
)
def test_hostile_numbers_in_a_checkpoint_are_refused(tmp_path, meta, capsys):
    """No file outside of the run's folder is touched, and one line says which file is wrong."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    rewrite(max((path / "checkpoints").iterdir()), **meta)
    with pytest.raises(Refused, match=r"meta\.json"):
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["ac/pi.0.weight", "adam_pi/0/exp_avg", "adam_v/9/step", "env/1"])
def test_tensors_of_another_run_are_refused(tmp_path, name, capsys):
    """Wrong shapes, moments of no parameter, a missing environment: one line, code 2."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    newest = max((path / "checkpoints").iterdir())
    tensors = checkpoint.load_checkpoint(newest)[0]
    if name == "env/1":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3, 3)
    rewrite(newest, tensors)
    with pytest.raises(Refused, match="not those of this run"):
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)


@pytest.mark.parametrize("change", [{"gamma": "x" * 10**5}, {"env": "/etc"}, {"unknown": [[]] * 1000}])
def test_a_hostile_config_is_only_compared(tmp_path, change, capsys):
    """What config.json of a folder says is never used, only compared; the refusal stays short."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    capsys.readouterr()
    facts = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(facts | change))
    if "unknown" in change:
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
        return
    with pytest.raises(Refused, match=next(iter(change))) as refused_:
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert len(str(refused_.value)) < 500


# A run folder is never harmed -----------------------------------------------------------------------------------------


def contents(root):
    """Every file below a folder with its bytes, links as what they point to."""
    return {p: os.readlink(p) if p.is_symlink() else p.read_bytes() for p in root.rglob("*") if not p.is_dir()}


def refused(cfg, **how):
    """The line with which a run is refused."""
    with pytest.raises(Refused) as end:
        train(cfg, **how)
    assert "\n" not in str(end.value)
    return str(end.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": 0.5},
        {"num_envs": 8},
        {"pi_lr": 0.5},
        {"anneal_lr": False},
        {"max_episode_steps": 20},
        {"init_from": "SuperMarioBros-1-1-v0"},
        {"v_loss": "huber"},
    ],
)
def test_a_refused_resume_changes_no_file(tmp_path, changes):
    """Not exit.json, not config.json, not a log: a resume with other settings finds everything as it was."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    before = contents(tmp_path)
    refused(config.build(**ECHO | changes, epochs=3, data_dir=str(tmp_path)), resume=True)
    after = contents(tmp_path)
    assert {p: b for p, b in after.items() if path in p.parents} == {
        p: b for p, b in before.items() if path in p.parents
    }
    assert json.loads((path / "exit.json").read_text())["reason"] == "finished"


def test_a_refused_checkpoint_changes_no_file(tmp_path):
    """It verifies and belongs to another run: nothing is written, and putting the right one back continues."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    newest = max((path / "checkpoints").iterdir())
    kept = {p.name: p.read_bytes() for p in newest.iterdir()}
    rewrite(newest, checkpoint.load_checkpoint(newest)[0] | {"env/1": torch.zeros(5, dtype=torch.uint8)})
    before = contents(path)
    refused(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert contents(path) == before
    for name, data in kept.items():
        (newest / name).write_bytes(data)
    train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)


def test_a_refused_start_leaves_nothing(tmp_path, capsys):
    """A policy of other shapes is refused before a file or a folder is made: the corrected command starts."""
    info = {"env": "Echo-v0", "spec": {"options": {}}, "network": "mlp", "obs_shape": [5], "num_actions": 4}
    save_policy(tmp_path / "other", ActorCritic("mlp", (5,), 4, "xavier", 0), info)
    wrong = config.build(**ECHO, epochs=1, init_from=str(tmp_path / "other"), data_dir=str(tmp_path / "data"))
    assert "(64, 5) there and (64, 4) here" in refused(wrong) and not (tmp_path / "data").exists()
    train(config.build(**ECHO, epochs=1, data_dir=str(tmp_path / "data")))


def test_an_overwrite_that_is_refused_moves_nothing(tmp_path):
    """The old run stays where it is until the new one can start."""
    path = train(config.build(**ECHO, epochs=1, data_dir=str(tmp_path)))
    before = contents(path)
    policy = tmp_path / "nothing"
    policy.mkdir()
    (policy / "policy.json").write_text("{}")
    refused(config.build(**ECHO, epochs=1, init_from=str(policy), data_dir=str(tmp_path)), overwrite=True)
    assert contents(path) == before and not [p for p in path.parent.iterdir() if ".old-" in p.name]


def test_environments_that_became_others_begin_fresh_episodes(tmp_path, capsys):
    """Allowed to differ, the run goes on with its weights, in new episodes with new numbers, and says so."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    capsys.readouterr()
    other = config.build(**ECHO, epochs=4, max_episode_steps=20, data_dir=str(tmp_path))
    train(other, resume=True, allow_mismatch=True)
    assert "fresh episodes begin in all environments" in capsys.readouterr().out
    facts = json.loads((path / "config.json").read_text())
    assert facts["fresh_episodes_at_epochs"] == [2] and "spec" in facts["mismatch"] and len(rows(path)) == 4
    lines = [line.split(",") for line in (path / "episodes.csv").read_text().splitlines()]
    names, episodes = lines[0], lines[1:]
    numbers = [(e[names.index("env")], e[names.index("episode")]) for e in episodes]
    assert len(set(numbers)) == len(numbers) and episodes[-1][names.index("ep_len")] == "20"
    train(config.build(**ECHO, epochs=5, max_episode_steps=20, data_dir=str(tmp_path)), resume=True)
    facts = json.loads((path / "config.json").read_text())
    assert "mismatch" in facts and facts["fresh_episodes_at_epochs"] == [2]  # the marks stay
    longer = config.build(**ECHO, epochs=6, max_episode_steps=30, data_dir=str(tmp_path))
    train(longer, resume=True, allow_mismatch=True)
    assert json.loads((path / "config.json").read_text())["fresh_episodes_at_epochs"] == [2, 5]


def test_a_run_is_either_resumed_or_overwritten(tmp_path):
    """`train` refuses both at once, as the command does."""
    path = train(config.build(**ECHO, epochs=1, data_dir=str(tmp_path)))
    before = contents(path)
    with pytest.raises(Refused, match="either resume it or overwrite it"):
        train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)), resume=True, overwrite=True)
    assert contents(path) == before


def damage(folder):
    data = bytearray((folder / "state.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.safetensors").write_bytes(data)


def test_damaged_checkpoints_do_not_count(tmp_path):
    """However many there are, what was just written stays, with `keep` that verify; the damaged are set aside."""
    for step in (7, 8, 9):
        save_step(tmp_path, step)
        shutil.copytree(tmp_path / f"step_{step:010d}", tmp_path / f"kept_{step}")
    for step in (7, 8, 9):
        shutil.rmtree(tmp_path / f"step_{step:010d}", ignore_errors=True)
        (tmp_path / f"kept_{step}").rename(tmp_path / f"step_{step:010d}")
        damage(tmp_path / f"step_{step:010d}")
    for step in (1, 2, 3):
        save_step(tmp_path, step)
        newest = checkpoint.load_newest(tmp_path)[0]
        assert newest == tmp_path / f"step_{step:010d}"
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_0000000002", "step_0000000003"]
    assert len(list(tmp_path.glob("damaged-step_*"))) == 3


def test_a_run_all_of_whose_checkpoints_are_damaged_starts_again_and_keeps_new_ones(tmp_path, capsys):
    """They are named and set aside; the new ones stay."""
    settings = ECHO | {"save_every": 1}
    path = train(config.build(**settings, epochs=4, data_dir=str(tmp_path)))
    for folder_ in sorted((path / "checkpoints").iterdir()):
        damage(folder_)
    train(config.build(**settings, epochs=4, data_dir=str(tmp_path)), resume=True)
    assert capsys.readouterr().out.count("set aside") == 3
    assert checkpoint.load_newest(path / "checkpoints")[0] == path / "checkpoints" / "step_0000001024"


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"\xff" * 8])
def test_tensors_that_do_not_parse_are_passed_over(tmp_path, content, capsys):
    """A manifest that fits does not make a file of tensors: the checkpoint before is used."""
    path = train(config.build(**ECHO | {"save_every": 1}, epochs=3, data_dir=str(tmp_path)))
    newest = max((path / "checkpoints").iterdir())
    forge(newest, "state.safetensors", content)
    train(config.build(**ECHO | {"save_every": 1}, epochs=4, data_dir=str(tmp_path)), resume=True)
    out = capsys.readouterr().out
    assert "checkpoint rejected" in out and "at epoch 2" in out


def forge(folder, name, data):
    """Replace a file of a checkpoint, with a manifest that fits."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def test_a_kill_between_checkpoint_and_policy_leaves_no_stale_policy(tmp_path, monkeypatch):
    """The last policy is written again at the next start, also where nothing is left to train."""
    path = train(config.build(**ECHO | {"save_every": 1}, epochs=2, data_dir=str(tmp_path)))
    monkeypatch.setattr(Recorder, "_save_policy", lambda *args: None)
    train(config.build(**ECHO | {"save_every": 1}, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert load_policy(path / "policy" / "last").info["epoch"] == 2
    monkeypatch.undo()
    train(config.build(**ECHO | {"save_every": 1}, epochs=3, data_dir=str(tmp_path)), resume=True)
    policy = load_policy(path / "policy" / "last")
    weights = checkpoint.load_checkpoint(max((path / "checkpoints").iterdir()))[0]
    assert policy.info["epoch"] == 3
    assert all(torch.equal(p, weights[f"ac/{name}"]) for name, p in policy.ac.state_dict().items())


def test_a_checkpoint_is_a_policy_without_any_other_file(tmp_path):
    """Killed before the first policy was written, the run's checkpoints can still be played."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    shutil.rmtree(path / "policy")
    assert load_policy(max((path / "checkpoints").iterdir())).info["env"] == "Echo-v0"


@pytest.mark.parametrize("exchange", [True, False])
def test_there_is_never_an_instant_without_a_policy(tmp_path, exchange, monkeypatch):
    """Killed at any line of replacing one, the old or the new policy loads; without RENAME_EXCHANGE too."""
    if not exchange:
        monkeypatch.setattr(module, "exchange", lambda *args: False)
    info = {"env": "Echo-v0", "spec": {"options": {}}, "network": "mlp", "obs_shape": [4], "num_actions": 4}
    ac, line, found = ActorCritic("mlp", (4,), 4, "xavier", 0), 0, set()
    save_policy(tmp_path / "last", ac, info | {"epoch": 0})
    while die_at_line(
        lambda n=line: save_policy(tmp_path / "last", ac, info | {"epoch": n + 1}), line, module.__file__
    ):
        epoch = load_policy(tmp_path / "last").info["epoch"]
        found.add(epoch == line + 1)
        line += 1
    assert line > 20 and found == {True, False}
    assert not previous(tmp_path / "last").exists()


def test_a_policy_is_found_where_an_interrupted_replacement_left_it(tmp_path):
    """Killed between two renames, on a file system without RENAME_EXCHANGE: the run can be evaluated all the same."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    shutil.rmtree(path / "policy" / "best", ignore_errors=True)
    (path / "policy" / "last").rename(previous(path / "policy" / "last"))
    assert load_policy(find_policy(str(path))).info["epoch"] == 2


def die_at_line(action, line, path):
    """Do something in a child process that dies at the given line that it executes of a file; whether it died."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != path:
                return None
            left -= event == "line"
            if left < 0:
                os._exit(9)
            return trace

        sys.settrace(trace)
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_every_row_that_is_cut_off_is_kept(tmp_path):
    """A second and a third cut add to what the first kept."""
    text = {"progress.txt": "Epoch\tTime\n", "episodes.csv": "epoch,steps\n"}
    for name, heading in text.items():
        (tmp_path / name).write_text(heading)
    for i in range(3):
        sizes = {name: (tmp_path / name).stat().st_size for name in text}
        for name in text:
            with (tmp_path / name).open("a") as file:
                file.write(f"{i}\n")
        assert logger.cut_back(tmp_path, sizes) == 1
    for name, heading in text.items():
        assert (tmp_path / name).read_text() == heading
        assert (tmp_path / f"{name}.bak").read_text() == heading + "0\n1\n2\n"


def test_rows_wait_in_memory_while_the_disk_is_full(tmp_path):
    """A row that cannot be written leaves no part of itself and is there when there is room again."""
    with small_disk(tmp_path / "disk") as disk:
        log = logger.EpochLogger(disk, ("env",))
        log.log("Epoch", 0)
        log.log_episodes(0, 1, [{"env": 5}])
        log.dump()
        before, sizes = contents(disk), log.positions()
        fill(disk, 0)
        for epoch in (1, 2):
            log.log("Epoch", epoch)
            log.log_episodes(epoch, 1, [{"env": "x" * 5000}])
            with pytest.raises(OSError, match="No space"):
                log.dump()
            assert {p: b for p, b in contents(disk).items() if p.name == "episodes.csv"}.items() <= before.items()
            assert log.positions()["episodes.csv"] == sizes["episodes.csv"]
        (disk / "filler").unlink()
        log.flush()
        assert (disk / "progress.txt").read_text() == "Epoch\n0\n1\n2\n"
        assert (disk / "episodes.csv").read_text().count("\n") == 4
        log.close()


def test_a_full_disk_for_a_moment_loses_nothing(tmp_path, monkeypatch):
    """Row, best policy and checkpoint fail once or twice, the run goes on, and its files are those of any other."""
    settings = ECHO | {"save_every": 1, "steps_per_epoch": 1024, "minibatch_size": 64}
    whole = train(config.build(**settings, epochs=8, data_dir=str(tmp_path / "whole")))
    rng, failed = random.Random(2), []

    def sometimes(action):
        def maybe(*args):
            if rng.random() < 0.2:
                failed.append(action)
                raise OSError(28, "No space left on device")
            return action(*args)

        return maybe

    monkeypatch.setattr(recorder, "write_policy", sometimes(recorder.write_policy))
    monkeypatch.setattr(logger.Appended, "flush", sometimes(logger.Appended.flush))
    path = train(config.build(**settings, epochs=8, data_dir=str(tmp_path / "full")))
    monkeypatch.undo()
    train(config.build(**settings, epochs=8, data_dir=str(tmp_path / "full")), resume=True)
    assert_same(whole, path)
    assert len(set(failed)) == 2


def test_a_longer_run_says_how_its_schedules_go_on(tmp_path, capsys):
    """What falls to zero does so over the new length: said on the console, with numbers, and noted in config.json."""
    settings = ECHO | {"pi_lr": 8e-4, "v_lr": 4e-4, "anneal_lr": True, "anneal_clip": False, "data_dir": str(tmp_path)}
    path = train(config.build(**settings, epochs=4))
    capsys.readouterr()
    train(config.build(**settings, epochs=8), resume=True)
    out = capsys.readouterr().out
    assert "4 epochs long, now 8" in out and "pi_lr 0 -> 0.0004" in out and "v_lr 0 -> 0.0002" in out
    assert json.loads((path / "config.json").read_text())["lengths"] == [[0, 4], [4, 8]]
    told = load_policy(find_policy(path)).info["continued"]
    assert told == "its length changed on the way, [from epoch, epochs]: [[0, 4], [4, 8]]"
    assert float(rows(path)[4]["LearningRate"]) == pytest.approx(4e-4)


@pytest.mark.parametrize(("name", "was"), [("resolved_precision", "bfloat16"), ("resolved_device", "cuda")])
def test_another_precision_or_device_is_another_experiment(tmp_path, name, was, capsys):
    """What "auto" meant is recorded, and a change is refused like one of a setting."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    facts = json.loads((path / "config.json").read_text())
    assert (facts["resolved_precision"], facts["resolved_device"]) == ("float32", "cpu")
    (path / "config.json").write_text(json.dumps(facts | {name: was}))
    line = refused(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert f"{name} was '{was}', now" in line
    del facts[name]  # an older version's folder does not say
    (path / "config.json").write_text(json.dumps(facts))
    train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)


def test_other_software_and_another_processor_are_mentioned(tmp_path, capsys):
    """Commit, MPI library, scipy, OpenCV, processor and its instructions: they may change the last bits, and the
    console says so."""
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    facts = json.loads((path / "config.json").read_text())
    versions = facts["versions"] | {"scipy": "0.1", "opencv-python-headless": "0.2"}
    changed = facts | {"commit": "abc", "mpi": "Other MPI", "processor": "i386\x1b[2J", "versions": versions}
    changed |= {"instructions": "MMX"}
    (path / "config.json").write_text(json.dumps(changed))
    capsys.readouterr()
    train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    out = capsys.readouterr().out
    for text in (
        "the code was 'abc'",
        "the MPI library was 'Other MPI'",
        "the processor's set of instructions was 'MMX', now",
        "scipy was '0.1'",
        "opencv-python-headless was",
    ):
        assert text in out
    assert "the processor was" in out and "\x1b" not in out


# What a row says ------------------------------------------------------------------------------------------------------


def test_the_parts_of_the_time_add_up(tmp_path, monkeypatch):
    """Time is wall time: from row to row it grows by the row's parts, slow saving and evaluation included."""
    save, evaluate = checkpoint.save_checkpoint, monitor.evaluate_on_ranks
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *args: (time.sleep(0.3), save(*args))[1])
    monkeypatch.setattr(monitor, "evaluate_on_ranks", lambda *args: (time.sleep(0.2), evaluate(*args))[1])
    settings = ECHO | {"save_every": 1, "eval_every": 1, "eval_episodes": 4}
    begun = time.monotonic()
    path = train(config.build(**settings, epochs=3, data_dir=str(tmp_path)))
    wall = time.monotonic() - begun
    time.sleep(1.0)
    begun = time.monotonic()
    train(config.build(**settings, epochs=5, data_dir=str(tmp_path)), resume=True)
    wall += time.monotonic() - begun
    table = [{name: float(row[name] or "nan") for name in row} for row in rows(path)]
    before = 0.0
    for row in table:
        parts = [row[f"Time{name}"] for name in ("Collect", "Update", "Evaluate", "Save", "Log")]
        assert sum(parts) == pytest.approx(row["Time"] - before, abs=1e-6) and min(parts) >= -1e-6
        assert row["TimeEvaluate"] >= 0.2
        before = row["Time"]
    assert [row["TimeSave"] >= 0.3 for row in table] == [False, True, True, False, True]
    assert 5 * 0.2 + 3 * 0.3 < before < wall


def test_means_over_the_last_hundred_episodes(tmp_path):
    """Counted by hand from episodes.csv; never empty once an episode has ended; the same after a stop."""
    settings = ECHO | {"steps_per_epoch": 64, "train_pi_iters": 1, "train_v_iters": 1}
    whole = train(config.build(**settings, epochs=60, anneal_lr=False, anneal_clip=False, data_dir=str(tmp_path / "w")))
    for epochs in (31, 60):
        cut = train(
            config.build(**settings, epochs=epochs, anneal_lr=False, anneal_clip=False, data_dir=str(tmp_path / "c")),
            resume=True,
        )
    assert_same(whole, cut)
    with (whole / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    for row in rows(whole):
        last = [e for e in episodes if int(e["epoch"]) <= int(row["Epoch"])][-100:]
        for column, field in (("EpRet100", "ep_ret"), ("EpLen100", "ep_len")):
            mean = sum(float(e[field]) for e in last) / len(last) if last else None
            assert (float(row[column]) if row[column] else None) == (pytest.approx(mean) if last else None)
    assert rows(whole)[0]["EpRet100"] == "" and rows(whole)[2]["AverageEpRet"] == "" and rows(whole)[2]["EpRet100"]
    assert len(episodes) > 100


@pytest.mark.parametrize(("what", "where"), [("weight", "save"), ("moment", "save"), ("weight", "best")])
def test_nothing_that_is_not_finite_is_saved(tmp_path, what, where, monkeypatch):
    """A NaN in a weight or a moment stops the run before a file is written; the checkpoint before is untouched."""
    path = train(config.build(**ECHO | {"save_every": 1}, epochs=2, data_dir=str(tmp_path)))
    before = contents(path / "checkpoints") | contents(path / "policy")
    log, save = Recorder.log, Recorder.save

    def poisoned(action, when):
        def act(self, run, *args):
            if where == when and run.epoch == 3:
                optimiser = run.learners[0].optimiser
                tensor = run.ac.pi[0].weight.data
                if what == "moment":
                    plain = os.environ.get("PPO_COMPUTE") == "plain"
                    states = list(optimiser._adam.state.values()) if plain else [optimiser.moments]
                    tensor = states[0]["exp_avg"]
                tensor.view(-1)[7] = float("nan")
                run.best, run.recent = -1.0, [[0.0, 1.0]] * 100
            return action(self, run, *args)

        return act

    monkeypatch.setattr(Recorder, "log", poisoned(log, "best"))
    monkeypatch.setattr(Recorder, "save", poisoned(save, "save"))
    with pytest.raises(NotFinite, match="not finite after epoch 2: nothing was saved"):
        train(config.build(**ECHO | {"save_every": 1}, epochs=4, data_dir=str(tmp_path)), resume=True)
    after = contents(path / "checkpoints") | contents(path / "policy")
    assert {p for p in after if "best" not in str(p)} == {p for p in before if "best" not in str(p)}
    assert all(after[p] == before[p] for p in before if "best" not in str(p) and p.suffix != ".json")
    assert "NotFinite" in json.loads((path / "exit.json").read_text())["reason"]


@pytest.mark.parametrize(
    "env",
    [
        {"env": "CartPole-v1"},
        pytest.param({"emulator": "nes-py", "num_envs": 2, "network": "small"}, marks=pytest.mark.reference),
    ],
)
def test_a_long_episode_that_is_played_again_is_progress(tmp_path, env, monkeypatch):
    """The watchdog hears of every step of it, so that a resume of long episodes is not taken for a stall."""
    settings = {
        "num_envs": 4,
        "steps_per_epoch": 64,
        "minibatch_size": 64,
        "train_pi_iters": 1,
        "train_v_iters": 1,
    } | env
    train(config.build(**settings, epochs=1, data_dir=str(tmp_path)))
    touched = []
    monkeypatch.setattr(Watchdog, "touch", lambda self, phase: touched.append(phase))
    train(config.build(**settings, epochs=1, data_dir=str(tmp_path)), resume=True)
    assert touched.count("restore the environments") > 20
