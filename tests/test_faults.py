"""No silent hang: whatever breaks on one rank ends the job at once, on all ranks, and says where it broke."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from ppo import config
from ppo.build import threads
from ppo.run import train
from tests.conftest import finish, marked_processes, run, start
from tests.test_train import assert_same
from utils import checkpoint, mpi, system

pytestmark = pytest.mark.mpi

FLAGS = (
    "--env Echo-v0 --num-envs 8 --steps-per-epoch 512 --minibatch-size 64 --epochs 50 --save-every 1 --check-every 1 "
    "--train-pi-iters 1 --train-v-iters 1"
).split()


def faulty(tmp_path, fault, ranks, *flags, timeout=45.0):
    return run(["tests/programs/faulty_run.py", fault, *FLAGS, *flags, "--data-dir", str(tmp_path)], ranks, timeout)


def folder(tmp_path):
    return tmp_path / "ppo_echo-v0" / "ppo_echo-v0_s0"


def assert_files_valid(tmp_path):
    """The newest checkpoint verifies and every row of the log is whole."""
    newest, _, rejected = checkpoint.load_newest(folder(tmp_path) / "checkpoints")
    assert newest is not None and rejected == []
    lines = (folder(tmp_path) / "progress.txt").read_text().splitlines()
    assert len({line.count("\t") for line in lines}) <= 1


def wait_for_rows(path, count, seconds=40):
    """Wait until a run's log has this many rows."""
    deadline = time.monotonic() + seconds
    while not (path / "progress.txt").exists() or (path / "progress.txt").read_text().count("\n") <= count:
        assert time.monotonic() < deadline, f"{path} has not got {count} rows after {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("fault", "ranks"),
    [("raise@2:100", 3), ("thread@1:100", 2), pytest.param("raise@0:100", 2, marks=pytest.mark.slow)],
)
def test_an_exception_on_any_rank_ends_the_job(tmp_path, fault, ranks):
    """That rank's traceback, once, with its number; a non-zero code; nobody left; the files are valid."""
    done = faulty(tmp_path, fault, ranks)
    assert done.code != 0
    assert done.err.count("Traceback") == 1 and "RuntimeError: the emulator broke" in done.err
    assert f"rank {fault.split('@')[1].split(':')[0]} failed" in done.err
    assert_files_valid(tmp_path)


@pytest.mark.parametrize("fault", ["build@1:0", "import@1:0", pytest.param("import@0:0", marks=pytest.mark.slow)])
def test_an_exception_before_the_first_collective_ends_the_job(tmp_path, fault):
    """The other ranks wait in a collective, or for MPI to start: they do not wait for ever."""
    done = faulty(tmp_path, fault, 3)
    assert done.code != 0 and done.err.count("Traceback") == 1
    assert ("the ROM is missing" if fault.startswith("build") else "ppo.config") in done.err


@pytest.mark.parametrize(("fault", "named"), [("flag@1:0", "gamma"), ("threads@1:0", "OMP_NUM_THREADS")])
def test_bad_input_on_one_rank_alone_is_one_line(tmp_path, fault, named):
    """As on a host that lacks a file of the user's: all ranks end with code 2, and nothing is written."""
    done = faulty(tmp_path, fault, 2)
    assert done.code == 2 and named in done.err and done.err.count("\n") == 1, done.err
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_does_not_start_is_not_waited_for_ever(tmp_path):
    """It ended before it joined MPI, without a word: the others say where they wait, and end."""
    done = faulty(tmp_path, "gone@1:0", 2)
    assert done.code != 0 and "Timeout" in done.err and "mpi.py" in done.err, done.err
    assert list(tmp_path.iterdir()) == []


def test_exit_on_one_rank_ends_the_job_with_its_code(tmp_path):
    """sys.exit(3) on one rank is not a hang and not a success."""
    assert faulty(tmp_path, "exit@1:100", 2).code == 3


def test_a_killed_rank_ends_the_job(tmp_path):
    """SIGKILL of one rank: everything ends, and the last checkpoint is good."""
    assert faulty(tmp_path, "kill@1:200", 3).code != 0
    assert_files_valid(tmp_path)


@pytest.mark.parametrize("kind", ["stop", *(pytest.param(k, marks=pytest.mark.slow) for k in ("loop", "pause-in-c"))])
def test_a_rank_that_does_not_move_is_found(tmp_path, kind):
    """A stopped rank, an endless loop in Python and one in C: the watchdog names rank, phase and stack."""
    done = faulty(tmp_path, f"{kind}@1:200", 2, timeout=60)
    assert done.code != 0
    assert "has not moved for" in done.err and "collect, epoch" in done.err and "File " in done.err
    if kind == "stop":
        assert "rank 0 has not moved" in done.err and "waits for the other ranks" in done.err
    else:
        assert "rank 1 has not moved" in done.err and "faulty_run.py" in done.err
    assert_files_valid(tmp_path)


