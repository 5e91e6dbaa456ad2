"""N Mario environments stepped by one call into native code.

Everything a decision needs happens there: frames, rewards, ends of episodes, observations. Only the random numbers
are drawn here, from the same streams as in `python_vector`, with which it agrees bit for bit. Unlike there, a state is
the console's own memory, not the buttons that led to it: it is restored at once and may start an episode.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs.family import MAX_STACK
from envs.mario import native, stages
from envs.mario.base import MAX_FRAMES, MarioVecBase, draw_start, draw_target
from envs.mario.columns import LEARNED_EPISODES
from envs.mario.curriculum import NEVER, Curriculum, position
from envs.mario.emulator import HEIGHT, RAM_SIZE, WIDTH, Cartridge
from envs.mario.native_game import target_numbers
from envs.mario.preprocess import HUD_ROWS
from envs.vector import check_arrays, check_count, check_number, pack, unpack
from utils.files import read_file, write_atomically
from utils.seeding import Purpose, generator

STATE_VERSION = 1
KIND = "mario:native"
REWARDS = ("env", "score", "score-rules", "score-loops")
FILE_MAGIC = b"MARIOST\x01"
FILE_BYTES = 1 << 30  # of a file of states

_REPORT = np.dtype(
    [("env_reward", "f8"), ("reward", "f8"), ("frames", "i8")]
    + [(name, "i4") for name in ("cause", "x_max", "score", "time", "coins", "world", "stage", "cleared")]
    + [(name, "i4") for name in ("cleared_world", "cleared_stage", "start_frames", "pressed")],
    align=True,
)


class Start(NamedTuple):
    """Where an episode begins: a stage (None: the whole game), or a moment saved in it."""

    target: tuple[int, int] | None
    console: bytes | None = None  # the saved moment
    stack: np.ndarray | None = None  # (S, 84, 84) uint8, what was seen up to it; None: its own picture S times


def write_states(path: str | Path, states: Sequence[bytes]) -> None:
    """Write states, as `get_state` returns them, to a file for the option `start_states`; it appears when complete.

    Raises:
        ValueError: none given, or one that the native vector did not write.
        OSError: disk full, ...; a file that was there is as before.
    """
    if not states:
        raise ValueError("states: none given, expected at least one")
    for state in states:
        unpack(KIND, STATE_VERSION, state)
    sizes = b"".join(len(state).to_bytes(8, "little") for state in states)
    write_atomically(Path(path), FILE_MAGIC + len(states).to_bytes(8, "little") + sizes + b"".join(states))


def read_states(path: str | Path, option: str = "start_states") -> list[bytes]:
    """Return the states of a file that `write_states` wrote; `option` is what an error names.

    Raises:
        ValueError: the file cannot be read, or is no such file, or is damaged.
    """
    try:
        data = read_file(Path(path).resolve(), FILE_BYTES)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{option}: cannot read {path!r} ({error})") from None
    start = len(FILE_MAGIC) + 8
    count = int.from_bytes(data[start - 8 : start], "little")
    if not data.startswith(FILE_MAGIC) or not 0 < count <= len(data) // 8:
        raise ValueError(f"{option}: {path} is not a file of states")
    sizes = np.frombuffer(data[start : start + 8 * count].ljust(8 * count, b"\0"), "<u8").tolist()
    bounds = list(itertools.accumulate([start + 8 * count, *sizes]))  # Python's numbers: no sum overflows
    if bounds[-1] != len(data):
        raise ValueError(f"{option}: {path} is damaged, {len(data)} bytes of {bounds[-1]}")
    states = [data[begin:end] for begin, end in zip(bounds[:-1], bounds[1:], strict=True)]
    with naming(option, path):
        for state in states:
            unpack(KIND, STATE_VERSION, state)
    return states


@contextlib.contextmanager
def naming(option: str, path: str | Path) -> Iterator[None]:
    """Put the option and its file before what is wrong with a state in it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {path}: {error}") from None


