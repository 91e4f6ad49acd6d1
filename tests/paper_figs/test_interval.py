import numpy as np
import pytest
from scipy import stats

from paper_figs.interval import number, over_worlds


def test_interval_is_students_over_worlds_at_each_point():
    values = np.array([[1.0, 5.0], [2.0, 5.5], [4.0, 4.0], [3.0, 7.0]])
    found = over_worlds(values)
    low, high = stats.t.interval(0.95, 3, loc=values.mean(axis=0), scale=stats.sem(values))
    np.testing.assert_allclose([found.low, found.high], [low, high])
    np.testing.assert_allclose(found.mean, [2.5, 5.375])


def test_one_world_has_a_mean_but_no_interval_and_no_sign():
    found = over_worlds(np.array([3.0]))
    assert found.mean == 3 and np.isnan(found.low) and found.sign == 0
    assert found.text(1, " points") == "3.0 points in one world"


@pytest.mark.parametrize(("values", "sign"), [([1.0, 1.1], 1), ([-1.0, -1.1], -1), ([-1.0, 1.0], 0), ([0.0, 0.0], 0)])
def test_sign_is_zero_where_the_interval_holds_zero(values, sign):
    found = over_worlds(np.array(values))
    assert found.sign == sign
    assert found.scaled(-2).sign == -sign


def test_text_rounds_and_keeps_no_sign_before_zero():
    found = over_worlds(np.array([-0.02, -0.02]))
    assert found.text(1) == "0.0 ± 0.0"
    assert found.scaled(100).text(1, signed=True) == "−2.0 ± 0.0"
    assert number(1.25, 1, signed=True) == "+1.2"


def test_signs_are_told_point_by_point():
    found = over_worlds(np.array([[1.0, -1.0, -1.0], [1.1, -1.1, 1.0]]))
    assert found.signs.tolist() == [1, -1, 0]
    assert over_worlds(np.array([[1.0, -1.0]])).signs.tolist() == [0, 0]
