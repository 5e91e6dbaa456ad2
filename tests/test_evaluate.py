"""Evaluating a policy: fair quotas, repeatable, independent of processes; strangers' files cannot do harm."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ppo.config import build, progress_columns
from ppo.evaluate import PRETRAINED, environment, evaluate, find_players, find_policy
from ppo.networks import ActorCritic
from ppo.policy import BadPolicy, Policy, load_policy, save_policy
from ppo.run import train
from scripts.evaluate import count_and_interval, main, summarise
from tests import made_up
from tests.conftest import run
from utils.folder import Refused
from utils.seeding import evaluation_seed

INFO = {"env": "Echo-v0", "spec": {"options": {}}, "network": "mlp", "obs_shape": [4], "num_actions": 4}
MARIO = {
    "env": "SuperMarioBros-1-1-v0",
    "spec": {"options": {"actions": "right_only"}, "preprocess_version": 1},
    "network": "mario",
    "obs_shape": [4, 84, 84],
    "num_actions": 5,
}


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
        policy.act_in_groups(np.zeros((len(share), 4), np.float32), None, policy.start(len(share)))
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


@pytest.mark.reference
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


def records_of(starts, cleared):
    """Records of different episodes from these starts, the first `cleared` of which reach the flag."""
    return [
        {
            "ep_ret": 1.0,
            "ep_len": 2,
            "flag": i < cleared,
            "cause": "flag" if i < cleared else "pit",
            "start": start,
            "trajectory": i,
            "independent": start,
        }
        for i, start in enumerate(starts)
    ]


def test_clear_rate_has_its_interval():
    """9 of 10 flags from as many starts: Wilson's interval is 59.6% to 98.2%."""
    summary = summarise(records_of(range(10), 9))
    assert summary["clear_rate"] == 0.9 and summary["clear_rate_95"] == pytest.approx([0.596, 0.982], abs=5e-4)
    assert summary["causes"] == {"flag": 9, "pit": 1} and summary["worth"] == 10
    assert count_and_interval(summary) == "9 of 10; 95% interval 59.6% to 98.2%"


def test_the_rate_is_of_what_the_family_calls_its_success():
    """Of a family without flags and causes too: by its own column."""
    records = [record | {"won": i < 7, "heads": 0.5} for i, record in enumerate(records_of(range(10), 9))]
    records = [{name: value for name, value in record.items() if name not in ("flag", "cause")} for record in records]
    summary = summarise(records, made_up.FAMILY.columns)
    assert summary["clear_rate"] == 0.7 and "won" not in summary and summary["heads"]["mean"] == 0.5
    assert "causes" not in summary and count_and_interval(summary).startswith("7 of 10; 95% interval")


def test_episodes_that_share_a_start_count_less():
    """Ten from five starts are worth five; ten from one start have no interval, whatever happened in them."""
    summary = summarise(records_of([0, 1, 2, 3, 4] * 2, 9))
    assert (summary["starts"], summary["trajectories"], summary["worth"]) == (5, 10, 5)
    assert summary["clear_rate_95"] == pytest.approx([0.463, 0.989], abs=5e-4)
    assert "9 of 10, worth 5 independent ones; 95% interval 46.3%" in count_and_interval(summary)
    one = summarise(records_of([0] * 10, 10))
    assert one["clear_rate_95"] is None and count_and_interval(one) == "10 of 10, all from 1 start: no interval"
    for names in ([0] * 10, range(10)):  # in a deterministic game; by chance, in a sticky one
        film = summarise(
            [
                r | {"independent": name, "trajectory": 7}
                for r, name in zip(records_of([0] * 10, 10), names, strict=True)
            ]
        )
        assert film["clear_rate_95"] is None and count_and_interval(film) == "10 of 10: 1 film, no interval"


@pytest.fixture
def mario(tmp_path):
    """A policy for 1-1 with random weights."""
    save_policy(tmp_path / "m", ActorCritic("small", (4, 84, 84), 5, "orthogonal", 0), MARIO | {"network": "small"})
    return tmp_path / "m"


