"""Adam on vectors that the ranks share out: torch's own Adam is the reference."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ppo.optimiser import ShardedAdam, gather_weights, reduce_gradients
from utils.mpi import Comm


def network():
    """A convolution, whose weights lie channels last, and a linear layer, with weights from a fixed seed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 4 * 4, 2))
    return net.to(memory_format=torch.channels_last)


def loss(net, seed):
    """A number that depends on all weights."""
    images = torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return net(images).square().sum()


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_steps_are_those_of_torch(max_norm):
    """The same weights after three steps as by torch's clip_grad_norm_ and Adam; the gradient's norm is right too."""
    ours, theirs = network(), network()
    optimiser = ShardedAdam(ours, Comm(), lr=0.01, eps=1e-5)
    adam = torch.optim.Adam(theirs.parameters(), 0.01, eps=1e-5)
    for seed in range(3):
        optimiser.gradient.flat.zero_()
        loss(ours, seed).backward()
        norm = reduce_gradients([optimiser], Comm())[0] ** 0.5
        optimiser.step(norm, max_norm)
        gather_weights([optimiser], Comm())
        adam.zero_grad()
        loss(theirs, seed).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm or float("inf"))
        adam.step()
        assert norm == pytest.approx(float(expected), rel=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    assert optimiser.steps == 3
    for i, state in adam.state_dict()["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(optimiser.state()[f"{i}/{name}"], value, rtol=1e-4, atol=1e-7)


def test_a_state_goes_on_where_it_was_taken():
    """A new optimiser with the state and weights of another takes the same next step, bit for bit."""
    first = network()
    optimiser = ShardedAdam(first, Comm(), lr=0.01, eps=1e-5)
    assert optimiser.state() == {}
    loss(first, 0).backward()
    optimiser.step(1.0, None)
    second = copy.deepcopy(first)
    other = ShardedAdam(second, Comm(), lr=0.01, eps=1e-5)
    other.load_state({name: tensor.numpy() for name, tensor in optimiser.state().items()})
    for net, adam in ((first, optimiser), (second, other)):
        adam.gradient.flat.zero_()
        loss(net, 1).backward()
        adam.step(1.0, None)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert other.steps == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"0/exp_avg": None}, "missing"),
        ({"9/exp_avg": np.zeros(3, np.float32)}, "missing"),
        ({"1/exp_avg_sq": np.zeros(6, np.float32)}, r"1/exp_avg_sq is \(6,\), its parameter \(5,\)"),
    ],
)
def test_states_of_another_network_are_refused(change, said):
    """A missing tensor, one too many and another shape."""
    net = network()
    optimiser = ShardedAdam(net, Comm(), lr=0.01, eps=1e-5)
    loss(net, 0).backward()
    optimiser.step(1.0, None)
    arrays = {name: tensor.numpy() for name, tensor in optimiser.state().items()} | change
    with pytest.raises(ValueError, match=said):
        optimiser.load_state({name: array for name, array in arrays.items() if array is not None})
