"""What the two implementations of N Mario environments share: what their options mean, the draws of an episode's start,
and the step of the vector contract around the frames (`python_vector` plays those one by one, `native_vector` in C++).

Shapes: N environments, S stacked frames of 84 x 84.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from envs.mario import backends, rules, stages
from envs.mario.actions import button_byte, resolve
from envs.mario.columns import EPISODES
from envs.mario.preprocess import PREPROCESS_VERSION, SIZE, Preprocess
from envs.mario.ram import Planes, Values
from envs.vector import Episodes, VecEnv
from utils.seeding import Purpose, generator

MAX_FRAMES = 1 << 21  # of an episode in a state, at most: nine hours and a half of the game
CAUSES = ("", "flag", "game_over", "timeout", "pit", "enemy", "rule")  # of an episode's end; the order is native code's


class Setup(NamedTuple):
    """What all environments of a vector share."""

    game: stages.Game
    targets: list[tuple[int, int] | None]  # where an episode can start
    buttons: list[int]  # controller byte of each action
    skip: int
    sticky: float
    start_frames: int
    start_random: bool
    reward: rules.Reward
    preprocess: Preprocess


def draw_target(shared: Setup, seed: int, index: int, episode: int) -> tuple[int, int] | None:
    """Return the stage in which environment `index` plays this episode."""
    targets = shared.targets
    return targets[generator(seed, index, Purpose.STAGE, episode).integers(len(targets)) if len(targets) > 1 else 0]


def draw_start(shared: Setup, draws: np.random.Generator) -> bytes:
    """Return the controller bytes of an episode's start frames, which its stream of purpose START draws."""
    if not shared.start_frames:
        return b""
    count = int(draws.integers(shared.start_frames + 1))
    choices = draws.integers(len(shared.buttons), size=count)
    return bytes(shared.buttons[choice] if shared.start_random else 0 for choice in choices)


