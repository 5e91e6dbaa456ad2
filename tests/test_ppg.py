"""PPG: the joint loss by hand, the auxiliary phase, and all that PPO promises."""

import json
import math
import os
import runpy
import signal
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ppo import config, core, ppg, ppo
from ppo.build import build_training
from ppo.policy import load_policy
from ppo.run import train
from ppo.training import Interrupted, NotFinite, check_parameters
from tests.conftest import ROOT, run
from tests.test_train import assert_same, rows
from utils import mpi
from utils.columns import AUXILIARY
from utils.folder import Refused

ECHO = {
    "env": "Echo-v0",
    "algo": "ppg",
    "num_envs": 6,
    "steps_per_epoch": 6 * 32,
    "minibatch_size": 96,
    "train_pi_iters": 2,
    "train_v_iters": 1,
    "phase_epochs": 3,
    "train_aux_iters": 2,
    "aux_minibatch_size": 144,
    "chunk_size": 40,
}
IMAGES = {
    "algo": "ppg",
    "num_envs": 2,
    "steps_per_epoch": 32,
    "minibatch_size": 32,
    "train_pi_iters": 1,
    "train_v_iters": 1,
    "phase_epochs": 2,
    "train_aux_iters": 1,
    "aux_minibatch_size": 16,
    "start_frames": 9,
    "norm_rew": True,
}


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


@pytest.fixture
def collected():
    """A run whose first phase has been collected and kept, with nothing learned."""
    training = build_training(config.build(**ECHO), mpi.Comm())
    yield training, fill(training)
    training.close()


def fill(training):
    """Collect a phase and keep it."""
    phase = ppg.phase_buffer(training)
    for i in range(training.cfg.phase_epochs):
        training.epoch = i
        ppo.collect(training)
        ppg.keep(phase, i, training.buf.get())
    return phase


def test_kl_by_hand():
    """Two actions, 3 to 1 before and even now: 0.75 ln 1.5 + 0.25 ln 0.5. The other way round it differs."""
    old, new = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    dist = core.Categorical(2)
    assert dist.kl(old, new).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert dist.kl(new, old).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2.0))


@pytest.mark.parametrize(
    "dist", [core.Categorical(4), core.MultiCategorical([2, 3]), core.Gaussian(3), core.SquashedGaussian(3)]
)
def test_kl_is_the_mean_of_the_log_ratio(dist):
    """Of each kind of action: E_old[log pi_old - log pi] over many actions drawn from the old policy."""
    torch.manual_seed(0)
    old, new = 0.4 * torch.randn(2, 1, dist.num_params)
    many = 200_000
    act, logp_old = dist.sample(old.expand(many, -1), torch.rand(many, dist.num_uniforms))
    ratios = logp_old - dist.log_prob_and_entropy(new.expand(many, -1), act)[0]
    error = 4 * ratios.std().item() / many**0.5
    assert dist.kl(old, new).item() == pytest.approx(ratios.mean().item(), abs=error) and error < 0.02
    assert dist.kl(old, old).abs().max() < 1e-6


def test_the_joint_loss_by_hand(collected):
    """Half the mean square of V_pi - R, and clone_coef times the mean KL from the policy before, for two samples."""
    training, _ = collected
    head, last = training.heads["aux"][0], training.ac.pi[-1]
    with torch.no_grad():
        for p in (head.weight, last.weight, last.bias):
            p.zero_()
        head.bias.fill_(2.0)  # V_pi is 2 and the policy uniform, whatever is seen
    size, actions = training.cfg.aux_minibatch_size, last.out_features
    params = torch.zeros(2, actions)
    params[0, 0] = math.log(3.0)
    part = {"ret": torch.tensor([5.0, 1.0]), "params": params}
    obs = training.nets.prepare(ppo.to_device(training, training.obs[:2]))
    loss, found = ppg.joint_loss(training, obs, part, ppo.Coefficients(0.2, 0.0, 0.2))
    before = np.array([3.0] + [1.0] * (actions - 1)) / (actions + 2)
    kl = float((before * np.log(before * actions)).sum())
    assert found["LossAux"].item() == pytest.approx((9 + 1) / 2 / size)
    assert found["CloneKL"].item() == pytest.approx(kl / size)
    assert loss.item() == pytest.approx((5 + 1.0 * kl) / size)
    part |= {"ret": training.nets.value(obs).detach() + 2.0}
    loss, _ = ppg.value_loss(training, obs, part, ppo.Coefficients(0.2, 0.0, 0.2))
    assert loss.item() == pytest.approx((4 + 4) / 2 / size)


