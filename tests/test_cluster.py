"""The recipes for Slurm, with programs that stand in for its own: Slurm itself is not here."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SRUN = """#!/bin/sh
echo "srun $*" >>"$LOG"
while [ "${1#--}" != "$1" ]; do shift; done
[ -z "${CODE:-}" ] || exit "$CODE"
exec "$@"
"""
CASES = {
    "seeds": ({"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}, "70_3"),
    "hosts": ({"SLURM_JOB_ID": "71"}, "71"),
}


def submit(tmp_path, name, code, *flags):
    """Run a recipe as sbatch would; return its exit code and what it asked Slurm for."""
    log, bin_ = tmp_path / "log", tmp_path / "bin"
    bin_.mkdir(exist_ok=True)
    log.write_text("")
    for tool, text in (("srun", SRUN), ("scontrol", '#!/bin/sh\necho "scontrol $*" >>"$LOG"\n')):
        (bin_ / tool).write_text(text)
        (bin_ / tool).chmod(0o755)
    given = {"LOG": str(log), "CODE": code, "PATH": f"{bin_}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT)}
    script = ROOT / "scripts" / "cluster" / f"{name}.sbatch"
    env = os.environ | given | CASES[name][0] | {"PYTHON": sys.executable}
    done = subprocess.run(["sh", str(script), *flags], env=env, cwd=tmp_path, capture_output=True, text=True)
    return done.returncode, log.read_text().splitlines()


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_stopped_is_queued_again(tmp_path, name):
    """Code 75, and no other, puts the same job, or the same task of the array, into the queue again."""
    code, asked = submit(tmp_path, name, "75", "--env", "Echo-v0")
    assert code == 0 and asked[-1] == f"scontrol requeue {CASES[name][1]}"
    assert asked[0].endswith("--resume --env Echo-v0") and len(asked) == 2
    for given in ("0", "1", "2", "143"):
        code, asked = submit(tmp_path, name, given)
        assert code == int(given) and len(asked) == 1


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_trains(tmp_path, name):
    """Its command is one that ppo.run takes; a task of the array is a seed."""
    flags = "--env Echo-v0 --epochs 1 --num-envs 2 --steps-per-epoch 32 --minibatch-size 32".split()
    code, _ = submit(tmp_path, name, "", *flags, "--data-dir", str(tmp_path))
    assert code == 0
    assert (tmp_path / "ppo_echo-v0" / f"ppo_echo-v0_s{3 if name == 'seeds' else 0}" / "exit.json").exists()


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_asks_for_notice(name):
    """Slurm reads its options before the first command; without a signal a run would lose what it had not saved."""
    lines = (ROOT / "scripts" / "cluster" / f"{name}.sbatch").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(options) < first_command
    assert {"#SBATCH --signal=USR1@120", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(lines)
