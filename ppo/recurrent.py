"""Policies with a memory: an LSTM between body and head, of the actor and of the critic, each with its own state.

While collecting, `RecurrentNets` carries the state of every environment from step to step, forgets it where an episode
ends, and keeps what it was at the beginning of every chunk. The update trains on whole chunks, each from its stored
state: backpropagation through time that is cut at the chunk's beginning. `ppo.py` stays as it is: a minibatch is rows
of the batch as ever, only that `minibatches` permutes chunks instead of steps.

Letters of the shapes: T steps of an epoch, N environments of this rank, K chunks, L steps of a chunk, F features of the
body, U units, S numbers of a state (2 U for each LSTM: h and c), M = K L samples of a minibatch, A actions.

Sources:
    LSTM    Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9(8), with the forget gate of
            Gers et al. 2000, "Learning to Forget", Neural Computation 12(10)
    LN      Ba et al. 2016, "Layer Normalization", arXiv:1607.06450
    gates   Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", ICLR, arXiv:1804.11188
    chunks  Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning" (R2D2): the
            stored starting state
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from ppo.networks import ActorCritic, Evaluator


def forget_bias(steps: int) -> float:
    """Return the bias of a new forget gate that keeps for about `steps` steps.

    sigmoid(log(steps)) = 1 - 1 / (steps + 1): a third of what was stored is left after so many steps (as in "gates",
    which draws the time of each unit). With the usual bias of 1 it would be 0.73^30 = 0.0001 after thirty.
    """
    return math.log(steps)


class LSTM(nn.Module):
    """i, f, g, o = W_x x + W_h h + b;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(c')."""

    def __init__(self, features: int, units: int, steps: int = 1) -> None:
        """Take F features, give U units; a new memory keeps for about `steps` steps, through which it is trained."""
        super().__init__()
        self.units, self.forget_bias = units, forget_bias(steps)
        self.lstm = nn.LSTM(features, units, batch_first=True)

    def initialise(self, init: str, generator: torch.Generator) -> None:
        """Fill the weights, "orthogonal" or "xavier"; biases are zero but for the forget gate's."""
        for name, p in self.lstm.named_parameters():
            if name.startswith("weight"):
                fill(p, init, generator)
            else:  # torch has two of each bias, which are added
                nn.init.zeros_(p)
                nn.init.constant_(p.detach()[self.units : 2 * self.units], self.forget_bias / 2)

    def forward(self, x: torch.Tensor, state: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Go through chunks step by step.

        Where an episode begins inside a chunk, the chunk is cut: each piece is a sequence of its own for torch, the
        later ones beginning with nothing in memory.

        Args:
            x: (K, L, F).
            state: (K, 2 U), h and c before the first step.
            first: (K, L) bool, whether an episode begins with this step, so that the state before it is zero.

        Returns:
            h after each step (K, L, U), and the state after the last (K, 2 U).
        """
        count, length, _ = x.shape
        begins = first.clone()
        begins[:, 0] = True
        at = begins.flatten().nonzero().squeeze(-1)  # (pieces,) positions in K * L where a piece begins
        kept = state[at // length] * ~first.flatten()[at, None] * (at % length == 0)[:, None]  # (pieces, 2 U)
        before = tuple(part.unsqueeze(0).contiguous() for part in kept.chunk(2, dim=1))
        if len(at) == count:
            out, after = self.lstm(x, before)
            return out, torch.cat(after, dim=2).squeeze(0)
        ends = torch.cat([at[1:], at.new_tensor([count * length])])
        packed, after = self.lstm(pack_sequence(x.flatten(0, 1).split((ends - at).tolist()), False), before)
        padded, lengths = pad_packed_sequence(packed, batch_first=True)  # (pieces, longest, U)
        out = padded[torch.arange(padded.shape[1]) < lengths[:, None]].view(count, length, self.units)
        return out, torch.cat(after, dim=2).squeeze(0)[(ends % length == 0).nonzero().squeeze(-1)]


class LayerNormLSTM(nn.Module):
    """The same with normalised sums (LN eq. 20 to 22), as the lnlstm of openai/baselines.

    i, f, g, o = LN(W_x x) + LN(W_h h) + b;  c' = sigmoid(f) c + sigmoid(i) tanh(g);  h' = sigmoid(o) tanh(LN(c')).
    """

    def __init__(self, features: int, units: int, steps: int = 1) -> None:
        """As `LSTM`."""
        super().__init__()
        self.units, self.forget_bias = units, forget_bias(steps)
        self.weight_x = nn.Parameter(torch.empty(4 * units, features))
        self.weight_h = nn.Parameter(torch.empty(4 * units, units))
        self.bias = nn.Parameter(torch.empty(4 * units))
        self.norm_x, self.norm_h, self.norm_c = nn.LayerNorm(4 * units), nn.LayerNorm(4 * units), nn.LayerNorm(units)

    def initialise(self, init: str, generator: torch.Generator) -> None:
        """As `LSTM.initialise`; gains are one."""
        for p in (self.weight_x, self.weight_h):
            fill(p, init, generator)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.bias.detach()[self.units : 2 * self.units], self.forget_bias)

    def forward(self, x: torch.Tensor, state: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LSTM.forward`."""
        inputs = (self.norm_x(F.linear(x, self.weight_x)) + self.bias).unbind(1)  # L times (K, 4 U)
        keeps = (~first).to(x.dtype).unsqueeze(-1).unbind(1)  # L times (K, 1)
        h, c = state.chunk(2, dim=1)
        outputs = []
        for given, keep in zip(inputs, keeps, strict=True):
            i, f, g, o = (given + self.norm_h(F.linear(h * keep, self.weight_h))).chunk(4, dim=1)
            c = torch.sigmoid(f) * (c * keep) + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
            outputs.append(h)
        return torch.stack(outputs, dim=1), torch.cat([h, c], dim=1)


MEMORIES = {"lstm": LSTM, "lnlstm": LayerNormLSTM}


def fill(weight: torch.Tensor, init: str, generator: torch.Generator) -> None:
    """Draw the weights of the four gates: "orthogonal" (gain 1, as openai/baselines) or "xavier" (uniform)."""
    if init == "orthogonal":
        nn.init.orthogonal_(weight, generator=generator)
    else:
        nn.init.xavier_uniform_(weight, generator=generator)


@dataclass
class Chunks:
    """K chunks of L steps as `logits` and `value` take them.

    Attributes:
        x: what the body is given, chunk by chunk: K * L observations, prepared.
        state: (K, S) before the first steps.
        first: (K, L) bool, whether an episode begins with this step.
        found: of each memory that was evaluated, its output (K * L, U) and its state after the last steps (K, 2 U).
    """

    x: torch.Tensor
    state: torch.Tensor
    first: torch.Tensor
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class Recurrent(Evaluator):
    """Evaluates networks with a memory. The state is the caller's."""

    def __init__(self, ac: ActorCritic, base: Any = None) -> None:
        """Take the networks, and what evaluates their bodies: `ac` itself or ppo.compute's."""
        self._ac, self._base = ac, base or ac

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> Chunks:
        """Return one step of each environment with nothing in memory."""
        assert rows is None
        return self.recall(obs, torch.zeros(len(obs), self._ac.state_size, device=obs.device))

    def recall(self, obs: torch.Tensor, state: torch.Tensor) -> Chunks:
        """Return one step of each environment as `logits` and `value` take it: obs (N, *O) and the states (N, S)."""
        return Chunks(self._base.prepare(obs), state, torch.zeros(len(obs), 1, dtype=torch.bool, device=obs.device))

    def logits(self, chunks: Chunks) -> torch.Tensor:
        """The parameters of the distribution of actions, (M, P) float32."""
        return self._ac.pi[-1](self._remember(0, chunks))

    def value(self, chunks: Chunks) -> torch.Tensor:
        """V of each step, (M,) float32."""
        return self._ac.v[-1](self._remember(0 if self._ac.shared else 1, chunks)).squeeze(-1)

    def _remember(self, i: int, chunks: Chunks) -> torch.Tensor:
        """Return the output (K * L, U) of memory `i`: 0 the actor's, or the common one, 1 the critic's."""
        if i not in chunks.found:
            memory, (count, length) = self._ac.memories[i], chunks.first.shape
            features = (self._base.v_features if i else self._base.pi_features)(chunks.x)
            state = chunks.state[:, 2 * memory.units * i : 2 * memory.units * (i + 1)]
            out, after = memory(features.view(count, length, -1), state, chunks.first)
            chunks.found[i] = out.flatten(0, 1), after
        return chunks.found[i][0]

    def state_after(self, chunks: Chunks) -> torch.Tensor:
        """Return the states (K, S) after the last steps; what was not evaluated keeps its own."""
        parts = chunks.state.split([2 * memory.units for memory in self._ac.memories], dim=1)
        return torch.cat([chunks.found.get(i, (None, part))[1] for i, part in enumerate(parts)], dim=1)


def evaluator(ac: ActorCritic) -> Evaluator:
    """Return what evaluates networks as they are, with a memory or without."""
    return Recurrent(ac) if ac.memories else ac


class RecurrentNets(Recurrent):
    """Drop-in for `ActorCritic` as what evaluates a run's networks; carries the states of N environments."""

    def __init__(self, ac: ActorCritic, base: Any, num_envs: int, steps: int, chunk_steps: int) -> None:
        """Begin with nothing in memory.

        Args:
            ac: the networks, on their device.
            base: what evaluates their bodies.
            num_envs, steps: N and T.
            chunk_steps: L, a divisor of T.
        """
        super().__init__(ac, base)
        self.dtype, self.chunk_steps = base.dtype, chunk_steps
        self._shape, self._t = (num_envs, steps), 0
        device = next(ac.parameters()).device
        self._state = torch.zeros(num_envs, ac.state_size, device=device)
        self._starts = torch.zeros(num_envs, steps // chunk_steps, ac.state_size, device=device)
        self._first = torch.zeros(num_envs, steps, dtype=torch.bool, device=device)
        self._ended = torch.zeros(num_envs, dtype=torch.bool, device=device)  # with the last step

    def prepare(self, obs: torch.Tensor, rows: torch.Tensor | None = None) -> Chunks:
        """Return whole chunks of the epoch that was collected, as `logits` and `value` take them.

        Args:
            obs: (T * N, *O).
            rows: (M,) int64 into T * N: the steps of one chunk after the other.
        """
        assert rows is not None
        num_envs, length = self._shape[0], self.chunk_steps
        t, env = rows.view(-1, length) // num_envs, rows.view(-1, length) % num_envs  # (K, L)
        return Chunks(self._base.prepare(obs, rows), self._starts[env[:, 0], t[:, 0] // length], self._first[env, t])

    @torch.no_grad()
    def step(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the parameters (N, P) and values (N,) for acting, and remember what was seen: once for each step."""
        if self._t % self.chunk_steps == 0:
            self._starts[:, self._t // self.chunk_steps] = self._state
        self._first[:, self._t] = self._ended
        self._ended.zero_()
        self._t = (self._t + 1) % self._shape[1]
        now = self.recall(obs, self._state)
        logits, val = self.logits(now), self.value(now)
        self._state = self.state_after(now)
        return logits, val

    @torch.no_grad()
    def next_value(self, obs: torch.Tensor, envs: np.ndarray | None = None) -> torch.Tensor:
        """Return V of what follows the last step, of all environments or of those where `envs` (N,) is set."""
        state = self._state if envs is None else self._state[torch.from_numpy(envs).to(self._state.device)]
        return self.value(self.recall(obs, state))

    def forget(self, ended: np.ndarray) -> None:
        """Empty the memory of the environments whose episode ended with the last step: (N,) bool."""
        self._ended |= torch.from_numpy(ended).to(self._ended.device)
        self._state[self._ended] = 0.0

    def get_state(self) -> np.ndarray:
        """Return what is in memory: (N, S) float32."""
        return self._state.cpu().numpy().copy()

    def set_state(self, state: np.ndarray) -> None:
        """Put back what `get_state` returned, at the beginning of an epoch.

        Raises:
            ValueError: it has another shape, or numbers that are not finite.
        """
        if state.shape != tuple(self._state.shape) or not np.isfinite(state).all():
            raise ValueError(f"memory is {state.shape}, expected {tuple(self._state.shape)} finite numbers")
        self._state.copy_(torch.from_numpy(state))
        self._t = 0

    def refresh(self) -> None:
        """Bring up to date what was made from the weights."""
        self._base.refresh()
