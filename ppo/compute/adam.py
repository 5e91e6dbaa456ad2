"""Adam for one network, shared out over the ranks.

A network's weights and its gradient are vectors, of which the parameters and their `.grad` are views. Each rank sums
one part of the gradient over the ranks, takes Adam's step with it and gives the new weights to the others: stage 1 of
ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1). As much travels as in an Allreduce; what Adam reads and
writes, which takes longer than its sums, is divided by the number of ranks.

Weights that the network uses as bfloat16 copies need not travel: where the ranks have memory in common, there is one
set of copies for all of them, of which each rank writes its part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ppo import native
from utils.mpi import Comm

BETAS = 0.9, 0.999
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names


class Vector:
    """P float32 numbers on the run's device, and their copy that travels between the ranks: on the CPU the same."""

    def __init__(self, count: int, comm: Comm, device: torch.device) -> None:
        """Fill it with zeros."""
        on_cpu = device.type == "cpu"
        self.flat = torch.from_numpy(comm.buffer(count)) if on_cpu else torch.zeros(count, device=device)
        self._part = comm.part(count)
        self._host = self.flat if on_cpu else torch.zeros(count, pin_memory=True)

    @property
    def mine(self) -> torch.Tensor:
        """This rank's part."""
        return self.flat[self._part]

    def leave(self) -> np.ndarray:
        """Return the copy that travels, up to date."""
        if self._host is not self.flat:
            self._host.copy_(self.flat)
        return self._host.numpy()

    def arrive(self) -> None:
        """Take what the copy has become."""
        if self._host is not self.flat:
            self.flat.copy_(self._host)


