"""Read log tables that a running, killed or foreign program wrote: what cannot be read is skipped and counted.

A table is lines of fields between tabs (progress.txt) or commas (monitor.csv) under a header line. The whole file is
parsed with array operations on its bytes, about 10 ms for 10,000 rows of 35 columns, because plotting a thousand runs
must not take minutes.

Rules, in place of guesses:
    a last line without a newline is being written, or was cut: it is left out;
    a line with a NUL or non-ASCII byte, another number of fields than its header, or text where a wanted column
    has a number, is unreadable;
    a line of names that shares a column with the first header is a header: the rows below it follow it;
    an empty field is a missing value (NaN), not an error;
    at most 10,000 columns and 1,000 header lines are looked at: a file with more is no log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

TAB, COMMA, NEWLINE, RETURN = 9, 44, 10, 13
WIDEST_NUMBER = 48  # characters; a longer field is not a number
MOST_COLUMNS = 10_000
MOST_HEADERS = 1000


@dataclass
class Table:
    """Columns of equal length by name, and an account of what was left out."""

    columns: dict[str, Array] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)  # every column of every header, in order of appearance
    rows: int = 0  # lines below the first header that hold or should hold numbers
    unreadable: int = 0
    headers: int = 0  # header lines after the first
    incomplete: bool = False  # a last line without a newline was left out

    def notes(self) -> list[str]:
        """Return what a reader of the table should be told, one short sentence each."""
        notes = []
        if not self.names:
            notes.append("no header line: nothing read")
        if self.unreadable:
            notes.append(f"{self.unreadable} of {self.rows} rows unreadable")
        if self.headers:
            notes.append(f"{self.headers} repeated header{'s' if self.headers > 1 else ''}")
        if self.incomplete:
            notes.append("last line incomplete")
        return notes


def read_table(path: Path | str, wanted: Iterable[str] | None = None, delimiter: int = TAB) -> Table:
    """Return the wanted columns (all where None) of the file; those that it lacks are absent.

    Raises:
        OSError: the file cannot be opened.
    """
    return parse_table(Path(path).read_bytes(), wanted, delimiter)


def parse_table(data: bytes, wanted: Iterable[str] | None = None, delimiter: int = TAB) -> Table:
    """Return the table in `data`; see the rules at the top of the module."""
    table = Table()
    whole = data.rfind(b"\n") + 1
    table.incomplete = whole < len(data)
    buffer = np.frombuffer(data, dtype=np.uint8, count=whole)
    starts, ends = _lines(buffer)
    readable = _readable(data, buffer, starts)
    headers = _headers(data, buffer, starts, ends, readable, chr(delimiter))
    table.rows = len(starts) - len(headers)
    table.headers = max(0, len(headers) - 1)
    table.names = list(dict.fromkeys(name for _, names in headers for name in names))
    keep = table.names if wanted is None else [name for name in wanted if name in set(table.names)]
    parts: list[dict[str, Array]] = []
    places = np.flatnonzero(buffer == delimiter)
    for number, (line, names) in enumerate(headers):
        until = headers[number + 1][0] if number + 1 < len(headers) else len(starts)
        block = slice(line + 1, until)
        good = readable[block]
        parts.append(_block(buffer, starts[block][good], ends[block][good], places, names, keep))
    table.columns = {name: np.concatenate([part[name] for part in parts]) for name in keep}
    table.unreadable = table.rows - sum(len(part[""]) for part in parts)
    return table


def _lines(buffer: Bytes) -> tuple[Places, Places]:
    """Return the start and end of each line that holds anything, line ends (also CRLF) left out."""
    ends = np.flatnonzero(buffer == NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if len(ends) else ends
    returns = (ends > starts) & (buffer[ends - 1] == RETURN) if len(ends) else np.zeros(0, dtype=bool)
    ends = ends - returns
    filled = ends > starts
    return starts[filled], ends[filled]


def _readable(data: bytes, buffer: Bytes, starts: Places) -> NDArray[np.bool_]:
    """Return for each line whether it is free of NUL and non-ASCII bytes."""
    readable = np.ones(len(starts), dtype=bool)
    if len(starts) and not (data.isascii() and b"\0" not in data):
        line = np.searchsorted(starts, np.flatnonzero((buffer == 0) | (buffer >= 127)), side="right") - 1
        readable[line[line >= 0]] = False
    return readable


def _headers(
    data: bytes,
    buffer: Bytes,
    starts: Places,
    ends: Places,
    readable: NDArray[np.bool_],
    delimiter: str,
) -> list[tuple[int, list[str]]]:
    """Return (line number, names) of the first header and of each later one that shares a column with it."""
    first = buffer[starts] if len(starts) else buffer[:0]
    letters = ((first >= 65) & (first <= 90)) | ((first >= 97) & (first <= 122)) | (first == 95)
    found: list[tuple[int, list[str]]] = []
    expected: set[str] = set()
    for line in np.flatnonzero(letters & readable):
        names = [name.strip() for name in data[starts[line] : ends[line]].decode("ascii").split(delimiter)]
        proper = 1 < len(names) == len(set(names)) <= MOST_COLUMNS and all(name.isprintable() for name in names)
        proper = proper and all(names) and not any(_is_number(name) for name in names)
        if proper and (not found or expected.intersection(names)):
            found.append((int(line), names))
            expected = expected or set(names)
        if len(found) == MOST_HEADERS:
            break
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _block(
    buffer: Bytes,
    starts: Places,
    ends: Places,
    places: Places,
    names: list[str],
    keep: list[str],
) -> dict[str, Array]:
    """Return the kept columns of the rows under one header; key "" marks the rows that were readable."""
    low, high = np.searchsorted(places, starts), np.searchsorted(places, ends)
    whole = high - low == len(names) - 1
    starts, ends, low = starts[whole], ends[whole], low[whole]
    readable = np.ones(len(starts), dtype=bool)
    values: dict[str, Array] = {}
    position = {name: i for i, name in enumerate(names)}
    for name in keep:
        if name not in position:
            values[name] = np.full(len(starts), np.nan)
            continue
        at = position[name]
        left = starts if at == 0 else places[low + at - 1] + 1
        right = ends if at == len(names) - 1 else places[low + at]
        values[name], valid = _numbers(buffer, left, right)
        readable &= valid
    return {name: column[readable] for name, column in values.items()} | {"": np.ones(int(readable.sum()))}


def _numbers(buffer: Bytes, left: Places, right: Places) -> tuple[Array, NDArray[np.bool_]]:
    """Return the number in each span of bytes, NaN for an empty one, and whether the span was one or the other."""
    length = right - left
    valid = length <= WIDEST_NUMBER
    if len(left) == 0:
        return np.zeros(0), valid
    width = max(3, int(length[valid].max(initial=0)))
    offsets = np.arange(width)
    spans = buffer.take(left[:, None] + offsets, mode="clip")  # (rows, width)
    spans *= offsets < length[:, None]
    text = spans.view(f"S{width}")[:, 0]
    text[(length == 0) | ~valid] = b"nan"
    try:
        return text.astype(np.float64), valid
    except ValueError:
        for i, piece in enumerate(text):
            if not _is_number(piece.decode("ascii", "replace")):
                text[i], valid[i] = b"nan", False
        return text.astype(np.float64), valid
