"""What is near Mario, as numbers from the console's memory: `--ram-obs near`.

A map of the blocks and enemies around him, the things that move, and himself: what a picture shows, without the
picture. Like MarI/O's inputs (SethBling 2015) it moves along with Mario, so that a place looks alike wherever it is;
speeds stand beside it, so that no frames need to be stacked. Policies depend on every number here.

Shapes: N consoles, D numbers. Memories are (N, 2048) int64. Addresses: the public disassembly of the game.
"""

from __future__ import annotations

import numpy as np

LEFT, COLUMNS = 4, 16  # columns of the map to the left of Mario's, and all of them
ABOVE, ROWS = 9, 14  # rows above the one that he stands on, and all of them
THINGS, SHOTS = 6, 9  # things that move, the last of which comes out of blocks; hammers, and what blocks throw up
BLOCK, PAGE = 16, 256  # pixels
_BLOCKS, _PAGE_BYTES, _PAGE_ROWS = 0x0500, 0xD0, 13  # where the game has its own map: two pages
_PASSABLE = (0x00, 0x24, 0x25, 0x26, 0xC2, 0xC3)  # sky, flagpole, vine, coins
_SOLID = np.ones(256, np.float32)
_SOLID[list(_PASSABLE)] = 0.0

KINDS: dict[str, tuple[int, ...]] = {  # of things, by the game's numbers
    "goomba": (0x06,),
    "with a shell": (0x00, 0x01, 0x02, 0x03, 0x04),  # koopas, buzzy beetle
    "hammer brother": (0x05,),
    "spiny": (0x12, 0x13),
    "piranha plant": (0x0D,),
    "flies": (0x08, 0x09, 0x0E, 0x0F, 0x10, 0x11, 0x14, 0x33),  # and can be jumped on; two are bullets
    "swims": (0x07, 0x0A, 0x0B),
    "podoboo or flame": (0x0C, 0x15),
    "fire bar": (0x1B, 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x21, 0x22),
    "platform": (0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A, 0x2B, 0x2C),
    "Bowser": (0x2D,),
    "jumping board": (0x32,),
    "other": (),
}
_NAMES = list(KINDS)
_FIRE_BAR, _PLATFORM, _OTHER = (_NAMES.index(name) for name in ("fire bar", "platform", "other"))
_KIND = np.full(256, _OTHER)
for _name, _numbers in KINDS.items():
    _KIND[list(_numbers)] = _NAMES.index(_name)
_ANGLES = 32  # of a fire bar's turn
_LONG = 0x1F  # a fire bar of twelve balls; the others have six
_WIDTH = 3  # blocks of a platform, about
_DEFEATED, _SPINNING = 0x20, 0x80  # bits of a thing's state

_PER_THING, _PER_SHOT, _MARIO = 7 + len(KINDS), 5, 34
SIZE = ROWS * COLUMNS + THINGS * _PER_THING + SHOTS * _PER_SHOT + _MARIO  # D

_THING, _SHOT = np.arange(THINGS), np.arange(SHOTS)
_COLUMN, _ROW = np.arange(COLUMNS) - LEFT, np.arange(ROWS) - ABOVE


def near(ram: np.ndarray) -> np.ndarray:
    """Map, things, shots and Mario, one after the other: (N, D) float32 from -3 to 3."""
    x, y = PAGE * ram[:, 0x6D] + ram[:, 0x86], ram[:, 0xCE] + PAGE * (ram[:, 0xB5] - 1)
    around = _map(ram, x, y)
    things = _things(ram, x, y, around)
    parts = [around.reshape(len(ram), -1), things, _shots(ram, x, y), _mario(ram, x, y)]
    return np.concatenate(parts, axis=1)


def signed(values: np.ndarray) -> np.ndarray:
    """Return bytes as numbers from -128 to 127."""
    return (values ^ 0x80) - 0x80


