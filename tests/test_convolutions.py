"""Our convolutions against torch's in double precision."""

import copy

import pytest
import torch
from torch import nn

from ppo.compute import convolutions
from ppo.compute.convolutions import Call, Conv2d, ConvolutionStack
from ppo.compute.layers import ReLU, with_stack
from ppo.compute.networks import FastActorCritic
from ppo.networks import ActorCritic
from utils import system

KINDS = {  # what each needs of the processor, its type, and how far from the exact numbers it may be
    convolutions.BFLOAT16: ({"avx512_bf16"}, torch.bfloat16, 2**-8),
    convolutions.AVX512: ({"avx512f"}, torch.float32, 1e-5),
    convolutions.AVX2: ({"avx2", "fma"}, torch.float32, 1e-5),
}
SHAPES = [  # samples, channels, outputs, side, kernel, stride, padding
    (3, 4, 16, 84, 8, 4, 0),
    (4, 16, 32, 20, 4, 2, 0),
    (2, 4, 32, 84, 8, 4, 0),
    (5, 32, 64, 20, 4, 2, 0),
    (1, 64, 64, 9, 3, 1, 0),
    (2, 4, 32, 84, 3, 2, 1),
    (3, 32, 32, 42, 3, 2, 1),
    (2, 32, 32, 11, 3, 2, 1),
    (2, 16, 16, 7, 3, 1, 1),
    (7, 16, 48, 13, 5, 3, 2),
    (2, 2, 16, 9, 2, 2, 0),
    (2, 16, 16, 10, 3, 2, 0),
    (1, 48, 16, 29, 1, 2, 0),
    (2, 32, 80, 11, 4, 2, 0),
]


@pytest.fixture(params=KINDS, ids=["bfloat16", "avx512", "avx2"])
def code(request, monkeypatch):
    """One kind of our code, which every convolution of its type uses; with its type and rounding."""
    flags, dtype, rounding = KINDS[request.param]
    if not flags <= system.processor_flags() or convolutions.cpp.library() is None:
        pytest.skip(f"a processor with {', '.join(flags)}")
    monkeypatch.setattr(convolutions, "kind", lambda wanted: request.param if wanted == dtype else None)
    return dtype, rounding


def random_images(generator, dtype, *shape):
    images = torch.randn(shape, generator=generator).to(dtype)
    return images.to(memory_format=torch.channels_last)


def random_case(samples, channels, outputs, side, kernel, stride, padding, dtype=torch.bfloat16):
    """One convolution, and an input that wants its gradient where ours gives it: with channels that fill a vector."""
    generator = torch.Generator().manual_seed(side)
    layer = Conv2d(channels, outputs, kernel, stride=stride, padding=padding)
    layer = layer.to(dtype).to(memory_format=torch.channels_last)
    x = random_images(generator, dtype, samples, channels, side, side)
    return layer, x.requires_grad_(channels % 16 == 0), generator


def in_double(module, x, grad, relu):
    """Return what torch gives in double precision: output, gradients of the parameters, gradient of x."""
    exact, x64 = copy.deepcopy(module).double(), x.detach().double().requires_grad_()
    out = x64
    for layer in exact.modules():
        if isinstance(layer, nn.Conv2d):
            out = nn.functional.conv2d(out, layer.weight, layer.bias, layer.stride, layer.padding)
            out = out.relu() if relu else out
    exact.zero_grad()
    out.backward(grad.double())
    return out, [p.grad for p in exact.parameters()], x64.grad


@pytest.mark.parametrize("shape", SHAPES)
def test_one_convolution_is_that_of_double_precision(shape, code, torch_threads):
    """Output and gradients, for odd numbers of samples and inputs that no kernel reaches too."""
    dtype, rounding = code
    layer, x, generator = random_case(*shape, dtype)
    out = layer(x)
    assert type(out.grad_fn).__name__ == "ConvolutionsBackward"
    grad = random_images(generator, dtype, *out.shape)
    out.backward(grad)
    call = Call(x.detach(), [shape[-2:]], False, [layer.weight.detach(), layer.bias.detach()])
    _, sums = call.backward(grad, False)
    exact_out, exact, exact_x = in_double(layer, x, grad, relu=False)
    for ours, theirs in zip(sums, exact, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    rounded = [(out, exact_out), *zip([layer.weight.grad, layer.bias.grad], exact, strict=True)]
    for ours, theirs in rounded + ([(x.grad, exact_x)] if x.requires_grad else []):
        assert (ours - theirs).abs().max() < rounding * theirs.abs().max()  # bfloat16: rounded once, to eight bits
    assert layer.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_relu_may_change_what_one_convolution_gave(code):
    """After a first convolution that is torch's, as of pictures with three channels, the others stand alone."""
    dtype, rounding = code
    layer, x, generator = random_case(5, 16, 32, 12, 3, 1, 1, dtype)
    out = ReLU()(layer(x))
    grad = random_images(generator, dtype, *out.shape)
    out.backward(grad)
    exact_out, exact, exact_x = in_double(layer, x, grad, relu=True)
    found, wanted = [out, layer.weight.grad, layer.bias.grad, x.grad], [exact_out, *exact, exact_x]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).abs().max() < rounding * theirs.abs().max()


