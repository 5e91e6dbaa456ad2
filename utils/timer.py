"""Seconds by phase: `with timer("collect"): ...`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timer:
    """Adds up the seconds of named phases, and how much of each was spent waiting. Phases may be nested: the seconds of
    an inner one do not count for the outer one.

    Attributes:
        seconds: by phase, since the last `restart`.
        waited: of these, what `waiting` counted; that of an inner phase counts for the outer one too.
    """

    def __init__(self, waiting: Callable[[], float] = lambda: 0.0) -> None:
        """Start at zero; `waiting` returns the seconds that this process has waited so far."""
        self._waiting = waiting
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.waited: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]  # seconds of the phases inside each open one

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what happens in the block for `phase`."""
        start, waited = time.monotonic(), self._waiting()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.monotonic() - start
            own = spent - self._inner.pop()
            self._inner[-1] += spent
            self.seconds[phase] += own
            self.waited[phase] += self._waiting() - waited

    def restart(self, *phases: str) -> None:
        """Forget the seconds of these phases."""
        for phase in phases:
            self.seconds.pop(phase, None)
            self.waited.pop(phase, None)
