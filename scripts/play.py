"""Watch a policy, random play or demonstrations, or play: `python -m scripts.play POLICY | --random | --human | ...`.

In a window at 60 frames per second, or --video FILE, --gif FILE, --terminal. Every frame of the emulator is shown, not
only those that the agent sees. The keys of --human: arrows or WASD, X or J jump, Z or K run, Enter start, Esc ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import envs
from envs.mario import demonstrations, stages
from envs.mario.actions import button_byte
from envs.mario.backends import Consoles, rgb
from envs.mario.python_vector import FPS
from ppo import film
from ppo.arguments import add_option_flags
from ppo.evaluate import environment, find_players, load_players
from ppo.policy import BadPolicy, Policy, load_policy
from ppo.policy_set import PolicySet
from scripts.evaluate import DISTURBANCE
from utils import command, video, window
from utils.folder import read_json

DEFAULT_ENV = "SuperMarioBros-1-1-v0"
RECORDING = 1  # version of the files of --record
KEYS = {
    "right": ("RIGHT", "D"),
    "left": ("LEFT", "A"),
    "down": ("DOWN", "S"),
    "up": ("UP", "W"),
    "A": ("X", "J"),
    "B": ("Z", "K"),
    "start": ("ENTER",),
    "select": ("RSHIFT",),
}
KEY_HELP = "arrows or WASD move, X or J jumps, Z or K runs and fires, Enter starts, right Shift selects, Esc ends"


def main(argv: list[str] | None = None) -> int:
    """Play and show; exit code 2 for bad input."""
    parser = command.Parser(
        prog="python -m scripts.play", description="Watch a policy or play yourself.", epilog=KEY_HELP
    )
    parser.add_argument("policy", nargs="?", help="run folder, policy folder, or id with a shipped policy")
    who = parser.add_argument_group("who plays, if not a policy")
    who.add_argument("--random", action="store_true", help="random actions")
    who.add_argument("--human", action="store_true", help="you, with the keyboard; Mario only")
    who.add_argument("--replay", type=Path, metavar="FILE", help="what --record wrote, exactly")
    text, shipped = "ways through stages, one after the other; default: the shipped ones", demonstrations.SHIPPED
    who.add_argument("--demonstrations", type=Path, nargs="?", const=shipped, metavar="FOLDER", help=text)
    where = parser.add_argument_group("what is played")
    where.add_argument("--env", help=f"environment id; default: the policy's own, or {DEFAULT_ENV}")
    where.add_argument("--network", metavar="MODULE:FUNCTION", help="the policy's, where it is a user's and trusted")
    add_option_flags(where, "env_kwargs", "wrapper")
    where.add_argument("--checkpoint", metavar="best|last|K", help="of a run; default: best")
    where.add_argument("--deterministic", action="store_true", help="the most probable action, not a sampled one")
    where.add_argument(
        "--follow",
        action="store_true",
        help="the newest policy (--checkpoint best: the best) of a run"
        " that is still training, read again before each episode; without end",
    )
    where.add_argument("--episodes", type=int, help="default: 1")
    where.add_argument(
        "--seed", type=int, default=0, help="with the same flags, the first episode is that of scripts.evaluate"
    )
    add_option_flags(where, *DISTURBANCE)
    where.add_argument("--actions", choices=("right_only", "simple", "complex"), help="with --random")
    how = parser.add_argument_group("how it is shown; without any of these in a window")
    how.add_argument("--video", type=Path, metavar="FILE", help="write FILE.mp4 or FILE.webm")
    how.add_argument("--gif", type=Path, metavar="FILE", help="write a GIF")
    how.add_argument("--terminal", action="store_true", help="draw in this terminal")
    how.add_argument("--overlay", action="store_true", help="action probabilities and value beside the picture")
    how.add_argument("--speed", type=float, default=1.0, help="of window and terminal; 0 is as fast as possible")
    how.add_argument("--scale", type=int, default=2, help="how large; 1 is the console's own 256 x 240")
    text = "with --demonstrations: show every N-th frame, for a film that is N times as fast"
    how.add_argument("--every", type=int, default=1, metavar="N", help=text)
    how.add_argument("--record", type=Path, metavar="FILE", help="with --human: keep every frame's buttons")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # as scripts.evaluate does; one observation is not worth a second
    return command.run_command("scripts.play", lambda: play(args))


def play(args: argparse.Namespace) -> None:
    """Check the command line and let the right player play."""
    who = [args.policy is not None, args.random, args.human, args.replay is not None, args.demonstrations is not None]
    if sum(who) != 1:
        raise ValueError("expected one of: a policy, --random, --human, --replay FILE, --demonstrations")
    check_follow(args)
    if args.episodes < 1 or not 1 <= args.scale <= 8 or not args.speed >= 0 or args.seed < 0:
        raise ValueError("expected --episodes of at least 1, --scale 1 to 8, --speed and --seed of at least 0")
    if args.record and not args.human:
        raise ValueError("record: only with --human")
    if args.overlay and args.policy is None:
        raise ValueError("overlay: only with a policy")
    if args.every < 1 or (args.every > 1 and args.demonstrations is None):
        raise ValueError(f"every: {args.every}, expected at least 1, and only with --demonstrations")
    if args.human or args.replay:
        by_frames(args)
    elif args.demonstrations:
        by_demonstrations(args)
    else:
        by_steps(args)


def check_follow(args: argparse.Namespace) -> None:
    """Fill in how many episodes are played, and see that --follow has a run and comes to an end where a file does."""
    if args.follow and args.policy is None:
        raise ValueError("follow: only with a run folder")
    if args.follow and args.checkpoint not in (None, "best", "last"):
        raise ValueError(f"follow: checkpoint {args.checkpoint!r}, expected best or last")
    if args.follow and args.episodes is None and (args.video or args.gif):
        raise ValueError("follow: has no end: with --video or --gif give --episodes too")
    if args.episodes is None:
        args.episodes = sys.maxsize if args.follow else 1
    if args.checkpoint is None:
        args.checkpoint = "last" if args.follow else "best"


class Screen:
    """Sends each picture to every viewer, with the overlay beside it, and keeps the pace."""

    def __init__(self, args: argparse.Namespace, title: str, fps: float) -> None:
        self.scale, self.viewers, self.frames = args.scale, list[video.Viewer](), 0
        self.thought: tuple[list[str], list[float], int, float | None] | None = None  # what the overlay says
        self._panel: tuple[Any, np.ndarray] = (None, np.zeros(0))
        self.caption = ""
        self.steps: int | None = None  # for which the policy has been trained, where one is followed
        self.window: window.Window | None = None
        if args.video:
            self.viewers.append(video.VideoFile(args.video, fps))
        if args.gif:
            self.viewers.append(video.GifFile(args.gif, fps))
        live = args.terminal or args.human or not self.viewers
        if live and not args.terminal:
            self.window = window.Window(title)
            self.viewers.append(self.window)
        elif live:
            self.viewers.append(video.Terminal())
        self._clock = video.Clock(fps * args.speed if live else 0)
        self._bar = tqdm(unit=" frames", desc="writing", disable=live or None)  # on a terminal only

    def show(self, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 RGB."""
        self.frames += 1
        large = video.even_size(video.enlarge(picture, self.scale))
        if self.thought is not None and self.thought is not self._panel[0]:
            self._panel = (self.thought, video.draw_panel(*self.thought, picture.shape[0], self.scale))
        beside = large if self.thought is None else np.hstack([large, self._panel[1][: len(large)]])
        for viewer in self.viewers:
            viewer.show(large if isinstance(viewer, video.Terminal) else beside, self.caption)
        self._bar.update()
        self._clock.wait()

    def close(self) -> None:
        """Finish files and give the terminal back."""
        self._bar.close()
        for viewer in self.viewers:
            viewer.close()


