"""Mario behind this package's vector contract, over any emulator that offers `Backend`.

Shapes: N environments, S stacked frames of 84 x 84. A frame is one emulator frame; a step is one decision, for which
the buttons are held `skip` frames (fewer when the episode ends). The observation of a decision is the maximum of the
last two frames played in it, so an episode's last observation is made of its own last frames too.
"""

from __future__ import annotations

import hashlib
import importlib
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.mario import EMULATORS, rules, stages
from envs.mario.actions import button_byte, resolve
from envs.mario.preprocess import PREPROCESS_VERSION, SIZE, Preprocess
from envs.vector import Episodes, VecEnv, pack
from utils.seeding import Purpose, generator

STATE_VERSION = 1
CAUSES = ("", "flag", "game_over", "timeout", "pit", "enemy", "rule")  # of an episode's end; the order is native code's


class Backend(Protocol):
    """One console with one game in it, at one stage or at the game's start.

    Attributes:
        ram: (2048,) uint8, a view of the console's memory now.
        screen: (240, 256, 4) uint8, a view of its screen now, in the order blue, green, red, unused. Every step
            writes into the same memory: who needs a screen later copies it.
        judged: the 2048 bytes of memory at the moment when the last frame's reward and end were decided, which is
            before the environment skips a death or a change of area.
    """

    ram: np.ndarray
    screen: np.ndarray

    @property
    def judged(self) -> bytes: ...

    def reset(self) -> None:
        """Start an episode; the same buttons afterwards always lead to the same screens."""

    def step(self, buttons: int) -> tuple[float, bool]:
        """Play one frame with a controller byte; return the environment's reward and whether the episode is over."""

    def close(self) -> None:
        """Free the console."""


class Consoles:
    """Back ends that are lent to environments, one pile for each stage, so that random stages build few of them."""

    def __init__(self, emulator: str, game: stages.Game) -> None:
        module, name = EMULATORS[emulator]
        self._build = getattr(importlib.import_module(module), name)
        self._game = game
        self._free: dict[Any, list[Backend]] = {}
        self._all: list[Backend] = []

    def take(self, target: tuple[int, int] | None) -> Backend:
        """Return a console that is at this stage; it belongs to the caller until `give`."""
        if self._free.get(target):
            return self._free[target].pop()
        self._all.append(self._build(self._game, target))
        return self._all[-1]

    def give(self, target: tuple[int, int] | None, backend: Backend) -> None:
        """Take a console back."""
        self._free.setdefault(target, []).append(backend)

    def close(self) -> None:
        """Close all of them."""
        for backend in self._all:
            backend.close()
        self._all, self._free = [], {}


class Rules(NamedTuple):
    """What all environments of a vector share."""

    game: stages.Game
    targets: list[tuple[int, int] | None]  # where an episode can start
    buttons: list[int]  # controller byte of each action
    skip: int
    sticky: float
    start_frames: int
    start_random: bool
    reward: rules.Reward
    preprocess: Preprocess


class Played(NamedTuple):
    """Result of one decision."""

    env_reward: float
    reward: float
    cause: str  # why the episode is over, "" while it goes on


def draw_target(shared: Rules, seed: int, index: int, episode: int) -> tuple[int, int] | None:
    """Return the stage in which environment `index` plays this episode."""
    targets = shared.targets
    return targets[generator(seed, index, Purpose.STAGE, episode).integers(len(targets)) if len(targets) > 1 else 0]


def draw_start(shared: Rules, draws: np.random.Generator) -> bytes:
    """Return the controller bytes of an episode's start frames, which its stream of purpose START draws."""
    if not shared.start_frames:
        return b""
    count = int(draws.integers(shared.start_frames + 1))
    choices = draws.integers(len(shared.buttons), size=count)
    return bytes(shared.buttons[choice] if shared.start_random else 0 for choice in choices)


