"""What the language-model flow reaches on this device, part by part, beside other programs that do the same.

Each row is made in a process of its own, so that its peak memory is its own, and is kept as soon as it is there.
"""

import importlib.util
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import Progress

from benchmarks import lm_programs, memory, report
from benchmarks.lm_programs import COMPILED, LARGE, OURS, PARTS, SHAPES, Sizes, questions
from core.config_json import to_json
from core.errors import InputError
from empirical.facts import FactsConfig
from empirical.lm import cost
from empirical.lm import model as models

SMALL = ("tiny", "package:smollm2-135m")


@dataclass(frozen=True)
class Settings:
    """Time finetuning, scoring, evaluation, attention and knockout, and write one table that names the device."""

    models: tuple[str, ...] = ()
    """Shapes with random weights (tiny, llama-2-7b, mistral-7b), checkpoint folders, hub ids or package:NAME. Not
    given: tiny and package:smollm2-135m, and on a GPU the two of seven billion parameters."""
    parts: tuple[str, ...] = tuple(PARTS)
    """What is timed."""
    questions: int = 128
    """Questions that are scored, answered and looked into."""
    steps: int = 5
    """Finetuning steps; the first is not counted."""
    batch: int = 32
    """Questions a finetuning step."""
    words: int = 0
    """Words put before each question: 0 for questions as short as PopQA's, 60 for those of MMLU."""
    compiled: bool = torch.cuda.is_available()
    """Time finetuning with compiled layers too, as on a GPU anyway: on a processor the first step takes minutes."""
    repeats: int = 3
    """Passes over the questions; the median counts."""
    facts: FactsConfig = field(default_factory=FactsConfig)
    """Where the questions come from; not given: a synthetic world, whose questions are of one length."""
    out: Path | None = None
    """Keep every row in this JSON file as soon as it is made; rows of the same settings are not made again."""

    @property
    def sizes(self) -> Sizes:
        """How much is timed."""
        return Sizes(self.questions, self.steps, self.batch, self.words, self.repeats, self.facts)


def run(settings: Settings) -> None:
    """Measure what is not measured yet, print the table, and keep the JSON file if one is named.

    Raises:
        InputError: settings that mean nothing, a model that is not there, a file that cannot be read or written.
    """
    models.quiet()
    _check(settings)
    device = models.device()
    machine = report.describe_machine(device.type, torch.get_num_threads())
    machine["versions"]["transformers"] = transformers.__version__
    tasks = _tasks(settings)
    made = {(row["model"], row["part"], row["program"]): row for row in _kept(settings)}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("starting", total=len(tasks))
        for task in tasks:
            progress.update(bar, description=": ".join(task))
            if task not in made:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    made[task] = pool.submit(measure, settings, *task).result()
                machine["load_after"] = os.getloadavg()
                _keep(settings, machine, list(made.values()))
            progress.advance(bar)
    machine["load_after"] = os.getloadavg()
    _show(machine, [made[task] for task in tasks])


def measure(settings: Settings, name: str, part: str, program: str) -> dict[str, Any]:
    """Return a row: what a program reached."""
    models.quiet()
    model = lm_programs.load(name)
    kind = torch.bfloat16 if model.is_mixed else model.network.dtype
    memory.reset()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        found = lm_programs.timed(model, settings.sizes, part, program)
    except torch.OutOfMemoryError:
        return {"model": name, "part": part, "program": program, "failed": "out of memory"}
    except InputError as error:  # as of layers that cannot be compiled here
        return {"model": name, "part": part, "program": program, "failed": str(error).splitlines()[0]}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak()
    rate = cost.matmul_rate(models.device(), kind)
    return {
        **{"model": name, "part": part, "program": program, "dtype": str(kind).removeprefix("torch.")},
        **asdict(found),
        **{"matmul_flops_per_second": rate, "utilisation": found.flops / found.seconds / rate, "peak_bytes": peak},
        "load": os.getloadavg()[0],
    }


