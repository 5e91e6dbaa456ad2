"""`python -m tests.trace ENV_ID`: the SHA-256 of what 400 random decisions show, the same on every Python and numpy.

Needs numpy, gymnasium, the compiled core and the ROM files of gym-super-mario-bros 7.4.0 or 9.1.0.
"""

import hashlib
import sys

import numpy as np

import envs


def trace(env_id: str) -> str:
    """Return 16 digits of the SHA-256 of observations, rewards, ends and episodes of four native environments."""
    vec = envs.make_vec(env_id, 4, 0, start_frames=30, sticky=0.1, reward="score")
    rng, digest = np.random.default_rng(0), hashlib.sha256(vec.reset()[0].tobytes())
    for _ in range(400):
        obs, rewards, terminated, _, infos = vec.step(rng.integers(7, size=4))
        for array in (obs, rewards, terminated):
            digest.update(array.tobytes())
        episodes = [sorted((k, v if isinstance(v, str) else float(v)) for k, v in e.items()) for e in infos["episodes"]]
        digest.update(repr(episodes).encode())
    vec.close()
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print(trace(sys.argv[1]), *(word for name in ("gym", "nes_py") for word in (name, name in sys.modules)))
