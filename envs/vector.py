"""The contract that every vector environment keeps, with the bookkeeping and the state format they share.

Shapes: N environments of this rank. Autoreset is SAME_STEP: the step that ends an episode already returns the first
observation of the next one, and the last observation of the old one is kept in `infos["final_obs"]`.
Environment i has the global index first_index + i, and everything random about it is drawn from streams named by
(seed, global index, purpose, episode): it behaves the same whichever rank owns it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import tokenize
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.family import Family

MAGIC = b"VECENV\x00\x01"
_DIGEST = hashlib.sha256().digest_size
STATE_BYTES = 1 << 26  # of a state's arrays, at most: a compressed state may not fill the memory
HEADER_BYTES = 1 << 20
COUNT = 2**53  # above every count of episodes, steps or seconds
_UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
    SyntaxError,
    zlib.error,
    tokenize.TokenError,
)
_SIZES = 16  # two little-endian 64-bit numbers: bytes of the JSON header, bytes of the arrays before compression


def pack(kind: str, version: int, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Return one environment's state as bytes: magic, SHA-256 of the rest, sizes, JSON header, compressed npy arrays.

    Args:
        kind: which family wrote it, for instance "mario:nes-py".
        version: version of that family's state, raised when its meaning changes.
        header: anything JSON can hold.
        arrays: arrays of numbers; their dtypes and shapes are kept.
    """
    buffer = io.BytesIO()
    for array in arrays.values():
        np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    raw = buffer.getvalue()
    fields = {"kind": kind, "version": version, "arrays": list(arrays), "header": header}
    text = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    body = len(text).to_bytes(8, "little") + len(raw).to_bytes(8, "little") + text + zlib.compress(raw, 1)
    return MAGIC + hashlib.sha256(body).digest() + body


