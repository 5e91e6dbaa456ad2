"""The C++ of the drop-ins beside this file (for torch's convolutions, activations and Adam): loads the one library, and
runs its functions on torch's threads."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

VERSION = 3  # of the functions' arguments; as in arrays.cpp


class Team(ctypes.Structure):
    """The threads of a call, as team.hpp has them."""

    _fields_ = [("parallel", ctypes.c_void_p), ("threads", ctypes.c_int64)]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or None where there are none.

    Raises:
        ImportError: they were compiled from other sources than these.
    """
    path = Path(__file__).with_name("_native.so")
    if not path.exists():
        return None
    functions = ctypes.CDLL(str(path))
    version = functions.compute_version() if hasattr(functions, "compute_version") else 1
    if version != VERSION:
        raise ImportError(f"{path} is version {version}, expected {VERSION}: compile it again (pip install -e .)")
    for name in ("convolutions_forward", "convolutions_backward", "adam_step", "scale_images"):
        getattr(functions, name).restype = None
    return functions


@functools.cache
def torch_parallel() -> int | None:
    """Return the address of GOMP_parallel in the OpenMP library that torch uses, or None where it has another one.

    Threads of our own would compete with torch's, which spin for a while after their work.
    """
    try:
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_library.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def team(most: int) -> Team:
    """Return torch's threads, `most` of them at most."""
    return Team(torch_parallel(), max(1, min(torch.get_num_threads(), most)) if torch_parallel() else 1)


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Return where a tensor's numbers begin, or null."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
