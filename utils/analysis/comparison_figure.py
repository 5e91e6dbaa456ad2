"""A comparison as figures: estimates with intervals, performance profiles and probabilities of improvement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.analysis import figures, stats
from utils.analysis.comparison import Comparison, Pair
from utils.analysis.comparison_text import NAMES, count_words

BAR: dict[str, Any] = {"linewidth": 7, "solid_capstyle": "butt"}  # of an interval


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
    top.supxlabel(f"Final {result.column.axis.lower()}", fontsize=9)
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
    parts: list[tuple[str, Figure]] = []
    for name in ("iqm", "mean", "gap"):
        if name in result.summaries[0].aggregates:
            figure = Figure(figsize=(4.3, 1.1 + 0.42 * len(result.summaries)), layout="constrained")
            axes = figure.subplots()
            _intervals(axes, result, name)
            _experiments(axes, result)
            figure.supxlabel(f"Final {result.column.axis.lower()}", fontsize=8)
            parts.append((f"{NAMES[name]} of the final performance with 95% intervals; dots are seeds", figure))
    figure = Figure(figsize=(4.3, 3.0), layout="constrained")
    axes = figure.subplots()
    _profiles(axes, result)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, fontsize=7)
    parts.append(("Performance profiles: share of seeds above each score, with 95% bands", figure))
    if result.pairs:
        shown = result.pairs[:12]
        figure = Figure(figsize=(4.3, 1.2 + 0.5 * len(shown)), layout="constrained")
        _chances(figure.subplots(), shown)
        parts.append(("Probability that a seed of the first beats one of the second, with 95% intervals", figure))
    return parts


def _experiments(axes: Axes, result: Comparison) -> None:
    """Name the experiments along the y axis, the first at the top."""
    names = [figures.wrapped(f"{one.label} (n={count_words(one)})", 26) for one in result.summaries]
    axes.set_yticks(range(len(names)), names, fontsize=8 if all("\n" not in name for name in names) else 7)
    axes.set_ylim(len(names) - 0.45, -0.5)


def _intervals(axes: Axes, result: Comparison, name: str) -> None:
    """Draw one estimate of every experiment, with its interval; single seeds as dots below the mean."""
    for place, one in enumerate(result.summaries):
        colour = figures.look(place)["color"]
        estimate = one.aggregates[name]
        if not math.isnan(estimate.low):
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, alpha=0.35, **BAR)
        axes.plot([estimate.value] * 2, [place - 0.28, place + 0.28], color=colour, linewidth=2)
        if name == "mean":
            heights = np.full(len(one.final), place + 0.36)
            axes.plot(one.final, heights, ".", color=colour, markersize=4, alpha=0.8)
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
    axes.set_xlabel(f"Score \N{GREEK SMALL LETTER TAU}, {result.column.axis.lower()}")
    axes.set_ylabel("Share of seeds above \N{GREEK SMALL LETTER TAU}")
    axes.set_ylim(-0.03, 1.03)
    axes.set_title("Performance profiles")


def _chances(axes: Axes, pairs: Sequence[Pair]) -> None:
    for place, pair in enumerate(pairs):
        chance = pair.probability
        axes.plot([chance.low, chance.high], [place, place], color=figures.INK, alpha=0.3, **BAR)
        axes.plot([chance.value] * 2, [place - 0.28, place + 0.28], color=figures.INK, linewidth=2)
    axes.axvline(0.5, color=figures.INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(pairs)), [f"{pair.a}\n> {pair.b}" for pair in pairs], fontsize=7)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("P(a seed of the first beats\none of the second)")
    axes.set_title("Probability of improvement")
    axes.grid(visible=False, axis="y")
