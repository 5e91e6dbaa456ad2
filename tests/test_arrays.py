"""Our own passes over long arrays against torch's."""

import math

import pytest
import torch

from ppo.compute import arrays, convolutions, cpp
from ppo.compute.adam import ShardedAdam
from ppo.compute.networks import FastActorCritic, scale_image, take_images
from ppo.networks import SCALE, ActorCritic
from utils.mpi import Comm

needs_the_library = pytest.mark.skipif(cpp.library() is None, reason="nothing was compiled")


@needs_the_library
@pytest.mark.parametrize(("count", "copied"), [(1, 0), (5, 5), (4096, 1), (9_999, 4_097), (200_003, 200_000)])
def test_steps_of_adam_are_torchs(count, copied, torch_threads):
    """Weights and moments within the rounding of three steps; the copies are the weights, rounded as torch rounds."""
    generator = torch.Generator().manual_seed(count)
    weights, gradient = torch.randn(2, count, generator=generator)
    theirs = torch.nn.Parameter(weights.clone())
    adam = torch.optim.Adam([theirs], 0.01, eps=1e-5)
    exp_avg, exp_avg_sq = torch.zeros(2, count)
    copies, beyond = torch.zeros(copied + 1, dtype=torch.bfloat16).split([copied, 1])
    for step in (1, 2, 3):
        theirs.grad = 0.5 * gradient
        adam.step()
        settings = arrays.AdamNumbers(
            1 - 0.9, 0.999, 1 - 0.999, 1e-5, 0.5, 0.01 / (1 - 0.9**step), math.sqrt(1 - 0.999**step)
        )
        arrays.adam_step(settings, weights, gradient, exp_avg, exp_avg_sq, copies)
        gradient = gradient.roll(1)
    torch.testing.assert_close(weights, theirs.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(exp_avg, adam.state[theirs]["exp_avg"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(exp_avg_sq, adam.state[theirs]["exp_avg_sq"], rtol=1e-5, atol=1e-9)
    assert torch.equal(copies, weights[:copied].bfloat16()) and beyond == 0


@needs_the_library
@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 5, 3), (3, 7, 7)])
def test_images_are_taken_and_scaled_as_torch_does(shape, torch_threads):
    """Bit for bit, and channels last in memory too."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (9, height, width, channels), dtype=torch.uint8, generator=generator)
    images, rows = images.permute(0, 3, 1, 2), torch.tensor([8, 0, 3, 3, 1])
    ours = arrays.scale_images(images, rows, SCALE)
    theirs = scale_image(take_images(images, rows), torch.bfloat16)
    assert torch.equal(ours, theirs) and ours.permute(0, 2, 3, 1).is_contiguous()


def test_images_of_numbers_are_not_taken_for_bytes():
    """Observations in float32, which a network may be shown, are scaled as numbers."""
    obs = torch.rand(5, 84, 84, 4, generator=torch.Generator().manual_seed(0)).mul(255.0).permute(0, 3, 1, 2)
    ac = ActorCritic("small", (4, 84, 84), 5, "orthogonal", 0)
    seen = FastActorCritic(ac, torch.bfloat16).prepare(obs)
    assert torch.equal(seen, scale_image(obs, torch.bfloat16))


def test_without_the_library_torch_does_it(monkeypatch):
    """One step of a network in bfloat16: the same observations, gradients and, up to rounding, weights and copies."""
    monkeypatch.setattr(convolutions, "kind", lambda dtype: None)
    obs = torch.randint(256, (5, 84, 84, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def step():
        ac = ActorCritic("small", (4, 84, 84), 5, "orthogonal", 0)
        nets = FastActorCritic(ac, torch.bfloat16)
        optimiser = ShardedAdam(ac.v, Comm(), 0.01, 1e-5, nets.v_copies)
        optimiser.zero_gradient()
        nets.value(nets.prepare(obs.permute(0, 3, 1, 2), torch.tensor([4, 2]))).sum().backward()
        optimiser.step(2.0, 1.0)
        return optimiser.weights.flat, optimiser.copies

    weights, copies = step()
    monkeypatch.setattr(cpp, "library", lambda: None)
    plain, plain_copies = step()
    torch.testing.assert_close(weights, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(copies, plain_copies, rtol=2**-7, atol=1e-6)
    assert len(copies) == len(weights) - 257  # all but the last layer
