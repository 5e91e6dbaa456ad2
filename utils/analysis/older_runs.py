"""What run folders of earlier versions do not say about themselves, because `config.json` did not keep it yet."""

from __future__ import annotations

from collections.abc import Mapping

from utils.columns import Column

# Columns of Super Mario Bros; newer folders name a family's columns under "columns".
MARIO: Mapping[str, Column] = {
    column.name: column
    for column in (
        Column(
            "ClearRate",
            "share of the episodes that reached the flag",
            "%",
            low=0,
            high=1,
            field="flag",
            label="Clear rate (share of episodes)",
        ),
        Column("XMax", "mean of the furthest x", "pixels", low=0, field="x_max", label="Furthest x"),
        Column("Score", "mean of the game's score", "points", low=0, field="score", label="Score"),
        Column("StagesCleared", "mean number of stages cleared", low=0, field="stages_cleared", label="Stages cleared"),
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
