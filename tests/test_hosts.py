"""Several hosts: `make test-hosts`. They are namespaces of this machine (`tests/hosts.py`), so it takes root."""

import importlib.metadata
import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import test_ranks
from tests.conftest import ROOT, finish, marked_processes
from tests.hosts import OPEN_MPI, Hosts, missing
from tests.test_faults import FLAGS, folder, wait_for_rows
from utils import system

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mpi,
    pytest.mark.skipif(missing() is not None, reason=f"several hosts: {missing()}"),
]
RUN = ["-m", "ppo.run", *FLAGS]
CARTPOLE = {"env": "CartPole-v1", "num_envs": 4, "steps_per_epoch": 256, "minibatch_size": 64, "norm_rew": True}
CASES = {name: test_ranks.CASES[name][0] for name in ("echo", "shared", "mario")} | {"cartpole": CARTPOLE}
THREADS = """
import torch
from ppo.build import threads
from utils import mpi
comm = mpi.connect()
with threads(comm):
    print(comm.gather(torch.get_num_threads()) or "", end="")
"""


@pytest.fixture(scope="module", params=["MPICH", "Open MPI"])
def hosts(request):
    if request.param == "Open MPI" and not OPEN_MPI.exists():
        pytest.skip("make test-hosts sets up Open MPI")
    with Hosts(3, request.param) as found:
        yield found


@pytest.mark.parametrize(("ranks", "shared"), [((2, 1), "2"), ((1, 2), "2"), ((1, 1, 1), "0")])
def test_sums_over_hosts_are_right(hosts, ranks, shared):
    """Each part is the sum over all ranks, whether two share a host's memory or each has a host of its own."""
    done = hosts.run(ranks, ["-c", test_ranks.PARTS, "enough"])
    assert done.code == 0, done.err
    assert "".join(done.out.split()) == shared * 3


def test_ranks_of_a_host_that_are_not_in_a_row_are_summed_by_mpi(hosts):
    """As under a launcher that deals them out: host 0 has ranks 0 and 2."""
    done = hosts.run((1, 1), ["-c", test_ranks.PARTS, "enough"], count=3)
    assert done.code == 0, done.err
    assert "".join(done.out.split()) == "000"


@pytest.mark.parametrize("ranks", [(2, 1), (1, 1, 1)])
def test_first_update_is_that_of_one_host(hosts, tmp_path, ranks):
    """Actions, advantages, the reduced gradient, every statistic and the new weights; and it goes over the network."""
    alone = test_ranks.first_updates(tmp_path, CASES, 1)
    before = hosts.sent(1)
    done = hosts.run(ranks, ["tests/programs/first_update.py", str(tmp_path), json.dumps(CASES)], timeout=240)
    assert done.code == 0, done.err
    joined = test_ranks.read(tmp_path, CASES)
    for name, expected in alone.items():
        test_ranks.assert_same_update(expected, joined[name], 2e-5)
    assert hosts.sent(1) - before > 4 * len(alone["mario"]["gradient"])


@pytest.mark.parametrize("env", ["Echo-v0", "CartPole-v1", "SuperMarioBros-1-1-v0"])
def test_only_rank_0_touches_the_run_folder(hosts, tmp_path, env):
    """A run over three hosts, of which two see an empty folder that cannot be written, is whole and can be resumed."""
    flags = [*FLAGS[2:], "--env", env, "--steps-per-epoch", "128", "--epochs"]
    with ExitStack() as stack:
        for i in (1, 2):
            stack.enter_context(hosts.showing(i, tmp_path))
        for epochs in ("1", "2"):
            command = ["-m", "ppo.run", *flags, epochs, "--resume", "--data-dir", str(tmp_path)]
            done = hosts.run((2, 1, 1), command, timeout=240)
            assert_well(hosts, done)
    (run,) = (path for path in tmp_path.glob("*/*") if path.is_dir())
    assert len((run / "progress.txt").read_text().splitlines()) == 3
    assert json.loads((run / "exit.json").read_text())["reason"] == "finished"
    assert json.loads((run / "config.json").read_text())["world_size"] == 4


