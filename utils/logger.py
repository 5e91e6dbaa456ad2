"""EpochLogger: one row per epoch in `progress.txt`, one line per episode in `episodes.csv`, a table on the console.

`progress.txt` is tab separated with Spinning Up's column names, so that its readers and ours both work. Only rank 0
has a logger; numbers of all ranks are joined before they come here.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import sys
import time
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.columns import Column
from utils.command import printable
from utils.files import open_file
from utils.folder import Refused

FILES = ("progress.txt", "episodes.csv")
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

    def __init__(self, folder: Path, episode_fields: tuple[str, ...], tensorboard: bool = False) -> None:
        """Open the files in `folder`, adding to those that are there. Raises OSError if one is a link or a pipe."""
        self._progress, self._episodes = Appended(folder / "progress.txt"), Appended(folder / "episodes.csv")
        self._episode_fields = ("epoch", "steps", *episode_fields)
        self._continued = not self._progress.empty
        self._columns = self._progress.first_line().split("\t") if self._continued else None
        self._row: dict[str, Any] = {}
        self._writer = _tensorboard_writer(folder) if tensorboard else None
        if self._episodes.empty:
            self._episodes.add(",".join(self._episode_fields) + "\n")

    def log(self, name: str, value: Any) -> None:
        """Set one column of this epoch's row; None and NaN become an empty cell."""
        self._row[name] = value

    def log_episodes(self, epoch: int, steps: int, episodes: list[dict[str, Any]]) -> None:
        """Add one line per finished episode to episodes.csv."""
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        for episode in episodes:
            out.writerow([epoch, steps, *(_cell(episode.get(name)) for name in self._episode_fields[2:])])
        self._episodes.add(text.getvalue())

    def dump(self) -> dict[str, Any]:
        """Write the row, put both files on disk, and return the row.

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
        self._progress.add("\t".join(_cell(value) for value in row.values()) + "\n")
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, int | float) and math.isfinite(value):
                    self._writer.add_scalar(name, value, row["TotalEnvInteracts"])
            self._writer.flush()
        self.flush()
        return row

    def flush(self) -> None:
        """Write the rows that wait for room, if any do. Raises OSError."""
        self._progress.flush()
        self._episodes.flush()

    def positions(self) -> dict[str, int]:
        """Return how many bytes of each file belong to the epochs written so far; a checkpoint keeps them."""
        return {"progress.txt": self._progress.size, "episodes.csv": self._episodes.size}

    def close(self) -> None:
        """Write what waits, if there is room by now, and close the files."""
        with contextlib.suppress(OSError):
            self.flush()
        for file in (self._progress, self._episodes, self._writer):
            if file is not None:
                file.close()


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
                kept = Appended(folder / f"{name}.bak")
                heading = os.pread(handle, min(size, HEADING_BYTES), 0).split(b"\n")[0] if kept.empty else b""
                kept.add(((heading + b"\n" if heading else b"") + rest).decode(errors="surrogateescape"))
                kept.flush()
                kept.close()
                os.ftruncate(handle, size)
                os.fsync(handle)
            lost += rest.count(b"\n") if name == "progress.txt" else 0
        finally:
            os.close(handle)
    return lost


def _tensorboard_writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


class Console:
    """What a person sees on rank 0: a progress bar on a terminal, a short table per epoch; plain lines elsewhere.

    A closed or broken standard output never ends a run: the console falls silent, the files go on.
    """

    def __init__(self, total_steps: int, first_step: int = 0, show: bool = True) -> None:
        """Start at `first_step` of `total_steps`."""
        self._show = show
        self._terminal = show and sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            smoothing=0.1,
            disable=not self._terminal,
            file=sys.stderr,
        )
        self._rows, self._last_row = 0, -math.inf

    def say(self, text: str) -> None:
        """Print one or more lines; what may come from a file, and so from a stranger, cannot drive the terminal."""
        if not self._show:
            return
        text = "\n".join(printable(line, 1000) for line in text.split("\n"))
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # a letter it lacks becomes its number
        try:
            with self._bar.external_write_mode(file=sys.stdout) if self._terminal else contextlib.nullcontext():
                print(text, flush=True)
        except (BrokenPipeError, OSError, ValueError):
            self._show = self._terminal = False

    def advance(self, steps: int) -> None:
        """Move the bar."""
        if self._terminal:
            self._bar.update(steps)

    def epoch(self, row: dict[str, Any], epochs: int, own: Sequence[Column] = ()) -> None:
        """Print the row's main numbers in 80 columns, with the heading every 20 rows; later at most one row per second.

        Args:
            row: of progress.txt.
            epochs: of the whole run.
            own: the family's columns that are worth a look; two have room.
        """
        now, last = time.monotonic(), row["Epoch"] == epochs - 1
        if self._rows >= 20 and now - self._last_row < 1.0 and not last:
            return
        self._last_row = now
        columns = [
            ("epoch", f"{row['Epoch'] + 1}/{epochs}", 7),
            ("steps", _short(row["TotalEnvInteracts"]), 6),
            ("EpRet", _number(row["AverageEpRet"], 1), 8),
            *((c.name, _percent(row[c.name]) if c.unit == "%" else _number(row[c.name], 0), 6) for c in own[:2]),
            ("Entropy", _number(row["Entropy"], 2), 7),
            ("KL", _number(row["KL"], 4), 6),
            ("ExplVar", _number(row["ExplainedVariance"], 2), 7),
            ("steps/s", _number(row["StepsPerSecond"], 0), 7),
            ("time", _clock(row["Time"]), 8),
        ]
        if self._rows % 20 == 0:
            self.say(" ".join(name.rjust(width) for name, _, width in columns))
        self.say(" ".join(text.rjust(max(width, len(name))) for name, text, width in columns))
        self._rows += 1

    def close(self) -> None:
        """Leave the terminal as it was."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.close()


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} d"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.0f}%"


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:.0f}"
