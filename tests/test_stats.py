"""Statistics: numbers worked out by hand, agreement with rliable, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from utils.analysis import stats

RNG = np.random.default_rng(0)
SHAPES = [(3, 1), (4, 1), (5, 1), (10, 1), (7, 3), (5, 26)]


def test_point_estimates_by_hand():
    scores = [0.0, 1.0, 2.0, 3.0, 100.0]
    assert stats.mean(scores) == pytest.approx(21.2)
    assert stats.median(scores) == 2.0
    assert stats.iqm(scores) == pytest.approx(2.0)  # one score cut at each end
    assert stats.iqm([1.0, 2.0, 6.0]) == pytest.approx(3.0)  # nothing to cut below four
    assert stats.optimality_gap(scores, 2.0) == pytest.approx((2 + 1 + 0 + 0 + 0) / 5)
    assert stats.probability_of_improvement([1.0, 3.0], [0.0, 1.0, 2.0]) == pytest.approx((1 + 0.5 + 0 + 3) / 6)
    assert stats.performance_profile(scores, [-1.0, 1.0, 100.0]).tolist() == [1.0, 0.6, 0.0]


@pytest.mark.parametrize("shape", SHAPES)
def test_estimates_agree_with_rliable(shape):
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    scores = RNG.normal(size=shape)
    other = RNG.normal(0.5, 1, size=(shape[0] + 2, shape[1]))
    assert stats.mean(scores) == pytest.approx(metrics.aggregate_mean(scores), abs=1e-9)
    assert stats.iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-9)
    assert stats.optimality_gap(scores, 0.7) == pytest.approx(metrics.aggregate_optimality_gap(scores, 0.7), abs=1e-9)
    if shape[1] > 1:  # for one task rliable's median is the mean of the runs; ours is the median of the runs
        assert stats.median(scores) == pytest.approx(metrics.aggregate_median(scores), abs=1e-9)
    ours, theirs = stats.probability_of_improvement(scores, other), metrics.probability_of_improvement(scores, other)
    assert ours == pytest.approx(theirs, abs=1e-9)
    taus = np.linspace(-2, 2, 41)
    profile = [library.run_score_deviation(scores, tau) for tau in taus]
    assert stats.performance_profile(scores, taus) == pytest.approx(np.array(profile), abs=1e-9)


@pytest.mark.parametrize("shape", [(10, 1), (8, 5)])
def test_unscaled_intervals_agree_with_rliable_within_bootstrap_error(shape):
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    scores = RNG.normal(size=shape)
    for ours, theirs in ((stats.mean, metrics.aggregate_mean), (stats.iqm, metrics.aggregate_iqm)):
        mine = stats.bootstrap_interval(scores, ours, replications=8000, scaled=False)
        _, limits = library.get_interval_estimates({"x": scores}, lambda s, f=theirs: np.array([f(s)]), reps=4000)
        width = mine.high - mine.low
        assert np.abs(np.array(mine) - limits["x"][:, 0]).max() < 0.08 * width


def test_wilson_interval_agrees_with_scipy():
    for k, n in ((0, 5), (1, 5), (5, 5), (40, 100)):
        theirs = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
        assert stats.wilson_interval(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert stats.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes must be in 0..trials, got 6 of 5"):
        stats.wilson_interval(6, 5)


def test_the_scaled_interval_of_a_normal_mean_is_nearly_students():
    scores = scipy_stats.norm.ppf((np.arange(10) + 0.5) / 10)
    theirs = scipy_stats.t.interval(0.95, 9, loc=scores.mean(), scale=scores.std(ddof=1) / math.sqrt(10))
    assert stats.bootstrap_interval(scores) == pytest.approx(theirs, abs=0.05 * (theirs[1] - theirs[0]))


def test_intervals_repeat_and_need_two_runs():
    scores = RNG.normal(size=6)
    assert stats.bootstrap_interval(scores, stats.iqm) == stats.bootstrap_interval(scores, stats.iqm)
    assert all(math.isnan(end) for end in stats.bootstrap_interval([1.0]))
    assert stats.bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert stats.bootstrap_interval([0.9, 1.0, 1.0], bounds=(0, 1)).high == 1.0
    with pytest.raises(ValueError, match="finite"):
        stats.bootstrap_interval([1.0, math.nan])


def test_every_run_better_does_not_make_improvement_certain():
    interval = stats.probability_interval(np.arange(5) + 10.0, np.arange(5.0))
    assert interval.high == 1.0 and 0.6 < interval.low < 0.7
    mirrored = stats.probability_interval(np.arange(5.0), np.arange(5) + 10.0)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx(interval, abs=1e-3)
    assert stats.smallest_p_value(3, 3) == pytest.approx(0.1)
    assert stats.smallest_p_value(5, 5) == pytest.approx(2 / 252)


def test_median_interval_by_order_statistics_takes_never_as_a_value():
    interval, coverage = stats.median_interval([3.0, 1.0, math.inf, 2.0, 4.0])
    assert interval == (1.0, math.inf) and coverage == pytest.approx(0.9375)
    interval, coverage = stats.median_interval([float(i) for i in range(10)])
    assert interval == (1.0, 8.0) and coverage == pytest.approx(1 - 2 * 11 / 1024)


@pytest.mark.parametrize("name", sorted(stats.ESTIMATORS))
def test_the_band_of_curves_is_the_interval_at_every_point(name):
    curves = RNG.normal(size=(6, 4)).cumsum(axis=1)
    low, high = stats.bootstrap_band(curves, name, replications=2000)
    function = {"mean": stats.mean, "iqm": stats.iqm, "median": stats.median}[name]
    for g in range(4):
        assert (low[g], high[g]) == pytest.approx(stats.bootstrap_interval(curves[:, g], function), abs=1e-9)
        assert stats.curve(curves, name)[g] == pytest.approx(function(curves[:, g]), abs=1e-12)


def test_profile_bands_hold_the_profile_and_stay_in_zero_to_one():
    for shape in ((5, 1), (5, 4)):
        scores, taus = RNG.normal(size=shape), np.linspace(-3, 3, 30)
        low, high = stats.profile_band(scores, taus)
        profile = stats.performance_profile(scores, taus)
        assert (low <= profile + 1e-12).all() and (profile <= high + 1e-12).all() and low.min() >= 0 and high.max() <= 1
    assert stats.profile_band(np.arange(5.0), [-1.0])[0][0] < 0.6, "five runs above tau do not prove that all are"


def test_samples_that_agree_within_groups_count_once():
    """n^2 / sum of n_g^2: groups of 2 and 2 are worth 2, of 3 and 1 1.6, single ones themselves."""
    assert stats.effective_size("aabb") == 2 and stats.effective_size("abcd") == 4 and stats.effective_size("aaaa") == 1
    assert stats.effective_size("aaab") == 16 / 10 and stats.effective_size(["x"]) == 1
    assert stats.effective_size("a" * 31 + "b") == pytest.approx(1024 / 962)


def test_an_interval_of_groups_is_wilsons_at_what_they_are_worth():
    """By hand for 6 of 8 in four pairs, z = 1.96: (3/4 + z^2/8) / (1 + z^2/4) = 0.6275 +- 0.3269."""
    pairs = stats.grouped_interval([True] * 6 + [False] * 2, "aabbccdd")
    assert pairs == pytest.approx((0.3007, 0.9544), abs=1e-4) and pairs == stats.wilson_interval(3, 4)
    assert stats.grouped_interval([True] * 9 + [False], range(10)) == stats.wilson_interval(9, 10)
    same_film = stats.grouped_interval([True] * 32, "a" * 31 + "b")
    assert same_film.low < 0.25 and same_film.high == 1.0, "31 equal episodes and another one prove next to nothing"
    assert all(math.isnan(bound) for bound in stats.grouped_interval([True] * 32, "a" * 32))
    with pytest.raises(ValueError, match="8 samples, got 4"):
        stats.grouped_interval([True] * 8, "abcd")


def test_the_interval_of_a_rate_covers_where_starts_decide():
    """100 episodes from 31 starts, each of which decides its episodes: Wilson's own covers 63%, this one 96%."""
    rng, inside = np.random.default_rng(0), np.zeros(2)
    for _ in range(1000):
        starts = rng.integers(31, size=100)
        cleared = (rng.random(31) < 0.9)[starts]
        intervals = stats.grouped_interval(cleared, starts.tolist()), stats.wilson_interval(int(cleared.sum()), 100)
        for i, (low, high) in enumerate(intervals):
            inside[i] += low <= 0.9 <= high
    assert inside[0] >= 930 and inside[1] < 700, inside


