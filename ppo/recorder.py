"""The files of a run: folder, log, checkpoints, policies. Rank 0 writes; the other ranks only send their parts.

A checkpoint holds everything that the rest of the run depends on: weights, both Adam states, the environments' states
as they were when the epoch began, the epoch's number, and how long the log was. Random numbers need no state: each is
named by seed, environment and epoch (`utils/seeding.py`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

import envs
from ppo import actions, architecture, resume
from ppo.config import GOAL, PPOConfig, free_settings, progress_columns
from ppo.evaluate import find_policy
from ppo.monitor import evaluate_if_due, film_if_due
from ppo.policy import copy_weights, load_policy, write_policy
from ppo.training import NotFinite, Training
from utils import checkpoint, logger, system
from utils.columns import RECENT, STEPS, Column
from utils.command import printable
from utils.console import Console
from utils.folder import Refused, RunFolder, read_json
from utils.mpi import Comm, agreed
from utils.sinks import Sink, TensorBoard, WeightsAndBiases

T = TypeVar("T")
Snapshot = tuple[dict[str, torch.Tensor], dict[str, Any]]  # weights of a policy, and its policy.json

LONG = 20_000  # steps of an episode that has no end, perhaps
MAX_FAILED_WRITES = 3  # of one kind in a row, then the run ends


class Recorder:
    """Keeps the files of one run. On ranks other than 0 it takes part in the collective calls and writes nothing."""

    def __init__(self, cfg: PPOConfig, comm: Comm, folder: RunFolder | None) -> None:
        """Args: cfg: settings. comm: the ranks. folder: the run's, on rank 0; `close` gives it back."""
        self.cfg, self.comm, self.path, self.folder = cfg, comm, cfg.run_dir, folder
        self.logger: logger.EpochLogger | None = None
        self.console = Console(cfg.num_epochs * cfg.steps_per_epoch, comm.rank == 0, comm.world_size > 1)
        self._facts: dict[str, Any] = {}  # config.json
        self._rejected: list[tuple[Path, str]] = []  # damaged checkpoints
        self._failures: Counter[str] = Counter()  # writes in a row that failed, of each kind
        self._acting: Snapshot | None = None  # the policy that collects, where its episodes are its score
        self._unsaved_best: Snapshot | None = None  # until the next checkpoint, or until there is room
        self._recent_lengths: list[int] = []  # of the episodes in training.recent
        self._saved_at = self._began = time.monotonic()
        self._seconds_before, self._row_seconds = 0.0, 0.0  # `Time` when this process began, and of the last row
        self._heard = 0  # signal that asked to stop
        self.saved_epoch: int | None = None  # of the last checkpoint
        self.reached: str | None = None  # how the goal of stop_at was reached

    # Starting ---------------------------------------------------------------------------------------------------------

    def begin(self, training: Training, allow_mismatch: bool) -> None:
        """Restore the run that the folder holds, or start one; when all ranks have agreed, write down what is run.

        Raises:
            Refused: on all ranks, with nothing written: settings or versions differ from those of the run that is
                resumed, its checkpoint is not this run's, or `init_from` is no policy for this run.
        """
        found = self._agreed(lambda: self._look(training, allow_mismatch) if self.folder is not None else None)
        saved, notes = self.comm.broadcast(found)
        self._agreed(lambda: self._take_over(training, saved, notes))
        if saved is not None:
            resume.restore_episodes(training, saved[0], allow_mismatch, self._facts, notes)
        self._agreed(lambda: self._write_start(training, saved, notes) if self.folder is not None else None)
        own = [column for column in training.env.family.columns if column.name in training.env.family.evaluated]
        self.console.start(training.epoch * self.cfg.steps_per_epoch, own, self.logger.rows() if self.logger else ())
        training.show_progress = functools.partial(self._show_progress, training)
        self._began = time.monotonic()
        self._acting = None if self.cfg.eval_every else self._snapshot(training)

    def _agreed(self, action: Callable[[], T]) -> T:
        """Return what `action` returns on this rank, or raise Refused on all ranks if it failed on any of them."""
        return agreed(self.comm, action, (Refused, OSError), Refused)

    def _look(self, training: Training, allow_mismatch: bool) -> tuple[resume.Saved | None, list[str]]:
        """Return the newest good checkpoint of the folder, None if there is none yet, and what there is to say."""
        assert self.folder is not None
        goal = GOAL.match(self.cfg.stop_at or "")
        learned = {column.name for column in training.env.family.learned}
        if goal and goal[1] in learned and not training.env.learns:
            raise Refused(f"stop_at is {self.cfg.stop_at!r}, whose column only environments that learn have")
        if self.cfg.video_every:
            self._try_to_draw()
        self._facts = {
            **self.cfg.to_dict(),
            "exp_name": self.cfg.experiment,
            "world_size": self.comm.world_size,
            "spec": training.env.identity(),
            "commit": system.commit(),
            "free_settings": free_settings(self.cfg),
            "columns": [asdict(column) for column in own_columns(training)],
            "drawn_parts": training.env.family.drawn_parts(self.cfg.env),
            "plays_as": dict(training.env.family.plays_as),
            "resolved_device": training.device.type,
            "resolved_precision": str(training.nets.dtype).removeprefix("torch."),
            "processor": system.processor(),
            "arithmetic": training.arithmetic,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "mpi": self.comm.library,
            "versions": system.versions(),
            "torch_threads": torch.get_num_threads(),
            "num_epochs": self.cfg.num_epochs,
            "resumed_at_epochs": [],
            "lengths": [[0, self.cfg.num_epochs]],
        }
        notes: list[str] = []
        if self.folder.fresh:
            return None, notes
        old = self.folder.read_config()
        resume.compare_settings(self.cfg, self._facts, old, allow_mismatch)
        notes += resume.inexact(self._facts, old)
        newest, loaded, self._rejected = checkpoint.load_newest(self.path / "checkpoints", resume.most_bytes(training))
        notes += [f"checkpoint rejected: {reason}" for _, reason in self._rejected]
        if newest is None or loaded is None:
            return None, [*notes, f"{self.path} has no usable checkpoint: starting at the beginning"]
        tensors, meta = loaded
        resume.check_meta(newest, meta)
        own = (column.name for column in own_columns(training))
        logger.check_heading(self.path, {*progress_columns(self.cfg.env), *own})
        self._facts["resumed_at_epochs"] = [*meta["resumes"], meta["epoch"]]
        notes += resume.compare_lengths(self.cfg, self._facts, old, meta["epoch"])
        notes.append(f"resuming {self.path} at epoch {meta['epoch']} ({newest.name})" + self._how_it_ended())
        return ({name: tensor.numpy() for name, tensor in tensors.items()}, meta), notes

    def _try_to_draw(self) -> None:
        try:
            envs.make_visible(self.cfg.env, self.cfg.seed, **self.cfg.evaluation_options()).close()
        except ValueError as error:
            raise Refused(f"video-every: {error}") from None

    def _how_it_ended(self) -> str:
        try:
            return f"; it had ended: {printable(read_json(self.path / 'exit.json')['reason'])}"
        except (Refused, KeyError):
            return "; it had been killed"

    def _take_over(self, training: Training, saved: resume.Saved | None, notes: list[str]) -> None:
        """Give the run the checkpoint's weights and optimisers, or those of the policy that it starts from."""
        if saved is not None:
            resume.restore(training, *saved)
            self.saved_epoch, meta = training.epoch, saved[1]
            self.reached = meta["reached"] if self.cfg.stop_at == meta["stop_at"] else None
            self._recent_lengths = meta.get("recent_lengths", [])
            self._seconds_before = float(meta["seconds"])
            self._row_seconds = float(meta.get("row_seconds", self._seconds_before))
        elif self.cfg.init_from is not None:
            notes.append(resume.init_from(training, find_policy(self.cfg.init_from), self.cfg.network))

    def _write_start(self, training: Training, saved: resume.Saved | None, notes: list[str]) -> None:
        """Write what is known at the start and open the log; the first writing in the folder."""
        assert self.folder is not None
        for note in notes:
            self.say(note)
        self.folder.begin()
        checkpoint.clean_temporary(self.path / "checkpoints")
        for folder, _ in self._rejected:
            self.say(f"set aside: {checkpoint.set_aside(folder)}")
        self.folder.write_json("config.json", self._facts)
        self.folder.write_json("system.json", system.describe(self.comm.library))
        (self.path / "exit.json").unlink(missing_ok=True)
        logger.cut_back(self.path, saved[1]["log"] if saved else dict.fromkeys(logger.FILES, 0))
        self.logger = logger.EpochLogger(
            self.path, training.env.episode_fields, self._sinks(training), self.cfg.json_lines
        )
        if saved is not None and self._epoch_of_last_policy() < training.epoch:  # killed between checkpoint and policy
            self._save_policy("last", training)

    def _show_progress(self, training: Training, steps: int) -> None:
        """Show how far the run is; of a signal that cannot be obeyed at once, that it was heard."""
        received = training.signals.received if training.signals else 0
        if received and not self._heard:
            self.say(f"{signal.Signals(received).name}: the run stops when this epoch can be saved")
        self._heard = received
        self.console.advance(steps, training.watchdog.phase)

    def _sinks(self, training: Training) -> list[Sink]:
        """Return where rows go beside progress.txt."""
        settings, cfg = self.cfg.to_dict(), self.cfg
        steps = training.epoch * cfg.steps_per_epoch
        sinks: list[Sink] = [TensorBoard(self.path, settings, steps)] if cfg.tensorboard else []
        return sinks + ([WeightsAndBiases(self.path, settings, cfg.wandb)] if cfg.wandb != "off" else [])

    def _epoch_of_last_policy(self) -> int:
        try:
            epoch = load_policy(self.path / "policy" / "last", self.cfg.network).info.get("epoch")
        except Refused:
            return -1
        return epoch if type(epoch) is int else -1

    # Each epoch -------------------------------------------------------------------------------------------------------

    def log(self, training: Training, row: dict[str, Any], episodes: list[dict[str, Any]]) -> bool:
        """Evaluate if it is due, write the epoch's row and episodes, and show them.

        Returns:
            on all ranks: whether the row is at the goal that `stop_at` sets.
        """
        evaluated = evaluate_if_due(training, self.cfg, self.comm)
        sinks = self.logger.sinks if self.logger is not None else ()
        film_if_due(training, self.cfg, self.comm, self.path / "videos", sinks, self.say)
        training.watchdog.touch(f"log, epoch {training.epoch - 1}")
        if self.logger is not None:
            self._remember(training, episodes)
            self._say_if_endless(training)
            row |= evaluated
            insert_before(row, "AverageVVals", self._recent_means(training))
            self._add_times(training, row)
            self.logger.log_episodes(row["Epoch"], row[STEPS], episodes)
            for name, value in row.items():
                self.logger.log(name, value)
            self._attempt("row of the log", self.logger.dump)
            self.console.epoch(row, self.cfg.num_epochs)
            self._keep_best(training, row)
            self.reached = self.reached or self._goal(training, row)  # PPG goes on to the end of its phase
        self.reached = self.comm.broadcast(self.reached)
        return self.reached is not None

    def _remember(self, training: Training, episodes: list[dict[str, Any]]) -> None:
        """Keep what `best_by` is the mean of, return and length of the last RECENT finished episodes."""
        field = training.env.family.best_field or ""
        pairs = [[float(e.get(field, 0)), float(e["ep_ret"])] for e in episodes]
        training.recent = [*training.recent, *pairs][-RECENT:]
        self._recent_lengths = [*self._recent_lengths, *(int(e["ep_len"]) for e in episodes)][-RECENT:]

    def _say_if_endless(self, training: Training) -> None:
        """Say once that no episode has ended, where that is strange."""
        steps, before = (epoch * self.cfg.steps_per_env for epoch in (training.epoch, training.epoch - 1))
        if before < LONG <= steps and not training.recent:
            self.say(
                f"note: no episode has ended in {steps:,} steps of each environment: --max-episode-steps ends them"
            )

    def _recent_means(self, training: Training) -> dict[str, float]:
        """Return the columns that tell of the last RECENT episodes: NaN only before the first has ended."""
        first, returns = np.mean(training.recent, axis=0).tolist() if training.recent else (math.nan, math.nan)
        length = float(np.mean(self._recent_lengths)) if self._recent_lengths else math.nan
        best_by = training.env.family.best_by
        return {"EpRet100": returns, "EpLen100": length, **({f"{best_by}100": first} if best_by else {})}

    def _add_times(self, training: Training, row: dict[str, Any]) -> None:
        """Add what this row's share of `Time` was spent on: its parts add up to the difference to the row before.

        TimeSave is the saving since the row before, that is after that row's epoch; TimeLog is all that is left.
        """
        now = self._seconds()
        spent = {f"Time{phase.capitalize()}": training.timer.seconds[phase] for phase in ("evaluate", "save")}
        training.timer.restart("evaluate", "save")
        named = row["TimeCollect"] + row["TimeUpdate"] + sum(spent.values())
        insert_before(row, "MemoryMB", {"TimeLog": now - self._row_seconds - named, **spent})
        row["Time"] = self._row_seconds = now

    def _seconds(self) -> float:
        """Return the wall time since the first epoch began, without the time between a stop and a resume."""
        return self._seconds_before + time.monotonic() - self._began

    def _attempt(self, what: str, action: Callable[[], Any]) -> None:
        """Write something; where that fails, say so and go on, but not a third time in a row."""
        try:
            action()
            self._failures[what] = 0
        except OSError as error:
            self._failures[what] += 1
            self.say(f"WARNING: {what} not saved ({self._failures[what]} in a row): {error}")
            if self._failures[what] >= MAX_FAILED_WRITES:
                raise

    def _keep_best(self, training: Training, row: dict[str, Any]) -> None:
        """Keep the policy if it is better than all before: by evaluations if there are any, else by the last episodes.

        It is the policy that was measured: the present one by an evaluation, the one that acted in this epoch by
        episodes. The family's `best_by` counts first and return decides between equals. One epoch's episodes would be
        too few: the luckiest of many epochs is not the best. The next checkpoint writes it.
        """
        if self.cfg.eval_every:
            score = row["EvalEpRet"] + 1e9 * row.get(f"Eval{training.env.family.best_by}", 0.0)
        else:
            full = len(training.recent) == RECENT
            first, returns = np.mean(training.recent, axis=0) if full else (math.nan, math.nan)
            score = float(returns + 1e9 * first)
        acted, self._acting = self._acting, None if self.cfg.eval_every else self._snapshot(training)
        if score > training.best:
            training.best, self._unsaved_best = score, acted or self._snapshot(training)

    def _save_best(self) -> None:
        if self._unsaved_best is not None:
            write_policy(self.path / "policy" / "best", *self._unsaved_best)
            self._unsaved_best = None

    def _goal(self, training: Training, row: dict[str, Any]) -> str | None:
        """Return how the row is at the goal, None if it is not, or if fewer than RECENT episodes say so.

        Raises:
            ValueError: there is no such column.
        """
        match = GOAL.fullmatch(self.cfg.stop_at or "")
        if match is None:
            return None
        name, relation, number = match.groups()
        if name not in row:
            raise ValueError(f"stop-at: no column {name!r}, expected one of {', '.join(row)}")
        if name.endswith(str(RECENT)) and len(training.recent) < RECENT:
            return None
        value = float(row[name])
        there = value >= float(number) if relation == ">=" else value <= float(number)
        count = f", over {row['EvalStarts']} starts" if name.startswith("Eval") else ""
        return f"{name} {value:.4g} {relation} {number}{count}" if there else None

    def save(self, training: Training, now: bool) -> None:
        """Save a checkpoint and the last policy if they are due: all ranks call this after every epoch.

        Raises:
            NotFinite: on all ranks: a weight or a moment is not finite; nothing was saved.
            OSError: on rank 0: it is the third time in a row that there is no room.
        """
        training.watchdog.touch(f"save, epoch {training.epoch}")
        if not self.comm.broadcast(self._is_due(training, now)):
            return
        problem = None
        optimisers = [learner.optimiser for learner in training.all_learners]
        optimisers[0].gather_moments(optimisers)
        shares = self.comm.gather((training.env_states, training.memory))
        if shares is not None and self.logger is not None:
            tensors = resume.run_tensors(training, [state for states, _ in shares for state in states])
            if training.ac.memories:
                tensors["memory"] = torch.from_numpy(np.concatenate([memory for _, memory in shares]))
            problem = not_finite(tensors | self._best_weights(), training.epoch)
            if problem is None:
                self._attempt("checkpoint", lambda: self._save_checkpoint(training, tensors))
        problem = self.comm.broadcast(problem)
        if problem is not None:
            raise NotFinite(problem)
        self._saved_at = time.monotonic()

    def _is_due(self, training: Training, now: bool) -> bool:
        minutes = (time.monotonic() - self._saved_at) / 60
        by_clock = self.cfg.save_minutes is not None and minutes >= self.cfg.save_minutes
        return now or training.epoch % self.cfg.save_every == 0 or training.epoch == self.cfg.num_epochs or by_clock

    def _save_checkpoint(self, training: Training, tensors: dict[str, torch.Tensor]) -> None:
        """Write rows and best policy, which a checkpoint takes for granted, then it, then the last policy."""
        assert self.logger is not None
        self.logger.flush()
        self._save_best()
        meta = {
            "epoch": training.epoch,
            "seconds": self._seconds(),
            "best": training.best if math.isfinite(training.best) else None,
            "recent": training.recent,
            "recent_lengths": self._recent_lengths,
            "row_seconds": self._row_seconds,
            "log": self.logger.positions(),
            "resumes": self._facts["resumed_at_epochs"],
            "reached": self.reached,
            "stop_at": self.cfg.stop_at,
            "policy": self._policy_info(training),
        }
        steps = training.epoch * self.cfg.steps_per_epoch
        checkpoint.save_checkpoint(self.path / "checkpoints", steps, tensors, meta, self.cfg.keep)
        self.saved_epoch = training.epoch
        self._save_policy("last", training)

    def _save_policy(self, name: str, training: Training) -> None:
        write_policy(self.path / "policy" / name, copy_weights(training.ac), self._policy_info(training))

    def _best_weights(self) -> dict[str, torch.Tensor]:
        return {f"best/{name}": weight for name, weight in (self._unsaved_best or ({},))[0].items()}

    def _snapshot(self, training: Training) -> Snapshot | None:
        """Return copies of the weights and what is known of them, on rank 0."""
        return None if self.logger is None else (copy_weights(training.ac), self._policy_info(training))

    def _policy_info(self, training: Training) -> dict[str, Any]:
        cfg = self.cfg
        return {
            "env": cfg.env,
            "spec": training.env.spec_dict,
            **architecture.described(cfg),
            "obs_shape": list(training.env.single_observation_space.shape or ()),
            **actions.describe(training.ac.dist),
            **training.normaliser.described(),
            "preset": cfg.preset,
            "seed": cfg.seed,
            "epoch": training.epoch,
            "steps": training.epoch * cfg.steps_per_epoch,
            "hours": round(self._seconds() / 3600, 3),
            "command": cfg.command(self.comm.world_size),
            **resume.continued(self._facts),
            "processor": system.processor(),
            "cores": system.cores(),
            "commit": self._facts["commit"],
            "versions": self._facts["versions"],
        }

    # Ending -----------------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        self.console.say(text)

    def close(self, reason: str, code: int, epoch: int) -> None:
        """Write how the run ended, where anything was written, and give the folder back, whatever fails."""
        try:
            self.console.close()
            self._close_logger(epoch)
        finally:
            self._close_folder(reason, code, epoch)

    def _close_logger(self, epoch: int) -> None:
        if self.logger is not None:
            with contextlib.suppress(OSError):  # a full disk
                if not_finite(self._best_weights(), epoch) is None:
                    self._save_best()
            self.logger.close()
            self.logger = None

    def _close_folder(self, reason: str, code: int, epoch: int) -> None:
        if self.folder is not None:
            ending = {"reason": reason, "code": code, "epoch": epoch, "time": time.strftime("%F %T%z")}
            try:
                if self.folder.begun:
                    self.folder.write_json("exit.json", ending | ({"goal": self.reached} if self.reached else {}))
            except OSError as error:  # a full disk: what ended the run is said elsewhere
                self.say(f"WARNING: exit.json not saved: {error}")
            self.folder.close()
            self.folder = None


def insert_before(row: dict[str, Any], name: str, new: dict[str, Any]) -> None:
    """Put columns before the one called `name`, or at the end of a row that has none."""
    items = list(row.items())
    place = next((i for i, (column, _) in enumerate(items) if column == name), len(items))
    row.clear()
    row.update([*items[:place], *new.items(), *items[place:]])


def own_columns(training: Training) -> list[Column]:
    """Return the columns that the environments of this run have beside those that every run has."""
    family = training.env.family
    return [*family.columns, *(family.learned if training.env.learns else ())]


def not_finite(tensors: dict[str, torch.Tensor], epoch: int) -> str | None:
    """Return which tensor holds NaN or an infinity, None if none does."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name} holds numbers that are not finite after epoch {epoch - 1}: nothing was saved"
    return None
