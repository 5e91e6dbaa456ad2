"""Which experiment is better, and how sure are we: `python -m utils.compare A B ...`.

Every experiment is reduced to one number per seed and question, and the seeds are the sample: the number of episodes
or rows behind a seed never narrows an interval. All experiments are compared over the steps that all of their runs
cover, so that a longer run gains nothing from its length:

    final     mean over the episodes that ended in the last tenth of that range (rows weighted by EpCount)
    area      mean height of the learning curve over that range (`stats.area_under_curve`)
    steps     first row at or above the threshold, and first row from which no row falls below it again
    hours     the same by the Time column
    clear     share of the episodes of the last tenth that reached the flag

Estimates and intervals are those of `utils.stats`. Experiments on other environments, rewards or versions are refused
unless --mixed says that it is meant, and are then labelled.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils import figures, plot, runs, stats
from utils.command import Parser, printable
from utils.command import run as run_command

Array = NDArray[np.float64]

PROG = "python -m utils.compare"
FORMAT = 1  # of the JSON file
FINAL_SHARE = 0.1
AGGREGATES = {"mean": stats.mean, "median": stats.median, "iqm": stats.iqm}
NAMES = {"mean": "Mean", "median": "Median", "iqm": "IQM", "gap": "Optimality gap"}

# A difference in one of these makes returns incomparable, whatever is being studied: the environment, and what made
# it. The reward that PPO is shown matters only to columns that count it. Several names: the first that a run has.
INCOMPARABLE = {
    "environment": ("spec.env_id", "env", "env_id", "env_name"),
    "environment version": ("spec.versions", "spec.version"),
    "environment's reward version": ("spec.reward_version",),
    "emulator": ("spec.emulator",),
    "game": ("spec.rom_sha256",),
}
# The native core plays what nes-py plays, frame by frame: `make identity`, data/results/identity.json.
PROVEN_EQUAL = {"native": "nes-py", "core 1": "gym-super-mario-bros 7.4.0, nes-py 8.2.1"}
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
    runs: list[runs.Run]
    final: Array  # (R,)
    area: Array  # (R,)
    aggregates: dict[str, Estimate]  # of `final`: mean, median, iqm, and gap where a target is known
    area_mean: Estimate
    clear: Estimate | None
    clear_per_seed: Array
    clear_episodes: int  # behind `clear`, over all seeds
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
    return [runs.STEPS, y, "EpCount", "Time", "ClearRate"]


def compare(
    groups: Sequence[runs.Group],
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
    notes = _comparable(groups, y, mixed)
    kept: list[tuple[runs.Group, list[runs.Run]]] = []
    for group in groups:
        members = [run for run in group.runs if len(run.series(runs.STEPS, y)[0]) >= 2]
        notes += [f"{r.label}: fewer than two rows with {y}: left out" for r in group.runs if r not in members]
        if members:
            kept.append((group, members))
    if not kept:
        raise ValueError(f"no run has two rows with {runs.STEPS} and {y}")
    low, high = _range([run for _, members in kept for run in members], y, notes)
    summaries = [_summary(g.label, members, y, low, high, threshold, target) for g, members in kept]
    pairs = [_pair(a, b) for a, b in combinations(summaries, 2)]
    notes += _warnings(summaries, pairs)
    return Comparison(y, low, high, threshold, target, summaries, pairs, notes)


def _comparable(groups: Sequence[runs.Group], y: str, mixed: bool) -> list[str]:
    """Return notes on what differs between experiments; refuse what makes returns incomparable.

    A value that a folder does not tell (Spinning Up's do not name the environment) is no difference, but is named.
    """
    questions = dict(INCOMPARABLE) | ({"training reward": TRAINING_REWARD} if y in SHOWN_REWARD else {})
    differing, notes = [], []
    for question, names in questions.items():
        said = {group.label: _value(group.runs[0], names) for group in groups}
        values = {label: PROVEN_EQUAL.get(value, value) for label, value in said.items()}
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


def _value(run: runs.Run, names: Sequence[str]) -> str:
    """Return the first of the named settings that the run has, whole branches as one word; "" for none."""
    own = runs.settings(run)
    for name in names:
        branch = {key: value for key, value in own.items() if key == name or key.startswith(name + ".")}
        if branch:
            return ", ".join(v if k == name else f"{k.removeprefix(name + '.')} {v}" for k, v in sorted(branch.items()))
    return ""


def _range(members: Sequence[runs.Run], y: str, notes: list[str]) -> tuple[float, float]:
    """Return the steps that every run covers; say what was cut."""
    ends = [(run, run.series(runs.STEPS, y)[0]) for run in members]
    low, high = (
        max(float(xs[0]) for _, xs in ends),
        min(float(xs[-1]) for _, xs in ends),
    )
    if low >= high:
        raise ValueError(f"the runs have no range of {runs.STEPS} in common ({low:g} to {high:g}): choose them apart")
    longest = max(float(xs[-1]) for _, xs in ends)
    if longest - high > 0.02 * longest:
        shortest = min(ends, key=lambda pair: float(pair[1][-1]))[0].label
        cut = f"compared up to {runs.compact(high)} steps, where the rows of {shortest} end"
        notes.append(f"unequal lengths: {cut} (the longest run has {runs.compact(longest)})")
    return low, high


def final_performance(run: runs.Run, y: str, low: float, high: float) -> float:
    """Return the mean of y over the last tenth of [low, high], rows weighted by the episodes that ended in them."""
    xs, ys = run.series(runs.STEPS, y)
    inside = (xs > high - FINAL_SHARE * (high - low)) & (xs <= high)
    weights = _episodes(run, xs)
    if not inside.any() or weights[inside].sum() <= 0:
        return float(np.interp(high, xs, ys))
    return float(np.average(ys[inside], weights=weights[inside]))


def _episodes(run: runs.Run, xs: Array) -> Array:
    """Return how many episodes ended in the rows at xs; 1 for each row where the log does not count them."""
    count_x, counts = run.series(runs.STEPS, "EpCount")
    return np.interp(xs, count_x, counts) if len(count_x) else np.ones(len(xs))


def _summary(
    label: str,
    members: list[runs.Run],
    y: str,
    low: float,
    high: float,
    threshold: float | None,
    target: float | None,
) -> Summary:
    final = np.array([final_performance(run, y, low, high) for run in members])
    area = np.array([stats.area_under_curve(*run.series(runs.STEPS, y), low, high) for run in members])
    aggregates = {name: _estimate(final, statistic) for name, statistic in AGGREGATES.items()}
    if target is not None:
        gaps = np.maximum(target - final, 0.0)
        aggregates["gap"] = _estimate(gaps, stats.mean, (0.0, math.inf))
    clearing = [run for run in members if len(run.series(runs.STEPS, "ClearRate")[0]) >= 2]
    clear = np.array([final_performance(run, "ClearRate", low, high) for run in clearing])
    clear_mean = _estimate(clear, stats.mean, (0.0, 1.0)) if len(clear) else None
    speeds = {} if threshold is None else _speeds(members, y, threshold, high)
    episodes = 0.0
    for run in clearing:
        xs = run.series(runs.STEPS, "ClearRate")[0]
        episodes += _episodes(run, xs[(xs > high - FINAL_SHARE * (high - low)) & (xs <= high)]).sum()
    area_mean = _estimate(area, stats.mean)
    return Summary(
        label,
        members,
        final,
        area,
        aggregates,
        area_mean,
        clear_mean,
        clear,
        round(episodes),
        speeds,
    )


def _estimate(
    values: Array,
    statistic: stats.Statistic,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    return Estimate(
        float(statistic(values[:, None])),
        *stats.bootstrap_interval(values, statistic, bounds=bounds),
    )


def _speeds(members: list[runs.Run], y: str, threshold: float, high: float) -> dict[str, Speed]:
    """Return how soon each seed reaches the threshold within the common range, by steps and by hours."""
    found: dict[str, list[float]] = {}
    for run in members:
        xs, ys = run.series(runs.STEPS, y)
        within = xs <= high
        steps = stats.steps_to_threshold(xs[within], ys[within], threshold)
        clock_x, clock = run.series(runs.STEPS, "Time")
        for kind, value in zip(("first", "sustained"), steps, strict=True):
            found.setdefault(f"steps {kind}", []).append(value)
            if len(clock_x):
                hours = float(np.interp(value, clock_x, clock)) / 3600 if math.isfinite(value) else math.inf
                found.setdefault(f"hours {kind}", []).append(hours)
    return {kind: _speed(values, members) for kind, values in found.items() if len(values) == len(members)}


def _speed(values: list[float], members: list[runs.Run]) -> Speed:
    reached = sum(math.isfinite(value) for value in values)
    interval, coverage = stats.median_interval(values)
    share = Estimate(reached / len(values), *stats.wilson_interval(reached, len(values)))
    middle = float(np.sort(values)[(len(values) - 1) // 2 : len(values) // 2 + 1].mean())
    return Speed(
        reached,
        share,
        Estimate(middle, *interval),
        coverage,
        {r.label: v for r, v in zip(members, values, strict=True)},
    )


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
    said = []
    for one in summaries:
        count = len(one.runs)
        if count == 1:
            said.append(f"{one.label}: one seed: no interval, and nothing can be said about other seeds")
        elif count < 5:
            said.append(f"{one.label}: {count} seeds: intervals are wide and rest on normality; take 5 or more")
        if count > 1 and np.ptp(one.final) == 0:
            said.append(f"{one.label}: all {count} seeds scored the same: an interval of width 0 proves nothing")
        if one.clear is not None and len(one.clear_per_seed) > 1 and np.ptp(one.clear_per_seed) == 0:
            rate = one.clear_per_seed[0]
            said.append(f"{one.label}: every seed has clear rate {rate:.3g}: its interval of width 0 proves nothing")
    if len(pairs) > 1:
        chance = 1 - 0.95 ** len(pairs)
        said.append(f"{len(pairs)} pairs, uncorrected: one of them looks decided by chance up to {100 * chance:.0f}%")
    return said


# ---------------------------------------------------------------------------------------------- words


def number(value: float) -> str:
    """Return a number of four digits; "-" for none and "never" for infinity."""
    if math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else f"{value:.4g}"


def clock(hours: float) -> str:
    """Return a time as h:mm:ss; "-" for none and "never" for infinity."""
    return str(timedelta(seconds=round(3600 * hours))) if math.isfinite(hours) else number(hours)


def written(estimate: Estimate | None, form: str = "plain") -> str:
    """Return "value [low, high]"; `form` may be plain, percent, compact (40k) or clock (hours as h:mm:ss)."""
    if estimate is None:
        return "-"
    formats = {
        "plain": number,
        "percent": lambda v: f"{100 * v:.3g}%" if math.isfinite(v) else number(v),
        "compact": lambda v: runs.compact(v) if math.isfinite(v) else number(v),
        "clock": clock,
    }
    word = formats[form]
    if math.isnan(estimate.low):
        return f"{word(estimate.value)} [no interval]"
    return f"{word(estimate.value)} [{word(estimate.low)}, {word(estimate.high)}]"


def rows(result: Comparison) -> list[list[str]]:
    """Return the table: a heading, then for each question one row over the experiments."""
    table = [["", *[one.label for one in result.summaries]]]
    table.append(["seeds n", *[_count(one) for one in result.summaries]])
    for name in ("iqm", "median", "mean", "gap"):
        if name in result.summaries[0].aggregates:
            what = f"{NAMES[name]} to {result.target:g}" if name == "gap" else f"final {NAMES[name]}"
            table.append([what, *[written(one.aggregates[name]) for one in result.summaries]])
    table.append(
        [
            "worst..best seed",
            *[f"{number(s.final.min())}..{number(s.final.max())}" for s in result.summaries],
        ]
    )
    table.append(
        [
            "mean over training (AUC)",
            *[written(one.area_mean) for one in result.summaries],
        ]
    )
    if any(one.clear is not None for one in result.summaries):
        table.append(["clear rate", *[_clear_words(one) for one in result.summaries]])
    for kind in ("steps first", "steps sustained", "hours first", "hours sustained"):
        if any(kind in one.speeds for one in result.summaries):
            unit, when = kind.replace("hours", "h:mm:ss").split()
            table.append(
                [
                    f"{unit} to {result.threshold:g}, {when}",
                    *[_speed_words(s, kind) for s in result.summaries],
                ]
            )
    return table


def _clear_words(one: Summary) -> str:
    return f"{written(one.clear, 'percent')}, {one.clear_episodes} episodes" if one.clear else "-"


def _count(one: Summary) -> str:
    open_runs = sum(run.state not in ("", "finished") for run in one.runs)
    return f"{len(one.runs)}" + (f", {open_runs} unfinished" if open_runs else "")


def _speed_words(one: Summary, kind: str) -> str:
    speed = one.speeds.get(kind)
    if speed is None:
        return "-"
    form = "compact" if kind.startswith("steps") else "clock"
    return f"{written(speed.median, form)}, {speed.reached}/{len(speed.per_seed)} seeds"


def footnotes(result: Comparison) -> list[str]:
    """Return how to read the table, with what was cut and what cannot be concluded."""
    unit = figures.axis_label(result.y)
    said = [
        f"{unit}; final: last tenth of steps {runs.compact(result.low)}..{runs.compact(result.high)}; "
        "[95% interval over seeds: stratified bootstrap widened for few seeds]"
    ]
    speeds = [speed for one in result.summaries for speed in one.speeds.values() if len(speed.per_seed) > 1]
    if speeds:
        least = min(speed.coverage for speed in speeds)
        said.append(
            f"threshold rows: median over seeds [by order statistics, coverage {100 * least:.3g}% or more]; "
            "first: the first row there; sustained: the first row after which none falls below"
        )
    return said + result.notes


def console(result: Comparison) -> str:
    """Return the table, the pairs and the notes as text, one column per experiment."""
    table = rows(result)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "-" * len(max(lines, key=len)))
    lines += ["", *[_pair_words(pair) for pair in result.pairs]] if result.pairs else []
    return "\n".join([*lines, "", *[f"note: {note}" for note in footnotes(result)]])


def _pair_words(pair: Pair) -> str:
    chance = written(pair.probability)
    return f"P({pair.a} > {pair.b}) = {chance}; difference of means {written(pair.difference)}\n  {pair.verdict}"


def markdown(result: Comparison) -> str:
    """Return the table, the pairs and the notes as Markdown."""
    table = [[cell.replace("|", "\\|") for cell in row] for row in rows(result)]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|---" * len(table[0]) + "|")
    if result.pairs:
        lines += [
            "",
            *[f"- {_pair_words(pair)}".replace("\n", ";") for pair in result.pairs],
        ]
    return "\n".join([*lines, "", *[f"- {note}" for note in footnotes(result)]]) + "\n"


def as_json(result: Comparison) -> str:
    """Return the comparison as JSON: never reached and unknown numbers are null."""
    document = {
        "format": FORMAT,
        "column": result.y,
        "steps": [result.low, result.high],
        "threshold": result.threshold,
        "target": result.target,
        "level": stats.LEVEL,
        "experiments": [_experiment(one) for one in result.summaries],
        "pairs": [
            vars(pair) | {k: _flat(getattr(pair, k)) for k in ("probability", "difference")} for pair in result.pairs
        ],
        "notes": result.notes,
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def _experiment(one: Summary) -> dict[str, Any]:
    return {
        "name": one.label,
        "n": len(one.runs),
        "final": {name: _flat(value) for name, value in one.aggregates.items()},
        "area_under_curve": _flat(one.area_mean),
        "clear_rate": _flat(one.clear) | {"episodes": one.clear_episodes} if one.clear else None,
        "threshold": {
            kind: {
                "reached": s.reached,
                "share": _flat(s.share),
                "median": _flat(s.median),
                "coverage": s.coverage,
            }
            | {"per_seed": s.per_seed}
            for kind, s in one.speeds.items()
        },
        "seeds": [
            {
                "folder": run.label,
                "seed": run.seed,
                "state": run.state,
                "final": final,
                "area": area,
            }
            for run, final, area in zip(one.runs, one.final.tolist(), one.area.tolist(), strict=True)
        ],
    }


def _flat(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _finite(value: Any) -> Any:
    """Return value with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------------------- figure


def draw(result: Comparison) -> Figure:
    """Return the figure: aggregates with intervals, performance profiles and the probability of each improvement."""
    names = [name for name in ("iqm", "mean", "median", "gap") if name in result.summaries[0].aggregates]
    count, pairs = len(result.summaries), min(len(result.pairs), 12)
    height = 1.3 + 0.32 * count + max(2.4, 0.7 + 0.45 * pairs)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    ratios = [1.1 + 0.32 * count, height - 1.1 - 0.32 * count]
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    panels = top.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _intervals(axes, result, name)
    _experiments(panels[0], result)
    top.supxlabel(f"Final {figures.axis_label(result.y).lower()}", fontsize=9)
    sides = bottom.subplots(1, 2 if pairs else 1, squeeze=False)[0]
    _profiles(sides[0], result)
    if pairs:
        _chances(sides[1], result.pairs[:pairs])
    text = "Dots: single seeds. Bars and bands: 95% intervals over seeds. Colours of the profiles: as above."
    if len(result.pairs) > pairs:
        text += f" {len(result.pairs) - pairs} more pairs in the table."
    bottom.supxlabel(text, fontsize=6.5, alpha=0.75)
    return figure


def draw_apart(result: Comparison) -> list[tuple[str, Figure]]:
    """Return (what it shows, figure) for each part of `draw`, small enough to be read on a phone."""
    name = figures.axis_label(result.y)
    parts: list[tuple[str, Figure]] = []
    for aggregate in ("iqm", "mean", "gap"):
        if aggregate in result.summaries[0].aggregates:
            figure = Figure(figsize=(4.3, 1.1 + 0.42 * len(result.summaries)), layout="constrained")
            axes = figure.subplots()
            _intervals(axes, result, aggregate)
            _experiments(axes, result)
            figure.supxlabel(f"Final {name.lower()}", fontsize=8)
            parts.append(
                (
                    f"{NAMES[aggregate]} of the final performance with 95% intervals; dots are seeds",
                    figure,
                )
            )
    figure = Figure(figsize=(4.3, 3.0), layout="constrained")
    axes = figure.subplots()
    _profiles(axes, result)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=1,
        fontsize=7,
    )
    parts.append(
        (
            "Performance profiles: share of seeds above each score, with 95% bands",
            figure,
        )
    )
    if result.pairs:
        shown = result.pairs[:12]
        figure = Figure(figsize=(4.3, 1.2 + 0.5 * len(shown)), layout="constrained")
        _chances(figure.subplots(), shown)
        parts.append(
            (
                "Probability that a seed of the first beats one of the second, with 95% intervals",
                figure,
            )
        )
    return parts


