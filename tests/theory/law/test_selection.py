"""R9: the best facts, and the bound that no choice of facts passes."""

import numpy as np
import pytest
from scipy import special

from theory import evaluate
from theory.law import flow, selection

N = 60
TIMES = np.concatenate([[0.0], np.geomspace(0.1, 200.0, 30)])


@pytest.fixture(scope="module")
def facts(simulations):
    """The values and answers of a few training facts of a world's base model."""
    one = simulations[0]
    rows = one.split.arms["whole"][::4]
    return evaluate.token_values(one.weights["base"], one.store, rows), one.store.answer[rows]


@pytest.fixture(scope="module")
def forces(facts):
    values, answer = facts
    return lambda share: selection.subject_force(values, answer, share)


@pytest.fixture(scope="module")
def best(forces):
    return selection.best(selection.tabulate(forces), forces, N)


def path(facts, chosen) -> np.ndarray:
    """The share of an arm whose prompts share one attention and have no template: R5 from uniform attention."""
    values, answer = (part[chosen] for part in facts)
    gone = (0.0, 0.0, -60.0)
    return flow.reduced_flow(values, answer, TIMES, rates=(1.0, 1.0, 0.0), start=gone).share


def test_the_mean_of_the_forces_is_the_arms(facts, forces):
    for share in (0.3, 0.5, 0.9):
        (mean,) = flow.mean_force(facts[0], facts[1], np.array([share]))
        assert forces(share).mean() == pytest.approx(mean, rel=1e-9)


def test_no_arm_of_as_many_facts_is_ahead_of_the_bound(facts, forces, best):
    bound = selection.bound_share(best, TIMES)
    assert bound[0] == 0.5 and (np.diff(bound) >= -1e-5).all()
    rng = np.random.default_rng(0)
    arms = [rng.choice(len(facts[1]), N, replace=False) for _ in range(20)]
    arms += [np.argsort(-forces(share))[:N] for share in (0.5, 0.6, 0.7, best.resting_share)]
    for chosen in arms:
        assert (path(facts, chosen) <= bound + 1e-4).all()


def test_the_best_arm_rests_where_no_other_rests_higher(facts, best):
    assert best.is_resting and 0.5 < best.resting_share < 0.999
    long = np.array([0.0, 1e4])
    values, answer = (part[best.rows] for part in facts)
    rest = flow.reduced_flow(values, answer, long, rates=(1.0, 1.0, 0.0), start=(0.0, 0.0, -60.0)).share[-1]
    assert rest == pytest.approx(best.resting_share, abs=2e-3)
    assert selection.bound_share(best, long)[-1] == pytest.approx(best.resting_share, abs=2e-3)
    assert len(best.rows) == N and (np.diff(best.rows) > 0).all()


def test_at_a_fraction_of_the_rate_the_bound_is_where_it_was_earlier(best):
    slow = selection.bound_share(best, TIMES, rate=0.5)
    np.testing.assert_allclose(slow, selection.bound_share(best, TIMES / 4), atol=1e-5)


def made(*curves):
    """Return forces that are these functions of the share's log odds, one for each fact."""
    return lambda share: np.array([curve(special.logit(share)) for curve in curves])


@pytest.mark.parametrize(
    ("curves", "resting"),
    [
        ([lambda x: -1.0 - x], 0.5),  # nothing rises
        ([lambda x: 1.0 + x], special.expit(7.0)),  # nothing rests
        ([lambda x: np.cos(2 * x)], special.expit(np.pi / 4)),  # rests, and would rise again beyond
        # The bound passes from the first to the second, whose force is negative at the start.
        ([lambda x: 1.0 - x, lambda x: -0.5 + 1.5 * x - 0.35 * x**2], None),
    ],
)
def test_where_the_premise_fails_it_is_said_and_the_bound_still_given(curves, resting):
    forces = made(*curves)
    found = selection.best(selection.tabulate(forces), forces, 1)
    assert not found.is_resting
    if resting is not None:
        assert found.resting_share == pytest.approx(resting, abs=1e-9)
    assert np.isfinite(selection.bound_share(found, TIMES)).all()