@pytest.mark.parametrize(
    ("flags", "with_options", "distinct"),
    [
        ([], "start_frames 30, start_mode random", "6 starts, 6 trajectories"),
        (["--start-mode", "noop"], "start_frames 30, start_mode noop", "6 starts, 6 trajectories"),
        (["--start-frames", "0"], "start_frames 0", "1 start, 6 trajectories"),
        (["--start-frames", "0", "--deterministic"], "start_frames 0", "1 start, 1 trajectory"),
        (["--start-frames", "0", "--sticky", "0.5"], "sticky 0.5", "1 start, 6 trajectories"),
    ],
)
def test_episodes_start_with_random_buttons_unless_flags_say_otherwise(capsys, mario, flags, with_options, distinct):
    """The family's defaults, every flag of which wins; how many starts and trajectories there were is printed."""
    assert main([str(mario), "--episodes", "6", "--max-episode-steps", "20", "--jobs", "1", *flags]) == 0
    said = capsys.readouterr().out
    assert with_options in said and f"distinct    {distinct}" in said, said
    assert ("1 film" in said) == (distinct == "1 start, 1 trajectory")
    assert ("from 1 start" in said) == (distinct == "1 start, 6 trajectories" and "--sticky" not in flags)


@pytest.mark.reference
def test_what_is_independent_is_told_by_digests(mario):
    """The same start: the same digest, on any emulator; sticky buttons make every episode independent."""
    plain = evaluate(mario, 3, num_envs=2, start_frames=0, max_episode_steps=12)
    assert len({record["start"] for record in plain}) == 1 and all(r["independent"] == r["start"] for r in plain)
    again = evaluate(mario, 3, num_envs=2, start_frames=0, max_episode_steps=12, emulator="nes-py")
    assert plain == again
    sticky = evaluate(mario, 3, num_envs=2, start_frames=0, max_episode_steps=12, sticky=0.5)
    assert sticky[0]["start"] == plain[0]["start"] and len({r["independent"] for r in sticky}) == 3
    random = evaluate(mario, 2, num_envs=2, max_episode_steps=12)
    assert not {record["start"] for record in random} & {plain[0]["start"]}
    waiting = evaluate(mario, 64, start_mode="noop", max_episode_steps=1)
    assert len({r["start"] for r in waiting}) == len({r["start_frames"] for r in waiting}) <= 31


def test_run_folder_and_missing_policy(echo):
    """A run's best or last policy is found below it and below its experiment; nothing found is one clear error."""
    run = echo.parent / "run"
    (run / "policy").mkdir(parents=True)
    echo.rename(run / "policy" / "last")
    assert find_policy(run) == find_policy(str(run)) == run / "policy" / "last"
    with pytest.raises(BadPolicy, match="no policy found"):
        find_policy(str(run / "nowhere"))
    assert find_policy(str(run.parent)) == run / "policy" / "last", "the only run of an experiment"
    shutil.copytree(run, run.parent / "run.old-20260101-000000")
    assert find_policy(str(run.parent)) == run / "policy" / "last", "moved aside by --overwrite"
    shutil.copytree(run, run.parent / "run_s1")
    with pytest.raises(BadPolicy, match=f"expected a run folder, such as {run}, "):
        find_policy(str(run.parent))


