"""`train()` as a library call: it raises, calls back, and leaves the process as it was."""

import csv
import json
import signal
import threading
import warnings

import pytest
import torch

from ppo import config
from ppo.networks import NETWORKS, mlp
from ppo.run import train
from utils.folder import Refused

TINY = {
    "env": "Echo-v0", "num_envs": 4, "steps_per_epoch": 128, "minibatch_size": 128, "train_pi_iters": 1,
    "train_v_iters": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


def test_a_callback_sees_every_row_and_can_end_the_run(tmp_path):
    """It is given what progress.txt is given, after each epoch; the run that it ends is finished and complete."""
    seen = []

    def on_epoch(row):
        seen.append(row)
        return row["Epoch"] == 2

    folder = train(config.build(**TINY, epochs=9, data_dir=str(tmp_path)), on_epoch=on_epoch)
    with (folder / "progress.txt").open() as file:
        written = [float(row["LossV"]) for row in csv.DictReader(file, delimiter="\t")]
    assert [row["LossV"] for row in seen] == written and len(written) == 3
    assert json.loads((folder / "exit.json").read_text())["reason"] == "finished"
    assert list((folder / "checkpoints").glob("step_*"))


def test_what_cannot_be_trained_is_refused_and_nothing_is_written(tmp_path):
    """A network that does not fit raises Refused, a ValueError, before there is a folder."""
    with pytest.raises(Refused, match=r"network 'nature' does not take observations of shape \(4,\)"):
        train(config.build(**TINY, network="nature", data_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_call_leaves_nothing_behind(tmp_path, monkeypatch):
    """The watchdog's thread has ended, warnings and torch's threads are as they were, and the folder is free."""
    cfg = config.build(**TINY, epochs=2, data_dir=str(tmp_path))

    def fail(row):
        warnings.warn("not heard during a run", stacklevel=1)
        raise KeyError("mine")

    filters, torch_threads = list(warnings.filters), torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(KeyError, match="mine"):
        train(cfg, on_epoch=fail)
    assert torch.get_num_threads() == 2 and warnings.filters == filters
    torch.set_num_threads(torch_threads)
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    assert json.loads((cfg.run_dir / "exit.json").read_text())["reason"] == "error: KeyError: 'mine'"
    train(cfg, resume=True)


def test_threads_that_are_no_number_are_refused(tmp_path, monkeypatch):
    """OMP_NUM_THREADS=0 is named."""
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    with pytest.raises(Refused, match="OMP_NUM_THREADS"):
        train(config.build(**TINY, data_dir=str(tmp_path)))


def my_network(obs_shape):
    """A user's own network: the one of vectors, under another name."""
    return mlp(obs_shape)


def test_a_network_of_ones_own(tmp_path):
    """MODULE:FUNCTION trains, evaluates while it trains, and equals the network that the function returns."""
    same = {"epochs": 1, "data_dir": str(tmp_path), "eval_every": 1, "eval_episodes": 4}
    rows = []
    for network in ("mlp", "tests.test_library:my_network"):
        cfg = config.build(**TINY | same, network=network, exp_name=network.partition(":")[0].rpartition(".")[2])
        train(cfg, on_epoch=rows.append)
    assert rows[0]["LossPi"] == rows[1]["LossPi"] and "tests.test_library:my_network" not in NETWORKS
    with pytest.raises(Refused, match="network 'tests.test_library:nothing' cannot be loaded"):
        train(config.build(**TINY, network="tests.test_library:nothing", data_dir=str(tmp_path / "no")))


def test_ctrl_c_before_the_first_epoch_is_an_exception(tmp_path):
    """As a notebook needs it: KeyboardInterrupt, and not the end of the process."""
    from utils.watchdog import StopSignals

    with StopSignals(ends_process=False), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
