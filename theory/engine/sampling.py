"""Sampling facts by popularity, exactly, at any number of facts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

ROW = 2**16
"""Cells of a row in a large table. `jax.random.randint` is uniform up to this span; of 4·10⁷ it favours some numbers by
1 %, because a product within it overflows 32 bits: use `integers`."""
Number = int | Int[np.ndarray | Array, "..."]


class AliasTable(NamedTuple):
    """Walker's alias method: pick a cell uniformly; keep it if 32 random bits lie under its threshold."""

    threshold: UInt[np.ndarray, " cell"] | UInt[Array, " cell"]
    alias: Int[np.ndarray, " cell"] | Int[Array, " cell"]
    """Cells are facts; more than `ROW` are filled up to whole rows with cells that are never kept."""


def alias_table(probability: Float[np.ndarray, " fact"]) -> AliasTable:
    """Return the alias table of a distribution (any positive scale), built in float64 without a loop.

    The cells' deficits below the mean are laid end to end beside the other cells' excesses: a deficit is filled from
    the excess it starts in, and a cell whose excess ends inside a deficit passes the overdraft on to the next one. Each
    cell is exact to 2⁻³², so of 10⁶ Zipf facts each probability to 1e-8 of itself (float32 cumulative sums reach only
    89 % of them).
    """
    if len(probability) > ROW:
        probability = np.pad(probability, (0, -len(probability) % ROW))
    keep = probability * (len(probability) / probability.sum())
    # In place and by 32 bits where that does: of 10⁸ subjects each array is gigabytes.
    small, large = (np.flatnonzero(chosen).astype(np.int32) for chosen in (keep < 1, keep >= 1))
    alias = np.arange(len(keep), dtype=np.int32)
    if len(small) and len(large):
        start, excess = 1 - keep[small], np.cumsum(keep[large] - 1)
        deficit = np.cumsum(start)
        np.subtract(deficit, start, out=start)
        filled_from = np.searchsorted(excess, start, side="right")
        alias[small] = large[np.minimum(filled_from, len(large) - 1, out=filled_from)]
        del filled_from
        ends_in = np.searchsorted(deficit, excess, side="right")
        ends_in, overdrawn = ends_in[:-1], excess[:-1]
        # A deficit may also start just where an excess ends.
        passes_on = np.flatnonzero((ends_in < len(start)) & (start.take(ends_in, mode="clip") < overdrawn))
        keep[large] = 1
        keep[large[passes_on]] = 1 - (deficit[ends_in[passes_on]] - excess[passes_on])
        alias[large[passes_on]] = large[passes_on + 1]
    np.clip(keep, 0, 1, out=keep)
    keep *= 2.0**32
    threshold = np.minimum(np.round(keep, out=keep), 2.0**32 - 1, out=keep).astype(np.uint32)
    return AliasTable(threshold, alias)


def integers(key: Array, shape: tuple[int, ...], low: Number, high: Number, *, most: int) -> Int[Array, "..."]:
    """Return integers from `low` to `high` - 1, uniform to 2⁻³³ of each one's probability.

    They are 64 random bits modulo the span, which up to `ROW` is just what `jax.random.randint` returns.

    Args:
        most: the largest span that there may be, below 2³¹. The numbers drawn do not depend on it.
    """
    if most <= ROW or jnp.result_type(int) == jnp.int64:  # with 64 bits nothing overflows
        return jax.random.randint(key, shape, low, high)
    high_key, low_key = jax.random.split(key)
    span = jnp.maximum(high - low, 1).astype(jnp.uint32)
    upper, lower = (jax.random.bits(bits_key, shape, jnp.uint32) % span for bits_key in (high_key, low_key))
    # 2³² times the upper bits, modulo the span: doubled 32 times, for a product would overflow. The difference wraps
    # round where it is negative, and is then the larger.
    shifted = jax.lax.fori_loop(0, 32, lambda _, rest: jnp.minimum(2 * rest, 2 * rest - span), upper)
    return low + ((shifted + lower) % span).astype(jnp.int32)


def draw(key: Array, table: AliasTable, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Return fact ids drawn from the table's distribution."""
    cell_key, keep_key = jax.random.split(key)
    n_cells = len(table.alias)
    if n_cells <= ROW:
        cell = jax.random.randint(cell_key, shape, 0, n_cells)
    else:
        row_key, column_key = jax.random.split(cell_key)
        row = jax.random.randint(row_key, shape, 0, n_cells // ROW)
        cell = ROW * row + jax.random.randint(column_key, shape, 0, ROW)
    bits = jax.random.bits(keep_key, shape, jnp.uint32)
    is_kept = bits < jnp.asarray(table.threshold)[cell]
    return jnp.where(is_kept, cell, jnp.asarray(table.alias)[cell])