def test_a_shipped_policy_is_found_by_the_id_alone():
    """The one that sees pictures where there is a choice; a game that none plays alone is played by those of `near`."""
    assert find_policy("SuperMarioBros-1-1-v0") == PRETRAINED / "SuperMarioBros-1-1-v0"
    for name in ("near/SuperMarioBros-2-1-v0", "atari/BreakoutNoFrameskip-v4", "near/SuperMarioBrosRandomStages-v0"):
        assert find_policy(name) == find_policy(name.partition("/")[2]) == PRETRAINED / name
        assert find_players(name.partition("/")[2]) == (PRETRAINED / name, None)
    assert find_players("SuperMarioBros-v0") == (PRETRAINED / "near", "SuperMarioBros-v0")
    assert find_policy("BreakoutNoFrameskip-v4/") == PRETRAINED / "atari" / "BreakoutNoFrameskip-v4"
    for name in ("*/BreakoutNoFrameskip-v4", "", ".", "..", "/"):
        with pytest.raises(BadPolicy, match="no policy found"):
            find_policy(name)
    with pytest.raises(BadPolicy, match="no policy found"):
        find_players("SuperMarioBros2-v0")  # another game, for which none is shipped
    with pytest.raises(BadPolicy, match="no policy found at /nowhere/at-all"):
        find_players("/nowhere/at-all")


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
        records = evaluate(find_policy(str(folder), row["TotalEnvInteracts"]), 20, seed=evaluation_seed(2))
        assert float(row["EvalEpRet"]) == pytest.approx(np.mean([r["ep_ret"] for r in records]))
        assert float(row["EvalEpLen"]) == pytest.approx(np.mean([r["ep_len"] for r in records]))
    best = max((float(row["EvalEpRet"]), int(row["TotalEnvInteracts"])) for row in (rows[1], rows[3]))
    assert load_policy(folder / "policy" / "best").info["steps"] == best[1]


def test_the_best_policy_is_the_one_that_was_evaluated(tmp_path):
    """In the first epoch, and in the first one after a resume, too: not the weights from before its update."""
    settings = TRAIN | {"eval_episodes": 4, "data_dir": str(tmp_path)}
    folder = train(build(**settings, epochs=1, eval_every=1))
    assert same_weights(folder / "policy" / "best", folder / "policy" / "last")
    (tmp_path / "cut").mkdir()
    cut = settings | {"eval_every": 4, "data_dir": str(tmp_path / "cut"), "pi_lr": 0.01}
    train(build(**cut, epochs=4), on_epoch=lambda row: row["Epoch"] == 2)
    folder = train(build(**cut, epochs=4), resume=True)
    assert same_weights(folder / "policy" / "best", folder / "policy" / "last")


