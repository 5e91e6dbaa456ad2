"""`train()` as a library call: it raises, calls back, and leaves the process as it was."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from envs.echo import EchoVec
from ppo import build, config, ppo
from ppo.compute.networks import FastActorCritic
from ppo.networks import NETWORKS, ActorCritic, mlp
from ppo.recorder import Recorder
from ppo.run import train
from ppo.training import Interrupted
from tests.conftest import ROOT, run
from utils.folder import Refused

TINY = {
    "env": "Echo-v0",
    "num_envs": 4,
    "steps_per_epoch": 128,
    "minibatch_size": 128,
    "train_pi_iters": 1,
    "train_v_iters": 1,
}


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


def test_a_signal_that_comes_during_an_update_is_answered_at_once(tmp_path, capsys, monkeypatch):
    """The run saves only at the epoch's end, which may take a while: it says that it has heard."""
    steps = iter(range(100))

    def step(*args):
        if next(steps) == 0:
            signal.raise_signal(signal.SIGTERM)
        return taken(*args)

    taken = ppo.take_steps
    monkeypatch.setattr(ppo, "take_steps", step)
    with pytest.raises(Interrupted):
        train(config.build(**TINY | {"train_pi_iters": 4}, epochs=3, data_dir=str(tmp_path)))
    said = [line for line in capsys.readouterr().out.splitlines() if "SIGTERM" in line]
    assert said[0] == "SIGTERM: the run stops when this epoch can be saved"
    assert said[1].startswith("SIGTERM: saved. Continue with") and len(said) == 2


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
    for more, words in (
        ({"steps_per_epoch": 2**40, "minibatch_size": 2**40}, "Unable to allocate"),
        ({"data_dir": "x" * 300}, "File name too long"),
    ):
        with pytest.raises(Refused, match=words):
            train(config.build(**TINY | {"data_dir": str(tmp_path)} | more))
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


@pytest.mark.parametrize("words", ["0", "-1", "two", "\u00b2", "9" * 20, "9" * 5000])
def test_threads_that_are_no_number_are_refused(tmp_path, monkeypatch, words):
    """OMP_NUM_THREADS=0 is named."""
    monkeypatch.setenv("OMP_NUM_THREADS", words)
    with pytest.raises(Refused, match="OMP_NUM_THREADS"):
        train(config.build(**TINY, data_dir=str(tmp_path)))


def my_network(obs_shape):
    """A user's own network: the one of vectors, under another name."""
    return mlp(obs_shape)


def test_environments_are_closed_where_the_learners_cannot_be_built(tmp_path, monkeypatch):
    """Those of Mario have threads."""
    closed = []
    monkeypatch.setattr(build, "build_learners", lambda *_: 1 / 0)
    monkeypatch.setattr(EchoVec, "close", lambda env: closed.append(env))
    with pytest.raises(ZeroDivisionError):
        train(config.build(**TINY, epochs=1, data_dir=str(tmp_path)))
    assert len(closed) == 1


def test_a_table_that_cannot_be_closed_keeps_nothing_else_open(tmp_path, monkeypatch):
    """The run's other files are closed and the folder is given back, so that the run can go on."""
    sink = types.SimpleNamespace(row=lambda _: None, close=lambda: 1 / 0)
    monkeypatch.setattr(Recorder, "_sinks", lambda *_: [sink])
    train_once = config.build(**TINY, epochs=1, data_dir=str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError):
        train(train_once)
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    train(config.build(**TINY, epochs=2, data_dir=str(tmp_path)), resume=True)


