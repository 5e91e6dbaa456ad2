"""`mpirun -np 2 python -m scripts.benchmark.allreduce COUNTS ROUNDS`: times of Allreduces as JSON."""

import json
import sys
import time

import numpy as np

from utils.mpi import MpiComm


def main() -> None:
    """COUNTS is a JSON object of float32 counts by name; prints {name: [milliseconds, ...]}."""
    comm = MpiComm()
    times: dict[str, list[float]] = {}
    for name, count in json.loads(sys.argv[1]).items():
        array, times[name] = np.zeros(count, np.float32), []
        for _ in range(int(sys.argv[2])):
            comm.barrier()
            start = time.perf_counter()
            comm.sum(array)
            times[name].append(1000 * (time.perf_counter() - start))
    if comm.rank == 0:
        print(json.dumps(times))


if __name__ == "__main__":
    main()
