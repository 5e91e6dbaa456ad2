"""Explore a stage without a policy: remember places, return to one of them, play on from there at random.

That is the first phase of Go-Explore (Ecoffet et al. 2021, "First return, then explore", Nature 590, Methods), with a
cell of 16x16 pixels of the level. A state is restored at once here, so a stage takes seconds. What comes out is where
training can start its episodes (`start_states`): a policy that only ever fails at one place never sees what is behind.
Either every place, or the steps of the way that led to the flag, as of a demonstration (Salimans and Chen 2018,
"Learning Montezuma's Revenge from a single demonstration", arXiv:1812.03381): in the middle of a jump that takes eight
right actions, four are left to be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import envs
from envs.vector import VecEnv
from utils.seeding import Purpose, generator

ROLLOUT = 40  # steps played from a place before the next one is chosen
REPEAT = 0.7  # probability that a step repeats the last action: a jump is a button held for many steps
NEWEST, NEWEST_SPAN = 3.0, 20.0  # how much likelier the newest place is chosen, and over how many places that fades
MEMORY = (
    *("world", "stage", "area_pointer", "player_page", "player_x", "player_y"),
    *("player_float_state", "player_state", "player_y_page"),
)
GROUND, NORMAL, ON_SCREEN = 0, 8, 1  # of player_float_state, player_state and player_y_page


@dataclass
class Place:
    """A state in which Mario stands on the ground, his x in the area in pixels, and how often it was returned to.

    It was found from another place, by those actions; the start of the stage has none.
    """

    state: bytes
    x: int
    origin: Place | None = None
    actions: tuple[int, ...] = ()
    visits: int = 0


@dataclass
class Exploration:
    """What was found: the places in the order of their discovery, and after how many steps the exploration ended.

    `way` holds the state and x of every step that led to the flag, none if it was not reached.
    """

    places: list[Place]
    way: list[tuple[bytes, int]]
    steps: int


def explore(env_id: str, seed: int, max_steps: int, **options: Any) -> Exploration:
    """Explore from the start of the stage until its flag, or the axe, is reached, or for `max_steps` steps.

    Args:
        env_id: one stage, or the whole game: there it ends with the first stage.
        seed: the same seed finds the same places.
        max_steps: steps (decisions) to take at most.
        options: of `envs.make_vec`; "actions" is what matters. Only the native emulator restores states fast enough.
    """
    env = envs.make_vec(env_id, 1, seed, **{**options, "ram_info": list(MEMORY), "emulator": "native"})
    draws = generator(seed, 0, Purpose.ACTION, 0)
    num_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    _, infos = env.reset()
    found = {_cell(infos): Place(env.get_state()[0], area_x(infos))}
    places = list(found.values())
    steps, flag = 0, None
    while steps < max_steps and flag is None:
        place = places[draws.choice(len(places), p=_weights(places))]
        place.visits += 1
        env.set_state([place.state])
        action, actions = int(draws.integers(num_actions)), []
        for _ in range(min(ROLLOUT, max_steps - steps)):
            if draws.random() >= REPEAT:
                action = int(draws.integers(num_actions))
            _, _, terminated, truncated, infos = env.step(np.array([action]))
            actions.append(action)
            steps += 1
            if terminated[0] or truncated[0]:
                if infos["episodes"][0]["flag"]:
                    flag = Place(b"", 0, place, tuple(actions))
                break
            if _stands(infos) and _cell(infos) not in found:
                found[_cell(infos)] = new = Place(env.get_state()[0], area_x(infos), place, tuple(actions))
                places.append(new)
                place.visits = 0
    way = _way_to(flag, env)
    env.close()
    return Exploration(places, way, steps)


def _way_to(place: Place | None, env: VecEnv) -> list[tuple[bytes, int]]:
    """Return state and x of every step from the start of the stage until just before a place, by playing them again."""
    way: list[tuple[bytes, int]] = []
    while place is not None and place.origin is not None:
        env.set_state([place.origin.state])
        steps = []
        for action in place.actions[:-1]:
            infos = env.step(np.array([action]))[4]
            steps.append((env.get_state()[0], area_x(infos)))
        way = [(place.origin.state, place.origin.x), *steps, *way]
        place = place.origin
    return way


def _weights(places: list[Place]) -> np.ndarray:
    """Return the probability of each place to be chosen: less after many visits, more for the newest."""
    visits = np.array([place.visits for place in places])
    age = np.arange(len(places))[::-1]
    weights = (1.0 + NEWEST * np.exp(-age / NEWEST_SPAN)) / np.sqrt(1.0 + visits)
    return weights / weights.sum()


def area_x(infos: dict[str, Any]) -> int:
    """Return Mario's x in the area, in pixels, of environment 0, whose infos hold player_page and player_x."""
    return 256 * int(infos["player_page"][0]) + int(infos["player_x"][0])


def _cell(infos: dict[str, Any]) -> tuple[int, ...]:
    where = tuple(int(infos[name][0]) for name in ("world", "stage", "area_pointer"))
    return (*where, area_x(infos) // 16, int(infos["player_y"][0]) // 16)


def _stands(infos: dict[str, Any]) -> bool:
    """Say whether Mario is safe on the ground, and not in the air, dying, in a pipe or below the screen."""
    names = ("player_float_state", "player_state", "player_y_page")
    return tuple(int(infos[name][0]) for name in names) == (GROUND, NORMAL, ON_SCREEN)
