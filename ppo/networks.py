"""Actors and critics, as the papers draw them: two networks that share no parameter or, on request, one body.

Letters of the shapes: M samples, C H W image, D vector, P parameters of a distribution of actions (A logits of a
Discrete space's). Images are uint8 and are scaled to [0, 1] inside the network. A new network is one function
and one row of NETWORKS.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ppo import core
from utils.imports import load_function

SCALE = 1.0 / 255.0  # of a pixel

# Shape of an observation -> layers, number of features. A user's function may give any module for the layers.
Body = Callable[[tuple[int, ...]], tuple[nn.Sequential, int]]
Memory = Callable[[int], nn.Module]  # features -> a layer that remembers, with its number of units; see recurrent.py


class ScaleImage(nn.Module):
    """uint8 or float (M, C, H, W) -> float32 in [0, 1]."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Convert and scale."""
        return obs.to(torch.float32, memory_format=torch.channels_last, copy=True).mul_(SCALE)


class Flatten(nn.Module):
    """(M, C, H, W) -> (M, H * W * C), in the order of channels-last memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten all but the samples."""
        return x.permute(0, 2, 3, 1).flatten(1)


def mario_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Four 3x3 convolutions of stride 2 with 32 channels, 512 units; of gaoxiaos/Supermariobros-PPO-pytorch."""
    channels, height, width = obs_shape
    layers: list[nn.Module] = [ScaleImage()]
    for _ in range(4):
        layers += [nn.Conv2d(channels, 32, 3, stride=2, padding=1), nn.ReLU()]
        channels, height, width = 32, (height + 1) // 2, (width + 1) // 2
    layers += [Flatten(), nn.Linear(32 * height * width, 512), nn.ReLU()]  # (M, 1152) -> (M, 512) for 84x84
    return nn.Sequential(*layers), 512


def nature_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Three convolutions and 512 units, of Mnih et al. 2015, "Human-level control...", Nature 518, Methods."""
    return _convolutions(obs_shape, ((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512)


def small_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Two convolutions and 256 units, of Mnih et al. 2013, "Playing Atari...", arXiv:1312.5602, section 4.1.

    A third of the Nature network's work.
    """
    return _convolutions(obs_shape, ((16, 8, 4), (32, 4, 2)), 256)


def _convolutions(
    obs_shape: tuple[int, ...], convolutions: tuple[tuple[int, int, int], ...], units: int
) -> tuple[nn.Sequential, int]:
    """Return convolutions, each (channels, kernel, stride) and without padding, followed by a layer of `units`."""
    channels, height, width = obs_shape
    layers: list[nn.Module] = [ScaleImage()]
    for out, kernel, stride in convolutions:
        layers += [nn.Conv2d(channels, out, kernel, stride=stride), nn.ReLU()]
        channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    layers += [Flatten(), nn.Linear(channels * height * width, units), nn.ReLU()]
    return nn.Sequential(*layers), units


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), the block of IMPALA's deep network."""

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, C, H, W) -> the same shape."""
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


def impala_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Fifteen convolutions in three stages, of Espeholt et al. 2018, "IMPALA", arXiv:1802.01561, figure 3 (right)."""
    layers, (channels, height, width) = _impala_stages(obs_shape)
    layers += [Flatten(), nn.Linear(channels * height * width, 256), nn.ReLU()]
    return nn.Sequential(*layers), 256


def impoola_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """IMPALA's convolutions, each channel averaged over the image before the 256 units, of Trumpp et al. 2025,
    "Impoola: The Power of Average Pooling for Image-Based Deep Reinforcement Learning", RLC 2025."""
    layers, (channels, _, _) = _impala_stages(obs_shape)
    layers += [nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(channels, 256), nn.ReLU()]
    return nn.Sequential(*layers), 256


def _impala_stages(obs_shape: tuple[int, ...]) -> tuple[list[nn.Module], tuple[int, int, int]]:
    """Return the convolutions, with a ReLU after them, and the shape that they give."""
    channels, height, width = obs_shape
    layers: list[nn.Module] = [ScaleImage()]
    for out in (16, 32, 32):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [Residual(out), Residual(out)]
        channels, height, width = out, (height + 1) // 2, (width + 1) // 2
    return [*layers, nn.ReLU()], (channels, height, width)


def mlp(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Two layers of 64 tanh units for vectors, as in PPO section 6.1; (M, D1, D2) -> (M, D1 * D2) first."""
    return _fully_connected(obs_shape, (64, 64), nn.Tanh)


def wide_mlp(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Layers of 256 and 128 ReLU units for vectors of some hundred numbers; (M, D1, D2) -> (M, D1 * D2) first."""
    return _fully_connected(obs_shape, (256, 128), nn.ReLU)


def large_mlp(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Layers of 512, 512 and 256 ReLU units, for many tasks at once; (M, D1, D2) -> (M, D1 * D2) first."""
    return _fully_connected(obs_shape, (512, 512, 256), nn.ReLU)


def _fully_connected(
    obs_shape: tuple[int, ...], sizes: tuple[int, ...], activation: type[nn.Module]
) -> tuple[nn.Sequential, int]:
    """Return layers of these sizes, an activation after each, and the last size."""
    layers: list[nn.Module] = [] if len(obs_shape) == 1 else [nn.Flatten()]
    for before, size in itertools.pairwise((int(np.prod(obs_shape)), *sizes)):
        layers += [nn.Linear(before, size), activation()]
    return nn.Sequential(*layers), sizes[-1]


NETWORKS: dict[str, Body] = {
    "mario": mario_cnn,
    "nature": nature_cnn,
    "small": small_cnn,
    "impala": impala_cnn,
    "impoola": impoola_cnn,
    "mlp": mlp,
    "mlp_wide": wide_mlp,
    "mlp_large": large_mlp,
}
FOR_VECTORS = ("mlp", "mlp_wide", "mlp_large")  # the others take pictures


def find_network(name: str) -> Body:
    """Return the body of a name in NETWORKS, or import a user's MODULE:FUNCTION, which is such a function.

    Raises:
        ValueError: no such name, module or function.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if name in ("lstm", "lnlstm"):
        raise ValueError(f"network: {name!r} is a policy with a memory: --policy {name}")
    return load_function("network", name, NETWORKS)


class Normalise(nn.Module):
    """(M, *O) -> clip((obs - mean) / std, -10, 10), by numbers that `ppo/normalise.py` sets; no parameters."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        """Start with mean 0 and standard deviation 1. Args: obs_shape: *O."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(obs_shape))
        self.register_buffer("std", torch.ones(obs_shape))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Normalise and clip."""
        return ((obs - self.mean) / self.std).clamp_(-10.0, 10.0)


class GaussianHead(nn.Linear):
    """The last layer of an actor of continuous actions: their means, and a log std that no observation changes.

    As in PPO section 6.1: "a Gaussian distribution, with variable standard deviations".
    """

    def __init__(self, features: int, size: int, log_std: float) -> None:
        """Args: features: of the body. size: A. log_std: all log std at the start."""
        super().__init__(features, size)
        self.log_std = nn.Parameter(torch.full((size,), log_std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, features) -> (M, 2 A): means, log std."""
        mean = super().forward(x)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)


def initialise(net: nn.Sequential, init: str, last_gain: float, generator: torch.Generator) -> None:
    """Fill the weights and zero the biases.

    Args:
        net: body and, as its last module, the linear head.
        init: "orthogonal" (gain sqrt 2 in the body, `last_gain` in the head: Andrychowicz et al. 2021,
            arXiv:2006.05990, section 3.2) or "xavier" (uniform, Glorot and Bengio 2010).
        last_gain: 0.01 keeps a new policy close to uniform; 1 for a critic.
        generator: source of the random numbers.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if init == "orthogonal":
                gain = last_gain if module is net[-1] else 2**0.5
                nn.init.orthogonal_(module.weight, gain, generator=generator)
            elif init == "xavier":
                nn.init.xavier_uniform_(module.weight, generator=generator)
            else:
                raise ValueError(f"init must be orthogonal or xavier, got {init!r}")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Evaluator:
    """The forward passes of collecting and training, here of networks without a memory: only the observation counts.

    Attributes:
        chunk_steps: consecutive steps of an environment that stay in one piece in training.
        dtype: what all layers but the last compute in.
    """

    chunk_steps = 1
    dtype = torch.float32

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> Any:
        """Return observations, or some rows of them (M,) int64, as `logits` and `value` take them."""
        raise NotImplementedError

    def pi_features(self, prepared: Any) -> torch.Tensor:
        """Return what the actor's head sees: (M, features) float32."""
        raise NotImplementedError

    def logits(self, prepared: Any) -> torch.Tensor:
        """The parameters of the distribution of actions, (M, P) float32: logits, or means and log std."""
        raise NotImplementedError

    def value(self, prepared: Any) -> torch.Tensor:
        """V(obs), (M,) float32."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Bring up to date what was made from the weights: nothing here."""

    @torch.no_grad()
    def step(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the parameters (N, P) and values (N,) for acting."""
        prepared = self.prepare(obs)
        return self.logits(prepared), self.value(prepared)

    @torch.no_grad()
    def next_value(self, obs: torch.Tensor, envs: np.ndarray | None = None) -> torch.Tensor:
        """Return V of what follows the last step, of all environments or of those where `envs` (N,) is set."""
        return self.value(self.prepare(obs))

    def forget(self, ended: np.ndarray) -> None:
        """Forget the episodes that ended with the last step, `ended` (N,) bool: nothing is remembered here."""

    def get_state(self) -> np.ndarray:
        """Return what is remembered of the running episodes: (N, S) float32, with S = 0 here."""
        return np.zeros((0, 0), np.float32)

    def set_state(self, state: np.ndarray) -> None:
        """Put back what `get_state` returned."""

    def recall(self, obs: torch.Tensor, state: torch.Tensor) -> Any:
        """Return obs (N, *O) and what was remembered before (N, S) as `logits` and `value` take them."""
        return self.prepare(obs)

    def state_after(self, recalled: Any) -> torch.Tensor:
        """Return what is remembered after a step that `recall` returned, once its logits were computed: (N, S)."""
        return torch.zeros(0)


class ActorCritic(nn.Module, Evaluator):
    """An actor `pi`: obs -> params (M, P), and a critic `v`: obs -> value (M, 1). They share nothing.

    Attributes:
        shared: whether both are heads of one body.
        bodies: the layers before memory and head, of actor and critic; one where they share it.
        memories: the layers that remember, likewise; none in a feed-forward network.
        state_size: S, numbers that they remember of an episode.
    """

    shared = False
    bodies: tuple[nn.Sequential, ...]
    memories: tuple[Any, ...]

    def __init__(
        self,
        network: str | Body,
        obs_shape: tuple[int, ...],
        actions: int | core.Distribution,
        init: str,
        seed: int,
        log_std: float = 0.0,
        norm_obs: bool = False,
        memory: Memory | None = None,
    ) -> None:
        """Build both networks with weights drawn from `seed`.

        Args:
            network: a name in NETWORKS, or a function such as its values. No other name is imported here: it may come
                from a stranger's file.
            obs_shape: (C, H, W) or (D,).
            actions: their distribution; a number A stands for A actions of a Discrete space.
            init: see `initialise`.
            seed: of the weights.
            log_std: at the start, of continuous actions.
            norm_obs: let `norm` normalise observations, which then are no images.
            memory: makes a layer between body and head. Such networks are evaluated by `recurrent.Recurrent`.

        Raises:
            ValueError: unknown name, or a network or normalisation that does not take such observations.
        """
        super().__init__()
        if isinstance(network, str) and network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        if isinstance(network, str) and (len(obs_shape) == 3) == (network in FOR_VECTORS):
            others = ", ".join(name for name in NETWORKS if (name in FOR_VECTORS) != (network in FOR_VECTORS))
            what = f"network {network!r} does not take observations of shape {tuple(obs_shape)}"
            raise ValueError(f"{what}, expected {others}")
        if norm_obs and len(obs_shape) == 3:
            raise ValueError(f"norm-obs: images {tuple(obs_shape)} are scaled anyway: --no-norm-obs")
        self.norm = Normalise(obs_shape) if norm_obs else None
        self.dist = core.Categorical(actions) if isinstance(actions, int) else actions
        body = NETWORKS[network] if isinstance(network, str) else network
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # layers that `initialise` does not know draw from torch's own
            torch.manual_seed(seed)
            self.pi = self._build(body, obs_shape, self._head(log_std), init, 0.01, generator, memory)
            self.v = self._build_critic(body, obs_shape, init, generator, memory)
        nets = (self.pi,) if self.shared else (self.pi, self.v)
        self.bodies = tuple(nn.Sequential(*list(net)[: -1 if memory is None else -2]) for net in nets)
        self.memories = () if memory is None else tuple(net[-2] for net in nets)
        self.state_size = sum(2 * layer.units for layer in self.memories)

    def _build_critic(
        self, body: Body, obs_shape: tuple[int, ...], init: str, generator: torch.Generator, memory: Memory | None
    ) -> nn.Sequential:
        return self._build(body, obs_shape, lambda features: nn.Linear(features, 1), init, 1.0, generator, memory)

    def _head(self, log_std: float) -> Callable[[int], nn.Linear]:
        """Return what makes the actor's last layer, given the number of features."""
        dist = self.dist
        if isinstance(dist, core.Gaussian):
            return lambda features: GaussianHead(features, dist.size, log_std)
        return lambda features: nn.Linear(features, dist.num_params)

    @staticmethod
    def _build(
        body: Body,
        obs_shape: tuple[int, ...],
        head: Callable[[int], nn.Linear],
        init: str,
        gain: float,
        generator: torch.Generator,
        memory: Memory | None,
    ) -> nn.Sequential:
        drawn = body(obs_shape)
        if not (isinstance(drawn, tuple) and len(drawn) == 2):
            raise TypeError(f"expected (layers, number of features), got {type(drawn).__name__}")
        layers, features = drawn
        if type(layers) is not nn.Sequential:  # any other module stays whole: its `forward` is its own
            layers = nn.Sequential(layers)
        remembering: list[Any] = [] if memory is None else [memory(features)]
        features = remembering[0].units if remembering else features
        net = nn.Sequential(*layers, *remembering, head(features))
        initialise(net, init, gain, generator)
        for layer in remembering:
            layer.initialise(init, generator)
        if len(obs_shape) == 3:  # the memory format that torch's convolutions prefer
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return observations, or some rows of them (M,) int64, as `logits` and `value` take them."""
        return self.take(obs, rows)

    def take(self, obs: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        """Return observations, or some rows of them, normalised where that was asked for."""
        obs = obs if rows is None else obs.index_select(0, rows)
        return obs if self.norm is None else self.norm(obs)

    def pi_features(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return what the actor's head sees: (M, features) float32."""
        return self.bodies[0](prepared)

    def v_features(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return what the critic's head sees: (M, features) float32."""
        return self.bodies[1](prepared)

    def logits(self, prepared: torch.Tensor) -> torch.Tensor:
        """The parameters of the distribution of actions, (M, P) float32: logits, or means and log std."""
        return self.pi[-1](self.pi_features(prepared))

    def value(self, prepared: torch.Tensor) -> torch.Tensor:
        """V(obs), (M,) float32."""
        return self.v[-1](self.v_features(prepared)).squeeze(-1)


class SharedActorCritic(ActorCritic):
    """One body with two heads, which PPO section 5 trains with a joint loss: `pi` is body and actor's head, `v` a head.

    `prepare` evaluates the body, once for both heads.
    """

    shared = True

    def _build_critic(
        self, body: Body, obs_shape: tuple[int, ...], init: str, generator: torch.Generator, memory: Memory | None
    ) -> nn.Sequential:
        head = self.pi[-1]
        assert isinstance(head, nn.Linear)
        v = nn.Sequential(nn.Linear(head.in_features, 1))
        initialise(v, init, 1.0, generator)
        return v

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return the body's features (M, features) of observations, or of some rows of them (M,) int64."""
        return self.bodies[0](super().prepare(obs, rows))

    def pi_features(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the features as they are: `prepare` has evaluated the body."""
        return prepared

    def v_features(self, prepared: torch.Tensor) -> torch.Tensor:
        """Return the features as they are: `prepare` has evaluated the body."""
        return prepared
