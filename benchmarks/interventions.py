"""What it costs to give a model another's activations or weights, beside a plain evaluation of the same questions."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from core.errors import InputError
from empirical import evaluate, mediation
from empirical.evaluate import EvaluateConfig
from empirical.lm import model as models
from empirical.lm import shape
from empirical.lm.model import ModelConfig
from empirical.mediation import Asked
from empirical.worlds import world
from empirical.worlds.world import WorldConfig

PLAIN, ANSWERS = "true answers scored", "greedy answers (a plain evaluation)"


@dataclass(frozen=True)
class Settings:
    """Time patches, grafts and knockout on short questions, beside the same questions answered without."""

    model: str = "package:smollm2-135m"
    """Checkpoint folder, hub id, or package:NAME; receiver and donor are the same."""
    questions: int = 64
    """Questions of a synthetic world."""
    what: tuple[str, ...] = ("attention@subject", "attention@all", "value@subject", "mlp@end", "layer@all")
    """Patches that are timed."""
    grafts: tuple[str, ...] = ("query_key", "mlp")
    """Grafts that are timed."""
    repeats: int = 3
    """Passes of each, in turn; the median counts."""
    out: Path | None = None
    """Write every figure to this JSON file."""


def run(settings: Settings) -> None:
    """Measure, print the table, and write the JSON file if one is named.

    Raises:
        InputError: settings that mean nothing, a model that is not there, a file that cannot be written.
    """
    models.quiet()
    _check(settings)
    machine = report.describe_machine(models.device().type, torch.get_num_threads())
    machine["versions"]["transformers"] = transformers.__version__
    passes = prepare(settings)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=len(passes) * (settings.repeats + 1))
        for repeat in range(settings.repeats + 1):
            for name, once in passes.items():
                progress.update(task, description=name, advance=1)
                start = time.perf_counter()
                once()
                if repeat:  # the first of each is not counted
                    seconds[name].append(time.perf_counter() - start)
    machine["load_after"] = os.getloadavg()
    _show(settings, machine, seconds)
    if settings.out:
        used = asdict(settings) | {"out": str(settings.out)}
        report.write_json(settings.out, {"settings": used, "machine": machine, "seconds": seconds})


def prepare(settings: Settings) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    receiver, donor = (models.measured(models.load(ModelConfig(settings.model))) for _ in range(2))
    facts = world.build(WorldConfig(n_subjects=settings.questions), seed=0).fact_set().facts[: settings.questions]
    config, encoded = EvaluateConfig(), receiver.format.ask(facts)
    asked, layers = Asked(config, encoded), tuple(range(shape.n_layers(receiver.network)))
    passes: dict[str, Callable[[], object]] = {
        ANSWERS: partial(evaluate.answer, config, receiver, facts, encoded),
        PLAIN: partial(mediation.plain, receiver, asked),
        "knockout": partial(mediation.cut, receiver, layers, asked),
    }
    for what in settings.what:
        passes[f"patch {what}"] = partial(mediation.patched, what, receiver, donor, asked)
    for what in settings.grafts:
        passes[f"graft {what}"] = partial(mediation.grafted, what, receiver, donor, asked)
    return passes


def _check(settings: Settings) -> None:
    """Raise InputError for settings that mean nothing."""
    for name in ("questions", "repeats"):
        if getattr(settings, name) < 1:
            raise InputError(f"--{name} is {getattr(settings, name)}: it must be at least 1.")
    mediation.check_grafts(settings.grafts)
    if settings.out and not settings.out.parent.is_dir():
        raise InputError(f"--out {settings.out}: there is no folder {settings.out.parent}.")


def _show(settings: Settings, machine: dict[str, Any], seconds: dict[str, list[float]]) -> None:
    console = report.console()
    title = f"{settings.questions} questions asked of {settings.model}"
    shown = report.table(title, "what", "s", "min–max", "× a plain evaluation")
    for name, found in seconds.items():
        low, middle, high = (f(found) for f in (min, median, max))
        shown.add_row(name, f"{middle:.2f}", f"{low:.2f}–{high:.2f}", f"{middle / median(seconds[ANSWERS]):.2f}")
    console.print(shown, "Median of the repeats.")
    report.show_load(console, machine)
