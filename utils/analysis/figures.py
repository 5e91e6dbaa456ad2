"""How every figure looks: colours that the colour-blind tell apart, labels and units of axes, files that repeat.

Palette: Okabe and Ito, "Color Universal Design" (2008), black left for references. After seven curves the line style
changes, so that 28 can be told apart. Nothing in a file depends on the clock, a random id or the version of the
library, so that plotting twice gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from utils.columns import STEPS, Column

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DARK_COLOURS = ("#56A9E0", "#F0803C", "#2FC79B", "#E29BC4", "#F2B632", "#8FD0F5", "#FFFFFF")
INK, PAPER = "#1c1f23", "#ffffff"
DARK_INK, DARK_PAPER = "#e6e6e6", "#15181c"
LINES = ("-", "--", "-.", ":")
FORMATS = ("png", "svg", "pdf")
METADATA = {  # what a file says about its making, left out
    "png": ("Software",),
    "svg": ("Date", "Creator"),
    "pdf": ("CreationDate", "ModDate", "Creator", "Producer"),
}

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.3,
    "grid.color": "#808080",
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "fixed",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "path.simplify": True,
    "text.usetex": False,
    "text.parse_math": False,  # a "$" in the name of an experiment is a dollar
    "axes.unicode_minus": True,
}


class _Multiples(MaxNLocator):
    """Ticks at round numbers of a unit of so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(nbins=8, steps=[1, 2, 2.5, 5, 10])
        self.seconds = seconds

    def tick_values(self, vmin: float, vmax: float):  # type: ignore[no-untyped-def]
        """Return the ticks between two times in seconds."""
        return np.asarray(super().tick_values(vmin / self.seconds, vmax / self.seconds)) * self.seconds


@contextmanager
def style() -> Iterator[None]:
    """Use the project's figure style, and no setting of the user's own, inside the block."""
    with matplotlib.rc_context():
        backend = matplotlib.rcParams["backend"]
        matplotlib.rcdefaults()
        for name, value in ({"backend": backend} | STYLE).items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def look(number: int) -> dict[str, Any]:
    """Return colour and line style of curve `number`."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number // len(COLOURS) % len(LINES)]}


def set_axis(axes: Axes, which: str, column: Column) -> None:
    """Label the x or y axis and choose its numbers: 40k rather than 40000, shares in percent, hours for long times."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    limits = axes.get_xlim() if which == "x" else axes.get_ylim()
    axis.set_label_text(column.axis)
    if column.name == "Time":
        units = (("hours", 3600), ("minutes", 60))
        unit, seconds = next(((unit, size) for unit, size in units if limits[1] > 2 * size), ("seconds", 1))
        axis.set_label_text(f"{column.label} ({unit})")
        axis.set_major_locator(_Multiples(seconds))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / seconds:.4g}"))
    elif column.unit == "%":
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g}%"))
    elif column.name in (STEPS, "Epoch") or max(np.abs(limits)) >= 10_000:
        axis.set_major_formatter(EngFormatter(sep=""))


def wrapped(label: str, width: int) -> str:
    """Return a label on lines of at most `width` characters, three at most, broken after _ and spaces where it can."""
    lines = [""]
    for piece in re.findall(r"[^_ ]*[_ ]?", label):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    shown = [line if len(line) <= width + 1 else line[: width - 1] + "\N{HORIZONTAL ELLIPSIS}" for line in lines]
    return "\n".join(shown[:2] + (["\N{HORIZONTAL ELLIPSIS}" + shown[-1]] if len(shown) > 3 else shown[2:]))


def encode(figure: Figure, kind: str) -> bytes:
    """Return the figure as the bytes of a PNG, SVG or PDF file, the same bytes every time."""
    if kind not in FORMATS:
        raise ValueError(f"figure format must be one of {', '.join(FORMATS)}, got {kind!r}")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that the font lacks
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # a name too long for the figure
        figure.savefig(buffer, format=kind, metadata=dict.fromkeys(METADATA[kind]))
    return buffer.getvalue()


def darkened(svg: bytes) -> bytes:
    """Return an SVG that `encode` made, in the colours for a dark page."""
    pairs = dict(zip((*COLOURS, INK, PAPER), (*DARK_COLOURS, DARK_INK, DARK_PAPER), strict=True))
    table = {light.lower().encode(): dark.lower().encode() for light, dark in pairs.items()}
    return re.sub(rb"#[0-9a-f]{6}\b", lambda match: table.get(match[0], match[0]), svg)


def figure_format(path: str | Path) -> str:
    """Return the format that a file name asks for.

    Raises:
        ValueError: the ending is none of png, svg and pdf.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"--out must end in {', '.join('.' + f for f in FORMATS)}, got {str(path)!r}")
    return kind


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure to a file whose ending names the format; the folder is made if it is missing."""
    data = encode(figure, figure_format(path))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)
