"""The rows of progress.txt elsewhere: JSON lines; TensorBoard and Weights & Biases, in groups, with the settings."""

import ast
import importlib.machinery
import importlib.util
import json
import math
import sys
import types

import numpy as np
import pytest

from envs.mario import FAMILY
from ppo import config
from ppo.run import train
from tests.same_logs import rows
from tests.test_structure import FILES, imports
from utils import columns, sinks
from utils.logger import EpochLogger
from utils.video import VideoFile


def module(name, **content):
    """A module that stands in for one that is not installed."""
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(made).update(content)
    return made


class Calls:
    """Notes every call of every method."""

    def __init__(self, *args, **kwargs):
        self.calls = [("init", args, kwargs)]

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def of(self, name):
        return [(args, kwargs) for called, args, kwargs in self.calls if called == name]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("AverageEpRet", "rollout"),
        ("ClearRate100", "rollout"),
        ("XMax", "rollout"),
        ("EvalEpRet", "eval"),
        ("LossPi", "train"),
        ("DeltaLossV", "train"),
        ("AverageVVals", "train"),
        ("KL", "train"),
        ("Time", "time"),
        ("TimeWaitUpdate", "time"),
        ("StepsPerSecond", "time"),
        ("MemoryMB", "time"),
        ("Epoch", "time"),
    ],
)
def test_every_column_has_a_group(name, group):
    """Those of episodes, of evaluations, of the update, of the clock; a family's own are of episodes."""
    assert columns.group(name) == group
    assert {columns.group(column.name) for column in (*FAMILY.columns, *FAMILY.learned)} == {"rollout"}


def test_weights_and_biases_gets_rows_settings_and_films(tmp_path, monkeypatch):
    """Offline, into the run's folder, under the steps; a run is known by its folder's name, and resumed."""
    run, begun = Calls(), []
    fake = module("wandb", init=lambda **kwargs: begun.append(kwargs) or run, Video=lambda path, format: (path, format))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folder = train(config.build(env="Echo-v0", epochs=2, wandb="offline", data_dir=str(tmp_path)))
    assert (
        begun[0]["mode"] == "offline"
        and begun[0]["dir"] == str(folder)
        and begun[0]["id"].startswith(f"{folder.name}-")
    )
    assert begun[0]["config"]["env"] == "Echo-v0" and run.of("finish")
    logged = run.of("log")
    assert len(logged) == len(rows(folder)[1]) == 2
    (numbers,), where = logged[1]
    assert where == {"step": numbers["time/TotalEnvInteracts"]} and {"rollout/AverageEpRet", "train/KL"} <= set(numbers)
    sink = sinks.WeightsAndBiases(folder, {}, "offline")
    sink.film(folder / "videos" / "epoch_00001.mp4", 7)
    assert run.of("log")[-1] == (({"rollout/video": (str(folder / "videos" / "epoch_00001.mp4"), "mp4")},), {"step": 7})


