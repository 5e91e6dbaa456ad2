"""Training as a whole: it learns, repeats itself, resumes exactly, and refuses what it should."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ppo import config, ppo, recorder
from ppo.build import build_training
from ppo.evaluate import evaluate
from ppo.run import train
from tests.conftest import ROOT, fast_only, finish, run, start
from utils import checkpoint, mpi
from utils.folder import Refused, RunFolder
from utils.logger import EpochLogger

ECHO = {
    "env": "Echo-v0",
    "num_envs": 4,
    "steps_per_epoch": 256,
    "minibatch_size": 64,
    "save_every": 2,
    "train_pi_iters": 4,
    "train_v_iters": 4,
}
TIMES = set(
    "StepsPerSecond Time TimeCollect TimeUpdate TimeWait TimeWaitUpdate TimeLog TimeEvaluate TimeSave MemoryMB".split()
)


def rows(folder):
    lines = [line.split("\t") for line in (Path(folder) / "progress.txt").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def timeless(folder):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(folder)]


def final_state(folder):
    newest, _, rejected = checkpoint.load_newest(Path(folder) / "checkpoints")
    assert newest is not None and not rejected
    return load_file(newest / "state.safetensors")


def best(folder):
    """The hash of the best policy and its epoch, if one was kept."""
    path = Path(folder) / "policy" / "best" / "policy.json"
    return [json.loads(path.read_text())[name] for name in ("sha256", "epoch")] if path.exists() else None


def assert_same(first, second):
    """Same weights, optimisers, environments, log rows and best policy, bit for bit."""
    assert best(first) == best(second)
    one, two = final_state(first), final_state(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert timeless(first) == timeless(second)
    assert (Path(first) / "episodes.csv").read_text() == (Path(second) / "episodes.csv").read_text()


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()


def test_echo_is_learned_in_seconds(tmp_path, wing):
    """Repeating what one sees is learned to almost the best return, 32, from chance, 8."""
    folder = train(config.build(env="Echo-v0", epochs=30, data_dir=str(tmp_path)))
    returns = [float(row["AverageEpRet"]) for row in rows(folder)]
    assert returns[0] < 12 and np.mean(returns[-3:]) > 29


def test_same_seed_same_run_and_another_seed_another(tmp_path):
    """Two runs with one seed are equal bit for bit; another seed differs."""
    folders = [
        train(config.build(**ECHO, epochs=4, seed=s, data_dir=str(tmp_path / d)))
        for s, d in ((1, "a"), (1, "b"), (2, "c"))
    ]
    assert_same(folders[0], folders[1])
    assert timeless(folders[0]) != timeless(folders[2])


@pytest.mark.parametrize(
    "settings",
    [
        ECHO,
        {"env": "CartPole-v1", "num_envs": 4, "steps_per_epoch": 256, "minibatch_size": 64, "save_every": 3},
        {
            "num_envs": 2,
            "steps_per_epoch": 64,
            "minibatch_size": 32,
            "save_every": 3,
            "sticky": 0.1,
            "start_frames": 9,
            "max_episode_steps": 40,
        },
        {"num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 32, "save_every": 3, "emulator": "nes-py"},
    ],
    ids=["echo", "cartpole", "mario", "mario-nes-py"],
)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, settings, wing):
    """Three epochs and three more give the weights, Adam states, environment states and rows of six in one go."""
    once = {"train_pi_iters": 1, "train_v_iters": 1}
    settings = settings | once | dict.fromkeys(("anneal_lr", "anneal_clip", "anneal_ent"), False)
    whole = train(config.build(**settings, epochs=6, data_dir=str(tmp_path / "whole")))
    cut = tmp_path / "cut"
    train(config.build(**settings, epochs=3, data_dir=str(cut)))
    assert_same(whole, train(config.build(**settings, epochs=6, data_dir=str(cut)), resume=True))


@pytest.mark.parametrize(("chunk_size", "error"), [(2, 0.0), (32, 1e-5)], ids=["same-batch", "other-batch"])
def test_ratio_is_one_on_the_first_minibatch(chunk_size, error, wing):
    """Before the first step of an epoch the policy is the one that acted: KL and clipped share are zero (float32).

    Exactly where as many samples pass at once as when it acted; else to the last bits of a matrix product.
    """
    cfg = config.build(num_envs=2, steps_per_epoch=32, minibatch_size=32, chunk_size=chunk_size, precision="float32")
    run_ = build_training(cfg, mpi.Comm())
    ppo.collect(run_)
    batch = {name: ppo.to_device(run_, a).flatten(0, 1) for name, a in run_.buf.get().items()}
    rows_ = ppo.minibatches(run_, 0)[0]
    for chunk in rows_.split(chunk_size):
        logits = run_.nets.logits(run_.nets.prepare(batch["obs"], chunk))
        logp = ppo.core.log_prob_and_entropy(logits, batch["act"][chunk])[0]
        ratio = torch.exp(logp - batch["logp"][chunk]).detach()
        assert (ratio - 1.0).abs().max() <= error
    now = ppo.Coefficients(0.2, 0.01, 0.2)
    sums = ppo.accumulate_gradients(run_, run_.learners, batch, rows_, now)
    assert abs(float(sums["KL"])) < 1e-6 and float(sums["ClipFrac"]) == 0.0
    run_.close()


@pytest.mark.parametrize("emulator", ["native", "nes-py"])
def test_stored_observations_are_copies(emulator):
    """An emulator's picture is a view of its memory: what is stored must not change with the frames that follow."""
    run_ = build_training(
        config.build(num_envs=2, steps_per_epoch=48, minibatch_size=48, emulator=emulator), mpi.Comm()
    )
    ppo.collect(run_)
    obs = run_.buf.get()["obs"]
    assert all((obs[t] != obs[t + 1]).any() for t in range(4, len(obs) - 1))  # Mario may stand still at first
    assert np.array_equal(obs[1:, :, :-1], obs[:-1, :, 1:])  # each picture moves down the stack unchanged
    run_.close()


