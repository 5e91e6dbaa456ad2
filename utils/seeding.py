"""Counter-based random numbers: every draw is named by (seed, index, purpose, counter) and by nothing else.

A stream never depends on which MPI rank asks for it, on how many ranks there are, or on what was drawn before.
So the number of ranks changes the speed only, and a resumed run needs no saved generator state: it asks for the
same names again. Philox is the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np

BLOCK = 1024  # steps of an evaluation whose numbers are drawn at once: part of the results


class Purpose(IntEnum):
    """What a stream is used for. Values are part of the results: append, never renumber."""

    ACTION = 0
    MINIBATCH = 1
    EPISODE = 2
    STICKY = 3
    START = 4
    STAGE = 5
    WEIGHTS = 6
    EVALUATION = 7
    BOOTSTRAP = 8
    AUXILIARY = 9


def generator(seed: int, index: int, purpose: Purpose, counter: int = 0) -> np.random.Generator:
    """Return the generator of one stream.

    Args:
        seed: the run's seed, >= 0.
        index: global index of the environment (or of whatever owns the stream), >= 0.
        purpose: what the numbers are for.
        counter: epoch, episode or any other count that moves on, >= 0.

    Raises:
        ValueError: one of the numbers is negative.
    """
    if min(seed, index, counter) < 0:
        raise ValueError(f"seed, index and counter must be >= 0, got {seed}, {index}, {counter}")
    key = np.random.SeedSequence([seed, index, int(purpose), counter])
    return np.random.Generator(np.random.Philox(key))


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Return the seed in [0, 2**31) with which environment `index` starts its episode number `episode`."""
    return int(generator(seed, index, Purpose.EPISODE, episode).integers(2**31))


def evaluation_seed(seed: int) -> int:
    """Return the seed of the evaluations that a run of this seed makes: none of their starts are the training's."""
    return int(generator(seed, 0, Purpose.EVALUATION, 1 << 32).integers(2**31))


def evaluation_uniforms(seed: int, indices: Sequence[int], count: int) -> Iterator[np.ndarray]:
    """Yield, step by step without end, the uniform numbers that decide the actions of an evaluation: (N, U) float32.

    Args:
        seed: of the evaluation.
        indices: global indices of its N environments.
        count: U, numbers for one action.
    """
    for block in itertools.count():
        streams = [generator(seed, i, Purpose.EVALUATION, block) for i in indices]
        yield from np.stack([stream.random((BLOCK, count), dtype=np.float32) for stream in streams], axis=1)
