"""Teach a network what a planner or another policy does.

    python -m scripts.teach SuperMarioBros-3-2-v0 --out lessons/3-2
    python -m ppo.run --env SuperMarioBros-3-2-v0 --init-from lessons/3-2 --actions simple --pi-lr 3e-4

`envs.mario.planner` plays by looking ahead, on the console itself. It is no policy: it tries what comes. With --teacher
a policy teaches, such as one that sees the console's memory (`--preset near`); a folder of policies teaches many stages
to one network, each the stage in which it was trained. The network learns from them what to press (DAgger: Ross, Gordon
and Bagnell 2011, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning"): teacher
and pupil play in turn, under sticky buttons and from disturbed starts, the teacher says at every moment what it would
press, and the network is trained on all this advice. What comes out is a start for PPO, which finds out what works for
somebody who sees only the picture. Ctrl-C or SIGTERM ends the lessons early: what was learned is written.

Every further --FLAG is one of `ppo.run`; the network is built by them.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

from envs.mario import demonstrations
from envs.mario.demonstrations import Demonstration
from envs.mario.explore import explore
from envs.mario.native_vector import NativeMarioVec
from envs.mario.planner import Planner
from envs.mario.ram import Values
from ppo import actions, arguments
from ppo.architecture import described
from ppo.build import build_training, threads
from ppo.core import discount_cumsum
from ppo.evaluate import environment, find_players, find_policy, load_players
from ppo.policy import Policy, save_policy
from ppo.ppo import train_minibatch
from ppo.resume import init_from
from ppo.training import Coefficients, Learner, Tensors, Training
from utils import command, mpi
from utils.seeding import Purpose, generator
from utils.watchdog import StopSignals

PROG = "scripts.teach"
LABELS = 40_000
MAX_STEPS = 500_000  # decisions of an exploration; `scripts.solve` uses it too
FLAGS = "--sticky 0.25 --start-frames 30 --start-mode random --actions simple --num-envs 8 --minibatch-size 256".split()
OWN = "--env --resume --overwrite --print-config --presets --cpu --policy --shared --algo".split()
OWN += ["--start-states", "--start-curriculum", "--norm-obs"]
ROUND = 2048  # moments between two rounds of training
TURN = 12  # decisions for which teacher or pupil plays before they may change
PASSES = 5  # over all moments, for every one that is new
SHARE, MOST = 0.05, 0.9  # by which the teacher's share of the turns moves, and the most that it is
ENOUGH = 0.5  # of the way, on average: beyond it the pupil plays more, short of it less
STEP_SIZE, LEAST_STEP_SIZE = 1e-3, 1e-4  # of Adam, falling as the labels grow
VALUE_PASSES = 2  # over the moments at the end, for the critic


def main(argv: list[str] | None = None) -> int:
    """Teach; exit code 0, or 2 for bad input."""
    parser = command.Parser(
        prog=PROG,
        usage="python -m scripts.teach ID --out DIR [--labels N] [--FLAG VALUE ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("stage", metavar="ID", help="such as SuperMarioBros-3-2-v0")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the policy's folder")
    text = f"moments to teach (default {LABELS:,}); a thousand take 28 MB"
    parser.add_argument("--labels", type=int, default=LABELS, metavar="N", help=text)
    text = "a policy that teaches, or a folder of them, each in its stage; default: the planner"
    parser.add_argument("--teacher", metavar="POLICY", help=text)
    args, flags = parser.parse_known_args(argv)
    return command.run_command(PROG, lambda: teach(args.stage, args.out, args.labels, flags, args.teacher))


def teach(env_id: str, out: Path, labels: int, flags: list[str], teacher: str | None = None) -> int:
    """Teach a network and write it as a policy. Raises ValueError for bad input, before anything is written."""
    if labels < 1:
        raise ValueError(f"labels: {labels}, expected at least 1")
    command.refuse(flags, OWN, PROG)
    if out.exists() or out.is_symlink():
        raise ValueError(f"out: {out} exists already")
    cfg = arguments.parse(["--env", env_id, *FLAGS, *flags])[0]
    with threads(comm := mpi.Comm()):
        training = build_training(cfg, comm)
        try:
            if cfg.init_from is not None:
                print(init_from(training, find_policy(cfg.init_from), cfg.network), flush=True)
            lesson = Lesson(training, labels, teacher)
            out.parent.mkdir(parents=True, exist_ok=True)  # where it cannot be written, nothing is taught in vain
            stopped = lesson.run()
            info = {"env": env_id, "spec": training.env.spec_dict, "obs_shape": list(training.obs.shape[1:])}
            info |= described(cfg) | actions.describe(training.ac.dist) | {"labels": lesson.size}
            named = [] if teacher is None else ["--teacher", teacher]
            words = ["python", "-m", PROG, env_id, "--labels", str(labels), *named, *flags]
            save_policy(out, training.ac, info | {"command": shlex.join(words)})
        finally:
            training.close()
    print(f"{out}: taught; go on with ppo.run --init-from {out}", flush=True)
    return 128 + stopped if stopped else 0


def known_way(env_id: str) -> Demonstration:
    """Return the shipped way through a stage, or else one that is explored. Raises ValueError where none is found."""
    shipped = demonstrations.SHIPPED / demonstrations.file_name(env_id)
    if shipped.exists():
        return demonstrations.read(shipped)
    found = explore(env_id, 0, MAX_STEPS)
    print(f"{env_id}: no way is shipped: explored {found.steps:,} decisions for one", flush=True)
    return demonstrations.of_exploration(env_id, found)


class Lesson:
    """Teacher, pupil, and the advice given so far.

    Attributes:
        obs: (L, *O) what was seen, of which the first `size` are there.
        advice: (L, A) float32, with what probability the teacher would have taken each action; all 0 where it saw no
            way on.
        ret: (L,) float32, discounted rewards that followed.
        teacher_share: probability that a turn is the teacher's.
    """

    def __init__(self, training: Training, labels: int, policy: str | None = None) -> None:
        """Find the teacher: a policy, or else a planner. Raises ValueError where none can be had."""
        env = training.env
        if not isinstance(env, NativeMarioVec):
            raise ValueError("env: expected a stage of Mario over the native emulator")
        self.training, self.env, self.labels = training, env, labels
        self.teacher = Planners(training.cfg.env, env) if policy is None else Expert(policy, env)
        self.draws = generator(training.cfg.seed, 0, Purpose.ACTION, 0)
        rows = labels + env.num_envs
        self.obs = np.zeros((rows, *training.obs.shape[1:]), training.obs.dtype)
        self.advice = np.zeros((rows, len(env.buttons)), np.float32)
        self.ret = np.zeros(rows, np.float32)
        self.size, self.teacher_share, self.seen = 0, 1.0, training.obs
        pi, v = training.learners
        self.pi = Learner("Pi", pi.optimiser, STEP_SIZE, 1, imitation_loss)
        self.v = Learner("V", v.optimiser, STEP_SIZE, 1, v.loss)
        self.began = time.monotonic()

    def run(self) -> int:
        """Play and train in turn until there is enough advice, or a signal asks to stop; then train the critic too.

        Returns:
            the signal's number, or 0.
        """
        with StopSignals("raise") as self.signals:
            self.take_turns()
            print(f"{self.size:,} moments: the critic learns from them", flush=True)
            self.train([self.v], self.size * VALUE_PASSES, STEP_SIZE / 2)
        return self.signals.received

    def take_turns(self) -> None:
        """Play and train the actor in turn."""
        self.training.nets.refresh()
        while self.size < self.labels and not self.signals.received:
            first = self.size
            fars, cleared, agreed = self.play(min(ROUND, self.labels - first))
            lr = max(LEAST_STEP_SIZE, STEP_SIZE * (1 - first / self.labels))
            loss = self.train([self.pi], (self.size - first) * PASSES, lr)
            way = f"{np.mean(fars or [0.0]):.0%} of the way, " if isinstance(self.teacher, Planners) else ""
            print(
                f"{self.size:,} of {self.labels:,} moments, teacher's share {self.teacher_share:.2f}: pupil agrees "
                f"{agreed:.0%}, loss {loss:.2f}; {way}{cleared} of {len(fars)} cleared; "
                f"{time.monotonic() - self.began:.0f} s",
                flush=True,
            )
            if first == 0:
                self.teacher_share = MOST
            elif fars:
                step = -SHARE if np.mean(fars) > ENOUGH else SHARE
                self.teacher_share = min(MOST, max(0.0, self.teacher_share + step))
            self.signals.armed = True  # from here on there is something to save

    # Playing ----------------------------------------------------------------------------------------------------------

    def play(self, count: int) -> tuple[list[float], int, float]:
        """Play about `count` moments and keep them.

        Returns:
            how far along the way each episode came that ended, how many of them cleared the stage, and the share of
            moments at which the pupil would have done what the teacher advised.
        """
        env, n = self.env, self.env.num_envs
        first, fars, cleared, agreed = self.size, [], 0, 0
        rewards, ends = [], []
        for t in range(-(-count // n)):
            if self.signals.received and t:
                break
            if t % TURN == 0:
                teaches = self.draws.random(n) < self.teacher_share
            self.training.watchdog.touch("teaching")
            obs = self.seen
            chosen = self.pupil(obs)
            advice, advised = self.teacher.advise(obs, self.draws)
            rows = slice(self.size, self.size + n)
            self.obs[rows], self.advice[rows] = obs, advice
            self.size += n
            agreed += int(np.count_nonzero(chosen == advised))
            self.seen, rew, terminated, truncated, infos = env.step(np.where(teaches, advised, chosen))
            ended = terminated | truncated
            rewards.append(rew)
            ends.append(ended)
            cleared += sum(record["flag"] for record in infos["episodes"])
            fars += self.teacher.follow(ended)
        self.ret[first : self.size] = self.returns(np.array(rewards), np.array(ends))
        return fars, cleared, agreed / (self.size - first)

    @torch.no_grad()
    def pupil(self, obs: np.ndarray) -> np.ndarray:
        """Return actions (N,) that the network takes, sampled."""
        nets = self.training.nets
        params = nets.logits(nets.prepare(torch.from_numpy(obs), torch.arange(len(obs))))
        uniform = torch.from_numpy(self.draws.random((len(obs), 1), dtype=np.float32))
        return self.training.ac.dist.sample(params, uniform)[0].numpy()

    def returns(self, rewards: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return discounted sums (T N,) of what followed within the episode and this round: (T, N) rewards, ends."""
        found = np.zeros(rewards.shape, np.float32)
        for i, cuts in enumerate(ends.T):
            paths = np.split(rewards[:, i], np.flatnonzero(cuts) + 1)
            found[:, i] = np.concatenate([discount_cumsum(path, self.training.cfg.gamma) for path in paths])
        return found.reshape(-1)

    # Training ---------------------------------------------------------------------------------------------------------

    def train(self, learners: list[Learner], samples: int, lr: float) -> float:
        """Train on about so many samples, drawn from all there are; return the mean loss."""
        training, size = self.training, self.training.cfg.minibatch_size
        names: dict[str, np.ndarray] = {
            "obs": self.obs,
            "advice": self.advice,
            "ret": self.ret,
            "val": self.ret,
        }
        batch = {name: torch.from_numpy(array[: self.size]) for name, array in names.items()}
        losses = []
        for learner in learners:
            learner.optimiser.lr = lr
        for _ in range(max(1, samples // size)):
            training.watchdog.touch("learning")
            rows = torch.from_numpy(self.draws.integers(self.size, size=size))
            stats = train_minibatch(training, learners, batch, rows, Coefficients(0.0, 0.0, math.inf))
            losses.append(stats[f"Loss{learners[0].name}"])
        learners[0].optimiser.gather_weights([learner.optimiser for learner in learners])
        training.nets.refresh()
        return float(np.mean(losses))


class Planners:
    """A planner for each environment as the teacher."""

    def __init__(self, env_id: str, env: NativeMarioVec) -> None:
        """Begin episodes where the environments do. Raises ValueError where a stage cannot be planned."""
        way = known_way(env_id)
        self.env, self.planners = env, [Planner(env_id, env.buttons, env.skip, way) for _ in range(env.num_envs)]
        for i, planner in enumerate(self.planners):
            planner.begin(env.start_buttons(i))

    def advise(self, obs: np.ndarray, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each action, (N, A), and actions (N,); see `Lesson.advice`."""
        advised = np.array([self.env.buttons.index(planner.advise()) for planner in self.planners])
        advice = np.eye(len(self.env.buttons), dtype=np.float32)[advised]
        return advice * [[not planner.hopeless] for planner in self.planners], advised

    def follow(self, ended: np.ndarray) -> list[float]:
        """Note the step that was played; return how far along the way the episodes came that ended."""
        fars = []
        for i, planner in enumerate(self.planners):
            if ended[i]:
                fars.append(planner.far / planner.length)
                planner.begin(self.env.start_buttons(i))
            else:
                planner.follow(self.env.pressed_frames(i))
        return fars


class Expert:
    """A policy as the teacher, or one for each stage, which may see the memory where the pupil sees pictures."""

    def __init__(self, name: str, env: NativeMarioVec) -> None:
        """Load them. Raises ValueError unless they can play here."""
        self.env = env
        players = load_players(find_players(name)[0], env_id=env.spec_dict["env_id"])
        self.policies = {"": players} if isinstance(players, Policy) else players.policies
        for stage in () if isinstance(players, Policy) else env.parts():
            if stage not in self.policies:
                raise ValueError(f"teacher: {name} has no policy for {stage}: --stages names those to be taught")
        self.values: dict[str, Values | None] = {}
        for stage, policy in self.policies.items():
            names = environment(policy)[1].get("ram_obs")
            values = self.values[stage] = None if names is None else Values(names)
            shown = list(env.single_observation_space.shape or ()) if values is None else [values.size]
            if shown != policy.info["obs_shape"]:
                raise ValueError(f"teacher: {name} takes {policy.info['obs_shape']}, here it would see {shown}")
        self.numbers = {stage: env.action_numbers(policy.info["spec"]) for stage, policy in self.policies.items()}
        if any(policy.ac.memories for policy in self.policies.values()):
            raise ValueError(f"teacher: {name} remembers, expected a feed-forward policy")

    def advise(self, obs: np.ndarray, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability of each action, (N, A), and actions (N,) that are drawn from it."""
        memories = self.env.memories()
        advice = np.zeros((len(obs), len(self.env.buttons)), np.float32)
        parts = np.array(["" if "" in self.policies else self.env.part(i) for i in range(len(obs))])
        for part in set(parts) & set(self.policies):  # another stage, where a warp zone leads, has no advice
            rows = np.flatnonzero(parts == part)
            values = self.values[part]
            seen = obs[rows] if values is None else values(memories[rows])
            advice[rows[:, None], self.numbers[part]] = self.policies[part].look(seen)[0]
        return advice, (advice.cumsum(axis=1) < draws.random((len(obs), 1))).sum(axis=1).clip(max=advice.shape[1] - 1)

    def follow(self, ended: np.ndarray) -> list[float]:
        """Return 1 for each episode that ended: it can teach wherever the pupil leads."""
        return [1.0] * int(np.count_nonzero(ended))


def imitation_loss(
    training: Training, obs: torch.Tensor, part: Tensors, coef: Coefficients
) -> tuple[torch.Tensor, Tensors]:
    """Return the cross-entropy of the teacher's advice, a mean over the minibatch, and the same as a statistic."""
    logp = torch.log_softmax(training.nets.logits(obs), dim=-1)
    loss = -(logp * part["advice"]).sum() / training.cfg.minibatch_size
    return loss, {"LossPi": loss.detach()}


if __name__ == "__main__":
    sys.exit(main())