@pytest.mark.parametrize("with_x", [False, True])
def test_a_stack_is_as_near_to_double_precision_as_torchs_layers(with_x, code, torch_threads):
    """Rounded to the type between the layers, as torch does."""
    dtype = code[0]
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layers = [Conv2d(16, 32, 4, stride=2), ReLU(), Conv2d(32, 64, 3, padding=1), ReLU(), Conv2d(64, 16, 3), ReLU()]
    stack = ConvolutionStack(*layers).to(dtype).to(memory_format=torch.channels_last)
    x = random_images(generator, dtype, 5, 16, 20, 20).requires_grad_(with_x)
    out = stack(x)
    assert type(out.grad_fn).__name__ == "ConvolutionsBackward"
    grad = random_images(generator, dtype, *out.shape)

    def errors(out):
        stack.zero_grad()
        x.grad = None
        out.backward(grad)
        found = [out, *(p.grad for p in stack.parameters()), *([x.grad] if with_x else [])]
        pairs = zip(found, wanted, strict=True)
        return [float(((ours - theirs).norm() / theirs.norm()).detach()) for ours, theirs in pairs]

    exact_out, exact, exact_x = in_double(stack, x, grad, relu=True)
    wanted = [exact_out, *exact, *([exact_x] if with_x else [])]
    ours, theirs = errors(out), errors(torch.nn.Sequential.forward(nn_stack(stack), x))
    slack = 1.01 if dtype == torch.bfloat16 else 4  # float32 is rounded at every sum: the order of them matters
    assert all(0 < one < 0.1 and one < slack * other for one, other in zip(ours, theirs, strict=True))


def nn_stack(stack):
    """The same layers by torch alone, with the same parameters."""
    layers = []
    for layer in stack:
        if isinstance(layer, nn.Conv2d):
            plain = nn.Conv2d(layer.in_channels, layer.out_channels, 1, stride=layer.stride, padding=layer.padding)
            plain.weight, plain.bias = layer.weight, layer.bias
            layers.append(plain)
        else:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def test_small_integers_are_exact(code):
    """Products and sums below 2^24 have no rounding: any order of summation gives the same numbers."""
    dtype, generator = code[0], torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, (6, 4, 84, 84), generator=generator).to(dtype).to(memory_format=torch.channels_last)
    grad = torch.randint(-8, 9, (6, 16, 20, 20), generator=generator).to(dtype)
    weight = torch.zeros(16, 4, 8, 8, dtype=dtype)
    _, (ours, bias) = Call(x, [(4, 0)], False, [weight, weight[:, 0, 0, 0]]).backward(grad, False)
    theirs = nn.grad.conv2d_weight(x.double(), (16, 4, 8, 8), grad.double(), stride=4)
    assert torch.equal(ours.double(), theirs) and torch.equal(bias.double(), grad.double().sum((0, 2, 3)))


def test_a_nan_stays_one(code):
    """A ReLU of the stack does not hide it."""
    dtype = code[0]
    layers = [Conv2d(16, 16, 3), ReLU(), Conv2d(16, 16, 3), ReLU()]
    x = torch.full((2, 16, 9, 9), float("nan"), dtype=dtype).to(memory_format=torch.channels_last)
    assert ConvolutionStack(*layers).to(dtype)(x).isnan().all() or dtype == torch.bfloat16  # there the sign decides


