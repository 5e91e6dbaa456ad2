"""A grid of runs from one command line: `python -m scripts.sweep --pi-lr 1e-4 3e-4 --seed 0 1 2`.

Every flag is one of `python -m ppo.run`; a flag with several values is varied, and names the experiments. Each run is a
process of its own with `--resume`, so that the same command, given again, leaves finished runs alone, continues what
was cut and starts what is missing. A run that fails does not stop the others.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeGuard

from utils import columns, system
from utils.analysis import runs, untrusted
from utils.command import PREEMPTED, Parser, printable, run_command

PROG = "python -m scripts.sweep"
COMMAND = (sys.executable, "-m", "ppo.run")
OWN = {"resume", "overwrite"}  # the sweep decides on these
SINGLE = {"exp-name", "data-dir", "cpu"}
POLL_SECONDS = 0.2
VIEW_SECONDS = 2.0
RETURNS = ["EpRet100", "AverageEpRet"]  # the first that a run has; older ones lack the first
LAST_LINES = 8
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)  # what the first, second and third Ctrl-C send

Check = Callable[[list[str]], dict[str, Any] | None]


@dataclass
class Job:
    """One run of the grid."""

    name: str
    seed: str
    folder: Path
    flags: dict[str, str]
    state: str = "waiting"  # waiting, running, finished, failed, preempted, stopped
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0  # time.monotonic()
    share_at_start: float = 0.0
    output: IO[bytes] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """Return the folder's name."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """Return the file that holds what the run prints."""
        return self.folder.with_name(self.folder.name + ".log")

    def arguments(self) -> list[str]:
        """Return the run's command line."""
        return [*arguments(self.flags), "--exp-name", self.name, "--seed", self.seed, "--resume"]


# ---------------------------------------------------------------------------------------------- the grid


