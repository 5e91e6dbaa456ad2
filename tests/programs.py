"""Random programs for the console that use the picture unit as no game does, to compare two emulators on them."""

from __future__ import annotations

import numpy as np

COLOURS, BYTES, SPRITES = 0xF000, 0xF100, 0xF200  # tables in the program ROM: 256 bytes each


class Program:
    """6502 code under construction, from 0x8000 on."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.code = rng, bytearray()

    @property
    def here(self) -> int:
        return 0x8000 + len(self.code)

    def put(self, *values: int) -> None:
        self.code += bytes(int(value) for value in values)

    def store(self, register: int, value: int) -> None:
        """LDA #value, STA register."""
        self.put(0xA9, value, 0x8D, register & 255, register >> 8)

    def address(self, value: int) -> None:
        self.store(0x2006, value >> 8)
        self.store(0x2006, value & 255)

    def copy(self, table: int, count: int, register: int = 0x2007) -> None:
        """Write the first bytes of a table to a register, or after an address in RAM."""
        opcode = 0x8D if register == 0x2007 else 0x9D
        loop = (
            0xBD,
            table & 255,
            table >> 8,
            opcode,
            register & 255,
            register >> 8,
            0xE8,
            0xE0,
            count & 255,
            0xD0,
            0xF5,
        )
        self.put(0xA2, 0, *loop)

    def keep(self, register: int) -> None:
        """Read a register and store what it said somewhere in RAM."""
        self.put(0xAD, register & 255, register >> 8, 0x8D, self.rng.integers(256), self.rng.integers(3, 7))

    def act(self) -> None:
        """Do one of the things that programs do with the picture unit, or wait a while."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.15:
            for _ in range(1 + (rng.random() < 0.8)):
                self.store(0x2005, rng.integers(256))
        elif draw < 0.25:
            self.store(0x2000, (0x80 if rng.random() < 0.9 else 0) | rng.integers(128))
        elif draw < 0.33:
            self.store(0x2001, rng.choice([0x1E, 0x1E, 0x1E, 0x18, 0x08, 0x10, 0, rng.integers(256)]))
        elif draw < 0.40:
            self.store(0x2006, rng.integers(0x40))
            if rng.random() < 0.9:
                self.store(0x2006, rng.integers(256))
        elif draw < 0.48:
            self.keep(0x2007)
        elif draw < 0.53:
            self.store(0x2007, rng.integers(64))  # above 63 it could reach the palette, where nes-py is undefined
        elif draw < 0.60:
            self.keep(0x2002)
        elif draw < 0.61:
            self.put(0xAD, 0x02, 0x20, 0x29, 0x40, rng.choice([0xF0, 0xD0]), 0xF9)  # wait for sprite 0, or its end
        elif draw < 0.63:
            self.put(0xAD, 0x02, 0x20, 0x10, 0xFB)  # wait for the vertical blank
        elif draw < 0.66:
            self.store(0x2003, rng.choice([0, 0, 0, rng.integers(256)]))
        elif draw < 0.68:
            self.store(0x2004, rng.integers(256))
        elif draw < 0.70:
            self.store(0x4014, 2)
        elif draw < 0.72:
            self.keep(0x2004)
        elif draw < 0.95:
            self.put(0xA2, rng.integers(1, 256), 0xCA, 0xD0, 0xFD)  # wait
        elif draw < 0.97:
            opcodes = [0x1A, 0x04, 0x34, 0x89, 0x0C, 0xEB, 0x82, 0x3C, 0x9C, 0x5C, 0xD4, 0xE2, 0xFF]
            self.put(rng.choice(opcodes), rng.integers(1, 255))  # undocumented
        else:
            self.put(0xEE, rng.integers(256), 3)


def cartridge(rng: np.random.Generator) -> bytes:
    """Return the iNES file of a random program with random pictures."""
    program = Program(rng)
    program.put(0xA2, 0xFF, 0x9A)
    program.store(0x2001, 0)
    program.put(0xAD, 0x07, 0x20)  # nes-py's read buffer is undefined before the first read
    program.address(0x3F00)
    program.copy(COLOURS, 32)
    program.address(0x2000)
    for _ in range(8):
        program.copy(BYTES, 256)
    program.copy(SPRITES, 256, 0x200)
    program.store(0x2003, 0)
    program.store(0x4014, 2)
    program.address(0)
    program.store(0x2001, 0x1E)
    program.store(0x2000, 0x80 | int(rng.integers(128)))
    main = program.here
    for _ in range(int(rng.integers(1, 60))):
        program.act()
    target = program.here if rng.random() < 0.4 else main  # wait for NMIs, or all again
    program.put(0x4C, target & 255, target >> 8)
    nmi = program.here
    program.put(0x48, 0x8A, 0x48)
    for _ in range(int(rng.integers(0, 10))):
        program.act()
    if rng.random() < 0.8:
        program.address(0)
        program.store(0x2005, rng.integers(256))
        program.store(0x2005, rng.integers(256))
        program.store(0x2001, 0x1E)
    if rng.random() < 0.5:
        program.put(0xEE, 0, 2, 0xEE, 3, 2, 0xA9, 2, 0x8D, 0x14, 0x40)  # sprite 0 moves
    program.put(0x68, 0xAA, 0x68, 0x40)

    rom = np.zeros(0x8000, np.uint8)
    rom[: len(program.code)] = np.frombuffer(program.code, np.uint8)
    rom[COLOURS - 0x8000 :][:256] = rng.integers(0, 64, 256)
    rom[BYTES - 0x8000 :][:256] = rng.integers(256, size=256)
    sprites = rng.integers(256, size=256)
    sprites[0] = rng.integers(5, 245)
    rom[SPRITES - 0x8000 :][:256] = sprites
    rom[0x7FFA:] = [nmi & 255, nmi >> 8, 0x00, 0x80, nmi & 255, nmi >> 8]
    patterns = rng.integers(256, size=0x2000).astype(np.uint8)
    if rng.random() < 0.5:
        patterns &= rng.integers(256, size=0x2000).astype(np.uint8)
    header = b"NES\x1a\x02\x01" + bytes([int(rng.integers(2))]) + bytes(9)
    return header + rom.tobytes() + patterns.tobytes()


def backdrop(colour: int) -> bytes:
    """Return the iNES file of a program that shows nothing but one colour, given as the palette's byte."""
    program = Program(np.random.default_rng(0))
    program.put(0xA2, 0xFF, 0x9A)
    program.store(0x2001, 0)
    program.address(0x3F00)
    program.store(0x2007, colour)
    program.address(0)
    program.store(0x2001, 0x1E)
    end = program.here
    program.put(0x4C, end & 255, end >> 8)
    rom = np.zeros(0x8000, np.uint8)
    rom[: len(program.code)] = np.frombuffer(program.code, np.uint8)
    rom[0x7FFA:] = [end & 255, end >> 8, 0x00, 0x80, end & 255, end >> 8]
    return b"NES\x1a\x02\x01" + bytes(10) + rom.tobytes() + bytes(0x2000)


