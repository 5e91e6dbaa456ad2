"""`python -m ppo.run`: command line -> config -> objects -> the procedure. The only place where parts are wired.

mpirun -np 8 python -m ppo.run                    # Mario 1-1 with the defaults
python -m ppo.run --env CartPole-v1 --cpu 2       # re-launches itself under mpirun
train(build(env="CartPole-v1", epochs=20))        # in a notebook
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import mpi, system
from utils.watchdog import StopSignals

if TYPE_CHECKING:
    import torch

    from ppo.config import PPOConfig
    from ppo.ppo import Run
    from ppo.recorder import Recorder

EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: a batch system may start the job again


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, from one rank."""

    def error(self, message: str) -> Any:
        bad_input(message)


def bad_input(message: str) -> Any:
    """Print one line on the first rank and exit with code 2."""
    if mpi.launched_rank() == 0:
        sys.stderr.write(f"ppo.run: error: {message}\n")
    sys.stderr.flush()
    sys.exit(EXIT_BAD_INPUT)


def main(argv: list[str] | None = None) -> None:
    """Run one training from the command line; exit with 0, 1 (failure), 2 (bad input), 75 (SIGUSR1) or 128 + signal."""
    argv = sys.argv[1:] if argv is None else argv
    comm: mpi.Comm | None = None
    try:
        cfg, options = parse(argv)  # before MPI starts: bad input prints one line, once
        if options.cpu > 1 and mpi.launched_size() == 1:
            relaunch(options.cpu, argv)
        signals = StopSignals()  # kept to the end of the process: a late signal changes nothing
        comm = connect()
        train(cfg, comm, resume=options.resume, overwrite=options.overwrite, allow_mismatch=options.allow_mismatch,
              signals=signals)  # fmt: skip
    except SystemExit as done:
        if (
            comm is not None
            and comm.world_size > 1
            and done.code not in (0, None, EXIT_BAD_INPUT, EXIT_PREEMPTED, 130, 143)
        ):
            mpi.exit_together(comm, done)
        raise
    except BaseException as error:  # whatever happened to this rank, the others must not wait for it
        mpi.exit_together(comm, error)


def parse(argv: list[str]) -> tuple[PPOConfig, argparse.Namespace]:
    """Return the checked config and the other flags."""
    from ppo import config

    parser = _Parser(prog="python -m ppo.run", description="Train PPO; every size counts over all ranks.",
                     allow_abbrev=False)  # fmt: skip
    config.add_arguments(parser)
    other = parser.add_argument_group("starting")
    other.add_argument("--cpu", type=int, default=1, metavar="N", help="start N ranks with mpirun")
    other.add_argument(
        "--resume", action="store_true", help="continue the run in its folder, or start if there is none"
    )
    other.add_argument("--overwrite", action="store_true", help="move an old run in the folder aside and start")
    other.add_argument("--allow-mismatch", action="store_true", help="resume although settings or versions differ")
    namespace = parser.parse_args(argv)
    options = argparse.Namespace(**{name: vars(namespace).pop(name) for name in
                                    ("cpu", "resume", "overwrite", "allow_mismatch")})  # fmt: skip
    try:
        cfg = config.build(**vars(namespace))
    except ValueError as error:
        bad_input(str(error))
    ranks = options.cpu if mpi.launched_size() == 1 else mpi.launched_size()
    if ranks < 1 or ranks > cfg.num_envs:
        bad_input(f"ranks must be from 1 to num-envs ({cfg.num_envs}), got {ranks}")
    if options.resume and options.overwrite:
        bad_input("--resume and --overwrite exclude each other")
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
) -> Path:
    """Train one run and return its folder. Every rank calls this; a notebook does so without `comm`.

    Args:
        cfg: the run's settings.
        comm: the ranks; one process if left out.
        resume: continue what is in the folder, or start if there is nothing.
        overwrite: move what is in the folder aside.
        allow_mismatch: resume although settings or versions differ from the run's.
        signals: the caller's, which stay as they are at the end; otherwise the signals are taken over for the run.

    Raises:
        SystemExit: the folder is refused (2), or a signal ended the run (75, 130 or 143).
        ppo.ppo.NotFinite: see there.
    """
    from ppo import ppo
    from ppo.evaluate import find_policy
    from ppo.recorder import Recorder, init_from
    from utils.folder import Refused

    comm = comm or mpi.Comm()
    warnings.filterwarnings("ignore")  # libraries' warnings are not for the person who watches a run
    limit_threads(comm, cfg.network)
    system.keep_freed_memory()
    try:
        if cfg.init_from is not None and not resume:
            find_policy(cfg.init_from)  # before anything is written
        recorder = Recorder(cfg, comm, resume, overwrite)
    except Refused as error:
        bad_input(str(error))
    run: Run | None = None
    own = StopSignals() if signals is None and threading.current_thread() is threading.main_thread() else None
    reason, code = "error", 1
    try:
        run = build_run(cfg, comm)
        run.signals = signals or own
        recorder.begin(run, allow_mismatch)
        recorder.say(describe_start(run, recorder))
        if cfg.init_from is not None and run.epoch == 0:
            recorder.say(init_from(run, find_policy(cfg.init_from)))
        if run.signals is not None:
            run.signals.armed = True
        if recorder.reached is None:
            ppo.ppo(run, recorder.save, recorder.log)
        reason, code = "finished", 0
        recorder.say(f"finished: {cfg.run_dir}" + (f" ({recorder.reached})" if recorder.reached else ""))
    except Refused as error:
        reason, code = f"error: {error}", EXIT_BAD_INPUT
        bad_input(str(error))
    except ppo.Interrupted as stop:
        number = stop.signal_number
        reason, code = ("preempted", EXIT_PREEMPTED) if number == signal.SIGUSR1 else ("interrupted", 128 + number)
        recorder.say(f"\n{stop}: saved. Continue with the same command and --resume")
    except BaseException as error:
        reason = f"error: {type(error).__name__}: {error}"
        raise
    finally:
        recorder.close(reason, code, run.epoch if run else 0)
        if run is not None:
            run.close()
        if own is not None:
            own.close()
    if code:
        sys.exit(code)
    return cfg.run_dir


