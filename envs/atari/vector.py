"""Atari under this package's vector contract. Observations (N, stack, 84, 84) uint8, the oldest frame first.

A lost life ends PPO's path, with `terminated` and a final observation, but not the episode: its record comes at the end
of the game, with the score of all its lives.

The games are played one after the other: ale-py keeps Python's lock while it plays (0.12.1), so that two threads play
0.77 times as much as one. Ranks are processes and play at the same time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import ale_py
import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.atari.game import AtariEnv, rom_path
from envs.atari.rules import EPISODES, PREPROCESS_VERSION, SIZE, rules
from envs.vector import Episodes, VecEnv, check_arrays, check_count, check_number, pack

STATE_VERSION = 1


class AtariVec(VecEnv):
    """N games, each with an emulator of its own."""

    metadata = {**VecEnv.metadata, "render_fps": 60}
    episode_fields = (*Episodes.FIELDS, *(column.name for column in EPISODES))

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        self._obs = np.zeros((num_envs, options["stack"], SIZE, SIZE), np.uint8)
        game = rules(env_id, options)
        self.envs = [AtariEnv(game, first_index + i, seed, self._obs[i]) for i in range(num_envs)]
        actions = self.envs[0].actions
        super().__init__(
            num_envs, seed, first_index, Box(0, 255, self._obs.shape[1:], np.uint8), Discrete(len(actions))
        )
        self.ends_within_episodes = options["episodic_life"]
        self.options = options
        self.spec_dict = {
            "env_id": env_id,
            "options": options,
            "reward": options["clip_reward"],
            "preprocess_version": PREPROCESS_VERSION,
            "buttons": [[action.name] for action in actions],
            "emulator": "ale",
            "rom_md5": hashlib.md5(rom_path(game.rom).read_bytes()).hexdigest(),
            "versions": {"ale-py": ale_py.__version__},
        }

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        self.envs[i].begin(self.seed, episode)

    def _observe(self) -> np.ndarray:
        return self._obs

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one step in every game; see `VecEnv.step`."""
        checked = self._check_actions(actions, int(self.single_action_space.n))  # type: ignore[attr-defined]
        played = list(map(AtariEnv.play, self.envs, checked.tolist()))
        score, points, lost, over, truncated = (np.array(column) for column in zip(*played, strict=True))
        rewards = (np.sign(points) if self.options["clip_reward"] == "sign" else points).astype(np.float32)
        self.episodes.add(score, rewards)
        terminated = lost | over
        infos: dict[str, Any] = {"env_reward": score, "episodes": []}
        path_ends = terminated | truncated
        if path_ends.any():
            infos["final_obs"] = np.stack([env.final for env in self.envs])
            infos["_final_obs"] = path_ends
            for i in np.flatnonzero(over | truncated).tolist():
                infos["episodes"].append({**self.episodes.row(i, bool(terminated[i])), **self.envs[i].row()})
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._obs, rewards, terminated, truncated & ~terminated, infos

    def get_state(self) -> list[bytes]:
        """Return the states; see `VecEnv.get_state`."""
        return [self._save(i) for i in range(self.num_envs)]

    def _save(self, i: int) -> bytes:
        header, arrays = self.envs[i].save()
        return pack("atari", STATE_VERSION, {**self._header(i), **header}, arrays)

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore the states; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open("atari", STATE_VERSION, states)):
            self.envs[i].load(self.seed, header["episode"], header, arrays)
            self.episodes.load(i, header)
        return self._obs

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        check_arrays(arrays, emulator=(np.uint8, (None,)), stack=(np.uint8, self._obs.shape[1:]))
        for name in ("steps", "lives", "lives_lost", "draws"):
            check_count(header, name)
        check_number(header, "pending")
        check_count(header, "held", ale_py.Action.DOWNLEFTFIRE.value)
        if self.spec_dict["rom_md5"].encode() not in arrays["emulator"].tobytes():
            raise ValueError("state: its emulator holds another game")

    def render(self) -> tuple[np.ndarray, ...]:
        """Return the screen of every game as (H, W, 3) uint8 RGB."""
        return tuple(env.picture() for env in self.envs)

    def watch(self, show: Callable[[np.ndarray], None]) -> Callable[[], None]:
        """Let `show` have every frame of the first game; see `VecEnv.watch`."""
        self.envs[0].watch = show
        return lambda: None
