from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from theory.engine import loop
from theory.model.config import MAX_LOSS

ROOT = Path(__file__).resolve().parents[3]


def count(n_steps: int, n_records: int, losses=lambda step: 1.0 * step, **options):
    """Train a counter: the loss of step k is losses(k), for two facts a batch, and the state counts the steps."""
    records = loop.record_steps(n_steps, n_records)

    def step(state, batch):
        assert batch.shape == (2,)
        return state + 1, jnp.broadcast_to(losses(state), 2)

    def draw(key, n):
        return jax.random.uniform(key, (BLOCK, 2))

    return jax.jit(
        lambda at: loop.run(
            step, jnp.zeros(()), draw, lambda state: 10 * state, records=at, block=BLOCK, key=KEY, **options
        )
    )(records)


KEY = jax.random.key(0)
BLOCK = 5


@pytest.mark.parametrize(
    ("n_steps", "n_records", "expected"),
    [
        (12, 4, [0, 3, 6, 9, 12]),
        (13, 4, [0, 3, 6, 9, 12, 13]),
        (15, 4, [0, 3, 6, 9, 12, 15]),
        (3, 20, [0, 1, 2, 3]),
        (1, 1, [0, 1]),
        (20, 20, list(range(21))),
    ],
)
def test_every_number_of_steps_and_records_is_met_exactly(n_steps, n_records, expected):
    state, trace = count(n_steps, n_records)
    assert state == n_steps
    np.testing.assert_array_equal(trace.step, expected)
    np.testing.assert_array_equal(trace.measured, 10 * np.array(expected))
    # The loss of step 0, then the mean since the last record.
    means = [np.mean(np.arange(low, high)) for low, high in zip(expected, expected[1:], strict=False)]
    np.testing.assert_allclose(trace.loss, [0.0, *means])
    assert trace.diverged_at == -1


def random_numbers(n_steps: int, n_records: int) -> list[float]:
    """Return what each step was given."""
    seen = []

    def step(state, batch):
        jax.debug.callback(lambda numbers: seen.append(float(numbers[0])), batch)
        return state, batch

    def draw(key, n):
        return jax.random.uniform(key, (BLOCK, 1))

    records = jnp.asarray(loop.record_steps(n_steps, n_records))
    loop.run(step, jnp.zeros(()), draw, lambda state: state, records=records, block=BLOCK, key=KEY)
    jax.effects_barrier()
    return seen


def test_no_two_steps_get_the_same_random_numbers():
    seen = random_numbers(11, 3)
    assert len(seen) == 11 == len(set(seen))


def test_a_shorter_run_is_the_beginning_of_a_longer_one_wherever_either_is_recorded():
    longer = random_numbers(23, 4)
    assert random_numbers(11, 3) == longer[:11]
    assert random_numbers(11, 11) == longer[:11]


@pytest.mark.parametrize(("n_steps", "n_records"), [(12, 4), (23, 2), (20, 1), (3, 3)])
def test_an_accelerators_whole_blocks_are_the_same_steps(n_steps, n_records, monkeypatch):
    one_by_one, (_, trace) = random_numbers(n_steps, n_records), count(n_steps, n_records)
    monkeypatch.setattr(loop, "on_cpu", lambda: False)
    assert random_numbers(n_steps, n_records) == one_by_one
    for one, other in zip(count(n_steps, n_records)[1], trace, strict=True):
        np.testing.assert_array_equal(one, other)


def test_with_a_score_the_state_is_that_of_the_best_record():
    state, trace = count(12, 4, score=lambda state: jnp.abs(state - 5.6))
    assert state == 6 and trace.step[-1] == 12
    assert count(12, 4, score=lambda state: state)[0] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, MAX_LOSS, 1e30])
def test_the_first_diverged_step_is_found(bad):
    _, trace = count(12, 3, lambda step: jnp.where((step == 7) | (step > 9), bad, 1.0))
    assert trace.diverged_at == 7


def test_a_diverged_fact_is_found_among_fine_ones():
    _, trace = count(12, 3, lambda step: jnp.where(step == 4, jnp.array([0.5, 1.1 * MAX_LOSS]), 1.0))
    assert trace.diverged_at == 4


def test_divergence_names_stage_step_and_run():
    trace = loop.Trace(*np.zeros((3, 1)), diverged_at=np.array([[-1, -1], [41, 5]]))
    with pytest.raises(InputError, match=r"finetune diverged at step 41 \(third\).*above 80 nats.\nLower --finetune"):
        loop.check_finite(trace, "finetune", ["first", "second", "third", "fourth"])
    loop.check_finite(trace._replace(diverged_at=np.array(-1)), "finetune", ["only"])
