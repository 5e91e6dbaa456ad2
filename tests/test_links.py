"""Ranks on different hosts: their connections, and their software. `tests/test_hosts.py` has hosts that are cut off."""

import threading

import pytest

import envs
from utils import alike, imports, links, mpi, system
from utils.folder import Refused


class Ranks:
    """Ranks of one process, a thread each, that are on one host or more."""

    def __init__(self, hosts):
        self.hosts, self.values = hosts, [None] * len(hosts)
        self.barrier = threading.Barrier(len(hosts))

    def run(self, action):
        """Return what `action(comm)` returned or raised on each rank."""
        found = [None] * len(self.hosts)

        def one(rank):
            try:
                found[rank] = action(Rank(self, rank))
            except Exception as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(self.hosts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


class Rank(mpi.Comm):
    def __init__(self, ranks, rank):
        super().__init__()
        self._ranks, self.rank, self.world_size = ranks, rank, len(ranks.hosts)
        self.host, self.local_size = ranks.hosts.index(ranks.hosts[rank]), ranks.hosts.count(ranks.hosts[rank])

    def _all(self, value):
        self._ranks.values[self.rank] = value
        self._ranks.barrier.wait()
        values = list(self._ranks.values)
        self._ranks.barrier.wait()
        return values

    def gather(self, value):
        values = self._all(value)
        return values if self.rank == 0 else None

    def broadcast(self, value):
        return self._all(value)[0]

    def max(self, array):
        array[:] = max(self._all(array.copy()))
        return array


def test_ranks_on_other_hosts_are_connected_to_rank_0(monkeypatch):
    """One connection each; a connection that the other end closes is no failure."""
    monkeypatch.setattr(links, "addresses", lambda: ["127.0.0.1"])
    found = Ranks("aabb").run(links.Links)
    assert [len(each._open) for each in found] == [2, 0, 1, 1]
    assert sorted(found[0]._open.values()) == [f"rank {rank} on {links.socket.gethostname()}" for rank in (2, 3)]
    assert all(each.broken() is None for each in found)
    found[2].close()
    assert found[0].broken() is None and len(found[0]._open) == 1
    for each in found:
        each.close()


def test_ranks_that_cannot_be_reached_are_named(monkeypatch):
    """A firewall in between: they go without, rank 0 knows of whom, and strangers are not taken for them."""
    monkeypatch.setattr(links, "addresses", list)
    monkeypatch.setattr(links, "PATIENCE", 0.2)
    found = Ranks("ab").run(links.Links)
    assert [len(each._open) for each in found] == [0, 0]
    assert found[0].unwatched == [f"rank 1 on {links.socket.gethostname()}"]


def test_one_host_needs_no_connection():
    """No socket, no software to compare."""
    assert [each._open for each in Ranks("aa").run(links.Links)] == [{}, {}]
    assert Ranks("aa").run(alike.check_hosts) == [None, None]


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ({}, "numpy 2.4.6 and 1.26.4"),
        ({"torch": None}, "torch missing and 2.13.0"),
        ({"ppo/core.py": "x"}, "numpy 2.4.6 and 1.26.4, ppo/core.py"),
        ({"ppo/core.py": "x", "ppo/new.cpp": "y"}, "numpy 2.4.6 and 1.26.4, ppo/core.py and 1 more files"),
    ],
)
def test_other_software_is_named(mine, expected):
    """Packages with both versions, files by their names."""
    first = {"numpy": "1.26.4", "torch": "2.13.0", "ppo/core.py": "a"}
    theirs = first | {"numpy": "2.4.6"} | mine
    if "torch" in mine:
        theirs |= {"numpy": "1.26.4"}
        del theirs["torch"]
    assert alike.difference(theirs, first) == expected
    assert alike.difference(first, first) is None


def test_all_ranks_refuse_other_software(monkeypatch):
    """The first rank that differs is named on all of them; the code and the packages of this checkout are compared."""
    found = Ranks("ab").run(alike.check_hosts)
    assert found == [None, None]
    assert {"ppo/core.py", "utils/alike.py", "envs/mario/native/cpu.cpp"} <= system.code().keys()
    found = Ranks("abc").run(lambda comm: alike.check_same(comm, {"numpy": "2" if comm.rank == 1 else "1"}))
    (line,) = {str(error) for error in found}
    assert all(isinstance(error, Refused) for error in found)
    assert line.startswith("rank 1 on ") and line.endswith("have different software: numpy 2 and 1")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("raise RuntimeError('no')\n", "RuntimeError"),
        ("x = (\n", "never closed"),
    ],
)
def test_a_users_module_that_cannot_be_imported_is_bad_input(code, said, tmp_path, monkeypatch):
    """Whatever it raises; it cannot end the process in silence."""
    name = f"broken_{said.split()[0].lower()}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"reward: '{name}:f' cannot be loaded: .*{said}"):
        imports.load_function("reward", f"{name}:f")
    with pytest.raises(ValueError, match=f"env: cannot import '{name}'.*{said}"):
        envs.find_family(f"{name}:Env-v0")


def test_a_users_code_is_compared(tmp_path, monkeypatch):
    """The modules that MODULE:FUNCTION and MODULE:Id name, once they are imported."""
    (tmp_path / "my_reward.py").write_text("def reward(t):\n    return 0.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["my_reward:reward", "cuda:0", "relu", 3, None]
    assert imports.users_code(words) == {}
    imports.load_function("reward", "my_reward:reward")
    assert imports.users_code(words) == {"my_reward.py": system.digest(tmp_path / "my_reward.py")}