def unpack(
    kind: str, version: int, state: bytes, most: int = STATE_BYTES
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays that `pack` was given.

    Args:
        kind, version: which family and version of it must have written it.
        state: what `pack` returned.
        most: bytes that its arrays can have in all; nothing larger is allocated.

    Raises:
        ValueError: the bytes are not a state, are damaged, or come from another family or version.
    """
    start = len(MAGIC) + _DIGEST
    if not isinstance(state, bytes) or len(state) < start + _SIZES or not state.startswith(MAGIC):
        raise ValueError(f"state: not the saved state of an environment ({type(state).__name__})")
    body = state[start:]
    if hashlib.sha256(body).digest() != state[len(MAGIC) : start]:
        raise ValueError("state: damaged, its checksum does not agree with its contents")
    try:
        return _decode(kind, version, body, most)
    except _UNREADABLE as error:
        if isinstance(error, ValueError) and str(error).startswith("state: "):
            raise
        raise ValueError(f"state: its contents are not those of a state ({error!r:.200})") from None


def _decode(kind: str, version: int, body: bytes, most: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    text_size, raw_size = int.from_bytes(body[:8], "little"), int.from_bytes(body[8:_SIZES], "little")
    if text_size > HEADER_BYTES:
        raise ValueError(f"state: its header takes {text_size} bytes, at most {HEADER_BYTES} are possible")
    fields = json.loads(body[_SIZES : _SIZES + text_size])
    found = (fields["kind"], fields["version"])
    if found != (kind, version):
        raise ValueError(f"state: written by {found[0]} version {found[1]}, expected {kind} version {version}")
    if raw_size > most:
        raise ValueError(f"state: its arrays take {raw_size} bytes, at most {most} are possible")
    raw = zlib.decompressobj().decompress(body[_SIZES + text_size :], raw_size + 1)
    if len(raw) != raw_size:
        raise ValueError(f"state: its arrays take {len(raw)} bytes, expected {raw_size}")
    header, names = fields["header"], fields["arrays"]
    if not isinstance(header, dict) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError("state: its header is not that of a state")
    buffer = io.BytesIO(raw)
    return header, {name: _read_array(buffer) for name in names}


def _read_array(buffer: io.BytesIO) -> np.ndarray:
    """Return the next npy array; what its header claims is checked before anything is allocated."""
    if np.lib.format.read_magic(buffer) != (1, 0):
        raise ValueError("state: an array of another version of npy")
    read_header: Any = np.lib.format.read_array_header_1_0  # numpy 1.26 does not declare max_header_size
    shape, fortran, dtype = read_header(buffer, max_header_size=1024)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or fortran or min(shape, default=0) < 0 or len(shape) > 8:
        raise ValueError(f"state: an array of {dtype} and shape {shape}")
    data = buffer.read(size if size <= STATE_BYTES else -1)
    if len(data) != size:
        raise ValueError(f"state: an array of {size} bytes, there are {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def check_arrays(arrays: dict[str, np.ndarray], **wanted: tuple[Any, tuple[int | None, ...]]) -> None:
    """Raise ValueError unless a state has arrays of these names, each (dtype, shape); None is any length."""
    if set(arrays) != set(wanted):
        raise ValueError(f"state: arrays {sorted(arrays)}, expected {sorted(wanted)}")
    for name, (dtype, shape) in wanted.items():
        found = arrays[name]
        fits = len(found.shape) == len(shape) and all(b in (None, a) for a, b in zip(found.shape, shape, strict=True))
        if found.dtype != dtype or not fits:
            raise ValueError(
                f"state: {name} is {found.dtype} of shape {found.shape}, expected {np.dtype(dtype)} of {shape}"
            )


def check_count(header: dict[str, Any], name: str, high: int = COUNT) -> int:
    """Return a whole number of a state's header, or raise ValueError unless it is in 0..high."""
    value = header.get(name)
    if type(value) is not int or not 0 <= value <= high:
        raise ValueError(f"state: {name} is {value!r:.50}, expected a whole number in 0..{high}")
    return value


def check_number(header: dict[str, Any], name: str) -> float:
    """Return a finite number of a state's header, or raise ValueError."""
    value: Any = header.get(name)
    if type(value) not in (int, float) or not abs(value) < 1e300:
        raise ValueError(f"state: {name} is {value!r:.50}, expected a finite number")
    return float(value)


def episode_of(state: bytes) -> int:
    """Return the number of the episode that a state of any family and version is in, -1 where it does not say."""
    try:
        body = state[len(MAGIC) + _DIGEST :]
        number = json.loads(body[_SIZES : _SIZES + int.from_bytes(body[:8], "little")])["header"]["episode"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return -1
    return number if type(number) is int and 0 <= number < 2**53 else -1


class Episodes:
    """Running sums of the episodes of N environments.

    Attributes:
        ep_ret: (N,) float64, sum of the environment's own rewards.
        train_ret: (N,) float64, sum of the rewards that PPO is shown.
        ep_len: (N,) int64, agent steps.
        number: (N,) int64, number of the current episode, from 0.
    """

    FIELDS = ("env", "episode", "ep_ret", "train_ret", "ep_len", "terminated")

    def __init__(self, num_envs: int, first_index: int) -> None:
        self.first_index = first_index
        self.ep_ret = np.zeros(num_envs, np.float64)
        self.train_ret = np.zeros(num_envs, np.float64)
        self.ep_len = np.zeros(num_envs, np.int64)
        self.number = np.zeros(num_envs, np.int64)

    def add(self, env_reward: np.ndarray, rewards: np.ndarray) -> None:
        """Count one step of every environment; both arrays have shape (N,)."""
        self.ep_ret += env_reward
        self.train_ret += rewards
        self.ep_len += 1

    def begin(self, i: int, number: int) -> None:
        """Clear the sums of environment i (local index), whose episode `number` starts now."""
        self.ep_ret[i] = self.train_ret[i] = 0.0
        self.ep_len[i] = 0
        self.number[i] = number

    def row(self, i: int, terminated: bool) -> dict[str, Any]:
        """Return the flat record of environment i's episode, which ends now."""
        return {
            "env": self.first_index + int(i),
            "episode": int(self.number[i]),
            "ep_ret": float(self.ep_ret[i]),
            "train_ret": float(self.train_ret[i]),
            "ep_len": int(self.ep_len[i]),
            "terminated": bool(terminated),
        }

    def save(self, i: int) -> dict[str, Any]:
        """Return environment i's sums as a JSON-able dict (JSON keeps a float64 exactly)."""
        return {
            "ep_ret": float(self.ep_ret[i]),
            "train_ret": float(self.train_ret[i]),
            "ep_len": int(self.ep_len[i]),
            "episode": int(self.number[i]),
        }

    @staticmethod
    def check(saved: dict[str, Any]) -> None:
        """Raise ValueError unless `saved` holds what `save` returns."""
        for name in ("ep_ret", "train_ret"):
            check_number(saved, name)
        for name in ("ep_len", "episode"):
            check_count(saved, name)

    def load(self, i: int, saved: dict[str, Any]) -> None:
        """Put back what `save` returned, which `check` has let pass."""
        self.ep_ret[i], self.train_ret[i] = saved["ep_ret"], saved["train_ret"]
        self.ep_len[i], self.number[i] = saved["ep_len"], saved["episode"]


class VecEnv(VectorEnv, ABC):
    """N environments, all stepped by one call; the base class of every family in this package.

    `reset` and `step` return observations that may be views of an internal buffer which the next `reset`, `step` or
    `set_state` overwrites: a caller who keeps them copies them. Rewards, flags and infos are the caller's own.

    infos of every step hold
        "env_reward"   (N,) float64, the environment's own reward of this step; `rewards` is what PPO is shown
        "episodes"     list of one flat dict per episode that ended in this step, with the keys `episode_fields`
    and, only where a flag says that an episode ended in this step,
        "final_obs"    (N, *obs) of the observation's dtype, meaningful where
        "_final_obs"   (N,) bool is set
    A family may set `terminated` within an episode too, where the agent shall see no future (a lost life): all of this
    holds there, but for the record, which comes at the episode's end.

    Attributes:
        seed: the seed from which all streams are derived.
        first_index: global index of environment 0.
        spec_dict: JSON-able description of what produced the numbers (id, options, back end, versions).
        episode_fields: keys of an episode's dict, in the order of a table's columns.
        family: the family that it belongs to; `envs.make_vec` sets it.
        alive: called while `set_state` plays an episode again, which may take minutes.
        ends_within_episodes: whether `terminated` may be set within an episode.
        chance_within_episodes: whether random numbers of its own decide what happens after an episode's start.
        learns: whether finished episodes change what comes next: then `learn_from` must be called.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
    spec_dict: dict[str, Any]
    episode_fields: tuple[str, ...] = Episodes.FIELDS
    family: Family
    alive: Callable[[], None] = staticmethod(lambda: None)
    ends_within_episodes: bool = False
    chance_within_episodes: bool = False
    learns: bool = False

    def __init__(self, num_envs: int, seed: int, first_index: int, obs_space: Space, action_space: Space) -> None:
        self.num_envs = num_envs
        self.seed = seed
        self.first_index = first_index
        self.single_observation_space = obs_space
        self.single_action_space = action_space
        self.observation_space = batch_space(obs_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.episodes = Episodes(num_envs, first_index)
        self._started = False

    @abstractmethod
    def _begin(self, i: int, episode: int) -> None:
        """Start episode number `episode` of environment i (local index), sums included, and store its first obs."""

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """Return the current observations (N, *obs)."""

    def start_bytes(self, i: int) -> bytes:
        """Return what tells the start of environment i's episode, which has just begun, from other starts."""
        return self._observe()[i].tobytes()

    def part(self, i: int) -> str | None:
        """Return the id of the environment of which environment i shows a part now, None where it has no parts."""
        return None

    def action_numbers(self, spec: dict[str, Any]) -> np.ndarray:
        """Return, for each action of a policy made for `spec`, the number it has here: (A,) int64.

        Raises:
            ValueError: one of them is none of this environment's, or the environment has no such numbers.
        """
        raise ValueError("env: policies cannot take turns in it")

    def obs_columns(self, spec: dict[str, Any]) -> np.ndarray | None:
        """Return which numbers of an observation here a policy made for `spec` sees: (D,) int64, None for all.

        Raises:
            ValueError: it sees some that are not among them.
        """
        return None

    @abstractmethod
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Apply one action to every environment.

        Args:
            actions: (N,) integers for a Discrete space, (N, A) floats for a Box.

        Returns:
            obs (N, *obs), rewards (N,) float32, terminated (N,) bool, truncated (N,) bool, infos (see the class).

        Raises:
            ValueError: an action of the wrong shape or outside the space.
        """

    @abstractmethod
    def get_state(self) -> list[bytes]:
        """Return one versioned and checksummed blob per environment, from which another process resumes exactly."""

    @abstractmethod
    def set_state(self, states: list[bytes]) -> np.ndarray:
        """Restore what `get_state` returned, of the same seed or another, and return the observations (N, *obs).

        Raises:
            ValueError: bytes that are damaged, foreign, or of another version, environment or set of options.
        """

    def learn_from(self, records: list[dict[str, Any]]) -> None:
        """Learn from finished episodes, for instance where the next ones shall start.

        Called once per epoch where `learns` is set, on every rank with the same records, those of all environments.
        What is learned depends on nothing else, so that it is the same whatever the number of ranks; `get_state` keeps
        it.
        """

    def learned(self) -> dict[str, float]:
        """Return what the last `learn_from` adds to progress.txt: the family's columns `learned`."""
        return {}

    def watch(self, show: Callable[[np.ndarray], None]) -> Callable[[], None]:
        """Let `show` have every picture (H, W, 3) uint8 RGB of environment 0; return what is called after each step.

        Here it is drawn once per step. An emulator passes on each frame that it plays, not only those that the agent
        sees.
        """

        def draw() -> None:
            pictures: Any = self.render()
            show(pictures[0])

        return draw

    def begin_after(self, states: list[bytes]) -> np.ndarray:
        """Begin in each environment the episode after the one in its state, which another environment may have written.

        Where a state cannot be read, the episode after the running one. Returns the observations (N, *obs).
        """
        for i, state in enumerate(states):
            self._begin(i, max(episode_of(state), int(self.episodes.number[i])) + 1)
        self._started = True
        return self._observe()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode everywhere and return (obs, infos).

        The first reset starts episode 0. A later one abandons the running episodes and starts the next ones, unless
        it is given a seed, which replaces the constructor's and starts again from episode 0.
        """
        if options:
            raise ValueError(f"options: {options!r} given to reset, which takes none")
        if seed is not None:
            self.seed = check_integer("seed", seed, 0)
        again = self._started and seed is None
        for i in range(self.num_envs):
            self._begin(i, int(self.episodes.number[i]) + 1 if again else 0)
        self._started = True
        infos: dict[str, Any] = {"env_reward": np.zeros(self.num_envs, np.float64), "episodes": []}
        return self._observe(), infos

    def _check_actions(self, actions: np.ndarray, count: int) -> np.ndarray:
        """Return discrete actions as (N,) int64, all of them in [0, count)."""
        if not self._started:
            raise ValueError("step: call reset or set_state first")
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"actions: shape {array.shape} of {array.dtype}, expected ({self.num_envs},) integers")
        numbers = array.astype(np.int64)
        if np.count_nonzero(numbers.view(np.uint64) >= count):  # a negative number is a huge one there
            raise ValueError(f"actions: {array.min()}..{array.max()}, expected 0..{count - 1}")
        return numbers

    def _header(self, i: int) -> dict[str, Any]:
        """Return what every family's state says about environment i: its stream's name, its sums, what it is."""
        if not self._started:
            raise ValueError("get_state: call reset or set_state first")
        name = {"seed": self.seed, "index": self.first_index + i}
        return {**name, **self.episodes.save(i), "identity": self.identity()}

    @property
    def shows_images(self) -> bool:
        """Whether an observation is a picture (C, H, W)."""
        return len(self.single_observation_space.shape or ()) == 3

    def identity(self) -> dict[str, Any]:
        """Return spec_dict as JSON gives it back, without the options that cannot change a result."""
        spec = json.loads(json.dumps(self.spec_dict))
        spec["options"].pop("threads", None)
        return spec

    def _open(
        self, kind: str, version: int, states: list[bytes], most: int = STATE_BYTES
    ) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        """Unpack one state per environment, check that they belong here, and take over their seed.

        What `_check_state` of the family does not let pass is refused too.

        Raises:
            ValueError: see `set_state`. Nothing has changed then.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"states: {len(states)} given, expected one for each of {self.num_envs} environments")
        parts = [unpack(kind, version, state, most) for state in states]
        for i, (header, arrays) in enumerate(parts):
            self._check_identity(header.get("identity"))
            if check_count(header, "index") != self.first_index + i:
                raise ValueError(f"state: of environment {header['index']}, expected {self.first_index + i}")
            if check_count(header, "seed", 2**63) != parts[0][0]["seed"]:
                raise ValueError(f"state: seeds {parts[0][0]['seed']} and {header['seed']}, expected one seed for all")
            Episodes.check(header)
            self._check_state(header, arrays)
        self.seed = parts[0][0]["seed"]
        self._started = True
        return parts

    def _check_identity(self, saved: Any) -> None:
        identity = self.identity()
        if not isinstance(saved, dict):
            raise ValueError("state: it does not say what it is of")
        for name in identity | saved:
            if saved.get(name) != identity.get(name):
                raise ValueError(f"state: its {name} is {saved.get(name)!r:.300}, expected {identity.get(name)!r:.300}")

    def _check_state(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Raise ValueError unless the family's own part of a state has the names, types and sizes that it writes."""


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return `value` as an int in [low, high], or raise a ValueError that names the argument."""
    integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integral or value < low or (high is not None and value > high):
        bound = f">= {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name}: {value!r}, expected an integer {bound}")
    return int(value)
