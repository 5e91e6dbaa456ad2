"""Statistics for a handful of training runs: point estimates, and 95% intervals that hold at 5 seeds.

The estimates are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(NeurIPS 2021), and agree with their library. The intervals are not their percentile bootstrap: with 5 runs of normal
scores its 95% interval for the mean covers 83% (simulation, 1000 repetitions), because resampling sees the variance
of n values divided by n, not n - 1, and takes normal quantiles where Student's are due. `bootstrap_interval` resamples
in the same stratified way and then widens the interval by exactly that factor (`small_sample_scale`):

    coverage of the nominal 95% interval       n=5: percentile  scaled      n=10: percentile  scaled
      mean, normal scores                               0.83     0.94                 0.90     0.94
      mean, uniform                                     0.85     0.95                 0.92     0.96
      mean, Student t with 3 degrees                    0.81     0.96                 0.89     0.95
      mean, skewed: beta(5, 1)                          0.82     0.91                 0.90     0.93
      IQM, normal                                       0.91     0.96                 0.95     0.97
      IQM, half of the seeds fail                       0.94     0.94                 0.93     0.97
      mean, one seed in five fails                      0.68     0.76                 0.87     0.88
      mean, lognormal                                   0.71     0.82                 0.81     0.85

The last two rows are a limit of the data, not of the method: a third of all samples of 5 hold no failing seed at all,
and nothing computed from them can know of it. `tests/test_stats.py` repeats the simulation.

Letters of shapes: R runs (seeds), K tasks, B bootstrap replications, G points of a common grid.
Scores are arrays (R,) or (R, K). Every random draw comes from `utils.seeding`: the same data, the same interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

from utils.seeding import Purpose, generator

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

LEVEL = 0.95
REPLICATIONS = 2000


class Interval(NamedTuple):
    """A confidence interval; NaN at both ends where one run is all there is."""

    low: float
    high: float


# ---------------------------------------------------------------------------------------------- point estimates


def _matrix(scores: ArrayLike) -> Array:
    """Return scores as float64 (..., R, K): a vector becomes one task."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim < 2 or array.shape[-1] == 0 or array.shape[-2] == 0:
        raise ValueError(f"scores must have shape (runs,) or (runs, tasks), one run at least, got {np.shape(scores)}")
    return array


