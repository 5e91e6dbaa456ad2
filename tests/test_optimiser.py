"""Adam, plain and shared out among the ranks: torch's own Adam is the reference."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from ppo.compute import cpp
from ppo.compute.adam import FlatArray, ShardedAdam
from ppo.optimiser import Adam
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


both = pytest.mark.parametrize("kind", [Adam, ShardedAdam])


@both
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_steps_are_those_of_torch(max_norm, kind):
    """The same weights after three steps as by torch's clip_grad_norm_ and Adam; the gradient's norm is right too."""
    ours, theirs = network(), network()
    optimiser = kind(ours, Comm(), lr=0.01, eps=1e-5)
    adam = torch.optim.Adam(theirs.parameters(), 0.01, eps=1e-5)
    for seed in range(3):
        optimiser.zero_gradient()
        loss(ours, seed).backward()
        norm = optimiser.sum_gradients([optimiser])[0] ** 0.5
        optimiser.step(norm, max_norm)
        optimiser.publish([optimiser])
        optimiser.gather_weights([optimiser])
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


def test_gradients_of_all_networks_travel_in_one_message():
    class Twice(Comm):  # two ranks with the same gradient
        messages = 0

        def sum(self, array):
            self.messages += 1
            return 2 * array

    comm, nets = Twice(), [network(), network()]
    optimisers = [Adam(net, comm, lr=0.01, eps=1e-5) for net in nets]
    for seed, net in enumerate(nets):
        loss(net, seed).backward()
    alone = [[p.grad.clone() for p in net.parameters()] for net in nets]
    squares = Adam.sum_gradients(optimisers)
    assert comm.messages == 1
    for net, gradients, square in zip(nets, alone, squares, strict=True):
        for p, gradient in zip(net.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, 2 * gradient, rtol=0, atol=0)
        assert square == pytest.approx(4 * sum(float(g.square().sum()) for g in gradients))


@both
@pytest.mark.parametrize("library", [cpp.library, lambda: None])
def test_each_step_has_the_step_size_of_its_time(monkeypatch, kind, library):
    """Annealing sets it before each update: the first step of Adam is as long as it, the later ones change with it."""
    monkeypatch.setattr(cpp, "library", library)
    net = network()
    optimiser = kind(net, Comm(), lr=0.01, eps=0.0)
    moved = []
    for lr in (0.01, 0.001, 0.0):
        before = torch.cat([p.detach().flatten() for p in net.parameters()])
        for p in net.parameters():
            p.grad.fill_(1.0)  # the same each time: the step is the step size itself
        optimiser.lr = lr
        optimiser.step(1.0, None)
        moved.append((before - torch.cat([p.detach().flatten() for p in net.parameters()])).mean().item())
    assert moved == pytest.approx([0.01, 0.001, 0.0], rel=1e-3)


@both
@pytest.mark.parametrize("other_kind", [Adam, ShardedAdam])
def test_a_state_goes_on_where_it_was_taken(kind, other_kind):
    """A new optimiser with the state and weights of another takes the same next step: bit for bit if of one kind."""
    first = network()
    optimiser = kind(first, Comm(), lr=0.01, eps=1e-5)
    assert optimiser.state() == {}
    loss(first, 0).backward()
    optimiser.step(1.0, None)
    second = copy.deepcopy(first)
    other = other_kind(second, Comm(), lr=0.01, eps=1e-5)
    other.load_state({name: tensor.numpy() for name, tensor in optimiser.state().items()})
    for net, adam in ((first, optimiser), (second, other)):
        adam.zero_gradient()
        loss(net, 1).backward()
        adam.step(1.0, None)
    rounding = {"rtol": 0, "atol": 0} if kind is other_kind else {"rtol": 1e-5, "atol": 1e-7}
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, **rounding)
    assert other.steps == 2


@both
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"0/exp_avg": None}, "missing"),
        ({"9/exp_avg": np.zeros(3, np.float32)}, "missing"),
        ({"1/exp_avg_sq": np.zeros(6, np.float32)}, r"1/exp_avg_sq is \(6,\), its parameter \(5,\)"),
    ],
)
def test_states_of_another_network_are_refused(change, said, kind):
    """A missing tensor, one too many and another shape."""
    net = network()
    optimiser = kind(net, Comm(), lr=0.01, eps=1e-5)
    loss(net, 0).backward()
    optimiser.step(1.0, None)
    arrays = {name: tensor.numpy() for name, tensor in optimiser.state().items()} | change
    with pytest.raises(ValueError, match=said):
        optimiser.load_state({name: array for name, array in arrays.items() if array is not None})


def test_pinned_memory_belongs_to_the_gpu_of_the_rank(monkeypatch):
    """Allocated while another GPU is the current one, it would open a context there."""
    current, pinned, zeros = [], [], torch.zeros

    @contextlib.contextmanager
    def device(chosen):
        current.append(chosen)
        yield
        current.pop()

    def allocate(count, device=None, pin_memory=False):
        if pin_memory:
            pinned.append(list(current))
        return zeros(count)

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch, "zeros", allocate)
    FlatArray(4, Comm(), torch.device("cuda:1"))
    assert pinned == [[torch.device("cuda:1")]]
