"""Drop-in for `torch.nn.Conv2d`, alone or in a stack: our own code (convolutions.cpp) where it is faster than torch's.

That is in bfloat16 on processors with AVX512-BF16 and without a matrix unit, and in float32 on those with AVX-512 or
AVX2. A stack of convolutions, with the ReLUs between them, is one step there, forward and backward: sample by sample
through all layers, so that little but the activations passes through main memory. Everything else is torch's own.
PPO_CONVOLUTION=0 leaves all to torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ppo.compute import cpp
from utils import system

LANES = 16  # floats in the widest vector register
BFLOAT16, AVX512, AVX2 = range(3)  # as convolutions.cpp numbers them


class Layer(ctypes.Structure):
    """One convolution of a call, as convolutions.cpp has it."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("side", "channels", "outputs", "kernel", "stride", "padding", "relu")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "y", "weight_gradient", "bias_gradient")),
    ]


@functools.cache
def kind(dtype: torch.dtype) -> int | None:
    """Return the number of the code for this type and processor, or None where there is none or torch is faster."""
    flags = system.processor_flags()
    if os.environ.get("PPO_CONVOLUTION") == "0" or cpp.library() is None:
        return None
    if dtype == torch.bfloat16:
        return BFLOAT16 if "avx512_bf16" in flags and "amx_bf16" not in flags else None
    if dtype == torch.float32 and {"avx2", "fma"} <= flags:
        return AVX512 if "avx512f" in flags else AVX2
    return None


class Conv2d(nn.Conv2d):
    """torch's Conv2d with the same parameters and results, up to rounding; our own code where that is faster."""

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Conv2d:
        """Return a convolution with the settings and the very parameters of `layer`."""
        sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
        ours = cls(*sizes, layer.dilation, layer.groups, layer.bias is not None, layer.padding_mode, device="meta")  # type: ignore[arg-type]
        ours.weight, ours.bias = layer.weight, layer.bias
        return ours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, C, H, W) -> (M, O, H', W')."""
        return convolve(x, [self], relu=False) if is_ours(x, [self]) else super().forward(x)


class ConvolutionStack(nn.Sequential):
    """Conv2d, ReLU, Conv2d, ReLU... as one step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, C, H, W) -> (M, O, H', W') of the last one."""
        layers = [layer for layer in self if isinstance(layer, Conv2d)]
        return convolve(x, layers, relu=True) if is_ours(x, layers) else super().forward(x)


def is_ours(x: torch.Tensor, layers: Sequence[nn.Conv2d]) -> bool:
    """Return whether convolutions.cpp takes these layers, one after the other, with an input such as x."""
    if x.device.type != "cpu" or kind(x.dtype) is None or x.shape[2] != x.shape[3]:
        return False
    if x.shape[1] % (LANES if torch.is_grad_enabled() and x.requires_grad else 2):
        return False
    return all(
        layer.kernel_size[0] == layer.kernel_size[1]
        and layer.stride[0] == layer.stride[1]
        and layer.padding[0] == layer.padding[1]
        and (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
        and layer.bias is not None
        and layer.out_channels % LANES == 0
        for layer in layers
    )


def convolve(x: torch.Tensor, layers: Sequence[nn.Conv2d], relu: bool) -> torch.Tensor:
    """Return the last layer's output, each followed by a ReLU or none, with its gradients."""
    steps = tuple((layer.stride[0], int(layer.padding[0])) for layer in layers)
    return Convolutions.apply(x, steps, relu, *(p for layer in layers for p in (layer.weight, layer.bias)))


