"""The emulator back end over gym-super-mario-bros 7.4.0 and nes-py 8.2.1, as they are.

Their environment is built directly: gym 0.26's `make` wraps it in checks that break on its four-value `step`.
Nothing of gym is imported before a back end is built.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from envs.mario.stages import Game

PACKAGES = {"gym-super-mario-bros": "7.4.0", "nes-py": "8.2.1"}
INSTALL = "pip install gym==0.26.2 gym-super-mario-bros==7.4.0 nes-py==8.2.1 'numpy<2' (Python 3.11 or 3.12)"
# The longest wait of the game is the end of a world, about a thousand frames; beyond this it would be for ever.
MAX_SKIPPED_FRAMES = 6000


def versions() -> dict[str, str]:
    """Return the versions of the packages that this back end uses.

    Raises:
        ValueError: a package is missing, or its version is one whose numbers would differ.
    """
    found = {}
    for name, wanted in PACKAGES.items():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise ValueError(f"emulator: nes-py needs {name} {wanted}, which is not installed: {INSTALL}") from None
        if found[name] != wanted:
            raise ValueError(f"emulator: nes-py needs {name} {wanted}, found {found[name]}: {INSTALL}")
    if int(np.__version__.split(".")[0]) >= 2:
        raise ValueError(f"emulator: nes-py needs numpy < 2 (its bytes overflow), found {np.__version__}: {INSTALL}")
    return found


class NesPyBackend:
    """One console. See `envs.mario.backends.Backend` for what each member promises."""

    def __init__(self, game: Game, target: tuple[int, int] | None) -> None:
        self._env = _environment_class()(rom_mode=game.rom_mode, lost_levels=game.lost, target=target)
        library = sys.modules["nes_py.nes_env"]._LIB
        pixels = ctypes.c_uint8 * (240 * 256 * 4)
        raw = pixels.from_address(library.Screen(self._env._env))
        screen = np.ctypeslib.as_array(raw).reshape(240, 256, 4)
        # nes-py keeps a pixel as the number 0x00RRGGBB in the machine's byte order.
        self.screen = screen if sys.byteorder == "little" else screen[:, :, ::-1]
        self.ram = self._env.ram
        self.reset()

    @property
    def judged(self) -> bytes:
        """The memory when the environment judged the last frame, before it skipped a death or a change of area."""
        return self._env.judged

    def reset(self) -> None:
        """Start an episode."""
        self._env.reset()
        self._env.controllers[0][:] = 0
        self._env.judged = self.ram.tobytes()

    def step(self, buttons: int) -> tuple[float, bool]:
        """Play one frame; return the environment's reward and whether the episode is over."""
        _, reward, done, _ = self._env.step(buttons)
        return float(reward), bool(done)

    def close(self) -> None:
        """Free the console. `ram` and `screen` must not be used any more: they point into it."""
        if self._env._env is not None:
            self.ram = self.screen = np.zeros(0, np.uint8)
            self._env.close()


@cache
def _environment_class() -> Any:
    """Return gym-super-mario-bros' environment; it keeps the memory it judged by, and its waits are bounded."""
    versions()
    _import_quietly()
    from gym_super_mario_bros.smb_env import SuperMarioBrosEnv

    class BoundedMarioEnv(SuperMarioBrosEnv):
        judged = b""
        _skipped = 0

        def step(self, action: int) -> Any:
            self._skipped = 0
            return super().step(action)

        def _frame_advance(self, action: int) -> None:
            self._skipped += 1
            if self._skipped > MAX_SKIPPED_FRAMES:
                raise RuntimeError(f"nes-py: the game did not return to play within {MAX_SKIPPED_FRAMES} frames")
            super()._frame_advance(action)

        def _get_done(self) -> bool:
            # After 8-4 the game waits for a button before anything changes: the package would wait for ever.
            won = self._is_world_over and int(self.ram[0x075F]) >= 7
            return bool(super()._get_done() or won)

        def _get_info(self) -> dict[str, Any]:
            self.judged = self.ram.tobytes()
            return {}

    return BoundedMarioEnv


def _import_quietly() -> None:
    """Import gym without its notice on stderr, its warnings, and the audio driver it writes into os.environ."""
    kept = {name: os.environ.get(name) for name in ("SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT")}
    try:
        import gym_notices.notices

        gym_notices.notices.notices.clear()
    except ImportError:
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import gym_super_mario_bros  # noqa: F401
    for name, value in kept.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
