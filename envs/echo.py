"""Echo-v0: a tiny task that PPO learns in seconds, for tests of learning, resuming and faults.

The observation is a digit as a one-hot vector; naming that digit pays 1, anything else 0. An episode lasts 32 steps,
so that the best return is 32 and chance earns 8. Its end is a true end (terminated) by default.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.classic import CLASSIC
from envs.family import MAX_EPISODE_STEPS, Family, Option
from envs.vector import VecEnv, check_arrays, check_count, pack
from utils.seeding import Purpose, generator

DIGITS = 4
LENGTH = 32
STATE_VERSION = 1


def known(env_id: str) -> bool:
    """Return whether this family has the id."""
    return env_id in ids()


def ids() -> list[str]:
    """Return the ids of this family."""
    return ["Echo-v0"]


FAMILY = Family(
    name="echo",
    known=known,
    ids=ids,
    make="envs.echo:EchoVec",
    presets=(CLASSIC,),
    options=(
        Option(name="truncate", default=False, kind=bool, help="make every end a time limit"),
        MAX_EPISODE_STEPS,
    ),
)


class EchoVec(VecEnv):
    """N copies of Echo-v0, stepped as arrays. `truncate` makes every end a time limit; a shorter
    `max_episode_steps` always is one."""

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        super().__init__(num_envs, seed, first_index, Box(0.0, 1.0, (DIGITS,), np.float32), Discrete(DIGITS))
        self.options = options
        self.spec_dict = {"env_id": env_id, "options": options, "reward": "env", "emulator": "echo", "versions": {}}
        self._digits = np.zeros((num_envs, LENGTH + 1), np.int64)  # the digits of each running episode

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        stream = generator(self.seed, self.first_index + i, Purpose.EPISODE, episode)
        self._digits[i] = stream.integers(DIGITS, size=LENGTH + 1)

    def _observe(self) -> np.ndarray:
        digits = self._digits[np.arange(self.num_envs), self.episodes.ep_len]
        return np.eye(DIGITS, dtype=np.float32)[digits]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Pay 1 to each environment whose digit was named; see `VecEnv.step`."""
        actions = self._check_actions(actions, DIGITS)
        right = actions == self._digits[np.arange(self.num_envs), self.episodes.ep_len]
        rewards = right.astype(np.float32)
        env_reward = right.astype(np.float64)
        self.episodes.add(env_reward, rewards)
        limit = self.options["max_episode_steps"] or LENGTH
        ended = self.episodes.ep_len >= min(limit, LENGTH)
        by_limit = self.options["truncate"] or limit < LENGTH
        terminated, truncated = (np.zeros_like(ended), ended) if by_limit else (ended, np.zeros_like(ended))
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        if ended.any():
            infos["final_obs"], infos["_final_obs"] = self._observe(), ended.copy()
            for i in np.flatnonzero(ended).tolist():
                infos["episodes"].append(self.episodes.row(i, bool(terminated[i])))
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._observe(), rewards, terminated, truncated, infos

    def get_state(self) -> list[bytes]:
        """Return the states; see `VecEnv.get_state`."""
        states = [(self._header(i), {"digits": self._digits[i]}) for i in range(self.num_envs)]
        return [pack("echo", STATE_VERSION, header, arrays) for header, arrays in states]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore the states; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open("echo", STATE_VERSION, states)):
            self.episodes.load(i, header)
            self._digits[i] = arrays["digits"]
        return self._observe()

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        check_arrays(arrays, digits=(np.int64, (LENGTH + 1,)))
        if not np.isin(arrays["digits"], range(DIGITS)).all():
            raise ValueError("state: its digits are not digits")
        check_count(header, "ep_len", LENGTH - 1)
