"""Policies with a memory: gradients through chunks, states that follow the episodes, and everything that keeps them."""

import functools
import json
import math

import numpy as np
import pytest
import torch

from ppo import config, ppo
from ppo.architecture import Architecture
from ppo.build import build_training
from ppo.evaluate import evaluate, play_share
from ppo.policy import BadPolicy, load_policy
from ppo.recurrent import LSTM, MEMORIES, LayerNormLSTM
from ppo.run import train
from scripts import export
from tests.conftest import fast_only
from tests.test_train import assert_same
from tests.test_train import rows as rows_of
from utils import mpi

SMALL = {
    "env": "Memory-v0",
    "delay": 5,
    "num_envs": 6,
    "steps_per_epoch": 6 * 32,
    "minibatch_size": 6 * 16,
    "lstm_units": 12,
    "chunk_steps": 8,
    "chunk_size": 40,
    "train_pi_iters": 2,
    "train_v_iters": 3,
}
KINDS = pytest.mark.parametrize("kind", ["lstm", "lnlstm"])


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


def lstm_by_hand(memory, x, state, first):
    """One step after the other, in torch's order of the gates."""
    weights = memory.lstm
    h, c = state.chunk(2, dim=1)
    out = []
    for t in range(x.shape[1]):
        keep = (~first[:, t]).double()[:, None]
        h, c = h * keep, c * keep
        sums = x[:, t] @ weights.weight_ih_l0.T + weights.bias_ih_l0 + h @ weights.weight_hh_l0.T + weights.bias_hh_l0
        i, f, g, o = sums.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out, 1), torch.cat([h, c], 1)


def lnlstm_by_hand(memory, x, state, first):
    """The same with each sum shifted and scaled to mean 0 and variance 1 before gain and bias."""

    def norm(z, layer):
        spread = ((z - z.mean(1, keepdim=True)) ** 2).mean(1, keepdim=True)
        return (z - z.mean(1, keepdim=True)) / (spread + 1e-5).sqrt() * layer.weight + layer.bias

    h, c = state.chunk(2, dim=1)
    out = []
    for t in range(x.shape[1]):
        keep = (~first[:, t]).double()[:, None]
        h, c = h * keep, c * keep
        sums = norm(x[:, t] @ memory.weight_x.T, memory.norm_x) + norm(h @ memory.weight_h.T, memory.norm_h)
        i, f, g, o = (sums + memory.bias).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm(c, memory.norm_c).tanh()
        out.append(h)
    return torch.stack(out, 1), torch.cat([h, c], 1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["no-end", "ends", "all-ends"])
