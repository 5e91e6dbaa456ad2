"""Actions of every kind: what is sampled, how likely it was, and that training, resuming and policies work with it."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

import envs
from ppo import actions, config, core
from ppo.networks import ActorCritic, GaussianHead
from ppo.policy import BadPolicy, load_policy, save_policy
from ppo.run import train
from scripts import evaluate, export
from tests.conftest import run
from tests.test_train import assert_same

PENDULUM = {
    "env": "Pendulum-v1",
    "num_envs": 4,
    "steps_per_epoch": 256,
    "minibatch_size": 64,
    "max_episode_steps": 50,
    "train_pi_iters": 2,
    "train_v_iters": 2,
    "anneal_lr": False,
    "anneal_clip": False,
}
LEVERS = PENDULUM | {"env": "tests.tasks:Levers-v0", "max_episode_steps": None}

GAUSSIAN = torch.tensor([[0.5, -1.0, math.log(0.5), math.log(2.0)]])  # means 0.5 and -1, std 0.5 and 2


def test_gaussian_log_probability_and_entropy_by_hand():
    """One std from the mean: log p = -1/2 - log std - log(2 pi) / 2; entropy log std + log(2 pi e) / 2; sums over A."""
    dist = core.Gaussian(2)
    logp, entropy = dist.log_prob_and_entropy(GAUSSIAN, torch.tensor([[1.0, -3.0]]))
    assert logp.item() == pytest.approx(-1 - math.log(0.5) - math.log(2.0) - math.log(2 * math.pi))
    assert entropy.item() == pytest.approx(math.log(2 * math.pi * math.e) + math.log(0.5) + math.log(2.0))
    assert torch.equal(dist.mode(GAUSSIAN), torch.tensor([[0.5, -1.0]]))


def test_gaussian_actions_follow_the_uniform_numbers():
    """act = mean + std Phi^-1(u): the median at 1/2, one std at 0.8413; the ends of the uniform numbers are finite."""
    uniform = torch.tensor([[0.5, 0.8413447], [0.0, 1 - 2.0**-24]])
    act, _ = core.Gaussian(2).sample(GAUSSIAN.expand(2, -1), uniform)
    assert act[0].tolist() == pytest.approx([0.5, 1.0], abs=1e-5)
    assert act.isfinite().all() and act[1, 0] < -1.5 and act[1, 1] > 8


@pytest.mark.parametrize(
    ("dist", "params"),
    [
        (core.Gaussian(2), GAUSSIAN),
        (core.SquashedGaussian(2), GAUSSIAN),
        (core.MultiCategorical([3, 2]), torch.tensor([[0.1, 2.0, -1.0, 0.5, 0.0]])),
        (core.Categorical(3), torch.tensor([[0.1, 2.0, -1.0]])),
    ],
    ids=["box", "squashed", "multi", "discrete"],
)
def test_samples_agree_with_their_probabilities(dist, params):
    """log pi of what was sampled is the same on the update's path, and -E[log pi] is the entropy."""
    uniform = torch.from_numpy(np.random.default_rng(0).random((200_000, dist.num_uniforms), dtype=np.float32))
    params = params.expand(len(uniform), -1)
    act, logp = dist.sample(params, uniform)
    assert act.shape == (len(uniform), *dist.act_shape) and act.numpy().dtype == dist.act_dtype
    again, entropy = dist.log_prob_and_entropy(params, act)
    assert torch.equal(logp, again)
    assert -logp.mean().item() == pytest.approx(entropy[0].item(), abs=0.01)
    assert dist.mode(params).shape == act.shape


def test_multi_discrete_is_the_product_of_its_places():
    """log pi and entropy are sums over the places, whose choices come each from its own uniform number."""
    dist, params = core.MultiCategorical([3, 2]), torch.tensor([[0.1, 2.0, -1.0, 0.5, 0.0]])
    act, logp = dist.sample(params, torch.tensor([[0.999, 0.0]]))
    parts = [core.log_prob_and_entropy(params[:, :3], act[:, 0]), core.log_prob_and_entropy(params[:, 3:], act[:, 1])]
    assert act.tolist() == [[2, 0]] and logp.item() == pytest.approx(sum(p[0].item() for p in parts))
    assert dist.log_prob_and_entropy(params, act)[1].item() == pytest.approx(sum(p[1].item() for p in parts))
    assert dist.mode(params).tolist() == [[1, 0]]


