"""The long proof that the native core is nes-py: `python -m tests.identity --frames 1000000 --out FILE`.

Both play the same buttons, and after every frame all 2048 bytes of RAM, all 240 x 256 pixels, the reward, the end of
the episode and the info of gym-super-mario-bros are compared. Covered: all 32 stages, the whole games, the four ROM
variants, the Lost Levels (16 stages and the game); each with any of the 256 button bytes, with a player who runs to
the right, and with one who looks ahead and so gets far. Besides, all six ROMs without the environment's help: any
buttons, resets and restored states at any moment.

nes-py takes most of the time, so what it showed can be kept as digests (--record) and compared with a later core
(--against).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

import envs
from envs.mario import rules, stages
from envs.mario.actions import button_byte
from envs.mario.emulator import Emulator
from envs.mario.native_game import NativeBackend
from utils import system

KINDS = ("any", "right", "skilled")
_WEIGHTS = np.random.default_rng(0).integers(1, 2**63, 30720 + 256, dtype=np.uint64) | np.uint64(1)


def digest(ram: np.ndarray, screen: np.ndarray, rest: tuple[Any, ...]) -> int:
    """Return 64 bits of the memory, the picture (240, 256, 4) and what else is compared."""
    words = np.concatenate([np.ascontiguousarray(screen).reshape(-1).view(np.uint64), ram.view(np.uint64)])
    return (int((words * _WEIGHTS).sum()) + hash(rest)) % 2**64


class Reference:
    """nes-py and gym-super-mario-bros at a stage, with the info of the last frame."""

    def __init__(self, game: stages.Game, target: tuple[int, int] | None) -> None:
        from envs.mario.nespy import NesPyBackend

        self.backend = NesPyBackend(game, target)
        base = type(self.backend._env)
        package = base.__mro__[1]

        class Recording(base):  # type: ignore[misc, valid-type]
            def _get_info(self) -> dict[str, Any]:
                super()._get_info()
                self.told = package._get_info(self)
                return {}

        self.backend._env.__class__ = Recording

    def play(self, byte: int) -> tuple[int, bool]:
        """Play a frame; return its digest and whether the episode is over."""
        reward, done = self.backend.step(byte)
        info = self.backend._env.told
        told = tuple(int(info[name]) if name != "status" else len(info[name]) for name in sorted(info))
        return digest(self.backend.ram, self.backend.screen, (reward, done, *told)), done


class Core:
    """The native core at a stage; the same members."""

    def __init__(self, game: stages.Game, target: tuple[int, int] | None) -> None:
        self.backend = NativeBackend(game, target)

    def play(self, byte: int) -> tuple[int, bool]:
        reward, done = self.backend.step(byte)
        info = rules.decode(self.backend.judged)._asdict()
        names = ("coins", "flag_get", "life", "score", "stage", "status", "time", "world", "x_pos", "y_pos")
        told = tuple(int(info[name]) if name != "status" else len(info[name]) for name in names)
        return digest(self.backend.ram, self.backend.screen, (reward, done, *told)), done


def any_buttons(rng: np.random.Generator, frames: int) -> Iterator[int]:
    """Yield any of the 256 bytes, each held for 1 to 20 frames, seldom with start (it pauses the game)."""
    left, byte = 0, 0
    for _ in range(frames):
        if left == 0:
            left, byte = int(rng.integers(1, 21)), int(rng.integers(256))
            if rng.random() < 0.8:
                byte &= ~8
        left -= 1
        yield byte


def run_right(rng: np.random.Generator, frames: int) -> Iterator[int]:
    """Yield right and B, with jumps of any length and now and then something else."""
    left, byte = 0, 130
    for _ in range(frames):
        if left == 0:
            left, draw = int(rng.integers(4, 30)), rng.random()
            byte = 131 if draw < 0.5 else 130 if draw < 0.85 else int(rng.integers(256)) & ~8
        left -= 1
        yield byte


def look_ahead(env_id: str, rng: np.random.Generator, frames: int) -> Iterator[int]:
    """Yield the buttons of a player who tries 16 ways to go on from a snapshot and takes the start of the best one."""
    actions = [["right", "B"], ["right", "A", "B"], ["right"], ["right", "A"], ["NOOP"], ["left"], ["down"], ["A"]]
    chances = np.array([0.33, 0.33, 0.08, 0.08, 0.05, 0.05, 0.03, 0.05])
    vec = envs.make_vec(env_id, 16, 0, actions=actions, emulator="native")
    vec.reset(seed=int(rng.integers(2**31)))
    path: list[tuple[bytes, list[int]]] = []
    state, horizon, tries = vec.get_state()[0], 24, 0
    while sum(len(part) for _, part in path) * 4 < frames and tries < 60:
        vec.reset(options={"state": state})
        plans = np.repeat(rng.choice(len(actions), (horizon // 4, 16), p=chances), 4, 0)
        alive, cleared, x = np.ones(16, bool), np.zeros(16, bool), np.zeros(16)
        saved: list[bytes] = []
        for k in range(horizon):
            _, _, terminated, truncated, infos = vec.step(plans[k])
            for row in infos["episodes"]:
                cleared[row["env"]] |= alive[row["env"]] and row["flag"]
            alive &= ~(terminated | truncated)
            if k == horizon // 2 - 1:
                saved = vec.get_state()
            x = np.where(alive, vec._reports["x_max"], x)
        score = x + 1e4 * cleared - 1e6 * ~(alive | cleared)
        best = int(score.argmax())
        tries += 1
        if cleared[best]:
            path.append((state, plans[:, best].tolist()))
            break
        if not alive[best]:  # a dead end: two parts back
            state = path[-2][0] if len(path) > 1 else state
            del path[-2:]
            continue
        path.append((state, plans[: horizon // 2, best].tolist()))
        state = saved[best]
    vec.close()
    for _, part in path:
        for action in part:
            yield from [button_byte(actions[action])] * 4


class Task(NamedTuple):
    """One environment and a kind of player; the kind "raw" plays the ROM without the environment."""

    env_id: str
    kind: str
    frames: int


def tasks(frames: int) -> list[Task]:
    """Return what to play so that the frames add up to at least `frames`."""
    ids = [f"SuperMarioBros-{w}-{s}-v0" for w, s in stages.STAGES]
    ids += [
        f"SuperMarioBros-{w}-{s}-v{v}" for v in (1, 2, 3) for w, s in ((1, 1), (1, 2), (2, 2), (4, 4), (7, 3), (8, 4))
    ]
    ids += [f"SuperMarioBros2-{w}-{s}-v0" for w, s in stages.LOST_STAGES]
    ids += [f"SuperMarioBros2-{w}-{s}-v1" for w, s in ((1, 1), (2, 1), (3, 2), (4, 4))]
    ids += [f"SuperMarioBros-v{v}" for v in range(4)] + ["SuperMarioBros2-v0", "SuperMarioBros2-v1"]
    rows = [(env_id, kind) for env_id in ids for kind in KINDS]
    rows += [(f"SuperMarioBros{lost}-v{v}", "raw") for lost, count in (("", 4), ("2", 2)) for v in range(count)] * 4
    return [Task(*row, -(-frames // len(rows))) for row in rows]


def play_task(task: Task, seed: int, reference: bool, core: bool) -> Iterator[tuple[int | None, int | None]]:
    """Yield the digests of each frame of nes-py (None unless asked for) and of the core (likewise)."""
    if task.kind == "raw":
        yield from play_raw(task, seed, reference, core)
        return
    game = stages.parse(task.env_id)
    assert game is not None
    players = [kind(game, game.target) if wanted else None for kind, wanted in ((Reference, reference), (Core, core))]
    played, episode = 0, 0
    while played < task.frames:
        rng = np.random.default_rng([seed, episode])
        limit = min(task.frames - played, 6000)
        for player in players:
            if player:
                player.backend.reset()
        for byte in choose(task, rng, limit):
            results = [player.play(byte) if player else None for player in players]
            yield results[0][0] if results[0] else None, results[1][0] if results[1] else None
            played += 1
            if next(result for result in results if result)[1]:
                break
        episode += 1
    for player in players:
        if player:
            player.backend.close()


def choose(task: Task, rng: np.random.Generator, frames: int) -> Iterator[int]:
    """Yield the buttons of an episode; one who looks ahead runs on to the right where he sees no way."""
    if task.kind == "any":
        yield from any_buttons(rng, frames)
        return
    planned = 0
    if task.kind == "skilled":
        for byte in look_ahead(task.env_id, rng, min(frames, 3000)):
            planned += 1
            yield byte
    yield from run_right(rng, frames - planned)


def play_raw(task: Task, seed: int, reference: bool, core: bool) -> Iterator[tuple[int | None, int | None]]:
    """Play a ROM from its title screen, with resets and backups at any moment."""
    game = stages.parse(task.env_id)
    assert game is not None
    path = str(stages.rom_path(game))
    rng = np.random.default_rng(seed)
    emulator = Emulator(path) if core else None
    nespy = RawNesPy(path) if reference else None
    kept: bytes | None = None
    screen = np.zeros((240, 256, 4), np.uint8)
    for frame, byte in enumerate(any_buttons(rng, task.frames)):
        draw = rng.random()
        if frame in (20, 60):
            byte = 8
        elif frame < 100:
            byte = 0
        if frame == 0 or draw < 0.0005:
            if emulator:
                emulator.reset()
            if nespy:
                nespy.reset()
        elif draw < 0.002 or (draw < 0.004 and kept is None):
            kept = emulator.save() if emulator else b"x"
            if nespy:
                nespy.backup()
        elif draw < 0.004:
            if emulator and kept:
                emulator.load(kept, controllers=False)
            if nespy:
                nespy.restore()
        shown, wanted = None, None
        if nespy:
            nespy.step(byte)
            wanted = digest(nespy.ram, nespy.screen, ())
        if emulator:
            emulator.step(byte)
            screen[:, :, 2::-1] = emulator.screen
            shown = digest(emulator.ram, screen, ())
        yield wanted, shown


class RawNesPy:
    """nes-py's emulator without an environment."""

    def __init__(self, path: str) -> None:
        from envs.mario import nespy

        nespy.versions()
        nespy._import_quietly()
        from nes_py import NESEnv

        self._env = NESEnv(path)
        self.ram = self._env.ram
        base = self._env.screen.base
        while base.base is not None and isinstance(base.base, np.ndarray):
            base = base.base
        self.screen = base.reshape(240, 256, 4)

    def __getattr__(self, name: str) -> Any:
        import nes_py.nes_env

        if name not in ("reset", "backup", "restore"):
            raise AttributeError(name)
        function = getattr(nes_py.nes_env._LIB, name.capitalize())
        return lambda: function(self._env._env)

    def step(self, byte: int) -> None:
        self._env._frame_advance(byte)

    def close(self) -> None:
        """Free the console; its arrays must not be used any more."""
        self._env.close()


