"""Between Gymnasium's spaces and the agent's: what it sees is one array, what it does an integer or an array.

Observations: an image (three dimensions of uint8) stays one, channels first; everything else becomes a float32 vector:
a Box is flattened, bytes are scaled to [0, 1], a Discrete value is one-hot, the parts of a Dict or Tuple follow one
another. Actions: those of Discrete, MultiDiscrete and MultiBinary count from 0; those of a Box are numbers of which
-1 and 1 are the bounds, where it has both, and what is beyond is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

MAX_OBS = 2**20  # numbers of one observation: a one-hot vector, or what a policy's file asks for, can be of any length
LEAVES = (Box, Discrete, MultiDiscrete, MultiBinary)


def observation_space(env_id: str, space: Space) -> Box:
    """Return the space of what the agent sees.

    Raises:
        ValueError: it cannot be made an array, or one that is too large.
    """
    if is_image(space):
        low, high = (np.moveaxis(bound, *_channels(space)) for bound in (space.low, space.high))  # type: ignore[attr-defined]
        return Box(low, high, dtype=np.uint8)
    for leaf in leaves(space):
        if not isinstance(leaf, LEAVES):
            kinds = ", ".join(kind.__name__ for kind in LEAVES)
            raise ValueError(f"env: {env_id!r} shows {leaf}, expected {kinds}, or a Dict or Tuple of them")
    size = sum(gymnasium.spaces.flatdim(leaf) for leaf in leaves(space))
    if not 0 < size <= MAX_OBS:
        raise ValueError(f"env: {env_id!r} shows {size:,} numbers at once, expected 1 to {MAX_OBS:,}")
    if isinstance(space, Box):
        low, high = (_vector(space, bound) for bound in (space.low, space.high))
        return Box(low, high, dtype=np.float32)
    return Box(-np.inf, np.inf, (size,), np.float32)


def observe(space: Space, obs: Any) -> np.ndarray:
    """Return an observation in `space` as the agent sees it."""
    if is_image(space):
        return np.moveaxis(np.asarray(obs), *_channels(space))
    return _vector(space, obs)


def is_image(space: Space) -> bool:
    """Return whether observations are images."""
    return isinstance(space, Box) and len(space.shape) == 3 and space.dtype == np.uint8


def _channels(space: Space) -> tuple[int, int]:
    """Return from where to where the channels of an image must be moved: the last dimension where it is the least."""
    height, width, channels = space.shape  # type: ignore[misc]
    return (2, 0) if channels < min(height, width) else (0, 0)


def leaves(space: Space) -> list[Space]:
    """Return the parts of a Dict or Tuple, and the parts of the parts, in order; any other space is its own part."""
    if isinstance(space, Dict):
        return [leaf for part in space.values() for leaf in leaves(part)]
    if isinstance(space, Tuple):
        return [leaf for part in space.spaces for leaf in leaves(part)]
    return [space]


def _vector(space: Space, obs: Any) -> np.ndarray:
    """Return an observation as a float32 vector."""
    if isinstance(space, Dict):
        return np.concatenate([_vector(part, obs[name]) for name, part in space.items()])
    if isinstance(space, Tuple):
        return np.concatenate([_vector(part, one) for part, one in zip(space.spaces, obs, strict=True)])
    if isinstance(space, Box):
        numbers = np.asarray(obs)
        if numbers.dtype != np.float32:
            with np.errstate(over="ignore"):  # a bound of float64 may be infinite in float32
                numbers = numbers.astype(np.float32)
        numbers = numbers.reshape(-1)
        return numbers / np.float32(255) if space.dtype == np.uint8 else numbers
    return np.asarray(gymnasium.spaces.flatten(space, obs), np.float32)


def action_space(env_id: str, space: Space) -> Space:
    """Return the space of the agent's actions.

    Raises:
        ValueError: they cannot be learned.
    """
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    if isinstance(space, MultiDiscrete) and space.nvec.size:
        return MultiDiscrete(space.nvec.reshape(-1))
    if isinstance(space, MultiBinary):
        return MultiDiscrete(np.full(int(np.prod(space.shape)), 2))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and space.low.size:
        bounded = _bounded(space)
        low, high = np.where(bounded, -1.0, -np.inf), np.where(bounded, 1.0, np.inf)
        return Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    allowed = "Discrete, MultiDiscrete, MultiBinary or a Box of floats"
    raise ValueError(f"env: {env_id!r} has actions {space}, expected {allowed}")


def _bounded(space: Box) -> np.ndarray:
    """Return which numbers of an action (A,) have two bounds; the largest float32 counts as none."""
    with np.errstate(over="ignore"):
        return np.isfinite(space.high.astype(np.float32) - space.low.astype(np.float32)).reshape(-1)


def player(space: Space) -> Callable[[Any], Any]:
    """Return what turns the agent's action into one in `space`: an int, or an array of its shape and dtype."""
    if isinstance(space, Discrete):
        first = int(space.start)
        return lambda action: first + int(action)
    if isinstance(space, MultiDiscrete):
        return lambda action: (np.asarray(action).reshape(space.shape) + space.start).astype(space.dtype)
    if isinstance(space, MultiBinary):
        return lambda action: np.asarray(action).reshape(space.shape).astype(space.dtype)
    assert isinstance(space, Box)
    low, high = space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
    bounded, shape, dtype = _bounded(space), space.shape, space.dtype
    with np.errstate(over="ignore", invalid="ignore"):  # what has no bounds is not scaled
        centre, half = np.where(bounded, (low + high) / 2, 0.0), np.where(bounded, (high - low) / 2, 1.0)
    return lambda action: np.minimum(np.maximum(centre + half * action, low), high).reshape(shape).astype(dtype)
