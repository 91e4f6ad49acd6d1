"""The screen study as a command: base models in several processes at once, the table kept up to date as they finish."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from core import runs, writing
from core.console import OUTPUT, progress
from core.errors import InputError
from core.seeds import Cell
from empirical import config as configs
from empirical import runner
from empirical.config import Config
from empirical.experiments import SCREEN
from empirical.lm import model
from empirical.screen import design, table, tables, toy
from empirical.screen.design import Variant
from empirical.screen.table import Row

Part = Literal["factorial", "fine", "recipe"]


@dataclass(frozen=True)
class Screen:
    """Which properties of a world open or close the effect: 16 worlds of a factorial design, then what follows it.

    The screen varies seven properties at once; `fine` the strongest at more levels; `recipe` learning rate, epochs and
    adapters in the two worlds at the ends. What is in OUT/empirical/screen/table.parquet is not run again: copy a table
    there, such as the repository's paper_figs/results/empirical/screen/table.parquet, to go on from it.
    """

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: SCREEN)
    parts: tuple[Part, ...] = design.PARTS
    """Which parts to run."""
    pretrain_seeds: int = 2
    """Base models of each world: the unit of every interval."""
    seeds: int = 3
    """Finetuning seeds of each base model."""
    toy: bool = True
    """Run the toy in the same worlds, beside (needs the extra theory)."""
    processes: int | None = None
    """Base models at once; not given: one a core, or one where there is a GPU."""
    out: Path = Path("runs")
    """Folder of results: OUT/empirical/screen/table.parquet, and the runs in OUT/empirical/screen-…."""
    dry_run: bool = False
    """Print what is still to be run, and stop."""

    def __call__(self) -> int:
        for name in ("pretrain_seeds", "seeds", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}: it must be at least 1.")
        variants = design.variants(self.config, self.parts)
        for variant in variants:
            configs.check(variant.config)
        rows = table.read(self.out)
        jobs = list(_jobs(variants, rows, self))
        if self.dry_run:
            for job in jobs:
                toy = ", the toy" if job.with_toy else ""
                OUTPUT.print(f"{job.variant.name}, base model {job.pretrain}: {len(job.seeds)} finetuning seeds{toy}")
            return 0
        writing.check_writable(self.out)
        with progress("screen", len(jobs)) as advance:
            for job, job_rows in _done(jobs, self.processes or _processes()):
                rows = table.merged(rows, job_rows)
                table.write(self.out, rows)
                advance(f"{job.variant.name} {job.pretrain}", 1)
        if not rows:
            raise InputError("nothing is done and nothing was asked for.\nName parts with --parts.")
        tables.print_all(rows, OUTPUT)
        OUTPUT.print(f"{len(jobs)} base models run. Table: {table.path(self.out)}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Job:
    """What is still to be run on one base model."""

    variant: Variant
    pretrain: int
    seeds: tuple[int, ...]
    """Finetuning seeds."""
    with_toy: bool
    out: Path


def _jobs(variants: Sequence[Variant], rows: Sequence[Row], command: Screen) -> Iterator[Job]:
    """Yield what the table lacks, a whole design of base models before the next."""
    for pretrain in range(command.pretrain_seeds):
        for variant in variants:
            left = [k for k in range(command.seeds) if not table.is_done(rows, variant, "lm", pretrain, k)]
            wants_toy = command.toy and variant.part != "recipe"  # the toy has its own
            with_toy = wants_toy and not table.is_done(rows, variant, "toy", pretrain, 0)
            if left or with_toy:
                yield Job(variant, pretrain, tuple(left), with_toy, command.out)


def _run(job: Job) -> list[Row]:
    """Return the rows of a base model, its runs made now unless they are there."""
    variant, cells = job.variant, [Cell(job.pretrain, job.pretrain, seed) for seed in job.seeds]
    stored = configs.to_json(variant.config)
    left = runs.unfinished(job.out, runner.FLOW, variant.name, cells, stored, overwrite=False)
    runner.run(variant.config, None, variant.name, left, job.out, progress=lambda doing, share: None)
    rows = table.of_model(variant, job.out, cells)
    if job.with_toy:
        run = toy.run(variant.config.world, variant.name, job.out, seed=job.pretrain)
        rows += table.of_toy(variant, run, job.pretrain)
    return rows


def _done(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, list[Row]]]:
    """Yield jobs with their rows as they finish."""
    if processes == 1 or len(jobs) < 2:
        yield from ((job, _run(job)) for job in jobs)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=_start, initargs=(threads,))
    try:
        futures: dict[Any, Job] = {pool.submit(_run, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(threads: int) -> None:
    """Set a worker up: its share of the cores, and an end without a word on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    model.quiet()
    torch.set_num_threads(threads)


def _processes() -> int:
    return (os.cpu_count() or 1) if model.device().type == "cpu" else 1
