"""The wing that makes PPO fast. It changes the speed, and results only by rounding; without it everything still works.

    File             Is a drop-in for
    networks.py      `ppo.networks.ActorCritic`: bfloat16 copies of the weights, images scaled once for both networks
    layers.py        `torch.nn.ReLU`, and a body of layers as the papers draw it
    convolutions.py  `torch.nn.Conv2d`, alone or in a stack, in bfloat16
    adam.py          `ppo.optimiser.Adam`: each rank takes its part of the step
    arrays.py        torch's own loops over long arrays
    native.py        loads what is compiled: convolutions.cpp, arrays.cpp, team.hpp

PPO_COMPUTE=plain in the environment turns the wing off, PPO_CONVOLUTION=0 its convolutions alone.
"""

from __future__ import annotations

import os


def wanted() -> bool:
    """Return whether the wing is used: PPO_COMPUTE is "fast" (the default) or "plain".

    Raises:
        ValueError: PPO_COMPUTE is something else.
    """
    value = os.environ.get("PPO_COMPUTE", "fast")
    if value not in ("fast", "plain"):
        raise ValueError(f"PPO_COMPUTE must be fast or plain, got {value!r}")
    return value == "fast"
