"""Our gradients of a convolution against torch's in double precision."""

import pytest
import torch
from torch import nn

from ppo import convolution
from ppo.convolution import Conv2d
from ppo.networks import NETWORKS, ActorCritic

needs_the_processor = pytest.mark.skipif(
    convolution.library() is None, reason="a processor with AVX512-BF16 and without a matrix unit"
)
SHAPES = [  # samples, channels, outputs, side, kernel, stride, padding
    (3, 4, 16, 84, 8, 4, 0), (4, 16, 32, 20, 4, 2, 0), (2, 4, 32, 84, 8, 4, 0), (5, 32, 64, 20, 4, 2, 0),
    (1, 64, 64, 9, 3, 1, 0), (2, 4, 32, 84, 3, 2, 1), (3, 32, 32, 42, 3, 2, 1), (2, 32, 32, 11, 3, 2, 1),
    (2, 16, 16, 7, 3, 1, 1), (7, 16, 48, 13, 5, 3, 2), (2, 3, 16, 9, 2, 2, 0), (2, 16, 16, 10, 3, 2, 0),
    (1, 48, 16, 29, 1, 2, 0), (2, 8, 16, 11, 4, 2, 0),
]  # fmt: skip


def random_case(samples, channels, outputs, side, kernel, stride, padding):
    generator = torch.Generator().manual_seed(side)
    layer = Conv2d(channels, outputs, kernel, stride=stride, padding=padding)
    layer = layer.to(torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.randn(samples, channels, side, side, generator=generator).to(torch.bfloat16)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    return layer, x, generator


@needs_the_processor
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_gradients_are_those_of_double_precision(shape, threads):
    """Of weights, biases and input, for odd numbers of samples and inputs that no kernel reaches too."""
    layer, x, generator = random_case(*shape)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = layer(x)
        assert type(out.grad_fn).__name__ == "ConvolutionBackward"
        grad = torch.randn(out.shape, generator=generator).to(torch.bfloat16)
        out.backward(grad)
        weight, bias = convolution.weight_gradient(x.detach(), grad, layer.kernel_size[0], *shape[-2:])
    finally:
        torch.set_num_threads(before)
    exact = nn.Conv2d(shape[1], shape[2], shape[4], stride=shape[5], padding=shape[6]).double()
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    x64 = x.detach().double().requires_grad_()
    exact(x64).backward(grad.double())
    for ours, theirs in ((weight, exact.weight.grad), (bias, exact.bias.grad)):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    for ours, theirs in (
        (layer.weight.grad, exact.weight.grad),
        (layer.bias.grad, exact.bias.grad),
        (x.grad, x64.grad),
    ):
        assert (ours - theirs).abs().max() < 2**-8 * theirs.abs().max()  # rounded once, to eight bits
    assert layer.weight.grad.is_contiguous(memory_format=torch.channels_last)


@needs_the_processor
def test_small_integers_are_exact():
    """Products and sums below 2^24 have no rounding: any order of summation gives the same numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, (6, 4, 84, 84), generator=generator).bfloat16().to(memory_format=torch.channels_last)
    grad = torch.randint(-8, 9, (6, 16, 20, 20), generator=generator).bfloat16()
    weight, bias = convolution.weight_gradient(x, grad, 8, 4, 0)
    theirs = nn.grad.conv2d_weight(x.double(), (16, 4, 8, 8), grad.double(), stride=4)
    assert torch.equal(weight.double(), theirs) and torch.equal(bias.double(), grad.double().sum((0, 2, 3)))


@needs_the_processor
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "mlp"])
def test_every_network_takes_them_in_bfloat16_alone(network, monkeypatch):
    """The gradients of a whole network are torch's up to bfloat16's rounding; float32 is torch's own, bit for bit."""
    obs = torch.randint(0, 256, (4, 4, 84, 84), dtype=torch.uint8)

    def gradients(dtype):
        ac = ActorCritic(network, (4, 84, 84), 5, "orthogonal", 0)
        ac.compute_in(dtype)
        ac.refresh()
        for p in ac.parameters():
            p.grad = torch.zeros_like(p)
        calls = []
        with monkeypatch.context() as patch:
            real = convolution.weight_gradient
            patch.setattr(convolution, "weight_gradient", lambda *args: (calls.append(1), real(*args))[1])
            (ac.logits(ac.prepare(obs)).square().sum() + ac.value(ac.prepare(obs)).sum()).backward()
        ac.take_gradients()
        return torch.cat([p.grad.flatten() for p in ac.parameters()]), len(calls)

    ours, calls = gradients(torch.bfloat16)
    full, none = gradients(torch.float32)
    monkeypatch.setattr(convolution, "library", lambda: None)
    theirs, _ = gradients(torch.bfloat16)
    assert calls == 2 * sum("conv" in str(type(m)).lower() for m in ActorCritic(
        network, (4, 84, 84), 5, "orthogonal", 0).pi.modules()) and none == 0  # fmt: skip
    assert torch.equal(full, gradients(torch.float32)[0])
    assert (ours - full).norm() < 1.1 * (theirs - full).norm() + 1e-3 * full.norm()


def test_without_the_processor_everything_is_torchs(monkeypatch):
    monkeypatch.setattr(convolution, "library", lambda: None)
    layer, x, _ = random_case(2, 4, 16, 12, 4, 2, 0)
    assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(
    ("flags", "switch", "ours"),
    [({"avx512_bf16"}, "", True), ({"avx512_bf16", "amx_bf16"}, "", False), ({"avx2"}, "", False),
     ({"avx512_bf16"}, "0", False)],
)  # fmt: skip
def test_the_processor_and_the_switch_decide(flags, switch, ours, monkeypatch):
    """A matrix unit is torch's; PPO_CONVOLUTION=0 is respected."""
    monkeypatch.setattr(convolution.system, "processor_flags", lambda: flags)
    monkeypatch.setenv("PPO_CONVOLUTION", switch)
    assert (convolution.library.__wrapped__() is not None) == ours
