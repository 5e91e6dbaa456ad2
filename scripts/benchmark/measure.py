"""Measurements in turn: the same work by several parties, A B A B ..., so that a slow moment affects all of them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    """What one party reached, over the rounds."""

    section: str
    what: str  # the work
    who: str
    unit: str
    median: float
    low: float  # quartiles
    high: float
    rounds: int
    ratio: float | None = None  # how many times better than the row's peer, by the medians
    peer: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON can hold them."""
        return asdict(self)


def figures(
    section: str, what: str, unit: str, values: dict[str, list[float]], *, ours: str, smaller_is_better: bool = False
) -> list[Figure]:
    """Return a figure for each party.

    Args:
        values: what each party measured, one number a round.
        ours: whose figure gets a ratio to each of the others, in the row of that other one.
    """
    mine = float(np.median(values[ours]))
    rows = []
    for who, numbers in values.items():
        low, median, high = (float(x) for x in np.percentile(numbers, [25, 50, 75]))
        ratio = None if who == ours else median / mine if smaller_is_better else mine / median
        rows.append(Figure(section, what, who, unit, median, low, high, len(numbers), ratio, ours if ratio else None))
    return rows


def in_turn(parties: dict[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Call every party once per round and return their results, after `warm_up` calls each that do not count."""
    for party in list(parties.values()) * warm_up:
        party()
    values: dict[str, list[float]] = {who: [] for who in parties}
    for _ in range(rounds):
        for who, party in parties.items():
            values[who].append(party())
    return values


def rate(work: Callable[[], None], amount: float, seconds: float) -> Callable[[], float]:
    """Return a party that repeats `work` for about `seconds` and returns amounts per second."""

    def measured() -> float:
        start, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds or not done:
            work()
            done += 1
        spent = time.perf_counter() - start
        return amount * done / spent

    return measured


@contextmanager
def apart(make: Callable[..., Callable[[], float]], *args: Any) -> Iterator[Callable[[], float]]:
    """Provide a party in a process of its own, which is unaffected by this one's settings (memory, threads).

    Args:
        make: called there with `args`, all of which can be pickled; returns the party.

    Raises:
        ValueError: the party failed; with what it raised.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, args))
    process.start()
    there.close()

    def party() -> float:
        try:
            here.send("measure")
            answer = here.recv()
        except (EOFError, OSError):
            raise ValueError(f"the process of {make.__name__} ended early") from None
        if isinstance(answer, str):
            raise ValueError(f"{make.__name__} failed: {answer}")
        return float(answer)

    try:
        yield party
    finally:
        here.close()
        process.join()


def _serve(connection: Any, make: Callable[..., Callable[[], float]], args: tuple[Any, ...]) -> None:
    party = None
    while True:
        try:
            connection.recv()
        except EOFError:  # the other end is closed
            break
        try:
            party = party or make(*args)
            connection.send(party())
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")


def table(rows: list[Figure]) -> str:
    """Return the figures as text, a block per section and a line per party."""
    lines: list[str] = []
    section = what = ""
    for row in rows:
        if row.section != section:
            lines += ["", row.section, "-" * len(row.section)]
        if row.section != section or row.what != what:
            lines.append(f"{row.what}, {row.unit}")
        section, what = row.section, row.what
        spread = f"({_number(row.low)} - {_number(row.high)})"
        ratio = f"{row.peer} is {row.ratio:.2f}x" if row.ratio is not None else ""
        lines.append(f"    {row.who:<44} {_number(row.median):>9}  {spread:<22} {ratio}".rstrip())
    return "\n".join(lines[1:])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
