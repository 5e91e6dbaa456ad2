"""The mathematics of PPO: numbers and arrays in, numbers and arrays out.

Letters of the shapes: T steps, N environments of this rank, M samples of a minibatch, A actions.

Sources, cited as PPO and GAE below:
    PPO  Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347
    GAE  Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
         arXiv:1506.02438
"""

from __future__ import annotations

import numpy as np
import scipy.signal
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
    return scipy.signal.lfilter([1.0], [1.0, -float(discount)], np.asarray(x, np.float64)[::-1])[::-1]


def gae(rew: np.ndarray, val: np.ndarray, last_val: float, gamma: float, lam: float) -> np.ndarray:
    """Estimate the advantages of one path: A_t = sum_l (gamma lam)^l delta_{t+l} (GAE eq. 16).

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t) (GAE eq. 10). A path never crosses the end of an episode, so nothing
    has to be masked: `last_val` stands for everything after its last step.

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
    """Return the discounted sum of the rewards from each step on, with V after the last one: (T,) float64."""
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

    mse: (V - R)^2 (PPO eq. 9). huber: 0.5 d^2 where |d| < 1, else |d| - 0.5. clipped: the larger of (V - R)^2 and
    the same with V kept within `clip` of `val_old`, as in openai/baselines ppo2.

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
