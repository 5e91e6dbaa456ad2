"""A convolution whose gradients come from our own code (convolution.cpp) where that is faster than torch's.

That is in bfloat16 on processors with AVX512-BF16 and without a matrix unit. oneDNN, which torch calls, reaches 350 to
450 GFLOPS there in the forward pass (one core of an AMD EPYC, Zen 5), 130 to 260 for the gradient of the weights and
120 to 260 for that of the input of a convolution with a stride; our code 350 to 440 for both. Everything else, such as
float32, is torch's own. PPO_CONVOLUTION=0 leaves all to torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils import system

LANES = 16  # floats in a vector register


class Shape(ctypes.Structure):
    """Sizes of one call, as convolution.cpp has them."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("samples", "side", "channels", "outputs", "kernel", "stride", "padding")
    ]  # fmt: skip


class Team(ctypes.Structure):
    """The threads of a call, as convolution.cpp has them."""

    _fields_ = [("parallel", ctypes.c_void_p), ("threads", ctypes.c_int64)]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or None where this processor is better served by torch or they are not wanted."""
    flags = system.processor_flags()
    if os.environ.get("PPO_CONVOLUTION") == "0" or "avx512_bf16" not in flags or "amx_bf16" in flags:
        return None
    found = sorted(Path(__file__).parent.glob("_convolution.*.so"))
    if not found:
        return None
    native = ctypes.CDLL(str(found[0]))
    native.convolution_weight_gradient.restype = native.convolution_input_gradient.restype = None
    return native


@functools.cache
def torch_parallel() -> int | None:
    """Return the address of GOMP_parallel in the OpenMP library that torch uses, or None where it has another one.

    Threads of our own would have to wait for torch's, which stay awake for a while after their work.
    """
    try:
        native = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(native.GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


class Conv2d(nn.Conv2d):
    """torch's Conv2d with the same parameters and results, up to rounding, and faster gradients where they are ours."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(M, C, H, W) -> (M, O, H', W')."""
        if torch.is_grad_enabled() and self._is_ours(x):
            return Convolution.apply(x, self.weight, self.bias, self.stride[0], int(self.padding[0]))
        return super().forward(x)

    def _is_ours(self, x: torch.Tensor) -> bool:
        if x.dtype != torch.bfloat16 or x.device.type != "cpu" or library() is None:
            return False
        square = self.kernel_size[0] == self.kernel_size[1] and x.shape[2] == x.shape[3]
        same = self.stride[0] == self.stride[1] and self.padding[0] == self.padding[1]
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros" and self.bias is not None
        return square and same and plain and self.out_channels % LANES == 0


class Convolution(torch.autograd.Function):
    """Forward by torch, backward by convolution.cpp."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
    ) -> torch.Tensor:
        """Convolve; x (M, C, H, H), weight (O, C, K, K), bias (O,), all bfloat16."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, weight and bias in bfloat16; the sums behind them are float32."""
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        grad_weight, grad_bias = weight_gradient(x, grad, weight.shape[2], stride, padding)
        grad_x = input_gradient(x, grad, weight, stride, padding) if ctx.needs_input_grad[0] else None
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None


def weight_gradient(
    x: torch.Tensor, grad: torch.Tensor, kernel: int, stride: int, padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the float32 gradients of the weights (O, C, K, K), channels last, and biases (O,).

    Args:
        x: (M, C, H, H) bfloat16, the convolution's input.
        grad: (M, O, H', H') bfloat16, the gradient of its output; O a multiple of 16.
        kernel: K. stride, padding: of the convolution.
    """
    rows, grads = channels_last(x), channels_last(grad)
    outputs, channels = grad.shape[1], x.shape[1]
    weight, bias = torch.empty(outputs, kernel, kernel, channels), torch.empty(outputs)
    shape = Shape(len(x), x.shape[2], channels, outputs, kernel, stride, padding)
    _call("convolution_weight_gradient", shape, rows, grads, weight, bias)
    return weight.permute(0, 3, 1, 2), bias


def input_gradient(
    x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, stride: int, padding: int
) -> torch.Tensor:
    """Return the bfloat16 gradient of x (M, C, H, H), of which only the shape counts; see `weight_gradient`.

    It is torch's own without a stride, where oneDNN is fast, and for channels that do not fill a vector.
    """
    outputs, channels, kernel, _ = weight.shape
    whole = padding == 0 and kernel % stride == 0 and x.shape[2] % stride == 0
    together = stride if whole else 1  # neighbours whose channels share vectors
    if stride == 1 or together * channels % LANES != 0:
        pair = ([stride, stride], [padding, padding], [1, 1])
        backward = torch.ops.aten.convolution_backward
        return backward(grad, x, weight, None, *pair, False, [0, 0], 1, [True, False, False])[0]
    out = torch.empty(len(x), x.shape[2], x.shape[3], channels, dtype=torch.bfloat16)
    shape = Shape(len(x), x.shape[2], channels, outputs, kernel, stride, padding)
    _call("convolution_input_gradient", shape, channels_last(grad), channels_last(weight), out)
    return out.permute(0, 3, 1, 2)


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """(M, C, H, W) -> (M, H, W, C) contiguous, without a copy where the memory already lies so."""
    return images.permute(0, 2, 3, 1).contiguous()


def _call(name: str, shape: Shape, *tensors: torch.Tensor) -> None:
    native = library()
    assert native is not None
    threads = max(1, min(torch.get_num_threads(), shape.samples // 2)) if torch_parallel() else 1
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(native, name)(ctypes.byref(shape), *pointers, ctypes.byref(Team(torch_parallel(), threads)))