def mean(scores: ArrayLike) -> Array:
    """Return the mean over runs and tasks, shape (...) for scores (..., R, K)."""
    return _matrix(scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> Array:
    """Return the median: over runs for one task; for several, over tasks of each task's mean (Agarwal et al., 4.3)."""
    array = _matrix(scores)
    if array.shape[-1] == 1:
        return np.median(array[..., 0], axis=-1)
    return np.median(array.mean(axis=-2), axis=-1)


def iqm(scores: ArrayLike) -> Array:
    """Return the interquartile mean: the mean of what is left when floor(RK/4) scores are cut at each end.

    With fewer than 4 scores nothing is cut and it equals the mean.
    """
    array = _matrix(scores)
    flat = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)  # (..., R K)
    cut = int(0.25 * flat.shape[-1])
    return flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: ArrayLike, target: float) -> Array:
    """Return how far the scores fall short of `target` on average: mean(max(target - score, 0))."""
    return np.maximum(target - _matrix(scores), 0.0).mean(axis=(-2, -1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """Return P(X > Y) + P(X = Y)/2 for one run of each, averaged over tasks: the Mann-Whitney U divided by R_x R_y.

    Args:
        x: scores (R_x,) or (R_x, K).
        y: scores (R_y,) or (R_y, K).

    Raises:
        ValueError: the numbers of tasks differ.
    """
    a, b = _matrix(x), _matrix(y)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"x and y must have the same number of tasks, got {a.shape[-1]} and {b.shape[-1]}")
    wins = np.sign(a[:, None, :] - b[None, :, :])  # (R_x, R_y, K)
    return float(0.5 + 0.5 * wins.mean())


def performance_profile(scores: ArrayLike, taus: ArrayLike) -> Array:
    """Return the share of runs and tasks with a score above each tau, shape of `taus` (Agarwal et al., section 4.2)."""
    array = _matrix(scores)
    return (array[..., None] > np.asarray(taus, dtype=np.float64)).mean(axis=(0, 1))


# ---------------------------------------------------------------------------------------------- intervals


def small_sample_scale(runs: int, tasks: int = 1, *, level: float = LEVEL, linear: bool = True) -> float:
    """Return the factor by which a bootstrap interval of few runs is too narrow.

    A resample of R values has variance (R - 1)/R s^2, and a normal quantile z stands where Student's t with
    K (R - 1) degrees of freedom belongs: factor = t/z sqrt(R/(R - 1)), 1.58 for 5 runs and 1.22 for 10. For the mean
    of normal scores the scaled interval is Student's interval (compare Hesterberg, "What Teachers Should Know About
    the Bootstrap", 2015, section 3.3, who widens the percentiles instead, which cannot leave the range of the data).

    Args:
        linear: the statistic is a mean or nearly one; a median's bootstrap variance is not biased: only t/z is due
            (a median of two is their mean).
    """
    if runs < 2:
        return math.nan
    tail = 0.5 + level / 2
    ratio = float(scipy_stats.t.ppf(tail, tasks * (runs - 1)) / scipy_stats.norm.ppf(tail))
    return ratio * math.sqrt(runs / (runs - 1)) if linear or runs < 3 else ratio


def resample(scores: ArrayLike, replications: int = REPLICATIONS, seed: int = 0) -> Array:
    """Return B stratified resamples (B, R, K): within each task the runs are drawn with replacement, tasks stay."""
    array = _matrix(scores)
    runs, tasks = array.shape
    rows = np.stack([_rows(runs, replications, seed, task) for task in range(tasks)], axis=-1)  # (B, R, K)
    return array[rows, np.arange(tasks)]


def _rows(runs: int, replications: int, seed: int, stratum: int) -> NDArray[np.int64]:
    """Return indices of runs (B, R) for one stratum."""
    return generator(seed, stratum, Purpose.BOOTSTRAP).integers(runs, size=(replications, runs))


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = LEVEL,
    replications: int = REPLICATIONS,
    scaled: bool = True,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
) -> Interval:
    """Return the stratified-bootstrap interval of a statistic.

    Args:
        scores: (R,) or (R, K), finite.
        statistic: takes (B, R, K), returns (B,): `mean`, `median`, `iqm`, or one of your own.
        level: nominal coverage in (0, 1).
        scaled: widen about the estimate by `small_sample_scale`; False is the plain percentile interval.
        bounds: values that the statistic cannot leave, such as (0, 1) for a rate.

    Returns:
        the interval; (nan, nan) for a single run; of zero width where all runs agree, which proves nothing.
    """
    array = _matrix(scores)
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite")
    runs, tasks = array.shape
    if runs < 2:
        return Interval(math.nan, math.nan)
    estimate = float(statistic(array))
    samples = statistic(resample(array, replications, seed))
    low, high = np.quantile(samples, [0.5 - level / 2, 0.5 + level / 2])
    if scaled:
        factor = small_sample_scale(runs, tasks, level=level, linear=statistic is not median)
        low, high = estimate + factor * (low - estimate), estimate + factor * (high - estimate)
    return Interval(float(np.clip(low, *bounds)), float(np.clip(high, *bounds)))


def difference_interval(
    x: ArrayLike,
    y: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = LEVEL,
    replications: int = REPLICATIONS,
) -> Interval:
    """Return the interval of statistic(x) - statistic(y); each side's deviations are scaled by its own runs."""
    sides = [_matrix(x), _matrix(y)]
    if min(side.shape[0] for side in sides) < 2:
        return Interval(math.nan, math.nan)
    deviations = []
    for index, side in enumerate(sides):
        factor = small_sample_scale(*side.shape, level=level, linear=statistic is not median)
        deviations.append(factor * (statistic(resample(side, replications, seed=index)) - statistic(side)))
    centre = float(statistic(sides[0]) - statistic(sides[1]))
    low, high = np.quantile(deviations[0] - deviations[1], [0.5 - level / 2, 0.5 + level / 2])
    return Interval(centre + float(low), centre + float(high))


def probability_interval(x: ArrayLike, y: ArrayLike, *, level: float = LEVEL) -> Interval:
    """Return the interval of `probability_of_improvement` for one task by inverting its score test.

    Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2" (Statistics
    in Medicine 25, 2006), method 5: all p with |p - U/(mn)| <= z sqrt(V(p)),
    V(p) = p (1 - p) [1 + N (1 - p)/(2 - p) + N p/(1 + p)] / (mn), N = (m + n)/2 - 1.
    Unlike the bootstrap it stays honest where every run of X beats every run of Y: 5 to 5 gives [0.64, 1], not [1, 1].
    """
    a, b = _matrix(x), _matrix(y)
    if a.shape[1] != 1 or b.shape[1] != 1:
        raise ValueError("probability_interval takes one task; for several, bootstrap probability_of_improvement")
    m, n = a.shape[0], b.shape[0]
    estimate = probability_of_improvement(a, b)
    p = np.linspace(0.0, 1.0, 20001)
    shape = 1 + ((m + n) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))
    z = scipy_stats.norm.ppf(0.5 + level / 2)
    inside = p[np.abs(p - estimate) <= z * np.sqrt(p * (1 - p) * shape / (m * n)) + 1e-12]
    return Interval(float(min(inside[0], estimate)), float(max(inside[-1], estimate)))