def test_threads_are_shared_by_the_ranks_of_a_host(hosts):
    """Two ranks have half of their host's cores each; the third has all of its own."""
    done = hosts.run((2, 1), ["-c", THREADS], env={"OMP_NUM_THREADS": ""})
    half = max(1, system.cores() // 2)
    assert json.loads(done.out) == [half, half, system.cores()], done.err


def assert_well(hosts, done):
    """The command ended well; nothing was said on the way, but by Open MPI."""
    assert done.code == 0 and (hosts.mpi == "Open MPI" or not done.err), done.err


def refused(hosts, tmp_path):
    """Return the line with which a run over two hosts is refused; nothing is written."""
    done = hosts.run((1, 1), [*RUN, "--data-dir", str(tmp_path / "data")])
    assert done.code == 2 and not (tmp_path / "data").exists(), done.err
    lines = done.err.splitlines()
    (line,) = lines if hosts.mpi == "MPICH" else [line for line in lines if line.startswith("ppo.run: error")]
    return line


def test_another_checkout_is_refused_by_name(hosts, tmp_path):
    """Also where its settings are others: nothing is asked of the command line before."""
    other = tmp_path / "other"
    shutil.copytree(ROOT / "ppo", other)
    for name in ("config.py", "core.py"):
        path = other / name
        path.write_text(path.read_text().replace("num_envs", "environments") + "\n")
    with hosts.showing(1, ROOT / "ppo", other):
        line = refused(hosts, tmp_path)
    expected = "rank 1 on host1 and rank 0 on host0 have different software: ppo/config.py and 1 more files"
    assert line == f"ppo.run: error: {expected}"


@pytest.mark.parametrize(("package", "version"), [("numpy", "1.0.1"), ("torch", "missing")])
def test_another_package_is_refused_with_both_versions(hosts, tmp_path, package, version):
    """One of another version, or one that a host lacks."""
    installed = importlib.metadata.distribution(package)
    record, metadata = Path(str(installed._path)), tmp_path / "record"  # type: ignore[attr-defined]
    with ExitStack() as stack:
        if version == "missing":
            stack.enter_context(hosts.showing(1, record))
            stack.enter_context(hosts.showing(1, record.parent / package))
        else:
            shutil.copytree(record, metadata)
            text = (record / "METADATA").read_text()
            (metadata / "METADATA").write_text(text.replace(f"Version: {installed.version}", f"Version: {version}", 1))
            stack.enter_context(hosts.showing(1, record, metadata))
        line = refused(hosts, tmp_path)
    assert line.endswith(f"rank 0 on host0 have different software: {package} {version} and {installed.version}")


@pytest.mark.parametrize(
    ("how", "which", "ranks"), [("cut", 1, (2, 1)), ("silence", 1, (1, 1, 1)), ("silence", 0, (1, 1))]
)
def test_a_host_that_is_cut_off_ends_the_job(hosts, tmp_path, how, which, ranks):
    """Every process on every host is gone within a minute, the others' are told, and the run goes on afterwards."""
    flags = [*RUN, "--data-dir", str(tmp_path)]
    process, mark = hosts.start(ranks, [*flags, "--epochs", "100000"])
    wait_for_rows(folder(tmp_path), 2, 120)
    begun = time.monotonic()
    getattr(hosts, how)(which)
    try:
        done = finish(process, mark, timeout=60, grace=1.0)
        assert time.monotonic() - begun < 60
    finally:
        hosts.mend(which)
    if hosts.mpi == "MPICH":  # Open MPI's launcher ends the job first, with code 0
        assert done.code != 0
        assert "rank 0: rank" in done.err and f"on host{which or 1} has not answered for 25 s" in done.err
    epochs = len((folder(tmp_path) / "progress.txt").read_text().splitlines())
    done = hosts.run(ranks, [*flags, "--epochs", str(epochs + 1), "--resume"], timeout=120)
    assert_well(hosts, done)
    assert json.loads((folder(tmp_path) / "exit.json").read_text())["reason"] == "finished"


def test_a_short_outage_ends_nothing(hosts, tmp_path):
    """Ten seconds without a network, and the run goes on."""
    process, mark = hosts.start((1, 1), [*RUN, "--epochs", "100000", "--data-dir", str(tmp_path)])
    wait_for_rows(folder(tmp_path), 2, 120)
    hosts.silence(1)
    time.sleep(10)
    hosts.mend(1)
    rows = len((folder(tmp_path) / "progress.txt").read_text().splitlines())
    wait_for_rows(folder(tmp_path), rows + 5, 120)
    assert process.poll() is None
    process.terminate()
    assert finish(process, mark).code == (143 if hosts.mpi == "MPICH" else 1)
    assert not marked_processes(mark)
