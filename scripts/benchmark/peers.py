"""The peers: what people write with nes-py, a plain PyTorch loop, and Stable-Baselines3 on the same work."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import envs
from envs.mario import stages
from envs.mario.nespy import NesPyBackend
from envs.vector import VecEnv
from ppo.networks import Flatten, ScaleImage

BUTTONS = (0, 128, 129, 130, 131, 1, 64)  # SIMPLE_MOVEMENT of gym-super-mario-bros as bytes


class UsualMario(gymnasium.Env[np.ndarray, Any]):
    """Stage 1-1 over nes-py as it is usually wrapped: seven actions, four frames, gray, 84x84, stack.

    Written as tutorials write it: an RGB picture each frame, maximum of the last two, cv2 for gray and size, a deque.
    """

    def __init__(self) -> None:
        """Build the console."""
        game = stages.parse("SuperMarioBros-1-1-v0")
        assert game is not None
        self.backend = NesPyBackend(game, (1, 1))
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(BUTTONS))
        self.frames: deque[np.ndarray] = deque(maxlen=4)

    def _picture(self) -> np.ndarray:
        return self.backend.screen[:, :, ::-1][:, :, 1:].copy()  # (240, 256, 3) RGB, as `env.step` returns it

    def _observe(self, picture: np.ndarray) -> np.ndarray:
        gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self.frames.append(cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA))
        while len(self.frames) < 4:
            self.frames.append(self.frames[-1])
        return np.stack(self.frames)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.backend.reset()
        self.frames.clear()
        return self._observe(self._picture()), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play four frames."""
        total, pictures = 0.0, []
        for _ in range(4):
            reward, done = self.backend.step(BUTTONS[int(action)])
            total += reward
            pictures.append(self._picture())
            if done:
                break
        return self._observe(np.max(pictures[-2:], axis=0)), total, done, False, {}


# A plain loop: float32, channels first, torch's modules and Adam unchanged -----------------------------------------


def plain_copy(net: nn.Sequential) -> nn.Sequential:
    """Return the same network out of torch's own modules, with the same weights, in float32 and channels first.

    The first linear layer after the convolutions reads its inputs in another order: (C, H, W) instead of (H, W, C).
    """
    layers: list[nn.Module] = []
    side, channels = 84, 0  # of the output of the convolutions so far
    for module in net:
        if isinstance(module, ScaleImage | Flatten):
            kind = {ScaleImage: Scale, Flatten: nn.Flatten}[type(module)]
            layers.append(kind())
            continue
        layer = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if isinstance(layer, nn.Conv2d):
            side = (side + 2 * int(layer.padding[0]) - layer.kernel_size[0]) // layer.stride[0] + 1
            channels = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            side = (side + 1) // 2
        elif isinstance(layer, nn.Linear) and layer.in_features == channels * side * side:
            weight = (
                layer.weight.detach().view(-1, side, side, channels).permute(0, 3, 1, 2).reshape(layer.weight.shape)
            )
            layer.weight = nn.Parameter(weight.contiguous())
        layers.append(layer)
    return nn.Sequential(*layers)


class Scale(nn.Module):
    """uint8 -> float32 in [0, 1]."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Convert and divide."""
        return obs.float() / 255.0


class PlainLearner:
    """PPO's update as it is commonly written."""

    def __init__(self, pi: nn.Sequential, v: nn.Sequential, cfg: Any) -> None:
        """Copy both networks."""
        self.cfg = cfg
        self.pi, self.v = plain_copy(pi), plain_copy(v)
        self.optimisers = [
            torch.optim.Adam(self.pi.parameters(), lr=cfg.pi_lr, eps=cfg.adam_eps),
            torch.optim.Adam(self.v.parameters(), lr=cfg.v_lr, eps=cfg.adam_eps),
        ]

    def losses(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of actor and critic on one minibatch: obs (M, C, H, W), act, logp, adv, ret (M,)."""
        logp_all = torch.log_softmax(self.pi(batch["obs"]), dim=-1)
        logp = logp_all.gather(1, batch["act"][:, None]).squeeze(1)
        ratio = torch.exp(logp - batch["logp"])
        clipped = torch.clamp(ratio, 1 - self.cfg.clip_ratio, 1 + self.cfg.clip_ratio)
        entropy = -(logp_all.exp() * logp_all).sum(-1).mean()
        loss_pi = -torch.min(ratio * batch["adv"], clipped * batch["adv"]).mean() - self.cfg.ent_coef * entropy
        return loss_pi, F.smooth_l1_loss(self.v(batch["obs"]).squeeze(-1), batch["ret"])

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Take one optimiser step on both networks."""
        for net, loss, optimiser in zip((self.pi, self.v), self.losses(batch), self.optimisers, strict=True):
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), self.cfg.max_grad_norm)
            optimiser.step()


# Stable-Baselines3 ---------------------------------------------------------------------------------------------------


def has_stable_baselines() -> bool:
    """Return whether Stable-Baselines3 is installed."""
    return importlib.util.find_spec("stable_baselines3") is not None


def has_recurrent_baselines() -> bool:
    """Return whether Stable-Baselines3-contrib, which has RecurrentPPO, is installed."""
    return importlib.util.find_spec("sb3_contrib") is not None


