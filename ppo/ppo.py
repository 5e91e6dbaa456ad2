"""PPO over MPI ranks, top to bottom in the order of Algorithm 1 of the paper: collect, advantages, update, log, save.

Every rank runs this file with its share of the environments and makes the same collective calls in the same order;
every decision to stop or to go on is taken on numbers that all ranks share. Sums run over the joined batch of all
ranks, so the number of ranks changes the speed and nothing else.

Letters of the shapes: T steps of an epoch, N environments of this rank, M samples of a minibatch on this rank,
*O one observation, P parameters. The maths is in `core.py`, with the equations.
"""

from __future__ import annotations

import math
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from envs.vector import VecEnv
from ppo import core
from ppo.buffer import PPOBuffer
from ppo.config import PPOConfig
from ppo.networks import ActorCritic
from ppo.optimiser import ShardedAdam, gather_copies, gather_weights, reduce_gradients
from utils.mpi import Comm
from utils.seeding import Purpose, generator
from utils.system import memory_mb
from utils.watchdog import StopSignals, Watchdog

STATISTICS = ("LossPi", "Entropy", "KL", "ClipFrac", "LossV")
POLL_STEPS = 32  # steps between two looks at whether some rank was asked to stop


class NotFinite(RuntimeError):
    """A NaN or an infinity turned up; it has not reached a parameter or a file."""


class Interrupted(Exception):
    """All ranks agreed to stop because one of them received `signal_number`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


@dataclass
class Run:
    """Everything a run consists of. What changes from epoch to epoch is `epoch`, `obs`, `seconds`, `best`, `recent` and
    what the networks, optimisers and environments hold inside."""

    cfg: PPOConfig
    comm: Comm
    env: VecEnv
    ac: ActorCritic
    buf: PPOBuffer
    pi_optimiser: ShardedAdam
    v_optimiser: ShardedAdam
    device: torch.device
    watchdog: Watchdog
    signals: StopSignals | None = None
    progress: Callable[[int], None] = lambda steps: None  # told of every step, for a progress bar
    epoch: int = 0
    obs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    env_states: list[bytes] = field(default_factory=list)  # as they were when the epoch began
    seconds: float = 0.0  # spent in earlier epochs
    best: float = -math.inf
    recent: list[list[float]] = field(default_factory=list)  # flag and return of the last episodes, on rank 0

    @property
    def env_indices(self) -> range:
        """Global indices of this rank's environments."""
        return range(self.env.first_index, self.env.first_index + self.env.num_envs)

    def close(self) -> None:
        """Let go of the environments and the watchdog."""
        self.watchdog.close()
        self.env.close()


def ppo(
    run: Run,
    save: Callable[[Run, bool], None],
    log: Callable[[Run, dict[str, Any], list[dict[str, Any]]], bool],
) -> None:
    """Train from `run.epoch` on until the last epoch, or until the goal is reached.

    Args:
        run: as built or as restored from a checkpoint.
        save: called by all ranks where a checkpoint is due; the flag says that it must be written now.
        log: called by all ranks with the epoch's row and finished episodes (both empty but on rank 0); returns, on
            all ranks alike, whether the run has reached its goal and ends.

    Raises:
        Interrupted: a signal asked for the end; a checkpoint was saved.
        NotFinite: an observation, reward, loss or gradient is NaN or infinite.
    """
    cfg = run.cfg
    run.ac.refresh()
    while run.epoch < cfg.num_epochs:
        start, waited = time.monotonic(), run.comm.wait_seconds
        run.env_states = run.env.get_state()
        try:
            episodes = collect(run)
        except Interrupted:  # the networks are still those of the epoch's start: what was collected is done again
            save(run, True)
            raise
        collected = time.monotonic()
        if (run.epoch + 1) % cfg.check_every == 0 or run.epoch + 1 == cfg.num_epochs:
            check_parameters_agree(run)  # before the update, which would spread a difference or mend it
        data = run.buf.get()
        spread = value_statistics(run, data)
        normalise_advantages(run, data)
        before = run.comm.wait_seconds
        learned = update(run, data)
        run.epoch += 1
        now = time.monotonic()
        run.seconds += now - start
        times = {
            "TimeCollect": collected - start,
            "TimeUpdate": now - collected,
            "TimeWait": run.comm.wait_seconds - waited,
            "TimeWaitUpdate": run.comm.wait_seconds - before,
        }
        reached = log(run, *epoch_row(run, episodes, spread, learned, times))
        run.env_states = run.env.get_state()
        stop = stop_signal(run)
        save(run, bool(stop) or reached)
        if reached:
            return
        if stop:
            raise Interrupted(stop)


