"""Files of a run folder, perhaps a stranger's: read up to a limit, never through a link, replaced in one step.

A link, a pipe or a device in the place of a file of ours is refused: what is written through it would land elsewhere,
and what is read from it may never end.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

LARGEST_JSON = 1 << 20  # bytes; a config is a page of text
DEEPEST_JSON = 24  # levels; a config has four
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
_HERE = -100  # AT_FDCWD of fcntl.h


def open_file(path: Path, flags: int) -> int:
    """Return a descriptor of a file that is neither a link nor a pipe nor a device; made with mode 644 under O_CREAT.

    Raises:
        OSError: it is one of them, or cannot be opened.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return handle


def read_file(path: Path, limit: int) -> bytes:
    """Return the contents of a file of at most `limit` bytes.

    Raises:
        OSError: see `open_file`, or it is larger.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MiB", str(path))
    return data


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run.

    Raises:
        OSError: see `read_file`.
        ValueError: it is not JSON, no object, or nested too deep.
    """
    try:
        value = json.loads(read_file(path, LARGEST_JSON))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if _deeper(value, DEEPEST_JSON):
        raise ValueError(f"it is nested more than {DEEPEST_JSON} levels deep")
    return value


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, in the place of an old one or of a link, and see it on the disk."""
    remove(path)
    with os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new one, whatever happens."""
    temp = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        write_synced(temp, data)
        temp.replace(path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """See the names in a folder on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a folder with what is in it, or a link but not what it points to; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step; return False where the system or the file system cannot do that."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux
    except AttributeError:
        return False
    if rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(first))


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
