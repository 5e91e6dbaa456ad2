"""What is measured. Each section is a function: options in, figures out."""

from __future__ import annotations

import functools
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from envs.mario import stages
from envs.mario.emulator import Emulator
from envs.mario.nespy import NesPyBackend
from ppo import config, ppo
from ppo.build import build_training
from ppo.training import Training
from scripts.benchmark import peers
from scripts.benchmark.allreduce import OURS
from scripts.benchmark.measure import Figure, apart, figures, in_turn, rate
from utils import mpi, system
from utils.analysis.tables import read_table

ENV = "SuperMarioBros-1-1-v0"
NETWORKS = ("mario", "nature", "small", "impala")
# What the parties do, whatever the presets say.
WORK = {"env": ENV, "actions": "simple", "minibatch_size": 256, "train_pi_iters": 4, "train_v_iters": 4}
ATARI: dict[str, Any] = {"env": "BreakoutNoFrameskip-v4", "preset": "atari", "num_envs": 8}
# Settings of each environment on vectors, and the module that simulates it: Box2D and MuJoCo are extras.
VECTORS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"env": "CartPole-v1"}, "gymnasium"),
    ({"env": "Pendulum-v1"}, "gymnasium"),
    ({"env": "LunarLander-v3"}, "Box2D"),
    ({"env": "HalfCheetah-v5", "preset": "continuous"}, "mujoco"),
    ({"env": "Hopper-v5", "preset": "continuous"}, "mujoco"),
)
_barrier: Any = None  # in a process of `threads`: where it waits until all are ready
REFERENCE_FPS = 450.0  # frames/s of nes-py's raw step on the machine that published figures of emulators are scaled to


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    seconds: float = 1.0  # for one party in one round
    rounds: int = 7
    networks: tuple[str, ...] = NETWORKS
    ranks: int = 0  # 0: one per core

    @property
    def num_ranks(self) -> int:
        """Ranks of the whole loop."""
        return self.ranks or system.cores()


# The emulator and the environment, one core --------------------------------------------------------------------------


def emulator(options: Options) -> list[Figure]:
    """Frames/s, all drawn, from the start of 1-1 with the same buttons, again and again."""
    game = stages.parse(ENV)
    assert game is not None
    nes = NesPyBackend(game, (1, 1))
    library = sys.modules["nes_py.nes_env"]._LIB
    core = Emulator(stages.rom_path(game))
    for _ in range(400):  # as far into the demo as it takes; both from the power button
        core.step(0)
    rng = np.random.default_rng(0)
    buttons = [int(b) for b in rng.choice([128, 129, 130, 131, 0], size=100)]
    start = core.save()
    nes_env = nes._env._env

    def core_frames() -> None:
        core.load(start)
        for b in buttons:
            core.step(b)

    def nes_rate() -> float:  # the reset plays hundreds of frames: only the steps count
        spent = frames = 0.0
        while spent < options.seconds:
            nes.reset()
            begin = time.perf_counter()
            for b in buttons:
                nes._env.controllers[0][:] = b
                library.Step(nes_env)
            spent += time.perf_counter() - begin
            frames += len(buttons)
        return frames / spent

    values = in_turn(
        {"nes-py 8.2.1": nes_rate, "this core": rate(core_frames, len(buttons), options.seconds)}, options.rounds
    )
    nes.close()
    return figures("Emulator, one core", "every frame drawn", "frames/s", values, ours="this core")


def environment(options: Options) -> list[Figure]:
    """Decisions/s of eight environments in one thread, with all preprocessing."""
    rng = np.random.default_rng(0)
    actions = rng.choice(7, size=(512, 8), p=[0.05, 0.1, 0.2, 0.2, 0.35, 0.05, 0.05])
    usual = [peers.UsualMario() for _ in range(8)]
    for env in usual:
        env.reset()

    def step_usual() -> None:
        row = actions[rng.integers(len(actions))]
        for env, action in zip(usual, row, strict=True):
            if env.step(int(action))[2]:
                env.reset()

    def party(emulator: str) -> Callable[[], float]:
        vec = envs.make_vec(ENV, 8, 0, emulator=emulator)
        vec.reset()
        return rate(lambda: vec.step(actions[rng.integers(len(actions))]) and None, 8, options.seconds)

    parties = {"nes-py, usual wrappers": rate(step_usual, 8, options.seconds)}
    parties |= {"nes-py, our Python path": party("nes-py"), "native vector": party("native"), "raw": _raw_nes(options)}
    values = in_turn(parties, options.rounds)
    raw = values.pop("raw")
    rows = figures("Environment, one core", "8 environments, one thread", "decisions/s", values, ours="native vector")
    scaled = {"native vector": [v * REFERENCE_FPS / f for v, f in zip(values["native vector"], raw, strict=True)]}
    what = f"where nes-py's raw step gives {REFERENCE_FPS:.0f} frames/s (here {np.median(raw):.0f})"
    return rows + figures("Environment, one core", what, "decisions/s", scaled, ours="native vector")