def test_the_best_policy_is_the_one_that_played_the_best_hundred_episodes(tmp_path):
    """Counted by hand from the log; fewer than a hundred episodes decide nothing, the first of two equals wins. Kept
    are the weights that acted, not those that the update made of them: a run that ends before it has the same."""
    settings = {"env": "Echo-v0", "pi_lr": 3e-2, "anneal_lr": False, "anneal_clip": False}
    folder = train(config.build(**settings, epochs=14, data_dir=str(tmp_path / "whole")))
    episodes = list(csv.DictReader((folder / "episodes.csv").open()))
    means = {}
    for epoch in range(14):
        so_far = [float(e["ep_ret"]) for e in episodes if int(e["epoch"]) <= epoch]
        if len(so_far) >= 100:
            means[epoch] = np.mean(so_far[-100:])
    highest = min(epoch for epoch in means if means[epoch] == max(means.values()))
    assert 1 < len(means) < 14 and highest > min(means) and best(folder)[1] == highest
    before = train(config.build(**settings, epochs=highest, data_dir=str(tmp_path / "before")))
    info = json.loads((before / "policy" / "last" / "policy.json").read_text())
    assert [info["sha256"], info["epoch"]] == best(folder)


def test_the_best_policy_is_written_with_checkpoints_alone(tmp_path, monkeypatch):
    """Not at each of many equal returns, nor of many that grow; one that no checkpoint came for, at the end."""
    written, write = [], recorder.write_policy
    monkeypatch.setattr(
        recorder, "write_policy", lambda folder, *args: (written.append(folder.name), write(folder, *args))
    )
    monkeypatch.setattr(recorder, "RECENT", 1)
    settings = {"env": "Echo-v0", "pi_lr": 3e-2, "epochs": 12, "save_every": 4}
    train(config.build(**settings, data_dir=str(tmp_path)))
    assert written.count("last") == 3 and 1 <= written.count("best") <= 3

    def fails(row):
        raise ValueError("a notebook's")

    with pytest.raises(ValueError, match="notebook"):
        train(config.build(**settings, data_dir=str(tmp_path / "failed")), on_epoch=fails)
    assert best(tmp_path / "failed" / "ppo_echo-v0" / "ppo_echo-v0_s0")[1] == 0


def test_minibatches_take_equal_shares_and_every_step_once():
    """Each minibatch holds the same number of steps of every environment; a pass visits every step exactly once."""
    run_ = build_training(config.build(**ECHO), mpi.Comm())
    seen = ppo.minibatches(run_, 0)
    assert sorted(torch.cat(seen).tolist()) == list(range(256))
    assert all(torch.bincount(r % 4).tolist() == [16] * 4 for r in seen)
    again = ppo.minibatches(run_, 1)
    assert not torch.equal(seen[0], again[0])
    run_.close()


