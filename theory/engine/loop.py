"""The training loop of both stages and both parametrisations, and the programs that run it for many worlds at once."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core.errors import InputError
from theory.model.factored import MAX_LOSS

State = TypeVar("State")


class Trace(NamedTuple):
    """What was recorded along a run."""

    step: Int[Array | np.ndarray, " record"]
    loss: Float[Array | np.ndarray, " record"]
    """Mean training loss since the last record; at step 0, that of the first step."""
    measured: Any
    """What the caller's `measure` returned, with a leading record axis."""
    diverged_at: Int[Array | np.ndarray, ""]
    """The first step whose loss was not finite or at least `table.MAX_LOSS`; -1 if there is none."""


def record_steps(n_steps: int, n_records: int) -> Int[np.ndarray, " record"]:
    """Return the steps after which to record: `n_records` of them, evenly spaced, and the last step.

    Where the steps do not divide evenly, that is one more; of fewer steps, each.
    """
    length = n_steps // n_records
    steps = length * np.arange(1, n_records + 1) if length else np.arange(1, n_steps + 1)
    return np.append(steps, n_steps)[: len(steps) + (steps[-1] < n_steps)].astype(np.int32)


def run(
    step: Callable[[State, Any], tuple[State, Float[Array, " fact"]]],
    state: State,
    draw: Callable[[Array, Int[Array, ""]], Any],
    measure: Callable[[State], Any],
    *,
    records: Int[Array, " record"],
    block: int,
    key: Array,
    score: Callable[[State], Float[Array, ""]] | None = None,
) -> tuple[State, Trace]:
    """Return the trained state and its trace: a record at step 0, then one after each of the steps in `records`.

    The batches are drawn `block` steps at a time, outside the loop over steps. Which facts step n sees depends on the
    key and n alone: a shorter run is the beginning of a longer one, wherever either is recorded.

    Args:
        step: (state, batch) to the next state and the losses of the batch's facts.
        draw: (key, n) to the batches of the `block` steps from step n on, stacked.
        records: positive and not decreasing; they may be traced, so that one program serves any number of steps.
        score: if given, the state returned is that of the record, step 0 among them, where this is least.
    """

    def advance(carry, batches, n_first):
        state, n_done, diverged_at, total, first = carry
        state, losses = step(state, jax.tree.map(lambda x: x[n_done - n_first], batches))
        is_bad = ~(losses.max() < MAX_LOSS) & (diverged_at < 0)
        loss = losses.mean()
        first = jnp.where(n_done == 0, loss, first)
        return state, n_done + 1, jnp.where(is_bad, n_done, diverged_at), total + loss, first

    def one_block(carry, stop):
        which = carry[1] // block
        batches = draw(jax.random.fold_in(key, which), which * block)
        stop = jnp.minimum(stop, (which + 1) * block)
        return jax.lax.while_loop(lambda c: c[1] < stop, lambda c: advance(c, batches, which * block), carry)

    def segment(carry, stop):
        state, n_before, diverged_at, total, first = carry
        carry = (state, n_before, diverged_at, jnp.zeros_like(total), first)
        carry = jax.lax.while_loop(lambda c: c[1] < stop, lambda c: one_block(c, stop), carry)
        return carry, (carry[1], carry[3] / jnp.maximum(carry[1] - n_before, 1), measure(carry[0]))

    def keep_best(carry, stop):
        inner, best, least = carry
        inner, record = segment(inner, stop)
        now = score(inner[0])  # type: ignore
        best = jax.tree.map(lambda old, new: jnp.where(now < least, new, old), best, inner[0])
        return (inner, best, jnp.minimum(now, least)), record

    at_start = measure(state)
    nothing = jnp.zeros((), jax.tree.leaves(state)[0].dtype)
    start: Any = (state, jnp.zeros((), jnp.int32), -jnp.ones((), jnp.int32), nothing, nothing)
    if score is None:
        carry, (steps, losses, measured) = jax.lax.scan(segment, start, records)
        best = carry[0]
    else:
        begin = (start, state, score(state))
        (carry, best, _), (steps, losses, measured) = jax.lax.scan(keep_best, begin, records)
    _, _, diverged_at, _, first = carry
    return best, Trace(
        jnp.concatenate([jnp.zeros(1, steps.dtype), steps]),
        jnp.concatenate([first[None], losses]),
        jax.tree.map(lambda zero, many: jnp.concatenate([zero[None], many]), at_start, measured),
        diverged_at,
    )


def check_finite(trace: Trace, stage: str, labels: list[str]) -> None:
    """Raise InputError if a run diverged, naming stage, step and which of the vectorised runs it was."""
    diverged_at = np.ravel(np.asarray(trace.diverged_at))
    bad = np.flatnonzero(diverged_at >= 0)
    if len(bad):
        raise InputError(
            f"{stage} diverged at step {diverged_at[bad[0]]} ({labels[bad[0]]}): the loss was not finite or above "
            f"{MAX_LOSS:.0f} nats.\nLower --{stage}.learning-rate, or use --precision float64 if the rate is meant."
        )


def n_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Make a JAX device of each core, for `program.Program`; to be called before JAX is first used."""
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", n_cores())
