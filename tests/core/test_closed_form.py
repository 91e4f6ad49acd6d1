import numpy as np
import pytest

from core import closed_form


def test_share_is_the_subjects_part_of_the_attention_on_subject_and_relation():
    np.testing.assert_array_equal(closed_form.subject_share(np.array([0.25, 0.3]), np.array([0.75, 0.3])), [0.25, 0.5])


def test_fact_is_recalled_within_its_bounds_alone_at_its_own_share_or_at_one_for_all():
    lower, upper = np.array([0.2, 0.2, 0.6]), np.array([0.5, 1.0, 0.4])
    assert closed_form.recalled(np.array([0.5, 0.5, 0.5]), lower, upper).tolist() == [False, True, False]
    assert closed_form.recalled(0.3, lower, upper).tolist() == [True, True, False]
    assert closed_form.recalled(0.2, lower, upper).tolist() == [False, False, False]


def test_boundary_is_interpolated_where_the_lead_last_falls_to_zero():
    position = np.array([0.0, 1.0, 3.0, 4.0])
    assert closed_form.boundary(position, np.array([1.0, 3.0, -1.0, -2.0])) == 2.5
    assert closed_form.boundary(position, np.array([1.0, -1.0, 1.0, 0.0])) == 4.0
    assert np.isnan(closed_form.boundary(position, np.array([-1.0, 1.0, 2.0, 3.0])))


def test_boundary_in_either_direction_is_the_last_one():
    position = np.array([0.0, 1.0, 3.0, 4.0])
    lead = np.array([2.0, -2.0, 2.0, 2.0])
    assert closed_form.boundary(position, lead) == 0.5
    assert closed_form.boundary(position, lead, falls=False) == 2.0
    assert np.isnan(closed_form.boundary(position, np.ones(4), falls=False))


def test_distance_is_the_median_over_columns_that_have_both_boundaries():
    one, other = np.array([1.0, 2.0, np.nan, 5.0]), np.array([1.5, 4.0, 1.0, np.nan])
    assert closed_form.median_distance(one, other) == 1.25
    assert np.isnan(closed_form.median_distance(one, np.full(4, np.nan)))


def test_r_squared_is_one_for_a_perfect_prediction_zero_for_the_mean_and_nan_without_variance():
    measured = np.array([1.0, 2.0, 4.0])
    assert closed_form.r_squared(measured, measured) == 1
    assert closed_form.r_squared(np.full(3, measured.mean()), measured) == pytest.approx(0)
    assert np.isnan(closed_form.r_squared(measured, np.ones(3)))
