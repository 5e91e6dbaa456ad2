"""What an agent can be shown of the console's memory: bytes by name, in the picture's place or beside it, and groups.

`near` is what is near Mario, `place` where he is: a policy of one stage can learn by it what to do at one place alone,
such as the floor to take in a maze.

Policies depend on every number here: what shall mean something else gets a name of its own.
Shapes: N environments, K numbers of one name. Memories are (N, 2048) int64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from envs.mario import rules
from envs.mario.near import BLOCK, near, signed

RAM = rules.RAM
PAGES, COLUMNS = 32, 16  # of an area, and those of a page


def place(ram: np.ndarray) -> np.ndarray:
    """Return 1 for the page, 1 for its column, and the bits of the area's number: (N, 56) float32 of memories."""
    page, column = ram[:, RAM["player_page"]] % PAGES, ram[:, RAM["player_x"]] // BLOCK
    area = ram[:, RAM["area_data_low"], None] >> np.arange(8) & 1
    return np.concatenate([np.eye(PAGES)[page], np.eye(COLUMNS)[column], area], axis=1, dtype=np.float32)


GROUPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"near": near, "place": place}


class Values:
    """The numbers of some names, one after the other."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args: names: of `GROUPS`, or as `rules.ram_address` takes them: a byte / 255, a speed / 128.

        Raises:
            ValueError: none, another one, or one twice.
        """
        if not isinstance(names, Sequence) or isinstance(names, str):  # a file may hold anything
            raise ValueError(f"ram_obs: {names!r:.200}, expected names")
        self._parts = [GROUPS.get(name) if isinstance(name, str) else None for name in names]
        self._bytes = [
            (0, False) if part else (rules.ram_address(name, "ram_obs", GROUPS), name in RAM and "speed" in name)
            for name, part in zip(names, self._parts, strict=True)
        ]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"ram_obs: {names!r:.200}, expected names, each once")
        self.names = list(names)
        self.size = self(np.zeros((1, 0x800), np.uint8)).shape[1]

    def __call__(self, rams: np.ndarray) -> np.ndarray:
        """Return (N, K) float32 of memories (N, 2048) uint8."""
        ram = rams.astype(np.int64)
        columns = []
        for part, (address, is_signed) in zip(self._parts, self._bytes, strict=True):
            byte = ram[:, address, None]
            columns.append(part(ram) if part else signed(byte) / 128 if is_signed else byte / 255)
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Return where the numbers of other names are among these: (K,) int64. Raises ValueError where one is not."""
        if not set(names) <= set(self.names):
            raise ValueError(f"ram_obs: {', '.join(names)} are not all among {', '.join(self.names)}")
        ends = np.cumsum([Values([name]).size for name in self.names])
        numbers = dict(zip(self.names, np.split(np.arange(self.size), ends[:-1]), strict=True))
        return np.concatenate([numbers[name] for name in names])


class Planes:
    """Bytes by name, each to fill a plane of the picture: a speed as byte + 128, so that 128 is a standstill."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args: names: as `rules.ram_address` takes them.

        Raises:
            ValueError: another one, or one twice.
        """
        if len(set(map(str, names))) < len(names):
            raise ValueError(f"ram_planes: {names!r:.200}, expected names, each once")
        self._addresses = [rules.ram_address(name, "ram_planes") for name in names]
        self._flipped = np.array([0x80 * (name in RAM and "speed" in name) for name in names], np.uint8)
        self.count = len(self._addresses)

    def __call__(self, rams: np.ndarray) -> np.ndarray:
        """Return (N, count) uint8 of memories (N, 2048) uint8."""
        return rams[:, self._addresses] ^ self._flipped
