"""Super Mario Bros: ids and options. Nothing here imports a simulator."""

from __future__ import annotations

import importlib
from typing import Any

from envs.mario import actions, rules, stages
from envs.vector import check_integer

# Name of an emulator -> the module with `versions()` (which also says what is missing) and its back end's class.
EMULATORS: dict[str, tuple[str, str]] = {
    "native": ("envs.mario.native_game", "NativeBackend"),
    "nes-py": ("envs.mario.nespy", "NesPyBackend"),
}

DEFAULTS: dict[str, Any] = {
    "actions": "simple",
    "skip": 4,
    "stack": 4,
    "crop_hud": False,
    "sticky": 0.0,
    "start_frames": 0,
    "start_mode": "noop",
    "start_states": None,
    "start_share": 0.5,
    "max_episode_steps": None,
    "reward": "env",
    "ram_info": (),
    "stages": None,
    "emulator": "native",
    "threads": 1,
}
START_MODES = ("noop", "random")


def known(env_id: str) -> bool:
    """Return whether there is such an environment."""
    return stages.parse(env_id) is not None


def ids() -> list[str]:
    """Return every id of this family."""
    return stages.ids()


def check(env_id: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with their defaults filled in.

    Options:
        actions: name of an action set, or a list of button combinations.
        skip: frames for which an action is held, 1..60.
        stack: observation frames shown together, 1..16.
        crop_hud: leave out the score line.
        sticky: probability, for every frame, that the buttons of the frame before are held instead, 0 <= p < 1.
        start_frames: upper bound of the frames played before an episode from the stage's start, 0..30.
        start_mode: what is pressed during them: "noop" nothing, "random" a random action per frame.
        start_states: file of states to start episodes from, see `envs.mario.native_vector.write_states`; drawn anew for
            each episode. Only with the native emulator and a reward of its own.
        start_share: share of the episodes that start from one of these states, the others at the stage's start.
        max_episode_steps: agent steps after which an episode is truncated, None for no limit.
        reward: "env", "score", "score-rules" or "module:function", see `envs.mario.rules`.
        ram_info: names of RAM addresses whose bytes the infos shall hold.
        stages: for RandomStages, the stages to draw from, for instance ["1-1", "1-2"]; None for all.
        emulator: name of the back end.
        threads: environments stepped at the same time; changes the speed only.

    Raises:
        ValueError: a value that is not allowed, or an emulator whose packages are missing.
    """
    merged = {**DEFAULTS, **options}
    game = stages.parse(env_id)
    if game is None:
        raise ValueError(f"env: unknown id {env_id!r}")
    actions.resolve(merged["actions"])
    for name, low, high in (("skip", 1, 60), ("stack", 1, 16), ("start_frames", 0, 30), ("threads", 1, 256)):
        check_integer(name, merged[name], low, high)
    if merged["max_episode_steps"] is not None:
        check_integer("max_episode_steps", merged["max_episode_steps"], 1)
    if not isinstance(merged["crop_hud"], bool):
        raise ValueError(f"crop_hud: {merged['crop_hud']!r}, expected true or false")
    sticky = merged["sticky"]
    if isinstance(sticky, bool) or not isinstance(sticky, (int, float)) or not 0 <= sticky < 1:
        raise ValueError(f"sticky: {sticky!r}, expected a probability 0 <= p < 1")
    share = merged["start_share"]
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"start_share: {share!r}, expected a share 0 < s <= 1")
    if merged["start_mode"] not in START_MODES:
        raise ValueError(f"start_mode: {merged['start_mode']!r}, expected one of {', '.join(START_MODES)}")
    rules.find_reward(merged["reward"])
    if isinstance(merged["ram_info"], str) or not isinstance(merged["ram_info"], (list, tuple)):
        raise ValueError(f"ram_info: {merged['ram_info']!r}, expected a list of names")
    for name in merged["ram_info"]:
        rules.ram_address(name)
    merged["ram_info"] = list(merged["ram_info"])
    if merged["stages"] is not None:
        if not game.random:
            raise ValueError(f"stages: {merged['stages']!r} given for {env_id}, only RandomStages ids draw stages")
        stages.parse_stages(merged["stages"], game)
    _check_emulator(merged)
    return merged


def _check_emulator(options: dict[str, Any]) -> None:
    name = options["emulator"]
    if name not in EMULATORS:
        raise ValueError(f"emulator: {name!r}, expected one of {', '.join(EMULATORS)}")
    importlib.import_module(EMULATORS[name][0]).versions()
    if options["start_states"] is None:
        return
    if name != "native" or options["reward"] not in rules.REWARDS:
        raise ValueError(f"start_states: emulator {name} with reward {options['reward']} cannot start from states")
    importlib.import_module("envs.mario.native_vector").read_states(options["start_states"])
