"""What a person sees of a run: rows that scroll and, on a terminal, a panel below them that is drawn again in place.

     Clear rate        87%   best    91%   ▁▁▁▂▂▃▄▅▆▇▇█▇█▇█   last 100 episodes
     Episode return   2,913  best   2,990  ▁▁▁▂▂▃▄▅▆▇▇█▇█▇█
     1,241 steps/s: collecting 31%, updating 63%, waiting 4%, rest 2%
     34% ━━━━━━━━━━━━━━━━────────────────────────  512k of 1.50M steps, 0:21:14 left

Piped into a file or a program, it is plain lines. Nothing is wider than 80 columns.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from utils import columns, system
from utils.columns import RECENT, STEPS, Column
from utils.command import printable

WIDTH = 79  # of a row, at most
CURVE = 29  # characters of a curve
SHOW_EVERY = 0.1  # seconds between two drawings of the panel
WINDOW = 20  # epochs from which speed and time left are told
BLOCKS, BAR = "▁▂▃▄▅▆▇█", "━─"
LAUNCHERS = ("mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun")
DISPENSABLE = ("StepsPerSecond", "ExplainedVariance", "Time", "Entropy", "KL", STEPS, "EpRet100")  # in this order
PHASES = {"Collect": "collecting", "Update": "updating", "Wait": "waiting", "Evaluate": "evaluating"}


class Console:
    """What a person sees on rank 0.

    A closed or broken standard output never ends a run: the console falls silent, the files go on.
    """

    def __init__(self, total_steps: int, show: bool = True, launched: bool = False) -> None:
        """Args: total_steps: of the run. show: whether at all. launched: whether mpirun hands the output on."""
        self._show, self._total, self._done = show, total_steps, 0
        self._terminal = terminal(launched) if show else None
        self._times: deque[tuple[float, int, Mapping[str, Any]]] = deque(maxlen=WINDOW + 1)  # ends of epochs
        self._curves: dict[str, list[float]] = {}  # what is drawn, by column, of all epochs
        self._own: dict[str, Column] = {}
        self._drawn: list[str] = []  # their lines
        self._best: dict[str, float] = {}
        self._episodes, self._phase = 0.0, ""
        self._rows, self._last_row, self._drawn_at, self._lines = 0, -math.inf, -math.inf, 0

    def start(self, first_step: int, own: Sequence[Column] = (), past: Iterable[Mapping[str, str]] = ()) -> None:
        """Begin.

        Args:
            first_step: which comes next, 0 but in a run that is resumed.
            own: the family's columns that are worth a look; as many are shown as there is room for.
            past: the rows that progress.txt has already; the curves go on from them.
        """
        self._done, self._own = first_step, {column.name: column for column in own}
        self._times.append((time.monotonic(), first_step, {}))
        for row in past if self._terminal is not None else ():
            self._remember({name: _float(row.get(name)) for name in ("EpCount", *_curve_names(row))})
        self._draw_curves()

    def say(self, text: str) -> None:
        """Print one or more lines; what may come from a file, and so from a stranger, cannot drive the terminal."""
        if not self._show:
            return
        lines = [printable(line, 1000) for line in text.split("\n")]
        if self._terminal is not None:
            width = self._columns()
            lines = [part for line in lines for part in textwrap.wrap(line, width, break_on_hyphens=False) or [""]]
        self._write(self._erase() + "\n".join(lines) + "\n" + self._panel())

    def advance(self, steps: int, phase: str = "") -> None:
        """Count steps, and draw the panel again if it is time; until the first row it says which phase this is."""
        self._done, self._phase = self._done + steps, phase
        if self._terminal is not None and time.monotonic() - self._drawn_at >= SHOW_EVERY:
            self._write(self._erase() + self._panel())

    def epoch(self, row: dict[str, Any], epochs: int) -> None:
        """Print the main numbers of a row of progress.txt, with the heading every 20 rows; later at most one a second.

        Args:
            row: of progress.txt.
            epochs: of the whole run.
        """
        self._remember(row)
        now, last = time.monotonic(), row["Epoch"] == epochs - 1
        self._times.append((now, row[STEPS], row))
        self._done = row[STEPS]
        if self._rows >= 20 and now - self._last_row < 1.0 and not last:
            return
        self._last_row = now
        self._draw_curves()
        shown = self._fitting(row, epochs)
        heading = " ".join(name.rjust(width) for name, _, width in shown)
        line = " ".join(text.rjust(max(width, len(name))) for name, text, width in shown)
        self.say(line if self._rows % 20 else f"{heading}\n{line}")
        self._rows += 1

    def _fitting(self, row: dict[str, Any], epochs: int) -> list[tuple[str, str, int]]:
        """Return heading, text and width of the columns of a row: as many as there is room for."""
        own = list(self._own.values())
        evaluated = row.get(f"Eval{own[0].name}" if own else "EvalEpRet")  # None in a run that is not evaluated
        written = percent if own and own[0].unit == "%" else number
        cells = {
            "Epoch": (f"{row['Epoch'] + 1}/{epochs}", 2 * len(str(epochs)) + 1),
            STEPS: (short(row[STEPS]), 6),
            "AverageEpRet": (number(row["AverageEpRet"]), 7),
            **({} if own else {"EpRet100": (number(row.get("EpRet100")), 7)}),  # in each row: episodes may be long
            **{c.name: (percent(row[c.name]) if c.unit == "%" else number(row[c.name], 0), 5) for c in own},
            **({} if evaluated is None else {"Eval": (written(evaluated), 5)}),
            "Entropy": (number(row["Entropy"], 2), 7),
            "KL": (number(row["KL"], 4), 6),
            "ExplainedVariance": (number(row["ExplainedVariance"], 2), 7),
            "StepsPerSecond": (number(row["StepsPerSecond"], 0), 7),
            "Time": (clock(row["Time"]), 7),
            "left": (clock(self._left()), 7),
        }
        shown = {name: (columns.find_column(name, self._own).short or name, *cell) for name, cell in cells.items()}
        for name in (*(c.name for c in own[:0:-1]), *DISPENSABLE):
            widths = [max(width, len(text), len(title)) for title, text, width in shown.values()]
            if sum(widths) + len(widths) - 1 <= self._columns():
                break
            del shown[name]
        return list(shown.values())

    def leave_panel(self) -> None:
        """Leave the last panel where it is: what is said from here on comes below it."""
        if self._lines:
            self._write(self._erase() + self._panel() + "\n")
        self._times.clear()
        self._lines = 0

    def close(self) -> None:
        """Leave the last panel where it is and fall silent."""
        self.leave_panel()
        self._show, self._terminal = False, None

    # The panel --------------------------------------------------------------------------------------------------------

    def _remember(self, row: Mapping[str, Any]) -> None:
        """Keep what the curves draw; what is best so far counts from where it is a mean of RECENT episodes."""
        self._episodes += row["EpCount"] if math.isfinite(row["EpCount"]) else 0
        for name in _curve_names(row):
            value = float(row[name])
            self._curves.setdefault(name, []).append(value)
            if self._episodes >= RECENT and value >= self._best.get(name, -math.inf):
                self._best[name] = value

    def _draw_curves(self) -> None:
        """Draw the curves of all epochs anew: with a row, not each time that the panel is drawn."""
        if self._terminal is not None:
            self._drawn = [self._curve(name, i == 0) for i, name in enumerate(self._curves)]

    def _panel(self) -> str:
        """Return the panel as it is to be drawn; nothing before the run begins and where there is no terminal."""
        if self._terminal is None or not self._times:
            return ""
        self._drawn_at = time.monotonic()
        lines = ["", *self._drawn, self._speed() if len(self._times) > 1 else f" {self._phase}", self._progress()]
        self._lines = len(lines)
        return "\n".join(line[: self._columns()] + "\x1b[K" for line in lines)

    def _progress(self) -> str:
        share = min(1.0, self._done / self._total)
        before, after = f" {math.floor(100 * share):3d}% ", f"  {short(self._done)} of {short(self._total)} steps"
        after += f", {clock(self._left())} left"
        room = max(4, min(40, self._columns() - len(before) - len(after)))
        filled = round(share * room)
        return before + BAR[0] * filled + BAR[1] * (room - filled) + after

    def _curve(self, name: str, explained: bool) -> str:
        column = columns.find_column(name, self._own)
        written = percent if column.unit == "%" else number
        bounds = (column.low, column.high) if column.high is not None else (None, None)
        values = self._curves[name]
        latest = next((value for value in reversed(values) if not math.isnan(value)), None)
        line = f" {column.title:15s} {written(latest):>7s}  best {written(self._best.get(name)):>7s}  "
        return line + sparkline(values, CURVE, *bounds) + ("  last 100" if explained else "")

    def _speed(self) -> str:
        """Return steps per second and where the time went, over the last WINDOW epochs."""
        (begun, first, _), (ended, last, _) = self._times[0], self._times[-1]
        seconds = max(1e-9, ended - begun)
        rows = [row for _, _, row in self._times if row]
        spent = {name: math.fsum(row.get(f"Time{name}", 0.0) for row in rows) for name in (*PHASES, "WaitUpdate")}
        spent["Collect"] -= spent["Wait"] - spent["WaitUpdate"]
        spent["Update"] -= spent["WaitUpdate"]
        shares = {words: spent[name] / seconds for name, words in PHASES.items()}
        shares["rest"] = 1.0 - math.fsum(shares.values())
        told = ", ".join(f"{what} {percent(share)}" for what, share in shares.items() if share >= 0.005)
        return f" {(last - first) / seconds:,.0f} steps/s: {told}"

    def _left(self) -> float:
        """Return the seconds that the rest of the run will take at the speed of the last epochs; NaN before the first.

        It counts down between two epochs, whose parts are not equally fast.
        """
        (begun, first, _), (ended, last, _) = self._times[0], self._times[-1]
        if last <= first:
            return math.nan
        return max(0.0, (self._total - last) * (ended - begun) / (last - first) - (time.monotonic() - ended))

    def _erase(self) -> str:
        """Return what moves the cursor to the first character of the panel and clears it."""
        lines, self._lines = self._lines, 0
        return f"\r\x1b[{lines - 1}A\x1b[J" if lines > 1 else "\r\x1b[J" if lines else ""

    def _columns(self) -> int:
        """Return how many characters of a line may be used: WIDTH, fewer on a narrow terminal."""
        if self._terminal is None:
            return WIDTH
        with contextlib.suppress(OSError):
            return max(20, min(WIDTH, os.get_terminal_size(self._terminal).columns - 1))
        return WIDTH

    def _write(self, text: str) -> None:
        if sys.stdout is None:
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # a letter it lacks becomes its number
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except (BrokenPipeError, OSError, ValueError):
            self._show, self._terminal = False, None


def terminal(launched: bool) -> int | None:
    """Return the descriptor of the terminal on which standard output is seen, None where it goes elsewhere.

    Ranks write into a pipe of mpirun's: then it is where mpirun's own output goes (Linux; elsewhere nowhere).
    """
    if sys.stdout is None:  # as pythonw has it
        return None
    try:
        "".join((BLOCKS, BAR)).encode(sys.stdout.encoding or "ascii")
        if os.environ.get("TERM", "dumb") == "dumb":
            return None
        if not launched:
            return sys.stdout.fileno() if sys.stdout.isatty() else None
        launcher = _launcher()
        if launcher is None or not os.readlink(f"/proc/{launcher}/fd/1").startswith(("/dev/pts/", "/dev/tty")):
            return None
        return os.open(f"/proc/{launcher}/fd/1", os.O_RDONLY | os.O_NOCTTY)
    except (OSError, ValueError):
        return None


def _launcher() -> int | None:
    """Return the process of mpirun that started this one, the outermost of several."""
    found, pid = None, os.getppid()
    while pid > 1:
        name, parent = system.process(pid)
        if name in LAUNCHERS:
            found = pid
        pid = parent
    return found


def sparkline(values: Sequence[float], width: int, low: float | None = None, high: float | None = None) -> str:
    """Return the values as a curve of at most `width` characters, each the mean of as many neighbours.

    Args:
        values: NaN where there is none; such a character is a space.
        width: characters.
        low, high: the ends of the scale; by default the least and the largest mean.
    """
    count = min(width, len(values))
    means = []
    for i in range(count):
        part = [v for v in values[i * len(values) // count : (i + 1) * len(values) // count] if math.isfinite(v)]
        means.append(math.fsum(part) / len(part) if part else math.nan)
    known = [mean for mean in means if not math.isnan(mean)]
    if not known:
        return " " * count
    low, high = min(known) if low is None else low, max(known) if high is None else high
    top = len(BLOCKS) - 1
    places = [(mean - low) / (high - low) * top if high > low else 0.0 for mean in means]
    return "".join(" " if math.isnan(p) else BLOCKS[min(top, max(0, round(p)))] for p in places)


def _curve_names(row: Mapping[str, Any]) -> list[str]:
    """Return the columns that are means of the last RECENT episodes, of the return and of what decides before it."""
    names = [name for name in row if name.endswith(str(RECENT)) and name not in ("EpRet100", "EpLen100")]
    return [*names, *(["EpRet100"] if "EpRet100" in row else [])]


def _float(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan


def clock(seconds: float) -> str:
    """Return a time as 0:21:14, or in days."""
    if math.isnan(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if seconds < 86400 else f"{seconds / 86400:.1f} d"


def number(value: float | None, digits: int | None = None) -> str:
    """Return a number with its thousands apart, a digit after the point below a thousand; 5.0e10 from a million on."""
    if value is None or math.isnan(value):
        return "-"
    if 1e6 <= abs(value) < math.inf:
        return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.{(1 if abs(value) < 1000 else 0) if digits is None else digits}f}"


def percent(value: float | None) -> str:
    """Return a share between 0 and 1 in percent."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.0f}%"


def short(value: float) -> str:
    """Return a number in thousands, millions or billions."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return f"{value:.0f}"
