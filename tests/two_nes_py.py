"""nes-py 8.2.1 and nes-py 9.0.1 frame by frame: `python -m tests.two_nes_py --record FILE`, then `--against FILE`.

No Python can have both (8.2.1 ends at 3.12, 9.0.1 begins at 3.13), so the first command plays gym-super-mario-bros
7.4.0 over nes-py 8.2.1 and keeps, in order, all that the environment did to the console: every frame with its buttons,
every byte that it wrote into the memory (to choose a stage, to cut waits short), every reset, backup and restore; and
after each frame a checksum of all 2,048 bytes of RAM and one of all 240 x 256 pixels. The second command, under Python
3.13, does the same to nes-py 9.0.1's console and compares the checksums.

Played are the shipped demonstrations, which lead to the flag; any buttons and runs to the right, in some stages, some
of the Lost Levels and in the whole games; the two ROMs without an environment, reset at any moment.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from importlib import metadata
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from envs.mario import demonstrations, stages
from tests.identity import any_buttons, run_right
from utils import system

FRAME, WRITE, RESET, BACKUP, RESTORE = range(5)  # rows (kind, address or buttons, value)
STAGES = (*("1-1", "1-2", "2-2", "4-2", "7-3", "8-3", "8-4"),)
LOST = (*("1-1", "2-1", "3-2", "4-4"),)


def checksums(ram: np.ndarray, screen: np.ndarray) -> tuple[int, int]:
    """Return CRC-32 of the memory and of the picture (240, 256, 3) in red, green, blue."""
    return zlib.crc32(ram.tobytes()), zlib.crc32(np.ascontiguousarray(screen))


class Memory(np.ndarray):
    """RAM that keeps what is written to it by index in the list `rows`."""

    rows: list[tuple[int, int, int]]

    def __setitem__(self, address: Any, value: Any) -> None:
        self.rows.append((WRITE, int(address), int(value)))
        super().__setitem__(address, value)


class Listener:
    """In the place of nes-py 8's library: what is done to the console goes on into it, and is kept."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.rows: list[tuple[int, int, int]] = []
        self.sums: list[tuple[int, int]] = []
        self.env: Any = None

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, name)
        kinds = {"Step": FRAME, "Reset": RESET, "Backup": BACKUP, "Restore": RESTORE}
        if name not in kinds:
            return function

        def listen(handle: Any) -> None:
            self.rows.append((kinds[name], int(self.env.controllers[0][0]) if name == "Step" else 0, 0))
            function(handle)
            if name == "Step":
                self.sums.append(checksums(self.env.ram, self.env.screen))

        return listen


