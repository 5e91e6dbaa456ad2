"""What every column of a run's files means: one table, from which plots, reports and `data/README.md` are made.

A family of environments declares the columns of its episodes with the same class; `config.json` keeps them, so that a
plot knows them without knowing the family.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of `progress.txt` or `episodes.csv`.

    Attributes:
        name: as it stands in the file.
        meaning: one sentence, without a full stop.
        unit: "" for a plain number; "%" for a share between 0 and 1 that is shown in percent.
        look_for: what a healthy run shows there, and what should worry; "" where there is nothing to say.
        low, high: bounds that no value can leave; None where there is none.
        field: of a family's column of `progress.txt`: the key of an episode's record of which it is the mean.
    """

    name: str
    meaning: str
    unit: str = ""
    look_for: str = ""
    low: float | None = None
    high: float | None = None
    field: str | None = None
