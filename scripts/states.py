"""Take states along a stage, for `ppo.run --start-states`: `python -m scripts.states RUN_OR_POLICY --out FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import envs
from envs.mario.actions import parse
from envs.mario.native_vector import read_states, write_states
from ppo.evaluate import BLOCK, environment, find_policy
from ppo.policy import Policy, load_policy
from utils import command
from utils.seeding import Purpose, generator


def main(argv: list[str] | None = None) -> int:
    """Play, take states, write them; exit code 2 for bad input."""
    parser = command.Parser(
        prog="scripts.states", description="Keep states along a stage, to practise its later parts."
    )
    parser.add_argument("policy", nargs="?", help="run or policy folder, or id with a shipped policy; default: random")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--env", help="environment id; default: the policy's own, or SuperMarioBros-1-1-v0")
    parser.add_argument("--every", type=int, metavar="STEPS", help="steps between two states (default 15); with"
                        " --explore: keep the ways to the flag at such steps, and not the places")  # fmt: skip
    parser.add_argument("--count", type=int, default=100, help="how many states (default 100)")
    parser.add_argument("--after", type=int, default=0, metavar="X", help="only where Mario is beyond this x")
    parser.add_argument("--before", type=int, default=1 << 16, metavar="X", help="and has not come to this x")
    parser.add_argument("--append", action="store_true", help="add to the states that FILE holds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--explore", type=int, metavar="TIMES", help="instead, explore the stage without a policy, so"
                        " many times to the flag, and keep every place where Mario stood")  # fmt: skip
    parser.add_argument(
        "--actions", default="right_only", help="action set of an exploration, by name or in JSON (default right_only)"
    )
    parser.add_argument("--max-steps", type=int, default=1_000_000, metavar="STEPS", help="of an exploration at most")
    args = parser.parse_args(argv)
    return command.run("scripts.states", lambda: take(args))


def take(args: argparse.Namespace) -> None:
    """Write the states of a policy's play, or of explorations."""
    if args.every is not None and args.every < 1 or args.count < 1 or args.seed < 0 or args.after < 0:
        raise ValueError("expected --every and --count of at least 1, --seed and --after of at least 0")
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
    else:
        play(args, policy, env_id, options)


def explore_stage(args: argparse.Namespace, env_id: str) -> None:
    """Explore without a policy, `args.explore` times, and write every place that was found."""
    from envs.mario.explore import explore

    if args.policy is not None:
        raise ValueError("explore: goes without a policy")
    if args.explore < 1 or args.max_steps < 1:
        raise ValueError("expected --explore and --max-steps of at least 1")
    actions = parse(args.actions)
    states: list[bytes] = []
    for seed in range(args.seed, args.seed + args.explore):
        found = explore(env_id, seed, args.max_steps, actions=actions)
        all_of_it = found.way[:: args.every] if args.every else [(place.state, place.x) for place in found.places]
        kept = [state for state, x in all_of_it if args.after <= x < args.before]
        states += kept
        end = "the flag" if found.way else f"x = {max(place.x for place in found.places)}, no flag"
        print(f"exploration {seed}: {end} after {found.steps:,} steps, {len(kept)} states", flush=True)
    if not states:
        raise ValueError(f"after: no state between x = {args.after} and {args.before}")
    write(args, states)
    print(f"{args.out}: {len(states)} states of {env_id}")


def write(args: argparse.Namespace, states: list[bytes]) -> None:
    """Write the states, behind those that are there with --append."""
    before = read_states(args.out) if args.append and args.out.exists() else []
    write_states(args.out, before + states)


def play(args: argparse.Namespace, policy: Policy | None, env_id: str, options: dict[str, Any]) -> None:
    """Play one environment with sampled actions until there are enough states."""
    from envs.mario.explore import area_x

    env = envs.make_vec(env_id, 1, args.seed, **options, ram_info=["player_page", "player_x"])
    if policy is not None:
        policy.check_spaces(env.single_observation_space, env.single_action_space)
    obs, _ = env.reset()
    num_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    states: list[bytes] = []
    places: list[int] = []
    every = args.every or 15
    for t in range(args.count * every * 100):
        if t % BLOCK == 0:
            uniforms = generator(args.seed, 0, Purpose.EVALUATION, t // BLOCK).random(BLOCK, dtype=np.float32)
        uniform = uniforms[t % BLOCK : t % BLOCK + 1]
        act = policy.act(obs, uniform) if policy else (uniform * num_actions).astype(np.int64)
        obs, _, _, _, infos = env.step(act)
        x = area_x(infos)
        if t % every == every - 1 and args.after <= x < args.before:
            states += env.get_state()
            places.append(x)
        if len(states) == args.count:
            break
    env.close()
    if not states:
        raise ValueError(f"after: nobody came between x = {args.after} and {args.before} in {t + 1} steps")
    write(args, states)
    print(f"{args.out}: {len(states)} states of {env_id}, x from {min(places)} to {max(places)}")


if __name__ == "__main__":
    sys.exit(main())
