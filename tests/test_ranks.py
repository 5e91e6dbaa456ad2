"""Promise 1: the number of ranks changes the speed and nothing else."""

import functools
import json
import runpy

import numpy as np
import pytest

from tests import test_actions, test_arcade_training, test_normalise
from tests.conftest import ROOT, fast_only, run
from tests.test_recurrent import SMALL as MEMORY
from tests.test_shared import ECHO

MARIO = {
    "num_envs": 4,
    "steps_per_epoch": 4 * 32,
    "minibatch_size": 64,
    "train_pi_iters": 1,
    "train_v_iters": 1,
    "start_frames": 20,
    "sticky": 0.1,
    "precision": "float32",
}
# Of each case: its settings, the ranks that are compared with one, and how far a number that is nearly 0 may be off.
# Four ranks share six environments unevenly.
CASES = {
    "echo": (ECHO, (2, 3, 4), 2e-5),
    "echo-minibatch": (ECHO | {"adv_norm": "minibatch", "v_loss": "clipped"}, (4,), 2e-5),
    "shared": (ECHO | {"shared": True, "ent_coef": 0.01}, (2, 3), 2e-5),
    "lstm": (MEMORY | {"policy": "lstm", "ent_coef": 0.01}, (2, 3), 2e-5),
    "lnlstm-shared": (MEMORY | {"policy": "lnlstm", "shared": True, "ent_coef": 0.01}, (2, 3), 2e-5),
    "box": (test_actions.PENDULUM | {"squash": True}, (2, 3), 5e-5),
    "multi": (test_actions.LEVERS, (3,), 5e-5),
    "normalised": (test_normalise.PENDULUM, (3,), 5e-5),
    "mario": (MARIO, (3,), 2e-5),
    "mario-ram": (MARIO | {"network": "mlp", "ram_obs": ["near"]}, (3,), 2e-5),
    "atari": (test_arcade_training.ATARI, (2,), 2e-5),
    "procgen": (test_arcade_training.PROCGEN, (2,), 2e-5),
}


def first_updates(folder, cases, ranks, *flags):
    """Return what the first update of each case gave, by its name: one start of the ranks for all of them."""
    program, words = "tests/programs/first_update.py", [str(folder), json.dumps(cases), *flags]
    if ranks == 1:
        runpy.run_path(str(ROOT / program))["main"](words)
    else:
        done = run([program, *words], ranks=ranks, timeout=240)
        assert done.code == 0, done.err
    return read(folder, cases)


def read(folder, cases):
    """Return what first_update.py wrote, by the names of the cases."""
    return {name: dict(np.load(folder / f"{name}.npz")) for name in cases}


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """The first updates of the cases that are to be seen on so many ranks."""
    missing = [name for name in ("atari", "procgen") if not test_arcade_training.installed(name)]

    @functools.cache
    def of(ranks):
        chosen = {name: settings for name, (settings, counts, _) in CASES.items() if ranks == 1 or ranks in counts}
        kept = {name: settings for name, settings in chosen.items() if name not in missing}
        return first_updates(tmp_path_factory.mktemp(f"ranks{ranks}"), kept, ranks)

    return of


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "ranks"), [(name, ranks) for name, case in CASES.items() for ranks in case[1]])
def test_first_update_is_the_same_for_any_number_of_ranks(updates, name, ranks):
    """Actions, advantages, the reduced gradient, every statistic and the new weights agree with those of one rank."""
    alone, joined = (updates(count).get(name) for count in (1, ranks))
    if alone is None:
        pytest.skip(f"{name} is not installed")
    assert_same_update(alone, joined, CASES[name][2])


def assert_same_update(alone, joined, near_zero):
    """Two first updates agree; a number that is nearly 0 may be off by `near_zero`."""
    assert joined.keys() == alone.keys()
    if alone["act"].dtype.kind == "i":
        assert np.array_equal(joined["act"], alone["act"])
    for column, expected in alone.items():
        near = np.abs(joined[column] - expected) <= np.maximum(2e-3 * np.abs(expected), near_zero)
        assert (near | (np.isnan(expected) & np.isnan(joined[column]))).all(), column
    assert np.abs(joined["gradient"] - alone["gradient"]).max() < 1e-5 * max(1.0, np.abs(alone["gradient"]).max())


