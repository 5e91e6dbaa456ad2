"""The emulator core and the vector stepping in C++, compiled by setup.py into a shared library that ctypes loads.

The library uses neither Python's nor numpy's C interface, so one build serves every version of both, and ctypes
releases the interpreter lock during each call.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ERROR_SIZE = 256
INTERFACE = 2  # of the functions below; as in c_api.cpp

_p, _size, _int, _bool = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_bool
_byte, _bytes = ctypes.c_uint8, ctypes.c_char_p
_target = (_int, _int, _int)  # world, stage, area

# name: (result, arguments); those that can fail take a last char* for their message, see `Library.checked`.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cartridge_new": (_p, (_bytes, _size, _bytes)),
    "cartridge_free": (None, (_p,)),
    "cartridge_translates": (_bool, (_p,)),
    "screen_colours": (None, (_p, _p, _int)),
    "observe": (None, (_p, _p, _int, _bool, _p)),
    "machine_new": (_p, (_p, _bytes)),
    "machine_free": (None, (_p,)),
    "machine_reset": (None, (_p,)),
    "machine_step": (None, (_p, _byte, _bool)),
    "machine_ram": (_p, (_p,)),
    "machine_screen": (_p, (_p,)),
    "machine_state_size": (_size, (_p,)),
    "machine_save": (None, (_p, _p, _size)),
    "machine_load": (_int, (_p, _bytes, _size, _bool, _bytes)),
    "player_new": (_p, (_p, *_target, _bytes)),
    "player_free": (None, (_p,)),
    "player_reset": (None, (_p,)),
    "player_step": (_int, (_p, _byte, _bool, _p, _bytes)),
    "player_hold": (_int, (_p, _byte, _int, _bytes)),
    "player_state_size": (_size, ()),
    "player_save": (None, (_p, _bytes)),
    "player_load": (_int, (_p, _bytes, _size, _bytes)),
    "player_ram": (_p, (_p,)),
    "player_judged": (_p, (_p,)),
    "player_screen": (_p, (_p,)),
    "vector_new": (_p, (_p, _p, _p, _p, _bytes)),
    "vector_free": (None, (_p,)),
    "vector_add_stage": (_int, (_p, *_target, _bytes)),
    "vector_add_state": (_int, (_p, *_target, _bytes, _size, _bytes)),
    "vector_begin": (_int, (_p, _int, _int, _bytes, _int, _bytes)),
    "vector_step": (_int, (_p, _p, _p, _bytes)),
    "vector_ram": (_p, (_p, _int)),
    "vector_colours": (None, (_p, _int, _p)),
    "vector_snapshot_size": (_size, ()),
    "vector_save": (None, (_p, _int, _p)),
    "vector_load": (_int, (_p, _int, *_target, _bytes, _size, _bytes)),
}


def library_path() -> Path:
    """Return the compiled library. Raises ValueError if it has not been built."""
    path = Path(__file__).with_name("_core.so")
    if not path.is_file():
        raise ValueError("emulator: the native core is not compiled, run `pip install -e .`")
    return path


@functools.cache
def library() -> ctypes.CDLL:
    """Return the loaded library with the types of all its functions declared.

    Raises:
        ValueError: it was not compiled, or from other sources than these.
    """
    core = ctypes.CDLL(str(library_path()))
    version = core.core_version() if hasattr(core, "core_version") else 0
    if version != INTERFACE:
        raise ValueError(
            f"emulator: {library_path()} has interface {version}, expected {INTERFACE}: run `pip install -e .` again"
        )
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(core, name)
        function.restype, function.argtypes = result, arguments
    return core


def checked(name: str, *arguments: object, error: type[Exception] = ValueError) -> int:
    """Call a function that can fail. Raises `error` with its message if it returns null or -1."""
    message = ctypes.create_string_buffer(ERROR_SIZE)
    result = getattr(library(), name)(*arguments, message)
    if result is None or result == -1:
        raise error(message.value.decode(errors="replace"))
    return int(result)


class Handle:
    """Owns one C++ object. Arrays that look into its memory refer to it, so that it outlives them."""

    def __init__(self, kind: str, *arguments: object) -> None:
        """Call `kind`_new with the arguments. Raises ValueError with its message if it fails."""
        self.address = checked(f"{kind}_new", *arguments)
        weakref.finalize(self, getattr(library(), f"{kind}_free"), self.address)

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return `size` bytes of the object's memory as an array."""
        buffer: Any = (ctypes.c_uint8 * size).from_address(address)
        buffer._owner = self
        return np.frombuffer(buffer, np.uint8)