@pytest.mark.parametrize(("network", "calls"), [("mario", 2), ("nature", 2), ("small", 2), ("impala", 30)])
def test_every_network_takes_them(network, calls, code, monkeypatch):
    """The gradients of a whole network are torch's up to the type's rounding; another type is torch's, bit for bit."""
    dtype = code[0]
    obs = torch.randint(0, 256, (4, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = []

    def gradients(dtype):
        ac = ActorCritic(network, (4, 84, 84), 5, "orthogonal", 0)
        nets = FastActorCritic(ac, dtype)
        for p in ac.parameters():
            p.grad = torch.zeros_like(p)
        (nets.logits(nets.prepare(obs)).square().sum() + nets.value(nets.prepare(obs)).sum()).backward()
        return torch.cat([p.grad.flatten() for p in ac.parameters()])

    real = Call.backward
    monkeypatch.setattr(Call, "backward", lambda *args: (made.append(1), real(*args))[1])
    ours = gradients(dtype)
    assert len(made) == calls
    monkeypatch.setattr(convolutions, "kind", lambda dtype: None)
    full, theirs = gradients(torch.float32), gradients(dtype)
    assert len(made) == calls
    slack = 1e-3 if dtype == torch.bfloat16 else 1e-5
    assert (ours - full).norm() < 1.1 * (theirs - full).norm() + slack * full.norm()


def test_a_stack_takes_what_begins_a_body_and_no_more():
    body = nn.Sequential(Conv2d(4, 16, 3), ReLU(), Conv2d(16, 16, 3), nn.Tanh(), nn.Linear(2, 2))
    fused = with_stack(body)
    assert [type(m).__name__ for m in fused] == ["ConvolutionStack", "Conv2d", "Tanh", "Linear"]
    assert [p.shape for p in fused.parameters()] == [p.shape for p in body.parameters()]
    assert with_stack(body[2:])[0] is body[2]


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": (3, 2)},
        {"stride": (1, 2)},
        {"dilation": 2},
        {"groups": 2},
        {"bias": False},
        {"padding": 1, "padding_mode": "circular"},
        {"out_channels": 24},
    ],
)
def test_other_convolutions_are_torchs(change):
    """What our code has no form for gives the same as torch's own layer."""
    settings = {"in_channels": 16, "out_channels": 32, "kernel_size": 3} | change
    layer = Conv2d(**settings).to(torch.bfloat16)
    x = random_images(torch.Generator().manual_seed(0), torch.bfloat16, 2, 16, 9, 9)
    plain = nn.Conv2d(**settings).to(torch.bfloat16)
    plain.load_state_dict(layer.state_dict())
    assert type(layer(x).grad_fn).__name__ == "ConvolutionBackward0" and torch.equal(layer(x), plain(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_processor_everything_is_torchs(shape, monkeypatch):
    """On any machine: the same layers give torch's outputs and gradients, close to double precision."""
    monkeypatch.setattr(convolutions, "kind", lambda dtype: None)
    layer, x, generator = random_case(*shape)
    out = layer(x)
    assert type(out.grad_fn).__name__ == "ConvolutionBackward0"
    grad = random_images(generator, torch.bfloat16, *out.shape)
    out.backward(grad)
    exact_out, exact, _ = in_double(layer, x, grad, relu=False)
    for ours, theirs in zip([out, layer.weight.grad, layer.bias.grad], [exact_out, *exact], strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_without_the_processor_a_stack_is_torchs(monkeypatch):
    """Forward and backward, as torch's own layers give them."""
    monkeypatch.setattr(convolutions, "kind", lambda dtype: None)
    torch.manual_seed(0)
    layers = [Conv2d(16, 32, 4, stride=2), ReLU(), Conv2d(32, 16, 3), ReLU()]
    stack = ConvolutionStack(*layers).to(torch.bfloat16).to(memory_format=torch.channels_last)
    x = random_images(torch.Generator().manual_seed(0), torch.bfloat16, 3, 16, 20, 20)
    found = []
    for net in (stack, nn_stack(stack)):
        stack.zero_grad()
        out = net(x)
        out.float().square().sum().backward()
        found.append([out.detach().clone(), *(p.grad.clone() for p in stack.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("flags", "switch", "half", "single"),
    [
        ({"avx512_bf16", "avx512f", "avx2", "fma"}, "", convolutions.BFLOAT16, convolutions.AVX512),
        ({"avx512_bf16", "amx_bf16", "avx512f", "avx2", "fma"}, "", None, convolutions.AVX512),
        ({"avx2", "fma"}, "", None, convolutions.AVX2),
        ({"avx2"}, "", None, None),
        ({"avx512_bf16", "avx512f", "avx2", "fma"}, "0", None, None),
    ],
)
def test_the_processor_and_the_switch_decide(flags, switch, half, single, monkeypatch):
    """A matrix unit is torch's; PPO_CONVOLUTION=0 is respected."""
    monkeypatch.setattr(convolutions.system, "processor_flags", lambda: flags)
    monkeypatch.setattr(convolutions.cpp, "library", object)
    monkeypatch.setenv("PPO_CONVOLUTION", switch)
    kind = convolutions.kind.__wrapped__
    assert (kind(torch.bfloat16), kind(torch.float32), kind(torch.float64)) == (half, single, None)
