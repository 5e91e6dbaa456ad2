"""Policies as files, and acting with them. Shared by everything that uses a policy; knows nothing of training.

A policy is a folder with `policy.safetensors` (weights) and `policy.json` (what they are for). Both may come from a
stranger: they are checked against each other before anything is allocated, and neither can run code. One that was
exported may hold the actor alone, and its weights in half precision.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from envs.spaces import MAX_OBS
from envs.vector import VecEnv
from ppo import actions, architecture, core
from ppo.networks import ActorCritic, Body, find_network
from ppo.recurrent import evaluator
from utils import checkpoint
from utils.files import exchange, remove, sync_folder, write_synced
from utils.folder import Refused, read_json

FORMAT = 1
GROUP = 4  # environments that share a forward pass: in batches of another size the network rounds differently
DTYPES = ("F32", "F16")  # as safetensors names them; half precision becomes float32 when it is loaded


class BadPolicy(Refused):
    """The files are not a policy of this project's format."""


@dataclass
class Policy:
    """A network that acts, and what is known about it (`policy.json`).

    What it remembers of the running episodes is the caller's: `start` returns it, `act` changes it, and where an
    episode ends, the caller sets it to zero. It has no columns where nothing is remembered, and may then be left out.
    """

    ac: ActorCritic
    info: dict[str, Any]

    has_value: bool = True  # False where the file holds the actor alone: then the critic has no weights

    def __post_init__(self) -> None:
        """Find what evaluates the network."""
        self.nets = evaluator(self.ac)

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers that decide one sampled action."""
        return self.ac.dist.num_uniforms

    def meet(self, env: VecEnv) -> None:
        """Get to know the environments in which it will act. Raises BadPolicy unless it was made for such ones."""
        self.check_spaces(env.single_observation_space, env.single_action_space)

    def start(self, num_envs: int) -> torch.Tensor:
        """Return what is remembered before the first step of an episode: (N, S) zeros."""
        return torch.zeros(num_envs, self.ac.state_size)

    def _recall(self, obs: np.ndarray, state: torch.Tensor | None) -> Any:
        if state is None and self.ac.memories:
            raise ValueError("state: a policy with a memory needs what it remembers")
        shape = tuple(self.info["obs_shape"])
        if not isinstance(obs, np.ndarray) or obs.shape[1:] != shape:
            raise ValueError(f"obs: {getattr(obs, 'shape', type(obs).__name__)}, expected an array (N, *{shape})")
        obs = obs.astype(np.float32) if obs.dtype == np.float64 else obs
        return self.nets.recall(torch.from_numpy(obs), self.start(len(obs)) if state is None else state)

    def check_spaces(self, obs_space: Any, action_space: Any) -> None:
        """Raise BadPolicy, which names both, unless the policy takes these observations and has these actions."""
        shape, dist = list(obs_space.shape or ()), self.ac.dist
        if shape != self.info["obs_shape"]:
            raise BadPolicy(f"the environment shows {shape}, the policy takes {self.info['obs_shape']}")
        try:
            theirs = actions.of_space(action_space, isinstance(dist, core.SquashedGaussian))
        except ValueError:
            theirs = None
        if theirs is None or actions.describe(theirs) != actions.describe(dist):
            raise BadPolicy(f"the environment has {action_space}, the policy {actions.words(dist)}")

    def act_in_groups(self, obs: np.ndarray, uniform: np.ndarray | None, state: torch.Tensor) -> np.ndarray:
        """As `act`, GROUP environments at a time, so that sharing them out does not change the last bit."""
        groups = [slice(i, i + GROUP) for i in range(0, len(obs), GROUP)]
        return np.concatenate([self.act(obs[g], None if uniform is None else uniform[g], state[g]) for g in groups])

    @torch.no_grad()
    def look(self, obs: np.ndarray, state: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what the actor makes of observations, and V(obs) (N,) float32, None without a critic.

        The first is (N, A) float32: the probabilities of the actions, of all places side by side for MultiDiscrete;
        the most probable action where it is numbers. `state` (N, S) is what was remembered before, and stays as it is.
        """
        at, dist = self._recall(obs, state), self.ac.dist
        params = self.nets.logits(at)
        if isinstance(dist, core.Gaussian):
            shown = dist.to_env(dist.mode(params))
        elif isinstance(dist, core.MultiCategorical):
            shown = torch.cat([logits.softmax(dim=-1) for logits in params.split(dist.counts, dim=-1)], dim=-1)
        else:
            shown = torch.softmax(params, dim=-1)
        return shown.numpy(), self.nets.value(at).numpy() if self.has_value else None

    @torch.no_grad()
    def act(self, obs: np.ndarray, uniform: np.ndarray | None = None, state: torch.Tensor | None = None) -> np.ndarray:
        """Return one action per observation.

        Args:
            obs: (N, *O), as environments of `envs.make_vec` give them; float64 is taken too.
            uniform: (N, U) float32 in [0, 1) that decide the sampled actions, (N,) where one number does; None takes
                the most probable ones.
            state: (N, S) what was remembered before, replaced by what is remembered now.

        Returns:
            what such environments are given: (N,) int64 for a Discrete space, (N, A) for others, in [-1, 1] for a Box.

        Raises:
            ValueError: observations of another shape, or no state for a policy with a memory.
        """
        at = self._recall(obs, state)
        params, dist = self.nets.logits(at), self.ac.dist
        if state is not None and self.ac.memories:
            if self.has_value:
                self.nets.value(at)  # so that the critic remembers too
            state.copy_(self.nets.state_after(at))
        if uniform is None:
            return dist.to_env(dist.mode(params)).numpy()
        return dist.to_env(dist.sample(params, torch.from_numpy(uniform.reshape(len(obs), -1)))[0]).numpy()


