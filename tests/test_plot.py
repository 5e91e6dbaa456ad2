"""Reading run folders that are broken, foreign or still being written, and drawing them the same way each time."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.run_folders import write_monitor, write_run
from utils import columns, plot
from utils.analysis import comparison, experiments, figures, grids, learning_curves, runs
from utils.analysis.arguments import load_groups
from utils.analysis.tables import parse_table


def draw(argv: list[str]) -> int:
    return plot.main([str(word) for word in argv])


# ---------------------------------------------------------------------------------------------- tables


def test_a_table_is_read_by_its_header():
    table = parse_table(b"Epoch\tKL\tName\n0\t0.5\tx\n1\t-1e-3\ty\n", ["KL", "Epoch", "None"])
    assert table.columns["KL"].tolist() == [0.5, -0.001] and table.columns["Epoch"].tolist() == [0, 1]
    assert set(table.columns) == {"KL", "Epoch"} and table.notes() == []


def test_damage_is_skipped_counted_and_said():
    rows = b"".join(b"%d\t%d\n" % (i, 10 * i) for i in range(809))
    damage = b"7\t\x0070\n7\tseventy\n7\n" + b"Epoch\tRet\n" + b"809\t8090\r\n" + b"810\t81"
    table = parse_table(b"Epoch\tRet\r\n" + rows + damage, ["Epoch", "Ret"])
    assert table.columns["Epoch"].tolist() == list(range(810))
    assert table.notes() == ["3 of 813 rows unreadable", "1 repeated header", "last line incomplete"]


def test_a_header_with_other_columns_is_followed():
    table = parse_table(b"Epoch\tRet\n0\t1\nEpoch\tKL\tRet\n1\t9\t2\n2\t8\n")
    assert table.columns["Ret"].tolist() == [1, 2] and table.unreadable == 1
    assert math.isnan(table.columns["KL"][0]) and table.columns["KL"][1] == 9


def test_an_empty_field_is_a_missing_value_and_not_damage():
    table = parse_table(b"Epoch\tRet\tKL\n0\t\t1\n1\t5\t\n\n2\tnan\t3\n")
    assert np.isnan(table.columns["Ret"]).tolist() == [True, False, True] and table.notes() == []


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"Epoch\tRe", b"\x00" * 100, b"Logging to somewhere\n", b"\xff\xfe\n1\t2\n"]
)
def test_a_file_without_a_header_has_no_rows(data):
    table = parse_table(data)
    assert table.columns == {} and table.notes()[0] == "no header line: nothing read"


def test_any_rubbish_is_read_without_an_error():
    rng = np.random.default_rng(0)
    clean = b"Epoch\tRet\n" + b"".join(b"%d\t%d\n" % (i, i) for i in range(50))
    for _ in range(300):
        data = bytearray(clean)
        for place in rng.integers(len(data), size=rng.integers(1, 30)):
            data[place] = rng.integers(256)
        table = parse_table(bytes(data[: rng.integers(len(data))]), ["Epoch", "Ret"])
        assert len({len(column) for column in table.columns.values()}) <= 1


def test_reading_agrees_with_python_floats():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=200) * 10.0 ** rng.integers(-300, 300, 200), [math.inf, -0.0, 5e-324]])
    data = "a\tb\n" + "".join(f"{v!r}\t{v:.6g}\n" for v in values.tolist())
    table = parse_table(data.encode())
    assert table.columns["a"].tolist() == values.tolist()
    assert table.columns["b"].tolist() == [float(f"{v:.6g}") for v in values.tolist()]


# ---------------------------------------------------------------------------------------------- run folders


def test_rows_that_a_resumed_run_wrote_again_replace_the_old_ones(tmp_path):
    folder = write_run(tmp_path, "a", 0, epochs=3)
    (folder / "progress.txt").write_text(
        "Epoch\tAverageEpRet\tTotalEnvInteracts\n0\t1\t10\n1\t2\t20\n2\t3\t30\n1\t5\t20\n2\t6\t30\n3\t7\t40\n"
    )
    run = runs.read_run(folder, ["AverageEpRet"])
    assert run.columns["AverageEpRet"].tolist() == [1, 5, 6, 7] and "2 rows superseded by a resumed run" in run.notes


def test_one_stray_row_does_not_take_the_rows_before_it(tmp_path):
    folder = write_run(tmp_path, "a", 0, epochs=3)
    lines = [f"{i}\t{i}\t{10 * i}" for i in range(1, 6)]
    lines.insert(3, "0\t0\t3")
    lines.insert(5, "9\t9\t9e9")
    (folder / "progress.txt").write_text("Epoch\tAverageEpRet\tTotalEnvInteracts\n" + "\n".join(lines) + "\n")
    run = runs.read_run(folder, ["AverageEpRet"])
    assert run.columns["AverageEpRet"].tolist() == [1, 2, 3, 4, 5] and "2 of 7 rows unreadable" not in run.notes[1:]


def test_spinning_ups_folders_are_read(tmp_path):
    for seed in (0, 10):
        folder = tmp_path / "2026-01-01_ppo" / f"2026-01-01_00-00-00-ppo_s{seed}"
        folder.mkdir(parents=True)
        config = {"env_fn": f"<function <lambda> at 0x7f{seed}>", "exp_name": "ppo", "seed": seed, "gamma": 0.99}
        config["logger"] = {f"<spinup.utils.logx.EpochLogger object at 0x{seed}>": {"epoch_dict": {}}}
        (folder / "config.json").write_text(json.dumps(config))
        rows = "".join(f"{e}\t{20 * e}\t{4000 * (e + 1)}\t{e}\n" for e in range(5))
        (folder / "progress.txt").write_text("Epoch\tAverageEpRet\tTotalEnvInteracts\tTime\n" + rows)
    groups, said = load_groups([str(tmp_path)], ["Performance"])
    assert [(g.label, len(g.runs), [r.seed for r in g.runs]) for g in groups] == [
        ("ppo", 2, ["0", "10"])
    ] and said == []
    assert groups[0].runs[0].state == "", "Spinning Up does not say how a run ended, so nothing is claimed"
    joined = grids.join(groups[0], columns.STEPS, "Performance")
    assert joined.values[0].tolist() == [0, 20, 40, 60, 80] and joined.x[-1] == 20000


def test_monitor_files_become_episodes_in_the_order_of_time(tmp_path):
    folder = tmp_path / "ppo_7"
    folder.mkdir()
    (folder / "0.monitor.csv").write_text('#{"t_start": 100.0, "env_id": "X-v0"}\nr,l,t\n1.5,10,2.0\n3.5,30,9.0\n4.5,4')
    (folder / "1.monitor.csv").write_text('#{"t_start": 101.0, "env_id": "X-v0"}\nr,l,t\n2.5,20,4.0\n')
    run = runs.read_run(folder)
    assert run.columns["AverageEpRet"].tolist() == [1.5, 2.5, 3.5]
    assert run.columns[columns.STEPS].tolist() == [10, 30, 60] and run.columns["Time"].tolist() == [0, 3, 7]
    assert (run.name, run.seed) == ("ppo", "7") and run.notes == ["0.monitor.csv: last line incomplete"]


def test_prefixes_folders_select_and_exclude_choose_runs(tmp_path):
    for name in ("alpha", "alpha_big", "beta"):
        write_run(tmp_path / "data", name, 0, epochs=2)
    moved = tmp_path / "data" / "beta" / "beta_s0.old-20260101-000000"
    shutil.copytree(tmp_path / "data" / "beta" / "beta_s0", moved)
    names = lambda paths: sorted(path.name for path in paths)  # noqa: E731
    assert names(runs.find(str(tmp_path / "data"))) == ["alpha_big_s0", "alpha_s0", "beta_s0"]
    assert names(runs.find(str(tmp_path / "data" / "alpha"))) == ["alpha_s0"]
    assert names(runs.find(str(tmp_path / "data" / "alp"))) == ["alpha_big_s0", "alpha_s0"]
    assert names(runs.find("alp", str(tmp_path / "data"))) == ["alpha_big_s0", "alpha_s0"]
    groups, _ = load_groups([str(tmp_path)], None, select=["alpha"], exclude=["big"])
    assert [group.label for group in groups] == ["alpha"]
    with pytest.raises(ValueError, match="no run folder"):
        runs.find(str(tmp_path / "gamma"))


def test_a_name_of_a_legend_without_runs_of_its_own_is_refused(folders, capsys, tmp_path):
    """Its folder was named before; and smoothing over more rows than there are is smoothing over all."""
    assert draw([folders / "slow", folders / "slow", "-l", "a", "b", "--out", tmp_path / "x.png"]) == 2
    assert "--legend b: all runs of" in capsys.readouterr().err
    assert draw([folders / "slow", "-s", str(10**20), "--out", tmp_path / "x.png"]) == 0


def test_shipped_results_are_not_among_ones_own_runs(tmp_path, monkeypatch):
    """They stand in data/ too, and are found where they are asked for."""
    for name in ("own", "results/a", "results/b"):
        write_run(tmp_path / name, "x", 0, epochs=2)
    monkeypatch.setattr(runs, "RESULTS", (tmp_path / "results").resolve())
    assert [path.parents[1].name for path in runs.find(str(tmp_path))] == ["own"]
    assert [path.parents[1].name for path in runs.find(str(tmp_path / "results"))] == ["a", "b"]


def test_environments_in_one_figure_are_said(tmp_path, capsys):
    """Their returns cannot be compared: drawn, with a line that names them."""
    for name in ("a", "b"):
        write_run(tmp_path, name, 0, spec={"env_id": f"{name}-v0"})
    assert draw([tmp_path, "--out", tmp_path / "x.png"]) == 0
    assert "note: MIXED: experiments differ in environment (a: a-v0, b: b-v0)\n" in capsys.readouterr().err
    assert draw([tmp_path / "a", "--out", tmp_path / "x.png"]) == 0 and "MIXED" not in capsys.readouterr().err


def test_folders_are_sorted_by_their_numbers(tmp_path):
    """s2 before s10, whatever other letters and digits a path has."""
    for seed in (10, 2):
        write_run(tmp_path / "m1\u00b22", "alpha", seed, epochs=2)
    assert [path.name for path in runs.find(str(tmp_path))] == ["alpha_s2", "alpha_s10"]


def test_runs_with_other_settings_are_shown_apart_and_said(tmp_path):
    write_run(tmp_path, "a", 0)
    write_run(tmp_path, "a", 1, spec={"reward": "score"})
    write_run(tmp_path, "a", 2, spec={"versions": {"gymnasium": "1.0.0"}})
    groups, said = load_groups([str(tmp_path)], None)
    assert [group.label for group in groups] == [
        "a [reward=env, gymnasium=1.4.0]",
        "a [reward=score, gymnasium=1.4.0]",
        "a [reward=env, gymnasium=1.0.0]",
    ]
    assert said == ["a: its runs differ in spec.reward, spec.versions.gymnasium: shown apart, not averaged"]


def test_length_seed_machine_and_speed_do_not_divide_an_experiment(tmp_path):
    write_run(tmp_path, "a", 0, epochs=10)
    write_run(tmp_path, "a", 1, epochs=20, save_every=3, chunk_size=64)
    groups, said = load_groups([str(tmp_path)], None)
    assert [len(group.runs) for group in groups] == [2] and said == []


def test_unequal_lengths_are_cut_to_what_all_cover_and_said(tmp_path):
    write_run(tmp_path, "a", 0, epochs=40)
    write_run(tmp_path, "a", 1, epochs=10, reason=None)
    groups, _ = load_groups([str(tmp_path)], None)
    joined = grids.join(groups[0], columns.STEPS, "Performance")
    assert joined.x[-1] == 10_000
    note = "a: unequal lengths: TotalEnvInteracts cut to 1k..10k (where the rows of a_s1 end; longest 40k)"
    assert joined.notes == [note] and groups[0].notes() == ["a: not finished: a_s1 (unfinished)"]


def test_equal_runs_with_an_epoch_without_episodes_are_not_of_unequal_length(tmp_path):
    """A missing value is a gap: the curve ends where it begins, and the note says so."""
    for seed, empty in ((0, ()), (1, (0, 4, 8, 9))):
        folder = write_run(tmp_path, "a", seed, epochs=10)
        rows = [f"{e}\t{'' if e in empty else e}\t{100 * (e + 1)}" for e in range(10)]
        (folder / "progress.txt").write_text("\n".join(["Epoch\tAverageEpRet\tTotalEnvInteracts", *rows]) + "\n")
    joined = grids.join(load_groups([str(tmp_path)])[0][0], columns.STEPS, "Performance")
    assert (joined.x[0], joined.x[-1]) == (200, 800), "nothing is drawn where a seed has no value"
    assert joined.values[0] == pytest.approx(joined.values[1]), "a gap inside a curve is interpolated"
    assert joined.notes == ["a: a_s1 has no AverageEpRet after 800 (empty cells): the curve ends there"]
    groups, _ = load_groups([str(tmp_path)])
    assert not [n for n in comparison.compare(groups).notes if "unequal" in n]


def test_what_a_run_declares_free_does_not_divide_an_experiment(tmp_path):
    """config.json's free_settings are used where they are, and only settings that all runs call free are free."""
    free = ["seed", "sound", "epochs"]
    write_run(tmp_path, "a", 0, free_settings=free, sound=True, epochs=10)
    write_run(tmp_path, "a", 1, free_settings=free, sound=False, epochs=20)
    write_run(tmp_path, "b", 0, free_settings=free, sound=True)
    write_run(tmp_path, "b", 1, sound=False)
    write_run(tmp_path, "c", 0, free_settings=free, keep=3)
    write_run(tmp_path, "c", 1, free_settings=free, keep=4)
    write_run(tmp_path, "d", 0, free_settings=["seed", "sound"], epochs=10)
    write_run(tmp_path, "d", 1, free_settings=["seed", "sound"], epochs=20)
    write_run(tmp_path, "old", 0, epochs=10, anneal_lr=True)
    write_run(tmp_path, "old", 1, epochs=20, anneal_lr=True)
    write_run(tmp_path, "e", 0, free_settings=free, lengths=[[0, 10]], processor="A", resolved_device="cpu")
    write_run(tmp_path, "e", 1, lengths=[[0, 5], [4, 10]], processor="B", resolved_device="cuda")
    labels = [group.label for group in load_groups([str(tmp_path)])[0]]
    pairs = ["b [sound=true]", "b [sound=false]", "c [keep=3]", "c [keep=4]", "d [epochs=10]", "d [epochs=20]"]
    assert labels == ["a", *pairs, "e", "old [epochs=10]", "old [epochs=20]"]


