"""Actors and critics: two networks that share no parameter.

Letters of the shapes: M samples, C H W image, D vector, A actions. Images arrive as uint8 and are scaled to [0, 1]
inside the network. A new network is one function and one row of NETWORKS.

The weights are float32. `ActorCritic.compute_in` lets all layers but the last work in bfloat16 instead: on a copy of
the weights that is made once per update step. Images lie channels last in memory, which convolutions prefer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ppo import native
from ppo.convolution import Conv2d, ConvolutionStack

SCALE = 1.0 / 255.0  # of a pixel


class ScaleImage(nn.Module):
    """uint8 or float (M, C, H, W) -> float32 in [0, 1], channels last in memory."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Convert and scale."""
        return scale_image(obs, torch.float32)


def scale_image(obs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return obs / 255 as a new tensor of `dtype`, channels last in memory."""
    return obs.to(dtype, memory_format=torch.channels_last, copy=True).mul_(SCALE)


def take_images(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return images[rows], channels last in memory, so that whole rows are copied."""
    return images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


class ReLU(nn.Module):
    """max(x, 0), which may take the place of x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same shape."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            return BitwiseReLU.apply(x)
        return torch.relu_(x)


class BitwiseReLU(torch.autograd.Function):
    """ReLU of bfloat16 numbers by their bits: a negative one is a negative int16 too, and zero is zero.

    torch 2.13 converts bfloat16 to float32 and back in its own ReLU: six times slower forward, twice backward.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Clamp in place."""
        x.view(torch.int16).clamp_min_(0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        """Pass the gradient where the output is above zero: its bits times 1, elsewhere times 0."""
        (out,) = ctx.saved_tensors
        return out.view(torch.int16).clamp_max(1).mul_(grad.view(torch.int16)).view(torch.bfloat16)


class Flatten(nn.Module):
    """(M, C, H, W) -> (M, H * W * C), in the order in which channels-last memory lies: nothing is copied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Flatten all but the samples."""
        return x.permute(0, 2, 3, 1).flatten(1)


def mario_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Four 3x3 convolutions of stride 2 with 32 channels, then 512 units: the network of the Tianchi course."""
    channels, height, width = obs_shape
    layers: list[nn.Module] = [ScaleImage()]
    for _ in range(4):
        layers += [Conv2d(channels, 32, 3, stride=2, padding=1), ReLU()]
        channels, height, width = 32, (height + 1) // 2, (width + 1) // 2
    layers += [Flatten(), nn.Linear(32 * height * width, 512), ReLU()]  # (M, 1152) -> (M, 512) for 84x84
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
    """Return convolutions, each (channels, kernel, stride) and without padding, with a layer of `units` behind them."""
    channels, height, width = obs_shape
    layers: list[nn.Module] = [ScaleImage()]
    for out, kernel, stride in convolutions:
        layers += [Conv2d(channels, out, kernel, stride=stride), ReLU()]
        channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
    layers += [Flatten(), nn.Linear(channels * height * width, units), ReLU()]
    return nn.Sequential(*layers), units


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))), the block of IMPALA's deep network."""

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, C, H, W) -> the same shape."""
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


def impala_cnn(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Fifteen convolutions in three stages, of Espeholt et al. 2018, "IMPALA", arXiv:1802.01561, figure 3 (right)."""
    channels, height, width = obs_shape
    layers: list[nn.Module] = [ScaleImage()]
    for out in (16, 32, 32):
        layers += [Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [Residual(out), Residual(out)]
        channels, height, width = out, (height + 1) // 2, (width + 1) // 2
    layers += [ReLU(), Flatten(), nn.Linear(32 * height * width, 256), ReLU()]
    return nn.Sequential(*layers), 256


def mlp(obs_shape: tuple[int, ...]) -> tuple[nn.Sequential, int]:
    """Two layers of 64 tanh units for vectors, as in PPO section 6.1."""
    return nn.Sequential(nn.Linear(int(np.prod(obs_shape)), 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()), 64


NETWORKS: dict[str, Callable[[tuple[int, ...]], tuple[nn.Sequential, int]]] = {
    "mario": mario_cnn,
    "nature": nature_cnn,
    "small": small_cnn,
    "impala": impala_cnn,
    "mlp": mlp,
}


def with_stack(body: nn.Module) -> nn.Module:
    """Return the same modules; convolutions at the beginning, each with a ReLU behind it, as one."""
    modules, count = list(body.children()), 0
    while count < len(modules) - 1 and isinstance(modules[count], Conv2d) and isinstance(modules[count + 1], ReLU):
        count += 2
    return nn.Sequential(ConvolutionStack(*modules[:count]), *modules[count:]) if count else body


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


class ActorCritic(nn.Module):
    """An actor `pi`: obs -> logits (M, A), and a critic `v`: obs -> value (M,). They share nothing."""

    def __init__(self, network: str, obs_shape: tuple[int, ...], num_actions: int, init: str, seed: int) -> None:
        """Build both networks from their name in NETWORKS with weights drawn from `seed`.

        Raises:
            ValueError: unknown name, or a network for images given a vector or the other way round.
        """
        super().__init__()
        if network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
        if (len(obs_shape) == 3) != (network != "mlp"):
            raise ValueError(f"network {network!r} does not take observations of shape {tuple(obs_shape)}")
        self.num_actions, self.image = num_actions, len(obs_shape) == 3
        generator = torch.Generator().manual_seed(seed)
        self.pi = self._build(network, obs_shape, num_actions, init, 0.01, generator)
        self.v = self._build(network, obs_shape, 1, init, 1.0, generator)
        self.compute_in(torch.float32)

    @staticmethod
    def _build(
        network: str, obs_shape: tuple[int, ...], outputs: int, init: str, gain: float, generator: torch.Generator
    ) -> nn.Sequential:
        body, features = NETWORKS[network](obs_shape)
        net = nn.Sequential(*body, nn.Linear(features, outputs))
        initialise(net, init, gain, generator)
        return net.to(memory_format=torch.channels_last) if len(obs_shape) == 3 else net  # type: ignore[call-overload]

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let all layers but the last compute in `dtype`, float32 or bfloat16; the last one and its output are float32.

        Call it when the weights are on their device. Afterwards `logits`, `value` and `step` use the copies of the
        weights; `refresh` after every change of the weights, `take_gradients` after every backward pass.
        """
        self.dtype = dtype
        bodies = [net[int(self.image) : -1] for net in (self.pi, self.v)]  # `prepare` scales images for both at once
        masters: list[nn.Parameter] = []
        self.pi_copies: list[nn.Parameter] = []  # of the first parameters of `pi`
        self.v_copies: list[nn.Parameter] = []
        if dtype != torch.float32:
            masters = [p for body in bodies for p in body.parameters()]
            bodies = [with_stack(copy.deepcopy(body).to(dtype)) for body in bodies]
            self.pi_copies, self.v_copies = (list(body.parameters()) for body in bodies)
        self._copies = list(zip(masters, self.pi_copies + self.v_copies, strict=True))
        copied = {id(master) for master, _ in self._copies}
        self._direct = [p for p in self.parameters() if id(p) not in copied]
        self._bodies = bodies  # in a list: no part of the module's state

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights into the type in which the networks compute."""
        if self._copies:
            torch._foreach_copy_([low for _, low in self._copies], [master for master, _ in self._copies])

    def zero_gradients(self) -> None:
        """Zero the gradients to which a backward pass adds; those of weights with copies come by `take_gradients`."""
        torch._foreach_zero_([p.grad for p in self._direct if p.grad is not None])

    def take_gradients(self, add: bool = True) -> None:
        """Add the gradients of the copies to those of the weights in float32, or take their place, and forget them."""
        for master, low in self._copies:
            if low.grad is not None:
                assert master.grad is not None
                if add:
                    master.grad.add_(low.grad)
                else:
                    master.grad.copy_(low.grad)
                low.grad = None

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return observations, or some rows of them, as `logits` and `value` take them: converted once for both."""
        if not self.image:
            return (obs if rows is None else obs.index_select(0, rows)).to(self.dtype)
        lying = obs.permute(0, 2, 3, 1).is_contiguous()  # as it does in the buffer
        if self.dtype == torch.bfloat16 and obs.device.type == "cpu" and lying and native.library() is not None:
            return native.scale_images(obs, torch.arange(len(obs)) if rows is None else rows, SCALE)
        return scale_image(obs if rows is None else take_images(obs, rows), self.dtype)

    def logits(self, prepared: torch.Tensor) -> torch.Tensor:
        """(M, A) float32."""
        return self.pi[-1](self._bodies[0](prepared).float())

    def value(self, prepared: torch.Tensor) -> torch.Tensor:
        """V(obs), (M,) float32."""
        return self.v[-1](self._bodies[1](prepared).float()).squeeze(-1)

    @torch.no_grad()
    def step(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (N, A) and values (N,) for acting."""
        prepared = self.prepare(obs)
        return self.logits(prepared), self.value(prepared)
