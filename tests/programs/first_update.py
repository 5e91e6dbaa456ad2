"""Run under mpirun: one epoch of collecting and learning per case; rank 0 writes what all ranks saw and learned.

mpirun -np 3 python tests/programs/first_update.py FOLDER '{"echo": {"env": "Echo-v0", ...}, ...}' [apart]

With "apart", once more, into FOLDER/apart: what the ranks exchange is a copy, and each has its own copies of the
weights, as on a GPU.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from ppo import config, ppo
from ppo.build import build_training, threads
from utils import mpi

DROP = ("StepsPerSecond", "MemoryMB", "Time")


def main(words) -> None:
    folder, cases = Path(words[0]), json.loads(words[1])
    comm = mpi.connect()
    with threads(comm):
        for name, settings in cases.items():
            first_update(config.build(**settings), comm, folder / f"{name}.npz")
        if "apart" in words:
            comm.host_buffer = lambda count: None
            (folder / "apart").mkdir(exist_ok=True)
            for name, settings in cases.items():
                first_update(config.build(**settings), comm, folder / "apart" / f"{name}.npz", apart=True)


def first_update(cfg, comm, out, apart=False) -> None:
    training = build_training(cfg, comm)
    optimisers = [learner.optimiser for learner in training.learners]
    if apart:
        for array in (array for optimiser in optimisers for array in (optimiser.weights, optimiser.gradient)):
            array._host = array.flat.clone()
    episodes = ppo.collect(training)
    data, values = ppo.advantages(training)
    batch = {name: ppo.to_device(training, array).flatten(0, 1) for name, array in data.items()}
    batches = ppo.minibatches(training, 0)
    if cfg.adv_norm == "minibatch":
        batch["adv"] = ppo.normalise_per_minibatch(training, batch["adv"], batches)
    now = ppo.Coefficients(cfg.clip_ratio, cfg.ent_coef, cfg.v_clip)
    ppo.accumulate_gradients(training, training.learners, batch, batches[0], now)
    optimisers[0].sum_gradients(optimisers)
    if hasattr(optimisers[0], "gradient"):  # each rank has its part
        gradients = [optimiser.gradient.to_host() for optimiser in optimisers]
        comm.all_gather(*gradients)
        first_gradient = np.concatenate(gradients)
    else:
        first_gradient = np.concatenate([p.grad.numpy().ravel() for p in training.ac.parameters()])
    with training.timer("update"):
        learned = ppo.update(training, data)
    training.epoch = 1
    row, _ = ppo.epoch_row(training, episodes, values | learned)
    shares = comm.gather({name: data[name] for name in ("act", "adv", "ret", "logp")})
    if comm.rank == 0:
        joined = {name: np.concatenate([share[name] for share in shares], axis=1) for name in shares[0]}
        weights = np.concatenate([p.detach().numpy().ravel() for p in training.ac.parameters()])
        numbers = {name: float(value) for name, value in row.items() if not name.startswith(DROP)}
        np.savez(out, gradient=first_gradient, weights=weights, **joined, **{f"row_{k}": v for k, v in numbers.items()})
    training.close()


if __name__ == "__main__":
    main(sys.argv[1:])
