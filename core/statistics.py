"""Means with 95 % intervals: over seeds, over pairs, and over clusters of facts that share a subject.

Both flows use these. Non-finite or empty input raises ValueError: an interval of half the data would be silently wrong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy import stats

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


def by_world(worlds: Sequence[int], values: Sequence[float | None] | np.ndarray) -> Float[np.ndarray, " world"]:
    """Return the mean of each world's values, in the order of the worlds' numbers; None counts as nan."""
    _, world = np.unique(worlds, return_inverse=True)
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.bincount(world, numbers) / np.bincount(world)


def mean_interval(values: Float[np.ndarray, " seed"]) -> Interval:
    """Return the mean over seeds with its t-interval; one value has no interval (nan).

    Raises:
        ValueError: if `values` is empty or not finite.
    """
    _check(values, "values")
    mean, half = float(np.mean(values)), float("nan")
    if values.size > 1:
        half = float(stats.t.ppf((1 + _LEVEL) / 2, values.size - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


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
    _, index, counts = np.unique(cluster, return_inverse=True, return_counts=True)
    sums = np.bincount(index, weights=values)
    mean = float(np.mean(values))
    if counts.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    resampled = stats.bootstrap(
        (sums, counts),
        lambda total, count, axis=-1: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, _BATCH_SIZE // counts.size),
        confidence_level=_LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(resampled.confidence_interval.low), float(resampled.confidence_interval.high))


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


def mcnemar(correct_a: Bool[np.ndarray, " fact"], correct_b: Bool[np.ndarray, " fact"]) -> float:
    """Return McNemar's exact two-sided p-value that two arms answer the same facts equally well.

    Binomial over the facts that exactly one of them answers; 1 if there is no such fact.

    Raises:
        ValueError: if there are no facts.
    """
    _check(correct_a, "correct_a")
    only_a, only_b = int(np.sum(correct_a & ~correct_b)), int(np.sum(correct_b & ~correct_a))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _check(values: np.ndarray, name: str) -> None:
    """Raise ValueError unless there are values and all of them are finite."""
    if values.size == 0:
        raise ValueError(f"{name} is empty")
    n_bad = int(np.sum(~np.isfinite(values)))
    if n_bad:
        raise ValueError(f"{name} holds {n_bad} of {values.size} entries that are not finite")
