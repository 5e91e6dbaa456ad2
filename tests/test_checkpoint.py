"""A checkpoint is complete and verified, or invisible: killed at any line, on a full disk, from a stranger."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from ppo import config
from ppo.run import train
from tests.conftest import finish, run, start
from tests.test_faults import FLAGS, assert_sound, folder, wait_for_rows
from tests.test_train import ECHO, assert_same, rows
from utils import checkpoint

TENSORS = {"a": torch.arange(1000.0), "b": torch.ones(7, dtype=torch.uint8)}


def save_step(root, step):
    checkpoint.save_checkpoint(root, step, TENSORS, {"epoch": step}, keep=2)


def save_until_line(root, step, line):
    """Save in a child process that dies at the given line that `utils/checkpoint.py` executes; whether it died."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != checkpoint.__file__:
                return None
            left -= event == "line"
            if left < 0:
                os._exit(9)
            return trace

        sys.settrace(trace)
        save_step(root, step)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_killed_at_every_line_of_saving(tmp_path):
    """Whatever line is the last one, at least two checkpoints verify, the newest is the old or the new one."""
    save_step(tmp_path, 1)
    save_step(tmp_path, 2)
    line, newest_found = 0, set()
    while save_until_line(tmp_path, 3, line):
        newest, rejected = checkpoint.newest(tmp_path)
        assert newest is not None and newest.name in ("step_0000000002", "step_0000000003")
        newest_found.add(newest.name)
        assert rejected == []
        assert len(list(tmp_path.glob("step_*"))) >= 2
        checkpoint.clean_temporary(tmp_path)
        assert sorted(p.name[:5] for p in tmp_path.iterdir()) == ["step_"] * len(list(tmp_path.iterdir()))
        line += 1
    assert line > 30 and len(newest_found) == 2


def test_killed_while_replacing_a_checkpoint_of_the_same_step(tmp_path):
    """A resumed run reaches a step again: what verifies is that step or the one before."""
    for line in range(200):
        save_step(tmp_path, 1)
        save_step(tmp_path, 2)
        died = save_until_line(tmp_path, 2, line)
        newest, rejected = checkpoint.newest(tmp_path)
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
    """Three checkpoints fail loudly, or one row of the log does; the run ends, and continues exactly with more room."""
    with small_disk(tmp_path / "disk") as disk:
        flags = [*FLAGS, "--epochs", "400", "--save-every", "2", "--no-anneal-lr", "--no-anneal-clip"]
        process, mark = start(["-m", "ppo.run", *flags, "--data-dir", str(disk)])
        wait_for_rows(folder(disk), 5)
        fill(disk, leave)
        done = finish(process, mark)
        assert done.code == 1, done.err
        if leave:
            assert done.out.count("WARNING: checkpoint not saved") == 3 and "MiB free" in done.out
        else:
            assert "No space left on device" in done.err
        newest, rejected = checkpoint.newest(folder(disk) / "checkpoints")
        assert newest is not None and rejected == []
        (disk / "filler").unlink()
        epochs = str(len(rows(folder(disk))) + 4)
        assert run(["-m", "ppo.run", *flags, "--epochs", epochs, "--resume", "--data-dir", str(disk)]).code == 0
        assert_sound(disk)
        assert run(["-m", "ppo.run", *flags, "--epochs", epochs, "--data-dir", str(tmp_path / "whole")]).code == 0
        assert_same(folder(tmp_path / "whole"), folder(disk))


def test_places_that_cannot_be_written_are_refused_at_the_start(tmp_path):
    """A file where the folder should be, and a file system that is mounted for reading: one line, code 2."""
    (tmp_path / "taken").write_text("")
    done = run(["-m", "ppo.run", *FLAGS, "--data-dir", str(tmp_path / "taken")])
    assert done.code == 2 and done.err.count("\n") == 1 and "taken" in done.err
    with small_disk(tmp_path / "disk", "ro") as disk:
        done = run(["-m", "ppo.run", *FLAGS, "--data-dir", str(disk)])
        assert done.code == 2 and done.err.count("\n") == 1 and str(disk) in done.err


def rewrite(step, tensors=None, **meta):
    """Change a checkpoint as a stranger could: with a manifest that fits."""
    old_tensors, old_meta = checkpoint.load_checkpoint(step)
    root, number = step.parent, int(step.name[5:])
    checkpoint.save_checkpoint(root, number, tensors or old_tensors, old_meta | meta, keep=9)


@pytest.mark.parametrize(
    "meta",
    [{"log": {"../../../victim": 0}}, {"log": {"progress.txt": -1, "episodes.csv": 0}}, {"epoch": "1"},
     {"epoch": 2**60}, {"resumes": None}, {"best": "much"}, {"seconds": float("inf")}],
)  # fmt: skip
def test_hostile_numbers_in_a_checkpoint_are_refused(tmp_path, meta, capsys):
    """No file outside of the run's folder is touched, and one line says which file is wrong."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    rewrite(max((path / "checkpoints").iterdir()), **meta)
    with pytest.raises(SystemExit) as refused:
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert refused.value.code == 2 and "meta.json" in capsys.readouterr().err
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
    with pytest.raises(SystemExit) as refused:
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    assert refused.value.code == 2 and "not those of this run" in capsys.readouterr().err


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
    with pytest.raises(SystemExit) as refused:
        train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)), resume=True)
    err = capsys.readouterr().err
    assert refused.value.code == 2 and next(iter(change)) in err and len(err) < 500
