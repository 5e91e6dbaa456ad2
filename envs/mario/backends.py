"""Who plays the frames: the emulators by name, what each of them offers, and a pool of consoles."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from envs.mario import stages

# Name of an emulator -> the module with `versions()` (which also says what is missing) and its back end's class.
EMULATORS: dict[str, tuple[str, str]] = {
    "native": ("envs.mario.native_game", "NativeBackend"),
    "nes-py": ("envs.mario.nespy", "NesPyBackend"),
}


def versions(emulator: str) -> dict[str, str]:
    """Return the versions of what plays the frames.

    Raises:
        ValueError: something that the emulator needs is missing or of another version.
    """
    return importlib.import_module(EMULATORS[emulator][0]).versions()


class Backend(Protocol):
    """One console with one game in it, at one stage or at the game's start.

    Attributes:
        ram: (2048,) uint8, a view of the console's memory now.
        screen: (240, 256, 4) uint8, a view of its screen now, in the order blue, green, red, unused. Every step
            writes into the same memory: who needs a screen later copies it.
        judged: the 2048 bytes of memory at the moment when the last frame's reward and end were decided, which is
            before the environment skips a death or a change of area.
    """

    ram: np.ndarray
    screen: np.ndarray

    @property
    def judged(self) -> bytes: ...

    def reset(self) -> None:
        """Start an episode; the same buttons afterwards always lead to the same screens."""

    def step(self, buttons: int) -> tuple[float, bool]:
        """Play one frame with a controller byte; return the environment's reward and whether the episode is over."""

    def close(self) -> None:
        """Free the console."""


def rgb(screen: np.ndarray) -> np.ndarray:
    """Return a back end's screen as (240, 256, 3) uint8 RGB, a copy."""
    return np.ascontiguousarray(screen[:, :, 2::-1])


class Consoles:
    """Back ends that environments take and give back, by stage, so that random stages build few of them."""

    def __init__(self, emulator: str, game: stages.Game) -> None:
        module, name = EMULATORS[emulator]
        self._build = getattr(importlib.import_module(module), name)
        self._game = game
        self._free: dict[Any, list[Backend]] = {}
        self._all: list[Backend] = []

    def take(self, target: tuple[int, int] | None) -> Backend:
        """Return a console that is at this stage; it belongs to the caller until `give`."""
        if self._free.get(target):
            return self._free[target].pop()
        self._all.append(self._build(self._game, target))
        return self._all[-1]

    def give(self, target: tuple[int, int] | None, backend: Backend) -> None:
        """Take a console back."""
        self._free.setdefault(target, []).append(backend)

    def close(self) -> None:
        """Close all of them."""
        for backend in self._all:
            backend.close()
        self._all, self._free = [], {}
