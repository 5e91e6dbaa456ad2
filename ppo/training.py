"""A run in progress: what it consists of, and what its ranks must agree on. The procedure is in `ppo.py`."""

from __future__ import annotations

import math
import signal
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from envs.vector import VecEnv
from ppo.buffer import PPOBuffer
from ppo.config import PPOConfig
from ppo.networks import ActorCritic, Evaluator
from ppo.normalise import Normaliser
from ppo.optimiser import Adam
from utils.mpi import Comm
from utils.timer import Timer
from utils.watchdog import StopSignals, Watchdog

Tensors = dict[str, torch.Tensor]
Loss = tuple[torch.Tensor, Tensors]  # a part's share of the joined mean loss, and of its statistics


class NotFinite(RuntimeError):
    """A NaN or an infinity occurred; it has not reached a parameter or a file."""


class Interrupted(Exception):
    """All ranks agreed to stop because one of them received `signal_number`. What was saved, the recorder says."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class Coefficients(NamedTuple):
    """An epoch's clip ratio, entropy coefficient and bound on the move of a value, after annealing.

    `anneal_clip` moves both clips: openai/baselines, ppo2/model.py, has one cliprange for them.
    """

    clip_ratio: float
    ent_coef: float
    v_clip: float


@dataclass
class Learner:
    """A network that is trained.

    Attributes:
        name: suffix of its columns: "Pi" or "V"; "AuxPi" or "AuxV" in an auxiliary phase.
        optimiser: of its weights.
        lr: step size at the start of the run.
        passes: over an epoch's data.
        loss: returns it for a part of a minibatch.
        target_kl: its passes of an epoch end once KL exceeds 1.5 times this; None: never.
        stopped: whether its passes of this epoch have ended.
        steps: taken in this epoch.
    """

    name: str
    optimiser: Adam
    lr: float
    passes: int
    loss: Callable[[Training, torch.Tensor, Tensors, Coefficients], Loss]
    target_kl: float | None = None
    stopped: bool = False
    steps: int = 0


@dataclass
class Training:
    """A run in progress. What changes from epoch to epoch is `epoch`, `obs`, `env_states`, `memory`, `best`, `recent`
    and what the networks, optimisers, environments and statistics hold inside."""

    cfg: PPOConfig
    comm: Comm
    env: VecEnv
    ac: ActorCritic  # owns the float32 weights
    nets: Evaluator  # computes with them: `ac` itself, or a faster copy that needs `refresh` after a change of them
    buf: PPOBuffer
    learners: list[Learner]
    device: torch.device
    watchdog: Watchdog
    timer: Timer
    arithmetic: str = "plain"  # what computes: plain, or parts of ppo.compute; recorded
    auxiliary: list[Learner] = field(default_factory=list)  # of PPG's auxiliary phase: the same weights, other moments
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)  # what the actor is trained with beside its own head
    normaliser: Normaliser = field(default_factory=Normaliser)
    signals: StopSignals | None = None
    show_progress: Callable[[int], None] = lambda steps: None  # called after each step, with 0 while updating
    epoch: int = 0
    obs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    env_states: list[bytes] = field(default_factory=list)  # at the epoch's start or, after the update, at its end
    memory: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # the networks', likewise: (N, S)
    best: float = -math.inf
    # Of the last finished episodes, on rank 0: what the family's `best_by` is the mean of, and the return.
    recent: list[list[float]] = field(default_factory=list)

    @property
    def all_learners(self) -> list[Learner]:
        """Those of the update, then those of the auxiliary phase."""
        return [*self.learners, *self.auxiliary]

    @property
    def env_indices(self) -> range:
        """Global indices of this rank's environments."""
        return range(self.env.first_index, self.env.first_index + self.env.num_envs)

    def touch(self, phase: str) -> None:
        """Tell the watchdog and the console what this rank is doing."""
        self.watchdog.touch(phase)
        self.show_progress(0)

    def snapshot(self) -> None:
        """Keep what environments and networks hold of the running episodes, between two epochs."""
        self.env_states, self.memory = self.env.get_state(), self.nets.get_state()

    def close(self) -> None:
        """Release the environments and end the watchdog."""
        self.watchdog.close()
        self.env.close()


def check_finite(training: Training, t: int, rew: np.ndarray, obs: np.ndarray, infos: dict[str, Any]) -> None:
    """Raise NotFinite, naming environment, step and info, where a reward or an observation is NaN or infinite."""
    bad = ~(np.isfinite(rew) & np.isfinite(infos["env_reward"]))
    if obs.dtype.kind == "f":
        bad |= ~np.isfinite(obs).reshape(len(obs), -1).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        kind = "finite" if np.isfinite(obs[i]).all() else "non-finite"
        info = {name: value[i] for name, value in infos.items() if isinstance(value, np.ndarray)}
        raise NotFinite(
            f"environment {training.env_indices[i]} gave reward {rew[i]} and a {kind} observation in step {t} of epoch "
            f"{training.epoch}; info {info}"
        )


def to_device(training: Training, array: np.ndarray) -> torch.Tensor:
    """Return the array as a tensor on the run's device; on the CPU it shares the array's memory."""
    return torch.from_numpy(array).to(training.device)


def stop_signal(training: Training) -> int:
    """Return the signal that asks some rank to stop, the same on all ranks; 0 if there is none."""
    received = training.signals.received if training.signals else 0
    return int(training.comm.max(np.array([received], np.int32))[0])


def check_parameters(training: Training) -> None:
    """Check that the parameters are finite and, by checksum, equal on all ranks.

    Raises:
        NotFinite: on all ranks, with the name of the first tensor that holds a NaN or an infinity.
        RuntimeError: on all ranks, with the name of the first tensor that differs.
    """
    named = [*training.ac.named_parameters(), *training.heads.named_parameters(prefix="heads")]
    names = [name for name, _ in named]
    tensors = [p.detach().cpu().contiguous().numpy() for _, p in named]
    finite = np.array([np.isfinite(tensor).all() for tensor in tensors], np.int32)
    bad = np.flatnonzero(training.comm.max(1 - finite))
    if len(bad):
        raise NotFinite(f"parameter {names[bad[0]]} holds a NaN or an infinity in epoch {training.epoch}")
    if training.comm.world_size == 1:
        return
    gathered = training.comm.gather([zlib.crc32(tensor.tobytes()) for tensor in tensors])
    differs = None
    if gathered is not None:
        wrong = [i for i in range(len(names)) if len({share[i] for share in gathered}) > 1]
        differs = names[wrong[0]] if wrong else None
    differs = training.comm.broadcast(differs)
    if differs is not None:
        raise RuntimeError(f"the ranks' parameters differ in epoch {training.epoch}, first in {differs}")
