"""`python -m tests.same_speed CHECKOUT [FLAG ...]`: is `ppo.run` here as fast as that of another checkout?

Speeds of a shared machine differ by a third from one minute to the next, so that runs one after the other compare the
minutes. Both train at once here, on two ranks each, and take turns of half a second: the other one is stopped. Time
counts while a run is not stopped, from the end of its first epoch to the last that both have finished.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
SLICE = 0.5  # seconds of a turn


class PacedTraining:
    """One training, which runs between `turn` and its end only."""

    def __init__(self, checkout: Path, data: Path, flags: list[str]) -> None:
        command = [
            sys.executable,
            "-m",
            "ppo.run",
            "--cpu",
            "2",
            "--exp-name",
            "speed",
            "--data-dir",
            str(data),
            *flags,
        ]
        self.process = subprocess.Popen(
            command, cwd=checkout, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
        )
        self.progress, self.active = data / "speed" / "speed_s0" / "progress.txt", 0.0
        self.ends: list[float] = []  # of epochs after the first, in seconds of its own time
        while self.epochs() < 1 and self.process.poll() is None:
            time.sleep(0.02)
        self.known = self.epochs()
        self.send(signal.SIGSTOP)

    def epochs(self) -> int:
        """Number of rows of its log."""
        return len(self.progress.read_text().splitlines()) - 1 if self.progress.exists() else 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the run and to all that it has started."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                children.setdefault(int(stat.read_text().rsplit(")", 1)[1].split()[1]), []).append(
                    int(stat.parent.name)
                )
        found = [self.process.pid]
        for pid in found:
            found += children.get(pid, [])
        for pid in found:
            with suppress(OSError):
                os.kill(pid, number)

    def turn(self) -> bool:
        """Run for a turn; return whether it is still going."""
        self.send(signal.SIGCONT)
        start, going = time.perf_counter(), True
        while going and time.perf_counter() - start < SLICE:
            time.sleep(0.01)
            going = self.process.poll() is None
            while self.known < self.epochs():
                self.known += 1
                self.ends.append(self.active + time.perf_counter() - start)
        self.active += time.perf_counter() - start
        self.send(signal.SIGSTOP)
        return going


def main(argv: list[str]) -> None:
    """Compare, and print seconds per epoch of both and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        trees = {"there": Path(argv[0]).resolve(), "here": HERE}
        runs = {name: PacedTraining(tree, Path(folder, name), argv[1:]) for name, tree in trees.items()}
        try:
            while all(run.turn() for run in runs.values()):
                pass
        finally:
            for run in runs.values():
                run.send(signal.SIGCONT)
                run.process.terminate()
                run.process.wait()
    count = min(len(run.ends) for run in runs.values()) - 1
    if count < 1:
        raise SystemExit("too few epochs to compare: give --epochs 4 or more")
    there, here = ((run.ends[count] - run.ends[0]) / count for run in runs.values())
    print(f"{count} epochs: {there:.2f} s each there, {here:.2f} s here: {there / here:.3f} times as fast")


if __name__ == "__main__":
    main(sys.argv[1:])