@pytest.mark.slow
def test_a_run_that_was_suspended_goes_on(tmp_path):
    """Ctrl-Z and fg after longer than the stall timeout: the whole run stood still, and that is no stall."""
    flags = [*FLAGS, "--stall-timeout", "4", "--epochs", "400", "--data-dir", str(tmp_path)]
    process, mark = start(["-m", "ppo.run", *flags], ranks=2)
    wait_for_rows(folder(tmp_path), 2)
    ranks = marked_processes(mark)
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    rows = (folder(tmp_path) / "progress.txt").read_text().count("\n")
    wait_for_rows(folder(tmp_path), rows + 3)
    process.send_signal(signal.SIGUSR1)
    assert finish(process, mark).code == 75


def test_a_rank_killed_while_it_saves_leaves_the_checkpoint_before(tmp_path):
    """SIGKILL in the middle of writing: what was saved before is valid, and what is half written is invisible."""
    assert faulty(tmp_path, "kill-in-save@0:4", 2).code != 0
    assert_files_valid(tmp_path)
    assert len(list((folder(tmp_path) / "checkpoints").glob(".tmp-*"))) == 1
    assert run(["-m", "ppo.run", *FLAGS, "--epochs", "6", "--resume", "--data-dir", str(tmp_path)], 2).code == 0
    assert list((folder(tmp_path) / "checkpoints").glob(".tmp-*")) == []


@pytest.mark.slow
def test_sigterm_to_the_launcher_in_the_middle_of_saving(tmp_path):
    """Whether the ranks are left the time to finish or not: a checkpoint verifies, and the run continues."""
    faulty(tmp_path, "term-in-save@0:4", 2)
    assert_files_valid(tmp_path)
    assert run(["-m", "ppo.run", *FLAGS, "--epochs", "9", "--resume", "--data-dir", str(tmp_path)], 2).code == 0
    assert_files_valid(tmp_path)
    assert list((folder(tmp_path) / "checkpoints").glob(".tmp-*")) == []


@pytest.mark.parametrize(
    ("family", "ranks"),
    [("echo", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("mario", 2), ("echo", 4), ("mario", 4)))],
)
def test_resuming_is_exact_with_several_ranks(tmp_path, family, ranks):
    """Three epochs and three more equal six in one go, though every rank is held up at random moments."""
    flags = ["--no-anneal-lr", "--no-anneal-clip", "--no-anneal-ent", "--save-every", "2"]
    if family == "mario":
        flags += "--env SuperMarioBros-1-1-v0 --exp-name ppo_echo-v0 --num-envs 4 --network small".split()
        flags += "--steps-per-epoch 128 --minibatch-size 64 --start-frames 9".split()
    assert faulty(tmp_path / "whole", "delay@0:0", ranks, *flags, "--epochs", "6").code == 0
    assert faulty(tmp_path / "cut", "none@0:0", ranks, *flags, "--epochs", "3").code == 0
    done = faulty(tmp_path / "cut", "none@0:0", ranks, *flags, "--epochs", "6", "--resume")
    assert done.code == 0 and "at epoch 3" in done.out
    assert_same(folder(tmp_path / "whole"), folder(tmp_path / "cut"))


@pytest.mark.slow
def test_another_number_of_ranks_is_refused(tmp_path):
    """It would continue, but not bit for bit: one line names both numbers; --allow-mismatch continues."""
    flags = ["-m", "ppo.run", *FLAGS, "--data-dir", str(tmp_path)]
    assert run([*flags, "--epochs", "2"], 1).code == 0
    done = run([*flags, "--epochs", "4", "--resume"], 2)
    assert done.code == 2 and "world_size was 1, now 2" in done.err and done.err.count("\n") == 1
    assert run([*flags, "--epochs", "4", "--resume", "--allow-mismatch"], 2).code == 0
    assert "mismatch" in json.loads((folder(tmp_path) / "config.json").read_text())


def test_a_branch_before_a_collective_call_is_found(tmp_path):
    """With PPO_CHECK_COLLECTIVES=1 the calls of all ranks are compared: the one that only one rank makes is named."""
    env = {"PPO_CHECK_COLLECTIVES": "1"}
    flags = [*FLAGS, "--data-dir", str(tmp_path)]
    done = run(["tests/programs/faulty_run.py", "branch@1:70", *flags], 2, env=env)
    assert done.code != 0 and "out of step: rank 0 is in " in done.err and "max of int32 (1,)" in done.err
    assert run(["tests/programs/faulty_run.py", "none@1:0", *flags, "--epochs", "3", "--resume"], 2, env=env).code == 0


