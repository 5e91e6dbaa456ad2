"""A function that a user names on the command line, as MODULE:FUNCTION: a reward, a network, a wrapper."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from utils import system


def load_function(setting: str, name: str, known: Iterable[str] = ()) -> Callable[..., Any]:
    """Import the module that `name` begins with and return its function.

    Args:
        setting: what names it, for messages.
        name: MODULE:FUNCTION.
        known: other names that the setting takes, for messages.

    Raises:
        ValueError: no such form, module or function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        others = ", ".join(known)
        expected = f"one of {others} or MODULE:FUNCTION" if others else "MODULE:FUNCTION"
        raise ValueError(f"{setting}: {name!r}, expected {expected}")
    try:
        found = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # the module is the user's: anything may be raised there
        what = error if isinstance(error, (ImportError, AttributeError, SyntaxError)) else repr(error)
        raise ValueError(f"{setting}: {name!r} cannot be loaded: {what}") from error
    if not callable(found):
        raise ValueError(f"{setting}: {name!r} is not a function")
    return found


def users_code(words: Iterable[Any]) -> dict[str, str]:
    """Return the SHA-256 of each imported module that words such as MODULE:FUNCTION name."""
    names = {word.partition(":")[0] for word in words if isinstance(word, str) and ":" in word}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {f"{name}.py": system.digest(file) for name, file in files.items() if file}
