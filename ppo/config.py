"""The algorithm's settings: one frozen dataclass, each value with its bounds and its help beside it.

A value is looked for on the command line, then in a file of settings, then in the preset, then in the default here.
What belongs to an environment stands in `env_options`, as its family declares it (`envs/family.py`); `build` and
`to_dict` are flat over both. Every size but `chunk_size` counts over all ranks. Knows neither torch nor any game.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import importlib.util
import math
import os
import re
import shlex
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import envs
from envs.family import Preset
from utils.columns import AUXILIARY, DISTINCT, PROGRESS, RECENT
from utils.settings import Setting

GOAL = re.compile(r"\s*(\w+)\s*(>=|<=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", re.ASCII)  # of --stop-at
LONGEST_NAME = 200  # bytes of an experiment's name: file systems take 255, with what is put after it
MAX_LSTM_UNITS = 4096  # that a policy's file may ask for too
LENGTHS = ("epochs", "total_steps")  # one replaces the other
POLICIES = ("feedforward", "lstm", "lnlstm")
TARGETS = ("lambda", "rewards-to-go")
NORMALISED = ("batch", "minibatch", "none")
PRECISIONS = ("auto", "float32", "bfloat16")
PHASE_SETTINGS = ("phase_epochs", "train_aux_iters", "aux_minibatch_size", "clone_coef")
SCHEDULES = ("anneal_lr", "anneal_clip", "anneal_ent")  # what falls over the length of the run


def _field(default: Any, text: str, choices: tuple[str, ...] = (), **more: Any) -> Any:
    """Return a field with its help and what else `Setting` takes: choices, bounds, `affects` (utils/settings.py)."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices, **more})


