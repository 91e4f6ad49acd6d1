"""A sweep's speed, beside the same configs one after another in PyTorch and in unvectorised JAX.

All take turns in one run, so that whatever slows the machine for a while slows all of them.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import designs, growth, one_by_one, report, roofline, sweep_report, theory, torch_loop
from benchmarks.sweep_report import Measured
from core.errors import InputError
from theory import facts
from theory.config import Config

DENSE_STEPS = 30
"""Pretraining steps per measurement of the dense model."""
QUICK: dict[str, Any] = {
    "configs": 4,
    "steps": 20,
    "finetune_steps": 10,
    "repeats": 1,
    "seconds": 0.05,
    "sampled": 1,
    "scaling": (4,),
}
"""What `quick` replaces."""


@dataclass(frozen=True)
class Settings:
    """Compare the sweep's config-steps per second with PyTorch's and plain JAX's, one config after another."""

    configs: int = 256
    """Configs of each of the two designs: popularity exponents × learning rates, and × lengths of pretraining."""
    subjects: int = 1000
    """Subjects of every world, each with four relations."""
    steps: int = 500
    """Steps of pretraining, by config; on average where the length is swept."""
    finetune_steps: int = 200
    """Steps of finetuning each of the four arms."""
    repeats: int = 3
    """Measurements of each contestant, in turn."""
    sampled: int = 3
    """Configs, evenly spaced over the design, on which the contestants that take one after another are timed; the time
    of all of them is the mean's."""
    seconds: float = 0.4
    """A measurement of a PyTorch loop's stage has as many steps as take about this long."""
    scaling: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    """Numbers of configs for time and memory by size, each in a process of its own; none to leave it out."""
    scaling_steps: int = 50
    """Steps of pretraining where scaling is timed, by config; finetuning has two fifths as many for each arm."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where all of it runs; cuda needs builds of both torch and jax for it."""
    quick: bool = False
    """A minute's run that shows that all of it works: tiny designs, whose figures mean nothing."""
    out: Path | None = None
    """Write every figure to this JSON file."""


def run(settings: Settings) -> None:
    """Measure, print the tables, and write the JSON file if one is named.

    Raises:
        InputError: settings that mean nothing, a device that is not there, a file that cannot be written.
    """
    settings = replace(settings, **QUICK) if settings.quick else settings
    _check(settings)
    n_cores = theory.prepare(settings.device, settings.out)
    machine = report.describe_machine(settings.device, n_cores)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        n_turns = 2 * (1 + settings.repeats * (3 + len(torch_loop.LOOPS))) + 2 + len(settings.scaling)
        task = progress.add_task("starting", total=n_turns)

        def tell(doing: str) -> None:
            progress.update(task, advance=1, description=doing)

        limits = [_limits(settings, n_cores, tell)]
        measured = _measure(settings, tell)
        limits.append(_limits(settings, n_cores, tell))
        grown = []
        for n in settings.scaling:
            tell(f"{n:,} configs in a process of their own")
            finetune_steps = max(1, settings.scaling_steps * 2 // 5)
            size = designs.Size(n, settings.subjects, settings.scaling_steps, finetune_steps)
            grown.append(growth.measure(size, settings.device))
    machine["load_after"] = os.getloadavg()
    limit = roofline.fastest(*limits)
    sweep_report.show(measured, grown, limit, machine, settings.sampled)
    if settings.out:
        used: dict[str, Any] = asdict(settings) | {"out": str(settings.out)}
        others = {"settings": used, "machine": machine, "scaling": grown}
        sweep_report.write(settings.out, measured, limit, others)


def _check(settings: Settings) -> None:
    for name in ("configs", "subjects", "steps", "finetune_steps", "repeats", "sampled", "scaling_steps"):
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {getattr(settings, name)}: it must be at least 1.")
    if not 0 < settings.seconds < 60:
        raise InputError(f"--seconds is {settings.seconds}: it must lie between 0 and 60.")
    if settings.scaling and min(settings.scaling) < 1:
        raise InputError("--scaling: every number of configs must be at least 1.")


def _limits(settings: Settings, n_cores: int, tell: Callable[[str], None]) -> roofline.Machine:
    """Return the machine's highest rates, for a world of the sweep."""
    tell("the machine's limits")
    store = facts.build(facts.FactsConfig(n_subjects=settings.subjects), seed=0)
    n_workers = n_cores if settings.device == "cpu" else 1
    n_outputs = store.n_answers + theory.FILLERS
    return roofline.measure(store, n_outputs, batch_size=theory.BATCH_SIZE, device=settings.device, n_workers=n_workers)


def _measure(settings: Settings, tell: Callable[[str], None]) -> list[Measured]:
    """Return both designs, measured in turn with the others."""
    size = designs.Size(settings.configs, settings.subjects, settings.steps, settings.finetune_steps)
    chosen: list[tuple[designs.Kind, Any]] = [(kind, designs.build(kind, size)) for kind in ("apart", "shared")]
    measured = []
    for kind, design in chosen:
        tell(f"{kind}: compilation")
        facts_of = design.configs[0].facts
        n_outputs = facts_of.n_relations * facts_of.n_answers + theory.FILLERS
        counts = designs.count(design.configs)
        measured.append(Measured(kind, len(design.configs), n_outputs, counts, designs.run(design)))
    for repeat in range(settings.repeats):
        for one, (kind, design) in zip(measured, chosen, strict=True):
            tell(f"{kind}: the sweep, repeat {repeat + 1} of {settings.repeats}")
            one.runs.append(designs.run(design))
            for name, seconds in _one_by_one(settings, design.configs, one, tell).items():
                one.others.setdefault(name, []).append(seconds)
    return measured


def _one_by_one(
    settings: Settings, configs: list[Config], of: Measured, tell: Callable[[str], None]
) -> dict[str, float]:
    """Return the seconds of all configs one after another, by contestant, from those that are timed."""
    places = np.linspace(0, len(configs) - 1, min(settings.sampled, len(configs))).round().astype(int)
    tasks = [one_by_one.task(configs[place]) for place in places]

    def total(costs: list[one_by_one.Cost]) -> float:
        return fmean(cost.total(of.counts, of.n_configs) for cost in costs)

    found = {}
    for name, loop in torch_loop.LOOPS.items():
        tell(f"{of.kind}: {loop.title}")
        found[f"torch_{name}"] = total([one_by_one.by_torch(loop, t, settings.device, settings.seconds) for t in tasks])
    tell(f"{of.kind}: plain JAX")
    costs = [one_by_one.by_plain_jax(t) for t in tasks]
    found["jax_scan_compiled"] = total(costs)
    found["jax_scan"] = total([cost._replace(compilation=0.0) for cost in costs])
    if settings.subjects <= theory.DENSE_UP_TO:
        tell(f"{of.kind}: JAX, dense model")
        dense = theory.simulator(tasks[0].store, 1, "dense")
        dense(1)  # compiles
        seconds = dense(DENSE_STEPS) / DENSE_STEPS
        found["jax_dense"] = one_by_one.Cost(seconds, seconds).total(of.counts, of.n_configs)
    return found
