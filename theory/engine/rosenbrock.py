r"""A stiff autonomous flow $dy/d\tau = f(y)$ of few unknowns, integrated on any device of JAX's, alone or vectorised.

The Rosenbrock method of order 2 and its error estimate are those of MATLAB's ode23s (Shampine & Reichelt 1997, "The
MATLAB ODE suite", SIAM J. Sci. Comput. 18). It is L-stable. A step takes one value of f, one of f with its Jacobian,
and the solution of linear systems with one matrix; nothing is iterated, unlike in the implicit Runge–Kutta methods.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Vector = Float[Array, " number"]
Matrix = Float[Array, "number number"]

FIRST_STEP = 0.05
"""The first step tried, in units of τ. One that is too long is refused and cut."""
SAFETY, SHORTEST, LONGEST = 0.9, 0.2, 5.0
"""The next step's length over the last one's: this share of what the error allows, and its limits."""
_D = 1 / (2 + 2**0.5)
_E = 6 + 2**0.5


class End(NamedTuple):
    """Where a flow was when its integration ended."""

    state: Vector
    """nan if that was before the horizon."""
    n_steps: Int[Array, ""]
    """Refused ones included."""
    is_late: Bool[Array, ""]
    """Whether the steps did not suffice."""


class _Progress(NamedTuple):
    """An integration's progress: the flow at one time, and the length of the step to be tried."""

    time: Float[Array, ""]
    length: Float[Array, ""]
    state: Vector
    velocity: Vector
    jacobian: Matrix
    n_steps: Int[Array, ""]


def integrate(
    velocity: Callable[[Vector], Vector],
    linearise: Callable[[Vector], tuple[Vector, Matrix]],
    start: Vector,
    horizon: Float[Array, ""],
    *,
    tolerance: float | Float[Array, ""],
    max_steps: int,
) -> End:
    r"""Return the state at $\tau$ = `horizon` of the flow that begins at `start`.

    Args:
        velocity: f.
        linearise: f and its Jacobian. They are not asked for twice at one state.
        start: finite, as is the velocity there; where it is not, the result is nan after no step.
        horizon: not negative.
        tolerance: of the error of every step in every number, absolute plus relative.
        max_steps: the integration ends after so many, refused ones included.
    """

    def is_under_way(at: _Progress) -> Bool[Array, ""]:
        return (at.time < horizon) & (at.n_steps < max_steps) & jnp.isfinite(at.velocity).all()

    def advance(at: _Progress) -> _Progress:
        rest = horizon - at.time
        length = jnp.minimum(at.length, rest)
        state, error, (v, jacobian) = _step(velocity, linearise, at, length)
        allowed = tolerance * (1 + jnp.maximum(jnp.abs(at.state), jnp.abs(state)))
        excess = jnp.max(jnp.abs(error) / allowed)
        excess = jnp.where(jnp.isfinite(v).all() & jnp.isfinite(excess), excess, jnp.inf)
        taken = _Progress(jnp.where(length < rest, at.time + length, horizon), length, state, v, jacobian, at.n_steps)
        reached = jax.tree.map(lambda new, old: jnp.where(excess <= 1, new, old), taken, at)
        factor = jnp.clip(SAFETY * excess ** (-1 / 3), SHORTEST, LONGEST)
        return reached._replace(length=length * factor, n_steps=at.n_steps + 1)

    zero = jnp.zeros((), start.dtype)
    begin = _Progress(zero, zero + FIRST_STEP, start, *linearise(start), jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(is_under_way, advance, begin)
    is_there = (end.time >= horizon) & jnp.isfinite(end.velocity).all()
    return End(jnp.where(is_there, end.state, jnp.nan), end.n_steps, (end.time < horizon) & (end.n_steps == max_steps))


def _step(velocity, linearise, at: _Progress, length: Float[Array, ""]) -> tuple[Vector, Vector, tuple[Vector, Matrix]]:
    """Return the state a step ahead, the step's error, and velocity and Jacobian there."""
    solve = jnp.linalg.inv(jnp.eye(len(at.state), dtype=at.state.dtype) - length * _D * at.jacobian)
    first = solve @ at.velocity
    halfway = velocity(at.state + length / 2 * first)
    second = solve @ (halfway - first) + first
    state = at.state + length * second
    ahead = linearise(state)
    third = solve @ (ahead[0] - _E * (second - halfway) - 2 * (first - at.velocity))
    return state, length / 6 * (first - 2 * second + third), ahead