@dataclass(frozen=True)
class PPOConfig:
    """All settings of a run. Raises ValueError, naming the setting, for a value that cannot work."""

    # what is run
    env: str = _field("SuperMarioBros-1-1-v0", "environment id; MODULE:ID for one that a module of yours declares")
    preset: str | None = _field(
        None, "settings to start from (--presets); default: the environment's", affects="nothing"
    )
    seed: int = _field(0, "seed of all random numbers", at_least=0, affects="seed")
    exp_name: str | None = _field(None, "name of the experiment; default: made from the environment", affects="nothing")
    data_dir: str = _field("data", "where experiments are: DATA_DIR/EXP_NAME/EXP_NAME_sSEED", affects="nothing")
    epochs: int | None = _field(None, "length of the run in epochs", at_least=1, affects="length")
    total_steps: int | None = _field(None, "length of the run in steps over all ranks", at_least=1, affects="length")
    init_from: str | None = _field(None, "policy to start with: its folder, its run, or the id of a shipped one")

    # collecting
    num_envs: int = _field(16, "environments over all ranks", at_least=1)
    steps_per_epoch: int = _field(4096, "steps of an epoch over all environments", at_least=1)
    norm_obs: bool = _field(False, "normalise observations by their running mean and standard deviation, clip at 10")
    norm_rew: bool = _field(False, "divide rewards by the running standard deviation of discounted returns, clip at 10")
    gamma: float = _field(0.99, "discount per step", at_least=0, at_most=1)
    lam: float = _field(0.95, "lambda of GAE", at_least=0, at_most=1)

    # learning
    algo: str = _field("ppo", "PPO, or PPG: auxiliary phases in between teach the actor the values", ("ppo", "ppg"))
    network: str = _field(
        "mlp", "actor and critic: mario, nature, small, impala, impoola, mlp, mlp_wide, mlp_large or MODULE:FUNCTION"
    )
    shared: bool = _field(False, "one body, two heads, a joint loss: trained with the actor's step size and passes")
    policy: str = _field("feedforward", "memory between body and head: none, LSTM or layer-normalised LSTM", POLICIES)
    lstm_units: int = _field(512, "units of a memory", at_least=1, at_most=MAX_LSTM_UNITS)
    chunk_steps: int = _field(16, "consecutive steps through which a memory is trained", at_least=1)
    init: str = _field("orthogonal", "initial weights", ("orthogonal", "xavier"))
    squash: bool = _field(False, "continuous actions: keep them within their bounds by tanh")
    log_std: float = _field(
        0.0,
        "continuous actions: initial log standard deviation, in halves of their range",
        at_least=-10,
        at_most=10,
    )
    pi_lr: float = _field(3e-4, "Adam step size of the actor", at_least=0)
    v_lr: float = _field(3e-4, "Adam step size of the critic", at_least=0)
    adam_eps: float = _field(1e-5, "epsilon of Adam", above=0)
    anneal_lr: bool = _field(False, "let both step sizes fall to zero over the run")
    minibatch_size: int = _field(256, "samples of a minibatch; steps_per_epoch for the full batch", at_least=1)
    train_pi_iters: int = _field(4, "passes over the epoch's data for the actor", at_least=0)
    train_v_iters: int = _field(4, "passes over the epoch's data for the critic", at_least=0)
    clip_ratio: float = _field(0.2, "epsilon of the clipped objective", above=0)
    anneal_clip: bool = _field(False, "let clip_ratio, and v_clip with it, fall to zero over the run")
    target_kl: float | None = _field(None, "end the actor's passes where a minibatch's KL exceeds 1.5 x this", above=0)
    ent_coef: float = _field(0.0, "weight of the entropy bonus", at_least=0)
    anneal_ent: bool = _field(False, "let ent_coef fall to zero over the run")
    v_loss: str = _field("mse", "value loss", ("mse", "huber", "clipped"))
    v_clip: float = _field(0.2, "how far v_loss=clipped lets a value move in one epoch", above=0)
    v_coef: float = _field(0.5, "weight of the value loss in the joint loss of a shared network", at_least=0)
    value_target: str = _field("lambda", "the critic's target: advantage + value, or discounted rewards", TARGETS)
    adv_norm: str = _field("batch", "over what advantages get mean 0 and standard deviation 1", NORMALISED)
    max_grad_norm: float | None = _field(0.5, "bound on the gradient norm of each network; none: no bound", above=0)
    phase_epochs: int = _field(32, "PPG: epochs of a phase; a run's length is rounded up to whole phases", at_least=1)
    train_aux_iters: int = _field(6, "PPG: passes over a phase's data in its auxiliary phase", at_least=1)
    aux_minibatch_size: int = _field(256, "PPG: samples of a minibatch in the auxiliary phase", at_least=1)
    clone_coef: float = _field(1.0, "PPG: weight of KL(before, now) in the auxiliary phase's joint loss", at_least=0)
    chunk_size: int = _field(128, "samples that one rank puts through a network at once", at_least=1, affects="detail")

    # saving and watching
    save_every: int = _field(10, "epochs between checkpoints; PPG: a phase", at_least=1, affects="nothing")
    save_minutes: float | None = _field(None, "most minutes between checkpoints", above=0, affects="nothing")
    keep: int = _field(3, "checkpoints to keep", at_least=2, affects="nothing")
    check_every: int = _field(1, "epochs between comparisons of the ranks' parameters", at_least=1, affects="nothing")
    eval_every: int = _field(
        0, "epochs between evaluations, which then decide which policy is best; 0: never", at_least=0, affects="detail"
    )
    eval_episodes: int = _field(100, "episodes of an evaluation", at_least=1, affects="detail")
    stop_at: str | None = _field(None, "goal of a column that ends the run: 'EvalEpRet>=200'", affects="nothing")
    stall_timeout: float = _field(
        300.0, "seconds without progress after which the run is ended; 0: never", at_least=0, affects="nothing"
    )
    video_every: int = _field(0, "epochs between videos of the policy; 0: never", at_least=0, affects="nothing")
    json_lines: bool = _field(False, "write the rows of progress.txt to progress.jsonl too", affects="nothing")
    tensorboard: bool = _field(False, "write TensorBoard events too (pip install tensorboard)", affects="nothing")

    wandb: str = _field(
        "off",
        "log to Weights & Biases too (pip install wandb)",
        choices=("off", "offline", "online"),
        affects="nothing",
    )

    # machine
    device: str = _field("auto", "auto, cpu, cuda or cuda:N", affects="detail")
    precision: str = _field("auto", "what networks compute in; auto: bfloat16 for images on able hardware", PRECISIONS)

    # the environment's family
    env_options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value that can be checked without building anything: each by its own bounds, then their fit."""
        for setting in settings():
            object.__setattr__(self, setting.name, _plain(getattr(self, setting.name)))
            self._require(setting.accepts(getattr(self, setting.name)), setting.name, setting.allowed)
        given = {name: _plain(value) for name, value in self.env_options.items()}
        envs.check_options(self.env, **given)
        defaults = {option.name: copy.deepcopy(option.default) for option in envs.find_family(self.env).options}
        object.__setattr__(self, "env_options", defaults | given)
        self._check_sizes()
        self._check_names()

    def _check_sizes(self) -> None:
        num_envs, steps, size = self.num_envs, self.steps_per_epoch, self.minibatch_size
        self._require(self.epochs is None or self.total_steps is None, "total_steps", "left out where epochs is given")
        self._require(steps % num_envs == 0, "steps_per_epoch", f"a multiple of num-envs ({num_envs})")
        self._require(steps % size == 0, "minibatch_size", f"a divisor of steps-per-epoch ({steps})")
        allowed = f"a multiple of num-envs ({num_envs}), each of which gives as many steps"
        self._require(size % num_envs == 0, "minibatch_size", allowed)
        if self.test_options() is not None:
            self._require(self.eval_every > 0, "eval_every", "at least 1 where the run names what to test on")
        if self.policy != "feedforward":
            path, part, chunk = self.steps_per_env, size // num_envs, self.chunk_size
            fits = not any(length % self.chunk_steps for length in (path, part, chunk))
            allowed = f"a divisor of an environment's steps in an epoch ({path}) and in a minibatch ({part})"
            self._require(fits, "chunk_steps", f"{allowed}, and of chunk-size ({chunk})")
        if self.algo == "ppg":
            self._check_phase()

    def _check_phase(self) -> None:
        size, num_envs = self.aux_minibatch_size, self.num_envs
        self._require(not self.shared, "shared", "off with algo ppg, which trains two networks")
        self._require(self.policy == "feedforward", "policy", "feedforward with algo ppg")
        allowed = f"a divisor of the steps of a phase ({self.phase_steps})"
        self._require(self.phase_steps % size == 0, "aux_minibatch_size", allowed)
        allowed = f"a multiple of num-envs ({num_envs}), each of which gives as many steps"
        self._require(size % num_envs == 0, "aux_minibatch_size", allowed)

    def _check_names(self) -> None:
        names = [preset.name for preset in presets(self.env)]
        self._require(self.preset is None or self.preset in names, "preset", "one of " + ", ".join(names))
        for setting, package, wanted in (
            ("tensorboard", "tensorboard", self.tensorboard),
            ("wandb", "wandb", self.wandb != "off"),
            ("video_every", "imageio_ffmpeg", self.video_every > 0),
        ):
            installed = not wanted or importlib.util.find_spec(package) is not None
            word = package.replace("_", "-")
            self._require(installed, setting, f"off (or 0) unless {word} is installed (pip install {word})")
        if self.stop_at is not None:
            self._check_goal(self.stop_at)
        name = self.exp_name
        usable = name is None or (name not in ("", ".", "..") and "/" not in name and "\0" not in name)
        self._require(usable, "exp_name", "a folder name without /")
        self._require(len(os.fsencode(name or "")) <= LONGEST_NAME, "exp_name", f"of at most {LONGEST_NAME} bytes")

    def _check_goal(self, goal: str) -> None:
        match = GOAL.fullmatch(goal)
        self._require(match is not None, "stop_at", "COLUMN>=NUMBER or COLUMN<=NUMBER")
        assert match is not None
        self._require(math.isfinite(float(match[3])), "stop_at", "a number that can be reached")
        name, known = match[1], progress_columns(self.env)
        forms = [form for form in (f"Average{name}", f"{name}{RECENT}", f"Eval{name}") if form in known]
        close = forms or difflib.get_close_matches(name, known, n=2) or ["AverageEpRet", "EvalEpRet"]
        self._require(name in known, "stop_at", f"a goal for a column of progress.txt, such as {', '.join(close)}")
        has_phases = self.algo == "ppg" or name not in AUXILIARY
        self._require(has_phases, "algo", f"ppg where stop-at is {goal}")
        evaluated = self.eval_every > 0 or not name.startswith(("Eval", "Test"))
        self._require(evaluated, "eval_every", f"at least 1 where stop-at is {goal}")
        tested = self.test_options() is not None or not name.startswith("Test")
        self._require(tested, "stop_at", "a goal for what this run has: it names nothing to test on")

    def _require(self, ok: bool, name: str, allowed: str) -> None:
        _require(ok, name, getattr(self, name), allowed)

    @property
    def steps_per_env(self) -> int:
        """T: steps of each environment in an epoch."""
        return self.steps_per_epoch // self.num_envs

    @property
    def phase_steps(self) -> int:
        """Steps of a phase of PPG over all environments."""
        return self.phase_epochs * self.steps_per_epoch

    @property
    def num_epochs(self) -> int:
        """Length of the run in epochs."""
        epochs = 50 if self.epochs is None else self.epochs
        if self.total_steps is not None:
            epochs = -(-self.total_steps // self.steps_per_epoch)
        return epochs if self.algo == "ppo" else -(-epochs // self.phase_epochs) * self.phase_epochs

    @property
    def experiment(self) -> str:
        """Name of the experiment: the given one, or the environment's."""
        return self.exp_name or "ppo_" + self.env.lower().replace("/", "-").replace(":", "-")

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.data_dir) / self.experiment / f"{self.experiment}_s{self.seed}"

    def evaluation_options(self) -> dict[str, Any]:
        """Return the options of the run's own evaluations: disturbed as the family says or as this run is, whichever
        is more, and without what only training is given."""
        family = envs.find_family(self.env)
        left_out = {option.name for option in family.options if option.training_only}
        return family.disturbed({name: value for name, value in self.env_options.items() if name not in left_out})

    def test_options(self) -> dict[str, Any] | None:
        """Return the same for what the run is tested on and not trained on, None where it names nothing."""
        tested = envs.find_family(self.env).tested(self.env_options)
        return None if tested is None else self.evaluation_options() | tested

    def command(self, ranks: int = 1) -> str:
        """Return the command line that starts this run: the settings that are not the preset's own, without folders."""
        own = build(env=self.env, preset=self.preset).to_dict()
        words = ["python -m ppo.run", "--env", self.env, *(["--cpu", str(ranks)] if ranks > 1 else [])]
        if self.preset not in (None, build(env=self.env).preset):
            words += ["--preset", str(self.preset)]
        for setting in all_settings(self.env):
            name = setting.name
            value = self.to_dict()[name]
            if name in ("env", "preset", "exp_name", "data_dir") or (value == own[name] and name != "seed"):
                continue
            if name in LENGTHS and value is None and any(getattr(self, length) is not None for length in LENGTHS):
                continue  # the other length, which is given, replaces the preset's
            words += setting.word(value)
        return " ".join([*words[:1], *map(shlex.quote, words[1:])])

    def to_dict(self) -> dict[str, Any]:
        """Return all settings and options, flat, as JSON can hold them; `build` takes them back."""
        own = {setting.name: getattr(self, setting.name) for setting in settings()}
        return own | self.env_options


