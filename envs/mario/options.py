"""The options of Mario's environments, each with its bounds and its help."""

from __future__ import annotations

from envs.family import MAX_EPISODE_STEPS, SKIP, STACK, THREADS, Option

START_FRAMES = Option(
    "start_frames", 0, "at the stage's start, play up to this many frames of start_mode", at_least=0, at_most=30
)
OPTIONS = (
    Option(
        "actions",
        "simple",
        'what can be pressed: right_only, simple, complex or a JSON list such as \'[["right","A"]]\'',
        kind=object,
        portable=True,
    ),
    SKIP,
    STACK,
    Option("crop_hud", False, "leave the score line out of the picture", portable=True),
    Option("sticky", 0.0, "probability per frame that the frame before's buttons stay pressed", at_least=0, below=1),
    START_FRAMES,
    Option(
        "start_mode",
        "noop",
        "what is pressed in the start frames: nothing, or a random action per frame",
        choices=("noop", "random"),
    ),
    Option(
        "start_states",
        None,
        "file of states to start episodes from (scripts.states writes it); native emulator and rewards only",
        optional=True,
        training_only=True,
    ),
    Option(
        "start_share",
        0.5,
        "share of the episodes that start from one of start_states, the others at the stage's start",
        above=0,
        at_most=1,
        training_only=True,
    ),
    Option(
        "start_curriculum",
        None,
        "file of states along ways (scripts.states --every): episodes start where they fail; native only",
        optional=True,
        training_only=True,
    ),
    MAX_EPISODE_STEPS,
    # A stranger's file must not name code to import: the reward is not portable.
    Option(
        "reward",
        "env",
        "what PPO is shown: env, score, score-rules, score-loops or MODULE:FUNCTION (envs/mario/rules.py)",
        training_only=True,
    ),
    Option(
        "ram_obs",
        None,
        "values of the console's memory in the picture's place, for --network mlp_wide: near, or names of "
        "bytes (envs/mario/ram.py)",
        kind=list,
        optional=True,
        portable=True,
    ),
    Option(
        "ram_planes",
        None,
        "bytes of the console's memory beside the picture, each a plane of its own: names (envs/mario/ram.py)",
        kind=list,
        optional=True,
        portable=True,
    ),
    Option(
        "ram_info",
        None,
        "names of bytes of the console's memory, which episodes.csv shall hold at each episode's end",
        kind=list,
        optional=True,
        training_only=True,
        affects="detail",
    ),
    Option(
        "stages",
        None,
        "of a RandomStages id, the stages to draw from, such as 1-1,1-2; none: all",
        kind=list,
        optional=True,
        portable=True,
        ids="*RandomStages*",
    ),
    Option(
        "test_stages",
        None,
        "of a RandomStages id, other stages: each evaluation plays them too (columns Test...)",
        kind=list,
        optional=True,
        training_only=True,
        affects="detail",
        tests="stages",
    ),
    Option("emulator", None, "native or nes-py; default: the fastest there is", optional=True),
    THREADS,
)
