"""Pretraining speed of the theory's simulator, beside PyTorch on the same world and beside the machine's limits.

The contestants take turns, so that whatever slows the machine for a while slows all of them.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks import report, roofline, torch_loop
from core.errors import InputError
from core.facts.store import FactStore
from theory import facts, pipeline, pretrain
from theory.config import Config
from theory.engine import loop as train
from theory.model.config import ModelConfig

DENSE_UP_TO = 1000
"""Subjects up to which the dense model takes part: its matrices have as many rows as there are tokens."""
DENSE_STEPS = 30
"""Steps per measurement of the dense model."""
WORLD_BYTES = 2**30
"""Most bytes of values in all worlds together; fewer worlds are trained at once where more would not fit."""
LARGE = 400e6
"""Bytes of one world's values above which the simulator is timed over more steps."""
BATCH_SIZE = pretrain.PretrainConfig.batch_size
FILLERS = 1
"""Outputs that answer no question, of those that a step must compute: one stands for all, nothing tells them apart."""


@dataclass(frozen=True)
class Settings:
    """Compare the simulator's pretraining steps per second with PyTorch's, and with what this machine could do."""

    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    """Numbers of subjects, each with four relations."""
    worlds: int = 8
    """Seeds trained together in the row of several worlds; fewer where their values would pass 1 GiB."""
    repeats: int = 5
    """Measurements of each contestant, in turn."""
    steps: int = 4000
    """Steps of the simulator per measurement and world, three times as many above 400 MB of values; others' at most."""
    seconds: float = 0.4
    """A measurement of a PyTorch loop has as many steps as take about this long, but at least three."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where all of it runs; cuda needs builds of both torch and jax for it."""
    memory: Literal["stages", "experiment", "none"] = "stages"
    """Measure peak memory at the largest size: of pretraining and finetuning alone, or of the whole `theory run paper`,
    with measurements, predictions and result files, which takes minutes at 1,000,000 subjects."""
    out: Path | None = None
    """Write every figure to this JSON file."""


class Contestant(NamedTuple):
    """A program that pretrains."""

    name: str
    title: str
    n_worlds: int
    n_steps: int
    """Steps per measurement, in each world."""
    seconds: Callable[[int], float]
    """Takes so many steps and returns how long they took."""


def run(settings: Settings) -> None:
    """Measure, print the tables, and write the JSON file if one is named.

    Raises:
        InputError: settings that mean nothing, a device that is not there, a file that cannot be written.
    """
    n_cores = _prepare(settings)
    machine, sizes, memory = report.describe_machine(settings.device, n_cores), [], None
    with Progress(console=Console(stderr=True), transient=True) as progress:
        n_subjects = sorted(set(settings.sizes))
        task = progress.add_task("starting", total=len(n_subjects) * (settings.repeats + 2) + 1)

        def tell(doing: str) -> None:
            progress.update(task, advance=1, description=doing)

        for n in n_subjects:
            sizes.append(_measure(settings, n, n_cores, tell))
        # Exponentials do not depend on the size: a busy moment at one must not lower its limit.
        exponentials = roofline.fastest(*(size.machine for size in sizes)).exponentials
        sizes = [size._replace(machine=replace(size.machine, exponentials=exponentials)) for size in sizes]
        if settings.memory != "none":
            tell(f"{n_subjects[-1]:,} subjects: peak memory")
            memory = _measure_memory(settings.memory, n_subjects[-1])
    machine["load_after"] = os.getloadavg()
    report.show(sizes, machine, memory)
    if settings.out:
        used = asdict(settings) | {"out": str(settings.out), "batch_size": BATCH_SIZE}
        report.write(settings.out, sizes, {"settings": used, "machine": machine, "memory": memory})


