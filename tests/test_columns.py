"""The one table of columns, and the page that is made from it: `python -m tests.test_columns` writes the page anew."""

from __future__ import annotations

from pathlib import Path

import envs.mario
from envs.vector import Episodes
from tests.run_folders import write_run
from utils import columns
from utils.analysis import older_runs, runs
from utils.columns import Column

PAGE = Path(__file__).resolve().parents[1] / "data" / "README.md"
MARK = "<!-- generated: do not edit below this line -->\n"


def generated() -> str:
    """Return the part of data/README.md that is made from the tables."""
    parts = {
        "### `progress.txt`": tuple(columns.PROGRESS.values()),
        "### `episodes.csv`": (*columns.EPISODES.values(),),
    }
    for family in envs.families():
        parts[f"### `progress.txt` of the family `{family.name}`"] = family.columns
        parts[f"### `progress.txt` of `{family.name}` while its environments learn"] = family.learned
        parts[f"### `episodes.csv` of the family `{family.name}`"] = family.episode_columns
        parts[f"### `episodes.csv` of `{family.name}` while its environments learn"] = family.learned_episode_columns
    return "".join(f"\n{title}\n\n{columns.markdown(table)}" for title, table in parts.items() if table)


def written(page: str) -> str:
    """Return the page with its generated part made anew."""
    return page[: page.index(MARK) + len(MARK)] + generated()


def test_the_page_says_what_the_tables_say():
    page = PAGE.read_text()
    assert page == written(page), "run `python -m tests.test_columns`"


def test_what_runs_write_is_in_the_tables():
    """No column of a run in data/results, and no field of an episode, is missing."""
    logs = sorted((PAGE.parent / "results").rglob("progress.txt"))
    names = {name for path in logs for name in path.open().readline().rstrip("\n").split("\t")}
    own = {column.name: column for family in envs.families() for column in (*family.columns, *family.learned)}
    assert len(logs) > 10 and all(columns.find_column(name, own).meaning for name in names), names
    assert tuple(columns.EPISODES) == ("epoch", "steps", *Episodes.FIELDS)


def test_folders_of_earlier_versions_are_drawn_as_new_ones_are():
    for column in envs.mario.FAMILY.columns:
        old = older_runs.COLUMNS[column.name]
        assert (old.axis, old.unit, old.low, old.high) == (column.axis, column.unit, column.low, column.high)
        assert old.success == column.success and (old.field == column.field or not old.success)
    assert envs.mario.FAMILY.plays_as == older_runs.PLAYS_AS
    for env_id in ("SuperMarioBrosRandomStages-v0", "SuperMarioBros-1-1-v0", "SuperMarioBros-v0"):
        assert older_runs.drawn_parts(env_id) == [*envs.mario.FAMILY.drawn_parts(env_id)]


def test_every_column_has_a_meaning_a_label_and_possible_bounds():
    for column in (*columns.PROGRESS.values(), *envs.mario.FAMILY.columns):
        assert column.meaning and not column.meaning.endswith(".") and column.label, column
        assert column.low is None or column.high is None or column.low < column.high
        assert column.look_for == "" or column.look_for.endswith("."), column
        assert "|" not in column.meaning + column.unit + column.look_for, "it stands in a table of Markdown"


def test_names_that_follow_from_others():
    assert columns.find_column("EvalEpRet").label == "Episode return, evaluation"
    assert columns.find_column("EvalClearRate", older_runs.COLUMNS).high == 1
    assert (
        columns.find_column("XMax100", older_runs.COLUMNS).label == "Furthest x, last 100"
        and columns.find_column("XMax100", older_runs.COLUMNS).low == 0
    )
    assert columns.find_column("EpRet100") is columns.PROGRESS["EpRet100"]
    assert (
        columns.find_column("Reward100") == Column("Reward100", "")
        and columns.find_column("Reward100").axis == "Reward100"
    )
    assert columns.find_column("StopIter").meaning == "optimiser steps of the actor in this epoch"


def test_a_run_names_the_columns_of_its_family(tmp_path):
    """What config.json declares is used, what is malformed in it is not."""
    good = {"name": "Fuel", "meaning": "fuel that is left", "unit": "litres", "low": 0, "high": 50.5, "label": "Fuel"}
    bad = ["Fuel", {"name": 3}, {"name": "a b"}, {"name": "X", "low": 2, "high": 1}, {"name": "Y", "low": 1e999}, None]
    run = runs.read_run(write_run(tmp_path, "a", 0, columns=[good, *bad]))
    own = runs.declared_columns(run)
    assert own == {
        "Fuel": Column("Fuel", "fuel that is left", "litres", low=0, high=50.5, label="Fuel"),
        "X": Column("X", ""),
        "Y": Column("Y", ""),
    }
    assert columns.find_column("Fuel100", own).axis == "Fuel, last 100 (litres)"
    assert runs.declared_columns(runs.read_run(write_run(tmp_path, "b", 0, columns={"name": "Fuel"}))) == {}
    assert columns.find_column("KL", {"KL": Column("KL", "something else")}) is columns.PROGRESS["KL"]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