def test_the_entropy_bonus_falls_to_zero_over_the_run(tmp_path, monkeypatch):
    """With anneal_ent, epoch e of E trains with ent_coef (1 - e / E)."""
    seen, accumulate = [], ppo.accumulate_gradients
    monkeypatch.setattr(ppo, "accumulate_gradients", lambda *a: (seen.append(a[4].ent_coef), accumulate(*a))[1])
    once = ECHO | {"minibatch_size": 256, "train_pi_iters": 1, "train_v_iters": 1}
    train(config.build(**once, epochs=4, ent_coef=0.4, anneal_ent=True, data_dir=str(tmp_path)))
    assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_both_clips_fall_to_zero_over_the_run():
    """With anneal_clip, epoch e of E clips ratios by clip_ratio (1 - e / E) and values by v_clip (1 - e / E).

    By hand: V moved by 0.3 from 0 towards 1 counts as 0.1 in the first epoch and as 0.05 in the middle of the run.
    """
    run_ = build_training(config.build(**ECHO, epochs=4, v_loss="clipped", v_clip=0.1, anneal_clip=True), mpi.Comm())
    run_.nets = types.SimpleNamespace(value=lambda obs: torch.tensor([0.3]))
    part = {"ret": torch.ones(1), "val": torch.zeros(1)}
    for epoch, clip_ratio, moved in ((0, 0.2, 0.1), (2, 0.1, 0.05)):
        run_.epoch = epoch
        coef = ppo.begin_epoch(run_)
        loss, _ = ppo.critic_loss(run_, torch.zeros(1), part, coef)
        assert coef.clip_ratio == pytest.approx(clip_ratio)
        assert float(loss) * run_.cfg.minibatch_size == pytest.approx((1 - moved) ** 2)
    run_.close()


def test_collecting_bootstraps_where_an_episode_is_cut_and_not_where_it_terminates():
    """Advantages by hand, from the buffer, with the critic's own V of each final observation: gamma and lambda 1/2.

    Environment 0 is cut in its third step and environment 1 terminates there; both pay 1 in each step.
    """
    settings = {"num_envs": 2, "steps_per_epoch": 6, "minibatch_size": 6, "gamma": 0.5, "lam": 0.5}
    run_ = build_training(config.build(env="tests.tasks:Cut-v0", **settings), mpi.Comm())
    ppo.collect(run_)
    data = run_.buf.get()
    val = data["val"].astype(np.float64)
    final = torch.tensor([[3.0, 0.0]])
    last = float(run_.nets.value(final).detach())
    for i, next_value in ((0, last), (1, 0.0)):
        delta = 1 + 0.5 * np.append(val[1:, i], next_value) - val[:, i]
        by_hand = [delta[0] + delta[1] / 4 + delta[2] / 16, delta[1] + delta[2] / 4, delta[2]]
        np.testing.assert_allclose(data["adv"][:, i], by_hand, rtol=1e-5)
    assert abs(last) > 1e-4
    run_.close()


def test_target_kl_stops_the_actor_and_not_the_critic():
    """A large step size exceeds the target KL: the actor's passes stop, the critic's go on."""
    cfg = config.build(
        **ECHO | {"minibatch_size": 256, "train_pi_iters": 80, "train_v_iters": 80}, pi_lr=0.1, target_kl=0.01
    )
    run_ = build_training(cfg, mpi.Comm())
    ppo.collect(run_)
    learned = ppo.update(run_, run_.buf.get())
    assert 1 <= learned["StopIter"] < 80 and learned["KL"] > 0.015
    pi, v = (learner.optimiser for learner in run_.learners)
    assert v.steps == 80 and pi.steps == learned["StopIter"]
    run_.close()


@pytest.mark.parametrize(("kl", "steps"), [(0.014, [1, 1]), (0.016, [0, 1])])
def test_the_actor_stops_beyond_one_and_a_half_times_the_target_kl(kl, steps):
    run_ = build_training(config.build(**ECHO, target_kl=0.01), mpi.Comm())
    ppo.collect(run_)
    batch = {name: torch.from_numpy(array).flatten(0, 1) for name, array in run_.buf.get().items()}
    ppo.accumulate_gradients(run_, run_.learners, batch, torch.arange(8), ppo.begin_epoch(run_))
    ppo.take_steps(run_, run_.learners, {"KL": kl, "GradNormPi": 1.0, "GradNormV": 1.0})
    assert [learner.steps for learner in run_.learners] == steps
    run_.close()


