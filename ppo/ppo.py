"""PPO over MPI ranks, top to bottom in the order of Algorithm 1 of the paper: collect, advantages, update, log, save.

Every rank runs this file with its share of the environments and makes the same collective calls in the same order;
every decision to stop or to go on is taken on numbers that all ranks share. Sums run over the joined batch of all
ranks, so the number of ranks changes the speed and nothing else.

Letters of the shapes: T steps of an epoch, N environments of this rank, M samples of a minibatch on this rank,
*O one observation, P parameters of a distribution of actions, U uniform numbers that decide an action. The maths is
in `core.py`; `Training` and `Learner` are in `training.py`; `build.py` gives each learner its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ppo import core
from ppo.config import PPOConfig
from ppo.epoch_row import EndedEpisodes, epoch_row, join_episodes, statistics
from ppo.training import (
    Coefficients,
    Interrupted,
    Learner,
    Loss,
    NotFinite,
    Tensors,
    Training,
    check_finite,
    check_parameters,
    stop_signal,
    to_device,
)
from utils.seeding import Purpose, generator

POLL_STEPS = 32  # steps between two checks of whether some rank was asked to stop


def ppo(
    training: Training,
    save: Callable[[Training, bool], None],
    log: Callable[[Training, dict[str, Any], list[dict[str, Any]]], bool],
) -> None:
    """Train from `training.epoch` on until the last epoch, or until `log` ends the run.

    Args:
        training: as built or as restored from a checkpoint.
        save: called by all ranks after every epoch; the flag says that a checkpoint must be written now.
        log: called by all ranks with the epoch's row and finished episodes (both empty except on rank 0);
            returns, on all ranks alike, whether the run ends here.

    Raises:
        Interrupted: a signal asked for the end.
        NotFinite: an observation, reward, loss, gradient or parameter is NaN or infinite.
    """
    timer = training.timer
    training.nets.refresh()
    training.snapshot()
    while training.epoch < training.cfg.num_epochs:
        with timer("collect"):
            episodes = collect(training, save)
        with timer("update"):
            data, values = advantages(training)
            learned = update(training, data)
            training.normaliser.end_epoch(data["obs"])
        training.epoch += 1  # line 7: the policy that acts from here on is the new one
        with timer("log"):
            enough = log(training, *epoch_row(training, episodes, values | learned))
        with timer("save"):
            stop = stop_signal(training)
            save(training, bool(stop) or enough)
        if enough:
            return
        if stop and training.epoch < training.cfg.num_epochs:
            raise Interrupted(stop)


# 1. Collect: run the policy for T steps in each environment (Algorithm 1, lines 2 and 3) ------------------------------


def collect(training: Training, save: Callable[[Training, bool], None] = lambda training, now: None) -> EndedEpisodes:
    """Fill the buffer and return the finished episodes, each with its step in the epoch; `save` is as in `ppo`.

    Raises:
        Interrupted: after `save`: the networks are those of the epoch's start, so a resumed run collects it again.
    """
    cfg, env, buf, dist = training.cfg, training.env, training.buf, training.ac.dist
    uniforms = action_uniforms(cfg, training.env_indices, training.epoch, dist.num_uniforms)  # (T, N, U)
    episodes: EndedEpisodes = []
    for t in range(cfg.steps_per_env):
        training.watchdog.touch(f"collect, epoch {training.epoch}, step {t}")
        if t % POLL_STEPS == 0 and (stop := stop_signal(training)):
            buf.clear()
            save(training, True)
            raise Interrupted(stop)
        row = buf.store_obs(training.obs)  # (N, *O)
        params, val = training.nets.step(to_device(training, row))  # (N, P), (N,)
        act, logp = dist.sample(params.cpu(), uniforms[t])
        training.obs, rew, terminated, truncated, infos = env.step(dist.to_env(act).numpy())
        check_finite(training, t, rew, training.obs, infos)
        ended = terminated | truncated
        rew = training.normaliser.rewards(t, rew, ended, infos["episodes"])
        buf.store(act.numpy(), rew, val.cpu().numpy(), logp.numpy())
        training.show_progress(cfg.num_envs)
        if ended.any():
            last_val = truncated_values(training, terminated, truncated, infos)  # line 4: advantages, path by path
            for i in np.flatnonzero(ended):
                buf.finish_path(int(i), float(last_val[i]))
            training.nets.forget(ended)
        episodes += [(t, episode) for episode in infos["episodes"]]
    buf.finish(values_of(training, training.obs))
    if env.learns:  # a curriculum chooses where the next episodes start
        env.learn_from(training.comm.broadcast(join_episodes(training, episodes)))
    training.snapshot()
    return episodes


def action_uniforms(cfg: PPOConfig, env_indices: range, epoch: int, count: int) -> torch.Tensor:
    """Return (T, N, U) uniform numbers from the environments' streams: an epoch's actions are drawn by them."""
    streams = [generator(cfg.seed, i, Purpose.ACTION, epoch) for i in env_indices]
    draws = [stream.random((cfg.steps_per_env, count), dtype=np.float32) for stream in streams]
    return torch.from_numpy(np.stack(draws, axis=1))


def truncated_values(
    training: Training, terminated: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]
) -> np.ndarray:
    """Return V(final observation) where an episode was cut, and 0 where it terminated: (N,) float32."""
    last_val = np.zeros(len(terminated), np.float32)
    cut = truncated & ~terminated
    if cut.any():
        last_val[cut] = values_of(training, infos["final_obs"][cut], cut)
    return last_val


def values_of(training: Training, obs: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
    """Return V of the observations that follow the last step, of all environments or of those set in `envs` (N,)."""
    return training.nets.next_value(to_device(training, obs), envs).cpu().numpy()


# 2. Advantages (Algorithm 1, line 4): computed path by path in `PPOBuffer`, normalised over the joined batch ---------


def advantages(training: Training) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the epoch's data (T, N, ...) with normalised advantages, and what is logged about the values."""
    data = training.buf.get()
    values = value_statistics(training, data)
    if training.cfg.adv_norm == "batch":
        normalise_advantages(training, data["adv"])
    return data, values


