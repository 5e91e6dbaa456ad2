"""Play episodes with a policy before someone's eyes, or into a file. Draws the numbers that an evaluation draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from ppo.policy import Policy
from utils.seeding import evaluation_uniforms
from utils.video import VideoFile, even_size

LONGEST = 60  # seconds of a film made while training
Act = Callable[[np.ndarray, np.ndarray, torch.Tensor], np.ndarray]  # obs (1, *O), uniform (1, U), memory -> actions


def play(env: Any, act: Act, state: torch.Tensor, seed: int, show: Callable[[np.ndarray], None]) -> Iterator[Any]:
    """Play without end and yield, after each step, the records of the episodes that it ended.

    Args:
        env: as `envs.make_visible` returns it.
        act: chooses the action, and changes what is remembered of the running episode.
        state: (1, S) what is remembered, zeros at first; set to zero again where an episode ends.
        seed: of starts and actions.
        show: is given every picture.
    """
    drawn = env.watch(show)
    env.seed = seed
    obs, _ = env.reset(seed=seed)
    for uniform in evaluation_uniforms(seed, [0], math.prod(env.single_action_space.shape)):
        obs, _, terminated, truncated, infos = env.step(act(obs, uniform, state))
        state[terminated | truncated] = 0.0
        drawn()
        yield infos["episodes"]


def film(
    policy: Policy, env_id: str, options: dict[str, Any], path: Path, seed: int, go_on: Callable[[], bool]
) -> None:
    """Write a video of one episode, of its first minute where it is longer; no file is left that is not complete.

    Args:
        policy: that plays, its actions sampled.
        env_id, options: where.
        path: ends in .mp4 or .webm; its folder is made.
        seed: of the episode.
        go_on: called at every step; the film ends where it returns false.

    Raises:
        ValueError: the environment has no pictures, or the file cannot be written.
    """
    env = envs.make_visible(env_id, seed, **options)
    fps = env.metadata["render_fps"]
    try:
        policy.meet(env)
        path.parent.mkdir(exist_ok=True)
        file = VideoFile(path, fps)
        try:
            steps = play(env, policy.act, policy.start(1), seed, lambda picture: file.show(even_size(picture), ""))
            while not next(steps) and go_on() and file.count < LONGEST * fps:
                pass
            file.close()
        except BaseException:
            file.drop()
            raise
    finally:
        env.close()
