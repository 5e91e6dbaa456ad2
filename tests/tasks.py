"""Small tasks with spaces of every kind, registered with Gymnasium: `--env tests.tasks:Levers-v0`."""

from __future__ import annotations

import copy
import itertools

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

LENGTH = 8


class Task(gymnasium.Env):
    """Eight steps of random observations; a right action pays 1 for each of its parts."""

    observation_space = Discrete(4)
    action_space = Discrete(2)
    pay = staticmethod(lambda obs, action: 0.0)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = copy.deepcopy(self.observation_space)  # which holds the random numbers

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t, self.obs = 0, self.observation_space.sample()
        return self.obs, {}

    def step(self, action):
        assert self.action_space.contains(action), (self.action_space, action)
        reward, self.t = self.pay(self.obs, action), self.t + 1
        self.obs = self.observation_space.sample()
        return self.obs, reward, self.t >= LENGTH, False, {}


def task(name, observations, actions, pay=None):
    """Register a task."""
    members = {"observation_space": observations, "action_space": actions}
    kind = type(name, (Task,), members | ({"pay": staticmethod(pay)} if pay else {}))
    gymnasium.register(f"{name}-v0", entry_point=kind)


BYTES = Box(0, 255, (6,), np.uint8)
LEVERS = MultiDiscrete([4, 2], start=[1, 0])
task("Levers", Discrete(4), LEVERS, lambda obs, action: float(action[0] == obs + 1) + float(action[1] == obs % 2))
task("Switches", Discrete(4), MultiBinary(2), lambda obs, action: float(action[0] == obs % 2))
task("Grid", Discrete(4), Box(-1, 3, (2, 2), np.float64), lambda obs, action: -float(np.abs(action - obs).mean()))
task("Dials", Discrete(4), Dict({"a": Discrete(2)}))
task("Steps", Discrete(4), Box(0, 9, (2,), np.int64))
task("Table", Box(-1, 1, (3, 5), np.float32), Discrete(2))
task("Cube", Box(-1, 1, (3, 5, 2), np.float64), Discrete(2))
task("Number", Box(-1, 1, (), np.float32), Discrete(2))
task("Bytes", BYTES, Discrete(2))
task("Counts", Box(-5, 5, (3,), np.int16), Discrete(2))
task("Parts", Dict({"x": Box(-1, 1, (2, 2), np.float32), "n": Discrete(3), "b": BYTES}), Discrete(2))
task("Nested", Tuple([Discrete(3), Dict({"m": MultiBinary(4), "d": MultiDiscrete([2, 3])})]), Discrete(2))
task("Photo", Box(0, 255, (40, 36, 3), np.uint8), Discrete(2))
task("Frames", Box(0, 255, (3, 40, 36), np.uint8), Discrete(2))
task("Words", Text(8), Discrete(2))
task("Huge", Discrete(10**9), Discrete(2))


class Cut(gymnasium.Env):
    """Shows the step and pays 1; in step 3 the first instance is cut off and the second terminates, and so on."""

    observation_space = Box(0, 9, (2,), np.float32)
    action_space = Discrete(2)

    made = itertools.cycle((True, False))

    def __init__(self, render_mode=None):
        self.render_mode, self.cut = render_mode, next(self.made)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0, self.t == 3 and not self.cut, self.t == 3 and self.cut, {}

    def _obs(self):
        return np.array([self.t, 0], np.float32)


gymnasium.register("Cut-v0", entry_point=Cut)
