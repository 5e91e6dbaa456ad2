"""`mpirun -np 2 python -m scripts.benchmark.allreduce COUNTS ROUNDS`: times of sums over the ranks as JSON."""

import json
import sys
import time

import numpy as np

from utils.mpi import MpiComm

PLAIN, OURS = "MPI's Allreduce", "reduce-scatter and all-gather in shared memory"


def main() -> None:
    """COUNTS is a JSON object of float32 counts by name; prints {name: {PLAIN: [milliseconds, ...], OURS: [...]}}."""
    comm = MpiComm()
    counts = json.loads(sys.argv[1])
    times: dict[str, dict[str, list[float]]] = {}
    for name, count in counts.items():
        times[name] = {PLAIN: [], OURS: []}
        private, shared = np.zeros(count, np.float32), comm.buffer(count)
        for _ in range(int(sys.argv[2])):
            comm.barrier()
            start = time.perf_counter()
            comm.sum(private)
            between = time.perf_counter()
            comm.reduce_scatter(shared)  # what an optimiser step does: first the gradient,
            comm.all_gather(shared)  # then the weights
            end = time.perf_counter()
            times[name][PLAIN].append(1000 * (between - start))
            times[name][OURS].append(1000 * (end - between))
    if comm.rank == 0:
        print(json.dumps(times))


if __name__ == "__main__":
    main()
