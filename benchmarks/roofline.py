"""The most steps per second that a machine's memory and arithmetic allow: what a step needs over what was measured.

Every rate is the highest of many short windows with all cores at work, so that neither another program on the machine
nor a slow library lowers the bound.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from core.facts.store import FactStore
from theory.engine import batched
from theory.model.config import MAX_LOSS

WINDOW = 0.002
"""Seconds of one window: shorter than the time slice after which the system may give a core to another program."""
N_WINDOWS = 100
N_EXPONENTIALS = 2**15
"""Exponentials per call and core: about a batch's, and its arrays fit a core's cache."""
N_REPEATED = 100
"""Exponentials of exponentials in one call of a compiled loop."""
TAYLOR = [math.log(2) ** k / math.factorial(k) for k in range(5, -1, -1)]
"""Coefficients of 2**x around 0, the highest power first."""
SHARED_ABOVE = 2**25
"""Bytes above which the cores share one table instead of having one each, as one world per core would."""

Task = Callable[[], object]


@dataclass(frozen=True)
class Work:
    """What one pretraining step of the factored model cannot do without."""

    exponentials: int
    bytes: int


@dataclass(frozen=True)
class Machine:
    """Highest rates found, all cores together."""

    exponentials: dict[str, float]
    """float32 exponentials per second, by library, and of a polynomial in registers as wide as there are."""
    bandwidth: dict[str, float]
    """Bytes per second in a table of the benchmark's size: `read`, `copy` and `update` stream through it (what is read
    and what is written both count), `gather` reads the rows of drawn subjects."""


class Limit(NamedTuple):
    """Steps per second at most."""

    overlapped: float
    """Arithmetic and memory traffic at the same time: 1 / max."""
    in_turn: float
    """One after the other: 1 / sum."""
    bound_by: str


def work(batch_size: int, n_outputs: int) -> Work:
    """Return the exponentials and float32 bytes of one step of pretraining.

    A batch's subject rows are read once for the logits, then read and written for the update. Of each fact four 32-bit
    ids are read: its own and those of subject, relation and answer. The few relation rows stay in the cache.
    """
    rows = batch_size * n_outputs * 4
    return Work(batch_size * n_outputs, 3 * rows + batch_size * 4 * 4)


def question_work(batch_size: int, n_outputs: int) -> Work:
    """Return the same of one step of finetuning: an attention over three tokens, read with the values, and written."""
    return Work(batch_size * (n_outputs + 3), batch_size * (n_outputs * 4 + 4 * 4 + 3 * 4))


def limit(needed: Work, machine: Machine) -> Limit:
    """Return the bound on steps per second, from the fastest exponential's and the fastest traffic's rate."""
    arithmetic = needed.exponentials / max(machine.exponentials.values())
    traffic = needed.bytes / max(machine.bandwidth.values())
    bound_by = "exponentials" if arithmetic > traffic else "bytes"
    return Limit(1 / max(arithmetic, traffic), 1 / (arithmetic + traffic), bound_by)


def measure(store: FactStore, n_outputs: int, *, batch_size: int, device: str, n_workers: int) -> Machine:
    """Return the machine's highest rates, for value tables of the store's subjects. Takes a few seconds.

    Args:
        n_workers: cores to use at once; 1 for an accelerator.
    """
    return Machine(
        _measure_exponentials(device, n_workers), _measure_bandwidth(store, n_outputs, batch_size, device, n_workers)
    )


def fastest(*machines: Machine) -> Machine:
    """Return the highest of each rate over several measurements of one machine."""

    def highest(rates: list[dict[str, float]]) -> dict[str, float]:
        return {name: max(one[name] for one in rates) for name in rates[0]}

    return Machine(highest([m.exponentials for m in machines]), highest([m.bandwidth for m in machines]))


def _measure_exponentials(device: str, n_workers: int) -> dict[str, float]:
    """Return float32 exponentials per second by library; on an accelerator numpy is left out."""

    def by_torch(_: int) -> Task:
        x = torch.full((N_EXPONENTIALS,), -1.0, device=device)
        y = torch.empty_like(x)
        return lambda: torch.exp(x, out=y)

    def by_numpy(_: int) -> Task:
        x = np.full(N_EXPONENTIALS, -1.0, np.float32)
        y = np.empty_like(x)
        return lambda: np.exp(x, out=y)

    def repeated(exponential: Callable[[jax.Array], jax.Array]) -> Callable[[int], Task]:
        def every_time(x: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, N_REPEATED, lambda _, y: exponential(-y), x)

        def by_worker(worker: int) -> Task:
            place = jax.local_devices()[worker % jax.local_device_count()]
            x = jax.device_put(np.ones(N_EXPONENTIALS, np.float32), place)
            compiled = jax.jit(every_time).lower(x).compile(batched.options())
            return lambda: compiled(x).block_until_ready()

        return by_worker

    by_jax, by_hand = repeated(lambda x: jnp.exp(jnp.minimum(x, MAX_LOSS))), repeated(_power_of_two)
    with _workers(device, n_workers) as highest:
        rates = {
            "torch": highest(by_torch, N_EXPONENTIALS),
            "jax": highest(by_jax, N_EXPONENTIALS * N_REPEATED),
            "polynomial": highest(by_hand, N_EXPONENTIALS * N_REPEATED),
        }
        return rates if device != "cpu" else rates | {"numpy": highest(by_numpy, N_EXPONENTIALS)}


def _power_of_two(x: jax.Array) -> jax.Array:
    """Return 2**x to 4e-6 of itself, without a look at its range: what an exponential cannot do without."""
    whole = jnp.round(x)
    mantissa = jnp.polyval(jnp.asarray(TAYLOR, jnp.float32), x - whole)
    bits = jax.lax.bitcast_convert_type(mantissa, jnp.int32) + (whole.astype(jnp.int32) << 23)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _measure_bandwidth(
    store: FactStore, n_outputs: int, batch_size: int, device: str, n_workers: int
) -> dict[str, float]:
    """Return bytes per second in a value table of the store's subjects, by kind of traffic."""
    n_tables = n_workers if store.n_subjects * n_outputs * 4 <= SHARED_ABOVE else 1
    tables = [torch.full((store.n_subjects, n_outputs), 1.0, device=device) for _ in range(n_tables)]
    chunks = [chunk for table in tables for chunk in table.flatten().tensor_split(n_workers // n_tables)]
    n_values = min(len(chunk) for chunk in chunks)
    half = n_values // 2
    drawn = np.random.default_rng(0).choice(store.subject, (len(chunks), 64, batch_size), p=store.exposure)

    def read(worker: int) -> Task:
        x = chunks[worker][:n_values]
        return lambda: torch.dot(x, x)

    def copy(worker: int) -> Task:
        x, y = chunks[worker][:half], chunks[worker][half : 2 * half]
        return lambda: y.copy_(x)

    def update(worker: int) -> Task:
        x = chunks[worker][:n_values]
        return lambda: x.mul_(1.0)

    def gather(worker: int) -> Task:
        table, batches = tables[worker % n_tables], torch.from_numpy(drawn[worker]).to(device, torch.int64)
        rows = torch.empty(batch_size, n_outputs, device=device)

        def every_batch() -> None:
            for batch in batches:
                torch.index_select(table, 0, batch, out=rows)

        return every_batch

    with _workers(device, n_workers) as highest:
        return {
            "read": highest(read, 4 * n_values),
            "copy": highest(copy, 2 * 4 * half),
            "update": highest(update, 2 * 4 * n_values),
            "gather": highest(gather, 4 * n_outputs * drawn[0].size),
        }


@contextmanager
def _workers(device: str, n_workers: int) -> Iterator[Callable[[Callable[[int], Task], int], float]]:
    """Return a function (make, amount) → highest rate: the amount of every worker's call to its task, per second.

    A worker is a thread with single-threaded library calls, one for each core: they lose no time waiting for one
    another. An accelerator needs one worker only.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n_workers) as pool:
            yield lambda make, amount: n_workers * amount / _shortest(pool, [make(i) for i in range(n_workers)], device)
    finally:
        torch.set_num_threads(n_threads)


def _shortest(pool: ThreadPoolExecutor, tasks: list[Task], device: str) -> float:
    """Return the seconds of one call of the tasks side by side, in the fastest window."""

    def seconds(n_calls: int) -> float:
        def repeat(task: Task) -> None:
            for _ in range(n_calls):
                task()

        start = time.perf_counter()
        list(pool.map(repeat, tasks))
        if device != "cpu":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / n_calls

    seconds(1)
    n_calls = max(1, round(WINDOW / min(seconds(1) for _ in range(3))))
    return min(seconds(n_calls) for _ in range(N_WINDOWS))
