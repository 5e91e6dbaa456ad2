"""What a frame of Mario means: decoding the RAM, rewards, and why an episode ended. Pure functions of plain ints.

A reward is a function of one frame's `Transition` that returns (reward, end): `end` asks for the episode to be
terminated although the game goes on. A user's own, named MODULE:FUNCTION, may return the reward alone.

The numbers that gym-super-mario-bros reads from NumPy bytes overflow on NumPy 2 (page * 256 + x in a uint8); here
the memory is `bytes`, whose elements are Python ints.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from utils.imports import load_function

REWARD_VERSION = 1

# Console memory (2 KiB) by name. Sources: the register table of the Tianchi PPO course, the Data Crystal RAM map, the
# public disassembly. Names of tables of five (one per enemy slot) end in 0..4.
RAM: dict[str, int] = {
    "temp_gravity": 0x0000,
    "player_animation": 0x0001,
    "temp_player_y": 0x0002,
    "player_direction": 0x0003,  # 1 right, 2 left
    "load_amount": 0x0004,
    "temp_player_x": 0x0005,
    "object_offset": 0x0008,
    "frame_counter": 0x0009,
    "buttons_ab": 0x000A,  # 0x80 A, 0x40 B, measured: the course's table has them the other way round
    "buttons_vertical": 0x000B,  # 0x08 up, 0x04 down, measured
    "player_state": 0x000E,  # 8 normal, 2 and 3 pipe, 4 flagpole, 6 dead, 0x0B dying
    "player_float_state": 0x001D,  # 0 ground, 1 jump, 2 fall, 3 flagpole or vine
    "player_facing": 0x0033,
    "player_moving_direction": 0x0045,
    "player_x_speed": 0x0057,  # signed
    "player_page": 0x006D,
    "player_x": 0x0086,
    "player_y_speed": 0x009F,  # signed
    "player_y_page": 0x00B5,  # 0 above the screen, 1 on it, more: fallen below
    "player_y": 0x00CE,
    "area_data_low": 0x00E7,  # where in the ROM the area is described: one number for each area that Mario is in
    "area_data_high": 0x00E8,
    "player_x_on_screen": 0x03AD,
    "player_y_on_screen": 0x03B8,
    "whirlpool": 0x047D,
    "bowser_hit_points": 0x0483,
    "warp_zone": 0x06D6,
    "loop_correct_count": 0x06D9,
    "loop_pass_count": 0x06DA,
    "area_change_timer": 0x06DE,
    "joypad": 0x06FC,
    "swimming": 0x0704,
    "camera_left_page": 0x071A,
    "camera_right_page": 0x071B,
    "camera_left_x": 0x071C,
    "camera_right_x": 0x071D,
    "scroll_lock": 0x0723,
    "current_page": 0x0725,
    "loop_command": 0x0745,
    "area_type": 0x074E,  # 0 water, 1 ground, 2 underground, 3 castle
    "area_pointer": 0x0750,
    "entrance_page": 0x0751,
    "player_size": 0x0754,
    "player_power": 0x0756,  # 0 small, 1 tall, 2 fireball
    "lives": 0x075A,
    "halfway_page": 0x075B,
    "stage": 0x075C,  # from 0
    "coins": 0x075E,
    "world": 0x075F,  # from 0
    "area": 0x0760,
    "game_mode": 0x0770,  # 0 demo, 1 game, 2 end of world, 3 game over
    "star_timer": 0x079F,
    "random_state": 0x07A7,
    "time_hundreds": 0x07F8,
    "time_tens": 0x07F9,
    "time_ones": 0x07FA,
    **{f"enemy_active_{i}": 0x000F + i for i in range(5)},
    **{f"enemy_id_{i}": 0x0016 + i for i in range(5)},  # 6 goomba, 7 blooper, 0x2D Bowser, 0x31 flag
    **{f"enemy_state_{i}": 0x001E + i for i in range(5)},
    **{f"enemy_x_speed_{i}": 0x0058 + i for i in range(5)},
    **{f"enemy_page_{i}": 0x006E + i for i in range(5)},
    **{f"enemy_x_{i}": 0x0087 + i for i in range(5)},
    **{f"enemy_y_{i}": 0x00CF + i for i in range(5)},
    **{f"score_digit_{i}": 0x07DD + i for i in range(6)},
}


def ram_address(name: str, option: str = "ram_info", others: Iterable[str] = ()) -> int:
    """Return the address of a name of the table, or of "0x" and four hexadecimal digits.

    Raises:
        ValueError: neither; it names the option, and what else that takes.
    """
    text = name if isinstance(name, str) else ""  # a file may hold anything
    if text in RAM:
        return RAM[text]
    try:
        address = int(text, 16) if text.lower().startswith("0x") else -1
    except ValueError:
        address = -1
    if not 0 <= address < 0x800:
        known = ", ".join([*others, *sorted(RAM)])
        raise ValueError(f"{option}: {name!r:.100}, expected an address 0x0000..0x07ff or one of {known}")
    return address


class Info(NamedTuple):
    """The state of the game after one frame; the first ten fields as gym-super-mario-bros names them."""

    coins: int
    flag_get: bool  # Mario slides down the flagpole, or the world's last castle is won
    life: int  # 2, 1, 0, and 255 when the game is over
    score: int
    stage: int  # 1..4
    status: str  # "small", "tall", "fireball"
    time: int  # ticks left
    world: int  # from 1
    x_pos: int  # pixels from the start of the area
    y_pos: int  # pixels above the bottom of the screen
    player_state: int
    y_viewport: int  # 0 above the screen, 1 on it, more: fallen below

    @property
    def dying(self) -> bool:
        """Whether Mario has died or is about to."""
        return self.player_state in (0x06, 0x0B) or self.y_viewport > 1

    @property
    def cleared(self) -> bool:
        """Whether the stage is cleared: also where Mario touched the pole in a fall, which `flag_get` misses."""
        return self.flag_get or self.player_state == 0x04


class Transition(NamedTuple):
    """One frame. `before` and `after` are the decoded RAM, `ram_before` and `ram` all 2048 bytes of it, at the moments
    when the environment judged the previous frame and this one."""

    env_reward: float
    done: bool  # the environment says that the episode is over
    before: Info
    after: Info
    ram_before: bytes
    ram: bytes


Reward = Callable[[Transition], "tuple[float, bool]"]


def _number(ram: bytes, address: int, digits: int) -> int:
    value = 0
    for digit in ram[address : address + digits]:
        value = 10 * value + digit
    return value


def decode(ram: bytes) -> Info:
    """Return the meaning of the console's memory (2048 bytes)."""
    y_viewport, y_pixel = ram[0x00B5], ram[0x03B8]
    slides = ram[0x001D] == 3 and any(enemy in (0x2D, 0x31) for enemy in ram[0x0016:0x001B])
    return Info(
        coins=_number(ram, 0x07ED, 2),
        flag_get=ram[0x0770] == 2 or slides,
        life=ram[0x075A],
        score=_number(ram, 0x07DE, 6),
        stage=ram[0x075C] + 1,
        status=("small", "tall", "fireball")[min(ram[0x0756], 2)],
        time=_number(ram, 0x07F8, 3),
        world=ram[0x075F] + 1,
        x_pos=256 * ram[0x006D] + ram[0x0086],
        y_pos=(510 if y_viewport < 1 else 255) - y_pixel,
        player_state=ram[0x000E],
        y_viewport=y_viewport,
    )


