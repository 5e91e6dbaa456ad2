"""A small MPI vocabulary. One process runs without any MPI library.

`connect()` returns a `Comm`; everything else takes it as an argument. Arrays travel through upper-case (buffer)
calls; small Python objects are pickled by mpi4py between the ranks of one job only, never from a file.

A rank that fails must end the whole job: see `exit_together`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

# What launchers tell their processes: (number of ranks, this rank, this rank on its host)
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "Open MPI"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPICH (Hydra)"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "Slurm"),
)


SHARED_MEMORY = "/dev/shm"  # where MPI libraries keep it on Linux; containers may have little
PIECE = 1 << 15  # numbers of each rank that are summed at a time: 128 KiB


class OutOfStep(RuntimeError):
    """Two ranks are in different collective calls; found with PPO_CHECK_COLLECTIVES=1 in the environment."""


class WrongLauncher(RuntimeError):
    """The launcher belongs to another MPI than the library: each process would run alone."""


def _launch() -> tuple[int, int, int, str]:
    """Return what the launcher says: number of ranks, this rank, this rank on its host, the launcher's name."""
    for size, rank, local, name in _LAUNCHERS:
        if size in os.environ:
            return (int(os.environ[size]), int(os.environ.get(rank, "0")), int(os.environ.get(local, "0")), name)
    return 1, 0, 0, "none"


def launched_size() -> int:
    """Return how many ranks the launcher started; 1 without one. Known before MPI starts."""
    return _launch()[0]


def launched_rank() -> int:
    """Return this process's rank as its launcher numbers it. Known before MPI starts."""
    return _launch()[1]


class Comm:
    """One process: every collective is the identity. `MpiComm` is the same over many."""

    rank = 0
    world_size = 1
    local_rank = 0
    local_size = 1
    library = "none"

    def __init__(self) -> None:
        """Start with no time spent waiting."""
        self.wait_seconds = 0.0
        self.waiting = False  # whether this rank is inside a collective call now

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Replace a contiguous array by its sum over the ranks, in place, and return it."""
        return array

    def buffer(self, count: int) -> np.ndarray:
        """Return a new array of float32 zeros (count,) which `sum` adds up faster than others, whole or in slices."""
        return np.zeros(count, np.float32)

    def max(self, array: np.ndarray) -> np.ndarray:
        """Replace a contiguous array by its largest values over the ranks, in place, and return it."""
        return array

    def gather(self, value: Any) -> list[Any] | None:
        """Return the values of all ranks, in rank order, on rank 0; None elsewhere."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        return value

    def broadcast_array(self, array: np.ndarray) -> np.ndarray:
        """Replace a contiguous array by rank 0's, in place, and return it."""
        return array

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank: the way to take a decision that all ranks share."""
        return bool(self.max(np.array([flag], np.int32))[0])

    def barrier(self) -> None:
        """Wait for all ranks."""

    def abort(self, code: int) -> None:
        """End all ranks at once, without clean-up, with this exit code."""
        os._exit(code)


class MpiComm(Comm):
    """The ranks of one `mpirun`."""

    def __init__(self) -> None:
        """Start MPI.

        Raises:
            ImportError: mpi4py or an MPI library is missing.
            WrongLauncher: the launcher started another number of processes than the library sees.
        """
        super().__init__()
        try:
            from mpi4py import MPI
        except RuntimeError as error:  # mpi4py's word for a library that cannot be loaded
            raise ImportError(" ".join(str(error).split())) from None

        self._mpi, self._world = MPI, MPI.COMM_WORLD
        self.library = MPI.Get_library_version().strip("\0").split("\n")[0].strip()
        size, _, _, name = _launch()
        if self._world.size != size:
            raise WrongLauncher(
                f"{size} processes were started, but each sees {self._world.size}: mpirun is {name}, the MPI library "
                f"is {self.library}; use the mpirun of that library ({os.path.join(sys.prefix, 'bin', 'mpirun')})"
            )
        self.rank, self.world_size = self._world.rank, self._world.size
        host = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = host.rank, host.size
        host.Free()
        self._checks, self._calls = os.environ.get("PPO_CHECK_COLLECTIVES", "0") != "0", 0
        self._window: Any = None
        self._shared: list[np.ndarray] = []  # the ranks' buffers, in memory that all of them see

    @contextmanager
    def _timed(self, call: str) -> Iterator[None]:
        start, self.waiting = time.monotonic(), True
        self._calls += 1
        if self._checks:
            calls = self._world.allgather(f"{call}, collective call {self._calls}")
            if len(set(calls)) > 1:
                said = "; ".join(f"rank {rank} is in {theirs}" for rank, theirs in enumerate(calls))
                raise OutOfStep(f"the ranks are out of step: {said}")
        yield
        self.waiting = False
        self.wait_seconds += time.monotonic() - start

    def buffer(self, count: int) -> np.ndarray:
        needed = 2 * 4 * count * self.world_size  # MPI itself wants room there too
        room = os.path.isdir(SHARED_MEMORY) and shutil.disk_usage(SHARED_MEMORY).free > needed
        if self._shared or self.any(self.local_size < self.world_size or not room):
            return super().buffer(count)
        self._window = self._mpi.Win.Allocate_shared(4 * count, 4, comm=self._world)
        self._window.Lock_all()
        memory = [self._window.Shared_query(rank)[0] for rank in range(self.world_size)]
        self._shared = [np.frombuffer(part, np.float32) for part in memory]
        self._shared[self.rank][:] = 0.0
        return self._shared[self.rank]

    def sum(self, array: np.ndarray) -> np.ndarray:
        with self._timed(f"sum of {array.dtype} {array.shape}"):
            if self._shared and np.may_share_memory(array, self._shared[self.rank]):
                self._sum_shared((array.ctypes.data - self._shared[self.rank].ctypes.data) // 4, array.size)
            else:
                self._world.Allreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM)
        return array

    def _sum_shared(self, start: int, count: int) -> None:
        """Sum elements [start, start + count) of the ranks' buffers: each rank its share of them, for all ranks.

        In the order of the ranks, so that all get the same bits; piece by piece, so that they stay in the cache. Four
        times as fast as Allreduce, which copies everything through smaller buffers.
        """
        self._meet()
        mine = range(start + count * self.rank // self.world_size, start + count * (self.rank + 1) // self.world_size)
        for begin in range(mine.start, mine.stop, PIECE):
            piece = slice(begin, min(begin + PIECE, mine.stop))
            first, *others = (part[piece] for part in self._shared)
            for other in others:
                first += other
            for other in others:
                other[:] = first
        self._meet()

    def _meet(self) -> None:
        """Wait until every rank's writes are seen by all."""
        self._window.Sync()
        self._world.Barrier()
        self._window.Sync()

    def max(self, array: np.ndarray) -> np.ndarray:
        with self._timed(f"max of {array.dtype} {array.shape}"):
            self._world.Allreduce(self._mpi.IN_PLACE, array, op=self._mpi.MAX)
        return array

    def gather(self, value: Any) -> list[Any] | None:
        with self._timed("gather"):
            return self._world.gather(value, root=0)

    def broadcast(self, value: Any) -> Any:
        with self._timed("broadcast"):
            return self._world.bcast(value, root=0)

    def broadcast_array(self, array: np.ndarray) -> np.ndarray:
        with self._timed(f"broadcast of {array.dtype} {array.shape}"):
            self._world.Bcast(array, root=0)
        return array

    def barrier(self) -> None:
        with self._timed("barrier"):
            self._world.Barrier()

    def abort(self, code: int) -> None:
        self._world.Abort(code)


