import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from theory.engine import sampling

RESOLUTION = 2.0**-31
"""Thresholds are multiples of 2⁻³² of the mean probability, met by drawn bits up to and including the threshold."""


def reconstructed(table: sampling.AliasTable) -> np.ndarray:
    """Return the probability of every fact that the table draws from, summed over cells."""
    n = len(table.alias)
    kept = (np.asarray(table.threshold, float) + 1) / 2**32
    return (kept + np.bincount(table.alias, 1 - kept, minlength=n)) / n


def tolerance(table: sampling.AliasTable) -> np.ndarray:
    """Return how far each probability may be off: by the resolution for each cell that leads to it."""
    n = len(table.alias)
    return RESOLUTION * (1 + np.bincount(table.alias, minlength=n)) / n


@settings(max_examples=60)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=40))
@example([1.0])
@example([1.0] * 7)
@example([1e-9] * 39 + [1e9])
@example([1.0, 1.0, 2.0, 4.0, 8.0])
def test_the_alias_table_holds_any_distribution(weights):
    probability = np.array(weights)
    table = sampling.alias_table(probability)
    assert (0 <= table.alias).all() and (table.alias < len(weights)).all()
    assert (np.abs(reconstructed(table) - probability / probability.sum()) <= tolerance(table)).all()


@pytest.fixture(scope="module")
def zipf():
    """A million facts, the rarest of them a million times rarer than the first."""
    probability = 1 / np.arange(1, 1e6 + 1)
    return probability / probability.sum()


def test_a_million_facts_keep_their_probabilities(zipf):
    table = sampling.alias_table(zipf)
    found = reconstructed(table)
    np.testing.assert_allclose(found[: len(zipf)], zipf, rtol=1e-7)
    assert found[len(zipf) :].max() < 1e-15  # cells that fill the last row
    assert found[: len(zipf)].min() > 0
    assert found[500_000 : len(zipf)].sum() == pytest.approx(zipf[500_000:].sum(), rel=1e-8)


def test_draws_from_a_million_facts_have_the_expected_counts_in_every_decade(zipf):
    n_draws = 2_000_000
    table = sampling.alias_table(zipf)
    drawn = np.asarray(jax.jit(lambda key: sampling.draw(key, table, (n_draws,)))(jax.random.key(0)))
    bounds = np.unique(np.geomspace(1, 1e6, 40).astype(int)) - 1
    bounds[-1] = 10**6
    counts = np.add.reduceat(np.bincount(drawn, minlength=10**6), bounds[:-1])
    expected = n_draws * np.add.reduceat(zipf, bounds[:-1])
    assert counts.sum() == n_draws
    assert expected.min() > 1000
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    # Float32 cumulative sums leave a tenth of the rarest facts out of reach: here they come as often as they should.
    rarest = zipf[900_000:]
    expected_distinct = len(rarest) - np.exp(n_draws * np.log1p(-rarest)).sum()
    n_distinct = len(np.unique(drawn[drawn >= 900_000]))
    assert n_distinct == pytest.approx(expected_distinct, rel=0.03)


def test_the_key_alone_decides_the_draws():
    table = sampling.alias_table(np.array([0.5, 0.3, 0.2]))
    first, again, other = (sampling.draw(jax.random.key(seed), table, (4, 25)) for seed in (1, 1, 2))
    assert first.shape == (4, 25)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(np.unique(first), [0, 1, 2])


def test_cells_of_forty_million_facts_are_equally_likely():
    n_cells, n_draws = 611 * sampling.ROW, 4_000_000
    table = sampling.AliasTable(np.full(n_cells, 2**32 - 1, np.uint32), np.arange(n_cells, dtype=np.int32))
    drawn = np.asarray(jax.jit(lambda key, of: sampling.draw(key, of, (n_draws,)))(jax.random.key(0), table))
    # One `randint` over all cells draws the lowest, a third of them, half a per cent too often.
    share = (2**32 % n_cells) / n_cells
    n_low = (drawn < 2**32 % n_cells).sum()
    assert stats.binomtest(int(n_low), n_draws, share).pvalue > 1e-3


@pytest.mark.parametrize("span", [1, 2, 777, sampling.ROW, sampling.ROW + 1, 40_000_000, 2**31 - 6])
def test_an_integer_is_sixty_four_random_bits_modulo_the_span_and_randints_up_to_a_row(span):
    key, shape = jax.random.key(7), (4, 250)
    found = sampling.integers(key, shape, 5, jnp.asarray(5 + span), most=2**31 - 1)
    if span <= sampling.ROW:
        np.testing.assert_array_equal(found, jax.random.randint(key, shape, 5, jnp.asarray(5 + span)))
        np.testing.assert_array_equal(found, sampling.integers(key, shape, 5, jnp.asarray(5 + span), most=span))
    upper, lower = (np.asarray(jax.random.bits(part, shape)).astype(object) for part in jax.random.split(key))
    np.testing.assert_array_equal(np.asarray(found) - 5, (2**32 * upper + lower) % span)
