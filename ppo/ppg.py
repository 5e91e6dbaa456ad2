"""PPG over MPI ranks: PPO whose actor learns features from the values, in an auxiliary phase after many epochs.

Top to bottom in the order of Algorithm 1 of Cobbe et al. 2020, "Phasic Policy Gradient", arXiv:2009.04416, cited as PPG
below. A policy phase is some epochs of PPO, by the functions of `ppo.py`; their observations and value targets are
kept. In the auxiliary phase actor and critic go through all of them again: the actor with a second head that predicts
values, and with a penalty on moving the policy, the critic as before. They share nothing: that the critic is not
trained on the actor's features is the point of the two phases.

Letters of the shapes: T steps of an epoch, E epochs of a phase, N environments of this rank, M samples of a minibatch
on this rank, *O one observation, P parameters of a distribution of actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ppo import core
from ppo.buffer import PPOBuffer
from ppo.config import PPOConfig
from ppo.epoch_row import epoch_row
from ppo.networks import ActorCritic, initialise
from ppo.ppo import advantages, collect, train_minibatch, update
from ppo.training import Coefficients, Interrupted, Learner, Loss, Tensors, Training, stop_signal, to_device
from utils.columns import AUXILIARY
from utils.folder import Refused
from utils.seeding import Purpose, generator


def ppg(
    training: Training,
    save: Callable[[Training, bool], None],
    log: Callable[[Training, dict[str, Any], list[dict[str, Any]]], bool],
) -> None:
    """Train from `training.epoch` on until the last epoch, or until the end of the phase in which `log` ends the run.

    Only the end of a phase is saved: within one, the observations that it keeps, gigabytes of images, would have to be
    saved too. A run that is stopped within a phase continues from the end of the last one.

    Args, Raises: as `ppo.ppo.ppo`; and Refused where `training.epoch` does not begin a phase.
    """
    cfg, timer = training.cfg, training.timer
    if training.epoch % cfg.phase_epochs:
        raise Refused(f"phase-epochs is {cfg.phase_epochs}, but epoch {training.epoch} does not begin such a phase")
    training.nets.refresh()
    training.snapshot()
    phase, enough = phase_buffer(training), False
    while training.epoch < cfg.num_epochs:
        i = training.epoch % cfg.phase_epochs
        ends = i + 1 == cfg.phase_epochs
        with timer("collect"):
            episodes = collect(training)  # perform rollouts under the current policy
        with timer("update"):
            data, values = advantages(training)
            learned = update(training, data)  # policy and value epochs
            training.normaliser.end_epoch(data["obs"])
            keep(phase, i, data)  # add all observations and targets to B
            learned |= auxiliary_phase(training, phase) if ends else dict.fromkeys(AUXILIARY, math.nan)
        training.epoch += 1
        with timer("log"):
            enough = log(training, *epoch_row(training, episodes, values | learned)) or enough
        stop = stop_signal(training)
        if ends:
            with timer("save"):
                save(training, True)
            if enough:
                return
        if stop and training.epoch < cfg.num_epochs:
            raise Interrupted(stop)


# What a phase keeps: B of Algorithm 1 --------------------------------------------------------------------------------


def phase_buffer(training: Training) -> PPOBuffer:
    """Return a buffer for the observations (E T, N, *O) and targets (E T, N) of a phase; the rest of it is not used."""
    cfg, obs = training.cfg, training.buf.obs
    steps = cfg.phase_epochs * cfg.steps_per_env
    return PPOBuffer(steps, training.env.num_envs, obs.shape[2:], obs.dtype, cfg.gamma, cfg.lam)


def keep(phase: PPOBuffer, i: int, data: dict[str, np.ndarray]) -> None:
    """Copy what epoch `i` of the phase saw into it."""
    steps = len(data["ret"])
    phase.obs[i * steps : (i + 1) * steps] = data["obs"]
    phase.ret[i * steps : (i + 1) * steps] = data["ret"]


# The auxiliary phase -------------------------------------------------------------------------------------------------


def auxiliary_phase(training: Training, phase: PPOBuffer) -> dict[str, float]:
    """Train both networks on a phase's data and return what is logged: losses of the first pass, KL of the last."""
    obs = to_device(training, phase.obs).flatten(0, 1)  # (E T N, *O)
    batch = {"obs": obs, "ret": to_device(training, phase.ret).flatten(), "params": policy_now(training, obs)}
    unused = Coefficients(0.0, 0.0, 0.0)  # of PPO's losses
    for learner, trained in zip(training.auxiliary, training.learners, strict=True):
        learner.optimiser.lr = trained.optimiser.lr
    means: list[dict[str, float]] = []  # of each pass
    for i in range(training.cfg.train_aux_iters):
        in_pass: list[dict[str, float]] = []  # statistics of each minibatch
        for rows in minibatches(training, i):
            training.touch(f"auxiliary phase, epoch {training.epoch}, pass {i}")
            in_pass.append(train_minibatch(training, training.auxiliary, batch, rows, unused))
        means.append({name: math.fsum(stats[name] for stats in in_pass) / len(in_pass) for name in AUXILIARY})
    optimisers = [learner.optimiser for learner in training.auxiliary]
    optimisers[0].gather_weights(optimisers)
    return means[0] | {"CloneKL": means[-1]["CloneKL"]}


