"""Normalisation of observations and rewards: the statistics, who sees them, and that all ranks have the same."""

import json

import gymnasium
import numpy as np
import pytest
import torch

import envs
from ppo import config, ppo
from ppo.build import build_training
from ppo.networks import ActorCritic, Normalise
from ppo.normalise import CLIP, Moments, Normaliser
from ppo.policy import BadPolicy, load_policy
from ppo.run import train
from scripts import evaluate, export
from tests.conftest import run
from tests.test_train import assert_same, final_state, rows
from utils import mpi
from utils.folder import Refused

PENDULUM = {
    "env": "Pendulum-v1",
    "num_envs": 6,
    "steps_per_epoch": 384,
    "minibatch_size": 96,
    "max_episode_steps": 50,
    "train_pi_iters": 1,
    "train_v_iters": 1,
    "anneal_lr": False,
    "anneal_clip": False,
    "norm_obs": True,
    "norm_rew": True,
}


def test_moments_are_joined_exactly():
    """Three unequal parts, far from zero, have the mean and the standard deviation of the whole."""
    values = np.random.default_rng(0).normal(1e6, 3, (100, 2))
    moments = Moments(2)
    assert moments.std.tolist() == [1, 1]
    for part in np.split(values, [7, 60]):
        moments.add(Moments.of(part))
    assert moments.count == 100 and np.allclose(moments.mean, values.mean(0), rtol=1e-14)
    assert np.allclose(moments.std, values.std(0), rtol=1e-7)


def test_moments_do_not_depend_on_what_is_stored_beside():
    """An environment's moments are the same bits alone and as one of five, also of a single number."""
    for size in (1, 3):
        obs = np.random.default_rng(1).random((1000, 5, size), np.float32)
        alone = np.ascontiguousarray(obs[:, 2:3])
        assert np.array_equal(Moments.of(obs[:, 2]), Moments.of(alone[:, 0]))


def test_rewards_are_divided_by_the_std_of_discounted_returns():
    """By hand: gamma 0.5, rewards 1 1 | 1, two episodes: returns 1, 1.5, 1, whose std scales what comes later."""
    normaliser = Normaliser(mpi.Comm(), range(1), 1, 3, None, 0.5)
    records = [{"env": 0, "train_ret": 0.0}]
    for t, ended in enumerate([False, True, False]):
        given = normaliser.rewards(t, np.ones(1, np.float32), np.array([ended]), records if ended else [])
        assert given == 1.0  # nothing is known yet
    assert records[0]["train_ret"] == 2.0
    normaliser.end_epoch(np.zeros((3, 1, 1)))
    std = np.std([1, 1.5, 1])
    scaled = normaliser.rewards(0, np.array([0.1], np.float32), np.array([True]), records)
    assert scaled[0] == pytest.approx(0.1 / std, rel=1e-5)
    assert records[0]["train_ret"] == pytest.approx(1 + 0.1 / std)  # the episode began in the epoch before
    assert normaliser.rewards(1, np.array([1e9], np.float32), np.array([False]), [])[0] == CLIP


def test_observations_are_normalised_and_clipped_in_the_networks():
    """(obs - mean) / std between -10 and 10, for actor and critic, with the wing as without it."""
    norm = Normalise((2,))
    norm.mean.copy_(torch.tensor([1.0, 0.0])), norm.std.copy_(torch.tensor([2.0, 1e-3]))
    assert norm(torch.tensor([[5.0, 1.0]])).tolist() == [[2.0, 10.0]]
    plain, ac = (ActorCritic("mlp", (2,), 2, "orthogonal", 0, norm_obs=flag) for flag in (False, True))
    ac.norm = norm
    obs = torch.tensor([[5.0, 1.0]])
    assert torch.equal(ac.step(obs)[0], plain.step(norm(obs))[0]) and torch.equal(obs, torch.tensor([[5.0, 1.0]]))