def _plain(value: Any) -> Any:
    """Return numbers of numpy, within lists and tables too, as Python's, which JSON holds; all else as it is."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _require(ok: bool, name: str, value: Any, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name.replace('_', '-')} must be {allowed}, got {value!r}")


# Presets of the algorithm, for any environment; a family has its own. They change defaults only.
PRESETS = (
    Preset(
        "spinup",
        "openai/spinningup, spinup/algos/pytorch/ppo/ppo.py: its defaults, full batch, 80 + 80 iterations, target KL "
        "0.01",
        {
            "num_envs": 4,
            "steps_per_epoch": 4000,
            "minibatch_size": 4000,
            "gamma": 0.99,
            "lam": 0.97,
            "pi_lr": 3e-4,
            "v_lr": 1e-3,
            "adam_eps": 1e-8,
            "train_pi_iters": 80,
            "train_v_iters": 80,
            "target_kl": 0.01,
            "ent_coef": 0.0,
            "max_grad_norm": None,
            "value_target": "rewards-to-go",
            "epochs": 50,
            "max_episode_steps": 1000,
            "log_std": -0.5,
        },
    ),
    Preset(
        "baselines",
        "openai/baselines, ppo2 as its walk-through starts it on images: one network with two heads, 8 environments x "
        "128 steps = 1,024 in 4 minibatches of 256, step size and clip falling to zero, 1.1 x 10 million steps. Its "
        "value loss is half the larger square, of weight 0.5: in all 0.25. Gradient norm and Adam's epsilon are "
        "ppo2's",
        {
            "shared": True,
            "num_envs": 8,
            "steps_per_epoch": 8 * 128,
            "minibatch_size": 256,
            "gamma": 0.99,
            "lam": 0.95,
            "pi_lr": 2.5e-4,
            "anneal_lr": True,
            "adam_eps": 1e-5,
            "train_pi_iters": 4,
            "clip_ratio": 0.1,
            "anneal_clip": True,
            "ent_coef": 0.01,
            "v_loss": "clipped",
            "v_clip": 0.1,
            "v_coef": 0.25,
            "adv_norm": "minibatch",
            "max_grad_norm": 0.5,
            "total_steps": 11_000_000,
        },
    ),
)


@functools.cache
def settings() -> tuple[Setting, ...]:
    """Return the algorithm's settings, made from the fields above."""
    hints = typing.get_type_hints(PPOConfig)
    found = []
    for field in dataclasses.fields(PPOConfig):
        if field.metadata:
            hint = hints[field.name]
            optional = isinstance(hint, types.UnionType)
            kind = typing.get_args(hint)[0] if optional else hint
            described = {"name": field.name, "default": field.default, "kind": kind, "optional": optional}
            found.append(Setting(**described, **field.metadata))
    return tuple(found)


