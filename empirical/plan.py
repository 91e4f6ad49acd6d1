"""What a study of a published model takes on this machine and what it can show, said before anything is finetuned.

A sample of the study's own questions goes through the study's own stages; their tokens, operations and times are scaled
up. Where the weights are not there, or memory cannot hold them, a small model reads in their place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from core import statistics
from core.errors import InputError
from core.facts.record import FactSet
from core.seeds import Cell
from empirical import evaluate, facts, finetune, knownness, labels, room, runner, steps, study
from empirical.arm import finetuning
from empirical.config import Config
from empirical.lm import capture, cost, files, order, shape
from empirical.lm import model as models
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.room import Room, Texts
from empirical.steps import STEPS, Costs, Sizes
from empirical.study import Base

ASSUMED = (0.1, 0.25, 0.5)
"""Base accuracies for which the smallest visible gap is said where the model is not there to be asked."""
ROW_BYTES = 300
"""Of a held-out question in an arm's table, about."""


class Bytes(NamedTuple):
    """What a step takes of memory and of disk, at most."""

    memory: int
    disk: int


def show(config: Config, given: FactSet, name: str, wanted: Sequence[Cell], out: Path, console: Console) -> None:
    """Print what a study of a published model does, takes and can show.

    Args:
        name: The study's.
        out: Folder of results, where some of it may be done.

    Raises:
        InputError: too few facts for the arms, or facts that cannot be ranked as asked.
    """
    base = Base(study.models_config(config), given.facts, given.notes, given.examples)
    knownness.check_facts(config.knownness, base.facts)
    labels.check_facts(config.finetunings, base.facts)
    sizes = steps.sizes_of(config, base, wanted)
    _print_sizes(config, sizes, console)
    found = None
    try:
        needed = room.of(config, base.model)
        _print_weights(config, base, needed, console)
        reader = steps.stand_in(base, needed.network, files.read_tokenizer(base.model.name, base.model.revision))
        encoded = reader.format.ask(base.facts, new_tokens=config.evaluate.max_new_tokens)
        taken = _bytes(config, sizes, needed, encoded)
        _print_batches(config, base, needed, encoded, console)
        found = _costs(config, base, needed, reader, console)
        done = steps.done(config, facts.fingerprint(given), out / runner.FLOW / name, wanted)
        _print_steps(config, base, sizes, found, taken, done, console)
    except InputError as error:  # without the model there is still something to say
        console.print(f"What it takes here is not known. {error}", style="yellow", markup=False)
    recalled = found.recalled if found else None
    for share in ASSUMED if recalled is None else (recalled,):
        gap = 100 * statistics.smallest_gap(sizes.n_held_out, share)
        console.print(
            f"Power: where arms answer {share:.0%} of {sizes.n_held_out:,} held-out questions, a gap of {gap:.1f} "
            "points is seen on one split with a power of 80 %."
        )
    if found and recalled is not None:
        console.print(f"The base model recalls {recalled:.1%} of {found.n_asked} training facts, after examples.")
        is_choice = bool(base.facts[0].choices)
        if told := evaluate.guessing(base.model.name, recalled, found.n_asked, is_choice=is_choice):
            console.print(told, style="yellow", markup=False)


def _costs(config: Config, base: Base, needed: Room, reader: LanguageModel, console: Console) -> Costs:
    """Return what facts cost: timed on the model itself where it is here and fits, else counted on its stand-in."""
    trains = cost.operations(needed.network)
    plain = replace(config, finetune=replace(config.finetune, method="full"))
    reads = cost.operations(room.of(plain, base.model).network)
    told = "memory does not hold it"
    if needed.weights + needed.training <= needed.free:
        try:
            return steps.costs(config, base, base.read(), reads, trains, is_timed=True)
        except InputError as error:
            told = str(error).splitlines()[0].rstrip(".")
    console.print(
        f"The model was not timed: {told}. A small one reads in its place, its answers as long as they may be; hours "
        "are those of the operations at the rate of large products, the fewest that there can be.",
        style="yellow",
        markup=False,
    )
    return steps.costs(config, base, reader, reads, trains, is_timed=False)


def _bytes(config: Config, sizes: Sizes, needed: Room, encoded: Sequence[Encoded]) -> dict[str, Bytes]:
    """Return what each step takes at most; the disk's of finetuning is a checkpoint's, there as long as it lasts."""
    asked = room.texts(encoded, config.evaluate.batch_size)
    shots = knownness.CHOICE_SHOTS if sizes.is_choice else config.knownness.shots
    mean = sum(len(one.tokens) for one in encoded) / len(encoded)
    shown = replace(asked, rows=config.knownness.batch_size, longest=asked.longest + round(shots * mean))
    trained = room.texts(encoded, config.finetune.train.micro_batch_size or config.finetune.train.batch_size)
    tested = replace(asked, longest=asked.longest + round(config.evaluate.shots * mean))
    measured = needed.reading(tested, config.evaluate.batch_tokens)
    tuning = Bytes(needed.tuning(trained), needed.checkpoint)
    n_heads = shape.n_layers(needed.network) * shape.n_heads(needed.network)
    rows = sizes.n_held_out * (len(sizes.arms) + 1) * sizes.n_runs
    return {
        "scoring": Bytes(needed.reading(shown, config.knownness.batch_tokens), 8 * sizes.n_facts * sizes.n_splits),
        "rates": tuning,
        "finetuning": tuning,
        "measuring": Bytes(measured, rows * (2 * n_heads * len(capture.SPANS) + ROW_BYTES)),
    }


