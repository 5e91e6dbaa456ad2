"""N Mario environments played frame by frame from Python, over any emulator that offers `backends.Backend`.

Shapes: N environments, S stacked frames of 84 x 84. A frame is one emulator frame; a step is one decision, for which
the buttons are held `skip` frames (fewer when the episode ends). The observation of a decision is the maximum of the
last two frames played in it, so an episode's last observation is made of its own last frames too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from envs.mario import rules
from envs.mario.backends import Backend, Consoles, rgb
from envs.mario.base import CAUSES, MAX_FRAMES, MarioVecBase, Setup, draw_start, draw_target
from envs.vector import check_arrays, check_count, pack
from utils.seeding import Purpose, generator

STATE_VERSION = 1
FPS = 60  # frames per second of a console


class Played(NamedTuple):
    """Result of one decision."""

    env_reward: float
    reward: float
    cause: str  # why the episode is over, "" while it goes on


class MarioEnv:
    """One environment: a console, the frames of its running episode, and its random streams."""

    def __init__(self, shared: Setup, consoles: Consoles, index: int, stack: np.ndarray) -> None:
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
        if self.info.cleared and not before.cleared and here != self.cleared_stage:
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

    def load(
        self, seed: int, episode: int, header: dict[str, Any], arrays: dict[str, np.ndarray], alive: Callable[[], None]
    ) -> None:
        """Play a saved episode again; `alive` is called at every frame.

        Raises:
            ValueError: the console's memory or screen is not what it was.
        """
        self._prepare(seed, episode)
        self.pressed = bytearray(arrays["pressed"].tobytes())
        self.start_count = header["start_count"]
        for byte in self.pressed:
            alive()
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


class MarioVec(MarioVecBase):
    """N environments played frame by frame from Python, over any `Backend`."""

    metadata = {**MarioVecBase.metadata, "render_fps": FPS}

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        super().__init__(env_id, num_envs, seed, first_index, options)
        self._consoles = Consoles(options["emulator"], self._shared.game)
        self.envs = [MarioEnv(self._shared, self._consoles, first_index + i, self._obs[i]) for i in range(num_envs)]
        threads = min(options["threads"], num_envs)
        self._threads = ThreadPoolExecutor(threads, "mario") if threads > 1 else None
        self._checked = options["reward"] in rules.REWARDS

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        env = self.envs[i]
        env.begin(self.seed, episode)
        if not self._checked:
            rules.check_reward(self.options["reward"], self._shared.reward, env.backend.judged, env.info)
            self._checked = True

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
            self.envs[i].load(self.seed, header["episode"], header, arrays, self.alive)
            self.episodes.load(i, header)
        return self._observe()

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        check_arrays(arrays, pressed=(np.uint8, (None,)), stack=(np.uint8, self._obs.shape[1:]))
        frames = len(arrays["pressed"])
        if frames > MAX_FRAMES or check_count(header, "start_count") > frames:
            raise ValueError(f"state: an episode of {frames} frames, at most {MAX_FRAMES} can be played again")
        for name in ("x_max", "cleared"):
            check_count(header, name, 2**31 - 1)
        for name, count in (("cleared_stage", 2), ("check", 2)):
            numbers = header.get(name)
            if not isinstance(numbers, list) or len(numbers) != count or not all(type(n) is int for n in numbers):
                raise ValueError(f"state: {name} is {numbers!r:.100}, expected {count} whole numbers")

    def render(self) -> tuple[np.ndarray, ...]:
        """Return the screen of every console as (240, 256, 3) uint8 RGB, the caller's own copies."""
        return tuple(rgb(env.backend.screen) for env in self.envs)

    def watch(self, show: Callable[[np.ndarray], None]) -> Callable[[], None]:
        """Let `show` have every frame of the first game; see `VecEnv.watch`."""
        self.envs[0].watch = lambda screen: show(rgb(screen))
        return lambda: None

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads and free the consoles."""
        if self._threads is not None:
            self._threads.shutdown()
        self._consoles.close()