def normalise_advantages(training: Training, adv: np.ndarray) -> None:
    """Shift and scale advantages (T, N) to mean 0 and standard deviation 1 over all ranks, in place."""
    sums = training.comm.sum(np.array([adv.size, adv.sum(dtype=np.float64)]))
    mean = sums[1] / sums[0]
    squares = training.comm.sum(np.array([np.square(adv - mean, dtype=np.float64).sum()]))
    adv -= np.float32(mean)
    adv /= np.float32(math.sqrt(squares[0] / sums[0]) + 1e-8)


def value_statistics(training: Training, data: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return, on rank 0, the spread of the critic's values over all ranks, and the explained variance."""
    ret, error = data["ret"].astype(np.float64), data["ret"].astype(np.float64) - data["val"]
    sums = training.comm.sum(np.array([ret.size, ret.sum(), (ret**2).sum(), error.sum(), (error**2).sum()]))
    shares = training.comm.gather(data["val"])
    values = np.concatenate(shares, axis=1).ravel() if shares is not None else np.zeros(0)
    return statistics("VVals", values) | {"ExplainedVariance": core.explained_variance(sums)}


# 3. Update: several passes of minibatch gradient ascent (Algorithm 1, line 6) ----------------------------------------


def update(training: Training, data: dict[str, np.ndarray]) -> dict[str, float]:
    """Train the networks on one epoch's data and return what is logged about it."""
    if (training.epoch + 1) % training.cfg.check_every == 0 or training.epoch + 1 == training.cfg.num_epochs:
        check_parameters(training)  # before the update, which would spread or hide a difference
    batch = {name: to_device(training, array).flatten(0, 1) for name, array in data.items()}  # (T * N, ...)
    coef = begin_epoch(training)
    means: list[dict[str, float]] = []  # of each pass
    for i in range(max(learner.passes for learner in training.learners)):
        in_pass: dict[str, list[float]] = {}  # statistics of each minibatch
        batches, adv = minibatches(training, i), batch["adv"]
        if training.cfg.adv_norm == "minibatch":
            adv = normalise_per_minibatch(training, adv, batches)
        for rows in batches:
            active = [learner for learner in training.learners if i < learner.passes and not learner.stopped]
            if not active:
                break
            training.touch(f"update, epoch {training.epoch}, pass {i}")
            for name, value in train_minibatch(training, active, batch | {"adv": adv}, rows, coef).items():
                in_pass.setdefault(name, []).append(value)
        means.append({name: math.fsum(values) / len(values) for name, values in in_pass.items()})
    optimisers = [learner.optimiser for learner in training.learners]
    optimisers[0].gather_weights(optimisers)
    return summarise(means, training.learners[0].steps) | {"LearningRate": optimisers[0].lr}


def begin_epoch(training: Training) -> Coefficients:
    """Set the learners' step sizes and forget their last epoch; return the coefficients of the losses."""
    cfg, progress = training.cfg, training.epoch / training.cfg.num_epochs
    for learner in training.learners:
        learner.optimiser.lr = core.anneal(learner.lr, progress, cfg.anneal_lr)
        learner.stopped, learner.steps = False, 0
    clip_ratio, v_clip = (core.anneal(clip, progress, cfg.anneal_clip) for clip in (cfg.clip_ratio, cfg.v_clip))
    return Coefficients(clip_ratio, core.anneal(cfg.ent_coef, progress, cfg.anneal_ent), v_clip)


def minibatches(training: Training, i: int) -> list[torch.Tensor]:
    """Return this rank's part of each minibatch of pass `i`, as row numbers (M,) into T * N.

    Every minibatch takes the same number of steps from every environment, by a permutation drawn from that
    environment's own stream: the joined minibatches are the same whatever the number of ranks. Networks that remember
    are given chunks of L consecutive steps, whole and in one piece; for others L is 1.
    """
    cfg, steps, local_envs = training.cfg, training.cfg.steps_per_env, training.env.num_envs
    per_env = cfg.minibatch_size // cfg.num_envs  # steps of each environment in a minibatch
    counter = training.epoch * max(learner.passes for learner in training.learners) + i
    length = training.nets.chunk_steps
    streams = [generator(cfg.seed, e, Purpose.MINIBATCH, counter) for e in training.env_indices]
    chunks = np.stack([stream.permutation(steps // length) for stream in streams])  # (N, T / L)
    times = (chunks[:, :, None] * length + np.arange(length)).reshape(local_envs, steps)
    index = times * local_envs + np.arange(local_envs)[:, None]  # (N, T), into T * N
    parts = (index[:, start : start + per_env].reshape(-1) for start in range(0, steps, per_env))
    return [torch.from_numpy(part).to(training.device) for part in parts]


def normalise_per_minibatch(training: Training, adv: torch.Tensor, batches: list[torch.Tensor]) -> torch.Tensor:
    """Return the advantages (T * N,) with mean 0 and standard deviation 1 in each joined minibatch of one pass."""
    host = adv.cpu().numpy()
    groups = torch.stack(batches).cpu().numpy()  # (minibatches, M)
    values = host[groups].astype(np.float64)
    sums = training.comm.sum(np.stack([values.sum(axis=1), np.square(values).sum(axis=1)]))
    mean = sums[0] / training.cfg.minibatch_size
    std = np.sqrt(np.maximum(sums[1] / training.cfg.minibatch_size - mean**2, 0.0))
    out = np.empty_like(host)
    out[groups] = (values - mean[:, None]) / (std[:, None] + 1e-8)
    return torch.from_numpy(out).to(training.device)


def train_minibatch(
    training: Training, active: list[Learner], batch: Tensors, rows: torch.Tensor, coef: Coefficients
) -> dict[str, float]:
    """Take a step with each active learner on the rows (M,) of a minibatch; return its statistics over all ranks."""
    stats = sum_over_ranks(training, active, accumulate_gradients(training, active, batch, rows, coef))
    take_steps(training, active, stats)
    return stats


def accumulate_gradients(
    training: Training, active: list[Learner], batch: Tensors, rows: torch.Tensor, coef: Coefficients
) -> Tensors:
    """Compute the gradients of this rank's part of a minibatch, in pieces of `chunk_size` samples.

    Returns:
        this rank's share of the losses and of the other statistics, each a number.
    """
    sums: Tensors = {}
    for learner in active:
        learner.optimiser.zero_gradient()
    for chunk in rows.split(training.cfg.chunk_size):
        part = {name: tensor.index_select(0, chunk) for name, tensor in batch.items() if name != "obs"}
        obs = training.nets.prepare(batch["obs"], chunk)
        for learner in active:
            loss, stats = learner.loss(training, obs, part, coef)
            loss.backward()
            for name, value in stats.items():
                sums[name] = sums[name] + value if name in sums else value
    return sums


def actor_loss(training: Training, obs: torch.Tensor, part: Tensors, coef: Coefficients) -> Loss:
    """Return this part's share of -mean(L^CLIP) - ent_coef mean(entropy) (PPO eq. 7, last term of eq. 9).

    Each sum is divided by the joined minibatch's size, so that the parts of all ranks add up to its mean; so are the
    statistics, of which LossPi is -mean(L^CLIP) alone. `part` holds act (M, ...), logp and adv (M,).
    """
    size = training.cfg.minibatch_size
    logp, entropy = training.ac.dist.log_prob_and_entropy(training.nets.logits(obs), part["act"])
    objective, ratio = core.clipped_surrogate(logp, part["logp"], part["adv"], coef.clip_ratio)
    loss, mean_entropy = -objective.sum() / size, entropy.sum() / size
    with torch.no_grad():
        kl = core.approx_kl(logp, part["logp"]).sum() / size
        clipped = ((ratio - 1.0).abs() > coef.clip_ratio).float().sum() / size
    stats = {"LossPi": loss.detach(), "Entropy": mean_entropy.detach(), "KL": kl, "ClipFrac": clipped}
    return loss - coef.ent_coef * mean_entropy, stats


def critic_loss(training: Training, obs: torch.Tensor, part: Tensors, coef: Coefficients) -> Loss:
    """Return this part's share of mean(value loss), and the same as a statistic: the second term of PPO eq. 9.

    Without its weight c_1, which is not needed where the critic shares nothing.
    """
    cfg, val = training.cfg, training.nets.value(obs)
    loss = core.value_loss(val, part["ret"], cfg.v_loss, part["val"], coef.v_clip).sum() / cfg.minibatch_size
    return loss, {"LossV": loss.detach()}


def joint_loss(training: Training, obs: torch.Tensor, part: Tensors, coef: Coefficients) -> Loss:
    """Return the negative of PPO eq. 9 as a whole, for a network whose heads share a body: c1 is v_coef."""
    loss, stats = actor_loss(training, obs, part, coef)
    loss_v, more = critic_loss(training, obs, part, coef)
    return loss + training.cfg.v_coef * loss_v, stats | more


def sum_over_ranks(training: Training, active: list[Learner], sums: Tensors) -> dict[str, float]:
    """Sum gradients and statistics over the ranks; return the statistics, and each gradient's norm as GradNorm<name>.

    Raises:
        NotFinite: a loss or gradient is NaN or infinite; on all ranks alike, before an optimiser moves.
    """
    optimisers = [learner.optimiser for learner in active]
    squares = optimisers[0].sum_gradients(optimisers)
    numbers = training.comm.sum(np.array([*torch.stack(list(sums.values())).tolist(), *squares])).tolist()
    norms = [f"GradNorm{learner.name}" for learner in active]
    joined = dict(zip((*sums, *norms), numbers, strict=True))
    joined |= {name: math.sqrt(joined[name]) for name in norms}
    if not all(math.isfinite(value) for value in joined.values()):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in joined.items())
        raise NotFinite(
            f"a loss or gradient is not finite in epoch {training.epoch}: {shown}; the parameters are unchanged"
        )
    return joined


def take_steps(training: Training, active: list[Learner], joined: dict[str, float]) -> None:
    """Take a step of Adam with each learner but those whose `target_kl` the KL before this step now exceeds."""
    moved = []
    for learner in active:
        learner.stopped = learner.target_kl is not None and joined["KL"] > 1.5 * learner.target_kl
        if not learner.stopped:
            learner.optimiser.step(joined[f"GradNorm{learner.name}"], training.cfg.max_grad_norm)
            learner.steps += 1
            moved.append(learner.optimiser)
    if moved:
        moved[0].publish(moved)


def summarise(means: list[dict[str, float]], steps: int) -> dict[str, float]:
    """Return the epoch's statistics from each pass's means: first losses, their change, last KL."""

    def of(i: int, name: str) -> float:
        values = [in_pass[name] for in_pass in means if name in in_pass]
        return values[i] if values else math.nan

    return {
        "LossPi": of(0, "LossPi"),
        "LossV": of(0, "LossV"),
        "DeltaLossPi": of(-1, "LossPi") - of(0, "LossPi"),
        "DeltaLossV": of(-1, "LossV") - of(0, "LossV"),
        "Entropy": of(0, "Entropy"),
        "KL": of(-1, "KL"),
        "ClipFrac": of(-1, "ClipFrac"),
        "StopIter": steps,
        "GradNormPi": of(0, "GradNormPi"),
        "GradNormV": of(0, "GradNormV"),
    }