def first_gradients(training, phase):
    """The gradients of the first auxiliary minibatch: of the actor, of the critic, of the auxiliary head."""
    obs = ppo.to_device(training, phase.obs).flatten(0, 1)
    batch = {"obs": obs, "ret": torch.from_numpy(phase.ret).flatten(), "params": ppg.policy_now(training, obs)}
    rows_ = ppg.minibatches(training, 0)[0]
    ppo.accumulate_gradients(training, training.auxiliary, batch, rows_, ppo.Coefficients(0.2, 0.0, 0.2))
    modules = (training.ac.pi, training.ac.v, training.heads)
    return [torch.cat([p.grad.flatten().clone() for p in module.parameters()]) for module in modules]


def test_cloning_has_no_gradient_before_the_first_step(collected, wing):
    """KL is at its minimum there: the first gradient is that of the value losses alone, whatever the weight."""
    found = []
    for coef in (0.0, 100.0):
        training = build_training(config.build(**ECHO, clone_coef=coef), mpi.Comm())
        found.append(first_gradients(training, collected[1]))
        training.close()
    for without, heavy in zip(*found, strict=True):
        torch.testing.assert_close(heavy, without, rtol=1e-4, atol=1e-4)
        assert without.abs().max() > 1e-3


def test_the_two_losses_share_nothing(collected):
    """The actor's joint loss moves the critic nowhere, and the critic's neither the actor nor its second head."""
    training, phase = collected
    both = first_gradients(training, phase)
    pi, v = training.auxiliary
    for learner, mine in ((pi, (0, 2)), (v, (1,))):
        training.auxiliary = [learner]
        for other in (pi, v):
            other.optimiser.zero_gradient()
        alone = first_gradients(training, phase)
        for i in range(3):
            assert torch.equal(alone[i], both[i] if i in mine else torch.zeros_like(both[i])), (learner.name, i)


def test_every_step_of_a_phase_is_seen_once_in_each_pass(collected):
    """As many from every environment in each minibatch, in another order in another pass and in another phase."""
    training, phase = collected
    orders = []
    for epoch, i in ((2, 0), (2, 1), (5, 0)):
        training.epoch = epoch
        parts = ppg.minibatches(training, i)
        assert all(torch.bincount(part % 6).tolist() == [24] * 6 for part in parts)
        orders.append(torch.cat(parts).tolist())
        assert sorted(orders[-1]) == list(range(phase.ret.size))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_an_auxiliary_phase_learns_values_and_keeps_the_policy(wing):
    """The second head's error falls; cloning holds the policy where it was; Adam's moments are the phase's own."""
    moved = []
    for coef in (0.0, 1.0):
        cfg = config.build(**ECHO | {"train_aux_iters": 6, "pi_lr": 3e-3}, clone_coef=coef)
        training = build_training(cfg, mpi.Comm())
        training.ac.pi[-1].weight.data.mul_(100)  # a policy that follows from the features
        phase = fill(training)
        stats = [ppg.auxiliary_phase(training, phase) for _ in range(2)]
        assert stats[1]["LossAux"] < 0.5 * stats[0]["LossAux"] and stats[1]["LossAuxV"] < stats[0]["LossAuxV"]
        assert [one.optimiser.steps for one in (*training.learners, *training.auxiliary)] == [0, 0, 48, 48]
        moved.append(stats[0]["CloneKL"])
        training.close()
    assert moved[0] > 5 * moved[1] > 0


