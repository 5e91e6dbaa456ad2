"""Play a stage by looking ahead: a search over short manoeuvres, on a console that goes back in microseconds.

What it finds is a teacher. Unlike the ways of `explore`, which are nearly random, it plays as one who knows the game:
fast to the right, a jump where one is needed, and from wherever a disturbance has put Mario. A network can copy that
(`scripts.teach`), and PPO goes on from there.

The search is A* with a weighted estimate (Pohl 1970), as Baumgarten's agent that won the Mario AI competition of 2009
(Togelius, Karakovskiy and Baumgarten 2010): the cost is decisions, the estimate is the ground that is left over Mario's
speed. There the game was a Java clone whose physics the agent knew; here the console itself is the model.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from envs.mario import demonstrations, rules, stages
from envs.mario.actions import BUTTONS
from envs.mario.curriculum import Position, Way, position
from envs.mario.demonstrations import Demonstration
from envs.mario.explore import disturb
from envs.mario.native_game import FLAG, NativeBackend
from envs.mario.rules import RAM

AHEAD = 350.0  # pixels of new ground that a plan must gain
LEAST = 12  # decisions of a plan that may be left before the next one is made: one bad moment ahead is still seen
HOPELESS = 6  # a plan shorter than this leads nowhere
SPEED = 10.0  # pixels of a decision of four frames, running
WEIGHT = 2.0  # of the estimate; 1 would find the shortest plan, above it the first good one
EXPANSIONS, FEW_EXPANSIONS = 120, 40  # of one search; of one for a way on from the wrong floor of a maze
FALL = 14  # decisions after which a jump that has not landed is looked at as it is
LOSS = 16.0  # pixels that a plan may lead back in the end
STEP_X, STEP_Y, STEP_TIME = 8, 16, 6  # pixels and decisions within which two moments count as the same
CELL_X, CELL_Y = 16, 24  # pixels of a place in a maze
MOST_GROUND = 50.0  # pixels that one step of a way through a maze counts as: it may be sent back, or enter a pipe
MAZE_AHEAD = 250.0  # instead of AHEAD: ways through mazes are not straight
SKIPPED = 200.0  # pixels of a way that may be left out: more is another floor of the maze

_RIGHT, _LEFT, _B, _A = (BUTTONS[name] for name in ("right", "left", "B", "A"))
_RUN, _LEAP, _JUMP = _RIGHT | _B, _RIGHT | _A | _B, _RIGHT | _A
_FLOAT, _SWIMMING, _AREA = RAM["player_float_state"], RAM["swimming"], RAM["area_data_low"]
_LOOPS = RAM["loop_command"]
_PAGE, _X, _Y = RAM["player_page"], RAM["player_x"], RAM["player_y"]
_Y_PAGE, _STATE = RAM["player_y_page"], RAM["player_state"]
_BELOW, _DYING = 1, (0x06, 0x0B)


class Manoeuvre(NamedTuple):
    """Buttons held for some decisions and then, for a jump, other ones until Mario lands.

    Attributes:
        held: controller byte of each decision.
        falling: controller byte of every decision until he lands, None where it ends with `held`.
    """

    held: tuple[int, ...]
    falling: int | None = None

    @property
    def buttons(self) -> set[int]:
        """All controller bytes that it needs."""
        return {*self.held, *(() if self.falling is None else (self.falling,))}


def _leaps(up: int, down: int, lengths: Sequence[int]) -> tuple[Manoeuvre, ...]:
    return tuple(Manoeuvre((up,) * n, down) for n in lengths)


# Earlier ones are preferred where two lead as far: the same moment is then played in the same way.
GROUND = (
    Manoeuvre((_RUN,) * 2),
    *_leaps(_LEAP, _RUN, (1, 3, 5, 8)),
    *_leaps(_JUMP, _RIGHT, (2, 5, 8)),
    *_leaps(_A, _RIGHT, (8,)),
    Manoeuvre((0,) * 3),
    Manoeuvre((_LEFT,) * 4),
    Manoeuvre((_RIGHT,) * 2),
    Manoeuvre((BUTTONS["down"],) * 4),
)
AIR = tuple(Manoeuvre((byte,) * 2) for byte in (_RUN, 0, _LEFT, _RIGHT, _LEAP))
WATER = (
    Manoeuvre((_JUMP, _RIGHT, _RIGHT, _RIGHT)),
    Manoeuvre((_JUMP, _JUMP)),
    Manoeuvre((_RIGHT,) * 4),
    Manoeuvre((_A, 0, 0)),
    Manoeuvre((0,) * 3),
    Manoeuvre((_LEFT,) * 3),
    Manoeuvre((_LEFT | _A,) * 2),
)


class Node(NamedTuple):
    """A moment of the search."""

    state: bytes
    plan: tuple[int, ...]  # controller bytes of the decisions since the root
    far: float
    resting: bool  # whether Mario stands or swims, so that the plan may end here


class Corridor:
    """How far along a way through a maze a place is, in pixels of the way, its steps back included.

    A maze sends Mario back from a wrong floor: ground counts only where the way itself went. Where it came twice, the
    farther pass counts, unless that leaves out much of the way.
    """

    def __init__(self, steps: Sequence[tuple[Position, int]]) -> None:
        """Args: steps: position and height of each step, in order."""
        self._fars: dict[tuple[int, int, int], list[float]] = {}
        last, self.length = steps[0][0], 0.0
        for where, y in steps:
            changed = where.area != last.area
            self.length += MOST_GROUND if changed else min(MOST_GROUND, abs(where.x - last.x))
            last = where
            for dx, dy in itertools.product((-1, 0, 1), repeat=2):
                cell = (where.area, where.x // CELL_X + dx, y // CELL_Y + dy)
                self._fars.setdefault(cell, []).append(self.length)

    def far(self, where: Position, y: int, before: float) -> float | None:
        """Return how far along the way a place is, coming from `before`; None where the way does not come."""
        fars = self._fars.get((where.area, where.x // CELL_X, y // CELL_Y), [])
        return max((far for far in fars if far <= before + SKIPPED), default=None)


class Planner:
    """Knows what to press at any moment of one stage, as long as it is told what was pressed.

    Attributes:
        far: how far along the way the present moment is, in pixels of new ground.
        length: of the whole way.
        hopeless: whether the last search found no way on.
    """

    def __init__(self, env_id: str, buttons: Sequence[int], skip: int = 4, way: Demonstration | None = None) -> None:
        """Prepare to play.

        Args:
            env_id: one stage.
            buttons: controller bytes that may be pressed.
            skip: frames of a decision.
            way: along which ground is measured; the shipped one if left out.

        Raises:
            ValueError: the id is not one stage of Mario, or nothing can be pressed that leads on.
        """
        game = stages.parse(env_id)
        if game is None or game.target is None:
            raise ValueError(f"env: {env_id!r}, expected one stage of Mario such as SuperMarioBros-1-1-v0")
        self._buttons, allowed = list(buttons), set(buttons)
        self._ground, self._air, self._water = (
            [m for m in known if m.buttons <= allowed] for known in (GROUND, AIR, WATER)
        )
        if not {_RIGHT, _JUMP} <= allowed:
            raise ValueError(f"actions: {sorted(allowed)}, expected at least {_RIGHT} (right) and {_JUMP} (right, A)")
        self._console = NativeBackend(game, game.target)
        self._ram = self._console.ram.data  # its elements are Python's own numbers
        self._skip = skip
        demonstration = way or demonstrations.read(demonstrations.SHIPPED / demonstrations.file_name(env_id))
        steps, maze = self._steps(demonstration)
        self._way: Way | Corridor
        self._way = self._straight = Way([where for where, _ in steps])
        if maze:
            self._way = Corridor(steps)
        self.length = self._way.length
        self.begin(b"")

    def _steps(self, demonstration: Demonstration) -> tuple[list[tuple[Position, int]], bool]:
        """Return position and height at each step of a demonstration, and whether it leads through a maze."""
        self._console.reset()
        held = [(byte, 1) for byte in demonstration.start]
        held += [(byte, demonstration.skip) for byte in demonstration.buttons]
        found, maze = [], False
        for byte, frames in held:
            maze |= self._ram[_LOOPS] > 0
            if (where := position(self._ram)) is not None:
                found.append((where, self._height()))
            self._console.hold(byte, frames)
        return found, maze

    def begin(self, start: bytes) -> None:
        """Begin an episode, after frames with these controller bytes."""
        self._console.reset()
        for byte in start:
            self._console.hold(byte, 1)
        self._plan: list[int] = []
        self._disturbed = self.hopeless = False
        self.far = 0.0

    def advise(self) -> int:
        """Return the controller byte for the next decision."""
        self.far = self._far(self.far, self._way)
        if self._disturbed and not self._holds(self._plan):
            self._plan = []
        if not self._plan or (len(self._plan) < LEAST and not self.hopeless):
            found = [] if self._astray() else self._search(self._way)
            if len(found) < HOPELESS and self._way is not self._straight:
                found = self._search(self._straight)
            self.hopeless = len(found) < HOPELESS
            self._plan = found or self._plan or [self._ground[0].held[0]] * HOPELESS
        self._disturbed = False
        return self._plan[0]

    def follow(self, frames: Sequence[int]) -> bool:
        """Play a decision of which every frame's controller byte is given, as advised or not.

        Returns:
            whether the episode is over.
        """
        advised = self._plan.pop(0) if self._plan else None
        for byte in frames:
            self._disturbed |= byte != advised
            if self._console.hold(byte, 1):
                return True
        return False

    def play(self, seed: int, start_frames: int, most: int) -> tuple[bytes, bytes]:
        """Play an episode as advised, after up to `start_frames` frames of random buttons, which the seed draws.

        Returns:
            the controller bytes of these frames, and that of each decision; none of the latter where it does not come
            to the flag in `most` of them.
        """
        self._console.reset()
        self.begin(start := disturb(self._console, self._buttons, seed, start_frames))
        pressed: list[int] = []
        while len(pressed) < most:
            pressed.append(self.advise())
            if self.follow([pressed[-1]] * self._skip):
                return start, bytes(pressed) if rules.decode(self._console.judged).flag_get else b""
        return start, b""

    # Looking ahead ----------------------------------------------------------------------------------------------------

    def _search(self, way: Way | Corridor) -> list[int]:
        """Return the controller bytes of a plan from the present moment on, the best known where none is good."""
        console, root = self._console, self._console.save()
        far = self.far if way is self._way else self._far(0.0, way)
        goal, best = far + (MAZE_AHEAD if isinstance(way, Corridor) else AHEAD), Node(root, (), far, False)
        order, seen = itertools.count(), set()
        heap = [(0.0, next(order), best)]
        for _ in range(EXPANSIONS if way is self._way else FEW_EXPANSIONS):
            if not heap:
                break
            node = heapq.heappop(heap)[-1]
            for child, ended in self._children(node, way):
                if ended:
                    console.load(root)
                    return list(child.plan)
                key = (*self._place(), len(child.plan) // STEP_TIME)
                if key in seen:
                    continue
                seen.add(key)
                if child.resting and child.far > best.far:
                    best = child
                cost = len(child.plan) + WEIGHT * (goal - child.far) / SPEED
                heapq.heappush(heap, (cost, next(order), child))
            if best.far >= goal:
                break
        console.load(root)
        return list(best.plan)

    def _children(self, node: Node, way: Way | Corridor) -> Iterator[tuple[Node, bool]]:
        """Try all manoeuvres at a moment; yield where Mario survives, the console being there, and if it is the flag.

        The console must be left as it was found, or at a moment that was saved.
        """
        console, ram = self._console, self._ram
        console.load(node.state)
        known = self._water if ram[_SWIMMING] else self._ground if ram[_FLOAT] == 0 else self._air
        for manoeuvre in known:
            console.load(node.state)
            pressed, ended = self._perform(manoeuvre)
            if ended == FLAG:
                yield Node(b"", (*node.plan, *pressed), node.far, True), True
            elif not ended and not self._dying():
                resting = ram[_FLOAT] == 0 or ram[_SWIMMING] > 0
                yield Node(console.save(), (*node.plan, *pressed), self._far(node.far, way), resting), False

    def _perform(self, manoeuvre: Manoeuvre) -> tuple[list[int], int]:
        """Play a manoeuvre; return what was pressed and, if the episode ended, how (see `NativeBackend.hold`)."""
        pressed: list[int] = []
        falls = manoeuvre.falling is not None
        for byte in manoeuvre.held:
            pressed.append(byte)
            ended = self._console.hold(byte, self._skip)
            if ended or (falls and len(pressed) > 1 and self._ram[_FLOAT] == 0):
                return pressed, ended
        for _ in range(FALL if falls else 0):
            pressed.append(manoeuvre.falling or 0)
            ended = self._console.hold(pressed[-1], self._skip)
            if ended or self._ram[_FLOAT] == 0:
                return pressed, ended
        return pressed, 0

    def _holds(self, plan: Sequence[int]) -> bool:
        """Return whether a plan can be kept from the present moment on."""
        console, root, ended = self._console, self._console.save(), 0
        for byte in plan:
            ended = console.hold(byte, self._skip)
            if ended or self._dying():
                break
        kept = ended == FLAG or (not ended and not self._dying() and self._far(self.far, self._way) > self.far - LOSS)
        console.load(root)
        return kept

    def _far(self, before: float, way: Way | Corridor) -> float:
        where = position(self._ram)
        if where is None:
            return before
        found = way.far(where) if isinstance(way, Way) else way.far(where, self._height(), before)
        return before if found is None else found

    def _astray(self) -> bool:
        """Return whether Mario stands on a wrong floor of a maze. Going on is the way out: he is sent back."""
        where, way = position(self._ram), self._way
        if isinstance(way, Way) or where is None or self._ram[_FLOAT]:
            return False
        return way.far(where, self._height(), self.far) is None

    def _height(self) -> int:
        return 256 * self._ram[_Y_PAGE] + self._ram[_Y]

    def _place(self) -> tuple[int, int, int]:
        ram = self._ram
        return ram[_AREA], (256 * ram[_PAGE] + ram[_X]) // STEP_X, ram[_Y] // STEP_Y

    def _dying(self) -> bool:
        return self._ram[_Y_PAGE] > _BELOW or self._ram[_STATE] in _DYING
