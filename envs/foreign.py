"""Environments that others wrote: built by id, wrapped, of the old gym API too, and never believed without a look.

Whatever they do wrong is a BrokenEnvironment that says which environment it was and in which step.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit

from envs import spaces
from utils.imports import load_function

KEEPS_STATISTICS = {NormalizeObservation: "--norm-obs", NormalizeReward: "--norm-rew"}
EXTRAS = {"classic-control": "classic", "classic_control": "classic", "box2d": "box2d", "mujoco": "mujoco"}


class BrokenEnvironment(ValueError):
    """An environment raised, or gave what it must not give."""


def build(env_id: str, arguments: dict[str, Any], max_episode_steps: int | None, wrapper: str | None) -> gymnasium.Env:
    """Return one environment of a registered id.

    Args:
        env_id: with or without the module that registers it.
        arguments: of its constructor.
        max_episode_steps: in place of the registered limit.
        wrapper: MODULE:FUNCTION, called with the environment; returns what is used in its place.

    Raises:
        BrokenEnvironment: it cannot be built.
        ValueError: the wrapper cannot be had.
    """
    wrap = load_function("wrapper", wrapper) if wrapper is not None else None
    try:
        env = _build(env_id, arguments, max_episode_steps)
    except BrokenEnvironment:
        raise
    except gymnasium.error.DependencyNotInstalled as error:  # says what to install
        raise BrokenEnvironment(f"env: {env_id!r} cannot be built: {in_our_words(error)}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, gymnasium.error.Error | ImportError):  # says what is missing
            raise
        what = f"env: {env_id!r}" + (f" with arguments {arguments}" if arguments else "")
        raise BrokenEnvironment(f"{what} cannot be built: {type(error).__name__}: {error}") from error
    if wrap is not None:
        try:
            env = wrap(env)
        except (Exception, SystemExit) as error:
            raise BrokenEnvironment(f"wrapper: {wrapper!r}: {type(error).__name__}: {error}") from error
    if not isinstance(env, gymnasium.Env):
        raise BrokenEnvironment(f"wrapper: {wrapper!r} returned {type(env).__name__}, expected an environment")
    for layer in layers(env):
        if isinstance(layer, tuple(KEEPS_STATISTICS)):
            instead = next(flag for kind, flag in KEEPS_STATISTICS.items() if isinstance(layer, kind))
            what = f"wrapper: {type(layer).__name__} keeps statistics that no policy holds and no evaluation knows"
            raise BrokenEnvironment(f"{what}: {instead} does the same, over all ranks, and they are saved")
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), Space):
            raise BrokenEnvironment(f"env: {env_id!r} has {name} {getattr(env, name, None)!r:.100}, expected a space")
    return env


def layers(env: gymnasium.Env) -> list[gymnasium.Env]:
    """Return an environment and what it wraps, the outermost first."""
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


def _build(env_id: str, arguments: dict[str, Any], max_episode_steps: int | None) -> gymnasium.Env:
    spec = gymnasium.spec(env_id.rpartition(":")[2])
    creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    limit = max_episode_steps or spec.max_episode_steps
    if "render_mode" in arguments and getattr(creator, "render", None) is gymnasium.Env.render:
        raise BrokenEnvironment(f"env: {env_id!r} has no pictures: it has no render()")
    if isinstance(creator, type) and not issubclass(creator, gymnasium.Env):
        old: gymnasium.Env = OldGym(creator(**spec.kwargs | arguments))
        return old if limit is None else TimeLimit(old, limit)
    if max_episode_steps is not None:
        arguments = arguments | {"max_episode_steps": max_episode_steps}
    return gymnasium.make(env_id, disable_env_checker=True, **arguments)


def in_our_words(error: Exception) -> str:
    """Return what Gymnasium says of a library that is missing, with this project's extra in place of its own."""
    extra = next((ours for theirs, ours in EXTRAS.items() if f"gymnasium[{theirs}]" in str(error)), None)
    return str(error) if extra is None else f"a library is missing (pip install -e '.[{extra}]')"