# A policy, or random actions ------------------------------------------------------------------------------------------


def by_steps(args: argparse.Namespace) -> None:
    """Play episodes decision by decision."""
    names = ("env", "actions", "env_kwargs", "wrapper", *DISTURBANCE)
    wanted = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    policy: Policy | PolicySet | None = None
    newest = Follower(args) if args.follow else None
    if newest is not None:
        policy = newest()
        env_id, options = environment(policy, **wanted)
    elif args.policy is not None:
        folder, game = find_players(args.policy, args.checkpoint)
        args.env = wanted.setdefault("env", game) if game else args.env
        policy = load_players(folder, args.network, args.env)
        env_id, options = environment(policy, **wanted)
    else:
        env_id = wanted.pop("env", DEFAULT_ENV)
        options = wanted
    env = envs.make_visible(env_id, args.seed, **options)
    try:
        if policy is not None:
            policy.meet(env)
        if args.overlay and not hasattr(env.single_action_space, "n"):
            raise ValueError(f"overlay: shows how probable each action is, not {env.single_action_space}")
        show = Screen(args, f"{env_id}: {args.policy or 'random actions'}", env.metadata["render_fps"])
        if newest is not None and policy is not None:
            show.steps = policy.info.get("steps")
        try:
            for record in episodes(env, policy, args, show, newest):
                report(record, show)
        except (window.Closed, KeyboardInterrupt):
            pass
        finally:
            show.close()
    finally:
        env.close()
    for path in filter(None, (args.video, args.gif)):
        print(f"{path}: {show.frames} frames")


