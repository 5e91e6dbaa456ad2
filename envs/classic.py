"""Any Gymnasium id (CartPole-v1 and its like) under this package's contract of vector environments.

Gymnasium environments cannot be saved in general, so a state is the actions of the running episode: restoring resets
with the episode's derived seed, plays them again and checks that the same observation comes out.
"""

from __future__ import annotations

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from envs import foreign, spaces
from envs.family import MAX_EPISODE_STEPS, THREADS, Family, Option, Preset
from envs.vector import VecEnv, check_arrays, pack
from utils.seeding import episode_seed

STATE_VERSION = 1
# With what simulators draw where there is no display: pygame without a window, MuJoCo through EGL.
WITHOUT_DISPLAY = {"SDL_VIDEODRIVER": "dummy", "MUJOCO_GL": "egl"}
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


# Numbers of rl-baselines3-zoo; what its file leaves out is Stable-Baselines3's default (3e-4, 64, 10 passes, 0.2, 0.5).
# Left out here: vf_coef, as actor and critic are separate; gSDE, networks other than `mlp`, and their initial weights.
ZOO = "DLR-RM/rl-baselines3-zoo, hyperparams/ppo.yml at 00128b5, "
CLASSIC = Preset(
    "classic",
    ZOO + "CartPole-v1: 8 environments x 32 steps = 256, 390 times; the default of ids that have no preset of their "
    "own. Unlike there, rewards are normalised: returns of 50 can saturate the critic's tanh units at this step "
    "size, so that it gives one value everywhere (data/results/classic)",
    {
        "network": "mlp",
        "num_envs": 8,
        "steps_per_epoch": 8 * 32,
        "minibatch_size": 256,
        "gamma": 0.98,
        "lam": 0.8,
        "pi_lr": 1e-3,
        "v_lr": 1e-3,
        "train_pi_iters": 20,
        "train_v_iters": 20,
        "anneal_lr": True,
        "anneal_clip": True,
        "ent_coef": 0.0,
        "norm_rew": True,
        "epochs": 390,
    },
)
CONTINUOUS = Preset(
    "continuous",
    "vwxyzjn/cleanrl, cleanrl/ppo_continuous_action.py at 016ca33, its defaults: 32 minibatches of 64 = 2048 steps, "
    "488 times",
    {
        "network": "mlp",
        "num_envs": 1,
        "steps_per_epoch": 2048,
        "minibatch_size": 64,
        "gamma": 0.99,
        "lam": 0.95,
        "pi_lr": 3e-4,
        "v_lr": 3e-4,
        "train_pi_iters": 10,
        "train_v_iters": 10,
        "anneal_lr": True,
        "norm_obs": True,
        "norm_rew": True,
        "v_loss": "clipped",
        "adv_norm": "minibatch",
        "epochs": 488,
    },
)


def tuned(
    name: str,
    title: str,
    only: tuple[str, ...],
    size: tuple[int, int, int],
    *,
    lr: float = 3e-4,
    passes: int = 10,
    normalize: bool = True,
    **more: Any,
) -> Preset:
    """Return a preset of the zoo's.

    Args:
        name: of the preset.
        title: of its entry in the file.
        only: patterns of the ids that it is made for.
        size: environments, steps of each in an epoch, samples of a minibatch.
        lr, passes: of actor and critic alike.
        normalize: observations and rewards.
        more: other settings, as they are.
    """
    num_envs, steps, minibatch = size
    settings = {
        "network": "mlp",
        "num_envs": num_envs,
        "steps_per_epoch": num_envs * steps,
        "minibatch_size": minibatch,
        "pi_lr": lr,
        "v_lr": lr,
        "train_pi_iters": passes,
        "train_v_iters": passes,
        "adv_norm": "minibatch",
        "norm_obs": normalize,
        "norm_rew": normalize,
        **more,
    }
    text = f"{ZOO}{title}: {num_envs} environment{'s' * (num_envs > 1)} x {steps} steps = {num_envs * steps}"
    return Preset(name, text, settings, only)


