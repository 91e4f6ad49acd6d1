"""The integrator on flows whose solutions are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.engine import rosenbrock

STIFFNESS = 1e4


def flow(y):
    """A logistic number, and one that is drawn to the first one's square, quickly."""
    return jnp.stack([y[0] * (1 - y[0]), STIFFNESS * (y[0] ** 2 - y[1])])


def linearise(y):
    return flow(y), jax.jacfwd(flow)(y)


@partial(jax.jit, static_argnames=("tolerance", "max_steps", "velocity", "linearise"))
def run(start, horizon, *, tolerance, max_steps, velocity, linearise):
    return rosenbrock.integrate(velocity, linearise, start, horizon, tolerance=tolerance, max_steps=max_steps)


def integrate(horizon, *, start=(0.1, 0.7), tolerance=1e-3, max_steps=10**4, velocity=flow, linearise=linearise):
    numbers = jnp.array(start), jnp.asarray(horizon, jnp.array(start).dtype)
    end = run(*numbers, tolerance=tolerance, max_steps=max_steps, velocity=velocity, linearise=linearise)
    return jax.tree.map(np.asarray, end)


def logistic(time):
    return 1 / (1 + 9 * np.exp(-time))


@pytest.mark.parametrize("horizon", [0.3, 3.0, 300.0])
def test_a_stiff_flow_ends_where_its_solution_does_after_few_steps(horizon):
    end = integrate(horizon)
    t = logistic(horizon)
    lag = 2 * t**2 * (1 - t) / STIFFNESS  # of the second number behind the first one's square
    np.testing.assert_allclose(end.state, [t, t**2 - lag], atol=3e-3)
    assert 5 < end.n_steps < 60 and not end.is_late


def test_the_method_is_of_second_order():
    """The error estimate is of the third power of a step's length, so steps are as the tolerance to the power -1/3."""

    def rise(y):
        return y * (1 - y)

    def slope(y):
        return jnp.diag(1 - 2 * y)

    with jax.enable_x64(True):
        ends = [
            integrate(2.0, start=(0.1,), tolerance=tolerance, velocity=rise, linearise=lambda y: (rise(y), slope(y)))
            for tolerance in (1e-5, 1e-7, 1e-9)
        ]
    errors = np.array([abs(end.state[0] - logistic(2.0)) for end in ends])
    steps = np.array([int(end.n_steps) for end in ends])
    order = np.log(errors[1:] / errors[:-1]) / np.log(steps[:-1] / steps[1:])
    np.testing.assert_allclose(order, 2, atol=0.25)
    np.testing.assert_allclose(np.log(steps[1:] / steps[:-1]) / np.log(100), 1 / 3, atol=0.03)


@pytest.mark.parametrize("z", [-0.1, -1.0, -50.0])
def test_a_step_of_a_linear_flow_is_the_methods_and_so_is_its_error(z):
    """Shampine & Reichelt's formulas; far from zero the step vanishes: L-stability."""
    d, e = 1 / (2 + np.sqrt(2)), 6 + np.sqrt(2)
    first = z / (1 - d * z)
    halfway = z * (1 + first / 2)
    second = (halfway - first) / (1 - d * z) + first
    third = (z * (1 + second) - e * (second - halfway) - 2 * (first - z)) / (1 - d * z)
    tolerance = abs(first - 2 * second + third) / 6 / 2

    def velocity(y):
        return z / rosenbrock.FIRST_STEP * y

    def linearised(y):
        return velocity(y), jax.jacfwd(velocity)(y)

    def step(tolerance):
        length = rosenbrock.FIRST_STEP
        return integrate(length, start=(1.0,), tolerance=tolerance, velocity=velocity, linearise=linearised)

    end = step(1.01 * tolerance)
    np.testing.assert_allclose(end.state, (1 + (1 - 2 * d) * z) / (1 - d * z) ** 2, atol=1e-6)
    assert end.n_steps == 1 and step(0.99 * tolerance).n_steps > 1


def test_an_error_above_the_tolerance_is_refused_and_one_below_lengthens_the_step():
    tight, loose = integrate(3.0, tolerance=1e-5), integrate(3.0, tolerance=1e-1)
    assert tight.n_steps > 3 * loose.n_steps
    assert abs(tight.state[0] - logistic(3.0)) < 2e-5 < abs(loose.state[0] - logistic(3.0))


def test_no_time_is_no_step():
    end = integrate(0.0)
    np.testing.assert_array_equal(end.state, np.array([0.1, 0.7], np.float32))
    assert end.n_steps == 0 and not end.is_late


def test_a_flow_that_needs_more_steps_than_it_may_take_is_nan_and_late():
    enough = integrate(3.0)
    end = integrate(3.0, max_steps=int(enough.n_steps) - 1)
    assert np.isnan(end.state).all() and end.is_late and end.n_steps == enough.n_steps - 1
    assert not integrate(3.0, max_steps=int(enough.n_steps)).is_late


@pytest.mark.parametrize("start", [(np.nan, 0.0), (np.inf, 0.0), (1e30, 0.0)])
def test_a_flow_without_a_finite_beginning_is_nan_at_once(start):
    end = integrate(3.0, start=start)
    assert np.isnan(end.state).all() and end.n_steps == 0 and not end.is_late


def test_a_step_into_the_undefined_is_refused():
    """The first step would end where the velocity is nan: the Jacobian does not tell that the flow slows down."""

    def slowing(y):
        return jnp.where(y > 1.0, jnp.nan, 200 * (0.4 - y))

    end = integrate(0.05, start=(0.0,), velocity=slowing, linearise=lambda y: (slowing(y), jnp.zeros((1, 1))))
    np.testing.assert_allclose(end.state, 0.4 * (1 - np.exp(-10)), atol=2e-3)
    assert not end.is_late


def test_vectorised_flows_are_each_as_if_alone():
    horizons = jnp.array([0.0, 0.3, 3.0, 300.0])
    settings = dict(tolerance=1e-3, max_steps=10**4, velocity=flow, linearise=linearise)
    together = jax.vmap(lambda horizon: run(jnp.array((0.1, 0.7)), horizon, **settings))(horizons)
    for number, horizon in enumerate(horizons):
        alone = integrate(horizon)
        assert together.n_steps[number] == alone.n_steps
        np.testing.assert_allclose(together.state[number], alone.state, rtol=1e-5)
