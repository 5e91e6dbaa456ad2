"""The folder of one run: never destroyed, written by one run at a time, and saying how the run ended.

    config.json system.json progress.txt episodes.csv checkpoints/ policy/ videos/ exit.json

Only rank 0 touches it. `data/README.md` describes every file.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from utils.files import LARGEST_JSON, read_file, read_object, remove, write_atomically, write_synced

FOLDERS = ("checkpoints", "policy", "videos")  # of a run
SINKS = ("tensorboard", "wandb")  # folders of utils/sinks.py, where they are wanted
LOGS = ("progress.txt", "episodes.csv", "progress.txt.bak", "episodes.csv.bak")  # added to where they are
FILES = (*LOGS, "config.json", "system.json", "progress.jsonl", "exit.json")  # the others are replaced


class Refused(ValueError):
    """The folder cannot be used as asked; nothing in it was changed."""


class RunFolder:
    """A run's folder, held by this process until `close`, the end of a `with`, or its death.

    Nothing is written in it before `begin`.
    """

    def __init__(self, path: Path, resume: bool, overwrite: bool) -> None:
        """Hold the folder.

        Args:
            path: the folder; missing parents are created.
            resume: continue what is there, or start if there is nothing.
            overwrite: move an old run aside, to `<name>.old-<time>`, and start.

        Raises:
            Refused: a run is there and neither was asked for, or it lacks its config.json; another process writes it;
                it cannot be written; there are links in it.
        """
        self.path, self.begun, self._closed = path, False, False
        try:
            self._made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"cannot create {path.parent}: {error.strerror}") from None
        if resume and overwrite:
            raise Refused(f"{path}: either resume it or overwrite it")
        if path.exists() and not path.is_dir():
            raise Refused(f"{path} is a file, not a run folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Refused(f"{path} cannot be written")
        self._lock_file = path.parent / f".{path.name}.lock"
        self._owner_file = path.parent / f".{path.name}.owner"
        self._lock = FileLock(self._lock_file)
        self._take_lock()
        try:
            there = (path / "config.json").exists()
            headless = not there and ((path / "progress.txt").exists() or any(path.glob("checkpoints/step_*")))
            self.fresh = not there or overwrite
            self._aside = (there or headless) and overwrite
            if headless and not overwrite:
                raise Refused(f"{path} holds a run without its config.json: put it back; --overwrite moves all aside")
            if there and not (resume or overwrite):
                raise Refused(
                    f"{path} holds a run: --resume continues it, --overwrite moves it aside, --exp-name takes another "
                    "folder"
                )
            if not self._aside:
                self._check_contents()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Move an old run aside if that was asked for, and make the folders: from here on, files are written."""
        self.begun = True
        if self._aside:
            move_aside(self.path)
        for name in FOLDERS:
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def _check_contents(self) -> None:
        """Refuse what could not be written later, so that nothing is written before: links, pipes, no permission."""
        for path in (self.path / name for name in (*FOLDERS, *SINKS, *FILES)):
            if path.is_symlink():
                raise Refused(f"{path} is a link: what is written there would land elsewhere")
            if not path.exists():
                continue
            if path.is_dir() != (path.name not in FILES) or (path.name in LOGS and not path.is_file()):
                raise Refused(f"{path} is not a {'file' if path.name in FILES else 'folder'}")
            if (path.is_dir() or path.name in LOGS) and not os.access(path, os.W_OK):
                raise Refused(f"{path} cannot be written")

    def _take_lock(self) -> None:
        if self._lock_file.is_symlink():
            raise Refused(f"{self._lock_file} is a link")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise Refused(f"{self.path} is being written by {self._owner()}") from None
        except OSError as error:
            raise Refused(f"cannot lock {self.path}: {error.strerror}") from None
        owner = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}\n"
        try:
            write_synced(self._owner_file, owner.encode())
        except OSError as error:
            self.close()
            raise Refused(f"cannot write {self._owner_file}: {error.strerror}") from None

    def _owner(self) -> str:
        try:
            return read_file(self._owner_file, LARGEST_JSON).decode(errors="replace").strip()
        except OSError:
            return "another process"

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
        """Let others have the folder; where nothing was begun, nothing of this start stays. Twice is no harm."""
        if self._closed:
            return
        self._closed = True
        remove(self._owner_file)
        if not self.begun and self._made:  # the lock's folder is ours: nobody else can have waited for it for long
            remove(self._lock_file)
        self._lock.release()
        if not self.begun:
            for folder in self._made:
                with contextlib.suppress(OSError):  # somebody else has put something there
                    folder.rmdir()

    def __enter__(self) -> RunFolder:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let others have the folder."""
        self.close()


def move_aside(path: Path) -> None:
    """Give a folder the name `<name>.old-<time>`."""
    aside = path.with_name(f"{path.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
    while aside.exists():
        aside = aside.with_name(aside.name + "+")
    path.rename(aside)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file that may come from a stranger.

    Raises:
        Refused: missing, too large, or not a JSON object.
    """
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    try:
        return read_object(path.resolve())
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None
