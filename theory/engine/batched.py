"""Functions of one world, compiled and run for many worlds: on all local devices, within the memory there is."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import psutil
from jaxtyping import PyTree

MEMORY_SHARE = 0.5
"""What share of the free memory the worlds that run together may take."""
VECTOR_WIDTH = "xla_cpu_prefer_vector_width"
"""XLA's option: half of what AVX-512 computes at once is taken unless it says 512; other processors take no notice."""
CPU_SLOTS = 8
"""Worlds in one call for each core: they run one after another, so more would gain nothing."""


@dataclass
class Cost:
    """What compiled programs have cost so far."""

    compilations: int = 0
    bytes_per_world: int = 0
    """The most that one takes for a world: arguments, results and what lies between."""


PROCESS = Cost()
"""Of all programs of this process that keep no account of their own."""


class Program:
    """A function of a world, compiled once for each shape of a world.

    Worlds are given stacked along a leading axis. Within a device they are vectorised on an accelerator and run one
    after another on a CPU, where one world's rows stay in the core's cache. `alike` (numbers of steps, say) decides
    how long a world takes: on an accelerator only worlds that agree on it run together. More worlds than fit into
    memory run in chunks; how many fit, the compiled program itself says. Chunks have one size, and what pads one has an
    `alike` of zeros, so that it takes no time.
    """

    def __init__(self, function: Callable[..., Any], cost: Cost = PROCESS):
        self._cost = cost
        devices = np.array(jax.devices())
        self._n_devices = len(devices)
        self._is_cpu = devices[0].platform == "cpu"
        self._mesh = jax.sharding.Mesh(devices, ("world",))
        self._compiled: dict[Any, tuple[int, Any]] = {}

        def one_after_another(alike, *stacked):
            return jax.lax.map(lambda both: function(both[0], *both[1]), (alike, stacked))

        def together(alike, *stacked):
            return jax.vmap(lambda *world: function(alike, *world))(*stacked)

        self._function = one_after_another if self._is_cpu else together
        across, whole = jax.sharding.PartitionSpec("world"), jax.sharding.PartitionSpec()
        self._specs = (across if self._is_cpu else whole, across)

    def __call__(self, alike: PyTree, *stacked: PyTree) -> PyTree:
        """Return the function's results as numpy arrays, stacked over the worlds."""
        n_worlds = len(jax.tree.leaves(stacked)[0])
        parts, order = [], []
        for chosen in self._groups(alike, n_worlds):
            compiled, n_slots = self._program(alike, stacked, len(chosen))
            for start in range(0, len(chosen), n_slots):
                chunk = chosen[start : start + n_slots]
                slots = self._slots(len(chunk), n_slots)
                out = compiled(*self._place(alike, stacked, chunk, slots, n_slots))
                parts.append(jax.tree.map(lambda x, slots=slots: np.asarray(x)[slots], out))
                order.append(chunk)
        if len(parts) == 1:
            return parts[0]
        back = np.argsort(np.concatenate(order))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *parts)

    def _groups(self, alike: PyTree, n_worlds: int) -> Iterator[np.ndarray]:
        """Return the worlds that may run together."""
        leaves = jax.tree.leaves(alike)
        if self._is_cpu or not leaves:
            yield np.arange(n_worlds)
            return
        rows = np.concatenate([np.reshape(leaf, (n_worlds, -1)) for leaf in leaves], axis=1)
        group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
        for which in range(group.max() + 1):
            yield np.flatnonzero(group == which)

    def _slots(self, n_worlds: int, n_slots: int) -> np.ndarray | slice:
        """Return the slots that so many worlds take, as many on every device; a view of the only one."""
        if n_slots == 1:
            return slice(0, 1)
        return np.arange(n_slots).reshape(self._n_devices, -1).T.ravel()[:n_worlds]

    def _place(
        self, alike: PyTree, stacked: PyTree, chunk: np.ndarray, slots: np.ndarray | slice, n_slots: int
    ) -> list[PyTree]:
        """Return a chunk's arguments on the devices."""
        padded: Any = slice(chunk[0], chunk[0] + 1)  # a view: one world may fill half the memory
        if n_slots > 1:
            padded = np.full(n_slots, chunk[-1])
            padded[slots] = chunk
        worlds = jax.tree.map(lambda x: np.asarray(x)[padded], stacked)
        if self._is_cpu:
            is_padding = np.ones(n_slots, bool)
            is_padding[slots] = False
            alike = jax.tree.map(lambda x: np.where(_column(is_padding, x), 0, np.asarray(x)[padded]), alike)
        else:
            alike = jax.tree.map(lambda x: np.asarray(x)[chunk[0]], alike)
        if n_slots == 1:
            return [alike, *worlds]
        shardings = [jax.sharding.NamedSharding(self._mesh, spec) for spec in self._specs]
        return [jax.device_put(alike, shardings[0]), *jax.device_put(worlds, shardings[1])]

    def _program(self, alike: PyTree, stacked: PyTree, n_worlds: int) -> tuple[Any, int]:
        """Return the compiled program for worlds of this shape, and how many of them it takes."""
        leaves, structure = jax.tree.flatten((alike, stacked))
        n_slots = 1
        if n_worlds > 1:  # on an accelerator the next power of two, so that few programs serve all numbers
            on_each = -(-n_worlds // self._n_devices)
            n_slots = self._n_devices * (CPU_SLOTS if self._is_cpu else 1 << (on_each - 1).bit_length())
        key = (structure, tuple((np.shape(x)[1:], np.result_type(x)) for x in leaves), n_slots)
        if key not in self._compiled:
            if n_slots > 1:
                n_slots = self._fitting(n_slots, 2 * sum(x.nbytes for x in map(np.asarray, leaves)) // n_worlds)
            compiled, n_bytes = self._compile(alike, stacked, n_slots)
            while n_slots > self._fitting(n_slots, n_bytes):
                n_slots = self._fitting(n_slots, n_bytes)
                compiled, n_bytes = self._compile(alike, stacked, n_slots)
            self._cost.bytes_per_world = max(self._cost.bytes_per_world, n_bytes)
            self._compiled[key] = compiled, n_slots
        return self._compiled[key]

    def _fitting(self, n_slots: int, bytes_per_world: int) -> int:
        """Return as many slots, at most `n_slots`, as fit into memory; at least one for each device."""
        fitting = int(MEMORY_SHARE * free_memory() // max(1, bytes_per_world))
        return n_slots if n_slots <= max(fitting, 1) else max(1, fitting // self._n_devices) * self._n_devices

    def _compile(self, alike: PyTree, stacked: PyTree, n_slots: int) -> tuple[Any, int]:
        """Return the program for so many worlds, and the bytes that it takes for each."""
        arguments = self._place(alike, stacked, np.zeros(1, int), slice(0, 1), n_slots)
        function = self._function
        if n_slots > 1:
            specs = (self._specs[0], *[self._specs[1]] * len(stacked))
            function = jax.shard_map(
                function, mesh=self._mesh, in_specs=specs, out_specs=self._specs[1], check_vma=False
            )
        with jax.default_matmul_precision("highest"):  # a GPU rounds float32 factors to 10 bits otherwise (TF32)
            compiled = jax.jit(function).lower(*arguments).compile(options())
        self._cost.compilations += 1
        memory: Any = compiled.memory_analysis()
        n_devices = self._n_devices if n_slots > 1 else 1
        total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        return compiled, total * n_devices // n_slots


def options() -> dict[str, Any] | None:
    """Return what the compiler is told, unless XLA_FLAGS says it."""
    is_said = VECTOR_WIDTH in os.environ.get("XLA_FLAGS", "")
    return None if is_said or jax.default_backend() != "cpu" else {VECTOR_WIDTH: 512}


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Return the worlds' arrays along a leading axis: a view of the only one, which may fill half the memory."""
    if len(trees) == 1:
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], trees[0])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def pick(tree: PyTree, index: int) -> PyTree:
    """Return one of the stacked worlds."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


def free_memory() -> int:
    """Return the bytes that are free: on all accelerators together, or in this machine."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(statistics):
        return sum(device["bytes_limit"] - device["bytes_in_use"] for device in statistics)
    return psutil.virtual_memory().available


def _column(is_padding: np.ndarray, of: Any) -> np.ndarray:
    """Return the mask with as many trailing axes as the array."""
    return is_padding.reshape(-1, *[1] * (np.ndim(of) - 1))