class MarioEnv:
    """One environment: a console, the frames of its running episode, and its random streams."""

    def __init__(self, shared: Rules, consoles: Consoles, index: int, stack: np.ndarray) -> None:
        """Args: index: its global number. stack: (S, 84, 84) uint8, the row of the observations that it writes."""
        self.shared, self.consoles, self.index, self.stack = shared, consoles, index, stack
        self.target: tuple[int, int] | None = None
        self.console: Backend | None = None
        self._previous = np.zeros((240, 256, 4), np.uint8)
        self.watch: Callable[[np.ndarray], None] | None = None  # called with the screen after every frame of an episode

    def begin(self, seed: int, episode: int) -> None:
        """Start an episode, its start frames included, and fill the stack with its first frame."""
        self._prepare(seed, episode)
        self._play_start(generator(seed, self.index, Purpose.START, episode))
        self.info = rules.decode(self.backend.judged)
        self.x_max, self.cleared, self.cleared_stage = self.info.x_pos, 0, (0, 0)
        self.stack[:] = self.shared.preprocess(self.backend.screen)

    @property
    def backend(self) -> Backend:
        """The console in use."""
        assert self.console is not None
        return self.console

    def _prepare(self, seed: int, episode: int) -> None:
        """Put the episode's stage into a console at its first frame, and open its stream of sticky draws."""
        target = draw_target(self.shared, seed, self.index, episode)
        if self.console is None or self.target != target:
            if self.console is not None:
                self.consoles.give(self.target, self.console)
            self.target = target
            self.console = self.consoles.take(self.target)
        self.backend.reset()
        self.pressed = bytearray()  # controller byte of every frame since the console's reset
        self.start_count = 0
        self._sticky = generator(seed, self.index, Purpose.STICKY, episode) if self.shared.sticky else None

    def _play_start(self, draws: np.random.Generator) -> None:
        """Play the start frames; an episode that ends in them starts again without any."""
        for byte in draw_start(self.shared, draws):
            _, done = self.backend.step(byte)
            self.pressed.append(byte)
            self.start_count += 1
            if done:
                self.backend.reset()
                self.pressed, self.start_count = bytearray(), 0
                return

    def play(self, action: int) -> Played:
        """Play one decision, put its frame on the stack, and say what it paid."""
        env_sum, reward_sum, cause = 0.0, 0.0, ""
        for frame in range(self.shared.skip):
            if frame:
                np.copyto(self._previous, self.backend.screen)
            env_reward, reward, cause = self._play_frame(self.shared.buttons[action])
            env_sum, reward_sum = env_sum + env_reward, reward_sum + reward
            if cause:
                break
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = self.shared.preprocess(self.backend.screen, self._previous if frame else None)
        return Played(env_sum, reward_sum, cause)

    def _play_frame(self, byte: int) -> Played:
        """Play one frame of the episode."""
        if self._sticky is not None and self._sticky.random() < self.shared.sticky:
            byte = self.pressed[-1] if self.pressed else 0
        ram_before = self.backend.judged
        env_reward, done = self.backend.step(byte)
        self.pressed.append(byte)
        if self.watch is not None:
            self.watch(self.backend.screen)
        ram = self.backend.judged
        before, self.info = self.info, rules.decode(ram)
        self.x_max = max(self.x_max, self.info.x_pos)
        here = (self.info.world, self.info.stage)
        if self.info.flag_get and not before.flag_get and here != self.cleared_stage:
            self.cleared, self.cleared_stage = self.cleared + 1, here
        reward, end = self.shared.reward(rules.Transition(env_reward, done, before, self.info, ram_before, ram))
        cause = rules.end_cause(self.info, self.target is not None) if done else "rule" if end else ""
        return Played(env_reward, reward, cause)

    def row(self, cause: str) -> dict[str, Any]:
        """Return Mario's part of the record of the episode, which ends now."""
        return {
            "flag": self.cleared > 0,
            "cause": cause,
            "x_max": self.x_max,
            "score": self.info.score,
            "time_left": self.info.time,
            "coins": self.info.coins,
            "world": self.info.world,
            "stage": self.info.stage,
            "stages_cleared": self.cleared,
            "start_frames": self.start_count,
        }

    def save(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the running episode: its controller bytes, from which it can be played again, and its sums."""
        header = {
            "x_max": self.x_max,
            "cleared": self.cleared,
            "cleared_stage": list(self.cleared_stage),
            "start_count": self.start_count,
            "check": self._check(),
        }
        return header, {"pressed": np.frombuffer(bytes(self.pressed), np.uint8), "stack": self.stack}

    def load(self, seed: int, episode: int, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Play a saved episode again.

        Raises:
            ValueError: the console's memory or screen is not what it was.
        """
        self._prepare(seed, episode)
        self.pressed = bytearray(arrays["pressed"].tobytes())
        self.start_count = header["start_count"]
        for byte in self.pressed:
            self.backend.step(byte)
        if self._check() != header["check"]:
            raise ValueError(f"state: playing environment {self.index}'s episode again led to another memory or screen")
        if self._sticky is not None:
            self._sticky.random(len(self.pressed) - self.start_count)
        self.info = rules.decode(self.backend.judged)
        self.x_max, self.cleared = header["x_max"], header["cleared"]
        self.cleared_stage = tuple(header["cleared_stage"])
        self.stack[:] = arrays["stack"]

    def _check(self) -> list[int]:
        return [zlib.crc32(self.backend.ram.tobytes()), zlib.crc32(self.backend.screen.tobytes())]


class MarioVecBase(VecEnv):
    """What N Mario environments share, whoever plays their frames. Observations (N, stack, 84, 84) uint8; actions are
    numbers of the action set.

    infos hold, for every name of the option `ram_info`, an array (N,) uint8 of the console's memory as the returned
    observation shows it (after an episode's end: of the new episode).
    """

    episode_fields = (
        *Episodes.FIELDS,
        *("flag", "cause", "x_max", "score", "time_left", "coins", "world", "stage", "stages_cleared", "start_frames"),
    )

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        combinations = resolve(options["actions"])
        shape = (options["stack"], SIZE, SIZE)
        super().__init__(num_envs, seed, first_index, Box(0, 255, shape, np.uint8), Discrete(len(combinations)))
        self.options = options
        self.spec_dict = _describe(env_id, options, combinations)
        self._limit = options["max_episode_steps"] or np.iinfo(np.int64).max
        self._ram_info = {name: rules.ram_address(name) for name in options["ram_info"]}
        self._obs = np.zeros((num_envs, *shape), np.uint8)
        self._shared = _shared(env_id, options, combinations)

    @abstractmethod
    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play one decision everywhere.

        Returns:
            env_reward (N,) float64, rewards (N,) float32, and the number in `CAUSES` of why episodes ended (N,) int32.
        """

    @abstractmethod
    def _row(self, i: int, cause: str) -> dict[str, Any]:
        """Return Mario's part of the record of environment i's episode, which ends now."""

    @abstractmethod
    def _ram(self, i: int) -> np.ndarray:
        """Return the console memory of environment i, (2048,) uint8."""

    def _observe(self) -> np.ndarray:
        return self._obs

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode everywhere; see `VecEnv.reset`."""
        obs, infos = super().reset(**kwargs)
        return obs, {**infos, **self._memory()}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one decision in every environment; see `VecEnv.step`."""
        checked = self._check_actions(actions, int(self.single_action_space.n))  # type: ignore[attr-defined]
        env_reward, rewards, causes = self._play(checked)
        self.episodes.add(env_reward, rewards)
        terminated = causes > 0
        truncated = self.episodes.ep_len >= self._limit
        truncated &= ~terminated
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        ended = terminated | truncated
        if np.count_nonzero(ended):
            infos["final_obs"], infos["_final_obs"] = np.zeros_like(self._obs), ended
            for i in np.flatnonzero(ended).tolist():
                infos["final_obs"][i] = self._obs[i]
                row = self.episodes.row(i, bool(terminated[i]))
                infos["episodes"].append({**row, **self._row(i, CAUSES[causes[i]] or "step_limit")})
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._obs, rewards, terminated, truncated, {**infos, **self._memory()}

    def _memory(self) -> dict[str, np.ndarray]:
        """Return the arrays of the option `ram_info`."""
        return {
            name: np.array([self._ram(i)[address] for i in range(self.num_envs)], np.uint8)
            for name, address in self._ram_info.items()
        }

    def get_state(self) -> list[bytes]:
        """Return the states; see `VecEnv.get_state`."""
        return [self._save(i) for i in range(self.num_envs)]

    @abstractmethod
    def _save(self, i: int) -> bytes:
        """Return the state of environment i."""

    def _kind(self) -> str:
        return f"mario:{self.options['emulator']}"


class MarioVec(MarioVecBase):
    """N environments played frame by frame from Python, over any `Backend`."""

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        super().__init__(env_id, num_envs, seed, first_index, options)
        self._consoles = Consoles(options["emulator"], self._shared.game)
        self.envs = [MarioEnv(self._shared, self._consoles, first_index + i, self._obs[i]) for i in range(num_envs)]
        threads = min(options["threads"], num_envs)
        self._threads = ThreadPoolExecutor(threads, "mario") if threads > 1 else None

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        self.envs[i].begin(self.seed, episode)

    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mapped = map if self._threads is None else self._threads.map
        played = list(mapped(MarioEnv.play, self.envs, actions.tolist()))
        env_reward = np.array([result.env_reward for result in played], np.float64)
        causes = np.array([CAUSES.index(result.cause) for result in played], np.int32)
        return env_reward, np.array([result.reward for result in played], np.float32), causes

    def _row(self, i: int, cause: str) -> dict[str, Any]:
        return self.envs[i].row(cause)

    def _ram(self, i: int) -> np.ndarray:
        return self.envs[i].backend.ram

    def _save(self, i: int) -> bytes:
        header, arrays = self.envs[i].save()
        return pack(self._kind(), STATE_VERSION, {**self._header(i), **header}, arrays)

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore the states, playing the running episodes again; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open(self._kind(), STATE_VERSION, states)):
            self.envs[i].load(self.seed, header["episode"], header, arrays)
            self.episodes.load(i, header)
        return self._obs

    def render(self) -> tuple[np.ndarray, ...]:
        """Return the screen of every console as (240, 256, 3) uint8 RGB, the caller's own copies."""
        return tuple(np.ascontiguousarray(env.backend.screen[:, :, 2::-1]) for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads and free the consoles."""
        if self._threads is not None:
            self._threads.shutdown()
        self._consoles.close()


def make(env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> MarioVecBase:
    """Return the fastest vector for these options: all in native code, unless emulator or reward are Python's."""
    if options["emulator"] == "native" and options["reward"] in rules.REWARDS:
        from envs.mario.native_vector import NativeMarioVec

        return NativeMarioVec(env_id, num_envs, seed, first_index, options)
    return MarioVec(env_id, num_envs, seed, first_index, options)


def _shared(env_id: str, options: dict[str, Any], combinations: Iterable[list[str]]) -> Rules:
    """Return what the options say, as the environments use it."""
    game = stages.parse(env_id)
    assert game is not None
    targets: list[tuple[int, int] | None] = [game.target]
    if game.random:
        targets = list(stages.parse_stages(options["stages"], game))
    return Rules(
        game=game,
        targets=targets,
        buttons=[button_byte(combination) for combination in combinations],
        skip=options["skip"],
        sticky=float(options["sticky"]),
        start_frames=options["start_frames"],
        start_random=options["start_mode"] == "random",
        reward=rules.find_reward(options["reward"]),
        preprocess=Preprocess(options["crop_hud"]),
    )


def _describe(env_id: str, options: dict[str, Any], combinations: list[list[str]]) -> dict[str, Any]:
    """Return the JSON-able description of what produces the numbers."""
    game = stages.parse(env_id)
    assert game is not None
    return {
        "env_id": env_id,
        "options": options,
        "reward": options["reward"],
        "reward_version": rules.REWARD_VERSION,
        "preprocess_version": PREPROCESS_VERSION,
        "buttons": combinations,
        "emulator": options["emulator"],
        "rom_sha256": hashlib.sha256(stages.rom_path(game).read_bytes()).hexdigest(),
        "versions": importlib.import_module(EMULATORS[options["emulator"]][0]).versions(),
    }
