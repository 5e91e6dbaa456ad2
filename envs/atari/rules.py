"""Which Atari games there are, and what an id and its options say about one. Nothing here imports the emulator."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from utils.columns import Column

SIZE = 84  # pixels of an observation's side
EPISODES = (
    Column("frames", "frames of the whole game, those before the first decision included"),
    Column("lives_lost", "lives lost in it"),
)
PREPROCESS_VERSION = 1  # of what `envs/atari/game.py` lists: raised when an observation changes

# ROMs by ale-py's names, without those of its four games that need two players. An id says AirRaid for air_raid.
OLD_ROMS = """
    adventure air_raid alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk
    bowling boxing breakout carnival centipede chopper_command crazy_climber defender demon_attack double_dunk
    elevator_action enduro fishing_derby freeway frostbite gopher gravitar hero ice_hockey jamesbond journey_escape
    kangaroo krull kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong pooyan private_eye
    qbert riverraid road_runner robotank seaquest skiing solaris space_invaders star_gunner tennis time_pilot
    tutankham up_n_down venture video_pinball wizard_of_wor yars_revenge zaxxon
""".split()  # noqa: SIM905
NEW_ROMS = """
    atlantis2 backgammon basic_math blackjack casino crossbow darkchambers donkey_kong earthworld entombed et
    flag_capture frogger galaxian hangman haunted_house human_cannonball kaboom keystone_kapers king_kong klax
    koolaid laser_gates lost_luggage mario_bros miniature_golf mr_do othello pacman pitfall2 sir_lancelot space_war
    superman surround tetris tic_tac_toe_3d trondead turmoil video_checkers video_chess video_cube word_zapper
""".split()  # noqa: SIM905
OLD_GAMES = {rom.title().replace("_", ""): rom for rom in OLD_ROMS}
GAMES = OLD_GAMES | {rom.title().replace("_", ""): rom for rom in NEW_ROMS}

_OLD_ID = re.compile(r"(\w+)NoFrameskip-v([04])")
_NEW_ID = re.compile(r"ALE/(\w+)-v5")


class Game(NamedTuple):
    """What an id says."""

    rom: str
    sticky: float  # probability, for every frame, that the frame before's action is played instead


def parse(env_id: str) -> Game | None:
    """Return what the id says, None if there is no such game."""
    old, new = _OLD_ID.fullmatch(env_id), _NEW_ID.fullmatch(env_id)
    if old and old[1] in OLD_GAMES:
        return Game(OLD_GAMES[old[1]], 0.25 if old[2] == "0" else 0.0)
    if new and new[1] in GAMES:
        return Game(GAMES[new[1]], 0.25)
    return None


def known(env_id: str) -> bool:
    """Return whether there is such an environment."""
    return parse(env_id) is not None


def ids() -> list[str]:
    """Return every id of this family."""
    old = [f"{name}NoFrameskip-v{version}" for name in OLD_GAMES for version in (0, 4)]
    return old + [f"ALE/{name}-v5" for name in GAMES]


class Rules(NamedTuple):
    """What id and options say, as a game uses it."""

    rom: str
    sticky: float
    skip: int
    noop_max: int
    fire_reset: bool
    episodic_life: bool
    full_actions: bool
    mode: int | None
    difficulty: int | None
    max_frames: int  # 0: no limit
    max_steps: int


def rules(env_id: str, options: dict[str, Any]) -> Rules:
    """Return the rules of a game, from its id and all options of the family."""
    game = parse(env_id)
    assert game is not None
    return Rules(
        rom=game.rom,
        sticky=float(game.sticky if options["sticky"] is None else options["sticky"]),
        skip=options["skip"],
        noop_max=options["noop_max"],
        fire_reset=options["fire_reset"],
        episodic_life=options["episodic_life"],
        full_actions=options["full_actions"],
        mode=options["mode"],
        difficulty=options["difficulty"],
        max_frames=options["max_episode_frames"] or 0,
        max_steps=options["max_episode_steps"] or 2**62,
    )
