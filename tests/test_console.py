"""What a person sees of a run: 80 columns, a panel in place on a terminal, plain lines elsewhere."""

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from envs.mario import FAMILY
from tests.conftest import ROOT
from utils import console

OWN = [column for column in FAMILY.columns if column.name in FAMILY.evaluated]


def row(epoch, returns=2000.0, clear=0.5, count=60):
    """What the console reads of a row of progress.txt, with numbers as wide as they become."""
    seconds = {"TimeCollect": 1.0, "TimeUpdate": 2.0, "TimeWait": 0.5, "TimeWaitUpdate": 0.25}
    values = {
        "AverageEpRet": returns,
        "EpCount": count,
        "ClearRate": clear,
        "XMax": 3161.0,
        "EpRet100": returns,
        "ClearRate100": clear,
        "Entropy": 1.61,
        "KL": 0.0134,
        "ExplainedVariance": -0.01,
        "StepsPerSecond": 12345.0,
        "Time": 45296.0,
    }
    return {"Epoch": epoch, "TotalEnvInteracts": (epoch + 1) * 4096} | values | seconds


def screen(text):
    """What stands on a terminal after it was sent this: \\r, \\n and the three commands that the panel uses."""
    lines, y, x = [""], 0, 0
    for part in re.findall(r"\x1b\[\d*[AJK]|[\r\n]|[^\r\n\x1b]+", text):
        if part == "\r":
            x = 0
        elif part == "\n":
            y += 1
            lines += [""] * (y + 1 - len(lines))
        elif part.endswith("A") and part[0] == "\x1b":
            y -= int(part[2:-1])
        elif part.endswith("J") and part[0] == "\x1b":
            lines = [*lines[:y], lines[y][:x]]
        elif part.endswith("K") and part[0] == "\x1b":
            lines[y] = lines[y][:x]
        else:
            lines[y] = lines[y][:x].ljust(x) + part + lines[y][x + len(part) :]
            x += len(part)
    return lines


@pytest.fixture
def tty(monkeypatch, capsys):
    """A terminal of 80 columns as standard output; returns what stands on it."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    monkeypatch.setattr(console, "terminal", lambda launched: slave)
    yield lambda: screen(capsys.readouterr().out.replace("\n", "\r\n"))
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], "▁▅█"),
        ([0, 0, 1, 1, 3, 3], "▁▃█"),  # pairs; round(1 / 3 * 7) is 2
        ([float("nan"), 1.0, 2.0], " ▁█"),
        ([7.0, 7.0], "▁▁"),
        ([], ""),
    ],
)
def test_a_curve_shows_means_of_neighbours_between_its_ends(values, expected):
    """Three characters at most; the scale runs from the least mean to the largest."""
    assert console.sparkline(values, 3) == expected
    assert console.sparkline([0.25], 3, 0.0, 1.0) == "▃"  # of a share, from 0 to 1: round(7 / 4) is 2


@pytest.mark.parametrize("epochs", [9, 366, 100_000])
def test_rows_of_a_pipe_are_plain_and_fit_80_columns(capsys, epochs):
    """With the time left and the clear rate in them, however many epochs there are; no escape sequence."""
    shown = console.Console(epochs * 4096)
    shown.start(0, OWN)
    for epoch in range(3):
        shown.epoch(row(epoch), epochs)
        shown.advance(4096)
    shown.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) < 80 and "\x1b" not in "".join(lines)
    assert "left" in lines[0].split() and "ClearRate" in lines[0].split() and "50%" in lines[1].split()


@pytest.mark.parametrize(
    ("own", "name", "rates", "shown"),
    [
        (OWN, "EvalClearRate", [math.nan, 0.87], ["-", "87%"]),
        ((), "EvalEpRet", [math.nan, 33.5], ["-", "33.5"]),
        (OWN, "Other", [math.nan, 0.87], []),
    ],
)
def test_evaluations_have_a_column_where_there_are_any(capsys, own, name, rates, shown):
    """The clear rate, or the return of a family without one; a dash in epochs without an evaluation."""
    console_ = console.Console(2 * 4096)
    console_.start(0, own)
    for epoch, rate in enumerate(rates):
        console_.epoch(row(epoch) | {name: rate}, 2)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert ("Eval" in heading.split()) == bool(shown) and max(map(len, lines)) < 80
    assert [line.split()[heading.split().index("Eval")] for line in lines if shown] == shown


@pytest.mark.parametrize("epochs", [390, 100_000])
def test_an_epoch_in_which_no_episode_ended_shows_the_last_hundred(capsys, epochs):
    """As of a CartPole that is solved: a dash for the epoch's own return, and the mean beside it."""
    shown = console.Console(epochs * 256)
    shown.start(0)
    shown.epoch(row(20, float("nan")) | {"EpRet100": 487.5}, epochs)
    heading, line = capsys.readouterr().out.splitlines()
    assert line.split()[heading.split().index("EpRet") :][:2] == ["-", "487.5"] and len(line) < 80
    assert heading.split().index("EpRet100") == heading.split().index("EpRet") + 1