def test_an_epoch_without_a_finished_episode_logs_empty_cells(tmp_path):
    """D7: no episode ended, so EpCount is 0, the returns are empty, and the run goes on."""
    folder = train(config.build(**ECHO | {"steps_per_epoch": 64}, epochs=2, data_dir=str(tmp_path)))
    assert [(row["EpCount"], row["AverageEpRet"]) for row in rows(folder)][0] == ("0", "")


def test_old_runs_are_never_destroyed(tmp_path):
    """A second start is refused and changes nothing; --overwrite moves the old run aside."""
    cfg = config.build(**ECHO, epochs=1, data_dir=str(tmp_path))
    folder = train(cfg)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(Refused, match="holds a run"):
        train(cfg)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    train(cfg, overwrite=True)
    aside = [p for p in folder.parent.iterdir() if ".old-" in p.name]
    assert len(aside) == 1 and (aside[0] / "progress.txt").read_bytes() == before[folder / "progress.txt"]


def test_two_runs_cannot_write_one_folder(tmp_path):
    """The second is refused by name of the first; when the first is gone, the folder is free."""
    first = RunFolder(tmp_path / "a", resume=False, overwrite=False)
    with pytest.raises(Refused, match="being written by process"):
        RunFolder(tmp_path / "a", resume=True, overwrite=False)
    first.close()
    RunFolder(tmp_path / "a", resume=True, overwrite=False).close()


def test_a_folder_is_refused_before_torch_is_imported(tmp_path):
    """Which takes seconds: a forgotten --resume costs none."""
    (tmp_path / "x" / "x_s0").mkdir(parents=True)
    (tmp_path / "x" / "x_s0" / "config.json").write_text("{}")
    words = ["ppo.run", "--env", "Echo-v0", "--exp-name", "x", "--data-dir", str(tmp_path)]
    code = f"import sys; sys.modules['torch'] = None; from ppo.run import main; main({words[1:]})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "holds a run: --resume continues it" in done.stderr and "torch" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_run_starts_leaves_nothing(tmp_path, number):
    """The folder is held by then, and torch is being imported."""
    data = tmp_path / "data"
    process, mark = start(["-m", "ppo.run", "--env", "Echo-v0", "--exp-name", "x", "--data-dir", str(data)])
    deadline = time.monotonic() + 40
    while not list(data.glob("x/.*.owner")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    done = finish(process, mark)
    assert done.code in (-number, 128 + number) and not data.exists(), (done.code, done.err, list(data.rglob("*")))


def test_resume_refuses_another_experiment(tmp_path):
    """Other settings are named and refused; --allow-mismatch continues and leaves a mark."""
    train(config.build(**ECHO, epochs=2, data_dir=str(tmp_path)))
    other = config.build(**ECHO, epochs=3, gamma=0.5, data_dir=str(tmp_path))
    with pytest.raises(Refused, match="gamma was 0.98, now 0.5"):
        train(other, resume=True)
    folder = train(other, resume=True, allow_mismatch=True)
    assert json.loads((folder / "config.json").read_text())["mismatch"] == {"gamma": [0.98, 0.5]}
    assert len(rows(folder)) == 3
    for more in ({"network": "mlp_wide"}, {"norm_obs": True}, {"shared": True}, {"num_envs": 16}):
        (name, value), *_ = more.items()
        with pytest.raises(
            Refused, match=rf"{name} was .*, now {value!r}.*; its checkpoint does not fit another {name}$"
        ):
            train(config.build(**ECHO | more, epochs=3, data_dir=str(tmp_path)), resume=True, allow_mismatch=True)
    with pytest.raises(Refused, match=r"other settings: env was 'Echo-v0', now 'CartPole-v1'$"):
        train(config.build(env="CartPole-v1", exp_name=folder.parent.name, data_dir=str(tmp_path)), resume=True)


@pytest.mark.parametrize("damage", ["cut", "flip", "manifest", "swap"])
def test_damaged_checkpoint_is_rejected_and_the_one_before_is_used(tmp_path, damage, capsys):
    """A cut or changed file, a missing or foreign manifest is named, and the run resumes from the checkpoint before."""
    settings = ECHO | {"save_every": 1}
    whole = train(config.build(**settings, epochs=4, anneal_lr=False, anneal_clip=False, data_dir=str(tmp_path / "w")))
    folder = train(config.build(**settings, epochs=3, anneal_lr=False, anneal_clip=False, data_dir=str(tmp_path / "c")))
    *_, older, newest = sorted((folder / "checkpoints").iterdir())
    state = newest / "state.safetensors"
    data = state.read_bytes()
    if damage == "cut":
        state.write_bytes(data[:-1])
    elif damage == "flip":
        state.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif damage == "manifest":
        (newest / "MANIFEST.json").unlink()
    else:
        (newest / "MANIFEST.json").write_bytes((older / "MANIFEST.json").read_bytes())
    capsys.readouterr()
    resumed = train(
        config.build(**settings, epochs=4, anneal_lr=False, anneal_clip=False, data_dir=str(tmp_path / "c")),
        resume=True,
    )
    out = capsys.readouterr().out
    assert "checkpoint rejected" in out and newest.name in out and "at epoch 2" in out
    assert_same(whole, resumed)


@pytest.mark.parametrize("where", ["reward", "observation", "gradient"])
def test_nan_stops_the_run_before_it_reaches_a_parameter(tmp_path, where, monkeypatch):
    """A NaN reward, observation or loss raises NotFinite with its place; the parameters stay finite and unchanged."""
    run_ = build_training(config.build(**ECHO), mpi.Comm())
    before = [p.detach().clone() for p in run_.ac.parameters()]
    step = run_.env.step

    def broken(actions):
        obs, rew, *rest = step(actions)
        if where == "reward":
            rew = rew.copy()
            rew[2] = math.nan
        else:
            obs = obs.copy()
            obs[2, 0] = math.inf
        return obs, rew, *rest

    if where == "gradient":
        ppo.collect(run_)
        data = run_.buf.get()
        data["ret"][3, 1] = math.nan
        with pytest.raises(ppo.NotFinite, match=r"not finite in epoch 0.*LossV nan"):
            ppo.update(run_, data)
        assert all(torch.isfinite(p).all() for p in run_.ac.parameters())
    else:
        monkeypatch.setattr(run_.env, "step", broken)
        with pytest.raises(ppo.NotFinite, match=r"environment 2 .* step 0 of epoch 0"):
            ppo.collect(run_)
        assert all(torch.equal(p, q) for p, q in zip(run_.ac.parameters(), before, strict=True))
    run_.close()


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=fast_only)])
def test_a_parameter_that_is_not_finite_stops_the_run(tmp_path, precision, monkeypatch):
    """Even where activations hide it (a negative NaN is 0 after a ReLU by bits); it reaches no file, on one rank."""
    sizes = {"num_envs": 2, "steps_per_epoch": 32, "minibatch_size": 32, "train_pi_iters": 1, "train_v_iters": 1}
    cfg = config.build(**sizes, precision=precision, epochs=3, save_every=1, data_dir=str(tmp_path))
    collect, epochs = ppo.collect, []

    def spoiled(training, *args):
        if training.epoch == 1:
            with torch.no_grad():
                training.ac.pi[1].weight[0] = -math.nan
            training.nets.refresh()
            epochs.append(training.epoch)
        return collect(training, *args)

    monkeypatch.setattr(ppo, "collect", spoiled)
    with pytest.raises(ppo.NotFinite):
        train(cfg)
    assert epochs == [1] and [p.name for p in (cfg.run_dir / "checkpoints").glob("step_*")] == ["step_0000000032"]