def test_long_settings_that_differ_at_their_ends_are_kept_apart(tmp_path):
    for seed, end in enumerate("ab"):
        write_run(tmp_path, "a", seed, actions="x" * 200 + end)
    groups, _ = load_groups([str(tmp_path)])
    assert len({group.label for group in groups}) == 2 and all(len(group.label) < 60 for group in groups)


def write_returns(
    root: Path, rows: list[list[float]], name: str = "AverageEpRet", largest: float | None = None
) -> Path:
    """Write one run for each list of returns, with the largest return of each epoch where `largest` says it."""
    for seed, values in enumerate(rows):
        folder = write_run(root, "a", seed, epochs=2)
        lines = [f"Epoch\t{name}\tTotalEnvInteracts" + ("" if largest is None else "\tMaxEpRet\tMinEpRet")]
        more = "" if largest is None else f"\t{largest}\t0"
        lines += [f"{epoch}\t{value}\t{100 * (epoch + 1)}{more}" for epoch, value in enumerate(values)]
        (folder / "progress.txt").write_text("\n".join(lines) + "\n")
    return root


def band(root: Path, y: str = "Performance") -> tuple[float, float]:
    """Return the lowest and highest point of the band of the one experiment below a folder."""
    figure, _ = learning_curves.draw(load_groups([str(root)], [y])[0], learning_curves.Options(y=(y,)))
    heights = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    return float(heights.min()), float(heights.max())


