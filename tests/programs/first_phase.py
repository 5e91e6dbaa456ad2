"""Run under mpirun: the first phase of PPG; rank 0 writes what the ranks saw and learned in all.

mpirun -np 3 python tests/programs/first_phase.py OUT.npz '{"env": "Echo-v0", "algo": "ppg", ...}'
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from ppo import config, ppg
from ppo.build import build_training, threads
from utils import mpi

DROP = ("StepsPerSecond", "MemoryMB", "Time")


def main(words) -> None:
    out, settings = words[0], json.loads(words[1])
    comm = mpi.connect()
    cfg = config.build(**settings, epochs=1)
    rows = []
    with threads(comm):
        training = build_training(cfg, comm)
        ppg.ppg(training, lambda training, now: None, lambda training, row, episodes: bool(rows.append(row)))
        optimisers = [learner.optimiser for learner in training.all_learners]
        optimisers[0].gather_moments(optimisers)
    if comm.rank == 0:
        numbers = {f"{i}/{k}": float(v) for i, row in enumerate(rows) for k, v in row.items() if not k.startswith(DROP)}
        for learner in (*training.learners, *training.auxiliary):
            numbers |= {f"{learner.name}/{k}": v.numpy() for k, v in learner.optimiser.state().items()}
        weights = [p.detach().numpy().ravel() for module in (training.ac, training.heads) for p in module.parameters()]
        np.savez(out, weights=np.concatenate(weights), **numbers)
    training.close()


if __name__ == "__main__":
    main(sys.argv[1:])