class OldGym(gymnasium.Env):
    """An environment of gym's API, of any age: `seed`, a step of four values, spaces of gym's own classes."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.observation_space, self.action_space = new_space(env.observation_space), new_space(env.action_space)
        self.metadata = getattr(env, "metadata", {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Seed and reset, by whichever of the two ways it has."""
        if "seed" in inspect.signature(self.env.reset).parameters:
            result = self.env.reset(seed=seed)
        else:
            if seed is not None and hasattr(self.env, "seed"):
                self.env.seed(seed % 2**32)
            result = self.env.reset()
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result
        return result, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step of four values becomes one of five: done, unless its info says that a time limit did it."""
        result = self.env.step(action)
        if len(result) == 5:
            return result
        obs, reward, done, info = result
        truncated = bool(done) and bool(info.get("TimeLimit.truncated", False))
        return obs, reward, bool(done) and not truncated, truncated, info

    def render(self) -> Any:
        """As the environment renders; older ones want to be told how."""
        modes = "mode" in inspect.signature(self.env.render).parameters
        return self.env.render(mode="rgb_array") if modes else self.env.render()

    def close(self) -> None:
        """Close it, if it can be."""
        if hasattr(self.env, "close"):
            self.env.close()


def new_space(space: Any) -> Any:
    """Return gymnasium's space for one of gym's; any other object as it is."""
    if isinstance(space, Space):
        return space
    kind = type(space).__name__
    if kind == "Box":
        return Box(space.low, space.high, dtype=space.dtype.type)
    if kind == "Discrete":
        return Discrete(int(space.n), start=int(getattr(space, "start", 0)))
    if kind == "MultiDiscrete":
        return MultiDiscrete(space.nvec)
    return MultiBinary(space.n) if kind == "MultiBinary" else space


def observed(space: Space, obs: Any) -> np.ndarray:
    """Return an observation as the agent sees it.

    Raises:
        BrokenEnvironment: it has another shape or kind than its space, or holds what is not finite. A Box's bounds are
            not compared: they are often only roughly right, and nothing depends on them.
    """
    if isinstance(space, Box):
        array = np.asarray(obs)
        if array.shape != space.shape or array.dtype.kind not in "fiub":
            shown = f"{array.dtype} of shape {array.shape}"
            raise BrokenEnvironment(f"observation {shown}, its space says {space.dtype} of shape {space.shape}")
        if spaces.is_image(space) and array.dtype != np.uint8:
            raise BrokenEnvironment(f"observation of {array.dtype}, its space says uint8")
    elif not space.contains(obs):
        raise BrokenEnvironment(f"observation {str(obs)[:100]!r} is not in its space {str(space)[:200]}")
    seen = spaces.observe(space, obs)
    if seen.dtype.kind == "f" and not np.isfinite(seen).all():
        raise BrokenEnvironment(f"observation {str(obs)[:100]} is not finite")
    return seen


def outcome(result: Any) -> tuple[Any, float, bool, bool]:
    """Return observation, reward, terminated and truncated of what `step` returned. Raises BrokenEnvironment."""
    if not isinstance(result, tuple) or len(result) != 5:
        shown = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise BrokenEnvironment(f"step returned {shown}, expected (obs, reward, terminated, truncated, info)")
    obs, reward, terminated, truncated, _ = result
    if type(reward) is not float or not math.isfinite(reward):  # most are floats, which need no array
        number = np.asarray(reward)
        if number.size != 1 or number.dtype.kind not in "fiub" or not np.isfinite(number).all():
            raise BrokenEnvironment(f"reward {str(reward)[:100]!r}, expected one finite number")
        reward = float(number.reshape(()))
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not (isinstance(flag, bool | np.bool_) or (isinstance(flag, int | np.integer) and flag in (0, 1))):
            raise BrokenEnvironment(f"{name} {str(flag)[:100]!r}, expected true or false")
    return obs, reward, bool(terminated), bool(truncated)
