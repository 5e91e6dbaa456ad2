"""The sixteen Procgen games (Cobbe et al. 2020, arXiv:1912.01588) under this package's vector contract.

Their shared library is called through its C interface (libenv.h of openai/gym3, version 1), one library object per
environment, so that an environment's levels depend on its global index and on nothing else. Of the package
procgen-mirror only that library is used: neither gym nor gym3 nor their pins are needed, and it installs without them
(pip install --no-deps procgen-mirror).

An episode's levels are drawn by the game itself, from a generator that is seeded once per environment. Two facts of
`Game::step` (procgen/src/game.cpp) shape what is seen here:

    a game begins its next level in the step that ends the old one, so the last picture of an episode is never drawn:
    the one before it stands in `final_obs`
    its own time limit (500 to 6,000 steps, the game's) is an end like any other: `terminated`, as for
    openai/train-procgen. No value of a picture that was never drawn is asked for: a termination is not bootstrapped

An option `max_episode_steps` cuts before that, and is a truncation with a true final observation.

Shapes: N environments; observations (N, 3, 64, 64) uint8 red, green, blue, a view of memory whose channels come last.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from envs.family import MAX_EPISODE_STEPS, THREADS, Family, Option, Preset
from envs.vector import Episodes, VecEnv, check_arrays, check_integer, pack
from utils.columns import Column
from utils.seeding import episode_seed

STATE_VERSION = 1
SIZE, ACTIONS, LAST_LEVEL = 64, 15, 2**31 - 1

GAMES = tuple(
    "bigfish bossfight caveflyer chaser climber coinrun dodgeball fruitbot heist jumper leaper maze miner ninja "
    "plunder starpilot".split()
)
# Mode -> its number in the library and the games that have it (procgen/env.py, procgen/src/game.cpp).
MODES: dict[str, tuple[int, tuple[str, ...]]] = {
    "easy": (0, GAMES),
    "hard": (1, GAMES),
    "extreme": (2, ("chaser", "dodgeball", "leaper", "starpilot")),
    "memory": (10, ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner")),
}
# Left, right, up and down move; the letters are buttons that few games know (procgen/env.py, get_combos).
BUTTONS = [keys.split() for keys in "LEFT DOWN,LEFT,LEFT UP,DOWN,,UP,RIGHT DOWN,RIGHT,RIGHT UP,D,A,W,S,Q,E".split(",")]


def game_of(env_id: str) -> str | None:
    """Return the game that "procgen-GAME-v0" names, None if there is no such game."""
    game = env_id.removeprefix("procgen-").removesuffix("-v0")
    return game if game in GAMES and env_id == f"procgen-{game}-v0" else None


def known(env_id: str) -> bool:
    """Return whether there is such an environment."""
    return game_of(env_id) is not None


def ids() -> list[str]:
    """Return every id of this family."""
    return [f"procgen-{game}-v0" for game in GAMES]


def check(env_id: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options.

    Raises:
        ValueError: a mode that the game does not have, levels that do not exist, or procgen is not installed.
    """
    game, mode = game_of(env_id), options["distribution_mode"]
    if game not in MODES[mode][1]:
        allowed = [name for name, (_, games) in MODES.items() if game in games]
        raise ValueError(f"distribution_mode: {mode!r}, expected one of {', '.join(allowed)} for {game}")
    first, count = options["start_level"], options["num_levels"]
    check_integer("num_levels", count, 0, LAST_LEVEL - first)
    for name in ("levels", "test_levels"):
        if options[name] == "test" and not 0 < count < LAST_LEVEL - first:
            raise ValueError(f"{name}: 'test', but training on num_levels {count} leaves no levels for it")
    _find_package()
    return options


def drawn_levels(options: dict[str, Any]) -> tuple[int, int]:
    """Return the first level and the number of levels that episodes are drawn from, as the library takes them."""
    first, count = options["start_level"], options["num_levels"]
    if options["levels"] == "all" or count == 0:
        return 0, 0
    return (first, count) if options["levels"] == "train" else (first + count, LAST_LEVEL - first - count)


