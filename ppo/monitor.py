"""What a run plays beside its training, on all ranks: evaluations and films of the present policy."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppo.config import PPOConfig
from ppo.evaluate import NUM_ENVS, evaluate_on_ranks
from ppo.film import film
from ppo.policy import Policy
from ppo.training import Training
from utils.columns import DISTINCT
from utils.mpi import Comm
from utils.seeding import evaluation_seed
from utils.sinks import Sink


def evaluate_if_due(training: Training, cfg: PPOConfig, comm: Comm) -> dict[str, float]:
    """Return the columns of an evaluation, NaN in epochs that have none; rank 0's are the ones that count."""
    if not cfg.eval_every:
        return {}
    due = training.epoch % cfg.eval_every == 0 or training.epoch == cfg.num_epochs
    kinds = {"Eval": cfg.evaluation_options(), "Test": cfg.test_options()}
    row: dict[str, float] = {}
    for kind, options in kinds.items():
        if options is not None:
            records = play_episodes(training, cfg, comm, options) if due else []
            row |= {f"{kind}{name}": value for name, value in evaluation_means(training, records).items()}
    return row


def play_episodes(training: Training, cfg: PPOConfig, comm: Comm, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of an evaluation's episodes, on rank 0."""
    with training.timer("evaluate"):
        return evaluate_on_ranks(
            frozen_policy(training),
            cfg.env,
            options,
            cfg.eval_episodes,
            evaluation_seed(cfg.seed),
            NUM_ENVS,
            False,
            comm,
            lambda: training.touch(f"evaluate, epoch {training.epoch - 1}"),
            training.watchdog.paused,
        )


def evaluation_means(training: Training, records: list[dict[str, Any]]) -> dict[str, float]:
    """Return what the records of an evaluation come to, by the columns' names without Eval or Test; NaN without any."""
    fields = training.env.family.evaluated_fields
    if not records:
        return dict.fromkeys((*fields, *DISTINCT), math.nan)
    means = {name: float(np.mean([r[field] for r in records])) for name, field in fields.items()}
    return means | {name: len({r[field] for r in records}) for name, field in DISTINCT.items()}


def film_if_due(
    training: Training, cfg: PPOConfig, comm: Comm, folder: Path, sinks: Sequence[Sink], say: Callable[[str], None]
) -> None:
    """Write a video of the present policy: rank 0 does, the others wait as long as it takes.

    It has environments and random streams of its own. What goes wrong with it costs a line, not the run.

    Args:
        training, cfg, comm: the run.
        folder: of its videos.
        sinks: that show films too.
        say: prints a line.
    """
    if not cfg.video_every or (training.epoch % cfg.video_every and training.epoch != cfg.num_epochs):
        return
    if comm.rank == 0:
        say(f"writing a video of the policy after epoch {training.epoch}")
        path, options = folder / f"epoch_{training.epoch:05d}.mp4", cfg.evaluation_options()

        def go_on() -> bool:
            training.watchdog.touch(f"video, epoch {training.epoch - 1}")
            return not (training.signals and training.signals.received)

        try:
            film(frozen_policy(training), cfg.env, options, path, evaluation_seed(cfg.seed), go_on)
            for sink in sinks:
                sink.film(path, training.epoch * cfg.steps_per_epoch)
        except Exception as error:  # ffmpeg, a full disk, a display, what a user's environment draws
            say(f"WARNING: video not saved: {type(error).__name__}: {error}")
    with training.watchdog.paused() if comm.rank else contextlib.nullcontext():
        comm.barrier()


def frozen_policy(training: Training) -> Policy:
    """Return the run's networks as a policy that acts in float32, as one from a file does."""
    shape = training.env.single_observation_space.shape or ()
    return Policy(copy.deepcopy(training.ac).cpu().eval(), {"obs_shape": list(shape)})
