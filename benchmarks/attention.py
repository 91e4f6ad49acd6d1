"""What it costs to see where a language model attends: the capture, plain SDPA, and eager attention's kept weights.

Time in turns in this process; memory in one that gives back at once what it frees, above what the model itself takes.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import transformers
from rich.console import Console
from rich.progress import Progress
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import memory, report
from core.errors import InputError
from empirical.lm import capture as attention

TITLES = {"sdpa": "SDPA alone", "capture": "with the capture", "eager": "eager, weights kept"}
"""The ways that are compared."""
QUERIES = 2
"""Rows captured of each question: its last tokens."""


@dataclass(frozen=True)
class Settings:
    """Compare one forward pass with attention captured to one without, and to eager attention, by length."""

    lengths: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Tokens of each question."""
    batch: int = 4
    """Questions at once."""
    layers: int = 4
    """Layers of a Llama with random weights."""
    d_model: int = 256
    """Width; the feed-forward layer has three times as much."""
    heads: int = 8
    """Heads of queries."""
    key_heads: int = 4
    """Heads of keys and values, shared by groups of query heads."""
    repeats: int = 5
    """Passes of each way, in turn; the median counts."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it runs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations."""
    out: Path | None = None
    """Write every figure to this JSON file."""


def run(settings: Settings) -> None:
    """Measure, print the table, and write the JSON file if one is named.

    Raises:
        InputError: settings that mean nothing, a device that is not there, a file that cannot be written.
    """
    _check(settings)
    machine = report.describe_machine(settings.device, torch.get_num_threads())
    machine["versions"]["transformers"] = transformers.__version__
    lengths = sorted(set(settings.lengths))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=len(lengths) + 1)

        def tell(doing: str) -> None:
            progress.update(task, advance=1, description=doing)

        passes = prepare(settings)
        seconds = {}
        for length in lengths:
            tell(f"{length} tokens: time")
            seconds[length] = times(settings, passes, length)
        tell("memory")
        with _freed_at_once(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks = pool.submit(peak_bytes, settings, lengths).result()
    machine["load_after"] = os.getloadavg()
    rows = [
        {"length": length, "way": way, "seconds": seconds[length][way], "peak_bytes": peaks[way][i]}
        for i, length in enumerate(lengths)
        for way in TITLES
    ]
    _show(settings, machine, rows)
    if settings.out:
        used = asdict(settings) | {"out": str(settings.out)}
        report.write_json(settings.out, {"settings": used, "machine": machine, "rows": rows})


def prepare(settings: Settings) -> dict[str, Callable[[int], object]]:
    """Return what makes one pass over questions of a given length, by way."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=settings.d_model,
        intermediate_size=3 * settings.d_model,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_heads,
        max_position_embeddings=max(settings.lengths),
    )
    model = LlamaForCausalLM(config).eval()
    torch.nn.Module.to(model, settings.device, getattr(torch, settings.dtype))

    @torch.no_grad()
    def plain(length: int) -> object:
        return attention.forward(model, "sdpa", *_tokens(settings, length), logits_to_keep=1)

    def capture(length: int) -> object:
        queries = torch.arange(length - QUERIES, length).expand(settings.batch, -1)
        n_spans = len(attention.SPANS)
        spans = torch.arange(length) * n_spans // length == torch.arange(n_spans)[:, None]
        return attention.measure(
            model, *_tokens(settings, length), queries, spans.expand(settings.batch, -1, -1).contiguous()
        )

    @torch.no_grad()
    def eager(length: int) -> object:
        options = {"output_attentions": True, "logits_to_keep": 1}
        return attention.forward(model, "eager", *_tokens(settings, length), **options)

    return {"sdpa": plain, "capture": capture, "eager": eager}


def times(settings: Settings, passes: dict[str, Callable[[int], object]], length: int) -> dict[str, list[float]]:
    """Return the seconds of each pass, by way; a first pass of each is not counted."""
    found: dict[str, list[float]] = {way: [] for way in passes}
    for repeat in range(settings.repeats + 1):
        for way, once in passes.items():
            start = time.perf_counter()
            once(length)
            _wait(settings)
            if repeat:
                found[way].append(time.perf_counter() - start)
    return found


def peak_bytes(settings: Settings, lengths: list[int]) -> dict[str, list[int]]:
    """Return the bytes that a pass takes at most above what is held before it, by way and length."""
    found = {}
    for way, once in prepare(settings).items():
        once(min(lengths))  # what only the first pass loads
        found[way] = [_peak(settings, once, length) for length in lengths]
    return found


def _peak(settings: Settings, once: Callable[[int], object], length: int) -> int:
    if settings.device == "cuda":
        _wait(settings)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(length)
        return torch.cuda.max_memory_allocated() - before
    memory.reset()
    before = memory.peak()
    once(length)
    return memory.peak() - before


@contextmanager
def _freed_at_once() -> Iterator[None]:
    """Let a process that is started here give every large tensor back when it is freed (the GNU C library).

    Else an earlier pass's memory would be kept for the next, and not be counted as the next one's.
    """
    name = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(name)
    os.environ[name] = "65536"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _tokens(settings: Settings, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random tokens and a mask without padding."""
    tokens = torch.randint(1000, (settings.batch, length), generator=torch.Generator().manual_seed(length))
    return tokens, torch.ones_like(tokens)


def _wait(settings: Settings) -> None:
    if settings.device == "cuda":
        torch.cuda.synchronize()


def _check(settings: Settings) -> None:
    """Raise InputError for settings that mean nothing."""
    for name in ("batch", "layers", "d_model", "heads", "key_heads", "repeats"):
        if getattr(settings, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(settings, name)}: it must be at least 1.")
    if not settings.lengths or min(settings.lengths) < QUERIES:
        raise InputError(f"--lengths: name at least one number of tokens, each at least {QUERIES}.")
    if settings.d_model % (2 * settings.heads) or settings.heads % settings.key_heads:
        raise InputError(
            f"--d-model {settings.d_model}, --heads {settings.heads}, --key-heads {settings.key_heads}: the width must "
            "be a multiple of twice the heads, and the heads of the key heads."
        )
    if settings.out and not settings.out.parent.is_dir():
        raise InputError(f"--out {settings.out}: there is no folder {settings.out.parent}.")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no such device.\nUse --device cpu, or install its build.")


def _show(settings: Settings, machine: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    console = report.console()
    title = f"One pass, {settings.batch} questions, {settings.layers} layers of {settings.heads} heads"
    shown = report.table(title, "tokens", "program", "ms", "min–max", "× SDPA", "memory, MB")
    plain = 1.0
    for row in rows:
        seconds = row["seconds"]
        if row["way"] == "sdpa":
            shown.add_section()
            plain = median(seconds)
        low, middle, high = (f"{1000 * f(seconds):.1f}" for f in (min, median, max))
        length = str(row["length"]) if row["way"] == "sdpa" else ""
        times_slower, megabytes = f"{median(seconds) / plain:.2f}", f"{row['peak_bytes'] / 1e6:.1f}"
        shown.add_row(length, TITLES[row["way"]], middle, f"{low}–{high}", times_slower, megabytes)
    console.print(shown, "Median of the repeats. Memory: the most that a pass takes above the model's own.")
    report.show_load(console, machine)
