"""R8′: the exposure at which both halves pull alike, and what a subject's other answers do."""

import numpy as np
import pytest

from theory.law import reversal, selection, theorem

FREQUENCY = np.arange(1, 8) ** -1.0 / np.sum(np.arange(1, 8) ** -1.0)


@pytest.mark.parametrize(("share", "attention"), [(0.6, 0.5), (0.75, 0.5), (0.5, 0.3)])
def test_the_force_is_that_of_values_integrated_step_by_step(share, attention):
    """Euler steps of the subject's value under the relation's odds, and R1's force on what they leave."""
    n, dt, at = len(FREQUENCY), 1e-3, (0.5, 3.0, 9.0)
    relation = np.log(FREQUENCY) / (1 - attention)
    values, found = np.zeros((n, n)), []
    for step in range(int(at[-1] / dt) + 1):
        if any(abs(step * dt - place) < dt / 2 for place in at):
            read = np.stack([values, np.tile(relation, (n, 1)), np.zeros((n, n))], axis=1)
            found.append(FREQUENCY @ selection.subject_force(read, np.arange(n), share))
        odds = FREQUENCY * np.exp(attention * values)
        values += dt * (np.eye(n) - odds / odds.sum(axis=1, keepdims=True))
    force = reversal.force_by_exposure(FREQUENCY, share, attention=attention)
    np.testing.assert_allclose(np.interp(at, reversal._EXPOSURES, force), found, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_below_the_median_exposure_the_better_known_half_pulls_more_and_above_it_less(exponent):
    force = reversal.force_by_exposure(FREQUENCY, 0.65)
    median = reversal.median_exposure(FREQUENCY, exponent=exponent, share=0.65)
    rank = (np.arange(20_000) + 0.5) / 10_000
    leads = []
    for factor in (0.8, 1.0, 1.25):
        pull = np.interp(factor * median * rank**-exponent, reversal._EXPOSURES, force)
        leads.append(pull[:10_000].mean() - pull[10_000:].mean())
    assert leads[0] > 0 > leads[2]
    assert abs(leads[1]) < 0.02 * min(leads[0], -leads[2])


def test_halves_that_hardly_differ_pull_alike_where_the_force_is_largest():
    force = reversal.force_by_exposure(FREQUENCY, 0.65)
    peak = reversal._EXPOSURES[np.argmax(force)]
    assert reversal.median_exposure(FREQUENCY, exponent=0.01, share=0.65) == pytest.approx(peak, rel=0.03)


def test_a_relation_of_one_answer_has_no_reversal():
    assert np.isnan(reversal.median_exposure(np.ones(1), exponent=1.0, share=0.65))


def test_other_answers_of_the_subject_become_what_it_was_never_told():
    values = np.zeros((2, 3, 5))
    values[0, theorem.SUBJECT] = [9, 8, 1, 2, 3]
    values[1, theorem.SUBJECT] = [4, 7, 0, 6, 5]
    is_told = np.array([[True, True, False, False, False], [False, True, False, False, False]])
    before = values.copy()
    found = reversal.without_other_answers(values, np.array([1, 1]), is_told)
    np.testing.assert_array_equal(found[0, theorem.SUBJECT], [2, 8, 1, 2, 3])
    np.testing.assert_array_equal(found[1], values[1])
    np.testing.assert_array_equal(found[:, 1:], values[:, 1:])
    np.testing.assert_array_equal(values, before)