def connect() -> Comm:
    """Return the ranks of this job; a process that no launcher started gets a `Comm` of its own, without MPI.

    Raises:
        ImportError: a launcher was used, but mpi4py or its MPI library is missing.
        WrongLauncher: see `MpiComm`.
    """
    return MpiComm() if launched_size() > 1 else Comm()


def share(total: int, world_size: int, rank: int) -> range:
    """Return the consecutive part of range(total) that belongs to `rank`; parts differ by one at most.

    Raises:
        ValueError: there are more ranks than things to share.
    """
    if total < world_size:
        raise ValueError(f"{world_size} ranks cannot share {total} environments: use -np {total} at most")
    return range(rank * total // world_size, (rank + 1) * total // world_size)


def exit_together(comm: Comm | None, error: BaseException) -> None:
    """Print this rank's traceback and end all ranks, at once and with a non-zero code. Does not return.

    Other threads of this process are not waited for. A rank that fails before MPI starts (comm is None) joins MPI
    for the only purpose of aborting it, since others may already wait there for this one; where it cannot even do
    that, it ends the launcher.
    """
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    lines = "".join(traceback.format_exception(error))
    sys.stdout.flush()
    sys.stderr.write(f"\nrank {launched_rank()} failed:\n{lines}")
    let_launcher_forward()
    if comm is None and launched_size() > 1:
        try:
            comm = MpiComm()
        except Exception:  # no MPI library on this rank: the launcher is all that is left to tell the others
            os.kill(_parent_of(os.getppid()), signal.SIGTERM)
            os._exit(code or 1)
    (comm or Comm()).abort(code or 1)
    os._exit(code or 1)


def let_launcher_forward() -> None:
    """Give the launcher a moment to pass standard error on: what it has not read when a job is aborted is lost."""
    sys.stderr.flush()
    time.sleep(0.5)


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])