@pytest.mark.parametrize(("kind", "by_hand"), [(LSTM, lstm_by_hand), (LayerNormLSTM, lnlstm_by_hand)])
def test_a_chunk_equals_its_steps(kind, by_hand, share):
    """Outputs, last state and every gradient, in float64, with episodes that begin anywhere in the chunk."""
    torch.manual_seed(0)
    memory = kind(3, 5).double()
    memory.initialise("orthogonal", torch.Generator().manual_seed(1))
    for p in memory.parameters():
        p.data += 0.1 * torch.randn_like(p)
    first, found = torch.rand(6, 9) < share, []
    x, state = torch.randn(6, 9, 3).double().requires_grad_(), torch.randn(6, 10).double().requires_grad_()
    for through in (memory, functools.partial(by_hand, memory)):
        out, after = through(x, state, first)
        loss = (out.sin() * torch.arange(5)).sum() + after.cos().sum()
        found.append([out, after, *torch.autograd.grad(loss, [x, state, *memory.parameters()])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@KINDS
def test_a_new_memory_keeps(kind):
    """A third of it after as many steps as it is trained through, with both initial weights; other biases are zero."""
    for init in ("orthogonal", "xavier"):
        ac = Architecture("mlp", policy=kind, lstm_units=4).build((3,), 2, init, seed=0, chunk_steps=30)
        biases = [p for name, p in ac.memories[0].named_parameters() if "bias" in name and "norm" not in name]
        total = sum(biases)
        assert total[:4].eq(0).all() and total[8:].eq(0).all()
        assert total[4:8].sigmoid().pow(30).tolist() == pytest.approx([0.374] * 4, abs=0.001)
    cfg = config.build(**SMALL, policy=kind)
    run_ = build_training(cfg, mpi.Comm())
    assert run_.ac.memories[1].forget_bias == pytest.approx(math.log(cfg.chunk_steps))
    run_.close()


@KINDS
@pytest.mark.parametrize("shared", [False, True])
def test_the_update_sees_what_acted(kind, shared, wing):
    """Before the first step of every epoch, going through chunks from their stored states gives the log-probabilities
    and values that were stored while collecting: episodes that end anywhere and states from earlier epochs included."""
    run_ = build_training(config.build(**SMALL, policy=kind, shared=shared), mpi.Comm())
    for epoch in range(3):
        run_.epoch = epoch
        ppo.collect(run_)
        data, _ = ppo.advantages(run_)
        batch = {name: ppo.to_device(run_, a).flatten(0, 1) for name, a in data.items()}
        seen = []
        for rows in ppo.minibatches(run_, 0):
            chunks = run_.nets.prepare(batch["obs"], rows)
            logp = ppo.core.log_prob_and_entropy(run_.nets.logits(chunks), batch["act"][rows])[0]
            torch.testing.assert_close(logp, batch["logp"][rows], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(run_.nets.value(chunks), batch["val"][rows], rtol=1e-4, atol=1e-5)
            t, env = rows.view(-1, 8) // 6, rows.view(-1, 8) % 6
            assert (env == env[:, :1]).all() and (t == t[:, :1] + torch.arange(8)).all() and (t[:, 0] % 8 == 0).all()
            assert torch.bincount(env[:, 0]).tolist() == [2] * 6
            seen += rows.tolist()
        assert sorted(seen) == list(range(192))
        ppo.update(run_, data)
    run_.close()


@KINDS
def test_the_value_after_a_truncation_uses_the_state_after_the_last_step(kind, monkeypatch):
    """It is that of the final observation as the next step of the episode that was cut, by hand and step by step."""
    run_ = build_training(config.build(**SMALL | {"max_episode_steps": 4}, policy=kind), mpi.Comm())
    memory, body, head = run_.ac.memories[1], run_.ac.bodies[1], run_.ac.v[-1]
    begins, found, finals = torch.zeros(1, 24), [], []
    finish, step = run_.buf.finish_path, run_.env.step

    def noted(i, last):
        found.append((run_.buf.ptr, i, last))
        finish(i, last)

    def watched(act):
        out = step(act)
        finals.append(out[4].get("final_obs", np.zeros((6, 5), np.float32)).copy())
        return out

    monkeypatch.setattr(run_.buf, "finish_path", noted)
    monkeypatch.setattr(run_.env, "step", watched)
    ppo.collect(run_)
    for end, i, last in found:
        assert end % 4 == 0 or end == 32
        path = torch.from_numpy(run_.buf.obs[end - 4 : end, i])
        obs = torch.cat([path, torch.from_numpy(finals[end - 1][None, i])])[None]
        if end < 32:
            out, _ = memory(body(obs), begins, torch.zeros(1, 5, dtype=torch.bool))
            assert last == pytest.approx(head(out[0, -1]).item(), abs=1e-6)
    assert len(found) == 6 * 8
    run_.close()


@pytest.mark.parametrize(
    "settings",
    [
        SMALL | {"policy": "lstm", "delay": 20, "eval_every": 2, "eval_episodes": 4},
        SMALL | {"policy": "lnlstm", "shared": True},
        {
            "policy": "lstm",
            "lstm_units": 16,
            "num_envs": 2,
            "steps_per_epoch": 64,
            "minibatch_size": 32,
            "start_frames": 9,
            "max_episode_steps": 50,
        },
    ],
    ids=["lstm", "lnlstm-shared", "mario"],
)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, settings, wing):
    """What running episodes remember is in the checkpoint: two epochs and two more equal four in one go, to the bit."""
    settings = settings | {
        "train_pi_iters": 1,
        "train_v_iters": 1,
        "save_every": 2,
        "anneal_lr": False,
        "anneal_clip": False,
        "anneal_ent": False,
    }
    whole = train(config.build(**settings, epochs=4, data_dir=str(tmp_path / "whole")))
    train(config.build(**settings, epochs=2, data_dir=str(tmp_path / "cut")))
    assert_same(whole, train(config.build(**settings, epochs=4, data_dir=str(tmp_path / "cut")), resume=True))


def test_an_interrupted_collection_saves_the_state_of_its_beginning():
    """A signal in the middle of an epoch: what is saved is what the epoch began with."""
    run_ = build_training(config.build(**SMALL | {"steps_per_epoch": 6 * 64}, policy="lstm"), mpi.Comm())
    ppo.collect(run_)
    ppo.update(run_, ppo.advantages(run_)[0])
    run_.epoch, before, saved = 1, run_.nets.get_state(), []
    assert before.any() and np.array_equal(before, run_.memory)

    class Signals:
        received = 0

    run_.signals, step = Signals(), run_.nets.step

    def interrupt(obs):
        Signals.received = 2
        return step(obs)

    run_.nets.step = interrupt
    with pytest.raises(ppo.Interrupted):
        ppo.collect(run_, lambda training, now: saved.append(training.memory.copy()))
    assert np.array_equal(saved[0], before) and not np.array_equal(run_.nets.get_state(), before)
    run_.close()


@KINDS
def test_a_policy_acts_as_in_training(tmp_path, kind):
    """With the state that it was given, reset at ends: the same probabilities and values, from the file alone."""
    run = train(config.build(**SMALL | {"epochs": 2, "data_dir": str(tmp_path)}, policy=kind))
    policy = load_policy(run / "policy" / "last")
    assert policy.info["policy"] == kind and policy.info["lstm_units"] == 12
    run_ = build_training(config.build(**SMALL, policy=kind, precision="float32"), mpi.Comm())
    run_.ac.load_state_dict(policy.ac.state_dict())
    state = policy.start(6)
    with pytest.raises(ValueError, match="state"):
        policy.act(run_.obs)
    for _ in range(40):
        logits, val = run_.nets.step(torch.from_numpy(run_.obs))
        probs, value = policy.look(run_.obs, state)
        np.testing.assert_allclose(probs, logits.softmax(-1).numpy(), atol=1e-6)
        np.testing.assert_allclose(value, val.numpy(), atol=1e-6)
        act = policy.act(run_.obs, None, state)
        run_.obs, _, terminated, truncated, _ = run_.env.step(act)
        state[terminated | truncated] = 0.0
        run_.nets.forget(terminated | truncated)
        assert np.allclose(state, run_.nets.get_state(), atol=1e-6)
    run_.close()


def test_a_policy_is_evaluated_exported_and_started_from(tmp_path, capsys):
    """Sharing environments out changes nothing, the exported actor plays the same, another kind is refused."""
    settings = SMALL | {"epochs": 1, "data_dir": str(tmp_path), "policy": "lstm"}
    run = train(config.build(**settings))
    folder = run / "policy" / "last"
    together = play_share(load_policy(folder), "Memory-v0", {"delay": 5}, range(8), [2] * 8, 3, False)
    halves = (range(4), range(4, 8))
    apart = [play_share(load_policy(folder), "Memory-v0", {"delay": 5}, part, [2] * 4, 3, False) for part in halves]
    assert together == apart[0] + apart[1]
    assert export.main([str(run), "--out", str(tmp_path / "out"), "--check-steps", "80"]) == 0
    assert "same actions in 80 of 80 decisions" in capsys.readouterr().out
    assert not load_policy(tmp_path / "out").has_value
    assert evaluate(tmp_path / "out", 6, seed=1) == evaluate(folder, 6, seed=1)
    train(config.build(**settings, exp_name="two", init_from=str(run)))
    with pytest.raises(ValueError, match="init-from"):
        train(config.build(**settings | {"policy": "lnlstm"}, exp_name="three", init_from=str(run)))


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "gru"},
        {"policy": ["lstm"]},
        {"policy": "lnlstm"},
        {"policy": "feedforward"},
        {"lstm_units": 0},
        {"lstm_units": 13},
        {"lstm_units": 10**9},
        {"lstm_units": True},
        {"lstm_units": "12"},
    ],
)
def test_a_file_that_says_otherwise_is_refused(tmp_path, changes):
    """Kinds, sizes and tensors must fit."""
    run = train(config.build(**SMALL | {"epochs": 1, "data_dir": str(tmp_path), "policy": "lstm"}))
    path = run / "policy" / "last" / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BadPolicy):
        load_policy(path.parent)


