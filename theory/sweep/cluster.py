"""Where a sweep's chunks are computed: on this machine's devices, or by the workers of a Ray cluster."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa

from core import cluster
from theory.sweep import runner
from theory.sweep.runner import Chunk

AHEAD = 2
"""Chunks for each worker, at most, that are handed out at once; the rest stays free for other processes."""


@contextmanager
def engine(kind: Literal["local", "ray"]) -> Iterator[runner.Engine]:
    """Give the engine; that of Ray is ended afterwards.

    Raises:
        InputError: Ray is not installed, or its cluster cannot be reached.
    """
    if kind == "local":
        yield runner.local
        return
    with cluster.connected("theory") as ray:
        yield lambda chunks: _on_ray(ray, chunks)


def _on_ray(ray: Any, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, pa.Table]]:
    """Give the chunks' rows as the workers finish: a core each, or a whole accelerator where there are some."""
    resources = ray.cluster_resources()
    needs = {"num_cpus": 1, "num_gpus": 1 if resources.get("GPU") else 0}
    n_workers = int(resources.get("GPU") or resources.get("CPU", 1))
    compute = ray.remote(max_retries=cluster.RETRIES, **needs)(runner.compute)
    running: dict[Any, Chunk] = {}

    def finished() -> Iterator[tuple[Chunk, pa.Table]]:
        ready, _ = ray.wait(list(running), num_returns=1)
        for reference in ready:
            chunk = running.pop(reference)
            yield chunk, cluster.result(ray, reference)

    for chunk in chunks:
        running[compute.remote(chunk)] = chunk
        if len(running) >= AHEAD * n_workers:
            yield from finished()
    while running:
        yield from finished()