def _print_sizes(config: Config, sizes: Sizes, console: Console) -> None:
    console.print(
        f"{sizes.n_facts:,} facts: {sizes.n_training:,} for training, {sizes.n_dev:,} dev, {sizes.n_held_out:,} held "
        f"out. {sizes.n_runs} runs on {sizes.n_splits} splits, {sizes.n_trainings(config):,} finetunings."
    )
    table = Table("arm", "facts", "steps", box=None)
    for arm, n in sizes.arms.items():
        how = finetune.training(finetuning(config.finetune, arm), sizes.n_training // 2)
        table.add_row(arm, f"{n:,}" if n else "?", f"{order.n_steps(how, n):,}" if n else "?")
    console.print(table)


def _print_weights(config: Config, base: Base, needed: Room, console: Console) -> None:
    n_bytes = needed.weights + needed.training
    console.print(
        f"{base.model.name}: {needed.n_parameters / 1e6:,.0f} million parameters, {needed.n_trained / 1e6:,.1f} "
        f"million trained ({config.finetune.method}, {base.model.precision}). Weights, gradients and moments take "
        f"{n_bytes / 1e9:.1f} GB beside the activations; {needed.free / 1e9:.1f} GB are free.",
    )
    if n_bytes > needed.free:
        _print_short(config, base, room.NOTHING, console)


def _print_short(config: Config, base: Base, at_once: Texts, console: Console) -> None:
    flags = room.remedy(config, base.model, at_once)
    told = f"It would fit with {flags}." if flags else "Take a smaller model, or more memory."
    console.print(f"That is too little memory. {told}", style="yellow", markup=False)


def _print_batches(config: Config, base: Base, needed: Room, encoded: Sequence[Encoded], console: Console) -> None:
    """Print how many tokens are read at once, and what to do where not even the longest text fits."""
    settings = config.finetune.train
    at_once = room.texts(encoded, settings.micro_batch_size or settings.batch_size)
    given = "" if settings.micro_batch_tokens is None else ", as --finetune.train.micro-batch-tokens says"
    console.print(
        f"Questions and answers have {at_once.longest:,} tokens at most. Training reads {needed.at_once(at_once):,} at "
        f"once{given}, in {needed.tuning(at_once) / 1e9:.1f} GB with all that it keeps."
    )
    if needed.weights + needed.training > needed.free:
        return
    if needed.least(at_once) > needed.free:
        _print_short(config, base, at_once, console)
    elif needed.tuning(at_once) > needed.free:
        fits = needed.fitting(at_once)
        told = f"That is too little memory. It would fit with --finetune.train.micro-batch-tokens {fits}."
        console.print(told, style="yellow", markup=False)


def _print_steps(
    config: Config,
    base: Base,
    sizes: Sizes,
    found: Costs,
    taken: Mapping[str, Bytes],
    done: Mapping[str, float],
    console: Console,
) -> None:
    is_mixed = base.model.precision == "mixed"
    dtype = torch.bfloat16 if is_mixed else models.dtype(base.model.precision)
    rate, own_facts = cost.matmul_rate(models.device(), dtype), sizes.facts(config)
    table = Table("step", "done", "tokens", "FLOP", "hours", "memory, GB", "disk, GB", box=None)
    total: dict[str, float] = {"tokens": 0.0, "flops": 0.0, "seconds": 0.0}
    for step in STEPS:
        own = {what: found.total(own_facts[step], what) for what in total}
        if not found.is_timed:
            own["seconds"] = own["flops"] / rate
        total = {what: total[what] + own[what] for what in total}
        size = f"{taken[step].memory / 1e9:.1f}", f"{taken[step].disk / 1e9:.2f}"
        table.add_row(step, f"{done[step]:.0%}", *_amounts(own), *size)
    table.add_row("all", "", *_amounts(total), "", "")
    name = str(dtype).removeprefix("torch.")
    console.print(table, f"This device multiplies large matrices at {rate / 1e12:,.3g} Tflop/s ({name}).")


def _amounts(own: Mapping[str, float]) -> tuple[str, str, str]:
    hours = own["seconds"] / 3600
    return f"{own['tokens'] / 1e6:,.2f} M", f"{own['flops']:.2g}", f"{hours:.2f}" if hours < 100 else f"{hours:,.0f}"
