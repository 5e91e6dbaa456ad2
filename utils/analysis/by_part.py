"""Shares of successful episodes by part of the game, of runs that draw another part (a stage) for every episode."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence

from utils.analysis import runs, stats
from utils.analysis.experiments import Group
from utils.analysis.markup import table, text
from utils.analysis.runs import LoggedRun
from utils.analysis.untrusted import LARGEST_LOG
from utils.files import read_file

RECENT = 1000  # episodes of each run that are counted
MOST_PARTS = 64


def section(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """Return a table of the last episodes of training, empty where no run draws parts; and notes."""
    found, notes = {}, []
    members = [run for group in groups for run in group.runs if runs.drawn_parts(run)]
    for run in members:
        try:
            found[run.label] = counts(run)
        except (OSError, KeyError, ValueError, csv.Error) as error:
            notes.append(f"{run.label}: episodes by part left out: {error!r}")
    names = sorted({part for parts in found.values() for part in parts})[:MOST_PARTS]
    if not names:
        return "", notes
    rows = [["run", *names]]
    rows += [[label, *(_cell(parts.get(name)) for name in names)] for label, parts in found.items()]
    keys = " and ".join(dict.fromkeys(key for run in members for key in runs.drawn_parts(run)))
    words = f"Of the last {RECENT} finished episodes of training, by the {keys} in which they ended: "
    share = " or ".join(dict.fromkeys(runs.success_of_episodes(run).title.lower() for run in members))
    words += f"{share}, 95% interval, and of how many."
    return table(rows) + f"<p class='dim'>{text(words)}</p>", notes


def counts(run: LoggedRun) -> dict[str, tuple[int, int]]:
    """Return, by part, how many of a run's last episodes succeeded, and how many there were.

    Raises:
        KeyError, ValueError: the file lacks a column, or a part is no whole number.
    """
    data = read_file(run.path / "episodes.csv", LARGEST_LOG).decode(errors="replace")
    keys, success = runs.drawn_parts(run), str(runs.success_of_episodes(run).field)
    tally: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in list(csv.DictReader(io.StringIO(data)))[-RECENT:]:
        part = tally["-".join(str(int(row[key])) for key in keys)]
        part[0] += row[success] == "1"
        part[1] += 1
    return {name: (succeeded, count) for name, (succeeded, count) in tally.items()}


def _cell(counted: tuple[int, int] | None) -> str:
    if counted is None:
        return "-"
    low, high = (100 * bound for bound in stats.wilson_interval(*counted))
    return f"{100 * counted[0] / counted[1]:.0f}% ({low:.0f} to {high:.0f}) of {counted[1]}"
