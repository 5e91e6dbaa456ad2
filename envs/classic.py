"""Any Gymnasium id (CartPole-v1 and its like) under this package's contract of vector environments.

Gymnasium environments cannot be saved in general, so a state is the actions of the running episode: restoring resets
with the episode's derived seed, plays them again and checks that the same observation comes out.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from envs import spaces
from envs.family import MAX_EPISODE_STEPS, Family, Option, Preset
from envs.vector import VecEnv, check_arrays, pack
from utils.seeding import episode_seed

STATE_VERSION = 1
# Packages that register games of a family here under its ids, with other rewards: what it does not know is unknown.
NOT_THESE = ("gym_super_mario_bros", "gymnasium_mariobros")


def known(env_id: str) -> bool:
    """Return whether Gymnasium can make this id; the module of "module:Id-v0" has been imported by now."""
    try:
        return _ours(gymnasium.spec(env_id.rpartition(":")[2]))
    except (gymnasium.error.Error, ImportError):
        return False


def _ours(spec: EnvSpec) -> bool:
    return not str(spec.entry_point).startswith(NOT_THESE)


def ids() -> list[str]:
    """Return the ids that are registered with Gymnasium."""
    return [name for name, spec in gymnasium.registry.items() if "/" not in name and _ours(spec)]


CLASSIC = Preset(
    "classic",
    "small vector environments: what rl-baselines3-zoo uses for CartPole; 8 environments x 32 steps = 256",
    {
        "network": "mlp", "num_envs": 8, "steps_per_epoch": 8 * 32, "minibatch_size": 256, "gamma": 0.98, "lam": 0.8,
        "pi_lr": 1e-3, "v_lr": 1e-3, "train_pi_iters": 20, "train_v_iters": 20, "anneal_lr": True, "anneal_clip": True,
        "ent_coef": 0.0, "epochs": 400,
    },
)  # fmt: skip

FAMILY = Family(
    name="classic",
    known=known,
    ids=ids,
    make="envs.classic:ClassicVec",
    presets=(CLASSIC,),
    options=(
        MAX_EPISODE_STEPS,
        Option(name="env_kwargs", default={}, kind=dict, help="keyword arguments of the environment", settable=False),
    ),
)


class ClassicVec(VecEnv):
    """N Gymnasium environments, stepped one after the other; `envs/spaces.py` says what the agent sees and does."""

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        arguments = dict(options["env_kwargs"])
        if options["max_episode_steps"] is not None:
            arguments["max_episode_steps"] = options["max_episode_steps"]
        self.envs = [gymnasium.make(env_id, disable_env_checker=True, **arguments) for _ in range(num_envs)]
        self._source = self.envs[0].observation_space
        self._actions = self.envs[0].action_space
        super().__init__(
            num_envs, seed, first_index, spaces.observation_space(env_id, self._source),
            spaces.action_space(env_id, self._actions),
        )  # fmt: skip
        self.env_id, self.options = env_id, options
        self.spec_dict = {
            "env_id": env_id,
            "options": options,
            "reward": "env",
            "emulator": "gymnasium",
            "versions": {"gymnasium": gymnasium.__version__},
        }
        shape, dtype = self.single_observation_space.shape, self.single_observation_space.dtype
        self._obs = np.zeros((num_envs, *shape), dtype)  # type: ignore[misc]
        self._played: list[list[Any]] = [[] for _ in range(num_envs)]

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        self._played[i] = []
        obs, _ = self.envs[i].reset(seed=episode_seed(self.seed, self.first_index + i, episode))
        self._obs[i] = spaces.observe(self._source, obs)

    def _observe(self) -> np.ndarray:
        return self._obs

    def _act(self, i: int, action: Any) -> tuple[float, bool, bool]:
        """Step environment i with an action as the agent gives it; return reward, terminated, truncated."""
        obs, reward, terminated, truncated, _ = self.envs[i].step(spaces.act(self._actions, action))
        self._obs[i] = spaces.observe(self._source, obs)
        self._played[i].append(action)
        return float(reward), bool(terminated), bool(truncated)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment; see `VecEnv.step`."""
        actions = self._checked(actions)
        env_reward = np.zeros(self.num_envs, np.float64)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for i in range(self.num_envs):
            env_reward[i], terminated[i], truncated[i] = self._act(i, actions[i])
        rewards = env_reward.astype(np.float32)
        self.episodes.add(env_reward, rewards)
        truncated &= ~terminated
        ended = terminated | truncated
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        if ended.any():
            infos["final_obs"], infos["_final_obs"] = self._obs.copy(), ended
            for i in np.flatnonzero(ended):
                infos["episodes"].append(self.episodes.row(i, bool(terminated[i])))
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._obs, rewards, terminated, truncated, infos

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        space = self.single_action_space
        if isinstance(space, Discrete):
            return self._check_actions(actions, int(space.n))
        array = np.array(actions, space.dtype)
        good = array.shape == self.action_space.shape and bool(np.isfinite(array).all())
        if good and isinstance(space, MultiDiscrete):
            good = bool(((array >= 0) & (array < space.nvec)).all())
        if not good:
            raise ValueError(f"actions: {str(actions)[:100]}, expected shape {self.action_space.shape} within {space}")
        return array

    def get_state(self) -> list[bytes]:
        """Return the states (the actions of the running episodes); see `VecEnv.get_state`."""
        return [self._save(i) for i in range(self.num_envs)]

    def _save(self, i: int) -> bytes:
        shape = self.single_action_space.shape or ()
        played = np.array(self._played[i], self.single_action_space.dtype).reshape(len(self._played[i]), *shape)
        return pack("gymnasium", STATE_VERSION, self._header(i), {"actions": played, "obs": self._obs[i]})

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Play the running episodes again; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open("gymnasium", STATE_VERSION, states)):
            self._replay(i, header, arrays)
        return self._obs

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        space, obs = self.single_action_space, self.single_observation_space
        check_arrays(arrays, actions=(space.dtype, (None, *(space.shape or ()))), obs=(obs.dtype, obs.shape or ()))
        actions = arrays["actions"]
        counts = space.n if isinstance(space, Discrete) else getattr(space, "nvec", np.inf)
        if not ((actions >= 0) & (actions < counts)).all() and not isinstance(space, Box):
            raise ValueError(f"state: its actions are not all in 0..{counts - 1}")
        if not np.isfinite(actions).all() or header["ep_len"] != len(actions):
            raise ValueError(f"state: {len(actions)} actions of {header['ep_len']} steps, or some that are not finite")

    def _replay(self, i: int, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._begin(i, header["episode"])
        for action in arrays["actions"]:
            self.alive()
            _, terminated, truncated = self._act(i, action)
            if terminated or truncated:
                raise ValueError(f"state: playing {self.env_id}'s episode again ended it")
        if not np.array_equal(self._obs[i], arrays["obs"], equal_nan=self._obs.dtype.kind == "f"):
            raise ValueError(f"state: playing {self.env_id}'s episode again did not lead to the saved observation")
        self.episodes.load(i, header)

    def render(self) -> tuple[Any, ...]:
        """Return one picture per environment, where env_kwargs held a render_mode."""
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()
