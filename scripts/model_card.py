"""Model cards: the README.md of a policy's folder, with the metadata that the Hugging Face hub reads.

The metadata is YAML between two lines of `---` (hub documentation, "Model Cards"; results as `model-index`). Values are
written as JSON, which YAML contains: words of a policy's file cannot end a line or add a key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from utils.command import printable

LIBRARY = "mario-ppo"
TASK = {"type": "reinforcement-learning", "name": "reinforcement-learning"}


def front_matter(info: dict[str, Any], results: Sequence[tuple[str, dict[str, Any]]] = ()) -> list[str]:
    """Return the lines of the metadata.

    Args:
        info: what `policy.json` says.
        results: of evaluations: how each was made, in words, and its summary (`scripts.evaluate.summarise`).
    """
    env = printable(info.get("env"))
    metadata: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": TASK["type"],
        "tags": [TASK["type"], "deep-reinforcement-learning", "ppo", env],
    }
    if results:
        found = [_result(env, how, summary) for how, summary in results]
        metadata["model-index"] = [{"name": f"PPO {env}", "results": found}]
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in metadata.items()), "---"]


def _result(env: str, how: str, summary: dict[str, Any]) -> dict[str, Any]:
    """Return one entry of the model index."""
    ret = summary["ep_ret"]
    metrics = [{"type": "mean_reward", "name": "mean_reward", "value": f"{ret['mean']:.2f} +/- {ret['std']:.2f}"}]
    if "clear_rate" in summary:
        metrics.append({"type": "clear_rate", "name": "clear rate", "value": round(summary["clear_rate"], 4)})
    return {"task": TASK, "dataset": {"type": env, "name": f"{env}, {how}"}, "metrics": metrics}


def facts(info: dict[str, Any], filmed: bool, critic: bool = False) -> list[str]:
    """Return what is known of a policy, a line each."""
    spec = info["spec"] if isinstance(info.get("spec"), dict) else {}
    options, number = spec.get("options"), spec.get("preprocess_version")
    more = [f"actions {options['actions']}"] if isinstance(options, dict) and options.get("actions") else []
    more += [f"preprocessing version {number}"] if number is not None else []
    table = info["versions"] if isinstance(info.get("versions"), dict) else {}
    versions = ", ".join(f"{package} {version}" for package, version in sorted(table.items()))
    timed = isinstance(info.get("hours"), int | float)
    hours = f"{info['hours']:.2f}, {info.get('cores')} core(s) of {info.get('processor')}" if timed else None
    told = {
        "Environment": ", ".join([f"`{info.get('env')}`", *more]),
        "Network": f"{info['network']}, {'actor and critic' if critic else 'the actor alone'}",
        "Made by": f"`{info.get('command', 'unknown')}`",
        "Continued": info.get("continued"),
        "Preset": info.get("preset"),
        "Seed": info.get("seed"),
        "Temperature": info.get("temperature"),
        "Decisions": f"{info['steps']:,}" if isinstance(info.get("steps"), int) else None,
        "Hours": hours,
        "Commit": info.get("commit"),
        "Versions": versions,
        "Video": "[play.mp4](play.mp4)" if filmed else None,
    }
    return [f"- {title}: {printable(value, 1000)}" for title, value in told.items() if value not in (None, "")]
