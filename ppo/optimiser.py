"""Adam for one network, shared out over the ranks.

A network's weights and its gradient are vectors, of which the parameters and their `.grad` are views. Each rank sums
one part of the gradient over the ranks, takes Adam's step with it and gives the new weights to the others: stage 1 of
ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1). As much travels as in an Allreduce; what Adam reads and
writes, which takes longer than its sums, is divided by the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from utils.mpi import Comm

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
    """The optimiser of one network: Kingma and Ba 2015, "Adam", arXiv:1412.6980, algorithm 1, by torch.

    From now on the network's parameters are views of one vector, and so are their gradients.
    """

    def __init__(self, net: nn.Module, comm: Comm, lr: float, eps: float) -> None:
        """Take over a network that is on its device, with the same weights on every rank."""
        self._parameters = list(net.parameters())
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
        self._adam = torch.optim.Adam([mine], lr, eps=eps, fused=True)
        self._step = torch.zeros((), device=device)
        part = comm.part(count)
        self._adam.state[mine] = {"step": self._step} | {name: m[part] for name, m in self.moments.items()}

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
        """Move this rank's part of the weights by the joined gradient, whose norm is given, clipped to `max_norm`."""
        if max_norm is not None and norm > max_norm:
            self.gradient.mine.mul_(max_norm / norm)
        self._adam.step()

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
        """Return a view of the vector (P,) for each parameter; convolutions' weights lie channels last in it."""
        views, offset = [], 0
        for p in self._parameters:
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
    _exchange(comm.reduce_scatter, [optimiser.gradient for optimiser in optimisers], comm)
    return [float(optimiser.gradient.mine.norm()) ** 2 for optimiser in optimisers]


def gather_weights(optimisers: list[ShardedAdam], comm: Comm) -> None:
    """Let every rank hold the weights of all, after a step."""
    _exchange(comm.all_gather, [optimiser.weights for optimiser in optimisers], comm)


def gather_moments(optimisers: list[ShardedAdam], comm: Comm) -> None:
    """Let every rank hold the moments of all, for a checkpoint."""
    for moment in (moment for optimiser in optimisers for moment in optimiser.moments.values()):
        host = moment.cpu()
        comm.all_gather(host.numpy())
        moment.copy_(host)


def _exchange(call: Callable[..., None], vectors: list[Vector], comm: Comm) -> None:
    if comm.world_size > 1:
        call(*(vector.leave() for vector in vectors))
        for vector in vectors:
            vector.arrive()
