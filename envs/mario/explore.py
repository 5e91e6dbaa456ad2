"""Explore a stage without a policy: remember places, return to one of them, play on from there at random.

That is the first phase of Go-Explore (Ecoffet et al. 2021, "First return, then explore", Nature 590, Methods), on the
game's memory instead of its picture: a place is a cell of 16 x 16 pixels of the level, with the counters of the mazes
beside it. A state is restored in microseconds, so a stage takes seconds. What comes out is a way to the flag as
buttons (see `envs.mario.demonstrations`), and places where training can start its episodes (`start_states`): a policy
that only ever fails at one place never sees what comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs.family import SKIP
from envs.mario import stages
from envs.mario.actions import ACTION_SETS, button_byte, resolve
from envs.mario.native_game import FLAG, NativeBackend
from envs.mario.options import START_FRAMES
from envs.mario.rules import RAM
from utils.seeding import Purpose, generator

# Beside the simple set: down enters a pipe, and left with A is needed to come back under the pipes of 8-4.
ACTIONS = [*ACTION_SETS["simple"], ["down"], ["left", "A"]]
ROLLOUT = 40  # decisions played from a place before the next one is chosen
REPEAT = 0.7  # probability that a decision repeats the last action: a jump is a button held for many decisions
NEWEST, NEWEST_SPAN = 0.5, 20.0  # share of the returns that go to one of the newest places, and how many those are
SHORTER = 0.8  # a place's way is replaced by one that takes less than this share of its decisions
CELL, WATER_CELL = 16, 32  # pixels of the level; under water Mario is a place wherever he swims
_WHERE = tuple(RAM[n] for n in ("world", "stage", "area_pointer", "loop_correct_count", "loop_pass_count"))
_PAGE, _X, _Y, _Y_PAGE = RAM["player_page"], RAM["player_x"], RAM["player_y"], RAM["player_y_page"]
_STATE, _FLOAT, _SWIMMING = RAM["player_state"], RAM["player_float_state"], RAM["swimming"]
GROUND, NORMAL, ON_SCREEN = 0, 8, 1  # of player_float_state, player_state and player_y_page


@dataclass(eq=False)
class Place:
    """A moment at which Mario stands on the ground or swims, and how it was reached.

    Attributes:
        state: of the console, for `NativeBackend.load`.
        x: Mario's, in pixels from the start of the area.
        depth: decisions from the start of the stage.
        origin: the place that was returned to when this one was found; None is the start of the stage.
        buttons: controller byte of each decision since `origin`.
        visits: how often it was returned to since something new was found from it.
    """

    state: bytes
    x: int
    depth: int = 0
    origin: Place | None = None
    buttons: bytes = b""
    visits: int = 0

    def way(self) -> bytes:
        """Return the controller byte of each decision from the start of the stage to here."""
        parts, place = [], self
        while place.origin is not None:
            parts.append(place.buttons)
            place = place.origin
        return b"".join(reversed(parts))


@dataclass
class Exploration:
    """What was found.

    Attributes:
        places: in the order of their discovery, the start of the stage first.
        buttons: the way to the flag, one controller byte for each decision; empty if it was not reached.
        start: controller bytes of the frames that were played before the first decision.
        steps: decisions that the exploration took.
    """

    places: list[Place]
    buttons: bytes
    start: bytes
    steps: int


def explore(
    env_id: str,
    seed: int,
    max_steps: int,
    actions: str | Sequence[Sequence[str]] = ACTIONS,
    skip: int = 4,
    start_frames: int = 0,
) -> Exploration:
    """Explore one stage until its flag, or the axe, is reached, or for `max_steps` decisions.

    Args:
        env_id: one stage.
        seed: the same seed finds the same places.
        max_steps: decisions to take at most.
        actions: a set's name or a list of button combinations, drawn with equal probability.
        skip: frames of a decision.
        start_frames: up to so many frames (drawn by the seed) of random buttons come first: another seed then begins
            at another moment of the game.

    Raises:
        ValueError: the id is not one stage of Mario, the actions are none, or a number is out of its bounds.
    """
    game = stages.parse(env_id)
    if game is None or game.target is None:
        raise ValueError(f"env: {env_id!r}, expected one stage of Mario such as SuperMarioBros-1-1-v0")
    if max_steps < 1:
        raise ValueError(f"max_steps: {max_steps}, expected at least 1")
    for option, value in ((START_FRAMES, start_frames), (SKIP, skip)):
        if not option.accepts(value):
            raise ValueError(f"{option.name}: {value!r}, expected {option.allowed}")
    console = NativeBackend(game, game.target)
    choices = [button_byte(combination) for combination in resolve(actions)]
    start = disturb(console, choices, seed, start_frames)
    return _search(console, choices, seed, max_steps, skip, start)


def disturb(console: NativeBackend, choices: list[int], seed: int, start_frames: int) -> bytes:
    """Play up to `start_frames` frames of random buttons from the start of the stage; return their controller bytes."""
    draws = generator(seed, 0, Purpose.START, 0)
    start = bytes(choices[k] for k in draws.integers(len(choices), size=draws.integers(start_frames + 1)))
    for byte in start:
        if console.hold(byte, 1):
            console.reset()
            return b""
    return start


def _search(
    console: NativeBackend, choices: list[int], seed: int, max_steps: int, skip: int, start: bytes
) -> Exploration:
    """Return to places and play on until the flag; see `explore`."""
    ram = console.ram.data  # its elements are Python's own numbers
    draws = generator(seed, 0, Purpose.ACTION, 0)
    places = [Place(console.save(), _x(ram))]
    number = {_cell(ram): 0}  # of the place in each cell
    steps = 0
    while steps < max_steps:
        place = places[_choose(places, draws)]
        place.visits += 1
        console.load(place.state)
        byte, pressed = choices[int(draws.random() * len(choices))], bytearray()
        for _ in range(min(ROLLOUT, max_steps - steps)):
            if draws.random() >= REPEAT:
                byte = choices[int(draws.random() * len(choices))]
            ended = console.hold(byte, skip)
            pressed.append(byte)
            steps += 1
            if ended == FLAG:
                return Exploration(places, place.way() + bytes(pressed), start, steps)
            if ended:
                break
            if not _safe(ram):
                continue
            cell, depth = _cell(ram), place.depth + len(pressed)
            if cell not in number:
                number[cell] = len(places)
                places.append(Place(console.save(), _x(ram), depth, place, bytes(pressed)))
                place.visits = 0
            elif depth < SHORTER * places[number[cell]].depth:
                known = places[number[cell]]
                places[number[cell]] = Place(console.save(), _x(ram), depth, place, bytes(pressed), known.visits)
    return Exploration(places, b"", start, steps)


def _choose(places: list[Place], draws: np.random.Generator) -> int:
    """Return the number of a place: often one of the newest, else any, less probably the more visits it had.

    Both draws take the same time however many places there are.
    """
    if draws.random() < NEWEST:
        return max(0, len(places) - 1 - int(draws.exponential(NEWEST_SPAN)))
    while True:
        k = int(draws.random() * len(places))
        if draws.random() < (1 + places[k].visits) ** -0.5:
            return k


def _x(ram: memoryview) -> int:
    return 256 * ram[_PAGE] + ram[_X]


def _cell(ram: memoryview) -> tuple[int, ...]:
    """Return the stage, the area, what its maze has counted (from the wrong floor it leads back for ever), and where
    Mario is in it."""
    size = WATER_CELL if ram[_SWIMMING] else CELL
    return (*(ram[address] for address in _WHERE), _x(ram) // size, ram[_Y] // size)


def _safe(ram: memoryview) -> bool:
    """Say whether Mario stands on the ground or swims, and is not dying, in a pipe or below the screen."""
    alive = ram[_STATE] == NORMAL and ram[_Y_PAGE] == ON_SCREEN
    return alive and (ram[_FLOAT] == GROUND or ram[_SWIMMING] > 0)
