"""The row that an epoch adds to `progress.txt`, joined over the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppo.training import Training
from utils.columns import STEPS
from utils.system import memory_mb

EndedEpisodes = list[tuple[int, dict[str, Any]]]  # (step of the epoch, record)


def join_episodes(training: Training, episodes: EndedEpisodes) -> list[dict[str, Any]] | None:
    """Return, on rank 0, the records of all ranks' episodes in the order they ended."""
    gathered = training.comm.gather(episodes)
    if gathered is None:
        return None
    pairs = sorted((pair for share in gathered for pair in share), key=lambda pair: (pair[0], pair[1]["env"]))
    return [record for _, record in pairs]


def epoch_row(
    training: Training, episodes: EndedEpisodes, trained: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return, on rank 0, the row of progress.txt and the episodes of all ranks in the order they ended.

    Args:
        training: the run.
        episodes: those of this rank.
        trained: what `value_statistics` and `update` returned.
    """
    done = join_episodes(training, episodes)
    memory = float(training.comm.max(np.array([memory_mb()]))[0])
    times = take_times(training)
    if done is None:
        return {}, []
    cfg = training.cfg
    row: dict[str, Any] = {"Epoch": training.epoch - 1}
    row |= statistics("EpRet", np.array([e["ep_ret"] for e in done]))
    row["AverageTrainRet"] = mean([e["train_ret"] for e in done])
    row["EpLen"] = mean([e["ep_len"] for e in done])
    row["EpCount"] = len(done)
    for column in training.env.family.columns:
        row[column.name] = mean([float(e[str(column.field)]) for e in done])
    row |= training.env.learned()
    explained = trained.pop("ExplainedVariance")
    row |= {name: trained.pop(name) for name in ("AverageVVals", "StdVVals", "MaxVVals", "MinVVals")}
    row[STEPS] = training.epoch * cfg.steps_per_epoch
    row |= trained
    row["ExplainedVariance"] = explained
    row["StepsPerSecond"] = cfg.steps_per_epoch / (times["TimeCollect"] + times["TimeUpdate"])
    return row | times | {"MemoryMB": memory}, done


def take_times(training: Training) -> dict[str, float]:
    """Return the seconds of the epoch's phases, and start counting the next one's."""
    timer = training.timer
    times = {f"Time{phase.capitalize()}": timer.seconds[phase] for phase in ("collect", "update")}
    times["TimeWait"] = timer.waited["collect"] + timer.waited["update"]
    times["TimeWaitUpdate"] = timer.waited["update"]
    timer.restart("collect", "update")
    return times


def statistics(name: str, values: np.ndarray) -> dict[str, float]:
    """Return Average, Std, Max and Min under Spinning Up's names; NaN where there are no values."""
    functions = (("Average", np.mean), ("Std", np.std), ("Max", np.max), ("Min", np.min))
    return {prefix + name: float(f(values)) if len(values) else float("nan") for prefix, f in functions}


def mean(values: list[float]) -> float:
    """Return the mean, NaN of nothing."""
    return float(np.mean(values)) if values else float("nan")
