"""One command from nothing to a proven policy: what it leaves, that it goes on, and what it refuses."""

import json
import signal
from types import SimpleNamespace

import pytest

from envs.mario.ram import Values
from ppo.policy import load_policy
from scripts import solve
from tests.conftest import finish, start
from tests.test_evaluate import table_of
from tests.test_faults import wait_for_rows

STAGE = "SuperMarioBros-1-4-v0"
TINY = (
    "--num-envs 2 --steps-per-epoch 32 --minibatch-size 16 --eval-every 1 --eval-episodes 2 --train-pi-iters 1 "
    "--train-v-iters 1 --max-episode-steps 8"
).split()


def test_it_explores_trains_proves_and_goes_on(tmp_path, capfd, monkeypatch):
    """Lessons, ways, run, policies, cards, figures and curve; again: nothing is done twice; a larger budget goes on."""
    monkeypatch.setattr(solve, "emulators", lambda: ["native"])
    command = [
        STAGE,
        "--lessons",
        "32",
        "--ways",
        "1",
        "--pixels",
        "64",
        "--episodes",
        "2",
        "--data-dir",
        str(tmp_path),
        *TINY,
    ]
    assert solve.main([*command, "--budget", "64"]) == 1  # 8 decisions reach no axe
    said = capfd.readouterr().out
    assert (
        f"{STAGE}: exploration 0: a way of " in said
        and "pupil agrees" in said
        and "0 of 2 cleared after random buttons" in said
    )
    run = tmp_path / "solve_supermariobros-1-4-v0" / "solve_supermariobros-1-4-v0_s0"
    out = run.with_name(run.name + "_policy")
    facts = json.loads((out / "evaluation.json").read_text())
    sampled = [(line["start_frames"], line["sticky"]) for line in facts["lines"] if not line["greedy"]]
    assert sampled == [(30, 0.0), (30, 0.0), (0, 0.25)]
    pictures = run.with_name(run.name + "_pixels")
    assert load_policy(pictures).info["obs_shape"] == [4, 84, 84] and (pictures / "evaluation.json").exists()
    assert (
        load_policy(out).info["env"] == STAGE
        and load_policy(out).info["obs_shape"] == [Values(["near", "place"]).size]
        and load_policy(out).info["temperature"] == 0.5
        and "Decisions: " in (out / "README.md").read_text()
    )
    assert (out / "curve.png").stat().st_size > 1000
    rows = table_of(run)
    assert len(rows) == 2 and 0.0 <= float(rows[-1]["Frontier"]) <= 1.0
    config = json.loads((run / "config.json").read_text())
    taught = run.with_name(run.name + "_lessons_32")
    assert config["init_from"] == str(taught) and load_policy(taught).info["labels"] == 32
    assert config["sticky"] == 0 and config["start_mode"] == "random" and config["stop_at"] == "EvalClearRate>=0.9"
    assert solve.main([*command, "--budget", "64"]) == 1
    said = capfd.readouterr().out
    assert "exploration" not in said and "agrees" not in said and "epoch" not in said and "0 of 2 cleared" in said
    assert solve.main([*command, "--budget", "96"]) == 1
    assert len(table_of(run)) == 3
    (out / "notes.txt").write_text("mine")
    assert solve.main([*command, "--budget", "96", "--episodes", "3"]) == 1
    (old,) = out.parent.glob(f"{out.name}.old-*")
    assert (old / "notes.txt").exists() and (old / "evaluation.json").exists() and (out / "evaluation.json").exists()


def test_lessons_that_were_cut_short_begin_again(tmp_path, monkeypatch, capfd):
    """What a signal left of them is kept aside; it does not count as taught."""
    taught = tmp_path / "lessons"
    monkeypatch.setattr(solve, "load_policy", lambda path: SimpleNamespace(info={"labels": 8}))
    monkeypatch.setattr(solve.teach, "teach", lambda *args: 143)
    taught.mkdir()
    solve.teach_all(STAGE, taught, 8, [])
    with pytest.raises(SystemExit, match="143"):
        solve.teach_all(STAGE, taught, 9, [])
    assert "cut short" in capfd.readouterr().out and not taught.exists()
    assert [path.name.split(".")[0] for path in tmp_path.iterdir()] == ["lessons"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_run_which_saves(number, tmp_path):
    """Nothing goes on without `solve`, and the same command continues."""
    flags = [
        "--lessons",
        "0",
        "--budget",
        "500000",
        "--data-dir",
        str(tmp_path),
        "--num-envs",
        "2",
        "--steps-per-epoch",
        "64",
    ]
    process, mark = start(["-m", "scripts.solve", STAGE, *flags, "--minibatch-size", "32", "--save-every", "1000"])
    run = tmp_path / solve.name_of(STAGE) / f"{solve.name_of(STAGE)}_s0"
    wait_for_rows(run, 2)
    process.send_signal(number)
    done = finish(process, mark)
    assert done.code == 128 + number and "saved" in done.out + done.err, done
    assert json.loads((run / "exit.json").read_text())["reason"] == "interrupted" and any(
        (run / "checkpoints").iterdir()
    )


def test_several_stages_at_a_time(tmp_path, capfd):
    """Each in a process of its own, which is refused or fails by itself."""
    stages = [STAGE, "SuperMarioBros-3-4-v0"]
    for stage in stages:  # a file in the place of the run: the processes end at once
        (tmp_path / solve.name_of(stage)).write_text("no folder")
    assert solve.main([*stages, "--jobs", "2", "--budget", "64", "--data-dir", str(tmp_path), *TINY]) == 2
    said = capfd.readouterr().out
    assert all(f"{stage}: failed with code 2" in said for stage in stages)
    assert "error: " in (tmp_path / f"{solve.name_of(STAGE)}_s0.log").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["ID"]),
        (["CartPole-v1"], ["CartPole-v1", "one stage of Mario"]),
        (["SuperMarioBros-v0"], ["one stage of Mario"]),
        ([STAGE, STAGE], ["twice"]),
        ([STAGE, "--jobs", "0"], ["jobs", "0"]),
        ([STAGE, "--budget", "x"], ["budget", "x"]),
        ([STAGE, "--goal", "1.5"], ["goal", "1.5"]),
        ([STAGE, "--network", "nope"], ["network", "nope"]),
        ([STAGE, "--gama", "0.9"], ["gama", "gamma"]),
        ([STAGE, "--gamma", "9"], ["gamma", "9"]),
        ([STAGE, "--preset", "mario"], ["--preset", "scripts.solve"]),
        ([STAGE, "--stop-at", "Epoch>=3"], ["--stop-at", "scripts.solve"]),
    ],
)
def test_bad_input_is_one_line(args, words, capfd, tmp_path, monkeypatch):
    """Exit code 2, and nothing was begun."""
    monkeypatch.chdir(tmp_path)
    try:
        code = solve.main(args)
    except SystemExit as end:
        code = end.code
    said = capfd.readouterr().err
    assert code == 2 and said.count("\n") == 1 and all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == []
