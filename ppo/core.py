"""The mathematics of PPO: numbers and arrays in, numbers and arrays out.

Letters of the shapes: T steps, N environments of this rank, M samples of a minibatch, A actions or numbers of one
action, P parameters of a distribution of actions, U uniform numbers that decide an action.

Sources, cited as PPO and GAE below:
    PPO  Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347
    GAE  Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
         arXiv:1506.02438
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def discount_cumsum(x: np.ndarray, discount: float) -> np.ndarray:
    """Discounted sum from each step to the end: y_t = x_t + discount * y_{t+1}, with y_T = 0.

    Args:
        x: (T,) float.
        discount: factor per step, in [0, 1].

    Returns:
        (T,) float64.
    """
    total, totals = 0.0, []
    for value in np.asarray(x, np.float64)[::-1].tolist():
        total = value + discount * total
        totals.append(total)
    return np.array(totals[::-1], np.float64)


def gae(rew: np.ndarray, val: np.ndarray, last_val: float, gamma: float, lam: float) -> np.ndarray:
    """Estimate the advantages of one path: A_t = sum_l (gamma lam)^l delta_{t+l} (PPO eq. 11, GAE eq. 16).

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t) (PPO eq. 12, GAE eq. 11). A path never crosses the end of an episode, so
    nothing has to be masked: `last_val` stands for everything after its last step.

    Args:
        rew: (T,) rewards that PPO is shown.
        val: (T,) V(s_t).
        last_val: V of the observation after the last step; 0 where the episode terminated there.
        gamma: discount per step, in [0, 1].
        lam: the lambda of GAE, in [0, 1].

    Returns:
        (T,) float64.
    """
    rew = np.asarray(rew, np.float64)  # sums in double: a path can be thousands of steps long
    val_ext = np.append(np.asarray(val, np.float64), last_val)
    delta = rew + gamma * val_ext[1:] - val_ext[:-1]
    return discount_cumsum(delta, gamma * lam)


def rewards_to_go(rew: np.ndarray, last_val: float, gamma: float) -> np.ndarray:
    """Return sum_l gamma^l r_{t+l} + gamma^{T-t} last_val of each step: (T,) float64, for the arguments of `gae`."""
    return discount_cumsum(np.append(rew, last_val), gamma)[:-1]


def sample_actions(logits: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one action per row by inversion: the first action whose cumulative probability exceeds `uniform`.

    The random number is an argument, so that an environment draws the same actions whichever rank steps it.

    Args:
        logits: (N, A) float32.
        uniform: (N,) float32 in [0, 1).

    Returns:
        act (N,) int64 and logp (N,) float32, log pi(act | obs).
    """
    logp_all = torch.log_softmax(logits, dim=-1)  # (N, A)
    cumulative = logp_all.exp().cumsum(dim=-1)
    act = (cumulative <= uniform[:, None]).sum(dim=-1)
    act = act.clamp_(max=logits.shape[-1] - 1)  # rounding can leave the last cumulative sum just below 1
    return act, logp_all.gather(-1, act[:, None]).squeeze(-1)


