"""The long proof of exact resuming: `python -m tests.kills --kills 200 --out FILE`.

Runs with 1, 2 and 4 ranks, of four kinds of environment and by PPG, are killed with SIGKILL, a rank or the launcher,
at random instants: anywhere between the start of the program and its end, or aimed at one of its phases. After each
kill no process may be left within 30 seconds, and the run is resumed, to be killed again. In the end it is left alone,
and its weights, Adam's moments, environment states, rows of progress.txt, lines of episodes.csv and both policies must
equal those of a run that nobody touched. Whatever the instant, a policy that was there before still loads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ppo.policy import load_policy
from tests.conftest import finish, kill_marked, marked_processes, run, start
from tests.test_train import assert_same
from utils import system

LIMIT = 30.0  # seconds that the processes of a killed run have to end

COMMON = ["--exp-name", "r", "--save-every", "2", "--train-pi-iters", "2", "--train-v-iters", "2"]
KINDS = {
    kind: words.split()
    for kind, words in {
        "echo": "--env Echo-v0 --num-envs 8 --steps-per-epoch 512 --minibatch-size 64 --epochs 24",
        "cartpole": "--env CartPole-v1 --num-envs 8 --steps-per-epoch 512 --minibatch-size 128 --epochs 24",
        "mario": "--network small --num-envs 4 --steps-per-epoch 256 --minibatch-size 64 --start-frames 20"
        " --sticky 0.1 --epochs 16",
        "mario-nes-py": "--network small --num-envs 4 --steps-per-epoch 64 --minibatch-size 32 --epochs 8"
        " --emulator nes-py",
        "ppg": "--algo ppg --env Echo-v0 --num-envs 8 --steps-per-epoch 512 --minibatch-size 64 --phase-epochs 2"
        " --train-aux-iters 2 --epochs 24",
    }.items()
}


class Case(NamedTuple):
    """One kind of run and its share of all kills."""

    kind: str
    ranks: int
    share: float


CASES = [  # all kinds with one number of ranks, then with the next
    Case(kind, ranks, share)
    for ranks in (2, 1, 4)
    for kind, share in (("echo", 0.1), ("mario", 0.1), ("cartpole", 0.05), ("mario-nes-py", 0.03), ("ppg", 0.05))
]


def plan(case: Case, rng: random.Random, seconds: float, note: Path) -> dict[str, Any]:
    """Return when and whom to kill; `seconds` is how long the run takes when nobody does."""
    phases = ["any", "any", "collect", "update", "save", *(["auxiliary phase"] if case.kind == "ppg" else [])]
    phase = rng.choice(phases)
    most = {"any": 1, "collect": 200, "update": 60, "save": 8, "auxiliary phase": 60}[phase]
    delay = {"any": seconds, "save": 0.02}.get(phase, 0.05)
    target = "launcher" if case.ranks > 1 and rng.random() < 0.3 else "rank"
    rank = 0 if phase == "save" and rng.random() < 0.7 else rng.randrange(case.ranks)
    return {
        "rank": rank,
        "target": target,
        "phase": phase,
        "touch": rng.randint(1, most),
        "delay": rng.uniform(0, delay),
        "note": str(note),
    }


def kill_once(case: Case, flags: list[str], chosen: dict[str, Any]) -> dict[str, Any] | None:
    """Start or resume the run and kill it; what was hit and how long it took to end, None if it finished before."""
    note = Path(chosen["note"])
    note.unlink(missing_ok=True)
    command = ["tests/programs/killed_run.py", *flags, "--resume"]
    process, mark = start(command, case.ranks, {"KILL_PLAN": json.dumps(chosen)})
    deadline = time.monotonic() + 120
    while not note.exists() and process.poll() is None:
        if time.monotonic() > deadline:
            kill_marked(mark)
            raise AssertionError(f"{case}: neither killed nor finished after 120 s: {chosen}")
        time.sleep(0.02)
    if not note.exists():
        done = finish(process, mark)
        assert done.code == 0, (case, chosen, done.err)
        return None
    while not (text := note.read_text()):
        time.sleep(0.01)
    hit = json.loads(text)
    while marked_processes(mark):
        if time.monotonic() - hit["time"] > LIMIT:
            left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in marked_processes(mark)]
            kill_marked(mark)
            raise AssertionError(f"{case}: {chosen} left {left} running")
        time.sleep(0.02)
    process.communicate()
    phase = hit["phase"].split(",")[0]
    return {"phase": phase, "target": chosen["target"], "seconds": time.monotonic() - hit["time"]}


def policies(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what tells the run's policies apart, of each that there is."""
    found = {}
    for name in ("last", "best"):
        if (folder / "policy" / name).exists():
            info = load_policy(folder / "policy" / name).info
            found[name] = tuple(info[field] for field in ("sha256", "epoch", "steps", "spec", "command"))
    return found