def nonsense(seed: int) -> bytes:
    """Return a cartridge full of random instructions; jumps and branches mostly lead to whole ones."""
    rng = np.random.default_rng(seed)
    program = bytearray()
    starts = [0x8000]
    while len(program) < 0x7FFA:
        opcode = int(rng.integers(256))
        column = opcode & 0x1F
        low, high = (
            int(rng.integers(256)),
            int(rng.choice([0, 1, 3, 7, 8, 0x1F, 0x20, 0x40, 0x50, 0x80, 0xC0, 0xFE, 0xFF])),
        )
        if opcode in (0x20, 0x4C) or column == 0x10:  # JSR, JMP, branches
            target = int(rng.choice(starts[-40:])) if rng.random() < 0.9 else int(rng.integers(0x7F00, 0x10000))
            away = (target - (0x8000 + len(program)) - 2) if rng.random() < 0.5 else int(rng.integers(-20, 40))
            low, high = (away & 255, 0) if column == 0x10 else (target & 255, target >> 8)
        length = 3 if opcode == 0x20 or column in (0x0C, 0x0D, 0x0E, 0x19, 0x1C, 0x1D, 0x1E) else 2
        if column in (0x08, 0x0A, 0x18, 0x1A) or opcode in (0x00, 0x40, 0x60):
            length = 1
        program += bytes([opcode, low, high][:length])
        starts.append(0x8000 + len(program))
    vectors = b"".join(int(at).to_bytes(2, "little") for at in rng.choice(starts[:-3], 3))
    pattern = rng.integers(256, size=0x2000, dtype=np.uint8).tobytes()
    return b"NES\x1a" + bytes([2, 1, 0, 0]) + bytes(8) + bytes(program[:0x7FFA]) + vectors + pattern
