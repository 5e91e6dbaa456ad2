"""Promise 1: the number of ranks changes the speed and nothing else."""

import json

import numpy as np
import pytest

from tests.conftest import run

ECHO = {"env": "Echo-v0", "num_envs": 6, "steps_per_epoch": 6 * 64, "minibatch_size": 96, "train_pi_iters": 2,
        "train_v_iters": 3, "chunk_size": 40}  # fmt: skip
MARIO = {"num_envs": 4, "steps_per_epoch": 4 * 32, "minibatch_size": 64, "train_pi_iters": 1, "train_v_iters": 1,
         "start_frames": 20, "sticky": 0.1, "precision": "float32"}  # fmt: skip


def first_update(tmp_path, settings, ranks, *flags):
    out = tmp_path / f"{ranks}.npz"
    done = run(["tests/programs/first_update.py", str(out), json.dumps(settings), *flags], ranks=ranks, timeout=120)
    assert done.code == 0, done.err
    return dict(np.load(out))


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        pytest.param(ECHO | {"adv_norm": "batch"}, (2, 3, 4), id="echo"),  # 4 ranks share 6 environments unevenly
        pytest.param(
            ECHO | {"adv_norm": "minibatch", "v_loss": "clipped"}, (4,), id="echo-minibatch", marks=pytest.mark.slow
        ),
        pytest.param(MARIO, (3,), id="mario"),
    ],
)
def test_first_update_is_the_same_for_any_number_of_ranks(tmp_path, settings, counts):
    """Actions, advantages, the reduced gradient, every statistic and the new weights agree with those of one rank."""
    alone = first_update(tmp_path, settings, 1)
    for ranks in counts:
        joined = first_update(tmp_path, settings, ranks)
        assert joined.keys() == alone.keys()
        assert np.array_equal(joined["act"], alone["act"])
        for name, expected in alone.items():
            near = np.abs(joined[name] - expected) <= np.maximum(2e-3 * np.abs(expected), 2e-5)
            assert (near | (np.isnan(expected) & np.isnan(joined[name]))).all(), f"{name}, {ranks} ranks"
        assert np.abs(joined["gradient"] - alone["gradient"]).max() < 1e-5 * max(1.0, np.abs(alone["gradient"]).max())


@pytest.mark.mpi
def test_without_the_wing_the_first_update_is_the_same(tmp_path, monkeypatch):
    """Allreduce and torch's Adam, on one and on three ranks, give what ppo.compute gives."""
    fast = first_update(tmp_path, ECHO, 1)
    monkeypatch.setenv("PPO_COMPUTE", "plain")
    for ranks in (1, 3):
        plain = first_update(tmp_path, ECHO, ranks)
        for name, expected in fast.items():
            np.testing.assert_allclose(plain[name], expected, rtol=2e-3, atol=2e-5, err_msg=f"{name}, {ranks} ranks")


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_leaves_a_complete_folder(tmp_path, ranks):
    """`mpirun -np RANKS python -m ppo.run` ends with code 0 and every file that data/README.md names."""
    args = ["-m", "ppo.run", "--epochs", "2", "--num-envs", "8", "--steps-per-epoch", "128", "--minibatch-size", "64",
            "--train-pi-iters", "1", "--train-v-iters", "1", "--data-dir", str(tmp_path)]  # fmt: skip
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


@pytest.mark.mpi
@pytest.mark.parametrize("settings", [ECHO, MARIO | {"precision": "bfloat16"}], ids=["echo", "mario"])
def test_copies_that_travel_give_the_same_update(tmp_path, settings):
    """What a GPU does, whose vectors have a copy in the host's memory: the same bits as without one.

    In bfloat16 each rank rounds all weights there; otherwise each rounds its part of those that all compute with.
    """
    shared = first_update(tmp_path, settings, 2)
    copied = first_update(tmp_path, settings, 2, "apart")
    assert all(np.array_equal(copied[name], shared[name], equal_nan=True) for name in shared)


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