def _raw_nes(options: Options) -> Callable[[], float]:
    """Frames/s of nes-py's own step from the start of 1-1, holding right."""
    game = stages.parse(ENV)
    assert game is not None
    nes = NesPyBackend(game, (1, 1))
    nes._env.controllers[0][:] = 130
    step, handle = sys.modules["nes_py.nes_env"]._LIB.Step, nes._env._env
    return rate(lambda: step(handle), 1, options.seconds)


def threads(options: Options) -> list[Figure]:
    """Two threads in one process against two processes, 32 environments in all."""

    def one_process() -> float:
        return sum(_processes(ENV, [(32, {"threads": 2})], options.seconds))

    def two_processes() -> float:
        return sum(_processes(ENV, [(16, {}), (16, {})], options.seconds))

    values = in_turn({"two processes": two_processes, "two threads": one_process}, options.rounds)
    return figures("Environment, two cores", "32 environments", "decisions/s", values, ours="two threads")


def _processes(env: str, shares: list[tuple[int, dict[str, Any]]], seconds: float) -> list[float]:
    """Return the decisions/s of processes that step (environments, their options) each at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(shares))
    with ProcessPoolExecutor(len(shares), context, initializer=_share_barrier, initargs=(barrier,)) as pool:
        return list(pool.map(_step_for, [env] * len(shares), *zip(*shares, strict=True), [seconds] * len(shares)))


def _share_barrier(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _step_for(env: str, num_envs: int, given: dict[str, Any], seconds: float) -> float:
    vec = envs.make_vec(env, num_envs, 0, **given)
    vec.reset()
    rng, actions = np.random.default_rng(0), int(vec.single_action_space.n)  # type: ignore[attr-defined]
    for _ in range(20):
        vec.step(rng.integers(actions, size=num_envs))
    assert _barrier is not None
    _barrier.wait(60)
    return rate(lambda: vec.step(rng.integers(actions, size=num_envs)) and None, num_envs, seconds)()


# The networks, one core ----------------------------------------------------------------------------------------------


def _training(network: str, steps_per_epoch: int = 1024, **settings: Any) -> Training:
    """Return a run of one process with a collected epoch in its buffer."""
    cfg = config.build(**WORK, network=network, steps_per_epoch=steps_per_epoch, **settings)
    training = build_training(cfg, mpi.Comm())
    training.nets.refresh()
    return training


def inference(options: Options) -> list[Figure]:
    """Actor and critic on the observations of 8, 16 and 64 environments."""
    rows = []
    for network in options.networks:
        training = _training(network, num_envs=2, steps_per_epoch=256)
        for batch in (8, 16, 64):
            rows += _inference(network, batch, training, options)
        training.close()
    return rows


def _inference(network: str, batch: int, training: Training, options: Options) -> list[Figure]:
    pi, v = peers.plain_copy(training.ac.pi), peers.plain_copy(training.ac.v)
    obs = torch.randint(256, (batch, 4, 84, 84), dtype=torch.uint8)
    channels_last = obs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as in our buffer

    @torch.no_grad()
    def plain() -> None:
        pi(obs), v(obs)

    def ours() -> None:
        training.nets.step(channels_last)

    seconds = options.seconds / 3
    parties = {"plain float32": rate(plain, batch, seconds), _ours(training): rate(ours, batch, seconds)}
    values = in_turn(parties, options.rounds)
    return figures("Inference, one core", f"{network} pair, batch {batch}", "decisions/s", values, ours=_ours(training))


def _ours(training: Training) -> str:
    return f"ppo, {str(training.nets.dtype).removeprefix('torch.')}"


def update(options: Options) -> list[Figure]:
    """Whole optimiser steps of actor and critic on minibatches of 256."""
    return [row for network in options.networks for row in _update(network, options)]


def _update(network: str, options: Options) -> list[Figure]:
    training = _training(network)
    data, _ = _epoch(training)
    samples = len(data["act"].ravel()) * training.cfg.train_pi_iters

    def ours() -> None:
        ppo.update(training, data)

    with apart(plain_update, network, options.seconds) as plain:
        values = in_turn(
            {"plain float32": plain, _ours(training): rate(ours, samples, options.seconds)}, max(3, options.rounds // 2)
        )
    training.close()
    return figures("Update, one core", f"{network} pair, minibatch 256", "samples/s", values, ours=_ours(training))


def _epoch(training: Training) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Return a collected epoch as our update takes it, and as the plain loop does."""
    ppo.collect(training)
    data = {name: array.copy(order="K") for name, array in training.buf.get().items()}  # (T, N, ...)
    ppo.normalise_advantages(training, data["adv"])
    return data, {name: torch.from_numpy(np.ascontiguousarray(a)).flatten(0, 1) for name, a in data.items()}