def test_twins_step_as_two_optimisers_of_torch(wing):
    """They move the same weights, each by its own moments and with the step size that it has."""
    training = build_training(config.build(**ECHO), mpi.Comm())
    weights = training.ac.pi[-1].weight
    expected = weights.detach().clone().requires_grad_()
    ours = training.learners[0].optimiser, training.auxiliary[0].optimiser
    theirs = [torch.optim.Adam([expected], lr, eps=training.cfg.adam_eps) for lr in (0.1, 0.3)]
    for one, lr in zip(ours, (0.1, 0.3), strict=True):
        one.lr = lr
    torch.manual_seed(0)
    for i in (0, 0, 1, 0, 1):
        ours[i].zero_gradient()
        gradient = torch.randn_like(expected)
        weights.grad.copy_(gradient)
        expected.grad = gradient
        ours[i].sum_gradients([ours[i]])
        ours[i].step(1.0, None)
        theirs[i].step()
        torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    training.close()


def test_echo_is_learned(tmp_path, wing):
    """By the rows of a run: the task, a row of the auxiliary columns for each phase and empty cells elsewhere."""
    folder = train(config.build(env="Echo-v0", algo="ppg", phase_epochs=5, epochs=28, data_dir=str(tmp_path)))
    found = rows(folder)
    assert len(found) == 30 and float(found[-1]["AverageEpRet"]) > 28
    for i, row in enumerate(found):
        assert all((row[name] != "") == (i % 5 == 4) for name in AUXILIARY)
    assert all(float(row["CloneKL"]) < 0.02 for row in found[4::5])


@pytest.mark.parametrize(("settings", "kind"), [(ECHO, "plain"), (ECHO, "fast"), (IMAGES, "fast")])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, settings, kind, monkeypatch):
    """Ended after a phase, or stopped by a signal within one: the same weights, moments, rows and best policy."""
    monkeypatch.setenv("PPO_COMPUTE", kind)
    length = settings["phase_epochs"]
    settings = settings | dict.fromkeys(("anneal_lr", "anneal_clip", "anneal_ent"), False)
    whole = train(config.build(**settings, epochs=3 * length, data_dir=str(tmp_path / "whole")))
    train(config.build(**settings, epochs=length, data_dir=str(tmp_path / "cut")))
    cfg = config.build(**settings, epochs=3 * length, data_dir=str(tmp_path / "cut"))

    def interrupt(row):
        if row["Epoch"] == 2 * length:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(cfg, resume=True, on_epoch=interrupt)
    assert len(rows(cfg.run_dir)) == 2 * length + 1
    assert_same(whole, train(cfg, resume=True))


@pytest.mark.parametrize(("epoch", "said"), [(4, "saved as of epoch 3."), (1, "nothing was saved yet.")])
def test_a_stopped_run_says_what_was_saved(tmp_path, capsys, epoch, said):
    """The last phase's end; the number of the epoch is named. Before it there is nothing, and resuming begins anew."""
    cfg = config.build(**ECHO, epochs=9, data_dir=str(tmp_path))
    with pytest.raises(Interrupted):
        train(cfg, on_epoch=lambda row: row["Epoch"] == epoch and os.kill(os.getpid(), signal.SIGTERM))
    assert said in capsys.readouterr().out
    assert len(rows(train(cfg, resume=True))) == 9


def test_a_goal_ends_the_run_at_the_end_of_its_phase(tmp_path):
    """Reached in the phase's first epoch, never again in it: the run ends there, and resumed it stays so."""
    cfg = config.build(**ECHO, epochs=9, data_dir=str(tmp_path), stop_at="TotalEnvInteracts<=192")
    assert len(rows(train(cfg))) == 3 and len(rows(train(cfg, resume=True))) == 3
    assert "TotalEnvInteracts" in json.loads((cfg.run_dir / "exit.json").read_text())["goal"]


