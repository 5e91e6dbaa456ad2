"""`mpirun -np 2 python -m scripts.benchmark.allreduce COUNTS ROUNDS`: times of sums over the ranks as JSON."""

import json
import sys
import time

import numpy as np

from utils.mpi import MpiComm

PLAIN, OURS = "MPI's Allreduce", "in shared memory"


def main() -> None:
    """COUNTS is a JSON object of float32 counts by name; prints {name: {PLAIN: [milliseconds, ...], OURS: [...]}}."""
    comm = MpiComm()
    counts = json.loads(sys.argv[1])
    buffer = comm.buffer(max(counts.values()))
    times: dict[str, dict[str, list[float]]] = {}
    for name, count in counts.items():
        times[name] = {PLAIN: [], OURS: []}
        parties = ((PLAIN, np.zeros(count, np.float32)), (OURS, buffer[:count]))
        for _ in range(int(sys.argv[2])):
            for who, array in parties:
                comm.barrier()
                start = time.perf_counter()
                comm.sum(array)
                times[name][who].append(1000 * (time.perf_counter() - start))
    if comm.rank == 0:
        print(json.dumps(times))


if __name__ == "__main__":
    main()
