"""The emulator back end over the native core, for rewards that are Python functions; `native_vector` has the others."""

from __future__ import annotations

import ctypes

import numpy as np

from envs.mario import native, stages
from envs.mario.emulator import HEIGHT, RAM_SIZE, WIDTH, Cartridge

FLAG = 2  # what `hold` returns where an episode ends with the flag
CORE_VERSION = "1"  # raised when a frame, a reward or an end of the core changes


def versions() -> dict[str, str]:
    """Return the versions of this back end. Raises ValueError if the core is not compiled."""
    native.library_path()
    return {"core": CORE_VERSION}


def target_numbers(game: stages.Game, target: tuple[int, int] | None) -> tuple[int, int, int]:
    """Return world, stage and area of a stage as the core wants them; zeros are the whole game."""
    return (0, 0, 0) if target is None else (*target, stages.area(*target, game.lost))


class NativeBackend:
    """One console. See `envs.mario.backends.Backend` for what each member promises."""

    def __init__(self, game: stages.Game, target: tuple[int, int] | None) -> None:
        self._core = native.library()
        self._cartridge = Cartridge(stages.rom_path(game))
        self._handle = native.Handle("player", self._cartridge.address, *target_numbers(game, target))
        self._address = self._handle.address
        self.ram = self._handle.view(self._core.player_ram(self._address), RAM_SIZE)
        self._judged = self._handle.view(self._core.player_judged(self._address), RAM_SIZE)
        self._colours = self._core.player_screen(self._address)
        self.screen: np.ndarray = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        self._reward = ctypes.c_double()
        self.reset()

    @property
    def judged(self) -> bytes:
        """The memory when the environment judged the last frame, before it skipped a death or a change of area."""
        return self._judged.tobytes()

    def reset(self) -> None:
        """Start an episode."""
        self._core.player_reset(self._address)
        self._show()

    def step(self, buttons: int) -> tuple[float, bool]:
        """Play one frame; return the environment's reward and whether the episode is over."""
        done = native.checked(
            "player_step", self._address, buttons, True, ctypes.byref(self._reward), error=RuntimeError
        )
        self._show()
        return self._reward.value, bool(done)

    # Beyond `Backend`, for who explores: without pictures, and back to a saved moment in microseconds.

    def hold(self, buttons: int, frames: int) -> int:
        """Hold the buttons for some frames or until the episode ends; `screen` stays as it was.

        Returns:
            0 while the episode goes on, `FLAG` where it ends with the flag or the axe, 1 where it ends otherwise.
        """
        return native.checked("player_hold", self._address, buttons, frames, error=RuntimeError)

    def save(self) -> bytes:
        """Return the game without its picture, for `load` in this process."""
        state = ctypes.create_string_buffer(self._core.player_state_size())
        self._core.player_save(self._address, state)
        return state.raw

    def load(self, state: bytes) -> None:
        """Go back to a saved moment of the same stage; `screen` stays as it was.

        Raises:
            ValueError: the bytes are no such state.
        """
        native.checked("player_load", self._address, state, len(state))

    def _show(self) -> None:
        self._core.screen_colours(self._colours, self.screen.ctypes.data, 4)

    def close(self) -> None:
        """Nothing to do: the console is freed with this object and the arrays that look into it."""
