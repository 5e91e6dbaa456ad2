"""Pass the pictures of an environment on, whatever its family; `envs.make_visible` builds one that has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def show_frames(env: Any, show: Callable[[np.ndarray], None]) -> Callable[[], None]:
    """Let `show` have every frame (H, W, 3) uint8 RGB; returns what must be called after each step.

    An emulator passes on each frame that it plays, not only those that the agent sees; others are drawn once per step.
    """
    if hasattr(env, "envs") and hasattr(env.envs[0], "watch"):
        env.envs[0].watch = lambda screen: show(rgb(screen))
        return lambda: None
    return lambda: show(env.render()[0])


def rgb(screen: np.ndarray) -> np.ndarray:
    """Return a screen as (H, W, 3) uint8 RGB: it is that already, or (H, W, 4) blue, green, red, unused."""
    return screen if screen.shape[2] == 3 else np.ascontiguousarray(screen[:, :, 2::-1])
