"""Ways through stages, and states along them to start episodes from: `python -m scripts.states`.

--all --out FOLDER                    explore all 32 stages and write a way to the flag of each, as buttons
--explore TIMES --out FILE            explore one stage and write states, for `ppo.run --start-states`
--plan TIMES --out FILE               play one stage by looking ahead and write states along it
--from-demonstration FILE --out FILE  states along ways that were found before
RUN_OR_POLICY --out FILE              states along a policy's play
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import envs
from envs.mario import demonstrations, stages
from envs.mario.actions import button_byte, parse, resolve
from envs.mario.demonstrations import Moment
from envs.mario.explore import explore
from envs.mario.native_vector import read_states, write_states
from envs.mario.options import START_FRAMES
from envs.mario.planner import Planner
from ppo.evaluate import environment, find_policy
from ppo.policy import Policy, load_policy
from utils import command
from utils.files import write_atomically
from utils.folder import read_json
from utils.seeding import evaluation_uniforms

TABLE = "explorations.json"  # beside the demonstrations: what finding them took
MAX_STEPS, PLAY_STEPS = 2_000_000, 2_000  # decisions of an exploration, and of a play by looking ahead


def main(argv: list[str] | None = None) -> int:
    """Explore or play, and write what was found; exit code 2 for bad input."""
    parser = command.Parser(
        prog="python -m scripts.states",
        description="Find ways through stages, and keep states along a stage to practise there.",
    )
    parser.add_argument("policy", nargs="?", help="run or policy folder, or id with a shipped policy; default: random")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="file of states; folder with --all")
    how = parser.add_argument_group("what is done, if no policy plays")
    how.add_argument("--all", action="store_true", help="explore all 32 stages to the flag; run it again to resume")
    text = "explore one stage, N times to the flag, and keep every place on the ways; with --every: states along them"
    how.add_argument("--explore", type=int, metavar="N", help=text)
    text = "play one stage N times by looking ahead (`envs.mario.planner`), best with --start-frames 30"
    how.add_argument("--plan", type=int, metavar="N", help=text)
    how.add_argument("--from-demonstration", type=Path, nargs="+", metavar="FILE", help="states along these ways")
    parser.add_argument("--env", help="environment id; default: the policy's own, or SuperMarioBros-1-1-v0")
    parser.add_argument("--seed", type=int, default=0)
    search = parser.add_argument_group("of an exploration or a plan")
    search.add_argument("--actions", help="action set, by name or in JSON (default simple, down and left with A)")
    text = f"decisions at most (default {MAX_STEPS:,}); of a play: {PLAY_STEPS:,}"
    search.add_argument("--max-steps", type=int, default=MAX_STEPS, metavar="STEPS", help=text)
    text = f"up to so many frames (0..{START_FRAMES.at_most}) of random buttons come first (default 0)"
    search.add_argument("--start-frames", type=int, default=0, metavar="FRAMES", help=text)
    which = parser.add_argument_group("which states are kept")
    which.add_argument("--every", type=int, metavar="STEPS", help="steps between two states (default 15)")
    which.add_argument("--count", type=int, default=100, help="how many states of a policy's play (default 100)")
    which.add_argument("--after", type=int, default=0, metavar="X", help="only where Mario is beyond this x")
    which.add_argument("--before", type=int, default=1 << 16, metavar="X", help="and has not come to this x")
    which.add_argument("--append", action="store_true", help="add to the states that FILE holds")
    args = parser.parse_args(argv)
    return command.run_command("scripts.states", lambda: take(args))


def take(args: argparse.Namespace) -> None:
    """Do what the command line wants."""
    if args.every is not None and args.every < 1 or args.count < 1 or args.seed < 0 or args.after < 0:
        raise ValueError("expected --every and --count of at least 1, --seed and --after of at least 0")
    if args.max_steps < 1:
        raise ValueError(f"max_steps: {args.max_steps}, expected at least 1")
    given = [args.policy, args.all or None, args.explore, args.plan, args.from_demonstration]
    if sum(value is not None for value in given) > 1:
        raise ValueError("expected one of: a policy, --all, --explore N, --plan N, --from-demonstration FILE")
    if args.all:
        explore_all(args)
        return
    command.check_writable("out", args.out)
    if args.append and args.out.exists():
        read_states(args.out)  # before anything is played in vain
    policy, env_id = None, args.env or "SuperMarioBros-1-1-v0"
    options: dict[str, Any] = {}
    if args.policy is not None:
        policy = load_policy(find_policy(args.policy))
        env_id, options = environment(policy, env=args.env)
    if envs.find_family(env_id).name != "mario":
        raise ValueError(f"env: {env_id} has no start states, Mario has")
    if args.explore is not None:
        explore_stage(args, env_id)
    elif args.plan is not None:
        plan_stage(args, env_id)
    elif args.from_demonstration is not None:
        along_demonstrations(args)
    else:
        play(args, policy, env_id, options)


# All stages -----------------------------------------------------------------------------------------------------------


def explore_all(args: argparse.Namespace) -> None:
    """Explore every stage that the folder has no way of yet; write each way, and a table of what it took."""
    if args.env is not None or args.append or args.every is not None:
        raise ValueError("all: takes no --env, --every or --append")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / TABLE
    settings = {"seed": args.seed, "start_frames": args.start_frames, "actions": args.actions}
    table = read_table(path, settings)
    print("stage     decisions  CPU seconds  way (decisions)  way (frames)")
    for world, stage in stages.STAGES:
        env_id = f"SuperMarioBros-{world}-{stage}-v0"
        row = table["stages"].get(f"{world}-{stage}")
        if row is None or (not row["way"] and row["decisions"] < args.max_steps):
            row = table["stages"][f"{world}-{stage}"] = explore_one(args, env_id)
            write_atomically(path, (json.dumps(table, indent=1) + "\n").encode())
        way = f"{row['way']:>15,}  {row['frames']:>12,}" if row["way"] else "   none"
        print(f"{world}-{stage}     {row['decisions']:>11,}  {row['cpu_seconds']:>11.1f}  {way}", flush=True)
    rows = table["stages"].values()
    names = ("decisions", "cpu_seconds", "way", "frames")
    decisions, seconds, way, frames = (sum(row[name] for row in rows) for name in names)
    share = f"{sum(row['way'] > 0 for row in rows)} of {len(rows)}"
    print(f"{share} {decisions:>10,}  {seconds:>11.1f}  {way:>15,}  {frames:>12,}")


def read_table(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the stages, nothing where there is no file.

    Raises:
        ValueError: the file is no such table, or one of other settings.
    """
    if not path.exists():
        return {**settings, "stages": {}}
    table = read_json(path)
    if any(table.get(name) != value for name, value in settings.items()):
        raise ValueError(
            f"out: {path.parent} was explored with other settings than {settings}, expected another folder"
        )
    rows = table.get("stages")
    names = {f"{world}-{stage}" for world, stage in stages.STAGES}
    if not isinstance(rows, dict) or not names.issuperset(rows) or not all(map(_is_row, rows.values())):
        raise ValueError(f"out: {path} is not a table of this program")
    return table