def env_reward(before: Info, after: Info) -> float:
    """Return the reward of gym-super-mario-bros 7.4.0 for one frame.

    x moved (0 where it moved more than 5 pixels: a pipe or a new area) + clock ticks (<= 0) - 25 when dying, in +-15.
    """
    moved = after.x_pos - before.x_pos
    ticked = after.time - before.time
    total = (moved if -5 <= moved <= 5 else 0) + min(ticked, 0) - (25 if after.dying else 0)
    return float(max(-15, min(15, total)))


def reward_env(t: Transition) -> tuple[float, bool]:
    """The environment's own reward."""
    return t.env_reward, False


def reward_score(t: Transition) -> tuple[float, bool]:
    """The seeds' reward: (own reward + score gained / 40, + 50 at the flag or - 50 at any other end) / 10."""
    return _shaped(t) / 10.0, False


def reward_score_rules(t: Transition) -> tuple[float, bool]:
    """`reward_score` with rules that end an episode as soon as Mario has taken a way that does not lead to the flag.

    The mazes of 7-4 and 4-4, and the ceilings of 1-2 and 4-2 that lead past the last pipe to a warp zone, where no
    action enters a pipe. It subtracts 50; in 4-4 it makes the frame's reward -50, whatever else happened (before / 10).
    """
    stage = (t.after.world, t.after.stage)
    if stage == (4, 4) and _lost_in_4_4(t.after):
        return -50.0 / 10.0, True
    if (stage == (7, 4) and _lost_in_7_4(t.before, t.after)) or _past_the_pipe(stage, t.after, t.ram):
        return (_shaped(t) - 50.0) / 10.0, True
    return reward_score(t)