# 1. Collect: run the policy for T steps in each environment (Algorithm 1, lines 2 to 4) ------------------------------


def collect(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """Fill the buffer and return the finished episodes as (step of the epoch, record)."""
    cfg, env, buf = run.cfg, run.env, run.buf
    uniforms = action_uniforms(cfg, run.env_indices, run.epoch)  # (T, N)
    episodes: list[tuple[int, dict[str, Any]]] = []
    for t in range(cfg.local_steps):
        run.watchdog.touch(f"collect, epoch {run.epoch}, step {t}")
        if t % POLL_STEPS == 0:
            stop = stop_signal(run)
            if stop:
                buf.ptr = 0
                buf.path_start[:] = 0
                raise Interrupted(stop)
        row = buf.observe(run.obs)  # (N, *O)
        logits, val = run.ac.step(to_device(run, row))
        act, logp = core.sample_actions(logits.cpu(), uniforms[t])
        run.obs, rew, terminated, truncated, infos = env.step(act.numpy())
        check_finite(run, t, rew, run.obs, infos)
        buf.store(act.numpy(), rew, val.cpu().numpy(), logp.numpy())
        run.progress(cfg.num_envs)
        ended = terminated | truncated
        if ended.any():
            last_val = truncated_values(run, terminated, truncated, infos)
            for i in np.flatnonzero(ended):
                buf.finish_path(int(i), float(last_val[i]))
        episodes += [(t, episode) for episode in infos["episodes"]]
    with torch.no_grad():
        buf.finish(run.ac.value(run.ac.prepare(to_device(run, run.obs))).cpu().numpy())
    return episodes


def action_uniforms(cfg: PPOConfig, env_indices: range, epoch: int) -> torch.Tensor:
    """Return (T, N) float32 uniform numbers that decide one epoch's actions, from the environments' streams."""
    draws = [
        generator(cfg.seed, i, Purpose.ACTION, epoch).random(cfg.local_steps, dtype=np.float32) for i in env_indices
    ]
    return torch.from_numpy(np.stack(draws, axis=1))


def truncated_values(run: Run, terminated: np.ndarray, truncated: np.ndarray, infos: dict[str, Any]) -> np.ndarray:
    """Return V(final observation) where an episode was cut, and 0 where it terminated: (N,) float32."""
    last_val = np.zeros(len(terminated), np.float32)
    cut = truncated & ~terminated
    if cut.any():
        with torch.no_grad():
            final = run.ac.prepare(to_device(run, infos["final_obs"][cut]))
            last_val[cut] = run.ac.value(final).cpu().numpy()
    return last_val


def check_finite(run: Run, t: int, rew: np.ndarray, obs: np.ndarray, infos: dict[str, Any]) -> None:
    """Raise NotFinite, naming environment, step and info, where a reward or an observation is NaN or infinite."""
    bad = ~(np.isfinite(rew) & np.isfinite(infos["env_reward"]))
    if obs.dtype.kind == "f":
        bad |= ~np.isfinite(obs).reshape(len(obs), -1).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise NotFinite(
            f"environment {run.env_indices[i]} gave reward {rew[i]} and a "
            f"{'finite' if np.isfinite(obs[i]).all() else 'non-finite'} observation in step {t} of epoch {run.epoch}; "
            f"info { ({name: value[i] for name, value in infos.items() if isinstance(value, np.ndarray)}) }"
        )


def to_device(run: Run, array: np.ndarray) -> torch.Tensor:
    """Return the array as a tensor on the run's device; on the CPU it shares the array's memory."""
    return torch.from_numpy(array).to(run.device)


# 2. Advantages (Algorithm 1, line 5): computed path by path in `PPOBuffer`, normalised over the joined batch ---------


def normalise_advantages(run: Run, data: dict[str, np.ndarray]) -> None:
    """Shift and scale data["adv"] (T, N) to mean 0 and standard deviation 1 over all ranks, in place."""
    if run.cfg.adv_norm == "batch":
        adv = data["adv"]
        sums = run.comm.sum(np.array([adv.size, adv.sum(dtype=np.float64)]))
        mean = sums[1] / sums[0]
        squares = run.comm.sum(np.array([np.square(adv - mean, dtype=np.float64).sum()]))
        adv -= np.float32(mean)
        adv /= np.float32(math.sqrt(squares[0] / sums[0]) + 1e-8)


def value_statistics(run: Run, data: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the critic's values of all ranks, (T, all environments) on rank 0, and the explained variance."""
    ret, error = data["ret"].astype(np.float64), data["ret"].astype(np.float64) - data["val"]
    sums = run.comm.sum(np.array([ret.size, ret.sum(), (ret**2).sum(), error.sum(), (error**2).sum()]))
    shares = run.comm.gather(data["val"])
    values = np.concatenate(shares, axis=1) if shares is not None else np.zeros(0)
    return {"VVals": values, "ExplainedVariance": core.explained_variance(sums)}


# 3. Update: several passes of minibatch gradient ascent (Algorithm 1, line 6) ----------------------------------------


def update(run: Run, data: dict[str, np.ndarray]) -> dict[str, float]:
    """Train both networks on one epoch's data and return what is logged about it."""
    cfg = run.cfg
    tensors = {name: to_device(run, array).flatten(0, 1) for name, array in data.items()}  # (T * N, ...)
    progress = run.epoch / cfg.num_epochs
    clip_ratio = max(core.anneal(cfg.clip_ratio, progress, cfg.anneal_clip), 1e-8)
    ent_coef = core.anneal(cfg.ent_coef, progress, cfg.anneal_ent)
    run.pi_optimiser.lr = core.anneal(cfg.pi_lr, progress, cfg.anneal_lr)
    run.v_optimiser.lr = core.anneal(cfg.v_lr, progress, cfg.anneal_lr)

    passes: list[dict[str, float]] = []
    pi_stopped, stop_iter = False, 0
    for i in range(max(cfg.train_pi_iters, cfg.train_v_iters)):
        record = PassRecord()
        for rows, adv in minibatches(run, tensors["adv"], i):
            run.watchdog.touch(f"update, epoch {run.epoch}, pass {i}")
            with_pi, with_v = i < cfg.train_pi_iters and not pi_stopped, i < cfg.train_v_iters
            sums = accumulate_gradients(run, tensors | {"adv": adv}, rows, clip_ratio, ent_coef, with_pi, with_v)
            trained = {"GradNormPi": run.pi_optimiser} if with_pi else {}
            trained |= {"GradNormV": run.v_optimiser} if with_v else {}
            stats = joined_statistics(run, sums, trained)
            stop_now = with_pi and cfg.target_kl is not None and stats["KL"] > 1.5 * cfg.target_kl
            if stop_now:
                del trained["GradNormPi"]
            for name, optimiser in trained.items():
                optimiser.step(stats[name], cfg.max_grad_norm)
            gather_copies(list(trained.values()), run.comm)
            stop_iter += "GradNormPi" in trained
            record.add(stats, with_pi, with_v)
            pi_stopped = pi_stopped or stop_now
        passes.append(record.means())
        if pi_stopped and i + 1 >= cfg.train_v_iters:
            break
    gather_weights([run.pi_optimiser, run.v_optimiser], run.comm)
    return summarise_passes(passes, stop_iter) | {"LearningRate": run.pi_optimiser.lr}


class PassRecord:
    """Means over the minibatches of one pass; a network that was not trained in one does not count there."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, stats: dict[str, float], with_pi: bool, with_v: bool) -> None:
        """Take the statistics of one joined minibatch."""
        for name, value in stats.items():
            counts = with_v if name in ("LossV", "GradNormV") else with_pi
            if counts and not math.isnan(value):
                self._values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Return the mean of each statistic that was computed."""
        return {name: math.fsum(values) / len(values) for name, values in self._values.items()}


def minibatches(run: Run, adv: torch.Tensor, i: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield this rank's part of each minibatch of pass `i`: row numbers (M,) into T * N, and the advantages (T * N,).

    Every minibatch takes the same number of steps from every environment, by a permutation drawn from that
    environment's own stream: the joined minibatches are the same whatever the number of ranks.
    """
    cfg, steps, num_envs = run.cfg, run.cfg.local_steps, run.env.num_envs
    per_env = cfg.minibatch_size // cfg.num_envs  # steps of each environment in a minibatch
    counter = run.epoch * max(cfg.train_pi_iters, cfg.train_v_iters) + i
    orders = [generator(cfg.seed, e, Purpose.MINIBATCH, counter).permutation(steps) for e in run.env_indices]
    index = np.stack(orders) * num_envs + np.arange(num_envs)[:, None]  # (N, T), into T * N
    if cfg.adv_norm == "minibatch":
        adv = normalise_per_minibatch(run, adv, index, per_env)
    for start in range(0, steps, per_env):
        yield torch.from_numpy(index[:, start : start + per_env].reshape(-1)).to(run.device), adv


def normalise_per_minibatch(run: Run, adv: torch.Tensor, index: np.ndarray, per_env: int) -> torch.Tensor:
    """Return the advantages (T * N,) with mean 0 and standard deviation 1 in each joined minibatch of one pass."""
    host = adv.cpu().numpy()
    groups = index.reshape(len(index), -1, per_env).swapaxes(0, 1)  # (minibatches, N, per_env)
    values = host[groups].astype(np.float64).reshape(len(groups), -1)
    sums = run.comm.sum(np.stack([values.sum(axis=1), np.square(values).sum(axis=1)]))
    mean = sums[0] / run.cfg.minibatch_size
    std = np.sqrt(np.maximum(sums[1] / run.cfg.minibatch_size - mean**2, 0.0))
    out = np.empty_like(host)
    out[groups.reshape(len(groups), -1)] = (values - mean[:, None]) / (std[:, None] + 1e-8)
    return torch.from_numpy(out).to(run.device)


def accumulate_gradients(
    run: Run,
    tensors: dict[str, torch.Tensor],
    rows: torch.Tensor,
    clip_ratio: float,
    ent_coef: float,
    with_pi: bool,
    with_v: bool,
) -> torch.Tensor:
    """Compute the gradients of this rank's part of a minibatch, as its share of the joined mean.

    L = -mean(L^CLIP) - ent_coef mean(entropy) for the actor, mean(value loss) for the critic (PPO eq. 9, but with two
    networks, so that no weight between the two is needed). Large minibatches pass in chunks.

    Returns:
        (5,) float32: this rank's share of the STATISTICS.
    """
    cfg, ac, stats = run.cfg, run.ac, torch.zeros(len(STATISTICS), device=run.device)
    ac.zero_gradients()
    for i, chunk in enumerate(rows.split(cfg.chunk_size)):
        part = {name: tensor.index_select(0, chunk) for name, tensor in tensors.items() if name != "obs"}
        obs = ac.prepare(tensors["obs"], chunk)
        if with_pi:
            logp, entropy = core.log_prob_and_entropy(ac.logits(obs), part["act"])
            objective, ratio = core.clipped_surrogate(logp, part["logp"], part["adv"], clip_ratio)
            loss_pi = -objective.sum() / cfg.minibatch_size
            mean_entropy = entropy.sum() / cfg.minibatch_size
            (loss_pi - ent_coef * mean_entropy).backward()
            with torch.no_grad():
                kl = core.approx_kl(logp, part["logp"]).sum() / cfg.minibatch_size
                clipped = ((ratio - 1.0).abs() > clip_ratio).float().sum() / cfg.minibatch_size
                stats[:4] += torch.stack([loss_pi.detach(), mean_entropy.detach(), kl, clipped])
        if with_v:
            val = ac.value(obs)
            loss_v = core.value_loss(val, part["ret"], cfg.v_loss, part["val"], cfg.v_clip).sum() / cfg.minibatch_size
            loss_v.backward()
            stats[4] += loss_v.detach()
        ac.take_gradients(add=i > 0)
    return stats


def joined_statistics(run: Run, stats: torch.Tensor, trained: dict[str, ShardedAdam]) -> dict[str, float]:
    """Sum statistics (5,) and gradients over the ranks; return the statistics, and the gradients' norms by their names.

    Raises:
        NotFinite: a loss or gradient is NaN or infinite; on all ranks alike, before an optimiser moves.
    """
    squares = reduce_gradients(list(trained.values()), run.comm)
    sums = run.comm.sum(np.array([*stats.tolist(), *squares])).tolist()
    numbers = dict(zip((*STATISTICS, *trained), sums, strict=True))
    numbers |= {name: math.sqrt(numbers[name]) for name in trained}
    if not all(math.isfinite(value) for value in numbers.values()):
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        raise NotFinite(f"a loss or gradient is not finite in epoch {run.epoch}: {shown}; the parameters are unchanged")
    return numbers


def summarise_passes(passes: list[dict[str, float]], stop_iter: int) -> dict[str, float]:
    """Return the epoch's numbers: losses of the first pass and how they changed up to the last one, KL at the end."""
    pi = [p for p in passes if "LossPi" in p] or [{}]
    v = [p for p in passes if "LossV" in p] or [{}]
    nan = math.nan
    return {
        "LossPi": pi[0].get("LossPi", nan),
        "LossV": v[0].get("LossV", nan),
        "DeltaLossPi": pi[-1].get("LossPi", nan) - pi[0].get("LossPi", nan),
        "DeltaLossV": v[-1].get("LossV", nan) - v[0].get("LossV", nan),
        "Entropy": pi[0].get("Entropy", nan),
        "KL": pi[-1].get("KL", nan),
        "ClipFrac": pi[-1].get("ClipFrac", nan),
        "StopIter": stop_iter,
        "GradNormPi": pi[0].get("GradNormPi", nan),
        "GradNormV": v[0].get("GradNormV", nan),
    }


# 4. Log --------------------------------------------------------------------------------------------------------------


def epoch_row(
    run: Run,
    episodes: list[tuple[int, dict[str, Any]]],
    spread: dict[str, Any],
    learned: dict[str, float],
    times: dict[str, float],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return, on rank 0, the row of progress.txt and the episodes of all ranks in the order they ended."""
    gathered = run.comm.gather(episodes)
    memory = float(run.comm.max(np.array([memory_mb()]))[0])
    if gathered is None:
        return {}, []
    joined = sorted((pair for share in gathered for pair in share), key=lambda pair: (pair[0], pair[1]["env"]))
    done = [episode for _, episode in joined]
    row: dict[str, Any] = {"Epoch": run.epoch - 1}
    row |= statistics("EpRet", np.array([e["ep_ret"] for e in done]))
    row["AverageTrainRet"] = mean([e["train_ret"] for e in done])
    row["EpLen"] = mean([e["ep_len"] for e in done])
    row["EpCount"] = len(done)
    for column, name in (
        ("ClearRate", "flag"),
        ("XMax", "x_max"),
        ("Score", "score"),
        ("StagesCleared", "stages_cleared"),
    ):
        if name in run.env.episode_fields:
            row[column] = mean([float(e[name]) for e in done])
    row |= statistics("VVals", spread["VVals"].ravel())
    row["TotalEnvInteracts"] = run.epoch * run.cfg.steps_per_epoch
    row |= learned
    row["ExplainedVariance"] = spread["ExplainedVariance"]
    row["StepsPerSecond"] = run.cfg.steps_per_epoch / (times["TimeCollect"] + times["TimeUpdate"])
    row |= times
    row["MemoryMB"] = memory
    row["Time"] = run.seconds
    return row, done


def statistics(name: str, values: np.ndarray) -> dict[str, float]:
    """Return Average, Std, Max and Min under Spinning Up's names; NaN where there are no values."""
    functions = (("Average", np.mean), ("Std", np.std), ("Max", np.max), ("Min", np.min))
    return {prefix + name: float(f(values)) if len(values) else float("nan") for prefix, f in functions}


def mean(values: list[float]) -> float:
    """Return the mean, NaN of nothing."""
    return float(np.mean(values)) if values else float("nan")


# 5. Agree ------------------------------------------------------------------------------------------------------------


def stop_signal(run: Run) -> int:
    """Return the signal that asks some rank to stop, the same on all ranks; 0 if there is none."""
    received = run.signals.received if run.signals else 0
    return int(run.comm.max(np.array([received], np.int32))[0])


def check_parameters_agree(run: Run) -> None:
    """Compare all ranks' parameters by checksum.

    Raises:
        RuntimeError: on all ranks, with the name of the first tensor that differs.
    """
    if run.comm.world_size == 1:
        return
    names = [name for name, _ in run.ac.named_parameters()]
    digests = [zlib.crc32(p.detach().cpu().contiguous().numpy().tobytes()) for p in run.ac.parameters()]
    gathered = run.comm.gather(digests)
    differs = None
    if gathered is not None:
        wrong = [i for i in range(len(names)) if len({share[i] for share in gathered}) > 1]
        differs = names[wrong[0]] if wrong else None
    differs = run.comm.broadcast(differs)
    if differs is not None:
        raise RuntimeError(f"the ranks' parameters differ in epoch {run.epoch}, first in {differs}")
