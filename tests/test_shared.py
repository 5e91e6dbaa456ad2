"""One body with two heads and a joint loss: `--shared`."""

import json

import pytest
import torch

from ppo import config, ppo
from ppo.architecture import Architecture
from ppo.build import build_training
from ppo.compute.networks import FastActorCritic
from ppo.networks import ActorCritic, SharedActorCritic
from ppo.policy import BadPolicy, load_policy
from ppo.run import train
from scripts import export
from tests.test_networks import IMAGE, obs_for
from tests.test_train import assert_same, rows
from utils import mpi

ECHO = {
    "env": "Echo-v0",
    "num_envs": 6,
    "steps_per_epoch": 6 * 64,
    "minibatch_size": 96,
    "train_pi_iters": 2,
    "train_v_iters": 3,
    "chunk_size": 40,
}


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


def test_one_body_has_two_heads():
    """The actor is the separate one; all that the critic has of its own is its last layer."""
    shared, apart = (kind("small", IMAGE, 7, "orthogonal", seed=1) for kind in (SharedActorCritic, ActorCritic))
    obs = obs_for("small", 3)
    assert [tuple(p.shape) for p in shared.v.parameters()] == [(1, 256), (1,)]
    assert torch.equal(shared.step(obs)[0], apart.step(obs)[0])
    features = shared.pi[:-1](obs)
    assert torch.equal(shared.step(obs)[1], shared.v(features).squeeze(-1))
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in apart.pi.parameters()) + 257


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("network", ["small", "mlp"])
def test_the_fast_networks_are_the_plain_ones(network, dtype):
    """Outputs and the gradients of both losses through the one body agree: to rounding, or nearly in bfloat16."""
    found = []
    for fast in (False, True):
        ac = SharedActorCritic(network, (4,) if network == "mlp" else IMAGE, 7, "orthogonal", seed=1)
        for p in ac.parameters():
            p.grad = torch.zeros_like(p)
        nets = FastActorCritic(ac, dtype) if fast else ac
        torch.manual_seed(0)
        prepared = nets.prepare(obs_for(network, 5), torch.tensor([3, 0, 3]))
        logits, val = nets.logits(prepared), nets.value(prepared)
        (logits.log_softmax(-1)[:, 0].sum() + val.square().sum()).backward()
        found.append((logits, val, *(p.grad for p in ac.parameters())))
    for plain, ours in zip(*found, strict=True):
        if dtype == torch.float32:
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        else:
            assert torch.nn.functional.cosine_similarity(ours.flatten(), plain.flatten(), dim=0) > 0.99


def test_the_joint_loss_is_the_sum(wing):
    """PPO eq. 9: policy loss, entropy bonus and v_coef times the value loss, one gradient and one step for all."""
    run_ = build_training(config.build(**ECHO, shared=True, v_coef=0.7, ent_coef=0.1), mpi.Comm())
    (learner,) = run_.learners
    ppo.collect(run_)
    batch = {name: ppo.to_device(run_, a).flatten(0, 1) for name, a in run_.buf.get().items()}
    part, now = {name: tensor[:96] for name, tensor in batch.items()}, ppo.Coefficients(0.2, 0.1, 0.2)
    obs = run_.nets.prepare(part["obs"])
    loss, found = learner.loss(run_, obs, part, now)
    loss_pi, _ = ppo.actor_loss(run_, obs, part, now)
    loss_v, _ = ppo.critic_loss(run_, obs, part, now)
    assert set(found) == {"LossPi", "Entropy", "KL", "ClipFrac", "LossV"}
    assert loss.item() == pytest.approx(loss_pi.item() + 0.7 * loss_v.item())
    assert loss_pi.item() == pytest.approx(float(found["LossPi"]) - 0.1 * float(found["Entropy"]))
    run_.close()


def test_echo_is_learned(tmp_path, wing):
    """The joint loss trains both heads: the task is learned, and the values rise from zero to the returns'."""
    settings = {"env": "Echo-v0", "shared": True, "v_coef": 0.01, "norm_rew": False, "epochs": 30}
    folder = train(config.build(**settings, data_dir=str(tmp_path)))
    last = rows(folder)[-1]
    assert float(last["AverageEpRet"]) > 29 and float(last["AverageVVals"]) > 5
    assert last["GradNormV"] == "" and float(last["GradNormPi"]) > 0 and last["StopIter"] == "20"


@pytest.mark.parametrize(
    "settings",
    [
        {"env": "Echo-v0", "num_envs": 4, "steps_per_epoch": 256, "minibatch_size": 64},
        {"num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 32, "start_frames": 9},
    ],
    ids=["echo", "mario"],
)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, settings, wing):
    """Two epochs and two more give what four in one go do, bit for bit."""
    settings = settings | {
        "shared": True,
        "train_pi_iters": 2,
        "save_every": 2,
        "anneal_lr": False,
        "anneal_clip": False,
        "anneal_ent": False,
    }
    whole = train(config.build(**settings, epochs=4, data_dir=str(tmp_path / "whole")))
    train(config.build(**settings, epochs=2, data_dir=str(tmp_path / "cut")))
    assert_same(whole, train(config.build(**settings, epochs=4, data_dir=str(tmp_path / "cut")), resume=True))


def test_a_policy_says_that_it_is_shared(tmp_path):
    """It is loaded strictly by what policy.json says, exported without its critic, and started from."""
    settings = {"env": "Echo-v0", "shared": True, "epochs": 1, "data_dir": str(tmp_path)}
    run = train(config.build(**settings))
    policy = load_policy(run / "policy" / "last")
    assert policy.ac.shared and policy.has_value and policy.info["shared"] is True
    assert export.main([str(run), "--out", str(tmp_path / "out"), "--check-steps", "40"]) == 0
    assert not load_policy(tmp_path / "out").has_value
    train(config.build(**settings, exp_name="two", init_from=str(run)))
    with pytest.raises(ValueError, match="init-from"):
        train(config.build(**settings | {"shared": False}, exp_name="three", init_from=str(run)))
    path = run / "policy" / "last" / "policy.json"
    for wrong in (False, 1, "yes", None):
        path.write_text(json.dumps(policy.info | {"shared": wrong}))
        with pytest.raises(BadPolicy):
            load_policy(path.parent)


def test_an_architecture_shares_on_request_alone():
    """The default stays two networks that share nothing."""
    assert not Architecture("mlp").build((4,), 2, "xavier", 0).shared
    assert not config.build(env="Echo-v0").shared
