"""What the command lines share: errors of one line, and words from files that are safe to print."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

BAD_INPUT = 2
PREEMPTED = 75  # EX_TEMPFAIL: saved after SIGUSR1; a batch system may start the job again


def ending(signal_number: int) -> tuple[str, int]:
    """Return the reason and the exit code of a command that a signal ended."""
    return ("preempted", PREEMPTED) if signal_number == signal.SIGUSR1 else ("interrupted", 128 + signal_number)


class Parser(argparse.ArgumentParser):
    """An argument parser that answers bad input with one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message on one line and exit with code 2."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def run_command(prog: str, action: Callable[[], int | None]) -> int:
    """Return the exit code of `action`; a ValueError or an unreachable file becomes one line and code 2."""
    open_closed_streams()
    any_character(sys.stdout)
    try:
        return action() or 0
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    except (ValueError, OSError, MemoryError) as error:
        print(f"{prog}: error: {printable(str(error), 1000)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return ending(signal.SIGINT)[1]


def refuse(flags: Sequence[str], own: Container[str], prog: str) -> None:
    """Raise ValueError for a flag that a command which hands its flags on chooses itself."""
    for flag in flags:
        if flag.partition("=")[0] in own:
            raise ValueError(f"{flag}: is chosen by {prog} itself")


def any_character(stream: TextIO) -> None:
    """Let a stream that cannot encode a character write its number, `\\xe9`, instead of failing."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def open_closed_streams() -> None:
    """Give a process that was started with a closed output (`>&-`) the null device in its place.

    Otherwise the next file that it opens, perhaps a log, gets the number 1 or 2, and what a library prints is in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
        if getattr(sys, name) is None:  # also where a library has opened a file under its number
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115


def drop_unwritten(stream: TextIO) -> None:
    """Let the process end in silence although the reader of a stream has gone: Python writes the rest at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: object, limit: int = 120) -> str:
    """Return text on one line without control characters, so that a shared run folder cannot drive a terminal.

    Bytes of a path that are not text, which Python keeps as surrogates, are shown by their numbers.
    """
    line = "".join(map(_printable, str(text)))
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _printable(c: str) -> str:
    if "\udc80" <= c <= "\udcff":
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c if c.isprintable() else " "


def check_writable(name: str, path: Path) -> None:
    """Raise ValueError unless a file can be made at `path`, so that nothing is worked out in vain."""
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{name}: {path} cannot be written, its folder must exist and be writable")