def stable_baselines(network: str, same_emulator: bool, num_envs: int, steps: int, cfg: Any) -> Any:
    """Return a Stable-Baselines3 PPO that does the work of `cfg`.

    Args:
        network: "mario" or "nature", for the actor and for the critic separately.
        same_emulator: on this project's environments, in this process; else on `UsualMario` in processes.
        num_envs: environments.
        steps: of each environment in an epoch.
        cfg: minibatch size, passes, gamma, lambda, step size, entropy weight and gradient bound are taken from it; with
            its policy "lstm", RecurrentPPO of Stable-Baselines3-contrib, whose sequences go on over a whole epoch.
    """
    from ppo.networks import NETWORKS

    with quiet_stderr():  # gym's notice of its own end
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
        from stable_baselines3.common.vec_env import SubprocVecEnv

    class Extractor(BaseFeaturesExtractor):  # type: ignore[misc,unused-ignore]
        def __init__(self, observation_space: Any) -> None:
            body, features = NETWORKS[network](observation_space.shape)
            super().__init__(observation_space, features)
            # The library scales itself.
            self.body = nn.Sequential(*(module for module in plain_copy(body) if not isinstance(module, Scale)))

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.body(obs)

    if same_emulator:
        env = adapted(num_envs, cfg.seed)
    else:
        with quiet_stderr():  # the same in each of its processes
            env = SubprocVecEnv([UsualMario] * num_envs, start_method="spawn")
    policy = {"features_extractor_class": Extractor, "share_features_extractor": False, "net_arch": []}
    algorithm, kind, memory = baseline(cfg)
    return algorithm(kind, env, policy_kwargs=policy | memory, n_steps=steps, **_settings(cfg))


def _settings(cfg: Any) -> dict[str, Any]:
    """Return what of `cfg` Stable-Baselines3 has under another name, but for schedules, which cost no time."""
    return {
        "batch_size": cfg.minibatch_size,
        "n_epochs": cfg.train_pi_iters,
        "gamma": cfg.gamma,
        "gae_lambda": cfg.lam,
        "learning_rate": cfg.pi_lr,
        "clip_range": cfg.clip_ratio,
        "ent_coef": cfg.ent_coef,
        "max_grad_norm": cfg.max_grad_norm,
        "device": "cpu",
        "seed": cfg.seed,
    }


def stable_baselines_on_vectors(cfg: Any) -> Any:
    """Return a Stable-Baselines3 PPO that does the work of `cfg` on a Gymnasium id, as its own documentation builds it.

    Its MlpPolicy has two networks of two layers of 64 tanh units, as `networks.mlp` has.
    """
    with quiet_stderr():  # gym's notice of its own end
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize

    env: Any = make_vec_env(cfg.env, cfg.num_envs, seed=cfg.seed)
    if cfg.norm_obs or cfg.norm_rew:
        env = VecNormalize(env, norm_obs=cfg.norm_obs, norm_reward=cfg.norm_rew, gamma=cfg.gamma)
    policy = {"log_std_init": cfg.log_std}
    return PPO("MlpPolicy", env, policy_kwargs=policy, n_steps=cfg.steps_per_env, **_settings(cfg))


def stable_baselines_on_atari(cfg: Any) -> Any:
    """Return a Stable-Baselines3 PPO that does the work of `cfg` on an Atari id, as its own documentation builds it.

    Its CnnPolicy is the Nature network with two heads, as `--network nature --shared` is.
    """
    with quiet_stderr():  # gym's notice of its own end
        import ale_py
        import gymnasium
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_atari_env
        from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    env = VecFrameStack(make_atari_env(cfg.env, cfg.num_envs, seed=cfg.seed), cfg.env_options["stack"])
    return PPO("CnnPolicy", env, n_steps=cfg.steps_per_env, clip_range_vf=cfg.v_clip, **_settings(cfg))


def baseline(cfg: Any) -> tuple[Any, str, dict[str, Any]]:
    """Return the class that does what `cfg.policy` asks for, the name of its policy, and arguments for a memory."""
    if cfg.policy == "lstm":
        from sb3_contrib import RecurrentPPO

        return RecurrentPPO, "CnnLstmPolicy", {"lstm_hidden_size": cfg.lstm_units, "enable_critic_lstm": True}
    from stable_baselines3 import PPO

    return PPO, "CnnPolicy", {}


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send what this process, and those that it starts, write to standard error nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def adapted(num_envs: int, seed: int) -> Any:
    """Return this project's vector environment as Stable-Baselines3 wants it."""
    from stable_baselines3.common.vec_env import VecEnv as Base

    class Adapted(Base):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.inner: VecEnv = envs.make_vec("SuperMarioBros-1-1-v0", num_envs, seed)
            super().__init__(num_envs, self.inner.single_observation_space, self.inner.single_action_space)
            self.actions = np.zeros(num_envs, np.int64)

        def reset(self) -> np.ndarray:
            return self.inner.reset()[0].copy()

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            obs, rewards, terminated, truncated, infos = self.inner.step(self.actions)
            done = terminated | truncated
            each: list[dict[str, Any]] = [{} for _ in done]
            for i in np.flatnonzero(done):
                each[i] = {"terminal_observation": infos["final_obs"][i].copy()}
            return obs.copy(), rewards.copy(), done, each

        def close(self) -> None:
            self.inner.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            """Nothing can be set."""

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * num_envs

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * num_envs

    return Adapted()