class NativeMarioVec(MarioVecBase):
    """N environments played in native code."""

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        super().__init__(env_id, num_envs, seed, first_index, options)
        shared = self._shared
        self._core = native.library()
        self._cartridge = Cartridge(stages.rom_path(shared.game))
        self._reports = np.zeros(num_envs, _REPORT)
        top = HUD_ROWS if options["crop_hud"] else 0
        threads = min(options["threads"], num_envs)
        reward = REWARDS.index(options["reward"])
        numbers = np.array([num_envs, shared.skip, options["stack"], top, reward, threads], np.int32)
        pictures = self._obs.ctypes.data if self._values is None else None  # without, nothing is drawn
        pointers = (numbers.ctypes.data, pictures, self._reports.ctypes.data)
        self._handle = native.Handle("vector", self._cartridge.address, *pointers)
        self._address = self._handle.address
        self._buttons = np.array(shared.buttons, np.uint8)
        self._pressed = np.zeros(num_envs, np.uint8)
        self._pressed_address = self._pressed.ctypes.data
        self._targets: list[tuple[int, int] | None] = [None] * num_envs
        self._sticky: list[np.random.Generator | None] = [None] * num_envs
        self._held = np.zeros((num_envs, shared.skip), np.uint8)
        self._start_buttons, self._before = [b""] * num_envs, np.zeros(num_envs, np.uint8)
        self._starts: dict[tuple[Any, ...], int] = {}  # stage and moment -> number in native code
        rams = [self._core.vector_ram(self._address, i) for i in range(num_envs)]
        self._rams = [self._handle.view(address, RAM_SIZE) for address in rams]
        self._pool = self._starts_of("start_states", self._read("start_states"))
        self._curriculum: Curriculum | None = None
        if options["start_curriculum"] is not None:
            self._read_curriculum()

    def _read(self, option: str) -> list[bytes]:
        """Return the states in the option's file, none where there is no file."""
        path = self.options[option]
        if path is None:
            return []
        states = read_states(path, option)
        self.spec_dict[f"{option}_sha256"] = hashlib.sha256(b"".join(states)).hexdigest()
        return states

    def _read_curriculum(self) -> None:
        """Arrange the states of the curriculum's file along their ways, by looking at each."""
        self._memory_views = [ram.data for ram in self._rams]
        moments = []
        states = self._read("start_curriculum")
        self._pool = self._starts_of("start_curriculum", states)
        for state, start in zip(states, self._pool, strict=True):
            decision = check_count(unpack(KIND, STATE_VERSION, state, self._most())[0], "ep_len")
            self._start(0, start, b"")
            moments.append((decision, position(self._memory_views[0])))
        self._curriculum = Curriculum(moments)
        self.learns = True
        self.episode_fields = (*self.episode_fields, *(column.name for column in LEARNED_EPISODES))
        self._places = [-1] * self.num_envs  # where each episode started, -1 for the stage's start
        self._begins, self._ends = [0.0] * self.num_envs, [0.0] * self.num_envs  # how far along the way it began, came
        self._goals = [NEVER] * self.num_envs  # how far along the way it is cut

    def _starts_of(self, option: str, states: list[bytes]) -> list[Start]:
        """Return the starts that the states of an option's file are. Raises ValueError, which names the file."""
        with naming(option, self.options[option]):
            return [self._start_of(state) for state in states]

    def _start_of(self, state: bytes) -> Start:
        """Return the start that a state is, with its frame stack if episodes here look like those it was saved in.

        The stack is left out where the state's environment had another length of the stack, crop or skip: then an
        episode from there begins with equal frames, as one from the stage's start does.

        Raises:
            ValueError: it is another ROM's or not a state.
        """
        header, arrays = unpack(KIND, STATE_VERSION, state, self._most())
        check_arrays(arrays, console=(np.uint8, (None,)), stack=(np.uint8, (None, None, None)))
        mine, its = self.spec_dict, header.get("identity")
        its = its if isinstance(its, dict) else {}
        if mine["rom_sha256"] != its.get("rom_sha256"):
            raise ValueError(
                f"state: made with the ROM {str(its.get('rom_sha256'))[:12]}, expected {mine['rom_sha256'][:12]}"
            )
        options = its.get("options")
        if self._values is None and isinstance(options, dict) and options.get("ram_obs") is not None:
            raise ValueError("state: made with --ram-obs, where no picture is drawn, expected one with pictures")
        alike = (
            isinstance(options, dict)
            and mine["preprocess_version"] == its.get("preprocess_version")
            and all(mine["options"][name] == options.get(name) for name in ("stack", "crop_hud", "skip"))
            and arrays["stack"].shape == self._obs.shape[1:]
        )
        target, stage = self._target_of(header), self._shared.game.target
        if stage is not None and target != stage:
            raise ValueError(f"state: one of stage {target}, expected {stage}")
        return Start(target, arrays["console"].tobytes(), arrays["stack"] if alike else None)

    def _most(self) -> int:
        """Return how many bytes a state's arrays can have: a console, a stack of pictures, and their npy headers."""
        return self._core.vector_snapshot_size() + MAX_STACK * self._obs[0, 0].nbytes + 1024

    def _target_of(self, header: dict[str, Any]) -> tuple[int, int] | None:
        """Return the stage of a state, None for the whole game. Raises ValueError if there is no such stage."""
        target = header.get("target")
        if target is None:
            return None
        if not isinstance(target, list) or len(target) != 2 or not all(type(n) is int and 0 < n < 14 for n in target):
            raise ValueError(f"state: target is {target!r:.50}, expected world and stage")
        return target[0], target[1]

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        if self._curriculum is not None:
            along = header.get("along")
            if not isinstance(along, dict):
                raise ValueError("state: it does not say where along the way it is")
            for name in ("begin", "end", "goal"):
                check_number(along, name)
            if type(along.get("place")) is not int or not -1 <= along["place"] < len(self._curriculum.members):
                raise ValueError(f"state: place is {along.get('place')!r:.50}, expected one of the way's")
            self._curriculum.check(header.get("curriculum"))
        size = self._core.vector_snapshot_size()
        check_arrays(arrays, console=(np.uint8, (size,)), stack=(np.uint8, self._obs.shape[1:]))
        self._target_of(header)
        report = header.get("report")
        if not isinstance(report, dict):
            raise ValueError("state: it has no report")
        for name in _REPORT.names or ():
            if _REPORT[name].kind == "f":
                check_number(report, name)
            elif type(report.get(name)) is not int or not -(2**31) <= report[name] < 2**31:
                raise ValueError(f"state: {name} is {report.get(name)!r:.50}, expected a whole number of 32 bits")
        check_count(report, "frames", MAX_FRAMES)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode everywhere; see `VecEnv.reset`.

        Options, for these episodes but not for those after them:
            state: bytes or a list of N bytes, from `get_state` of any environment with the same ROM: they begin there,
                with sums of 0, and see the frame stack that was saved (equal frames where stack, crop_hud or skip
                are others than here).
            start: controller bytes of the frames to play first, in place of drawn ones.
        """
        options = dict(kwargs.pop("options", None) or {})
        given, frames = options.pop("state", None), options.pop("start", None)
        states = given if isinstance(given, list) else [given] * self.num_envs if given is not None else []
        if states and len(states) != self.num_envs:
            raise ValueError(f"options: {len(states)} states, expected one or {self.num_envs}")
        starts = [self._start_of(state) for state in states]
        result = super().reset(**kwargs, options=options)
        if not starts and frames is None:
            return result
        for i in range(self.num_envs):
            self._start(i, starts[i] if starts else Start(self._targets[i]), frames or b"")
            if self._curriculum is not None:
                self._set_goal(i, self._curriculum, from_start=True)
        return self._observe(), {**result[1], **self._memory()}

    def _begin(self, i: int, episode: int) -> None:
        index, shared = self.first_index + i, self._shared
        draws = generator(self.seed, index, Purpose.START, episode)
        moment = self._curriculum.draw(draws) if self._curriculum is not None else None
        if moment is not None:
            self._start(i, self._pool[moment], b"")
        elif self._pool and self._curriculum is None and draws.random() < self.options["start_share"]:
            self._start(i, self._pool[draws.integers(len(self._pool))], b"")
        else:
            self._start(i, Start(draw_target(shared, self.seed, index, episode)), draw_start(shared, draws))
        if self._curriculum is not None:
            self._set_goal(i, self._curriculum, from_start=moment is None)
        self.episodes.begin(i, episode)
        self._sticky[i] = generator(self.seed, index, Purpose.STICKY, episode) if shared.sticky else None

    def _set_goal(self, i: int, curriculum: Curriculum, from_start: bool) -> None:
        """Note where along the way the episode that begins now is, and where it is cut."""
        far = curriculum.way.far(position(self._memory_views[i])) or 0.0
        self._begins[i] = self._ends[i] = far
        self._places[i] = -1 if from_start else curriculum.place(far)
        self._goals[i] = NEVER if from_start else curriculum.goal(self._places[i])

    def _reached(self) -> np.ndarray:
        if self._curriculum is None:
            return super()._reached()
        for i, ram in enumerate(self._memory_views):
            far = self._curriculum.way.far(position(ram))
            if far is not None and far > self._ends[i]:
                self._ends[i] = far
        return np.array(self._ends) >= self._goals

    def learn_from(self, records: list[dict[str, Any]]) -> None:
        """Choose the next starts by what the last ones led to; see `VecEnv.learn_from`."""
        if self._curriculum is not None:
            self._curriculum.learn(records)

    def learned(self) -> dict[str, float]:
        """Return the columns of the curriculum; see `VecEnv.learned`."""
        return self._curriculum.columns() if self._curriculum is not None else {}

    def _start(self, i: int, start: Start, buttons: bytes) -> None:
        """Put environment i at a start, and play frames with these controller bytes from there."""
        self._targets[i], self._start_buttons[i] = start.target, buttons
        key = start[:2]
        if key not in self._starts:
            numbers = target_numbers(self._shared.game, start.target)
            if start.console is None:
                self._starts[key] = native.checked("vector_add_stage", self._address, *numbers)
            else:
                saved = (start.console, len(start.console))
                self._starts[key] = native.checked("vector_add_state", self._address, *numbers, *saved)
        number = self._starts[key]
        native.checked("vector_begin", self._address, i, number, buttons, len(buttons), error=RuntimeError)
        if start.stack is not None and not buttons:
            self._obs[i] = start.stack

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        held = None
        if self._shared.sticky:
            for i, draws in enumerate(self._sticky):
                assert draws is not None
                self._held[i] = draws.random(self._shared.skip) < self._shared.sticky
            held = self._held.ctypes.data
        self._buttons.take(actions, out=self._pressed)
        self._before[:] = self._reports["pressed"]
        native.checked("vector_step", self._address, self._pressed_address, held, error=RuntimeError)
        reports = self._reports
        return reports["env_reward"].copy(), reports["reward"].astype(np.float32), reports["cause"].copy()

    # What was pressed, for who plays along on another console.

    @property
    def buttons(self) -> list[int]:
        """Controller byte of each action."""
        return self._shared.buttons

    def memories(self) -> np.ndarray:
        """Return the memory of every console: (N, 2048) uint8."""
        return np.stack(self._rams)

    @property
    def skip(self) -> int:
        """Frames of a decision."""
        return self._shared.skip

    def start_buttons(self, i: int) -> bytes:
        """Return the controller byte of each frame that was played before the episode of environment i began."""
        return self._start_buttons[i]

    def pressed_frames(self, i: int) -> list[int]:
        """Return the controller byte of each frame of the last decision of environment i."""
        found, last = [], int(self._before[i])
        for held in self._held[i].tolist():
            last = last if held else int(self._pressed[i])
            found.append(last)
        return found

    def _row(self, i: int, cause: str) -> dict[str, Any]:
        report = self._reports[i]
        return {
            "flag": bool(report["cleared"] > 0),
            "cause": cause,
            "x_max": int(report["x_max"]),
            "score": int(report["score"]),
            "time_left": int(report["time"]),
            "coins": int(report["coins"]),
            "world": int(report["world"]),
            "stage": int(report["stage"]),
            "stages_cleared": int(report["cleared"]),
            "start_frames": int(report["start_frames"]),
            **self._along(i),
        }

    def _along(self, i: int) -> dict[str, Any]:
        """Return the curriculum's part of the record of environment i's episode."""
        if self._curriculum is None:
            return {}
        return {"start_place": self._places[i], "way_begin": self._begins[i], "way_end": self._ends[i]}

    def _ram(self, i: int) -> np.ndarray:
        return self._rams[i]

    def _save(self, i: int) -> bytes:
        console = np.zeros(self._core.vector_snapshot_size(), np.uint8)
        self._core.vector_save(self._address, i, console.ctypes.data)
        report = {name: self._reports[i][name].item() for name in _REPORT.names or ()}
        header = {**self._header(i), "target": self._targets[i], "report": report}
        if self._curriculum is not None:
            along = {"place": self._places[i], "begin": self._begins[i], "end": self._ends[i], "goal": self._goals[i]}
            header |= {"along": along, "curriculum": self._curriculum.state()}
        return pack(KIND, STATE_VERSION, header, {"console": console, "stack": self._obs[i]})

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore the states; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open(KIND, STATE_VERSION, states, self._most())):
            self._targets[i] = self._target_of(header)
            console = arrays["console"].tobytes()
            numbers = target_numbers(self._shared.game, self._targets[i])
            native.checked("vector_load", self._address, i, *numbers, console, len(console))
            self._reports[i] = tuple(header["report"][name] for name in _REPORT.names or ())
            self._obs[i] = arrays["stack"]
            self.episodes.load(i, header)
            if self._curriculum is not None:
                along = header["along"]
                self._places[i], self._goals[i] = along["place"], along["goal"]
                self._begins[i], self._ends[i] = along["begin"], along["end"]
                self._curriculum.load(header["curriculum"])
            if self._shared.sticky:
                draws = generator(self.seed, self.first_index + i, Purpose.STICKY, header["episode"])
                draws.random(header["report"]["frames"])
                self._sticky[i] = draws
        return self._observe()

    def render(self) -> tuple[np.ndarray, ...]:
        """Return the last drawn screen of every console as (240, 256, 3) uint8 RGB, the caller's own copies.

        Raises:
            ValueError: with `ram_obs`, where nothing is drawn; `envs.make_visible` draws.
        """
        if self._values is not None:
            raise ValueError("ram_obs: nothing is drawn; envs.make_visible makes an environment that draws")
        screens = np.empty((self.num_envs, HEIGHT, WIDTH, 3), np.uint8)
        for i, screen in enumerate(screens):
            self._core.vector_colours(self._address, i, ctypes.c_void_p(screen.ctypes.data))
        return tuple(screens)
