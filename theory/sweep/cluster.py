"""Where a sweep's chunks are computed: on this machine's devices, or by the workers of a Ray cluster."""

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa

from core.errors import InputError
from theory.sweep import runner
from theory.sweep.runner import Chunk

RETRIES = 5
"""Times that a chunk is computed again whose worker died."""
AHEAD = 2
"""Chunks for each worker, at most, that are handed out at once; the rest stays free for other processes."""


@contextmanager
def engine(kind: Literal["local", "ray"]) -> Iterator[runner.Engine]:
    """Give the engine; Ray's cluster is that of RAY_ADDRESS, or else one on this machine, ended afterwards.

    Raises:
        InputError: Ray is not installed, or its cluster cannot be reached.
    """
    if kind == "local":
        yield runner.local
        return
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray.\nInstall the extra: pip install -e '.[theory,cluster]'") from error
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        _check_reachable(address)
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except OSError as error:
        raise InputError(
            f"Ray's cluster at {address} cannot be reached: {error.strerror or error}.\nStart it, or unset RAY_ADDRESS."
        ) from error
    try:
        yield lambda chunks: _on_ray(ray, chunks)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT, for which Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def _on_ray(ray: Any, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, pa.Table]]:
    """Give the chunks' rows as the workers finish: a core each, or a whole accelerator where there are some."""
    resources = ray.cluster_resources()
    needs = {"num_cpus": 1, "num_gpus": 1 if resources.get("GPU") else 0}
    n_workers = int(resources.get("GPU") or resources.get("CPU", 1))
    compute = ray.remote(max_retries=RETRIES, **needs)(runner.compute)
    running: dict[Any, Chunk] = {}

    def finished() -> Iterator[tuple[Chunk, pa.Table]]:
        ready, _ = ray.wait(list(running), num_returns=1)
        for result in ready:
            chunk = running.pop(result)
            yield chunk, ray.get(result)

    for chunk in chunks:
        running[compute.remote(chunk)] = chunk
        if len(running) >= AHEAD * n_workers:
            yield from finished()
    while running:
        yield from finished()
