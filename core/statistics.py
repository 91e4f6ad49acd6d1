"""Means with 95 % intervals: over seeds, over pairs, and over clusters of facts that share a subject; linear models.

And how well a probability tells right answers from wrong ones.

Both flows and the figures use these. Non-finite or empty input raises ValueError, as an interval of half the data would
be silently wrong; in `t_interval` alone, nan is what does not apply at a point, and stays nan.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy import stats

N_FIFTHS = 5
_LEVEL = 0.95
_BATCH_SIZE = 2**22  # cluster draws held at once by the bootstrap: some 100 MB


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval; nan where they cannot be estimated."""

    mean: float
    low: float
    high: float


class PairedInterval(NamedTuple):
    """The mean of paired differences, its 95 % interval, and the two-sided p-value of no difference."""

    mean: float
    low: float
    high: float
    p_value: float


class Coefficients(NamedTuple):
    """A linear model's coefficients, the ends of their 95 % intervals, and two-sided p-values of their being zero."""

    value: Float[np.ndarray, " term"]
    low: Float[np.ndarray, " term"]
    high: Float[np.ndarray, " term"]
    p_value: Float[np.ndarray, " term"]


def by_world(worlds: Sequence[int], values: Sequence[float | int | None] | np.ndarray) -> Float[np.ndarray, " world"]:
    """Return the mean of each world's values, in the order of the worlds' numbers; None counts as nan."""
    _, world = np.unique(worlds, return_inverse=True)
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.bincount(world, numbers) / np.bincount(world)


def fifth(value: Real[np.ndarray, " fact"]) -> Int[np.ndarray, " fact"]:
    """Return which fifth each value is in, 0 to 4, the largest values' first; of equal ones the first is the larger."""
    rank = np.argsort(np.argsort(-value, kind="stable"), kind="stable")
    return rank * N_FIFTHS // len(value)


def smallest_gap(n: int, accuracy: float, *, power: float = 0.8, level: float = _LEVEL) -> float:
    """Return the smallest difference of two arms' accuracies on the same questions that n questions can show.

    At this power, by a two-sided paired test. Each arm is taken to answer `accuracy` of them, apart from the other: the
    more questions they agree on, the smaller a gap is seen. An accuracy of 0 or 1 would leave nothing to vary: it is
    taken for what Laplace's rule makes of it, one more of either kind.

    Args:
        n: questions, at least 1.
        accuracy: 0 to 1.
    """
    n_errors = stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)
    if accuracy in (0.0, 1.0):
        accuracy = (accuracy * n + 1) / (n + 2)
    return float(n_errors * np.sqrt(2 * accuracy * (1 - accuracy) / n))


def mean_interval(values: Float[np.ndarray, " seed"]) -> Interval:
    """Return the mean over seeds with its t-interval; one value has no interval (nan).

    Raises:
        ValueError: if `values` is empty or not finite.
    """
    _check(values, "values")
    return Interval(*(float(end) for end in t_interval(values)))


