"""What a run leaves behind: folder, log, checkpoints, policies. Rank 0 writes; the other ranks only send their parts.

A checkpoint holds everything that the rest of the run depends on: weights, both Adam states, the environments' states
as they were when the epoch began, the epoch's number, and how long the log was. Random numbers need no state: each is
named by seed, environment and epoch (`utils/seeding.py`).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ppo.config import GOAL, PPOConfig, all_settings, free_on_resume, free_settings
from ppo.evaluate import evaluate_together
from ppo.networks import ActorCritic
from ppo.policy import Policy, load_policy, save_policy
from ppo.training import Training as Run
from utils import checkpoint, logger, system
from utils.folder import Refused, RunFolder
from utils.mpi import Comm

MAX_FAILED_SAVES = 3
RECENT = 100  # finished episodes that decide whether a policy is the best so far
EVAL_ENVS = 16  # as `scripts.evaluate` has by default
EXACT_VERSIONS = ("python", "torch", "numpy")  # bit for bit only with the same of these


class Recorder:
    """Keeps the files of one run. On ranks other than 0 it takes part in the collective calls and writes nothing."""

    def __init__(self, cfg: PPOConfig, comm: Comm, resume: bool, overwrite: bool, show: bool = True) -> None:
        """Take the run's folder.

        Raises:
            Refused: on all ranks; see `RunFolder`.
        """
        self.cfg, self.comm, self.path = cfg, comm, cfg.run_dir
        self.folder: RunFolder | None = None
        self.logger: logger.EpochLogger | None = None
        self.console = logger.Console(cfg.num_epochs * cfg.steps_per_epoch, show=show and comm.rank == 0)
        self._saved_at, self._failed_saves = time.monotonic(), 0
        self._facts: dict[str, Any] = {}  # config.json
        self.reached: str | None = None  # how the goal of stop_at was reached
        refusal = None
        if comm.rank == 0:
            try:
                self.folder = RunFolder(self.path, resume, overwrite)
            except Refused as error:
                refusal = str(error)
        refusal = comm.broadcast(refusal)
        if refusal is not None:
            raise Refused(refusal)

    # Starting ---------------------------------------------------------------------------------------------------------

    def begin(self, run: Run, allow_mismatch: bool) -> None:
        """Write down what is run or, where the folder holds a run, restore it from its newest checkpoint.

        Raises:
            Refused: on all ranks: settings or versions differ from those of the run that is resumed.
        """
        problem, saved = None, None
        if self.folder is not None:
            self._facts = {
                **self.cfg.to_dict(), "exp_name": self.cfg.experiment, "world_size": self.comm.world_size,
                "spec": run.env.identity(), "commit": system.commit(), "free_settings": free_settings(self.cfg),
                "columns": [asdict(column) for column in run.env.family.columns],
            }  # fmt: skip
            try:
                if not self.folder.fresh:
                    saved = self._newest(allow_mismatch)
                self._open_log(run, saved)
            except Refused as error:
                problem = str(error)
        problem = self.comm.broadcast(problem)
        if problem is not None:
            raise Refused(problem)
        saved = self.comm.broadcast(saved)
        if saved is not None:
            restore(run, *saved)
            self.reached = saved[1]["reached"] if self.cfg.stop_at == saved[1]["stop_at"] else None
        self.console.advance(run.epoch * self.cfg.steps_per_epoch)
        run.progress = self.console.advance

    def _newest(self, allow_mismatch: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return tensors (as arrays) and meta of the newest good checkpoint, None if there is none yet."""
        assert self.folder is not None
        old = self.folder.read_config()
        self._compare_with_config(old, allow_mismatch)
        self._say_if_inexact(old)
        newest, rejected = checkpoint.newest(self.path / "checkpoints")
        for reason in rejected:
            self.say(f"checkpoint rejected: {reason}")
        checkpoint.clean_temporary(self.path / "checkpoints")
        if newest is None:
            self.say(f"{self.path} has no usable checkpoint: starting at the beginning")
            return None
        tensors, meta = checkpoint.load_checkpoint(newest)
        check_meta(newest, meta)
        self.say(f"resuming {self.path} at epoch {meta['epoch']} ({newest.name})" + self._how_it_ended())
        return {name: tensor.numpy() for name, tensor in tensors.items()}, meta

    def _compare_with_config(self, old: dict[str, Any], allow_mismatch: bool) -> None:
        free = free_on_resume(self.cfg) | {"commit", "free_settings", "columns"}
        defaults = {setting.name: setting.default for setting in all_settings(self.cfg.env)}  # of what is new since
        differing = {
            name: (old.get(name, defaults.get(name)), value)
            for name, value in json.loads(json.dumps(self._facts)).items()
            if name not in free and old.get(name, defaults.get(name)) != value
        }
        versions, mine = old.get("versions") or {}, system.versions()
        differing |= {
            name: (versions.get(name), mine[name]) for name in EXACT_VERSIONS if versions.get(name) != mine[name]
        }
        if differing and not allow_mismatch:
            listed = "; ".join(f"{name} was {_short(was)}, now {_short(now)}" for name, (was, now) in differing.items())
            raise Refused(
                f"{self.path} was made with other settings: {listed} (--allow-mismatch continues all the same)"
            )
        if differing:
            self._facts["mismatch"] = {name: list(pair) for name, pair in differing.items()}

    def _say_if_inexact(self, old: dict[str, Any]) -> None:
        if old.get("torch_threads") not in (None, torch.get_num_threads()):
            self.say(
                f"not bit for bit: the run had {old['torch_threads']} threads per rank, now {torch.get_num_threads()}"
            )

    def _how_it_ended(self) -> str:
        try:
            ending = json.loads((self.path / "exit.json").read_text())
            return f"; it had ended: {ending['reason']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "; it had been killed"

    def _open_log(self, run: Run, saved: tuple[dict[str, Any], dict[str, Any]] | None) -> None:
        assert self.folder is not None
        resumes = (saved[1]["resumes"] + [saved[1]["epoch"]]) if saved else []
        self._facts |= {
            "versions": system.versions(),
            "torch_threads": torch.get_num_threads(),
            "resumed_at_epochs": resumes,
        }
        self.folder.write_json("config.json", self._facts)
        self.folder.write_json("system.json", system.describe(self.comm.library))
        (self.path / "exit.json").unlink(missing_ok=True)
        logger.cut_back(self.path, saved[1]["log"] if saved else dict.fromkeys(logger.FILES, 0))
        self.logger = logger.EpochLogger(self.path, run.env.episode_fields, self.cfg.tensorboard)

    # Each epoch -------------------------------------------------------------------------------------------------------

    def log(self, run: Run, row: dict[str, Any], episodes: list[dict[str, Any]]) -> bool:
        """Evaluate if it is due, write the epoch's row and episodes, and show them.

        Returns:
            on all ranks: whether the row is at the goal that `stop_at` sets.
        """
        evaluated = self._evaluate(run)
        run.watchdog.touch(f"log, epoch {run.epoch - 1}")
        if self.logger is not None:
            row |= evaluated
            self.logger.log_episodes(row["Epoch"], row["TotalEnvInteracts"], episodes)
            for name, value in row.items():
                self.logger.log(name, value)
            self.logger.dump()
            self.console.epoch(row, self.cfg.num_epochs)
            self._keep_best(run, row, episodes)
            self.reached = self._goal(row)
        self.reached = self.comm.broadcast(self.reached)
        return self.reached is not None

    def _evaluate(self, run: Run) -> dict[str, float]:
        """Return the columns of an evaluation, NaN in epochs that have none; rank 0's are the ones that count."""
        cfg = self.cfg
        if not cfg.eval_every:
            return {}
        fields = {"EvalEpRet": "ep_ret", "EvalEpLen": "ep_len"}
        fields |= {column.name: str(column.field) for column in run.env.family.eval_columns}
        row = dict.fromkeys(fields, math.nan)
        if run.epoch % cfg.eval_every and run.epoch != cfg.num_epochs:
            return row
        with run.timer("evaluate"):
            records = evaluate_together(
                frozen_policy(run), cfg.env, cfg.evaluation_options(), cfg.eval_episodes, cfg.seed, EVAL_ENVS, False,
                self.comm, lambda: run.watchdog.touch(f"evaluate, epoch {run.epoch - 1}"),
            )  # fmt: skip
        return {name: float(np.mean([r[fields[name]] for r in records])) if records else math.nan for name in row}

    def _keep_best(self, run: Run, row: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
        """Keep the policy if no earlier one was better: by evaluations if there are any, else by the last episodes.

        The family's `best_by` counts first and return decides between equals. One epoch's episodes would be too few:
        the luckiest of many epochs is not the best.
        """
        first = run.env.family.best_field or ""
        run.recent = [*run.recent, *([float(e.get(first, 0)), float(e["ep_ret"])] for e in episodes)][-RECENT:]
        if self.cfg.eval_every:
            score = row["EvalEpRet"] + 1e9 * row.get(f"Eval{run.env.family.best_by}", 0.0)
        else:
            flags, returns = np.mean(run.recent, axis=0) if len(run.recent) == RECENT else (math.nan, math.nan)
            score = float(returns + 1e9 * flags)
        if score >= run.best:
            run.best = score
            self._save_policy("best", run)

    def _goal(self, row: dict[str, Any]) -> str | None:
        """Return how the row is at the goal, None if it is not.

        Raises:
            ValueError: there is no such column.
        """
        match = GOAL.fullmatch(self.cfg.stop_at or "")
        if match is None:
            return None
        name, relation, number = match.groups()
        if name not in row:
            raise ValueError(f"stop-at: no column {name!r}, expected one of {', '.join(row)}")
        value = float(row[name])
        there = value >= float(number) if relation == ">=" else value <= float(number)
        return f"{name} {value:.4g} {relation} {number}" if there else None

    def save(self, run: Run, now: bool) -> None:
        """Save a checkpoint and the last policy if they are due: all ranks call this after every epoch."""
        run.watchdog.touch(f"save, epoch {run.epoch}")
        minutes = (time.monotonic() - self._saved_at) / 60
        by_clock = self.cfg.save_minutes is not None and minutes >= self.cfg.save_minutes
        due = now or run.epoch % self.cfg.save_every == 0 or run.epoch == self.cfg.num_epochs or by_clock
        if not self.comm.broadcast(due):
            return
        first, *others = (learner.optimiser for learner in run.learners)
        first.gather_moments(*others)
        shares = self.comm.gather(run.env_states)
        if shares is not None and self.logger is not None:
            tensors = run_tensors(run, [state for share in shares for state in share])
            meta = {
                "epoch": run.epoch, "seconds": run.timer.total, "best": run.best if math.isfinite(run.best) else None,
                "recent": run.recent,
                "log": self.logger.positions(), "resumes": self._facts["resumed_at_epochs"],
                "reached": self.reached, "stop_at": self.cfg.stop_at,
            }  # fmt: skip
            try:
                checkpoint.save_checkpoint(
                    self.path / "checkpoints", run.epoch * self.cfg.steps_per_epoch, tensors, meta, self.cfg.keep
                )
                self._save_policy("last", run)
                self._failed_saves = 0
            except OSError as error:
                self._failed_saves += 1
                self.say(f"WARNING: checkpoint not saved ({self._failed_saves} in a row): {error}")
                if self._failed_saves >= MAX_FAILED_SAVES:
                    raise
        self._saved_at = time.monotonic()

    def _save_policy(self, name: str, run: Run) -> None:
        cfg = self.cfg
        save_policy(self.path / "policy" / name, run.ac, {
            "env": cfg.env, "spec": run.env.spec_dict, "network": cfg.network,
            "obs_shape": list(run.env.single_observation_space.shape or ()),
            "num_actions": run.ac.num_actions, "preset": cfg.preset, "seed": cfg.seed,
            "epoch": run.epoch, "steps": run.epoch * cfg.steps_per_epoch, "hours": round(run.timer.total / 3600, 3),
            "command": cfg.command(self.comm.world_size), "processor": system.processor(), "cores": system.cores(),
            "commit": self._facts["commit"], "versions": self._facts["versions"],
        })  # fmt: skip

    # Ending -----------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        self.console.say(text)

    def close(self, reason: str, code: int, epoch: int) -> None:
        """Write how the run ended and let go of the folder."""
        self.console.close()
        if self.logger is not None:
            self.logger.close()
        if self.folder is not None:
            ending = {"reason": reason, "code": code, "epoch": epoch, "time": time.strftime("%F %T%z")}
            self.folder.write_json("exit.json", ending | ({"goal": self.reached} if self.reached else {}))
            self.folder.close()
            self.folder = None


def run_tensors(run: Run, env_states: list[bytes]) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint by name: ac/*, adam_pi/*, adam_v/*, env/<global index> (bytes)."""
    row_major = torch.contiguous_format
    tensors = {f"ac/{name}": p.cpu().clone(memory_format=row_major) for name, p in run.ac.state_dict().items()}
    for prefix, optimiser in ((f"adam_{learner.name.lower()}", learner.optimiser) for learner in run.learners):
        tensors |= {f"{prefix}/{name}": tensor for name, tensor in optimiser.state().items()}
    for i, state in enumerate(env_states):
        tensors[f"env/{i}"] = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    return tensors


def frozen_policy(run: Run) -> Policy:
    """Return the run's networks as a policy that acts in float32, as one from a file does."""
    shape = run.env.single_observation_space.shape or ()
    ac = ActorCritic(run.ac.network, shape, run.ac.num_actions, "xavier", seed=0)
    ac.load_state_dict(run.ac.state_dict())
    return Policy(ac.eval(), {"obs_shape": list(shape)})


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
        good = good and all(isinstance(real, int | float) and math.isfinite(real) for real in reals)
    except (KeyError, TypeError, AttributeError):
        good = False
    if not good or set(meta["log"]) != set(logger.FILES):
        raise Refused(f"{folder / 'meta.json'} does not hold what a checkpoint's should")


def restore(run: Run, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Put a checkpoint into a run that was just built.

    Raises:
        Refused: it does not belong to this run; on all ranks alike, since all hold the same arrays.
    """
    try:
        run.ac.load_state_dict({name[3:]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith("ac/")})
        for prefix, optimiser in ((f"adam_{learner.name.lower()}", learner.optimiser) for learner in run.learners):
            own = {name.removeprefix(prefix + "/"): a for name, a in arrays.items() if name.startswith(prefix + "/")}
            optimiser.load_state(own)
        states = [arrays[f"env/{i}"].tobytes() for i in range(run.cfg.num_envs)]
    except (LookupError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise Refused(f"the checkpoint's tensors are not those of this run: {reason}") from None
    run.obs = run.env.set_state([states[i] for i in run.env_indices])
    run.epoch, run.timer.total = meta["epoch"], float(meta["seconds"])
    run.best = -math.inf if meta["best"] is None else float(meta["best"])
    run.recent = meta.get("recent", [])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def init_from(run: Run, folder: Path) -> str:
    """Start the networks from a policy's weights and return one line that says so.

    Raises:
        Refused: no policy, or its tensors have other shapes than this run's, both of which are named.
    """
    policy = load_policy(folder)
    weights, mine = policy.ac.state_dict(), run.ac.state_dict()
    if not policy.has_value:
        weights |= {name: p for name, p in mine.items() if name.startswith("v.")}
    for name, p in mine.items():
        if name not in weights or weights[name].shape != p.shape:
            theirs = tuple(weights[name].shape) if name in weights else "missing"
            raise Refused(f"init-from {folder}: {name} is {theirs} there and {tuple(p.shape)} here")
    run.ac.load_state_dict(weights)
    return f"starting from the {'weights' if policy.has_value else 'actor'} of {folder}"
