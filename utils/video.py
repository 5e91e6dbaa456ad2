"""Pictures on their way to a person: video files, GIFs, a text terminal, and a panel of numbers beside the picture.

A picture is an array (H, W, 3) uint8, RGB. A viewer takes one picture per frame with `show` and is finished by `close`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.command import check_writable

FORMATS = {
    ".mp4": ("libx264", ["-crf", "18", "-preset", "veryfast"]),
    ".webm": ("libvpx-vp9", ["-crf", "32", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "8"]),
}
PANEL = 150  # width of the panel before scaling, in the picture's own pixels
TERMINAL_EVERY = 3  # a terminal is drawn on at 20 Hz


class Viewer(Protocol):
    """Takes one picture per frame."""

    def show(self, picture: np.ndarray, caption: str) -> None:
        """Take a picture (H, W, 3) uint8 RGB, of the same size every time, and a line about it."""

    def close(self) -> None:
        """Finish what was begun."""


class VideoFile:
    """Writes mp4 or webm with the ffmpeg that comes with imageio-ffmpeg; the file appears when it is complete."""

    def __init__(self, path: Path, fps: float) -> None:
        """Args: path: ends in .mp4 or .webm. fps: pictures per second. Raises ValueError for anything else."""
        if path.suffix not in FORMATS:
            raise ValueError(f"video: {path} must end in {' or '.join(FORMATS)}, or --gif instead")
        check_writable("video", path)
        try:
            import imageio_ffmpeg
        except ImportError:
            raise ValueError("video: needs the package imageio-ffmpeg (pip install imageio-ffmpeg)") from None
        self._ffmpeg, self.path, self.fps = imageio_ffmpeg, path, fps
        self._temp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        self._writer: Any = None
        self.count = 0  # pictures so far

    def show(self, picture: np.ndarray, caption: str) -> None:
        """Append a picture; height and width must be even."""
        self.count += 1
        if self._writer is None:
            codec, output = FORMATS[self.path.suffix]
            size = (picture.shape[1], picture.shape[0])
            self._writer = self._ffmpeg.write_frames(
                str(self._temp), size, fps=self.fps, codec=codec, quality=None, macro_block_size=2, output_params=output
            )
            self._writer.send(None)
        self._writer.send(np.ascontiguousarray(picture))

    def close(self) -> None:
        """End the file and put it in its place."""
        if self._writer is not None:
            self._writer.close()
            self._temp.replace(self.path)

    def drop(self) -> None:
        """End without a file."""
        if self._writer is not None:
            self._writer.close()
        self._temp.unlink(missing_ok=True)


class GifFile:
    """Writes a GIF, whose clock counts hundredths of a second: about 20 pictures a second are kept."""

    def __init__(self, path: Path, fps: float) -> None:
        """Args: path: where. fps: pictures per second that `show` is given."""
        check_writable("gif", path)
        self.path, self._every, self._count = path, max(1, round(fps / 20)), 0
        self._duration = round(100 * self._every / fps) * 10
        self._pictures: list[Image.Image] = []

    def show(self, picture: np.ndarray, caption: str) -> None:
        """Keep the picture if it is due."""
        if self._count % self._every == 0:
            self._pictures.append(Image.fromarray(picture).quantize(128, dither=Image.Dither.NONE))
        self._count += 1

    def close(self) -> None:
        """Write the file."""
        if self._pictures:
            temp = self.path.with_name(f".tmp-{os.getpid()}-{self.path.name}")
            settings = {"append_images": self._pictures[1:], "duration": self._duration, "loop": 0}
            self._pictures[0].save(temp, "GIF", save_all=True, **settings)
            temp.replace(self.path)


def to_gif(path: Path, width: int = 320, fps: int = 10) -> tuple[bytes, int, int]:
    """Return the first minute of a video file as an animated GIF, with its width and height.

    Args:
        path: mp4 or webm.
        width: most, in pixels; a narrower video keeps its own.
        fps: pictures per second.
    """
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-t", "60"]
    command += ["-vf", f"fps={fps},scale='min({width},iw)':-1", "-f", "gif", "-"]
    gif = subprocess.run(command, capture_output=True, check=True).stdout
    with Image.open(io.BytesIO(gif)) as image:
        return gif, *image.size


class Terminal:
    """Draws in a text terminal: each character is two pixels, one above the other, in 24-bit colours."""

    def __init__(self, out: TextIO | None = None) -> None:
        """Args: out: where to draw, standard output if left out."""
        self.out, self._count = sys.stdout if out is None else out, 0
        self.out.write("\x1b[?25l\x1b[2J")  # hide the cursor, clear the screen

    def show(self, picture: np.ndarray, caption: str) -> None:
        """Draw the picture if it is due."""
        if self._count % TERMINAL_EVERY == 0:
            size = shutil.get_terminal_size()
            text = half_blocks(picture, size.columns, size.lines - 2)
            self.out.write(f"\x1b[H{text}\n{caption[: size.columns - 1]}\x1b[K")
            self.out.flush()
        self._count += 1

    def close(self) -> None:
        """Give the cursor back."""
        self.out.write("\x1b[0m\x1b[?25h\n")
        self.out.flush()


class Clock:
    """Waits so that pictures come at a steady rate."""

    def __init__(self, rate: float) -> None:
        """Args: rate: pictures per second, 0 for as fast as possible."""
        self._period = 1 / rate if rate else 0.0
        self._due = time.monotonic()

    def wait(self) -> None:
        """Sleep until the next picture is due; a delay of more than a quarter of a second is not caught up."""
        self._due = max(self._due + self._period, time.monotonic() - 0.25)
        time.sleep(max(0.0, self._due - time.monotonic()))


def half_blocks(picture: np.ndarray, columns: int, lines: int) -> str:
    """Return the picture as at most `lines` lines of at most `columns` upper half blocks with colour codes."""
    height, width = picture.shape[:2]
    scale = min(columns / width, 2 * lines / height)
    size = (max(1, int(width * scale)), max(2, int(height * scale) // 2 * 2))
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    rows = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        codes, colours = [], None
        for pair in zip(upper, lower, strict=True):
            if pair != colours:
                (r, g, b), (x, y, z) = colours = pair
                codes.append(f"\x1b[38;2;{r};{g};{b};48;2;{x};{y};{z}m")
            codes.append("\u2580")
        rows.append("".join(codes) + "\x1b[0m\x1b[K")
    return "\n".join(rows)


def even_size(picture: np.ndarray) -> np.ndarray:
    """Return the picture without a last odd row and column: a video needs even sizes."""
    return picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """Return the picture with every pixel repeated `scale` times in both directions."""
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def draw_panel(
    labels: Sequence[str], probs: Sequence[float], chosen: int, value: float | None, height: int, scale: int
) -> np.ndarray:
    """Draw a panel for the picture's right side: a bar for each action's probability and V(obs).

    Args:
        labels: name of each action; the rows move closer for many, and those that still do not fit are left out.
        probs: (A,) probability of each action.
        chosen: number of the action that is taken, drawn in another colour.
        value: V(obs), None where the policy has no critic.
        height: of the picture, before scaling.
        scale: by how much the picture was enlarged.

    Returns:
        (scale * height, scale * PANEL, 3) uint8.
    """
    image = Image.new("RGB", (PANEL * scale, height * scale), (16, 18, 24))
    draw, unit = ImageDraw.Draw(image), scale
    font = ImageFont.load_default(size=9 * scale)
    text = "no critic" if value is None else f"value {value:8.2f}"
    draw.text((6 * unit, 4 * unit), text, (235, 235, 235), font)
    row = max(14, min(24, (height - 22) // len(labels)))
    for i, (label, prob) in enumerate(zip(labels, probs, strict=True)):
        top = (20 + row * i) * unit
        if top + row * unit > height * scale:
            break
        colour = (255, 176, 0) if i == chosen else (120, 160, 220)
        draw.text((6 * unit, top), label, colour if i == chosen else (200, 200, 200), font)
        percent = f"{100 * prob:.1f}%"
        draw.text(((PANEL - 6) * unit, top), percent, (200, 200, 200), font, anchor="ra")
        bar = (6 * unit, top + min(13, row - 5) * unit, (PANEL - 6) * unit, top + min(18, row - 2) * unit)
        draw.rectangle(bar, (44, 48, 60))
        if prob > 0.002:
            draw.rectangle((bar[0], bar[1], bar[0] + int((bar[2] - bar[0]) * prob), bar[3]), colour)
    return np.asarray(image)
