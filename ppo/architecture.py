"""Which networks a run has: what the settings and `policy.json` say of them, and building them from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ppo.core import Distribution
from ppo.networks import ActorCritic, Body, SharedActorCritic


class Architecture(NamedTuple):
    """What decides which weights there are, beside the shapes of observations and actions.

    Attributes:
        network: the body: a name in `networks.NETWORKS`, or a function such as its values.
        norm_obs: observations are normalised.
        shared: one body with two heads.
    """

    network: str | Body
    norm_obs: bool = False
    shared: bool = False

    def build(
        self, obs_shape: tuple[int, ...], dist: Distribution, init: str, seed: int, log_std: float = 0.0
    ) -> ActorCritic:
        """Return the networks; see `ActorCritic`."""
        kind = SharedActorCritic if self.shared else ActorCritic
        return kind(self.network, obs_shape, dist, init, seed, log_std, self.norm_obs)


def described(settings: Any) -> dict[str, Any]:
    """Return what a config, or anything with its attributes, says of its networks, as `policy.json` holds it."""
    return {name: getattr(settings, name) for name in Architecture._fields}


def read(info: Mapping[str, Any]) -> Architecture:
    """Return what a `policy.json`, perhaps a stranger's, says of its networks; older ones name the network alone.

    Raises:
        ValueError: a value that is none.
    """
    found = {name: info[name] for name in Architecture._fields if name in info}
    if not isinstance(found.get("network"), str):
        raise ValueError(f"network is {found.get('network')!r}, expected a name")
    for name in ("norm_obs", "shared"):
        if not isinstance(found.get(name, False), bool):
            raise ValueError(f"{name} is {str(found[name])[:100]!r}, expected true or false")
    return Architecture(**found)
