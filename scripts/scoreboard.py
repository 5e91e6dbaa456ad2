"""Evaluate every shipped policy again; rewrite the cards and the README: `python -m scripts.scoreboard`.

Over unmodified nes-py by default. The native core plays the same frames in a fraction of the time: `--emulator native`
is the quick check. What was measured over the other emulator with the same weights, seed and episodes stays in the
card, and the table shows nes-py's figures where there are any.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import envs
from ppo.evaluate import PRETRAINED, evaluate
from ppo.policy import load_policy
from scripts import model_card, play
from scripts.evaluate import count_and_interval, distinct, summarise
from utils import command, system
from utils.folder import read_json

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- scoreboard: written by scripts.scoreboard -->", "<!-- end of scoreboard -->"
# Column of the table -> what its 100 sampled episodes are played with. The first is the figure that counts: it has its
# interval there, the others theirs in the card.
CONDITIONS: dict[str, dict[str, Any]] = {
    "Random buttons": {"start_frames": 30, "start_mode": "random", "sticky": 0.0},
    "Waiting": {"start_frames": 30, "start_mode": "noop", "sticky": 0.0},
    "Sticky buttons": {"start_frames": 0, "start_mode": "noop", "sticky": 0.25},
}
EMULATORS = {"nes-py": "unmodified nes-py", "native": "the native core"}


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write, print the table; exit code 2 for bad input."""
    parser = command.Parser(prog="python -m scripts.scoreboard", description="Re-evaluate the shipped policies.")
    parser.add_argument("stages", nargs="*", metavar="ID", help="only these environment ids")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=system.cores())
    parser.add_argument("--emulator", default="nes-py", choices=tuple(EMULATORS), help="native: the quick check")
    parser.add_argument("--folder", type=Path, default=PRETRAINED, help="whose folders are the policies")
    parser.add_argument(
        "--readme", type=Path, default=README, help="file with the marks between which the table stands"
    )
    args = parser.parse_args(argv)
    return command.run_command("scripts.scoreboard", lambda: scoreboard(args))


