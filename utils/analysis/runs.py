"""Find run folders, read them, and join the seeds of one experiment without ever mixing what does not belong together.

Three kinds of folder are read: ours and Spinning Up's (progress.txt, config.json beside it), and Stable-Baselines3's
(monitor.csv, one or several). All are given our column names: for monitor.csv every row is an episode,
TotalEnvInteracts is the running sum of its lengths, AverageEpRet its return and EpLen its length.

Folders that are being written are fine, and so is what strangers wrote: nothing here runs, unpickles or writes
anything.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from utils.command import printable
from utils.tables import COMMA, TAB, Table, parse_table

Array = NDArray[np.float64]

STEPS = "TotalEnvInteracts"
PERFORMANCE = "Performance"  # Spinning Up's name for AverageTestEpRet where there is one, AverageEpRet otherwise
LARGEST_JSON = 1 << 20  # bytes; a config is a few thousand
POINTS = 256  # of a common grid: more than a figure can show

# Fields of config.json that may differ between runs that are averaged: who, where, how fast and how long, not what.
HARMLESS = {
    "seed", "exp_name", "data_dir", "cpu", "world_size", "commit", "resume", "overwrite", "preset", "chunk_size",
    "device", "save_every", "save_minutes", "keep", "check_every", "stall_timeout", "tensorboard", "spec",
    "eval_every", "eval_episodes", "stop_at", "threads", "torch_threads", "versions", "resumed_at_epochs", "mismatch",
    "logger", "logger_kwargs", "output_dir", "datestamp", "save_freq", "t_start",
}  # fmt: skip
LENGTHS = {"epochs", "total_steps"}  # harmless too, unless a schedule runs over them
HARMLESS_SPEC = {"threads", "num_envs", "first_index", "seed"}


@dataclass
class Run:
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

    def series(self, x: str, y: str) -> tuple[Array, Array]:
        """Return the rows where both columns are finite and x has grown; empty arrays where a column is missing."""
        xs, ys = self.columns.get(x), self.columns.get(self.column(y))
        if xs is None or ys is None:
            return np.zeros(0), np.zeros(0)
        fine = np.isfinite(xs) & np.isfinite(ys)
        xs, ys = xs[fine], ys[fine]
        grown = np.ones(len(xs), dtype=bool)
        grown[1:] = np.diff(np.maximum.accumulate(xs)) > 0
        return xs[grown], ys[grown]

    def column(self, y: str) -> str:
        """Return the log's own name of y."""
        if y != PERFORMANCE:
            return y
        return "AverageTestEpRet" if "AverageTestEpRet" in self.columns else "AverageEpRet"


@dataclass
class Group:
    """Runs that differ in their seed only, to be averaged, under the name a legend shows."""

    label: str
    runs: list[Run]

    def notes(self) -> list[str]:
        """Return what must be said about the group: unreadable rows, unfinished runs, doubled seeds."""
        said = [f"{run.label}: {note}" for run in self.runs for note in run.notes]
        unfinished = [f"{run.label} ({run.state})" for run in self.runs if run.state not in ("", "finished")]
        if unfinished:
            said.append(f"{self.label}: not finished: {shortened(unfinished)}")
        seeds = [run.seed for run in self.runs if run.seed]
        doubled = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if doubled:
            said.append(f"{self.label}: seed {shortened(doubled)} more than once: these runs are not independent")
        return said


def shortened(words: Sequence[str], limit: int = 6) -> str:
    """Return the words joined by commas, the rest as a number."""
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


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
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]


