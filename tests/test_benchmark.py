"""The benchmark compares like with like: the plain loop and Stable-Baselines3 do the work that this project does."""

import json
import os

import numpy as np
import pytest
import torch

from ppo import config, ppo
from ppo.build import build_training
from scripts.benchmark import measure, peers, sections
from tests.conftest import fast_only, run
from utils import mpi


def one_minibatch(network):
    """A run in float32, and one minibatch of 64 as the plain loop takes it."""
    cfg = config.build(network=network, precision="float32", num_envs=2, steps_per_epoch=64, minibatch_size=64, seed=3)
    ours = build_training(cfg, mpi.Comm())
    ppo.collect(ours)
    data = ours.buf.get()
    ppo.normalise_advantages(ours, data["adv"])
    return ours, {name: torch.from_numpy(array).flatten(0, 1) for name, array in data.items()}


@fast_only
@pytest.mark.parametrize("network", ["mario", "nature", "small", "impala"])
def test_the_plain_loop_computes_our_losses_and_gradients(network):
    """From the same weights and the same minibatch: the same losses and the same norms of the gradients."""
    ours, batch = one_minibatch(network)
    learner = peers.PlainLearner(ours.ac.pi, ours.ac.v, ours.cfg)
    loss_pi, loss_v = learner.losses(batch)
    loss_pi.backward()
    loss_v.backward()
    now = ppo.Coefficients(ours.cfg.clip_ratio, ours.cfg.ent_coef, ours.cfg.v_clip)
    sums = ppo.accumulate_gradients(ours, ours.learners, batch, torch.arange(64), now)
    stats = {name: float(value) for name, value in sums.items()}
    ours.close()
    assert loss_pi.item() == pytest.approx(stats["LossPi"] - ours.cfg.ent_coef * stats["Entropy"], abs=1e-5)
    assert loss_v.item() == pytest.approx(stats["LossV"], rel=1e-4)
    for plain, trained in zip((learner.pi, learner.v), ours.learners, strict=True):
        norm = torch.cat([p.grad.ravel() for p in plain.parameters()]).norm()
        assert norm.item() == pytest.approx(trained.optimiser.gradient.flat.norm().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("network", "policy"), [("mario", "feedforward"), ("nature", "feedforward"), ("mario", "lstm")]
)
def test_stable_baselines_trains_networks_of_our_size(network, policy):
    """Its actor and critic have as many weights as ours in all, and its environment gives such observations."""
    pytest.importorskip("stable_baselines3" if policy == "feedforward" else "sb3_contrib")
    cfg = config.build(
        **sections.WORK | {"network": network, "num_envs": 2, "steps_per_epoch": 64, "minibatch_size": 32},
        policy=policy,
        lstm_units=64,
    )
    model = peers.stable_baselines(network, True, 2, 32, cfg)
    ours = build_training(cfg, mpi.Comm())
    size = sum(p.numel() for p in ours.ac.parameters())
    ours.close()
    assert sum(p.numel() for p in model.policy.parameters()) == size
    assert (model.n_epochs, model.batch_size, model.n_steps) == (4, 32, 32)
    model.learn(64)
    model.get_env().close()


@pytest.mark.parametrize(("settings", "simulator"), sections.VECTORS, ids=[v["env"] for v, _ in sections.VECTORS])
def test_stable_baselines_does_the_work_of_a_preset_on_vectors(settings, simulator):
    """Networks of our size, our sizes of batches, and rewards normalised where ours are."""
    pytest.importorskip("stable_baselines3")
    pytest.importorskip(simulator)
    from stable_baselines3.common.vec_env import VecNormalize

    cfg = config.build(**settings)
    model = peers.stable_baselines_on_vectors(cfg)
    ours = build_training(cfg, mpi.Comm())
    size = sum(p.numel() for p in ours.ac.parameters())
    ours.close()
    assert sum(p.numel() for p in model.policy.parameters()) == size
    assert model.n_steps * model.n_envs == cfg.steps_per_epoch and model.batch_size == cfg.minibatch_size
    assert isinstance(model.get_env(), VecNormalize) == cfg.norm_rew
    assert (model.n_epochs, model.gamma, model.clip_range(1.0)) == (cfg.train_pi_iters, cfg.gamma, cfg.clip_ratio)


