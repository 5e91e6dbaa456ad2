"""Environments to look at, whatever the family: `visible` builds one, `show_frames` passes its pictures on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import envs

MARIO_FPS = 60


def visible(env_id: str, seed: int, options: dict[str, Any]) -> tuple[Any, float]:
    """Return one environment that can be looked at, and its pictures per second.

    Raises:
        ValueError: as `envs.make_vec`, or it has no pictures.
    """
    env: Any
    family = envs.find_family(env_id).name
    if family == "mario":
        from envs.mario.python_vector import MarioVec

        return MarioVec(env_id, 1, seed, 0, envs.check_options(env_id, **options)), MARIO_FPS
    if family != "classic":
        env = envs.make_vec(env_id, 1, seed, **options)
        fps = env.metadata.get("render_fps")
        if fps is None:
            raise ValueError(f"env: {env_id} has no pictures")
        return env, float(fps)
    import gymnasium

    kwargs = (options.get("env_kwargs") or {}) | {"render_mode": "rgb_array"}
    try:
        env = envs.make_vec(env_id, 1, seed, **options | {"env_kwargs": kwargs})
        env.reset()
        picture = env.render()[0]
    except gymnasium.error.Error as error:
        raise ValueError(f"env: {env_id} cannot be drawn: {error}") from None
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise ValueError(f"env: {env_id} has no pictures")
    return env, float(env.envs[0].metadata.get("render_fps", 30))


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
