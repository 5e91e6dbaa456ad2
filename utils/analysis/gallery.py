"""The gallery: one page with every policy of a folder: film, clear rates, curve, commands to train and to watch.

A policy is a folder with `policy.json`; `play.mp4` (or .webm, .gif), `evaluation.json` and `curve.png` are shown where
they are there, as `scripts.scoreboard` and `scripts.solve` write them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.analysis import markup, videos
from utils.analysis.markup import embedded, table, text
from utils.analysis.untrusted import object_and_note
from utils.files import read_file

FILMS = ("play.mp4", "play.webm", "play.gif")
MOST_POLICIES = 200
MOST_LINES = 50  # of an evaluation
LARGEST_PICTURE = 4 << 20  # bytes
# Of a line of an evaluation: what was counted. All other words and numbers in it are options.
FIGURES = {"greedy", "commit", "episodes", "starts", "trajectories", "cleared", "clear_rate", "worth"}
PNG = b"\x89PNG\r\n\x1a\n"


def find_policies(folders: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the policies in folders of policies, or of such folders, or that the folders are, each after its name.

    Raises:
        ValueError: there is none in one of them.
    """
    found: list[tuple[str, Path]] = []
    for folder in map(Path, folders):
        inside = [path for path in folders_in(folder) if (path / "policy.json").is_file()]
        deeper = [path for group in folders_in(folder) if group not in inside for path in folders_in(group)]
        here = [(path.name, path) for path in (folder, *inside) if (path / "policy.json").is_file()]
        here += [(f"{path.parent.name}/{path.name}", path) for path in deeper if (path / "policy.json").is_file()]
        if not here:
            raise ValueError(f"no policy in {folder}: expected a folder of folders with a policy.json")
        found += here
    return found[:MOST_POLICIES]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, in the order of their names, without links."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in inside if path.is_dir() and not path.is_symlink()]


def page(folders: Sequence[str], title: str) -> str:
    """Return the whole document."""
    policies = find_policies(folders)
    parts, notes = [], []
    for i, (name, folder) in enumerate(policies):
        content, more = policy(folder, name)
        parts.append((f"p{i}", text(name), content))
        notes += more
    remarks = "".join(f"<p class='warn'>{text(note)}</p>" for note in notes)
    count = f"{len(policies)} polic{'ies' if len(policies) > 1 else 'y'}"
    return markup.document(title, count, [*parts, ("notes", "Notes", remarks)])


def policy(folder: Path, called: str) -> tuple[str, list[str]]:
    """Return the section about a policy of that name, and what could not be shown of it."""
    info, problem = object_and_note(folder / "policy.json")
    evaluation, other = object_and_note(folder / "evaluation.json")
    notes = [f"{called}: {note}" for note in (problem, other) if note]
    shown = []
    film = next((name for name in FILMS if (folder / name).exists()), None)
    for name, limit in ((film, videos.LARGEST_VIDEO), ("curve.png", LARGEST_PICTURE)):
        if name is None or not (folder / name).exists():
            continue
        try:
            shown.append(figure(read_file(folder / name, limit), name))
        except (OSError, ValueError) as error:
            notes.append(f"{called}: {name} left out: {error}")
    rates, commands = clear_rates(evaluation), how(called, info)
    beside = f"<div><h3>Clear rate</h3>{rates}</div>" if rates else ""
    return f"<div class='grid'>{''.join(shown)}{beside}</div>{commands}{facts(info)}", notes


def figure(data: bytes, name: str) -> str:
    """Return a film or a picture for the page. Raises ValueError where the file is neither."""
    if data.startswith(PNG):
        curve = f"<img class='paper' src='{embedded(data, 'image/png')}' alt='Learning curve'>"
        return f"<figure>{curve}<figcaption>Learning curve</figcaption></figure>"
    kind = videos.video_kind(data)
    if not kind:
        raise ValueError("not a WebM, MP4, GIF or PNG file")
    return videos.figure(data, kind, name, autoplay=False)


def clear_rates(evaluation: dict[str, Any]) -> str:
    """Return a table of the evaluation's clear rates with their intervals, "" where there is none."""
    lines = evaluation.get("lines")
    rows: list[list[object]] = [["how it was played", "cleared", "95% interval", "episodes"]]
    for line in lines[:MOST_LINES] if isinstance(lines, list) else []:
        if not isinstance(line, dict) or not _real(line.get("clear_rate")) or not _real(line.get("episodes")):
            continue
        bounds = line.get("clear_rate_95")
        interval = "none: one film" if line.get("trajectories") == 1 else "none"
        if isinstance(bounds, list) and len(bounds) == 2 and all(map(_real, bounds)):
            interval = f"{100 * bounds[0]:.0f}% to {100 * bounds[1]:.0f}%"
        rows.append([condition(line), f"{100 * line['clear_rate']:.0f}%", interval, f"{line['episodes']:.0f}"])
    return table(rows, free=[0]) if len(rows) > 1 else ""


def condition(line: dict[str, Any]) -> str:
    """Return how an evaluation's episodes were played: the actions, and each option that is set, by its name."""
    words = ["most probable actions" if line.get("greedy") else "sampled actions"]
    options = [
        (name, value) for name, value in line.items() if name not in FIGURES and isinstance(value, str | int | float)
    ]
    return ", ".join([*words, *(f"{name.replace('_', ' ')} {value}" for name, value in options if value)])


def how(name: str, info: dict[str, Any]) -> str:
    """Return the commands that watch a policy, measure it and train another one like it."""
    name = name if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else "POLICY"
    commands = [("Watch", f"python -m scripts.play {name}"), ("Measure", f"python -m scripts.evaluate {name}")]
    commands += [("Train", str(info["command"]))] if isinstance(info.get("command"), str) else []
    lines = [(title, " ".join(f"<span>{text(word)}</span>" for word in line.split())) for title, line in commands]
    return "".join(f"<h3>{title}</h3><pre>{words}</pre>" for title, words in lines)  # lines break between words only


def facts(info: dict[str, Any]) -> str:
    """Return what policy.json says about the training."""
    rows: list[list[object]] = [["what", "value"]]
    for name in ("env", "network", "preset", "seed", "steps", "hours", "processor", "commit"):
        value = info.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            rows.append([name, f"{value:,}" if name == "steps" and _real(value) else value])
    if len(rows) == 1:
        return ""
    return f"<details><summary>About its training</summary>{table(rows, free=[1])}</details>"


def _real(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
