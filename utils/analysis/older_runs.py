"""What run folders of earlier versions do not say about themselves, because `config.json` did not keep it yet."""

from __future__ import annotations

from collections.abc import Mapping

from utils.columns import Column

# Columns of Super Mario Bros as a figure needs them; newer folders name a family's columns under "columns".
MARIO: Mapping[str, Column] = {
    column.name: column
    for column in (
        Column("ClearRate", "", "%", low=0, high=1, label="Clear rate (share of episodes)", success=True),
        Column("XMax", "", "pixels", low=0, label="Furthest x"),
        Column("Score", "", "points", low=0, label="Score"),
        Column("StagesCleared", "", "stages", low=0, label="Stages cleared"),
    )
}

# Settings in which two runs of one experiment may differ; newer folders list them under "free_settings".
WHERE = {"exp_name", "data_dir", "preset", "resume", "overwrite"}
HOW_FAST = {"cpu", "device", "chunk_size", "threads", "torch_threads"}
HOW_LONG = {"epochs", "total_steps", "stop_at"}
WATCHED = {"save_every", "save_minutes", "keep", "check_every", "stall_timeout", "tensorboard"}
EVALUATED = {"eval_every", "eval_episodes"}
FOREIGN = {"logger", "logger_kwargs", "output_dir", "datestamp", "save_freq", "t_start"}  # Spinning Up's and others'
FREE = frozenset(WHERE | HOW_FAST | HOW_LONG | WATCHED | EVALUATED | FOREIGN)
