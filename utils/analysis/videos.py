"""Videos of run folders for the report's page: known by their first bytes, and small enough to be mailed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.analysis.experiments import Group
from utils.analysis.markup import embedded, text
from utils.analysis.runs import LoggedRun
from utils.files import read_file

LARGEST_VIDEO = 16 << 20  # bytes; mail servers refuse much more
LARGEST_PAGE = 48 << 20  # bytes of videos in all
VIDEOS_PER_EXPERIMENT = 2


def video_kind(data: bytes) -> str:
    """Return the media type that the first bytes of a file show; "" for anything but WebM, MP4 and GIF."""
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm"
    if data[4:8] == b"ftyp":
        return "video/mp4"
    return "image/gif" if data[:6] in (b"GIF87a", b"GIF89a") else ""


def videos(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """Return the newest videos of each experiment (by name), and notes on those left out."""
    parts, notes, total = [], [], 0
    for group in groups:
        shown = 0
        for path in (path for run in group.runs for path in _video_files(run)):
            if shown == VIDEOS_PER_EXPERIMENT:
                break
            name = f"{path.parent.parent.name}/{path.name}"
            try:
                size = path.lstat().st_size
                if size > LARGEST_VIDEO or total + size > LARGEST_PAGE:
                    notes.append(f"video {name} left out: {size >> 20} MiB would make the page too large to mail")
                    continue
                data = read_file(path, LARGEST_VIDEO)
            except OSError as error:
                notes.append(f"video {name} left out: {error.strerror}")
                continue
            kind = video_kind(data)
            if not kind:
                notes.append(f"video {name} left out: not a WebM, MP4 or GIF file")
                continue
            parts.append(figure(data, kind, name))
            shown, total = shown + 1, total + size
    return (f"<div class='grid'>{''.join(parts)}</div>" if parts else ""), notes


def _video_files(run: LoggedRun) -> list[Path]:
    """Return the video files of a run, newest name first; links, which could point anywhere, are left out."""
    folder = run.path / "videos"
    if folder.is_symlink() or not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.suffix.lower() in (".webm", ".mp4", ".gif"))
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), reverse=True)


def figure(data: bytes, kind: str, name: str, autoplay: bool = True) -> str:
    """Return a video of one of the kinds that `video_kind` knows for the page."""
    address, words = embedded(data, kind), f"<figcaption>{text(name)}</figcaption>"
    if kind == "image/gif":
        return f"<figure><img src='{address}' alt='Video {text(name)}'>{words}</figure>"
    plays = "autoplay " if autoplay else ""
    return f"<figure><video controls {plays}muted loop playsinline src='{address}'></video>{words}</figure>"
