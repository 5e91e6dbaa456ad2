"""What a family of environments declares about itself, once: `FAMILY = Family(...)` in its module.

From it come the flags of `ppo.run`, the checks of their values, the presets, the columns of progress.txt, and what an
evaluation uses. A family needs one module and one row in `envs.FAMILIES`; one that lives outside this package needs no
row: `--env MODULE:Id-v0` imports MODULE and takes its `FAMILY`. `envs/echo.py` is the smallest example.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.columns import Column
from utils.settings import Setting


@dataclass(frozen=True, kw_only=True)
class Option(Setting):
    """One option of a family's environments, see `Setting`.

    Attributes:
        portable: whether a policy's file may set it. Files come from strangers: nothing that names code or a path.
        confirmed: what an evaluation must know, but does not believe a file about: the user says it again.
        training_only: evaluations leave it at its default.
        ids: shell pattern of the ids that take it; a policy's file says nothing about it to the others.
        tests: the option in whose place its value stands where a policy is tested on what it was not trained on; "".
    """

    portable: bool = False
    confirmed: bool = False
    training_only: bool = False
    ids: str = "*"
    tests: str = ""


# Options that several families have; a family with more to say about one has `replace(SKIP, help=...)`.
MAX_STACK = 16
SKIP = Option("skip", 4, "frames per step", at_least=1, at_most=60, portable=True)
STACK = Option("stack", 4, "frames in an observation", at_least=1, at_most=MAX_STACK, portable=True)
THREADS = Option(
    "threads", 1, "threads of each rank that step its environments", at_least=1, at_most=256, affects="nothing"
)
MAX_EPISODE_STEPS = Option(
    "max_episode_steps",
    None,
    "cut (truncate) episodes after this many steps",
    kind=int,
    optional=True,
    at_least=1,
    portable=True,
)


@dataclass(frozen=True)
class Preset:
    """Settings to start from, of the algorithm and of the family's environments, and where the numbers come from.

    Attributes:
        name: one word.
        source: where the numbers come from.
        settings: by name; every other one keeps its default.
        only: the ids that it is made for, as shell patterns such as "Hopper-v*"; empty for all of the family's.
    """

    name: str
    source: str
    settings: Mapping[str, Any]
    only: tuple[str, ...] = ()


def _no_check(env_id: str, options: dict[str, Any]) -> dict[str, Any]:
    return options


def _no_parts(env_id: str) -> bool:
    return False


def _none_drawn(env_id: str) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of environments.

    Attributes:
        name: one word, such as "mario".
        known: whether an id is one of the family's; imports no simulator.
        ids: all ids, or as many as can be listed.
        make: "module:callable", imported when an environment is built and called as
            make(env_id, num_envs, seed, first_index, options); returns an `envs.vector.VecEnv`.
        draw: "module:callable" for an environment to look at, called as draw(env_id, seed, options): `render` of what
            it returns gives a picture, and `metadata["render_fps"]` says how many to a second. None where what `make`
            returns can do that, or nothing can.
        options: what `make` is given beside ids and numbers, each with its bounds.
        check: called as check(env_id, options) with every option filled in and within its bounds; returns the options
            that `make` gets; raises ValueError for what bounds cannot say. Imports no simulator.
        presets: its own; `presets_of` puts them in order.
        defaults: settings of the algorithm that hold for this family under presets that do not mention them.
        columns: of progress.txt, each the mean of `field` over the finished episodes' records.
        episode_columns: of episodes.csv, beside those that every family has: keys of an episode's record.
        learned, learned_episode_columns: of both tables, what environments which learn add, see `VecEnv.learn_from`.
        evaluated: names of those columns that an evaluation reports too, as Eval + name, a test as Test + name.
        evaluation: options with which policies are evaluated unless others are asked for: what disturbs an episode, so
            that a policy which knows one way by heart is not taken for one that plays. A run's own evaluations use
            each of them, or its own value where that disturbs more, see `Family.disturbed`.
        best_by: name of the column that decides, before the return does, which policy is the best; None for the
            return alone.
        has_parts: whether an id is that of a game whose parts policies of their own can play, see `VecEnv.part`.
        drawn_parts: keys of an episode's record, whole numbers, that name the part of the game which an id draws for
            each episode; a report then counts each part apart. None where nothing is drawn.
        plays_as: emulators and versions, as an environment's identity names them -> those that they are proven to
            equal: a comparison takes both for the same.
        spec: entries of an environment's `spec_dict` in which a saved policy's file must agree.
    """

    name: str
    known: Callable[[str], bool]
    ids: Callable[[], list[str]]
    make: str
    draw: str | None = None
    options: tuple[Option, ...] = ()
    check: Callable[[str, dict[str, Any]], dict[str, Any]] = _no_check
    presets: tuple[Preset, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Column, ...] = ()
    episode_columns: tuple[Column, ...] = ()
    learned: tuple[Column, ...] = ()
    learned_episode_columns: tuple[Column, ...] = ()
    evaluated: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    best_by: str | None = None
    has_parts: Callable[[str], bool] = _no_parts
    drawn_parts: Callable[[str], tuple[str, ...]] = _none_drawn
    plays_as: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """See that what names a column or an option names one of the family's. Raises ValueError."""
        columns = {column.name for column in (*self.columns, *self.learned)}
        options = {option.name for option in self.options}
        for what, named, known in (
            ("evaluated", self.evaluated, columns),
            ("best_by", (self.best_by,) if self.best_by else (), columns),
            ("evaluation", self.evaluation, options),
        ):
            if unknown := sorted(set(named) - known):
                raise ValueError(f"family {self.name}: {what} names {unknown[0]!r}, expected some of {sorted(known)}")
        if missing := [column.name for column in self.columns if column.field is None]:
            raise ValueError(f"family {self.name}: column {missing[0]} does not say of which field it is the mean")

    def presets_of(self, env_id: str) -> tuple[Preset, ...]:
        """Return the presets for an id, the default first: those made for it come before those for all ids."""
        name = env_id.rpartition(":")[2]
        made_for = [p for p in self.presets if any(fnmatch.fnmatchcase(name, pattern) for pattern in p.only)]
        return (*made_for, *(preset for preset in self.presets if not preset.only))

    def disturbed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a run's options as its evaluations have them: nowhere less disturbed than `evaluation` says.

        Of two numbers the larger disturbs more, of two choices the one that stands later among the option's `choices`.
        """
        known = {option.name: option for option in self.options}
        stronger = {
            name: max(value, options.get(name, value), key=known[name].choices.index if known[name].choices else None)
            for name, value in self.evaluation.items()
        }
        return {**options, **stronger}

    @property
    def best_field(self) -> str | None:
        """Key of an episode's record that `best_by` is the mean of."""
        return next((column.field for column in self.columns if column.name == self.best_by), None)

    @property
    def evaluated_fields(self) -> dict[str, str]:
        """What an evaluation reports: a column without Eval or Test -> key of the records that it is the mean of."""
        own = {column.name: str(column.field) for column in self.columns if column.name in self.evaluated}
        return {"EpRet": "ep_ret", "EpLen": "ep_len", **own}

    def tested(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the options that are others where a run's policy is tested, None where it is tested on nothing."""
        named = {option.tests: options.get(option.name) for option in self.options if option.tests}
        return {name: value for name, value in named.items() if value is not None} or None
