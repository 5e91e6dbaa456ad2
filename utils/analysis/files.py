"""Read files of a run folder that a stranger may have made: regular files only, of bounded size and depth."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST_LOG = 256 << 20  # bytes; 100,000 rows of 35 columns are about 60 MB
LARGEST_JSON = 1 << 20  # bytes; a config is a few thousand
DEEPEST_JSON = 24  # levels; a config has four


def read_regular(path: Path, limit: int = LARGEST_LOG) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: with one sentence as `strerror`: a symbolic link (which could lead anywhere), a pipe, device or
            folder, a file larger than `limit`, or one that cannot be read.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer does not block
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with open(os.open(path, flags), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if facts.st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB", str(path))
        return file.read()


def read_object(path: Path) -> tuple[dict[str, Any], str]:
    """Return the object in a JSON file, and why it could not be read ("" where it could, or where there is no file)."""
    try:
        value = json.loads(read_regular(path, LARGEST_JSON))
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"{path.name} not read: {error.strerror}"
    except (ValueError, RecursionError):
        return {}, f"{path.name} not read: it is not JSON"
    if not isinstance(value, dict):
        return {}, f"{path.name} not read: it is not a JSON object"
    if _deeper(value, DEEPEST_JSON):
        return {}, f"{path.name} not read: it is nested more than {DEEPEST_JSON} levels deep"
    return value, ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} where there is none or it cannot be read."""
    return read_object(path)[0]


def _deeper(value: Any, levels: int) -> bool:
    """Return whether objects and lists are nested more than `levels` deep."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True
