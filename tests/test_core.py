"""The maths of PPO against values worked out by hand and against independent computations."""

import math

import numpy as np
import pytest
import torch

from ppo import core
from ppo.buffer import PPOBuffer

# gamma 0.5, lambda 0.5; r = 1, 2, 3; V = 4, 5, 6; V after them = 8.
# delta = 1 + 2.5 - 4 = -0.5; 2 + 3 - 5 = 0; 3 + 4 - 6 = 1.  A2 = 1; A1 = 0 + 0.25 * 1; A0 = -0.5 + 0.25 * 0.25.
HAND = np.array([-0.4375, 0.25, 1.0])


def brute_force_gae(rew, val, last_val, gamma, lam):
    """The double sum of GAE eq. 16, written as it stands there."""
    nxt = [*val[1:], last_val]
    delta = [r + gamma * n - v for r, n, v in zip(rew, nxt, val, strict=True)]
    return [sum((gamma * lam) ** k * delta[t + k] for k in range(len(rew) - t)) for t in range(len(rew))]


def buffer(rew, val, gamma=0.5, lam=0.5, **kwargs):
    """A full buffer of T steps and N environments, nothing finished yet."""
    rew, val = np.atleast_2d(np.asarray(rew, float).T).T, np.atleast_2d(np.asarray(val, float).T).T
    buf = PPOBuffer(len(rew), rew.shape[1], (1,), np.dtype(np.float32), gamma, lam, **kwargs)
    for r, v in zip(rew, val, strict=True):
        buf.store_obs(np.zeros((rew.shape[1], 1), np.float32))
        buf.store(np.zeros(rew.shape[1]), r, v, np.zeros(rew.shape[1]))
    return buf


def test_gae_gives_the_hand_table():
    """GAE of three steps is what pencil and paper give."""
    assert core.gae(np.array([1, 2, 3]), np.array([4, 5, 6]), 8.0, 0.5, 0.5) == pytest.approx(HAND)


