"""Drop-ins for torch's layers: the body of a network as the papers draw it, with the slow layers replaced.

The replaced layers use the parameters of the ones that they replace.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from ppo.compute.convolutions import Conv2d, ConvolutionStack
from ppo.networks import Residual


class ReLU(nn.Module):
    """Drop-in for `torch.nn.ReLU`: max(x, 0), in place where that is allowed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same shape."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            return BitwiseReLU.apply(x)
        return torch.relu_(x)


class BitwiseReLU(torch.autograd.Function):
    """ReLU of bfloat16 numbers by their bits: a negative one is a negative int16 too, and zero is zero.

    torch 2.13 converts bfloat16 to float32 and back in its own ReLU: six times slower forward, twice backward. A NaN
    whose sign bit is set becomes 0; the procedure looks for NaN in the parameters themselves.
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


def with_fast_layers(module: nn.Module) -> nn.Module:
    """Return `module` with its convolutions and ReLUs replaced by ours, inside of it too; it may be changed.

    A ReLU is replaced only where it follows a layer whose output nobody else can have: ours takes its place in memory.
    """
    if type(module) is nn.Conv2d:
        return Conv2d.of(module)
    if type(module) is nn.Sequential:
        layers = [with_fast_layers(child) for child in module]
        for i, (before, layer) in enumerate(itertools.pairwise(list(module))):
            if type(layer) is nn.ReLU and type(before) in (nn.Conv2d, nn.Linear, Residual):
                layers[i + 1] = ReLU()
        return with_stack(nn.Sequential(*layers))
    for name, child in list(module.named_children()):
        setattr(module, name, with_fast_layers(child))
    return module


def with_stack(body: nn.Sequential) -> nn.Sequential:
    """Return the same modules; convolutions at the beginning, each with a ReLU after it, as one."""
    modules, count = list(body), 0
    while count < len(modules) - 1 and isinstance(modules[count], Conv2d) and isinstance(modules[count + 1], ReLU):
        count += 2
    return nn.Sequential(ConvolutionStack(*modules[:count]), *modules[count:]) if count else body
