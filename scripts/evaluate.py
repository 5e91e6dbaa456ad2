"""Evaluate a policy: `python -m scripts.evaluate RUN_OR_POLICY --episodes 100`.

Episodes start disturbed, as the family of the environment says (Mario: after up to 30 frames of random buttons); every
flag wins over that, so `--start-frames 0` gives the plain start. The interval counts what is independent: in a
deterministic game, episodes that share a start are worth less than their number
(`utils.analysis.stats.grouped_interval`), and those of one start have none; with sticky actions each one counts.
"""

from __future__ import annotations

import collections
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import envs
from ppo.arguments import add_option_flags
from ppo.evaluate import NUM_ENVS, environment, evaluate, evaluation_defaults, find_players, load_players
from utils import command, mpi, system
from utils.analysis import stats
from utils.columns import Column

DISTURBANCE = ("emulator", "start_frames", "start_mode", "sticky", "max_episode_steps")
LABELS = {"ep_ret": "return", "ep_len": "length", "x_max": "furthest x", "stages_cleared": "stages"}


def main(argv: list[str] | None = None) -> int:
    """Evaluate and print a table; exit code 2 for bad input."""
    parser = command.Parser(
        prog="python -m scripts.evaluate", description="Play episodes with a policy and count what happens."
    )
    parser.add_argument("policy", help="run folder, policy folder, or id of an environment with a shipped policy")
    parser.add_argument("--episodes", type=int, default=100, help="default: 100")
    parser.add_argument(
        "--deterministic", action="store_true", help="the most probable action instead of a sampled one"
    )
    parser.add_argument("--checkpoint", default="best", metavar="best|last|K", help="of a run; K: after K steps")
    parser.add_argument("--network", metavar="MODULE:FUNCTION", help="the policy's, where it is a user's and trusted")
    parser.add_argument("--env", help="another environment id than the policy's own")
    add_option_flags(parser, "env_kwargs", "wrapper", *DISTURBANCE, "stages", "ram_info")
    text = "Procgen: on which levels; of two, the gap between them too"
    parser.add_argument("--levels", nargs="+", choices=("train", "test", "all"), metavar="train|test|all", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of starts and actions; default: 0")
    parser.add_argument(
        "--num-envs", type=int, default=NUM_ENVS, help=f"environments stepped at a time; default: {NUM_ENVS}"
    )
    parser.add_argument("--jobs", type=int, default=system.cores(), help="processes; default: one per core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one line per episode here")
    args = parser.parse_args(argv)
    comm = mpi.connect()
    if comm.world_size == 1:
        return command.run_command("scripts.evaluate", lambda: show(args, comm))
    try:
        show(args, comm)
    except ValueError as error:  # on all ranks alike
        if comm.rank == 0:
            print(f"scripts.evaluate: error: {command.printable(error, 1000)}", file=sys.stderr)
        return command.BAD_INPUT
    except BaseException as error:
        mpi.abort_job(comm, error)
    return 0


def check(args: Any) -> None:
    """Raise ValueError for what would be found too late."""
    for name in ("json", "csv"):
        if getattr(args, name) is not None:
            command.check_writable(name, getattr(args, name))
    if args.jobs < 1:
        raise ValueError(f"jobs: {args.jobs}, expected at least 1")
    if args.json is not None and args.csv is not None and args.json.resolve() == args.csv.resolve():
        raise ValueError(f"csv: {args.csv} is the file of --json too")


def show(args: Any, comm: mpi.Comm) -> None:
    """Play, and on rank 0 print and write."""
    folder, game = find_players(args.policy, args.checkpoint)
    args.env = args.env or game
    check(args)
    names = ("env", "env_kwargs", "wrapper", *DISTURBANCE, "stages", "ram_info")
    wanted = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    policy = load_players(folder, args.network, args.env)
    env_id, _ = environment(policy, **wanted)
    wanted = evaluation_defaults(env_id, wanted) | wanted
    played: list[list[dict[str, Any]]] = []
    summaries: list[dict[str, Any]] = []
    for levels in args.levels or [None]:
        options = wanted | ({"levels": levels} if levels else {})
        how = (args.episodes, args.seed, args.num_envs, args.deterministic, args.jobs, comm, args.network)
        records = evaluate(folder, *how, **options)
        if comm.rank:
            continue
        summary = summarise(records, envs.find_family(env_id).columns) | {
            "policy": str(folder),
            "env": env_id,
            "seed": args.seed,
            "greedy": args.deterministic,
            "options": options,
            "versions": system.versions(),
        }
        family = envs.find_family(env_id)
        if family.drawn_parts(env_id) and family.best_field:
            trained_on = policy.info["spec"]["options"].get("stages")
            summary["stages"] = by_stage(records, family.drawn_parts(env_id), family.best_field, trained_on)
        print("\n".join(table(summary)))
        played.append(records)
        summaries.append(summary)
    if comm.rank:
        return
    facts: dict[str, Any] = summaries[0] if len(summaries) == 1 else {"evaluations": summaries}
    if len(summaries) == 2:
        facts["gap"] = lost = gap(*played)
        low, high = lost["interval_95"]
        what = f"return on {args.levels[0]} levels less that on {args.levels[1]} levels"
        print(f"  gap         {lost['ep_ret']:9.3f}  {what}; 95% interval {low:.3f} to {high:.3f}")
    if args.json:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    if args.csv:
        with args.csv.open("w", newline="") as file:
            out = csv.DictWriter(file, list(played[0][0]))
            out.writeheader()
            out.writerows(record for records in played for record in records)


def by_stage(
    records: list[dict[str, Any]], parts: tuple[str, ...], success: str, trained: list[str] | None
) -> dict[str, dict[str, Any]]:
    """Return, for each stage in which episodes ended, how many reached the flag, and whether it was trained on.

    Args:
        records: of the episodes.
        parts: keys that name the stage, see `Family.drawn_parts`.
        success: key that says whether an episode reached the flag.
        trained: stages of the training, None for all.
    """
    groups = collections.defaultdict(list)
    for record in records:
        groups["-".join(str(record[key]) for key in parts)].append(record)
    found = {}
    for name, part in sorted(groups.items()):
        cleared = [bool(record[success]) for record in part]
        low, high = stats.grouped_interval(cleared, [record["independent"] for record in part])
        interval = None if math.isnan(low) else [low, high]
        found[name] = {
            "episodes": len(part),
            "cleared": sum(cleared),
            "clear_rate_95": interval,
            "trained": trained is None or name in trained,
        }
    return found


def gap(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    """Return by how much the mean return of some episodes is above that of others, with its 95% interval."""
    one, two = (np.array([record["ep_ret"] for record in records], float) for records in (first, second))
    low, high = stats.difference_interval(one, two)
    return {"ep_ret": float(one.mean() - two.mean()), "interval_95": [float(low), float(high)]}


def summarise(records: list[dict[str, Any]], columns: Sequence[Column] = ()) -> dict[str, Any]:
    """Return the counts, means and intervals of the episodes.

    Args:
        records: of the episodes, at least one, as `ppo.evaluate` returns them.
        columns: the family's, whose `field` of the records is summarised besides return and length.

    Returns:
        besides counts and means: how many different starts and trajectories there were; `worth`, of how many
        independent episodes the interval is; `clear_rate_95`, None where nothing varies that it could be about.
    """
    success = next((str(column.field) for column in columns if column.success), "flag")
    summary: dict[str, Any] = {"episodes": len(records)}
    for name, field in (("starts", "start"), ("trajectories", "trajectory")):
        summary[name] = len({record[field] for record in records})
    for name in ("ep_ret", "ep_len", *(str(column.field) for column in columns)):
        if name in records[0] and name != success:
            values = np.array([record[name] for record in records], float)
            spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            summary[name] = {
                "mean": float(values.mean()),
                "std": spread,
                "min": float(values.min()),
                "max": float(values.max()),
            }
    if success in records[0]:
        cleared = [bool(record[success]) for record in records]
        groups = [record["independent"] for record in records]
        interval = stats.grouped_interval(cleared, groups)
        summary |= {"cleared": sum(cleared), "clear_rate": sum(cleared) / len(records)}
        varied = summary["trajectories"] > 1 and not math.isnan(interval.low)
        summary["clear_rate_95"] = list(interval) if varied else None
        summary["worth"] = round(stats.effective_size(groups), 1)
        places = collections.Counter(f"{r['world']}-{r['stage']}" for r in records if "world" in r)
        if len(places) > 1:
            summary["ended_in"] = dict(sorted(places.items()))
    if "cause" in records[0]:
        summary["causes"] = dict(collections.Counter(record["cause"] for record in records).most_common())
    return summary


def table(summary: dict[str, Any]) -> list[str]:
    """Return what a person reads."""
    how = "greedy" if summary["greedy"] else "sampled"
    lines = [f"{summary['env']}: {summary['episodes']} episodes, {how} actions, seed {summary['seed']}"]
    if "levels" in summary["options"]:
        lines[0] += f", {summary['options']['levels']} levels"
    lines.append(f"  policy      {command.printable(summary['policy'])}")
    with_options = [f"{name} {value}" for name, value in summary["options"].items() if name not in ("env", "levels")]
    if with_options:
        lines.append(f"  with        {', '.join(with_options)}")
    lines.append(f"  distinct    {distinct(summary)}")
    if "clear_rate" in summary:
        label = "cleared" if summary.get("stages_cleared", {"max": 0})["max"] <= 1 else "cleared 1+"
        lines.append(f"  {label:10s}  {100 * summary['clear_rate']:6.1f}%  ({count_and_interval(summary)})")
    for name, stage in summary.get("stages", {}).items():
        lines.append(f"  {name:10s}  {100 * stage['cleared'] / stage['episodes']:6.1f}%  ({stage_words(stage)})")
    for name, s in summary.items():
        if isinstance(s, dict) and "mean" in s:
            label = LABELS.get(name, name.replace("_", " "))
            digits = 1 if max(abs(s["min"]), abs(s["max"])) > 1 else 3  # shares need more of them
            spread = f"+- {s['std']:.{digits}f}  ({s['min']:.{digits - 1}f} to {s['max']:.{digits - 1}f})"
            lines.append(f"  {label:10s} {s['mean']:9.{digits}f}  {spread}")
    if "ended_in" in summary:
        lines.append("  ended in    " + ", ".join(f"{stage} {count}" for stage, count in summary["ended_in"].items()))
    if "causes" in summary:
        lines.append("  ended by    " + ", ".join(f"{cause} {count}" for cause, count in summary["causes"].items()))
    return lines


def stage_words(stage: dict[str, Any]) -> str:
    """Return of how many episodes a stage's clear rate is, its interval, and whether the stage was trained on."""
    words = f"{stage['cleared']} of {stage['episodes']}"
    if stage["clear_rate_95"] is not None:
        low, high = (100 * bound for bound in stage["clear_rate_95"])
        words += f"; 95% interval {low:.1f}% to {high:.1f}%"
    return words + ("" if stage["trained"] else "; not trained on")


def distinct(summary: dict[str, Any]) -> str:
    """Return in words how many different starts and trajectories the episodes had."""
    starts, films = summary["starts"], summary["trajectories"]
    return f"{starts} start{'s' * (starts != 1)}, {films} {'trajectories' if films != 1 else 'trajectory'}"


def count_and_interval(summary: dict[str, Any], digits: int = 1) -> str:
    """Return how many episodes were cleared, with the interval of the rate or why there is none."""
    count = f"{summary['cleared']} of {summary['episodes']}"
    if summary["trajectories"] == 1:
        return f"{count}: 1 film, no interval"
    if summary["clear_rate_95"] is None:
        return f"{count}, all from 1 start: no interval"
    low, high = (100 * bound for bound in summary["clear_rate_95"])
    worth = summary["worth"]
    less = "" if worth > 0.99 * summary["episodes"] else f", worth {worth:g} independent ones"
    return f"{count}{less}; 95% interval {low:.{digits}f}% to {high:.{digits}f}%"


if __name__ == "__main__":
    sys.exit(main())
