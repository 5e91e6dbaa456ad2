"""Proximal policy optimisation over MPI ranks. Nothing is re-exported here, so that `ppo.ppo` stays the module."""

import importlib.util
import os
import sys


def _check_packages() -> None:
    """See that a file of the user's own, where Python looks first, does not hide a package of this project.

    Raises:
        ImportError: it does, in one sentence; a command prints that and exits with code 2.
    """
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for name in ("envs", "utils"):
        spec = importlib.util.find_spec(name)
        found = os.path.realpath(spec.origin) if spec is not None and spec.origin else None
        if found is None or os.path.dirname(os.path.dirname(found)) != root:
            message = f"{found} hides the package {name!r} of {root}: rename it, or start in another folder"
            if sys.argv[:1] == ["-m"]:  # the package is loaded for `python -m`
                print(f"error: {message}", file=sys.stderr)
                raise SystemExit(2)
            raise ImportError(message)


_check_packages()
TORCH_CAME_FIRST = "torch" in sys.modules and "OMP_WAIT_POLICY" not in os.environ  # then the next line is too late
# Read by torch's OpenMP library when it is loaded: threads that wait for each other sleep. As they are, they spin, and
# on cores that other programs use too, each waits for one that spins.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
