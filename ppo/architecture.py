"""Which networks a run has: what the settings and `policy.json` say of them, and building them from that."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ppo.config import MAX_LSTM_UNITS
from ppo.core import Distribution
from ppo.networks import ActorCritic, Body, SharedActorCritic
from ppo.recurrent import MEMORIES


class Architecture(NamedTuple):
    """What decides which weights there are, beside the shapes of observations and actions.

    Attributes:
        network: the body: a name in `networks.NETWORKS`, or a function such as its values.
        norm_obs: observations are normalised.
        shared: one body with two heads.
        policy: "feedforward", or the kind of memory between body and head, a name in `recurrent.MEMORIES`.
        lstm_units: of the memory.
    """

    network: str | Body
    norm_obs: bool = False
    shared: bool = False
    policy: str = "feedforward"
    lstm_units: int = 512

    def build(
        self,
        obs_shape: tuple[int, ...],
        dist: Distribution,
        init: str,
        seed: int,
        log_std: float = 0.0,
        chunk_steps: int = 1,
    ) -> ActorCritic:
        """Return the networks; see `ActorCritic`. A new memory keeps for about `chunk_steps` steps."""
        kind = SharedActorCritic if self.shared else ActorCritic
        memory = None
        if self.policy != "feedforward":
            memory = functools.partial(MEMORIES[self.policy], units=self.lstm_units, steps=chunk_steps)
        return kind(self.network, obs_shape, dist, init, seed, log_std, self.norm_obs, memory)


def described(settings: Any) -> dict[str, Any]:
    """Return what a config, or anything with its attributes, says of its networks, as `policy.json` holds it."""
    return {name: getattr(settings, name) for name in Architecture._fields}


def read(info: Mapping[str, Any]) -> Architecture:
    """Return what a `policy.json`, perhaps a stranger's, says of its networks; older ones name the network alone.

    Raises:
        ValueError: a value that no such network has.
    """
    found = {name: info[name] for name in Architecture._fields if name in info}
    policies = ("feedforward", *MEMORIES)
    if not isinstance(found.get("network"), str):
        raise ValueError(f"network is {found.get('network')!r}, expected a name")
    for name in ("norm_obs", "shared"):
        if not isinstance(found.get(name, False), bool):
            raise ValueError(f"{name} is {str(found[name])[:100]!r}, expected true or false")
    if found.get("policy", "feedforward") not in policies:
        raise ValueError(f"policy is {found['policy']!r}, expected one of {', '.join(policies)}")
    units = found.get("lstm_units", 1)
    if type(units) is not int or not 1 <= units <= MAX_LSTM_UNITS:
        raise ValueError(f"lstm_units is {units!r}, expected 1 to {MAX_LSTM_UNITS}")
    return Architecture(**found)
