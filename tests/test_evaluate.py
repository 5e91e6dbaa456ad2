"""Evaluating a policy: fair quotas, repeatable, independent of processes; strangers' files cannot do harm."""

import json
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ppo.config import build
from ppo.evaluate import act_in_groups, environment, evaluate, find_policy
from ppo.networks import ActorCritic
from ppo.policy import BadPolicy, Policy, load_policy, save_policy
from ppo.run import train
from scripts.evaluate import main, summarise
from tests.conftest import run

INFO = {"env": "Echo-v0", "spec": {"options": {}}, "network": "mlp", "obs_shape": [4], "num_actions": 4}
MARIO = {"env": "SuperMarioBros-1-1-v0", "spec": {"options": {"actions": "right_only"}, "preprocess_version": 1},
         "network": "mario", "obs_shape": [4, 84, 84], "num_actions": 5}  # fmt: skip


@pytest.fixture
def echo(tmp_path):
    """A policy for Echo-v0 with random weights."""
    save_policy(tmp_path / "echo", ActorCritic("mlp", (4,), 4, "xavier", 0), INFO)
    return tmp_path / "echo"


def test_same_seed_same_result_whatever_the_number_of_processes(echo):
    """Records are equal for 1 and 2 processes, and differ with the seed."""
    one, two = (evaluate(echo, 23, seed=3, num_envs=9, jobs=jobs) for jobs in (1, 2))
    assert one == two and len(one) == 23
    assert [r["ep_ret"] for r in one] != [r["ep_ret"] for r in evaluate(echo, 23, seed=4, num_envs=9)]
    assert [sum(r["env"] == i for r in one) for i in range(9)] == [3, 3, 3, 3, 3, 2, 2, 2, 2]


def test_the_network_sees_the_same_batches_however_the_work_is_shared(echo, monkeypatch):
    """Logits depend in their last bit on the size of the batch, so that size must not depend on the processes."""
    seen = []
    monkeypatch.setattr(Policy, "act", lambda self, obs, *rest: (seen.append(len(obs)), np.zeros(len(obs), int))[1])
    policy = load_policy(echo)
    sizes = []
    for share in (range(10), range(4), range(4, 10)):
        act_in_groups(policy, np.zeros((len(share), 4), np.float32), None, policy.start(len(share)))
        sizes.append(list(seen))
        seen.clear()
    assert sizes[0] == sizes[1] + sizes[2] == [4, 4, 2]
    for jobs in (1, 2, 3, 9):
        shares = []
        monkeypatch.setattr(
            joblib, "Parallel", lambda n_jobs, s=shares: lambda tasks: [s.append(t[1][3]) or [] for t in tasks]
        )
        evaluate(echo, 20, num_envs=10, jobs=jobs)
        assert [i for share in shares for i in share] == list(range(10))
        assert all(share.start % 4 == 0 and len(share) for share in shares)


def test_greedy_takes_the_most_probable_action(echo):
    """Without random numbers `act` is the argmax of the actor's logits."""
    policy, obs = load_policy(echo), np.eye(4, dtype=np.float32)
    assert policy.act(obs).tolist() == policy.ac.pi(torch.from_numpy(obs)).argmax(-1).tolist()


def test_mario_on_both_emulators_is_the_same_play(tmp_path):
    """A policy plays the same episode, step for step, on the native core and on nes-py."""
    save_policy(tmp_path / "m", ActorCritic("mario", (4, 84, 84), 5, "orthogonal", 0), MARIO)
    native, reference = (
        evaluate(tmp_path / "m", 1, seed=1, emulator=e, max_episode_steps=60) for e in ("native", "nes-py")
    )
    assert native == reference and native[0]["x_max"] > 40


def test_command_prints_and_writes(echo, tmp_path, capsys):
    """The table, the JSON summary and one line per episode."""
    assert (
        main([str(echo), "--episodes", "5", "--json", str(tmp_path / "o.json"), "--csv", str(tmp_path / "o.csv")]) == 0
    )
    assert "5 episodes, sampled actions" in capsys.readouterr().out
    assert json.loads((tmp_path / "o.json").read_text())["episodes"] == 5
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 6


def test_clear_rate_has_its_interval():
    """9 of 10 flags: Wilson's interval is 59.6% to 98.2%."""
    records = [{"ep_ret": 1.0, "ep_len": 2, "flag": i < 9, "cause": "flag" if i < 9 else "pit"} for i in range(10)]
    summary = summarise(records)
    assert summary["clear_rate"] == 0.9 and summary["clear_rate_95"] == pytest.approx([0.596, 0.982], abs=5e-4)
    assert summary["causes"] == {"flag": 9, "pit": 1}


