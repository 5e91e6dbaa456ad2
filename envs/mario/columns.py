"""The columns that Mario adds to the tables of a run."""

from __future__ import annotations

from utils.columns import Column

PROGRESS = (
    Column(
        "ClearRate",
        "share of the finished episodes that reached the flag",
        "%",
        "It should rise towards 100%. `EpCount` says of how many episodes it is the share.",
        low=0.0,
        high=1.0,
        field="flag",
        label="Clear rate (share of episodes)",
        success=True,
    ),
    Column(
        "XMax",
        "mean of the furthest place that an episode reached",
        "pixels",
        "It rises before the clear rate does; a plateau is an obstacle.",
        low=0.0,
        field="x_max",
        label="Furthest x",
    ),
    Column(
        "Score", "mean of the game's score at the end of an episode", "points", low=0.0, field="score", label="Score"
    ),
    Column(
        "StagesCleared",
        "mean of the stages that an episode cleared",
        "stages",
        low=0.0,
        field="stages_cleared",
        label="Stages cleared",
    ),
)

LEARNED = (
    Column(
        "StartShare",
        "share of the finished episodes that started at the stage's start",
        "%",
        "With `--start-curriculum` it grows as these episodes clear the stage.",
        low=0.0,
        high=1.0,
        label="Starts at the stage's start (share of episodes)",
    ),
    Column(
        "StartClearRate",
        "share of the episodes from the stage's start that reached the flag; `ClearRate` counts all episodes",
        "%",
        low=0.0,
        high=1.0,
        label="Clear rate from the stage's start",
    ),
    Column(
        "StartFar",
        "mean share of the way that episodes from the stage's start came along",
        "%",
        low=0.0,
        high=1.0,
        label="Way from the stage's start (share)",
    ),
    Column(
        "Frontier",
        "how far along the way the place is from which most episodes start",
        "%",
        "It is the obstacle of the moment.",
        low=0.0,
        high=1.0,
        label="Frontier (share of the way)",
    ),
    Column(
        "FrontierRate",
        "share of the starts from there, and of the episodes that came through, that reached the goal ahead",
        "%",
        low=0.0,
        high=1.0,
        label="Success at the frontier",
    ),
    Column(
        "PlaceRate",
        "mean of that share over the places of the way",
        "%",
        "It falls where goals move away.",
        low=0.0,
        high=1.0,
        label="Success over all places",
    ),
    Column(
        "GoalFar",
        "mean over the places of how much of the way to the flag their goals ask for; 1: all of it",
        "%",
        low=0.0,
        high=1.0,
        label="Distance of goals (share of the rest)",
    ),
)

EPISODES = (
    Column("flag", "1 where the episode reached the flag"),
    Column("cause", "why it ended: flag, pit, enemy, timeout, rule, step_limit, goal or game_over"),
    Column("x_max", "furthest x", "pixels"),
    Column("score", "the game's score", "points"),
    Column("time_left", "what the game's clock showed at the end", "units of the game's clock"),
    Column("coins", "coins that the game showed at the end"),
    Column("world", "world of the last stage"),
    Column("stage", "stage of the last stage"),
    Column("stages_cleared", "stages cleared in this episode"),
    Column("start_frames", "frames played before the agent's first decision"),
)
LEARNED_EPISODES = (
    Column("start_place", "number of the place along the way where it began, from 0; -1 for the stage's start"),
    Column("way_begin", "how far along the way it began", "pixels"),
    Column("way_end", "how far along the way it came", "pixels"),
)
