"""Drop-in for torch's operations on long arrays in an update: one pass (arrays.cpp) where torch takes several.

`compiled` says whether there is such code; without it torch does it all.
"""

from __future__ import annotations

import ctypes

import torch

from ppo.compute import cpp


class AdamNumbers(ctypes.Structure):
    """The numbers of one step of Adam, as arrays.cpp has them."""

    _fields_ = [(name, ctypes.c_float) for name in ("rate1", "beta2", "rate2", "eps", "scale", "step_size", "root")]


def compiled() -> bool:
    """Return whether the functions of this file can be used."""
    return cpp.library() is not None


def adam_step(
    numbers: AdamNumbers,
    weights: torch.Tensor,
    gradient: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    copies: torch.Tensor,
) -> None:
    """Take one step of Adam.

    Args:
        numbers: of this step.
        weights, gradient, exp_avg, exp_avg_sq: (P,) float32; all but the gradient change.
        copies: (Q,) bfloat16, Q <= P; receives the first Q weights.
    """
    library, count = cpp.library(), ctypes.c_int64(len(weights))
    assert library is not None
    arrays = [cpp.pointer(tensor) for tensor in (weights, gradient, exp_avg, exp_avg_sq, copies)]
    team = cpp.team(1 + len(weights) // (1 << 16))
    library.adam_step(ctypes.byref(numbers), count, *arrays, ctypes.c_int64(len(copies)), ctypes.byref(team))


def scale_images(images: torch.Tensor, rows: torch.Tensor, scale: float) -> torch.Tensor:
    """Return images[rows] * scale, (M, C, H, W) bfloat16, channels last in memory.

    Args:
        images: (N, C, H, W) uint8, channels last in memory.
        rows: (M,) int64, from 0 to N - 1.
        scale: factor.
    """
    library, (_, channels, height, width) = cpp.library(), images.shape
    assert library is not None and images.permute(0, 2, 3, 1).is_contiguous() and rows.is_contiguous()
    out = torch.empty((len(rows), height, width, channels), dtype=torch.bfloat16)
    sizes = ctypes.c_int64(len(rows)), ctypes.c_int64(channels * height * width)
    team = cpp.team(len(rows))
    pointers = cpp.pointer(rows), cpp.pointer(images), ctypes.c_float(scale), cpp.pointer(out)
    library.scale_images(*sizes, *pointers, ctypes.byref(team))
    return out.permute(0, 3, 1, 2)