def _tasks(settings: Settings) -> list[tuple[str, str, str]]:
    """Return the rows wanted: model, part, program."""
    names = settings.models or (SMALL + (LARGE if torch.cuda.is_available() else ()))
    has_trl = importlib.util.find_spec("trl") is not None
    absent = {program for program in PARTS["finetuning"] if program.startswith("TRL") and not has_trl}
    absent |= set() if settings.compiled else {COMPILED}
    programs = [(part, one) for part in settings.parts for one in PARTS[part] if one not in absent]
    return [(name, *one) for name in names for one in programs]


def _wanted(settings: Settings) -> dict[str, Any]:
    """Return what rows depend on."""
    return to_json(settings.sizes) | {"device": report.describe_machine(models.device().type, 1)["device"]}


def _kept(settings: Settings) -> list[dict[str, Any]]:
    """Return the rows that are there already."""
    if settings.out is None or not settings.out.exists():
        return []
    try:
        stored = json.loads(settings.out.read_text(encoding="utf-8"))
        if stored["settings"] == _wanted(settings):
            return stored["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--out {settings.out}: it is no file of this benchmark.\nName another place.") from error
    raise InputError(f"--out {settings.out}: it has rows of other settings or of another device.\nName another place.")


def _keep(settings: Settings, machine: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if settings.out:
        report.write_json(settings.out, {"settings": _wanted(settings), "machine": machine, "rows": rows})


def _check(settings: Settings) -> None:
    """Raise InputError for settings that mean nothing, or a model that is not there."""
    for name, least in {"questions": 1, "steps": 3, "batch": 1, "words": 0, "repeats": 1}.items():
        if getattr(settings, name) < least:
            raise InputError(f"--{name} is {getattr(settings, name)}: it must be at least {least}.")
    if not settings.parts or not set(settings.parts) <= set(PARTS):
        raise InputError(f"--parts {' '.join(settings.parts)}: name some of {', '.join(PARTS)}.")
    if settings.out and not settings.out.parent.is_dir():
        raise InputError(f"--out {settings.out}: there is no folder {settings.out.parent}.")
    questions(settings.sizes, settings.sizes.most)
    for name in settings.models or SMALL:
        if name not in SHAPES:
            lm_programs.load(name)


def _show(machine: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    console = report.console()
    where = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    columns = ("facts/s", "tokens/s", "of matmul", "peak, GB", "first, s", "times slower", "by processor")
    shown = report.table(f"The language-model flow on {where}", "program", *columns)
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        of_part = row["model"], row["part"]
        if row["program"] == OURS[row["part"]]:
            shown.add_section()
            shown.add_row(f"[bold]{row['model']}: {row['part']}[/bold]")
        if "failed" in row:
            shown.add_row(row["program"], row["failed"])
            continue
        ours = first.setdefault(of_part, row)
        slower = (
            f"{row[clock] * ours['n_facts'] / row['n_facts'] / ours[clock]:.2f}"
            for clock in ("seconds", "processor_seconds")
        )
        speed = row["n_facts"] / row["seconds"]
        cells = f"{speed:,.1f}", f"{row['n_tokens'] / row['seconds']:,.0f}", f"{row['utilisation']:.0%}"
        began = "" if row.get("first_seconds") is None else f"{row['first_seconds']:.1f}"
        shown.add_row(row["program"], *cells, f"{row['peak_bytes'] / 1e9:.2f}", began, *slower)
    console.print(shown, _NOTE)
    if not any(row["program"].startswith("TRL") for row in rows):
        console.print("TRL is not installed: pip install trl")
    report.show_load(console, machine)


_NOTE = """\
Tokens are those of questions and answers without padding, operations the model's own: what is computed again or for \
padding counts as nothing. Of matmul: the share of the rate at which this device multiplies large matrices in the same \
precision. First: until the first step is done, layers compiled. By processor: times the processor seconds, which \
other work beside lengthens less."""