def _find_package() -> Path:
    """Return the folder of the installed package without importing it (it would import gym)."""
    found = importlib.util.find_spec("procgen")
    if found is None or not found.submodule_search_locations:
        raise ValueError("env: procgen is not installed (pip install --no-deps procgen-mirror==0.10.7)")
    return Path(found.submodule_search_locations[0])


OPTIONS = (
    Option(
        "distribution_mode",
        "easy",
        "how hard the levels are; not every game has the last two",
        choices=tuple(MODES),
        portable=True,
    ),
    Option("num_levels", 200, "levels to train on; 0: all of them", at_least=0, at_most=LAST_LEVEL, portable=True),
    Option("start_level", 0, "the first of the levels to train on", at_least=0, at_most=LAST_LEVEL - 1, portable=True),
    Option(
        "levels",
        "train",
        "which are played: the training levels, all that come after them, or all there are",
        choices=("train", "test", "all"),
        training_only=True,
    ),
    Option(
        "test_levels",
        None,
        "each evaluation plays these levels too (columns Test...): test shows the generalisation gap",
        kind=str,
        choices=("test", "all"),
        optional=True,
        training_only=True,
        affects="detail",
        tests="levels",
    ),
    Option("use_backgrounds", True, "pictures as backgrounds, not black", portable=True),
    MAX_EPISODE_STEPS,
    THREADS,
)

PROCGEN = Preset(
    "procgen",
    "Cobbe et al. 2020, arXiv:1912.01588, appendix D and openai/train-procgen, train_procgen/train.py: 64 environments "
    "x 256 steps = 16,384; 8 minibatches of 16,384 / 8 = 2,048, 3 passes, Adam 5e-4, gamma 0.999, lambda 0.95, clip "
    "0.2 for policy and value, entropy 0.01, gradient norm 0.5, the IMPALA network, rewards divided by a running "
    "deviation of the returns, 200 easy levels for 25 million steps",
    {
        "network": "impala",
        "num_envs": 64,
        "steps_per_epoch": 64 * 256,
        "minibatch_size": 2048,
        "train_pi_iters": 3,
        "train_v_iters": 3,
        "gamma": 0.999,
        "lam": 0.95,
        "pi_lr": 5e-4,
        "v_lr": 5e-4,
        "clip_ratio": 0.2,
        "v_loss": "clipped",
        "v_clip": 0.2,
        "ent_coef": 0.01,
        "max_grad_norm": 0.5,
        "adv_norm": "minibatch",
        "adam_eps": 1e-5,
        "total_steps": 25_000_000,
        "norm_rew": True,
        "distribution_mode": "easy",
        "num_levels": 200,
    },
)

PPG = Preset(
    "ppg",
    "Cobbe et al. 2020, arXiv:2009.04416, appendix A, and openai/phasic-policy-gradient at 7295473, train.py and "
    "ppo.py: 4 workers x 64 environments x 256 steps = 65,536; phases of 32 epochs, one pass each over 8 minibatches "
    "of 65,536 / 8 = 8,192, then 6 passes over 32 x 16 minibatches of 65,536 / 16 = 4,096; clone weight 1, Adam 5e-4 "
    "with epsilon 1e-8, no bound on gradients, gamma 0.999, lambda 0.95, clip 0.2, entropy 0.01, normalised rewards, "
    "all hard levels for 100 million steps. A phase keeps 32 x 65,536 images, 26 GB",
    {
        "algo": "ppg",
        "network": "impala",
        "num_envs": 4 * 64,
        "steps_per_epoch": 4 * 64 * 256,
        "phase_epochs": 32,
        "minibatch_size": 8192,
        "train_pi_iters": 1,
        "train_v_iters": 1,
        "train_aux_iters": 6,
        "aux_minibatch_size": 4096,
        "clone_coef": 1.0,
        "pi_lr": 5e-4,
        "v_lr": 5e-4,
        "adam_eps": 1e-8,
        "max_grad_norm": None,
        "gamma": 0.999,
        "lam": 0.95,
        "clip_ratio": 0.2,
        "ent_coef": 0.01,
        "v_loss": "mse",
        "norm_rew": True,
        "distribution_mode": "hard",
        "num_levels": 0,
        "total_steps": 100_000_000,
    },
)