def test_area_under_curve_by_hand():
    x, y = [0.0, 10.0, 20.0], [0.0, 10.0, 10.0]
    assert stats.area_under_curve(x, y, 0, 20) == pytest.approx((50 + 100) / 20)
    assert stats.area_under_curve(x, y, 5, 15) == pytest.approx((37.5 + 50) / 10)
    with pytest.raises(ValueError, match=r"range \[0, 30\]"):
        stats.area_under_curve(x, y, 0, 30)


def test_steps_to_a_threshold_first_and_for_good():
    x = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert stats.steps_to_threshold(x, [0, 5, 1, 5, 6], 5) == (2.0, 4.0)
    assert stats.steps_to_threshold(x, [0, 5, 6, 7, 1], 5) == (2.0, math.inf)
    assert stats.steps_to_threshold(x, [5, 5, 5, 5, 5], 5) == (1.0, 1.0)
    assert stats.steps_to_threshold(x, [0, 0, 0, 0, 0], 5) == (math.inf, math.inf)


DRAWS = {
    "normal": (lambda rng, size: rng.normal(size=size), {"mean": 0.0, "iqm": 0.0, "median": 0.0}),
    "uniform": (lambda rng, size: rng.uniform(size=size), {"mean": 0.5, "iqm": 0.5, "median": 0.5}),
    "t3": (lambda rng, size: rng.standard_t(3, size=size), {"mean": 0.0, "iqm": 0.0, "median": 0.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, 10])
@pytest.mark.parametrize("draw", sorted(DRAWS))
@pytest.mark.parametrize("name", ["mean", "iqm", "median"])
def test_the_95_percent_interval_covers_90_to_98_percent(name, draw, runs):
    rng, function = np.random.default_rng([runs, len(draw), len(name)]), getattr(stats, name)
    sample, truth = DRAWS[draw]
    inside = 0
    for _ in range(500):
        interval = stats.bootstrap_interval(sample(rng, runs), function, replications=1000)
        inside += interval.low <= truth[name] <= interval.high
    assert 0.90 <= inside / 500 <= 0.985, f"coverage {inside / 500:.3f}"  # 0.98 and one standard error of 500 draws


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, 10])
def test_intervals_of_differences_and_probabilities_cover(runs):
    rng = np.random.default_rng(runs)
    probability = float(scipy_stats.norm.cdf(1 / math.sqrt(1 + 9)))
    inside = np.zeros(3)
    for _ in range(500):
        a, b, c = rng.normal(1, 1, runs), rng.normal(0, 3, runs), rng.normal(0, 1, runs)
        difference = stats.difference_interval(a, b, replications=1000)
        equal = stats.probability_interval(a - 1, c)
        unequal = stats.probability_interval(a, b)
        inside += [
            difference.low <= 1 <= difference.high,
            equal.low <= 0.5 <= equal.high,
            unequal.low <= probability <= unequal.high,
        ]
    assert (inside / 500 >= 0.90).all() and (inside / 500 <= 0.985).all(), inside / 500
