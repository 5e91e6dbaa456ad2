"""Clear rates by stage, of runs that draw another stage for every episode."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence

from utils.analysis import stats
from utils.analysis.experiments import Group
from utils.analysis.files import LARGEST_LOG
from utils.analysis.markup import table, text
from utils.analysis.runs import LoggedRun
from utils.files import read_file

RECENT = 1000  # episodes of each run that are counted
MOST_STAGES = 64


def section(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """Return a table of the last episodes of training, empty where no run draws stages; and notes."""
    found, notes = {}, []
    for run in (run for group in groups for run in group.runs):
        if "RandomStages" in str(run.config.get("env")):
            try:
                found[run.label] = counts(run)
            except (OSError, KeyError, ValueError, csv.Error) as error:
                notes.append(f"{run.label}: episodes by stage left out: {error!r}")
    names = sorted({stage for stages in found.values() for stage in stages})[:MOST_STAGES]
    if not names:
        return "", notes
    rows = [["run", *names]]
    rows += [[label, *(_cell(stages.get(name)) for name in names)] for label, stages in found.items()]
    words = f"Of the last {RECENT} finished episodes of training, by the stage in which they ended: share that reached "
    words += "the flag, 95% interval, and of how many. `scripts.evaluate RUN --stages 3-1,3-2` counts other stages."
    return table(rows) + f"<p class='dim'>{text(words)}</p>", notes


def counts(run: LoggedRun) -> dict[str, tuple[int, int]]:
    """Return, by stage, how many of a run's last episodes reached the flag, and how many there were."""
    data = read_file(run.path / "episodes.csv", LARGEST_LOG).decode(errors="replace")
    tally: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in list(csv.DictReader(io.StringIO(data)))[-RECENT:]:
        stage = tally[f"{int(row['world'])}-{int(row['stage'])}"]
        stage[0] += row["flag"] == "1"
        stage[1] += 1
    return {name: (cleared, count) for name, (cleared, count) in tally.items()}


def _cell(counted: tuple[int, int] | None) -> str:
    if counted is None:
        return "-"
    low, high = (100 * bound for bound in stats.wilson_interval(*counted))
    return f"{100 * counted[0] / counted[1]:.0f}% ({low:.0f} to {high:.0f}) of {counted[1]}"
