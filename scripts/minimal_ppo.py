"""PPO in a hundred lines: `python scripts/minimal_ppo.py` solves CartPole-v1 in a minute or two. Needs no other file.

Read it from `train` upwards or from here downwards; equations are numbered as in Schulman et al. 2017, "Proximal Policy
Optimization Algorithms" (arXiv:1707.06347). T steps of N environments, A actions; s, a, r: state, action, reward.
What `ppo/` adds: images, continuous actions, many processes, checkpoints, evaluation. It computes this, but
clips the gradient of each network on its own.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

N, T = 8, 128  # environments, and steps of each before an update
GAMMA, LAMBDA = 0.99, 0.95  # discount of rewards; how far an advantage trusts rewards (1) or the critic (0)
EPSILON = 0.2  # how far an update may move the probability of an action
PASSES, MINIBATCH = 8, 256  # sweeps over the N * T samples, and samples of a step of the optimiser
LEARNING_RATE, GOAL = 1e-3, 475  # Adam's step size at the start; CartPole-v1 counts as solved from this return on


def network(inputs: int, outputs: int, last_gain: float) -> nn.Sequential:
    """Two hidden layers. A small last gain makes the first policy nearly uniform."""
    net = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer, gain in zip(linears, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return net


def advantages(rew: Tensor, val: Tensor, last_val: Tensor, done: Tensor) -> Tensor:
    """Return A (T, N): how much better an action turned out than the critic V (T, N) expected; done: it ended one."""
    adv, carry = torch.zeros_like(rew), torch.zeros(rew.shape[1])
    for t in reversed(range(len(rew))):
        next_val = last_val if t == len(rew) - 1 else val[t + 1]
        delta = rew[t] + GAMMA * next_val * (1 - done[t]) - val[t]  # (12) delta_t = r_t + gamma V(s_t+1) - V(s_t)
        carry = delta + GAMMA * LAMBDA * (1 - done[t]) * carry  # (11) A_t = delta_t + gamma lambda A_t+1
        adv[t] = carry
    return adv


def losses(pi: nn.Module, v: nn.Module, obs: Tensor, act: Tensor, logp_old: Tensor, adv: Tensor, ret: Tensor) -> Tensor:
    """Return what a step of the optimiser makes smaller, for M samples."""
    logp = Categorical(logits=pi(obs)).log_prob(act)
    ratio = (logp - logp_old).exp()  # (6) r(theta) = pi_theta(a | s) / pi_old(a | s)
    clipped = ratio.clamp(1 - EPSILON, 1 + EPSILON)
    surrogate = torch.min(ratio * adv, clipped * adv).mean()  # (7) L = E[min(r A, clip(r, 1 - eps, 1 + eps) A)]
    value_loss = (v(obs).squeeze(-1) - ret).pow(2).mean()  # (9) (V(s) - V_target)^2
    return value_loss - surrogate  # actor and critic share no weights, so that neither loss needs a coefficient


def update(pi: nn.Module, v: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, ...]) -> None:
    """Sweep over the batch (N * T rows of each tensor), in a new order each time."""
    params = [*pi.parameters(), *v.parameters()]
    for _ in range(PASSES):
        for rows in torch.randperm(len(batch[0])).split(MINIBATCH):
            optimiser.zero_grad()
            losses(pi, v, *(part[rows] for part in batch)).backward()
            nn.utils.clip_grad_norm_(params, 0.5)  # not in the paper: no step is huge
            optimiser.step()


def train(seed: int = 0, steps: int = 500_000) -> list[float]:
    """Return the returns of all episodes; ends where the mean of the last 100 reaches GOAL, or after `steps` steps."""
    torch.manual_seed(seed)
    envs = gym.make_vec("CartPole-v1", N, "sync", vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP})
    pi, v = network(4, 2, 0.01), network(4, 1, 1.0)  # the actor's logits of A = 2 actions, and the critic V(s)
    optimiser = torch.optim.Adam([*pi.parameters(), *v.parameters()], LEARNING_RATE, eps=1e-5)
    now, running, finished = torch.from_numpy(envs.reset(seed=seed)[0]), np.zeros(N), list[float]()
    obs, act = torch.zeros(T, N, 4), torch.zeros(T, N, dtype=torch.int64)
    logp, val, rew, done = torch.zeros(4, T, N)
    for epoch in range(epochs := -(-steps // (N * T))):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - epoch / epochs)
        with torch.no_grad():
            for t in range(T):  # collect: act with the policy as it is, and keep what happens
                policy = Categorical(logits=pi(now))
                obs[t], act[t], val[t] = now, policy.sample(), v(now).squeeze(-1)
                logp[t] = policy.log_prob(act[t])
                after, reward, terminated, truncated, infos = envs.step(act[t].numpy())
                running += reward
                for i in np.flatnonzero(truncated & ~terminated):  # the time limit, not a fall: add what the
                    final = torch.from_numpy(infos["final_obs"][i])  # critic expects from the last observation on
                    reward[i] += GAMMA * v(final).item()
                now, rew[t] = torch.from_numpy(after), torch.from_numpy(reward)
                done[t] = torch.from_numpy(terminated | truncated)
                finished += running[terminated | truncated].tolist()
                running[terminated | truncated] = 0
            adv = advantages(rew, val, v(now).squeeze(-1), done)
        ret = adv + val  # what the critic learns to predict
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)  # better than the average becomes likelier
        update(pi, v, optimiser, tuple(part.flatten(0, 1) for part in (obs, act, logp, adv, ret)))
        recent = float(np.mean(finished[-100:])) if finished else 0.0
        print(
            f"step {(epoch + 1) * N * T:7d}   episodes {len(finished):5d}   mean return of the last 100: {recent:5.1f}"
        )
        if len(finished) >= 100 and recent >= GOAL:
            break
    envs.close()
    return finished


if __name__ == "__main__":
    torch.set_num_threads(1)  # networks this small are slower on more
    parser = argparse.ArgumentParser(description="Solve CartPole-v1 by PPO.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500_000, help="at most so many, over all environments")
    args = parser.parse_args()
    train(args.seed, args.steps)
