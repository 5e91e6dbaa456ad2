"""The arguments that `utils.plot`, `utils.compare` and `utils.report` share, each defined once, and what they load."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from utils.analysis import experiments, runs, stats
from utils.analysis.experiments import Group
from utils.columns import STEPS
from utils.command import Parser, printable


def _argument(*flags: str, **words: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return flags, words


ARGUMENTS = {
    "folders": _argument(
        "folders", nargs="+", metavar="DIR", help="folder with runs below it, or the beginning of folder names"
    ),
    "xaxis": _argument("-x", "--xaxis", default=STEPS, metavar="COLUMN", help="default: %(default)s"),
    "value": _argument(
        "-y",
        "--value",
        default=runs.PERFORMANCE,
        metavar="COLUMN",
        help="column of progress.txt; default: the episode return",
    ),
    "values": _argument(
        "-y",
        "--value",
        nargs="+",
        default=[runs.PERFORMANCE],
        metavar="COLUMN",
        help="columns of progress.txt, one panel for each; default: the episode return",
    ),
    "legend": _argument(
        "-l", "--legend", nargs="+", metavar="NAME", help="one name for each DIR, which is then one experiment"
    ),
    "select": _argument(
        "--select", nargs="+", default=[], metavar="WORD", help="only runs whose path holds all of these"
    ),
    "exclude": _argument(
        "--exclude", nargs="+", default=[], metavar="WORD", help="no run whose path holds one of these"
    ),
    "count": _argument("--count", action="store_true", help="each seed its own line"),
    "smooth": _argument(
        "-s", "--smooth", type=int, default=1, metavar="K", help="curves: mean over a centred window of K rows"
    ),
    "est": _argument(
        "--est", choices=sorted(stats.ESTIMATORS), default="mean", help="over seeds; default: %(default)s"
    ),
    "threshold": _argument(
        "--threshold", type=float, metavar="RETURN", help="also compare steps and time until this value is reached"
    ),
    "target": _argument(
        "--target", type=float, metavar="RETURN", help="value that counts as solved, for the optimality gap"
    ),
    "mixed": _argument(
        "--mixed", action="store_true", help="compare across environments, rewards or versions, labelled"
    ),
    "data_dir": _argument(
        "--data-dir", default="data", metavar="DIR", help="where folder names are looked for; default: %(default)s"
    ),
}


def parser(prog: str, description: str, shared: Iterable[str]) -> argparse.ArgumentParser:
    """Return a command line with the folders and the named arguments of ARGUMENTS."""
    p = Parser(prog=prog, description=description)
    for name in ("folders", *shared, "legend", "select", "exclude", "data_dir"):
        flags, words = ARGUMENTS[name]
        p.add_argument(*flags, **words)
    return p


def check(args: argparse.Namespace) -> None:
    """Raise ValueError where a shared argument has a value that cannot work."""
    if getattr(args, "smooth", 1) < 1:
        raise ValueError(f"--smooth must be >= 1, got {args.smooth}")
    for name in ("threshold", "target"):
        value = getattr(args, name, None)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"--{name} must be finite, got {value}")
    if args.legend is not None and len(args.legend) != len(args.folders):
        count = len(args.folders)
        raise ValueError(f"--legend needs one name for each of the {count} folders, got {len(args.legend)}")


def load(args: argparse.Namespace, wanted: Sequence[str] | None) -> tuple[list[Group], list[str]]:
    """Return the experiments that the arguments name, and notes on how they were grouped."""
    return load_groups(
        args.folders, wanted, legend=args.legend, select=args.select, exclude=args.exclude, data_dir=args.data_dir
    )


def load_groups(
    folders: Sequence[str],
    wanted: Sequence[str] | None = None,
    *,
    legend: Sequence[str] | None = None,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    data_dir: str = "data",
    jobs: int | None = None,
) -> tuple[list[Group], list[str]]:
    """Return the experiments below the folders with the wanted columns, and notes on how they were grouped.

    Raises:
        ValueError: a folder holds no run, none is left by `select` and `exclude`, or a legend's name has none.
    """
    paths: list[Path] = []
    names: list[str] = []
    for number, argument in enumerate(folders):
        found = runs.chosen(runs.find(argument, data_dir), select, exclude)
        new = [path for path in found if path not in paths]
        if legend is not None and found and not new:
            raise ValueError(f"--legend {legend[number]}: all runs of {argument} belong to a folder before it")
        paths += new
        names += [legend[number] if legend is not None else ""] * len(new)
    if not paths:
        raise ValueError("--select and --exclude leave no run")
    return experiments.group(runs.read_runs(paths, wanted, jobs), names if legend is not None else None)


def check_columns(groups: Sequence[Group], wanted: Sequence[str]) -> None:
    """Raise ValueError for a column that no run has, naming those there are."""
    names = {name for group in groups for run in group.runs for name in run.names}
    for column in wanted:
        if names and column not in names and column != runs.PERFORMANCE:
            near = [name for name in sorted(names) if name.endswith(column)] or get_close_matches(column, names)
            such = f", perhaps {near[0]}" if near else ""
            raise ValueError(f"no run has a column {column!r}{such}; there are: {', '.join(sorted(names))}")


def print_notes(notes: Iterable[str]) -> None:
    """Print each note once, on standard error."""
    for note in dict.fromkeys(notes):
        print(f"note: {printable(note, 400)}", file=sys.stderr)