def all_settings(env: str) -> tuple[Setting, ...]:
    """Return the algorithm's settings and the options of the environment's family. Raises ValueError for a clash."""
    own, options = settings(), envs.find_family(env).options
    if clash := {setting.name for setting in own} & {option.name for option in options}:
        raise ValueError(
            f"env: the family of {env} names an option {min(clash)!r}, which is a setting of the algorithm"
        )
    return (*own, *options)


def progress_columns(env: str) -> list[str]:
    """Return the names of all columns that progress.txt can have for this environment."""
    family = envs.find_family(env)
    kinds = ["Eval", *(["Test"] if any(option.tests for option in family.options) else [])]
    evaluated = [f"{kind}{name}" for kind in kinds for name in (*family.evaluated_fields, *DISTINCT)]
    own = [column.name for column in (*family.columns, *family.learned)]
    recent = [f"{family.best_by}{RECENT}"] if family.best_by else []
    return list(dict.fromkeys([*PROGRESS, *own, *evaluated, *recent]))


def presets(env: str) -> tuple[Preset, ...]:
    """Return the presets that the environment can be trained with, the default first."""
    return (*envs.find_family(env).presets_of(env), *PRESETS)


def build(**given: Any) -> PPOConfig:
    """Return the config: `given` over the preset over the family's own defaults over the defaults.

    Args:
        given: settings of the algorithm and options of the environment's family by name. None is a value like any
            other, where a setting has it: `max_grad_norm=None` means no bound.

    Raises:
        ValueError: unknown setting or preset, or a value that cannot work.
    """
    env = given.get("env", PPOConfig.env)
    family = envs.find_family(env)
    offered = {preset.name: preset for preset in presets(env)}
    name = given.get("preset") or next(iter(offered))
    _require(name in offered, "preset", name, "one of " + ", ".join(offered))
    known = {setting.name: setting for setting in all_settings(env)}
    for key in given:
        if key not in known:
            raise ValueError(unknown(key, env))
    chosen = {key: value for key, value in offered[name].settings.items() if key in known}
    flat = override(override(family.defaults, chosen), given) | {"env": env, "preset": name}
    own = {setting.name for setting in settings()}
    options = {option.name: flat.get(option.name, option.default) for option in family.options}
    return PPOConfig(**{key: flat[key] for key in flat if key in own}, env_options=options)