PRESETS = (
    tuned("acrobot", "Acrobot-v1", ("Acrobot-v*",), (16, 256, 64), passes=4, gamma=0.99, lam=0.94,
          total_steps=1_000_000),
    tuned("mountaincar", "MountainCar-v0", ("MountainCar-v*",), (16, 16, 64), passes=4, gamma=0.99, lam=0.98,
          total_steps=1_000_000),
    # Its noise of 1 is half of our unit: torques reach from -2 to 2. Other than there, rewards are normalised, as for
    # CartPole: discounted returns go down to -160; and step sizes fall, or KL passes 1 when the noise has become small.
    tuned("pendulum", "Pendulum-v1", ("Pendulum-v*",), (4, 1024, 64), lr=1e-3, gamma=0.9, lam=0.95, normalize=False,
          log_std=round(math.log(0.5), 3), norm_rew=True, anneal_lr=True, total_steps=200_000),
    tuned("lunarlander", "LunarLander-v2 and LunarLanderContinuous-v2", ("LunarLander*-v*",), (16, 1024, 64), passes=4,
          gamma=0.999, lam=0.98, ent_coef=0.01, normalize=False, epochs=61),
    tuned("bipedalwalker", "BipedalWalker-v3", ("BipedalWalker-v*",), (32, 2048, 64), gamma=0.999, lam=0.95,
          clip_ratio=0.18, total_steps=5_000_000),
    tuned("halfcheetah", "HalfCheetah-v3", ("HalfCheetah-v*",), (1, 512, 64), lr=2.0633e-5, passes=20, gamma=0.98,
          lam=0.92, clip_ratio=0.1, ent_coef=0.000401762, max_grad_norm=0.8, log_std=-2.0, total_steps=1_000_000),
    tuned("hopper", "Hopper-v3", ("Hopper-v*",), (1, 512, 32), lr=9.80828e-5, passes=5, gamma=0.999, lam=0.99,
          ent_coef=0.00229519, max_grad_norm=0.7, log_std=-2.0, total_steps=1_000_000),
    tuned("walker2d", "Walker2d-v3", ("Walker2d-v*",), (1, 512, 32), lr=5.05041e-5, passes=20, gamma=0.99, lam=0.95,
          clip_ratio=0.1, ent_coef=0.000585045, max_grad_norm=1.0, total_steps=1_000_000),
    CLASSIC,
    CONTINUOUS,
)  # fmt: skip

FAMILY = Family(
    name="classic",
    known=known,
    ids=ids,
    make="envs.classic:ClassicVec",
    draw="envs.classic:draw",
    presets=PRESETS,
    defaults={"chunk_size": 1024},  # vectors: what a call costs does not depend on how many they are
    options=(
        MAX_EPISODE_STEPS,
        Option("env_kwargs", {}, "keyword arguments of the environment, as JSON", confirmed=True),
        Option(
            "wrapper",
            None,
            "MODULE:FUNCTION that is given each environment and returns what is used in its place",
            optional=True,
            confirmed=True,
        ),
        replace(THREADS, help=f"{THREADS.help}: for those that wait, or compute outside of Python"),
    ),
)


