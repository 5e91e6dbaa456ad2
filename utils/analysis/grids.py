"""Put the seeds of one experiment on a common grid, and find the range that their values can have.

Letters of shapes: R runs (seeds), G points of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.analysis.experiments import Group
from utils.analysis.runs import LARGEST, LoggedRun, compact, extremes, shortened
from utils.columns import Column

Array = NDArray[np.float64]

POINTS = 256  # of a common grid: more than a figure can show
TOUCHES = 3  # rows that hold exactly the same extreme value before it counts as a bound
TOLERANCE = 0.02  # part of the longest run that may be cut without a word


@dataclass
class Joined:
    """The seeds of one experiment on a common grid."""

    x: Array  # (G,)
    values: Array  # (R, G)
    runs: list[LoggedRun]
    notes: list[str]


def smoothed(y: Array, rows: int) -> Array:
    """Return the mean over a centred window of `rows` rows, shorter at both ends (Spinning Up's smoothing)."""
    if rows <= 1 or len(y) == 0:
        return y
    rows = min(rows, 2 * len(y))  # a longer one is no other
    total = np.concatenate([[0.0], np.cumsum(y)])
    left = np.maximum(np.arange(len(y)) - (rows - 1) // 2, 0)
    right = np.minimum(np.arange(len(y)) + rows // 2 + 1, len(y))
    return (total[right] - total[left]) / (right - left)


def join(group: Group, x: str, y: str, *, smooth: int = 1, points: int = POINTS) -> Joined:
    """Return a group's runs on the grid that all of them cover; what was cut or left out is in the notes.

    Where runs have at most as many rows as the grid has points, they are interpolated linearly between rows; where
    they have more, each grid point is the mean of the rows in its cell, so that no row is passed over. A row without
    a value of y, such as an epoch in which no episode ended, is a gap: it is interpolated inside a curve, and never
    filled beyond a curve's ends.
    """
    series = [(run, *run.series(x, y)) for run in group.runs]
    full = [(run, xs, smoothed(ys, smooth)) for run, xs, ys in series if len(xs) >= 2]
    notes = [f"{run.label}: fewer than two rows with {x} and {y}: left out" for run, xs, _ in series if len(xs) < 2]
    if not full:
        return Joined(np.zeros(0), np.zeros((0, 0)), [], notes)
    ends = [(run, xs) for run, xs, _ in full]
    low, high = common_range(ends)
    if low >= high:
        spans = [f"{run.label} {compact(xs[0])}..{compact(xs[-1])}" for run, xs, _ in full]
        notes.append(f"{group.label}: its runs have no range of {x} in common ({shortened(spans)}): left out")
        return Joined(np.zeros(0), np.zeros((0, 0)), [], notes)
    cut = cut_words(ends, x, y)
    notes += _backward_notes(group, x, y) + ([f"{group.label}: {cut}"] if cut else [])
    grid = np.linspace(low, high, min(points, max(2, max(len(xs) for _, xs, _ in full))))
    values = np.stack([_resampled(xs, ys, grid) for _, xs, ys in full])
    return Joined(grid, values, [run for run, _, _ in full], notes)


def _backward_notes(group: Group, x: str, y: str) -> list[str]:
    """Return a note per run whose x falls back, as a clock does that starts again after a restart."""
    notes = []
    for run in group.runs:
        xs, ys = run.columns.get(x, np.zeros(0)), run.columns.get(run.column(y), np.zeros(0))
        numbers = int((np.abs(xs) + np.abs(ys) <= LARGEST).sum()) if len(xs) == len(ys) else 0
        dropped = numbers - len(run.series(x, y)[0])
        if dropped > 0:
            notes.append(f"{run.label}: {dropped} rows left out where {x} does not grow")
    return notes


def _resampled(xs: Array, ys: Array, grid: Array) -> Array:
    if len(xs) <= len(grid):
        return np.interp(grid, xs, ys)
    edges = np.concatenate([[grid[0]], (grid[1:] + grid[:-1]) / 2, [grid[-1]]])
    bounds = np.searchsorted(xs, edges, side="left")
    bounds[-1] = np.searchsorted(xs, grid[-1], side="right")
    total = np.concatenate([[0.0], np.cumsum(ys)])
    count = np.diff(bounds)
    means = (total[bounds[1:]] - total[bounds[:-1]]) / np.maximum(count, 1)
    return np.where(count > 0, means, np.interp(grid, xs, ys))


# ---------------------------------------------------------------------------------------------- range of x


def common_range(ends: Sequence[tuple[LoggedRun, Array]]) -> tuple[float, float]:
    """Return the first and last x that every run covers, of pairs of a run and its x in order."""
    return max(float(xs[0]) for _, xs in ends), min(float(xs[-1]) for _, xs in ends)


def cut_words(ends: Sequence[tuple[LoggedRun, Array]], x: str, y: str) -> str:
    """Return what was cut where the common range is more than 2% shorter than the longest; "" where it is not.

    Runs whose logs reach equally far are of equal length, whatever is missing in their last rows: what cuts them is a
    gap, an epoch in which no episode ended or nothing was evaluated.
    """
    low, high = common_range(ends)
    first, longest = min(float(xs[0]) for _, xs in ends), max(float(xs[-1]) for _, xs in ends)
    allowed = TOLERANCE * (longest - first)
    if max(longest - high, low - first) <= allowed:
        return ""
    unit = " s" if x == "Time" else ""
    late = longest - high >= low - first  # the end is what is cut, more than the start
    run = min(ends, key=lambda pair: float(pair[1][-1]))[0] if late else max(ends, key=lambda pair: pair[1][0])[0]
    rows = run.rows(x)
    edge = float(rows.max()) if late else float(rows.min())
    gap = abs((longest if late else first) - edge) <= allowed
    if gap and late:
        return f"{run.label} has no {run.column(y)} after {compact(high)}{unit} (empty cells): the curve ends there"
    if gap:
        return f"{run.label} has no {run.column(y)} before {compact(low)}{unit} (empty cells): the curve begins there"
    why = f"where the rows of {run.label} end" if late else "the common range of its runs"
    span = f"{compact(low)}..{compact(high)}{unit}"
    return f"unequal lengths: {x} cut to {span} ({why}; longest {compact(longest)}{unit})"


# ---------------------------------------------------------------------------------------------- range of y


def possible_range(runs: Iterable[LoggedRun], y: str, column: Column) -> tuple[float, float]:
    """Return the values that y, and so a band around its mean over seeds, cannot leave; infinite where none is known.

    An interval for a mean may be wider than its seeds: three seeds of 300, 400 and 500 allow a mean of 600, unless 500
    is the most that the quantity can be. Cutting a band at the best seed would be wrong: the true mean is above all of
    three seeds in one sample of eight, so that a 95% interval would hold it in 75%. So a bound is taken from two
    places only:

        the column's definition: a share is in 0..1, a length is not negative;
        a bound that the log itself shows: the largest (smallest) value is the same, exactly, in three rows or more
        and in more than one seed. Where the log has the extremes of single episodes (MaxEpRet of AverageEpRet),
        theirs count. A quantity that still grows has one largest value; one that has reached its ceiling (500 on
        CartPole) touches it again and again.

    A declared bound that some row contradicts (a foreign log's KL may be negative) is not used.
    """
    members = list(runs)
    rows = _per_run(members, y)
    if not rows:
        return -math.inf, math.inf
    names = extremes(y)
    floor, ceiling = (_per_run(members, name) or rows for name in names) if names else (rows, rows)
    least, most = min(values.min() for values in rows), max(values.max() for values in rows)
    low = -math.inf if column.low is None or least < column.low else column.low
    high = math.inf if column.high is None or most > column.high else column.high
    return max(low, -_ceiling([-values for values in floor], -least)), min(high, _ceiling(ceiling, most))


def _ceiling(per_run: Sequence[Array], most: float) -> float:
    """Return the largest value where the log shows that it is a bound, infinity where it does not."""
    top = max(float(values.max()) for values in per_run)
    touches = [int((values == top).sum()) for values in per_run]
    shown = sum(touches) >= TOUCHES and sum(map(bool, touches)) >= min(2, len(per_run)) and most <= top
    return top if shown else math.inf


def _per_run(runs: Iterable[LoggedRun], name: str) -> list[Array]:
    """Return the column's numbers in each run that has any."""
    return [values for values in (run.rows(run.column(name)) for run in runs) if len(values)]