def _map(ram: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the blocks around Mario: (N, ROWS, COLUMNS), 1 where something is in the way."""
    column = (((x + BLOCK // 2) // BLOCK)[:, None] + _COLUMN)[:, None, :]
    row = ((y // BLOCK)[:, None] + _ROW)[:, :, None]
    address = _BLOCKS + column // 16 % 2 * _PAGE_BYTES + np.clip(row, 0, _PAGE_ROWS - 1) * 16 + column % 16
    solid = _SOLID[ram[np.arange(len(ram))[:, None, None], address]]
    return solid * ((row >= 0) & (row < _PAGE_ROWS) & (column >= 0))


def _things(ram: np.ndarray, x: np.ndarray, y: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Return what moves, the nearest first, and draw it into the map: -1, platforms 1.

    (N, THINGS * 20): whether it is there, right of and below Mario, x and y speed (of a fire bar the cosine and sine of
    its angle), state (of a fire bar: 1 if it is a long one), whether it is a shell that spins (a fire bar that turns
    counterclockwise), and the kind, 1 of 13.
    """
    state, kind = ram[:, 0x1E + _THING], _KIND[ram[:, 0x16 + _THING]]
    dx = PAGE * ram[:, 0x6E + _THING] + ram[:, 0x87 + _THING] - x[:, None]
    dy = ram[:, 0xCF + _THING] + PAGE * (ram[:, 0xB6 + _THING] - 1) - y[:, None]
    there = (ram[:, 0x0F + _THING] > 0) & (state & _DEFEATED == 0) & (dx > -PAGE // 2) & (dx < PAGE)
    _draw(around, x, y, there & (kind != _OTHER), kind == _PLATFORM, dx, dy)
    numbers = np.zeros((len(ram), THINGS, _PER_THING), np.float32)
    numbers[..., 0], numbers[..., 1], numbers[..., 2] = 1.0, dx / 64.0, dy / 64.0
    low, high = ram[:, 0x58 + _THING], ram[:, 0xA0 + _THING]
    angle, bar = 2 * np.pi * high / _ANGLES, kind == _FIRE_BAR
    numbers[..., 3] = np.where(bar, np.cos(angle), signed(low) / 16.0)
    numbers[..., 4] = np.where(bar, np.sin(angle), signed(high) / 4.0)
    long, backwards = ram[:, 0x16 + _THING] == _LONG, ram[:, 0x34 + _THING] > 0
    numbers[..., 5] = np.where(bar, long, np.minimum(state & 0x0F, 8) / 4.0)
    numbers[..., 6] = np.where(bar, backwards, state & _SPINNING > 0)
    np.put_along_axis(numbers, kind[..., None] + 7, 1.0, axis=2)
    np.clip(numbers, -3.0, 3.0, out=numbers)
    numbers *= there[..., None]
    order = np.argsort(np.where(there, np.abs(dx), 1 << 20), axis=1, kind="stable")
    return np.take_along_axis(numbers, order[..., None], axis=1).reshape(len(ram), -1)


def _draw(
    around: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    shown: np.ndarray,
    platform: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
) -> None:
    """Draw things, all (N, THINGS), into the map."""
    i, thing = np.nonzero(shown)
    flat = platform[i, thing]
    row = (dy[i, thing] + y[i] + np.where(flat, 0, 8) - 2 * BLOCK) // BLOCK - y[i] // BLOCK + ABOVE
    first = (dx[i, thing] + x[i] + BLOCK // 2) // BLOCK - (x[i] + BLOCK // 2) // BLOCK + LEFT
    for column, wide in ((first + more, more > 0) for more in range(_WIDTH)):
        inside = (column >= 0) & (column < COLUMNS) & (row >= 0) & (row < ROWS)
        inside &= flat if wide else True
        around[i[inside], row[inside], column[inside]] = np.where(flat, 1.0, -1.0)[inside]


def _shots(ram: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return hammers and the like: whether it is there, right of and below Mario, its speeds (N, SHOTS * 5)."""
    dx = PAGE * ram[:, 0x7A + _SHOT] + ram[:, 0x93 + _SHOT] - x[:, None]
    dy = ram[:, 0xDC + _SHOT] - y[:, None]
    there = (ram[:, 0x2A + _SHOT] > 0) & (np.abs(dx) < 192)
    speeds = signed(ram[:, 0x64 + _SHOT]) / 16.0, signed(ram[:, 0xAC + _SHOT]) / 4.0
    numbers = np.stack([np.ones_like(dx), dx / 64.0, dy / 64.0, *speeds], axis=2) * there[..., None]
    return np.clip(numbers, -3.0, 3.0).reshape(len(ram), -1).astype(np.float32)


def _mario(ram: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how Mario is: (N, 34)."""
    columns = [
        x % BLOCK / 16.0,
        y % BLOCK / 16.0,
        y / 128.0,
        signed(ram[:, 0x57]) / 20.0,
        signed(ram[:, 0x9F]) / 4.0,
        ram[:, 0x0433] / 256.0,  # parts of a pixel of both speeds
        ram[:, 0x0705] / 256.0,
        *(ram[:, 0x1D] == state for state in range(4)),  # stands, jumps, falls, climbs
        ram[:, 0x0704] > 0,  # swims
        ram[:, 0x0754] == 0,  # tall
        ram[:, 0x0756] / 2.0,
        ram[:, 0x0A] & 0x80 > 0,  # A and B are held
        ram[:, 0x0A] & 0x40 > 0,
        ram[:, 0x03AD] / 128.0,  # x on the screen
        *(ram[:, 0x074E] == kind for kind in range(4)),  # water, ground, underground, castle
        ram[:, 0x0E] == 8,  # he obeys
        ram[:, 0x0714] > 0,  # ducks
        ram[:, 0x079F] > 0,  # invincible
        ram[:, 0x079E] > 0,  # just hurt
        ram[:, 0x33] == 1,  # looks right
        ram[:, 0x6D] / 8.0,  # page of the area
        ram[:, 0x06D9] / 4.0,  # in a maze: floors taken right, floors passed
        ram[:, 0x06DA] / 4.0,
        ram[:, 0x0723] > 0,  # the screen stands
        ram[:, 0x070E] / 4.0,  # how far the jumping board is pressed
        ram[:, 0x0709] / 64.0,  # gravity of this jump
        ram[:, 0x0783] > 0,  # still runs
        ram[:, 0x07F8] / 4.0,  # hundreds of the clock
    ]
    return np.clip(np.stack(columns, axis=1), -3.0, 3.0).astype(np.float32)