def test_the_first_minibatch_sees_what_acted():
    """The statistics stand still within an epoch: the ratio is 1 before the first step, in the second epoch too."""
    training = build_training(config.build(**PENDULUM), mpi.Comm())
    for _ in range(2):
        ppo.collect(training)
        data, _ = ppo.advantages(training)
        batch = {name: ppo.to_device(training, a).flatten(0, 1) for name, a in data.items()}
        rows = ppo.minibatches(training, 0)[0]
        sums = ppo.accumulate_gradients(training, training.learners, batch, rows, ppo.begin_epoch(training))
        assert abs(float(sums["KL"])) < 1e-6
        ppo.update(training, data)
        training.normaliser.end_epoch(data["obs"])
        training.epoch += 1
    seen = training.ac.take(torch.from_numpy(data["obs"]), None)
    assert seen.reshape(-1, 3).mean(0).abs().max() < 0.5 and (seen.reshape(-1, 3).std(0) - 1).abs().max() < 0.5
    training.close()


def test_a_resumed_run_is_exact_and_evaluations_change_nothing(tmp_path, wing, capsys):
    """Statistics, the returns of running episodes and the sums of what PPO saw are restored; policies hold the rest."""
    whole = train(config.build(**PENDULUM, epochs=4, save_every=2, data_dir=str(tmp_path / "whole")))
    train(config.build(**PENDULUM, epochs=2, save_every=2, data_dir=str(tmp_path / "cut")))
    settings = PENDULUM | {"epochs": 4, "data_dir": str(tmp_path / "cut")}
    assert_same(whole, train(config.build(**settings), resume=True))
    state = final_state(whole)
    assert state["norm/obs"][0] == state["norm/ret"][0] == 4 * 384 and state["norm/carry"].shape == (2, 6)
    policy = load_policy(whole / "policy" / "last")
    assert policy.info["norm_obs"] and torch.equal(policy.ac.norm.mean, state["ac/norm.mean"])
    log = rows(whole)
    assert all(float(row["AverageTrainRet"]) != float(row["AverageEpRet"]) for row in log[1:])
    assert abs(float(log[-1]["AverageTrainRet"])) < abs(float(log[-1]["AverageEpRet"])) / 4
    before = (whole / "policy" / "last" / "policy.safetensors").read_bytes()
    assert evaluate.main([str(whole), "--episodes", "2", "--jobs", "1"]) == 0
    assert export.main([str(whole), "--out", str(tmp_path / "out"), "--check-steps", "40"]) == 0
    assert "same actions in 40 of 40" in capsys.readouterr().out
    assert (whole / "policy" / "last" / "policy.safetensors").read_bytes() == before


def test_the_environments_own_return_stays_honest(tmp_path):
    """EpRet is the sum of Pendulum's own rewards, whatever PPO is shown: played again with the same actions."""
    training = build_training(config.build(**PENDULUM), mpi.Comm())
    episodes = ppo.collect(training)
    own = gymnasium.make("Pendulum-v1").unwrapped
    record = episodes[0][1]
    env = envs.make_vec("Pendulum-v1", 6, 0, max_episode_steps=50)
    env.reset()
    own.reset()
    own.state = env.envs[0].unwrapped.state.copy()
    total = sum(own.step(2 * np.clip(a, -1, 1))[1] for a in training.buf.act[:50, 0])
    assert record["env"] == 0 and record["ep_ret"] == pytest.approx(total, rel=1e-5)
    training.close()


@pytest.mark.mpi
def test_statistics_are_the_same_bits_for_any_number_of_ranks(tmp_path):
    """They follow the order of the environments: one and three ranks differ only by what acting differs by."""
    code = """
import sys
import numpy as np
from ppo.normalise import Normaliser
from utils import mpi
from ppo.networks import ActorCritic
comm = mpi.connect()
mine = mpi.share(6, comm.world_size, comm.rank)
ac = ActorCritic("mlp", (3,), 2, "orthogonal", 0, norm_obs=True)
normaliser = Normaliser(comm, mine, 6, 40, ac, 0.9)
rng = np.random.default_rng(0)
for epoch in range(2):
    obs, rew = rng.normal(5, 2, (40, 6, 3)).astype(np.float32), rng.normal(1, 3, (40, 6)).astype(np.float32)
    ended, part = rng.random((40, 6)) < 0.1, slice(mine.start, mine.stop)
    for t in range(40):
        normaliser.rewards(t, rew[t, part], ended[t, part], [])
    normaliser.end_epoch(obs[:, part])
digest = hash(tuple(array.tobytes() for array in normaliser.state().values()))
digests = comm.gather(digest)
if comm.rank == 0:
    assert len(set(digests)) == 1
    print(digest, ac.norm.mean.tolist())
"""
    said = [run(["-c", code], ranks=ranks, env={"PYTHONHASHSEED": "0"}) for ranks in (1, 2, 4)]
    assert all(done.code == 0 for done in said), said[0].err
    assert len({done.out for done in said}) == 1


