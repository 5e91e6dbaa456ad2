"""Drop-in for `ppo.optimiser.Adam`: each rank performs its part of the step.

A network's weights are one array, of which its parameters are views, and so are its gradients. Each rank sums one part
of the gradient over the ranks, takes Adam's step with it and sends the new weights to the others: stage 1 of ZeRO
(Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1). It sends as much as an Allreduce, while Adam's memory
traffic, which takes longer than its arithmetic, is divided by the number of ranks.

Weights that the network uses as bfloat16 copies need not be sent in an update where the ranks share memory: there is
one set of copies for all ranks, and each rank writes its part.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim.adam import adam

from ppo.compute import arrays
from ppo.compute.networks import Copies
from ppo.optimiser import BETAS, MOMENTS, check_state
from utils.mpi import Comm


class FlatArray:
    """P float32 numbers on the run's device, and the array that the ranks exchange; on the CPU both are the same."""

    def __init__(self, count: int, comm: Comm, device: torch.device) -> None:
        """Fill it with zeros."""
        on_cpu = device.type == "cpu"
        self.flat = torch.from_numpy(comm.buffer(count)) if on_cpu else torch.zeros(count, device=device)
        self._part, self._host = comm.part(count), self.flat
        if not on_cpu:
            with torch.cuda.device(device):  # pinned memory belongs to the current GPU
                self._host = torch.zeros(count, pin_memory=True)

    @property
    def mine(self) -> torch.Tensor:
        """This rank's part."""
        return self.flat[self._part]

    def to_host(self) -> np.ndarray:
        """Return the array that the ranks exchange, up to date."""
        if self._host is not self.flat:
            self._host.copy_(self.flat)
        return self._host.numpy()

    def from_host(self) -> None:
        """Copy the result of the exchange to the device."""
        if self._host is not self.flat:
            self.flat.copy_(self._host)


