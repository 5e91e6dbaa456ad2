"""The emulator core and the vector stepping in C++, compiled by setup.py into a shared library that ctypes loads.

The library uses neither Python's nor numpy's C interface, so one build serves every version of both, and ctypes releases
the interpreter lock during each call.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

ERROR_SIZE = 256
SOURCES = ("bus", "c_api", "cartridge", "console", "cpu", "ppu")

_p, _size, _int, _bool = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_bool
_byte, _bytes = ctypes.c_uint8, ctypes.c_char_p

# name: (result, arguments); a function whose last argument is char* may fail and then leaves a message there.
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "nes_cartridge_new": (_p, (_bytes, _size, _bytes)),
    "nes_cartridge_free": (None, (_p,)),
    "nes_console_new": (_p, (_p, _bytes)),
    "nes_console_free": (None, (_p,)),
    "nes_console_reset": (None, (_p,)),
    "nes_console_step": (None, (_p, _byte, _bool)),
    "nes_console_ram": (_p, (_p,)),
    "nes_console_screen": (_p, (_p,)),
    "nes_console_rgb": (None, (_p, _p)),
    "nes_console_state_size": (_size, (_p,)),
    "nes_console_save": (None, (_p, _p, _size)),
    "nes_console_load": (_bool, (_p, _bytes, _size, _bytes)),
}


def library_path() -> Path:
    """Return the compiled library. Raises ImportError if it has not been built."""
    found = sorted(Path(__file__).parent.glob("_core*.so"))
    if not found:
        raise ImportError("the emulator core is not compiled: run `pip install -e .` (or `python setup.py build_ext --inplace`)")
    return found[0]


@functools.cache
def library() -> ctypes.CDLL:
    """Return the loaded library with the types of all its functions declared."""
    core = ctypes.CDLL(str(library_path()))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(core, name)
        function.restype, function.argtypes = result, arguments
    return core


def checked(name: str, *arguments: object) -> int:
    """Call a function that may fail. Raises ValueError with its message if it returns null or false."""
    error = ctypes.create_string_buffer(ERROR_SIZE)
    result = getattr(library(), name)(*arguments, error)
    if not result:
        raise ValueError(error.value.decode(errors="replace"))
    return int(result)
