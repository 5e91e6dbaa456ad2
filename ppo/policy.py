"""Policies as files, and acting with them. Shared by everything that uses a policy; knows nothing of training.

A policy is a folder with `policy.safetensors` (weights) and `policy.json` (what they are for). Both may come from a
stranger: they are checked against each other before anything is allocated, and neither can run code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ppo import core
from ppo.networks import ActorCritic
from utils.folder import read_json

FORMAT = 1
MAX_OBS = 4 * 512 * 512  # no environment of this project shows more numbers at once
MAX_ACTIONS = 4096


class BadPolicy(ValueError):
    """The files are not a policy of this project's format."""


@dataclass
class Policy:
    """A network that acts, and what is known about it (`policy.json`)."""

    ac: ActorCritic
    info: dict[str, Any]

    @torch.no_grad()
    def act(self, obs: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
        """Return one action per observation.

        Args:
            obs: (N, *O), as the environment gives them.
            uniform: (N,) float32 in [0, 1) that decide the sampled actions; None takes the most probable one.

        Returns:
            (N,) int64.
        """
        logits = self.ac.pi(torch.from_numpy(obs))
        if uniform is None:
            return logits.argmax(dim=-1).numpy()
        return core.sample_actions(logits, torch.from_numpy(uniform))[0].numpy()


def save_policy(folder: Path, ac: ActorCritic, info: dict[str, Any]) -> None:
    """Write a policy; an older one in `folder` is replaced when the new one is complete.

    Args:
        folder: for instance RUN/policy/last.
        ac: both networks.
        info: at least network, obs_shape, num_actions; what else is worth knowing. Must be JSON-able.
    """
    weights = save({name: p.detach().cpu().contiguous() for name, p in ac.state_dict().items()})
    info = {"format": FORMAT, **info, "sha256": hashlib.sha256(weights).hexdigest()}
    temp, old = folder.with_name(f".tmp-{folder.name}"), folder.with_name(f".old-{folder.name}")
    for leftover in (temp, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temp.mkdir(parents=True)
    (temp / "policy.safetensors").write_bytes(weights)
    (temp / "policy.json").write_text(json.dumps(info, indent=1) + "\n")
    if folder.exists():
        folder.rename(old)
    temp.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_policy(folder: Path) -> Policy:
    """Read a policy folder.

    Raises:
        BadPolicy: a file is missing, damaged, or not what `policy.json` says; names, shapes and types are compared
            before anything is allocated.
    """
    info = read_json(folder / "policy.json")
    path = folder / "policy.safetensors"
    shape, actions, network = info.get("obs_shape"), info.get("num_actions"), info.get("network")
    if info.get("format") != FORMAT:
        raise BadPolicy(f"{folder}: format is {info.get('format')!r}, expected {FORMAT}")
    if not (
        isinstance(shape, list) and shape and all(type(n) is int and n > 0 for n in shape) and np.prod(shape) <= MAX_OBS
    ):
        raise BadPolicy(f"{folder}: obs_shape is {shape!r}, expected positive sizes of at most {MAX_OBS} numbers")
    if not (type(actions) is int and 1 <= actions <= MAX_ACTIONS):
        raise BadPolicy(f"{folder}: num_actions is {actions!r}, expected 1 to {MAX_ACTIONS}")
    try:
        ac = ActorCritic(str(network), tuple(shape), actions, "xavier", seed=0)
        expected = {name: (list(p.shape), "F32") for name, p in ac.state_dict().items()}
        with safe_open(path, framework="pt") as file:
            found = {name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()) for name in file.keys()}
            if found != expected:
                wrong = sorted(set(map(str, found.items())) ^ set(map(str, expected.items())))
                raise BadPolicy(f"{path}: tensors are not those of network {network!r}: {wrong[0]}")
            weights = {name: file.get_tensor(name) for name in expected}
    except (SafetensorError, OSError, ValueError) as error:
        raise error if isinstance(error, BadPolicy) else BadPolicy(f"{path}: {error}") from None
    if hashlib.sha256(path.read_bytes()).hexdigest() != info.get("sha256"):
        raise BadPolicy(f"{path}: its SHA-256 is not the one in policy.json")
    ac.load_state_dict(weights)
    return Policy(ac.eval(), info)