class ClassicVec(VecEnv):
    """N Gymnasium environments, stepped one after the other or by threads, each of which has one of them at a time;
    `envs/spaces.py` says what the agent sees and does."""

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        how = (dict(options["env_kwargs"]), options["max_episode_steps"], options["wrapper"])
        self.envs = [foreign.build(env_id, *how) for _ in range(num_envs)]
        self._source = self.envs[0].observation_space
        self._actions = self.envs[0].action_space
        super().__init__(
            num_envs,
            seed,
            first_index,
            spaces.observation_space(env_id, self._source),
            spaces.action_space(env_id, self._actions),
        )
        self.env_id, self.options, self._played_as = env_id, options, spaces.player(self._actions)
        self.spec_dict = {
            "env_id": env_id,
            "options": {name: value for name, value in options.items() if name != "wrapper" or value is not None},
            "reward": "env",
            "emulator": "gymnasium",
            "versions": {"gymnasium": gymnasium.__version__},
        }
        shape, dtype = self.single_observation_space.shape, self.single_observation_space.dtype
        self._obs = np.zeros((num_envs, *shape), dtype)  # type: ignore[misc]
        self._played: list[list[Any]] = [[] for _ in range(num_envs)]
        threads = min(options["threads"], num_envs)
        self._threads = ThreadPoolExecutor(threads, "classic") if threads > 1 else None

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        self._played[i] = []
        try:
            self._obs[i] = self._first_observation(i, episode_seed(self.seed, self.first_index + i, episode))
        except (Exception, SystemExit) as error:
            raise self._broken(i, error) from error

    def _first_observation(self, i: int, seed: int) -> np.ndarray:
        result = self.envs[i].reset(seed=seed)
        if not isinstance(result, tuple) or len(result) != 2:
            raise foreign.BrokenEnvironment(f"reset returned {type(result).__name__}, expected (obs, info)")
        for mine, name in ((self._source, "observation_space"), (self._actions, "action_space")):
            theirs = getattr(self.envs[i], name)
            if theirs is not mine and theirs != mine:
                raise foreign.BrokenEnvironment(f"{name} is {str(theirs)[:150]}, was {str(mine)[:150]}")
        return foreign.observed(self._source, result[0])

    def _broken(self, i: int, error: BaseException) -> foreign.BrokenEnvironment:
        """Say of whatever went wrong which environment did it, and in which step."""
        where = f"{self.env_id}: environment {self.first_index + i}, step {self.episodes.ep_len[i]} of episode "
        what = str(error) if isinstance(error, foreign.BrokenEnvironment) else f"{type(error).__name__}: {error}"
        return foreign.BrokenEnvironment(f"{where}{self.episodes.number[i]}: {what}")

    def _observe(self) -> np.ndarray:
        return self._obs

    def _act(self, i: int, action: Any) -> tuple[float, bool, bool]:
        """Step environment i with an action as the agent gives it; return reward, terminated, truncated."""
        try:
            result = self.envs[i].step(self._played_as(action))
            obs, reward, terminated, truncated = foreign.outcome(result)
            self._obs[i] = foreign.observed(self._source, obs)
        except (Exception, SystemExit) as error:
            raise self._broken(i, error) from error
        self._played[i].append(action)
        return reward, terminated, truncated

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment; see `VecEnv.step`."""
        actions = self._checked(actions)
        env_reward = np.zeros(self.num_envs, np.float64)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        mapped = map if self._threads is None else self._threads.map
        for i, outcome in enumerate(mapped(self._act, range(self.num_envs), actions)):
            env_reward[i], terminated[i], truncated[i] = outcome
        rewards = env_reward.astype(np.float32)
        self.episodes.add(env_reward, rewards)
        truncated &= ~terminated
        ended = terminated | truncated
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        if ended.any():
            infos["final_obs"], infos["_final_obs"] = self._obs.copy(), ended
            for i in np.flatnonzero(ended).tolist():
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
        """Close the environments; one that cannot be closed is no reason to lose a run."""
        if self._threads is not None:
            self._threads.shutdown()
        for i, env in enumerate(self.envs):
            try:
                env.close()
            except (Exception, SystemExit) as error:
                name = f"{self.env_id}: environment {self.first_index + i}"
                warnings.warn(f"{name}: close raised {type(error).__name__}: {error}", stacklevel=2)


def draw(env_id: str, seed: int, options: dict[str, Any]) -> ClassicVec:
    """Return one environment that draws itself into an array.

    Raises:
        ValueError: it cannot.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        for name, value in WITHOUT_DISPLAY.items():
            os.environ.setdefault(name, value)
    vec = ClassicVec(env_id, 1, seed, 0, options | {"env_kwargs": options["env_kwargs"] | {"render_mode": "rgb_array"}})
    vec.reset()
    try:
        picture = vec.render()[0]
    except Exception as error:  # simulators' and graphics libraries' errors share no base class
        vec.close()
        raise ValueError(f"env: {env_id} cannot be drawn: {foreign.in_our_words(error)}") from None
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise ValueError(f"env: {env_id} has no pictures")
    vec.metadata = vec.metadata | {"render_fps": float(vec.envs[0].metadata.get("render_fps", 30))}
    return vec