def test_squashed_density_is_one():
    """The density of tanh(x), with the change of variables, integrates to 1 over (-1, 1); far out it is finite."""
    dist, params = core.SquashedGaussian(1), torch.tensor([[0.4, -0.3]])
    y = torch.linspace(-1, 1, 40_001, dtype=torch.float64)[1:-1]
    logp, _ = dist.log_prob_and_entropy(params.double().expand(len(y), -1), torch.atanh(y)[:, None])
    assert torch.trapezoid(logp.exp(), y).item() == pytest.approx(1, abs=1e-3)
    far = dist.log_prob_and_entropy(params, torch.tensor([[40.0]]))[0]
    assert far.isfinite().all() and dist.to_env(torch.tensor([[0.5]])).item() == pytest.approx(math.tanh(0.5))


@pytest.mark.parametrize("dist", [core.Gaussian(2), core.SquashedGaussian(2)], ids=["plain", "squashed"])
def test_gradients_are_those_of_differences(dist):
    """log pi and entropy, squashed or not, have the gradients that small steps of the parameters show."""
    act = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    params = GAUSSIAN.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: dist.log_prob_and_entropy(p, act), (params,))


def test_the_log_std_is_a_parameter_of_the_actor():
    """Independent of the observation, last in the last layer, at its given start; the means start near 0."""
    ac = ActorCritic("mlp", (3,), core.Gaussian(2), "orthogonal", 0, log_std=-0.5)
    assert isinstance(ac.pi[-1], GaussianHead) and list(dict(ac.pi.named_parameters()))[-1] == "4.log_std"
    params, _ = ac.step(torch.randn(5, 3))
    assert (params[:, 2:] == -0.5).all() and params[:, :2].abs().max() < 0.1


@pytest.mark.parametrize(
    ("space", "squash", "said"),
    [
        (Box(-1, 1, (3,), np.float32), True, {"actions": {"box": 3, "squash": True}}),
        (Box(-np.inf, np.inf, (2,), np.float32), False, {"actions": {"box": 2, "squash": False}}),
        (MultiDiscrete([3, 2]), False, {"actions": {"multi_discrete": [3, 2]}}),
        (Discrete(7), False, {"num_actions": 7}),
    ],
)
def test_a_distribution_is_written_down_and_read_back(space, squash, said):
    """What policy.json says of each kind, as JSON, gives the same distribution."""
    dist = actions.of_space(space, squash)
    assert actions.describe(dist) == said
    again = actions.of_info(json.loads(json.dumps(said)))
    assert type(again) is type(dist) and again.num_params == dist.num_params


@pytest.mark.parametrize(
    ("space", "squash", "words"),
    [
        (Box(-2, 2, (1,), np.float32), True, "from -1 to 1"),
        (Discrete(3), True, "only for actions of a Box"),
        (Box(0, 9, (2,), np.int64), False, "cannot be learned"),
        (Dict({"a": Discrete(2)}), False, "cannot be learned"),
        (Box(-1, 1, (0,), np.float32), False, "cannot be learned"),
    ],
)
def test_what_cannot_be_learned_is_named(space, squash, words):
    """One line with the space."""
    with pytest.raises(ValueError, match=words):
        actions.of_space(space, squash)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"num_actions": 0},
        {"num_actions": 2, "actions": {"multi_discrete": [2]}},
        {"actions": {"multi_discrete": []}},
        {"actions": {"multi_discrete": [4000, 4000]}},
        {"actions": {"multi_discrete": [2, 2.0]}},
        {"actions": {"multi_discrete": [True]}},
        {"actions": {"box": 10**9, "squash": False}},
        {"actions": {"box": 2}},
        {"actions": {"box": 2, "squash": 1}},
        {"actions": {"box": 2, "squash": False, "more": 1}},
        {"actions": [2]},
        {"actions": None},
    ],
)
def test_a_strangers_actions_are_refused(said):
    """Unknown kinds, wrong types, sizes out of range: before anything is allocated."""
    with pytest.raises(ValueError, match="actions"):
        actions.of_info(said)