def plain_update(network: str, seconds: float) -> Callable[[], float]:
    """Return the plain loop's part of `update`."""
    torch.set_num_threads(1)
    training = _training(network)
    _, flat = _epoch(training)
    learner, samples = peers.PlainLearner(training.ac.pi, training.ac.v, training.cfg), len(flat["act"])

    def one_pass() -> None:
        for rows in torch.randperm(samples).split(training.cfg.minibatch_size):
            learner.step({name: tensor[rows] for name, tensor in flat.items()})

    return rate(one_pass, samples, seconds)


def collect(options: Options) -> list[Figure]:
    """Milliseconds per decision of a rank with 16 environments, and where they go."""
    return [row for network in options.networks[:2] for row in _collect(network, options)]


def _collect(network: str, options: Options) -> list[Figure]:
    training = _training(network, num_envs=16)
    obs = torch.from_numpy(np.ascontiguousarray(training.obs.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    rng = np.random.default_rng(0)

    def whole() -> None:
        ppo.collect(training)
        training.buf.get()

    def emulators() -> None:
        training.env.step(rng.integers(7, size=16))

    def networks() -> None:
        training.nets.step(obs)

    def milliseconds(work: Callable[[], None], decisions: int) -> Callable[[], float]:
        measured = rate(work, decisions, options.seconds)
        return lambda: 1000.0 / measured()

    parties = {
        "all of collecting": milliseconds(whole, training.cfg.steps_per_epoch),
        "of it emulator and preprocessing": milliseconds(emulators, 16),
        "of it both networks": milliseconds(networks, 16),
    }
    values = in_turn(parties, max(3, options.rounds // 2))
    training.close()
    what = f"{network} pair, 16 environments"
    return [
        row
        for who, numbers in values.items()
        for row in figures("Collecting, one core", what, "ms/decision", {who: numbers}, ours=who)
    ]


# The whole loop ------------------------------------------------------------------------------------------------------


def train_speed(ranks: int, epochs: int, settings: dict[str, Any], *flags: str) -> dict[str, np.ndarray]:
    """Train, one thread per rank, in a folder thrown away; return the columns of progress.txt but the first row.

    Raises:
        ValueError: the run failed; with the last line that it printed.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        flags += tuple(word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value)))
        command = [sys.executable, "-m", "ppo.run", "--cpu", str(ranks), "--epochs", str(epochs + 1)]
        command += ["--data-dir", folder, "--exp-name", "b", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise ValueError(f"the run failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        columns = read_table(Path(folder) / "b" / "b_s0" / "progress.txt").columns
        return {name: np.asarray(column)[1:] for name, column in columns.items()}


def loop(options: Options) -> list[Figure]:
    """Decisions/s of training with every core: on both emulators, and against Stable-Baselines3 doing the same work."""
    if not peers.has_stable_baselines():
        print(
            "Stable-Baselines3 is not installed (pip install '.[bench]'): only our own loop is measured",
            file=sys.stderr,
        )
    rows = _emulators(options) + [row for network in options.networks[:2] for row in _loop(network, options)]
    return rows + _recurrent(options)


def _emulators(options: Options) -> list[Figure]:
    """The default preset on nes-py and on our core."""

    def on(emulator: str) -> Callable[[], float]:
        return lambda: float(np.median(train_speed(options.num_ranks, 1, {"emulator": emulator})["StepsPerSecond"]))

    parties = {"ppo.run over nes-py": on("nes-py"), "ppo.run": on("native")}
    values = in_turn(parties, max(3, options.rounds // 2), warm_up=0)  # `train_speed` leaves out the first epoch
    what = f"default preset, {options.num_ranks} ranks"
    return figures("Whole loop, all cores", what, "decisions/s", values, ours="ppo.run")


def _loop(network: str, options: Options) -> list[Figure]:
    settings: dict[str, Any] = WORK | {"network": network, "num_envs": 8, "steps_per_epoch": 1024}
    ours = f"ppo.run, {options.num_ranks} ranks"
    with ExitStack() as stack:
        parties: dict[str, Callable[[], float]] = {}
        if peers.has_stable_baselines():
            for label, same in (
                ("Stable-Baselines3 over nes-py, 8 processes", False),
                ("Stable-Baselines3 on our core", True),
            ):
                parties[label] = stack.enter_context(apart(stable_baselines, network, same, settings))
        parties[ours] = lambda: float(np.median(train_speed(options.num_ranks, 6, settings)["StepsPerSecond"]))
        values = in_turn(parties, max(3, options.rounds // 2))
    what = f"{network} pair, 8 environments, minibatch 256, 4 passes"
    return figures("Whole loop, all cores", what, "decisions/s", values, ours=ours)


def _recurrent(options: Options) -> list[Figure]:
    """An LSTM after the first network, against RecurrentPPO."""
    if not peers.has_recurrent_baselines():
        return []
    network = options.networks[0]
    settings: dict[str, Any] = WORK | {
        "network": network,
        "num_envs": 8,
        "steps_per_epoch": 1024,
        "policy": "lstm",
        "chunk_steps": 32,
    }
    ours, theirs = f"ppo.run, {options.num_ranks} ranks", "Stable-Baselines3-contrib's RecurrentPPO on our core"
    with apart(stable_baselines, network, True, settings) as party:
        parties = {
            theirs: party,
            ours: lambda: float(np.median(train_speed(options.num_ranks, 6, settings)["StepsPerSecond"])),
        }
        values = in_turn(parties, max(3, options.rounds // 2))
    what = f"{network} pair with LSTMs of 512 units, 8 environments, minibatch 256, 4 passes"
    return figures("Whole loop, all cores", what, "decisions/s", values, ours=ours)


def stable_baselines(network: str, same_emulator: bool, settings: dict[str, Any]) -> Callable[[], float]:
    """Return Stable-Baselines3's part of `loop`: two epochs of the work that `settings` describe."""
    torch.set_num_threads(system.cores())
    cfg = config.build(**settings)
    return _learning(peers.stable_baselines(network, same_emulator, cfg.num_envs, cfg.steps_per_env, cfg), cfg, 2)


def _learning(model: Any, cfg: config.PPOConfig, epochs: int) -> Callable[[], float]:
    """Return a measure of a Stable-Baselines3 model's training, so many epochs at a time."""

    def measured() -> float:
        start = time.perf_counter()
        model.learn(epochs * cfg.steps_per_epoch, reset_num_timesteps=False)
        return epochs * cfg.steps_per_epoch / (time.perf_counter() - start)

    return measured


def vectors(options: Options) -> list[Figure]:
    """Steps/s of training on vectors with a preset, one core, against Stable-Baselines3 with the same."""
    rows = []
    for settings, simulator in VECTORS:
        if importlib.util.find_spec(simulator) is None:
            continue
        epochs = -(-8192 // config.build(**settings).steps_per_epoch)
        with ExitStack() as stack:
            parties: dict[str, Callable[[], float]] = {}
            if peers.has_stable_baselines():
                peer = apart(stable_baselines_on_vectors, settings, epochs)
                parties["Stable-Baselines3"] = stack.enter_context(peer)
            parties["ppo.run"] = functools.partial(_wall_clock, settings, epochs)
            values = in_turn(parties, max(3, options.rounds // 2))
        rows += figures("Whole loop on vectors, one core", settings["env"], "steps/s", values, ours="ppo.run")
    return rows


def _wall_clock(settings: dict[str, Any], epochs: int) -> float:
    """Steps/s of `ppo.run` from the end of the first epoch to that of the last, whatever the time went into."""
    columns = train_speed(1, epochs + 1, settings)
    steps, seconds = (columns[name][-1] - columns[name][0] for name in ("TotalEnvInteracts", "Time"))
    return float(steps / seconds)


def stable_baselines_on_vectors(settings: dict[str, Any], epochs: int) -> Callable[[], float]:
    """Return Stable-Baselines3's part of `vectors`."""
    torch.set_num_threads(1)
    cfg = config.build(**settings)
    return _learning(peers.stable_baselines_on_vectors(cfg), cfg, epochs)


def atari(options: Options) -> list[Figure]:
    """Breakout: the environments alone against ale-py's own vector and EnvPool, the loop against Stable-Baselines3."""
    what = f"Breakout, {ATARI['num_envs']} environments, {system.cores()} cores"
    alone = {"ale-py's AtariVectorEnv": _ale_vector(options)}
    if importlib.util.find_spec("envpool"):
        alone["EnvPool"] = _envpool(options)
    processes = min(system.cores(), ATARI["num_envs"])
    shares: list[tuple[int, dict[str, Any]]] = [
        (len(part), {}) for part in np.array_split(np.arange(ATARI["num_envs"]), processes)
    ]
    vectors = f"AtariVec in {processes} processes"
    alone[vectors] = lambda: sum(_processes(ATARI["env"], shares, options.seconds))
    values = in_turn(alone, options.rounds)
    rows = figures("Atari", what, "decisions/s", values, ours=vectors)
    ours = f"ppo.run --preset atari --shared, {options.num_ranks} ranks"
    with ExitStack() as stack:
        parties: dict[str, Callable[[], float]] = {}
        if peers.has_stable_baselines():
            parties["Stable-Baselines3"] = stack.enter_context(apart(stable_baselines_on_atari))
        parties[ours] = lambda: float(np.median(train_speed(options.num_ranks, 4, ATARI, "--shared")["StepsPerSecond"]))
        values = in_turn(parties, max(3, options.rounds // 2))
    return rows + figures("Atari", "Breakout, whole loop, all cores", "decisions/s", values, ours=ours)


def _ale_vector(options: Options) -> Callable[[], float]:
    from ale_py.vector_env import AtariVectorEnv

    vec = AtariVectorEnv("breakout", ATARI["num_envs"], num_threads=system.cores(), episodic_life=True)
    return _random_play(vec, options)


def _envpool(options: Options) -> Callable[[], float]:
    import envpool

    vec = envpool.make_gymnasium(
        "Breakout-v5", num_envs=ATARI["num_envs"], num_threads=system.cores(), episodic_life=True, reward_clip=True
    )
    return _random_play(vec, options)


def _random_play(vec: Any, options: Options) -> Callable[[], float]:
    """Return a measure of a vector's steps with random actions of Breakout, of which there are four."""
    rng = np.random.default_rng(0)
    actions = rng.integers(4, size=(512, ATARI["num_envs"]), dtype=np.int32)
    vec.reset()
    return rate(lambda: vec.step(actions[rng.integers(512)]) and None, ATARI["num_envs"], options.seconds)


def stable_baselines_on_atari() -> Callable[[], float]:
    """Return Stable-Baselines3's part of `atari`: four epochs."""
    torch.set_num_threads(system.cores())
    cfg = config.build(**ATARI)
    return _learning(peers.stable_baselines_on_atari(cfg), cfg, 4)


def ranks(options: Options) -> list[Figure]:
    """One rank, two ranks, and two runs of one rank at the same time, each rank held to one thread."""
    rows = _ranks("default preset", {}, options)
    for network in options.networks[:2]:
        rows += _ranks(f"{network} pair", WORK | {"network": network, "steps_per_epoch": 1024}, options)
    return rows + allreduce(options)


def _ranks(what: str, settings: dict[str, Any], options: Options) -> list[Figure]:
    def at_once(runs: int) -> list[dict[str, np.ndarray]]:
        with ThreadPoolExecutor(runs) as pool:
            return list(pool.map(lambda _: train_speed(1, 3, settings), range(runs)))

    alone, limit, ours = "1 rank", "two runs of 1 rank, summed: the machine's limit", "2 ranks"
    measured: dict[str, list[list[dict[str, np.ndarray]]]] = {alone: [], limit: [], ours: []}
    for _ in range(max(3, options.rounds // 2)):
        measured[alone].append(at_once(1))
        measured[limit].append(at_once(2))
        measured[ours].append([train_speed(2, 3, settings)])
    rows = []
    for part, unit, value in (
        ("whole loop", "decisions/s", lambda c: c["StepsPerSecond"]),
        ("update alone", "epochs/s", lambda c: 1.0 / c["TimeUpdate"]),
        ("collecting alone", "epochs/s", lambda c: 1.0 / c["TimeCollect"]),
    ):
        values = {
            who: [sum(float(np.median(value(columns))) for columns in runs) for runs in rounds]
            for who, rounds in measured.items()
        }
        rows += figures("Ranks, one thread each", f"{what}, {part}", unit, values, ours=ours)
    for part, share in (
        ("whole loop", lambda c: c["TimeWait"] / (c["TimeCollect"] + c["TimeUpdate"])),
        ("update alone", lambda c: c["TimeWaitUpdate"] / c["TimeUpdate"]),
    ):
        shares = {ours: [100 * float(np.median(share(columns))) for [columns] in measured[ours]]}
        rows += figures(
            "Ranks, one thread each", f"{what}, {part}, in MPI calls, waiting included", "% of it", shares, ours=ours
        )
    return rows


def allreduce(options: Options) -> list[Figure]:
    """The sum over two ranks of the gradients of each pair of networks."""
    counts = {}
    for network in options.networks:
        training = _training(network, num_envs=2, steps_per_epoch=256)
        counts[network] = sum(p.numel() for p in training.ac.parameters())
        training.close()
    program = [sys.executable, "-m", "scripts.benchmark.allreduce", json.dumps(counts), str(20 * options.rounds)]
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    launcher = mpirun if Path(mpirun).exists() else "mpirun"
    done = subprocess.run([launcher, "-np", "2", *program], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the Allreduce program failed: {done.stderr.strip().splitlines()[-1:]}")
    rows = []
    for network, times in json.loads(done.stdout).items():
        what = f"{network} pair, {counts[network] * 4 / 1e6:.1f} MB"
        rows += figures("Sum of the gradients, two ranks", what, "ms", times, ours=OURS, smaller_is_better=True)
    return rows


def memory(options: Options) -> list[Figure]:
    """Resident memory of a process with 16 environments x 512 steps, over the epochs of a run."""
    columns = train_speed(1, 10, {"num_envs": 16, "steps_per_epoch": 16 * 512, "train_pi_iters": 1, "train_v_iters": 1})
    used = [float(x) for x in columns["MemoryMB"]]
    rows = []
    for who, numbers in (("after 2 epochs", used[:1]), ("after 11 epochs", used[-1:])):
        rows += figures("Memory", "16 environments x 512 steps, default preset", "MiB", {who: numbers}, ours=who)
    return rows


# The profile ---------------------------------------------------------------------------------------------------------

KINDS = (
    ("convolutions, backward", ("convolution_backward", "ConvolutionsBackward")),
    (
        "convolutions, forward",
        ("Convolutions", "mkldnn_convolution", "aten::convolution", "aten::_convolution", "cudnn"),
    ),
    ("linear layers", ("aten::mm", "aten::addmm", "aten::linear")),
    ("ReLU", ("clamp", "ReLU", "relu", "threshold")),
    ("copies and scaling", ("copy", "to", "mul", "index_select", "add_", "fill", "zero")),
    ("Adam", ("adam", "Adam")),
)


def profile(network: str) -> str:
    """Return a table of where one process spends an epoch of 1,024 decisions."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    training = _training(network, num_envs=16)
    ppo.collect(training)
    training.buf.get()
    start = time.perf_counter()
    ppo.collect(training)
    collected = time.perf_counter() - start
    data = training.buf.get()
    ppo.normalise_advantages(training, data["adv"])
    ppo.update(training, data)
    start = time.perf_counter()
    ppo.update(training, data)
    updated = time.perf_counter() - start
    with record(activities=[ProfilerActivity.CPU]) as profiler:
        ppo.update(training, data)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    spent: dict[str, float] = {}
    for event in events:
        name = next((kind for kind, words in KINDS if any(word in event.key for word in words)), "the rest")
        spent[name] = spent.get(name, 0.0) + event.self_cpu_time_total
    whole = collected + updated
    lines = [
        f"{network} pair, {_ours(training)}, one process, an epoch of {training.cfg.steps_per_epoch:,} decisions: "
        f"{whole:.2f} s"
    ]
    lines += [f"    {'collecting':<32}{collected / whole:>7.1%}", f"    {'update':<32}{updated / whole:>7.1%}"]
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        lines.append(f"        {name:<28}{value / total * updated / whole:>7.1%}")
    training.close()
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[Options], list[Figure]]] = {
    "emulator": emulator,
    "environment": environment,
    "threads": threads,
    "inference": inference,
    "update": update,
    "collect": collect,
    "loop": loop,
    "vectors": vectors,
    "atari": atari,
    "ranks": ranks,
    "memory": memory,
}
