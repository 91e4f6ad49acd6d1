"""The training loop of both stages and both forms: one scan, with its randomness drawn ahead of the steps."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from theory.errors import InputError
from theory.table import MAX_LOSS

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


def run(
    step: Callable[[State, Any], tuple[State, Float[Array, " fact"]]],
    state: State,
    draw: Callable[[Array, int], Any],
    measure: Callable[[State], Any],
    *,
    n_steps: int,
    n_records: int,
    key: Array,
) -> tuple[State, Trace]:
    """Return the trained state and its trace: `n_records` records after the one at step 0, evenly spaced.

    Where the steps do not divide evenly, one more record follows at the end; of fewer steps, each is recorded.

    Args:
        step: (state, batch) to the next state and the losses of the batch's facts.
        draw: (key, n) to the batches of n steps, stacked. Called once between two records, so that no random number is
            drawn inside the loop over steps.
    """
    length, rest = divmod(n_steps, n_records)
    lengths = [length] * n_records + [rest] * (rest > 0) if length else [1] * n_steps
    keys = jax.random.split(key, len(lengths))

    def advance(carry, batch):
        state, n_done, diverged_at = carry
        state, losses = step(state, batch)
        is_bad = ~(losses.max() < MAX_LOSS) & (diverged_at < 0)
        return (state, n_done + 1, jnp.where(is_bad, n_done, diverged_at)), losses.mean()

    def segment(carry, key, n_in_segment):
        carry, losses = jax.lax.scan(advance, carry, draw(key, n_in_segment))
        return carry, (carry[1], losses.mean(), losses[0], measure(carry[0]))

    first = measure(state)
    carry: Any = (state, jnp.zeros((), jnp.int32), -jnp.ones((), jnp.int32))
    n_equal = len(lengths) - (rest > 0 and length > 0)
    carry, records = jax.lax.scan(lambda c, k: segment(c, k, lengths[0]), carry, keys[:n_equal])
    if n_equal < len(lengths):
        carry, last = segment(carry, keys[-1], rest)
        records = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), records, last)
    steps, losses, first_losses, measured = records
    return carry[0], Trace(
        jnp.concatenate([jnp.zeros(1, steps.dtype), steps]),
        jnp.concatenate([first_losses[:1], losses]),
        jax.tree.map(lambda zero, many: jnp.concatenate([zero[None], many]), first, measured),
        carry[2],
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
    """Make a JAX device of each core, for `over_worlds`; to be called before JAX is first used."""
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", n_cores())


def over_worlds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the jitted `function` over a leading axis of every argument: worlds, shared out over all local devices.

    Within a device the worlds are vectorised on an accelerator and run one after another on a CPU, where one world's
    rows stay in the core's cache. The axis is padded to a multiple of the devices by repeating the last world.
    """
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices, ("world",))
    spec = jax.sharding.PartitionSpec("world")
    batch_size = 1 if devices[0].platform == "cpu" else None

    def on_device(*stacked):
        if batch_size is None:
            return jax.vmap(function)(*stacked)
        return jax.lax.map(lambda arguments: function(*arguments), stacked)

    sharded = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    alone = jax.jit(on_device)

    def call(*stacked):
        n_worlds = len(jax.tree.leaves(stacked)[0])
        if n_worlds == 1:
            return alone(*stacked)
        padding = -n_worlds % len(devices)
        repeat = np.minimum(np.arange(n_worlds + padding), n_worlds - 1)
        sharding = jax.sharding.NamedSharding(mesh, spec)
        out = sharded(*jax.tree.map(lambda x: jax.device_put(np.asarray(x)[repeat], sharding), stacked))
        return jax.tree.map(lambda x: x[:n_worlds], out)

    return call
