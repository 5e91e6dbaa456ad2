"""`python -m ppo.run`: command line -> config -> objects -> the procedure. The only place where parts are wired.

mpirun -np 8 python -m ppo.run                    # Mario 1-1 with the defaults
python -m ppo.run --env CartPole-v1 --cpu 2       # re-launches itself under mpirun
train(build(env="CartPole-v1", epochs=20))        # in a notebook
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if __name__ == "__main__":  # there is nothing to save yet: an early Ctrl-C ends the process without a word
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from utils import mpi, system  # noqa: E402
from utils.command import BAD_INPUT, ending, printable  # noqa: E402
from utils.watchdog import StopSignals  # noqa: E402

if TYPE_CHECKING:
    import torch

    from envs.vector import VecEnv
    from ppo.config import PPOConfig
    from ppo.networks import ActorCritic
    from ppo.recorder import Recorder
    from ppo.training import Learner, Training

T = TypeVar("T")


def bad_input(message: str) -> Any:
    """Print one line on the first rank and exit with code 2."""
    if mpi.launched_rank() == 0:
        sys.stderr.write(f"ppo.run: error: {printable(message, 1000)}\n")
    sys.stderr.flush()
    sys.exit(BAD_INPUT)


def main(argv: list[str] | None = None) -> None:
    """Run one training from the command line; exit with 0, 1 (failure), 2 (bad input), 75 (SIGUSR1) or 128 + signal."""
    argv = sys.argv[1:] if argv is None else argv
    comm: mpi.Comm | None = None
    signals = StopSignals()  # kept to the end of the process: a late signal changes nothing
    try:
        cfg, options = parse(argv)  # before MPI starts: bad input prints one line, once
        if options.cpu > 1 and mpi.launched_size() == 1:
            relaunch(options.cpu, argv)
        comm = connect()
        train(cfg, comm, resume=options.resume, overwrite=options.overwrite, allow_mismatch=options.allow_mismatch,
              signals=signals)  # fmt: skip
    except SystemExit:  # --help, bad input: nothing has begun
        signals.close()
        raise
    except BaseException as error:
        sys.exit(exit_code(comm, error))


def exit_code(comm: mpi.Comm | None, error: BaseException) -> int:
    """Return the code with which all ranks end, where they agreed on it; otherwise end all of them at once."""
    from ppo.training import Interrupted
    from utils.folder import Refused

    if isinstance(error, Refused):
        bad_input(str(error))
    if isinstance(error, Interrupted):
        return ending(error.signal_number)[1]
    mpi.exit_together(comm, error)  # whatever happened to this rank, the others must not wait for it
    raise AssertionError


def parse(argv: list[str]) -> tuple[PPOConfig, argparse.Namespace]:
    """Return the checked config and the other flags; ends the process for bad input, --print-config and --presets."""
    from ppo import arguments

    try:
        cfg, options = arguments.parse(argv)
    except ValueError as error:
        bad_input(str(error))
    ranks = options.cpu if mpi.launched_size() == 1 else mpi.launched_size()
    if ranks < 1 or ranks > cfg.num_envs:
        bad_input(f"ranks must be from 1 to num-envs ({cfg.num_envs}), got {ranks}")
    if options.resume and options.overwrite:
        bad_input("--resume and --overwrite exclude each other")
    if options.print_config or options.presets:
        if mpi.launched_rank() == 0:
            asked = arguments.compare_presets(cfg.env) if options.presets else json.dumps(cfg.to_dict(), indent=1)
            print(asked)
        sys.exit(0)
    return cfg, options


def relaunch(ranks: int, argv: list[str]) -> None:
    """Replace this process by `mpirun -np RANKS` of the same command: the mpi_fork of Spinning Up. Does not return."""
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        bad_input("--cpu needs mpirun: install the mpi extra (pip install -e '.[mpi]') or your site's MPI")
    flags: list[str] = []
    if "Open MPI" in subprocess.run([str(mpirun), "--version"], capture_output=True, text=True).stdout:
        flags = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
        os.environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    kept = [
        arg
        for i, arg in enumerate(argv)
        if not (arg == "--cpu" or arg.startswith("--cpu=") or (i and argv[i - 1] == "--cpu"))
    ]
    os.execv(str(mpirun), [str(mpirun), *flags, "-np", str(ranks), sys.executable, "-m", "ppo.run", *kept])


def connect() -> mpi.Comm:
    """Join the other ranks, or explain in one line why that cannot be."""
    try:
        return mpi.connect()
    except mpi.WrongLauncher as error:
        bad_input(str(error))
    except ImportError as error:
        bad_input(f"mpirun needs mpi4py and its MPI library (pip install -e '.[mpi]'): {error}")
    raise AssertionError


def train(
    cfg: PPOConfig,
    comm: mpi.Comm | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_mismatch: bool = False,
    signals: StopSignals | None = None,
    on_epoch: Callable[[dict[str, Any]], bool | None] | None = None,
) -> Path:
    """Train one run and return its folder. Every rank calls this; a notebook does so without `comm`.

    Args:
        cfg: the run's settings.
        comm: the ranks; one process if left out.
        resume: continue what is in the folder, or start if there is nothing.
        overwrite: move what is in the folder aside.
        allow_mismatch: resume although settings or versions differ from the run's.
        signals: the caller's, which stay as they are at the end; otherwise the signals are taken over for the run.
        on_epoch: called after each epoch, on rank 0, with the row of progress.txt; returns true to end the run there.

    Raises:
        Refused: on all ranks: the settings cannot be trained, or the folder cannot be used. Nothing was written.
        Interrupted: on all ranks: a signal ended the run; a checkpoint was saved.
        NotFinite: see `ppo.training`. With several ranks this and any other failure ends the whole job.
    """
    from ppo.training import Interrupted
    from utils.folder import Refused

    comm = comm or mpi.Comm()
    try:
        with warnings.catch_warnings(), threads(comm):
            warnings.simplefilter("ignore")  # libraries' warnings are not for the person who watches a run
            return _train(cfg, comm, (resume, overwrite, allow_mismatch), signals, on_epoch)
    except (Refused, Interrupted):  # on all ranks alike
        raise
    except BaseException as error:
        if comm.world_size > 1:
            mpi.exit_together(comm, error)
        raise


def _train(
    cfg: PPOConfig,
    comm: mpi.Comm,
    how: tuple[bool, bool, bool],
    signals: StopSignals | None,
    on_epoch: Callable[[dict[str, Any]], bool | None] | None,
) -> Path:
    import torch

    from ppo import ppo
    from ppo.recorder import Recorder
    from utils.folder import Refused

    resume, overwrite, allow_mismatch = how
    system.keep_freed_memory()
    training = build_training(cfg, comm)
    if not training.env.shows_images:
        torch.set_num_threads(1)  # a small network is done before a second thread has begun
    in_main_thread = threading.current_thread() is threading.main_thread()
    own = StopSignals(ends_process=False) if signals is None and in_main_thread else None
    recorder, reason, code = None, "error", 1
    try:
        training.signals = signals or own
        recorder = Recorder(cfg, comm, resume, overwrite)
        recorder.begin(training, allow_mismatch)
        recorder.say(describe_start(training))
        began = training.epoch
        if training.signals is not None:
            training.signals.armed = True
        if recorder.reached is None:
            ppo.ppo(training, recorder.save, with_callback(recorder, comm, on_epoch))
        reason, code = "finished", 0
        recorder.say(f"finished: {cfg.run_dir}" + (f" ({recorder.reached})" if recorder.reached else ""))
        if training.epoch == began and not recorder.reached:
            recorder.say(f"nothing was left to do: it has its {cfg.num_epochs} epochs; --epochs makes it longer")
    except Refused as error:
        reason, code = f"error: {error}", BAD_INPUT
        raise
    except ppo.Interrupted as stop:
        reason, code = ending(stop.signal_number)
        if recorder is not None:
            recorder.say(f"\n{stop}: saved. Continue with the same command and --resume")
        raise
    except BaseException as error:
        reason = f"error: {type(error).__name__}: {error}"
        raise
    finally:
        if recorder is not None:
            recorder.close(reason, code, training.epoch)
        training.close()
        if code != 1:  # all ranks came here
            comm.free_buffers()
        if own is not None:
            own.close()
    return cfg.run_dir


def with_callback(recorder: Recorder, comm: mpi.Comm, on_epoch: Callable[[dict[str, Any]], bool | None] | None) -> Any:
    """Return the recorder's `log`, followed by the user's callback if there is one; all ranks hear what it returns."""

    def log(training: Training, row: dict[str, Any], episodes: list[dict[str, Any]]) -> bool:
        enough = recorder.log(training, row, episodes)
        asked = on_epoch is not None and comm.rank == 0 and bool(on_epoch(dict(row)))
        return enough or comm.any(asked)

    return recorder.log if on_epoch is None else log


def build_training(cfg: PPOConfig, comm: mpi.Comm) -> Training:
    """Build environments, networks, buffer and optimisers of this rank, with the same weights on every rank.

    Raises:
        Refused: on all ranks: an environment, network or device cannot be built, with the reason.
    """
    from ppo.buffer import PPOBuffer
    from ppo.normalise import Normaliser
    from ppo.training import Training
    from utils.timer import Timer
    from utils.watchdog import Watchdog

    env, ac, device, dtype = agreed(comm, lambda: build_parts(cfg, comm))
    obs = env.reset()[0]
    nets, learners = build_learners(cfg, comm, ac.to(device), dtype)
    space = env.single_observation_space
    assert space.shape is not None and space.dtype is not None
    buf = PPOBuffer(cfg.local_steps, env.num_envs, space.shape, space.dtype, cfg.gamma, cfg.lam, cfg.value_target,
                    ac.dist.act_shape, ac.dist.act_dtype)  # fmt: skip
    timer, watchdog = Timer(lambda: comm.wait_seconds), Watchdog(comm, cfg.stall_timeout)
    training = Training(cfg, comm, env, ac, nets, buf, learners, device, watchdog, timer, obs=obs)
    training.normaliser = Normaliser(comm, training.env_indices, cfg.num_envs, cfg.local_steps, ac,
                                     cfg.gamma if cfg.norm_rew else None)  # fmt: skip
    return training


def agreed(comm: mpi.Comm, build: Callable[[], T]) -> T:
    """Return what `build` returns on this rank, once it has worked on all ranks.

    Raises:
        Refused: on all ranks: it raised a ValueError on one of them.
    """
    from utils.folder import Refused

    built, problem = None, None
    try:
        built = build()
    except ValueError as error:
        problem = str(error)
    problems = comm.gather(problem)
    problem = comm.broadcast(next((p for p in problems if p is not None), None) if problems is not None else None)
    if problem is not None:
        raise Refused(problem)
    return cast("T", built)


def build_parts(cfg: PPOConfig, comm: mpi.Comm) -> tuple[VecEnv, ActorCritic, torch.device, torch.dtype]:
    """Return this rank's environments, the networks with their first weights, the device, and what to compute in.

    No collective call is made here: on some rank it may fail.
    """
    import torch

    import envs
    from ppo import actions, networks
    from utils.seeding import Purpose, generator

    device = torch.device(pick_device(cfg.device, comm.local_rank))
    share = mpi.share(cfg.num_envs, comm.world_size, comm.rank)
    env = envs.make_vec(cfg.env, len(share), cfg.seed, first_index=share.start, **cfg.env_options)
    dist = actions.of_space(env.single_action_space, cfg.squash)
    space = env.single_observation_space
    assert space.shape is not None
    dtype = pick_precision(cfg.precision, env.shows_images, device)
    weights_seed = int(generator(cfg.seed, 0, Purpose.WEIGHTS).integers(2**62))
    network = cfg.network if cfg.network in networks.NETWORKS else networks.find(cfg.network)
    ac = networks.ActorCritic(network, space.shape, dist, cfg.init, weights_seed, cfg.log_std, cfg.norm_obs)
    return env, ac, device, dtype


def build_learners(
    cfg: PPOConfig, comm: mpi.Comm, ac: ActorCritic, dtype: torch.dtype
) -> tuple[ActorCritic, list[Learner]]:
    """Return what evaluates the networks, and their learners: those of `ppo.compute`, or the plain ones without it."""
    import torch

    from ppo import ppo
    from ppo.optimiser import Adam
    from ppo.training import Learner

    for p in ac.parameters():  # equal by construction; sent all the same, so that no library can make them differ
        p.data.copy_(torch.from_numpy(comm.broadcast_array(p.detach().cpu().contiguous().numpy())))
    nets: Any = ac
    pi, v = ((net, comm, lr, cfg.adam_eps) for net, lr in ((ac.pi, cfg.pi_lr), (ac.v, cfg.v_lr)))
    if compute_wanted():
        from ppo.compute.adam import ShardedAdam
        from ppo.compute.networks import FastActorCritic

        nets = FastActorCritic(ac, dtype)
        optimisers: list[Any] = [ShardedAdam(*pi, nets.pi_copies), ShardedAdam(*v, nets.v_copies)]
    else:
        optimisers = [Adam(*pi), Adam(*v)]
    return nets, [
        Learner("Pi", optimisers[0], cfg.pi_lr, cfg.train_pi_iters, ppo.policy_loss, cfg.target_kl),
        Learner("V", optimisers[1], cfg.v_lr, cfg.train_v_iters, ppo.value_loss),
    ]


@contextmanager
def threads(comm: mpi.Comm) -> Iterator[None]:
    """Give torch this rank's share of the cores of its host, unless OMP_NUM_THREADS says otherwise.

    More threads than cores make everything slower, many times so where they wait for each other: with two threads for
    an MLP, on cores that others use too, a sweep of CartPole was thirty times as slow.

    Raises:
        Refused: OMP_NUM_THREADS is no number of threads.
    """
    import torch

    from utils.folder import Refused

    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given and not (given.isdigit() and int(given) > 0):
        raise Refused(f"OMP_NUM_THREADS must be a number of threads, at least 1, got {given!r}")
    share = int(given) if given else max(1, system.cores() // comm.local_size)
    before = torch.get_num_threads()
    torch.set_num_threads(share)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_wanted() -> bool:
    """Return whether `ppo.compute` is used: PPO_COMPUTE in the environment is "fast" (the default) or "plain".

    Raises:
        ValueError: it is something else.
    """
    value = os.environ.get("PPO_COMPUTE", "fast")
    if value not in ("fast", "plain"):
        raise ValueError(f"PPO_COMPUTE must be fast or plain, got {value!r}")
    return value == "fast"


def pick_device(wanted: str, local_rank: int) -> str:
    """Return the torch device of this rank: the ranks of a host share its GPUs in turn.

    Raises:
        ValueError: no such name, or a GPU is wanted that is not there.
    """
    import torch

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
    import torch

    if not compute_wanted():
        if wanted == "bfloat16":
            raise ValueError("precision is 'bfloat16', which PPO_COMPUTE=plain does not have")
        return torch.float32
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = bool({"avx512_bf16", "amx_bf16"} & system.processor_flags())
    return torch.bfloat16 if native and images else torch.float32


def describe_start(training: Training) -> str:
    """Return what a person wants to read before the first epoch."""
    cfg, comm = training.cfg, training.comm
    sizes = [sum(p.numel() for p in net.parameters()) for net in (training.ac.pi, training.ac.v)]
    ranks = f"{comm.world_size} rank{'s' if comm.world_size > 1 else ''}"
    dtype = getattr(training.nets, "dtype", None)
    machine = f"{training.device} in {str(dtype).removeprefix('torch.') if dtype else 'float32 without ppo.compute'}"
    if training.env.shows_images and machine == "cpu in bfloat16":
        from ppo.compute import convolutions

        machine += " with our own convolutions" if convolutions.library() else ""
    return (
        f"{cfg.env} -> {cfg.run_dir}  (preset {cfg.preset}, seed {cfg.seed})\n"
        f"{ranks}, {cfg.num_envs} environments, {machine}; {cfg.network} actor {sizes[0]:,} and critic "
        f"{sizes[1]:,} parameters; {cfg.num_epochs} epochs of {cfg.steps_per_epoch:,} steps" + describe_load(comm)
    )


def describe_load(comm: mpi.Comm) -> str:
    """Return a warning, on a line of its own, where the threads of one process have fewer idle cores than they need."""
    import torch

    wanted = torch.get_num_threads()
    if comm.world_size > 1 or wanted == 1 or "OMP_NUM_THREADS" in os.environ:
        return ""  # ranks see each other start
    idle = system.idle_cores()
    if idle is None or idle > wanted - 0.5:
        return ""
    return (
        f"\nwarning: other programs use this machine's cores ({idle:.1f} are idle): the {wanted} threads of this run "
        "wait for each other; with OMP_NUM_THREADS=1 it may be many times as fast"
    )


if __name__ == "__main__":
    main()
