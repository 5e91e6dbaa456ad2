"""Draw learning curves: one line for each experiment, with a band over its seeds.

Seeds of one experiment become one line, their mean or interquartile mean on the range of x that all of them cover,
with a 95% bootstrap band (`stats.bootstrap_band`) that ends where the quantity itself must
(`grids.possible_range`). What was cut, skipped or kept apart is returned as notes and printed under the figure.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils import columns
from utils.analysis import figures, grids, runs, stats
from utils.analysis.experiments import Group


@dataclass(frozen=True)
class Options:
    """What to draw."""

    x: str = columns.STEPS
    y: tuple[str, ...] = (runs.PERFORMANCE,)
    estimator: str = "mean"
    smooth: int = 1
    each_seed: bool = False
    small: bool = False  # for a page that is read on a phone: letters stay legible at 360 pixels


def draw(
    groups: Sequence[Group], options: Options, caption: bool = True, notes: Sequence[str] = ()
) -> tuple[Figure, list[str]]:
    """Return the figure, one panel for each y, and notes: those given, and what was cut or left out.

    Raises:
        ValueError: no group has the columns asked for.
    """
    panels = len(options.y)
    across = min(panels, 3 if panels != 4 else 2)
    down = -(-panels // across)
    size = (6.0 if across == 1 else 3.6 * across, 3.9 if down == 1 else 2.9 * down)
    figure = Figure(figsize=(4.3, 3.0) if options.small else size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    found = list(notes)
    shown: dict[str, Line2D] = {}
    for place, y in zip(axes, options.y, strict=False):
        drawn, remarks = _panel(place, groups, y, options)
        found += [note for note in remarks if note not in found]
        shown |= {label: line for label, line in drawn.items() if label not in shown}
    for place in axes[panels:]:
        place.set_axis_off()
    if not shown:
        raise ValueError(f"nothing to draw: {'; '.join(found[:3]) or 'no rows'}")
    _legend(figure, shown)
    if caption:
        text = "\n".join(textwrap.wrap(_caption(options, found), 95 if across == 1 else 62 * across))
        figure.supxlabel(text, fontsize=6.5, alpha=0.75)
    return figure, found


def _panel(axes: Axes, groups: Sequence[Group], y: str, options: Options) -> tuple[dict[str, Line2D], list[str]]:
    """Draw one panel; return a line for each legend entry and the notes."""
    notes: list[str] = []
    shown: dict[str, Line2D] = {}
    extent: list[float] = []
    own = runs.own_columns(run for group in groups for run in group.runs)
    x_column, y_column = columns.find_column(options.x, own), columns.find_column(y, own)
    for number, (label, members) in enumerate(_curves(groups, options)):
        drawn: list[runs.LoggedRun] = []
        for member in members:
            joined = grids.join(member, options.x, y, smooth=options.smooth)
            notes += joined.notes
            if joined.runs:
                bounds = grids.possible_range(joined.runs, y, y_column)
                line = _line(axes, joined, figures.look(number), options.estimator, bounds)
                drawn += joined.runs
                extent += [joined.values.min(), joined.values.max()]
        if drawn:
            one = len(members) > 1 or not options.each_seed
            shown[f"{label} (n={len(drawn)}{_open(drawn)})" if one else label] = line
    axes.margins(x=0.01)
    notes += _frame(axes, extent, y_column.title)
    figures.set_axis(axes, "x", x_column)
    figures.set_axis(axes, "y", y_column)
    return shown, notes


def _frame(axes: Axes, extent: Sequence[float], what: str) -> list[str]:
    """Keep the y axis near the values of the seeds: a band of three seeds may be many times wider. Say what it cuts."""
    if not extent or np.ptp(extent) == 0:
        return []
    low, high = axes.get_ylim()
    room = 0.15 * np.ptp(extent)
    axes.set_ylim(max(low, min(extent) - room), min(high, max(extent) + room))
    cut = low < min(extent) - 1.5 * room or high > max(extent) + 1.5 * room
    return [f"{what}: bands are cut at the frame where they go far beyond every seed"] if cut else []


def _curves(groups: Sequence[Group], options: Options) -> list[tuple[str, list[Group]]]:
    """Return (legend entry, what is joined into one line) in order.

    With a line for each seed, the seeds of an experiment share its colour; a single experiment shows them apart.
    """
    if not options.each_seed:
        return [(group.label, [group]) for group in groups]
    if len(groups) == 1:
        return [(run.label, [Group(run.label, [run])]) for run in groups[0].runs]
    return [(group.label, [Group(run.label, [run]) for run in group.runs]) for group in groups]


def _line(
    axes: Axes, joined: grids.Joined, look: dict[str, Any], estimator: str, bounds: tuple[float, float]
) -> Line2D:
    """Draw one curve with its band, which ends at the values that the quantity cannot leave; return the line."""
    (line,) = axes.plot(joined.x, stats.curve(joined.values, estimator), **look)
    if len(joined.runs) >= 2:
        replications = 1000 if len(joined.runs) <= 100 else 200
        low, high = stats.bootstrap_band(joined.values, estimator, replications=replications, bounds=bounds)
        axes.fill_between(joined.x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    return line


def _open(members: Sequence[runs.LoggedRun]) -> str:
    """Return ", 2 unfinished" where runs of a curve have not finished."""
    count = sum(run.state not in ("", "finished") for run in members)
    return f", {count} unfinished" if count else ""


def _legend(figure: Figure, shown: dict[str, Line2D]) -> None:
    """Put the legend above the panels, in as many columns as fit, and make room for it."""
    width, height = figure.get_size_inches()
    widest = 0.062 * max(len(label) for label in shown) + 0.5  # inches
    across = max(1, min(len(shown), int(width / widest)))
    figure.set_size_inches(width, height + 0.17 * (-(-len(shown) // across) - 1))
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=across)


def _caption(options: Options, notes: Sequence[str]) -> str:
    """Return what a reader needs to judge the figure."""
    words = ["Each line is one seed."] if options.each_seed else []
    if not options.each_seed:
        name = {"mean": "mean", "iqm": "interquartile mean", "median": "median"}[options.estimator]
        words.append(f"Line: {name} over n seeds; band: pointwise 95% bootstrap interval over seeds, none for n=1.")
    if options.smooth > 1:
        words.append(f"Smoothed over {options.smooth} rows.")
    words += [f"{note}." for note in notes[:4]]
    if len(notes) > 4:
        words.append(f"{len(notes) - 4} more notes on the console.")
    return " ".join(words)
