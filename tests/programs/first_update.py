"""Run under mpirun: one epoch of collecting and learning; rank 0 writes what all ranks together saw and learned.

mpirun -np 3 python tests/programs/first_update.py OUT.npz '{"env": "Echo-v0", ...}' [apart]

With "apart", what travels between the ranks is a copy, and each has its own copies of the weights, as on a GPU.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from ppo import config, ppo
from ppo.optimiser import reduce_gradients
from ppo.run import build_run, limit_threads
from utils import mpi


def main() -> None:
    out, settings = sys.argv[1], json.loads(sys.argv[2])
    comm = mpi.connect()
    cfg = config.build(**settings)
    limit_threads(comm, cfg.network)
    if "apart" in sys.argv:
        comm.host_buffer = lambda count: None
    run = build_run(cfg, comm)
    if "apart" in sys.argv:
        for optimiser in (run.pi_optimiser, run.v_optimiser):
            for vector in (optimiser.weights, optimiser.gradient):
                vector._host = vector.flat.clone()
    episodes = ppo.collect(run)
    data = run.buf.get()
    spread = ppo.value_statistics(run, data)
    ppo.normalise_advantages(run, data)
    tensors = {name: ppo.to_device(run, array).flatten(0, 1) for name, array in data.items()}
    rows, adv = next(iter(ppo.minibatches(run, tensors["adv"], 0)))
    ppo.accumulate_gradients(run, tensors | {"adv": adv}, rows, run.cfg.clip_ratio, run.cfg.ent_coef, True, True)
    optimisers = [run.pi_optimiser, run.v_optimiser]
    reduce_gradients(optimisers, comm)
    gradients = [optimiser.gradient.leave() for optimiser in optimisers]
    comm.all_gather(*gradients)
    first_gradient = np.concatenate(gradients)
    learned = ppo.update(run, data)
    run.epoch = 1
    row, _ = ppo.epoch_row(run, episodes, spread, learned, {"TimeCollect": 1.0, "TimeUpdate": 1.0})
    shares = comm.gather({name: data[name] for name in ("act", "adv", "ret", "logp")})
    if comm.rank == 0:
        joined = {name: np.concatenate([share[name] for share in shares], axis=1) for name in shares[0]}
        weights = np.concatenate([p.detach().numpy().ravel() for p in run.ac.parameters()])
        drop = ("StepsPerSecond", "MemoryMB", "Time", "TimeCollect", "TimeUpdate")
        numbers = {name: float(value) for name, value in row.items() if name not in drop}
        np.savez(out, gradient=first_gradient, weights=weights, **joined, **{f"row_{k}": v for k, v in numbers.items()})
    run.close()


if __name__ == "__main__":
    main()
