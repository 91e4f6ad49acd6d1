"""Intervals against scipy, against known coverage, and their refusals."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from core import statistics


def test_mean_interval_is_scipys_t_interval():
    values = np.random.default_rng(0).normal(2, 1, 7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert statistics.mean_interval(values) == pytest.approx((values.mean(), expected.low, expected.high))


def test_mean_interval_of_one_value_has_no_ends_and_of_equal_values_no_width():
    mean, low, high = statistics.mean_interval(np.array([3.0]))
    assert mean == 3 and np.isnan(low) and np.isnan(high)
    assert statistics.mean_interval(np.full(4, 0.25)) == (0.25, 0.25, 0.25)


def test_t_interval_is_scipys_at_each_point_and_nan_where_a_number_is_missing():
    values = np.random.default_rng(4).normal(size=(5, 2, 3))
    mean, low, high = statistics.t_interval(values)
    expected = stats.t.interval(0.95, 4, loc=values.mean(axis=0), scale=stats.sem(values))
    np.testing.assert_allclose([low, high], expected)
    np.testing.assert_array_equal(mean, values.mean(axis=0))
    values[2, 0, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(statistics.t_interval(values)).sum(axis=(1, 2)), 1)
    assert np.isnan(statistics.t_interval(values[:1])[1]).all()


def test_least_squares_gives_what_a_regression_of_another_make_does():
    x = np.array([0.0, 1.0, 2.0, 3.0, 5.0])
    y = np.array([1.0, 0.5, 2.5, 2.0, 4.0])
    found = statistics.least_squares(np.column_stack([np.ones(5), x]), y)
    other: Any = stats.linregress(x, y)
    np.testing.assert_allclose(found.value, [other.intercept, other.slope])
    half = stats.t.ppf(0.975, 3) * np.array([other.intercept_stderr, other.stderr])
    np.testing.assert_allclose([found.value - found.low, found.high - found.value], [half, half])
    assert found.p_value[1] == pytest.approx(other.pvalue)


@pytest.mark.parametrize("matrix", [np.eye(2), np.ones((4, 2)), np.ones((0, 2))])
def test_least_squares_refuses_rows_that_do_not_tell_the_terms_apart_or_leave_no_error(matrix):
    with pytest.raises(ValueError, match=f"{len(matrix)} rows are too few for 2 terms"):
        statistics.least_squares(matrix, np.zeros(len(matrix)))


def test_paired_interval_is_scipys_paired_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 9), rng.normal(0, 1, 9)
    test = stats.ttest_rel(a, b)
    expected = (np.mean(a - b), *test.confidence_interval(0.95), test.pvalue)
    assert statistics.paired_interval(a, b) == pytest.approx(expected)


def test_paired_interval_of_differences_that_do_not_vary_is_certain_either_way():
    a = np.array([0.5, 1.0, 2.0])
    assert statistics.paired_interval(a, a) == (0, 0, 0, 1)
    assert statistics.paired_interval(a + 1, a) == (1, 1, 1, 0)
    assert np.isnan(statistics.paired_interval(a[:1], a[:1]).p_value)


def test_clustered_interval_covers_the_truth_about_as_often_as_it_says_where_a_naive_one_does_not():
    rng = np.random.default_rng(2)
    n_trials, n_clusters, size = 200, 60, 5
    covered, naive = 0, 0
    cluster = np.repeat(np.arange(n_clusters), size)
    for trial in range(n_trials):
        values = rng.normal(size=n_clusters)[cluster] + 0.3 * rng.normal(size=cluster.size)
        interval = statistics.clustered_interval(values, cluster, seed=trial, n_resamples=400)
        covered += interval.low <= 0 <= interval.high
        facts = statistics.mean_interval(values)
        naive += facts.low <= 0 <= facts.high
    assert 0.89 <= covered / n_trials <= 0.985
    assert naive / n_trials < 0.75


def test_clustered_interval_resamples_a_ratio_of_sums_over_clusters_of_any_size_and_label():
    rng = np.random.default_rng(3)
    cluster = rng.choice([7, -2, 900, 41, 5], size=300, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    correct = rng.random(300) < 0.1 + 0.6 * (cluster == 7)
    found = statistics.clustered_interval(correct, cluster, seed=0, n_resamples=4000)
    labels = np.unique(cluster)
    sums, counts = (np.array([f(correct[cluster == label]) for label in labels]) for f in (np.sum, np.size))
    drawn = rng.integers(0, 5, (40_000, 5))
    expected = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    assert found.mean == correct.mean()
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)


def test_clustered_interval_is_the_same_for_the_same_seed_and_in_batches(monkeypatch):
    values, cluster = np.random.default_rng(4).normal(size=400), np.arange(400) // 2
    first = statistics.clustered_interval(values, cluster, seed=5)
    assert first == statistics.clustered_interval(values, cluster, seed=5)
    assert first != statistics.clustered_interval(values, cluster, seed=6)
    monkeypatch.setattr(statistics, "_BATCH_SIZE", 200 * 10)
    assert first == pytest.approx(statistics.clustered_interval(values, cluster, seed=5))


def test_clustered_interval_of_one_cluster_has_no_ends():
    mean, low, high = statistics.clustered_interval(np.array([1, 0]), np.array([3, 3]), seed=0)
    assert mean == 0.5 and np.isnan(low) and np.isnan(high)


def test_mcnemar_is_binomial_over_the_facts_that_one_arm_alone_answers():
    a = np.array([True] * 9 + [False] * 2 + [True] * 20)
    b = np.array([False] * 9 + [True] * 2 + [True] * 20)
    assert statistics.mcnemar(a, b) == pytest.approx(2 * sum(stats.binom.pmf(k, 11, 0.5) for k in range(3)))
    assert statistics.mcnemar(a, a) == 1


@pytest.mark.parametrize("bad", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf, 0.0])])
def test_empty_and_non_finite_values_are_refused(bad):
    good = np.zeros(bad.size)
    for call in (
        lambda: statistics.mean_interval(bad),
        lambda: statistics.paired_interval(bad, good),
        lambda: statistics.paired_interval(good, bad),
        lambda: statistics.clustered_interval(bad, good.astype(int), seed=0),
    ):
        with pytest.raises(ValueError, match="empty|not finite"):
            call()


def test_mcnemar_of_no_facts_is_refused():
    with pytest.raises(ValueError, match="empty"):
        statistics.mcnemar(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool))


def test_the_smallest_gap_is_what_a_simulated_paired_test_sees_four_times_in_five():
    rng, n, accuracy = np.random.default_rng(0), 1_500, 0.3
    gap = statistics.smallest_gap(n, accuracy)
    one, other = rng.random((2, 2_000, n))
    difference = (one < accuracy + gap / 2).astype(float) - (other < accuracy - gap / 2)
    error = difference.std(axis=1, ddof=1) / np.sqrt(n)
    assert np.mean(np.abs(difference.mean(axis=1)) > 1.96 * error) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_model_that_answers_none_or_all_does_not_make_every_gap_visible(accuracy):
    assert statistics.smallest_gap(50, accuracy) > statistics.smallest_gap(50, 0.01) > 0.03


def test_a_fifth_holds_the_largest_values_first_and_of_equal_ones_the_first():
    assert statistics.fifth(np.array([1, 9, 5, 7, 3])).tolist() == [4, 0, 2, 1, 3]
    assert statistics.fifth(np.zeros(7)).tolist() == [0, 0, 1, 2, 2, 3, 4]


def test_a_ratio_lies_between_fiellers_roots():
    """At either end the mean of above − r · below just differs from zero, by a t-test."""
    rng = np.random.default_rng(0)
    below = rng.normal(1.0, 1.0, 30)
    above = 0.5 * below + rng.normal(0.0, 0.5, 30)
    ratio = statistics.ratio_interval(above, below)
    assert ratio.mean == pytest.approx(above.sum() / below.sum()) and ratio.low < ratio.mean < ratio.high
    for end in ratio[1:]:
        left = above - end * below
        assert 2 * stats.t.sf(abs(left.mean()) / stats.sem(left), 29) == pytest.approx(0.05)


def test_a_ratio_to_what_may_be_zero_is_unbounded():
    above, below = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, -1.0, 1.0, 0.0])
    assert statistics.ratio_interval(above, below) == (9.0, -np.inf, np.inf)
    assert np.isnan(statistics.ratio_interval(above, np.array([1.0, -1.0, 1.0, -1.0]))).all()
    alone = statistics.ratio_interval(above[:1], below[:1])
    assert alone.mean == 1 and np.isnan(alone[1:]).all()


def test_a_clusters_facts_count_once_in_the_covariance_of_means():
    rng = np.random.default_rng(0)
    alone = rng.normal(size=(40, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
    found = statistics.clustered_covariance(alone, np.arange(40))
    np.testing.assert_allclose(found, np.cov(alone.T) / 40)
    # Every fact three times over: no more is known than before.
    np.testing.assert_allclose(statistics.clustered_covariance(np.repeat(alone, 3, 0), np.arange(120) // 3), found)
    assert np.isnan(statistics.clustered_covariance(alone, np.zeros(40, dtype=int))).all()


def test_the_calibration_error_is_the_mean_gap_of_bins_of_equally_many_answers():
    probability = np.array([0.9, 0.1, 0.8, 0.2, 0.6, 0.4])
    correct = np.array([True, False, False, True, True, True])
    # By threes: probabilities .1 .2 .4, of which two are right; .6 .8 .9, of which two are right.
    expected = (abs(2 / 3 - 0.7 / 3) + abs(2 / 3 - 2.3 / 3)) / 2
    assert statistics.calibration_error(probability, correct, n_bins=2) == pytest.approx(expected)
    alone = np.abs(probability - correct).mean()
    assert statistics.calibration_error(probability, correct) == pytest.approx(alone)  # fewer answers than bins
    assert statistics.calibration_error(correct.astype(float), correct) == 0
    assert statistics.calibration_error(np.full(6, 0.5), correct, n_bins=1) == pytest.approx(1 / 6)


def test_neither_calibration_nor_ranking_depends_on_the_order_of_equally_probable_answers():
    rng = np.random.default_rng(0)
    probability, correct = rng.integers(1, 4, 40) / 4, rng.random(40) < 0.5
    for _ in range(5):
        order = rng.permutation(40)
        for measure in (statistics.calibration_error, statistics.average_precision):
            expected = pytest.approx(measure(probability, correct), abs=1e-12)
            assert measure(probability[order], correct[order]) == expected


def test_the_average_precision_is_that_over_the_ranks_of_right_answers():
    correct = np.array([True, False, True, True, False])
    score = np.array([0.9, 0.8, 0.7, 0.3, 0.1])
    assert statistics.average_precision(score, correct) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert statistics.average_precision(-score, correct) == pytest.approx((1 / 2 + 2 / 3 + 3 / 5) / 3)
    # The second and third share a threshold: two more answers, one more right.
    assert statistics.average_precision(np.array([3.0, 2, 2, 1, 0]), correct) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert statistics.average_precision(np.zeros(5), correct) == pytest.approx(3 / 5)
    assert np.isnan(statistics.average_precision(score, np.zeros(5, dtype=bool)))
    for measure in (statistics.calibration_error, statistics.average_precision):
        with pytest.raises(ValueError, match="is empty"):
            measure(np.empty(0), np.empty(0, dtype=bool))