def test_a_network_of_ones_own(tmp_path):
    """MODULE:FUNCTION trains, evaluates while it trains, and equals the network that the function returns."""
    same = {"epochs": 1, "data_dir": str(tmp_path), "eval_every": 1, "eval_episodes": 4}
    rows = []
    for network in ("mlp", "tests.test_library:my_network"):
        cfg = config.build(**TINY | same, network=network, exp_name=network.partition(":")[0].rpartition(".")[2])
        train(cfg, on_epoch=rows.append)
    assert rows[0]["LossPi"] == rows[1]["LossPi"] and "tests.test_library:my_network" not in NETWORKS
    with pytest.raises(Refused, match="network: 'tests.test_library:nothing' cannot be loaded"):
        train(config.build(**TINY, network="tests.test_library:nothing", data_dir=str(tmp_path / "no")))


def test_ctrl_c_before_the_first_epoch_is_an_exception(tmp_path):
    """As a notebook needs it: KeyboardInterrupt, and not the end of the process."""
    from utils.watchdog import StopSignals

    with StopSignals("raise"), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


RANKS = """
import sys
from ppo.config import build
from ppo.run import train
from utils import mpi

comm = mpi.connect()
seen = []
cfg = build(env="Echo-v0", num_envs=4, steps_per_epoch=64, minibatch_size=64, epochs=5, data_dir=sys.argv[1])
if sys.argv[2] == "comm":
    train(cfg, comm, on_epoch=(lambda row: row["Epoch"] == 1) if comm.rank == 0 else None)
else:
    train(cfg)
print("done", comm.rank, flush=True)
"""


@pytest.mark.mpi
@pytest.mark.parametrize(("how", "epochs"), [("comm", 2), ("alone", 5)])
def test_ranks_may_call_it(tmp_path, how, epochs):
    """With their comm, and a callback on rank 0 alone; without one, where it finds the ranks of mpirun by itself."""
    done = run(["-c", RANKS, str(tmp_path), how], ranks=2)
    assert done.code == 0 and done.out.count("done") == 2, done.err
    (log,) = tmp_path.glob("*/*/progress.txt")
    assert log.read_text().count("\n") == 1 + epochs
    assert json.loads((log.parent / "config.json").read_text())["world_size"] == 2


def test_a_slow_callback_is_no_stall(tmp_path):
    """The watchdog waits for the user's code."""
    cfg = config.build(**TINY, epochs=2, stall_timeout=1.0, data_dir=str(tmp_path))
    train(cfg, on_epoch=lambda row: time.sleep(3))


