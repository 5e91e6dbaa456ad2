"""The sweep: which runs there are, what they are called, and what happens when they fail, end or are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ppo.config import build
from ppo.run import train
from scripts import sweep
from tests.conftest import kill_marked, marked_processes

FAKE = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))


def run(argv: list[str]) -> int:
    return sweep.main(argv, command=FAKE, check=lambda words: None)


def starts(root: Path, name: str, seed: int = 0) -> int:
    return len((root / name / f"{name}_s{seed}" / "starts.txt").read_text().splitlines())


def test_several_values_make_a_grid_named_by_what_varies():
    words = "--env CartPole-v1 --pi-lr 1e-4 3e-4 --ent-coef 0 0.01 --gamma 0.98 --seed 0 1 2"
    jobs = sweep.grid(sweep.split_flags(words.split()))
    assert len(jobs) == 12
    assert [job.name for job in jobs[::3]] == [
        "ppo_cartpole-v1_pi-lr1e-4_ent-coef0",
        "ppo_cartpole-v1_pi-lr1e-4_ent-coef0.01",
        "ppo_cartpole-v1_pi-lr3e-4_ent-coef0",
        "ppo_cartpole-v1_pi-lr3e-4_ent-coef0.01",
    ]
    assert jobs[-1].folder == Path("data") / jobs[-1].name / f"{jobs[-1].name}_s2"
    flags = f"--env CartPole-v1 --gamma 0.98 --pi-lr 1e-4 --ent-coef 0 --exp-name {jobs[0].name} --seed 0 --resume"
    assert jobs[0].arguments() == flags.split()


def test_names_are_safe_folders_and_booleans_become_switches():
    jobs = sweep.grid(sweep.split_flags(["--exp-name", "x", "--anneal-lr", "true", "false", "--reward", "a/../b:c"]))
    assert [job.name for job in jobs] == ["x_anneal-lrtrue", "x_anneal-lrfalse"]
    assert "--anneal-lr" in jobs[0].arguments() and "--no-anneal-lr" in jobs[1].arguments()
    jobs = sweep.grid(sweep.split_flags(["--reward", "../../etc", "-1"]))
    assert [job.folder.parent.parent for job in jobs] == [Path("data")] * 2
    assert all("/" not in job.name for job in jobs)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "nothing is varied"),
        (["3e-4"], "'3e-4' is not a flag"),
        (["--lr", "1", "--lr", "2"], "--lr is given twice"),
        (["--lr", "1", "1"], "--lr has a value twice"),
        (["--lr", "1e-3", "0.001"], "--lr has a value twice"),
        (["--resume"], "--resume is not for a sweep"),
        (["--overwrite"], "--overwrite is not for a sweep"),
        (["--exp-name", "a", "b"], "--exp-name takes one value"),
        (["--seed", "-1"], "--seed takes whole numbers"),
        (["--lr", "1/2", "1:2"], "same name"),
        (["--jobs", "0"], "--jobs must be >= 1, got 0"),
        (["--jobs", "x"], "--jobs: invalid int value: 'x'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = run(words)
    except SystemExit as done:
        code = int(done.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and named in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_the_runs_and_starts_none(tmp_path, capsys):
    assert (
        run(
            ["--data-dir", str(tmp_path), "--exp-name", "d", "--pi-lr", "1e-4", "3e-4", "--seed", "0", "1", "--dry-run"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("new ") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_runs_everything_and_again_nothing(tmp_path, capsys):
    argv = [
        "--data-dir",
        str(tmp_path),
        "--exp-name",
        "g",
        "--pi-lr",
        "1e-4",
        "3e-4",
        "--seed",
        "0",
        "1",
        "--jobs",
        "2",
    ]
    assert run(argv) == 0
    out = capsys.readouterr().out
    assert "4 runs: 4 finished" in out and "best so far g_pi-lr3e-4: return 12.5 (n=2)" in out
    plot, compare = (line for line in out.splitlines() if line.startswith("python -m utils."))
    assert str(tmp_path / "g_pi-lr1e-4") in plot and "utils.compare" in compare
    assert run(argv) == 0
    assert [starts(tmp_path, name, s) for name in ("g_pi-lr1e-4", "g_pi-lr3e-4") for s in (0, 1)] == [1, 1, 1, 1]


def test_threads_are_shared_among_jobs_and_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.system, "cores", lambda: 8)
    assert run(["--data-dir", str(tmp_path), "--exp-name", "t", "--cpu", "2", "--seed", "0", "--jobs", "2"]) == 0
    assert (tmp_path / "t" / "t_s0" / "starts.txt").read_text().split()[0] == "2"


def test_one_failed_run_does_not_stop_the_others_and_shows_its_last_lines(tmp_path, capsys):
    argv = ["--data-dir", str(tmp_path), "--exp-name", "f", "--behave", "fail", "good"]
    assert run(argv) == 1
    out = capsys.readouterr().out
    assert "1 failed" in out and "1 finished" in out
    assert "    ValueError: this run fails  [31mon purpose" in out, "the log's last lines, without control characters"
    assert "continues what is missing" in out


def test_the_same_command_again_starts_only_what_failed(tmp_path):
    argv = ["--data-dir", str(tmp_path), "--exp-name", "r", "--behave", "flaky", "good"]
    assert run(argv) == 1
    assert run(argv) == 0
    assert starts(tmp_path, "r_behaveflaky") == 2 and starts(tmp_path, "r_behavegood") == 1


def test_a_finished_run_counts_only_for_the_length_it_had(tmp_path, capsys):
    """It goes on, and that is said: what falls to zero falls along another line then."""
    argv = ["--data-dir", str(tmp_path), "--exp-name", "l", "--epochs"]
    assert run([*argv, "3"]) == 0
    assert "again" not in capsys.readouterr().out
    assert run([*argv, "6"]) == 0
    assert "started l_s0 again: it had finished with another length" in capsys.readouterr().out
    assert starts(tmp_path, "l") == 2
    assert len((tmp_path / "l" / "l_s0" / "progress.txt").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("flags", "finished"),
    [
        ({"anneal-lr": ""}, True),
        ({"anneal-lr": "false"}, False),
        ({"no-anneal-lr": ""}, False),
        ({"norm-rew": ""}, False),
        ({"no-norm-rew": ""}, True),
        ({"pi-lr": "1e-4", "stages": "1-1,1-2", "init": "none"}, True),
        ({"stages": "1-1"}, False),
    ],
)
def test_a_finished_run_counts_only_for_the_settings_it_had(tmp_path, flags, finished):
    """Switches without a value and lists are settings like any other."""
    config = {"anneal_lr": True, "norm_rew": False, "pi_lr": 0.0001, "stages": ["1-1", "1-2"], "init": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "exit.json").write_text(json.dumps({"reason": "finished"}))
    assert sweep.complete(sweep.Job("s", "0", tmp_path, flags)) == finished


def test_a_finished_run_counts_only_for_the_settings_that_no_flag_asks_for(tmp_path, monkeypatch):
    """A flag that was left out now means the default: not what the run had."""
    monkeypatch.chdir(tmp_path)
    words = ["--env", "Echo-v0", "--exp-name", "x", "--seed", "3", "--epochs", "2"]
    train(build(env="Echo-v0", exp_name="x", seed=3, epochs=2, gamma=0.9, keep=4))
    (job,) = sweep.grid(sweep.split_flags(words))
    assert sweep.complete(job) and not sweep.complete(job, sweep.check_arguments(job.arguments()))
    (job,) = sweep.grid(sweep.split_flags([*words, "--gamma", "0.9"]))
    assert sweep.complete(job, sweep.check_arguments(job.arguments()))  # `keep` may differ
    (job,) = sweep.grid(sweep.split_flags([*words[:-2], "--gamma", "0.9"]))
    assert not sweep.complete(job, sweep.check_arguments(job.arguments()))  # fifty epochs, where none are named


def test_the_length_of_a_run_is_that_of_its_whole_phases(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"num_epochs": 3, "total_steps": 640, "steps_per_epoch": 256}))
    (tmp_path / "progress.txt").write_text("Epoch\tAverageEpRet\tTotalEnvInteracts\tTime\n0\t1.0\t256\t1\n")
    assert sweep.progress(sweep.Job("s", "0", tmp_path, {})).share == pytest.approx(1 / 3)


def test_ctrl_c_reaches_each_run_once_and_the_sweep_waits_and_later_resumes(tmp_path):
    code = f"import sys; from scripts import sweep; sys.exit(sweep.main(sys.argv[1:], {FAKE!r}, lambda words: None))"
    argv = [
        "--data-dir",
        str(tmp_path),
        "--exp-name",
        "c",
        "--behave",
        "slow",
        "--epochs",
        "40",
        "--seed",
        "0",
        "1",
        "2",
    ]
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, *argv, "--jobs", "2"]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    logs = [tmp_path / "c" / f"c_s{seed}" / "progress.txt" for seed in (0, 1)]
    for _ in range(200):
        if all(log.exists() and len(log.read_text().splitlines()) > 2 for log in logs):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    assert out.count("stopping: SIGINT to 2 runs") == 1 and "2 stopped" in out and "1 waiting" in out
    for seed in (0, 1):
        assert json.loads((tmp_path / "c" / f"c_s{seed}" / "exit.json").read_text())["reason"] == "interrupted"
    assert not (tmp_path / "c" / "c_s2").exists(), "nothing is started after Ctrl-C"
    rows = len(logs[0].read_text().splitlines())
    assert run([*argv[:4], "--epochs", str(rows + 1), "--seed", "0"]) == 0
    assert starts(tmp_path, "c") == 2 and len(logs[0].read_text().splitlines()) == rows + 2


def test_runs_end_with_a_sweep_that_is_killed(tmp_path):
    """SIGKILL of the sweep: its runs get SIGTERM from the kernel and are gone at once."""
    code = f"import sys; from scripts import sweep; sys.exit(sweep.main(sys.argv[1:], {FAKE!r}, lambda words: None))"
    argv = ["--data-dir", str(tmp_path), "--exp-name", "k", "--behave", "slow", "--epochs", "40", "--seed", "0", "1"]
    mark = f"PPO_TEST_RUN={uuid.uuid4().hex}"
    env = os.environ | {"PYTHONPATH": ".", "PPO_TEST_RUN": mark.partition("=")[2]}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv, "--jobs", "2"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.DEVNULL,
        env=env,
    )
    logs = [tmp_path / "k" / f"k_s{seed}" / "progress.txt" for seed in (0, 1)]
    for _ in range(200):
        if all(log.exists() and len(log.read_text().splitlines()) > 2 for log in logs):
            break
        time.sleep(0.1)
    assert len(marked_processes(mark)) == 3
    process.kill()
    process.wait()
    for _ in range(50):
        if not marked_processes(mark):
            return
        time.sleep(0.1)
    kill_marked(mark)
    raise AssertionError("the runs go on without the sweep")


def test_the_overview_tells_progress_and_time_left(tmp_path):
    jobs = sweep.grid(sweep.split_flags(["--data-dir", str(tmp_path), "--exp-name", "o", "--seed", "0", "1"]))
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / "config.json").write_text(json.dumps({"num_epochs": 10, "steps_per_epoch": 100}))
    (jobs[0].folder / "progress.txt").write_text("Epoch\tAverageEpRet\tTotalEnvInteracts\n0\t1\t100\n1\t7\t200\n2\t")
    jobs[0].state, jobs[0].started = "running", 100.0
    lines = sweep.overview(jobs, now=220.0)  # 20% in two minutes: 8 more for this run, 10 for the one that waits
    assert lines[0] == "2 runs: 1 running, 1 waiting; about 18 min left; best so far o: return 7 (n=1)"
    assert lines[1].split()[:3] == ["[####", "]", "20%"]