def split_flags(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each flag, in order: ["--lr", "1", "2", "--x=3"] gives {"lr": ["1", "2"], "x": ["3"]}.

    Raises:
        ValueError: a value without a flag, a flag twice, a value twice, or a flag that belongs to the sweep.
    """
    flags: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            name = name.replace("_", "-")
            if name in flags:
                raise ValueError(f"--{name} is given twice: give it once with all its values")
            flags[name] = [value] if equals else []
        elif not name:
            raise ValueError(f"{word!r} is not a flag: values come after the flag that they belong to")
        else:
            flags[name].append(word)
    for name, values in flags.items():
        if name in OWN:
            raise ValueError(f"--{name} is not for a sweep: it always continues what is there and never overwrites")
        if name in SINGLE and len(values) != 1:
            raise ValueError(f"--{name} takes one value, got {len(values)}")
        if len({_number(value) for value in values}) < len(values):
            raise ValueError(f"--{name} has a value twice: {' '.join(values)}")
    return flags


def grid(flags: dict[str, list[str]]) -> list[Job]:
    """Return a job for each combination of values and each seed, experiments named by what varies."""
    flags = dict(flags)
    seeds = flags.pop("seed", None) or ["0"]
    for seed in seeds:
        if not seed.isdecimal():
            raise ValueError(f"--seed takes whole numbers >= 0, got {seed!r}")
    base = _base_name(flags)
    data = Path(flags.get("data-dir", ["data"])[0])
    varied = [name for name, values in flags.items() if len(values) > 1]
    fixed = {name: values[0] if values else "" for name, values in flags.items() if len(values) <= 1}
    fixed.pop("exp-name", None)
    jobs = []
    for values in itertools.product(*[flags[name] for name in varied]):
        chosen = dict(zip(varied, values, strict=True))
        name = "_".join([base, *[f"{key}{_clean(value)}" for key, value in chosen.items()]])
        jobs += [Job(name, seed, data / name / f"{name}_s{seed}", fixed | chosen) for seed in seeds]
    if len({job.folder for job in jobs}) < len(jobs):
        raise ValueError("two settings would get the same name: give values that differ in more than punctuation")
    return jobs


def _base_name(flags: dict[str, list[str]]) -> str:
    if "exp-name" in flags:
        return flags["exp-name"][0]
    env = flags.get("env", [])
    return f"ppo_{_clean(env[0].lower())}" if len(env) == 1 else "ppo"


def _clean(value: str) -> str:
    """Return a value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", value).strip("-.") or "none"


def arguments(flags: dict[str, str]) -> list[str]:
    """Return flags as words; true and false become a switch and its opposite: --anneal-lr, --no-anneal-lr."""
    words: list[str] = []
    for name, value in flags.items():
        if value.lower() in ("true", "false"):
            words.append(f"--{name}" if value.lower() == "true" else f"--no-{name}")
        else:
            words += [f"--{name}", value] if value else [f"--{name}"]
    return words


def finished(job: Job) -> bool:
    """Return whether the run has finished, with whatever values."""
    return untrusted.object_or_empty(job.folder / "exit.json").get("reason") == "finished"


def complete(job: Job, settings: dict[str, Any] | None = None) -> bool:
    """Return whether the run has finished with the values that are asked for now.

    Args:
        job: its flags are compared,
        settings: and these, which also hold what no flag asks for.
    """
    if not finished(job):
        return False
    config = untrusted.object_or_empty(job.folder / "config.json")
    asked = {name.replace("-", "_"): value or "true" for name, value in job.flags.items()}
    asked |= {name.removeprefix("no_"): "false" for name in asked if name.startswith("no_")}
    if any(config.get(name, value) != value for name, value in (settings or {}).items()):
        return False  # `ppo.run` says which
    return bool(config) and all(_same(config[name], value) for name, value in asked.items() if name in config)


def _number(text: str) -> float | str:
    """Return the number that a value is, so that 1e-3 and 0.001 are one; the text of one that is none."""
    try:
        return float(text)
    except ValueError:
        return text


def _same(recorded: object, asked: str) -> bool:
    """Return whether a value in config.json is the one on the command line: 0.0001 is 1e-4, and A,B a list."""
    if isinstance(recorded, list) and asked.split(",") == recorded:
        return True
    return _number(str(recorded).lower()) == _number(asked.lower()) or asked == json.dumps(recorded)


# ---------------------------------------------------------------------------------------------- progress


@dataclass
class Progress:
    """How far a run is."""

    share: float  # of its steps, 0 to 1
    steps: float
    ret: float  # mean of its last hundred episodes; NaN for none


def progress(job: Job) -> Progress:
    """Return how far a run is, from its own files."""
    run = runs.read_run(job.folder, RETURNS) if (job.folder / "progress.txt").exists() else None
    if run is None:
        return Progress(float(job.state == "finished"), 0.0, math.nan)
    xs = run.columns.get(columns.STEPS)
    steps = float(xs[-1]) if xs is not None and len(xs) else 0.0
    rets = run.series(columns.STEPS, next((name for name in RETURNS if name in run.columns), RETURNS[-1]))[1]
    total = _length(run.config)
    share = 1.0 if job.state == "finished" else min(1.0, steps / total) if total else 0.0
    return Progress(share, steps, float(rets[-1]) if len(rets) else math.nan)


def _length(config: dict[str, object]) -> float:
    """Return the steps that a run will take; 0 where its config does not tell."""
    epochs, each = config.get("num_epochs"), config.get("steps_per_epoch")
    return float(epochs * each) if _is_count(epochs) and _is_count(each) else 0.0


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 2**53


def overview(jobs: Sequence[Job], now: float) -> list[str]:
    """Return the lines of the live view: counts, time left, best experiment, and each running job."""
    known = {job.label: progress(job) for job in jobs}
    states = [job.state for job in jobs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    lines = [f"{len(jobs)} run{'s' * (len(jobs) != 1)}: {counts}{_time_left(jobs, known, now)}{_best(jobs, known)}"]
    for job in jobs:
        if job.state == "running":
            p = known[job.label]
            bar = "#" * round(20 * p.share)
            ret = "-" if math.isnan(p.ret) else f"{p.ret:.4g}"
            done = f"{100 * p.share:3.0f}%  {runs.compact(p.steps):>6} steps"
            lines.append(f"  [{bar:<20}] {done}  return {ret:>6}  {job.label}")
    return lines


def _time_left(jobs: Sequence[Job], known: dict[str, Progress], now: float) -> str:
    """Return the time that the rest will take at the present speed of the running jobs."""
    running = [job for job in jobs if job.state == "running" and now > job.started]
    speed = sum((known[job.label].share - job.share_at_start) / (now - job.started) for job in running)
    rest = sum(1 - known[job.label].share for job in jobs if job.state in ("waiting", "running"))
    if speed <= 0 or rest <= 0:
        return ""
    seconds = rest / speed
    if seconds < 120:
        return f"; about {seconds:.0f} s left"
    return f"; about {seconds / 3600:.1f} h left" if seconds > 5400 else f"; about {seconds / 60:.0f} min left"


def _best(jobs: Sequence[Job], known: dict[str, Progress]) -> str:
    """Return the experiment with the highest mean of its seeds' last returns; says how many seeds that is."""
    rets: dict[str, list[float]] = {}
    for job in jobs:
        if not math.isnan(known[job.label].ret):
            rets.setdefault(job.name, []).append(known[job.label].ret)
    if not rets:
        return ""
    name = max(rets, key=lambda key: sum(rets[key]) / len(rets[key]))
    return f"; best so far {name}: return {sum(rets[name]) / len(rets[name]):.4g} (n={len(rets[name])})"


# ---------------------------------------------------------------------------------------------- running


class Sweep:
    """Runs jobs, some at a time, until all have ended or somebody stops it."""

    def __init__(self, jobs: Sequence[Job], at_once: int, command: Sequence[str]) -> None:
        """Take jobs that wait; `command` starts one run when its arguments follow it."""
        self.jobs, self.at_once, self.command = list(jobs), at_once, list(command)
        self.stops = 0  # how often somebody has asked to stop
        self.sent = 0  # how many of SIGNALS have been sent
        self._drawn = 0  # lines of the live view on the screen

    def run(self) -> None:
        """Start and watch the jobs; signals are passed on to the runs, which save and end."""
        before = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._ask_to_stop)
        shown = -math.inf
        try:
            while self._step():
                if time.monotonic() - shown >= VIEW_SECONDS and sys.stdout.isatty():
                    self._draw()
                    shown = time.monotonic()
                time.sleep(POLL_SECONDS)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._erase()

    def _ask_to_stop(self, *_: object) -> None:
        self.stops += 1

    def _step(self) -> bool:
        """Look at every job once; return whether there is more to do."""
        self._pass_on()
        for job in self.jobs:
            if job.process is not None and job.process.poll() is not None:
                self._ended(job)
        running = sum(job.state == "running" for job in self.jobs)
        for job in self.jobs:
            if job.state == "waiting" and not self.stops and running < self.at_once:
                self._start(job)
                running += 1
        return running > 0

    def _pass_on(self) -> None:
        """Send the next signal to the runs for each time that somebody asked: first gently, at last by force."""
        while self.sent < min(self.stops, len(SIGNALS)):
            number = SIGNALS[self.sent]
            self.sent += 1
            alive = [job for job in self.jobs if job.process is not None and job.process.poll() is None]
            self.say(f"stopping: {number.name} to {len(alive)} runs, waiting for them to save (again: harder)")
            for job in alive:
                assert job.process is not None
                job.process.send_signal(number)

    def _start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.share_at_start = progress(job).share
        had_finished, again = finished(job), " again: it had finished with another length or goal; see its log"
        ranks = int(job.flags.get("cpu", "1"))
        threads = str(max(1, system.cores() // (self.at_once * ranks)))
        limits = {name: threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        job.output = job.log.open("ab")
        job.process = subprocess.Popen(
            [*self.command, *job.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=job.output,
            stderr=subprocess.STDOUT,
            env=os.environ | limits,
            start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone, which passes it on once
            preexec_fn=system.save_with_parent,
        )
        job.state, job.started = "running", time.monotonic()
        self.say(f"started {job.label}" + (again if had_finished else ""))

    def _ended(self, job: Job) -> None:
        assert job.process is not None and job.output is not None
        code = job.process.returncode
        job.process = None
        job.output.close()
        job.state = "finished" if code == 0 else "preempted" if code == PREEMPTED else "failed"
        if job.state == "failed" and self.stops:
            job.state = "stopped"
        self.say(f"{job.state} {job.label}" + ("" if code == 0 else f" (code {code})"))

    def say(self, line: str) -> None:
        """Print a line above the live view."""
        self._erase()
        print(line, flush=True)

    def _draw(self) -> None:
        self._erase()
        width = os.get_terminal_size().columns
        lines = [printable(line, width - 1) for line in overview(self.jobs, time.monotonic())]
        print("\n".join(lines), flush=True)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}A\x1b[J", end="", flush=True)
            self._drawn = 0


# ---------------------------------------------------------------------------------------------- command line


def last_lines(path: Path) -> list[str]:
    """Return the end of a log, safe to print."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [printable(line, 200) for line in text.splitlines() if line.strip()][-LAST_LINES:]


def summary(jobs: Sequence[Job]) -> list[str]:
    """Return the closing lines: what failed and how it ended, what to do next, and the commands to look at the rest."""
    lines = [overview(jobs, time.monotonic())[0]]
    for job in jobs:
        if job.state == "failed":
            lines += [
                f"failed: {job.label}; the end of {job.log}:",
                *[f"    {line}" for line in last_lines(job.log)],
            ]
    if any(job.state != "finished" for job in jobs):
        lines.append("the same command again continues what is missing")
    folders = list(dict.fromkeys(str(job.folder.parent) for job in jobs if (job.folder / "progress.txt").exists()))
    if folders:
        words = " ".join(shlex.quote(folder) for folder in folders)
        lines += [
            f"python -m utils.plot {words} --out curves.png",
            f"python -m utils.compare {words} --out compare.png",
        ]
    return lines


def listed(jobs: Sequence[Job], command: Sequence[str]) -> list[str]:
    """Return a line for each run: what there is of it, and the command that would be started."""
    lines = []
    for job in jobs:
        there = "complete" if job.state == "finished" else "continue" if job.folder.exists() else "new"
        lines.append(f"{there:<8} {shlex.join([*command, *job.arguments()])}")
    return lines


def check_arguments(words: list[str]) -> dict[str, Any]:
    """Let the trainer's own parser refuse a wrong flag before anything has started; it prints one line and exits.

    Returns:
        the run's settings, as config.json holds them, but for its seed and the places and pace that may differ.
    """
    from ppo.config import free_on_resume
    from ppo.run import parse

    cfg = parse(words)[0]
    settings = {name: value for name, value in cfg.to_dict().items() if name not in free_on_resume(cfg) | {"seed"}}
    return json.loads(json.dumps(settings | {"num_epochs": cfg.num_epochs, "stop_at": cfg.stop_at}))


def main(argv: Sequence[str] | None = None, command: Sequence[str] = COMMAND, check: Check = check_arguments) -> int:
    """Run the command line; return the exit code: 0, 1 if a run failed, 130 if somebody stopped it.

    Tests give a `command` of their own in place of the trainer's, and a `check` of its arguments.
    """
    return run_command(PROG, lambda: _main(sys.argv[1:] if argv is None else list(argv), command, check))


def _main(argv: list[str], command: Sequence[str], check: Check) -> int:
    p = Parser(prog=PROG, description=__doc__.partition("\n\n")[2], allow_abbrev=False)
    p.usage = f"{PROG} --FLAG VALUE... [--FLAG VALUE...] [--jobs N] [--dry-run]"
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time; default: %(default)s")
    p.add_argument("--dry-run", action="store_true", help="list the runs and stop")
    args, rest = p.parse_known_args(argv)
    if args.jobs < 1:
        raise ValueError(f"--jobs must be >= 1, got {args.jobs}")
    if not rest:
        raise ValueError("nothing is varied: give flags of ppo.run with their values, such as --seed 0 1 2")
    jobs = grid(split_flags(rest))
    settings = {job.name: check(job.arguments()) for job in {job.name: job for job in jobs}.values()}
    for job in jobs:
        job.state = "finished" if complete(job, settings[job.name]) else "waiting"
    if args.dry_run:
        print("\n".join(listed(jobs, command)))
        return 0
    busy = min(args.jobs, len(jobs)) * max(int(job.flags.get("cpu", "1")) for job in jobs)
    if busy > system.cores():
        print(
            f"note: {busy} processes at a time on {system.cores()} cores: fewer --jobs would not be slower",
            file=sys.stderr,
        )
    sweep = Sweep(jobs, args.jobs, command)
    sweep.run()
    print("\n".join(summary(jobs)))
    if sweep.stops:
        return 130
    return 1 if any(job.state == "failed" for job in jobs) else 0


if __name__ == "__main__":
    raise SystemExit(main())