def save_policy(folder: Path, ac: ActorCritic, info: dict[str, Any]) -> None:
    """Write a policy; an older one in `folder` is replaced in one step when the new one is complete.

    Args:
        folder: for instance RUN/policy/last.
        ac: both networks.
        info: at least network, obs_shape and what `actions.describe` gives; what else is worth knowing. Must be
            JSON-able.
    """
    write_policy(folder, copy_weights(ac), info)


def copy_weights(ac: ActorCritic) -> dict[str, torch.Tensor]:
    """Return copies of all weights by name, in row-major order, in the host's memory."""
    return {name: p.detach().cpu().clone(memory_format=torch.contiguous_format) for name, p in ac.state_dict().items()}


def write_policy(folder: Path, weights: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    """As `save_policy`, for contiguous tensors by name: all of the networks' or the actor's, float32 or float16.

    The old and the new folder change places in one step. Where the file system cannot do that, the old one is found
    under the name that `previous` gives it until the new one is there.
    """
    data = save(weights)
    info = {**info, "format": FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
    temp, old = folder.with_name(f".tmp-{folder.name}"), previous(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists() and old.is_dir():  # killed between two renames
        old.rename(folder)
    remove(temp)
    remove(old)
    try:
        temp.mkdir()
        write_synced(temp / "policy.safetensors", data)
        write_synced(temp / "policy.json", (json.dumps(info, indent=1) + "\n").encode())
        sync_folder(temp)
        if folder.is_symlink():
            remove(folder)
        if not folder.exists():
            temp.rename(folder)
        elif not exchange(temp, folder):
            folder.rename(old)
            temp.rename(folder)
        sync_folder(folder.parent)
    finally:
        remove(temp)
    remove(old)


def previous(folder: Path) -> Path:
    """Return where an interrupted replacement may have left the policy that was in `folder`."""
    return folder.with_name(f".old-{folder.name}")


def present(folder: Path) -> Path:
    """Return the folder, or the place where an interrupted replacement left it."""
    return folder if folder.exists() or not previous(folder).is_dir() else previous(folder)


def load_policy(folder: Path, network: str | None = None) -> Policy:
    """Read a policy folder, or a checkpoint of a run (then what it is for is read from the run's last policy).

    Args:
        folder: where it is.
        network: the name of its network, given by a caller that trusts it, where it is a user's MODULE:FUNCTION: a
            module that only a file names is never imported.

    Raises:
        BadPolicy: a file is missing, damaged, or not what `policy.json` says; names, shapes and types are compared
            before anything is allocated. Or its network is another one, or a user's that was not given.
    """
    folder = present(folder)
    try:
        if (folder / "MANIFEST.json").is_file():
            checkpoint.verify(folder)
            meta = checkpoint.read_meta(folder)
            if "policy" in meta:
                info = check_info(
                    folder, {**meta["policy"], "format": FORMAT} if isinstance(meta["policy"], dict) else {}
                )
            else:  # of an older version
                info = read_info(folder.parent.parent / "policy" / "last")
            info = info | {"checkpoint": folder.name}
            return _read(folder / "state.safetensors", info, "ac/", network)
        info = read_info(folder)
        path = folder / "policy.safetensors"
        policy = _read(path, info, "", network)
        if hashlib.sha256(path.read_bytes()).hexdigest() != info.get("sha256"):
            raise BadPolicy(f"{path}: its SHA-256 is not the one in policy.json")
        return policy
    except (Refused, checkpoint.Damaged) as error:
        raise BadPolicy(str(error)) from None


def read_info(folder: Path) -> dict[str, Any]:
    """Return `policy.json` after checking the sizes in it. Raises BadPolicy or Refused."""
    return check_info(folder, read_json(present(folder) / "policy.json"))


def check_info(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Return what `policy.json` of a folder says after checking the sizes in it. Raises BadPolicy."""
    shape = info.get("obs_shape")
    if info.get("format") != FORMAT:
        raise BadPolicy(f"{folder}: format is {info.get('format')!r}, expected {FORMAT}")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) < 5
        or not all(type(n) is int and n > 0 for n in shape)
        or math.prod(shape) > MAX_OBS
    ):
        raise BadPolicy(f"{folder}: obs_shape is {shape!r}, expected positive sizes of at most {MAX_OBS} numbers")
    try:
        actions.of_info(info)
    except ValueError as error:
        raise BadPolicy(f"{folder}: {error}") from None
    return info


def _body(info: dict[str, Any], given: str | None) -> str | Body:
    """Return the network that policy.json names, imported only where the user named it too. Raises BadPolicy."""
    name = info.get("network")
    if given is not None and given != name:
        raise BadPolicy(f"network: {given!r} given, the policy's is {str(name)[:100]!r}")
    if not isinstance(name, str) or ":" not in name:
        return str(name)
    if given is None:
        raise BadPolicy(
            f"policy.json: network is {name[:200]!r}, which names a module to import: if you trust it, add "
            f"--network {name[:200]}"
        )
    return find_network(name)


def _read(path: Path, info: dict[str, Any], prefix: str, network: str | None) -> Policy:
    """Return the policy whose weights carry `prefix` in their names in the file. Raises BadPolicy."""
    if not path.is_file():
        raise BadPolicy(f"{path}: no such file")
    try:
        dist = actions.of_info(info)
        drawn = architecture.read(info)._replace(network=_body(info, network))
        with torch.device("meta"):  # shapes without memory
            ac = drawn.build(tuple(info["obs_shape"]), dist, "xavier", seed=0)
        with safe_open(path, framework="pt") as file:
            names = [name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)]
            slices = {name: file.get_slice(prefix + name) for name in names}
            has_value = _compare(path, ac, {n: (list(s.get_shape()), str(s.get_dtype())) for n, s in slices.items()})
            weights = {name: file.get_tensor(prefix + name).to(torch.float32, copy=True) for name in slices}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise error if isinstance(error, BadPolicy) else BadPolicy(f"{path}: {error}") from None
    wrong = next((name for name, weight in weights.items() if not weight.isfinite().all()), None)
    if wrong is not None:
        raise BadPolicy(f"{path}: {wrong} holds numbers that are not finite")
    image = len(info["obs_shape"]) == 3
    if image:
        weights = {n: w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w for n, w in weights.items()}
    ac.load_state_dict(weights, strict=has_value, assign=True)
    return Policy(ac.eval(), info, has_value)


def _compare(path: Path, ac: ActorCritic, found: dict[str, tuple[list[int], str]]) -> bool:
    """Check names, shapes and types of a file's tensors; return whether the critic is among them. Raises BadPolicy."""
    dtype = next((d for _, d in found.values() if d in DTYPES), DTYPES[0])
    expected = {name: (list(p.shape), dtype) for name, p in ac.state_dict().items()}
    actor = {name: value for name, value in expected.items() if not name.startswith("v.")}
    if found not in (expected, actor):
        wrong = sorted(set(map(str, found.items())) ^ set(map(str, expected.items())))
        raise BadPolicy(f"{path}: tensors are not those of the network in policy.json: {wrong[0]}")
    return found == expected
