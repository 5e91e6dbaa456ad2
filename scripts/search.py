"""A search over settings with Optuna: `python -m scripts.search --env CartPole-v1 --pi-lr 1e-5..1e-2 --gamma 0.9 0.99`.

Every flag is one of `python -m ppo.run`. One with a range LOW..HIGH is searched between the two, by its logarithm where
HIGH is ten times LOW or more; one with several values is a choice among them. Optuna's tree-structured Parzen estimator
(Bergstra et al. 2011) draws each trial's values from what the trials before came to. A trial is a run in a folder of
its own; one that is below the median of the others at the same epoch, after a third of its length, is ended.

The same command, given again, goes on where it stopped, also within a trial; at the same time in another terminal it
shares the work. One seed says little: the last line is a command that repeats the best trial with others.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import importlib.util
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppo import arguments, run
from ppo.config import PPOConfig, all_settings, progress_columns
from scripts import sweep
from utils import command
from utils.analysis import runs
from utils.command import printable
from utils.folder import Refused

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

PROG = "scripts.search"
RANGE = re.compile(r"(.+?)\.\.(.+)")
DECADE = 10.0  # a range as wide as this is searched by its logarithm
OWN = "--resume --overwrite --cpu --config --print-config --presets".split()
FIRST = 10  # trials that are drawn at random

Space = dict[str, tuple[float, float] | list[str]]  # flag -> range or choices


def main(argv: Sequence[str] | None = None) -> int:
    """Search; exit code 0, 1 where no trial came to anything, 2 for bad input, 130 and the like after a signal."""
    parser = command.Parser(
        prog=PROG,
        usage=f"python -m {PROG} --FLAG LOW..HIGH --FLAG VALUE [VALUE ...] [--trials N] [--column NAME]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--trials", type=int, default=50, metavar="N", help="trials in all (default 50)")
    text = "of progress.txt, whose last value is to be high (default EpRet100)"
    parser.add_argument("--column", default="EpRet100", metavar="NAME", help=text)
    args, words = parser.parse_known_args(argv)
    return command.run_command(PROG, lambda: search(args, words))


def search(args: argparse.Namespace, words: list[str]) -> int:
    """Run trials until there are enough. Raises ValueError for bad input, before anything is written."""
    taken = next((word for word in words if word.split("=")[0] in OWN), None)
    if taken is not None:
        raise ValueError(f"{taken}: is chosen by {PROG} itself")
    if args.trials < 1:
        raise ValueError(f"trials: {args.trials}, expected at least 1")
    fixed, space = split(words)
    cfg = config_of(fixed, lowest(space))
    if args.column not in progress_columns(cfg.env):
        raise ValueError(f"column: {args.column!r}, expected one of {', '.join(progress_columns(cfg.env))}")
    try:
        dataclasses.replace(cfg, stop_at=f"{args.column}>=0")  # as a goal, it is refused where such runs leave it empty
    except ValueError:
        needs = "--eval-every, a test set, or --algo ppg"
        raise ValueError(f"column: {args.column} stays empty in such runs, without {needs}") from None
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("optuna is not installed: pip install -e '.[search]'")
    folder = Path(cfg.data_dir) / fixed.get("exp-name", f"search_{cfg.experiment.removeprefix('ppo_')}")
    study = open_study(folder, shlex.join(["--column", args.column, *words]), cfg.num_epochs)
    try:
        for trial in unfinished(study):
            attempt(study, trial, args.column, fixed, folder)
        while len(study.trials) < args.trials:
            attempt(study, ask(study, space, cfg), args.column, fixed, folder)
    except run_ended() as stop:
        print(f"{stop}: the same command goes on here", flush=True)
        return command.ending(stop.signal_number)[1]
    return conclude(study, args.column, fixed)


def run_ended() -> Any:
    """Return what a training raises that a signal ended."""
    from ppo.training import Interrupted

    return Interrupted


# The space ------------------------------------------------------------------------------------------------------------


def split(words: list[str]) -> tuple[dict[str, str], Space]:
    """Return the flags that stay as they are, and the space of the others. Raises ValueError."""
    fixed: dict[str, str] = {}
    space: Space = {}
    for name, values in sweep.split_flags(words).items():
        if len(values) > 1:
            space[name] = values
        elif values and (match := RANGE.fullmatch(values[0])):
            space[name] = bounds(name, *match.groups())
        else:
            fixed[name] = values[0] if values else ""
    if not space:
        raise ValueError("nothing is searched: give a flag a range such as --pi-lr 1e-5..1e-2, or several values")
    if "seed" in space or "env" in space:
        raise ValueError("seed, env: one value each; repeat the best trial with other seeds by scripts.sweep")
    return fixed, space


def bounds(name: str, low: str, high: str) -> tuple[float, float]:
    """Return the bounds of a range. Raises ValueError."""
    try:
        pair = float(low), float(high)
    except ValueError:
        pair = math.nan, math.nan
    if not -math.inf < pair[0] < pair[1] < math.inf:
        raise ValueError(f"{name}: {low}..{high}, expected two numbers, the lower one first")
    return pair


def lowest(space: Space) -> dict[str, str]:
    """Return the first value of each flag that varies, to see whether the flags can be used at all."""
    return {name: between[0] if isinstance(between, list) else word(between[0]) for name, between in space.items()}


def word(value: float | str) -> str:
    """Return a value as the command line takes it."""
    return value if isinstance(value, str) else repr(int(value) if value == int(value) else value)


def config_of(fixed: Mapping[str, str], chosen: Mapping[str, str]) -> PPOConfig:
    """Return the settings of a trial. Raises ValueError."""
    return arguments.parse(sweep.arguments({**fixed, **chosen}))[0]


def suggest(trial: Trial, space: Space, env: str) -> None:
    """Let the trial have a value of each flag."""
    kinds = {setting.flag[2:]: setting.kind for setting in all_settings(env)}
    for name, between in space.items():
        if isinstance(between, list):
            trial.suggest_categorical(name, between)
            continue
        low, high = between
        log = low > 0 and high >= DECADE * low
        if kinds.get(name) is int:
            trial.suggest_int(name, math.ceil(low), math.floor(high), log=log)
        else:
            trial.suggest_float(name, low, high, log=log)


# The study ------------------------------------------------------------------------------------------------------------


def open_study(folder: Path, asked: str, epochs: int) -> Study:
    """Return the study in a folder, new or begun. Raises ValueError where it was begun with other flags."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 3),
    )
    before = study.user_attrs.get("asked", asked)
    if before != asked:
        raise ValueError(f"{folder} was begun with {before!r:.500}: give the same flags, or another --exp-name")
    study.set_user_attr("asked", asked)
    return study


