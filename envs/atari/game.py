"""One Atari game as an agent sees it: skip, maximum of two frames, no-op start, FIRE, lives, 84 x 84 gray.

Shapes: S stacked frames of 84 x 84. A frame is one emulator frame; a step is one decision, for which the action is held
`skip` frames. What is done, and where it comes from:

    no-op start       1 to `noop_max` frames of NOOP before the agent begins (Mnih et al. 2015, Methods; the bounds of
                      openai/baselines, baselines/common/atari_wrappers.py, NoopResetEnv)
    FIRE              where the second action is FIRE: one step of it, one of the action after it, at every start
                      (FireResetEnv there)
    maximum           of the last two frames of the skip (MaxAndSkipEnv there), in gray, as in ale-py's vector
                      environment and Gymnasium's AtariPreprocessing; a picture stands still once the game is over
    gray              the emulator's own gray of each colour, then 84 x 84 by area averaging (cv2.INTER_AREA)
    life              lost where fewer, but at least one, are left after a step; the game then goes on with one step of
                      NOOP and FIRE as above, and the stack starts anew (EpisodicLifeEnv there)
    sticky actions    for every frame, the frame before's action with probability p (Machado et al. 2018, section 5.2)

Points that fall while nobody decides, in start frames or after a lost life, count towards the game's return: it is the
score of the whole game.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ale_py
import cv2
import numpy as np
from ale_py import roms

from envs.atari.rules import SIZE, Rules
from utils.seeding import Purpose, episode_seed, generator


class Played(NamedTuple):
    """Result of one step."""

    score: float  # points of the step, and of what followed a lost life
    points: float  # points of the step alone, which PPO is shown
    life_lost: bool
    over: bool
    truncated: bool


def rom_path(rom: str) -> Path:
    """Return the file of a ROM, which ale-py brings along."""
    path = roms.get_rom_path(rom)
    assert path is not None
    return path


def load(rules: Rules, seed: int) -> ale_py.ALEInterface:
    """Return an emulator with the game in it, whose own random numbers (memory at power-up, timers) come from `seed`.

    The emulator repeats no action by itself: the sticky ones are drawn in `AtariEnv`.
    """
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("frame_skip", 1)
    ale.setInt("max_num_frames_per_episode", rules.max_frames)
    ale.setInt("random_seed", seed)
    ale.setInt("system_random_seed", seed)
    ale.loadROM(rom_path(rules.rom))
    try:
        if rules.mode is not None:
            ale.setMode(rules.mode)
        if rules.difficulty is not None:
            ale.setDifficulty(rules.difficulty)
    except RuntimeError as error:
        raise ValueError(
            f"mode and difficulty: {rules.mode} and {rules.difficulty}, expected one of {ale.getAvailableModes()} and "
            f"one of {ale.getAvailableDifficulties()} for {rules.rom}"
        ) from error
    return ale


class AtariEnv:
    """One environment: an emulator, the frames that the agent sees, and its random streams."""

    def __init__(self, rules: Rules, index: int, seed: int, stack: np.ndarray) -> None:
        """Args: index: its global number. stack: (S, 84, 84) uint8, the row of the observations that it writes."""
        self.rules, self.index, self.stack = rules, index, stack
        self.final = np.zeros_like(stack)  # the observation with which a life or a game ended
        self.watch: Callable[[np.ndarray], None] | None = None  # called with the screen after every frame of a game
        self._load(seed)

    def _load(self, seed: int) -> None:
        """Put the game into a new emulator and remember the moment after its power-up."""
        self._seed = seed
        self.ale = load(self.rules, episode_seed(seed, self.index, 0))
        self.actions = self.ale.getLegalActionSet() if self.rules.full_actions else self.ale.getMinimalActionSet()
        self._fire = self.rules.fire_reset and len(self.actions) > 2 and self.actions[1] == ale_py.Action.FIRE
        self._screens = np.zeros((2, *self.ale.getScreenDims()), np.uint8)  # the last two frames in gray
        self._power_up = self.ale.cloneState(include_rng=True)
        self._restored = False

    def begin(self, seed: int, episode: int) -> None:
        """Start a game: no-op start, FIRE, and a stack of what is seen then."""
        if episode == 0 and seed != self._seed:
            self._load(seed)
        elif episode == 0:
            self.ale.restoreState(self._power_up)
        watch, self.watch = self.watch, None  # start frames are not shown
        self._open_stream(seed, episode)
        self.steps = self.lives_lost = 0
        self._reset()
        if self.rules.noop_max:
            count = int(generator(seed, self.index, Purpose.START, episode).integers(1, self.rules.noop_max + 1))
            for _ in range(count):
                self.pending += self._frame(self.actions[0])
        self._look()
        if self._fire:
            self._press_fire()
        if self.ale.game_over():  # a game that ends in its start frames begins again without any
            self._reset()
            self._look()
        self.stack[:] = self._seen()
        self.lives = self.ale.lives()
        self.watch = watch

    def _open_stream(self, seed: int, episode: int) -> None:
        """Open the episode's stream of sticky draws, one per frame."""
        self._sticky = generator(seed, self.index, Purpose.STICKY, episode) if self.rules.sticky else None
        self._draws = 0

    def _reset(self) -> None:
        self.ale.reset_game()
        self._held, self.pending, self._restored = self.actions[0], 0, False

    def _press_fire(self) -> None:
        for action in self.actions[1:3]:
            self.pending += self._hold(action)

    def play(self, number: int) -> Played:
        """Play one step with an action's number; after a lost life, make the game ready for the next one."""
        points = self._hold(self.actions[number])
        self.stack[:-1] = self.stack[1:]
        self._seen(self.stack[-1])
        self.steps += 1
        over, truncated = self.ale.game_over(with_truncation=False), self.ale.game_truncated()
        lives = self.ale.lives()
        lost = 0 < lives < self.lives
        self.lives_lost += max(self.lives - lives, 0)
        self.lives = lives
        life_lost = lost and self.rules.episodic_life and not over
        if life_lost or over or truncated or self.steps >= self.rules.max_steps:
            self.final[:] = self.stack
        if life_lost and not truncated and self.steps < self.rules.max_steps:
            over, truncated = self._go_on()
        truncated = truncated or self.steps >= self.rules.max_steps
        score, self.pending = points + self.pending, 0
        return Played(float(score), float(points), life_lost, over, truncated and not over)

    def _go_on(self) -> tuple[bool, bool]:
        """Play on after a lost life; return whether the game ended by itself, or by its limit, in the meantime."""
        self.pending += self._hold(self.actions[0])
        if self._fire:
            self._press_fire()
        self.stack[:] = self._seen()
        self.lives = self.ale.lives()
        return self.ale.game_over(with_truncation=False), self.ale.game_truncated()

    def _hold(self, action: Any) -> int:
        """Play `skip` frames with the action and keep the last two; return their points. Nothing moves in a game
        that is over."""
        points, first = 0, self.rules.skip - 2
        for frame in range(self.rules.skip):
            points += self._frame(action)
            if frame >= first:
                self.ale.getScreenGrayscale(self._screens[frame & 1])
        if first < 0:
            self._screens[1] = self._screens[0]
        self._restored = False
        return points

    def _frame(self, action: Any) -> int:
        """Play one frame and return its points."""
        if self._sticky is not None:
            self._draws += 1
            if self._sticky.random() < self.rules.sticky:
                action = self._held
            self._held = action
        points = self.ale.act(action)
        if self.watch is not None:
            self.watch(self.ale.getScreenRGB())
        return points

    def _look(self) -> None:
        """Take the frame that is shown now for the last two."""
        self.ale.getScreenGrayscale(self._screens[0])
        self._screens[1] = self._screens[0]

    def _seen(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return the maximum of the last two frames in (84, 84), written into `out` if given."""
        return cv2.resize(np.maximum(*self._screens), (SIZE, SIZE), dst=out, interpolation=cv2.INTER_AREA)

    def row(self) -> dict[str, Any]:
        """Return Atari's part of the record of the game, which ends now."""
        return {"frames": self.ale.getEpisodeFrameNumber(), "lives_lost": self.lives_lost}

    def picture(self) -> np.ndarray:
        """Return the screen as (H, W, 3) uint8 RGB; from `load` to the next step, the newest observation in gray."""
        if not self._restored:
            return self.ale.getScreenRGB()
        height, width = self._screens.shape[1:]
        return np.repeat(cv2.resize(self.stack[-1], (width, height))[:, :, None], 3, axis=2)

    def save(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the running game: the emulator's state and what this class remembers."""
        header = {
            "steps": self.steps,
            "lives": self.lives,
            "lives_lost": self.lives_lost,
            "pending": self.pending,
            "draws": self._draws,
            "held": self._held.value,
        }
        state = self.ale.cloneState(include_rng=True).serialize()
        return header, {"emulator": np.frombuffer(state, np.uint8), "stack": self.stack}

    def load(self, seed: int, episode: int, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Restore what `save` returned."""
        try:
            self.ale.restoreState(ale_py.ALEState(arrays["emulator"].tobytes()))
        except (RuntimeError, SystemError) as error:  # the second where its binding cannot say what was thrown
            raise ValueError(f"state: ale-py cannot read the emulator's part ({error!r:.100})") from None
        self.steps, self.lives = header["steps"], header["lives"]
        self.lives_lost, self.pending = header["lives_lost"], header["pending"]
        self._held = ale_py.Action(header["held"])
        self._open_stream(seed, episode)
        if self._sticky is not None:
            self._draws = header["draws"]
            self._sticky.bit_generator.advance(self._draws // 4)  # type: ignore[attr-defined]
            self._sticky.random(self._draws % 4)  # Philox makes four numbers at a time
        self.stack[:] = arrays["stack"]
        self._restored = True
