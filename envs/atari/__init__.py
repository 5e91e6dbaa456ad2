"""Atari 2600 games of the Arcade Learning Environment: what the family declares. Nothing here imports the emulator.

Ids are those that ale-py registers with Gymnasium (`ale_py.registration`), and mean the same dynamics:

    BreakoutNoFrameskip-v4   no sticky actions: what PPO's paper and openai/baselines train on (62 games)
    BreakoutNoFrameskip-v0   each frame repeats the frame before's action with probability 0.25 (62 games)
    ALE/Breakout-v5          the same stickiness (Machado et al. 2018, JAIR 61), all 104 games for one player

None of them skips frames here but by the option `skip`. Gymnasium's own ALE/*-v5 plays four frames per action inside
the environment, and a wrapper that skips four of those plays sixteen.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

from envs.atari.rules import EPISODES, PREPROCESS_VERSION, ids, known
from envs.family import MAX_EPISODE_STEPS, SKIP, STACK, Family, Option, Preset

LARGEST = 2**31 - 1  # that ale-py takes


def check(env_id: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options; ValueError where ale-py is not installed."""
    if importlib.util.find_spec("ale_py") is None:
        raise ValueError(f"env: {env_id} needs ale-py, which is not installed (pip install -e '.[atari]')")
    return options


OPTIONS = (
    replace(SKIP, help=f"{SKIP.help}; the only skip there is, whatever the id"),
    STACK,
    Option(
        "noop_max",
        30,
        "before a game, do nothing for 1 to this many frames; 0: begin at once",
        at_least=0,
        at_most=1000,
        portable=True,
    ),
    Option(
        "fire_reset",
        True,
        "press FIRE at a game's start and after a lost life, in games with that button",
        portable=True,
    ),
    Option(
        "episodic_life",
        True,
        "a lost life is an end for PPO, while the game goes on and its return is the whole game's",
        portable=True,
    ),
    Option(
        "clip_reward",
        "sign",
        "what PPO is shown: the reward's sign, or with none the reward itself",
        choices=("sign", "none"),
        training_only=True,
    ),
    Option(
        "sticky",
        None,
        "probability per frame that the frame before's action is played again; default: what the id says",
        kind=float,
        optional=True,
        at_least=0,
        below=1,
        portable=True,
    ),
    Option(
        "full_actions",
        False,
        "all 18 actions of the joystick, not only those that do something in this game",
        portable=True,
    ),
    Option(
        "mode",
        None,
        "game mode, as ale-py numbers it; default: the game's own",
        kind=int,
        optional=True,
        at_least=0,
        at_most=LARGEST,
        portable=True,
    ),
    Option(
        "difficulty",
        None,
        "difficulty, as ale-py numbers it; default: the game's own",
        kind=int,
        optional=True,
        at_least=0,
        at_most=LARGEST,
        portable=True,
    ),
    Option(
        "max_episode_frames",
        108_000,
        "cut (truncate) games after this many frames: half an hour; none: no limit",
        optional=True,
        at_least=1,
        at_most=LARGEST,
        portable=True,
    ),
    MAX_EPISODE_STEPS,
)

ATARI = Preset(
    "atari",
    "PPO's paper, table 5 (arXiv:1707.06347): 8 actors x 128 steps = 1,024, Adam 2.5e-4 and clip 0.1, both falling to "
    "zero, gamma 0.99, lambda 0.95, entropy 0.01; and openai/baselines, baselines/ppo2/defaults.py and ppo2.py, where "
    "it says more or other: 4 minibatches of 1,024 / 4 = 256, 4 passes (the paper: 3), clipped value loss, gradient "
    "norm 0.5, advantages normalised per minibatch, Adam's epsilon 1e-5, 10 million steps. Two networks where both "
    "have one, so their weight of the value loss has no counterpart",
    {
        "network": "nature",
        "num_envs": 8,
        "steps_per_epoch": 8 * 128,
        "minibatch_size": 256,
        "train_pi_iters": 4,
        "train_v_iters": 4,
        "gamma": 0.99,
        "lam": 0.95,
        "pi_lr": 2.5e-4,
        "v_lr": 2.5e-4,
        "anneal_lr": True,
        "clip_ratio": 0.1,
        "anneal_clip": True,
        "v_loss": "clipped",
        "v_clip": 0.1,
        "ent_coef": 0.01,
        "max_grad_norm": 0.5,
        "adv_norm": "minibatch",
        "adam_eps": 1e-5,
        "total_steps": 10_000_000,
        "save_every": 100,
    },
)

FAMILY = Family(
    name="atari",
    known=known,
    ids=ids,
    make="envs.atari.vector:AtariVec",
    options=OPTIONS,
    check=check,
    presets=(ATARI,),
    defaults={"network": "nature"},
    episode_columns=EPISODES,
    spec={"preprocess_version": PREPROCESS_VERSION},
)
