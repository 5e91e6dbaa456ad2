"""Whether all ranks have the same software: ranks that compute with other code or packages than rank 0 would train
something that no single host trains, and nobody would see it."""

from __future__ import annotations

import platform

from utils import system
from utils.folder import Refused
from utils.mpi import Comm, agreed


def check_hosts(comm: Comm) -> None:
    """Compare this project's code, the packages and the MPI library, where there are several hosts.

    Raises:
        Refused: see `check_same`.
    """
    if comm.any(comm.local_size < comm.world_size):
        check_same(comm, {"MPI library": comm.library, **system.versions(), **system.code()})


def check_same(comm: Comm, mine: dict[str, str]) -> None:
    """Compare what each rank has with what rank 0 has: all ranks call this.

    Args:
        comm: the ranks.
        mine: versions by name of the package, digests by path of the file.

    Raises:
        Refused: on all ranks: some rank has something else; which rank, and what.
    """
    name = platform.node()
    first, first_name = comm.broadcast((mine, name))

    def compare() -> None:
        if found := difference(mine, first):
            raise Refused(f"rank {comm.rank} on {name} and rank 0 on {first_name} have different software: {found}")

    agreed(comm, compare, (Refused,), Refused)


def difference(mine: dict[str, str], first: dict[str, str]) -> str | None:
    """Return what of a rank's software is not rank 0's: packages with both versions, files by name; None if all is."""
    differ = [name for name in (first | mine) if mine.get(name) != first.get(name)]
    files = [name for name in differ if name.endswith(system.SOURCES)]
    said = [
        f"{name} {mine.get(name) or 'missing'} and {first.get(name) or 'missing'}"
        for name in differ
        if name not in files
    ]
    if files:
        said.append(files[0] + (f" and {len(files) - 1} more files" if len(files) > 1 else ""))
    return ", ".join(said) or None
