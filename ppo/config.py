"""One frozen, validated dataclass holds a run's settings; its field texts are the `--help` of `ppo.run`.

A value is looked for on the command line, then in the preset of the environment's family, then in the default here.
Every size is global: it counts over all ranks. Knows nothing of torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
import shlex
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import envs
from envs.mario.actions import parse


def _field(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


GOAL = re.compile(r"\s*(\w+)\s*(>=|<=)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")  # what --stop-at takes


@dataclass(frozen=True)
class PPOConfig:
    """All settings of a run. Raises ValueError, naming the field, for a value that cannot work."""

    # what is run, and where its files go
    env: str = _field("SuperMarioBros-1-1-v0", "environment id")
    preset: str | None = _field(None, "settings to start from; default: the one of the environment's family")
    seed: int = _field(0, "seed of all random numbers")
    exp_name: str | None = _field(None, "name of the experiment; default: made from the environment")
    data_dir: str = _field("data", "folder of the experiments; a run is DATA_DIR/EXP_NAME/EXP_NAME_sSEED")
    epochs: int | None = _field(None, "length of the run in epochs")
    total_steps: int | None = _field(None, "length of the run in steps over all ranks, rounded up to whole epochs")
    init_from: str | None = _field(None, "start with the weights of a policy: its folder, a run, or the id of an "
                                   "environment with a shipped one")  # fmt: skip

    # collecting
    num_envs: int = _field(16, "environments over all ranks")
    steps_per_epoch: int = _field(4096, "steps of an epoch over all environments")
    gamma: float = _field(0.99, "discount per step")
    lam: float = _field(0.95, "lambda of GAE")

    # learning
    network: str = _field("mlp", "actor and critic", ("mario", "nature", "small", "impala", "mlp"))
    init: str = _field("orthogonal", "initial weights", ("orthogonal", "xavier"))
    pi_lr: float = _field(3e-4, "Adam step size of the actor")
    v_lr: float = _field(3e-4, "Adam step size of the critic")
    adam_eps: float = _field(1e-5, "epsilon of Adam")
    anneal_lr: bool = _field(False, "let both step sizes fall to zero over the run")
    minibatch_size: int = _field(256, "samples of a minibatch; steps_per_epoch for the full batch")
    train_pi_iters: int = _field(4, "passes over the epoch's data for the actor")
    train_v_iters: int = _field(4, "passes over the epoch's data for the critic")
    clip_ratio: float = _field(0.2, "epsilon of the clipped objective")
    anneal_clip: bool = _field(False, "let clip_ratio fall to zero over the run")
    target_kl: float | None = _field(None, "stop the actor's passes of an epoch when KL exceeds 1.5 times this")
    ent_coef: float = _field(0.0, "weight of the entropy bonus")
    anneal_ent: bool = _field(False, "let ent_coef fall to zero over the run")
    v_loss: str = _field("mse", "value loss", ("mse", "huber", "clipped"))
    v_clip: float = _field(0.2, "how far v_loss=clipped lets a value move in one epoch")
    value_target: str = _field("lambda", "what the critic learns", ("lambda", "rewards-to-go"))
    adv_norm: str = _field("batch", "advantages are normalised over this", ("batch", "minibatch", "none"))
    max_grad_norm: float | None = _field(0.5, "bound on the gradient norm of each network")
    chunk_size: int = _field(128, "samples that go through a network at once; larger minibatches are accumulated")

    # environment
    actions: str = _field("simple", 'Mario: right_only, simple, complex or a JSON list such as \'[["right","A"]]\'')
    reward: str = _field("env", "Mario: env, score, score-rules or MODULE:FUNCTION; what PPO is shown")
    skip: int = _field(4, "Mario: frames per step")
    stack: int = _field(4, "Mario: frames in an observation")
    crop_hud: bool = _field(False, "Mario: leave the score line out of the picture")
    sticky: float = _field(0.0, "Mario: probability per frame that the frame before's buttons stay pressed")
    start_frames: int = _field(0, "Mario: at the stage's start, up to this many frames (0 to 30) of start_mode")
    start_mode: str = _field("noop", "Mario: what is pressed in the start frames", ("noop", "random"))
    max_episode_steps: int | None = _field(None, "cut (truncate) episodes after this many steps")
    emulator: str | None = _field(None, "Mario: which emulator; default: the fastest there is")
    threads: int = _field(1, "Mario: threads of each rank's native environments")
    start_states: str | None = _field(None, "Mario: file of states to start episodes from")
    start_share: float = _field(0.5, "Mario: share of the episodes that start from one of start_states")

    # saving and watching
    save_every: int = _field(10, "epochs between checkpoints")
    save_minutes: float | None = _field(None, "minutes after which a checkpoint is due in any case")
    keep: int = _field(3, "checkpoints to keep")
    check_every: int = _field(1, "epochs between comparisons of the ranks' parameters")
    eval_every: int = _field(0, "epochs between evaluations, which then decide what the best policy is; 0: never")
    eval_episodes: int = _field(100, "episodes of an evaluation")
    stop_at: str | None = _field(None, "end the run where a column of progress.txt gets there: 'EvalClearRate>=0.95'")
    stall_timeout: float = _field(300.0, "seconds without progress after which the run is ended; 0: never")
    tensorboard: bool = _field(False, "write TensorBoard events too (pip install tensorboard)")

    # machine
    device: str = _field("auto", "auto, cpu, cuda or cuda:N")
    precision: str = _field("auto", "what the networks compute in; auto: bfloat16 for images where the "
                            "processor or GPU has it", ("auto", "float32", "bfloat16"))  # fmt: skip

    def __post_init__(self) -> None:
        """Check every value that can be checked without building anything."""
        at_least = {
            "seed": 0, "num_envs": 1, "steps_per_epoch": 1, "minibatch_size": 1, "train_pi_iters": 0,
            "train_v_iters": 0, "chunk_size": 1, "skip": 1, "stack": 1, "save_every": 1, "keep": 2, "check_every": 1,
            "eval_every": 0, "eval_episodes": 1, "stall_timeout": 0, "ent_coef": 0, "pi_lr": 0, "v_lr": 0,
            "start_frames": 0, "threads": 1,
        }  # fmt: skip
        for name, low in at_least.items():
            _require(getattr(self, name) >= low, name, getattr(self, name), f"at least {low}")
        for name in ("epochs", "total_steps", "max_episode_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        for name in ("gamma", "lam", "sticky"):
            _require(0.0 <= getattr(self, name) <= 1.0, name, getattr(self, name), "in [0, 1]")
        for name in ("clip_ratio", "v_clip", "adam_eps"):
            _require(getattr(self, name) > 0.0, name, getattr(self, name), "above 0")
        for name in ("target_kl", "max_grad_norm", "save_minutes"):
            value = getattr(self, name)
            _require(value is None or value > 0.0, name, value, "above 0")
        for field in dataclasses.fields(self):
            choices = field.metadata["choices"]
            _require(not choices or getattr(self, field.name) in choices, field.name, getattr(self, field.name),
                     "one of " + ", ".join(choices or ()))  # fmt: skip
        _require(self.preset is None or self.preset in PRESETS, "preset", self.preset, "one of " + ", ".join(PRESETS))
        _require(
            self.epochs is None or self.total_steps is None, "total_steps", self.total_steps, "not given with epochs"
        )
        _require(not self.tensorboard or importlib.util.find_spec("tensorboard") is not None, "tensorboard",
                 self.tensorboard, "off unless it is installed (pip install tensorboard)")  # fmt: skip
        goal = self.stop_at
        _require(goal is None or bool(GOAL.fullmatch(goal)), "stop_at", goal, "COLUMN>=NUMBER or COLUMN<=NUMBER")
        _require(goal is None or not goal.startswith("Eval") or self.eval_every > 0, "eval_every", self.eval_every,
                 f"at least 1 where stop-at is {goal}")  # fmt: skip
        _require(self.start_frames <= 30, "start_frames", self.start_frames, "at most 30")
        _require(self.steps_per_epoch % self.num_envs == 0, "steps_per_epoch", self.steps_per_epoch,
                 f"a multiple of num_envs ({self.num_envs})")  # fmt: skip
        _require(self.steps_per_epoch % self.minibatch_size == 0, "minibatch_size", self.minibatch_size,
                 f"a divisor of steps_per_epoch ({self.steps_per_epoch})")  # fmt: skip
        _require(self.minibatch_size % self.num_envs == 0, "minibatch_size", self.minibatch_size,
                 f"a multiple of num_envs ({self.num_envs}), each of which gives as many steps")  # fmt: skip
        given = self.exp_name
        _require(given is None or (given not in ("", ".", "..") and "/" not in given and "\0" not in given),
                 "exp_name", given, "a folder name without /")  # fmt: skip
        envs.check_options(self.env, **self.env_options())

    @property
    def local_steps(self) -> int:
        """T: steps of each environment in an epoch."""
        return self.steps_per_epoch // self.num_envs

    @property
    def num_epochs(self) -> int:
        """Length of the run in epochs."""
        if self.total_steps is not None:
            return -(-self.total_steps // self.steps_per_epoch)
        return 50 if self.epochs is None else self.epochs

    @property
    def experiment(self) -> str:
        """Name of the experiment: the given one, or the environment's."""
        return self.exp_name or "ppo_" + self.env.lower().replace("/", "-")

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.data_dir) / self.experiment / f"{self.experiment}_s{self.seed}"

    def env_options(self) -> dict[str, Any]:
        """Return the options of this environment's family, as `envs.make_vec` takes them."""
        names = set(envs.options(self.env)) & {field.name for field in dataclasses.fields(self)}
        options = {name: getattr(self, name) for name in sorted(names) if getattr(self, name) is not None}
        return options | ({"actions": parse(options["actions"])} if "actions" in options else {})

    def command(self, ranks: int = 1) -> str:
        """Return the command line that starts this run: every setting that is not the preset's own, but for places."""
        own = build(env=self.env, preset=self.preset).to_dict()
        words = ["python -m ppo.run", "--env", self.env, *(["--cpu", str(ranks)] if ranks > 1 else [])]
        for name, value in self.to_dict().items():
            flag = "--" + name.replace("_", "-")
            if name in ("env", "exp_name", "data_dir") or (value == own[name] and name != "seed"):
                continue
            if isinstance(value, bool):
                words.append(flag if value else "--no-" + flag[2:])
            elif value is not None and not (name == "epochs" and self.total_steps is not None):
                words += [flag, shlex.quote(str(value))]
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON can hold them."""
        return dataclasses.asdict(self)


def _require(ok: bool, name: str, value: Any, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name.replace('_', '-')} must be {allowed}, got {value!r}")


# Where a family's numbers come from stands beside them. A preset changes defaults only; the command line wins.
PRESETS: dict[str, dict[str, Any]] = {
    # gamma 0.9, Huber and normalised advantages are what the repositories that clear most stages agree on
    # (CVHvn/Mario_PPO, vietnh1009/Super-mario-bros-PPO-pytorch). Found by measuring on 1-1 (data/results/tuning): the
    # network of Mnih et al. 2013, eight passes over small minibatches with twice the step size, five actions that all
    # lead to the right, and random starts. 16 environments x 256 steps = 4,096; 366 epochs are 1.50 million decisions.
    "mario": {
        "network": "small", "num_envs": 16, "steps_per_epoch": 16 * 256, "minibatch_size": 128, "gamma": 0.9,
        "lam": 0.95, "pi_lr": 5e-4, "v_lr": 5e-4, "anneal_lr": True, "train_pi_iters": 8, "train_v_iters": 8,
        "ent_coef": 0.01, "anneal_ent": True, "v_loss": "huber", "reward": "score", "actions": "right_only",
        "start_frames": 30, "epochs": 366,
    },
    # openai/spinningup, spinup/algos/pytorch/ppo/ppo.py: its defaults, full batch, 80 + 80 iterations, target KL 0.01.
    "spinup": {
        "num_envs": 4, "steps_per_epoch": 4000, "minibatch_size": 4000, "gamma": 0.99, "lam": 0.97, "pi_lr": 3e-4,
        "v_lr": 1e-3, "adam_eps": 1e-8, "train_pi_iters": 80, "train_v_iters": 80, "target_kl": 0.01, "ent_coef": 0.0,
        "max_grad_norm": None, "value_target": "rewards-to-go", "epochs": 50, "max_episode_steps": 1000,
    },
    # The Tianchi course (gaoxiaos/Supermariobros-PPO-pytorch): spinup's procedure, gamma 0.999, both lr 0.001, 10,000
    # steps per epoch for 150 epochs, complex actions, Xavier weights. One environment there, four here: 4 x 2,500.
    "tianchi": {
        "network": "mario", "init": "xavier", "num_envs": 4, "steps_per_epoch": 4 * 2500, "minibatch_size": 10000,
        "gamma": 0.999, "lam": 0.97, "pi_lr": 1e-3, "v_lr": 1e-3, "adam_eps": 1e-8, "train_pi_iters": 80,
        "train_v_iters": 80, "target_kl": 0.01, "max_grad_norm": None, "value_target": "rewards-to-go",
        "actions": "complex", "reward": "score", "epochs": 150,
    },
    # Small vector environments: what rl-baselines3-zoo uses for CartPole; 8 environments x 32 steps = 256.
    "classic": {
        "network": "mlp", "num_envs": 8, "steps_per_epoch": 8 * 32, "minibatch_size": 256, "gamma": 0.98, "lam": 0.8,
        "pi_lr": 1e-3, "v_lr": 1e-3, "train_pi_iters": 20, "train_v_iters": 20, "anneal_lr": True, "anneal_clip": True,
        "ent_coef": 0.0, "epochs": 400,
    },
}  # fmt: skip

FAMILY_PRESETS = {"mario": "mario", "classic": "classic", "echo": "classic"}


def build(**given: Any) -> PPOConfig:
    """Return the config: `given` over the preset over the defaults.

    Raises:
        ValueError: unknown field or preset, or a value that cannot work.
    """
    names = {field.name for field in dataclasses.fields(PPOConfig)}
    for name in given:
        _require(name in names, "setting", name, "a field of PPOConfig")
    env = given.get("env", PPOConfig.env)
    preset = given.get("preset") or FAMILY_PRESETS[envs.family(env)]
    _require(preset in PRESETS, "preset", preset, "one of " + ", ".join(PRESETS))
    settings = PRESETS[preset] | {name: value for name, value in given.items() if value is not None}
    if "total_steps" in given and given["total_steps"] is not None and "epochs" not in given:
        settings.pop("epochs", None)  # one length replaces the other
    if envs.family(env) == "mario" and settings.get("network", "mlp") == "mlp":
        settings["network"] = "mario"
    return PPOConfig(**(settings | {"preset": preset}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` one flag per field: `--num-envs 8`, `--anneal-lr` and `--no-anneal-lr`. Unset flags stay away."""
    hints = typing.get_type_hints(PPOConfig)
    for field in dataclasses.fields(PPOConfig):
        flag, kind = "--" + field.name.replace("_", "-"), _base_type(hints[field.name])
        text = field.metadata["help"] + ("" if field.default is None else f" (default {field.default})")
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            choices = field.metadata["choices"]
            metavar = None if choices else kind.__name__.upper()
            parser.add_argument(flag, type=kind, choices=choices, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _base_type(hint: Any) -> type:
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint
