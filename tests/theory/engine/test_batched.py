import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.engine import batched
from theory.engine.batched import Cost, Program

ROOT = Path(__file__).resolve().parents[3]

SHARDED = """
import jax, numpy as np
from theory.engine.batched import Program
n_devices, n_worlds = jax.device_count(), 4

def cumulate(n_steps, world):
    start, nothing = world
    end = jax.lax.while_loop(lambda c: c[0] < n_steps, lambda c: (c[0] + 1, c[1] + start[c[0]]), (0, 0.0))
    return end, jax.lax.scan(lambda total, x: (total + x, total), start[0], start), nothing

worlds = np.random.default_rng(0).normal(size=(n_worlds, 50)).astype(np.float32)
steps = np.arange(20, 20 + n_worlds, dtype=np.int32)
together = Program(cumulate)(steps, (worlds, None))
for number, world in enumerate(worlds):
    alone = Program(cumulate)(steps[number, None], (world[None], None))
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


def count_to(n_steps, world):
    """Count in steps of the world's size, and keep something as large as the world."""
    counted = jax.lax.while_loop(lambda c: c[0] < n_steps, lambda c: (c[0] + 1, c[1] + world[0]), (0, 0.0 * world[0]))
    return counted[1], jnp.cumsum(world)


@pytest.fixture
def worlds():
    return np.arange(1.0, 52.0, dtype=np.float32)[:, None] * np.ones(1000, np.float32)


@pytest.mark.parametrize("n_worlds", [1, 2, 5, 51])
def test_every_number_of_worlds_is_met_in_order_and_compiled_once(worlds, n_worlds):
    cost = Cost()
    counting = Program(count_to, cost)
    steps = np.arange(n_worlds, dtype=np.int32)
    for _ in range(2):
        counted, summed = counting(steps, worlds[:n_worlds])
        np.testing.assert_allclose(counted, steps * worlds[:n_worlds, 0])
        np.testing.assert_allclose(summed[:, -1], 1000 * worlds[:n_worlds, 0], rtol=1e-5)
    assert cost.compilations == 1


def test_a_new_shape_is_compiled_anew_and_a_new_number_is_not(worlds):
    cost = Cost()
    counting = Program(count_to, cost)
    counting(np.ones(4, np.int32), worlds[:4])
    counting(np.full(4, 7, np.int32), 2 * worlds[:4])
    assert cost.compilations == 1
    counting(np.ones(4, np.int32), worlds[:4, :500])
    assert cost.compilations == 2


def test_worlds_that_do_not_fit_run_in_chunks(worlds, monkeypatch):
    unlimited = Program(count_to)(np.ones(51, np.int32), worlds)
    n_bytes = 2 * 4 * 1000
    monkeypatch.setattr(batched, "free_memory", lambda: int(5 * n_bytes / batched.MEMORY_SHARE))
    cost = Cost()
    limited = Program(count_to, cost)
    for one, other in zip(limited(np.ones(51, np.int32), worlds), unlimited, strict=True):
        np.testing.assert_array_equal(one, other)
    ((_, n_slots),) = limited._compiled.values()
    assert n_slots <= 5 and n_slots % jax.device_count() == 0
    assert cost.bytes_per_world >= n_bytes - 1000


def test_on_an_accelerator_only_worlds_alike_run_together(worlds):
    """Vectorised as there, on this machine's devices."""
    counting = Program(count_to)
    counting._is_cpu = False
    counting._function = lambda alike, *stacked: jax.vmap(lambda *world: count_to(alike, *world))(*stacked)
    counting._specs = (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("world"))
    steps = np.array([3, 1, 3, 2, 1, 3, 3], np.int32)
    counted, summed = counting(steps, worlds[:7])
    np.testing.assert_allclose(counted, steps * worlds[:7, 0])
    np.testing.assert_allclose(summed[:, -1], 1000 * worlds[:7, 0], rtol=1e-5)


def test_the_compiler_is_told_of_wide_registers_unless_the_user_says_how_wide(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert batched.options() == {batched.VECTOR_WIDTH: 512}
    monkeypatch.setenv("XLA_FLAGS", f"--{batched.VECTOR_WIDTH}=256")
    assert batched.options() is None
