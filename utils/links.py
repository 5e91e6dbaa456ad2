"""Whether the hosts of a job still reach each other: MPI waits for ever for a host whose network is cut.

Each rank on another host than rank 0's holds a TCP connection to rank 0 on which nothing is sent. The kernels ask each
other on it whether they are there (keepalive), also where a process is busy or stopped, and end it with an error when
the other has been silent for SILENCE seconds. A process that ends closes its connection, which means nothing here:
launchers see that.
"""

from __future__ import annotations

import fcntl
import secrets
import socket
import struct
import time

from utils.mpi import Comm

IDLE, INTERVAL, PROBES = 5, 5, 4  # seconds before the first question and between two; questions without an answer
SILENCE = IDLE + INTERVAL * PROBES
PATIENCE = 10.0  # seconds in which each rank must reach rank 0 at the start
ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of linux/sockios.h


class Links:
    """This rank's connections to ranks on other hosts."""

    def __init__(self, comm: Comm) -> None:
        """Connect the ranks that are on other hosts than rank 0 to it: all ranks call this.

        A rank that does not reach rank 0 goes without, and `unwatched` has it.
        """
        self._open: dict[socket.socket, str] = {}  # and to whom
        hosts = comm.broadcast(comm.gather((comm.host, socket.gethostname())))
        away = {rank: f"rank {rank} on {name}" for rank, (host, name) in enumerate(hosts) if host != hosts[0][0]}
        self.unwatched = list(away.values())
        if not away:
            return
        server = _server() if comm.rank == 0 else None
        place = (addresses(), server.getsockname()[1], secrets.token_bytes(16)) if server is not None else None
        found, port, token = comm.broadcast(place)
        if server is not None:
            with server:
                self.unwatched = self._accept(server, token, away)
        elif comm.rank in away:
            self._connect([(address, port) for address in found], token, comm.rank, f"rank 0 on {hosts[0][1]}")

    def _accept(self, server: socket.socket, token: bytes, away: dict[int, str]) -> list[str]:
        """Take a connection of each rank that is away; return who is missing when patience has ended."""
        waiting, end = dict(away), time.monotonic() + PATIENCE
        while waiting and (left := end - time.monotonic()) > 0:
            try:
                server.settimeout(left)
                link = server.accept()[0]
                link.settimeout(1.0)
                hello = link.recv(len(token) + 4, socket.MSG_WAITALL)
            except OSError:
                continue
            rank = int.from_bytes(hello[len(token) :], "big")
            if hello[: len(token)] != token or rank not in waiting:  # somebody else's
                link.close()
                continue
            link.sendall(token)
            self._keep(link, waiting.pop(rank))
        return list(waiting.values())

    def _connect(self, places: list[tuple[str, int]], token: bytes, rank: int, who: str) -> None:
        """Connect to rank 0 at the first of its addresses at which it answers."""
        end = time.monotonic() + PATIENCE
        for place in places:
            if time.monotonic() > end:
                return
            try:
                link = socket.create_connection(place, timeout=2.0)
                link.sendall(token + rank.to_bytes(4, "big"))
                if link.recv(len(token), socket.MSG_WAITALL) == token:
                    self._keep(link, who)
                    return
                link.close()
            except OSError:
                continue

    def _keep(self, link: socket.socket, who: str) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", IDLE), ("TCP_KEEPINTVL", INTERVAL), ("TCP_KEEPCNT", PROBES)):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        link.setblocking(False)
        self._open[link] = who

    def broken(self) -> str | None:
        """Return who cannot be reached any more, and why; None while all can."""
        for link, who in list(self._open.items()):
            try:
                if not link.recv(1):  # it has closed its end
                    link.close()
                    del self._open[link]
            except BlockingIOError:
                continue
            except OSError as error:
                return f"{who} has not answered for {SILENCE} s ({error.strerror})"
        return None

    def close(self) -> None:
        """Close the connections; a second time does nothing."""
        for link in self._open:
            link.close()
        self._open.clear()


def addresses() -> list[str]:
    """Return the addresses of this host that others may reach: of each interface, and those that its name has."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(any_socket, ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
            except OSError:  # it has none
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    try:
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    except OSError:  # nobody knows its name
        pass
    return [address for address in dict.fromkeys(found) if not address.startswith(("127.", "::1"))]


def _server() -> socket.socket:
    """Return a socket that listens on a free port of all addresses."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)