def _walk(folder: Path) -> Iterable[Path]:
    """Yield the run folders at or below `folder`; links are not followed, runs do not lie inside runs."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    if any(entry.name == "progress.txt" or entry.name.endswith("monitor.csv") for entry in entries):
        yield folder
        return
    for entry in entries:
        aside = entry.name.startswith(".") or ".old-" in entry.name  # --overwrite moves a run to NAME.old-TIME
        if entry.is_dir(follow_symlinks=False) and not aside:
            yield from _walk(Path(entry.path))


def chosen(paths: Sequence[Path], select: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Path]:
    """Return the paths that hold every word of `select` and none of `exclude`."""
    return [p for p in paths if all(s in str(p) for s in select) and not any(s in str(p) for s in exclude)]


# ---------------------------------------------------------------------------------------------- reading


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} where there is none, or it is no object, too large or unreadable."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            return {}
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_run(path: Path, wanted: Iterable[str] | None = None) -> Run:
    """Return the run in a folder with the wanted columns (all where None); never raises for what the files hold."""
    columns = None if wanted is None else list(dict.fromkeys([*wanted, STEPS, "Epoch"]))
    if columns is not None and PERFORMANCE in columns:
        columns += ["AverageTestEpRet", "AverageEpRet"]
    if (path / "progress.txt").exists():
        return _read_progress(path, columns)
    return _read_monitors(path)


def _read_progress(path: Path, columns: list[str] | None) -> Run:
    config = read_json(path / "config.json")
    spec = config.get("spec")
    reason = read_json(path / "exit.json").get("reason", "")
    run = Run(
        path,
        "progress",
        _name(path, config),
        _seed(path, config),
        config,
        spec if isinstance(spec, dict) else {},
    )
    run.ending = printable(reason) if isinstance(reason, str) else ""
    try:
        table = parse_table((path / "progress.txt").read_bytes(), columns, TAB)
    except OSError as error:
        run.notes = [f"unreadable: {error.strerror}"]
        return run
    kept = _in_order(table)
    run.columns = {name: column[kept] for name, column in table.columns.items()}
    run.names, run.notes = table.names, table.notes()
    if not kept.all():
        run.notes.append(f"{int((~kept).sum())} rows superseded by a resumed run")
    return run


def _in_order(table: Table) -> NDArray[np.bool_]:
    """Return which rows to keep, and count a stray one as unreadable.

    A resumed run may log an epoch again: a row stands only if every later row lies beyond it. A single row that falls
    back while the next one carries on is damage, not a resume, and must not take the rows before it with it.
    """
    order = table.columns.get(STEPS, table.columns.get("Epoch"))
    if order is None or len(order) == 0:
        length = len(next(iter(table.columns.values()), np.zeros(0)))
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


def _read_monitors(path: Path) -> Run:
    """Return the run of one or more monitor.csv: their episodes in the order in which they ended."""
    config: dict[str, Any] = {}
    parts: list[Array] = []
    notes: list[str] = []
    for file in sorted(path.glob("*monitor.csv")):
        try:
            data = file.read_bytes()
        except OSError as error:
            notes.append(f"{file.name}: unreadable: {error.strerror}")
            continue
        head, data = _monitor_head(data)
        config = config or head
        table = parse_table(data, ["r", "l", "t"], COMMA)
        notes += [f"{file.name}: {note}" for note in table.notes()]
        if all(name in table.columns for name in "rlt"):
            start = head.get("t_start", 0.0)
            offset = float(start) if isinstance(start, int | float) else 0.0
            parts.append(
                np.stack(
                    [
                        table.columns["r"],
                        table.columns["l"],
                        table.columns["t"] + offset,
                    ]
                )
            )
    ret, length, time = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))
    order = np.argsort(time, kind="stable")
    fine = order[np.isfinite(ret[order]) & np.isfinite(length[order])]
    run = Run(
        path,
        "monitor",
        _name(path, {}),
        _seed(path, {}),
        {k: v for k, v in config.items() if k != "t_start"},
    )
    run.columns = {
        STEPS: np.cumsum(length[fine]),
        "AverageEpRet": ret[fine],
        "EpLen": length[fine],
        "Time": time[fine] - (time[fine][0] if len(fine) else 0.0),
        "EpCount": np.ones(len(fine)),
    }
    run.names, run.notes = list(run.columns), notes
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
    return (head if isinstance(head, dict) else {}), rest


def _name(path: Path, config: dict[str, Any]) -> str:
    name = config.get("exp_name")
    if isinstance(name, str) and name.strip():
        return printable(name, 80)
    return printable(re.sub(r"_(s|seed)?\d+$", "", path.name), 80)


def _seed(path: Path, config: dict[str, Any]) -> str:
    seed = config.get("seed")
    if isinstance(seed, int):
        return str(seed)
    match = re.search(r"_(?:s|seed)?(\d+)$", path.name)
    return match.group(1) if match else ""


def read_runs(paths: Sequence[Path], wanted: Iterable[str] | None = None, jobs: int | None = None) -> list[Run]:
    """Return the runs of the folders in order; many folders are read by `jobs` processes (default: every core)."""
    columns = None if wanted is None else list(wanted)
    jobs = jobs or len(os.sched_getaffinity(0))
    size = sum((p / "progress.txt").stat().st_size for p in paths if (p / "progress.txt").exists())
    if jobs == 1 or size < 50_000_000:  # starting processes costs about a second
        return [read_run(path, columns) for path in paths]
    return list(Parallel(n_jobs=jobs, batch_size=8)(delayed(read_run)(path, columns) for path in paths))


# ---------------------------------------------------------------------------------------------- joining


def settings(run: Run) -> dict[str, str]:
    """Return what makes runs different experiments, flat: "spec.reward" -> "'score'".

    Objects that a foreign config can only name by an address in memory are left out: they differ from run to run.
    """
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any, skip: set[str]) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if str(key) not in skip:
                    walk(f"{prefix}{key}.", inner, skip)
        elif not (isinstance(value, str) and re.search(r" at 0x[0-9a-f]+", value)):
            flat[printable(prefix[:-1], 60)] = printable(json.dumps(value, sort_keys=True), 60).strip('"')

    scheduled = any(run.config.get(name) for name in ("anneal_lr", "anneal_clip", "anneal_ent"))
    walk("", run.config, HARMLESS if scheduled else HARMLESS | LENGTHS)
    walk("spec.", run.spec, HARMLESS_SPEC)
    return flat


def differences(runs: Sequence[Run]) -> list[str]:
    """Return the names of the settings in which the runs differ, a missing one counting as a value of its own.

    Of several settings with the same last name, such as reward and spec.reward, the outermost stands for all.
    """
    every = [settings(run) for run in runs]
    names = sorted({name for one in every for name in one})
    differing = [name for name in names if len({one.get(name) for one in every}) > 1]
    shown = {name.removeprefix("spec.") for name in differing if not name.startswith("spec.")}
    return [n for n in differing if not (n.startswith("spec.") and n.removeprefix("spec.") in shown)]


def group(runs: Sequence[Run], names: Sequence[str] | None = None) -> tuple[list[Group], list[str]]:
    """Return the experiments in order of appearance, and what must be said about how they were divided.

    Args:
        runs: what was read.
        names: a label for each run; by default that of its experiment, with the folder above it where two places
            hold experiments of the same name.

    Runs under one label that differ in any setting but the seed are divided, and the label says by what.
    """
    labels = list(names) if names is not None else _labels(runs)
    together: dict[str, list[Run]] = {}
    for label, run in zip(labels, runs, strict=True):
        together.setdefault(label, []).append(run)
    groups: list[Group] = []
    said: list[str] = []
    for label, members in together.items():
        by = differences(members)
        parts: dict[str, list[Run]] = {}
        for run in members:
            own = settings(run)
            words = ", ".join(f"{_short(name)}={own.get(name, 'not given')}" for name in by[:4])
            key = words + ("" if len(by) <= 4 else f", ... {_fingerprint(own, by)}")
            parts.setdefault(key, []).append(run)
        if by:
            said.append(f"{label}: its runs differ in {shortened(by)}: shown apart, not averaged")
        groups += [Group(f"{label} [{key}]" if key else label, part) for key, part in parts.items()]
    return groups, said


def _short(name: str) -> str:
    """Return the last part of a setting's name, which is enough for a legend."""
    return name.rsplit(".", 1)[-1]