class Convolutions(torch.autograd.Function):
    """Both directions by convolutions.cpp. Sums are float32, activations between layers of the parameters' type."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, steps: tuple[tuple[int, int], ...], relu: bool, *parameters: torch.Tensor
    ) -> torch.Tensor:
        """Convolve x (M, C, H, H); each layer has a stride and padding, a weight (O, C, K, K) and a bias (O,)."""
        call = Call(x, steps, relu, parameters)
        outputs = call.forward()
        ctx.steps, ctx.relu = steps, relu
        needed = outputs if relu else outputs[:-1]  # the last one tells where it was cut; a ReLU after it may change it
        ctx.save_for_backward(x, *parameters, *needed)
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x and of the parameters, of their type."""
        x, saved, count = ctx.saved_tensors[0], ctx.saved_tensors[1:], len(ctx.steps)
        call = Call(x, ctx.steps, ctx.relu, saved[: 2 * count], saved[2 * count :])
        grad_x, gradients = call.backward(grad, ctx.needs_input_grad[0])
        return grad_x, None, None, *(gradient.to(x.dtype) for gradient in gradients)


class Call:
    """One pass through a stack, with the arrays that convolutions.cpp reads and writes: all of them channels last."""

    def __init__(
        self,
        x: torch.Tensor,
        steps: Sequence[tuple[int, int]],
        relu: bool,
        parameters: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor] = (),
    ) -> None:
        """Allocate the arrays; `outputs` are those of the forward pass that a backward pass needs."""
        self._x = channels_last(x)
        self._keep: list[torch.Tensor] = []  # alive while pointers to them are
        self._layers = (Layer * len(steps))()
        self._shapes: list[tuple[int, ...]] = []  # of weights
        self._outputs: list[torch.Tensor] = []
        channels, side = x.shape[1], x.shape[2]
        for i, (stride, padding) in enumerate(steps):
            weight, bias = channels_last(parameters[2 * i]), parameters[2 * i + 1].contiguous()
            count, kernel = weight.shape[0], weight.shape[1]
            out_side = (side + 2 * padding - kernel) // stride + 1
            shape, last = (len(x), count, out_side, out_side), torch.channels_last
            y = outputs[i] if i < len(outputs) else torch.empty(shape, dtype=x.dtype, memory_format=last)
            pointers = (tensor.data_ptr() for tensor in (weight, bias, y))
            self._layers[i] = Layer(side, channels, count, kernel, stride, padding, int(relu), *pointers)
            self._keep += [weight, bias]
            self._shapes.append(tuple(weight.shape))
            self._outputs.append(y)
            channels, side = count, out_side

    def forward(self) -> list[torch.Tensor]:
        """Return the output of each layer, (M, O, H', W')."""
        self._call("convolutions_forward", self._x)
        return self._outputs

    def backward(self, grad: torch.Tensor, with_x: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Return the gradient of x (M, C, H, H) and of each layer's weight and bias, float32.

        Args:
            grad: (M, O, H', W'), of the last layer's output.
            with_x: whether the gradient of x is wanted; it is None otherwise.
        """
        gradients = []
        for layer, shape in zip(self._layers, self._shapes, strict=True):
            weight, bias = torch.empty(shape), torch.empty(shape[0])
            layer.weight_gradient, layer.bias_gradient = weight.data_ptr(), bias.data_ptr()
            gradients += [weight.permute(0, 3, 1, 2), bias]
        grad_x = torch.empty_like(self._x) if with_x else None
        self._call("convolutions_backward", self._x, channels_last(grad), grad_x)
        return grad_x.permute(0, 3, 1, 2) if grad_x is not None else None, gradients

    def _call(self, name: str, *tensors: torch.Tensor | None) -> None:
        compiled, code, samples = cpp.library(), kind(self._x.dtype), len(self._x)
        assert compiled is not None and code is not None
        sizes = ctypes.c_int64(len(self._layers)), ctypes.c_int64(samples)
        threads = ctypes.byref(cpp.team(samples // 2))
        pointers = map(cpp.pointer, tensors)
        getattr(compiled, name)(ctypes.c_int64(code), self._layers, *sizes, *pointers, threads)


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """(M, C, H, W) -> (M, H, W, C) contiguous, without a copy where memory already has that order."""
    return images.permute(0, 2, 3, 1).contiguous()