class ShardedAdam:
    """The optimiser of one network: Kingma and Ba 2015, "Adam", arXiv:1412.6980, algorithm 1.

    On the CPU it is our own code, where that was compiled, and torch's elsewhere: the same up to rounding.
    From now on the network's parameters are views of one vector, and so are their gradients and their copies.
    """

    def __init__(self, net: nn.Module, comm: Comm, lr: float, eps: float, copies: Sequence[torch.Tensor] = ()) -> None:
        """Take over a network that is on its device, with the same weights on every rank.

        Args:
            net: network.
            comm: the ranks.
            lr, eps: step size; what keeps Adam from dividing by zero.
            copies: bfloat16 copies of the first of the network's parameters.
        """
        self._parameters, self._eps = list(net.parameters()), eps
        count, device = sum(p.numel() for p in self._parameters), self._parameters[0].device
        self.weights, self.gradient = Vector(count, comm, device), Vector(count, comm, device)
        for p, weight, gradient in zip(
            self._parameters, self._views(self.weights.flat), self._views(self.gradient.flat), strict=True
        ):
            weight.copy_(p.detach())
            p.data, p.grad = weight, gradient
        self.moments = {name: torch.zeros(count, device=device) for name in MOMENTS}  # only this rank's part counts
        mine = nn.Parameter(self.weights.mine)
        mine.grad = self.gradient.mine
        self._adam = torch.optim.Adam([mine], lr, betas=BETAS, eps=eps, fused=True)
        self._step = torch.zeros((), device=device)
        part = comm.part(count)
        self._moments = [moment[part] for moment in self.moments.values()]
        self._adam.state[mine] = {"step": self._step} | dict(zip(MOMENTS, self._moments, strict=True))

        copied = sum(copy.numel() for copy in copies)
        together = comm.host_buffer(copied) if copied and device.type == "cpu" else None
        self.travels_from = copied if together is not None else 0  # the first weight that other ranks must be sent
        self.copies = torch.zeros(copied, dtype=torch.bfloat16, device=device)
        if together is not None:
            self.copies = torch.from_numpy(together).view(torch.bfloat16)
        self._my_copies = self.copies[part]
        for copy, view in zip(copies, self._views(self.copies), strict=False):
            copy.data = view
        self.refresh()

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return int(self._step)

    @property
    def lr(self) -> float:
        """Step size."""
        return self._adam.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        self._adam.param_groups[0]["lr"] = value

    def step(self, norm: float, max_norm: float | None) -> None:
        """Move this rank's part of the weights, and its copies, by the joined gradient, clipped to `max_norm`.

        Args:
            norm: of the joined gradient.
            max_norm: bound on it, or None.
        """
        scale = max_norm / norm if max_norm is not None and norm > max_norm else 1.0
        if self._step.device.type == "cpu" and native.library() is not None:
            self._step += 1
            (beta1, beta2), steps = BETAS, self.steps
            step_size, root = self.lr / (1 - beta1**steps), math.sqrt(1 - beta2**steps)
            numbers = native.Adam(1 - beta1, beta2, 1 - beta2, self._eps, scale, step_size, root)
            exp_avg, exp_avg_sq = self._moments
            native.adam_step(numbers, self.weights.mine, self.gradient.mine, exp_avg, exp_avg_sq, self._my_copies)
        else:
            if scale != 1.0:
                self.gradient.mine.mul_(scale)
            self._adam.step()
            self._my_copies.copy_(self.weights.mine[: len(self._my_copies)])

    def refresh(self) -> None:
        """Write all copies anew."""
        self.copies.copy_(self.weights.flat[: len(self.copies)])

    def state(self) -> dict[str, torch.Tensor]:
        """Return step and moments of each parameter, named INDEX/NAME as torch names them; nothing before a step.

        Of many ranks, `gather_moments` comes first.
        """
        if not self.steps:
            return {}
        tensors = {f"{i}/step": self._step.cpu().clone() for i in range(len(self._parameters))}
        for name, moment in self.moments.items():
            tensors |= {
                f"{i}/{name}": view.cpu().clone(memory_format=torch.contiguous_format)
                for i, view in enumerate(self._views(moment))
            }
        return tensors

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` returned.

        Raises:
            ValueError: a tensor is missing, or one too many, or of another shape.
        """
        if not arrays:  # of before the first step
            return
        if set(arrays) != {f"{i}/{name}" for i in range(len(self._parameters)) for name in ("step", *MOMENTS)}:
            raise ValueError("some of Adam's moments are missing")
        for name, moment in self.moments.items():
            for i, view in enumerate(self._views(moment)):
                array = arrays[f"{i}/{name}"]
                if array.shape != view.shape:
                    raise ValueError(f"{i}/{name} is {array.shape}, its parameter {tuple(view.shape)}")
                view.copy_(torch.from_numpy(array))
        self._step.copy_(torch.from_numpy(arrays["0/step"]))

    def _views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Return a view of the vector for each parameter, as far as it goes; convolutions lie channels last in it."""
        views, offset = [], 0
        for p in self._parameters:
            if offset == len(vector):
                break
            numbers = vector[offset : offset + p.numel()]
            if p.dim() == 4:
                out, inp, height, width = p.shape
                views.append(numbers.view(out, height, width, inp).permute(0, 3, 1, 2))
            else:
                views.append(numbers.view(p.shape))
            offset += p.numel()
        return views


def reduce_gradients(optimisers: list[ShardedAdam], comm: Comm) -> list[float]:
    """Sum the gradients over the ranks, each its part; return the square of the norm of this rank's part of each."""
    if comm.world_size > 1:
        comm.reduce_scatter(*(optimiser.gradient.leave() for optimiser in optimisers))
        for optimiser in optimisers:
            optimiser.gradient.arrive()
    return [float(optimiser.gradient.mine.norm()) ** 2 for optimiser in optimisers]


def gather_copies(optimisers: list[ShardedAdam], comm: Comm) -> None:
    """Let every rank compute with the weights of all, after a step; weights behind copies may stay as they are."""
    if comm.world_size > 1:
        _gather(optimisers, comm, [optimiser.travels_from for optimiser in optimisers])
        for optimiser in optimisers:
            if not optimiser.travels_from:
                optimiser.refresh()


def gather_weights(optimisers: list[ShardedAdam], comm: Comm) -> None:
    """Let every rank hold the weights of all, after an update."""
    if comm.world_size > 1:
        _gather(optimisers, comm, [0] * len(optimisers))


def gather_moments(optimisers: list[ShardedAdam], comm: Comm) -> None:
    """Let every rank hold the moments of all, for a checkpoint."""
    for moment in (moment for optimiser in optimisers for moment in optimiser.moments.values()):
        host = moment.cpu()
        comm.all_gather(host.numpy())
        moment.copy_(host)


def _gather(optimisers: list[ShardedAdam], comm: Comm, begins: list[int]) -> None:
    comm.all_gather(*(optimiser.weights.leave() for optimiser in optimisers), begins=begins)
    for optimiser in optimisers:
        optimiser.weights.arrive()