def test_a_band_ends_where_the_quantity_must(tmp_path):
    """At a ceiling that the log shows, at a declared bound, and nowhere else: not at the best seed."""
    rising = [[10, 300, 400, 430], [20, 400, 450, 470], [30, 200, 300, 490]]
    free = band(write_returns(tmp_path / "rising", rising))
    assert free[1] > 520, "nothing says that 490 is the most there can be"
    solved = [[*values, 500, 500] for values in rising]
    assert band(write_returns(tmp_path / "solved", solved))[1] == 500, "several rows of several seeds touch 500"
    lone = [[*rising[0], 500, 500, 500], [*rising[1], 470, 460, 450], [*rising[2], 480, 470, 460]]
    assert band(write_returns(tmp_path / "lone", lone))[1] > 520, "one seed on a plateau does not make a ceiling"
    assert band(write_returns(tmp_path / "episodes", rising, largest=500))[1] == 500, "single episodes count"
    assert band(write_returns(tmp_path / "above", solved, largest=450))[1] > 520, "a contradicted bound is none"
    lengths = [[1, 300, 400, 430], [200, 400, 450, 470], [3, 200, 300, 490]]
    assert band(write_returns(tmp_path / "lengths", lengths, "EpLen"), "EpLen")[0] == 0, "a length is not negative"
    losses = [[-1, 3, 4, 4], [2, 4, 4, 4], [1, 2, 3, 4]]
    assert band(write_returns(tmp_path / "losses", losses, "KL"), "KL")[0] < -1, "a foreign log's KL may be negative"


