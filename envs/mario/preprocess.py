"""Preprocessing of Mario's screen, version 1: frozen, because trained policies depend on it.

gray of each of the last two frames -> their maximum -> box average to 84x84, all in exact integers.
Shapes: H W rows and columns of the screen (240 x 256), 84 x 84 of the observation.
"""

from __future__ import annotations

from math import gcd

import numpy as np

PREPROCESS_VERSION = 1
SIZE = 84
SCREEN = (240, 256)
HUD_ROWS = 32  # the score line and its margin: the game scrolls what is below line 32

# Weights of B, G, R and the unused byte. OpenCV's own, with 15 fractional bits; on the 64 colours that the console
# has they give the same gray as the published 14-bit form (4899 R + 9617 G + 1868 B + 8192) >> 14.
_WEIGHTS = np.array([3735, 19235, 9798, 0], np.float32)
_HALF, _UNIT = np.float32(2**14), np.float32(2**-15)


def gray(bgra: np.ndarray) -> np.ndarray:
    """Return (9798 R + 19235 G + 3735 B + 16384) >> 15, which is what cv2.cvtColor computes.

    The sums stay below 2**24 and the shift is a power of two, so float32 is exact; its matrix product is fast.

    Args:
        bgra: (H, W, 4) uint8 in the order blue, green, red, unused.

    Returns:
        (H, W) uint8.
    """
    weighted = bgra.astype(np.float32) @ _WEIGHTS
    weighted += _HALF
    weighted *= _UNIT
    return weighted.astype(np.uint8)  # truncates, as the shift does


class BoxResize:
    """Exact average over equal boxes of an image, to 84x84.

    One output row covers H/84 input rows. In units of gcd(H, 84)/84 of a row the borders of both fall on whole
    numbers (240 rows: sevenths; 256 columns: parts of 21), so every weight is an integer, and the pattern of weights
    repeats after 84/gcd output rows. The same holds for columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self._rows, self._row_groups = _pattern(height)
        self._columns, self._column_groups = _pattern(width)
        self._total = int(self._rows[0].sum() * self._columns[0].sum())
        if 255 * self._total >= 2**24:
            raise ValueError(f"size: {height} x {width} is too large for exact sums in float32")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the (84, 84) uint8 box average of an (H, W) uint8 image, rounded half up."""
        height, width = image.shape
        tall = image.astype(np.float32).reshape(self._row_groups, -1, width)
        short = np.matmul(self._rows, tall).reshape(SIZE, self._column_groups, -1)  # (84, groups, W / groups)
        sums = np.matmul(short, self._columns.T).reshape(SIZE, SIZE).astype(np.int32)
        return ((2 * sums + self._total) // (2 * self._total)).astype(np.uint8)


def _pattern(length: int) -> tuple[np.ndarray, int]:
    """Return the repeating block of integer weights (outputs, inputs), float32, and how often it repeats."""
    groups = gcd(length, SIZE)
    outputs, inputs = SIZE // groups, length // groups
    # Output k covers [k * inputs, (k + 1) * inputs), input j covers [j * outputs, (j + 1) * outputs).
    out = np.arange(outputs)[:, None] * inputs
    into = np.arange(inputs)[None, :] * outputs
    overlap = np.minimum(out + inputs, into + outputs) - np.maximum(out, into)
    return np.maximum(overlap, 0).astype(np.float32), groups


class Preprocess:
    """Turn the raw screens of a decision's last two frames into one observation frame."""

    def __init__(self, crop_hud: bool = False) -> None:
        self._top = HUD_ROWS if crop_hud else 0
        self._resize = BoxResize(SCREEN[0] - self._top, SCREEN[1])

    def __call__(self, last: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
        """Return (84, 84) uint8 of one or two (240, 256, 4) uint8 BGRA screens; their order does not matter."""
        image = gray(last[self._top :])
        if before is not None:
            image = np.maximum(image, gray(before[self._top :]))
        return self._resize(image)