def _trace(task: Task, seed: int, nespy: bool) -> list[tuple[int | None, int | None]]:
    return list(play_task(task, seed, nespy, True))


def main() -> int:
    """Play, compare, and write the result as JSON; the exit code says whether all frames were equal."""
    parser = argparse.ArgumentParser(prog="tests.identity", description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path, help="keep the digests of nes-py's frames here")
    parser.add_argument("--against", type=Path, help="compare with kept digests instead of a running nes-py")
    parser.add_argument("--jobs", type=int, default=system.cores(), help="processes; default: one per core")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    kept: list[np.ndarray] = []
    recorded = np.load(arguments.against) if arguments.against else None
    start = time.time()
    todo = list(enumerate(tasks(arguments.frames)))
    played = joblib.Parallel(n_jobs=arguments.jobs, return_as="generator")(
        joblib.delayed(_trace)(task, number, recorded is None) for number, task in todo
    )
    for (number, task), trace in zip(todo, played, strict=True):
        wanted = [one for one, _ in trace] if recorded is None else recorded[f"arr_{number}"].tolist()
        if len(wanted) != len(trace):
            raise ValueError(f"against: {len(wanted)} frames kept of run {number}, expected {len(trace)}")
        different = [frame for frame, (one, (_, shown)) in enumerate(zip(wanted, trace, strict=True)) if one != shown]
        kept.append(np.array(wanted, np.uint64))
        rows.append({"env": task.env_id, "player": task.kind, "frames": len(trace), "different": len(different)})
        first = f", first at frame {different[0]}" if different else ""
        print(f"{number} {task.env_id} {task.kind}: {len(trace)} frames, {len(different)} different{first}", flush=True)
    frames, different_frames = (sum(row[name] for row in rows) for name in ("frames", "different"))
    result = {"frames": frames, "different": different_frames, "seconds": round(time.time() - start), "runs": rows}
    if arguments.record:
        np.savez(arguments.record, *kept)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{frames} frames, {different_frames} different, {result['seconds']} s")
    return int(different_frames > 0)


if __name__ == "__main__":
    raise SystemExit(main())