class Follower:
    """Reads the newest policy of a run that is still training."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Raises ValueError if there is no such run."""
        self._run, self._network = Path(args.policy), args.network
        self._folder = self._run / "policy" / ("best" if args.checkpoint == "best" else "last")
        self._policy: Policy | None = None
        self._read = 0
        if not (self._run / "config.json").is_file():
            raise ValueError(f"follow: {self._run} is no run folder; a training makes it when it begins")

    def __call__(self) -> Policy:
        """Return the policy as it is now; waits until there is one."""
        attempts = 0
        while True:
            try:
                written = (self._folder / "policy.json").stat().st_mtime_ns
                if self._policy is None or written != self._read:
                    self._policy, self._read = load_policy(self._folder, self._network), written
                return self._policy
            except (BadPolicy, OSError) as error:  # none yet, or it is being replaced just now
                if self._policy is not None:
                    return self._policy
                if isinstance(error, BadPolicy) and attempts >= 3:
                    raise
                if not attempts:
                    print(f"{self._folder}: waiting for the first one, which comes with a checkpoint (--save-every)")
                attempts += 1
                time.sleep(1.0)


def episodes(
    env: Any,
    policy: Policy | PolicySet | None,
    args: argparse.Namespace,
    show: Screen,
    newest: Callable[[], Policy] | None = None,
) -> Any:
    """Play `args.episodes` episodes and yield the record of each. Draws the numbers that scripts.evaluate draws.

    Args:
        env, policy, args, show: the environment, the policy, what is asked for, and where it is shown.
        newest: returns the policy of the next episode.
    """
    space, left = env.single_action_space, args.episodes
    labels = ["+".join(b) or "NOOP" for b in env.spec_dict.get("buttons", [])]
    labels = labels or [f"action {i}" for i in range(int(getattr(space, "n", 0)))]

    def act(obs: np.ndarray, uniform: np.ndarray, state: torch.Tensor) -> np.ndarray:
        if policy is None:
            return random_action(space, uniform)
        look = policy.look(obs, state) if args.overlay or args.terminal else None
        chosen = policy.act(obs, None if args.deterministic else uniform, state)
        if look is not None:
            describe(show, look, chosen[0], labels, args.overlay)
        return chosen

    state = policy.start(1) if policy is not None else torch.zeros(1, 0)
    for ended in film.play(env, act, state, args.seed, show.show):
        yield from ended
        if newest is not None and ended:
            policy = newest()
            show.steps = policy.info.get("steps")
        left -= len(ended)
        if left <= 0:
            return


def random_action(space: Any, uniform: np.ndarray) -> np.ndarray:
    """Return an action in a space of the agent's, each as probable as any other, from uniform numbers (1, U)."""
    if hasattr(space, "n"):
        return (uniform[:, 0] * space.n).astype(np.int64)
    if hasattr(space, "nvec"):
        return (uniform * space.nvec).astype(np.int64)
    return 2 * uniform - 1


def describe(
    show: Screen, look: tuple[np.ndarray, np.ndarray | None], act: Any, labels: list[str], overlay: bool
) -> None:
    """Say what the policy thinks of the observation (`Policy.look`), in the caption and, if wanted, in the panel."""
    shown, value = look
    worth = None if value is None else float(value[0])
    show.caption = f"{labels[act]} {100 * shown[0, act]:.0f}%" if labels else np.array2string(act, precision=2)
    show.caption += "" if show.steps is None else f"  after {show.steps:,} steps"
    show.caption += "" if worth is None else f"  value {worth:.2f}"
    if overlay:
        show.thought = (labels, shown[0].tolist(), int(act), worth)


def report(record: dict[str, Any], show: Screen) -> None:
    """Print how an episode ended, unless the terminal shows pictures."""
    if any(isinstance(viewer, video.Terminal) for viewer in show.viewers):
        return
    line = "" if show.steps is None else f"after {show.steps:,} steps: "
    line += f"episode {record['episode']}: return {record['ep_ret']:.0f}, {record['ep_len']} steps"
    if "cause" in record:
        line += f", furthest x {record['x_max']}, ended by {record['cause']}"
    print(line)


# Ways that were found before ------------------------------------------------------------------------------------------


