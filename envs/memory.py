"""Memory-v0: a task that nobody solves who sees one step at a time, for tests of policies with a memory.

The first observation of an episode shows one of four cues as a one-hot vector. The observations of the next 29 steps
are zero, the one after them shows the question alone, the same in every episode; the answer given there pays 1 where
it names the cue and ends the episode. Chance earns 0.25, and so does every policy that sees the present only: what it
sees when it is asked says nothing of the cue. No other action has an effect.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.family import MAX_EPISODE_STEPS, Family, Option, Preset
from envs.vector import VecEnv, check_arrays, check_count, pack
from utils.seeding import Purpose, generator

CUES = 4
STATE_VERSION = 1


def known(env_id: str) -> bool:
    """Return whether this family has the id."""
    return env_id in ids()


def ids() -> list[str]:
    """Return the ids of this family."""
    return ["Memory-v0"]


FAMILY = Family(
    name="memory",
    known=known,
    ids=ids,
    make="envs.memory:MemoryVec",
    presets=(
        Preset(
            "memory",
            "our own (data/results/memory): 64 environments x 62 steps = 3968, two episodes of 31 steps of each; a "
            "chunk is a whole episode, and there are two minibatches",
            {
                "network": "mlp",
                "lstm_units": 128,
                "chunk_steps": 31,
                "num_envs": 64,
                "steps_per_epoch": 64 * 62,
                "minibatch_size": 64 * 31,
                "chunk_size": 64 * 31,
                "gamma": 0.99,
                "lam": 0.95,
                "pi_lr": 1e-3,
                "v_lr": 1e-3,
                "anneal_lr": True,
                "train_pi_iters": 4,
                "train_v_iters": 4,
                "epochs": 60,
            },
        ),
    ),
    options=(
        Option("delay", 30, "steps from the cue to the question", at_least=1, at_most=10_000, portable=True),
        MAX_EPISODE_STEPS,
    ),
)


class MemoryVec(VecEnv):
    """N copies of Memory-v0, stepped as arrays. A `max_episode_steps` that cuts the question off leaves no reward."""

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        super().__init__(num_envs, seed, first_index, Box(0.0, 1.0, (CUES + 1,), np.float32), Discrete(CUES))
        self.options = options
        self.spec_dict = {"env_id": env_id, "options": options, "reward": "env", "emulator": "memory", "versions": {}}
        self._cues = np.zeros(num_envs, np.int64)  # of the running episodes

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        stream = generator(self.seed, self.first_index + i, Purpose.EPISODE, episode)
        self._cues[i] = stream.integers(CUES)

    def _observe(self) -> np.ndarray:
        obs = np.zeros((self.num_envs, CUES + 1), np.float32)
        shown = self.episodes.ep_len == 0
        obs[shown, self._cues[shown]] = 1.0
        obs[self.episodes.ep_len == self.options["delay"], CUES] = 1.0
        return obs

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Pay 1 to each environment that was asked and whose cue was named; see `VecEnv.step`."""
        actions = self._check_actions(actions, CUES)
        asked = self.episodes.ep_len == self.options["delay"]
        right = asked & (actions == self._cues)
        rewards, env_reward = right.astype(np.float32), right.astype(np.float64)
        self.episodes.add(env_reward, rewards)
        limit = self.options["max_episode_steps"]
        truncated = ~asked & (self.episodes.ep_len == limit) if limit is not None else np.zeros_like(asked)
        ended = asked | truncated
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        if ended.any():
            infos["final_obs"], infos["_final_obs"] = self._observe(), ended.copy()
            for i in np.flatnonzero(ended).tolist():
                infos["episodes"].append(self.episodes.row(i, bool(asked[i])))
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._observe(), rewards, asked, truncated, infos

    def get_state(self) -> list[bytes]:
        """Return the states; see `VecEnv.get_state`."""
        states = [(self._header(i), {"cue": self._cues[i : i + 1]}) for i in range(self.num_envs)]
        return [pack("memory", STATE_VERSION, header, arrays) for header, arrays in states]

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore the states; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open("memory", STATE_VERSION, states)):
            self.episodes.load(i, header)
            self._cues[i] = arrays["cue"][0]
        return self._observe()

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        check_arrays(arrays, cue=(np.int64, (1,)))
        if not 0 <= arrays["cue"][0] < CUES:
            raise ValueError(f"state: its cue is {arrays['cue'][0]}, expected 0..{CUES - 1}")
        check_count(header, "ep_len", self.options["delay"])
