"""Environments that break their promises, each in one way: `--env tests.hostile:NaN-v0`, `tests.hostile:ROW[...]`."""

import threading

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

ROOM, ACTIONS = Box(-1, 1, (2,), np.float32), Discrete(2)
VALID = np.zeros(2, np.float32)


class Fair(gymnasium.Env):
    """Keeps every promise; `wrong` says where a subclass does not, from its step number 3 on."""

    observation_space, action_space = ROOM, ACTIONS
    first, after = (VALID, {}), (VALID, 1.0, False, False, {})
    resets = steps = 0

    def reset(self, *, seed=None, options=None):
        self.resets, self.steps = self.resets + 1, 0
        return self.first() if callable(self.first) else self.first

    def step(self, action):
        self.steps += 1
        wrong = self.steps > 3
        return (self.after(self) if callable(self.after) else self.after) if wrong else (VALID, 1.0, False, False, {})


def raises(error):
    def throw(*args):
        raise error

    return throw


def reset(result, **more):
    return {"first": staticmethod(result) if callable(result) else result, **more}


def step(obs=VALID, reward=1.0, terminated=False, truncated=False, info=None):
    return {"after": (obs, reward, terminated, truncated, info or {})}


def thrown(error):
    return {"after": staticmethod(raises(error))}


DICT = Dict({"a": Box(0, 1, (1,), np.float32), "b": Discrete(2)})

# Name -> what is wrong, where ("reset" or "step"), words of the message.
ROWS = {
    "ResetRaises": (reset(raises(RuntimeError("no board"))), "reset", "RuntimeError: no board"),
    "ResetExits": (reset(raises(SystemExit(3))), "reset", "SystemExit: 3"),
    "ResetNothing": (reset(None), "reset", "reset returned NoneType"),
    "ResetAlone": (reset(VALID), "reset", "reset returned ndarray"),
    "ResetThree": (reset((VALID, {}, 1)), "reset", "reset returned tuple"),
    "ResetShape": (reset((np.zeros(3, np.float32), {})), "reset", "shape (3,), its space says float32 of shape (2,)"),
    "ResetText": (reset(("left", {})), "reset", "its space says float32"),
    "ResetNaN": (reset((VALID + np.nan, {})), "reset", "is not finite"),
    "StepRaises": (thrown(KeyError("lever")), "step", "KeyError: 'lever'"),
    "StepExits": (thrown(SystemExit("bye")), "step", "SystemExit: bye"),
    "StepMemory": (thrown(MemoryError()), "step", "MemoryError"),
    "StepAsserts": (thrown(AssertionError("odd")), "step", "AssertionError: odd"),
    "StepNothing": ({"after": None}, "step", "step returned NoneType"),
    "StepFour": ({"after": (VALID, 1.0, False, {})}, "step", "step returned 4 values"),
    "StepSix": ({"after": (VALID, 1.0, False, False, {}, 0)}, "step", "step returned 6 values"),
    "StepList": ({"after": [VALID, 1.0, False, False, {}]}, "step", "step returned list"),
    "NaN": (step(VALID + np.nan), "step", "is not finite"),
    "Infinity": (step(VALID + np.inf), "step", "is not finite"),
    "Enormous": (step(np.full(2, 1e300)), "step", "is not finite"),
    "Shape": (step(np.zeros((1, 2), np.float32)), "step", "shape (1, 2)"),
    "Scalar": (step(0.5), "step", "shape ()"),
    "Nothing": (step(None), "step", "observation object of shape ()"),
    "Ragged": (step([[1.0], [2.0, 3.0]]), "step", "ValueError"),
    "Complex": (step(VALID * 1j), "step", "complex"),
    "RewardNaN": (step(reward=float("nan")), "step", "reward 'nan'"),
    "RewardInfinite": (step(reward=np.float32("inf")), "step", "reward 'inf'"),
    "RewardNone": (step(reward=None), "step", "reward 'None'"),
    "RewardText": (step(reward="1"), "step", "reward '1'"),
    "RewardTwo": (step(reward=np.ones(2)), "step", "reward '[1. 1.]'"),
    "DoneNone": (step(terminated=None), "step", "terminated 'None'"),
    "DoneText": (step(terminated="False"), "step", "terminated 'False'"),
    "CutNumber": (step(truncated=0.5), "step", "truncated '0.5'"),
    "CutArray": (step(truncated=np.array([True, False])), "step", "truncated '[ True False]'"),
    "DiscreteBeyond": ({"observation_space": Discrete(2), "first": (5, {})}, "reset", "'5' is not in its space"),
    "DictWithout": ({"observation_space": DICT, "first": ({"b": 1}, {})}, "reset", "is not in its space"),
    "ImageOfFloats": (
        {"observation_space": Box(0, 255, (40, 40, 3), np.uint8), "first": (np.zeros((40, 40, 3)), {})},
        "reset",
        "observation of float64, its space says uint8",
    ),
}


def import_nothing(env):
    import nothing_here  # type: ignore[import-not-found]

    return nothing_here.wrap(env)


def double_of_two(env, other):
    return env


def normalised(env):
    return gymnasium.wrappers.NormalizeObservation(env)


class Changing(Fair):
    """Has one action more after its first reset."""

    def reset(self, *, seed=None, options=None):
        self.action_space = Discrete(2 + self.resets)
        return super().reset()

    def step(self, action):
        return VALID, 1.0, self.resets == 1, False, {}


class Unclosable(Fair):
    """Raises when it is closed."""

    def close(self):
        raise OSError("stuck")


class Meeting(Fair):
    """Each step waits until another environment is in its step too."""

    both = threading.Barrier(2, timeout=20)

    def step(self, action):
        self.both.wait()
        return super().step(action)


class Spaceless(Fair):
    """Says that its observations are a number."""

    observation_space = 5


class Unbuildable(Fair):
    """Cannot be built without a board."""

    def __init__(self, board=None):
        assert board == "yes", "no board"


class Old:
    """gym's API before 0.26: no base class, seed, four values, spaces that gymnasium does not know."""

    class Box:
        low, high, dtype, shape = np.zeros(2, np.float32), np.ones(2, np.float32), np.dtype(np.float32), (2,)

    class Discrete:
        n = 3

    observation_space, action_space = Box(), Discrete()

    def __init__(self, length=5):
        self.length, self.cut = length, length % 2 == 0

    def seed(self, seed=None):
        self.draw = np.random.default_rng(seed)

    def reset(self):
        self.steps = 0
        return self.draw.random(2, np.float32)

    def step(self, action):
        self.steps += 1
        done = self.steps >= self.length
        return self.draw.random(2, np.float32), 1.0, done, {"TimeLimit.truncated": True} if done and self.cut else {}


def double(env):
    """A wrapper: rewards twice as large."""
    return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)


def nothing(env):
    """A wrapper that forgets to return."""


for name, (wrong, _, _) in ROWS.items():
    gymnasium.register(f"{name}-v0", type(name, (Fair,), wrong), disable_env_checker=True)
for made in (Fair, Changing, Unclosable, Meeting, Spaceless, Unbuildable, Old):
    gymnasium.register(f"{made.__name__}-v0", made, disable_env_checker=True)
