"""The table of the shipped policies says what was measured, under which conditions."""

import json

import pytest

from ppo.config import build
from ppo.networks import ActorCritic
from ppo.policy import load_policy, save_policy
from scripts.scoreboard import BEGIN, CONDITIONS, END, cell, main


@pytest.fixture
def shipped(tmp_path):
    """A folder with one policy for 1-2 that plays at random for thirty steps, and a README with the two marks."""
    options = {"actions": "right_only", "max_episode_steps": 30}
    info = {
        "env": "SuperMarioBros-1-2-v0",
        "spec": {"options": options, "preprocess_version": 1},
        "network": "small",
        "obs_shape": [4, 84, 84],
        "num_actions": 5,
        "seed": 7,
        "steps": 4096,
        "hours": 0.5,
        "cores": 2,
        "processor": "abacus",
        "command": "python -m ppo.run --seed 7",
        "versions": {"torch": "2"},
    }
    folder = tmp_path / "pretrained" / "SuperMarioBros-1-2-v0"
    save_policy(folder, ActorCritic("small", (4, 84, 84), 5, "xavier", 0), info)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    return folder, readme


@pytest.mark.reference
def test_the_card_and_the_table_are_written(shipped, capsys):
    """Sampled under three conditions and greedy, on both emulators; the rest of the README stays as it is."""
    folder, readme = shipped
    flags = ["--folder", str(folder.parent), "--readme", str(readme), "--episodes", "3", "--jobs", "1"]
    assert main([*flags, "--emulator", "native"]) == 0
    assert "3 episodes for each figure, over the native core." in readme.read_text()
    assert main(flags) == 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert [(line["emulator"], line["greedy"], line["episodes"]) for line in found["lines"]] == [
        (emulator, greedy, 1 if greedy else 3)
        for emulator in ("nes-py", "native")
        for greedy in (False, False, False, True)
    ]
    reference, native = found["lines"][:4], found["lines"][4:]
    assert [line["start_mode"] for line in reference[:2]] == ["random", "noop"] and reference[2]["sticky"] == 0.25
    assert [one | {"emulator": "native"} for one in reference] == native  # both emulators play the same
    text = (folder / "README.md").read_text()
    assert "python -m ppo.run --seed 7" in text
    assert "0% cleared (0 of 3; 95% interval 0% to 56%), 3 starts, 3 trajectories, mean return" in text
    assert "greedy, unmodified nes-py, plain start: 0% cleared (0 of 1: 1 film, no interval)" in text
    assert "3 episodes for each figure, over unmodified nes-py." in readme.read_text()
    assert "up to 30 frames of random buttons first" in text and "sticky buttons with probability 0.25" in text
    assert (folder / "play.mp4").stat().st_size > 1000 and "(play.mp4)" in text
    assert "- Decisions: 4,096" in text and "0.50, 2 core(s) of abacus" in text
    lines = readme.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    assert "| 1-2 | 0% (0 to 56) | 0% | 0% |" in lines
    assert sum(line.startswith("| ") for line in lines) == 2  # one stage, below the titles


def test_the_video_is_made_again_for_other_weights_only(shipped):
    folder, readme = shipped
    flags = ["--folder", str(folder.parent), "--readme", str(readme), "--episodes", "1", "--jobs", "1"]
    flags += ["--emulator", "native"]
    video = folder / "play.mp4"
    assert main(flags) == 0 and video.stat().st_size > 1000
    video.write_bytes(b"seen")
    assert main(flags) == 0 and video.read_bytes() == b"seen"
    policy = load_policy(folder)
    save_policy(folder, ActorCritic("small", (4, 84, 84), 5, "xavier", 1), policy.info)
    assert main(flags) == 0 and video.stat().st_size > 1000


def test_the_cell_shows_the_reference_emulator():
    """Where both were measured, nes-py's figure stands in the table; each condition has its own."""
    lines = [
        {"greedy": False, "emulator": e, "clear_rate": c, "clear_rate_95": [c - 0.1, c]} | CONDITIONS["Waiting"]
        for e, c in (("nes-py", 0.96), ("native", 0.9))
    ]
    lines.append(lines[1] | CONDITIONS["Random buttons"] | {"clear_rate": 0.5, "clear_rate_95": None})
    assert cell({"lines": lines}, "Waiting") == "96%" and cell(None, "Waiting") == "-"
    assert cell({"lines": lines}, "Random buttons") == "50% (no interval)"
    lines[-1]["clear_rate_95"] = [0.4, 0.6]
    assert cell({"lines": lines}, "Random buttons") == "50% (40 to 60)"
    assert cell({"lines": lines}, "Sticky buttons") == "-"


def test_unknown_stages_and_a_readme_without_marks_are_refused(shipped, capsys):
    folder, readme = shipped
    flags = ["--folder", str(folder.parent), "--readme", str(readme), "--episodes", "1", "--jobs", "1"]
    assert main(["SuperMarioBros-9-9-v0", *flags]) == 2
    assert "SuperMarioBros-9-9-v0" in capsys.readouterr().err
    readme.write_text("nothing")
    assert main([*flags, "--emulator", "native"]) == 2 and readme.read_text() == "nothing"


@pytest.mark.parametrize(
    ("settings", "ranks", "line"),
    [
        ({}, 1, "python -m ppo.run --env SuperMarioBros-1-1-v0 --seed 0"),
        (
            {"seed": 3, "gamma": 0.95, "anneal_lr": False, "exp_name": "x"},
            2,
            "python -m ppo.run --env SuperMarioBros-1-1-v0 --cpu 2 --seed 3 --gamma 0.95 --no-anneal-lr",
        ),
        (
            {"env": "CartPole-v1", "total_steps": 1000, "target_kl": 0.01},
            1,
            "python -m ppo.run --env CartPole-v1 --seed 0 --total-steps 1000 --target-kl 0.01",
        ),
        (
            {"actions": '[["right"]]'},
            1,
            "python -m ppo.run --env SuperMarioBros-1-1-v0 --seed 0 --actions '[[\"right\"]]'",
        ),
    ],
)
def test_a_run_knows_its_command_line(settings, ranks, line):
    """Every setting that is not the preset's own, and none else; parsing it gives the same settings."""
    import shlex

    from ppo.run import parse

    cfg = build(**settings)
    assert cfg.command(ranks) == line
    again, _ = parse(shlex.split(line)[3:])
    assert again.to_dict() | {"exp_name": None} == cfg.to_dict() | {"exp_name": None}