def test_one_greedy_episode_many_times_over_is_said_to_be_one(capsys, tmp_path):
    """Without chance all greedy episodes are equal; sampled ones are not."""
    save_policy(tmp_path / "m", ActorCritic("small", (4, 84, 84), 5, "orthogonal", 0), MARIO | {"network": "small"})
    for flags, noted in ((["--deterministic"], True), ([], False)):
        assert main([str(tmp_path / "m"), "--episodes", "2", "--max-episode-steps", "40", *flags]) == 0
        assert ("the same one" in capsys.readouterr().out) == noted


def test_run_folder_and_missing_policy(echo):
    """A run's best or last policy is found below it; nothing found is one clear error."""
    run = echo.parent / "run"
    (run / "policy").mkdir(parents=True)
    echo.rename(run / "policy" / "last")
    assert find_policy(str(run)) == run / "policy" / "last"
    with pytest.raises(BadPolicy, match="no policy found"):
        find_policy(str(run / "nowhere"))


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def edit(folder, **changes):
    path = folder / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("pickle", lambda f: (f / "policy.safetensors").write_bytes(pickle.dumps(Bomb(f.parent / "marker")))),
        ("pickled json", lambda f: (f / "policy.json").write_bytes(pickle.dumps(Bomb(f.parent / "marker")))),
        ("huge header", lambda f: (f / "policy.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")),
        ("other weights", lambda f: save_file({"x": torch.zeros(3)}, f / "policy.safetensors")),
        ("other shape", lambda f: edit(f, obs_shape=[5])),
        ("huge shape", lambda f: edit(f, obs_shape=[10**6, 10**6])),
        ("negative", lambda f: edit(f, num_actions=-1)),
        ("network", lambda f: edit(f, network="__import__")),
        ("not a table", lambda f: (f / "policy.json").write_text("[1]")),
        ("checksum", lambda f: edit(f, sha256="0" * 64)),
        ("format", lambda f: edit(f, format=99)),
        ("empty", lambda f: (f / "policy.safetensors").write_bytes(b"")),
    ],
)
def test_hostile_policies_are_refused(echo, name, harm):
    """Whatever the files hold, the answer is one ValueError, and no code of theirs runs."""
    harm(echo)
    with pytest.raises(ValueError):
        evaluate(echo, 1)
    assert not (echo.parent / "marker").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "os:system"},
        {"env": 3},
        {"spec": None},
        {"spec": {"options": {"actions": [["jump"]]}, "preprocess_version": 1}},
        {"spec": {"options": {}, "preprocess_version": 2}},
    ],
)
def test_hostile_environment_is_refused(tmp_path, changes):
    """The environment named in a file is checked like one from the command line; other preprocessing is refused."""
    save_policy(tmp_path / "m", ActorCritic("mario", (4, 84, 84), 5, "orthogonal", 0), MARIO | changes)
    with pytest.raises(ValueError):
        environment(load_policy(tmp_path / "m"))


def test_a_file_cannot_name_code_for_the_reward(tmp_path):
    """`reward` in a policy's file is ignored: it could be a module to import."""
    spec = {"options": {"reward": "antigravity:fly", "start_states": "/etc/passwd"}, "preprocess_version": 1}
    save_policy(
        tmp_path / "m", ActorCritic("mario", (4, 84, 84), 7, "orthogonal", 0), MARIO | {"spec": spec, "num_actions": 7}
    )
    assert environment(load_policy(tmp_path / "m"))[1] == {}


TRAIN = {"env": "Echo-v0", "num_envs": 4, "steps_per_epoch": 256, "minibatch_size": 64, "save_every": 1}