def reward_score_loops(t: Transition) -> tuple[float, bool]:
    """`reward_score`, and an episode ends, with 50 less, where a maze sends Mario back or he goes past the last pipe.

    In 4-4 and 7-4 the game moves him back by 1024 pixels if he took a wrong way, and the same progress would be paid
    again. Nothing is said of where the wrong ways are; 4-4's rule in `reward_score_rules` forbids right ones too. In
    8-4 the right way leads back too: there he pays the ground that is lost, and earns what a pipe skips, so that a loop
    is worth nothing.
    """
    stage = (t.after.world, t.after.stage)
    moved = t.after.x_pos - t.before.x_pos if _area(t.ram) == _area(t.ram_before) else 0
    if stage == (8, 4):
        return (_shaped(t) + (moved if abs(moved) > 500 else 0)) / 10.0, False
    if moved < -500 or _past_the_pipe(stage, t.after, t.ram):
        return (_shaped(t) - 50.0) / 10.0, True
    return reward_score(t)


def _area(ram: bytes) -> tuple[int, int]:
    return ram[RAM["area_data_low"]], ram[RAM["area_data_high"]]


def _shaped(t: Transition) -> float:
    total = t.env_reward + (t.after.score - t.before.score) / 40.0
    if t.done:
        total += 50.0 if t.after.flag_get else -50.0
    return total


def _lost_in_4_4(info: Info) -> bool:
    """The fork: the upper path up to x = 1500, the lower one from 1588 to 2380."""
    x, y = info.x_pos, info.y_pos
    return (x <= 1500 and y < 127) or (1588 <= x < 2380 and y >= 127)


def _lost_in_7_4(before: Info, info: Info) -> bool:
    """Two mazes of three floors: a wrong floor in one of seven windows, or the game has sent Mario back."""
    x, y = info.x_pos, info.y_pos
    return (
        (506 <= x <= 832 and y > 127)
        or (832 < x <= 1064 and y < 80)
        or (1113 < x <= 1464 and y < 191)
        or (1579 < x <= 1943 and y < 191)
        or (1946 < x <= 1964 and y >= 191)
        or (1984 < x <= 2060 and (y >= 191 or y < 127))
        or (2114 < x < 2440 and y < 191)
        or x < before.x_pos - 500
    )


def _past_the_pipe(stage: tuple[int, int], info: Info, ram: bytes) -> bool:
    """Whether Mario is under ground to the right of the pipe that leads out of 1-2 or 4-2."""
    end = {(1, 2): 2720, (4, 2): 3056}.get(stage)
    return end is not None and info.x_pos > end and ram[RAM["area_type"]] == 2


REWARDS: dict[str, Reward] = {
    "env": reward_env,
    "score": reward_score,
    "score-rules": reward_score_rules,
    "score-loops": reward_score_loops,
}


def find_reward(name: str) -> Reward:
    """Return the reward function of a name, or import a user's MODULE:FUNCTION.

    Raises:
        ValueError: no such name, module or function.
    """
    if name in REWARDS:
        return REWARDS[name]
    return _user_reward(name, load_function("reward", str(name), REWARDS))


def check_reward(name: str, reward: Reward, ram: bytes, info: Info) -> None:
    """Call a user's reward for a frame in which nothing moves, so that what is wrong with it shows at the start.

    Raises:
        ValueError: it raises, or returns no number.
    """
    try:
        reward(Transition(0.0, False, info, info, ram, ram))
    except Exception as error:
        named = str(error).startswith("reward: ")
        raise ValueError(str(error) if named else f"reward: {name}: {type(error).__name__}: {error}") from error


def _user_reward(name: str, function: Callable[[Transition], Any]) -> Reward:
    def call(t: Transition) -> tuple[float, bool]:
        try:
            result = function(t)
        except SystemExit as error:  # it would end this process without a word
            raise RuntimeError(f"reward: {name} raised {error!r}") from error
        reward, end = result if isinstance(result, tuple) and len(result) == 2 else (result, False)
        finite = isinstance(reward, (numbers.Real, np.bool_)) and abs(float(reward)) < float("inf")
        if not finite or not isinstance(end, (bool, np.bool_)):
            raise ValueError(f"reward: {name} returned {result!r:.200}, expected a finite number, or (number, bool)")
        return float(reward), bool(end)

    return call


def end_cause(info: Info, single_stage: bool) -> str:
    """Return why the environment ended the episode: "flag", "game_over", "timeout", "pit" or "enemy"."""
    if info.flag_get:
        return "flag"
    if not single_stage:
        return "game_over"
    if info.time == 0:
        return "timeout"
    return "pit" if info.y_viewport > 1 else "enemy"
