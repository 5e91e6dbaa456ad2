"""`python -m ppo.run`: command line -> config -> objects (`ppo/build.py`) -> the procedure.

mpirun -np 8 python -m ppo.run                    # Mario 1-1 with the defaults
python -m ppo.run --env CartPole-v1 --cpu 2       # re-launches itself under mpirun
train(build(env="CartPole-v1", epochs=20))        # in a notebook
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if __name__ == "__main__" and not __package__:  # `python ppo/run.py`, where `import ppo` finds ppo/ppo.py
    sys.stderr.write("ppo.run: error: start it as a module, from the project's folder: python -m ppo.run\n")
    sys.exit(2)
if __name__ == "__main__":  # an early Ctrl-C or SIGTERM waits for `main`
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})

from ppo import TORCH_CAME_FIRST  # noqa: E402
from utils import mpi, system  # noqa: E402
from utils.alike import check_hosts  # noqa: E402
from utils.command import BAD_INPUT, drop_unwritten, ending, open_closed_streams, printable  # noqa: E402
from utils.folder import Refused, RunFolder  # noqa: E402
from utils.watchdog import StopSignals  # noqa: E402

if TYPE_CHECKING:
    from ppo.config import PPOConfig
    from ppo.recorder import Recorder
    from ppo.training import Training

    OnEpoch = Callable[[dict[str, Any]], bool | None]


def bad_input(message: str) -> NoReturn:
    """Print one line on the first rank and exit with code 2."""
    if mpi.launched_rank() == 0:
        sys.stderr.write(f"ppo.run: error: {printable(message, 1000)}\n")
    sys.stderr.flush()
    sys.exit(BAD_INPUT)


def main(argv: list[str] | None = None) -> None:
    """Run one training from the command line; exit with 0, 1 (failure), 2 (bad input), 75 (SIGUSR1) or 128 + signal."""
    open_closed_streams()
    argv = sys.argv[1:] if argv is None else argv
    comm: mpi.Comm | None = None
    signals = StopSignals("keep" if mpi.launched_size() > 1 else "end")  # to the end: a late signal changes nothing
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        comm = connect()
        check_hosts(comm)  # before all else: other code may know other settings
        cfg, options = mpi.agreed(comm, lambda: parse(argv), (ValueError,), Refused)  # on one host it may be bad
        if options.cpu > 1 and comm.world_size == 1:
            relaunch(options.cpu, argv)
        if early := stopped_early(comm, signals):
            sys.exit(ending(early)[1])
        system.keep_freed_memory()
        train(
            cfg,
            comm,
            resume=options.resume,
            overwrite=options.overwrite,
            allow_mismatch=options.allow_mismatch,
            signals=signals,
        )
    except SystemExit:  # --help, bad input: nothing has begun
        signals.close()
        drop_unwritten(sys.stdout)
        raise
    except BaseException as error:
        drop_unwritten(sys.stdout)
        sys.exit(exit_code(comm, error))
    drop_unwritten(sys.stdout)


def exit_code(comm: mpi.Comm | None, error: BaseException) -> int:
    """Return the code with which all ranks end, where they agreed on it; otherwise end all of them at once."""
    if isinstance(error, Refused):
        bad_input(str(error))
    from ppo.training import Interrupted

    if isinstance(error, Interrupted):
        return ending(error.signal_number)[1]
    mpi.abort_job(comm, error)  # whatever happened to this rank, the others must not wait for it


def parse(argv: list[str]) -> tuple[PPOConfig, argparse.Namespace]:
    """Return the checked config and the other flags; ends the process for --help, --print-config and --presets.

    Raises:
        ValueError: see `arguments.parse`.
    """
    from ppo import arguments

    cfg, options = arguments.parse(argv)
    ranks = options.cpu if mpi.launched_size() == 1 else mpi.launched_size()
    if ranks < 1 or ranks > cfg.num_envs:
        raise ValueError(f"ranks must be from 1 to num-envs ({cfg.num_envs}), got {ranks}")
    if options.print_config or options.presets:
        if mpi.launched_rank() == 0:
            with contextlib.suppress(BrokenPipeError):  # its reader may have gone (`| head`)
                print(arguments.compare_presets(cfg.env) if options.presets else json.dumps(cfg.to_dict(), indent=1))
        sys.exit(0)
    return cfg, options


def relaunch(ranks: int, argv: list[str]) -> NoReturn:
    """Replace this process by `mpirun -np RANKS` of the same command: the mpi_fork of Spinning Up."""
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
    command = [*until_main(), sys.executable, "-m", "ppo.run", *kept]
    os.execv(str(mpirun), [str(mpirun), *flags, "-np", str(ranks), *command])


def until_main() -> list[str]:
    """Return words before a command that keep Ctrl-C and SIGTERM from it until it asks, also while Python starts.

    No words where `env` cannot do that (before coreutils 8.31). A signal before them ends that rank alone, and with it
    the run, in the launcher's own words (Hydra: 11, that is 2 of SIGINT and 9 of the others' SIGKILL).
    """
    words = ["env", "--block-signal=INT,TERM"]
    try:
        return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else []
    except OSError:
        return []


def connect() -> mpi.Comm:
    """Join the other ranks, or explain in one line why that cannot be."""
    try:
        return mpi.connect()
    except mpi.WrongLauncher as error:
        bad_input(str(error))
    except ImportError as error:
        bad_input(f"mpirun needs mpi4py and its MPI library (pip install -e '.[mpi]'): {error}")


def stopped_early(comm: mpi.Comm, signals: StopSignals | None) -> int:
    """Return, on all ranks alike, which of SIGINT and SIGTERM came before anything was begun, or 0; one says so."""
    received = signals.received if signals is not None else 0
    for number in (signal.SIGTERM, signal.SIGINT):
        if comm.any(received == number):
            if comm.rank == 0:
                print(f"{number.name} before the first epoch: nothing was written")
            return number
    return 0


def train(
    cfg: PPOConfig,
    comm: mpi.Comm | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_mismatch: bool = False,
    signals: StopSignals | None = None,
    on_epoch: OnEpoch | None = None,
) -> Path:
    """Train one run and return its folder. Every rank calls this, with the same arguments.

    Args:
        cfg: the run's settings.
        comm: the ranks; those that mpirun started if left out, one process without it.
        resume: continue what is in the folder, or start if there is nothing.
        overwrite: move what is in the folder aside.
        allow_mismatch: resume although settings or versions differ from the run's.
        signals: the caller's, which stay as they are at the end; otherwise the signals are taken over for the run.
        on_epoch: called after each epoch, on rank 0, with the row of progress.txt; returns true to end the run there.
            It may take as long as it likes.

    Raises:
        Refused: on all ranks: the settings cannot be trained, or the folder cannot be used. Nothing was written.
        Interrupted: on all ranks: a signal ended the run, which can be resumed.
        NotFinite: see `ppo.training`. With several ranks this and any other failure ends the whole job.
    """
    if comm is None:
        comm = mpi.connect()
        check_hosts(comm)
    folder = hold_folder(cfg, comm, resume, overwrite, signals)  # before torch, which takes seconds to import
    with folder or contextlib.nullcontext():
        from ppo.training import Interrupted

        try:
            _train(cfg, comm, folder, allow_mismatch, signals, on_epoch)
        except (Refused, Interrupted):  # on all ranks alike
            comm.free_buffers()
            raise
        except BaseException as error:
            if comm.world_size > 1:
                mpi.abort_job(comm, error)
            raise
    comm.free_buffers()
    return cfg.run_dir


def hold_folder(
    cfg: PPOConfig, comm: mpi.Comm, resume: bool, overwrite: bool, signals: StopSignals | None
) -> RunFolder | None:
    """Return the run's folder on rank 0, None elsewhere; a signal that ends this process gives it back before.

    Raises:
        Refused: on all ranks; see `RunFolder`.
    """

    def hold() -> RunFolder | None:
        if comm.rank != 0:
            return None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            folder = RunFolder(cfg.run_dir, resume, overwrite)
            if signals is not None:
                signals.before_end = folder.close
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return folder

    return mpi.agreed(comm, hold, (Refused, OSError), Refused)


def _train(
    cfg: PPOConfig,
    comm: mpi.Comm,
    folder: RunFolder | None,
    allow_mismatch: bool,
    signals: StopSignals | None,
    on_epoch: OnEpoch | None,
) -> None:
    import torch

    from ppo.build import build_training, threads
    from ppo.recorder import Recorder
    from ppo.training import Interrupted
    from utils.watchdog import Watchdog

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # libraries' warnings are not for the person who watches a run
        stack.enter_context(threads(comm))
        watchdog = stack.enter_context(Watchdog(comm, cfg.stall_timeout))
        if signals is None and threading.current_thread() is threading.main_thread():
            signals = stack.enter_context(StopSignals("raise"))
        training = build_training(cfg, comm, watchdog)
        stack.callback(training.env.close)
        training.signals = signals
        if early := stopped_early(comm, signals):
            raise Interrupted(early)
        if not training.env.shows_images:
            torch.set_num_threads(1)  # a small network is done before a second thread has begun
        recorder = Recorder(cfg, comm, folder)
        _record(training, recorder, allow_mismatch, on_epoch)


def _record(training: Training, recorder: Recorder, allow_mismatch: bool, on_epoch: OnEpoch | None) -> None:
    """Train and keep the files of the run, and how it ended."""
    from ppo import ppg, ppo

    procedure = {"ppo": ppo.ppo, "ppg": ppg.ppg}[training.cfg.algo]
    reason, code = "error", 1
    try:
        if training.signals is not None:
            training.signals.armed = True  # from here on files are written, and a signal waits until they are whole
        recorder.begin(training, allow_mismatch)
        recorder.say("\n".join([describe_start(training), *notes(training)]))
        began, cfg = training.epoch, training.cfg
        if recorder.reached is None:
            procedure(training, recorder.save, with_callback(recorder, on_epoch))
        reason, code = "finished", 0
        recorder.console.leave_panel()
        recorder.say(f"finished: {cfg.run_dir}" + (f" ({recorder.reached})" if recorder.reached else ""))
        if training.epoch == began and not recorder.reached:
            recorder.say(f"nothing was left to do: it has its {cfg.num_epochs} epochs; --epochs makes it longer")
    except Refused as error:
        reason, code = f"error: {error}", BAD_INPUT
        raise
    except ppo.Interrupted as stop:
        reason, code = ending(stop.signal_number)
        recorder.console.leave_panel()
        saved = {None: "nothing was saved yet", training.epoch: "saved"}
        what = saved.get(recorder.saved_epoch, f"saved as of epoch {recorder.saved_epoch}")
        recorder.say(f"{stop}: {what}. Continue with the same command and --resume")
        raise
    except BaseException as error:
        reason = f"error: {type(error).__name__}: {error}"
        raise
    finally:
        recorder.close(reason, code, training.epoch)


def with_callback(recorder: Recorder, on_epoch: OnEpoch | None) -> Any:
    """Return the recorder's `log`, followed by the user's callback on rank 0; all ranks learn what it returns."""

    def log(training: Training, row: dict[str, Any], episodes: list[dict[str, Any]]) -> bool:
        enough = recorder.log(training, row, episodes)
        with training.watchdog.paused():
            asked = on_epoch is not None and training.comm.rank == 0 and bool(on_epoch(dict(row)))
            return training.comm.any(asked) or enough

    return log


def describe_start(training: Training) -> str:
    """Return what a person wants to read before the first epoch."""
    import torch

    cfg, comm = training.cfg, training.comm
    sizes = [sum(p.numel() for p in net.parameters()) for net in (training.ac, training.ac.pi, training.ac.v)]
    networks = f"{cfg.network} actor {sizes[1]:,} and critic {sizes[2]:,} parameters"
    if training.ac.shared:
        networks = f"{cfg.network} body with two heads, {sizes[0]:,} parameters"
    if training.ac.memories:
        networks = f"{cfg.policy} of {cfg.lstm_units} units, {networks}"
    if cfg.algo == "ppg":
        size = cfg.phase_steps * training.buf.obs[0, 0].nbytes / 1e6
        networks += f"; PPG in phases of {cfg.phase_epochs} epochs, {size:,.1f} MB of observations each"
    ranks = f"{comm.world_size} rank{'s' if comm.world_size > 1 else ''}"
    if comm.local_size > (cores := system.cores()):
        ranks += f" on {cores} core{'s' if cores > 1 else ''}, where fewer would be faster"
    spins = TORCH_CAME_FIRST and training.env.shows_images and torch.get_num_threads() > 1
    compiled = [what.removeprefix("our own ") for what in training.arithmetic.split(", ") if "our own" in what]
    machine = f"{training.device} in {str(training.nets.dtype).removeprefix('torch.')}"
    machine += f" with compiled {' and '.join(compiled)}" if compiled else ""
    machine += " without ppo.compute" if training.arithmetic == "plain" else ""
    return (
        f"{cfg.env} -> {cfg.run_dir}  (preset {cfg.preset}, seed {cfg.seed})\n"
        f"{ranks}, {cfg.num_envs} environment{'s' * (cfg.num_envs != 1)}, {machine}; {networks}; "
        f"{cfg.num_epochs} epoch{'s' * (cfg.num_epochs != 1)} of {cfg.steps_per_epoch:,} steps"
        + ("\ntorch was imported before ppo: slow on a busy machine. Import ppo first" if spins else "")
    )


def notes(training: Training) -> list[str]:
    """Return what somebody may have meant otherwise: settings without effect, a preset for another kind of actions."""
    from numpy import int64

    from ppo.config import without_effect

    found = [f"note: {flag} has no effect without {need}" for flag, need in without_effect(training.cfg).items()]
    if training.cfg.preset == "classic" and training.ac.dist.act_dtype is not int64:
        found.append("note: preset classic is for discrete actions, --preset continuous for numbers")
    return found


if __name__ == "__main__":
    main()
