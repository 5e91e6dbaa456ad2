"""Action sets: which buttons each discrete action holds down.

The three named sets are those of gym-super-mario-bros, in its order, so that an action's number means the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

# Bit of each button in the byte that the emulators take.
BUTTONS = {"right": 128, "left": 64, "down": 32, "up": 16, "start": 8, "select": 4, "B": 2, "A": 1, "NOOP": 0}

_RIGHT = [["NOOP"], ["right"], ["right", "A"], ["right", "B"], ["right", "A", "B"]]
_LEFT = [["left"], ["left", "A"], ["left", "B"], ["left", "A", "B"]]

ACTION_SETS: dict[str, list[list[str]]] = {
    "right_only": _RIGHT,
    "simple": [*_RIGHT, ["A"], ["left"]],
    "complex": [*_RIGHT, ["A"], *_LEFT, ["down"], ["up"]],
}


def parse(text: str) -> str | list[list[str]]:
    """Return what a command line says: a set's name as it is, a list of combinations from JSON.

    Raises:
        ValueError: it begins like a list and is not JSON.
    """
    try:
        return json.loads(text) if text.startswith("[") else text
    except json.JSONDecodeError as error:
        raise ValueError(f'actions: {text!r} is not JSON such as [["right"], ["right", "A"]] ({error})') from None


def resolve(actions: str | Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the button combinations of a named set, or of a list of combinations after checking it.

    Raises:
        ValueError: an unknown set or button, an empty list, or the same combination twice.
    """
    if isinstance(actions, str):
        if actions not in ACTION_SETS:
            allowed = ", ".join(ACTION_SETS)
            raise ValueError(f"actions: {actions!r}, expected one of {allowed} or a list of button combinations")
        return ACTION_SETS[actions]
    if not isinstance(actions, Sequence) or not actions:
        raise ValueError(f"actions: {actions!r}, expected a set's name or a list such as [['right'], ['right', 'A']]")
    combinations = []
    for combination in actions:
        if isinstance(combination, str) or not isinstance(combination, Sequence):
            raise ValueError(f"actions: {combination!r}, expected a list of buttons such as ['right', 'A']")
        for button in combination:
            if button not in BUTTONS:
                raise ValueError(f"actions: unknown button {button!r}, expected some of {', '.join(BUTTONS)}")
        combinations.append(list(combination))
    values = [button_byte(combination) for combination in combinations]
    if len(set(values)) < len(values):
        raise ValueError(f"actions: {actions!r} holds the same combination twice, expected each once")
    return combinations


def button_byte(combination: Sequence[str]) -> int:
    """Return the controller byte (0..255) of a button combination; an empty one presses nothing."""
    byte = 0
    for button in combination:
        byte |= BUTTONS[button]
    return byte
