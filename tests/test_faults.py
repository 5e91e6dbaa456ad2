"""No silent hang: whatever breaks on one rank ends the job at once, on all ranks, and says where it broke."""

import json
import os
import signal
import time

import pytest

from tests.conftest import finish, marked_processes, run, start
from utils import checkpoint

pytestmark = pytest.mark.mpi

FLAGS = ["--env", "Echo-v0", "--num-envs", "8", "--steps-per-epoch", "512", "--minibatch-size", "64", "--epochs", "50",
         "--save-every", "1", "--check-every", "1", "--train-pi-iters", "1", "--train-v-iters", "1"]  # fmt: skip


def faulty(tmp_path, fault, ranks, *flags, timeout=45.0):
    return run(["tests/programs/faulty_run.py", fault, *FLAGS, *flags, "--data-dir", str(tmp_path)], ranks, timeout)


def folder(tmp_path):
    return tmp_path / "ppo_echo-v0" / "ppo_echo-v0_s0"


def assert_sound(tmp_path):
    """The newest checkpoint verifies and every row of the log is whole."""
    newest, rejected = checkpoint.newest(folder(tmp_path) / "checkpoints")
    assert newest is not None and rejected == []
    lines = (folder(tmp_path) / "progress.txt").read_text().splitlines()
    assert len({line.count("\t") for line in lines}) == 1


@pytest.mark.parametrize(("fault", "ranks"), [("raise@0:100", 2), ("raise@2:100", 3), ("thread@1:100", 2)])
def test_an_exception_on_any_rank_ends_the_job(tmp_path, fault, ranks):
    """That rank's traceback, once, with its number; a non-zero code; nobody left; the files are sound."""
    done = faulty(tmp_path, fault, ranks)
    assert done.code != 0
    assert done.err.count("Traceback") == 1 and "RuntimeError: the emulator broke" in done.err
    assert f"rank {fault.split('@')[1].split(':')[0]} failed" in done.err
    assert_sound(tmp_path)


@pytest.mark.parametrize("fault", ["build@1:0", "import@1:0", "import@0:0"])
def test_an_exception_before_the_first_collective_ends_the_job(tmp_path, fault):
    """The other ranks wait in a collective, or for MPI to start: they do not wait for ever."""
    done = faulty(tmp_path, fault, 3)
    assert done.code != 0 and done.err.count("Traceback") == 1
    assert ("the ROM is missing" if fault.startswith("build") else "ppo.config") in done.err


def test_exit_on_one_rank_ends_the_job_with_its_code(tmp_path):
    """sys.exit(3) on one rank is not a hang and not a success."""
    assert faulty(tmp_path, "exit@1:100", 2).code == 3


def test_a_killed_rank_ends_the_job(tmp_path):
    """SIGKILL of one rank: everything ends, and the last checkpoint is good."""
    assert faulty(tmp_path, "kill@1:200", 3).code != 0
    assert_sound(tmp_path)


@pytest.mark.parametrize("kind", ["stop", "loop", "pause-in-c"])
def test_a_rank_that_does_not_move_is_found(tmp_path, kind):
    """A stopped rank, an endless loop in Python and one in C: the watchdog names rank, phase and stack."""
    done = faulty(tmp_path, f"{kind}@1:200", 2, "--stall-timeout", "12", timeout=60)
    assert done.code != 0
    assert "has not moved for" in done.err and "collect, epoch" in done.err and "File " in done.err
    if kind == "stop":
        assert "rank 0 has not moved" in done.err and "waits for the other ranks" in done.err
    else:
        assert "rank 1 has not moved" in done.err and "faulty_run.py" in done.err
    assert_sound(tmp_path)


def test_ranks_die_with_their_launcher(tmp_path):
    """SIGKILL of mpirun leaves no rank behind."""
    process, mark = start(["-m", "ppo.run", *FLAGS, "--data-dir", str(tmp_path)], ranks=3)
    progress = folder(tmp_path) / "progress.txt"
    deadline = time.monotonic() + 40
    while not progress.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(marked_processes(mark)) >= 4
    os.kill(process.pid, signal.SIGKILL)
    finish(process, mark, grace=20)


def test_drifting_parameters_are_found(tmp_path):
    """One weight changed on one rank is found at the next comparison, by the tensor's name."""
    done = faulty(tmp_path, "drift@1:20", 2)
    assert done.code != 0 and "parameters differ after epoch 0, first in pi.0.weight" in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_to_mpirun_saves_and_ends(tmp_path, number, code):
    """The launcher passes the signal on; all ranks agree, save once and end, and the run can be resumed."""
    flags = [*FLAGS, "--save-every", "1000", "--epochs", "4000", "--data-dir", str(tmp_path)]
    process, mark = start(["-m", "ppo.run", *flags], ranks=2)
    progress = folder(tmp_path) / "progress.txt"
    deadline = time.monotonic() + 40
    while not (progress.exists() and progress.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    done = finish(process, mark)
    assert done.code == code, (done.code, done.out[-500:], done.err)
    assert_sound(tmp_path)
    assert json.loads((folder(tmp_path) / "exit.json").read_text())["code"] == code


def test_closed_output_does_not_end_a_run(tmp_path):
    """`python -m ppo.run | head -1`: the run goes on to its end, into its files."""
    flags = [*FLAGS, "--epochs", "5", "--data-dir", str(tmp_path)]
    process, mark = start(["-m", "ppo.run", *flags])
    process.stdout.close()
    process.stdout = open(os.devnull)  # noqa: SIM115  what `finish` reads instead
    done = finish(process, mark)
    assert done.code == 0, done.err
    assert json.loads((folder(tmp_path) / "exit.json").read_text())["reason"] == "finished"


def test_threads_do_not_exceed_the_cores(tmp_path):
    """Without OMP_NUM_THREADS, each of four ranks computes with its share of the cores, one thread at least."""
    code = "from ppo.run import limit_threads; from utils import mpi; import torch; limit_threads(mpi.connect(), 'nature'); print(torch.get_num_threads())"  # noqa: E501
    done = run(["-c", code], ranks=4, env={"OMP_NUM_THREADS": ""})
    cores = len(os.sched_getaffinity(0))
    assert "".join(done.out.split()) == str(max(1, cores // 4)) * 4  # mpirun may join the lines of two ranks