def test_stable_baselines_does_the_work_of_the_preset_for_atari():
    """The same network with two heads, the same stack of pictures and the same passes."""
    pytest.importorskip("stable_baselines3")
    cfg = config.build(**sections.ATARI, shared=True)
    model = peers.stable_baselines_on_atari(cfg)
    ours = build_training(cfg, mpi.Comm())
    size = sum(p.numel() for p in ours.ac.parameters())
    shape = ours.env.single_observation_space.shape
    ours.close()
    assert sum(p.numel() for p in model.policy.parameters()) == size
    assert sorted(model.observation_space.shape) == sorted(shape)
    assert (model.n_steps * model.n_envs, model.batch_size, model.n_epochs) == (1024, 256, 4)
    model.get_env().close()


@pytest.mark.reference
def test_the_usual_wrappers_show_what_our_environment_shows():
    """The same shape, the same reward, and pictures that differ by rounding alone."""
    import envs

    usual, ours = peers.UsualMario(), envs.make_vec("SuperMarioBros-1-1-v0", 1, 0)
    first, expected = usual.reset()[0], ours.reset()[0][0]
    assert first.shape == expected.shape and np.abs(first.astype(int) - expected).max() <= 1
    for action in [1, 2, 4, 4, 4, 2] * 10:
        obs, reward, done, *_ = usual.step(action)
        expected, rewards, terminated, _, infos = ours.step(np.array([action]))
        assert reward == infos["env_reward"][0] and done == terminated[0]
        if done:
            break
        assert np.abs(obs.astype(int) - expected[0]).mean() < 0.5  # the maximum of colours is not that of grays
    ours.close()


def test_a_ratio_above_one_says_that_we_are_better():
    """Whether more or less is better; ours has no ratio of its own."""
    rates = measure.figures("s", "w", "1/s", {"peer": [10.0], "us": [30.0]}, ours="us")
    times = measure.figures("s", "w", "ms", {"peer": [10.0], "us": [5.0]}, ours="us", smaller_is_better=True)
    assert [row.ratio for row in rates] == [3.0, None] and [row.ratio for row in times] == [2.0, None]
    assert "us is 3.00x" in measure.table(rates)


def make_party(values):
    """A party that gives its process's number first, then what it was made with."""
    numbers = iter([float(os.getpid()), *values])
    return lambda: next(numbers)


def broken_party():
    """A party that cannot be made."""
    raise RuntimeError("no such thing")


def test_a_party_apart_has_a_process_of_its_own():
    """It keeps its state from call to call, and says why it failed."""
    with measure.apart(make_party, [2.0, 3.0]) as party:
        assert party() != os.getpid()
        assert (party(), party()) == (2.0, 3.0)
    with measure.apart(broken_party) as party, pytest.raises(ValueError, match="broken_party failed.*no such thing"):
        party()


@pytest.mark.reference
def test_figures_are_printed_and_written(tmp_path):
    """Two quick sections from the command line."""
    out = tmp_path / "b.json"
    flags = ["--networks", "small", "--seconds", "0.01", "--rounds", "1", "--json", str(out)]
    done = run(["-m", "scripts.benchmark", "emulator", "collect", *flags])
    assert done.code == 0, done.err
    assert "this core is" in done.out and "ms/decision" in done.out
    figures = json.loads(out.read_text())["figures"]
    assert {f["section"] for f in figures} == {"Emulator, one core", "Collecting, one core"}
    assert all(f["median"] > 0 for f in figures)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["emulater"], "'emulater'"),
        (["--networks", "resnet"], "'resnet'"),
        (["--rounds", "0"], "rounds"),
        (["--json", "/nowhere/b.json"], "/nowhere"),
    ],
)
def test_bad_input_gets_one_line(flags, said):
    """What is wrong, and exit code 2."""
    done = run(["-m", "scripts.benchmark", *flags])
    assert done.code == 2 and said in done.err and len(done.err.strip().splitlines()) == 1
