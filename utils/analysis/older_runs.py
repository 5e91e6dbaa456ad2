"""What run folders of earlier versions do not say about themselves, because `config.json` did not keep it yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.columns import Column

# Columns of Super Mario Bros as a figure needs them; newer folders name a family's columns under "columns".
COLUMNS: Mapping[str, Column] = {
    column.name: column
    for column in (
        Column("ClearRate", "", "%", low=0, high=1, field="flag", label="Clear rate (share of episodes)", success=True),
        Column("XMax", "", "pixels", low=0, label="Furthest x"),
        Column("Score", "", "points", low=0, label="Score"),
        Column("StagesCleared", "", "stages", low=0, label="Stages cleared"),
    )
}

# Its emulators that are proven to equal another one; newer folders name them under "plays_as".
PLAYS_AS = {"native": "nes-py", "core 1": "gym-super-mario-bros 7.4.0, nes-py 8.2.1"}


def drawn_parts(env_id: str) -> list[str]:
    """Return the columns of episodes.csv that name a drawn stage; newer folders name them under "drawn_parts"."""
    return ["world", "stage"] if "RandomStages" in env_id else []


# Settings in which two runs of one experiment may differ; newer folders list them under "free_settings".
WHERE = {"exp_name", "data_dir", "preset", "resume", "overwrite"}
HOW_FAST = {"cpu", "device", "chunk_size", "threads", "torch_threads"}
HOW_LONG = {"epochs", "total_steps", "lengths"}
WATCHED = {"stop_at", "save_every", "save_minutes", "keep", "check_every", "stall_timeout", "tensorboard"}
EVALUATED = {"eval_every", "eval_episodes"}
FOREIGN = {"logger", "logger_kwargs", "output_dir", "datestamp", "save_freq", "t_start"}  # Spinning Up's and others'
FREE = frozenset(WHERE | HOW_FAST | WATCHED | EVALUATED | FOREIGN)
SCHEDULES = ("anneal_lr", "anneal_clip", "anneal_ent")


def free_settings(config: Mapping[str, Any]) -> frozenset[str]:
    """Return them; the length of a run is not among them where a schedule runs over it."""
    return FREE if any(config.get(name) for name in SCHEDULES) else FREE | HOW_LONG