def override(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others laid over them; a length that is given replaces the other one."""
    given = [name for name in LENGTHS if over.get(name) is not None]
    replaced = set(LENGTHS) - set(given) if given else set()
    return {key: value for key, value in base.items() if key not in replaced} | dict(over)


def unknown(name: str, env: str) -> str:
    """Return one line about a name that is no setting here: whose it is, or what was perhaps meant."""
    for family in envs.families():
        if name in {option.name for option in family.options}:
            return f"{name.replace('_', '-')} is an option of {family.name}'s environments, not of {env}"
    names = [setting.name for setting in all_settings(env)]
    close = [known for known in names if known.endswith(f"_{name}")][:2]  # --lr
    close = close or difflib.get_close_matches(name, names, n=2)
    hint = f", did you mean {' or '.join(close)}?".replace("_", "-") if close else ""
    return f"no setting {name.replace('_', '-')!r}{hint}"


def free_settings(cfg: PPOConfig) -> list[str]:
    """Return the settings in which two runs of one experiment may differ, sorted: what config.json keeps for readers.

    The length is among them unless a schedule runs over it.
    """
    free = {"seed", "detail", "nothing"} | (set() if any(getattr(cfg, n) for n in SCHEDULES) else {"length"})
    return sorted(setting.name for setting in all_settings(cfg.env) if setting.affects in free)


def without_effect(cfg: PPOConfig) -> dict[str, str]:
    """Return the settings that are not the preset's and change nothing in this run: flag -> what it would need."""
    needs = {
        "v_clip": (cfg.v_loss == "clipped", "--v-loss clipped"),
        "v_coef": (cfg.shared, "--shared"),
        "v_lr": (not cfg.shared, "--no-shared"),
        "train_v_iters": (not cfg.shared, "--no-shared"),
        "lstm_units": (cfg.policy != "feedforward", "--policy lstm"),
        "chunk_steps": (cfg.policy != "feedforward", "--policy lstm"),
        **dict.fromkeys(PHASE_SETTINGS, (cfg.algo == "ppg", "--algo ppg")),
    }
    values, own = cfg.to_dict(), build(env=cfg.env, preset=cfg.preset).to_dict()
    return {
        "--" + name.replace("_", "-"): need
        for name, (met, need) in needs.items()
        if not met and values[name] != own[name]
    }


def free_on_resume(cfg: PPOConfig) -> set[str]:
    """Return the settings that a resumed run may change."""
    return {setting.name for setting in all_settings(cfg.env) if setting.affects in ("length", "nothing")}