def wilson_interval(successes: int, trials: int, *, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a proportion (JASA 22, 1927); (0, 1) without trials.

    It assumes independent trials: for the episodes of one policy see `grouped_interval`; for episodes pooled over
    seeds it is too narrow.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in 0..trials, got {successes} of {trials}")
    return _wilson(successes / trials, trials, level) if trials else Interval(0.0, 1.0)


def _wilson(p: float, trials: float, level: float) -> Interval:
    z = float(scipy_stats.norm.ppf(0.5 + level / 2))
    shrink = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Interval(min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def effective_size(groups: Sequence[Hashable]) -> float:
    """Return how many independent samples those are worth that agree within groups: n^2 / sum of n_g^2.

    Kish, "Survey Sampling" (1965), section 5.4: the variance of a mean over n samples in groups of n_g is that of
    independent ones times the design effect 1 + rho (sum of n_g^2 / n - 1), rho being the correlation within a group.
    Here rho = 1. It is the number of groups where all are equally large, less where they are not: 31 equal samples and
    another one are worth 32^2 / (31^2 + 1^2) = 1.06.

    Args:
        groups: of each sample, the name of its group; at least one.
    """
    sizes = Counter(groups).values()
    return sum(sizes) ** 2 / sum(size * size for size in sizes)


def grouped_interval(successes: Sequence[bool], groups: Sequence[Hashable], *, level: float = LEVEL) -> Interval:
    """Return the interval of a proportion of samples that are not independent within groups.

    Wilson's interval of their share, at the number of samples that they are worth: Rao and Scott, "A simple method for
    the analysis of clustered binary data" (Biometrics 48, 1992), who divide the counts by the design effect. Theirs is
    estimated from the spread between groups, and so is a bootstrap over groups: where all samples agree, as those of a
    good policy do, both give an interval of width 0. `effective_size` takes the largest effect there can be instead.

    Coverage of the nominal 95% where each of 100 episodes begins at one of 31 starts (simulation, 4000 repetitions,
    true share 0.9), by what share of the outcome the start decides:

                                               all   half  a tenth  nothing
        Wilson's, 100 trials                  0.63   0.76    0.90     0.94
        Wilson's, one trial per start         0.94   0.98    1.00     1.00
        this one                              0.96   0.99    1.00     1.00

    Where hardly any two episodes share a start, all three agree.

    Args:
        successes: of each sample, whether it is counted.
        groups: of each sample, the name of its group.

    Returns:
        the interval; (nan, nan) for one group, in which nothing varies that the interval could be about.
    """
    if len(successes) != len(groups):
        raise ValueError(f"groups must name one for each of {len(successes)} samples, got {len(groups)}")
    if len(set(groups)) < 2:
        return Interval(math.nan, math.nan)
    return _wilson(sum(map(bool, successes)) / len(groups), effective_size(groups), level)


def median_interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[Interval, float]:
    """Return the distribution-free interval of a median by order statistics, and the coverage it really has.

    Infinite values (a threshold never reached) are welcome. The k-th smallest and k-th largest of n values enclose the
    median with probability 1 - 2 P(Binomial(n, 1/2) < k); the largest k that keeps `level` is taken, and the whole
    range where none does: 93.75% for 5 values, 75% for 3.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n < 2:
        return Interval(math.nan, math.nan), 0.0
    coverage = [1 - 2 * float(scipy_stats.binom.cdf(k - 1, n, 0.5)) for k in range(1, n // 2 + 1)]
    k = max([i + 1 for i, c in enumerate(coverage) if c >= level], default=1)
    return Interval(float(ordered[k - 1]), float(ordered[n - k])), coverage[k - 1]


def profile_band(scores: ArrayLike, taus: ArrayLike, *, level: float = LEVEL) -> tuple[Array, Array]:
    """Return the pointwise band (low, high) of `performance_profile`.

    For one task each point is a proportion of R runs: Wilson's interval. For several tasks: the scaled bootstrap.
    """
    array, grid = _matrix(scores), np.asarray(taus, dtype=np.float64)
    runs, tasks = array.shape
    if tasks == 1:
        counts = (array > grid).sum(axis=0)
        table = np.array([wilson_interval(k, runs, level=level) for k in range(runs + 1)])
        return table[counts, 0], table[counts, 1]
    bands = [bootstrap_interval((array > tau).astype(float), mean, level=level, bounds=(0, 1)) for tau in grid]
    return np.array([band.low for band in bands]), np.array([band.high for band in bands])


# ---------------------------------------------------------------------------------------------- curves

ESTIMATORS: dict[str, Callable[[int], int]] = {  # how many of n sorted values are cut at each end
    "mean": lambda n: 0,
    "iqm": lambda n: int(0.25 * n),
    "median": lambda n: (n - 1) // 2,
}


def curve(values: ArrayLike, estimator: str = "mean") -> Array:
    """Return the estimate (G,) at each point of curves (R, G); `estimator` is a key of ESTIMATORS."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=0)
    cut = _cut(estimator, len(ordered))
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def bootstrap_band(
    values: ArrayLike,
    estimator: str = "mean",
    *,
    level: float = LEVEL,
    replications: int = 1000,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return the pointwise scaled bootstrap band (low, high), each (G,), of curves (R, G).

    Whole runs are resampled, the same ones at every point, and the interval is widened as in `bootstrap_interval`.
    Each replication is kept as the count of each run, from which any trimmed mean follows without copying the curves:
    with counts in the order of the values, the kept share of each value is the part of its cumulated count inside
    [cut, R - cut]. NaN for a single run.

    The scaled band may be wider than its seeds, as an interval for a mean has to be; it ends at `bounds`, the values
    that the quantity itself cannot leave, and nowhere else.
    """
    array = np.asarray(values, dtype=np.float64)
    runs, points = array.shape
    if runs < 2:
        return np.full(points, np.nan), np.full(points, np.nan)
    rows = _rows(runs, replications, seed, 0)
    counts = np.stack([np.bincount(row, minlength=runs) for row in rows]).astype(np.float64)  # (B, R)
    cut = _cut(estimator, runs)
    if cut == 0:
        samples = counts @ array / runs  # (B, G)
    else:
        samples = np.stack([_trimmed(counts, column, cut) for column in array.T], axis=1)
    low, high = np.quantile(samples, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    centre = curve(array, estimator)
    factor = small_sample_scale(runs, level=level, linear=estimator != "median")
    low, high = np.clip([centre + factor * (low - centre), centre + factor * (high - centre)], *bounds)
    return low, high


def _cut(estimator: str, runs: int) -> int:
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    return ESTIMATORS[estimator](runs)


def _trimmed(counts: Array, column: Array, cut: int) -> Array:
    """Return the trimmed mean (B,) of each resample of column (R,), given as counts (B, R)."""
    order = np.argsort(column, kind="stable")
    inside = np.clip(np.cumsum(counts[:, order], axis=1), cut, len(column) - cut)
    kept = np.diff(inside, axis=1, prepend=cut)
    return kept @ column[order] / (len(column) - 2 * cut)


def area_under_curve(x: ArrayLike, y: ArrayLike, low: float, high: float) -> float:
    """Return the mean height of y over low <= x <= high: the trapezoid area divided by high - low, in units of y.

    Raises:
        ValueError: the range is empty or leaves the range of x.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not xs[0] <= low < high <= xs[-1]:
        raise ValueError(f"range [{low:g}, {high:g}] must be non-empty and inside [{xs[0]:g}, {xs[-1]:g}]")
    inside = (xs > low) & (xs < high)
    grid = np.concatenate([[low], xs[inside], [high]])
    heights = np.concatenate([[np.interp(low, xs, ys)], ys[inside], [np.interp(high, xs, ys)]])
    return float(np.sum(np.diff(grid) * (heights[1:] + heights[:-1]) / 2) / (high - low))


def steps_to_threshold(x: ArrayLike, y: ArrayLike, threshold: float) -> tuple[float, float]:
    """Return the x of the first row with y >= threshold, and of the first row from which no later row falls below it.

    Infinity where there is none. A threshold held by the last row alone counts as sustained there: look at the curve.
    """
    xs, above = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64) >= threshold
    if not above.any():
        return math.inf, math.inf
    first = float(xs[np.argmax(above)])
    if not above[-1]:
        return first, math.inf
    below = np.flatnonzero(~above)
    return first, float(xs[below[-1] + 1] if len(below) else xs[0])


def smallest_p_value(runs_x: int, runs_y: int) -> float:
    """Return the smallest two-sided p of an exact rank test: 2 / C(m + n, m), what complete separation would give.

    Above 0.05 (3 runs against 3: 0.1) no ranking of the runs, however clear, can show a difference at the 95% level.
    """
    return min(1.0, 2.0 / math.comb(runs_x + runs_y, runs_x))