def test_a_parameter_that_is_not_finite_is_found_long_before_the_next_checkpoint():
    """Where checksums are compared, before the update spreads it: by its name, on one rank too."""
    run_ = build_training(config.build(**ECHO, epochs=1), mpi.Comm())
    ppo.collect(run_)
    with torch.no_grad():
        run_.ac.v[0].weight[0, 0] = math.inf
    with pytest.raises(ppo.NotFinite, match=r"parameter v\.0\.weight"):
        ppo.update(run_, run_.buf.get())
    run_.close()


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--gamma", "1.5"], ["gamma", "1.5"]),
        (["--env", "SuperMarioBros-9-1-v0"], ["SuperMarioBros-9-1-v0"]),
        (["--minibatch-size", "100"], ["minibatch-size", "100"]),
        (["--num-envs", "zwei"], ["num-envs", "zwei"]),
        (["--epochs", "2", "--total-steps", "9"], ["total-steps"]),
        (["--no-such-flag"], ["no-such-flag"]),
        (["--actions", '[["right","jump"]]'], ["jump"]),
        (["--actions", "[right]"], ["actions", "is not JSON"]),
        (["--exp-name", "../x"], ["exp-name"]),
        (["--cpu", "99"], ["99"]),
        (["--preset", "best"], ["preset"]),
        (["--data-dir", "/proc/nowhere"], ["/proc/nowhere"]),
        (["--env", "CartPole-v1", "--network", "nature"], ["nature", "(4,)"]),
        (["--network", "lstm"], ["network: 'lstm' is a policy with a memory: --policy lstm"]),
        (["--env", "CartPole-v1", "--device", "banana"], ["device", "banana"]),
        (["--env", "tests.tasks:Dials-v0"], ["Dials-v0", "Dict", "Discrete"]),
    ],
)
def test_bad_input_gets_one_clear_line_and_code_2(args, names, tmp_path):
    """One line on stderr that names the argument and the value; nothing is written."""
    done = run(["-m", "ppo.run", "--data-dir", str(tmp_path), *args])
    assert done.code == 2 and done.out == "" and list(tmp_path.iterdir()) == []
    assert done.err.count("\n") == 1 and all(name in done.err for name in names), done.err


