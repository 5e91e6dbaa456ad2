"""Learning curves: `python -m utils.plot DIR...`, in the manner of Spinning Up's plotter.

Seeds of one experiment become one line, their mean or interquartile mean on the range of x that all of them cover,
with a 95% bootstrap band (`utils.stats.bootstrap_band`). What was cut, skipped or kept apart is printed and stands
under the figure.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils import figures, runs, stats
from utils.command import Parser, printable
from utils.command import run as run_command

PROG = "python -m utils.plot"


@dataclass(frozen=True)
class Options:
    """What to draw."""

    x: str = runs.STEPS
    y: tuple[str, ...] = (runs.PERFORMANCE,)
    estimator: str = "mean"
    smooth: int = 1
    each_seed: bool = False
    small: bool = False  # for a page that is read on a phone: letters stay legible at 360 pixels


def load(
    arguments: Sequence[str],
    wanted: Sequence[str] | None,
    *,
    legend: Sequence[str] | None = None,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    data_dir: str = "data",
    jobs: int | None = None,
) -> tuple[list[runs.Group], list[str]]:
    """Return the experiments that the command line names, and what must be said about how they were put together.

    Raises:
        ValueError: an argument matches nothing, or the legend has another number of names than there are arguments.
    """
    if legend is not None and len(legend) != len(arguments):
        raise ValueError(f"--legend needs one name for each of the {len(arguments)} folders, got {len(legend)}")
    paths: list[Path] = []
    names: list[str] = []
    for number, argument in enumerate(arguments):
        for path in runs.chosen(runs.find(argument, data_dir), select, exclude):
            if path not in paths:
                paths.append(path)
                names.append(legend[number] if legend is not None else "")
    if not paths:
        raise ValueError("--select and --exclude leave no run")
    found = runs.read_runs(paths, wanted, jobs)
    return runs.group(found, names if legend is not None else None)


def draw(groups: Sequence[runs.Group], options: Options, caption: bool = True) -> tuple[Figure, list[str]]:
    """Return the figure, one panel for each y, and notes on what was cut or left out.

    Raises:
        ValueError: no group has the columns asked for.
    """
    panels = len(options.y)
    across = min(panels, 3 if panels != 4 else 2)
    down = -(-panels // across)
    size = (6.0 if across == 1 else 3.6 * across, 3.9 if down == 1 else 2.9 * down)
    figure = Figure(figsize=(4.3, 3.0) if options.small else size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    notes: list[str] = []
    shown: dict[str, Line2D] = {}
    for place, y in zip(axes, options.y, strict=False):
        drawn, said = _panel(place, groups, y, options)
        notes += [note for note in said if note not in notes]
        shown |= {label: line for label, line in drawn.items() if label not in shown}
    for place in axes[panels:]:
        place.set_axis_off()
    if not shown:
        raise ValueError(f"nothing to draw: {'; '.join(notes[:3]) or 'no rows'}")
    _legend(figure, shown)
    if caption:
        text = "\n".join(textwrap.wrap(_caption(options, notes), 95 if across == 1 else 62 * across))
        figure.supxlabel(text, fontsize=6.5, alpha=0.75)
    return figure, notes


def _panel(axes: Axes, groups: Sequence[runs.Group], y: str, options: Options) -> tuple[dict[str, Line2D], list[str]]:
    """Draw one panel; return a line for each legend entry and the notes."""
    notes: list[str] = []
    shown: dict[str, Line2D] = {}
    extent: list[float] = []
    for number, (label, members) in enumerate(_curves(groups, options)):
        drawn: list[runs.Run] = []
        for member in members:
            joined = runs.join(member, options.x, y, smooth=options.smooth)
            notes += joined.notes
            if joined.runs:
                line = _line(axes, joined, figures.look(number), options.estimator, figures.bounds(y))
                drawn += joined.runs
                extent += [joined.values.min(), joined.values.max()]
        if drawn:
            one = len(members) > 1 or not options.each_seed
            shown[f"{label} (n={len(drawn)}{_open(drawn)})" if one else label] = line
    axes.margins(x=0.01)
    notes += _frame(axes, extent, y)
    figures.set_axis(axes, "x", options.x)
    figures.set_axis(axes, "y", y)
    return shown, notes


def _frame(axes: Axes, extent: Sequence[float], y: str) -> list[str]:
    """Keep the y axis near the values of the seeds: a band of three seeds may be many times wider. Say what it cuts."""
    if not extent or np.ptp(extent) == 0:
        return []
    low, high = axes.get_ylim()
    room = 0.15 * np.ptp(extent)
    axes.set_ylim(max(low, min(extent) - room), min(high, max(extent) + room))
    cut = low < min(extent) - 1.5 * room or high > max(extent) + 1.5 * room
    return [f"{y}: bands are cut at the frame where they go far beyond every seed"] if cut else []


def _curves(groups: Sequence[runs.Group], options: Options) -> list[tuple[str, list[runs.Group]]]:
    """Return (legend entry, what is joined into one line) in order.

    With a line for each seed, the seeds of an experiment share its colour; a single experiment shows them apart.
    """
    if not options.each_seed:
        return [(group.label, [group]) for group in groups]
    if len(groups) == 1:
        return [(run.label, [runs.Group(run.label, [run])]) for run in groups[0].runs]
    return [(group.label, [runs.Group(run.label, [run]) for run in group.runs]) for group in groups]


def _line(
    axes: Axes,
    joined: runs.Joined,
    look: dict[str, Any],
    estimator: str,
    bounds: tuple[float, float],
) -> Line2D:
    """Draw one curve with its band, cut at the values that the quantity cannot leave; return the line."""
    (line,) = axes.plot(joined.x, stats.curve(joined.values, estimator), **look)
    if len(joined.runs) >= 2:
        band = stats.bootstrap_band(
            joined.values,
            estimator,
            replications=1000 if len(joined.runs) <= 100 else 200,
        )
        low, high = np.clip(band, *bounds)
        axes.fill_between(joined.x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    return line


def _open(members: Sequence[runs.Run]) -> str:
    """Return ", 2 unfinished" where runs of a curve have not finished."""
    count = sum(run.state not in ("", "finished") for run in members)
    return f", {count} unfinished" if count else ""


def _legend(figure: Figure, shown: dict[str, Line2D]) -> None:
    """Put the legend above the panels, in as many columns as fit, and make room for it."""
    width, height = figure.get_size_inches()
    columns = max(
        1,
        min(len(shown), int(width / (0.062 * max(len(label) for label in shown) + 0.5))),
    )
    figure.set_size_inches(width, height + 0.17 * (-(-len(shown) // columns) - 1))
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=columns)


def _caption(options: Options, notes: Sequence[str]) -> str:
    """Return what a reader needs to judge the figure."""
    said = ["Each line is one seed."] if options.each_seed else []
    if not options.each_seed:
        name = {"mean": "mean", "iqm": "interquartile mean", "median": "median"}[options.estimator]
        said.append(f"Line: {name} over n seeds; band: pointwise 95% bootstrap interval over seeds, none for n=1.")
    if options.smooth > 1:
        said.append(f"Smoothed over {options.smooth} rows.")
    said += [f"{note}." for note in notes[:4]]
    if len(notes) > 4:
        said.append(f"{len(notes) - 4} more notes on the console.")
    return " ".join(said)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = Parser(
        prog=PROG,
        description="Plot learning curves of run folders, seeds joined with a 95% band.",
    )
    p.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="folder with runs below it, or the beginning of folder names",
    )
    p.add_argument(
        "-x",
        "--xaxis",
        default=runs.STEPS,
        metavar="COLUMN",
        help="default: %(default)s",
    )
    p.add_argument(
        "-y",
        "--value",
        nargs="+",
        default=[runs.PERFORMANCE],
        metavar="COLUMN",
        help="one panel for each",
    )
    p.add_argument(
        "-l",
        "--legend",
        nargs="+",
        metavar="NAME",
        help="one name for each DIR, which is then one curve",
    )
    p.add_argument(
        "--select",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only runs whose path holds all of these",
    )
    p.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="WORD",
        help="no run whose path holds one of these",
    )
    p.add_argument("--count", action="store_true", help="each seed its own line")
    p.add_argument(
        "-s",
        "--smooth",
        type=int,
        default=1,
        metavar="K",
        help="mean over a centred window of K rows",
    )
    p.add_argument(
        "--est",
        choices=sorted(stats.ESTIMATORS),
        default="mean",
        help="over seeds; default: %(default)s",
    )
    p.add_argument("-o", "--out", metavar="FILE", help="PNG, SVG or PDF; without it a window opens")
    p.add_argument(
        "--data-dir",
        default="data",
        help="where prefixes are looked for; default: %(default)s",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return run_command(PROG, lambda: _main(parser().parse_args(argv)))


def _main(args: argparse.Namespace) -> int:
    if args.smooth < 1:
        raise ValueError(f"--smooth must be >= 1, got {args.smooth}")
    if args.out:
        figures.figure_format(args.out)
    elif matplotlib.get_backend().lower() not in backend_registry.list_builtin(BackendFilter.INTERACTIVE):
        raise ValueError("no display for a window: give --out FILE.png")
    options = Options(args.xaxis, tuple(args.value), args.est, args.smooth, args.count)
    groups, said = load(
        args.folders,
        [args.xaxis, *args.value],
        legend=args.legend,
        select=args.select,
        exclude=args.exclude,
        data_dir=args.data_dir,
    )
    check_columns(groups, [args.xaxis, *args.value])
    with figures.style():
        figure, notes = draw(groups, options)
        said += [note for group in groups for note in group.notes()]
        for note in dict.fromkeys(said + notes):
            print(f"note: {printable(note, 400)}", file=sys.stderr)
        if args.out:
            figures.save(figure, args.out)
            print(f"{args.out}: {sum(len(g.runs) for g in groups)} runs in {len(groups)} experiments")
        else:
            _show(figure)
    return 0


def check_columns(groups: Sequence[runs.Group], wanted: Sequence[str]) -> None:
    """Refuse a column that no run has, naming those there are."""
    names = {name for group in groups for run in group.runs for name in run.names}
    for column in wanted:
        if names and column not in names and column != runs.PERFORMANCE:
            raise ValueError(f"no run has a column {column!r}; there are: {', '.join(sorted(names))}")


def _show(figure: Figure) -> None:
    """Open a window on the figure and wait until it is closed."""
    import matplotlib.pyplot as plt

    shell = plt.figure()
    shell.canvas.manager.canvas.figure = figure  # type: ignore[union-attr]
    figure.set_canvas(shell.canvas)
    plt.show()


if __name__ == "__main__":
    raise SystemExit(main())
