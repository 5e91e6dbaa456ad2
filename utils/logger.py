"""EpochLogger: one row per epoch in `progress.txt`, one line per episode in `episodes.csv`.

`progress.txt` is tab separated with Spinning Up's column names, so that its readers and ours both work. On request
`progress.jsonl` holds the same rows as JSON, one to a line. Only rank 0 has a logger; numbers of all ranks are joined
before they come here.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.command import printable
from utils.files import open_file, write_atomically
from utils.folder import Refused
from utils.sinks import Sink

FILES = ("progress.txt", "episodes.csv")
LINES = "progress.jsonl"
HEADING_BYTES = 1 << 20  # of a first line at most


class Appended:
    """A file that grows by whole lines; those for which there was no room wait in memory."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it; a last line that was cut off stays a line of its own."""
        self._handle = open_file(path, os.O_RDWR | os.O_CREAT)
        self.size = os.fstat(self._handle).st_size
        whole = self.size == 0 or os.pread(self._handle, 1, self.size - 1) == b"\n"
        self._waiting = b"" if whole else b"\n"

    @property
    def empty(self) -> bool:
        """Whether nothing was ever added."""
        return self.size == 0 and not self._waiting

    def first_line(self) -> str:
        """Return the first line of what is in the file."""
        return os.pread(self._handle, HEADING_BYTES, 0).split(b"\n")[0].decode(errors="surrogateescape")

    def text(self) -> str:
        """Return what is in the file."""
        return os.pread(self._handle, self.size, 0).decode(errors="replace")

    def add(self, text: str) -> None:
        """Take lines that `flush` writes; bytes that are no text stand in them as surrogates."""
        self._waiting += text.encode(errors="surrogateescape")

    def flush(self) -> None:
        """Write all that waits and see it on the disk; after an OSError it waits still, and the file is as before."""
        try:
            done = 0
            while done < len(self._waiting):
                done += os.pwrite(self._handle, self._waiting[done:], self.size + done)
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, self.size)
            raise
        self.size, self._waiting = self.size + len(self._waiting), b""

    def close(self) -> None:
        """Close the file; what still waits is lost."""
        os.close(self._handle)


