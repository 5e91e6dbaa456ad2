"""Find run folders and read them.

Three kinds of folder are read: ours and Spinning Up's (progress.txt, config.json beside it), and Stable-Baselines3's
(monitor.csv, one or several). All are given our column names: for monitor.csv every row is an episode,
TotalEnvInteracts is the running sum of its lengths, AverageEpRet its return and EpLen its length.

A run may still be writing its folder, and a stranger may have written it: nothing here executes, unpickles or writes
anything, and what cannot be read is said in the run's notes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from utils import system
from utils.analysis import older_runs
from utils.analysis.tables import COMMA, TAB, Table, parse_table
from utils.analysis.untrusted import LARGEST_LOG, object_and_note
from utils.columns import STEPS, Column
from utils.command import printable
from utils.files import read_file

Array = NDArray[np.float64]

PERFORMANCE = "Performance"  # Spinning Up's name for AverageTestEpRet where there is one, AverageEpRet otherwise
LARGEST = 1e30  # a larger number in a log is damage, and its square would be too large for a figure
MOST_DECLARED = 200  # that a family declares
RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"  # of this project's own experiments
NO_ROWS: Array = np.zeros(0)


@dataclass
class LoggedRun:
    """One training run: what it is, how it ended and the wanted columns of its log."""

    path: Path
    kind: str  # "progress" or "monitor"
    name: str  # of the experiment
    seed: str
    config: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    ending: str = ""  # reason in exit.json; "" where there is none
    columns: dict[str, Array] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Return the words for this run in a message: its folder's name."""
        return printable(self.path.name)

    @property
    def ours(self) -> bool:
        """Return whether this program wrote the folder (and so promises an exit.json)."""
        return bool(self.spec) and self.kind == "progress"

    @property
    def state(self) -> str:
        """Return "finished", the reason of another end, "unfinished" without exit.json, "" where nobody says."""
        if self.ending:
            return self.ending
        return "unfinished" if self.ours else ""

    def rows(self, x: str) -> Array:
        """Return the values of column x that are numbers, in order, whatever the other columns hold."""
        xs = self.columns.get(x, NO_ROWS)
        return xs[_usable(xs)]

    def series(self, x: str, y: str) -> tuple[Array, Array]:
        """Return the rows where both columns are numbers and x has grown; empty arrays where a column is missing."""
        xs, ys = self.columns.get(x), self.columns.get(self.column(y))
        if xs is None or ys is None:
            return NO_ROWS, NO_ROWS
        valid = _usable(xs) & _usable(ys)
        xs, ys = xs[valid], ys[valid]
        grown = np.ones(len(xs), dtype=bool)
        grown[1:] = np.diff(np.maximum.accumulate(xs)) > 0
        return xs[grown], ys[grown]

    def column(self, y: str) -> str:
        """Return the log's own name of y."""
        if y != PERFORMANCE:
            return y
        return "AverageTestEpRet" if "AverageTestEpRet" in self.columns else "AverageEpRet"


def _usable(values: Array) -> NDArray[np.bool_]:
    return np.abs(values) <= LARGEST  # False for NaN


# ---------------------------------------------------------------------------------------------- finding


def find(argument: str, data_dir: str = "data") -> list[Path]:
    """Return the run folders that one command line argument means, sorted.

    An existing folder stands for every run below it; anything else is a prefix of folder names beside it (Spinning
    Up's manner), first as a path of its own, then below `data_dir`.

    Raises:
        ValueError: nothing matches.
    """
    for base in (Path(argument), Path(data_dir) / argument):
        if base.is_dir():
            folders = [base]
        elif base.parent.is_dir() and base.name:
            folders = sorted(p for p in base.parent.iterdir() if p.is_dir() and p.name.startswith(base.name))
        else:
            continue
        found = [run for folder in folders for run in _walk(folder)]
        if found:
            return sorted(set(found), key=_natural)
    raise ValueError(f"no run folder (progress.txt or monitor.csv) in or beginning with {printable(argument)!r}")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts exp_s2 before exp_s10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the run folders at or below `folder`; links are not followed, and no run is looked for inside a run.

    What is shipped in data/results is found where `folder` is there, not among one's own runs in data.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            continue
        if any(entry.name == "progress.txt" or entry.name.endswith("monitor.csv") for entry in entries):
            yield here
            continue
        for entry in entries:
            aside = entry.name.startswith(".") or ".old-" in entry.name  # --overwrite moves a run to NAME.old-TIME
            aside = aside or (entry.name == RESULTS.name and Path(entry.path).resolve() == RESULTS)
            if entry.is_dir(follow_symlinks=False) and not aside:
                waiting.append(Path(entry.path))


def chosen(paths: Sequence[Path], select: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Path]:
    """Return the paths that hold every word of `select` and none of `exclude`."""
    return [p for p in paths if all(s in str(p) for s in select) and not any(s in str(p) for s in exclude)]


# ---------------------------------------------------------------------------------------------- reading