@pytest.mark.slow
def test_more_ranks_than_cores_run(tmp_path):
    """Eight ranks on whatever there is: slower, and nothing else."""
    done = run(["-m", "ppo.run", *FLAGS, "--epochs", "2", "--data-dir", str(tmp_path)], ranks=8)
    assert done.code == 0 and "8 ranks" in done.out, done.err


def test_ranks_die_with_their_launcher(tmp_path):
    """SIGKILL of mpirun ends every rank."""
    process, mark = start(["-m", "ppo.run", *FLAGS, "--data-dir", str(tmp_path)], ranks=3)
    wait_for_rows(folder(tmp_path), 1)
    assert len(marked_processes(mark)) >= 4
    os.kill(process.pid, signal.SIGKILL)
    finish(process, mark, grace=20)


def test_drifting_parameters_are_found(tmp_path):
    """One weight changed on one rank is found at the next comparison, by the tensor's name."""
    done = faulty(tmp_path, "drift@1:20", 2)
    assert done.code != 0 and "parameters differ in epoch 0, first in pi.0.weight" in done.err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_to_mpirun_saves_and_ends(tmp_path, number, code):
    """The launcher passes the signal on; all ranks agree, save once and end, and the run can be resumed."""
    flags = [*FLAGS, "--save-every", "1000", "--epochs", "4000", "--data-dir", str(tmp_path)]
    process, mark = start(["-m", "ppo.run", *flags], ranks=2)
    wait_for_rows(folder(tmp_path), 2)
    process.send_signal(number)
    done = finish(process, mark)
    assert done.code == code, (done.code, done.out[-500:], done.err)
    assert_files_valid(tmp_path)
    assert json.loads((folder(tmp_path) / "exit.json").read_text())["code"] == code


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGUSR1, signal.SIGTERM])
def test_a_second_signal_saves_no_second_time(tmp_path, second):
    """USR1 twice, and USR1 then TERM, while the ranks compute and save: one end, and every file is valid."""
    flags = [*FLAGS, "--epochs", "4000", "--data-dir", str(tmp_path)]
    process, mark = start(["-m", "ppo.run", *flags], ranks=2)
    wait_for_rows(folder(tmp_path), 3)
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.01)
    process.send_signal(second)
    done = finish(process, mark)
    assert done.code != 0 and done.out.count("saved. Continue") <= 1
    assert second == signal.SIGTERM or done.code == 75
    assert_files_valid(tmp_path)


def test_a_signal_before_the_first_epoch(tmp_path):
    """SIGUSR1 while Python still loads is not lost: the run saves at its first safe point and ends with 75."""
    process, mark = start(["-m", "ppo.run", *FLAGS, "--epochs", "4000", "--data-dir", str(tmp_path)])
    deadline = time.monotonic() + 20
    while "torch" not in (maps := open(f"/proc/{process.pid}/maps").read()) and time.monotonic() < deadline:  # noqa: SIM115
        time.sleep(0.01)
    assert "torch" in maps and not folder(tmp_path).exists()
    process.send_signal(signal.SIGUSR1)
    done = finish(process, mark)
    assert done.code == 75, done.err
    assert_files_valid(tmp_path)


@pytest.mark.parametrize(
    ("library", "number"), [("/python3", signal.SIGINT), ("mpi", signal.SIGINT), ("mpi", signal.SIGTERM)]
)
def test_a_stop_before_the_first_epoch_is_one_line(tmp_path, library, number):
    """However early a Ctrl-C comes to the ranks, all end with 130, and with 143 once a SIGTERM is heard: no
    banner of the launcher, no traceback, nothing written. (Before `env` runs, a rank is still the launcher's.)"""
    process, mark = start(["-m", "ppo.run", *FLAGS, "--epochs", "4000", "--cpu", "2", "--data-dir", str(tmp_path)])
    deadline = time.monotonic() + 20
    while sum(loaded(pid, library) for pid in marked_processes(mark) if "PMI_RANK" in environment(pid)) < 2:
        assert time.monotonic() < deadline
    process.send_signal(number)
    done = finish(process, mark)
    assert done.code == 128 + number and not list(tmp_path.iterdir()), (done.code, done.out, done.err)
    assert done.err == "" and "BAD TERMINATION" not in done.out
    assert done.out.splitlines()[-1] == f"{number.name} before the first epoch: nothing was written"


