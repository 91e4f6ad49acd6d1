"""The training loop of both stages and both parametrisations, and the programs that run it for many worlds at once."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core.errors import InputError
from theory.model.config import MAX_LOSS
from theory.model.factored import on_cpu

State = TypeVar("State")


class Trace(NamedTuple):
    """What was recorded along a run."""

    step: Int[Array | np.ndarray, " record"]
    loss: Float[Array | np.ndarray, " record"]
    """Mean training loss since the last record; at step 0, that of the first step."""
    measured: Any
    """What the caller's `measure` returned, with a leading record axis."""
    diverged_at: Int[Array | np.ndarray, ""]
    """The first step whose loss was not finite or at least `MAX_LOSS`; -1 if there is none."""


class _Progress(NamedTuple):
    """Where a run is: what the loops over records, blocks and steps carry."""

    state: Any
    n_done: Int[Array, ""]
    """Steps done."""
    diverged_at: Int[Array, ""]
    """As in `Trace`."""
    total_loss: Float[Array, ""]
    """Sum of the steps' mean losses since the last record."""
    first_loss: Float[Array, ""]
    """Mean loss of the first step."""


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
    at_start = measure(state)
    zero = jnp.zeros((), jax.tree.leaves(state)[0].dtype)
    start = _Progress(state, jnp.zeros((), jnp.int32), -jnp.ones((), jnp.int32), zero, zero)
    segment = _segment(step, draw, measure, block, key)
    if score is None:
        end, recorded = jax.lax.scan(segment, start, records)
        trained = end.state
    else:
        begin = (start, state, score(state))
        (end, trained, _), recorded = jax.lax.scan(_keep_best(segment, score), begin, records)
    steps, losses, measured = recorded
    return trained, Trace(
        jnp.concatenate([jnp.zeros(1, steps.dtype), steps]),
        jnp.concatenate([end.first_loss[None], losses]),
        jax.tree.map(lambda first, others: jnp.concatenate([first[None], others]), at_start, measured),
        end.diverged_at,
    )


def _segment(step: Callable, draw: Callable, measure: Callable, block: int, key: Array) -> Callable:
    """Return what trains up to a step and records there: (progress, stop) to the progress and the record."""

    def advance(progress: _Progress, batches, n_first) -> _Progress:
        n_done = progress.n_done
        state, losses = step(progress.state, jax.tree.map(lambda x: x[n_done - n_first], batches))
        is_bad = ~(losses.max() < MAX_LOSS) & (progress.diverged_at < 0)
        loss = losses.mean()
        first_loss = jnp.where(n_done == 0, loss, progress.first_loss)
        return _Progress(
            state,
            n_done + 1,
            jnp.where(is_bad, n_done, progress.diverged_at),
            progress.total_loss + loss,
            first_loss,
        )

    def rest_of_block(progress: _Progress, stop) -> _Progress:
        which = progress.n_done // block
        batches = draw(jax.random.fold_in(key, which), which * block)
        stop = jnp.minimum(stop, (which + 1) * block)
        return jax.lax.while_loop(lambda p: p.n_done < stop, lambda p: advance(p, batches, which * block), progress)

    def whole_block(progress: _Progress) -> _Progress:
        n_first = progress.n_done
        batches = draw(jax.random.fold_in(key, n_first // block), n_first)
        return jax.lax.fori_loop(0, block, lambda _, p: advance(p, batches, n_first), progress)

    def some_blocks(progress: _Progress, stop) -> _Progress:
        if not on_cpu():
            # A GPU asks the host before each turn of a loop whose length it does not know: so once a block.
            def is_whole(progress: _Progress):
                return (progress.n_done % block == 0) & (progress.n_done + block <= stop)

            progress = jax.lax.while_loop(is_whole, whole_block, progress)
        return rest_of_block(progress, stop)

    def segment(progress: _Progress, stop):
        n_before = progress.n_done
        progress = progress._replace(total_loss=jnp.zeros_like(progress.total_loss))
        progress = jax.lax.while_loop(lambda p: p.n_done < stop, lambda p: some_blocks(p, stop), progress)
        n_steps = jnp.maximum(progress.n_done - n_before, 1)
        return progress, (progress.n_done, progress.total_loss / n_steps, measure(progress.state))

    return segment


def _keep_best(segment: Callable, score: Callable[[State], Float[Array, ""]]) -> Callable:
    """Return `segment` that carries, beside the progress, the recorded state of the least score, and that score."""

    def best_segment(carry: tuple[_Progress, State, Float[Array, ""]], stop):
        progress, best, least = carry
        progress, record = segment(progress, stop)
        now = score(progress.state)
        best = jax.tree.map(lambda old, new: jnp.where(now < least, new, old), best, progress.state)
        return (progress, best, jnp.minimum(now, least)), record

    return best_segment


def check_finite(trace: Trace, stage: str, labels: list[str], *, otherwise: str = "") -> None:
    """Raise InputError if a run diverged, naming stage, step and which of the vectorised runs it was.

    Args:
        otherwise: What else than a lower rate helps.
    """
    diverged_at = np.ravel(np.asarray(trace.diverged_at))
    bad = np.flatnonzero(diverged_at >= 0)
    if len(bad):
        raise InputError(
            f"{stage} diverged at step {diverged_at[bad[0]]} ({labels[bad[0]]}): the loss was not finite or above "
            f"{MAX_LOSS:.0f} nats.\nLower --{stage}.learning-rate{otherwise}."
        )


def n_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Make a JAX device of each core, for `batched.Program`; to be called before JAX is first used."""
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", n_cores())
