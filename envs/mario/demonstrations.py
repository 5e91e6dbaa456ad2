"""Demonstrations: a way through one stage as the buttons of every decision, which any back end plays again exactly.

The file is JSON, about 2 KiB a stage:

    format      1
    env         id of the stage
    rom_sha256  of the ROM file, in hexadecimal digits
    skip        frames for which a decision's buttons are held (the last decision ends with the episode)
    start       controller bytes of the frames before the first decision, one each, in hexadecimal digits; often none
    buttons     controller bytes of the decisions, one each, in hexadecimal digits; see `envs.mario.actions.BUTTONS`
    frames      that the decisions take until the episode ends with the flag; those that the environment skips by
                itself (in pipes, between areas) do not count
    ram_crc32   of the console's 2048 bytes of memory, as it decided that the episode is over
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import envs
from envs.mario import rules, stages
from envs.mario.actions import BUTTONS
from utils.files import write_atomically
from utils.folder import read_json

if TYPE_CHECKING:
    from envs.mario.backends import Backend
    from envs.mario.explore import Exploration

FORMAT = 1
SHIPPED = Path(__file__).parents[2] / "data" / "demonstrations"


@dataclass(frozen=True)
class Demonstration:
    """A way through a stage; the module's docstring says what each field is."""

    env: str
    rom_sha256: str
    skip: int
    start: bytes
    buttons: bytes
    frames: int
    ram_crc32: int

    @property
    def game(self) -> stages.Game:
        """What the id names."""
        game = stages.parse(self.env)
        assert game is not None
        return game


class Moment(NamedTuple):
    """The moment before one decision of a demonstration, or where a place was found."""

    state: bytes  # for the option `start_states` and for reset(options={"state": ...})
    decision: int  # number of decisions played before it
    x: int  # Mario's, in pixels from the start of the area


def file_name(env_id: str) -> str:
    """Return the name of a stage's file in a folder of demonstrations."""
    return f"{env_id}.json"


def write(path: Path, demonstration: Demonstration) -> None:
    """Write a demonstration; the file appears when it is complete."""
    facts = asdict(demonstration)
    facts["start"], facts["buttons"] = demonstration.start.hex(), demonstration.buttons.hex()
    write_atomically(path, (json.dumps({"format": FORMAT, **facts}, indent=1) + "\n").encode())


def read(path: str | Path) -> Demonstration:
    """Return the demonstration in a file.

    Raises:
        ValueError: the file cannot be read, is no demonstration, or is one for another ROM than the installed one.
    """
    try:
        facts = read_json(Path(path))
        if facts.pop("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        start, buttons = bytes.fromhex(facts.pop("start")), bytes.fromhex(facts.pop("buttons"))
        found = Demonstration(start=start, buttons=buttons, **facts)
        game = stages.parse(found.env)
        numbers = (found.skip, found.frames, found.ram_crc32)
        if game is None or game.target is None or not buttons or not all(type(n) is int for n in numbers):
            raise ValueError("not the way through one stage")
        if not 1 <= found.skip <= 60:
            raise ValueError(f"skip {found.skip}, expected 1..60")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"demonstration: {path} cannot be read ({error})") from None
    if found.rom_sha256 != rom_sha256(game):
        raise ValueError(f"demonstration: {path} is for another ROM than the installed one")
    return found


def read_all(folder: str | Path = SHIPPED) -> list[Demonstration]:
    """Return the demonstrations in a folder, in the order of the stages.

    Raises:
        ValueError: there are none, or one of them cannot be read.
    """
    names = [file_name(env_id) for env_id in stages.ids()]
    found = [read(path) for path in (Path(folder) / name for name in names) if path.is_file()]
    if not found:
        raise ValueError(f"demonstrations: no file such as {names[2]} in {folder}")
    return found


def rom_sha256(game: stages.Game) -> str:
    """Return the SHA-256 of a game's ROM file."""
    return hashlib.sha256(stages.rom_path(game).read_bytes()).hexdigest()


# Playing ------------------------------------------------------------------------------------------------------------


def replay(demonstration: Demonstration, console: Backend, watch: Callable[[Backend], None] | None = None) -> None:
    """Play a demonstration on a console, whatever its back end, from the start of the stage to the flag.

    Args:
        demonstration: the way.
        console: one that is at the demonstration's stage (`Consoles.take`).
        watch: called with the console after every frame.

    Raises:
        ValueError: the episode does not end with the flag in the last decision, or in another memory.
    """
    frames = _play(demonstration, console, watch)
    if frames != demonstration.frames or zlib.crc32(console.judged) != demonstration.ram_crc32:
        raise ValueError(f"demonstration: {demonstration.env} did not end as it should, after {frames} frames")


