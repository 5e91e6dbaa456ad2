"""Environments: `make_vec` returns a `gymnasium.vector.VectorEnv` for any id that this project knows.

One module per family, one row per family below. Simulators are imported when an environment is built, never before.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.vector import VecEnv

# Beginning of the id -> (module with check, DEFAULTS and ids; what builds). The first row that fits is taken.
FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("SuperMarioBros", "envs.mario", "envs.mario.vector:make"),
    ("Echo-", "envs.echo", "envs.echo:EchoVec"),
    ("", "envs.classic", "envs.classic:ClassicVec"),
)


def _family(env_id: str) -> tuple[Any, str]:
    """Return the module that knows the id's options and the "module:class" that builds it."""
    if not isinstance(env_id, str) or not env_id:
        raise ValueError(f"env: {env_id!r}, expected the id of an environment, for instance SuperMarioBros-1-1-v0")
    row = next(row for row in FAMILIES if env_id.startswith(row[0]))
    module = importlib.import_module(row[1])
    if not module.known(env_id):
        names = [name for _, family, _ in FAMILIES for name in importlib.import_module(family).ids()]
        close = difflib.get_close_matches(env_id, names, n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"env: unknown id {env_id!r}{hint}")
    return module, row[2]


def family(env_id: str) -> str:
    """Return the name of the family that an id belongs to, such as "mario"; ValueError for an unknown id."""
    return _family(env_id)[0].__name__.rsplit(".", 1)[-1]


def options(env_id: str) -> tuple[str, ...]:
    """Return the names of the options that `make_vec` takes for this id."""
    return tuple(_family(env_id)[0].DEFAULTS)


def check_options(env_id: str, **options: Any) -> dict[str, Any]:
    """Check an id and its options without building or importing a simulator.

    Returns:
        All options of the id's family, defaults included, JSON-able.

    Raises:
        ValueError: unknown id (with close matches), unknown option, or a value that is not allowed.
    """
    module, _ = _family(env_id)
    for name in options:
        if name not in module.DEFAULTS:
            raise ValueError(f"{name}: not an option of {env_id}, which takes {', '.join(sorted(module.DEFAULTS))}")
    return module.check(env_id, options)


def make_vec(env_id: str, num_envs: int, seed: int, *, first_index: int = 0, **options: Any) -> VecEnv:
    """Return `num_envs` environments stepped together.

    Args:
        env_id: id of the environment, see README.md for the families.
        num_envs: number of environments here, >= 1.
        seed: the run's seed, >= 0; every draw is derived from it.
        first_index: global index of the first of them, >= 0: environment i behaves the same whichever rank owns it.
        options: options of the family, see `check_options` and the family's `DEFAULTS`.

    Raises:
        ValueError: as `check_options`, or a number out of range.
    """
    from envs.vector import check_integer

    check_integer("num_envs", num_envs, 1)
    check_integer("seed", seed, 0)
    check_integer("first_index", first_index, 0)
    checked = check_options(env_id, **options)
    module_name, class_name = _family(env_id)[1].split(":")
    build = getattr(importlib.import_module(module_name), class_name)
    return build(env_id, num_envs, seed, first_index, checked)
