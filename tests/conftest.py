"""Shared by all tests: one thread per process, and a way to run this project's commands as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


def missing_reference() -> str | None:
    """Return why nes-py 8.2.1 cannot be played here, in a sentence, or None."""
    from envs.mario import nespy

    try:
        nespy.versions()
    except ValueError as error:
        return str(error)
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each file to one worker of pytest-xdist, and all files that start several ranks to the same one.

    Ranks wait for each other without sleeping: two such jobs at a time would take each other's cores.
    """
    from xdist.scheduler import LoadScopeScheduling

    ranks = {
        f"tests/{path.name}" for path in (ROOT / "tests").glob("test_*.py") if "pytest.mark.mpi" in path.read_text()
    }

    class OneJobOfRanks(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "ranks" if file in ranks else file

    return OneJobOfRanks(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what plays nes-py 8.2.1, by its mark or a parameter, where it is missing; never where make installs it."""
    reason = missing_reference()
    if reason is None or (os.environ.get("CI") and sys.version_info < (3, 13)):
        return
    for item in items:
        if item.get_closest_marker("reference") or "nes-py" in item.name:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


def marked_processes(mark: str) -> list[int]:
    """Return the processes whose environment carries `mark`, other than this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                mark.encode() in (folder / "environ").read_bytes()
                and "Z" not in (folder / "stat").read_text().split(")")[1][:3]
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def start(
    args: list[str], ranks: int = 1, env: dict[str, str] | None = None, before: list[str] | None = None, **popen
) -> tuple[subprocess.Popen, str]:
    """Start `python ARGS` in its own session; return it and the mark of its processes.

    The words before it are those of mpirun if ranks > 1, or what the caller gives.
    """
    mark = f"PPO_TEST_RUN={uuid.uuid4().hex}"
    name, value = mark.split("=")
    kept = ("PPO_COMPUTE",)
    clean = {k: v for k, v in os.environ.items() if k in kept or not k.startswith(("PMI_", "OMPI_", "PPO_"))}
    command = [*(before or ()), sys.executable, *args]
    if ranks > 1:
        command = [str(Path(sys.executable).with_name("mpirun")), "-np", str(ranks), *command]
    clean |= {name: value, "OMP_NUM_THREADS": "1"} | (env or {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=clean, text=True, start_new_session=True, **pipes, **popen)
    return process, mark


def finish(process: subprocess.Popen, mark: str, timeout: float = 60.0, grace: float = 10.0) -> Done:
    """Wait for a started command and assert that none of its processes is left; kill what is left if it does."""
    begun = time.monotonic()
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_marked(mark)
        out, err = process.communicate()
        pytest.fail(f"still running after {timeout} s:\n{out[-2000:]}\n{err[-4000:]}")
    seconds = time.monotonic() - begun
    while marked_processes(mark) and time.monotonic() - begun < seconds + grace:
        time.sleep(0.1)
    left = marked_processes(mark)
    kill_marked(mark)
    assert not left, f"processes left over: {left}"
    return Done(process.returncode, out, err, seconds)


def kill_marked(mark: str) -> None:
    """Kill every process that carries `mark`."""
    for pid in marked_processes(mark):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def run(args: list[str], ranks: int = 1, timeout: float = 60.0, env: dict[str, str] | None = None) -> Done:
    """Run `python ARGS` to its end, under mpirun if ranks > 1, and see that nothing is left of it."""
    return finish(*start(args, ranks, env), timeout=timeout)


fast_only = pytest.mark.skipif(os.environ.get("PPO_COMPUTE") == "plain", reason="about what only ppo.compute has")


@pytest.fixture(params=["fast", "plain"])
def wing(request, monkeypatch):
    """With ppo.compute and without it."""
    monkeypatch.setenv("PPO_COMPUTE", request.param)
    return request.param


@pytest.fixture(params=[1, 3])
def torch_threads(request):
    """Number of torch's threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