def test_tensorboard_gets_groups_and_settings(tmp_path, monkeypatch):
    """Scalars under rollout/, train/ and time/, the settings as a table."""
    writers = []

    def writer(folder, purge_step):
        assert purge_step == 1
        writers.append(Calls(folder))
        return writers[-1]

    monkeypatch.setitem(sys.modules, "tensorboard", module("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module("tensorboard", SummaryWriter=writer))
    train(config.build(env="Echo-v0", epochs=2, tensorboard=True, data_dir=str(tmp_path)))
    names = [args[0] for args, _ in writers[0].of("add_scalar")]
    assert {name.split("/")[0] for name in names} == {"rollout", "train", "time"} and "train/LossPi" in names
    assert '| env | `"Echo-v0"` |' in writers[0].of("add_text")[0][0][1] and writers[0].of("close")


def test_tensorboard_shows_a_film_as_a_moving_picture(tmp_path):
    """An event file holds the GIF under the steps; a reader of its own finds it."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    film = VideoFile(tmp_path / "film.mp4", fps=20)
    for i in range(40):
        film.show(np.full((48, 64, 3), 6 * i, dtype=np.uint8), "")
    film.close()
    sink = sinks.TensorBoard(tmp_path, {}, 0)
    sink.film(tmp_path / "film.mp4", 7)
    sink.close()
    (image,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("rollout/video")
    assert (image.step, image.width, image.height) == (7, 64, 48)
    assert image.encoded_image_string.startswith(b"GIF89a")


def test_both_are_optional(tmp_path):
    """Without the package the setting is refused; only utils/sinks.py imports either, and inside a function."""
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(ValueError, match="pip install wandb"):
            config.build(wandb="offline")
    for path in FILES:
        used = {name for name in imports(path) if name.split(".")[0] == "wandb" or "tensorboard" in name}
        assert not used or path.name == "sinks.py", path
    top = ast.parse((FILES[0].parent.parent / "utils" / "sinks.py").read_text()).body
    assert not any("wandb" in ast.dump(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom))


def lines(folder):
    """The rows of progress.jsonl; a constant that JSON does not have is refused."""
    text = (folder / "progress.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in text.splitlines()]


def agree(folder):
    """Whether progress.jsonl says what progress.txt does, cell by cell; what is not finite is null."""
    heading, *table = [line.split("\t") for line in (folder / "progress.txt").read_text().splitlines()]
    found = lines(folder)
    said = [[None if cell in ("", "inf") else json.loads(cell) for cell in row] for row in table]
    return [list(row.values()) for row in found] == said and all(list(row) == heading for row in found)


def test_json_lines_are_the_rows_and_are_resumed(tmp_path):
    """Same columns, null for an empty cell; cut and resumed as the others are; made whole where asked for later."""
    settings = {"env": "Echo-v0", "eval_every": 2, "eval_episodes": 2, "data_dir": str(tmp_path), "save_every": 2}
    folder = train(config.build(**settings, epochs=2, json_lines=True))
    first = lines(folder)
    assert agree(folder) and first[0]["EvalEpRet"] is None and isinstance(first[1]["EvalEpRet"], float)
    assert [row["Epoch"] for row in first] == [0, 1] and type(first[0]["TotalEnvInteracts"]) is int
    with (folder / "progress.jsonl").open("a") as file:
        file.write('{"Epoch": 2, "Ti')  # a torn line, and rows later than the checkpoint
    train(config.build(**settings, epochs=4), resume=True)  # it is there, so it goes on
    assert agree(folder) and lines(folder)[:2] == first and len(lines(folder)) == 4
    (folder / "progress.jsonl").unlink()
    train(config.build(**settings, epochs=5), resume=True)
    assert not (folder / "progress.jsonl").exists()
    train(config.build(**settings, epochs=6, json_lines=True), resume=True)
    assert agree(folder) and len(lines(folder)) == 6


def test_json_has_no_infinity_and_waits_for_room(tmp_path, monkeypatch):
    """NaN and infinities are null; after a full disk no line is torn or lost."""
    logger = EpochLogger(tmp_path, (), json_lines=True)
    for name, value in (("Epoch", 0), ("KL", math.inf), ("Time", math.nan), ("Done", True), ("EpRet", 0.1)):
        logger.log(name, value)
    logger.dump()
    assert lines(tmp_path) == [{"Epoch": 0, "KL": None, "Time": None, "Done": 1, "EpRet": 0.1}]

    def full(*args):
        raise OSError("No space")

    row = dict.fromkeys(("Epoch", "KL", "Time", "Done", "EpRet"), 1)
    with monkeypatch.context() as patch:
        patch.setattr("utils.logger.os.fsync", full)
        logger._row = dict(row)
        with pytest.raises(OSError, match="No space"):
            logger.dump()
        assert len(lines(tmp_path)) == 1
    logger._row = row
    logger.dump()
    logger.close()
    assert lines(tmp_path)[1:] == [row, row] and agree(tmp_path)


def test_a_link_in_the_place_of_json_lines_is_refused(tmp_path):
    """As one in the place of any other file of a run: nothing is written through it."""
    settings = {"env": "Echo-v0", "data_dir": str(tmp_path), "json_lines": True}
    folder = train(config.build(**settings, epochs=1))
    (folder / "progress.jsonl").unlink()
    (folder / "progress.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"progress.jsonl"):
        train(config.build(**settings, epochs=2), resume=True)
    assert not (tmp_path / "elsewhere").exists()
