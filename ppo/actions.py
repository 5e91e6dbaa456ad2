"""Between action spaces, the distributions of `core.py` and what policy.json says about them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from ppo import core

MAX_ACTIONS = 4096  # parameters of a distribution that a file may ask for


def of_space(space: Space, squash: bool = False) -> core.Distribution:
    """Return the distribution of a single environment's actions.

    Args:
        space: Discrete or MultiDiscrete, counting from 0, or a Box of floats with one dimension.
        squash: keep the actions of a Box within its bounds, which are -1 and 1, by tanh.

    Raises:
        ValueError: another space, or one that cannot be squashed.
    """
    if isinstance(space, Box) and len(space.shape) == 1 and space.shape[0] and np.issubdtype(space.dtype, np.floating):
        if squash and not (np.all(space.low == -1) and np.all(space.high == 1)):
            raise ValueError(f"squash: needs actions from -1 to 1, got {space}")
        return (core.SquashedGaussian if squash else core.Gaussian)(space.shape[0])
    if squash:
        raise ValueError(f"squash: only for actions of a Box, got {space}")
    if isinstance(space, Discrete):
        return core.Categorical(int(space.n))
    if isinstance(space, MultiDiscrete) and len(space.shape) == 1:
        return core.MultiCategorical(space.nvec.tolist())
    raise ValueError(f"actions {space} cannot be learned, only Discrete, MultiDiscrete and Box ones")


def describe(dist: core.Distribution) -> dict[str, Any]:
    """Return what policy.json says: num_actions of a Discrete space, actions of another."""
    if isinstance(dist, core.Categorical):
        return {"num_actions": dist.num_actions}
    if isinstance(dist, core.MultiCategorical):
        return {"actions": {"multi_discrete": dist.counts}}
    assert isinstance(dist, core.Gaussian)
    return {"actions": {"box": dist.size, "squash": isinstance(dist, core.SquashedGaussian)}}


def of_info(info: dict[str, Any]) -> core.Distribution:
    """Return the distribution that a policy.json, perhaps a stranger's, describes.

    Raises:
        ValueError: it describes none, or one that is too large.
    """
    if "actions" not in info:
        return core.Categorical(_count(info.get("num_actions"), "num_actions"))
    actions = info["actions"]
    if "num_actions" not in info and isinstance(actions, dict):
        if set(actions) == {"box", "squash"} and isinstance(actions["squash"], bool):
            size = _count(actions["box"], "actions: box")
            return core.SquashedGaussian(size) if actions["squash"] else core.Gaussian(size)
        counts = actions.get("multi_discrete")
        if set(actions) == {"multi_discrete"} and isinstance(counts, list) and 0 < len(counts) <= MAX_ACTIONS:
            _count(sum(_count(count, "actions: multi_discrete") for count in counts), "actions: multi_discrete")
            return core.MultiCategorical(counts)
    raise ValueError(f"actions is {str(actions)[:100]!r}, expected multi_discrete or box and squash")


def _count(value: Any, name: str) -> int:
    if not (type(value) is int and 1 <= value <= MAX_ACTIONS):
        raise ValueError(f"{name} is {str(value)[:100]!r}, expected 1 to {MAX_ACTIONS}")
    return value


def words(dist: core.Distribution) -> str:
    """Return the kind and size of the actions for a person: "7 actions"."""
    if isinstance(dist, core.Categorical):
        return f"{dist.num_actions} actions"
    if isinstance(dist, core.MultiCategorical):
        return f"choices of {dist.counts}"
    return f"{dist.act_shape[0]} numbers"