def record(env_id: str, player: str, frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Play over nes-py 8.2.1.

    Returns:
        what was done, rows (E, 3), and the checksums after each of its frames (F, 2).
    """
    from envs.mario import nespy

    environment = nespy._environment_class()
    import nes_py
    import nes_py.nes_env

    library = nes_py.nes_env._LIB
    listener = nes_py.nes_env._LIB = Listener(library)

    def watched(base: Any) -> Any:
        class Watched(base):
            def _ram_buffer(self) -> Any:
                listener.env = self
                ram = super()._ram_buffer().view(Memory)
                ram.rows = listener.rows
                return ram

        return Watched

    game = stages.parse(env_id)
    assert game is not None
    rng = np.random.default_rng(seed)
    try:
        if player == "raw":
            env = watched(nes_py.NESEnv)(str(stages.rom_path(game)))
            env.reset()
            for frame, byte in enumerate(any_buttons(rng, frames)):
                env._frame_advance(8 if frame in (20, 60) else 0 if frame < 100 else byte)
                if rng.random() < 0.002:
                    (env.reset, env._backup, env._restore if env._has_backup else env._backup)[rng.integers(3)]()
        else:
            env = watched(environment)(rom_mode=game.rom_mode, lost_levels=game.lost, target=game.target)
            env.reset()
            for byte in buttons(env_id, player, frames, rng):
                if env.step(byte)[2]:
                    env.reset()
        env.close()
    finally:
        nes_py.nes_env._LIB = library
    return np.array(listener.rows, np.int16), np.array(listener.sums, np.uint32)


def buttons(env_id: str, player: str, frames: int, rng: np.random.Generator) -> list[int]:
    """Return the buttons of each frame."""
    if player == "demonstration":
        way = demonstrations.read(demonstrations.SHIPPED / demonstrations.file_name(env_id))
        return [*way.start, *(byte for byte in way.buttons for _ in range(way.skip))]
    return list({"any": any_buttons, "right": run_right}[player](rng, frames))


def replay(env_id: str, rows: np.ndarray, sums: np.ndarray) -> dict[str, Any]:
    """Do to nes-py 9's console what was recorded; return how many frames differ and the first one."""
    from nes_py import NESEnv

    game = stages.parse(env_id)
    assert game is not None
    env = NESEnv(str(stages.rom_path(game)))
    shown = []
    for kind, first, value in rows.tolist():
        if kind == FRAME:
            env._frame_advance(first)
            shown.append(checksums(env.ram, env.screen))
        elif kind == WRITE:
            env.ram[first] = value
        else:
            {RESET: env._env.reset, BACKUP: env._backup, RESTORE: env._restore}[kind]()
    env.close()
    different = np.array(shown, np.uint32) != sums
    first = [int(column.argmax()) if column.any() else None for column in different.T]
    return {
        "frames": len(sums),
        "different_ram": int(different[:, 0].sum()),
        "different_screen": int(different[:, 1].sum()),
        "first_different_ram": first[0],
        "first_different_screen": first[1],
    }


def tasks(every: int) -> list[tuple[str, str]]:
    """Return what is played, with the demonstrations of every `every`-th stage: (id, player)."""
    played = [f"SuperMarioBros-{stage}-v0" for stage in STAGES] + [f"SuperMarioBros2-{stage}-v0" for stage in LOST]
    played += ["SuperMarioBros-v0", "SuperMarioBros2-v0"]
    rows = [(f"SuperMarioBros-{world}-{stage}-v0", "demonstration") for world, stage in stages.STAGES[::every]]
    rows += [(env_id, player) for env_id in played for player in ("any", "right")]
    return [*rows, ("SuperMarioBros-v0", "raw"), ("SuperMarioBros2-v0", "raw")]


def main() -> int:
    """Record, or compare and write the result as JSON; the exit code says whether all frames were equal."""
    parser = argparse.ArgumentParser(prog="tests.two_nes_py", description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FILE.npz", help="play nes-py 8.2.1 and keep it here")
    what.add_argument("--against", type=Path, metavar="FILE.npz", help="compare nes-py 9 with what was kept")
    parser.add_argument("--frames", type=int, default=1000, help="of each player who is not a demonstration")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="the demonstrations of every N-th stage only")
    parser.add_argument("--jobs", type=int, default=system.cores(), help="processes; default: one per core")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    start = time.time()
    parallel = joblib.Parallel(n_jobs=arguments.jobs, return_as="generator")
    if arguments.record:
        kept: dict[str, np.ndarray] = {}
        todo = tasks(arguments.every)
        played = parallel(joblib.delayed(record)(*task, arguments.frames, number) for number, task in enumerate(todo))
        for (env_id, player), (rows, sums) in zip(todo, played, strict=True):
            kept[f"{env_id}/{player}/rows"], kept[f"{env_id}/{player}/sums"] = rows, sums
            print(f"{env_id} {player}: {len(sums)} frames", flush=True)
        np.savez_compressed(arguments.record, **kept)
        return 0
    recorded = np.load(arguments.against)
    runs = []
    names = [name.removesuffix("/rows") for name in recorded.files if name.endswith("/rows")]
    replayed = parallel(
        joblib.delayed(replay)(name.split("/")[0], recorded[f"{name}/rows"], recorded[f"{name}/sums"]) for name in names
    )
    for name, found in zip(names, replayed, strict=True):
        env_id, player = name.split("/")
        runs.append({"env": env_id, "player": player, **found})
        print(*runs[-1].values(), flush=True)
    total = {key: sum(run[key] for run in runs) for key in ("frames", "different_ram", "different_screen")}
    result = {
        "commands": [
            f"python3.11 -m tests.two_nes_py --record FILE --frames {arguments.frames} --every {arguments.every}",
            "python3.13 -m tests.two_nes_py --against FILE --out data/results/identity-nes-py-9.json",
        ],
        "recorded": "nes-py 8.2.1 under gym-super-mario-bros 7.4.0",
        "compared": f"nes-py {metadata.version('nes-py')}, Python {sys.version.split()[0]}, numpy {np.__version__}",
        **total,
        "seconds": round(time.time() - start),
        "runs": runs,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(*total.items())
    return int(total["different_ram"] + total["different_screen"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
