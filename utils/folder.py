"""The folder of one run: never destroyed, written by one run at a time, and saying how the run ended.

    config.json system.json progress.txt episodes.csv checkpoints/ policy/ videos/ exit.json

Only rank 0 touches it. `data/README.md` describes every file.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from utils.checkpoint import write_atomically

CONFIG_BYTES = 1 << 20  # a config is a page of text; anything larger is not one


class Refused(ValueError):
    """The folder cannot be used as asked; nothing in it was changed."""


class RunFolder:
    """A run's folder, held by this process until `close` or its death."""

    def __init__(self, path: Path, resume: bool, overwrite: bool) -> None:
        """Take the folder.

        Args:
            path: the folder; missing parents are created.
            resume: continue what is there, or start if there is nothing.
            overwrite: move an old run aside, to `<name>.old-<time>`, and start.

        Raises:
            Refused: a run is there and neither was asked for; another process writes it; it cannot be written.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"cannot create {path.parent}: {error.strerror}") from None
        if path.exists() and not path.is_dir():
            raise Refused(f"{path} is a file, not a run folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Refused(f"{path} cannot be written")
        self._lock = FileLock(path.parent / f".{path.name}.lock")
        self._take_lock()
        try:
            self.fresh = not (path / "config.json").exists()
            if not self.fresh and overwrite:
                self._move_aside()
            elif not self.fresh and not resume:
                raise Refused(f"{path} holds a run: use --resume to continue it or --overwrite to move it aside")
            for name in ("checkpoints", "policy", "videos"):
                (path / name).mkdir(parents=True, exist_ok=True)
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        owner_file = self.path.parent / f".{self.path.name}.owner"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            owner = owner_file.read_text().strip() if owner_file.exists() else "another process"
            raise Refused(f"{self.path} is being written by {owner}") from None
        except OSError as error:
            raise Refused(f"cannot lock {self.path}: {error.strerror}") from None
        owner_file.write_text(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}\n")

    def _move_aside(self) -> None:
        aside = self.path.with_name(f"{self.path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        while aside.exists():
            aside = aside.with_name(aside.name + "+")
        self.path.rename(aside)
        self.fresh = True

    def read_config(self) -> dict[str, Any]:
        """Return config.json of the run that is here.

        Raises:
            Refused: it is unreadable.
        """
        return read_json(self.path / "config.json")

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file in one step."""
        write_atomically(self.path / name, (json.dumps(value, indent=1) + "\n").encode())

    def close(self) -> None:
        """Let others have the folder."""
        (self.path.parent / f".{self.path.name}.owner").unlink(missing_ok=True)
        self._lock.release()


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file that may come from a stranger.

    Raises:
        Refused: missing, too large, or not a JSON object.
    """
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise Refused(f"{path}: no such file")
        if path.stat().st_size > CONFIG_BYTES:
            raise Refused(f"{path}: larger than {CONFIG_BYTES} bytes, not a file of ours")
        value = json.loads(path.read_bytes())
    except Refused:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"{path}: not a JSON object")
    return value
