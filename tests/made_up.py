"""A family of environments that the project does not know: a coin of which the agent sees which way it is bent.

`--env tests.made_up:Coin-v0` finds it. An episode is `length` throws; naming the side pays 1.
"""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.family import Family, Option, Preset
from envs.vector import Episodes, VecEnv, pack
from utils.columns import Column
from utils.seeding import Purpose, generator

built: list[dict] = []  # the options of every vector that was made


class CoinVec(VecEnv):
    """N coins."""

    episode_fields = (*Episodes.FIELDS, "heads", "won")

    def __init__(self, env_id, num_envs, seed, first_index, options):
        super().__init__(num_envs, seed, first_index, Box(0.0, 1.0, (2,), np.float32), Discrete(2))
        self.options = options
        self.spec_dict = {"env_id": env_id, "options": options, "reward": "env", "emulator": "coin", "versions": {}}
        self._sides = np.zeros((num_envs, options["length"] + 1), np.int64)  # 1: heads
        built.append(options)

    def _begin(self, i, episode):
        self.episodes.begin(i, episode)
        draws = generator(self.seed, self.first_index + i, Purpose.EPISODE, episode)
        self._sides[i] = draws.random(self.options["length"] + 1) < self.options["bias"]

    def _observe(self):
        return np.eye(2, dtype=np.float32)[self._sides[np.arange(self.num_envs), self.episodes.ep_len]]

    def step(self, actions):
        right = self._check_actions(actions, 2) == self._sides[np.arange(self.num_envs), self.episodes.ep_len]
        self.episodes.add(right.astype(np.float64), right.astype(np.float32))
        ended = self.episodes.ep_len >= self.options["length"]
        infos = {"env_reward": right.astype(np.float64), "episodes": []}
        if ended.any():
            infos |= {"final_obs": self._observe(), "_final_obs": ended.copy()}
            for i in np.flatnonzero(ended):
                heads = float(self._sides[i, :-1].mean())
                infos["episodes"].append({**self.episodes.row(i, True), "heads": heads, "won": int(heads > 0.5)})
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._observe(), right.astype(np.float32), ended, np.zeros_like(ended), infos

    def get_state(self):
        return [pack("coin", 1, self._header(i), {"sides": self._sides[i]}) for i in range(self.num_envs)]

    def set_state(self, states):
        for i, (header, arrays) in enumerate(self._open("coin", 1, states)):
            self.episodes.load(i, header)
            self._sides[i] = arrays["sides"]
        return self._observe()


FAMILY = Family(
    name="coin",
    known=lambda env_id: env_id == "Coin-v0",
    ids=lambda: ["Coin-v0"],
    make=f"{__name__}:CoinVec",
    options=(
        Option("bias", 0.75, "chance of heads", at_least=0, at_most=1, portable=True),
        Option("length", 8, "throws of an episode", at_least=1, at_most=64, portable=True),
        Option("hurry", False, "nothing that an evaluation wants", training_only=True),
        Option("quiet", True, "changes nothing", affects="nothing"),
    ),
    presets=(
        Preset(
            "coin",
            "made up",
            {"num_envs": 4, "steps_per_epoch": 128, "minibatch_size": 64, "epochs": 4, "pi_lr": 1e-2, "length": 4},
        ),
    ),
    columns=(
        Column("Heads", "mean share of heads in an episode", "%", "stays near the bias", 0.0, 1.0, "heads"),
        Column("Won", "share of the episodes with more heads than tails", "%", "", 0.0, 1.0, "won", success=True),
    ),
    evaluated=("Heads",),
    best_by="Heads",
    plays_as={"coin": "penny"},
    drawn_parts=lambda env_id: ("ep_len",),
)