def log_prob_and_entropy(logits: torch.Tensor, act: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log pi(act | obs) and the entropy of pi(. | obs), both (M,), from logits (M, A) and act (M,) int64."""
    logp_all = torch.log_softmax(logits, dim=-1)
    logp = logp_all.gather(-1, act[:, None]).squeeze(-1)
    entropy = -(logp_all.exp() * logp_all).sum(dim=-1)
    return logp, entropy


def categorical_kl(logits_old: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return KL(old || new) = sum_a pi_old(a) (log pi_old(a) - log pi(a)) of each sample: (M,) from two (M, A)."""
    logp_old, logp = torch.log_softmax(logits_old, dim=-1), torch.log_softmax(logits, dim=-1)
    return (logp_old.exp() * (logp_old - logp)).sum(dim=-1)


class Distribution(ABC):
    """Which actions a policy may take, and how likely: one object per kind of action space.

    The actor's output (M, P) is the parameters. Random numbers come from outside, see `sample_actions`.

    Attributes:
        num_params, num_uniforms: P and U.
        act_shape, act_dtype: of one action.
    """

    num_params: int
    num_uniforms: int
    act_shape: tuple[int, ...]
    act_dtype: type = np.int64

    @abstractmethod
    def sample(self, params: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions.

        Args:
            params: (N, P) float32.
            uniform: (N, U) float32 in [0, 1).

        Returns:
            act (N, ...) and logp (N,) float32, log pi(act | obs).
        """

    @abstractmethod
    def log_prob_and_entropy(self, params: torch.Tensor, act: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log pi(act | obs) and the entropy of pi(. | obs), both (M,), from params (M, P) and act (M, ...)."""

    @abstractmethod
    def kl(self, params_old: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """Return KL(old || new) = E_old[log pi_old - log pi] of each sample, exactly: (M,) from two (M, P)."""

    @abstractmethod
    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """Return the most probable actions (M, ...)."""

    def to_env(self, act: torch.Tensor) -> torch.Tensor:
        """Return what the environment is given for actions (N, ...): here the actions themselves."""
        return act


class Categorical(Distribution):
    """One of A actions (a Discrete space); the parameters are logits (M, A)."""

    def __init__(self, num_actions: int) -> None:
        self.num_actions = self.num_params = num_actions
        self.num_uniforms, self.act_shape = 1, ()

    def sample(self, params: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `sample_actions`."""
        return sample_actions(params, uniform[:, 0])

    def log_prob_and_entropy(self, params: torch.Tensor, act: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the function of this name."""
        return log_prob_and_entropy(params, act)

    def kl(self, params_old: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """See `categorical_kl`."""
        return categorical_kl(params_old, params)

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """The action of the largest logit, (M,) int64."""
        return params.argmax(dim=-1)


class MultiCategorical(Distribution):
    """A choice in each of A places (a MultiDiscrete space); the parameters are all places' logits, side by side.

    The choices are independent given the observation: log pi(act | obs) = sum_a log pi_a(act_a | obs), and the entropy
    is the sum of the entropies.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        """Args: counts: (A,) how many choices each place has."""
        self.counts = [int(count) for count in counts]
        self.num_params, self.num_uniforms = sum(self.counts), len(self.counts)
        self.act_shape = (len(self.counts),)

    def sample(self, params: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw each place's choice with a number of its own."""
        places = zip(params.split(self.counts, dim=-1), uniform.unbind(-1), strict=True)
        acts, logps = zip(*(sample_actions(logits, number) for logits, number in places), strict=True)
        return torch.stack(acts, dim=-1), torch.stack(logps, dim=-1).sum(dim=-1)

    def log_prob_and_entropy(self, params: torch.Tensor, act: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the places."""
        places = zip(params.split(self.counts, dim=-1), act.unbind(-1), strict=True)
        logps, entropies = zip(*(log_prob_and_entropy(logits, choice) for logits, choice in places), strict=True)
        return torch.stack(logps, dim=-1).sum(dim=-1), torch.stack(entropies, dim=-1).sum(dim=-1)

    def kl(self, params_old: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """The sum over the places."""
        places = zip(params_old.split(self.counts, dim=-1), params.split(self.counts, dim=-1), strict=True)
        return torch.stack([categorical_kl(old, new) for old, new in places], dim=-1).sum(dim=-1)

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """Each place's most probable choice, (M, A) int64."""
        return torch.stack([logits.argmax(dim=-1) for logits in params.split(self.counts, dim=-1)], dim=-1)


class Gaussian(Distribution):
    """A vector of A numbers, each normally distributed (a Box space); the parameters are A means and A log std.

    Log-probabilities are those of the numbers as sampled: an environment that clips an action to its bounds does so
    afterwards. The normal numbers are made from uniform ones by the inverse of their cumulative distribution.
    """

    act_dtype = np.float32

    def __init__(self, size: int) -> None:
        """Args: size: A."""
        self.size, self.num_params, self.num_uniforms, self.act_shape = size, 2 * size, size, (size,)

    def sample(self, params: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """act = mean + std Phi^-1(u): (N, A) float32."""
        mean, log_std = params.chunk(2, dim=-1)
        # Uniform float32 numbers are 2^-24 apart and begin at 0, where Phi^-1 is infinite: take the middles.
        centred = uniform.double() + 2.0**-25
        act = mean + log_std.exp() * torch.special.ndtri(centred).float()
        return act, self._log_prob(params, act)

    def _log_prob(self, params: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        """log pi = sum_a -((act_a - mean_a) / std_a)^2 / 2 - log std_a - log(2 pi) / 2: (M,)."""
        mean, log_std = params.chunk(2, dim=-1)
        return (-0.5 * ((act - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def log_prob_and_entropy(self, params: torch.Tensor, act: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The entropy is sum_a log std_a + log(2 pi e) / 2."""
        log_std = params.chunk(2, dim=-1)[1]
        return self._log_prob(params, act), (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def kl(self, params_old: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
        """sum_a log(std / std_old) + (std_old^2 + (mean_old - mean)^2) / (2 std^2) - 1/2; the same after tanh."""
        (mean_old, log_std_old), (mean, log_std) = params_old.chunk(2, dim=-1), params.chunk(2, dim=-1)
        spread = (2.0 * log_std_old).exp() + (mean_old - mean) ** 2
        return (log_std - log_std_old + 0.5 * spread * (-2.0 * log_std).exp() - 0.5).sum(dim=-1)

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """The means, (M, A)."""
        return params.chunk(2, dim=-1)[0]


class SquashedGaussian(Gaussian):
    """A vector of A numbers in (-1, 1): tanh of normally distributed ones.

    The action that is kept is the number x before tanh, from which tanh(x) follows but not exactly the other way
    round. log pi(tanh x) = log N(x) - sum_a log(1 - tanh^2 x_a), the change of variables (Haarnoja et al. 2018, "Soft
    Actor-Critic", arXiv:1801.01290, appendix C).
    """

    NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)

    def to_env(self, act: torch.Tensor) -> torch.Tensor:
        """tanh(x)."""
        return act.tanh()

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """The means before tanh, (M, A): the median action. The most probable one lies nearer to the bounds."""
        return super().mode(params)

    def _log_prob(self, params: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        return super()._log_prob(params, act) - log_slope_of_tanh(act).sum(dim=-1)

    def log_prob_and_entropy(self, params: torch.Tensor, act: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The entropy is that of the normal numbers + E[sum_a log(1 - tanh^2 x_a)].

        The expectation is a weighted sum over 16 points, by Gauss-Hermite quadrature: no random numbers are needed, and
        gradients are exact.
        """
        logp, entropy = super().log_prob_and_entropy(params, act)
        mean, log_std = params.unsqueeze(-1).chunk(2, dim=1)  # (M, A, 1)
        nodes, weights = (torch.from_numpy(x).to(params) for x in (self.NODES, self.WEIGHTS / self.WEIGHTS.sum()))
        slopes = log_slope_of_tanh(mean + log_std.exp() * nodes)  # (M, A, 16)
        return logp, entropy + (slopes @ weights).sum(dim=-1)


def log_slope_of_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 - tanh^2 x) = 2 (log 2 - x - softplus(-2 x)), which does not overflow; the shape of x."""
    return 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))


def clipped_surrogate(
    logp: torch.Tensor, logp_old: torch.Tensor, adv: torch.Tensor, clip_ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clipped objective of each sample, to be maximised: L^CLIP of PPO eq. 7, before the mean.

    min(r A, clip(r, 1 - eps, 1 + eps) A) with r = exp(logp - logp_old).

    Args:
        logp: (M,) log pi(a | s), with gradient.
        logp_old: (M,) the same under the policy that acted.
        adv: (M,) advantages.
        clip_ratio: the epsilon of PPO, > 0.

    Returns:
        objective (M,) and ratio (M,).
    """
    ratio = torch.exp(logp - logp_old)
    clipped = ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    return torch.min(ratio * adv, clipped * adv), ratio


def value_loss(
    val: torch.Tensor, ret: torch.Tensor, kind: str, val_old: torch.Tensor | None = None, clip: float = 0.2
) -> torch.Tensor:
    """Return the value loss of each sample (M,).

    With d = V - R: mse is d^2 (L^VF, defined with PPO eq. 9). huber is 0.5 d^2 where |d| < 1, else |d| - 0.5: half of
    mse near zero. clipped is the larger of d^2 and the same with V kept within `clip` of `val_old`, as in
    openai/baselines ppo2.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "mse":
        return (val - ret) ** 2
    if kind == "huber":
        return F.smooth_l1_loss(val, ret, reduction="none")
    if kind == "clipped":
        assert val_old is not None
        near_old = val_old + (val - val_old).clamp(-clip, clip)
        return torch.max((val - ret) ** 2, (near_old - ret) ** 2)
    raise ValueError(f"value loss must be mse, huber or clipped, got {kind!r}")


def approx_kl(logp: torch.Tensor, logp_old: torch.Tensor) -> torch.Tensor:
    """Estimate KL(old || new) per sample (M,): (r - 1) - log r, unbiased and never negative.

    Source: Schulman 2020, "Approximating KL Divergence" (k3), http://joschu.net/blog/kl-approx.html
    """
    log_ratio = logp - logp_old
    return torch.expm1(log_ratio) - log_ratio


def explained_variance(sums: np.ndarray) -> float:
    """Return 1 - Var(R - V) / Var(R): 1 for a perfect critic, 0 for one that predicts the mean, negative for a worse.

    Args:
        sums: (5,) count, sum R, sum R^2, sum (R - V), sum (R - V)^2 of the joined batch.

    Returns:
        NaN where the returns do not vary.
    """
    n, ret, ret_sq, err, err_sq = (float(x) for x in sums)
    var_ret = ret_sq / n - (ret / n) ** 2
    var_err = err_sq / n - (err / n) ** 2
    return 1.0 - var_err / var_ret if var_ret > 1e-12 else float("nan")


def anneal(start: float, progress: float, on: bool) -> float:
    """Return `start` or, if `on`, its linear decay from progress 0 to zero at progress 1."""
    return start * (1.0 - progress) if on else start