def _experiments(axes: Axes, result: Comparison) -> None:
    """Name the experiments along the y axis, the first at the top."""
    names = [figures.wrapped(f"{one.label} (n={_count(one)})", 26) for one in result.summaries]
    axes.set_yticks(range(len(names)), names, fontsize=8 if all("\n" not in name for name in names) else 7)
    axes.set_ylim(len(names) - 0.45, -0.5)


def _intervals(axes: Axes, result: Comparison, name: str) -> None:
    for place, one in enumerate(result.summaries):
        colour = figures.look(place)["color"]
        estimate = one.aggregates[name]
        if not math.isnan(estimate.low):
            axes.plot(
                [estimate.low, estimate.high],
                [place, place],
                color=colour,
                linewidth=7,
                alpha=0.35,
                solid_capstyle="butt",
            )
        axes.plot(
            [estimate.value] * 2,
            [place - 0.28, place + 0.28],
            color=colour,
            linewidth=2,
        )
        if name == "mean":
            axes.plot(
                one.final,
                np.full(len(one.final), place + 0.36),
                ".",
                color=colour,
                markersize=4,
                alpha=0.8,
            )
    axes.set_title(NAMES[name] if name != "gap" else f"Gap to {result.target:g} (best: 0)")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)


def _profiles(axes: Axes, result: Comparison) -> None:
    every = np.concatenate([one.final for one in result.summaries])
    margin = 0.05 * (np.ptp(every) or abs(every[0]) or 1.0)
    taus = np.linspace(every.min() - margin, every.max() + margin, 400)
    for place, one in enumerate(result.summaries):
        look = figures.look(place)
        axes.plot(taus, stats.performance_profile(one.final, taus), label=one.label, **look)
        if len(one.final) > 1:
            low, high = stats.profile_band(one.final, taus)
            axes.fill_between(taus, low, high, color=look["color"], alpha=0.13, linewidth=0)
    axes.set_xlabel(f"Score \N{GREEK SMALL LETTER TAU}, {figures.axis_label(result.y).lower()}")
    axes.set_ylabel("Share of seeds above \N{GREEK SMALL LETTER TAU}")
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("Performance profiles")


