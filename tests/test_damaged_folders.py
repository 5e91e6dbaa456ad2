"""Run folders that are damaged or made to do harm: one clear line and code 2, or the rest is shown with a note."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.run_folders import write_monitor, write_run
from utils import compare, plot, report
from utils.analysis import comparison_figure, figures, grids, learning_curves, runs, stats
from utils.analysis.experiments import Group
from utils.columns import STEPS

MUTATIONS = 200
ESCAPE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


VALUES: list[Any] = [
    None,
    True,
    -1,
    10**400,
    10**4000,
    1e300,
    float("inf"),
    float("nan"),
    ESCAPE,
    [],
    {},
    "",
    "\ud800",
    "x" * 100_000,
    nested(10),
    nested(100),
    {ESCAPE: ESCAPE},
    [ESCAPE],
    [[1]] * 1000,
    {str(i): i for i in range(5000)},
    "0" * 5000,
]
TOKENS = [
    b"1e999",
    b"-1e308",
    b"1e300",
    b"9" * 400,
    b"9" * 40,
    b"nan",
    b"\x00",
    b"\x1b[2J",
    b"\xff\xfe",
    b"\t" * 1000,
    b"\n" * 50,
    b"0x10",
    b"1_000",
    b",",
    b'"',
    b"Epoch\tTotalEnvInteracts\tAverageEpRet\n",
    "\u202e\u0663".encode(),
]
WHOLE = [
    b"",
    b"\n",
    b"\x00" * 10_000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"#" * 10_000,
    b"Epoch",
    b"{}",
    b"[]",
    b"null",
    b"1" * 5000,
    ("\t".join(f"c{i}" for i in range(20_000)) + "\n").encode(),
    b"A\tB\n" * 5000,
    b"\xef\xbb\xbf{}",
    b"r,l,t\n" * 3000,
]


def special(path: Path, kind: int) -> None:
    """Put something else than a regular file in the place of one."""
    path.unlink()
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.symlink_to("/etc/passwd")
    else:
        try:
            os.mknod(path, 0o20600, os.makedev(1, 5))  # /dev/zero itself
        except PermissionError:
            path.symlink_to("/dev/full")


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the file's bytes after one random kind of damage."""
    kind = int(rng.integers(6))
    at = int(rng.integers(len(data) + 1))
    if kind == 0:
        return data[:at]
    if kind == 1:
        changed = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 20)):
            changed[place] = rng.integers(256)
        return bytes(changed)
    if kind == 2:
        return data[:at] + TOKENS[rng.integers(len(TOKENS))] + data[at:]
    if kind == 3:
        return WHOLE[rng.integers(len(WHOLE))]
    if data.startswith(b"{"):
        document = json.loads(data)
        target = document["spec"] if kind == 4 and "spec" in document else document
        key = str(rng.choice([*target, "columns", "free_settings", "versions", ESCAPE]))
        target[key] = VALUES[rng.integers(len(VALUES))]
        return json.dumps(document).encode()
    lines = data.split(b"\n")
    line = int(rng.integers(len(lines)))
    if kind == 4:
        lines[line], lines[at % len(lines)] = lines[at % len(lines)], lines[line]
    else:
        cells = lines[line].replace(b",", b"\t").split(b"\t")
        cells[rng.integers(len(cells))] = TOKENS[rng.integers(len(TOKENS))]
        lines[line] = (b"," if b"," in lines[line] else b"\t").join(cells)
    return b"\n".join(lines)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(main: Callable[[list[str]], int], arguments: list[str], out: Path) -> None:
    """Run a command and check what it leaves on the terminal and in its page."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), warnings.catch_warnings():
        warnings.simplefilter("error")
        with time_limit(30):
            code = main(arguments)
    texts = [stdout.getvalue(), stderr.getvalue()]
    assert code in (0, 2) and (code == 0 or (texts[1].count("error:") == 1 and texts[1].count("\n") == 1)), texts[1]
    if out.is_file() and out.suffix == ".html":
        texts.append(out.read_text(encoding="utf-8"))
    for text in texts:
        assert all(c.isprintable() or c in "\n\t" for c in text), [c for c in text if not c.isprintable()][:20]


def folder_with(root: Path, name: str) -> Path:
    """Write two runs and return the file of this name in the first."""
    if name == "monitor.csv":
        write_monitor(root / "b" / "b_1", episodes=12, seed=1)
        return write_monitor(root / "b" / "b_0", episodes=12) / "0.monitor.csv"
    folders = [write_run(root, "a", seed, epochs=6) for seed in range(2)]
    (folders[0] / "episodes.csv").write_text("epoch,steps,env,episode,ep_ret\n0,1000,0,0,12.0\n1,2000,0,1,13.0\n")
    return folders[0] / name


FILES = ("config.json", "progress.txt", "episodes.csv", "exit.json", "system.json", "monitor.csv")


def attack(root: Path, name: str, turns: int) -> None:
    """Run the three commands on 200 mutations of a file: report and plot once in so many turns, compare in the rest."""
    rng = np.random.default_rng([FILES.index(name), 20])
    path = folder_with(root / "data", name)
    original = path.read_bytes()
    for number in range(MUTATIONS if name != "episodes.csv" else 30):  # which none of the three reads
        if number < 18:
            special(path, number % 6)
        else:
            path.write_bytes(mutated(original, rng))
        turn = number % turns
        out = root / ("page.html" if turn == 0 else "figure.png")
        more = (["--out", str(out), "--mixed"], ["--out", str(out)], ["--mixed"])[min(turn, 2)]
        try:
            check((report.main, plot.main, compare.main)[min(turn, 2)], [str(root / "data"), *more], out)
        except BaseException as error:
            error.add_note(f"mutation {number} of {name}")
            raise
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(original)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_one_line_and_code_2_or_the_rest_with_a_note(tmp_path, monkeypatch, name):
    """No traceback, no hang and no escape sequence; the slow test below draws the figures too."""
    monkeypatch.setattr(stats, "REPLICATIONS", 50)
    monkeypatch.setattr(figures, "encode", lambda figure, kind: b"<svg/>")
    monkeypatch.setattr(learning_curves, "draw", lambda groups, *_, **__: (Figure(), join_all(groups)))
    monkeypatch.setattr(comparison_figure, "draw_apart", lambda result: [])
    attack(tmp_path, name, turns=9)


def join_all(groups: list[Group]) -> list[str]:
    """Return the notes of everything that a figure would show, without the figure."""
    return [note for group in groups for note in grids.join(group, STEPS, runs.PERFORMANCE).notes]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_drawn_or_refused(tmp_path, name):
    """The same with every figure."""
    attack(tmp_path, name, turns=3)


def test_folders_of_a_thousand_levels_and_with_hostile_names_are_searched(tmp_path, monkeypatch):
    deep = tmp_path / "deep"
    deep.mkdir()
    monkeypatch.chdir(deep)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(tmp_path)
        folder = write_run(tmp_path / f"evil{ESCAPE}", "a", 0, epochs=4)
        os.rename(folder, folder.with_name(f"a{ESCAPE}_s0"))
        check(compare.main, [str(tmp_path)], tmp_path)
        check(compare.main, [str(tmp_path / f"nothing{ESCAPE}")], tmp_path)
    finally:
        subprocess.run(["rm", "-rf", str(deep)], check=True)  # Python's own would recurse too deep


def test_a_path_that_ascii_cannot_say_loses_no_output(tmp_path):
    """A terminal or a file that takes ASCII only gets every line, the foreign letters as escapes."""
    folder = write_run(tmp_path / "fünf", "größe", 0, epochs=4)
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "utils.compare", str(folder), "--json", str(tmp_path / "ö.json")]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=Path(__file__).parents[1], check=True)
    assert b"gr\\xf6\\xdfe" in done.stdout and b"note: " in done.stdout and b"final IQM" in done.stdout


def test_links_inside_a_run_folder_are_not_followed(tmp_path):
    """A link could bring a file of the reader's own onto a page that is mailed."""
    (tmp_path / "secret.json").write_text('{"password": "hunter2"}')
    folder = write_run(tmp_path / "data", "a", 0, epochs=4)
    for name in ("config.json", "system.json"):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "secret.json")
    assert report.main([str(folder), "--out", str(tmp_path / "a.html")]) == 0
    page = (tmp_path / "a.html").read_text()
    assert "hunter2" not in page
    assert all(f"{name} not read: it is a symbolic link" in page for name in ("config.json", "system.json"))
