"""`ppo.run` with something broken on purpose on one rank: FAULT is KIND@RANK:STEP, the rest are ppo.run's flags.

mpirun -np 4 python tests/programs/faulty_run.py raise@2:17 --env Echo-v0 --data-dir /dev/shm/x
"""

import ctypes
import os
import random
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils import checkpoint, mpi

KIND, PLACE = sys.argv[1].split("@")
RANK, STEP = (int(part) for part in PLACE.split(":"))
HERE = mpi.launched_rank() == RANK

if HERE and KIND == "import":
    sys.modules["ppo.config"] = None  # makes `from ppo import config` raise ImportError
if HERE and KIND == "flag":
    sys.argv += ["--gamma", "7"]
if HERE and KIND == "threads":
    os.environ["OMP_NUM_THREADS"] = "0"
if KIND == "gone":
    mpi.START_SECONDS = 5.0
    if HERE:
        sys.exit(3)


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
    if KIND == "pause-in-c":
        ctypes.CDLL(None).pause()
    if KIND == "drift":
        next(iter(BUILT["run"].ac.parameters())).data.view(-1)[0] += 1e-3
    if KIND == "branch":  # a collective call that only this rank makes
        BUILT["run"].comm.any(True)


BUILT: dict = {}


def strike_in_save(save):
    """Return `save`, but in the middle of its STEPth call this rank is killed or the launcher gets a SIGTERM."""
    count, write = 0, checkpoint.write_synced

    def writing(path, data):
        if count == STEP and path.name == "meta.json":
            if KIND == "kill-in-save":
                os.kill(os.getpid(), 9)
            os.kill(mpi._parent_of(os.getppid()), 15)
            time.sleep(0.25)
        write(path, data)

    def saving(*args, **kwargs):
        nonlocal count
        count += 1
        return save(*args, **kwargs)

    checkpoint.write_synced = writing
    return saving


def main() -> None:
    import envs
    from ppo import build as building
    from ppo import run as module

    if HERE and KIND == "build":
        envs.make_vec = lambda *args, **kwargs: (_ for _ in ()).throw(RuntimeError("the ROM is missing"))
    if HERE and KIND.endswith("-in-save"):
        checkpoint.save_checkpoint = strike_in_save(checkpoint.save_checkpoint)
    build = building.build_training

    def build_and_break(cfg, comm, watchdog):
        run = build(cfg, comm, watchdog)
        BUILT["run"] = run
        count, step = 0, run.env.step

        def breaking(actions):
            nonlocal count
            count += 1
            if KIND in ("stop", "loop", "pause-in-c") and count == STEP:
                watchdog._stall_timeout = 3.0  # on all ranks: all others start in peace, however busy the machine is
            if KIND == "delay" and random.random() < 0.02:
                time.sleep(0.01 * random.random())
            if HERE and count == STEP:
                strike(run.env)
            return step(actions)

        run.env.step = breaking
        return run

    building.build_training = build_and_break
    module.main(sys.argv[2:])


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:  # raised before ppo.run could take over
        mpi.abort_job(None, error)
