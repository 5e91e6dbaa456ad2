"""Compare experiments: what each seed reached, with intervals over the seeds, and what may be concluded.

Every experiment is reduced to one number per seed and question, and the seeds are the sample: the number of episodes
or rows of a seed never narrows an interval. All experiments are compared over the steps that all of their runs
cover, so that a longer run gains nothing from its length:

    final     mean over the episodes that ended in the last tenth of that range (rows weighted by EpCount)
    area      mean height of the learning curve over that range (`stats.area_under_curve`)
    steps     first row at or above the threshold, and first row from which no row falls below it again
    hours     the same by the Time column, the wall-clock time of training
    success   share of the episodes of the last tenth that reached their goal, where a family counts them

Estimates and intervals are those of `stats`. Experiments on other environments, rewards or versions are refused
unless --mixed says that it is meant, and are then labelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from utils.analysis import grids, runs, stats
from utils.analysis.experiments import Group, settings
from utils.analysis.runs import LoggedRun
from utils.columns import STEPS, Column, find_column

Array = NDArray[np.float64]

FINAL_SHARE = 0.1
AGGREGATES = {"mean": stats.mean, "median": stats.median, "iqm": stats.iqm}

# A difference in one of these makes returns incomparable, whatever is being studied: the environment, and what made
# it. The reward that PPO is shown matters only to columns that count it. Several names: the first that a run has.
INCOMPARABLE = {
    "environment": ("spec.env_id", "env", "env_id", "env_name"),
    "environment version": ("spec.versions", "spec.version"),
    "environment's reward version": ("spec.reward_version",),
    "emulator": ("spec.emulator",),
    "game": ("spec.rom_sha256",),
}
TRAINING_REWARD = ("spec.reward", "reward")
SHOWN_REWARD = {"AverageTrainRet", "AverageVVals"}


@dataclass
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass
class Speed:
    """How soon a threshold is reached: the median over seeds, infinite where at least half never reach it."""

    reached: int
    share: Estimate
    median: Estimate
    coverage: float  # of the median's interval
    per_seed: dict[str, float] = field(default_factory=dict)


@dataclass
class Summary:
    """What is known about one experiment."""

    label: str
    runs: list[LoggedRun]
    final: Array  # (R,)
    area: Array  # (R,)
    aggregates: dict[str, Estimate]  # of `final`: mean, median, iqm, and gap where a target is known
    area_mean: Estimate
    success: Estimate | None
    success_per_seed: Array
    success_episodes: int  # of which `success` is the mean, over all seeds
    speeds: dict[str, Speed]  # "steps first", "steps sustained", "hours first", "hours sustained"


@dataclass
class Pair:
    """Experiment a against experiment b."""

    a: str
    b: str
    probability: Estimate
    difference: Estimate  # of the means of `final`
    verdict: str


@dataclass
class Comparison:
    """Everything that is printed, drawn and written."""

    y: str
    column: Column
    low: float
    high: float
    threshold: float | None
    target: float | None
    summaries: list[Summary]
    pairs: list[Pair]
    notes: list[str]


# ---------------------------------------------------------------------------------------------- reducing


def wanted_columns(y: str) -> list[str]:
    """Return the columns that a comparison by y reads."""
    return [STEPS, y, "EpCount", "Time"]


def compare(
    groups: Sequence[Group],
    y: str = runs.PERFORMANCE,
    *,
    threshold: float | None = None,
    target: float | None = None,
    mixed: bool = False,
) -> Comparison:
    """Return the comparison of experiments by column y.

    Args:
        threshold: the return to reach, for the steps and hours until then; none is asked where it is None.
        target: the return that is as good as solved, for the optimality gap and no other use.
        mixed: compare experiments that differ in environment, reward or version, and say so.

    Raises:
        ValueError: fewer than one experiment with data, no common range, or a mixture that was not asked for.
    """
    notes = comparable(groups, y, mixed)
    kept: list[tuple[Group, list[LoggedRun]]] = []
    for group in groups:
        members = [run for run in group.runs if len(run.series(STEPS, y)[0]) >= 2]
        notes += [f"{r.label}: fewer than two rows with {y}: left out" for r in group.runs if r not in members]
        if members:
            kept.append((group, members))
    if not kept:
        raise ValueError(f"no run has two rows with {STEPS} and {y}")
    low, high = _range([run for _, members in kept for run in members], y, notes)
    summaries = [_summary(g.label, members, y, low, high, threshold, target) for g, members in kept]
    pairs = [_pair(a, b) for a, b in combinations(summaries, 2)]
    notes += _warnings(summaries, pairs)
    own = runs.own_columns(run for _, members in kept for run in members)
    return Comparison(y, find_column(y, own), low, high, threshold, target, summaries, pairs, notes)


def comparable(groups: Sequence[Group], y: str, mixed: bool) -> list[str]:
    """Return notes on what differs between experiments; refuse what makes returns incomparable.

    A value that a folder does not tell (Spinning Up's do not name the environment) is no difference, but is named.
    """
    questions = dict(INCOMPARABLE) | ({"training reward": TRAINING_REWARD} if y in SHOWN_REWARD else {})
    differing, notes = [], []
    for question, names in questions.items():
        values = {group.label: runs.plays_as(group.runs[0], _value(group.runs[0], names)) for group in groups}
        known = {value for value in values.values() if value}
        if len(known) > 1:
            shown = runs.shortened([f"{label}: {value or 'not told'}" for label, value in values.items()])
            differing.append(f"experiments differ in {question} ({shown})")
        elif question == "environment" and not all(values.values()):
            silent = runs.shortened([label for label, value in values.items() if not value])
            notes.append(f"{silent}: the folder does not tell the environment: that it is the same is your claim")
    if differing and not mixed:
        raise ValueError(f"{'; '.join(differing)}: returns are not comparable (--mixed compares them all the same)")
    if len({run.kind for group in groups for run in group.runs}) > 1:
        notes.append("some experiments log every episode (monitor.csv), others the means of epochs (progress.txt)")
    if y not in SHOWN_REWARD and len({_value(group.runs[0], TRAINING_REWARD) for group in groups} - {""}) > 1:
        notes.append(f"trained on different rewards; {y} is the environment's own return in all of them")
    return [f"MIXED: {note}" for note in differing] + notes


def _value(run: LoggedRun, names: Sequence[str]) -> str:
    """Return the first of the named settings that the run has, whole branches as one word; "" for none."""
    own = settings(run)
    for name in names:
        branch = {key: value for key, value in own.items() if key == name or key.startswith(name + ".")}
        if branch:
            return ", ".join(v if k == name else f"{k.removeprefix(name + '.')} {v}" for k, v in sorted(branch.items()))
    return ""


def _range(members: Sequence[LoggedRun], y: str, notes: list[str]) -> tuple[float, float]:
    """Return the steps that every run covers; say what was cut."""
    ends = [(run, run.series(STEPS, y)[0]) for run in members]
    low, high = grids.common_range(ends)
    if low >= high:
        raise ValueError(f"the runs have no range of {STEPS} in common ({low:g} to {high:g}): choose them apart")
    longest = max(float(xs[-1]) for _, xs in ends)
    if longest - high > grids.TOLERANCE * longest:
        shortest = min(ends, key=lambda pair: float(pair[1][-1]))[0]
        if longest - shortest.rows(STEPS).max() > grids.TOLERANCE * longest:
            cut = f"compared up to {runs.compact(high)} steps, where the rows of {shortest.label} end"
            notes.append(f"unequal lengths: {cut} (the longest run has {runs.compact(longest)})")
        else:
            end = f"{shortest.label} has no {shortest.column(y)} after {runs.compact(high)} steps (empty cells)"
            notes.append(f"{end}: compared up to there")
    return low, high


def final_performance(run: LoggedRun, y: str, low: float, high: float) -> float:
    """Return the mean of y over the last tenth of [low, high], rows weighted by the episodes that ended in them."""
    xs, ys = run.series(STEPS, y)
    inside = (xs > high - FINAL_SHARE * (high - low)) & (xs <= high)
    weights = _episodes(run, xs)
    if not inside.any() or weights[inside].sum() <= 0:
        return float(np.interp(high, xs, ys))
    return float(np.average(ys[inside], weights=weights[inside]))


def _episodes(run: LoggedRun, xs: Array) -> Array:
    """Return how many episodes ended in the rows at xs; 1 for each row where the log does not count them."""
    count_x, counts = run.series(STEPS, "EpCount")
    return np.interp(xs, count_x, counts) if len(count_x) else np.ones(len(xs))


def _summary(
    label: str, members: list[LoggedRun], y: str, low: float, high: float, threshold: float | None, target: float | None
) -> Summary:
    """Reduce the runs of one experiment to numbers over the steps from low to high."""
    final = np.array([final_performance(run, y, low, high) for run in members])
    area = np.array([stats.area_under_curve(*run.series(STEPS, y), low, high) for run in members])
    bounds = grids.possible_range(members, y, find_column(y, runs.own_columns(members)))
    aggregates = {name: _estimate(final, statistic, bounds) for name, statistic in AGGREGATES.items()}
    if target is not None:
        aggregates["gap"] = _estimate(final, partial(stats.optimality_gap, target=target), (0.0, math.inf))
    shares = [(run, column.name) for run in members if (column := runs.success_column(run)) is not None]
    success = np.array([final_performance(run, name, low, high) for run, name in shares])
    success_mean = _estimate(success, stats.mean, (0.0, 1.0)) if len(success) else None
    speeds = {} if threshold is None else _speeds(members, y, threshold, high)
    episodes = 0.0
    for run, name in shares:
        xs = run.series(STEPS, name)[0]
        episodes += _episodes(run, xs[(xs > high - FINAL_SHARE * (high - low)) & (xs <= high)]).sum()
    area_mean = _estimate(area, stats.mean, bounds)
    return Summary(label, members, final, area, aggregates, area_mean, success_mean, success, round(episodes), speeds)


def _estimate(
    values: Array, statistic: stats.Statistic, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    interval = stats.bootstrap_interval(values, statistic, bounds=bounds)
    return Estimate(float(statistic(values[:, None])), *interval)


def _speeds(members: list[LoggedRun], y: str, threshold: float, high: float) -> dict[str, Speed]:
    """Return how soon each seed reaches the threshold within the common range, by steps and by hours."""
    found: dict[str, list[float]] = {}
    for run in members:
        xs, ys = run.series(STEPS, y)
        within = xs <= high
        steps = stats.steps_to_threshold(xs[within], ys[within], threshold)
        clock_x, clock = run.series(STEPS, "Time")
        for kind, value in zip(("first", "sustained"), steps, strict=True):
            found.setdefault(f"steps {kind}", []).append(value)
            if len(clock_x):
                hours = float(np.interp(value, clock_x, clock)) / 3600 if math.isfinite(value) else math.inf
                found.setdefault(f"hours {kind}", []).append(hours)
    return {kind: _speed(values, members) for kind, values in found.items() if len(values) == len(members)}


def _speed(values: list[float], members: list[LoggedRun]) -> Speed:
    reached = sum(math.isfinite(value) for value in values)
    interval, coverage = stats.median_interval(values)
    share = Estimate(reached / len(values), *stats.wilson_interval(reached, len(values)))
    middle = float(np.sort(values)[(len(values) - 1) // 2 : len(values) // 2 + 1].mean())
    per_seed = {run.label: value for run, value in zip(members, values, strict=True)}
    return Speed(reached, share, Estimate(middle, *interval), coverage, per_seed)


# ---------------------------------------------------------------------------------------------- judging


def _pair(a: Summary, b: Summary) -> Pair:
    probability = stats.probability_of_improvement(a.final, b.final)
    chance = Estimate(probability, *stats.probability_interval(a.final, b.final))
    gap = float(a.final.mean() - b.final.mean())
    difference = Estimate(gap, *stats.difference_interval(a.final, b.final))
    return Pair(a.label, b.label, chance, difference, _verdict(a, b, chance, difference))


def _verdict(a: Summary, b: Summary, chance: Estimate, difference: Estimate) -> str:
    """Return what the seeds allow to be said, in one sentence; both intervals must agree before a winner is named."""
    m, n, both = len(a.final), len(b.final), f"{a.label} against {b.label}"
    if min(m, n) < 2:
        return f"{both}: nothing can be concluded: one seed does not show its spread"
    smallest = stats.smallest_p_value(m, n)
    if smallest > 0.05:
        return f"{both}: nothing can be concluded: {m} against {n} seeds give p >= {smallest:.2g} even without overlap"
    if np.ptp(a.final) == 0 and np.ptp(b.final) == 0 and difference.value == 0:
        return f"{both}: no difference seen: all {m + n} seeds scored the same"
    for sign, better, worse in ((1, a, b), (-1, b, a)):
        low = difference.low if sign > 0 else -difference.high
        edge = chance.low if sign > 0 else 1 - chance.high
        if low > 0 and edge > 0.5:
            return f"{better.label} is better than {worse.label} (mean and ranks agree at 95%)"
    return f"{both}: no difference shown: it may be anything from {difference.low:.4g} to {difference.high:.4g}"


def _warnings(summaries: Sequence[Summary], pairs: Sequence[Pair]) -> list[str]:
    notes = []
    for one in summaries:
        count = len(one.runs)
        if count == 1:
            notes.append(f"{one.label}: one seed: no interval, and nothing can be said about other seeds")
        elif count < 5:
            notes.append(f"{one.label}: {count} seeds: intervals are wide and rest on normality; take 5 or more")
        if count > 1 and np.ptp(one.final) == 0:
            notes.append(f"{one.label}: all {count} seeds scored the same: an interval of width 0 proves nothing")
        if one.success is not None and len(one.success_per_seed) > 1 and np.ptp(one.success_per_seed) == 0:
            share = f"{runs.success_words(one.runs)} {one.success_per_seed[0]:.3g}"
            notes.append(f"{one.label}: every seed has {share}: its interval of width 0 proves nothing")
    if len(pairs) > 1:
        chance = 1 - 0.95 ** len(pairs)
        notes.append(f"{len(pairs)} pairs, uncorrected: one of them looks decided by chance up to {100 * chance:.0f}%")
    return notes