def difference(whole: Path, cut: Path) -> str | None:
    """Return what tells a run from the untouched one, None where they are equal."""
    try:
        assert_same(whole, cut)
        assert policies(whole) == policies(cut), "the policies differ"
        assert "last" in policies(cut), "there is no last policy"
    except (AssertionError, ValueError, OSError) as error:
        return str(error) or "see assert_same"
    return None


def prove(case: Case, kills: int, rng: random.Random, folder: Path) -> dict[str, Any]:
    """Kill one kind of run `kills` times and compare each that came to its end with the untouched one."""
    flags = [*KINDS[case.kind], *COMMON]
    begun = time.monotonic()
    done = run(["-m", "ppo.run", *flags, "--data-dir", str(folder / "whole")], case.ranks, timeout=300)
    assert done.code == 0, done.err
    seconds = time.monotonic() - begun
    hits: list[dict[str, Any]] = []
    differing: list[str] = []
    compared = 0
    while len(hits) < kills:
        place = [*flags, "--data-dir", str(folder / f"cut{compared}")]
        for _ in range(8):
            hit = kill_once(case, place, plan(case, rng, seconds, folder / "note"))
            policies(folder / f"cut{compared}" / "r" / "r_s0")
            hits += [hit] if hit else []
            if hit is None or len(hits) >= kills:
                break
        done = run(["-m", "ppo.run", *place, "--resume"], case.ranks, timeout=300)
        assert done.code == 0, done.err
        found = difference(folder / "whole" / "r" / "r_s0", folder / f"cut{compared}" / "r" / "r_s0")
        differing += [found] if found else []
        compared += 1
    return {
        "kind": case.kind,
        "ranks": case.ranks,
        "kills": len(hits),
        "runs_compared": compared,
        "runs_equal": compared - len(differing),
        "differences": differing,
        "by_phase": dict(Counter(hit["phase"] for hit in hits)),
        "by_target": dict(Counter(hit["target"] for hit in hits)),
        "slowest_end_seconds": round(max(hit["seconds"] for hit in hits), 2),
    }


def total(results: list[dict[str, Any]], seconds: float, commit: str) -> dict[str, Any]:
    """Return what is written of the cases that were tried."""
    phases: Counter[str] = Counter()
    for result in results:
        phases.update(result["by_phase"])
    return {
        "command": "python -m tests.kills " + " ".join(sys.argv[1:]),
        "kills": sum(r["kills"] for r in results),
        "runs_compared": sum(r["runs_compared"] for r in results),
        "runs_equal": sum(r["runs_equal"] for r in results),
        "by_phase": dict(phases),
        "slowest_end_seconds": max(r["slowest_end_seconds"] for r in results),
        "minutes": round(seconds / 60, 1),
        "machine": system.describe("")["processor"],
        "cores": system.cores(),
        "commit": commit,
        "cases": results,
    }


def main() -> int:
    """Run all cases; a hang or a leftover process ends it with a traceback. Returns 1 where a run differed.

    The file is written after each case, so that one that is stopped has those before.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rng, results, begun = random.Random(args.seed), [], time.monotonic()
    commit = system.commit()  # before the file, which may be a tracked one, is written
    for case in CASES:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="kills-", dir=base) as folder:
            results.append(prove(case, max(1, round(args.kills * case.share)), rng, Path(folder)))
        print(json.dumps(results[-1]), flush=True)
        found = total(results, time.monotonic() - begun, commit)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    print({name: value for name, value in found.items() if name != "cases"})
    return int(found["runs_equal"] != found["runs_compared"])


if __name__ == "__main__":
    sys.exit(main())
