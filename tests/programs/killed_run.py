"""`ppo.run` that is killed as KILL_PLAN says: {"rank", "target", "phase", "touch", "delay", "note"} as JSON.

The given rank waits for the `touch`-th time that its watchdog hears of a phase beginning with `phase` ("any": for the
start of the program), then for `delay` seconds, notes where it is, and sends SIGKILL to its `target`: "rank", itself,
or "launcher".
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils import mpi, watchdog

PLAN = json.loads(os.environ["KILL_PLAN"])
SEEN = {"touches": 0, "phase": "start"}


def kill() -> None:
    victim = os.getpid() if PLAN["target"] == "rank" else mpi._parent_of(os.getppid())
    Path(PLAN["note"]).write_text(json.dumps({"phase": SEEN["phase"], "time": time.monotonic()}))
    os.kill(victim, 9)


def kill_later() -> None:
    timer = threading.Timer(PLAN["delay"], kill)
    timer.daemon = True
    timer.start()


touch = watchdog.Watchdog.touch


def touch_and_count(self, phase: str) -> None:
    SEEN["phase"] = phase
    if PLAN["phase"] != "any" and phase.startswith(PLAN["phase"]):
        SEEN["touches"] += 1
        if SEEN["touches"] == PLAN["touch"]:
            kill_later()
    touch(self, phase)


if __name__ == "__main__":
    if mpi.launched_rank() == PLAN["rank"]:
        watchdog.Watchdog.touch = touch_and_count
        if PLAN["phase"] == "any":
            kill_later()
    from ppo.run import main

    main()
