"""What an installed wheel must do; run by .ci/wheel in an empty environment."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import envs
import ppo.run
from envs.mario import demonstrations
from ppo import config
from ppo.compute import cpp
from ppo.evaluate import evaluate, find_policy
from ppo.run import train

assert Path(ppo.run.__file__).is_relative_to(sys.prefix), "the checkout was imported, not the wheel"
assert cpp.library() is not None
seen = []
small = {"num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 32, "epochs": 1}
cfg = config.build(env="SuperMarioBros-1-1-v0", network="small", data_dir="runs", **small)
folder = train(cfg, on_epoch=seen.append)
assert np.isfinite(seen[0]["LossV"]) and json.loads((folder / "exit.json").read_text())["reason"] == "finished"
evaluate(find_policy("SuperMarioBros-1-1-v0"), 1, max_episode_steps=20)
assert len(demonstrations.read_all()) == 32
for env_id in ("SuperMarioBros-1-1-v3", "SuperMarioBros2-1-1-v1"):
    envs.make_vec(env_id, 1, 0).close()
command = Path(sys.executable).with_name("mario-ppo")
shown = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
assert "evaluate" in shown.stdout
version = importlib.metadata.version("mario-ppo")
print(f"mario-ppo {version} trains, plays and finds its policies on Python {sys.version.split()[0]}")
