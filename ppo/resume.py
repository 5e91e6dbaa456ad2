"""What a run needs to go on: the tensors of a checkpoint, and whether a folder's run may continue under these settings.

`facts` is what becomes the run's config.json, `old` what is in it already. `recorder.py` calls all this in its order.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppo import core
from ppo.config import PPOConfig, all_settings, free_on_resume
from ppo.policy import load_policy, read_info
from ppo.training import Training
from utils import logger
from utils.command import printable
from utils.folder import Refused
from utils.mpi import agreed

EXACT_VERSIONS = ("python", "torch", "numpy")  # bit for bit only with the same of these
RESOLVED = ("resolved_device", "resolved_precision")  # what "auto" meant; config.json of older versions lacks them
ANNEALED = {
    "pi_lr": "anneal_lr",
    "v_lr": "anneal_lr",
    "clip_ratio": "anneal_clip",
    "v_clip": "anneal_clip",
    "ent_coef": "anneal_ent",
}
# What decides which tensors a checkpoint holds.
SHAPES = ("algo", "network", "policy", "lstm_units", "shared", "norm_obs", "norm_rew")
STATE_BYTES = 64 << 20  # no environment's state is larger
MENTIONED = {
    "commit": "the code",
    "mpi": "the MPI library",
    "processor": "the processor",
    "arithmetic": "what computes",
    "instructions": "the processor's set of instructions",
}  # in config.json

Saved = tuple[dict[str, np.ndarray], dict[str, Any]]  # tensors and meta data of a checkpoint
Facts = dict[str, Any]  # of config.json


# The tensors of a checkpoint ------------------------------------------------------------------------------------------


def run_tensors(training: Training, env_states: list[bytes]) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint by name: ac/*, heads/*, adam_pi/*, adam_v/*, norm/*, env/<index> (bytes)."""
    tensors: dict[str, torch.Tensor] = {}
    for prefix, module in (("ac", training.ac), ("heads", training.heads)):
        for name, p in module.state_dict().items():
            tensors[f"{prefix}/{name}"] = p.cpu().clone(memory_format=torch.contiguous_format)
    for prefix, optimiser in ((f"adam_{one.name.lower()}", one.optimiser) for one in training.all_learners):
        tensors |= {f"{prefix}/{name}": tensor for name, tensor in optimiser.state().items()}
    tensors |= {f"norm/{name}": torch.from_numpy(array) for name, array in training.normaliser.state().items()}
    for i, state in enumerate(env_states):
        tensors[f"env/{i}"] = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    return tensors


def most_bytes(training: Training) -> int:
    """Return how large a checkpoint of this run can be: weights, two or four moments of each, environments."""
    parameters = sum(p.numel() for p in training.ac.parameters())
    return 4 * 5 * parameters + STATE_BYTES * training.cfg.num_envs + (1 << 20)


def check_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Check what a checkpoint, perhaps a stranger's, says about itself.

    Raises:
        Refused: a number is missing, of another type or out of range.
    """
    try:
        numbers = [meta["epoch"], *meta["resumes"], *(meta["log"][name] for name in logger.FILES)]
        good = all(type(number) is int and 0 <= number < 2**53 for number in numbers)
        reals = [meta["seconds"], *([] if meta["best"] is None else [meta["best"]])]
        good = good and all(meta[name] is None or isinstance(meta[name], str) for name in ("reached", "stop_at"))
        recent = meta.get("recent", [])
        good = good and type(recent) is list and all(type(pair) is list and len(pair) == 2 for pair in recent)
        reals += [number for pair in recent for number in pair] if good else []
        reals.append(meta.get("row_seconds", 0.0))
        good = good and all(type(real) in (int, float) and math.isfinite(real) for real in reals)
        lengths = meta.get("recent_lengths", [])
        good = good and type(lengths) is list and all(type(n) is int and 0 <= n < 2**53 for n in lengths)
        good = good and set(meta["log"]) == set(logger.FILES)
    except (KeyError, TypeError, AttributeError, OverflowError):
        good = False
    if not good:
        raise Refused(f"{folder / 'meta.json'} does not hold what a checkpoint's should")


def restore(training: Training, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Put a checkpoint, but for the environments, into a run that was just built.

    Raises:
        Refused: it does not belong to this run; on all ranks alike, since all hold the same arrays.
    """
    try:
        for prefix, module in (("ac/", training.ac), ("heads/", training.heads)):
            own = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            module.load_state_dict({name: torch.from_numpy(a) for name, a in own.items()})
        for prefix, optimiser in ((f"adam_{one.name.lower()}", one.optimiser) for one in training.all_learners):
            own = {name.removeprefix(prefix + "/"): a for name, a in arrays.items() if name.startswith(prefix + "/")}
            optimiser.load_state(own)
        training.normaliser.load_state({name[5:]: a for name, a in arrays.items() if name.startswith("norm/")})
        missing = [i for i in range(training.cfg.num_envs) if f"env/{i}" not in arrays]
        if missing:
            raise LookupError(f"env/{missing[0]}")
        if training.ac.memories and arrays["memory"].shape != (training.cfg.num_envs, training.ac.state_size):
            raise ValueError(f"memory is of shape {arrays['memory'].shape}")
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise Refused(f"the checkpoint's tensors are not those of this run: {printable(error, 300)}") from None
    training.epoch = meta["epoch"]
    training.best = -math.inf if meta["best"] is None else float(meta["best"])
    training.recent = meta.get("recent", [])