def read_run(path: Path, wanted: Iterable[str] | None = None) -> LoggedRun:
    """Return the run in a folder with the wanted columns (all where None); never raises for what the files hold."""
    columns = None if wanted is None else list(dict.fromkeys([*wanted, STEPS, "Epoch"]))
    if columns is not None and PERFORMANCE in columns:
        columns += ["AverageTestEpRet", "AverageEpRet"]
    if columns is not None:  # the extremes say where a band must end, see `grids.possible_range`
        columns += [name for column in list(columns) for name in extremes(column)]
        columns = list(dict.fromkeys(columns))
    if os.path.lexists(path / "progress.txt"):
        return _read_progress(path, columns)
    return _read_monitors(path)


def extremes(column: str) -> list[str]:
    """Return the columns of the smallest and largest values of which a column is the mean; [] where there are none."""
    what = column.removeprefix("Average") if column.startswith("Average") else ""
    if column in (PERFORMANCE, "EpRet100"):
        what = "EpRet"
    return [f"Min{what}", f"Max{what}"] if what else []


def _read_progress(path: Path, columns: list[str] | None) -> LoggedRun:
    config, config_note = object_and_note(path / "config.json")
    ending, ending_note = object_and_note(path / "exit.json")
    spec, reason = config.get("spec"), ending.get("reason", "")
    run = LoggedRun(path, "progress", _name(path, config), _seed(path, config), config)
    run.spec = spec if isinstance(spec, dict) else {}
    run.ending = printable(reason) if isinstance(reason, str) else ""
    run.notes = [note for note in (config_note, ending_note) if note]
    if columns is not None:
        columns += [column.name for column in own_columns([run]).values() if column.success]
    try:
        table = parse_table(read_file(path / "progress.txt", LARGEST_LOG), columns, TAB)
    except OSError as error:
        run.notes.append(f"progress.txt not read: {error.strerror}")
        return run
    kept = _in_order(table)
    run.columns = {name: column[kept] for name, column in table.columns.items()}
    run.names = table.names
    run.notes += table.notes()
    if not kept.all():
        run.notes.append(f"{int((~kept).sum())} rows superseded by a resumed run")
    run.notes += _too_large(run.columns)
    return run


def _too_large(columns: Mapping[str, Array]) -> list[str]:
    """Return a note where columns hold numbers that no run can mean."""
    names = [name for name, column in columns.items() if (np.abs(column) > LARGEST).any()]
    return [f"values beyond {LARGEST:g} left out in {shortened(names)}"] if names else []


def _in_order(table: Table) -> NDArray[np.bool_]:
    """Return which rows to keep, and count a stray one as unreadable.

    A resumed run may log an epoch again: a row stands only if every later row is further on. A single row that falls
    back while the next one carries on is damage, not a resume, and must not take the rows before it with it.
    """
    order = table.columns.get(STEPS, table.columns.get("Epoch"))
    if order is None or len(order) == 0:
        length = len(next(iter(table.columns.values()), NO_ROWS))
        return np.ones(length, dtype=bool)
    keep = np.isfinite(order)
    inner = np.flatnonzero(keep)
    if len(inner) > 2:
        before, here, after = order[inner[:-2]], order[inner[1:-1]], order[inner[2:]]
        stray = ((here < before) | (here > after)) & (after > before)
        keep[inner[1:-1][stray]] = False
    table.unreadable += int((~keep).sum())
    later = np.where(keep, order, np.inf)
    beyond = np.append(np.minimum.accumulate(later[::-1])[::-1][1:], np.inf)
    table.columns = {name: column[keep] for name, column in table.columns.items()}
    return (order < beyond)[keep]


def _read_monitors(path: Path) -> LoggedRun:
    """Return the run of one or more monitor.csv: their episodes in the order in which they ended."""
    run = LoggedRun(path, "monitor", _name(path, {}), _seed(path, {}))
    parts: list[Array] = []
    for file in sorted(path.glob("*monitor.csv")):
        try:
            data = read_file(file, LARGEST_LOG)
        except OSError as error:
            run.notes.append(f"{printable(file.name)} not read: {error.strerror}")
            continue
        head, data = _monitor_head(data)
        run.config = run.config or {key: value for key, value in head.items() if key != "t_start"}
        table = parse_table(data, ["r", "l", "t"], COMMA)
        run.notes += [f"{printable(file.name)}: {note}" for note in table.notes()]
        if all(name in table.columns for name in "rlt"):
            start = _number(head.get("t_start")) or 0.0
            parts.append(np.stack([table.columns["r"], table.columns["l"], table.columns["t"] + start]))
    ret, length, time = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))
    order = np.argsort(time, kind="stable")
    valid = order[_usable(ret[order]) & _usable(length[order])]
    run.columns = {
        STEPS: np.cumsum(length[valid]),
        "AverageEpRet": ret[valid],
        "EpLen": length[valid],
        "Time": time[valid] - (time[valid][0] if len(valid) else 0.0),
        "EpCount": np.ones(len(valid)),
    }
    run.names = list(run.columns)
    return run


