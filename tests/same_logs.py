"""`python -m tests.same_logs record DIR` before a change, `... compare DIR` after it: the same seed, the same logs.

Trains Echo, CartPole and Mario (float32 and bfloat16) on one and two ranks, three epochs each, and keeps their run
folders. `compare` trains them again and demands the same rows of progress.txt (but for times, speeds and memory), the
same episodes.csv and the same tensors in the last checkpoint and policy, bit for bit. Columns that only one of the two
has are named and not compared. `--checkout DIR` trains with the code of another checkout.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).resolve().parent.parent
TINY = "--num-envs 4 --steps-per-epoch 256 --minibatch-size 64 --epochs 3 --save-every 1 --keep 2"
RUNS = {
    "echo": f"--env Echo-v0 --no-norm-rew {TINY}",
    "cartpole": "--env CartPole-v1 --no-norm-rew --chunk-size 128 --epochs 3 --save-every 1 --keep 2",
    "cartpole-kl": "--env CartPole-v1 --no-norm-rew --chunk-size 128 --epochs 3 --save-every 1 --keep 2"
    " --target-kl 0.0005 --adv-norm minibatch --train-v-iters 6",
    "mario-float32": f"--precision float32 {TINY} --chunk-size 40",
    "mario-bfloat16": f"--precision bfloat16 {TINY}",
    "mario-pair-bfloat16": f"--precision bfloat16 --network mario --sticky 0.25 --start-mode random {TINY}",
}
UNEQUAL = set(
    "StepsPerSecond TimeCollect TimeUpdate TimeWait TimeWaitUpdate TimeLog TimeEvaluate TimeSave MemoryMB Time".split()
)


def train(checkout: Path, data: Path) -> None:
    """Train every run on one and on two ranks."""
    for name, flags in RUNS.items():
        for ranks in (1, 2):
            where = ["--exp-name", f"{name}-{ranks}", "--data-dir", str(data), "--overwrite", "--cpu", str(ranks)]
            command = [sys.executable, "-m", "ppo.run", *flags.split(), *where]
            done = subprocess.run(command, cwd=checkout, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
            if done.returncode:
                raise SystemExit(f"{name} on {ranks} ranks failed:\n{done.stderr.decode()[-2000:]}")


def rows(run: Path) -> tuple[list[str], list[list[str]]]:
    """Return the columns of progress.txt that must be equal, and its rows of them."""
    with (run / "progress.txt").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    columns = [name for name in table[0] if name not in UNEQUAL]
    return columns, [[row[name] for name in columns] for row in table]


def tensors(run: Path) -> dict[str, bytes]:
    """Return every tensor of the last checkpoint and of the last policy as bytes; environments' states included."""
    found = {}
    for path in (
        sorted(run.glob("checkpoints/step_*"))[-1] / "state.safetensors",
        run / "policy/last/policy.safetensors",
    ):
        with safe_open(path, framework="np") as file:
            found |= {f"{path.name}:{name}": file.get_tensor(name).tobytes() for name in file.keys()}
    return found


def differences(old: Path, new: Path) -> list[str]:
    """Return what differs between two run folders, one line each."""
    found = []
    (old_columns, old_rows), (new_columns, new_rows) = rows(old), rows(new)
    for name in sorted(set(old_columns) ^ set(new_columns)):
        print(f"{new.name}: column {name} only {'before' if name in old_columns else 'after'}")
    for name in (name for name in old_columns if name in new_columns):
        a = [row[old_columns.index(name)] for row in old_rows]
        b = [row[new_columns.index(name)] for row in new_rows]
        found += [f"{new.name}: {name} was {a}, is {b}"] if a != b else []
    if (old / "episodes.csv").read_bytes() != (new / "episodes.csv").read_bytes():
        found.append(f"{new.name}: episodes.csv differs")
    a, b = tensors(old), tensors(new)
    return found + [
        f"{new.name}: tensor {name} differs" for name in sorted(set(a) | set(b)) if a.get(name) != b.get(name)
    ]


def main() -> int:
    """Record or compare; return 1 where something differs."""
    parser = argparse.ArgumentParser(prog="tests.same_logs", description=__doc__)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    args = parser.parse_args()
    if args.what == "record":
        train(args.checkout, args.folder.resolve())
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        train(args.checkout, Path(temporary))
        new = sorted(Path(temporary).glob("*/*_s0"))
        found = [line for run in new for line in differences(args.folder / run.parent.name / run.name, run)]
        print("\n".join(found) or f"{len(new)} runs: the same logs, episodes and tensors")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