def test_a_run_goes_on_from_the_statistics_of_the_policy_that_it_begins_with(tmp_path):
    """As if it had seen those observations itself; a run that does not normalise refuses such a policy in one line."""
    rng = np.random.default_rng(0)
    old, new = rng.normal(5, 2, (400, 3)), rng.normal(-1, 3, (100, 1, 3)).astype(np.float32)
    ac = ActorCritic("mlp", (3,), 2, "xavier", 0, norm_obs=True)
    assert ac.norm is not None
    ac.norm.mean.copy_(torch.from_numpy(old.mean(axis=0)))
    ac.norm.std.copy_(torch.from_numpy(old.std(axis=0)))
    normaliser = Normaliser(mpi.Comm(), range(1), 1, 100, ac, None)
    assert normaliser.begin_from_policy({"steps": 400})
    normaliser.end_epoch(new)
    whole = np.concatenate([old, new[:, 0]])
    np.testing.assert_allclose(ac.norm.mean.numpy(), whole.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(ac.norm.std.numpy(), whole.std(axis=0), rtol=1e-5)
    settings = PENDULUM | {"epochs": 1, "data_dir": str(tmp_path)}
    folder = train(config.build(**settings, exp_name="one"))
    more = train(config.build(**settings, exp_name="two", init_from=str(folder)))
    assert final_state(more)["norm/obs"][0] == 2 * PENDULUM["steps_per_epoch"]
    with pytest.raises(Refused, match=r"norm\.mean is there and not here"):
        train(config.build(**settings | {"norm_obs": False, "exp_name": "three", "init_from": str(folder)}))


@pytest.mark.parametrize("returns", [None, 1, [1, 2], [3.0, float("nan"), 1.0], [3, 0, -1], ["x", 0, 1]])
def test_statistics_of_rewards_that_a_policy_does_not_tell_begin_anew(returns):
    """Also where a stranger's file says nonsense."""
    normaliser = Normaliser(mpi.Comm(), range(1), 1, 4, None, 0.9)
    assert not normaliser.begin_from_policy({"returns": returns})
    assert normaliser.ret is not None and normaliser.ret.flat.tolist() == [0.0, 0.0, 0.0]


def test_a_run_goes_on_in_the_unit_of_rewards_that_the_critic_has_learned(tmp_path, capsys):
    """The returns' statistics come with the policy: 1,000 in all have been seen, and the first rewards are divided."""
    settings = PENDULUM | {"norm_rew": True, "epochs": 1, "data_dir": str(tmp_path)}
    folder = train(config.build(**settings, exp_name="one"))
    more = train(config.build(**settings, exp_name="two", init_from=str(folder)))
    one, two = final_state(folder)["norm/ret"], final_state(more)["norm/ret"]
    assert two[0] == 2 * one[0] > 0
    shown = [np.genfromtxt(path / "progress.txt", names=True)["AverageTrainRet"] for path in (folder, more)]
    assert abs(shown[1]) < 0.5 * abs(shown[0])
    assert "rewards were normalised" not in capsys.readouterr().out


def test_images_are_not_normalised(tmp_path):
    """One line, code 2; and a file that says otherwise is refused."""
    done = run(["-m", "ppo.run", "--norm-obs", "--data-dir", str(tmp_path)])
    assert done.code == 2 and done.err.count("\n") == 1 and "norm-obs" in done.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [1, "yes", None])
def test_a_strangers_flag_is_refused(tmp_path, value):
    """Anything but true and false; a flag without the tensors."""
    folder = train(config.build(**PENDULUM, epochs=1, data_dir=str(tmp_path))) / "policy" / "last"
    path = folder / "policy.json"
    info = json.loads(path.read_text())
    for wrong in (value, False):
        path.write_text(json.dumps(info | {"norm_obs": wrong}))
        with pytest.raises(BadPolicy):
            load_policy(folder)
