"""Comparing experiments: one number per seed, honest intervals, and no silent mixture."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import write_monitor, write_run
from utils import compare
from utils.analysis import comparison, comparison_figure, comparison_text, figures, page, runs
from utils.analysis.arguments import load_groups
from utils.analysis.experiments import Group
from utils.columns import Column


def load(*paths: Path) -> list[Group]:
    return load_groups([str(path) for path in paths], comparison.wanted_columns(runs.PERFORMANCE))[0]


def write_log(
    folder: Path, rows: list[tuple[float, ...]], columns: str = "AverageEpRet TotalEnvInteracts EpCount Time"
) -> None:
    lines = ["\t".join(columns.split()), *["\t".join(f"{v:g}" for v in row) for row in rows]]
    (folder / "progress.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def two(tmp_path) -> Path:
    for seed in range(6):
        write_run(tmp_path, "low", seed, level=200, lr=1e-4)
        write_run(tmp_path, "high", seed, level=400, lr=3e-4)
    return tmp_path


def test_final_performance_weighs_the_last_tenth_by_episodes(tmp_path):
    folder = write_run(tmp_path, "a", 0)
    write_log(folder, [(0, 0, 1, 0), (50, 90, 9, 90), (10, 95, 1, 95), (20, 100, 3, 100)])
    assert comparison.final_performance(runs.read_run(folder), "AverageEpRet", 0, 100) == pytest.approx((10 + 60) / 4)


def test_every_number_of_a_small_example_by_hand(tmp_path):
    for seed, last in enumerate((10.0, 20.0, 40.0)):
        folder = write_run(tmp_path, "a", seed)
        write_log(folder, [(0, 0, 1, 0), (10, 50, 1, 3600), (last, 100, 1, 7200)])
    result = comparison.compare(load(tmp_path), threshold=15, target=30)
    one = result.summaries[0]
    assert one.final.tolist() == [10, 20, 40] and one.area.tolist() == [7.5, 10, 15]
    assert one.aggregates["mean"].value == pytest.approx(70 / 3) and one.aggregates["median"].value == 20
    assert one.aggregates["gap"].value == pytest.approx((20 + 10 + 0) / 3)
    speed = one.speeds["steps first"]
    assert (speed.reached, speed.median.value, speed.median.low, speed.median.high) == (2, 100, 100, math.inf)
    assert one.speeds["hours sustained"].median.value == pytest.approx(2.0) and speed.coverage == pytest.approx(0.75)
    assert ["h:mm:ss to 15, sustained", "2:00:00 [2:00:00, never], 2/3 seeds"] in comparison_text.rows(result)


def test_times_say_what_they_count(tmp_path, two):
    """Hours beyond a day stay hours, and a footnote says what the clock measured."""
    assert comparison_text.clock(25.5) == "25:30:00" and comparison_text.clock(math.inf) == "never"
    older = comparison_text.footnotes(comparison.compare(load(two), threshold=100))
    assert (
        "h:mm:ss: wall-clock time of training, by the Time column; collecting, updating and evaluating only, "
        "without saving" in older
    )
    folder = write_run(tmp_path / "new", "a", 0)
    write_log(folder, [(0, 0, 1, 0, 0), (90, 50, 1, 50, 9)], "AverageEpRet TotalEnvInteracts EpCount Time TimeSave")
    newer = comparison_text.footnotes(comparison.compare(load(tmp_path / "new"), threshold=10))
    words = "since training began, without the time between a stop and a resume"
    assert f"h:mm:ss: wall-clock time of training, by the Time column; {words}" in newer


def test_a_clear_winner_is_named_with_both_intervals_agreeing(two):
    result = comparison.compare(load(two))
    pair = result.pairs[0]
    assert (pair.a, pair.b, pair.probability.value) == ("high", "low", 1.0) and pair.probability.low > 0.5
    assert pair.difference.low > 0 and pair.verdict.startswith("high is better than low")


def test_three_seeds_against_three_conclude_nothing(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "low", seed, level=200, lr=1e-4)
        write_run(tmp_path, "high", seed, level=400, lr=3e-4)
    result = comparison.compare(load(tmp_path))
    assert "nothing can be concluded: 3 against 3 seeds give p >= 0.1 even without overlap" in result.pairs[0].verdict
    assert sum("3 seeds: intervals are wide" in note for note in result.notes) == 2


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    write_run(tmp_path, "a", 0)
    write_run(tmp_path, "b", 0, lr=1e-4)
    result = comparison.compare(load(tmp_path))
    assert "one seed does not show its spread" in result.pairs[0].verdict
    assert "[no interval]" in comparison_text.console(result)
    figures.encode(comparison_figure.draw(result), "png")


def test_seeds_that_all_score_the_same_are_no_proof(tmp_path):
    for seed in range(5):
        folder = write_run(tmp_path, "a", seed)
        write_log(folder, [(0, 0, 1, 0), (500, 50, 1, 1), (500, 100, 1, 2)])
    result = comparison.compare(load(tmp_path))
    assert result.notes == ["a: all 5 seeds scored the same: an interval of width 0 proves nothing"]


def test_experiments_that_cannot_be_told_apart_are_not_ranked(tmp_path):
    for seed in range(6):
        write_run(tmp_path, "a", seed, noise=60)
        write_run(tmp_path, "bb", seed, noise=60, lr=1e-4)
    verdict = comparison.compare(load(tmp_path)).pairs[0].verdict
    assert re.search(r"no difference shown: it may be anything from -[\d.]+ to [\d.]+", verdict)


def test_an_interval_ends_where_the_return_must(tmp_path):
    """Seeds that touched 500 again and again, and one that fell at the end: no mean beyond 500."""
    highs = []
    for middle in (500.0, 490.0):
        home = tmp_path / f"{middle:.0f}"
        for seed, last in enumerate((499.0, 490.0, 300.0)):
            folder = write_run(home, "a", seed)
            write_log(folder, [(10, 0, 1, 0), (500 - seed, 40, 1, 1), (middle, 60, 1, 2), (last, 100, 1, 3)])
        highs.append(comparison.compare(load(home)).summaries[0].aggregates["mean"].high)
    assert highs[0] == 500.0 and highs[1] > 520, "without a ceiling in the log there is none"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"env_id": "Acrobot-v1"}, "differ in environment (a: CartPole-v1, b: Acrobot-v1)"),
        (
            {"versions": {"gymnasium": "1.0.0"}},
            "differ in environment version (a: gymnasium 1.4.0, b: gymnasium 1.0.0)",
        ),
        ({"reward_version": 2}, "differ in environment's reward version (a: 1, b: 2)"),
    ],
)
def test_mixtures_are_refused_or_labelled(tmp_path, capsys, spec, named):
    base = {"reward_version": 1}
    write_run(tmp_path, "a", 0, spec=base)
    write_run(tmp_path, "b", 0, spec=base | spec)
    assert compare.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert compare.main([str(tmp_path), "--mixed"]) == 0
    assert f"MIXED: experiments {named}" in capsys.readouterr().out


def test_training_rewards_may_differ_where_the_environments_own_return_is_compared(tmp_path):
    write_run(tmp_path, "a", 0)
    write_run(tmp_path, "b", 0, spec={"reward": "score"})
    assert any("trained on different rewards" in note for note in comparison.compare(load(tmp_path)).notes)
    groups = load_groups([str(tmp_path)], comparison.wanted_columns("AverageTrainRet"))[0]
    with pytest.raises(ValueError, match="differ in training reward .a: env, b: score."):
        comparison.compare(groups, "AverageTrainRet")


def test_unequal_and_unfinished_runs_are_compared_over_common_steps_and_named(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path, "a", seed, epochs=40)
    write_run(tmp_path, "b", 0, epochs=20, lr=1e-4, reason="interrupted")
    assert compare.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "compared up to 20k steps, where the rows of b_s0 end (the longest run has 40k)" in out
    assert "1, 1 unfinished" in out and "b_s0 (interrupted)" in out


def test_stable_baselines_folders_compare_with_ours_and_the_difference_is_named(tmp_path):
    write_run(tmp_path, "a", 0, epochs=20, steps=200)
    write_monitor(tmp_path / "sb3" / "ppo_1")
    notes = comparison.compare(load(tmp_path)).notes
    assert any("log every episode (monitor.csv)" in note for note in notes)


def test_a_clear_rate_comes_with_interval_and_episodes(two):
    one = comparison.compare(load(two)).summaries[0]
    assert one.success is not None and 0 <= one.success.low <= one.success.value <= one.success.high <= 1
    assert one.success_episodes == 6 * 4 * 12  # seeds, rows of the last tenth, episodes in each


@pytest.mark.parametrize("wanted", [None, comparison.wanted_columns(runs.PERFORMANCE)])
def test_a_familys_own_share_of_successes_is_compared_under_its_own_name(tmp_path, wanted):
    """Declared in config.json; a share that is not declared so is not taken for one."""
    shares = Column("Odd", "", "%", label="Odd"), Column("Solved", "", "%", label="Solved (share)", success=True)
    for seed in range(2):
        folder = write_run(tmp_path, "a", seed, columns=[asdict(column) for column in shares])
        rows = [(i, 100 * (i + 1), 5, i, 0.5, i / 10) for i in range(10)]
        write_log(folder, rows, "AverageEpRet TotalEnvInteracts EpCount Time Odd Solved")
    groups, _ = load_groups([str(tmp_path)], wanted)
    result = comparison.compare(groups)
    table = {row[0]: row[1:] for row in comparison_text.rows(result)}
    assert table["solved"] == ["90% [90%, 90%], 10 episodes"] and "clear rate" not in table and "odd" not in table
    assert ">solved</th>" in page.per_seed(groups, result, runs.PERFORMANCE)
    assert any("every seed has solved 0.9" in note for note in result.notes)


def test_json_markdown_and_figure_are_written_and_repeat(two, tmp_path):
    outputs = []
    for name in ("one", "two"):
        out = tmp_path / name
        argv = [str(two / "low"), str(two / "high"), "--threshold", "1000", "--target", "500"]
        argv += ["--out", f"{out}/f.png", "--json", f"{out}/f.json", "--markdown", f"{out}/f.md"]
        assert compare.main(argv) == 0
        outputs.append([(out / f"f.{kind}").read_bytes() for kind in ("png", "json", "md")])
    assert outputs[0] == outputs[1]
    document = json.loads(outputs[0][1])
    assert document["experiments"][0]["n"] == 6 and document["pairs"][0]["probability"]["value"] == 0.0
    speed = document["experiments"][0]["threshold"]["steps first"]
    assert speed["reached"] == 0 and speed["median"]["value"] is None, "JSON has no infinity"
    assert b"| final IQM | " in outputs[0][2]


def test_numbers_agree_with_rliable_on_the_same_folders(two):
    metrics = pytest.importorskip("rliable.metrics")
    result = comparison.compare(load(two), target=300)
    high, low = (one.final[:, None] for one in result.summaries)
    for one, scores in zip(result.summaries, (high, low), strict=True):
        assert one.aggregates["mean"].value == pytest.approx(metrics.aggregate_mean(scores), abs=1e-9)
        assert one.aggregates["iqm"].value == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-9)
        assert (
            one.aggregates["gap"].value
            == pytest.approx(np.maximum(300 - scores, 0).mean(), abs=1e-9)
            == pytest.approx(metrics.aggregate_optimality_gap(scores, 300), abs=1e-9)
        )
    assert result.pairs[0].probability.value == pytest.approx(metrics.probability_of_improvement(high, low), abs=1e-9)


def test_the_two_emulators_are_comparable(tmp_path):
    """They play the same, frame by frame: results of both stand in one table without --mixed."""
    versions = {"gym-super-mario-bros": "7.4.0", "nes-py": "8.2.1"}
    for seed in range(3):
        write_run(tmp_path, "a", seed, spec={"emulator": "native", "versions": {"core": "1"}})
        write_run(tmp_path, "b", seed, spec={"emulator": "nes-py", "versions": versions})
    assert compare.main([str(tmp_path)]) == 0


def test_what_a_family_declares_to_play_the_same_is_comparable(tmp_path, capsys):
    """Each run's config.json says what it equals; where none says so, or something damaged, they differ."""
    for seed in range(3):
        write_run(tmp_path, "a", seed, spec={"emulator": "quick"}, plays_as={"quick": "plain"})
        write_run(tmp_path, "b", seed, spec={"emulator": "plain"}, plays_as={})
        write_run(tmp_path, "c", seed, spec={"emulator": "quick"}, plays_as=["quick"])
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert compare.main([str(tmp_path / "b"), str(tmp_path / "c")]) == 2
    assert "differ in emulator" in capsys.readouterr().err