def restore_episodes(
    training: Training, arrays: dict[str, np.ndarray], allow_mismatch: bool, facts: Facts, notes: list[str]
) -> None:
    """Restore the environments; where they have become others, begin fresh episodes if that is allowed.

    Raises:
        Refused: on all ranks: it is not.
    """
    states = [arrays[f"env/{i}"].tobytes() for i in training.env_indices]
    training.env.alive = lambda: training.watchdog.touch("restore the environments")

    def set_states() -> None:
        try:
            training.obs = training.env.set_state(states)
            if training.ac.memories:
                training.nets.set_state(arrays["memory"][training.env_indices.start : training.env_indices.stop])
        finally:
            with training.watchdog.paused():  # others may need longer, and have watchdogs of their own
                training.comm.barrier()

    try:
        agreed(training.comm, set_states, (ValueError,), Refused)
    except Refused as problem:
        if not allow_mismatch:
            more = "--allow-mismatch begins fresh episodes"
            raise Refused(f"the environments cannot be restored: {problem} ({more})") from None
        training.obs = training.env.begin_after(states)
        training.normaliser.carry[:] = 0.0
        training.nets.set_state(np.zeros_like(training.nets.get_state()))
        notes.append(f"fresh episodes begin in all environments, which cannot be restored: {problem}")
        facts["fresh_episodes_at_epochs"] = [*facts.get("fresh_episodes_at_epochs", []), training.epoch]


# The settings that it was made with -----------------------------------------------------------------------------------


def compare_settings(cfg: PPOConfig, facts: Facts, old: Facts, allow_mismatch: bool) -> None:
    """See that a run may go on with these settings; note in `facts` where they differ from those it was made with.

    Raises:
        Refused: they differ, and that is not allowed.
    """
    free = free_on_resume(cfg)
    compared = {name: facts[name] for name in (*cfg.to_dict(), "world_size", "spec", *RESOLVED)}
    new_since = {setting.name: setting.default for setting in all_settings(cfg.env)}
    new_since |= {name: facts[name] for name in RESOLVED}
    differing = {
        name: (old.get(name, new_since.get(name)), value)
        for name, value in json.loads(json.dumps(compared)).items()
        if name not in free and old.get(name, new_since.get(name)) != value
    }
    versions, mine = _table(old.get("versions")), facts["versions"]
    differing |= {name: (versions.get(name), mine[name]) for name in EXACT_VERSIONS if versions.get(name) != mine[name]}
    was, now = old.get("eval_every", 0), cfg.eval_every
    if bool(was) != bool(now):  # its columns are in every row or in none, and decide what the best policy is
        raise Refused(f"{cfg.run_dir} was made with eval-every {_short(was)}, now {now}: a run evaluates or does not")
    if "env" in differing and ":" not in str(differing["env"]):
        was, now = differing["env"]
        raise Refused(f"{cfg.run_dir} was made with other settings: env was {_short(was)}, now {_short(now)}")
    shapes = [name for name in SHAPES if name in differing and ":" not in str(differing[name])]  # a module may move
    if cfg.policy == "feedforward" and "lstm_units" in shapes:
        shapes.remove("lstm_units")
    if "num_envs" in differing and (cfg.norm_rew or cfg.policy != "feedforward" or not _fewer(*differing["num_envs"])):
        shapes.append("num_envs")
    listed = "; ".join(f"{name} was {_short(was)}, now {_short(now)}" for name, (was, now) in differing.items())
    if shapes:
        unfit = f"its checkpoint does not fit another {', '.join(shapes)}"
        raise Refused(f"{cfg.run_dir} was made with other settings: {listed}; {unfit}")
    if differing and not allow_mismatch:
        raise Refused(f"{cfg.run_dir} was made with other settings: {listed} (--allow-mismatch continues all the same)")
    if type(fresh := old.get("fresh_episodes_at_epochs")) is list:
        facts["fresh_episodes_at_epochs"] = fresh
    earlier = _table(old.get("mismatch"))
    if differing or earlier:
        facts["mismatch"] = earlier | {name: list(pair) for name, pair in differing.items()}