def ask(study: Study, space: Space, cfg: PPOConfig) -> Trial:
    """Return a new trial with its values; what is drawn depends on the seed and on the trials before alone."""
    import optuna

    seed = cfg.seed * 100_000 + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=FIRST, seed=seed)
    trial = study.ask()
    suggest(trial, space, cfg.env)
    return trial


def unfinished(study: Study) -> list[Trial]:
    """Return the trials that were begun and have no value, those that another process runs included."""
    import optuna

    begun = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.RUNNING]
    return [optuna.trial.Trial(study, trial._trial_id) for trial in begun]


def attempt(study: Study, trial: Trial, column: str, fixed: Mapping[str, str], folder: Path) -> None:
    """Run a trial to its end, or to where it is pruned, and tell the study what came of it."""
    import optuna

    name = f"t{trial.number:04d}"
    chosen = {key: word(value) for key, value in trial.params.items()}
    place = {"exp-name": name, "data-dir": str(folder)}
    pruned = False

    def on_epoch(row: dict[str, Any]) -> bool:
        nonlocal pruned
        if math.isfinite(value := float(row.get(column, math.nan))):
            trial.report(value, int(row["Epoch"]))
            pruned = trial.should_prune()
        return pruned

    states, problem = optuna.trial.TrialState, ""
    try:
        cfg = config_of({**fixed, **place}, chosen)
        with (folder / f"{name}.log").open("a") as log, contextlib.redirect_stdout(log):
            run.train(cfg, resume=True, on_epoch=on_epoch)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, Refused) and "is being written by" in str(error):
            return  # another process runs it, and tells the study
        problem = printable(error)
    values = [] if problem else last_values(cfg.run_dir, column)
    state = states.PRUNED if pruned else states.COMPLETE if values else states.FAIL
    study.tell(trial.number, values[-1] if state == states.COMPLETE else None, state, skip_if_finished=True)
    said = problem or (f"{column} {values[-1]:.4g}" if values else f"no {column}")
    print(f"{name}  {said}{'  (pruned)' if pruned else ''}  {shown(trial.params)}", flush=True)


def last_values(run_dir: Path, column: str) -> list[float]:
    """Return the finite values of a column in a trial's run."""
    series = runs.read_run(run_dir, [column]).series("Epoch", column)[1]
    return [float(value) for value in series if math.isfinite(value)]


def shown(params: Mapping[str, Any]) -> str:
    """Return a trial's values for a person."""
    return " ".join(
        f"--{name} {value:.3g}" if isinstance(value, float) else f"--{name} {value}" for name, value in params.items()
    )


def conclude(study: Study, column: str, fixed: Mapping[str, str]) -> int:
    """Print the best trial, the command that runs it again, and the one that repeats it with other seeds."""
    best = top(study.trials)
    if best is None:
        print("no trial came to anything: their logs say why")
        return 1
    chosen = {name: word(value) for name, value in best.params.items()}
    ended = ", ".join(f"{count} {state}" for state, count in counts(study.trials).items())
    print(f"{len(study.trials)} trials ({ended}); best: t{best.number:04d}, {column} {best.value:.4g}")
    print(config_of(fixed, chosen).command())
    again = {name: value for name, value in {**fixed, **chosen}.items() if name not in ("seed", "data-dir")}
    words = sweep.arguments({**again, "exp-name": f"{fixed.get('exp-name', 'search')}_best"})
    print(shlex.join(["python", "-m", "scripts.sweep", *words, "--seed", "1", "2", "3"]), flush=True)
    return 0


def top(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial with the highest value among those that were not pruned, None where there is none."""
    finished = [trial for trial in trials if trial.state.name == "COMPLETE" and trial.value is not None]
    return max(finished, key=lambda trial: trial.value or 0.0, default=None)


def counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return how many trials ended how."""
    return dict(collections.Counter(trial.state.name.lower() for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