def table_of(folder):
    lines = [line.split("\t") for line in (folder / "progress.txt").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_a_run_evaluates_as_the_command_does(tmp_path):
    """Every second epoch; the same numbers as `scripts.evaluate` finds on that checkpoint; the best is kept."""
    folder = train(build(**TRAIN, epochs=4, eval_every=2, eval_episodes=20, seed=2, data_dir=str(tmp_path)))
    rows = table_of(folder)
    assert [bool(row["EvalEpRet"]) for row in rows] == [False, True, False, True]
    for row in (rows[1], rows[3]):
        records = evaluate(find_policy(str(folder), row["TotalEnvInteracts"]), 20, seed=2)
        assert float(row["EvalEpRet"]) == pytest.approx(np.mean([r["ep_ret"] for r in records]))
        assert float(row["EvalEpLen"]) == pytest.approx(np.mean([r["ep_len"] for r in records]))
    best = max((float(row["EvalEpRet"]), int(row["TotalEnvInteracts"])) for row in (rows[1], rows[3]))
    assert load_policy(folder / "policy" / "best").info["steps"] == best[1]


def test_an_evaluation_on_mario_counts_flags(tmp_path):
    """Clear rate and furthest x, from the run's own starts."""
    settings = {"num_envs": 2, "steps_per_epoch": 16, "minibatch_size": 16, "network": "small", "start_frames": 5}
    cfg = build(**settings, epochs=1, eval_every=1, eval_episodes=2, max_episode_steps=20, data_dir=str(tmp_path))
    row = table_of(train(cfg))[0]
    assert row["EvalClearRate"] == "0.0" and 40 < float(row["EvalXMax"]) < 400 and row["EvalEpLen"] == "20.0"


def test_evaluating_changes_nothing_in_the_training(tmp_path):
    """The columns that both runs have are the same."""
    one, two = (train(build(**TRAIN, epochs=3, data_dir=str(tmp_path / str(n)), eval_every=n)) for n in (0, 1))
    for row, other in zip(table_of(one), table_of(two), strict=True):
        assert all(row[name] == other[name] for name in ("AverageEpRet", "LossPi", "LossV", "KL", "GradNormV"))


def test_a_run_stops_where_its_goal_is_reached(tmp_path, capsys):
    """The row that gets there is the last one; resuming with that goal ends at once, with another one goes on."""
    settings = TRAIN | {"epochs": 30, "eval_every": 1, "eval_episodes": 8, "data_dir": str(tmp_path)}
    folder = train(build(**settings, stop_at="EvalEpRet >= 20"))
    returns = [float(row["EvalEpRet"]) for row in table_of(folder)]
    assert returns[-1] >= 20 and max(returns[:-1]) < 20 and len(returns) < 30
    ending = json.loads((folder / "exit.json").read_text())
    assert ending["reason"] == "finished" and ending["goal"].startswith("EvalEpRet 2")
    assert len(table_of(train(build(**settings, stop_at="EvalEpRet >= 20"), resume=True))) == len(returns)
    assert len(table_of(train(build(**settings | {"epochs": len(returns) + 1}), resume=True))) == len(returns) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"stop_at": "EpRet > 3"}, "stop-at"), ({"stop_at": "EvalEpRet>=1"}, "eval-every"),
     ({"eval_every": -1}, "eval-every"), ({"eval_episodes": 0}, "eval-episodes")],
)  # fmt: skip
def test_bad_goals_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**settings)


def test_a_goal_without_a_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="no column 'Clearate', expected one of Epoch"):
        train(build(**TRAIN, epochs=1, stop_at="Clearate>=1", data_dir=str(tmp_path)))


@pytest.mark.mpi
def test_ranks_share_an_evaluation(echo, tmp_path):
    """Under mpirun the ranks play, one prints; and in training they find the numbers that one rank finds."""
    whole, ranks = tmp_path / "1.json", tmp_path / "2.json"
    args = ["-m", "scripts.evaluate", str(echo), "--episodes", "30", "--num-envs", "10"]
    assert run([*args, "--json", str(whole)]).code == 0
    done = run([*args, "--json", str(ranks)], ranks=2)
    assert done.code == 0 and done.out.count("30 episodes") == 1, done.err
    assert json.loads(whole.read_text()) == json.loads(ranks.read_text())
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TRAIN.items()]
    flags += ["--epochs=2", "--eval-every=1", "--eval-episodes=9", "--save-every=2", "--precision=float32"]
    for n in (1, 2):
        assert run(["-m", "ppo.run", *flags, "--data-dir", str(tmp_path / f"r{n}")], ranks=n).code == 0
    one, two = (table_of(tmp_path / f"r{n}" / "ppo_echo-v0" / "ppo_echo-v0_s0") for n in (1, 2))
    assert [row["EvalEpLen"] for row in one] == [row["EvalEpLen"] for row in two]
    assert [float(row["EvalEpRet"]) for row in one] == pytest.approx([float(row["EvalEpRet"]) for row in two], abs=2)