@pytest.mark.parametrize(("gamma", "lam"), [(0.9, 0.95), (0.999, 1.0), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_gae_is_the_double_sum(gamma, lam):
    """The filter computes the double sum of the paper."""
    rng = np.random.default_rng(0)
    rew, val = rng.normal(size=40), rng.normal(size=40)
    assert core.gae(rew, val, 0.7, gamma, lam) == pytest.approx(brute_force_gae(rew, val, 0.7, gamma, lam))


def test_lambda_one_gives_returns_minus_values():
    """With lambda 1 the advantage is the discounted return minus V (GAE eq. 18)."""
    rew, val = np.array([1.0, 0.0, 2.0]), np.array([0.3, 0.1, -0.2])
    returns = core.rewards_to_go(rew, 5.0, 0.9)
    assert returns == pytest.approx([1 + 0.81 * 2 + 0.729 * 5, 0.9 * 2 + 0.81 * 5, 2 + 0.9 * 5])
    assert core.gae(rew, val, 5.0, 0.9, 1.0) == pytest.approx(returns - val)


def test_advantages_do_not_leak_from_the_next_episode():
    """An episode's advantages are the same whatever the next episode in the same row brings (D1)."""
    for later in (0.0, 1e6):
        buf = buffer([1, 2, 3, later], [4, 5, 6, 1])
        buf.ptr = 3
        buf.finish_path(0, 8.0)
        buf.ptr = 4
        buf.finish(np.array([0.0]))
        assert buf.get()["adv"][:3, 0] == pytest.approx(HAND)


def test_death_on_the_last_step_of_an_epoch_is_not_bootstrapped():
    """A path that terminated at the very end of the epoch ends with its reward, not with V (D3)."""
    buf = buffer([1, 2, 3], [4, 5, 6])
    buf.finish_path(0, 0.0)
    buf.finish(np.array([1e6]))  # V of the next episode's first observation must not enter
    assert buf.get()["adv"][:, 0] == pytest.approx(brute_force_gae([1, 2, 3], [4, 5, 6], 0.0, 0.5, 0.5))


def test_open_paths_are_bootstrapped_each_with_its_own_value():
    """At the end of the epoch every environment that still runs gets its own V."""
    buf = buffer([[1, 1], [2, 2], [3, 3]], [[4, 4], [5, 5], [6, 6]])
    buf.finish(np.array([8.0, 0.0]))
    adv = buf.get()["adv"]
    assert adv[:, 0] == pytest.approx(HAND)
    assert adv[:, 1] == pytest.approx(brute_force_gae([1, 2, 3], [4, 5, 6], 0.0, 0.5, 0.5))


def test_value_targets():
    """The critic learns A + V, or the discounted rewards if asked to."""
    buf = buffer([1, 2, 3], [4, 5, 6])
    buf.finish(np.array([8.0]))
    assert buf.get()["ret"][:, 0] == pytest.approx(HAND + [4, 5, 6])
    buf = buffer([1, 2, 3], [4, 5, 6], value_target="rewards-to-go")
    buf.finish(np.array([8.0]))
    assert buf.get()["ret"][:, 0] == pytest.approx([1 + 1 + 0.75 + 1, 2 + 1.5 + 2, 3 + 4])


def test_buffer_refuses_to_give_an_unfinished_epoch():
    """Neither a buffer that is not full nor one with an open path is handed out."""
    buf = PPOBuffer(4, 1, (1,), np.dtype(np.float32), 0.5, 0.5)
    for _ in range(3):
        buf.store_obs(np.zeros((1, 1), np.float32))
        buf.store(*(np.zeros(1) for _ in range(4)))
    buf.finish(np.zeros(1))
    with pytest.raises(ValueError, match="full and finished"):
        buf.get()
    buf = buffer([1, 2, 3], [4, 5, 6])
    with pytest.raises(ValueError, match="full and finished"):
        buf.get()
    with pytest.raises(ValueError, match="full"):
        buf.store_obs(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_images_are_copied_and_lie_channels_last(channels):
    """The row equals the observation, is not its memory, and holds the channels of a pixel side by side."""
    buf = PPOBuffer(3, 2, (channels, 5, 7), np.dtype(np.uint8), 0.9, 0.9)
    obs = np.random.default_rng(0).integers(0, 256, (2, channels, 5, 7), dtype=np.uint8)
    kept = obs.copy()
    for t in range(3):
        row = buf.store_obs(obs)
        buf.store(*(np.zeros(2) for _ in range(4)))
        obs[:] = t
        assert np.array_equal(row, kept if t == 0 else np.full_like(kept, t - 1))
        assert row.transpose(0, 2, 3, 1).flags.c_contiguous and not np.shares_memory(row, obs)
    assert np.array_equal(buf.obs[0], kept)


def test_buffer_copies_what_it_observes():
    """The environment may overwrite its observation: the stored one does not change."""
    buf = PPOBuffer(1, 1, (2,), np.dtype(np.uint8), 0.9, 0.9)
    obs = np.array([[1, 2]], np.uint8)
    row = buf.store_obs(obs)
    obs[:] = 9
    assert row.tolist() == [[1, 2]] and buf.obs.dtype == np.uint8


def test_clipped_surrogate_by_hand():
    """min(r A, clip(r) A) for ratios inside and outside of the clip range, good and bad actions."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    adv = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    objective, found = core.clipped_surrogate(ratio.log(), torch.zeros(5), adv, 0.2)
    assert objective.tolist() == pytest.approx([1.2, -1.5, 0.5, -0.8, 2.2])
    assert found.tolist() == pytest.approx(ratio.tolist())


def test_clipped_samples_have_no_gradient():
    """An action that is already more probable than the clip range allows is not pushed further."""
    logp = torch.tensor([math.log(1.5), math.log(1.1)], requires_grad=True)
    core.clipped_surrogate(logp, torch.zeros(2), torch.ones(2), 0.2)[0].sum().backward()
    assert logp.grad is not None and logp.grad.tolist() == pytest.approx([0.0, 1.1])


def test_value_losses_by_hand():
    """MSE, Huber with its bend at 1, and the larger of the plain and the clipped error."""
    val, ret, old = torch.tensor([1.0, 5.0]), torch.tensor([1.5, 2.0]), torch.tensor([1.0, 2.0])
    assert core.value_loss(val, ret, "mse").tolist() == pytest.approx([0.25, 9.0])
    assert core.value_loss(val, ret, "huber").tolist() == pytest.approx([0.125, 2.5])
    near = torch.tensor([0.0])  # V moved from 2 to 0, the target is 0: the clipped value 1.8 is the worse one
    assert core.value_loss(near, near, "clipped", torch.tensor([2.0]), 0.2).tolist() == pytest.approx([3.24])
    assert core.value_loss(val, ret, "clipped", old, 0.2).tolist() == pytest.approx([0.25, 9.0])
    with pytest.raises(ValueError, match="mse, huber or clipped"):
        core.value_loss(val, ret, "mae")


def test_kl_estimate_is_unbiased_and_never_negative():
    """The mean over actions of the old policy is KL(old || new); no sample is negative."""
    old, new = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.3, 0.2])
    samples = core.approx_kl(new.log(), old.log())
    assert (samples >= 0).all()
    assert float((old * samples).sum()) == pytest.approx(float((old * (old / new).log()).sum()), rel=1e-5)


def test_entropy_and_log_probability():
    """A uniform policy over A actions has entropy log A and log-probability -log A."""
    logp, entropy = core.log_prob_and_entropy(torch.zeros(2, 7), torch.tensor([0, 6]))
    assert logp.tolist() == pytest.approx([-math.log(7)] * 2) and entropy.tolist() == pytest.approx([math.log(7)] * 2)


def test_actions_are_drawn_by_inversion_with_the_right_frequencies():
    """Equally spaced numbers give each action its probability, and the log-probability is the action's own."""
    prob = torch.tensor([0.1, 0.0, 0.6, 0.3])
    uniform = (torch.arange(1000) + 0.5) / 1000
    act, logp = core.sample_actions(prob.log().expand(1000, 4), uniform)
    assert torch.bincount(act, minlength=4).tolist() == [100, 0, 600, 300]
    assert torch.allclose(logp.exp(), prob[act])
    last = core.sample_actions(torch.zeros(1, 3), torch.tensor([1.0 - 1e-8]))[0]
    assert last.tolist() == [2]


def test_explained_variance():
    """1 for a perfect critic, 0 for one that is off by a constant and knows nothing else, NaN without variance."""
    ret = np.array([1.0, 2.0, 4.0])
    for val, expected in ((ret, 1.0), (np.full(3, 9.0), 0.0), (-ret, -3.0)):
        err = ret - val
        sums = np.array([3, ret.sum(), (ret**2).sum(), err.sum(), (err**2).sum()])
        assert core.explained_variance(sums) == pytest.approx(expected)
    assert math.isnan(core.explained_variance(np.array([2.0, 2.0, 2.0, 0.0, 0.0])))


def test_anneal():
    """The line starts at the value and ends at zero; switched off it stays."""
    assert (core.anneal(2.0, 0.0, True), core.anneal(2.0, 0.75, True), core.anneal(2.0, 0.75, False)) == (2.0, 0.5, 2.0)