def _play(demonstration: Demonstration, console: Backend, watch: Callable[[Backend], None] | None) -> int:
    """Play; return after how many frames of the decisions the flag was reached, 0 if the episode ended otherwise."""
    console.reset()
    frames = 0
    held = [(byte, 1) for byte in demonstration.start] + [(byte, demonstration.skip) for byte in demonstration.buttons]
    for byte, count in held:
        for _ in range(count):
            _, done = console.step(byte)
            frames += 1
            if watch is not None:
                watch(console)
            if done:
                played = frames - len(demonstration.start)
                last = played > demonstration.skip * (len(demonstration.buttons) - 1)
                return played if last and rules.decode(console.judged).flag_get else 0
    return 0


def of_exploration(env_id: str, found: Exploration, skip: int = 4) -> Demonstration:
    """Return the way that an exploration found, after playing it once more.

    Raises:
        ValueError: it found none.
    """
    if not found.buttons:
        raise ValueError(f"exploration: no way to the flag of {env_id} in {found.steps} decisions")
    return of_buttons(env_id, found.start, found.buttons, skip)


def of_buttons(env_id: str, start: bytes, buttons: bytes, skip: int = 4) -> Demonstration:
    """Return a way that was played, after playing it once more.

    Args:
        env_id: one stage.
        start: controller bytes of the frames before the first decision.
        buttons: controller byte of each decision.
        skip: frames of a decision.

    Raises:
        RuntimeError: it does not lead to the flag.
    """
    from envs.mario.native_game import NativeBackend

    draft = Demonstration(env_id, "", skip, start, buttons, 0, 0)
    console = NativeBackend(draft.game, draft.game.target)
    frames = _play(draft, console, None)
    if not frames:
        raise RuntimeError(f"demonstration: the way through {env_id} does not lead to the flag again")
    return replace(draft, rom_sha256=rom_sha256(draft.game), frames=frames, ram_crc32=zlib.crc32(console.judged))


# Where training starts ----------------------------------------------------------------------------------------------


def moments(demonstration: Demonstration, every: int = 1, **options: Any) -> list[Moment]:
    """Return states at every `every`-th decision of a demonstration, its first one included, to start episodes from.

    Args:
        demonstration: the way.
        every: decisions from one state to the next, at least 1.
        options: of `envs.make_vec`; what matters are "stack" and "crop_hud", those of the states' frame stacks.
    """
    player = _Player(demonstration.env, demonstration.skip, demonstration.buttons, options)
    player.begin(demonstration.start)
    found = []
    for decision, byte in enumerate(demonstration.buttons):
        if decision % every == 0:
            found.append(player.moment(decision))
        player.play(byte)
    return found


def place_moments(env_id: str, found: Exploration, skip: int = 4, **options: Any) -> list[Moment]:
    """Return the states of all places that an exploration found, to start episodes from; options as `moments`."""
    player = _Player(env_id, skip, b"".join(place.way() for place in found.places), options)
    player.begin(found.start)
    reached = {found.places[0]: player.moment(0)}
    for goal in found.places:
        chain = [goal]  # back to a place whose state is there; a place may descend from one that was replaced later
        while chain[-1] not in reached:
            chain.append(chain[-1].origin or found.places[0])
        for origin, place in itertools.pairwise(reversed(chain)):
            player.back_to(reached[origin])
            for byte in place.buttons:
                player.play(byte)
            reached[place] = player.moment(place.depth)
    return [reached[place] for place in found.places]


class _Player:
    """One native environment that is played by controller bytes and gives its states away."""

    def __init__(self, env_id: str, skip: int, used: bytes, options: dict[str, Any]) -> None:
        """Args: used: all controller bytes that will be played."""
        buttons = sorted(set(used)) or [0]
        combinations = [[name for name, bit in BUTTONS.items() if bit & byte] for byte in buttons]
        fixed = {"actions": combinations, "skip": skip, "emulator": "native", "ram_info": ["player_page", "player_x"]}
        self.env = envs.make_vec(env_id, 1, 0, **{**options, **fixed})
        self.numbers = {byte: np.array([number]) for number, byte in enumerate(buttons)}
        self.infos: dict[str, Any] = {}

    def begin(self, start: bytes) -> None:
        """Begin the stage, after these frames."""
        self.infos = self.env.reset(options={"start": start})[1]

    def play(self, byte: int) -> None:
        """Play one decision."""
        self.infos = self.env.step(self.numbers[byte])[4]

    def moment(self, decision: int) -> Moment:
        """Return the moment that has come."""
        x = 256 * int(self.infos["player_page"][0]) + int(self.infos["player_x"][0])
        return Moment(self.env.get_state()[0], decision, x)

    def back_to(self, moment: Moment) -> None:
        """Go back to a moment of this player's."""
        self.env.set_state([moment.state])