@pytest.mark.mpi
def test_bad_input_under_mpirun_is_told_once(tmp_path):
    """Four ranks, one line, and nothing is written."""
    done = run(["-m", "ppo.run", "--gamma", "2", "--data-dir", str(tmp_path)], ranks=4)
    assert list(tmp_path.iterdir()) == []
    assert done.code == 2 and done.err.count("error:") == 1 and done.err.count("\n") == 1, done.err


@pytest.mark.mpi
def test_cpu_flag_starts_the_ranks(tmp_path):
    """`--cpu 2` re-launches itself under mpirun."""
    args = ["-m", "ppo.run", "--env", "Echo-v0", "--epochs", "1", "--cpu", "2", "--data-dir", str(tmp_path)]
    done = run(args)
    assert done.code == 0 and "2 ranks" in done.out, done.err


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_launcher_of_another_mpi_is_refused(variable, tmp_path):
    """Where the launcher says 8 and the library sees 1, the run is refused instead of started eight times."""
    pytest.importorskip("mpi4py")
    done = run(["-m", "ppo.run", "--env", "Echo-v0", "--data-dir", str(tmp_path)], env={variable: "8"})
    assert list(tmp_path.iterdir()) == []
    assert done.code == 2 and "8 processes were started, but each sees 1" in done.err, done.err


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_the_resumed_run_is_exact(tmp_path, number):
    """A signal in the middle of a run saves a checkpoint, ends with the documented code, and resuming is exact."""
    flags = "--env Echo-v0 --epochs 4000 --save-every 1000 --seed 3 --no-anneal-lr --no-anneal-clip"
    args = ["-m", "ppo.run", *flags.split(), "--data-dir", str(tmp_path / "cut")]
    process, mark = start(args)
    progress = tmp_path / "cut" / "ppo_echo-v0" / "ppo_echo-v0_s3" / "progress.txt"
    deadline = time.monotonic() + 40
    while not (progress.exists() and progress.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    done = finish(process, mark)
    assert done.code == {signal.SIGUSR1: 75, signal.SIGINT: 130, signal.SIGTERM: 143}[number], done.err
    assert "--resume" in done.out
    epochs = len(rows(progress.parent)) + 5
    settings = {
        "env": "Echo-v0",
        "seed": 3,
        "epochs": epochs,
        "save_every": 1000,
        "anneal_lr": False,
        "anneal_clip": False,
    }
    resumed = train(config.build(**settings, data_dir=str(tmp_path / "cut")), resume=True)
    whole = train(config.build(**settings, data_dir=str(tmp_path / "whole")))
    assert_same(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole_is_solved(tmp_path, seed):
    """The last policy plays 100 greedy episodes of CartPole-v1 above 475, where Gymnasium calls it solved."""
    folder = train(config.build(env="CartPole-v1", seed=seed, data_dir=str(tmp_path)))
    assert np.mean([r["ep_ret"] for r in evaluate(folder / "policy" / "last", 100, greedy=True)]) > 475


def test_a_file_that_an_older_version_began_keeps_its_columns(tmp_path):
    """In their order; a new column stays away from it; one that there is no value for any more stays empty."""
    (tmp_path / "progress.txt").write_text("Time\tEpoch\n1.5\t0\n")
    logger = EpochLogger(tmp_path, ())
    for name, value in (("Epoch", 1), ("New", 7), ("Time", 2.5)):
        logger.log(name, value)
    assert list(logger.dump().items()) == [("Time", 2.5), ("Epoch", 1)]
    assert (tmp_path / "progress.txt").read_text() == "Time\tEpoch\n1.5\t0\n2.5\t1\n"
    logger.log("Epoch", 2)
    logger.dump()
    assert (tmp_path / "progress.txt").read_text().endswith("\n2.5\t1\n\t2\n")
    logger.close()
