"""Write run folders as the programs write them, with learning curves known in advance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def epoch_row(rng: np.random.Generator, epoch: int, epochs: int, level: float, noise: float, steps: int) -> dict:
    """Return one row of progress.txt: the return rises as level (1 - exp(-t/0.3)), t from 0 to 1."""
    t = (epoch + 1) / epochs
    ret = level * (1 - np.exp(-t / 0.3)) + rng.normal(0, noise / 3)
    clear = float(np.clip(t + rng.normal(0, 0.05), 0, 1))
    return {
        "Epoch": epoch,
        "AverageEpRet": ret,
        "StdEpRet": 20,
        "MaxEpRet": ret + 40,
        "MinEpRet": ret - 40,
        "AverageTrainRet": ret / 10,
        "EpLen": ret,
        "EpCount": 12,
        "ClearRate": clear,
        "TotalEnvInteracts": (epoch + 1) * steps,
        "LossPi": -0.01,
        "LossV": 1 / (1 + t),
        "Entropy": 1.9 - t + rng.normal(0, 0.02),
        "KL": 0.01 + 0.003 * rng.normal(),
        "ClipFrac": 0.1 + 0.02 * rng.normal(),
        "ExplainedVariance": t,
        "StepsPerSecond": 900 + 40 * rng.normal(),
        "Time": (epoch + 1) * 1.5,
    }


COLUMNS = list(epoch_row(np.random.default_rng(0), 0, 1, 1.0, 1.0, 1))


def write_run(
    root: Path,
    name: str,
    seed: int,
    *,
    epochs: int = 40,
    level: float = 400.0,
    noise: float = 10.0,
    steps: int = 1000,
    reason: str | None = "finished",
    spec: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write data/<name>/<name>_s<seed>/ with `epochs` rows; `config` and `spec` go into config.json."""
    folder = root / name / f"{name}_s{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, len(name), int(level)])
    offset = rng.normal(0, noise)
    rows = [epoch_row(rng, epoch, epochs, level + offset, noise, steps) for epoch in range(epochs)]
    lines = ["\t".join(COLUMNS), *("\t".join(f"{value:.6g}" for value in row.values()) for row in rows)]
    (folder / "progress.txt").write_text("\n".join(lines) + "\n")
    spec = {"env_id": "CartPole-v1", "reward": "env", "versions": {"gymnasium": "1.4.0"}} | (spec or {})
    settings = {"env": "CartPole-v1", "lr": 3e-4, "epochs": epochs} | config
    facts = {"exp_name": name, "seed": seed, "commit": "0123abc", "world_size": 1, "spec": spec}
    machine = {"cpu": "Test CPU", "cores": 2, "python": "3.11", "torch": "2.13.0"}
    (folder / "config.json").write_text(json.dumps(settings | facts))
    (folder / "system.json").write_text(json.dumps(machine))
    if reason is not None:
        (folder / "exit.json").write_text(json.dumps({"reason": reason, "code": 0, "epoch": epochs, "time": 1.0}))
    return folder


def write_monitor(folder: Path, episodes: int = 60, level: float = 200.0, seed: int = 0) -> Path:
    """Write two monitor.csv as Stable-Baselines3 does for two environments."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for env in range(2):
        lines = [f'#{{"t_start": {1000.0 + env}, "env_id": "CartPole-v1"}}', "r,l,t"]
        ret = level * (1 - np.exp(-np.arange(episodes) / 20)) + rng.normal(0, 5, episodes)
        lines += [f"{r:.6f},{max(1, int(r))},{3.0 * i + 1:.4f}" for i, r in enumerate(ret)]
        (folder / f"{env}.monitor.csv").write_text("\n".join(lines) + "\n")
    return folder
