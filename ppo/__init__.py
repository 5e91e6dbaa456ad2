"""Proximal policy optimisation over MPI ranks. Nothing is re-exported here, so that `ppo.ppo` stays the module."""

import os
import sys

TORCH_CAME_FIRST = "torch" in sys.modules and "OMP_WAIT_POLICY" not in os.environ  # then the next line is too late
# Read by torch's OpenMP library when it is loaded: threads that wait for each other sleep. As they are, they spin, and
# on cores that other programs use too, each waits for one that spins.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