@pytest.mark.parametrize("settings", [PENDULUM, PENDULUM | {"squash": True}, LEVERS], ids=["box", "squashed", "multi"])
def test_resumed_runs_are_exact_and_their_policies_play(tmp_path, settings, wing, capsys):
    """Two epochs and two more equal four in one go; the policy is evaluated, greedily too, and exported."""
    whole = train(config.build(**settings, epochs=4, save_every=2, data_dir=str(tmp_path / "whole")))
    train(config.build(**settings, epochs=2, save_every=2, data_dir=str(tmp_path / "cut")))
    assert_same(whole, train(config.build(**settings, epochs=4, data_dir=str(tmp_path / "cut")), resume=True))
    if wing == "plain":
        return
    where = ["--env", settings["env"]] if ":" in settings["env"] else []
    for flags in ([], ["--deterministic"]):
        assert evaluate.main([str(whole), *where, "--episodes", "4", "--jobs", "1", *flags]) == 0
    if not where:
        assert export.main([str(whole), "--out", str(tmp_path / "half"), "--half", "--check-steps", "40"]) == 0
        assert "same actions in 40 of 40" in capsys.readouterr().out


def test_the_buffer_keeps_what_was_sampled_and_the_environment_clips():
    """Actions far beyond the bounds act like the bounds and stay what they were; bounds are -1 and 1 for the agent."""
    env, own = envs.make_vec("Pendulum-v1", 1, 0), gymnasium.make("Pendulum-v1").unwrapped
    assert env.single_action_space == Box(-1, 1, (1,), np.float32)
    env.reset()
    own.state = env.envs[0].unwrapped.state.copy()
    act = np.array([[-50.0]], np.float32)
    obs = env.step(act)[0]
    assert act.item() == -50.0 and np.allclose(own.step(np.array([-2.0]))[0], obs[0])


def test_levers_are_learned(tmp_path):
    """A MultiDiscrete task is learned to nearly its best return, 16 of 16, from chance, 4 or so."""
    folder = train(config.build(env="tests.tasks:Levers-v0", epochs=40, data_dir=str(tmp_path)))
    last = (folder / "progress.txt").read_text().splitlines()[-1].split("\t")
    assert float(last[1]) > 14


def test_a_policy_for_other_actions_is_refused(tmp_path):
    """Number, kind and squashing must be the environment's and the file's."""
    info = {"env": "Pendulum-v1", "spec": {"options": {}}, "network": "mlp", "obs_shape": [3]}
    dist = core.Gaussian(2)
    save_policy(tmp_path / "p", ActorCritic("mlp", (3,), dist, "xavier", 0), info | actions.describe(dist))
    env = envs.make_vec("Pendulum-v1", 1, 0)
    with pytest.raises(BadPolicy, match=r"has Box.*, the policy 2 numbers"):
        load_policy(tmp_path / "p").check_spaces(env.single_observation_space, env.single_action_space)
    path = tmp_path / "p" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"actions": {"multi_discrete": [2, 2]}}))
    with pytest.raises(BadPolicy, match="tensors are not those of the network"):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--env", "CartPole-v1", "--squash"], ["squash", "Discrete(2)"]),
        (["--env", "tests.tasks:Dials-v0"], ["Dials-v0", "Dict"]),
        (["--env", "tests.tasks:Steps-v0"], ["Steps-v0", "Box(0, 9"]),
    ],
)
def test_the_command_names_what_cannot_be_learned(tmp_path, args, words):
    """One line and code 2, nothing written."""
    done = run(["-m", "ppo.run", *args, "--data-dir", str(tmp_path)])
    assert done.code == 2 and done.err.count("\n") == 1 and all(word in done.err for word in words), done.err
    assert not list(tmp_path.iterdir())
