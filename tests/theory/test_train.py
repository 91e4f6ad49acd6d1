import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import train
from theory.errors import InputError
from theory.table import MAX_LOSS

ROOT = Path(train.__file__).resolve().parent.parent


def count(n_steps: int, n_records: int, losses=lambda step: 1.0 * step):
    """Train a counter: the loss of step k is losses(k), for two facts a batch, and the state counts the steps."""

    def step(state, batch):
        assert batch.shape == (2,)
        return state + 1, jnp.broadcast_to(losses(state), 2)

    def draw(key, n):
        return jax.random.uniform(key, (n, 2))

    return jax.jit(
        lambda: train.run(
            step, jnp.zeros(()), draw, lambda state: 10 * state, n_steps=n_steps, n_records=n_records, key=KEY
        )
    )()


KEY = jax.random.key(0)


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


def test_no_two_steps_get_the_same_random_numbers():
    seen = []

    def step(state, batch):
        jax.debug.callback(lambda numbers: seen.append(float(numbers[0])), batch)
        return state, batch

    def draw(key, n):
        return jax.random.uniform(key, (n, 1))

    train.run(step, jnp.zeros(()), draw, lambda state: state, n_steps=11, n_records=3, key=KEY)
    jax.effects_barrier()
    assert len(seen) == 11 == len(set(seen))


@pytest.mark.parametrize("bad", [np.nan, np.inf, MAX_LOSS, 1e30])
def test_the_first_diverged_step_is_found(bad):
    _, trace = count(12, 3, lambda step: jnp.where((step == 7) | (step > 9), bad, 1.0))
    assert trace.diverged_at == 7


def test_a_diverged_fact_is_found_among_fine_ones():
    _, trace = count(12, 3, lambda step: jnp.where(step == 4, jnp.array([0.5, 1.1 * MAX_LOSS]), 1.0))
    assert trace.diverged_at == 4


def test_divergence_names_stage_step_and_run():
    trace = train.Trace(*np.zeros((3, 1)), diverged_at=np.array([[-1, -1], [41, 5]]))
    with pytest.raises(InputError, match=r"finetune diverged at step 41 \(third\).*above 80 nats.\nLower --finetune"):
        train.check_finite(trace, "finetune", ["first", "second", "third", "fourth"])
    train.check_finite(trace._replace(diverged_at=np.array(-1)), "finetune", ["only"])


SHARDED = """
import jax, numpy as np
from theory import train
n_devices, n_worlds = jax.device_count(), 4

def cumulate(world):
    start, nothing = world
    return jax.lax.scan(lambda total, x: (total + x, total), start[0], start), nothing

worlds = np.random.default_rng(0).normal(size=(n_worlds, 50)).astype(np.float32)
together = train.over_worlds(cumulate)((worlds, None))
for number, world in enumerate(worlds):
    alone = train.over_worlds(cumulate)((world[None], None))
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        assert len(one) == n_worlds
        np.testing.assert_array_equal(one[number], other[0])
print(n_devices, "devices agree")
"""


@pytest.mark.parametrize("n_devices", [1, 3])
def test_worlds_shared_out_over_devices_are_each_as_if_alone(n_devices):
    """A process of its own: the number of devices is fixed when JAX starts. Three devices leave two without a world."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(n_devices)}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{n_devices} devices agree\n", done.stderr