class MarioVecBase(VecEnv):
    """What N Mario environments share, in Python and in C++. Observations (N, stack, 84, 84) uint8, with a plane more
    for each name of the option `ram_planes`, or those of `ram_obs`, (N, K) float32. Actions are numbers of the set.

    infos hold, for every name of the option `ram_info`, an array (N,) uint8 of the console's memory as the returned
    observation shows it (after an episode's end: of the new episode); the episodes' records hold it, after "ram_", as
    it was at their end.
    """

    episode_fields: tuple[str, ...] = (*Episodes.FIELDS, *(column.name for column in EPISODES))

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        combinations = resolve(options["actions"])
        shape = (options["stack"], SIZE, SIZE)
        self._values = None if options["ram_obs"] is None else Values(options["ram_obs"])
        self._planes = Planes(options["ram_planes"] or ())
        self._obs = np.zeros((num_envs, *shape), np.uint8)  # pictures
        shown = (options["stack"] + self._planes.count, SIZE, SIZE)
        self._seen = np.zeros((num_envs, *shown), np.uint8) if self._planes.count else self._obs
        space: Space = Box(0, 255, shown, np.uint8)
        if self._values is not None:
            space = Box(-np.inf, np.inf, (self._values.size,), np.float32)
        super().__init__(num_envs, seed, first_index, space, Discrete(len(combinations)))
        self.options = options
        self.spec_dict = _describe(env_id, options, combinations)
        self._limit = options["max_episode_steps"] or np.iinfo(np.int64).max
        self._ram_info = {name: rules.ram_address(name) for name in options["ram_info"]}
        self.episode_fields = (*self.episode_fields, *(f"ram_{name}" for name in self._ram_info))
        self._shared = _shared(env_id, options, combinations)
        self.chance_within_episodes = self._shared.sticky > 0

    @abstractmethod
    def _play(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Play one decision everywhere.

        Returns:
            env_reward (N,) float64, rewards (N,) float32, and the number in `CAUSES` of why episodes ended (N,) int32.
        """

    def _reached(self) -> np.ndarray:
        """Return where an episode has come to its goal within the stage, at which it is cut: (N,) bool."""
        return np.zeros(self.num_envs, bool)

    @abstractmethod
    def _row(self, i: int, cause: str) -> dict[str, Any]:
        """Return Mario's part of the record of environment i's episode, which ends now."""

    @abstractmethod
    def _ram(self, i: int) -> np.ndarray:
        """Return the console memory of environment i, (2048,) uint8."""

    def _observe(self) -> np.ndarray:
        if self._values is None and self._seen is self._obs:
            return self._obs
        rams = np.stack([self._ram(i) for i in range(self.num_envs)])
        if self._values is not None:
            return self._values(rams)
        self._seen[:, : -self._planes.count] = self._obs
        self._seen[:, -self._planes.count :] = self._planes(rams)[:, :, None, None]
        return self._seen

    def start_bytes(self, i: int) -> bytes:
        """Return the console's memory and the observation: starts that look alike may go on differently."""
        return self._ram(i).tobytes() + self._obs[i].tobytes()

    def part(self, i: int) -> str:
        """Return the id of the stage that environment i shows."""
        ram = self._ram(i)
        return self._shared.game.stage_id(int(ram[rules.RAM["world"]]) + 1, int(ram[rules.RAM["stage"]]) + 1)

    def parts(self) -> list[str]:
        """Return the ids of the stages that episodes can show."""
        game = self._shared.game
        return [
            game.stage_id(*target) for given in self._shared.targets for target in ([given] if given else game.stages)
        ]

    def action_numbers(self, spec: dict[str, Any]) -> np.ndarray:
        """Return which actions here press the buttons that those of `spec` do; see `VecEnv.action_numbers`."""
        try:
            pressed = [button_byte(combination) for combination in spec["buttons"]]
            return np.array([self._shared.buttons.index(byte) for byte in pressed])
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"actions: {spec.get('buttons')!r:.200} are not all among those here") from None

    def obs_columns(self, spec: dict[str, Any]) -> np.ndarray | None:
        """Return where the numbers of the memory are that `spec` names; see `VecEnv.obs_columns`."""
        names = spec["options"].get("ram_obs") if isinstance(spec.get("options"), dict) else None
        return None if self._values is None or names is None else self._values.columns(names)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode everywhere; see `VecEnv.reset`."""
        obs, infos = super().reset(**kwargs)
        return obs, {**infos, **self._memory()}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one decision in every environment; see `VecEnv.step`."""
        checked = self._check_actions(actions, int(self.single_action_space.n))  # type: ignore[attr-defined]
        env_reward, rewards, causes = self._play(checked)
        self.episodes.add(env_reward, rewards)
        terminated = causes > 0
        reached = self._reached()
        truncated = (self.episodes.ep_len >= self._limit) | reached
        truncated &= ~terminated
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        ended = terminated | truncated
        if np.count_nonzero(ended):
            seen = self._observe()
            infos["final_obs"], infos["_final_obs"] = np.zeros_like(seen), ended
            for i in np.flatnonzero(ended).tolist():
                infos["final_obs"][i] = seen[i]
                row = self.episodes.row(i, bool(terminated[i]))
                cause = CAUSES[causes[i]] or ("goal" if reached[i] else "step_limit")
                memory = {f"ram_{name}": int(self._ram(i)[address]) for name, address in self._ram_info.items()}
                infos["episodes"].append({**row, **self._row(i, cause), **memory})
                self._begin(i, int(self.episodes.number[i]) + 1)
        return self._observe(), rewards, terminated, truncated, {**infos, **self._memory()}

    def _memory(self) -> dict[str, np.ndarray]:
        """Return the arrays of the option `ram_info`."""
        return {
            name: np.array([self._ram(i)[address] for i in range(self.num_envs)], np.uint8)
            for name, address in self._ram_info.items()
        }

    def get_state(self) -> list[bytes]:
        """Return the states; see `VecEnv.get_state`."""
        return [self._save(i) for i in range(self.num_envs)]

    @abstractmethod
    def _save(self, i: int) -> bytes:
        """Return the state of environment i."""

    def _kind(self) -> str:
        return f"mario:{self.options['emulator']}"


def _shared(env_id: str, options: dict[str, Any], combinations: Iterable[list[str]]) -> Setup:
    """Return what the options say, as the environments use it."""
    game = stages.parse(env_id)
    assert game is not None
    targets: list[tuple[int, int] | None] = [game.target]
    if game.random:
        targets = list(stages.parse_stages(options["stages"], game))
    return Setup(
        game=game,
        targets=targets,
        buttons=[button_byte(combination) for combination in combinations],
        skip=options["skip"],
        sticky=float(options["sticky"]),
        start_frames=options["start_frames"],
        start_random=options["start_mode"] == "random",
        reward=rules.find_reward(options["reward"]),
        preprocess=Preprocess(options["crop_hud"]),
    )


def _describe(env_id: str, options: dict[str, Any], combinations: list[list[str]]) -> dict[str, Any]:
    """Return the JSON-able description of what produces the numbers."""
    game = stages.parse(env_id)
    assert game is not None
    new = ("start_curriculum", "ram_obs", "ram_planes", "test_stages")  # older states do not know them
    unused = {name for name in new if options[name] is None}
    return {
        "env_id": env_id,
        "options": {name: value for name, value in options.items() if name not in unused},
        "reward": options["reward"],
        "reward_version": rules.REWARD_VERSION,
        "preprocess_version": PREPROCESS_VERSION,
        "buttons": combinations,
        "emulator": options["emulator"],
        "rom_sha256": hashlib.sha256(stages.rom_path(game).read_bytes()).hexdigest(),
        "versions": backends.versions(options["emulator"]),
    }