def _chances(axes: Axes, pairs: Sequence[Pair]) -> None:
    for place, pair in enumerate(pairs):
        chance = pair.probability
        axes.plot(
            [chance.low, chance.high],
            [place, place],
            color=figures.INK,
            linewidth=7,
            alpha=0.3,
            solid_capstyle="butt",
        )
        axes.plot([chance.value] * 2, [place - 0.28, place + 0.28], color=figures.INK, linewidth=2)
    axes.axvline(0.5, color=figures.INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(pairs)), [f"{pair.a}\n> {pair.b}" for pair in pairs], fontsize=7)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("P(a seed of the first beats one of the second)")
    axes.set_title("Probability of improvement")
    axes.grid(visible=False, axis="y")


# ---------------------------------------------------------------------------------------------- command line


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = Parser(prog=PROG, description="Compare experiments seed by seed, with 95% intervals.")
    p.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="folder with runs below it, or the beginning of folder names",
    )
    p.add_argument(
        "-y",
        "--value",
        default=runs.PERFORMANCE,
        metavar="COLUMN",
        help="default: the episode return",
    )
    p.add_argument(
        "--threshold",
        type=float,
        metavar="RETURN",
        help="also compare steps and hours to this value",
    )
    p.add_argument(
        "--target",
        type=float,
        metavar="RETURN",
        help="value that counts as solved, for the optimality gap",
    )
    p.add_argument("-l", "--legend", nargs="+", metavar="NAME", help="one name for each DIR")
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
    p.add_argument(
        "--mixed",
        action="store_true",
        help="compare across environments, rewards or versions, labelled",
    )
    p.add_argument("-o", "--out", metavar="FILE", help="figure: PNG, SVG or PDF")
    p.add_argument("--json", metavar="FILE", help="every number")
    p.add_argument("--markdown", metavar="FILE", help="the table, for a README")
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
    if args.out:
        figures.figure_format(args.out)
    for name in ("threshold", "target"):
        if getattr(args, name) is not None and not math.isfinite(getattr(args, name)):
            raise ValueError(f"--{name} must be finite, got {getattr(args, name)}")
    groups, said = plot.load(
        args.folders,
        wanted_columns(args.value),
        legend=args.legend,
        select=args.select,
        exclude=args.exclude,
        data_dir=args.data_dir,
    )
    plot.check_columns(groups, [args.value])
    result = compare(
        groups,
        args.value,
        threshold=args.threshold,
        target=args.target,
        mixed=args.mixed,
    )
    result.notes = list(dict.fromkeys(said + [note for group in groups for note in group.notes()] + result.notes))
    for path, text in ((args.json, as_json), (args.markdown, markdown)):
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text(result), encoding="utf-8")
    if args.out:
        with figures.style():
            figures.save(draw(result), args.out)
        print(printable(args.out), file=sys.stderr)
    print(console(result))  # last: its reader may go (`| head`)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
