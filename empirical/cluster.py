"""Who makes a study's runs: this process, or the workers of a Ray cluster, which divide it as any processes do."""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from core import cluster
from core.errors import InputError
from core.seeds import Cell
from core.writing import HOST
from empirical import runner
from empirical.lm import model as models
from empirical.progress import Progress, silent
from empirical.runner import Made
from empirical.shared import Job

LOOK = 2.0
"""Seconds between looks at what the workers have finished."""


@contextmanager
def engine(kind: Literal["local", "ray"], n_workers: int | None = None) -> Iterator[runner.Engine]:
    """Give the engine; that of Ray is ended afterwards, and its workers with it.

    Args:
        n_workers: How many there are; None: one a GPU, or one a machine where there is none.

    Raises:
        InputError: Ray is not installed, or its cluster cannot be reached.
    """
    if kind == "local":
        yield runner.local
        return
    with cluster.connected("empirical") as ray:
        yield lambda job, wanted, progress: _on_ray(ray, n_workers, job, wanted, progress)


def _on_ray(ray: Any, n_workers: int | None, job: Job, wanted: Sequence[Cell], progress: Progress) -> Made:
    """Let workers divide the runs until all are written; one that dies begins again, and goes on from what is kept."""
    n, needs = shares(ray.nodes(), n_workers)
    work = ray.remote(max_retries=cluster.RETRIES, scheduling_strategy="SPREAD", **needs)(_work)
    arms, furthest = runner.arms(job, wanted), 0.0
    with tempfile.NamedTemporaryFile(dir=job.out, prefix=".shared-") as mark:
        given = ray.put((job, tuple(wanted), Path.cwd(), Path(mark.name).resolve()))
        left = [work.remote(given) for _ in range(n)]
        while left:
            done, left = ray.wait(left, timeout=LOOK)
            for reference in done:
                cluster.result(ray, reference)
            furthest = max(furthest, sum(one.share() for one in arms))
            progress(f"workers: {n}", furthest)
    return Made(len(wanted), is_last=True)


def shares(nodes: Iterable[Mapping[str, Any]], n_workers: int | None = None) -> tuple[int, dict[str, int]]:
    """Return how many workers a cluster's machines have room for, and what each takes there.

    A worker takes a GPU and its part of the cores, or where there is no GPU all cores of a machine, since PyTorch
    computes with all; where more workers are wanted, they share them.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if of_gpu := [(int(one["GPU"]), int(one.get("CPU", 0))) for one in resources if one.get("GPU", 0) >= 1]:
        n_cores = min(cores // gpus for gpus, cores in of_gpu)
        return n_workers or sum(gpus for gpus, _ in of_gpu), {"num_gpus": 1, "num_cpus": n_cores}
    cores = [int(one["CPU"]) for one in resources if one.get("CPU", 0) >= 1] or [1]
    n = n_workers or len(cores)
    return n, {"num_cpus": max(1, min(cores) // math.ceil(n / len(cores)))}


def _work(given: tuple[Job, Sequence[Cell], Path, Path]) -> None:
    """Make what no other worker is making of the runs, until all are written.

    Raises:
        InputError: the disk is not the one on which the study was started, or what making them raises.
    """
    job, wanted, here, mark = given
    for place in (here, mark):
        if not place.exists():
            raise InputError(
                f"{place.parent if place == mark else place} is not the same folder on {HOST}.\n"
                "Start the study in a folder, and name one by --out, that all machines of the cluster share."
            )
    os.chdir(here)  # the names of files and models are from there
    models.quiet()
    runner.local(job, wanted, silent)
