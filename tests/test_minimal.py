"""The hundred-line PPO: it stands alone, its equations are right, and it solves CartPole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppo import core
from scripts import minimal_ppo

FILE = Path(minimal_ppo.__file__)


def test_it_stands_alone():
    """About a hundred lines that import nothing of this project, started from any folder."""
    nodes = list(ast.walk(ast.parse(FILE.read_text())))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} == {"argparse", "gymnasium", "numpy", "torch"}
    assert len(FILE.read_text().splitlines()) <= 115


def test_a_few_iterations(tmp_path, capsys):
    """A line per update, from any folder; the same seed gives the same episodes."""
    words = [sys.executable, str(FILE), "--seed", "3", "--steps", "3000"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    minimal_ppo.train(3, 3000)
    assert done.stdout.count("mean return of the last 100") == 3 and done.stdout == capsys.readouterr().out


def test_advantages_are_those_of_the_package():
    """The same numbers as `ppo.core.gae`, where an episode ended within the batch."""
    draw = torch.Generator().manual_seed(0)
    rew, val = torch.rand(2, 5, 3, generator=draw)
    last_val, done = torch.rand(3, generator=draw), torch.zeros(5, 3)
    done[2, 1] = 1
    mine = minimal_ppo.advantages(rew, val, last_val, done)
    for env, bounds in ((0, [(0, 5)]), (1, [(0, 3), (3, 5)])):
        for a, b in bounds:
            after = 0.0 if b == 3 else float(last_val[env])
            theirs = core.gae(
                rew[a:b, env].numpy(), val[a:b, env].numpy(), after, minimal_ppo.GAMMA, minimal_ppo.LAMBDA
            )
            assert mine[a:b, env].tolist() == pytest.approx(theirs.tolist(), abs=1e-5)


def test_an_action_that_pays_becomes_likelier_but_is_clipped():
    """At the old policy the gradient raises the good action; beyond 1 + epsilon there is none."""
    pi, v = torch.nn.Linear(1, 2), torch.nn.Linear(1, 1)
    obs, act, adv = torch.ones(1, 1), torch.tensor([1]), torch.ones(1)
    logp = torch.log_softmax(pi(obs), dim=-1)[0, 1].detach().reshape(1)
    minimal_ppo.losses(pi, v, obs, act, logp, adv, torch.zeros(1)).backward()
    assert pi.bias.grad[1] < 0 < pi.bias.grad[0]
    pi.zero_grad()
    minimal_ppo.losses(pi, v, obs, act, logp - 0.5, adv, torch.zeros(1)).backward()
    assert pi.bias.grad.tolist() == [0, 0]


@pytest.mark.slow
def test_it_solves_cartpole():
    """The mean return of the last 100 episodes reaches 475."""
    returns = minimal_ppo.train(seed=0)
    assert sum(returns[-100:]) / 100 >= minimal_ppo.GOAL