def scoreboard(args: argparse.Namespace) -> None:
    """Evaluate each policy, write its card, then the table."""
    if BEGIN not in args.readme.read_text(encoding="utf-8") or args.episodes < 1:
        raise ValueError(f"expected --episodes of at least 1, and {BEGIN} in {args.readme}")
    folders = {path.parent.name: path.parent for path in sorted(args.folder.glob("*/policy.json"))}
    unknown = [name for name in args.stages if name not in folders]
    if unknown:
        raise ValueError(
            f"no policy for {', '.join(unknown)} in {args.folder}, there are {', '.join(folders) or 'none'}"
        )
    for name, folder in folders.items():
        if args.stages and name not in args.stages:
            continue
        found = measure(folder, args)
        film(folder, found)
        (folder / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
        policy = load_policy(folder)
        text = card(called(folder), policy.info, found, (folder / "play.mp4").exists(), policy.has_value)
        (folder / "README.md").write_text(text, encoding="utf-8")
        for line in found["lines"]:
            print(f"{name}, {describe(line)}", flush=True)
    text = "\n".join(table({name: read(folder) for name, folder in folders.items()}))
    print("\n" + text)
    write_table(args.readme, text)


def called(folder: Path) -> str:
    """Return what commands call a shipped policy: ID, or near/ID."""
    shipped = PRETRAINED in folder.resolve().parents
    return folder.resolve().relative_to(PRETRAINED).as_posix() if shipped else folder.name


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return what the policy reaches: sampled under each of CONDITIONS, and greedily from the plain start."""
    policy, lines = load_policy(folder), []
    columns = envs.find_family(policy.info["env"]).columns
    plain = {"start_frames": 0, "start_mode": "noop", "sticky": 0.0}
    for greedy, options in (*((False, options) for options in CONDITIONS.values()), (True, plain)):
        episodes = 1 if greedy else args.episodes
        records = evaluate(
            folder, episodes, args.seed, greedy=greedy, jobs=args.jobs, emulator=args.emulator, **options
        )
        how = {"emulator": args.emulator, "greedy": greedy, "commit": system.commit()}
        lines.append(how | options | summarise(records, columns))
    facts = {"seed": args.seed, "asked": args.episodes, "policy_sha256": policy.info["sha256"]}
    before = read(folder) or {}
    kept = before.get("lines", []) if all(before.get(name) == value for name, value in facts.items()) else []
    others = [line for line in kept if line["emulator"] != args.emulator]
    return facts | {"versions": system.versions(), "lines": lines + others}


def film(folder: Path, found: dict[str, Any]) -> None:
    """Write play.mp4, if there is none of these weights: the greedy episode if it clears, else a sampled one."""
    path, before = folder / "play.mp4", read(folder) or {}
    shown = path.exists() and before.get("policy_sha256") == found["policy_sha256"]
    if shown or importlib.util.find_spec("imageio_ffmpeg") is None:
        return
    greedy = any(line["greedy"] and line["cleared"] for line in found["lines"])
    flags = ["--video", str(path), "--scale", "1", *(["--deterministic"] if greedy else ["--start-frames", "30"])]
    play.main([str(folder), "--seed", str(found["seed"]), *flags])


def read(folder: Path) -> dict[str, Any] | None:
    """Return the last evaluation of a shipped policy, None if it has none yet. Raises ValueError for anything else."""
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    found = read_json(path)
    try:
        card("", {"env": "", "spec": {"options": {}}, "network": ""}, found, False)
        table({"": found})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is not an evaluation of this program ({error!r})") from None
    return found


def describe_how(line: dict[str, Any]) -> str:
    """Return in words how an evaluation's episodes were played."""
    how = "greedy" if line["greedy"] else "sampled"
    pressed = "random buttons" if line["start_mode"] == "random" else "nothing"
    starts = f"up to {line['start_frames']} frames of {pressed} first" if line["start_frames"] else "plain start"
    if line["sticky"]:
        starts += f", sticky buttons with probability {line['sticky']} per frame"
    return f"{how}, {EMULATORS[line['emulator']]}, {starts}"


def describe(line: dict[str, Any]) -> str:
    """Return one line of an evaluation in words."""
    rate = f"{100 * line['clear_rate']:.0f}% cleared ({count_and_interval(line, 0)})"
    return f"{describe_how(line)}: {rate}, {distinct(line)}, mean return {line['ep_ret']['mean']:.0f}"


def card(name: str, info: dict[str, Any], found: dict[str, Any], filmed: bool, critic: bool = False) -> str:
    """Return the model card of a policy; `critic`: its folder holds one."""
    results = [(describe_how(line), line) for line in found["lines"]]
    lines = [*model_card.front_matter(info, results), "", f"# {name}", "", *model_card.facts(info, filmed, critic)]
    commits = dict.fromkeys(line["commit"][:12] for line in found["lines"])
    lines += ["", f"Evaluated at {', '.join(commits)}, seed {found['seed']}:", ""]
    lines += [f"- {describe(line)}" for line in found["lines"]]
    lines += [
        "",
        f"`python -m scripts.play {name}` shows it; `python -m scripts.evaluate {name}` measures it again.",
    ]
    return "\n".join(lines) + "\n"


def table(found: dict[str, dict[str, Any] | None]) -> list[str]:
    """Return the Markdown table of the stages with a policy: clear rates under each of CONDITIONS."""
    lines = ["| Stage | " + " | ".join(CONDITIONS) + " |", "|---" * (1 + len(CONDITIONS)) + "|"]
    for name, evaluation in found.items():
        stage = name.removeprefix("SuperMarioBros-").removesuffix("-v0")
        lines.append(f"| {stage} | " + " | ".join(cell(evaluation, title) for title in CONDITIONS) + " |")
    shown = [line for evaluation in found.values() for title in CONDITIONS if (line := shown_line(evaluation, title))]
    counts = "/".join(dict.fromkeys(str(line["episodes"]) for line in shown))
    where = " and ".join(dict.fromkeys(EMULATORS[line["emulator"]] for line in shown))
    return [*lines, "", f"{counts} episodes for each figure, over {where}."] if shown else lines


def shown_line(found: dict[str, Any] | None, title: str) -> dict[str, Any] | None:
    """Return what the table shows of an evaluation: sampled under this condition, over nes-py if that was measured."""
    wanted = {"greedy": False} | CONDITIONS[title]
    lines = [ln for ln in (found or {}).get("lines", []) if all(ln.get(key) == wanted[key] for key in wanted)]
    return min(lines, key=lambda line: list(EMULATORS).index(line["emulator"]), default=None)


def cell(found: dict[str, Any] | None, title: str) -> str:
    """Return a clear rate, with its interval in the first column; "-" where it was not measured."""
    line = shown_line(found, title)
    if line is None:
        return "-"
    rate = f"{100 * line['clear_rate']:.0f}%"
    if title != next(iter(CONDITIONS)):
        return rate
    if line["clear_rate_95"] is None:
        return f"{rate} (no interval)"
    low, high = (100 * bound for bound in line["clear_rate_95"])
    return f"{rate} ({low:.0f} to {high:.0f})"


def write_table(readme: Path, text: str) -> None:
    """Replace the table between the two marks of the README."""
    old = readme.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    readme.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", old), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
