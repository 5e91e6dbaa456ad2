"""A small MPI vocabulary. One process runs without any MPI library.

`connect()` returns a `Comm`; everything else takes it as an argument. Arrays travel through upper-case (buffer)
calls; small Python objects are pickled by mpi4py between the ranks of one job only, never from a file.

A rank that fails must end the whole job: see `abort_job`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np

from utils import system
from utils.command import drop_unwritten, printable

T = TypeVar("T")

# What launchers tell their processes: (number of ranks, this rank, this rank on its host)
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "Open MPI"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPICH (Hydra)"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "Slurm"),
)


SHARED_MEMORY = "/dev/shm"  # where MPI libraries keep it on Linux; containers may have little
START_SECONDS = 300.0  # that a rank waits for the others to start
PIECE = 1 << 15  # numbers of each rank that are summed at a time: 128 KiB, which stay in the cache


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
    host = 0  # the first rank on this rank's host
    library = "none"

    def __init__(self) -> None:
        """Start with no time spent waiting."""
        self.wait_seconds = 0.0
        self.waiting = False  # whether this rank is inside a collective call now

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Replace a contiguous array by its sum over the ranks, in place, and return it."""
        return array

    def buffer(self, count: int) -> np.ndarray:
        """Return float32 zeros (count,) in memory of which `reduce_scatter` and `all_gather` make no copy."""
        return np.zeros(count, np.float32)

    def host_buffer(self, count: int) -> np.ndarray | None:
        """Return an array of int16 zeros (count,) that all ranks read and write: one and the same memory.

        None where the ranks share no memory. What a rank writes there, the others see after a collective call.
        """
        return np.zeros(count, np.int16)

    def free_buffers(self) -> None:
        """Free the memory of all `buffer`s and `host_buffer`s: all ranks call this, and use none of them afterwards.

        Not where one rank has failed: the others would wait for it; the memory goes when the job ends.
        """

    def part(self, count: int) -> slice:
        """Return this rank's part of `count` numbers, as `reduce_scatter` and `all_gather` divide them."""
        return _part(count, self.world_size, self.rank)

    def reduce_scatter(self, *arrays: np.ndarray) -> None:
        """Replace this rank's part of each contiguous float32 array by its sum over the ranks; leave the rest alone.

        The rest must stay as it is until the next collective call: other ranks may still be reading it.
        """

    def all_gather(self, *arrays: np.ndarray, begins: Sequence[int] | None = None) -> None:
        """Replace every other rank's part of each contiguous float32 array by what that rank has there.

        This rank's part must stay as it is until the next collective call: other ranks may still be reading it.

        Args:
            arrays: what is joined.
            begins: of each array, the first number that is wanted; those before it may stay as they are.
        """

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
        with _time_limit(START_SECONDS):  # it waits for all ranks, one of which may have died without a word
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
        self._host: Any = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size, self.host = self._host.rank, self._host.size, self._host.bcast(self.rank)
        self._hosts = self._join_hosts()
        if self.local_rank == 0:
            remove_leftovers()
        self._checks, self._calls = os.environ.get("PPO_CHECK_COLLECTIVES", "0") != "0", 0
        self._windows: list[Any] = []
        self._shared: dict[int, _Shared] = {}  # by the address of this rank's buffer

    def _join_hosts(self) -> _Hosts | None:
        """Return what the first ranks of several hosts need to exchange sums; None where plain MPI has to do.

        That is where no two ranks share a host, or a host's ranks are not numbered in a row.
        """
        of = self._world.allgather(self.host)
        firsts = sorted(set(of))
        if len(firsts) in (1, self.world_size) or of != sorted(of):
            return None
        ends = [*firsts[1:], self.world_size]
        between = self._world.Split(0 if self.local_rank == 0 else self._mpi.UNDEFINED)
        return _Hosts(between, list(zip(firsts, ends, strict=True)), firsts.index(self.host))

    @contextlib.contextmanager
    def _timed(self, call: str) -> Iterator[None]:
        start, self.waiting = time.monotonic(), True
        self._calls += 1
        if self._checks:
            calls = self._world.allgather(f"{call}, collective call {self._calls}")
            if len(set(calls)) > 1:
                places = "; ".join(f"rank {rank} is in {theirs}" for rank, theirs in enumerate(calls))
                raise OutOfStep(f"the ranks are out of step: {places}")
        yield
        self.waiting = False
        self.wait_seconds += time.monotonic() - start

    def sum(self, array: np.ndarray) -> np.ndarray:
        with self._timed(f"sum of {array.dtype} {array.shape}"):
            self._world.Allreduce(self._mpi.IN_PLACE, array, op=self._mpi.SUM)
        return array

    def buffer(self, count: int) -> np.ndarray:
        several = self._hosts is not None and self.local_rank == 0
        window = self._window(4 * count * (2 if several else 1), self._hosts is not None)
        if window is None:
            return super().buffer(count)
        memory: list[Any] = [window.Shared_query(rank)[0] for rank in range(self.local_size)]
        arrays = [np.frombuffer(part, np.float32) for part in memory]
        shared = _Shared([array[:count] for array in arrays], arrays[0][count:])
        own = arrays[self.local_rank]
        own[:] = 0.0
        self._shared[own.ctypes.data] = shared
        return shared.buffers[self.local_rank]

    def host_buffer(self, count: int) -> np.ndarray | None:
        window = self._window(2 * count if self.rank == 0 else 0)
        if window is None:
            return None
        memory: Any = window.Shared_query(0)[0]
        array = np.frombuffer(memory, np.int16)
        if self.rank == 0:
            array[:] = 0
        with self._timed("host_buffer"):
            self._meet()
        return array

    def free_buffers(self) -> None:
        self._shared.clear()
        with self._timed("free_buffers"):
            while self._windows:
                window = self._windows.pop()
                window.Unlock_all()
                window.Free()

    def _window(self, size: int, per_host: bool = False) -> Any:
        """Return memory of all ranks, `size` bytes of it this rank's; None where there is none for all of them.

        Args:
            size: bytes.
            per_host: the ranks of each host have one of their own.
        """
        needed = 2 * size * self.local_size  # MPI itself wants room there too
        room = os.path.isdir(SHARED_MEMORY) and shutil.disk_usage(SHARED_MEMORY).free > needed
        if self.any((self.local_size < self.world_size and not per_host) or not room):
            return None
        with self._timed("shared memory"):
            window = self._mpi.Win.Allocate_shared(size, 1, comm=self._host)
            window.Lock_all()
        self._windows.append(window)
        return window

    def reduce_scatter(self, *arrays: np.ndarray) -> None:
        with self._timed(f"reduce_scatter of {[array.shape for array in arrays]}"):
            self._meet()
            for array in arrays:
                mine, shared = self.part(len(array)), self._shared.get(array.ctypes.data)
                if shared is None:
                    total = np.empty_like(array[mine])
                    self._world.Reduce_scatter(array, total, self._counts(array), op=self._mpi.SUM)
                    array[mine] = total
                elif self._hosts is not None:
                    self._reduce_over_hosts(self._hosts, shared)
                    array[mine] = shared.joined[mine]
                else:
                    self._sum_buffers(shared, mine, shared.buffers[self.local_rank])

    def _sum_buffers(self, shared: _Shared, part: slice, out: np.ndarray) -> None:
        """Write the sum of a part of this host's buffers to the same part of `out`."""
        own = shared.buffers[self.local_rank]
        for begin in range(part.start, part.stop, PIECE):
            piece = slice(begin, min(begin + PIECE, part.stop))
            if out is not own:
                out[piece] = own[piece]
            for rank in range(1, self.local_size):
                out[piece] += shared.buffers[(self.local_rank + rank) % self.local_size][piece]

    def _reduce_over_hosts(self, hosts: _Hosts, shared: _Shared) -> None:
        """Put the sum over all ranks of this host's part into the memory that its ranks share.

        Each rank sums a part over its host, then the first rank of each exchanges the sums: they cross the network once
        for a host, not once for a rank.
        """
        count = len(shared.joined)
        self._sum_buffers(shared, _part(count, self.local_size, self.local_rank), shared.joined)
        self._meet()
        if self.local_rank == 0:
            parts = hosts.parts(count, self.world_size)
            mine = parts[hosts.place]
            total = np.empty(mine.stop - mine.start, np.float32)
            sizes = [part.stop - part.start for part in parts]
            hosts.between.Reduce_scatter(shared.joined, total, sizes, op=self._mpi.SUM)
            shared.joined[mine] = total
        self._meet()

    def all_gather(self, *arrays: np.ndarray, begins: Sequence[int] | None = None) -> None:
        with self._timed(f"all_gather of {[array.shape for array in arrays]}"):
            self._meet()
            for array, begin in zip(arrays, begins or [0] * len(arrays), strict=True):
                shared = self._shared.get(array.ctypes.data)
                if shared is None:
                    self._world.Allgatherv(self._mpi.IN_PLACE, [array, self._counts(array)])
                    continue
                for rank, theirs in enumerate(shared.buffers, self.host):
                    if rank != self.rank:
                        _copy(array, theirs, _part(len(array), self.world_size, rank), begin)
                if self._hosts is not None:
                    self._gather_over_hosts(self._hosts, array, shared, begin)

    def _gather_over_hosts(self, hosts: _Hosts, array: np.ndarray, shared: _Shared, begin: int) -> None:
        """Fetch the parts of the other hosts' ranks: the first rank of this host for all of them."""
        parts = hosts.parts(len(array), self.world_size)
        if self.local_rank == 0:
            mine = parts[hosts.place]
            shared.joined[mine] = array[mine]
            sizes = [part.stop - part.start for part in parts]
            hosts.between.Allgatherv(self._mpi.IN_PLACE, [shared.joined, sizes])
        self._meet()
        for i, part in enumerate(parts):
            if i != hosts.place:
                _copy(array, shared.joined, part, begin)

    def _counts(self, array: np.ndarray) -> list[int]:
        """Return the sizes of all ranks' parts."""
        parts = [_part(len(array), self.world_size, rank) for rank in range(self.world_size)]
        return [part.stop - part.start for part in parts]

    def _meet(self) -> None:
        """Wait until every rank's writes to the shared buffers are seen by all."""
        if not self._windows:
            return
        for window in self._windows:
            window.Sync()
        self._host.Barrier()
        for window in self._windows:
            window.Sync()

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


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End this process, with its stack, when the block takes longer: also one that never returns to Python."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def connect() -> Comm:
    """Return the ranks of this job; a process that no launcher started gets a `Comm` of its own, without MPI.

    Raises:
        ImportError: a launcher was used, but mpi4py or its MPI library is missing.
        WrongLauncher: see `MpiComm`.
    """
    return MpiComm() if launched_size() > 1 else Comm()


