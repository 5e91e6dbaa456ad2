"""Stands for `python -m ppo.run` in the tests of the sweep: same flags, same folder, same signals, no learning.

--behave fail: ends with an error. --behave slow: needs 20 s unless it is interrupted, then saves and ends with 130.
--behave flaky: fails on its first start, goes on at its second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    flags: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            flags[name] = ""
        else:
            flags[name] = word
    folder = Path(flags["data_dir"], flags["exp_name"], f"{flags['exp_name']}_s{flags['seed']}")
    assert "resume" in flags
    folder.mkdir(parents=True, exist_ok=True)
    starts = folder / "starts.txt"
    starts.open("a").write(f"{os.environ['OMP_NUM_THREADS']} {time.time()}\n")
    lr = float(flags.get("pi_lr", 1e-4))
    epochs = int(flags.get("epochs", 5))
    config = {
        "exp_name": flags["exp_name"],
        "seed": int(flags["seed"]),
        "pi_lr": lr,
        "num_epochs": epochs,
        "epochs": epochs,
    }
    config |= {"steps_per_epoch": 10, "spec": {"env_id": "Fake-v0", "reward": "env", "versions": {}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "exit.json").unlink(missing_ok=True)
    behave = flags.get("behave", "")
    if behave == "fail" or (behave == "flaky" and len(starts.read_text().splitlines()) == 1):
        print("first words of the log", flush=True)
        print("ValueError: this run fails \x1b[31mon purpose", file=sys.stderr)
        return 1
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    log = folder / "progress.txt"
    if not log.exists():
        log.write_text("Epoch\tAverageEpRet\tTotalEnvInteracts\tTime\n")
    done = len(log.read_text().splitlines()) - 1
    for epoch in range(done, epochs):
        with log.open("a") as file:
            file.write(f"{epoch}\t{1e4 * lr * epoch + int(flags['seed'])}\t{10 * (epoch + 1)}\t{epoch}\n")
        time.sleep(20 / epochs if behave == "slow" else 0.01)
        if stopped:
            (folder / "exit.json").write_text(json.dumps({"reason": "interrupted", "code": 130, "epoch": epoch}))
            return 130
    (folder / "exit.json").write_text(json.dumps({"reason": "finished", "code": 0, "epoch": epochs}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