class EpochLogger:
    """Collects the numbers of an epoch and writes them when it ends."""

    def __init__(
        self, folder: Path, episode_fields: tuple[str, ...], sinks: Sequence[Sink] = (), json_lines: bool = False
    ) -> None:
        """Open the files in `folder`, adding to those that are there; `sinks` are given each row too.

        With `json_lines`, or where the file is there already, progress.jsonl is made anew from the rows so far.

        Raises:
            OSError: a file is a link or a pipe, or a disk is full.
        """
        self._progress, self._episodes = Appended(folder / "progress.txt"), Appended(folder / "episodes.csv")
        self._episode_fields = ("epoch", "steps", *episode_fields)
        self._files = [self._progress, self._episodes]
        if json_lines or (folder / LINES).exists():
            write_atomically(folder / LINES, "".join(map(json_line, self.rows())).encode())
            self._files.append(Appended(folder / LINES))
        self._continued = not self._progress.empty
        self._columns = self._progress.first_line().split("\t") if self._continued else None
        self._row: dict[str, Any] = {}
        self.sinks = sinks
        if self._episodes.empty:
            self._episodes.add(",".join(self._episode_fields) + "\n")

    def log(self, name: str, value: Any) -> None:
        """Set one column of this epoch's row; None and NaN become an empty cell."""
        self._row[name] = value

    def log_episodes(self, epoch: int, steps: int, episodes: list[dict[str, Any]]) -> None:
        """Add one line for each finished episode to episodes.csv."""
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        for episode in episodes:
            out.writerow([epoch, steps, *(_cell(episode.get(name)) for name in self._episode_fields[2:])])
        self._episodes.add(text.getvalue())

    def dump(self) -> dict[str, Any]:
        """Write the row, put the files on disk, and return the row.

        A file that is continued keeps its columns: what it has no column for stays away, as where an older version
        began it, and what there is no value for stays empty.

        Raises:
            ValueError: the columns differ from those of the first row.
            OSError: disk full, ...; the row waits in memory for the next `dump` or `flush`, and no part of it is
                left in a file.
        """
        row, self._row = self._row, {}
        if self._columns is None:
            self._columns = list(row)
            self._progress.add("\t".join(self._columns) + "\n")
        if self._continued:
            row = {name: row.get(name) for name in self._columns}
        if list(row) != self._columns:
            raise ValueError(f"columns of a row must stay the same: {sorted(set(row) ^ set(self._columns))} differ")
        cells = {name: _cell(value) for name, value in row.items()}
        self._progress.add("\t".join(cells.values()) + "\n")
        for lines in self._files[2:]:
            lines.add(json_line(cells))
        for sink in self.sinks:
            sink.row(row)
        self.flush()
        return row

    def flush(self) -> None:
        """Write the rows that wait for room, if any do. Raises OSError."""
        for file in self._files:
            file.flush()

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of progress.txt so far, as they stand in the file."""
        lines = self._progress.text().split("\n")
        names = lines[0].split("\t")
        return [dict(zip(names, line.split("\t"), strict=False)) for line in lines[1:] if line]

    def positions(self) -> dict[str, int]:
        """Return how many bytes of each file belong to the epochs written so far; a checkpoint keeps them."""
        return {"progress.txt": self._progress.size, "episodes.csv": self._episodes.size}

    def close(self) -> None:
        """Write what waits, if there is room by now, and close the files."""
        with contextlib.ExitStack() as stack:
            for close in (*(sink.close for sink in self.sinks), *(file.close for file in self._files)):
                stack.callback(close)
            with contextlib.suppress(OSError):
                self.flush()


def json_line(cells: Mapping[str, str]) -> str:
    """Return a row's cells as a line of JSON: numbers, and null for an empty cell or a number that is not finite."""
    return json.dumps({name: _number(cell) for name, cell in cells.items()}, allow_nan=False) + "\n"


def _number(cell: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            number = kind(cell)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return cell or None


def check_heading(folder: Path, known: Container[str]) -> None:
    """See that a run's log can be continued.

    Raises:
        Refused: progress.txt begins with names that are none of `known`, or with one of them twice.
    """
    path = folder / "progress.txt"
    if not path.exists():
        return
    handle = open_file(path, os.O_RDONLY)
    with os.fdopen(handle, "rb") as file:
        names = file.readline(HEADING_BYTES).decode(errors="replace").rstrip("\n").split("\t")
    wrong = next((name for name in names if name not in known or names.count(name) > 1), None)
    if wrong is not None and names != [""]:
        raise Refused(
            f"{path}: its first line names {printable(wrong)!r}, which is no column or is there twice; move the file "
            "away and the run continues with a new one"
        )


def cut_back(folder: Path, positions: dict[str, int]) -> int:
    """Cut the logs to what a checkpoint knew; what is cut off is added to `<name>.bak`, which begins with the heading.

    Returns:
        how many rows of progress.txt were cut off.

    Raises:
        OSError: a file is a link or a pipe, disk full, ...; no row is lost then.
    """
    lost = 0
    for name in FILES:
        if not (folder / name).exists():
            continue
        handle = open_file(folder / name, os.O_RDWR)
        try:
            size, end = positions[name], os.fstat(handle).st_size
            rest = os.pread(handle, end - size, size) if end > size else b""
            if rest:
                with contextlib.closing(Appended(folder / f"{name}.bak")) as kept:
                    heading = os.pread(handle, min(size, HEADING_BYTES), 0).split(b"\n")[0] if kept.empty else b""
                    kept.add(((heading + b"\n" if heading else b"") + rest).decode(errors="surrogateescape"))
                    kept.flush()
                os.ftruncate(handle, size)
                os.fsync(handle)
            lost += rest.count(b"\n") if name == "progress.txt" else 0
        finally:
            os.close(handle)
    return lost


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)
