"""What an agent can be shown of the console's memory in the picture's place: bytes by name, and groups made of them.

Policies depend on every number here: what shall mean something else gets a name of its own.
Shapes: N environments, K numbers of one name. Memories are (N, 2048) int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from envs.mario import rules

RAM = rules.RAM
PAGE = 256  # pixels of a page, as wide as the screen
LENGTH = 16 * PAGE  # pixels: about the longest stage
FASTEST = 48, 5  # speeds of running and of falling
BLOCK = 16  # pixels
ROWS, COLUMNS = 13, 32  # of the blocks that are in memory: two pages, of which each new one replaces the older
BLOCKS = 0x0500
AROUND = np.arange(-2, 10)  # columns of blocks that are shown: two behind Mario, his own, nine ahead


def signed(values: np.ndarray) -> np.ndarray:
    """Return bytes as numbers from -128 to 127."""
    return (values + 128) % 256 - 128


def position(ram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Mario's x from the start of the area and his y below the screen's top, in pixels, both (N,)."""
    x = PAGE * ram[:, RAM["player_page"]] + ram[:, RAM["player_x"]]
    return x, PAGE * (signed(ram[:, RAM["player_y_page"]]) - 1) + ram[:, RAM["player_y"]]


def mario(ram: np.ndarray) -> np.ndarray:
    """Mario's place, speed and state: (N, 11)."""
    x, y = position(ram)
    float_state = ram[:, RAM["player_float_state"]]
    numbers = (
        x / LENGTH,
        x % BLOCK / BLOCK,
        y / PAGE,
        signed(ram[:, RAM["player_x_speed"]]) / FASTEST[0],
        signed(ram[:, RAM["player_y_speed"]]) / FASTEST[1],
        float_state == 0,  # on the ground
        float_state == 3,  # at the flagpole or a vine
        ram[:, RAM["player_facing"]] == 1,  # to the right
        ram[:, RAM["player_power"]] / 2,
        ram[:, RAM["star_timer"]] > 0,
        ram[:, RAM["swimming"]] > 0,
    )
    return np.stack([np.asarray(number, np.float64) for number in numbers], axis=1)


def enemies(ram: np.ndarray) -> np.ndarray:
    """Of each of five slots: whether somebody is there, how far right of and below Mario, x speed, kind: (N, 25)."""
    x, y = position(ram)
    found = []
    for slot in range(5):
        byte = {name: ram[:, RAM[f"enemy_{name}_{slot}"]] for name in ("active", "id", "x_speed", "page", "x", "y")}
        there = byte["active"] > 0
        right = np.clip((PAGE * byte["page"] + byte["x"] - x) / PAGE, -1, 1)
        below = np.clip((byte["y"] - y) / PAGE, -1, 1)
        numbers = (np.ones(len(ram)), right, below, signed(byte["x_speed"]) / FASTEST[0], byte["id"] / 64)
        found += [np.where(there, number, 0.0) for number in numbers]
    return np.stack(found, axis=1)


def blocks(ram: np.ndarray) -> np.ndarray:
    """What can be stood on, hit or taken around Mario, 1 where something is, row by row from the top: (N, 156)."""
    column = (position(ram)[0][:, None] + BLOCK // 2) // BLOCK + AROUND  # (N, 12), of the area
    page, inside = column // BLOCK % 2, column % BLOCK
    address = BLOCKS + ROWS * BLOCK * page + inside  # of the top row
    rows = address[:, None, :] + BLOCK * np.arange(ROWS)[:, None]  # (N, 13, 12)
    return (np.take_along_axis(ram[:, None, :], rows, axis=2) > 0).reshape(len(ram), -1).astype(np.float64)


GROUPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"mario": mario, "enemies": enemies, "blocks": blocks}


class Values:
    """The numbers of some names, one after the other."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args: names: of `GROUPS`, or as `rules.ram_address` takes them: a byte / 255, a speed / 128.

        Raises:
            ValueError: none, another one, or one twice.
        """
        self._parts = [GROUPS.get(name) if isinstance(name, str) else None for name in names]
        self._bytes = [
            (0, False) if part else (rules.ram_address(name, "ram_obs", GROUPS), name in RAM and "speed" in name)
            for name, part in zip(names, self._parts, strict=True)
        ]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"ram_obs: {names!r:.200}, expected names, each once")
        self.size = self(np.zeros((1, 0x800), np.uint8)).shape[1]

    def __call__(self, rams: np.ndarray) -> np.ndarray:
        """Return (N, K) float32 of memories (N, 2048) uint8."""
        ram = rams.astype(np.int64)
        columns = []
        for part, (address, is_signed) in zip(self._parts, self._bytes, strict=True):
            byte = ram[:, address, None]
            columns.append(part(ram) if part else signed(byte) / 128 if is_signed else byte / 255)
        return np.concatenate(columns, axis=1, dtype=np.float32)