def inexact(facts: Facts, old: Facts) -> list[str]:
    """Return what is not refused but may change the last bits of a number, one line each."""
    notes = []
    threads = old.get("torch_threads")
    if threads not in (None, torch.get_num_threads()):
        notes.append(f"not bit for bit: the run had {_short(threads)} threads per rank, now {torch.get_num_threads()}")
    for name, what in MENTIONED.items():
        if old.get(name) not in (None, facts[name]):
            notes.append(f"perhaps not bit for bit: {what} was {_short(old[name])}, now {facts[name]!r}")
    versions, mine = _table(old.get("versions")), facts["versions"]
    for name in sorted(set(versions) | set(mine)):
        if name not in EXACT_VERSIONS and versions and versions.get(name) != mine.get(name):
            was, now = _short(versions.get(name)), mine.get(name)
            notes.append(f"perhaps not bit for bit: {printable(name)} was {was}, now {now!r}")
    return notes


def compare_lengths(cfg: PPOConfig, facts: Facts, old: Facts, epoch: int) -> list[str]:
    """Note in `facts` from which epoch on the run has another length; return what that does to schedules.

    Raises:
        Refused: the run is longer than that already.
    """
    if cfg.num_epochs < epoch:
        raise Refused(f"{cfg.run_dir} has {epoch} epochs already, more than the {cfg.num_epochs} that are asked for")
    was = old.get("num_epochs", old.get("epochs"))
    earlier = old.get("lengths", [[0, was]])
    if type(was) is not int or not 0 < was < 2**53 or was == cfg.num_epochs or type(earlier) is not list:
        facts["lengths"] = earlier if type(earlier) is list and type(was) is int else facts["lengths"]
        return []
    facts["lengths"] = [*earlier, [epoch, cfg.num_epochs]]
    moved = []
    for name, schedule in ANNEALED.items():
        unused = name == "v_clip" and cfg.v_loss != "clipped"
        if getattr(cfg, schedule) and epoch and not unused:
            before, after = (core.anneal(getattr(cfg, name), epoch / length, True) for length in (was, cfg.num_epochs))
            moved.append(f"{name} {max(before, 0.0):.3g} -> {max(after, 0.0):.3g}")
    note = f"the run was {was} epochs long, now {cfg.num_epochs}"
    return [f"{note}: what falls to zero does so over the new length: {', '.join(moved)}"] if moved else []


def continued(facts: Facts) -> dict[str, str]:
    """Return what a policy's JSON says where its run was continued in another way: one command does not make it."""
    told = []
    if len(facts["lengths"]) > 1:
        told.append(f"its length changed on the way, [from epoch, epochs]: {facts['lengths']}")
    if facts.get("mismatch"):
        told.append("with other settings: " + ", ".join(sorted(map(str, facts["mismatch"]))))
    return {"continued": printable("; ".join(told), 500)} if told else {}


def _table(value: Any) -> dict[str, Any]:
    """Return a JSON object from a file, or an empty one where something else is in its place."""
    return value if isinstance(value, dict) else {}


def _fewer(was: Any, now: int) -> bool:
    return type(was) is int and now < was


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# The weights of another run -------------------------------------------------------------------------------------------


def init_from(training: Training, folder: Path, network: str | None = None) -> str:
    """Start the networks from a policy's weights and return one line that says so; `network` is the run's own.

    Raises:
        Refused: no policy, or its tensors have other shapes than this run's, both of which are named.
    """
    policy = load_policy(folder, network if read_info(folder).get("network") == network else None)
    weights, mine = policy.ac.state_dict(), training.ac.state_dict()
    if not policy.has_value:
        weights |= {name: p for name, p in mine.items() if name.startswith("v.")}
    for name, p in mine.items():
        if name not in weights or weights[name].shape != p.shape:
            theirs = tuple(weights[name].shape) if name in weights else "missing"
            raise Refused(f"init-from {folder}: {name} is {theirs} there and {tuple(p.shape)} here")
    if more := sorted(set(weights) - set(mine)):
        raise Refused(f"init-from {folder}: {more[0]} is there and not here")
    training.ac.load_state_dict(weights)
    known = training.normaliser.begin_from_policy(policy.info)
    unit = "" if known or not policy.has_value else "; it does not say how its rewards were normalised"
    return f"starting from the {'weights' if policy.has_value else 'actor'} of {folder}{unit}"
