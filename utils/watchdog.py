"""No silent hang: a thread per rank that ends the job when nothing moves, a host is cut off, or the launcher has died.

It must be a thread of its own: an emulator stuck in an endless loop never returns to Python.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from utils import system
from utils.links import Links
from utils.mpi import Comm, complain, let_launcher_forward


class Watchdog:
    """Remembers when this rank last made progress and in which phase.

    with Watchdog(comm, 300.0) as watchdog:  # closed however the block ends; one that is closed ends nothing
        watchdog.touch("collect")
    """

    def __init__(self, comm: Comm, stall_timeout: float) -> None:
        """Start watching: all ranks do.

        Args:
            comm: the ranks, all of which are ended. A process that has a launcher ends with it; one that a shell
                started goes on without the shell.
            stall_timeout: seconds without a `touch` after which the job is ended; 0: never. A rank that only waits
                for the others gives them a little longer, so that the one that is stuck speaks first.
        """
        self._launched = comm.world_size > 1
        if self._launched:  # the kernel does it at once, for a stopped process too; the thread does it elsewhere
            system.end_with_parent(signal.SIGKILL)
        self._comm, self._stall_timeout = comm, stall_timeout
        self.phase, self._paused = "start", False
        self._links = Links(comm)
        if self._links.unwatched and comm.rank == 0:
            print(
                f"no connection from {', '.join(self._links.unwatched)}: a cut network ends the run by --stall-timeout"
            )
        self._moved = time.monotonic()
        self._parent = os.getppid()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def touch(self, phase: str) -> None:
        """Say that this rank is alive and what it does."""
        self.phase = phase
        self._moved = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let the block take as long as it likes."""
        self._paused = True
        try:
            yield
        finally:
            self.touch(self.phase)
            self._paused = False

    def close(self) -> None:
        """Stop watching; a second time does nothing."""
        self._done.set()
        self._thread.join()
        self._links.close()

    def __enter__(self) -> Watchdog:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        self.close()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._done.wait(0.5):
            now = time.monotonic()
            if now - looked > 2.0:  # this process itself stood still, by Ctrl-Z for instance: that is nobody's fault
                self._moved += now - looked
            looked = now
            if self._launched and os.getppid() != self._parent and not self._done.is_set():
                complain(f"rank {self._comm.rank}: the launcher has died; ending\n")
                os._exit(1)
            if lost := self._links.broken():
                complain(f"\nrank {self._comm.rank}: {lost}: its host is down or the network is cut; ending\n")
                self._abort()
            still = time.monotonic() - self._moved
            grace = min(10.0, 0.5 * self._stall_timeout) if self._comm.waiting else 0.0
            if (
                self._stall_timeout
                and not self._paused
                and still > self._stall_timeout + grace
                and not self._done.is_set()
            ):
                self._report_and_abort(still)

    def _report_and_abort(self, still: float) -> None:
        waits = "; it waits for the other ranks, one of which is stuck or stopped" if self._comm.waiting else ""
        complain(
            f"\nrank {self._comm.rank} has not moved for {still:.0f} s (limit {self._stall_timeout:.0f} s) in phase "
            f"'{self.phase}'{waits}; its threads are here:\n"
        )
        with contextlib.suppress(OSError, ValueError):  # standard error is no file
            faulthandler.dump_traceback(all_threads=True)
        self._abort()

    def _abort(self) -> None:
        let_launcher_forward()
        self._comm.abort(1)
        os._exit(1)


class StopSignals:
    """Remembers SIGINT, SIGTERM and SIGUSR1, so that all ranks can stop at the same safe point.

    The first signal asks; a second SIGINT ends this process as Python does by default. Until `armed`, there is
    nothing to save: SIGTERM and SIGINT end the process, SIGUSR1 is kept for the first safe point.
    """

    def __init__(self, early: str = "end") -> None:
        """Take over the three signals; only the main thread may do this.

        Args:
            early: what a SIGINT does until `armed`. "end" ends the process, without a word; "raise" raises
                KeyboardInterrupt, as for a notebook's kernel; "keep" keeps it, and a SIGTERM, for one of several ranks,
                which must end as one: a launcher takes one that a signal has ended for a failure, and shows it in
                ten lines.
        """
        self._early, self._interrupted = early, False
        self.received: int = 0
        self.armed = False
        self.before_end: Callable[[], None] = lambda: None  # called before a signal ends the process
        self._old = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }

    def _on_signal(self, number: int, frame: object) -> None:
        if not self.armed and number == signal.SIGINT and self._early == "raise":
            raise KeyboardInterrupt
        kept = number == signal.SIGUSR1 or (self._early == "keep" and not self._interrupted)
        if not self.armed and not kept:
            self.before_end()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.received = max(self.received, number)

    def close(self) -> None:
        """Give the signals back; a second time does nothing."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def __enter__(self) -> StopSignals:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give the signals back."""
        self.close()
