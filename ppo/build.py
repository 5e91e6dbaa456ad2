"""Objects from settings: the environments, networks, device, buffer and learners of a run. Nothing is written here."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import envs
from envs.vector import VecEnv
from ppo import actions, networks, ppg, ppo
from ppo.architecture import Architecture, described
from ppo.buffer import PPOBuffer
from ppo.config import PPOConfig
from ppo.networks import ActorCritic, Evaluator
from ppo.normalise import Normaliser
from ppo.optimiser import Adam
from ppo.recurrent import RecurrentNets, evaluator
from ppo.training import Learner, Training
from utils import mpi, system
from utils.alike import check_same
from utils.command import printable
from utils.folder import Refused
from utils.imports import users_code
from utils.seeding import Purpose, generator
from utils.timer import Timer
from utils.watchdog import Watchdog


class Parts(NamedTuple):
    """What a rank builds by itself."""

    env: VecEnv
    obs: np.ndarray  # first observations
    ac: ActorCritic  # with its first weights
    buf: PPOBuffer
    device: torch.device
    dtype: torch.dtype  # what the networks compute in


def build_training(cfg: PPOConfig, comm: mpi.Comm, watchdog: Watchdog | None = None) -> Training:
    """Build environments, networks, buffer and optimisers of this rank, with the same weights on every rank.

    Args:
        cfg: settings.
        comm: the ranks.
        watchdog: which already watches; left out, one that ends nothing for standing still.

    Raises:
        Refused: on all ranks: an environment, network or device cannot be built, with the reason.
    """
    env, obs, ac, buf, device, dtype = mpi.agreed(
        comm, lambda: build_parts(cfg, comm), (ValueError, MemoryError), Refused
    )
    try:
        check_alike(comm, device, dtype)
        check_same(comm, users_code(cfg.to_dict().values()))
        heads = ppg.heads(cfg, ac).to(device)
        nets, learners = build_learners(cfg, comm, ac.to(device), dtype, heads)
    except BaseException:
        env.close()
        raise
    watchdog = watchdog or Watchdog(comm, 0.0)
    timer = Timer(lambda: comm.wait_seconds)
    training = Training(
        cfg=cfg,
        comm=comm,
        env=env,
        ac=ac,
        nets=nets,
        buf=buf,
        learners=learners,
        device=device,
        watchdog=watchdog,
        timer=timer,
        arithmetic=arithmetic(env.shows_images, dtype),
        heads=heads,
        obs=obs,
    )
    if cfg.algo == "ppg":
        training.auxiliary = ppg.auxiliary_learners(cfg, learners)
    discount = cfg.gamma if cfg.norm_rew else None
    training.normaliser = Normaliser(comm, training.env_indices, cfg.num_envs, cfg.steps_per_env, ac, discount)
    return training


def check_alike(comm: mpi.Comm, device: torch.device, dtype: torch.dtype) -> None:
    """See that all ranks compute on the same kind of device and in the same type: their exchanges depend on it.

    Raises:
        Refused: on all ranks: they do not, as "auto" can have it on hosts of different kinds.
    """
    kinds = comm.gather(f"{device.type} in {str(dtype).removeprefix('torch.')}")
    kinds = comm.broadcast(sorted(set(kinds)) if kinds is not None else None)
    if len(kinds) > 1:
        raise Refused(f"the ranks would compute on {' and on '.join(kinds)}: give --device and --precision")


def build_parts(cfg: PPOConfig, comm: mpi.Comm) -> Parts:
    """Build what needs no other rank. No collective call is made here: on some rank it may fail.

    Raises:
        ValueError: an environment, network or device that cannot be had.
        MemoryError: no room for them.
    """
    device = torch.device(pick_device(cfg.device, comm.local_rank))
    share = mpi.share(cfg.num_envs, comm.world_size, comm.rank)
    env = envs.make_vec(cfg.env, len(share), cfg.seed, first_index=share.start, **cfg.env_options)
    try:
        dist = actions.of_space(env.single_action_space, cfg.squash)
        shape, obs_dtype = env.single_observation_space.shape, env.single_observation_space.dtype
        assert shape is not None and obs_dtype is not None
        dtype = pick_precision(cfg.precision, env.shows_images, device)
        seed = int(generator(cfg.seed, 0, Purpose.WEIGHTS).integers(2**62))
        network = cfg.network if cfg.network in networks.NETWORKS else networks.find_network(cfg.network)
        obs = env.reset()[0]
        kind = Architecture(**described(cfg) | {"network": network})
        build = functools.partial(kind.build, shape, dist, cfg.init, seed, cfg.log_std, cfg.chunk_steps)
        ac = tried(cfg.network, build, obs[:1])
        sizes = (cfg.steps_per_env, env.num_envs, shape, obs_dtype)
        buf = PPOBuffer(*sizes, cfg.gamma, cfg.lam, cfg.value_target, ac.dist.act_shape, ac.dist.act_dtype)
    except BaseException:
        env.close()
        raise
    return Parts(env, obs, ac, buf, device, dtype)


def tried(name: str, build: Callable[[], ActorCritic], obs: np.ndarray) -> ActorCritic:
    """Return the networks, after evaluating them once: observations may be too small, and a user's function anything.

    Args:
        name: of the network or the function.
        build: builds both networks.
        obs: (1, *O).

    Raises:
        ValueError: they cannot be built or evaluated, or have what would make results depend on ranks or on what was
            drawn before: dropout, statistics of their own (batch normalisation), weights that are not trained.
    """
    try:
        ac = build()
        evaluator(ac).step(torch.from_numpy(obs.copy()))
    except Exception as error:
        if isinstance(error, ValueError) and name in networks.NETWORKS:
            raise  # in words of its own
        what = f"network {name!r} with observations of shape {obs.shape[1:]}"
        raise ValueError(f"{what}: {type(error).__name__}: {printable(error, 300)}") from error
    for net in (ac.pi, ac.v):
        if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in net.modules()):
            raise ValueError(f"network {name!r} has dropout, which would draw other numbers on other ranks")
        if any(True for _ in net.buffers()):
            raise ValueError(f"network {name!r} has buffers (as batch normalisation has), which are not kept")
        if any(not p.requires_grad for p in net.parameters()):
            raise ValueError(f"network {name!r} has parameters that are not trained (requires_grad=False)")
    return ac


def build_learners(
    cfg: PPOConfig, comm: mpi.Comm, ac: ActorCritic, dtype: torch.dtype, heads: nn.ModuleDict
) -> tuple[Evaluator, list[Learner]]:
    """Return what evaluates the networks, and their learners: those of `ppo.compute`, or the plain ones without it."""
    for p in (*ac.parameters(), *heads.parameters()):  # equal already; sent, so that no library can make them differ
        p.data.copy_(torch.from_numpy(comm.broadcast_array(p.detach().cpu().contiguous().numpy())))
    nets: Evaluator = ac
    pi = nn.ModuleList([ac.pi, heads])
    trained = [(ac, cfg.pi_lr)] if ac.shared else [(pi, cfg.pi_lr), (ac.v, cfg.v_lr)]
    if compute_wanted():
        from ppo.compute.adam import ShardedAdam
        from ppo.compute.networks import FastActorCritic

        nets = FastActorCritic(ac, dtype)
        copies = nets.pi_copies, nets.v_copies
        optimisers: list[Any] = [
            ShardedAdam(net, comm, lr, cfg.adam_eps, own) for (net, lr), own in zip(trained, copies, strict=False)
        ]
    else:
        optimisers = [Adam(net, comm, lr, cfg.adam_eps) for net, lr in trained]
    if ac.memories:
        share = mpi.share(cfg.num_envs, comm.world_size, comm.rank)
        nets = RecurrentNets(ac, nets, len(share), cfg.steps_per_env, cfg.chunk_steps)
    if ac.shared:
        return nets, [Learner("Pi", optimisers[0], cfg.pi_lr, cfg.train_pi_iters, ppo.joint_loss, cfg.target_kl)]
    return nets, [
        Learner("Pi", optimisers[0], cfg.pi_lr, cfg.train_pi_iters, ppo.actor_loss, cfg.target_kl),
        Learner("V", optimisers[1], cfg.v_lr, cfg.train_v_iters, ppo.critic_loss),
    ]


@contextmanager
def threads(comm: mpi.Comm) -> Iterator[None]:
    """Give torch this rank's share of the cores of its host, unless OMP_NUM_THREADS says otherwise.

    More threads than cores make everything slower, many times so where they wait for each other: with two threads for
    an MLP, on cores that others use too, a sweep of CartPole was thirty times as slow.

    Raises:
        Refused: on all ranks: OMP_NUM_THREADS is no number of threads on one of them.
    """
    share = mpi.agreed(comm, threads_given, (ValueError,), Refused) or max(1, system.cores() // comm.local_size)
    before = torch.get_num_threads()
    torch.set_num_threads(share)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_given() -> int | None:
    """Return OMP_NUM_THREADS, None where it is not set.

    Raises:
        ValueError: it is no number of threads.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if given and not re.fullmatch("[1-9][0-9]{0,3}", given):
        raise ValueError(f"OMP_NUM_THREADS must be a number of threads, 1 to 9999, got {printable(given)!r}")
    return int(given) if given else None


