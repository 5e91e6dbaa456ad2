"""Clear a stage from nothing: `python -m scripts.solve SuperMarioBros-3-2-v0`.

Parts, each of which is left out where its result is there already, so that the same command goes on where it stopped:
    lessons  a planner that looks ahead teaches the network what to press (`scripts.teach`), unless --lessons 0
    ways     with --ways: explored from disturbed starts, and the shipped demonstration: states along them
    train    PPO on what is near Mario and where he is (SETTINGS), disturbed, until an evaluation of 100 episodes
             reaches the goal or the budget is spent; with ways, its episodes start where the policy fails on them
    prove    100 episodes each after random buttons, after waiting and with sticky buttons; over unmodified nes-py too
    show     policy, card, video and curve in DATA_DIR/solve_ID/solve_ID_sSEED_policy
With --pixels a network that sees pictures then learns from that policy (`scripts.teach`), and is proved and shown
likewise, in solve_ID_sSEED_pixels. Every further flag is one of `ppo.run`, such as --init-from or --cpu 8.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.mario import backends, demonstrations, stages
from envs.mario.demonstrations import Moment
from envs.mario.explore import explore
from envs.mario.native_vector import write_states
from ppo import arguments
from ppo.build import build_training, threads
from ppo.config import PPOConfig
from ppo.evaluate import find_policy
from ppo.policy import load_policy
from scripts import export, scoreboard, teach
from utils import command, mpi, plot, system
from utils.folder import Refused, move_aside, read_json

PROG = "scripts.solve"
FAILED = 3  # exit code where training failed
EVERY = 4  # decisions from one state of a way to the next
OWN = (
    "--env --exp-name --data-dir --seed --start-curriculum --stop-at --total-steps --epochs --resume --overwrite "
    "--start-states --print-config --presets --preset"
).split()
SETTINGS = (
    "--preset near --ram-obs near,place --network mlp_large --sticky 0 --ent-coef 0 --gamma 0.98 --pi-lr 3e-4 "
    "--v-lr 1e-3 --reward score-loops --max-episode-steps 1000 --eval-every 8 --save-every 4"
).split()
LESSONS = 60_000
TEMPERATURE = 0.5  # of the policy that it leaves: surer than the one that explored


def main(argv: list[str] | None = None) -> int:
    """Solve stages; exit code 0 where all reach the goal, 1 where one does not, 2 for bad input, 3 where one failed."""
    parser = command.Parser(
        prog=PROG,
        usage="python -m scripts.solve ID [ID ...] [--jobs N] [--budget N] [--FLAG VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("stages", nargs="+", metavar="ID", help="such as SuperMarioBros-3-2-v0")
    parser.add_argument("--jobs", type=int, default=1, help="stages at a time (default 1); each prints into a log")
    text = "decisions of a stage's training (default 2,000,000)"
    parser.add_argument("--budget", type=int, default=2_000_000, metavar="N", help=text)
    text = f"moments that a planner teaches before training (default {LESSONS:,})"
    parser.add_argument("--lessons", type=int, default=LESSONS, metavar="N", help=text)
    text = "then teach a network that sees pictures, at N moments"
    parser.add_argument("--pixels", type=int, default=0, metavar="N", help=text)
    parser.add_argument("--goal", type=float, default=0.9, help="clear rate at which training ends (default 0.9)")
    parser.add_argument(
        "--ways", type=int, default=0, help="explored ways beside the shipped one (default 0: none at all)"
    )
    parser.add_argument("--episodes", type=int, default=100, help="of each evaluation of the proof (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    args, flags = parser.parse_known_args(argv)
    return command.run_command(PROG, lambda: solve_all(args, flags))


def solve_all(args: argparse.Namespace, flags: list[str]) -> int:
    """Solve the stages one after the other, or several at a time in processes of their own."""
    check(args, flags)
    if args.jobs == 1 or len(args.stages) == 1:
        return max([solve(args, env_id, flags) for env_id in args.stages])
    waiting, worst = list(args.stages), 0
    running: dict[str, subprocess.Popen[bytes]] = {}
    names = ("budget", "lessons", "pixels", "goal", "ways", "episodes", "seed", "data_dir")
    words = [word for name in names for word in ("--" + name.replace("_", "-"), str(getattr(args, name)))]
    args.data_dir.mkdir(parents=True, exist_ok=True)
    with passing_signals_on(running) as received:
        while (waiting and not received) or running:
            while waiting and not received and len(running) < args.jobs:
                env_id = waiting.pop(0)
                log = args.data_dir / f"{name_of(env_id)}_s{args.seed}.log"
                with log.open("a") as file:
                    running[env_id] = start(["scripts.solve", env_id, *words, *flags], stdout=file, stderr=file)
                print(f"{env_id}: begins, {log}", flush=True)
            time.sleep(0.5)
            for env_id in [name for name, process in running.items() if process.poll() is not None]:
                code = running.pop(env_id).returncode
                worst = max(worst, abs(code))
                result = {0: "solved", 1: "falls short of the goal"}.get(code, f"failed with code {code}")
                print(f"{env_id}: {result}", flush=True)
    return worst


def start(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start a command of this project, which ends with this process: `passing_signals_on` tells it of signals once."""
    argv = [sys.executable, "-m", *words]
    return subprocess.Popen(argv, start_new_session=True, preexec_fn=system.save_with_parent, **how)