class _Shared(NamedTuple):
    """One buffer of each rank of a host, and where its ranks join what comes from other hosts."""

    buffers: list[np.ndarray]
    joined: np.ndarray  # empty where there is one host


class _Hosts(NamedTuple):
    """Several hosts whose ranks are numbered in a row."""

    between: Any  # the communicator of their first ranks; nothing on the others
    ranks: list[tuple[int, int]]  # of each host, the first and one past the last
    place: int  # of this host among them

    def parts(self, count: int, world_size: int) -> list[slice]:
        """Return the parts of `count` numbers that each host's ranks have in all."""
        return [slice(first * count // world_size, end * count // world_size) for first, end in self.ranks]


def _copy(array: np.ndarray, other: np.ndarray, part: slice, begin: int) -> None:
    """Copy a part of another array but what stands before `begin`."""
    part = slice(max(begin, part.start), part.stop)
    array[part] = other[part]


def _part(count: int, world_size: int, rank: int) -> slice:
    return slice(rank * count // world_size, (rank + 1) * count // world_size)


def share(total: int, world_size: int, rank: int) -> range:
    """Return the consecutive part of range(total) that belongs to `rank`; parts differ by one at most.

    Raises:
        ValueError: there are more ranks than things to share.
    """
    if total < world_size:
        raise ValueError(f"{world_size} ranks cannot share {total} environments: use -np {total} at most")
    return range(rank * total // world_size, (rank + 1) * total // world_size)


def agreed(comm: Comm, action: Callable[[], T], caught: tuple[type[Exception], ...], raised: type[Exception]) -> T:
    """Return what `action` returns on this rank, once it has worked on all ranks. It makes no collective call.

    Raises:
        `raised`, on all ranks, with the message of the first rank on which it raised one of `caught`.
    """
    result, problem = None, None
    try:
        result = action()
    except caught as error:
        problem = printable(error, 1000)
    problems = comm.gather(problem)
    problem = comm.broadcast(next((p for p in problems if p is not None), None) if problems is not None else None)
    if problem is not None:
        raise raised(problem)
    return cast("T", result)


def abort_job(comm: Comm | None, error: BaseException) -> NoReturn:
    """Print this rank's traceback and end all ranks, at once and with a non-zero code.

    Other threads of this process are not waited for. A rank that fails before MPI starts (comm is None) joins MPI
    for the only purpose of aborting it, since others may already wait there for this one; where it cannot even do
    that, it ends the launcher.
    """
    code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
    lines = "".join(traceback.format_exception(error))
    drop_unwritten(sys.stdout)
    complain(f"\nrank {launched_rank()} failed:\n{lines}")
    let_launcher_forward()
    if comm is None and launched_size() > 1:
        try:
            comm = MpiComm()
        except Exception:  # no MPI library on this rank: the launcher is all that is left to tell the others
            with contextlib.suppress(OSError):  # a system without /proc does not say who that is
                os.kill(system.process(os.getppid())[1], signal.SIGTERM)
            os._exit(code or 1)
    (comm or Comm()).abort(code or 1)
    os._exit(code or 1)


def remove_leftovers(folder: Path = Path(SHARED_MEMORY), age: float = 600.0) -> list[Path]:
    """Remove the memory that MPICH's jobs left when their launcher was killed; return what it was.

    Only what belongs to this user, is older than `age` seconds, by when each rank of a job has long opened it, and is
    in use by no process that can be seen: a name that is removed all the same takes no memory from who uses it.
    """
    old = {path for path in folder.glob("mpich_shm_*") if _is_old(path, age)}
    if not old:
        return []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_bytes()  # a path may be no text
        except OSError:  # somebody else's process, or one that has just ended
            continue
        old = {path for path in old if os.fsencode(path) not in text}
    for path in old:
        path.unlink(missing_ok=True)
    return sorted(old)


def _is_old(path: Path, age: float) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and time.time() - found.st_mtime > age


def complain(text: str) -> None:
    """Write to standard error; that nobody reads it any more must not keep this rank from ending the job."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def let_launcher_forward() -> None:
    """Give the launcher a moment to pass standard error on: what it has not read when a job is aborted is lost."""
    time.sleep(0.5)