@torch.no_grad()
def policy_now(training: Training, obs: torch.Tensor) -> torch.Tensor:
    """Compute pi_old(. | obs) of all observations (E T N, *O), before the auxiliary phase changes it: (E T N, P)."""
    found = []
    for rows in torch.arange(len(obs), device=obs.device).split(training.cfg.chunk_size):
        training.touch(f"auxiliary phase, epoch {training.epoch}, policy")
        found.append(training.nets.logits(training.nets.prepare(obs, rows)))
    return torch.cat(found)


def minibatches(training: Training, i: int) -> list[torch.Tensor]:
    """Return this rank's part of each minibatch of auxiliary pass `i`: row numbers (M,) into E T N.

    As in `ppo.minibatches`, each takes the same number of steps from every environment, by its own permutation.
    """
    cfg, local_envs = training.cfg, training.env.num_envs
    per_env, steps = cfg.aux_minibatch_size // cfg.num_envs, cfg.phase_epochs * cfg.steps_per_env
    counter = training.epoch // cfg.phase_epochs * cfg.train_aux_iters + i
    streams = [generator(cfg.seed, e, Purpose.AUXILIARY, counter) for e in training.env_indices]
    times = np.stack([stream.permutation(steps) for stream in streams])  # (N, E T)
    index = times * local_envs + np.arange(local_envs)[:, None]  # into E T N
    parts = (index[:, start : start + per_env].reshape(-1) for start in range(0, steps, per_env))
    return [torch.from_numpy(part).to(training.device) for part in parts]


def joint_loss(training: Training, obs: torch.Tensor, part: Tensors, coef: Coefficients) -> Loss:
    """Return this part's share of L^joint = L^aux + clone_coef mean(KL(pi_old || pi)), and of its two terms.

    L^aux = 1/2 mean (V_pi(obs) - ret)^2 with V_pi the auxiliary head, which has all but its last layer from the actor
    (PPG section 2).
    """
    size = training.cfg.aux_minibatch_size
    features = training.nets.pi_features(obs)
    val, params = training.heads["aux"](features).squeeze(-1), training.ac.pi[-1](features)
    aux = 0.5 * core.value_loss(val, part["ret"], "mse").sum() / size
    clone = training.ac.dist.kl(part["params"], params).sum() / size
    return aux + training.cfg.clone_coef * clone, {"LossAux": aux.detach(), "CloneKL": clone.detach()}


def value_loss(training: Training, obs: torch.Tensor, part: Tensors, coef: Coefficients) -> Loss:
    """Return this part's share of L^value = 1/2 mean (V(obs) - ret)^2 (PPG section 2), and the same as a statistic."""
    loss = core.value_loss(training.nets.value(obs), part["ret"], "mse").sum()
    loss = 0.5 * loss / training.cfg.aux_minibatch_size
    return loss, {"LossAuxV": loss.detach()}


# What it is built from -----------------------------------------------------------------------------------------------


def heads(cfg: PPOConfig, ac: ActorCritic) -> nn.ModuleDict:
    """Return the auxiliary head, with weights drawn as a critic's; nothing for PPO."""
    if cfg.algo != "ppg":
        return nn.ModuleDict()
    last = ac.pi[-1]
    assert isinstance(last, nn.Linear)
    head = nn.Sequential(nn.Linear(last.in_features, 1))
    seed = int(generator(cfg.seed, 1, Purpose.WEIGHTS).integers(2**62))
    initialise(head, cfg.init, 1.0, torch.Generator().manual_seed(seed))
    return nn.ModuleDict({"aux": head})


def auxiliary_learners(cfg: PPOConfig, learners: list[Learner]) -> list[Learner]:
    """Return the learners of the auxiliary phase: of the same weights as actor's and critic's, with moments of their
    own, since the two phases' gradients differ in size."""
    pi, v = learners
    return [
        Learner("AuxPi", pi.optimiser.twin(), cfg.pi_lr, cfg.train_aux_iters, joint_loss),
        Learner("AuxV", v.optimiser.twin(), cfg.v_lr, cfg.train_aux_iters, value_loss),
    ]
