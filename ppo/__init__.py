"""Proximal policy optimisation over MPI ranks. Nothing is re-exported here, so that `ppo.ppo` stays the module."""