@pytest.mark.mpi
def test_the_first_phase_is_the_same_for_any_number_of_ranks(tmp_path):
    """Rows, weights and all moments after the first auxiliary phase agree on one, two and three ranks."""

    def first_phase(ranks):
        out = tmp_path / f"{ranks}.npz"
        program, words = "tests/programs/first_phase.py", [str(out), json.dumps(ECHO)]
        if ranks == 1:
            runpy.run_path(str(ROOT / program))["main"](words)
        else:
            done = run([program, *words], ranks=ranks, timeout=120)
            assert done.code == 0, done.err
        return dict(np.load(out))

    alone = first_phase(1)
    assert alone["2/LossAux"] > 0 and math.isnan(alone["1/LossAux"]) and any(k.startswith("AuxPi/") for k in alone)
    for ranks in (2, 3):
        joined = first_phase(ranks)
        assert joined.keys() == alone.keys()
        for name, expected in alone.items():
            np.testing.assert_allclose(joined[name], expected, rtol=5e-3, atol=1e-4, err_msg=f"{name}, {ranks} ranks")


def test_the_second_head_is_checked_too(collected):
    """As every parameter before an epoch's update."""
    training, _ = collected
    training.heads["aux"][0].bias.data.fill_(math.nan)
    with pytest.raises(NotFinite, match="parameter heads.aux.0.bias"):
        check_parameters(training)


def test_a_policy_keeps_nothing_of_the_second_head(tmp_path):
    """It is the actor and the critic, as PPO's, from which a run of PPO may start."""
    folder = train(config.build(**ECHO, epochs=3, data_dir=str(tmp_path)))
    assert load_policy(folder / "policy" / "last").has_value
    assert load_policy(next((folder / "checkpoints").glob("step_*"))).has_value
    train(config.build(env="Echo-v0", epochs=1, exp_name="two", init_from=str(folder), data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shared": True}, "shared must be off with algo ppg"),
        ({"policy": "lstm", "chunk_steps": 8}, "policy must be feedforward with algo ppg, got 'lstm'"),
        ({"aux_minibatch_size": 100}, "aux-minibatch-size must be a divisor of the steps of a phase"),
        ({"aux_minibatch_size": 64}, "aux-minibatch-size must be a multiple of num-envs"),
        ({"algo": "sac"}, "algo must be one of ppo, ppg"),
        ({"algo": "ppo", "stop_at": "CloneKL<=1"}, "algo must be ppg where stop-at is"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, message):
    """By name; without PPG its sizes matter to nobody."""
    with pytest.raises(ValueError, match=message):
        config.build(**ECHO | wrong)
    assert config.build(**ECHO | wrong | {"algo": "ppo", "stop_at": None}).algo == "ppo"


def test_bad_input_is_one_line():
    """Exit code 2, nothing else."""
    done = run(["-m", "ppo.run", "--env", "Echo-v0", "--algo", "ppg", "--shared"])
    assert done.code == 2 and done.err.count("\n") == 1 and "shared must be off with algo ppg" in done.err


def test_a_run_that_does_not_begin_with_a_phase_is_refused(tmp_path):
    """As one of PPO that was moved on by hand."""
    cfg = config.build(**ECHO, epochs=3, data_dir=str(tmp_path))
    train(cfg)
    with pytest.raises(Refused, match="epoch 3 does not begin such a phase"):
        train(
            config.build(**ECHO | {"phase_epochs": 6}, epochs=6, data_dir=str(tmp_path)),
            resume=True,
            allow_mismatch=True,
        )


def test_the_preset_has_the_papers_numbers():
    """Appendix A: 32 epochs of 65,536 steps, each in 8 minibatches, then 6 passes, each of 16 minibatches per epoch."""
    if find_spec("procgen") is None:
        pytest.skip("procgen is not installed")
    cfg = config.build(env="procgen-bigfish-v0", preset="ppg")
    assert (cfg.num_envs, cfg.steps_per_env, cfg.phase_epochs, cfg.train_aux_iters) == (256, 256, 32, 6)
    assert cfg.steps_per_epoch // cfg.minibatch_size == 8 and cfg.phase_steps // cfg.aux_minibatch_size == 32 * 16
    assert cfg.num_epochs % 32 == 0 and cfg.num_epochs * cfg.steps_per_epoch >= 100_000_000 and cfg.clone_coef == 1.0
