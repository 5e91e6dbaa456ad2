"""Which runs belong to one experiment: they differ in their seed only, and runs that do not are never averaged."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.analysis import older_runs
from utils.analysis.runs import LoggedRun, shortened
from utils.command import printable
from utils.settings import FACTS

NOT_SETTINGS = FACTS - {"lengths"} | {"seed"}
NOT_SETTINGS_OF_SPEC = frozenset(("threads", "num_envs", "first_index", "seed"))
MOST_SETTINGS = 2000  # a config has about 70


@dataclass
class Group:
    """Runs that differ in their seed only, to be averaged, under the name a legend shows."""

    label: str
    runs: list[LoggedRun]

    def notes(self) -> list[str]:
        """Return what must be said about the group: unreadable rows, unfinished runs, repeated seeds."""
        notes = [f"{run.label}: {note}" for run in self.runs for note in run.notes]
        unfinished = [f"{run.label} ({run.state})" for run in self.runs if run.state not in ("", "finished")]
        if unfinished:
            notes.append(f"{self.label}: not finished: {shortened(unfinished)}")
        seeds = [run.seed for run in self.runs if run.seed]
        repeated = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if repeated:
            notes.append(f"{self.label}: seed {shortened(repeated)} more than once: these runs are not independent")
        return notes


def counted(groups: Sequence[Group]) -> str:
    """Return how many there are, in words: "3 runs in 1 experiment"."""
    runs = sum(len(group.runs) for group in groups)
    return f"{runs} run{'s' * (runs != 1)} in {len(groups)} experiment{'s' * (len(groups) != 1)}"


# ---------------------------------------------------------------------------------------------- settings


def free_settings(run: LoggedRun) -> frozenset[str]:
    """Return the settings in which runs of one experiment may differ.

    config.json lists them under "free_settings"; for a folder without the list `older_runs` says them.
    """
    listed = run.config.get("free_settings")
    if not isinstance(listed, list):
        return older_runs.free_settings(run.config)
    free = frozenset(name for name in listed if isinstance(name, str)) | {"exp_name"}
    return free | {"lengths"} if "epochs" in free else free


def settings(run: LoggedRun) -> dict[str, str]:
    """Return what makes runs different experiments, flat: "spec.reward" -> "score"."""
    free = free_settings(run)
    return {name: value for name, value in _recorded(run).items() if not _is_free(name, free)}


def differences(runs: Sequence[LoggedRun]) -> list[str]:
    """Return the names of the settings in which the runs differ, a missing one counting as a value of its own.

    A setting is free only where all runs agree that it is. Of several settings with the same last name, such as
    reward and spec.reward, the outermost stands for all.
    """
    every = [_recorded(run) for run in runs]
    names = sorted({name for run in runs for name in settings(run)})
    differing = [name for name in names if len({one.get(name) for one in every}) > 1]
    shown = {name.removeprefix("spec.") for name in differing if not name.startswith("spec.")}
    return [n for n in differing if not (n.startswith("spec.") and n.removeprefix("spec.") in shown)]


def _is_free(name: str, free: frozenset[str]) -> bool:
    """Return whether a dotted name is that of a free setting or of a part of one."""
    parts = name.split(".")
    return parts[1] in free if parts[0] == "spec" and len(parts) > 1 else not free.isdisjoint(parts)


def _recorded(run: LoggedRun) -> dict[str, str]:
    """Return every setting that the folder tells, free ones included, flat and safe to print.

    Objects that a foreign config can only name by an address in memory are left out: they differ from run to run.
    """
    flat: dict[str, str] = {}
    for branch, skip, prefix in ((run.config, NOT_SETTINGS, ""), (run.spec, NOT_SETTINGS_OF_SPEC, "spec.")):
        for name, value in _leaves(branch, skip, prefix):
            if name == "lengths" and isinstance(value, list) and len(value) < 2:
                continue  # the length was never changed: `epochs` says it
            if len(flat) < MOST_SETTINGS and not (isinstance(value, str) and re.search(r" at 0x[0-9a-f]+", value)):
                flat[_brief(name, 60)] = _brief(json.dumps(value, sort_keys=True).strip('"'), 60)
    return flat


def _brief(words: str, limit: int) -> str:
    """Return words that are safe to print, at most `limit` characters; a checksum tells cut ones apart."""
    if len(words) <= limit:
        return printable(words, limit)
    return f"{printable(words[: limit - 7])}...{_checksum(words)}"


def _checksum(words: str) -> str:
    return f"{zlib.crc32(words.encode(errors='replace')) & 0xFFFF:04x}"


def _leaves(branch: dict[str, Any], skip: frozenset[str], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of the leaves of nested objects; names in `skip` are left out on every level."""
    for key, value in branch.items():
        if key in skip:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, skip, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---------------------------------------------------------------------------------------------- groups


def group(runs: Sequence[LoggedRun], names: Sequence[str] | None = None) -> tuple[list[Group], list[str]]:
    """Return the experiments in order of appearance, and notes on how they were divided.

    Args:
        runs: what was read.
        names: a label for each run; by default that of its experiment, with the folder above it where two places
            hold experiments of the same name.

    Runs under one label that differ in any setting but the seed are divided, and the label says by what.
    """
    labels = list(names) if names is not None else _labels(runs)
    by_label: dict[str, list[LoggedRun]] = {}
    for label, run in zip(labels, runs, strict=True):
        by_label.setdefault(label, []).append(run)
    groups: list[Group] = []
    notes: list[str] = []
    for label, members in by_label.items():
        differing = differences(members)
        parts: dict[str, list[LoggedRun]] = {}
        for run in members:
            parts.setdefault(_distinction(run, differing), []).append(run)
        if differing:
            notes.append(f"{label}: its runs differ in {shortened(differing)}: shown apart, not averaged")
        groups += [Group(f"{label} [{key}]" if key else label, part) for key, part in parts.items()]
    return groups, notes


def _distinction(run: LoggedRun, differing: Sequence[str]) -> str:
    """Return the values of the settings by which a run differs from its neighbours, in the words of a legend."""
    own = _recorded(run)
    shown = [(name.rsplit(".", 1)[-1], own.get(name, "not given")) for name in differing[:4]]
    words = ", ".join(f"{_brief(name, 30)}={_brief(value, 30)}" for name, value in shown)
    return words if len(differing) <= 4 else f"{words}, ... {_checksum(repr([own.get(name) for name in differing]))}"


def _labels(runs: Sequence[LoggedRun]) -> list[str]:
    """Return the experiment's name for each run, made unique by the folder that holds it."""
    homes: dict[str, set[Path]] = {}
    for run in runs:
        homes.setdefault(run.name, set()).add(_home(run))
    return [run.name if len(homes[run.name]) == 1 else f"{run.name} ({printable(_home(run))})" for run in runs]


def _home(run: LoggedRun) -> Path:
    """Return the folder that holds the experiment's folder: data/ of data/<exp_name>/<exp_name>_s<seed>."""
    parent = run.path.parent
    return parent.parent if parent.name == run.name else parent
