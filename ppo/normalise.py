"""Normalisation of observations and rewards by running statistics, as options.

Within an epoch the statistics stand still, so that the policy which learns is the one that acted. At its end they take
in the epoch: each environment's own first, then in the order of the environments, so that they are the same for any
number of ranks. The networks hold what observations are normalised with (`networks.Normalise`): it is saved with them,
and an evaluation changes nothing.

Letters of the shapes: T steps, N environments of this rank, D numbers of an observation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ppo.networks import ActorCritic
from utils.mpi import Comm

CLIP = 10.0  # bound of a normalised reward
EPS = 1e-8  # added to a variance


class Moments:
    """How many vectors were seen, their mean, and the sum of their squared distances from it: float64.

    Two sets are joined as Chan, Golub and LeVeque 1979 do, "Updating formulae and a pairwise algorithm for computing
    sample variances", eq. 1.5: no large numbers are subtracted from each other.
    """

    def __init__(self, size: int) -> None:
        """Args: size: of a vector."""
        self.count, self.mean, self.squares = 0.0, np.zeros(size), np.zeros(size)

    @staticmethod
    def of(values: np.ndarray) -> np.ndarray:
        """Return the moments of vectors (T, D), flat: (1 + 2 D,)."""
        values = np.ascontiguousarray(values, np.float64)  # the same memory whatever else was stored beside them
        mean = values.mean(axis=0)
        return np.concatenate([[len(values)], mean, np.square(values - mean).sum(axis=0)])

    def add(self, flat: np.ndarray) -> None:
        """Join what `of` returned to these."""
        count, (mean, squares) = flat[0], flat[1:].reshape(2, -1)
        total, shift = self.count + count, mean - self.mean
        self.squares = self.squares + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def flat(self) -> np.ndarray:
        """These moments, as `of` returns them."""
        return np.concatenate([[self.count], self.mean, self.squares])

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, 1 before anything was seen: (D,)."""
        return np.sqrt(self.squares / self.count + EPS) if self.count else np.ones_like(self.mean)