def _fingerprint(own: dict[str, str], by: Sequence[str]) -> str:
    import zlib

    return f"{zlib.crc32(repr([own.get(name) for name in by]).encode()) & 0xFFFF:04x}"


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return the experiment's name for each run, made unique by the folder that holds it."""
    homes: dict[str, set[Path]] = {}
    for run in runs:
        homes.setdefault(run.name, set()).add(_home(run))
    return [run.name if len(homes[run.name]) == 1 else f"{run.name} ({_home(run)})" for run in runs]


def _home(run: Run) -> Path:
    """Return the folder that holds the experiment's folder: data/ of data/<exp_name>/<exp_name>_s<seed>."""
    parent = run.path.parent
    return parent.parent if parent.name == run.name else parent


# ---------------------------------------------------------------------------------------------- common grids


@dataclass
class Joined:
    """The seeds of one experiment on a common grid."""

    x: Array  # (G,)
    values: Array  # (R, G)
    runs: list[Run]
    notes: list[str]


def smoothed(y: Array, rows: int) -> Array:
    """Return the mean over a centred window of `rows` rows, shorter at both ends (Spinning Up's smoothing)."""
    if rows <= 1 or len(y) == 0:
        return y
    total = np.concatenate([[0.0], np.cumsum(y)])
    left = np.maximum(np.arange(len(y)) - (rows - 1) // 2, 0)
    right = np.minimum(np.arange(len(y)) + rows // 2 + 1, len(y))
    return (total[right] - total[left]) / (right - left)


def join(group: Group, x: str, y: str, *, smooth: int = 1, points: int = POINTS) -> Joined:
    """Return a group's runs on the grid that all of them cover; what was cut or left out is in the notes.

    Where runs have at most as many rows as the grid has points, they are interpolated linearly between rows; where
    they have more, each grid point is the mean of the rows in its cell, so that no row is passed over.
    """
    series = [(run, *run.series(x, y)) for run in group.runs]
    full = [(run, xs, smoothed(ys, smooth)) for run, xs, ys in series if len(xs) >= 2]
    notes = [f"{run.label}: fewer than two rows with {x} and {y}: left out" for run, xs, _ in series if len(xs) < 2]
    if not full:
        return Joined(np.zeros(0), np.zeros((0, 0)), [], notes)
    low, high = max(xs[0] for _, xs, _ in full), min(xs[-1] for _, xs, _ in full)
    if low >= high:
        ends = [f"{run.label} {compact(xs[0])}..{compact(xs[-1])}" for run, xs, _ in full]
        notes.append(f"{group.label}: its runs have no range of {x} in common ({shortened(ends)}): left out")
        return Joined(np.zeros(0), np.zeros((0, 0)), [], notes)
    notes += _backward_notes(group, x, y) + _cut_note(group.label, x, [(run, xs) for run, xs, _ in full], low, high)
    grid = np.linspace(low, high, min(points, max(2, max(len(xs) for _, xs, _ in full))))
    values = np.stack([_resampled(xs, ys, grid) for _, xs, ys in full])
    return Joined(grid, values, [run for run, _, _ in full], notes)


def _backward_notes(group: Group, x: str, y: str) -> list[str]:
    """Return a note per run whose x falls back, as a clock does that starts again after a restart."""
    said = []
    for run in group.runs:
        xs, ys = (
            run.columns.get(x, np.zeros(0)),
            run.columns.get(run.column(y), np.zeros(0)),
        )
        dropped = int((np.isfinite(xs) & np.isfinite(ys)).sum()) - len(run.series(x, y)[0])
        if dropped:
            said.append(f"{run.label}: {dropped} rows left out where {x} does not grow")
    return said


def _cut_note(label: str, x: str, ends: list[tuple[Run, Array]], low: float, high: float) -> list[str]:
    """Return a note where the common range is more than 2% shorter than the longest run."""
    longest = max(float(xs[-1]) for _, xs in ends)
    first = min(float(xs[0]) for _, xs in ends)
    if max(longest - high, low - first) <= 0.02 * (longest - first):
        return []
    shortest = min(ends, key=lambda pair: pair[1][-1])[0].label
    why = f"where the rows of {shortest} end" if longest - high >= low - first else "the common range of its runs"
    unit = " s" if x == "Time" else ""
    cut = f"{x} cut to {compact(low)}..{compact(high)}{unit} ({why}; longest {compact(longest)}{unit})"
    return [f"{label}: unequal lengths: {cut}"]


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


def compact(number: float) -> str:
    """Return a number as people write it on an axis: 950, 40k, 1.25M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