def build_run(cfg: PPOConfig, comm: mpi.Comm) -> Run:
    """Build environments, networks, buffer and optimisers of this rank, with the same weights on every rank."""
    import gymnasium
    import torch

    import envs
    from ppo.buffer import PPOBuffer
    from ppo.networks import ActorCritic
    from ppo.optimiser import ShardedAdam
    from ppo.ppo import Run
    from utils.seeding import Purpose, generator
    from utils.watchdog import Watchdog

    watchdog = Watchdog(comm, cfg.stall_timeout)
    share = mpi.share(cfg.num_envs, comm.world_size, comm.rank)
    env = envs.make_vec(cfg.env, len(share), cfg.seed, first_index=share.start, **cfg.env_options())
    if not isinstance(env.single_action_space, gymnasium.spaces.Discrete):
        raise ValueError(f"env {cfg.env} has actions {env.single_action_space}, only Discrete ones can be learned")
    space = env.single_observation_space
    assert space.shape is not None and space.dtype is not None
    device = torch.device(pick_device(cfg.device, comm.local_rank))
    weights_seed = int(generator(cfg.seed, 0, Purpose.WEIGHTS).integers(2**62))
    ac = ActorCritic(cfg.network, space.shape, int(env.single_action_space.n), cfg.init, weights_seed).to(device)
    for p in ac.parameters():  # equal by construction; sent all the same, so that no library can make them differ
        p.data.copy_(torch.from_numpy(comm.broadcast_array(p.detach().cpu().contiguous().numpy())))
    ac.compute_in(pick_precision(cfg.precision, cfg.network, device))
    return Run(
        cfg=cfg, comm=comm, env=env, ac=ac,
        buf=PPOBuffer(cfg.local_steps, len(share), space.shape, space.dtype, cfg.gamma, cfg.lam, cfg.value_target),
        pi_optimiser=ShardedAdam(ac.pi, comm, cfg.pi_lr, cfg.adam_eps, ac.pi_copies),
        v_optimiser=ShardedAdam(ac.v, comm, cfg.v_lr, cfg.adam_eps, ac.v_copies),
        device=device, watchdog=watchdog, obs=env.reset()[0],
    )  # fmt: skip


def limit_threads(comm: mpi.Comm, network: str) -> None:
    """Give each rank its share of the cores of its host, unless OMP_NUM_THREADS says otherwise; one for the MLP.

    More threads than cores make everything slower, many times so where they wait for each other; and a network as
    small as the MLP is done before a second thread has begun: with two, on cores that others use too, a sweep of
    CartPole was thirty times as slow.
    """
    import torch

    wanted = os.environ.get("OMP_NUM_THREADS", "")
    share = int(wanted) if wanted.isdigit() else max(1, system.cores() // comm.local_size)
    torch.set_num_threads(1 if network == "mlp" else share)


def pick_device(wanted: str, local_rank: int) -> str:
    """Return the torch device of this rank: the ranks of a host share its GPUs in turn.

    Raises:
        ValueError: a GPU is wanted and there is none.
    """
    import torch

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(f"device is {wanted!r}, but torch sees no GPU")
    return wanted if ":" in wanted else f"cuda:{local_rank % torch.cuda.device_count()}"


def pick_precision(wanted: str, network: str, device: torch.device) -> torch.dtype:
    """Return the type in which the networks compute: for images bfloat16 where the processor or GPU has it.

    Processors without its instructions emulate them, slower than float32.
    """
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = bool({"avx512_bf16", "amx_bf16"} & system.processor_flags())
    return torch.bfloat16 if native and network != "mlp" else torch.float32


def describe_start(run: Run, recorder: Recorder) -> str:
    """Return what a person wants to read before the first epoch."""
    from ppo import convolution

    cfg, comm = run.cfg, run.comm
    sizes = [sum(p.numel() for p in net.parameters()) for net in (run.ac.pi, run.ac.v)]
    ranks = f"{comm.world_size} rank{'s' if comm.world_size > 1 else ''}"
    machine = f"{run.device} in {str(run.ac.dtype).removeprefix('torch.')}"
    if run.ac.image and machine == "cpu in bfloat16" and convolution.library():
        machine += " with our own convolutions"
    return (
        f"{cfg.env} -> {cfg.run_dir}  (preset {cfg.preset}, seed {cfg.seed})\n"
        f"{ranks}, {cfg.num_envs} environments, {machine}; {cfg.network} actor {sizes[0]:,} and critic "
        f"{sizes[1]:,} parameters; {cfg.num_epochs} epochs of {cfg.steps_per_epoch:,} steps"
    )


if __name__ == "__main__":
    main()