def test_every_row_counts_when_there_are_more_rows_than_points(tmp_path):
    folder = write_run(tmp_path, "a", 0, epochs=2)
    rows = "".join(f"{e}\t{e % 2}\t{e + 1}\n" for e in range(10_000))
    (folder / "progress.txt").write_text("Epoch\tAverageEpRet\tTotalEnvInteracts\n" + rows)
    joined = grids.join(experiments.Group("a", [runs.read_run(folder)]), columns.STEPS, "Performance")
    assert np.abs(joined.values - 0.5).max() < 0.03, "means of cells, not single rows of 0 or 1"


def test_smoothing_is_a_centred_mean_that_shortens_at_the_ends():
    assert grids.smoothed(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist() == [1.5, 3.0, 3.0, 3.0]
    assert grids.smoothed(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]


def test_hostile_folders_are_read_as_words_and_numbers_only(tmp_path):
    folder = write_run(tmp_path, "a", 0)
    (folder / "config.json").write_text('{"exp_name": "\\u001b[2J$x_{$<b>", "seed": [], "spec": 3, "lr": {"a": 1e999}}')
    (folder / "exit.json").write_text('["finished"]')
    (folder / "vars.pkl").write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    other = write_run(tmp_path, "b", 0)
    (other / "config.json").write_text("[" * 100_000)
    (other / "progress.txt").unlink()
    (other / "progress.txt").mkdir()
    groups, _ = load_groups([str(tmp_path)], None)
    assert groups[0].label == " [2J$x_{$<b>"
    assert draw([folder, "--out", tmp_path / "x.png"]) == 0 and not Path("marker").exists()


# ---------------------------------------------------------------------------------------------- figures


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed in range(3):
        write_run(root, "slow", seed, level=200, lr=1e-4)
        write_run(root, "fast", seed, level=400, lr=3e-4)
    write_monitor(root / "sb3" / "ppo_1")
    return root


@pytest.mark.parametrize("kind", figures.FORMATS)
def test_plotting_twice_gives_the_same_bytes(folders, tmp_path, kind):
    one, two = tmp_path / f"one.{kind}", tmp_path / "new" / f"two.{kind}"
    for out in (one, two):
        assert draw([folders, "-y", "Performance", "KL", "--smooth", "3", "--est", "iqm", "--out", out]) == 0
    assert one.read_bytes() == two.read_bytes() and len(one.read_bytes()) > 5000


def test_the_figure_names_axes_seeds_and_band(folders):
    groups, _ = load_groups([str(folders)], None)
    with figures.style():
        figure, _ = learning_curves.draw(groups, learning_curves.Options(y=("Performance", "ClearRate")))
    axes = figure.axes[:2]
    assert axes[0].get_xlabel() == "Environment steps (agent decisions)"
    assert [a.get_ylabel() for a in axes] == ["Episode return (environment's reward)", "Clear rate (share of episodes)"]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["fast (n=3)", "slow (n=3)", "ppo (n=1)"] or sorted(words) == [
        "fast (n=3)",
        "ppo (n=1)",
        "slow (n=3)",
    ]
    assert "95% bootstrap interval" in figure.get_supxlabel()
    colours = [line.get_color() for line in axes[0].lines]
    assert len(set(colours)) == 3 and set(colours) <= set(figures.COLOURS)
    low, high = axes[1].get_ylim()
    assert low > -0.1 and high < 1.1, "a band of a share stays a share"


def test_each_seed_its_own_line(folders):
    groups, _ = load_groups([str(folders / "slow"), str(folders / "fast")], None)
    figure, _ = learning_curves.draw(groups, learning_curves.Options(each_seed=True))
    assert len(figure.axes[0].lines) == 6
    figure, _ = learning_curves.draw(groups[:1], learning_curves.Options(each_seed=True))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["slow_s0", "slow_s1", "slow_s2"]


def test_a_legend_joins_all_that_one_argument_names(folders, capsys, tmp_path):
    assert draw([folders / "slow", folders / "fast", "--legend", "A", "--out", tmp_path / "x.svg"]) == 2
    assert "--legend needs one name for each of the 2 folders, got 1" in capsys.readouterr().err
    groups, _ = load_groups([str(folders / "slow"), str(folders / "fast")], None, legend=["A", "B"])
    assert [group.label for group in groups] == ["A", "B"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--out", "x.jpg"], "--out must end in .png, .svg, .pdf, got 'x.jpg'"),
        (["--smooth", "0", "--out", "x.png"], "--smooth must be >= 1, got 0"),
        (["-y", "Nope", "--out", "x.png"], "no run has a column 'Nope'; there are: AverageEpRet"),
        (["-y", "EpRet", "--out", "x.png"], "no run has a column 'EpRet', perhaps AverageEpRet; there are:"),
        (["--select", "nothing", "--out", "x.png"], "leave no run"),
        (["--est", "mode"], "invalid choice: 'mode'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folders, words, named, capsys):
    try:
        code = draw([folders / "slow", *words])
    except SystemExit as done:
        code = int(done.code or 0)
    error = capsys.readouterr().err
    assert code == 2 and named in error and error.count("\n") == 1


def test_without_a_display_a_file_is_asked_for(folders, capsys, monkeypatch):
    monkeypatch.setattr("matplotlib.get_backend", lambda: "agg")
    assert draw([folders / "slow"]) == 2 and "no display" in capsys.readouterr().err


def test_plotting_while_a_run_writes_its_log(tmp_path):
    """Whatever part of the file is on disk, its whole lines are read and nothing counts as damage."""
    folder = write_run(tmp_path, "live", 0, epochs=30, reason=None)
    text = (folder / "progress.txt").read_bytes()
    with (folder / "progress.txt").open("wb", buffering=0) as file:
        for start in range(0, len(text), 29):
            file.write(text[start : start + 29])
            run = runs.read_run(folder)
            assert len(run.columns.get("Epoch", ())) == max(0, text[: start + 29].count(b"\n") - 1)
            assert not [note for note in run.notes if "unreadable" in note], run.notes
    assert len(runs.read_run(folder).columns["Epoch"]) == 30


@pytest.mark.slow
def test_a_thousand_runs_of_ten_thousand_rows_plot_in_20_seconds_and_2_gigabytes(tmp_path):
    import os
    import resource
    import subprocess
    import sys

    rng = np.random.default_rng(0)
    header = "\t".join(["Epoch", "AverageEpRet", "TotalEnvInteracts", *[f"Column{i}" for i in range(27)]])
    for name in range(20):
        values = rng.normal(size=(10_000, 30))
        values[:, 0], values[:, 2] = np.arange(10_000), 4096 * np.arange(1, 10_001)
        rows = "\n".join("\t".join(f"{v:.8g}" for v in row) for row in values.tolist())
        for seed in range(50):
            folder = tmp_path / f"e{name}" / f"e{name}_s{seed}"
            folder.mkdir(parents=True)
            if seed == 0:
                first = folder / "progress.txt"
                first.write_text(f"{header}\n{rows}\n")
            else:
                os.link(first, folder / "progress.txt")
    code = (
        "import resource, sys; from utils import plot; code = plot.main(sys.argv[1:]);"
        "used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)];"
        "print('KiB', used[0] + 2 * used[1]); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--out", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert used.ru_utime + used.ru_stime < 2 * 20, "processor seconds: two cores for 20 s, however busy the machine is"
    assert int(done.stdout.split()[-1]) < 2 * 2**20