def same_weights(one, other):
    """Return whether two policies have the same weights."""
    first, second = (load_file(path / "policy.safetensors") for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


LONG = """
import time
from ppo.evaluate import evaluate_on_ranks
from ppo.networks import ActorCritic
from ppo.policy import Policy
from tests.test_evaluate import INFO
from utils import mpi
from utils.watchdog import Watchdog
comm = mpi.connect()
policy = Policy(ActorCritic("mlp", (4,), 4, "xavier", 0), INFO)
with Watchdog(comm, 1.0) as dog:
    def alive():
        dog.touch("evaluate")
        time.sleep(0.04)
    records = evaluate_on_ranks(policy, "Echo-v0", {}, 4, 0, 4, True, comm, alive, dog.paused)
if comm.rank == 0:
    print(len(records), "episodes")
"""


@pytest.mark.mpi
def test_a_rank_that_has_nothing_to_play_waits_for_the_others():
    """Four environments are one rank's work; the other waits longer than a stall is allowed to last."""
    done = run(["-c", LONG], ranks=2)
    assert done.code == 0 and done.out == "4 episodes\n", done.out + done.err


def test_an_evaluation_on_mario_counts_flags(tmp_path):
    """Clear rate and furthest x, of how many starts and trajectories, from random buttons as the command has them."""
    settings = {"num_envs": 2, "steps_per_epoch": 16, "minibatch_size": 16, "network": "small", "start_frames": 5}
    cfg = build(**settings, epochs=1, eval_every=1, eval_episodes=2, max_episode_steps=20, data_dir=str(tmp_path))
    row = table_of(train(cfg))[0]
    assert row["EvalClearRate"] == "0.0" and 40 < float(row["EvalXMax"]) < 400 and row["EvalEpLen"] == "20.0"
    assert row["EvalStarts"] == row["EvalTrajectories"] == "2"
    records = evaluate(
        tmp_path / "ppo_supermariobros-1-1-v0" / "ppo_supermariobros-1-1-v0_s0" / "policy" / "last",
        2,
        seed=evaluation_seed(0),
        max_episode_steps=20,
    )
    assert float(row["EvalXMax"]) == np.mean([record["x_max"] for record in records])


def test_a_run_is_evaluated_no_less_disturbed_than_it_trains():
    """The family's disturbance or the run's own, whichever is more, option by option."""
    weak = build(start_frames=5, sticky=0.25).evaluation_options()
    assert (weak["start_frames"], weak["start_mode"], weak["sticky"]) == (30, "random", 0.25)
    assert build(start_mode="random", start_frames=0).evaluation_options()["start_frames"] == 30
    assert build(env="CartPole-v1").evaluation_options() == build(env="CartPole-v1").env_options
    family = replace(made_up.FAMILY, evaluation={"bias": 0.5, "length": 4})
    assert family.disturbed({"bias": 0.75, "length": 2, "quiet": True}) == {"bias": 0.75, "length": 4, "quiet": True}


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
    assert ending["goal"].endswith(f">= 20, over {table_of(folder)[-1]['EvalStarts']} starts")
    assert len(table_of(train(build(**settings, stop_at="EvalEpRet >= 20"), resume=True))) == len(returns)
    assert len(table_of(train(build(**settings | {"epochs": len(returns) + 1}), resume=True))) == len(returns) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stop_at": "EpRet > 3"}, "stop-at"),
        ({"stop_at": "EvalEpRet>=1"}, "eval-every"),
        ({"eval_every": -1}, "eval-every"),
        ({"eval_episodes": 0}, "eval-episodes"),
        ({"stop_at": "ClearRate>=1.2.3"}, "stop-at .* got 'ClearRate>=1.2.3'"),
        ({"stop_at": "KL>=."}, "stop-at"),
        ({"stop_at": "KL<=nan"}, "stop-at"),
        ({"stop_at": "KL<=1e999"}, "stop-at"),
        ({"stop_at": "KL<=\u0663"}, "stop-at"),
        ({"stop_at": "EvalEpRe>=1"}, "such as EvalEpRet"),
        ({"stop_at": "EpRet>=1"}, "such as AverageEpRet, EpRet100, EvalEpRet"),
        ({"stop_at": "Clearate>=1"}, "such as ClearRate"),
        ({"stop_at": "ClearRate>=1", "env": "CartPole-v1"}, "such as LearningRate"),
        ({"stop_at": "zzz>=1", "env": "CartPole-v1"}, "such as AverageEpRet"),
    ],
)
def test_bad_goals_are_refused(settings, said):
    with pytest.raises(ValueError, match=said) as error:
        build(**settings)
    assert "\n" not in str(error.value)


def test_a_goal_that_no_run_can_reach_is_refused_before_anything_is_written(tmp_path):
    """One line, code 2, no folder: a number that is none, a column that there is not."""
    for goal in ("EpRet100>=1.2.3", "Clearate>=1", "EvalHeads>=1"):
        flags = ["--env", "Echo-v0", "--stop-at", goal, "--data-dir", str(tmp_path / "data")]
        done = run(["-m", "ppo.run", *flags])
        assert done.code == 2 and done.err.count("\n") == 1 and "stop-at" in done.err and goal in done.err, done.err
    assert not (tmp_path / "data").exists()


def test_a_goal_of_the_last_hundred_episodes_waits_for_as_many(tmp_path):
    """Echo's episodes are 16 steps long: 8 environments end 32 in an epoch of 512 steps, a hundred in the fourth."""
    settings = {"env": "Echo-v0", "num_envs": 8, "steps_per_epoch": 512, "minibatch_size": 512, "epochs": 9}
    folder = train(build(**settings, stop_at="EpRet100>=-99", data_dir=str(tmp_path)))
    ends = [int(row["EpCount"]) for row in table_of(folder)]
    assert sum(ends) >= 100 > sum(ends[:-1]) and len(ends) > 1