class ShardedAdam:
    """The optimiser of one network; see `ppo.optimiser.Adam` for the contract of each method.

    On the CPU the step is our own code where that was compiled, and torch's elsewhere; they agree up to rounding.
    """

    def __init__(self, net: nn.Module, comm: Comm, lr: float, eps: float, copies: Copies | None = None) -> None:
        """Take a network that is on its device, with the same weights on every rank.

        Args:
            net: network. Its parameters become views of one array, and so do their gradients and their copies.
            comm: the ranks.
            lr, eps: step size, which may be set before each step; the term that keeps Adam from dividing by zero.
            copies: bfloat16 copies of the first of the network's parameters.
        """
        self._parameters, self._comm, self._eps, self.lr = list(net.parameters()), comm, eps, lr
        count, device = sum(p.numel() for p in self._parameters), self._parameters[0].device
        self.weights, self.gradient = FlatArray(count, comm, device), FlatArray(count, comm, device)
        views = zip(self._parameters, self._views(self.weights.flat), self._views(self.gradient.flat), strict=True)
        for p, weight, gradient in views:
            weight.copy_(p.detach())
            p.data, p.grad = weight, gradient
        self._begin()
        self._take_copies(copies)

    def _begin(self) -> None:
        """Make the moments: zeros, of which only this rank's part counts."""
        count, device = len(self.weights.flat), self.weights.flat.device
        self.moments = {name: torch.zeros(count, device=device) for name in MOMENTS}
        self._step = torch.zeros((), device=device)
        self._moments = [moment[self._comm.part(count)] for moment in self.moments.values()]

    def twin(self) -> ShardedAdam:
        """Return an optimiser of the same weights with moments of its own. The two share their gradient."""
        other = copy.copy(self)
        other._begin()
        return other

    def _take_copies(self, copies: Copies | None) -> None:
        """Put the copies into one array, which the ranks of a host share where they can."""
        self._bfloat16_body = copies
        parameters = copies.parameters if copies is not None else []
        count, device = sum(p.numel() for p in parameters), self.weights.flat.device
        shared = self._comm.host_buffer(count) if count and device.type == "cpu" else None
        self.first_to_send = count if shared is not None else 0  # of the weights, in an update
        self.copies = torch.zeros(count, dtype=torch.bfloat16, device=device)
        if shared is not None:
            self.copies = torch.from_numpy(shared).view(torch.bfloat16)
        self._my_copies = self.copies[self._comm.part(len(self.weights.flat))]
        for parameter, view in zip(parameters, self._views(self.copies), strict=True):
            parameter.data = view
        self.refresh()

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return int(self._step)

    def zero_gradient(self) -> None:
        """Begin a minibatch: for weights with copies, the first new gradients replace the old ones."""
        self.gradient.flat[len(self.copies) :].zero_()
        if self._bfloat16_body is not None:
            self._bfloat16_body.expect_gradients()

    @staticmethod
    def sum_gradients(optimisers: Sequence[ShardedAdam]) -> list[float]:
        """Sum each network's gradient over the ranks, each rank its part; return the squares of the parts' norms."""
        comm = optimisers[0]._comm
        for optimiser in optimisers:
            if optimiser._bfloat16_body is not None:
                optimiser._bfloat16_body.zero_missing()
        if comm.world_size > 1:
            comm.reduce_scatter(*(optimiser.gradient.to_host() for optimiser in optimisers))
            for optimiser in optimisers:
                optimiser.gradient.from_host()
        return [float(optimiser.gradient.mine.norm()) ** 2 for optimiser in optimisers]

    def step(self, norm: float, max_norm: float | None) -> None:
        """Move this rank's part of the weights, and its copies, by the joined gradient, clipped to `max_norm`."""
        scale = max_norm / norm if max_norm is not None and norm > max_norm else 1.0
        if self._step.device.type == "cpu" and arrays.compiled():
            self._step += 1
            (beta1, beta2), steps = BETAS, self.steps
            step_size, root = self.lr / (1 - beta1**steps), math.sqrt(1 - beta2**steps)
            numbers = arrays.AdamNumbers(1 - beta1, beta2, 1 - beta2, self._eps, scale, step_size, root)
            exp_avg, exp_avg_sq = self._moments
            arrays.adam_step(numbers, self.weights.mine, self.gradient.mine, exp_avg, exp_avg_sq, self._my_copies)
        else:
            self._step_by_torch(scale)

    @torch.no_grad()
    def _step_by_torch(self, scale: float) -> None:
        if scale != 1.0:
            self.gradient.mine.mul_(scale)
        (beta1, beta2), (exp_avg, exp_avg_sq) = BETAS, self._moments
        adam(  # the function: an object of torch's class makes each start a second longer, whether it steps or not
            [self.weights.mine],
            [self.gradient.mine],
            [exp_avg],
            [exp_avg_sq],
            max_exp_avg_sqs=[],
            state_steps=[self._step],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=self.lr,
            weight_decay=0.0,
            eps=self._eps,
            maximize=False,
        )
        self._my_copies.copy_(self.weights.mine[: len(self._my_copies)])

    @staticmethod
    def publish(optimisers: Sequence[ShardedAdam]) -> None:
        """Make the new weights known to all ranks; those that have copies in shared memory are not sent."""
        if optimisers[0]._comm.world_size > 1:
            gather(optimisers, [optimiser.first_to_send for optimiser in optimisers])
            for optimiser in optimisers:
                if not optimiser.first_to_send:
                    optimiser.refresh()

    @staticmethod
    def gather_weights(optimisers: Sequence[ShardedAdam]) -> None:
        """Gather all weights on every rank after an update."""
        if optimisers[0]._comm.world_size > 1:
            gather(optimisers, [0] * len(optimisers))

    @staticmethod
    def gather_moments(optimisers: Sequence[ShardedAdam]) -> None:
        """Gather all moments on every rank for a checkpoint."""
        for optimiser in optimisers:
            for moment in optimiser.moments.values():
                host = moment.cpu()
                optimiser._comm.all_gather(host.numpy())
                moment.copy_(host)

    def refresh(self) -> None:
        """Write all copies anew."""
        self.copies.copy_(self.weights.flat[: len(self.copies)])

    def state(self) -> dict[str, torch.Tensor]:
        """Return step and moments of each parameter, named INDEX/NAME; of many ranks, `gather_moments` comes first."""
        if not self.steps:
            return {}
        tensors = {f"{i}/step": self._step.cpu().clone() for i in range(len(self._parameters))}
        for name, moment in self.moments.items():
            for i, view in enumerate(self._views(moment)):
                tensors[f"{i}/{name}"] = view.cpu().clone(memory_format=torch.contiguous_format)
        return tensors

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` returned, here or in `ppo.optimiser.Adam`."""
        if not arrays:  # saved before the first step
            return
        check_state(arrays, self._parameters)
        for name, moment in self.moments.items():
            for i, view in enumerate(self._views(moment)):
                view.copy_(torch.from_numpy(arrays[f"{i}/{name}"]))
        self._step.copy_(torch.from_numpy(arrays["0/step"]))

    def _views(self, array: torch.Tensor) -> list[torch.Tensor]:
        """Return a view of the array for each parameter, as far as it goes; convolutions are channels last in it."""
        views, offset = [], 0
        for p in self._parameters:
            if offset == len(array):
                break
            numbers = array[offset : offset + p.numel()]
            if p.dim() == 4:
                out, inp, height, width = p.shape
                views.append(numbers.view(out, height, width, inp).permute(0, 3, 1, 2))
            else:
                views.append(numbers.view(p.shape))
            offset += p.numel()
        return views


def gather(optimisers: Sequence[ShardedAdam], begins: list[int]) -> None:
    """Send each network's weights from a beginning on, a number for each, to every rank."""
    optimisers[0]._comm.all_gather(*(optimiser.weights.to_host() for optimiser in optimisers), begins=begins)
    for optimiser in optimisers:
        optimiser.weights.from_host()
