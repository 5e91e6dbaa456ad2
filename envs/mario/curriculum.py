"""Where along the ways through a stage the next episode starts: at the frontier of what the policy can do.

Episodes that start at the stage's start see nothing of what comes after the first obstacle. So they start at saved
moments along ways that were found before, most of them where the policy fails (Florensa et al. 2017, "Reverse
Curriculum Generation"; Salimans and Chen 2018, "Learning Montezuma's Revenge from a Single Demonstration"). Three
things differ from those papers, each because it was needed here:

- Success is to reach a near place ahead, not the flag: over forty obstacles the flag says nothing about one of them.
  How far ahead adapts to the place: farther where the policy succeeds, at last the flag, nearer where it fails.
- A place is the more probable the more failures it has per place of that distance. Weights such as r (1 - r) give the
  hardest places the fewest starts, and those then stay hard.
- A start at a place that reaches its goal is cut there (truncated: the critic's value stands for the rest), so that
  the steps go where they are needed. What follows has starts of its own. Episodes from the stage's start are never cut.

Everything here is a function of the finished episodes, in an order that all ranks share, so all ranks draw from the
same weights whatever their number.

A position is (area, x); how far along the way it is (`Way`) counts pixels of new ground, area after area.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from envs.mario.rules import RAM

SPAN = 100.0  # pixels of a place
ENTRY = 50.0  # pixels that entering a new area counts as
NEAR = 4  # places to the goal, at first and at least
GROW, SHRINK = 0.8, 0.25  # success rates above and below which a goal moves
STEP = 1.5  # factor by which it does
TRIALS = 10.0  # that a place needs before its goal moves
KEEP = 0.75  # share of the counts that is left after an epoch: the policy has become another one
MOVED_KEEP = 0.25  # and after a goal has moved
FLOOR = 0.05  # weight of a place that never fails; 1 is that of one that always does
LEAST_START, MOST_START = 0.15, 0.9  # share of the episodes from the stage's start: before it was cleared, and always
NEVER = 1e9  # a goal that only the flag is
CENSORED = ("goal", "step_limit")  # causes of ends that are no failures

_PAGE, _X, _STATE = RAM["player_page"], RAM["player_x"], RAM["player_state"]
_LOW, _HIGH = RAM["area_data_low"], RAM["area_data_high"]  # `area_pointer` is that of the next pipe where one is near
_PASSED, _CORRECT = RAM["loop_pass_count"], RAM["loop_correct_count"]
_NORMAL = 8  # of player_state: neither dying nor in a pipe


class Position(NamedTuple):
    """Where Mario is."""

    area: int
    x: int


def position(ram: memoryview) -> Position | None:
    """Return where Mario is; None while he is dying, in a pipe, or on a floor from which a maze leads back."""
    if ram[_STATE] != _NORMAL or ram[_PASSED] != ram[_CORRECT]:
        return None
    return Position(256 * ram[_HIGH] + ram[_LOW], 256 * ram[_PAGE] + ram[_X])


class Way:
    """How far along a way a position is, in pixels of new ground; what a pipe passes over counts as ground."""

    def __init__(self, positions: Sequence[Position]) -> None:
        """Args: positions: along the way, in order, at least one."""
        self._grounds: dict[int, tuple[list[int], list[float]]] = {}  # of each area: x, and how far along that is
        far = 0.0
        for area, x in positions:
            xs, fars = self._grounds.setdefault(area, ([], []))
            if xs and x <= xs[-1]:
                continue
            if xs:
                far += x - xs[-1]
            elif len(self._grounds) > 1:
                far += ENTRY
            xs.append(x)
            fars.append(far)
        self.length = far

    def far(self, position: Position | None) -> float | None:
        """Return how far along the way a position is, 0 to `length`; None where the way does not come."""
        if position is None or position.area not in self._grounds:
            return None
        return float(np.interp(position.x, *self._grounds[position.area]))


class Curriculum:
    """Places along the ways, what the policy can do from each, and the draw of the next start.

    Attributes:
        way: what distances are measured along.
        members: of each place, the numbers of the moments in it.
        trials, successes: of each place, counts that fade.
        reach: of each place, how many places ahead its goal is.
        starts, clears: episodes from the stage's start and those of them that cleared it, counts that fade.
    """

    def __init__(self, moments: Sequence[tuple[int, Position | None]]) -> None:
        """Arrange moments.

        Args:
            moments: decision number and position of each, way after way, each way in order: where the decision number
                does not grow, another way begins. Distances are measured along the first one.

        Raises:
            ValueError: none of them is a place to start from.
        """
        first = next((k for k in range(1, len(moments)) if moments[k][0] <= moments[k - 1][0]), len(moments))
        known = [where for _, where in moments[:first] if where is not None]
        if not known:
            raise ValueError("start_curriculum: no state in which Mario can move")
        self.way = Way(known)
        count = max(1, int(np.ceil(self.way.length / SPAN)))
        self.members: list[list[int]] = [[] for _ in range(count)]
        for number, (_, where) in enumerate(moments):
            far = self.way.far(where)
            if far is not None:
                self.members[self.place(far)].append(number)
        self.trials, self.successes = [0.0] * count, [0.0] * count
        self.reach = [NEAR] * count
        self.starts = self.clears = 0.0
        self._epoch: dict[str, float] = {}

    def place(self, far: float) -> int:
        """Return the number of the place so far along the way."""
        return min(int(far / SPAN), len(self.members) - 1)

    def goal(self, place: int) -> float:
        """Return how far along the way the goal of a place is, NEVER where it is the flag."""
        ahead = place + self.reach[place]
        return ahead * SPAN if ahead < len(self.members) else NEVER

    def rate(self, place: int) -> float:
        """Return the success rate of a place, between 0 and 1 and one half before anything is known."""
        return (self.successes[place] + 1.0) / (self.trials[place] + 2.0)

    def weights(self) -> np.ndarray:
        """Return the weight of each place in the draw: failures per place on the way to the goal, and a floor."""
        density = [(1.0 - self.rate(k)) * NEAR / self.reach[k] + FLOOR for k in range(len(self.members))]
        return np.array([w if members else 0.0 for w, members in zip(density, self.members, strict=True)])

    @property
    def start_share(self) -> float:
        """Share of the episodes that start at the stage's start: it grows as they clear it."""
        cleared = self.clears / self.starts if self.starts else 0.0
        return LEAST_START + (MOST_START - LEAST_START) * cleared

    def draw(self, draws: np.random.Generator) -> int | None:
        """Return the number of the moment at which an episode starts, None for the stage's start."""
        if draws.random() < self.start_share:
            return None
        bounds = np.cumsum(self.weights())
        place = min(int(np.searchsorted(bounds, draws.random() * bounds[-1], side="right")), len(bounds) - 1)
        return self.members[place][int(draws.integers(len(self.members[place])))]

    def learn(self, records: Sequence[dict[str, Any]]) -> None:
        """Count what finished episodes say about the places that they came through, and move goals.

        Args:
            records: with `start_place` (-1 for the stage's start), `way_begin` and `way_end` (how far along the way an
                episode began and came), `flag` and `cause`; in an order that all ranks share.
        """
        self._fade()
        for record in records:
            for place in range(self.place(record["way_begin"]), self.place(record["way_end"]) + 1):
                reached = record["flag"] or record["way_end"] >= self.goal(place)
                if reached or record["cause"] not in CENSORED:
                    self.trials[place] += 1.0
                    self.successes[place] += float(reached)
        whole = [record for record in records if record["start_place"] < 0]
        self.starts += len(whole)
        self.clears += sum(bool(record["flag"]) for record in whole)
        for place in range(len(self.members)):
            self._move_goal(place)
        self._epoch = self._describe(records, whole)

    def _fade(self) -> None:
        self.trials = [KEEP * count for count in self.trials]
        self.successes = [KEEP * count for count in self.successes]
        self.starts, self.clears = KEEP * self.starts, KEEP * self.clears

    def _move_goal(self, place: int) -> None:
        """Move the goal of a place away where the policy nearly always reaches it, nearer where it seldom does."""
        before, most = self.reach[place], max(NEAR, len(self.members) - place)
        if self.trials[place] < TRIALS:
            return
        if self.rate(place) > GROW:
            self.reach[place] = min(int(np.ceil(STEP * before)), most)
        elif self.rate(place) < SHRINK:
            self.reach[place] = max(int(before / STEP), NEAR)
        if self.reach[place] != before:
            self.trials[place] *= MOVED_KEEP
            self.successes[place] *= MOVED_KEEP

    def _describe(self, records: Sequence[dict[str, Any]], whole: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return the epoch's columns."""
        weights, count = self.weights(), len(self.members)
        hardest = int(np.argmax(weights))
        rates = [self.rate(place) for place in range(count)]
        nan = float("nan")
        return {
            "StartShare": len(whole) / len(records) if records else nan,
            "StartClearRate": float(np.mean([bool(r["flag"]) for r in whole])) if whole else nan,
            "StartFar": float(np.mean([self._share(r) for r in whole])) if whole else nan,
            "Frontier": hardest / count,
            "FrontierRate": rates[hardest],
            "PlaceRate": float(np.mean([rates[k] for k in range(count) if self.members[k]])),
            "GoalFar": float(np.mean([min(r, count - k) / (count - k) for k, r in enumerate(self.reach)])),
        }

    def _share(self, record: dict[str, Any]) -> float:
        return 1.0 if record["flag"] or not self.way.length else min(record["way_end"] / self.way.length, 1.0)

    def columns(self) -> dict[str, float]:
        """Return the columns of progress.txt about the records of the last `learn`."""
        return dict(self._epoch)

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON can hold them, exactly."""
        return {
            "trials": self.trials,
            "successes": self.successes,
            "reach": self.reach,
            "starts": self.starts,
            "clears": self.clears,
        }

    def check(self, state: Any) -> None:
        """Raise ValueError unless `state` is what `state` returns for these places."""
        count = len(self.members)
        good = isinstance(state, dict) and set(state) == set(self.state())
        if good:
            numbers = [*itertools.chain(*(_list(state[n], count) for n in ("trials", "successes", "reach")))]
            numbers += [state["starts"], state["clears"]]
            good = len(numbers) == 3 * count + 2 and all(type(n) in (int, float) and 0 <= n < NEVER for n in numbers)
            good = good and all(type(n) is int and n >= NEAR for n in state["reach"])
        if not good:
            raise ValueError(f"state: its curriculum is not one of {count} places")

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned, which `check` has let pass."""
        self.trials, self.successes = [float(n) for n in state["trials"]], [float(n) for n in state["successes"]]
        self.reach = list(state["reach"])
        self.starts, self.clears = float(state["starts"]), float(state["clears"])


def _list(value: Any, count: int) -> list[Any]:
    """Return a list of this length, or an empty one where `value` is something else."""
    return value if isinstance(value, list) and len(value) == count else []