def _monitor_head(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of monitor.csv's first line ("#{...}") and the rest."""
    if not data.startswith(b"#"):
        return {}, data
    line, _, rest = data.partition(b"\n")
    try:
        head = json.loads(line[1:])
    except (ValueError, RecursionError):
        head = {}
    plain = isinstance(head, dict) and not any(isinstance(value, dict | list) for value in head.values())
    return (head if plain else {}), rest


def _name(path: Path, config: Mapping[str, Any]) -> str:
    name = config.get("exp_name")
    if isinstance(name, str) and name.strip():
        return printable(name, 80)
    return printable(re.sub(r"_(s|seed)?\d+$", "", path.name), 80)


def _seed(path: Path, config: Mapping[str, Any]) -> str:
    seed = config.get("seed")
    if isinstance(seed, int):
        return printable(seed, 20)
    match = re.search(r"_(?:s|seed)?(\d+)$", path.name)
    return match.group(1) if match else ""


def _number(value: object) -> float | None:
    """Return a number of a JSON file as a float; None for anything else, and for what no run can mean."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        return None
    return float(value)


def read_runs(paths: Sequence[Path], wanted: Iterable[str] | None = None, jobs: int | None = None) -> list[LoggedRun]:
    """Return the runs of the folders in order; many folders are read by `jobs` processes (default: every core)."""
    columns = None if wanted is None else list(wanted)
    jobs = jobs or system.cores()
    size = sum((p / "progress.txt").lstat().st_size for p in paths if os.path.lexists(p / "progress.txt"))
    if jobs == 1 or size < 50_000_000:  # starting processes costs about a second
        return [read_run(path, columns) for path in paths]
    return list(Parallel(n_jobs=jobs, batch_size=8)(delayed(read_run)(path, columns) for path in paths))


# ---------------------------------------------------------------------------------------------- a family's columns


def declared_columns(run: LoggedRun) -> dict[str, Column]:
    """Return the columns that the run's family declares in config.json, by name; malformed ones are left out."""
    listed = run.config.get("columns")
    found: dict[str, Column] = {}
    for entry in listed[:MOST_DECLARED] if isinstance(listed, list) else []:
        name = entry.get("name") if isinstance(entry, dict) else None
        if _word(name) != name or name is None:
            continue
        words = {key: _words(entry.get(key), limit) for key, limit in (("meaning", 300), ("unit", 30), ("label", 60))}
        low, high = _number(entry.get("low")), _number(entry.get("high"))
        if low is not None and high is not None and low >= high:
            low = high = None
        look_for = _words(entry.get("look_for"), 600)
        success = entry.get("success", name in older_runs.COLUMNS and older_runs.COLUMNS[name].success) is True
        found[name] = Column(
            name,
            words["meaning"],
            words["unit"],
            look_for,
            low,
            high,
            _word(entry.get("field")),
            words["label"],
            success=success,
        )
    return found


def _word(value: object) -> str | None:
    """Return the value if it can be the name of a column, else None."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,59}", value) else None


def _words(value: object, limit: int) -> str:
    return printable(value, limit) if isinstance(value, str) else ""


def own_columns(runs: Iterable[LoggedRun]) -> dict[str, Column]:
    """Return the columns of the runs' families, by name: the first run that declares one decides what it is."""
    found: dict[str, Column] = {}
    for run in runs:
        found = declared_columns(run) | found
    return dict(older_runs.COLUMNS) | found


def success_column(run: LoggedRun) -> Column | None:
    """Return the column of the share of its episodes that succeeded; None where the run has no two rows of one."""
    candidates = [column for column in own_columns([run]).values() if column.success]
    return next((column for column in candidates if len(run.series(STEPS, column.name)[0]) >= 2), None)


def success_words(runs: Iterable[LoggedRun]) -> str:
    """Return the name of that share for a heading, "clear rate" for instance; "" where no run has one."""
    found = [column.title.lower() for column in map(success_column, runs) if column is not None]
    return " or ".join(dict.fromkeys(found))


# ---------------------------------------------------------------------------------------------- what it played


def success_of_episodes(run: LoggedRun) -> Column:
    """Return the column of the share of successful episodes; its `field` is the column of episodes.csv that is 1."""
    candidates = [*declared_columns(run).values(), *older_runs.COLUMNS.values()]
    return next(column for column in candidates if column.success and column.field)


def drawn_parts(run: LoggedRun) -> list[str]:
    """Return the columns of episodes.csv that name the part of the game which was drawn for each episode, if any."""
    listed = run.config.get("drawn_parts", older_runs.drawn_parts(str(run.config.get("env"))))
    return [word for entry in listed[:4] if (word := _word(entry))] if isinstance(listed, list) else []


def plays_as(run: LoggedRun, played: str) -> str:
    """Return the emulator or version that what the run played is proven to equal, or itself."""
    declared = run.config.get("plays_as", older_runs.PLAYS_AS)
    other = declared.get(played) if isinstance(declared, dict) else None
    return _words(other, 200) or played


# ---------------------------------------------------------------------------------------------- words


def shortened(words: Sequence[str], limit: int = 6) -> str:
    """Return the words joined by commas, the rest as a number."""
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def compact(number: float) -> str:
    """Return a number as people write it on an axis: 950, 40k, 1.25M."""
    if not math.isfinite(number):
        return f"{number}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