def test_a_terminal_has_one_panel_under_the_rows(tty, monkeypatch):
    """Drawn in place however often: curves, best, where the time went, progress and time left, in 80 columns."""
    monkeypatch.setattr(console.time, "monotonic", iter(range(1000)).__next__)
    shown = console.Console(10 * 4096)
    shown.start(0, OWN)
    for epoch, (clear, returns) in enumerate([(1.0, 100.0), (0.25, 200.0), (0.5, 300.0)]):
        shown.epoch(row(epoch, returns, clear), 10)
        shown.advance(1024)
    shown.say("\x1b[2Jx" + "y" * 100)
    shown.close()
    lines = tty()
    assert max(map(len, lines)) < 80
    rows, panel = lines[:-6], lines[-6:]
    assert [line.split()[0] for line in rows[:4]] == ["epoch", "1/10", "2/10", "3/10"]
    assert "".join(rows[4:]) == " [2Jx" + "y" * 100, "what it says cannot drive the terminal, and is broken into lines"
    assert panel[0] == panel[5] == "" and "█▃▅" in panel[1] and "▁▅█" in panel[2]
    assert panel[1].split()[:5] == ["Clear", "rate", "50%", "best", "50%"], "not the first 60 episodes' 100%"
    assert panel[2].split()[:5] == ["Episode", "return", "300.0", "best", "300.0"]
    assert "collecting" in panel[3] and "waiting" in panel[3] and panel[4].split()[0] == "32%"
    assert "13.31k of 40.96k steps" in panel[4] and panel[4].endswith(" left")


def test_a_panel_says_what_is_done_before_the_first_row_and_what_is_said_last_is_last(tty):
    """A first epoch may take a minute. 40 epochs fill the curve, whose line still says of how many episodes it is."""
    shown = console.Console(40 * 4096)
    shown.start(0, OWN)
    shown.advance(64, "update, epoch 0, pass 3")
    shown.close()
    assert [line for line in tty() if line][-2] == " update, epoch 0, pass 3"
    shown = console.Console(40 * 4096)
    shown.start(0, OWN)
    for epoch in range(40):
        shown.epoch(row(epoch), 40)
    shown.leave_panel()
    shown.say("finished")
    shown.close()
    lines = [line for line in tty() if line]
    assert lines[-1] == "finished" and "40 of" not in lines[-1] and "100% ━" in lines[-2]
    assert lines[-5].endswith("  last 100")


def test_the_curves_of_a_resumed_run_go_on(tty):
    """They begin with the rows that progress.txt has, empty cells included."""
    shown = console.Console(10 * 4096)
    past = [{"EpCount": "60", "EpRet100": value} for value in ("1.0", "", "2.0")]
    shown.start(3 * 4096, OWN, past)
    shown.epoch(row(3, returns=3.0), 10)
    shown.close()
    assert "▁ ▅█" in next(line for line in tty() if "Episode return" in line)


def test_time_left_is_that_of_the_speed_of_the_last_epochs(monkeypatch):
    """4,096 steps in 10 seconds, 3 x 4,096 to go, two seconds later: 28 seconds."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    shown = console.Console(4 * 4096, show=False)
    shown.start(0)
    assert console.clock(shown._left()) == "-"
    now[0] = 10.0
    shown.epoch(row(0), 4)
    now[0] = 12.0
    assert console.clock(shown._left()) == "0:00:28" and console.clock(90000) == "1.0 d"


def on_a_terminal(args):
    """Run ppo.run with its output on a terminal of 80 columns; return what it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    env = os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "ppo.run", *args], cwd=ROOT, env=env, stdout=slave, stderr=slave)
    os.close(slave)
    parts = []
    try:
        while data := os.read(master, 1 << 16):
            parts.append(data)
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0, b"".join(parts)
    return screen(b"".join(parts).decode())


@pytest.mark.mpi
def test_ranks_have_the_panel_too_where_mpirun_writes_to_a_terminal(tmp_path):
    """Their own output is a pipe of mpirun's. One panel at the end, complete."""
    lines = on_a_terminal(["--env", "Echo-v0", "--epochs", "3", "--cpu", "2", "--data-dir", str(tmp_path)])
    assert sum("100% ━" in line for line in lines) == 1 and max(map(len, lines)) <= 80, lines
    assert sum("Episode return" in line for line in lines) == 1
