"""`ppo.run` with something broken on purpose on one rank: FAULT is KIND@RANK:STEP, the rest are ppo.run's flags.

mpirun -np 4 python tests/programs/faulty_run.py raise@2:17 --env Echo-v0 --data-dir /dev/shm/x
"""

import ctypes
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils import mpi

KIND, PLACE = sys.argv[1].split("@")
RANK, STEP = (int(part) for part in PLACE.split(":"))
HERE = mpi.launched_rank() == RANK

if HERE and KIND == "import":
    sys.modules["ppo.config"] = None  # makes `from ppo import config` raise ImportError


def strike(env) -> None:
    """Do the damage in the middle of a step."""
    if KIND == "raise":
        raise RuntimeError("the emulator broke")
    if KIND == "thread":
        threading.Thread(target=time.sleep, args=(1000,)).start()  # not a daemon: must not delay the end
        raise RuntimeError("the emulator broke")
    if KIND == "exit":
        sys.exit(3)
    if KIND == "kill":
        os.kill(os.getpid(), 9)
    if KIND == "stop":
        os.kill(os.getpid(), 19)
    if KIND == "loop":
        while True:
            pass
    if KIND == "sleep-in-c":
        ctypes.PyDLL(None).sleep(
            1000
        )  # holds the interpreter lock? no: PyDLL keeps it, so only the parent's death ends it
    if KIND == "pause-in-c":
        ctypes.CDLL(None).pause()
    if KIND == "drift":
        next(iter(DRIFT["run"].ac.parameters())).data.view(-1)[0] += 1e-3


DRIFT: dict = {}


def main() -> None:
    import envs
    from ppo import run as module

    if HERE and KIND == "build":
        envs.make_vec = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("the ROM is missing"))
    build = module.build_run

    def build_and_break(cfg, comm):
        run = build(cfg, comm)
        DRIFT["run"] = run
        count, step = 0, run.env.step

        def breaking(actions):
            nonlocal count
            count += 1
            if HERE and count == STEP:
                strike(run.env)
            return step(actions)

        run.env.step = breaking
        return run

    module.build_run = build_and_break
    module.main(sys.argv[2:])


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:  # raised before ppo.run could take over
        mpi.exit_together(None, error)
