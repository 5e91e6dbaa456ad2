"""What the machine is asked: cores under limits, systems without /proc, other jobs' memory; how a watchdog ends."""

import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from ppo import config
from ppo.build import build_training
from tests.conftest import ROOT, run
from utils import mpi, system
from utils.command import any_character
from utils.folder import Refused
from utils.watchdog import StopSignals, Watchdog


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000\n"}, 2),  # one core and a half
        ("0::/job/step\n", {"job/cpu.max": "100000 100000\n", "job/step/cpu.max": "max 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/not/seen/here\n", {"cpu.max": "300000 100000\n"}, 3),  # a container's root is its own
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "10000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("nonsense\n\n:::\n", {"cpu.max": "much"}, 64),
    ],
)
def test_control_groups_limit_the_cores(tmp_path, monkeypatch, cgroup, files, expected):
    """The least of all limits on the way to the root, rounded up; one core at least."""
    monkeypatch.setattr(system, "PROC", tmp_path / "proc")
    monkeypatch.setattr(system, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    write(tmp_path / "proc" / "self" / "cgroup", cgroup)
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    assert system.cores() == expected


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/job/step\n", {"job/memory.max": "2147483648\n", "job/step/memory.max": "max\n"}, 2.0),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "3221225472\n"}, 3.0),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, 16.0),  # version 1 for none
        ("4:memory:/a\n", {"cpu/a/memory.limit_in_bytes": "1\n"}, 16.0),
    ],
)
def test_control_groups_limit_the_memory(tmp_path, monkeypatch, cgroup, files, expected):
    """What is recorded is what the process may use, not what the machine has."""
    monkeypatch.setattr(system, "PROC", tmp_path / "proc")
    monkeypatch.setattr(system, "CGROUPS", tmp_path / "cgroup")
    write(tmp_path / "proc" / "self" / "cgroup", cgroup)
    write(tmp_path / "proc" / "meminfo", f"MemTotal: {16 << 20} kB\nMemFree: 1 kB\n")
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    assert system.total_memory_gb() == expected


def test_a_system_without_proc_is_described_all_the_same(tmp_path, monkeypatch):
    """As on macOS: what it does not say is left out, and nothing raises."""
    monkeypatch.setattr(system, "PROC", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity")
    found = system.describe("none")
    assert found["cores"] == os.cpu_count() and found["memory_gb"] is None and found["processor"]
    assert system.memory_mb() > 1 and system.processor_flags() == set()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    system.end_with_parent(signal.SIGKILL)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("", {"sse2", "avx2", "fma", "avx512f", "amx_bf16"}), ("avx2", {"sse2", "avx2", "fma"}), ("default", {"sse2"})],
)
def test_what_torch_is_told_to_leave_alone_is_no_feature(tmp_path, monkeypatch, capability, expected):
    """So that one switch shows how fast both are on another processor."""
    monkeypatch.setattr(system, "PROC", tmp_path)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    write(tmp_path / "cpuinfo", "model name\t: A\nflags\t\t: sse2 avx2 fma avx512f amx_bf16\n")
    assert system.processor_flags() == expected


def test_what_dead_jobs_left_in_shared_memory_is_removed(tmp_path):
    """Only what is old, this user's, a file, and in use by nobody."""
    names = ("mpich_shm_dead_0", "mpich_shm_young_0", "mpich_shm_used_0", "other")
    for name in names:
        (tmp_path / name).write_bytes(bytes(4096))
        os.utime(tmp_path / name, (1, time.time() if "young" in name else 1))
    (tmp_path / "mpich_shm_link_0").symlink_to(tmp_path / "other")
    with (tmp_path / "mpich_shm_used_0").open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert mpi.remove_leftovers(tmp_path) == [tmp_path / "mpich_shm_dead_0"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names[1:], "mpich_shm_link_0"])


BUFFERS = """
import numpy as np
from pathlib import Path
from utils import mpi
comm = mpi.connect()
def mapped():
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "/dev/shm" in line]
    return sum(int(end, 16) - int(begin, 16) for begin, end in spans)
before, sizes = mapped(), []
for _ in range(3):
    mine, common = comm.buffer(1 << 20), comm.host_buffer(1 << 20)
    mine[:] = comm.rank
    comm.all_gather(mine)
    sizes.append(mapped() - before)
    comm.free_buffers()
assert mapped() - before < 1 << 20 and sizes[2] <= sizes[0] + (1 << 20) and sizes[0] >= 8 << 20, (before, sizes)
assert comm.sum(np.array([1.0]))[0] == comm.world_size
print("freed")
"""


