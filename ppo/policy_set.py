"""Several policies that play one game: each part of it is played by the policy that was trained there.

What the parts are is the environment's own (`VecEnv.part`): for the whole of Super Mario Bros its stages.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import envs
from envs.family import MAX_EPISODE_STEPS
from envs.vector import VecEnv
from ppo.policy import BadPolicy, Policy, load_policy


class PolicySet:
    """Acts as one `Policy` does, with another policy in each part of the environment.

    Where there is none for a part, one that was trained in many parts acts; without such a one, the first of the set.
    The environment shows what the policy that sees the most is to see; the others may see a part of that.

    Attributes:
        policies: by the id of the environment that each was trained in; at least one.
        info: as of a policy that can press what any of them presses.
    """

    num_uniforms = 1

    def __init__(self, policies: dict[str, Policy], env_id: str) -> None:
        """Check that all see pictures of one size, or numbers. Raises BadPolicy."""
        self.policies = policies
        first = next(iter(policies))
        self._other = policies[next((name for name in policies if envs.has_parts(name)), first)]
        for name, policy in policies.items():
            shapes = [tuple(known.info["obs_shape"]) for known in (policy, policies[first])]
            if (max(map(len, shapes)) > 1 and len(set(shapes)) > 1) or "num_actions" not in policy.info:
                raise BadPolicy(f"{name}: it does not see or act as {first} does")
        widest = max(policies.values(), key=lambda policy: (policy.info["obs_shape"], policy.info["num_actions"]))
        spec = dict(widest.info["spec"])
        if isinstance(spec.get("options"), dict):  # the limit of a part is none of the game
            spec["options"] = {k: v for k, v in spec["options"].items() if k != MAX_EPISODE_STEPS.name}
        self.info = {**widest.info, "env": env_id, "spec": spec}

    def meet(self, env: VecEnv) -> None:
        """Get to know the environments in which it will act. Raises BadPolicy unless all can act there."""
        self._env = env
        self._parts: list[str | None] = [None] * env.num_envs
        self._numbers = {id(policy): self._numbers_of(policy) for policy in self.policies.values()}

    def _numbers_of(self, policy: Policy) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the numbers that its actions have here, and which numbers of an observation it sees."""
        spec = policy.info["spec"]
        try:
            actions, columns = self._env.action_numbers(spec), self._env.obs_columns(spec)
        except ValueError as error:
            raise BadPolicy(f"{policy.info['env']}: {error}") from None
        shape = list(self._env.single_observation_space.shape or ()) if columns is None else [len(columns)]
        if shape != policy.info["obs_shape"]:
            raise BadPolicy(f"{policy.info['env']}: it takes {policy.info['obs_shape']}, here it would see {shape}")
        return actions, columns

    def start(self, num_envs: int) -> torch.Tensor:
        """Return what is remembered before the first step of an episode: (N, S) zeros, S of the largest memory."""
        return torch.zeros(num_envs, max(policy.ac.state_size for policy in self.policies.values()))

    def act_in_groups(self, obs: np.ndarray, uniform: np.ndarray | None, state: torch.Tensor) -> np.ndarray:
        """Return one action per environment (N,): see `Policy.act`. Each goes through its network alone."""
        chosen = np.zeros(len(obs), np.int64)
        for i in range(len(obs)):
            policy, own = self._policy(i, state), slice(i, i + 1)
            numbers, columns = self._numbers[id(policy)]
            drawn = None if uniform is None else uniform[own]
            shown = obs[own] if columns is None else obs[own, columns]
            chosen[i] = numbers[policy.act(shown, drawn, state[own, : policy.ac.state_size])[0]]
        return chosen

    act = act_in_groups

    def look(self, obs: np.ndarray, state: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """As `Policy.look`, of one environment."""
        policy = self._policy(0, state if state is not None else self.start(1))
        numbers, columns = self._numbers[id(policy)]
        own = None if state is None else state[:, : policy.ac.state_size]
        shown, value = policy.look(obs if columns is None else obs[:, columns], own)
        probabilities = np.zeros((1, int(self._env.single_action_space.n)), np.float32)  # type: ignore[attr-defined]
        probabilities[:, numbers] = shown
        return probabilities, value

    def _policy(self, i: int, state: torch.Tensor) -> Policy:
        """Return the policy of the part in which environment i is; one that has just come there remembers nothing."""
        part = self._env.part(i)
        if part != self._parts[i]:
            self._parts[i] = part
            state[i] = 0.0
        return self.policies.get(part or "", self._other)


def load_policies(folder: Path, env_id: str, network: str | None = None) -> PolicySet:
    """Return the policies in the folders of a folder, which share the game `env_id`.

    Raises:
        BadPolicy: there is none, or one of them cannot be loaded.
    """
    found: dict[str, Policy] = {}
    for path in sorted(folder.glob("*/policy.json")):
        policy = load_policy(path.parent, network)
        part = policy.info.get("env")
        if not isinstance(part, str) or not isinstance(policy.info.get("spec"), dict):
            raise BadPolicy(f"{path.parent}: its policy.json does not say what it plays")
        if part in found:
            raise BadPolicy(f"{folder}: {path.parent.name} is a second policy for {part}")
        found[part] = policy
    if not found:
        raise BadPolicy(f"{folder}: no folder in it is a policy")
    return PolicySet(found, env_id)