class Normaliser:
    """Keeps the statistics of a run's observations and of its discounted returns; without arguments it does nothing.

    Attributes:
        obs: of observations; None where they stay as they are.
        ret: of the discounted returns; None where rewards stay as they are.
        carry: (2, all environments) float64, as the epoch began: the discounted return up to here, and the sum of the
            running episode's normalised rewards.
    """

    obs: Moments | None = None
    ret: Moments | None = None

    def __init__(
        self,
        comm: Comm | None = None,
        env_indices: range = range(0),
        num_envs: int = 0,
        steps: int = 0,
        ac: ActorCritic | None = None,
        gamma: float | None = None,
    ) -> None:
        """Prepare for a run.

        Args:
            comm: the ranks.
            env_indices: global indices of this rank's environments.
            num_envs: over all ranks.
            steps: T, of an epoch.
            ac: the networks, which may hold a `Normalise`.
            gamma: discount of the returns that rewards are scaled by; None: they stay as they are.
        """
        self._comm, self._mine, self._gamma = comm, slice(env_indices.start, env_indices.stop), gamma
        self._inputs = None if ac is None else ac.norm
        self.carry = np.zeros((2, num_envs))
        if self._inputs is not None:
            self.obs = Moments(self._inputs.mean.numel())
        if gamma is not None:
            self.ret, self._returns = Moments(1), np.zeros((steps, len(env_indices)))

    def rewards(self, t: int, rew: np.ndarray, ended: np.ndarray, episodes: list[dict[str, Any]]) -> np.ndarray:
        """Return what PPO is shown for the rewards (N,) of step t: divided by the discounted returns' std, and clipped.

        G_t = r_t + gamma G_{t-1} within an episode: the sum of what was earned, as Engstrom et al. 2020,
        "Implementation matters in deep RL", arXiv:2005.12729, section 3 describe it.

        Args:
            t: step of the epoch.
            rew: the environments' rewards.
            ended: (N,) bool, where an episode ended.
            episodes: records of those, whose "train_ret" becomes the sum of what PPO was shown.
        """
        if self.ret is None:
            return rew
        if t == 0:
            self._now = self.carry[:, self._mine].copy()
        scaled = np.clip(rew / self.ret.std[0], -CLIP, CLIP).astype(np.float32)
        self._now = np.stack([self._gamma * self._now[0] + rew, self._now[1] + scaled])
        self._returns[t] = self._now[0]
        for record in episodes:
            record["train_ret"] = float(self._now[1, record["env"] - self._mine.start])
        self._now[:, ended] = 0.0
        return scaled

    def end_epoch(self, obs: np.ndarray) -> None:
        """Take in an epoch, on all ranks: its observations (T, N, ...) and its rewards."""
        if self.obs is None and self.ret is None:
            return
        assert self._comm is not None
        mine: dict[str, np.ndarray] = {}
        if self.obs is not None:
            mine["obs"] = np.stack([Moments.of(obs[:, i].reshape(len(obs), -1)) for i in range(obs.shape[1])])
        if self.ret is not None:
            mine["ret"] = np.stack([Moments.of(one[:, None]) for one in self._returns.T])
            mine["carry"] = self._now.T
        shares = self._comm.broadcast(self._comm.gather(mine))  # in the order of the environments
        joined = {name: np.concatenate([share[name] for share in shares]) for name in mine}
        for name, moments in (("obs", self.obs), ("ret", self.ret)):
            if moments is not None:
                for one in joined[name]:
                    moments.add(one)
        if self.ret is not None:
            self.carry = joined["carry"].T.copy()
        self._publish()

    def _publish(self) -> None:
        """Let the networks normalise observations by the newest statistics."""
        if self.obs is not None and self._inputs is not None:
            for buffer, values in ((self._inputs.mean, self.obs.mean), (self._inputs.std, self.obs.std)):
                buffer.copy_(torch.from_numpy(values).reshape(buffer.shape))

    def described(self) -> dict[str, Any]:
        """Return what a policy's JSON says of rewards, so that another run can go on from it."""
        return {} if self.ret is None else {"returns": self.ret.flat.tolist()}

    def begin_from_policy(self, info: dict[str, Any]) -> bool:
        """Go on from what another run has seen, by its policy: observations are in the networks, returns in the JSON.

        Returns:
            whether the statistics that this run needs were there; those of rewards may not be.
        """
        count: Any = info.get("steps")
        returns: Any = info.get("returns") or []
        if self.ret is not None:
            try:
                self.ret.count, mean, squares = (float(number) for number in returns)
                self.ret.mean, self.ret.squares = np.array([mean]), np.array([squares])
                if not np.isfinite(self.ret.flat).all() or min(self.ret.count, squares) < 0:
                    raise ValueError
            except (TypeError, ValueError, OverflowError):
                self.ret, returns = Moments(1), []
        if self.obs is not None and self._inputs is not None:
            known = isinstance(count, int) and 0 < count < 2**53
            self.obs.count = float(count) if known else 1.0
            self.obs.mean, std = (b.cpu().double().numpy().reshape(-1) for b in (self._inputs.mean, self._inputs.std))
            self.obs.squares = np.maximum(std**2 - EPS, 0.0) * self.obs.count
        return self.ret is None or bool(returns)

    def state(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds, by name."""
        found = {name: m.flat for name, m in (("obs", self.obs), ("ret", self.ret)) if m is not None}
        return found | ({"carry": self.carry.copy()} if self.ret is not None else {})

    def load_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` returned.

        Raises:
            ValueError: an array is missing, or one too many, or of another shape or type.
        """
        mine = self.state()
        if set(arrays) != set(mine):
            raise ValueError(f"normalisation of {sorted(arrays)}, expected {sorted(mine)}")
        for name, old in mine.items():
            new = arrays[name]
            if new.shape != old.shape or new.dtype != np.float64 or (name != "carry" and min(new[0], *new[-1:]) < 0):
                raise ValueError(f"normalisation: {name} is {new.dtype} of shape {new.shape}, expected {old.shape}")
        for name, moments in (("obs", self.obs), ("ret", self.ret)):
            if moments is not None:
                moments.count = float(arrays[name][0])
                moments.mean, moments.squares = arrays[name][1:].reshape(2, -1).copy()
        if self.ret is not None:
            self.carry = arrays["carry"].copy()
        self._publish()