def test_without_the_fast_implementation_everything_works(tmp_path):
    """PPO_COMPUTE=plain trains in a checkout from which ppo/compute was removed."""
    left_out = shutil.ignore_patterns(".git", ".venv", "data", "compute", "build", "*.md")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=left_out)
    (tmp_path / "checkout" / "data").mkdir()
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    code += "from ppo.run import main; main()"
    words = [sys.executable, "-c", code, "--env", "Echo-v0", "--epochs", "1", "--data-dir", str(tmp_path)]
    env = os.environ | {"PPO_COMPUTE": "plain"}
    done = subprocess.run(words, cwd=tmp_path / "checkout", env=env, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0 and "without ppo.compute" in done.stdout, done.stderr


def test_a_start_loads_no_library_that_it_does_not_use(tmp_path):
    """torch's compiler, scipy's signals and joblib take longer in all than torch: a run has no use for them."""
    code = "import sys; from ppo.run import main; main()\nprint('loaded', *sys.modules)"
    done = run(["-c", code, "--env", "Echo-v0", "--epochs", "1", "--data-dir", str(tmp_path)])
    loaded = done.out.partition("\nloaded ")[2].split()
    assert done.code == 0 and "torch" in loaded
    unused = {"scipy.signal", "joblib", "matplotlib", "pandas"}
    if os.environ.get("PPO_COMPUTE") != "plain":  # torch's own Adam loads its compiler
        unused.add("torch._dynamo")
    assert not unused & set(loaded)


class Skip(nn.Sequential):
    """A residual block as people write it."""

    def forward(self, x):
        return x + super().forward(x)


def skipping(obs_shape):
    """A user's network with a residual block, and a ReLU at its beginning."""
    block = Skip(nn.ReLU(), nn.Linear(obs_shape[0], obs_shape[0]))
    return nn.Sequential(nn.ReLU(), block, nn.Linear(obs_shape[0], 8), nn.ReLU()), 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fast_implementation_respects_other_layers(dtype):
    """A skip connection stays, and what the buffer holds is not written to."""
    ac = ActorCritic(skipping, (4,), 3, "orthogonal", seed=0)
    nets, obs = FastActorCritic(ac, dtype), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    kept = obs.clone()
    for ours, plain in zip(nets.step(obs), ac.step(obs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0.05 if dtype == torch.bfloat16 else 1e-5, atol=0.02)
    assert torch.equal(obs, kept)


def a_module(obs_shape):
    """A user's network that is one module with a `forward` of its own."""
    return Skip(nn.Linear(obs_shape[0], obs_shape[0])), obs_shape[0]


def test_a_network_may_be_any_module():
    """It stays whole, its own way to evaluate included."""
    ac, obs = ActorCritic(a_module, (4,), 3, "orthogonal", seed=0), torch.ones(5, 4)
    block, head = ac.pi
    torch.testing.assert_close(ac.pi(obs), head(obs + block[0](obs)))


class Tiny(gymnasium.Env):
    """Pictures of 7 x 7 pixels."""

    observation_space = gymnasium.spaces.Box(0, 255, (7, 7, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        return np.zeros((7, 7, 3), np.uint8), {}

    def step(self, act):
        return np.zeros((7, 7, 3), np.uint8), 0.0, False, False, {}


def test_an_image_too_small_for_the_network_is_one_line(tmp_path):
    """The convolutions ask for more; nothing is written."""
    gymnasium.register("Tiny-v0", Tiny)
    with pytest.raises(Refused, match=r"network 'nature' with observations of shape \(3, 7, 7\)"):
        train(config.build(env="Tiny-v0", network="nature", data_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_made_shorter_than_it_is(tmp_path):
    """It would be called finished; an equal length leaves it as it is."""
    train(config.build(**TINY, epochs=3, data_dir=str(tmp_path)))
    with pytest.raises(Refused, match="has 3 epochs already, more than the 2 that are asked for"):
        train(config.build(**TINY, epochs=2, data_dir=str(tmp_path)), resume=True)
    assert train(config.build(**TINY, epochs=3, data_dir=str(tmp_path)), resume=True)


def wrong_count(obs_shape):
    """A network that says 65 features and gives 64."""
    return mlp(obs_shape)[0], 65


def no_layers(obs_shape):
    """Not what a network returns."""
    return "layers"


def with_dropout(obs_shape):
    """A network whose draws nobody could repeat."""
    return nn.Sequential(nn.Linear(obs_shape[0], 8), nn.Dropout(0.5)), 8


@pytest.mark.parametrize(
    ("name", "said"), [("wrong_count", "wrong_count"), ("no_layers", "no_layers"), ("with_dropout", "dropout")]
)
def test_networks_that_cannot_work_are_refused_before_anything_is_written(tmp_path, name, said):
    """One line that names the network."""
    with pytest.raises(Refused, match=said):
        train(config.build(**TINY, network=f"tests.test_library:{name}", data_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_the_output_of_the_process_alone(tmp_path, monkeypatch):
    """`train` in a notebook changes neither what stdout does with letters it lacks nor, at a broken pipe, the file."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    train(config.build(**TINY, epochs=1, data_dir=str(tmp_path / "\u00e9")))
    screen.flush()
    assert screen.errors == "strict" and b"\\xe9" in screen.buffer.getvalue()

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    before = os.readlink("/proc/self/fd/1")
    monkeypatch.setattr(sys, "stdout", Gone())
    train(config.build(**TINY, epochs=1, data_dir=str(tmp_path / "b")))
    assert os.readlink("/proc/self/fd/1") == before