COLUMNS = (
    Column(
        "LevelComplete",
        "share of the finished episodes that completed their level",
        "%",
        "rises with the return, where the game has a goal",
        0.0,
        1.0,
        "level_complete",
    ),
)

EPISODES = (
    Column("level", "number of the level that was played"),
    Column("level_complete", "1 where the episode completed it"),
)

FAMILY = Family(
    name="procgen",
    known=known,
    ids=ids,
    make="envs.procgen:ProcgenVec",
    options=OPTIONS,
    check=check,
    presets=(PROCGEN, PPG),
    defaults={"network": "impala"},
    columns=COLUMNS,
    episode_columns=EPISODES,
    evaluated=("LevelComplete",),
)


class ProcgenVec(VecEnv):
    """N games, each with a level generator of its own."""

    metadata = {**VecEnv.metadata, "render_fps": 15}
    episode_fields = (*Episodes.FIELDS, *(column.name for column in EPISODES))

    def __init__(self, env_id: str, num_envs: int, seed: int, first_index: int, options: dict[str, Any]) -> None:
        super().__init__(num_envs, seed, first_index, Box(0, 255, (3, SIZE, SIZE), np.uint8), Discrete(ACTIONS))
        game = game_of(env_id)
        assert game is not None
        self.options, self._game = options, game
        self.spec_dict = {
            "env_id": env_id,
            "options": {name: value for name, value in options.items() if name != "test_levels"},
            "reward": "env",
            "buttons": BUTTONS,
            "emulator": "procgen",
            "versions": {"procgen-mirror": importlib.metadata.version("procgen-mirror")},
        }
        self._images = np.zeros((num_envs, SIZE, SIZE, 3), np.uint8)
        self._obs = self._images.transpose(0, 3, 1, 2)
        self._before = np.zeros_like(self._images)
        self._games: list[_Game | None] = [None] * num_envs
        threads = min(options["threads"], num_envs)
        self._threads = ThreadPoolExecutor(threads, "procgen") if threads > 1 else None

    def _build(self, i: int) -> _Game:
        """Return a game at its first level, which writes its pictures into row i."""
        first, count = drawn_levels(self.options)
        settings = {
            "env_name": self._game,
            "rand_seed": episode_seed(self.seed, self.first_index + i, 0),
            "start_level": first,
            "num_levels": count,
            "distribution_mode": MODES[self.options["distribution_mode"]][0],
            "use_backgrounds": self.options["use_backgrounds"],
            "center_agent": True,
        }
        return _Game(settings, self._images[i])

    def _begin(self, i: int, episode: int) -> None:
        self.episodes.begin(i, episode)
        game = self._games[i]
        if game is None or episode == 0:
            if game is not None:
                game.close()
            self._games[i] = self._build(i)
        else:
            game.act(-1)  # ends the level and begins the next

    def _observe(self) -> np.ndarray:
        return self._obs

    @property
    def _running(self) -> list[_Game]:
        return [game for game in self._games if game is not None]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one step in every game; see `VecEnv.step`."""
        checked = self._check_actions(actions, ACTIONS)
        np.copyto(self._before, self._images)
        games = self._running
        mapped = map if self._threads is None else self._threads.map
        played = list(mapped(_Game.act, games, checked.tolist()))
        env_reward = np.array([reward for reward, _ in played], np.float64)
        terminated = np.array([done for _, done in played], np.bool_)
        rewards = env_reward.astype(np.float32)
        self.episodes.add(env_reward, rewards)
        limit = self.options["max_episode_steps"]
        truncated = (self.episodes.ep_len >= limit) & ~terminated if limit else np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {"env_reward": env_reward, "episodes": []}
        ended = terminated | truncated
        if ended.any():
            final = np.where(terminated[:, None, None, None], self._before, self._images)
            infos["final_obs"], infos["_final_obs"] = final.transpose(0, 3, 1, 2), ended
            for i in np.flatnonzero(ended).tolist():
                row = self.episodes.row(i, bool(terminated[i]))
                infos["episodes"].append({**row, **games[i].row(bool(terminated[i]))})
                if terminated[i]:  # the game has begun its next level by itself
                    self.episodes.begin(i, int(self.episodes.number[i]) + 1)
                else:
                    self._begin(i, int(self.episodes.number[i]) + 1)
        return self._obs, rewards, terminated, truncated, infos

    def get_state(self) -> list[bytes]:
        """Return the states; see `VecEnv.get_state`."""
        return [self._save(i) for i in range(self.num_envs)]

    def _save(self, i: int) -> bytes:
        header, game = self._header(i), self._games[i]
        assert game is not None
        return pack("procgen", STATE_VERSION, header, {"game": np.frombuffer(game.save(), np.uint8)})

    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore the states; see `VecEnv.set_state`."""
        for i, (header, arrays) in enumerate(self._open("procgen", STATE_VERSION, states)):
            game = self._games[i] = self._games[i] or self._build(i)
            game.load(arrays["game"].tobytes())
            self.episodes.load(i, header)
        return self._obs

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        check_arrays(arrays, game=(np.uint8, (None,)))
        state = arrays["game"].tobytes()
        begins = b"".join(number.to_bytes(4, "little") for number in (0, len(self._game))) + self._game.encode()
        if not state.startswith(begins) or not state.endswith(_END) or len(state) > _MAX_STATE:
            raise ValueError(f"state: not one of procgen's {self._game}")

    def render(self) -> tuple[np.ndarray, ...]:
        """Return a large picture of every game, (512, 512, 3) uint8 RGB."""
        return tuple(game.picture() for game in self._running)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads and free the games."""
        if self._threads is not None:
            self._threads.shutdown()
        for game in self._running:
            game.close()
        self._games = [None] * self.num_envs


# The library's C interface --------------------------------------------------------------------------------------------


class _Value(ctypes.Union):
    _fields_ = [("uint8", ctypes.c_uint8), ("int32", ctypes.c_int32), ("float32", ctypes.c_float)]


class _TensorType(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 128),
        ("scalar_type", ctypes.c_int),
        ("dtype", ctypes.c_int),
        ("shape", ctypes.c_int * 16),
        ("ndim", ctypes.c_int),
        ("low", _Value),
        ("high", _Value),
    ]


class _Option(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 128),
        ("dtype", ctypes.c_int),
        ("count", ctypes.c_int),
        ("data", ctypes.c_void_p),
    ]


class _Options(ctypes.Structure):
    _fields_ = [("items", ctypes.POINTER(_Option)), ("count", ctypes.c_int)]


class _Buffers(ctypes.Structure):
    _fields_ = [
        ("ob", ctypes.POINTER(ctypes.c_void_p)),
        ("rew", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("info", ctypes.POINTER(ctypes.c_void_p)),
        ("ac", ctypes.POINTER(ctypes.c_void_p)),
    ]


_UINT8, _INT32, _FLOAT32 = 1, 2, 3  # enum libenv_dtype
_DTYPES = {_UINT8: np.uint8, _INT32: np.int32, _FLOAT32: np.float32}
_OBSERVATION, _ACTION, _INFO = 1, 2, 3  # enum libenv_space_name
_MAX_STATE = 2**20  # bytes (procgen/env.py)
_END = 0xCAFECAFE.to_bytes(4, "little")  # of a state (procgen/src/vecgame.cpp)


@functools.cache
def _library() -> ctypes.CDLL:
    """Load the library, once."""
    library = ctypes.CDLL(str(_find_package() / "data" / "prebuilt" / "libenv.so"))
    version = library.libenv_version()
    if version != 1:
        raise ValueError(f"env: procgen's library has interface version {version}, expected 1")
    library.libenv_make.restype = ctypes.c_void_p
    library.libenv_make.argtypes = [ctypes.c_int, _Options]
    library.libenv_get_tensortypes.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_TensorType)]
    library.libenv_set_buffers.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Buffers)]
    for name in ("libenv_observe", "libenv_act", "libenv_close"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = None
    for name in ("get_state", "set_state"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    return library


class _Game:
    """One library object with one game in it."""

    def __init__(self, settings: dict[str, Any], image: np.ndarray) -> None:
        """Args: settings: as the library names them. image: (64, 64, 3) uint8, where the pictures are written."""
        self._library = _library()
        assets = str(_find_package() / "data" / "assets") + "/"
        fixed = {"num_actions": ACTIONS, "num_threads": 0, "render_human": True, "resource_root": assets}
        options, keep = _convert({**settings, **fixed})
        self._handle = ctypes.c_void_p(self._library.libenv_make(1, options))
        ob, ac, self._info = (self._allocate(space) for space in (_OBSERVATION, _ACTION, _INFO))
        ob["rgb"] = image
        self._action, self._reward, self._done = ac["action"], np.zeros(1, np.float32), np.zeros(1, np.uint8)
        reward, done = self._reward.ctypes.data, self._done.ctypes.data
        self._buffers = _Buffers(_pointers(ob), reward, done, _pointers(self._info), _pointers(ac))
        self._keep = (keep, ob)  # memory that the library uses
        self._library.libenv_set_buffers(self._handle, self._buffers)

    def _allocate(self, space: int) -> dict[str, np.ndarray]:
        """Return an array for each tensor of a space."""
        count = self._library.libenv_get_tensortypes(self._handle, space, None)
        types = (_TensorType * count)()
        self._library.libenv_get_tensortypes(self._handle, space, types)
        return {t.name.decode(): np.zeros(tuple(t.shape[: t.ndim]) or (1,), _DTYPES[t.dtype]) for t in types}

    def act(self, action: int) -> tuple[float, bool]:
        """Play one step; return its reward and whether it ended the level. -1 ends it in any case."""
        self._action[0] = action
        self._library.libenv_act(self._handle)
        return float(self._reward[0]), bool(self._done[0])

    def row(self, over: bool) -> dict[str, Any]:
        """Return Procgen's part of the record of a level that is over, or is about to be ended."""
        name = "prev_level_seed" if over else "level_seed"
        return {
            "level": int(self._info[name][0]),
            "level_complete": over and bool(self._info["prev_level_complete"][0]),
        }

    def save(self) -> bytes:
        """Return the game's state, its generators included."""
        buffer = ctypes.create_string_buffer(_MAX_STATE)
        return ctypes.string_at(buffer, self._library.get_state(self._handle, 0, buffer, _MAX_STATE))

    def load(self, state: bytes) -> None:
        """Restore what `save` returned, and draw it."""
        self._library.set_state(self._handle, 0, state, len(state))

    def picture(self) -> np.ndarray:
        """Return the game in 512 x 512 pixels, a copy."""
        self._library.libenv_observe(self._handle)
        return self._info["rgb"].copy()

    def close(self) -> None:
        """Free the library object."""
        if self._handle:
            self._library.libenv_close(self._handle)
            self._handle = ctypes.c_void_p()


def _convert(settings: dict[str, Any]) -> tuple[_Options, list[Any]]:
    """Return settings as the library takes them, and the memory that they lie in."""
    items = (_Option * len(settings))()
    keep: list[Any] = [items]
    for item, (name, value) in zip(items, settings.items(), strict=True):
        if isinstance(value, str):
            data: Any = ctypes.create_string_buffer(value.encode())
            dtype, count = _UINT8, len(value.encode())
        elif isinstance(value, bool):
            data, dtype, count = ctypes.c_uint8(value), _UINT8, 1
        else:
            data, dtype, count = ctypes.c_int32(value), _INT32, 1
        keep.append(data)
        item.name, item.dtype, item.count = name.encode(), dtype, count
        item.data = ctypes.cast(ctypes.pointer(data), ctypes.c_void_p)
    return _Options(items, len(settings)), keep


def _pointers(arrays: dict[str, np.ndarray]) -> Any:
    """Return the addresses of the arrays' memory."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays.values()))