@pytest.mark.mpi
def test_without_the_wing_the_first_update_is_the_same(tmp_path, monkeypatch, updates):
    """Allreduce and torch's Adam, on one and on three ranks, give what ppo.compute gives."""
    fast = updates(1)["echo"]
    monkeypatch.setenv("PPO_COMPUTE", "plain")
    for ranks in (1, 3):
        plain = first_updates(tmp_path, {"echo": ECHO}, ranks)["echo"]
        for name, expected in fast.items():
            np.testing.assert_allclose(plain[name], expected, rtol=2e-3, atol=2e-5, err_msg=f"{name}, {ranks} ranks")


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_leaves_a_complete_folder(tmp_path, ranks):
    """`mpirun -np RANKS python -m ppo.run` ends with code 0 and every file that data/README.md names."""
    sizes = "--epochs 2 --num-envs 8 --steps-per-epoch 128 --minibatch-size 64 --train-pi-iters 1 --train-v-iters 1"
    args = ["-m", "ppo.run", *sizes.split(), "--data-dir", str(tmp_path)]
    done = run(args, ranks=ranks, timeout=120)
    assert done.code == 0, done.err
    assert done.err == ""
    folder = tmp_path / "ppo_supermariobros-1-1-v0" / "ppo_supermariobros-1-1-v0_s0"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "system.json",
        "progress.txt",
        "episodes.csv",
        "checkpoints",
        "policy",
        "videos",
        "exit.json",
    }
    rows = [line.split("\t") for line in (folder / "progress.txt").read_text().splitlines()]
    assert len(rows) == 3 and len({len(row) for row in rows}) == 1
    known = "Epoch AverageEpRet StdEpRet MaxEpRet MinEpRet EpLen AverageVVals TotalEnvInteracts LossPi LossV DeltaLossPi DeltaLossV Entropy KL ClipFrac StopIter Time"  # noqa: E501
    assert set(known.split()) <= set(rows[0])
    assert [row[rows[0].index("TotalEnvInteracts")] for row in rows[1:]] == ["128", "256"]
    assert json.loads((folder / "exit.json").read_text())["reason"] == "finished"
    assert json.loads((folder / "config.json").read_text())["world_size"] == ranks
    assert (folder / "policy" / "last" / "policy.safetensors").exists()


@fast_only
@pytest.mark.mpi
def test_copies_that_travel_give_the_same_update(tmp_path):
    """What a GPU does, whose vectors have a copy in the host's memory: the same bits as without one.

    In bfloat16 each rank rounds all weights there; otherwise each rounds its part of those that all compute with.
    """
    cases = {"echo": ECHO, "mario": MARIO | {"precision": "bfloat16"}}
    shared, copied = first_updates(tmp_path, cases, 2, "apart"), read(tmp_path / "apart", cases)
    for name in cases:
        assert all(np.array_equal(copied[name][key], shared[name][key], equal_nan=True) for key in shared[name])


PARTS = """
import sys
import numpy as np
from utils import mpi
if sys.argv[1] == "small":
    mpi.SHARED_MEMORY = "/nowhere"
comm = mpi.connect()
buffers = [comm.buffer(100_003), comm.buffer(10), np.zeros(70_000, np.float32)]
for array in buffers:
    mine = comm.part(len(array))
    array[:] = before = np.arange(len(array)) % 1000 + comm.rank
    total = 3.0 * (np.arange(len(array)) % 1000) + 3
    comm.reduce_scatter(array)
    assert np.array_equal(array[mine], total[mine])
    assert np.array_equal(array[: mine.start], before[: mine.start])
    assert np.array_equal(array[mine.stop :], before[mine.stop :])
    comm.all_gather(array)
    assert np.array_equal(array, total)
assert comm.sum(np.array([1.5 + comm.rank]))[0] == 7.5
print(len(comm._shared), end=" ")
"""


@pytest.mark.mpi
@pytest.mark.parametrize(("room", "shared"), [("enough", "2"), ("small", "0")])
def test_arrays_are_summed_in_parts_and_put_together(room, shared):
    """In memory that the ranks share, or by MPI; only the parts concerned are touched, and uneven ones are right."""
    done = run(["-c", PARTS, room], ranks=3)
    assert done.code == 0, done.err
    assert "".join(done.out.split()) == shared * 3
