"""Adam for a network that every rank holds: gradients are summed over the ranks, then each takes the same step.

`ppo/compute/adam.py` is a drop-in that divides the work among the ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from utils.mpi import Comm

BETAS = 0.9, 0.999
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names


class Adam:
    """The optimiser of one network: Kingma and Ba 2015, "Adam", arXiv:1412.6980, algorithm 1, as torch computes it.

    A minibatch is `zero_gradient`, backward passes, `sum_gradients`, `step`, `publish`. What the ranks exchange goes
    through static methods, which take the optimisers of all networks.
    """

    def __init__(self, net: nn.Module, comm: Comm, lr: float, eps: float) -> None:
        """Take a network that is on its device, with the same weights on every rank.

        Args:
            net: network.
            comm: the ranks.
            lr, eps: step size, which may be set before each step; the term that keeps Adam from dividing by zero.
        """
        self._parameters, self._comm, self.lr, self._eps = list(net.parameters()), comm, lr, eps
        self._begin()
        for p in self._parameters:
            p.grad = torch.zeros_like(p)

    def _begin(self) -> None:
        self._adam = torch.optim.Adam(self._parameters, self.lr, betas=BETAS, eps=self._eps)

    def twin(self) -> Adam:
        """Return an optimiser of the same weights with moments of its own. The two share their gradient."""
        other = copy.copy(self)
        other._begin()
        return other

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        state = self._adam.state.get(self._parameters[0])
        return int(state["step"]) if state else 0

    def zero_gradient(self) -> None:
        """Begin a minibatch."""
        self._adam.zero_grad(set_to_none=False)

    @staticmethod
    def sum_gradients(optimisers: Sequence[Adam]) -> list[float]:
        """Sum each network's gradient over the ranks.

        Returns:
            for each network the square of the norm of this rank's part: summed over the ranks, that of the whole.
        """
        comm, squares = optimisers[0]._comm, []
        gradients = [[p.grad for p in optimiser._parameters if p.grad is not None] for optimiser in optimisers]
        flat = torch.cat([gradient.flatten() for of_net in gradients for gradient in of_net])
        flat = torch.from_numpy(comm.sum(flat.cpu().numpy())).to(flat.device)  # one exchange for all networks
        for of_net, part in zip(gradients, flat.split([sum(g.numel() for g in net) for net in gradients]), strict=True):
            for gradient, joined in zip(of_net, part.split([g.numel() for g in of_net]), strict=True):
                gradient.copy_(joined.view(gradient.shape))
            squares.append(float(part[comm.part(len(part))].norm()) ** 2)
        return squares

    def step(self, norm: float, max_norm: float | None) -> None:
        """Move the weights by the joined gradient, clipped to `max_norm`.

        Args:
            norm: of the joined gradient.
            max_norm: bound on it, or None.
        """
        if max_norm is not None and norm > max_norm:
            torch._foreach_mul_([p.grad for p in self._parameters if p.grad is not None], max_norm / norm)
        self._adam.param_groups[0]["lr"] = self.lr
        self._adam.step()

    @staticmethod
    def publish(optimisers: Sequence[Adam]) -> None:
        """Make the new weights known to all ranks: here each has taken the same step."""

    @staticmethod
    def gather_weights(optimisers: Sequence[Adam]) -> None:
        """Gather all weights on every rank after an update: here each has them."""

    @staticmethod
    def gather_moments(optimisers: Sequence[Adam]) -> None:
        """Gather all moments on every rank for a checkpoint: here each has them."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return step and moments of each parameter, named INDEX/NAME as torch names them; nothing before a step."""
        return {
            f"{i}/{name}": value.cpu().clone(memory_format=torch.contiguous_format)
            for i, state in self._adam.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` returned.

        Raises:
            ValueError: see `check_state`.
        """
        if not arrays:  # saved before the first step
            return
        check_state(arrays, self._parameters)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        state = {i: {n: tensors[f"{i}/{n}"] for n in ("step", *MOMENTS)} for i in range(len(self._parameters))}
        self._adam.load_state_dict({**self._adam.state_dict(), "state": state})


def check_state(arrays: dict[str, np.ndarray], parameters: Sequence[torch.Tensor]) -> None:
    """Check that a saved state is one of these parameters.

    Raises:
        ValueError: a tensor is missing, or one too many, or of another shape.
    """
    if set(arrays) != {f"{i}/{name}" for i in range(len(parameters)) for name in ("step", *MOMENTS)}:
        raise ValueError("some of Adam's moments are missing")
    for i, p in enumerate(parameters):
        for name in MOMENTS:
            shape = arrays[f"{i}/{name}"].shape
            if shape != p.shape:
                raise ValueError(f"{i}/{name} is {shape}, its parameter {tuple(p.shape)}")