@fast_only
def test_bodies_in_bfloat16():
    """With ppo.compute's copies below the memory, outputs and gradients stay close to those of float32."""
    settings = {"num_envs": 2, "steps_per_epoch": 64, "minibatch_size": 64, "policy": "lstm", "lstm_units": 32}
    found = []
    for precision in ("float32", "bfloat16"):
        run_ = build_training(config.build(**settings, precision=precision), mpi.Comm())
        run_.nets.refresh()
        obs = torch.from_numpy(np.random.default_rng(0).integers(256, size=(64, 4, 84, 84), dtype=np.uint8))
        obs = obs.contiguous(memory_format=torch.channels_last)
        for learner in run_.learners:
            learner.optimiser.zero_gradient()
        chunks = run_.nets.prepare(obs, torch.arange(64).view(32, 2).T.reshape(-1))
        (run_.nets.logits(chunks).log_softmax(-1)[:, 0].sum() + run_.nets.value(chunks).square().sum()).backward()
        found.append([run_.nets.value(chunks).detach(), *(p.grad.clone() for p in run_.ac.parameters())])
        run_.close()
    for exact, low in zip(*found, strict=True):
        assert torch.nn.functional.cosine_similarity(low.flatten(), exact.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("wrong", [{"chunk_steps": 5}, {"chunk_size": 12}, {"minibatch_size": 6 * 4}])
def test_sizes_must_hold_whole_chunks(wrong):
    """Of an epoch, a minibatch and what passes at once; without a memory nothing of it matters."""
    with pytest.raises(ValueError, match="chunk-steps must be a divisor"):
        config.build(**SMALL | {"policy": "lstm"} | wrong)
    assert set(MEMORIES) == {"lstm", "lnlstm"} and config.build(**SMALL | wrong).policy == "feedforward"


@pytest.mark.slow
@KINDS
def test_what_was_seen_thirty_steps_ago_is_learned(tmp_path, kind):
    """Memory-v0 with its preset, in 158,720 decisions; a policy of the present alone earns a quarter."""
    folder = train(config.build(env="Memory-v0", policy=kind, epochs=40, data_dir=str(tmp_path)))
    assert float(rows_of(folder)[-1]["EpRet100"]) > 0.95