def test_goals_may_name_every_column_of_a_run(tmp_path):
    """With evaluations and without, of a family with columns of its own too."""
    settings = {"env": "tests.made_up:Coin-v0", "epochs": 1, "eval_episodes": 2}
    for every in (0, 1):
        folder = train(build(**settings, eval_every=every, data_dir=str(tmp_path / str(every))))
        names = list(table_of(folder)[0])
        assert set(names) <= set(progress_columns(settings["env"]))
        assert build(**settings, eval_every=every, stop_at=f"{names[-1]}>=.5e3").stop_at == f"{names[-1]}>=.5e3"


def test_a_run_goes_on_with_evaluations_or_without_as_it_began(tmp_path):
    """Begun with or without them: the other is refused by name, nothing changes, whether mismatch is allowed or not."""
    settings = TRAIN | {"epochs": 2, "eval_episodes": 2}
    for first, then in ((0, 1), (1, 0)):
        folder = train(build(**settings, eval_every=first, data_dir=str(tmp_path / str(first))))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for allow in (False, True):
            with pytest.raises(Refused, match=f"eval-every {first}, now {then}"):
                train(
                    build(**settings | {"epochs": 3}, eval_every=then, data_dir=str(tmp_path / str(first))),
                    resume=True,
                    allow_mismatch=allow,
                )
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    again = build(**settings | {"epochs": 4}, eval_every=2, data_dir=str(tmp_path / "1"))
    with pytest.raises(Refused, match="eval_every was 1, now 2"):
        train(again, resume=True)
    rows = table_of(train(again, resume=True, allow_mismatch=True))
    assert [bool(row["EvalEpRet"]) for row in rows] == [True, True, False, True]


@pytest.mark.mpi
def test_ranks_share_an_evaluation(echo, tmp_path):
    """Under mpirun the ranks play, one prints; and in training they find the numbers that one rank finds."""
    whole, ranks = tmp_path / "1.json", tmp_path / "2.json"
    args = [str(echo), "--episodes", "30", "--num-envs", "10"]
    assert main([*args, "--jobs", "1", "--json", str(whole)]) == 0
    done = run(["-m", "scripts.evaluate", *args, "--json", str(ranks)], ranks=2)
    assert done.code == 0 and done.out.count("30 episodes") == 1, done.err
    assert json.loads(whole.read_text()) == json.loads(ranks.read_text())
    settings = TRAIN | {"epochs": 2, "eval_every": 1, "eval_episodes": 9, "save_every": 2, "precision": "float32"}
    one = table_of(train(build(**settings, data_dir=str(tmp_path / "r1"))))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    assert run(["-m", "ppo.run", *flags, "--data-dir", str(tmp_path / "r2")], ranks=2).code == 0
    two = table_of(tmp_path / "r2" / "ppo_echo-v0" / "ppo_echo-v0_s0")
    assert [row["EvalEpLen"] for row in one] == [row["EvalEpLen"] for row in two]
    assert [float(row["EvalEpRet"]) for row in one] == pytest.approx([float(row["EvalEpRet"]) for row in two], abs=2)


ONE_RANK_FAILS = """
import sys
from ppo import evaluate
from scripts.evaluate import main
from utils import mpi

def fail(*args):
    raise ValueError("an environment broke")

rank = mpi.connect().rank
if rank == int(sys.argv[1]):
    evaluate.play_share = fail
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.mpi
@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_environment_that_breaks_on_one_rank_ends_all(rank, echo):
    """The others do not wait for it: one line, code 2."""
    done = run(["-c", ONE_RANK_FAILS, rank, str(echo), "--episodes", "30", "--num-envs", "10"], ranks=2)
    assert done.code == 2 and done.err.count("an environment broke") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--jobs", "0"], "jobs: 0"), (["--json", "x", "--csv", "./x"], "csv: x is the file of --json too")],
)
def test_bad_flags_are_one_line(flags, said, echo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(echo), *flags]) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1 and not (tmp_path / "x").exists()
