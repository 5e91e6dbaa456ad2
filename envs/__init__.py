"""Environments: `make_vec` returns a `gymnasium.vector.VectorEnv` for any id that this project knows.

One module per family, which declares itself in `FAMILY` (`envs/family.py`), and one row per family below. An id
"MODULE:Id-v0" belongs to the `FAMILY` of a module outside this package, or to Gymnasium where MODULE registers it
there. Simulators are imported when an environment is built, never before.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from envs.family import Family

if TYPE_CHECKING:
    from envs.vector import VecEnv

# Modules that hold a FAMILY. The first that knows an id has it.
FAMILIES: tuple[str, ...] = ("envs.mario", "envs.atari", "envs.procgen", "envs.echo", "envs.memory", "envs.classic")


def families() -> list[Family]:
    """Return the families of this package."""
    return [importlib.import_module(name).FAMILY for name in FAMILIES]


def find_family(env_id: str) -> Family:
    """Return the family that an id belongs to; ValueError, with close matches, for an unknown id."""
    return _find(env_id)[0]


def _find(env_id: str) -> tuple[Family, str]:
    """Return the family and the id as the family knows it: without the module of one outside this package."""
    if not isinstance(env_id, str) or not env_id:
        raise ValueError(f"env: {env_id!r}, expected the id of an environment, for instance SuperMarioBros-1-1-v0")
    module, colon, name = env_id.partition(":")
    if colon:
        try:
            found = getattr(importlib.import_module(module), "FAMILY", None)
        except (Exception, SystemExit) as error:  # the module is the user's: anything may be raised there
            raise ValueError(f"env: cannot import {module!r} of {env_id!r} ({error!r})") from None
        if isinstance(found, Family) and found.known(name):
            return found, name
    for family in families():
        if family.known(env_id):
            return family, env_id
    close = close_ids(env_id)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"env: unknown id {env_id!r}{hint}")


def close_ids(env_id: str) -> list[str]:
    """Return at most three known ids that an unknown one may stand for: those that contain it, else similar ones."""
    ids = [name for family in families() for name in family.ids()]
    longer = [name for name in ids if env_id.lower() in name.lower()]
    return sorted(longer, key=len)[:3] or difflib.get_close_matches(env_id, ids, n=3)


def has_parts(env_id: str) -> bool:
    """Return whether an id is that of a game of several parts; False for an unknown id."""
    return any(family.known(env_id) and family.has_parts(env_id) for family in families())


def check_options(env_id: str, **options: Any) -> dict[str, Any]:
    """Check an id and its options without building or importing a simulator.

    Returns:
        All options of the id's family, defaults included, JSON-able.

    Raises:
        ValueError: unknown id (with close matches), unknown option, or a value that is not allowed.
    """
    family, name = _find(env_id)
    known = {option.name: option for option in family.options}
    for given in options:
        if given not in known:
            raise ValueError(f"{given}: not an option of {env_id}, which takes {', '.join(sorted(known))}")
    merged = {option.name: copy.deepcopy(option.default) for option in family.options} | options
    for option in family.options:
        if not option.accepts(merged[option.name]):
            raise ValueError(f"{option.name}: {merged[option.name]!r}, expected {option.allowed}")
    return family.check(name, merged)


def make_vec(env_id: str, num_envs: int, seed: int, *, first_index: int = 0, **options: Any) -> VecEnv:
    """Return a vector of `num_envs` environments.

    Args:
        env_id: id of the environment, see README.md for the families.
        num_envs: number of environments here, >= 1.
        seed: the run's seed, >= 0; every draw is derived from it.
        first_index: global index of the first of them, >= 0: environment i behaves the same whichever rank owns it.
        options: options of the family, see `check_options` and the family's `FAMILY.options`.

    Raises:
        ValueError: as `check_options`, or a number out of range.
    """
    from envs.vector import check_integer

    check_integer("num_envs", num_envs, 1)
    check_integer("seed", seed, 0)
    check_integer("first_index", first_index, 0)
    checked = check_options(env_id, **options)
    family, name = _find(env_id)
    vec: VecEnv = _imported(family.make)(name, num_envs, seed, first_index, checked)
    vec.family = family
    return vec


def make_visible(env_id: str, seed: int, **options: Any) -> VecEnv:
    """Return one environment to look at: `render` draws it, `metadata["render_fps"]` says how often in a second.

    Raises:
        ValueError: as `make_vec`, or it has no pictures.
    """
    family, name = _find(env_id)
    if family.draw is None:
        vec = make_vec(env_id, 1, seed, **options)
    else:
        vec = _imported(family.draw)(name, seed, check_options(env_id, **options))
        vec.family = family
    if vec.metadata.get("render_fps") is None:
        raise ValueError(f"env: {env_id} has no pictures")
    return vec


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