def simulator(store: FactStore, n_worlds: int, form: Literal["factored", "dense"]) -> Callable[[int], float]:
    """Return a function from a number of steps to the seconds that they take the simulator, in all worlds together.

    Compilation, and what a run does once (arrays moved and filled, the trace's measurements), are left out: the time is
    that of a long run less that of a short one. Drawing the facts is part of it.
    """
    config = Config(model=ModelConfig(parametrisation=form))
    # Every length runs in the same compiled program.
    seeds = np.arange(n_worlds, dtype=np.uint32)
    world = pipeline.world(config, store, 0)
    worlds = jax.tree.map(lambda leaf: np.stack([leaf] * n_worlds), world)._replace(seed=seeds)
    sizes = pretrain.Sizes(store.n_subjects, store.n_relations, store.n_answers)

    def whole_run(n_steps: int) -> float:
        start = time.perf_counter()
        records = np.full((n_worlds, 1), n_steps, np.int32)
        pretrain.run(config.pretrain, config.model, worlds, sizes, records=records)
        return time.perf_counter() - start

    def seconds(n_steps: int) -> float:
        n_short = max(1, n_steps // 10)
        while (difference := whole_run(n_short + n_steps) - whole_run(n_short)) <= 0:
            pass  # the machine was held up in the short run
        return difference

    return seconds


def torch_seconds(loop: torch_loop.Loop, store: FactStore, device: str) -> Callable[[int], float]:
    """Return a function from a number of steps to the seconds that they take a PyTorch loop, its draws not counted.

    A tenth as many steps beforehand find out whether one thread or PyTorch's own choice is faster just then: on a busy
    machine, threads that wait for one another can be many times slower.
    """
    n_outputs = store.n_answers + ModelConfig.n_filler
    tables = torch_loop.ValueTables(
        store.n_subjects, store.n_relations, n_outputs, is_sparse=loop.is_sparse, device=device
    )
    own_choice = torch.get_num_threads()

    def timed(batches: torch_loop.Batches, n_threads: int) -> float:
        torch.set_num_threads(n_threads)
        start = time.perf_counter()
        loop.train(tables, batches)
        if device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - start
        torch.set_num_threads(own_choice)
        return elapsed

    def seconds(n_steps: int) -> float:
        n_trial = max(1, n_steps // 10)
        trial, batches = (
            torch_loop.draw(store, n, batch_size=BATCH_SIZE, seed=n, device=device) for n in (n_trial, n_steps)
        )
        n_threads = min({1, own_choice}, key=lambda n: timed(trial, n))
        return timed(batches, n_threads)

    return seconds


def _prepare(settings: Settings) -> int:
    """Check the settings and prepare."""
    for name in ("worlds", "repeats", "steps"):
        if getattr(settings, name) < 1:
            raise InputError(f"--{name} is {getattr(settings, name)}: it must be at least 1.")
    if not settings.sizes or min(settings.sizes) < 1:
        raise InputError("--sizes: name at least one number of subjects, each at least 1.")
    return prepare(settings.device, settings.out)


def prepare(device: Literal["cpu", "cuda"], out: Path | None) -> int:
    """Choose the devices, and return the number of cores.

    Raises:
        InputError: the device is not there, or there is no folder for the file `out`.
    """
    if out and not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}.")
    n_cores = train.n_cores()
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
        train.use_all_cores()
    else:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory, too
        if not torch.cuda.is_available() or jax.default_backend() != "gpu":
            raise InputError(
                "--device cuda: torch or jax finds no such device.\nUse --device cpu, or install its builds."
            )
    return n_cores


def _contestants(settings: Settings, store: FactStore) -> list[Contestant]:
    """Return the contestants, compiled and warmed up."""
    n_bytes = 4 * store.n_subjects * (store.n_answers + ModelConfig.n_filler)
    n_worlds = max(1, min(settings.worlds, WORLD_BYTES // n_bytes))
    n_steps = settings.steps * (3 if n_bytes > LARGE else 1)
    chosen = [
        Contestant(report.ONE, "simulator", 1, n_steps, simulator(store, 1, "factored")),
        Contestant(report.MANY, "simulator", n_worlds, n_steps, simulator(store, n_worlds, "factored")),
    ]
    if store.n_subjects <= DENSE_UP_TO:
        n_steps = min(DENSE_STEPS, settings.steps)
        chosen.append(Contestant("jax_dense", "JAX autograd, dense model", 1, n_steps, simulator(store, 1, "dense")))
    for contestant in chosen:
        contestant.seconds(contestant.n_steps)
    for name, loop in torch_loop.LOOPS.items():
        seconds = torch_seconds(loop, store, settings.device)
        seconds(3)
        n_steps = int(np.clip(settings.seconds * 3 / min(seconds(3) for _ in range(3)), 3, max(3, settings.steps)))
        chosen.append(Contestant(f"torch_{name}", loop.title, 1, n_steps, seconds))
    return chosen


def _measure(settings: Settings, n_subjects: int, n_cores: int, tell: Callable[[str], None]) -> report.Size:
    """Return all measurements at one number of subjects."""
    tell(f"{n_subjects:,} subjects: the machine's limits")
    n_workers = n_cores if settings.device == "cpu" else 1
    store = facts.build(facts.FactsConfig(n_subjects=n_subjects), seed=0)
    n_outputs = store.n_answers + FILLERS

    def measure_machine() -> roofline.Machine:
        return roofline.measure(store, n_outputs, batch_size=BATCH_SIZE, device=settings.device, n_workers=n_workers)

    before = measure_machine()
    tell(f"{n_subjects:,} subjects: compilation")
    contestants = _contestants(settings, store)
    rows = {c.name: report.Row(c.title, c.n_worlds, c.n_steps, []) for c in contestants}
    for repeat in range(settings.repeats):
        tell(f"{n_subjects:,} subjects: repeat {repeat + 1} of {settings.repeats}")
        for name, _, n_worlds, n_steps, seconds in contestants:
            rows[name].rates.append(n_worlds * n_steps / seconds(n_steps))
    machine = roofline.fastest(before, measure_machine())
    return report.Size(n_subjects, rows, roofline.work(BATCH_SIZE, n_outputs), machine)


_STAGES = """
import sys
from core.seeds import Cell
from theory import config, facts, pipeline
from theory.engine import loop
loop.use_all_cores()
world = facts.FactsConfig(n_subjects=int(sys.argv[1]))
pipeline.simulate(config.Config(facts=world), [Cell(pretrain=0, split=0, seed=0)])
"""
# A small process between this one and the measured: the peak of a child starts at what its parent held.
_PEAK = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def _measure_memory(what: Literal["stages", "experiment"], n_subjects: int) -> dict[str, Any]:
    """Return the peak memory and seconds of a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--facts.n-subjects", str(n_subjects), "--out", folder]
        command = ["-c", _STAGES, str(n_subjects)] if what == "stages" else ["-m", "theory", "run", "paper", *flags]
        between = [sys.executable, "-c", _PEAK, sys.executable, *command]
        done = subprocess.run(between, capture_output=True, text=True, check=False)
    code, _, peak = done.stdout.strip().partition(" ")
    if code != "0":
        reason = (done.stderr.strip().splitlines() or ["it was killed, perhaps for memory"])[-1]
        raise InputError(
            f"--memory {what}: the measured program failed ({reason}).\nUse --memory none to leave it out."
        )
    seconds = time.perf_counter() - start
    return {"what": what, "n_subjects": n_subjects, "peak_bytes": int(peak), "seconds": seconds}