def compute_wanted() -> bool:
    """Return whether `ppo.compute` is used: PPO_COMPUTE in the environment is "fast" (the default) or "plain".

    Raises:
        ValueError: it is something else.
    """
    value = os.environ.get("PPO_COMPUTE", "fast")
    if value not in ("fast", "plain"):
        raise ValueError(f"PPO_COMPUTE must be fast or plain, got {value!r}")
    return value == "fast"


def arithmetic(images: bool, dtype: torch.dtype) -> str:
    """Return which code computes, in words: the last bits of results depend on it."""
    if not compute_wanted():
        return "plain"
    from ppo.compute import arrays, convolutions

    words = ["fast", *(["our own arrays"] if arrays.compiled() else [])]
    if images and convolutions.kind(dtype) is not None:
        words.append("our own convolutions")
    return ", ".join(words)


def pick_device(wanted: str, local_rank: int) -> str:
    """Return the torch device of this rank: the ranks of a host share its GPUs in turn.

    Raises:
        ValueError: no such name, or a GPU is wanted that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", wanted):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    gpus = torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not gpus):
        return "cpu"
    number = int(wanted[5:]) if ":" in wanted else local_rank % max(1, gpus)
    if number >= gpus:
        raise ValueError(f"device is {wanted!r}, but torch sees {gpus or 'no'} GPU{'s' if gpus > 1 else ''}")
    return f"cuda:{number}"


def pick_precision(wanted: str, images: bool, device: torch.device) -> torch.dtype:
    """Return the type in which the networks compute: for images bfloat16 where the processor or GPU has it.

    Processors without its instructions emulate them, slower than float32.

    Raises:
        ValueError: bfloat16 is wanted and `ppo.compute`, which has it, is turned off.
    """
    if not compute_wanted():
        if wanted == "bfloat16":
            raise ValueError("precision is 'bfloat16', which PPO_COMPUTE=plain does not have")
        return torch.float32
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        has_it = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_it = bool({"avx512_bf16", "amx_bf16"} & system.processor_flags())
    return torch.bfloat16 if has_it and images else torch.float32
