"""Make a policy that can be sent to others: `python -m scripts.export RUN --out DIR [--half]`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from ppo import core
from ppo.arguments import add_option_flags
from ppo.evaluate import environment, find_policy
from ppo.policy import Policy, load_policy, write_policy
from scripts import model_card
from utils import command
from utils.seeding import Purpose, generator

NUM_ENVS = 4  # environments that the check plays in
NEAR = 0.01  # difference between two actions that are numbers, of half their range, up to which they are the same


def main(argv: list[str] | None = None) -> int:
    """Export a policy and check it; exit code 2 for bad input."""
    parser = command.Parser(
        prog="python -m scripts.export", description="Make a small policy folder: the actor without critic."
    )
    parser.add_argument("policy", help="run folder, policy folder, or id of an environment with a shipped policy")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder to write")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|K", help="of a run; K: after K steps")
    parser.add_argument("--env", metavar="MODULE:ID", help="the policy's, where a module of yours declares it")
    add_option_flags(parser, "env_kwargs", "wrapper")
    parser.add_argument("--network", metavar="MODULE:FUNCTION", help="the policy's, where it is a user's and trusted")
    parser.add_argument("--half", action="store_true", help="16-bit weights")
    parser.add_argument("--with-critic", action="store_true", help="keep the critic, which --init-from can go on with")
    cooler = "divide the logits by it for good: below 1 the actions drawn are closer to the most probable one"
    parser.add_argument("--temperature", type=float, metavar="T", help=cooler)
    parser.add_argument("--check-steps", type=int, default=500, help="decisions on which both must agree")
    args = parser.parse_args(argv)
    return command.run_command("scripts.export", lambda: export(args))


def export(args: Any) -> int:
    """Write the folder, play it beside the original, and say how often both chose the same."""
    out: Path = args.out
    if out.exists():
        raise ValueError(f"out: {out} exists, expected a new folder")
    if args.check_steps < 1:
        raise ValueError(f"check-steps: {args.check_steps}, expected at least 1")
    source = find_policy(args.policy, args.checkpoint)
    policy = load_policy(source, args.network)
    if args.with_critic and not policy.has_value:
        raise ValueError(f"with-critic: {source} has none")
    if args.temperature is not None:
        cool(policy, args.temperature)
    dtype = torch.float16 if args.half else torch.float32
    kept = {n: p for n, p in policy.ac.state_dict().items() if args.with_critic or not n.startswith("v.")}
    weights = {name: p.detach().contiguous().to(dtype) for name, p in kept.items()}
    if not all(bool(weight.isfinite().all()) for weight in weights.values()):
        raise ValueError("half: a weight is too large for 16 bits")
    write_policy(out, weights, policy.info)
    lines = [*model_card.front_matter(policy.info), "", f"# {command.printable(policy.info.get('env'))}", ""]
    lines += [*model_card.facts(policy.info, filmed=False, critic=args.with_critic), ""]
    given = {"--env": args.env, "--network": args.network, "--wrapper": args.wrapper}
    words = shlex.join(["FOLDER", *(word for flag, value in given.items() if value for word in (flag, value))])
    words += f" --env-kwargs {shlex.quote(json.dumps(args.env_kwargs))}" if args.env_kwargs else ""
    lines += [f"`python -m scripts.play {words}` shows it; `python -m scripts.evaluate {words}` measures it."]
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in out.iterdir())
    where = {"env": args.env, "env_kwargs": args.env_kwargs, "wrapper": args.wrapper}
    same, largest, count = agreement(policy, load_policy(out, args.network), args.check_steps, **where)
    print(
        f"{out}: {size / 1e6:.2f} MB; same actions in {same} of {count} decisions, "
        f"what the actor says differs by at most {largest:.1e}"
    )
    if same < count and not args.half:
        print("scripts.export: error: the exported policy plays differently", file=sys.stderr)
        return 1
    return 0


def cool(policy: Policy, temperature: float) -> None:
    """Divide the logits of a policy by a temperature, in its last layer; the card tells.

    Raises:
        ValueError: not above 0, or its actions are numbers, or several at once.
    """
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"temperature: {temperature}, expected a number above 0")
    if not isinstance(policy.ac.dist, core.Categorical):
        raise ValueError("temperature: expected a policy of Discrete actions")
    with torch.no_grad():
        for parameter in policy.ac.pi[-1].parameters():
            parameter.div_(temperature)
    before = policy.info.get("temperature")  # a file may hold anything
    policy.info["temperature"] = temperature * (before if isinstance(before, int | float) else 1.0)


def agreement(first: Policy, second: Policy, decisions: int, seed: int = 0, **wanted: Any) -> tuple[int, float, int]:
    """Play the first policy and ask the second one about the same observations.

    Returns:
        decisions in which both take the same most probable action and the same sampled action, the largest difference
        of a probability (of a mean, where actions are numbers), and the number of decisions, `decisions` rounded up to
        a multiple of NUM_ENVS. `wanted` is what `environment` takes.
    """
    env_id, options = environment(first, **wanted)
    env = envs.make_vec(env_id, NUM_ENVS, seed, **options)
    try:
        first.check_spaces(env.single_observation_space, env.single_action_space)
        obs, _ = env.reset()
        one, two = first.start(NUM_ENVS), second.start(NUM_ENVS)
        same, largest, steps = 0, 0.0, -(-decisions // NUM_ENVS)
        for t in range(steps):
            shape = (NUM_ENVS, first.ac.dist.num_uniforms)
            uniform = generator(seed, 0, Purpose.EVALUATION, t).random(shape, dtype=np.float32)
            looks = first.look(obs, one)[0], second.look(obs, two)[0]
            greedy = first.act(obs, None, one.clone()), second.act(obs, None, two.clone())
            sampled = first.act(obs, uniform, one), second.act(obs, uniform, two)
            near = [np.abs(a - b).reshape(NUM_ENVS, -1).max(axis=1) <= NEAR for a, b in (greedy, sampled)]
            same += int((near[0] & near[1]).sum())
            largest = max(largest, float(np.abs(looks[0] - looks[1]).max()))
            obs, _, terminated, truncated, _ = env.step(sampled[0])
            one[terminated | truncated] = two[terminated | truncated] = 0.0
    finally:
        env.close()
    return same, largest, steps * NUM_ENVS


if __name__ == "__main__":
    sys.exit(main())
