"""A window that shows pictures and knows which keys are down. pyglet is imported here only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Closed(Exception):
    """The person closed the window or pressed Esc."""


class Window:
    """Shows pictures; raises Closed from `show` when the person is done."""

    def __init__(self, title: str) -> None:
        """Open nothing yet: the first picture gives the size. Raises ValueError if there is no display."""
        try:
            import pyglet

            pyglet.options["audio"] = ("silent",)
            from pyglet.window import Window as PygletWindow
            from pyglet.window import key

            pyglet.canvas.get_display()
        except ImportError as error:
            raise ValueError(f"window: needs pyglet 1.5 and OpenGL ({error}); use --video FILE or --terminal") from None
        except Exception as error:  # pyglet's errors share no base class
            raise ValueError(f"window: no display ({error}); use --video FILE or --terminal") from None
        self._pyglet, self._make, self._key, self._title = pyglet, PygletWindow, key, title
        self._window: Any = None
        self._held: Any = key.KeyStateHandler()

    def show(self, picture: np.ndarray, caption: str) -> None:
        """Draw a picture and take the keys that were pressed since the last one."""
        height, width = picture.shape[:2]
        if self._window is None:
            self._window = self._make(width, height, caption=self._title, vsync=False)
            self._window.push_handlers(self._held)
        self._window.switch_to()
        self._window.dispatch_events()
        if self._window.has_exit:
            raise Closed
        data = np.ascontiguousarray(picture).tobytes()
        self._pyglet.image.ImageData(width, height, "RGB", data, pitch=-3 * width).blit(0, 0)
        self._window.flip()

    def held(self, names: Mapping[str, Sequence[str]]) -> list[str]:
        """Return which of `names` have one of their keys (pyglet's names, such as "RIGHT") held down."""
        return [name for name, keys in names.items() if any(self._held[getattr(self._key, key)] for key in keys)]

    def close(self) -> None:
        """Close the window."""
        if self._window is not None:
            self._window.close()