def by_demonstrations(args: argparse.Namespace) -> None:
    """Play every demonstration of a folder, stage after stage."""
    ways = demonstrations.read_all(args.demonstrations)
    emulator = args.emulator or "native"
    show = Screen(args, str(args.demonstrations), FPS)
    count = itertools.count()

    def watch(console: Any) -> None:
        if next(count) % args.every == 0:
            show.show(rgb(console.screen))

    try:
        for way in ways:
            console = build_console(way.env, emulator)
            demonstrations.replay(way, console, watch)
            console.close()
            if not any(isinstance(viewer, video.Terminal) for viewer in show.viewers):
                print(f"{way.env}: flag after {len(way.buttons)} decisions, {way.frames} frames")
    except (window.Closed, KeyboardInterrupt):
        pass
    finally:
        show.close()
    for path in filter(None, (args.video, args.gif)):
        print(f"{path}: {show.frames} frames")


# A person, or the recording of one ------------------------------------------------------------------------------------


def by_frames(args: argparse.Namespace) -> None:
    """Play frame by frame: buttons come from the keyboard, or from a recording."""
    saved = read_recording(args.replay) if args.replay else None
    env_id = saved["env"] if saved else args.env or DEFAULT_ENV
    emulator = args.emulator or (saved["emulator"] if saved else "native")
    console = build_console(env_id, emulator)
    if args.record:
        command.check_writable("record", args.record)
    show = Screen(args, f"{env_id}: {KEY_HELP if args.human else args.replay}", FPS)
    pressed: list[bytearray] = []
    checks: list[int] = []
    try:
        for number in range(len(saved["episodes"]) if saved else args.episodes):
            pressed.append(bytearray())
            given = iter(saved["episodes"][number]) if saved else None
            play_console(console, lambda: held(show) if given is None else next(given, None), pressed[-1], show)  # noqa: B023
            checks.append(zlib.crc32(console.ram.tobytes()))
            if saved and checks[-1] != saved["checks"][number]:
                raise ValueError(
                    f"replay: {args.replay}: episode {number} ended in another state than the recorded one"
                )
    except (window.Closed, KeyboardInterrupt):
        checks.append(zlib.crc32(console.ram.tobytes()))
    finally:
        show.close()
    if args.record:
        facts = {
            "format": RECORDING,
            "env": env_id,
            "emulator": emulator,
            "checks": checks,
            "episodes": [episode.hex() for episode in pressed],
        }
        args.record.write_text(json.dumps(facts, indent=1) + "\n")
        print(f"{args.record}: {sum(map(len, pressed))} frames")
    console.close()


def build_console(env_id: str, emulator: str) -> Any:
    """Return a console with the game in it. Raises ValueError for what is not one game of Mario."""
    if envs.find_family(env_id).name != "mario":
        raise ValueError(f"env: {env_id} cannot be played with a keyboard, Mario can")
    envs.check_options(env_id, emulator=emulator)
    game = stages.parse(env_id)
    if game is None or game.random:
        raise ValueError(f"env: {env_id} draws its stages, expected one stage or the whole game")
    return Consoles(emulator, game).take(game.target)


def play_console(console: Any, buttons: Callable[[], int | None], pressed: bytearray, show: Screen) -> None:
    """Play one episode; `buttons` gives the controller byte of a frame, None at the end of a recording."""
    console.reset()
    ret, done = 0.0, False
    if show.window is not None:
        show.show(rgb(console.screen))
    while not done:
        byte = buttons()
        if byte is None:
            break
        reward, done = console.step(byte)
        pressed.append(byte)
        ret += reward
        show.show(rgb(console.screen))
    if show.window is not None or not any(isinstance(viewer, video.Terminal) for viewer in show.viewers):
        print(f"return {ret:.0f}, {len(pressed)} frames")


def held(show: Screen) -> int:
    """Return the controller byte of the keys that are down; opposite directions cancel, as on a real pad."""
    assert show.window is not None
    names = set(show.window.held(KEYS))
    for pair in ({"left", "right"}, {"up", "down"}):
        if pair <= names:
            names -= pair
    return button_byte(sorted(names))


def read_recording(path: Path) -> dict[str, Any]:
    """Return what --record wrote, its episodes as bytes. Raises ValueError for anything else."""
    saved = read_json(path)
    try:
        texts, checks = saved["episodes"], saved["checks"]
        if saved["format"] != RECORDING or len(texts) != len(checks) or ":" in saved["env"]:
            raise ValueError("wrong format")
        return {
            "env": str(saved["env"]),
            "emulator": str(saved["emulator"]),
            "checks": checks,
            "episodes": [bytes.fromhex(text) for text in texts],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise BadPolicy(f"replay: {path} is not a recording of this program ({error!r})") from None


if __name__ == "__main__":
    sys.exit(main())