def t_interval(
    values: Float[np.ndarray, "seed ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return the mean over seeds at each point and the ends of its t-interval; of one seed these are nan.

    A point without a finite number for every seed is nan.
    """
    n_seeds, mean = len(values), np.asarray(values.mean(axis=0))
    half = np.full(mean.shape, np.nan)
    if n_seeds > 1:
        half = stats.t.ppf((1 + _LEVEL) / 2, n_seeds - 1) * (values.std(axis=0, ddof=1) / np.sqrt(n_seeds))
    return mean, np.asarray(mean - half), np.asarray(mean + half)


def paired_interval(a: Float[np.ndarray, " seed"], b: Float[np.ndarray, " seed"]) -> PairedInterval:
    """Return the mean of a − b over seeds with its t-interval and the two-sided p-value of a paired t-test.

    One pair has neither (nan). Pairs that all differ alike have p = 0, or 1 if they do not differ.

    Raises:
        ValueError: if either is empty or not finite.
    """
    _check(a, "a")
    _check(b, "b")
    interval = mean_interval(a - b)
    if a.size == 1:
        return PairedInterval(*interval, float("nan"))
    error = float(stats.sem(a - b))
    if error == 0:
        return PairedInterval(*interval, float(interval.mean == 0))
    return PairedInterval(*interval, float(2 * stats.t.sf(abs(interval.mean) / error, a.size - 1)))


def clustered_interval(
    values: Real[np.ndarray, " fact"] | Bool[np.ndarray, " fact"],
    cluster: Int[np.ndarray, " fact"],
    *,
    seed: int,
    n_resamples: int = 1000,
) -> Interval:
    """Return the mean over facts with the percentile bootstrap interval over clusters (one cluster: nan).

    Clusters (a subject's facts) are drawn whole, with replacement; the mean of a draw is its sum of values over its
    number of facts. Memory is bounded: draws are made in batches.

    Raises:
        ValueError: if `values` is empty or not finite.
    """
    _check(values, "values")
    _, index = np.unique(cluster, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    mean = float(sums.sum() / counts.sum())
    if counts.size == 1:
        return Interval(mean, float("nan"), float("nan"))

    def ratio(total: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        return total.sum(axis=axis) / count.sum(axis=axis)

    resampled = stats.bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _BATCH_SIZE // counts.size),
        confidence_level=_LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(resampled.confidence_interval.low), float(resampled.confidence_interval.high))


def clustered_covariance(
    values: Float[np.ndarray, "fact variable"], cluster: Int[np.ndarray, " fact"]
) -> Float[np.ndarray, "variable variable"]:
    """Return the covariance of the variables' means over facts, robust to facts that share a cluster (one: nan)."""
    _, index = np.unique(cluster, return_inverse=True)
    deviation = values - values.mean(axis=0)
    sums = np.stack([np.bincount(index, weights=column) for column in deviation.T])
    n_clusters = sums.shape[1]
    correction = n_clusters / (n_clusters - 1) if n_clusters > 1 else float("nan")
    return correction * (sums @ sums.T) / len(values) ** 2


def ratio_interval(above: Float[np.ndarray, " unit"], below: Float[np.ndarray, " unit"]) -> Interval:
    """Return the sum over units of `above` over that of `below`, with the interval of `fieller`; one unit has none.

    Raises:
        ValueError: if either is empty or not finite.
    """
    _check(above, "above")
    _check(below, "below")
    n = len(above)
    covariance = np.cov(above, below) / n if n > 1 else np.full((2, 2), np.nan)
    return fieller(float(above.mean()), float(below.mean()), covariance, df=max(1, n - 1))


def fieller(
    above: float, below: float, covariance: Float[np.ndarray, "2 2"], *, df: float | int = math.inf
) -> Interval:
    """Return the ratio of two means with Fieller's interval (1954).

    It holds however near to zero `below` is: where that does not differ from zero, at the same level, any ratio may be
    the true one, and the interval is unbounded (infinite). Where it is zero, everything is nan.

    Args:
        covariance: Of the two means; where it is nan, the interval is.
        df: Degrees of freedom of the covariance.
    """
    if below == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    # The ratios r at which above − r · below does not differ from zero lie between two roots.
    (of_above, shared), (_, of_below) = stats.t.ppf((1 + _LEVEL) / 2, df) ** 2 * covariance
    lead, middle, last = below**2 - of_below, above * below - shared, above**2 - of_above
    if lead <= 0:
        return Interval(above / below, -float("inf"), float("inf"))
    root = np.sqrt(np.maximum(0.0, middle**2 - lead * last))
    return Interval(above / below, float((middle - root) / lead), float((middle + root) / lead))


def clustered_means(
    values: Float[np.ndarray, "row ..."], cluster: Int[np.ndarray, " row"]
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return the means over rows at every point, and the ends of their 95 % intervals; one cluster has none (nan).

    The standard error is robust to rows that share a cluster: each cluster's deviations are summed first. The quantile
    is Student's, with one degree of freedom less than there are clusters. In closed form, so that thousands of points
    (layers, heads, spans) cost no resampling.

    Raises:
        ValueError: if there is no row.
    """
    if not len(values):
        raise ValueError("values is empty")
    _, index = np.unique(cluster, return_inverse=True)
    n_clusters = index.max() + 1
    mean = values.mean(axis=0)
    sums = np.zeros((n_clusters, *values.shape[1:]))
    np.add.at(sums, index, values - mean)
    half = np.full_like(mean, np.nan)
    if n_clusters > 1:
        half = stats.t.ppf((1 + _LEVEL) / 2, n_clusters - 1) * np.sqrt((sums**2).sum(axis=0)) / len(values)
    return mean, mean - half, mean + half


def least_squares(matrix: Float[np.ndarray, "row term"], outcome: Float[np.ndarray, " row"]) -> Coefficients:
    """Return the coefficients of the outcome on the matrix's columns, with t-intervals: errors alike and independent.

    Raises:
        ValueError: if the rows are too few to tell the terms apart, or leave nothing to estimate the error from.
    """
    n_rows, n_terms = matrix.shape
    if n_rows <= n_terms or np.linalg.matrix_rank(matrix) < n_terms:
        raise ValueError(f"{n_rows} rows are too few for {n_terms} terms")
    value, *_ = np.linalg.lstsq(matrix, outcome, rcond=None)
    residual, spare = outcome - matrix @ value, n_rows - n_terms
    error = np.sqrt(residual @ residual / spare * np.diag(np.linalg.inv(matrix.T @ matrix)))
    half = stats.t.ppf((1 + _LEVEL) / 2, spare) * error
    with np.errstate(invalid="ignore", divide="ignore"):  # no spread at all
        p_value = np.asarray(2 * stats.t.sf(np.abs(value) / error, spare))
    return Coefficients(value, value - half, value + half, p_value)


def mcnemar(correct_a: Bool[np.ndarray, " fact"], correct_b: Bool[np.ndarray, " fact"]) -> float:
    """Return McNemar's exact two-sided p-value that two arms answer the same facts equally well.

    Binomial over the facts that exactly one of them answers; 1 if there is no such fact.

    Raises:
        ValueError: if there are no facts.
    """
    _check(correct_a, "correct_a")
    only_a, only_b = int(np.sum(correct_a & ~correct_b)), int(np.sum(correct_b & ~correct_a))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def calibration_error(
    probability: Float[np.ndarray, " answer"], correct: Bool[np.ndarray, " answer"], *, n_bins: int = 15
) -> float:
    """Return the expected calibration error, 0 to 1 (Guo et al. 2017), over bins of equally many answers.

    The mean over answers of how far their bin's accuracy is from its mean probability. Equally probable answers count
    alike, each as right as all of them on average, so that their order decides nothing where a bin ends among them.

    Args:
        probability: that an answer is given or right, 0 to 1.
        n_bins: at most as many as there are answers.

    Raises:
        ValueError: if there are no answers, or a probability is not finite.
    """
    _check(probability, "probability")
    _, level = np.unique(probability, return_inverse=True)
    right = (np.bincount(level, weights=correct) / np.bincount(level))[level]
    bins = np.array_split(np.argsort(probability, kind="stable"), min(n_bins, len(probability)))
    gaps = [abs((right[rows] - probability[rows]).sum()) for rows in bins]
    return float(np.sum(gaps) / len(probability))


def average_precision(score: Float[np.ndarray, " answer"], correct: Bool[np.ndarray, " answer"]) -> float:
    """Return the average precision of right answers ranked by a score, 0 to 1; nan where none is right.

    The sum over thresholds, from the highest score, of precision times the recall that is added there. Equal scores
    share a threshold; a score that says nothing has the share of right answers.

    Raises:
        ValueError: if there are no answers, or a score is not finite.
    """
    _check(score, "score")
    _, rank = np.unique(-score, return_inverse=True)
    n_right = np.bincount(rank, weights=correct)
    precision = n_right.cumsum() / np.bincount(rank).cumsum()
    return float(n_right @ precision / n_right.sum()) if n_right.any() else float("nan")


def _check(values: np.ndarray, name: str) -> None:
    """Raise ValueError unless there are values and all of them are finite."""
    if values.size == 0:
        raise ValueError(f"{name} is empty")
    n_bad = int(np.sum(~np.isfinite(values)))
    if n_bad:
        raise ValueError(f"{name} holds {n_bad} of {values.size} entries that are not finite")