def loaded(pid: int, library: str) -> bool:
    """Return whether a process has a file whose name contains this in its memory."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def environment(pid: int) -> str:
    """Return the environment variables of a process."""
    try:
        return Path(f"/proc/{pid}/environ").read_text()
    except OSError:
        return ""


def test_ctrl_c_on_a_terminal(tmp_path):
    """The terminal sends SIGINT to the launcher and to every rank: they save and say how to go on."""
    keyboard, terminal = os.openpty()
    process, mark = start(
        ["-m", "ppo.run", *FLAGS, "--epochs", "4000", "--save-every", "1000", "--data-dir", str(tmp_path)],
        ranks=2,
        stdin=terminal,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    wait_for_rows(folder(tmp_path), 3)
    os.write(keyboard, b"\x03")
    done = finish(process, mark)
    os.close(keyboard)
    os.close(terminal)
    assert done.code != 0 and "Traceback" not in done.err, done.err
    assert "saved. Continue with the same command and --resume" in done.out
    assert_files_valid(tmp_path)


def test_closed_output_does_not_end_a_run(tmp_path):
    """`python -m ppo.run | head -1`: the run goes on to its end, into its files."""
    flags = [*FLAGS, "--epochs", "5", "--data-dir", str(tmp_path)]
    process, mark = start(["-m", "ppo.run", *flags])
    process.stdout.close()
    process.stdout = open(os.devnull)  # noqa: SIM115  what `finish` reads instead
    done = finish(process, mark)
    assert done.code == 0, done.err
    assert json.loads((folder(tmp_path) / "exit.json").read_text())["reason"] == "finished"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>&-"])
def test_a_run_without_outputs_runs(tmp_path, closed):
    """Started by something that closed them: they are the null device, not the next files that are opened."""
    command = shlex.join([sys.executable, "-m", "ppo.run", *FLAGS, "--epochs", "2", "--data-dir", str(tmp_path)])
    assert subprocess.run(["sh", "-c", f"{command} {closed}"], timeout=60, capture_output=True).returncode == 0
    assert_files_valid(tmp_path)
    refused = subprocess.run(["sh", "-c", f"{command} {closed}"], timeout=60, capture_output=True)
    assert refused.returncode == 2 and b"Traceback" not in refused.stderr


THREADS = """
import torch
from ppo.build import threads
from utils import mpi
with threads(mpi.connect()):
    print(torch.get_num_threads())
"""


def test_threads_do_not_exceed_the_cores():
    """Without OMP_NUM_THREADS, each of four ranks computes with its share of the cores, one thread at least."""
    done = run(["-c", THREADS], ranks=4, env={"OMP_NUM_THREADS": ""})
    assert "".join(done.out.split()) == str(max(1, system.cores() // 4)) * 4  # mpirun may join the lines of two ranks


LOAD_OPENMP = """
import ctypes, importlib.util, pathlib
import ppo
(library,) = (pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib").glob("libgomp*")
ctypes.CDLL(str(library))
"""


@pytest.mark.parametrize(("given", "spins"), [({}, "'0'"), ({"OMP_WAIT_POLICY": "active"}, "'30000000000'")])
def test_threads_that_wait_sleep(given, spins):
    """Torch's OpenMP library is told before it is loaded: spinning ones make a busy machine ten times as slow."""
    done = run(["-c", LOAD_OPENMP], env={"OMP_DISPLAY_ENV": "verbose"} | given)
    assert f"GOMP_SPINCOUNT = {spins}" in done.err


@pytest.mark.parametrize(("imports", "told"), [("torch, ppo", True), ("ppo, torch", False)])
def test_threads_that_spin_are_told_of(tmp_path, monkeypatch, imports, told):
    """Where torch was imported first, as in a notebook, it is too late to let them sleep, and the run says so."""
    flags = "--num-envs 2 --steps-per-epoch 16 --minibatch-size 16 --train-pi-iters 1 --train-v-iters 1 --epochs 1"
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # which importing ppo here has set
    code = f"import {imports}\nfrom ppo.run import main\nmain()"
    done = run(["-c", code, *flags.split(), "--data-dir", str(tmp_path)], env={"OMP_NUM_THREADS": "2"})
    assert done.code == 0 and ("torch was imported before ppo" in done.out) == told, done.out + done.err


def test_an_mlp_has_one_thread(tmp_path, monkeypatch, capsys):
    """Whatever OMP_NUM_THREADS says, which a sweep sets: two on busy cores make it thirty times as slow."""
    before, seen = torch.get_num_threads(), []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with threads(mpi.connect()):
        assert torch.get_num_threads() == 3
    train(
        config.build(env="Echo-v0", epochs=1, data_dir=str(tmp_path)),
        on_epoch=lambda row: seen.append(torch.get_num_threads()),
    )
    assert seen == [1] and torch.get_num_threads() == before