def _is_row(row: Any) -> bool:
    """Return whether this is what `explore_one` returns."""
    return (
        isinstance(row, dict)
        and all(type(row.get(name)) is int and 0 <= row[name] < 2**53 for name in ("decisions", "way", "frames"))
        and type(row.get("cpu_seconds")) in (int, float)
        and 0 <= row["cpu_seconds"] < 1e15
    )


def explore_one(args: argparse.Namespace, env_id: str) -> dict[str, Any]:
    """Explore one stage and write its way, if there is one; return its row of the table."""
    began = time.process_time()
    found = explore(env_id, args.seed, args.max_steps, start_frames=args.start_frames, **actions_of(args))
    row = {"decisions": found.steps, "cpu_seconds": round(time.process_time() - began, 2), "way": 0, "frames": 0}
    if found.buttons:
        way = demonstrations.of_exploration(env_id, found)
        demonstrations.write(args.out / demonstrations.file_name(env_id), way)
        row |= {"way": len(way.buttons), "frames": way.frames}
    return row


def actions_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the action set as an argument of `explore`, nothing for its default."""
    return {} if args.actions is None else {"actions": parse(args.actions)}


# States ---------------------------------------------------------------------------------------------------------------


def explore_stage(args: argparse.Namespace, env_id: str) -> None:
    """Explore without a policy, `args.explore` times, and write states of the places or along the ways."""
    if args.explore < 1:
        raise ValueError(f"explore: {args.explore}, expected at least 1")
    kept: list[Moment] = []
    for seed in range(args.seed, args.seed + args.explore):
        found = explore(env_id, seed, args.max_steps, start_frames=args.start_frames, **actions_of(args))
        if args.every is None:
            all_of_it = demonstrations.place_moments(env_id, found)
        elif found.buttons:
            all_of_it = demonstrations.moments(demonstrations.of_exploration(env_id, found), args.every)
        else:
            all_of_it = []
        chosen = between(args, all_of_it)
        kept += chosen
        far = max(place.x for place in found.places)
        end = "the flag" if found.buttons else f"x = {far}, no flag"
        way = f" a way of {len(found.buttons)}," if found.buttons else ""
        print(f"exploration {seed}: {end} after {found.steps:,} steps,{way} {len(chosen)} states", flush=True)
    write(args, kept, env_id)


def plan_stage(args: argparse.Namespace, env_id: str) -> None:
    """Play by looking ahead, `args.plan` times, and write states along the ways that reach the flag."""
    if args.plan < 1:
        raise ValueError(f"plan: {args.plan}, expected at least 1")
    if not START_FRAMES.accepts(args.start_frames):
        raise ValueError(f"start_frames: {args.start_frames}, expected {START_FRAMES.allowed}")
    buttons = [button_byte(combination) for combination in resolve(actions_of(args).get("actions", "simple"))]
    planner, kept, ways = Planner(env_id, buttons), list[Moment](), 0
    for seed in range(args.seed, args.seed + args.plan):
        start, pressed = planner.play(seed, args.start_frames, min(args.max_steps, PLAY_STEPS))
        way = demonstrations.of_buttons(env_id, start, pressed) if pressed else None
        chosen = between(args, demonstrations.moments(way, args.every or 15)) if way else []
        kept += chosen
        print(f"play {seed}: {f'a way of {len(pressed)}' if way else 'no flag'}, {len(chosen)} states", flush=True)
        ways += way is not None
    if not ways:
        raise ValueError(f"plan: no way to the flag of {env_id} in {args.plan} plays")
    write(args, kept, env_id)


def along_demonstrations(args: argparse.Namespace) -> None:
    """Write states at every `args.every`-th decision of ways that were found before."""
    ways = [demonstrations.read(path) for path in args.from_demonstration]
    names = sorted({way.env for way in ways})
    if len(names) > 1 or args.env not in (None, names[0]):
        raise ValueError(f"from_demonstration: ways through {', '.join(names)}, expected one stage")
    write(args, between(args, [m for way in ways for m in demonstrations.moments(way, args.every or 15)]), names[0])


def between(args: argparse.Namespace, found: list[Moment]) -> list[Moment]:
    """Return those of the moments that are where --after and --before want them."""
    return [moment for moment in found if args.after <= moment.x < args.before]


def write(args: argparse.Namespace, found: list[Moment], env_id: str) -> None:
    """Write the states, after those that are there with --append, and say so."""
    if not found:
        raise ValueError(f"after: no state between x = {args.after} and {args.before}")
    before = read_states(args.out) if args.append and args.out.exists() else []
    write_states(args.out, before + [moment.state for moment in found])
    xs = [moment.x for moment in found]
    print(f"{args.out}: {len(found)} states of {env_id}, x from {min(xs)} to {max(xs)}")


def play(args: argparse.Namespace, policy: Policy | None, env_id: str, options: dict[str, Any]) -> None:
    """Play one environment with sampled actions until there are enough states."""
    env = envs.make_vec(env_id, 1, args.seed, **options, ram_info=["player_page", "player_x"])
    if policy is not None:
        policy.check_spaces(env.single_observation_space, env.single_action_space)
    obs, _ = env.reset()
    state = policy.start(1) if policy is not None else None
    num_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    uniforms = evaluation_uniforms(args.seed, [0], 1)
    found: list[Moment] = []
    every = args.every or 15
    for t in range(args.count * every * 100):
        uniform = next(uniforms)
        act = policy.act(obs, uniform, state) if policy else (uniform[:, 0] * num_actions).astype(np.int64)
        obs, _, terminated, truncated, infos = env.step(act)
        if state is not None:
            state[terminated | truncated] = 0.0
        if t % every == every - 1:
            x = 256 * int(infos["player_page"][0]) + int(infos["player_x"][0])
            found += between(args, [Moment(env.get_state()[0], t + 1, x)])
        if len(found) == args.count:
            break
    env.close()
    write(args, found, env_id)


if __name__ == "__main__":
    sys.exit(main())