def test_the_commit_is_that_of_the_checkout_which_holds_the_code(tmp_path, monkeypatch):
    """Installed into an environment below another project's checkout, it is not that project's."""
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", system.commit())
    here = tmp_path / ".venv" / "site-packages" / "utils" / "system.py"
    write(here, "")
    write(tmp_path / "theirs.py", "")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y.z"]
    for words in (["init", "-q"], ["add", "theirs.py"], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(system, "__file__", str(here))
    assert system.commit() == "unknown"


def test_memory_of_files_whose_names_are_no_text_is_no_obstacle(tmp_path):
    """A process may have mapped any file: what a dead job left is removed all the same."""
    named = os.path.join(os.fsencode(tmp_path), b"\xff")
    with open(named, "wb+") as file:
        file.write(b"x" * mmap.PAGESIZE)
        file.flush()
        with mmap.mmap(file.fileno(), 0):
            left = tmp_path / "mpich_shm_left"
            left.touch()
            os.utime(left, (1, 1))
            assert mpi.remove_leftovers(tmp_path) == [left] and not left.exists()


@pytest.mark.mpi
def test_shared_buffers_are_freed():
    """Three times as many buffers take no more memory than once, and MPI works on."""
    done = run(["-c", BUFFERS], ranks=2)
    assert done.code == 0 and done.out.count("freed") == 2, done.err


def test_a_watchdog_ends_with_its_block():
    """However the block ends: no thread is left to end the process."""
    with pytest.raises(RuntimeError), Watchdog(mpi.Comm(), 0.6):
        raise RuntimeError
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    time.sleep(1.0)  # longer than its limit


def test_what_is_built_without_a_watchdog_leaves_none_that_ends_the_process():
    """Not where it cannot be built, and not where it stands about in a notebook."""
    with pytest.raises(Refused):
        build_training(config.build(env="CartPole-v1", squash=True, stall_timeout=0.5), mpi.Comm())
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    training = build_training(config.build(env="CartPole-v1", stall_timeout=0.5), mpi.Comm())
    time.sleep(1.5)  # longer than its limit
    training.close()


def test_a_closed_watchdog_ends_nothing(monkeypatch):
    """Closed while it looks: it does not report."""
    with Watchdog(mpi.Comm(), 0.01) as dog:
        monkeypatch.setattr(dog, "_report_and_abort", lambda still: pytest.fail("it ended the process"))
        dog._done.set()
        time.sleep(1.2)
    dog.close()


ENDINGS = """
import sys, threading, time
from utils import mpi
from utils.watchdog import Watchdog
threading.Thread(target=time.sleep, args=(60,)).start()
if sys.argv[1] == "stall":
    with Watchdog(mpi.Comm(), 1.0):
        time.sleep(60)
print("unread")
mpi.abort_job(mpi.Comm(), RuntimeError())
"""


@pytest.mark.parametrize("how", ["stall", "failure"])
def test_a_rank_ends_although_nobody_reads_what_it_says(how):
    """With its outputs closed at their other end, one that stalls is ended, and one that fails ends the job."""
    read, write = os.pipe()
    os.close(read)
    words, env = [sys.executable, "-c", ENDINGS, how], os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run(words, stdout=write, stderr=write, cwd=ROOT, env=env, timeout=30, check=False)
    os.close(write)
    assert done.returncode == 1


def test_signals_are_given_back_once():
    """Closed twice, a handler that somebody set in between stays."""
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        pass
    mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals.close()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN and mine == before
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("env", "shown"),
    [({"PYTHONIOENCODING": "ascii"}, "\\xe9t\\xe9"), ({"LC_ALL": "C", "PYTHONUTF8": "0"}, "\\xc3\\xa9t\\xc3\\xa9")],
)
def test_a_path_that_the_terminal_cannot_write(tmp_path, env, shown):
    """ASCII output and a path that is not: its letters become numbers, and nothing else is lost."""
    where = ["--data-dir", str(tmp_path / "\u00e9t\u00e9")]
    done = run(["-m", "ppo.run", "--env", "Echo-v0", "--epochs", "2", *where], env=env)
    assert done.code == 0 and "finished: " in done.out and "2/2" in done.out, done.err
    assert shown in done.out


def test_a_stream_that_is_none_is_left_alone():
    """As tests and notebooks replace it."""
    any_character(object())
