"""A Nintendo Entertainment System for the NROM games, equal to nes-py 8.2.1's byte for byte, and far faster.

One `step` is nes-py's: 29,781 CPU cycles. After each of them all 2048 bytes of RAM and all 240 x 256 pixels are equal.
"""

from __future__ import annotations

import ctypes
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.mario import native

HEIGHT, WIDTH = 240, 256
RAM_SIZE = 2048
STATE_VERSION = 1
_STATE_HEADER = struct.Struct("<4sHIII")  # magic, version, CRC-32 of ROM and body, size of the body uncompressed
_STATE_MAGIC = b"NESs"


class Cartridge:
    """A game, read and checked once; any number of emulators, in any threads, may share it.

    Attributes:
        crc: CRC-32 of the file.
        address: the C++ object.
        translates: whether the program runs as this processor's own code (x86-64, unless the environment variable
            NES_TRANSLATE is 0) rather than in an interpreter; that changes the speed and nothing else.
    """

    def __init__(self, rom: bytes | str | Path) -> None:
        """Read an iNES file.

        Args:
            rom: the file's bytes or its path.

        Raises:
            ValueError: no NROM cartridge, PAL, or truncated.
            OSError: the file cannot be read.
        """
        data = rom if isinstance(rom, bytes) else Path(rom).read_bytes()
        self.crc = zlib.crc32(data)
        self._handle = native.Handle("cartridge", data, len(data))
        self.address = self._handle.address
        self.translates = bool(native.library().cartridge_translates(self.address))


class Emulator:
    """One console. Use it from any thread, but from one at a time; calls release the interpreter lock.

    Attributes:
        ram: uint8 (2048,), a view of the console's memory; writing to it changes the game, as with nes-py.
        indices: uint8 (240, 256), read-only view of the last drawn picture as colour numbers 0-63.
    """

    def __init__(self, rom: bytes | str | Path | Cartridge) -> None:
        """Insert a cartridge and switch on. Errors as `Cartridge`."""
        self.cartridge = rom if isinstance(rom, Cartridge) else Cartridge(rom)
        self._core = native.library()
        self._handle = native.Handle("machine", self.cartridge.address)
        self._address = self._handle.address
        self._state_size = int(self._core.machine_state_size(self._address))
        self._screen: NDArray[np.uint8] = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        self.ram = self._handle.view(self._core.machine_ram(self._address), RAM_SIZE)
        indices = self._handle.view(self._core.machine_screen(self._address), HEIGHT * WIDTH)
        self.indices = indices.reshape(HEIGHT, WIDTH)
        self.indices.flags.writeable = False

    def reset(self) -> None:
        """Press reset. RAM and video memory keep their contents, and the controllers their shift registers."""
        self._core.machine_reset(self._address)

    def step(self, buttons: int = 0, draw: bool = True) -> None:
        """Run one frame.

        Args:
            buttons: bit mask of controller 1, 0-255: A, B, select, start, up, down, left, right from bit 0.
            draw: False does not update the picture, which is faster and changes nothing else.

        Raises:
            ValueError: buttons outside of 0-255.
        """
        if not 0 <= buttons <= 255:
            raise ValueError(f"buttons must be in 0..255, got {buttons}")
        self._core.machine_step(self._address, buttons, draw)

    @property
    def screen(self) -> NDArray[np.uint8]:
        """The last drawn picture, uint8 (240, 256, 3) RGB: always the same array, filled anew at each access."""
        self._core.screen_colours(self.indices.ctypes.data, self._screen.ctypes.data, 3)
        return self._screen

    def save(self) -> bytes:
        """Return the whole state (memories, registers, controllers, picture), versioned and checksummed."""
        state = ctypes.create_string_buffer(self._state_size)
        self._core.machine_save(self._address, state, self._state_size)
        body = zlib.compress(state.raw, 1)
        return _STATE_HEADER.pack(_STATE_MAGIC, STATE_VERSION, self.cartridge.crc, zlib.crc32(body), len(state)) + body

    def load(self, state: bytes, *, controllers: bool = True) -> None:
        """Restore what `save` returned, from an emulator with the same ROM. On an error nothing is changed.

        Args:
            state: the bytes.
            controllers: False keeps the controllers' shift registers, as nes-py's restore does.

        Raises:
            ValueError: not such a state, damaged, of another version or another ROM.
        """
        if len(state) < _STATE_HEADER.size or state[:4] != _STATE_MAGIC:
            raise ValueError("state: not an emulator state")
        _, version, rom_crc, crc, size = _STATE_HEADER.unpack_from(state)
        if version != STATE_VERSION:
            raise ValueError(f"state: version {version}, this program reads version {STATE_VERSION}")
        if rom_crc != self.cartridge.crc:
            raise ValueError("state: made with another ROM")
        body = state[_STATE_HEADER.size :]
        if zlib.crc32(body) != crc:
            raise ValueError("state: damaged, its checksum does not agree with its contents")
        try:
            raw = zlib.decompressobj().decompress(body, self._state_size + 1)
        except zlib.error as error:
            raise ValueError(f"state: damaged ({error})") from None
        if size != self._state_size or len(raw) != size:
            raise ValueError(f"state: {len(raw)} bytes, expected {self._state_size}")
        native.checked("machine_load", self._address, raw, len(raw), controllers)
