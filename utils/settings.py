"""One setting: its default, kind, bounds and help in one place, from which its check and its flag are made.

The algorithm's settings (`ppo/config.py`) and the options of a family of environments (`envs/family.py`) are both
described with this class. Knows neither of them.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

# What a setting can change; from this follows where two runs may differ in it (`ppo.config`).
AFFECTS = {
    "result": "another value is another experiment",
    "seed": "another draw of the same experiment",
    "length": "how long the run is, and through it the schedules that fall over the run",
    "detail": "rounding, or what is recorded: the same experiment, but a resumed run keeps its value",
    "nothing": "places, speed, saving: a resumed run may change it",
}
# Keys of a run's config.json that are not settings.
FACTS = frozenset(
    "world_size spec commit versions processor mpi torch_threads resolved_device resolved_precision arithmetic "
    "instructions num_epochs lengths resumed_at_epochs fresh_episodes_at_epochs mismatch free_settings columns "
    "drawn_parts plays_as".split()
)
_KINDS: dict[type, tuple[str, Any]] = {
    int: ("an integer", (int, np.integer)),
    float: ("a number", (int, float, np.integer, np.floating)),
    bool: ("true or false", (bool,)),
    str: ("a text", (str,)),
    list: ("a list", (list, tuple)),
    dict: ("a table of JSON", (dict,)),
    object: ("a value", (object,)),
}


@dataclass(frozen=True)
class Setting:
    """A named value that a user may choose.

    Attributes:
        name: as in Python and in config.json; the flag has - for _.
        default: value where nobody chose one.
        help: what it is, in a few words.
        kind: int, float, bool, str, list (on the command line JSON, or words with commas between), dict (JSON), or
            object for what only its owner can check. Left out, it is the default's, or str where that is None.
        optional: whether None is a value; "none" on the command line.
        at_least, above, at_most, below: bounds of a number; `above` and `below` exclude the bound itself.
        choices: the texts that are allowed; empty for any.
        affects: one of AFFECTS.
    """

    name: str
    default: Any
    help: str
    _: KW_ONLY
    kind: type = type(None)
    optional: bool = False
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    affects: str = "result"

    def __post_init__(self) -> None:
        if self.kind is type(None):
            object.__setattr__(self, "kind", str if self.default is None else type(self.default))
        if self.affects not in AFFECTS or self.kind not in _KINDS:
            raise ValueError(f"{self.name}: affects {self.affects!r}, kind {self.kind!r}, expected one of each table")

    def accepts(self, value: Any) -> bool:
        """Return whether the value is allowed."""
        if value is None:
            return self.optional
        if not isinstance(value, _KINDS[self.kind][1]) or (isinstance(value, bool) and self.kind in (int, float)):
            return False
        if self.choices:
            return value in self.choices
        if isinstance(value, float) and not math.isfinite(value):
            return False
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    @property
    def allowed(self) -> str:
        """What is allowed, in words: "an integer >= 1", "a number in [0, 1) or none"."""
        if self.choices:
            return "one of " + ", ".join(self.choices) + (" or none" if self.optional else "")
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        words = _KINDS[self.kind][0]
        if low is not None and high is not None and self.kind is int:
            words += f" in {low}..{high}"
        elif low is not None and high is not None:
            words += f" in {'[' if self.above is None else '('}{low}, {high}{']' if self.below is None else ')'}"
        elif low is not None:
            words += f" >= {low}" if self.above is None else f" > {low}"
        elif high is not None:
            words += f" <= {high}" if self.below is None else f" < {high}"
        return words + (" or none" if self.optional else "")

    @property
    def flag(self) -> str:
        """The flag on a command line."""
        return "--" + self.name.replace("_", "-")

    def read(self, text: str) -> Any:
        """Return the value that a word of a command line stands for.

        Raises:
            argparse.ArgumentTypeError: it stands for none of this kind; bounds are not checked here.
        """
        if self.optional and text.lower() == "none":
            return None
        try:
            if self.kind is list and not text.lstrip().startswith("["):
                return text.split(",")
            if self.kind in (list, dict):
                return json.loads(text)
            return text if self.kind in (str, object) else self.kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}, expected {self.allowed}") from None

    def word(self, value: Any) -> list[str]:
        """Return the words of a command line that set this value: what `read` takes back."""
        if self.kind is bool:
            return [self.flag if value else "--no-" + self.flag[2:]]
        if value is None:
            return [self.flag, "none"]
        text = value if isinstance(value, str) else json.dumps(value)
        return [f"{self.flag}={text}"] if text.startswith("-") else [self.flag, text]

    def add_flag(self, group: argparse._ArgumentGroup, shown: Any) -> None:
        """Give a parser the flag; it leaves no trace where it is not used. `shown` is the default in its help."""
        text = self.help
        if "default:" not in text:
            words = {None: "none", True: "on", False: "off"}
            text += f" (default {words[shown] if shown is None or isinstance(shown, bool) else shown})"
        text = text.replace("%", "%%")
        if self.kind is bool:
            group.add_argument(self.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
            return
        group.add_argument(self.flag, type=self.read, default=argparse.SUPPRESS, metavar=self.metavar, help=text)

    @property
    def metavar(self) -> str:
        """What stands for the value in a help."""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        word = self.kind.__name__.upper()
        return {"OBJECT": "VALUE", "LIST": "A,B,...", "DICT": "JSON"}.get(word, word)
