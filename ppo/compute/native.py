"""Our own code for what an update does to long arrays (vectors.cpp): one pass over them where torch takes several.

`library` is None where nothing was compiled; then torch does it all. convolution.py has the rest of the library.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch


class Team(ctypes.Structure):
    """The threads of a call, as team.hpp has them."""

    _fields_ = [("parallel", ctypes.c_void_p), ("threads", ctypes.c_int64)]


class Adam(ctypes.Structure):
    """The numbers of one step, as vectors.cpp has them."""

    _fields_ = [(name, ctypes.c_float) for name in ("rate1", "beta2", "rate2", "eps", "scale", "step_size", "root")]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or None."""
    found = sorted(Path(__file__).parent.glob("_native.*.so"))
    if not found:
        return None
    native = ctypes.CDLL(str(found[0]))
    for name in ("convolutions_forward", "convolutions_backward", "adam_step", "scale_images"):
        getattr(native, name).restype = None
    return native


@functools.cache
def torch_parallel() -> int | None:
    """Return the address of GOMP_parallel in the OpenMP library that torch uses, or None where it has another one.

    Threads of our own would have to wait for torch's, which stay awake for a while after their work.
    """
    try:
        native = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(native.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def team(most: int) -> Team:
    """Return torch's threads, `most` of them at most."""
    return Team(torch_parallel(), max(1, min(torch.get_num_threads(), most)) if torch_parallel() else 1)


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Return where a tensor's numbers begin, or null."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def adam_step(
    settings: Adam,
    weights: torch.Tensor,
    gradient: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    copies: torch.Tensor,
) -> None:
    """Take one step of Adam.

    Args:
        settings: of this step.
        weights, gradient, exp_avg, exp_avg_sq: (P,) float32; all but the gradient change.
        copies: (Q,) bfloat16, Q <= P; receives the first Q weights.
    """
    native, count = library(), ctypes.c_int64(len(weights))
    assert native is not None
    arrays = [pointer(tensor) for tensor in (weights, gradient, exp_avg, exp_avg_sq, copies)]
    threads = team(1 + len(weights) // (1 << 16))
    native.adam_step(ctypes.byref(settings), count, *arrays, ctypes.c_int64(len(copies)), ctypes.byref(threads))


def scale_images(images: torch.Tensor, rows: torch.Tensor, scale: float) -> torch.Tensor:
    """Return images[rows] * scale, (M, C, H, W) bfloat16, channels last in memory.

    Args:
        images: (N, C, H, W) uint8, channels last in memory.
        rows: (M,) int64, from 0 to N - 1.
        scale: factor.
    """
    native, (_, channels, height, width) = library(), images.shape
    assert native is not None and images.permute(0, 2, 3, 1).is_contiguous() and rows.is_contiguous()
    out = torch.empty((len(rows), height, width, channels), dtype=torch.bfloat16)
    native.scale_images(
        ctypes.c_int64(len(rows)), ctypes.c_int64(channels * height * width), pointer(rows), pointer(images),
        ctypes.c_float(scale), pointer(out), ctypes.byref(team(len(rows))),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)
