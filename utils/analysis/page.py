"""The report: one page that can be mailed, with curves, comparison, videos, settings and machines of experiments.

The same folders give the same page. `markup.py` has what keeps a stranger's words from becoming part of it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

from utils import columns
from utils.analysis import (
    by_part,
    comparison,
    comparison_figure,
    comparison_text,
    experiments,
    figures,
    learning_curves,
    markup,
    runs,
    videos,
)
from utils.analysis.experiments import Group, counted
from utils.analysis.markup import picture, table, text
from utils.analysis.runs import LoggedRun
from utils.analysis.untrusted import object_and_note
from utils.columns import EVALUATIONS, STEPS, Column

# The report explains these where a run has them; `columns` has the words.
DIAGNOSTICS = ("KL", "Entropy", "ClipFrac", "ExplainedVariance", "StepsPerSecond", "LossV", "GradNormPi")
MOST_ROWS = 300  # of a table of settings
MOST_CURVES = 12


def what_was_run(groups: Sequence[Group]) -> str:
    """Return the differences between the experiments first, then what they share."""
    differing = experiments.differences([group.runs[0] for group in groups])
    heading = ["experiment", "seeds", "state", "steps", *[name.removeprefix("spec.") for name in differing]]
    rows: list[list[object]] = [[*heading]]
    for group in groups:
        own = experiments.settings(group.runs[0])
        values = [own.get(name, "-") for name in differing]
        rows.append([group.label, len(group.runs), _states(group), _reach(group), *values])
    first = experiments.settings(groups[0].runs[0])
    shared = [(name, value) for name, value in sorted(first.items()) if name not in differing]
    listed = shared[:MOST_ROWS] + ([("...", f"{len(shared) - MOST_ROWS} more")] if len(shared) > MOST_ROWS else [])
    common = table([["setting", "value"], *listed], free=[1]) if shared else "<p>none recorded</p>"
    alike = "" if differing or len(groups) == 1 else "<p class='dim'>No setting differs between these experiments.</p>"
    return table(rows) + alike + f"<details><summary>Settings in common ({len(shared)})</summary>{common}</details>"


def _states(group: Group) -> str:
    states = [run.state or "not told" for run in group.runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _reach(group: Group) -> str:
    last = [float(x[-1]) for x in (run.rows(STEPS) for run in group.runs) if len(x)]
    if not last:
        return "-"
    low, high = runs.compact(min(last)), runs.compact(max(last))
    return high if min(last) == max(last) else f"{low}..{high}"


def curves(groups: Sequence[Group], names: Sequence[str], y: str, smooth: int) -> tuple[str, list[str]]:
    """Return a figure for each column that has rows, and the notes on y."""
    parts: list[str] = []
    notes: list[str] = []
    for name in names:
        drawn = _curve(groups, name, smooth)
        if drawn is not None:
            parts.append(picture(drawn[0], f"{_column(groups, name).axis} over {_column(groups, STEPS).axis}"))
            notes += drawn[1] if name == y else []
    if not parts:
        return "<p>No rows to draw yet.</p>", notes
    words = "Lines: mean over n seeds. Bands: pointwise 95% bootstrap intervals over seeds, none for one seed."
    words += f" Smoothed over {smooth} rows." if smooth > 1 else ""
    return f"<p class='dim'>{words}</p><div class='grid'>{''.join(parts)}</div>", notes


def _column(groups: Sequence[Group], name: str) -> Column:
    return columns.find_column(name, runs.own_columns(run for group in groups for run in group.runs))


def _curve(groups: Sequence[Group], column: str, smooth: int) -> tuple[Figure, list[str]] | None:
    """Return the figure of one column and its notes, None where no run has rows of it."""
    if not any(len(run.series(STEPS, column)[0]) >= 2 for group in groups for run in group.runs):
        return None
    with figures.style():
        try:
            options = learning_curves.Options(y=(column,), smooth=smooth, small=True)
            return learning_curves.draw(groups, options, caption=False)
        except ValueError:  # rows, but no common range
            return None


def comparison_section(result: comparison.Comparison | None, refusal: str) -> str:
    """Return the verdicts, the figures of intervals and the tables; or why there is no comparison."""
    if result is None:
        return f"<p class='warn'>Not compared: {text(refusal)}</p>"
    verdicts = "".join(f"<li class='verdict'>{text(pair.verdict)}</li>" for pair in result.pairs[:20])
    with figures.style():
        drawn = comparison_figure.draw_apart(result)
    shown = f"<div class='grid'>{''.join(picture(figure, what, what) for what, figure in drawn)}</div>"
    chances = [["first", "second", "P(first > second)", "difference of means", "conclusion"]]
    for pair in result.pairs:
        numbers = [comparison_text.written(pair.probability), comparison_text.written(pair.difference)]
        chances.append([pair.a, pair.b, *numbers, pair.verdict])
    notes = "".join(f"<li>{text(note)}</li>" for note in comparison_text.footnotes(result))
    pairs = table(chances, free=[4]) if result.pairs else ""
    return f"<ul>{verdicts}</ul>{shown}{table(comparison_text.rows(result))}{pairs}<ul class='dim'>{notes}</ul>"


def per_seed(groups: Sequence[Group], result: comparison.Comparison | None, y: str) -> str:
    """Return one row for each run."""
    finals = {}
    if result is not None:
        finals = {id(run): v for one in result.summaries for run, v in zip(one.runs, one.final, strict=True)}
    every = [run for group in groups for run in group.runs]
    success = runs.success_words(every)
    rows = [["run", "seed", "state", "steps", "h:mm:ss", "final", "best row", success, "steps/s"]]
    rows += [_seed_row(run, y, finals.get(id(run), math.nan)) for run in every]
    used = [column for column in range(len(rows[0])) if any(row[column] != "-" for row in rows[1:])]
    last = f"{success.capitalize()} and speed" if success else "Speed"
    words = f"h:mm:ss: {comparison_text.time_words(every)}. {last}: last row. Final: as compared above."
    return table([[row[column] for column in used] for row in rows]) + f"<p class='dim'>{text(words)}</p>"


def _seed_row(run: LoggedRun, y: str, final: float) -> list[str]:
    rows, success = run.series(STEPS, y)[1], runs.success_column(run)
    return [
        run.label,
        run.seed or "-",
        run.state or "not told",
        runs.compact(_last(run, STEPS)),
        comparison_text.clock(_last(run, "Time") / 3600),
        comparison_text.number(final),
        comparison_text.number(float(rows.max()) if len(rows) else math.nan),
        "-" if success is None else f"{100 * _last(run, success.name):.3g}%",
        comparison_text.number(_last(run, "StepsPerSecond")),
    ]


def _last(run: LoggedRun, column: str) -> float:
    values = run.series(STEPS, column)[1]
    return float(values[-1]) if len(values) else math.nan


def diagnostics(groups: Sequence[Group], smooth: int) -> str:
    """Return a figure with an explanation for each diagnostic column that the runs have."""
    parts = []
    for name in DIAGNOSTICS:
        drawn = _curve(groups, name, smooth)
        if drawn is not None:
            column = columns.PROGRESS[name]
            shown = picture(drawn[0], f"{column.label} over environment steps", column.look_for)
            parts.append(f"<div><h3>{html.escape(column.label)}</h3>{shown}</div>")
    return f"<div class='grid'>{''.join(parts)}</div>" if parts else "<p>The logs hold no diagnostic columns.</p>"


def system(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """Return what the runs were made with, a table for each machine and set of versions, and notes."""
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    notes: list[str] = []
    for run in (run for group in groups for run in group.runs):
        document, note = object_and_note(run.path / "system.json")
        notes += [f"{run.label}: {note}"] if note else []
        facts = dict(_facts(document))
        facts |= {key: str(run.config[key]) for key in ("commit", "world_size") if key in run.config}
        seen.setdefault(tuple(sorted(facts.items())[:MOST_ROWS]), []).append(run.label)
    parts = []
    for entry, labels in seen.items():
        rows = [["what", "value"], *entry] if entry else [["what", "value"], ["system.json", "none"]]
        who = "all runs" if len(seen) == 1 else runs.shortened(labels)
        parts.append(f"<h3>{text(who)}</h3>{table(rows, free=[1])}")
    return "".join(parts), notes


def _facts(document: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield what system.json says, flat, but for host and command: the page is made to be mailed."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _facts(value, f"{prefix}{key} ")
        elif key not in ("host", "hostname", "command"):
            yield f"{prefix}{key}", str(value)


def curve_columns(groups: Sequence[Group], y: str) -> list[str]:
    """Return the columns that the page draws: y, those of the families, what evaluations and tests say of success, and
    the length of episodes."""
    every = [run for group in groups for run in group.runs]
    successes = [name for name, column in runs.own_columns(every).items() if column.success]
    evaluated = [f"{kind}{name}" for name in successes for kind in EVALUATIONS]
    own = [name for name in (*runs.own_columns(every), *evaluated) if any(name in run.names for run in every)]
    return list(dict.fromkeys([y, *own, "EpLen"]))[:MOST_CURVES]


def page(
    groups: Sequence[Group],
    notes: Sequence[str],
    *,
    title: str,
    y: str = runs.PERFORMANCE,
    smooth: int = 1,
    threshold: float | None = None,
    target: float | None = None,
    mixed: bool = False,
) -> str:
    """Return the whole document.

    Args:
        groups: the experiments, with all columns.
        notes: on how they were grouped.
        title: of the page.
        y: the column that is compared.
        smooth: rows of the window over which curves are averaged.
        threshold, target, mixed: see `comparison.compare`.
    """
    result, refusal = None, ""
    try:
        result = comparison.compare(groups, y, threshold=threshold, target=target, mixed=mixed)
    except ValueError as error:
        refusal = str(error)
    drawn, curve_notes = curves(groups, curve_columns(groups, y), y, smooth)
    films, left_out = videos.videos(groups)
    machines, unread = system(groups)
    parts, uncounted = by_part.section(groups)
    own_notes = [note for group in groups for note in group.notes()]
    remarks = dict.fromkeys([*notes, *own_notes, *curve_notes, *left_out, *unread, *uncounted])
    sections = [
        ("run", "What was run", what_was_run(groups)),
        ("curves", "Learning curves", drawn),
        ("comparison", "Comparison", comparison_section(result, refusal)),
        ("parts", "Parts of the game", parts),
        ("videos", "Videos", films),
        ("seeds", "Every seed", per_seed(groups, result, y)),
        ("diagnostics", "Diagnostics", diagnostics(groups, smooth)),
        ("system", "System and versions", machines),
        ("notes", "Notes on the data", "".join(f"<p class='warn'>{text(note)}</p>" for note in remarks)),
    ]
    return markup.document(title, counted(groups), sections)