@contextlib.contextmanager
def passing_signals_on(processes: dict[str, subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Send signals that ask this process to end to those that it started, which save and end; yield what was sent."""
    received: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for process in processes.values():
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check(args: argparse.Namespace, flags: list[str]) -> None:
    """Raise ValueError for what cannot be solved, before anything is done."""
    for env_id in args.stages:
        game = stages.parse(env_id)
        if game is None or game.target is None:
            raise ValueError(f"env: {env_id!r}, expected one stage of Mario such as SuperMarioBros-1-1-v0")
    if len(set(args.stages)) < len(args.stages):
        raise ValueError("env: a stage is given twice, expected each once")
    for name, least in {"jobs": 1, "budget": 1, "lessons": 0, "pixels": 0, "ways": 0, "episodes": 1}.items():
        if getattr(args, name) < least:
            raise ValueError(f"{name}: {getattr(args, name)}, expected at least {least}")
    if not 0 < args.goal <= 1 or args.seed < 0:
        raise ValueError(f"expected --goal in (0, 1] and --seed of at least 0, got {args.goal} and {args.seed}")
    command.refuse(flags, OWN, PROG)
    if args.data_dir.exists() and not args.data_dir.is_dir():
        raise ValueError(f"data_dir: {args.data_dir} is no folder")
    configs = [settings(args, env_id, flags)[1] for env_id in args.stages]
    with threads(comm := mpi.Comm()):
        build_training(configs[0], comm).close()  # what cannot be built shows before anything is done


def name_of(env_id: str) -> str:
    """Return the name of a stage's experiment."""
    return f"solve_{env_id.lower()}"


def settings(args: argparse.Namespace, env_id: str, flags: list[str]) -> tuple[list[str], PPOConfig]:
    """Return the flags of a stage's run but for its states, and the config. Raises ValueError for a bad one."""
    words = ["--env", env_id, "--exp-name", name_of(env_id), "--data-dir", str(args.data_dir), *SETTINGS, *flags]
    words += ["--seed", str(args.seed), "--total-steps", str(args.budget), "--stop-at", f"EvalClearRate>={args.goal}"]
    return words, arguments.parse(words)[0]


def solve(args: argparse.Namespace, env_id: str, flags: list[str]) -> int:
    """Solve one stage; return 0 where it reaches the goal, else 1."""
    words, cfg = settings(args, env_id, flags)
    folder = cfg.run_dir
    ways = folder.with_name(f"{folder.name}_ways_{args.ways}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if args.ways and not ways.exists():
        write_ways(args, env_id, ways)
    if not trained(folder, args):
        if args.lessons:
            words += ["--init-from", str(lessons(args, env_id, cfg))]
        if args.ways:
            words += ["--start-curriculum", str(ways)]
        run = start(["ppo.run", *words, "--resume"])
        with passing_signals_on({env_id: run}):
            code = run.wait()
        if code == command.BAD_INPUT:
            raise ValueError(f"{env_id}: training was refused, see the line above")
        if code:
            raise SystemExit(FAILED if code == 1 else code if code > 0 else 128 - code)
    figure = proved(args, folder, find_policy(str(folder)), "policy")
    if args.pixels:
        taught = folder.with_name(f"{folder.name}_taught_{args.pixels}")
        teach_all(env_id, taught, args.pixels, ["--seed", str(args.seed)], str(find_policy(str(folder))))
        figure = min(figure, proved(args, folder, taught, "pixels"))
    return 0 if figure >= args.goal else 1


def trained(folder: Path, args: argparse.Namespace) -> bool:
    """Return whether the run has reached this goal or spent this budget."""
    try:
        ending, config = read_json(folder / "exit.json"), read_json(folder / "config.json")
        steps = load_policy(find_policy(str(folder), "last")).info["steps"]
    except (Refused, KeyError):
        return False
    if ending.get("reason") != "finished" or type(steps) is not int:
        return False
    return steps >= args.budget or ("goal" in ending and config.get("stop_at") == f"EvalClearRate>={args.goal}")


def lessons(args: argparse.Namespace, env_id: str, cfg: PPOConfig) -> Path:
    """Return the policy that the planner taught, a network such as the run's own."""
    taught = cfg.run_dir.with_name(f"{cfg.run_dir.name}_lessons_{args.lessons}")
    if not all_taught(taught, args.lessons):
        flags = ["--preset", "near", "--sticky", "0", "--seed", str(args.seed), "--network", cfg.network]
        for name in ("actions", "ram_obs"):
            value = cfg.env_options[name]
            flags += ["--" + name.replace("_", "-"), value if isinstance(value, str) else json.dumps(value)]
        flags += [] if cfg.init_from is None else ["--init-from", cfg.init_from]
        teach_all(env_id, taught, args.lessons, flags)
    return taught


def all_taught(taught: Path, labels: int) -> bool:
    """Return whether so many moments were taught; a signal ends lessons early."""
    return taught.exists() and load_policy(taught).info.get("labels", 0) >= labels


def teach_all(env_id: str, taught: Path, labels: int, flags: list[str], teacher: str | None = None) -> None:
    """Teach, unless that was done; lessons that were cut short are begun again, as their moments are lost."""
    if all_taught(taught, labels):
        return
    if taught.exists():
        print(f"{env_id}: the lessons in {taught.name} were cut short: they begin again", flush=True)
        move_aside(taught)
    if code := teach.teach(env_id, taught, labels, flags, teacher):
        raise SystemExit(code)


def write_ways(args: argparse.Namespace, env_id: str, path: Path) -> None:
    """Explore, each time from another disturbed start, and write states along what was found."""
    shipped = demonstrations.SHIPPED / demonstrations.file_name(env_id)
    ways = [demonstrations.read(shipped)] if shipped.exists() else []
    for seed in range(args.seed, args.seed + args.ways):
        found = explore(env_id, seed, teach.MAX_STEPS, start_frames=30)
        if found.buttons:
            ways.append(demonstrations.of_exploration(env_id, found))
        far = f"a way of {len(found.buttons)}" if found.buttons else "no way"
        print(f"{env_id}: exploration {seed}: {far} in {found.steps:,} decisions", flush=True)
    if not ways:
        raise ValueError(f"{env_id}: no way to the flag in {args.ways} explorations of {teach.MAX_STEPS:,} decisions")
    kept: list[Moment] = [moment for way in ways for moment in demonstrations.moments(way, EVERY)]
    write_states(path, [moment.state for moment in kept])
    print(f"{env_id}: {len(kept)} states along {len(ways)} ways", flush=True)


# What it leaves -------------------------------------------------------------------------------------------------------


def proved(args: argparse.Namespace, run: Path, policy: Path, name: str) -> float:
    """Prove a policy of a run, show it in the run's folder of that name, and return its clear rate."""
    out = run.with_name(f"{run.name}_{name}")
    figure = scoreboard.shown_line(prove(args, run, policy, out), "Random buttons")
    assert figure is not None
    rate = f"{figure['cleared']} of {figure['episodes']} cleared after random buttons"
    print(f"{load_policy(policy).info['env']}: {rate}; {out}", flush=True)
    return float(figure["clear_rate"])


def prove(args: argparse.Namespace, run: Path, policy: Path, out: Path) -> dict[str, Any]:
    """Evaluate a policy and write it with card, video and curve, unless that was done; return the figures."""
    asked = {"source_sha256": load_policy(policy).info["sha256"], "seed": args.seed, "asked": args.episodes}
    before = known(out, asked)
    if before is not None:
        return before
    part = out.with_name(out.name + ".part")  # what is known stays until there is more
    path = part / "evaluation.json"
    if part.exists():
        shutil.rmtree(part)
    if export.main([str(policy), "--out", str(part), "--half", "--temperature", str(TEMPERATURE)]):
        raise ValueError(f"{part} cannot be written, see the line above")
    found: dict[str, Any] = {}
    for emulator in emulators():
        how = {"emulator": emulator, "episodes": args.episodes, "seed": args.seed, "jobs": system.cores()}
        found = scoreboard.measure(part, argparse.Namespace(**how))
        path.write_text(json.dumps(found, indent=1) + "\n")
    for line in found["lines"]:
        print(scoreboard.describe(line), flush=True)
    columns = ["EvalClearRate", *(["StartClearRate", "Frontier"] if args.ways else ["ClearRate"])]
    plot.main([str(run), "-y", *columns, "--out", str(part / "curve.png")])
    path.unlink()  # a film is drawn where there are no figures of these weights
    scoreboard.film(part, found)
    shown = load_policy(part)
    filmed = (part / "play.mp4").exists()
    card = scoreboard.card(shown.info["env"], shown.info, found, filmed, shown.has_value)
    (part / "README.md").write_text(card, encoding="utf-8")
    path.write_text(json.dumps(found | asked, indent=1) + "\n")
    if out.exists():
        move_aside(out)
    part.rename(out)
    return found


def known(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an earlier call found, None where it was asked for something else. Raises ValueError."""
    before = scoreboard.read(out) or {}
    same = all(before.get(name) == value for name, value in asked.items())
    return before if same and scoreboard.shown_line(before, "Random buttons") is not None else None


def emulators() -> list[str]:
    """Return the emulators that are installed, unmodified nes-py last."""
    found = []
    for name in ("native", "nes-py"):
        try:
            backends.versions(name)
            found.append(name)
        except ValueError as error:
            print(f"{PROG}: not over {name}: {command.printable(error)}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
