"""A comparison in words: a table for the console or a README, and every number as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from utils.analysis import runs, stats
from utils.analysis.comparison import Comparison, Estimate, Pair, Speed, Summary
from utils.analysis.runs import LoggedRun

FORMAT = 1  # of the JSON file
NAMES = {"mean": "Mean", "median": "Median", "iqm": "IQM", "gap": "Optimality gap"}


def number(value: float) -> str:
    """Return a number of four digits; "-" for none and "never" for infinity."""
    if math.isnan(value):
        return "-"
    return "never" if math.isinf(value) else f"{value:.4g}"


def clock(hours: float) -> str:
    """Return a time as h:mm:ss, also where it is longer than a day; "-" for none and "never" for infinity."""
    if not math.isfinite(hours):
        return number(hours)
    minutes, seconds = divmod(round(3600 * abs(hours)), 60)
    return f"{'-' if hours < 0 else ''}{minutes // 60}:{minutes % 60:02}:{seconds:02}"


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
    table.append(["seeds n", *[count_words(one) for one in result.summaries]])
    for name in ("iqm", "median", "mean", "gap"):
        if name in result.summaries[0].aggregates:
            what = f"{NAMES[name]} to {result.target:g}" if name == "gap" else f"final {NAMES[name]}"
            table.append([what, *[written(one.aggregates[name]) for one in result.summaries]])
    spans = [f"{number(one.final.min())}..{number(one.final.max())}" for one in result.summaries]
    table.append(["worst..best seed", *spans])
    table.append(["mean over training (AUC)", *[written(one.area_mean) for one in result.summaries]])
    success = runs.success_words(run for one in result.summaries for run in one.runs)
    if success:
        table.append([success, *[_success_words(one) for one in result.summaries]])
    for kind in ("steps first", "steps sustained", "hours first", "hours sustained"):
        if any(kind in one.speeds for one in result.summaries):
            unit, when = kind.replace("hours", "h:mm:ss").split()
            cells = [_speed_words(one, kind) for one in result.summaries]
            table.append([f"{unit} to {result.threshold:g}, {when}", *cells])
    return table


def _success_words(one: Summary) -> str:
    return f"{written(one.success, 'percent')}, {one.success_episodes} episodes" if one.success else "-"


def count_words(one: Summary) -> str:
    """Return how many seeds an experiment has, and how many of them have not finished."""
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
    notes = [
        f"{result.column.axis}; final: last tenth of steps {runs.compact(result.low)}..{runs.compact(result.high)}; "
        "[95% interval over seeds: stratified bootstrap widened for few seeds]"
    ]
    speeds = [speed for one in result.summaries for speed in one.speeds.values() if len(speed.per_seed) > 1]
    if speeds:
        least = min(speed.coverage for speed in speeds)
        notes.append(
            f"threshold rows: median over seeds [by order statistics, coverage {100 * least:.3g}% or more]; "
            "first: the first row there; sustained: the first row after which none falls below"
        )
    if any(kind.startswith("hours") for one in result.summaries for kind in one.speeds):
        notes.append(f"h:mm:ss: {time_words([run for one in result.summaries for run in one.runs])}")
    return notes + result.notes


def time_words(members: Sequence[LoggedRun]) -> str:
    """Return what the Time column of these runs counts."""
    words = "wall-clock time of training, by the Time column"
    if any(run.kind == "monitor" for run in members):
        words += "; monitor.csv: since the end of the first episode"
    ours = [run for run in members if run.ours]
    if any("TimeSave" in run.names for run in ours):
        words += "; since training began, without the time between a stop and a resume"
    older = [run.label for run in ours if "TimeSave" not in run.names]
    if older:
        where = "" if len(older) == len(members) else f" in {runs.shortened(older, 3)}"
        words += f"; collecting, updating and evaluating only, without saving{where}"
    return words


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
        lines += ["", *[f"- {_pair_words(pair)}".replace("\n", ";") for pair in result.pairs]]
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
        "pairs": [_pair(pair) for pair in result.pairs],
        "notes": result.notes,
    }
    return json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"


def _pair(pair: Pair) -> dict[str, Any]:
    return vars(pair) | {"probability": _flat(pair.probability), "difference": _flat(pair.difference)}


def _experiment(one: Summary) -> dict[str, Any]:
    seeds = zip(one.runs, one.final.tolist(), one.area.tolist(), strict=True)
    return {
        "name": one.label,
        "n": len(one.runs),
        "final": {name: _flat(value) for name, value in one.aggregates.items()},
        "area_under_curve": _flat(one.area_mean),
        "success": _success(one),
        "threshold": {kind: _speed(speed) for kind, speed in one.speeds.items()},
        "seeds": [
            {"folder": run.label, "seed": run.seed, "state": run.state, "final": final, "area": area}
            for run, final, area in seeds
        ],
    }


def _success(one: Summary) -> dict[str, Any] | None:
    if one.success is None:
        return None
    return {"name": runs.success_words(one.runs), **_flat(one.success), "episodes": one.success_episodes}


def _speed(speed: Speed) -> dict[str, Any]:
    document = {"reached": speed.reached, "share": _flat(speed.share), "median": _flat(speed.median)}
    return document | {"coverage": speed.coverage, "per_seed": speed.per_seed}


def _flat(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _finite(value: Any) -> Any:
    """Return value with null for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
