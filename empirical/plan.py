"""What a study of a published model takes on this machine and what it can show, said before anything is finetuned.

A sample of the study's own questions goes through the study's own stages; their times are scaled up.
"""

import statistics as plain_statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig

from core import arms as other_arms
from core import split, statistics
from core.errors import InputError
from core.facts.record import FactSet
from core.numbering import numbered
from core.seeds import Cell
from empirical import evaluate, finetune, knownness, labels, measure, study
from empirical.arm import facts_of, finetuning
from empirical.config import Config
from empirical.finetune import FinetuneConfig
from empirical.lm import memory, train
from empirical.lm import model as models
from empirical.measure import Questions
from empirical.study import Base

N_ASKED = 200
"""Facts, at most, from which the base model's recall is estimated before anything is known."""
N_TIMED = 64
"""Facts, at most, on which measuring is timed."""
N_STEPS = 4
"""Finetuning steps that are timed; the first is left out."""
ASSUMED = (0.1, 0.25, 0.5)
"""Base accuracies for which the smallest visible gap is said where the model is not there to be asked."""


@dataclass(frozen=True)
class Sizes:
    """How many facts a study has of each kind, and how much of everything it does."""

    n_facts: int
    n_training: int
    n_dev: int
    n_held_out: int
    arms: dict[str, int]
    """Facts of each arm (of arms that depend on the model's answers: about so many); 0 where only the model knows."""
    n_splits: int
    n_runs: int

    def n_trainings(self, config: Config) -> int:
        """Return the number of finetunings."""
        return len(self.chosen) * self.n_splits * _n_rates(config) + len(self.arms) * self.n_runs

    @property
    def chosen(self) -> dict[str, int]:
        """The arms without remedies, for which rates are tried, and their facts."""
        return {facts_of(arm): n for arm, n in self.arms.items()}


@dataclass(frozen=True)
class Timing:
    """Seconds of each stage for one fact, measured on a sample of them."""

    score: float
    recall: float
    finetune: float
    """For one fact and one epoch."""
    measure: float
    """Of a held-out fact: answers, attention, swapped subject, knockout."""
    answer: float
    recalled: float
    """Share of the sample that the base model answers after examples."""
    n_asked: int

    def total(self, sizes: Sizes, config: Config) -> dict[str, float]:
        """Return the seconds of each stage over the whole study."""
        in_arms, train_config = sum(sizes.arms.values()), config.finetune.train
        n_tuned = sum(sizes.chosen.values()) * sizes.n_splits * _n_rates(config) + in_arms * sizes.n_runs
        n_measured = sizes.n_held_out * (sizes.n_splits + len(sizes.arms) * sizes.n_runs)
        wanted = labels.needs(config.finetunings)
        n_recalled = sizes.n_held_out + sizes.n_training * (wanted.recalled + wanted.texts)
        n_chosen = sizes.n_dev * len(sizes.chosen) * _n_rates(config) * sizes.n_splits
        return {
            "scoring": sizes.n_splits * (sizes.n_facts * self.score + n_recalled * self.recall),
            "finetuning": n_tuned * train_config.epochs * self.finetune,
            "measuring": n_measured * self.measure + (in_arms * sizes.n_runs + n_chosen) * self.answer,
        }


@dataclass(frozen=True)
class Weights:
    """A model's parameters and what training them takes, activations apart."""

    n_parameters: int
    n_trained: int
    bytes_needed: int
    bytes_free: int


def show(config: Config, given: FactSet, wanted: Sequence[Cell], console: Console) -> None:
    """Print what a study of a published model does, takes and can show.

    Raises:
        InputError: too few facts for the arms, or questions that the tokenizer cannot hold.
    """
    base = Base(study.models_config(config), given.facts, given.notes)
    sizes = sizes_of(config, base, wanted)
    _print_sizes(config, sizes, console)
    timing = None
    try:
        _print_weights(config, base, weights(config, base), console)
        timing = time_stages(config, base)
        _print_time(config, sizes, timing, console)
    except InputError as error:  # without the model there is still something to say
        console.print(f"What it takes here is not known. {error}", style="yellow", markup=False)
    for recalled in (timing.recalled,) if timing else ASSUMED:
        gap = 100 * statistics.smallest_gap(sizes.n_held_out, recalled)
        console.print(
            f"Power: where arms answer {recalled:.0%} of {sizes.n_held_out:,} held-out questions, a gap of {gap:.1f} "
            "points is seen on one split with a power of 80 %."
        )
    if timing and (told := _warning(base, timing.recalled, timing.n_asked)):
        console.print(told, style="yellow", markup=False)


def sizes_of(config: Config, base: Base, wanted: Sequence[Cell]) -> Sizes:
    """Return how much there is of everything; InputError where there are too few facts for the arms."""
    ids, seed = study.identify(base.facts), wanted[0].split
    roles = study.roles(config, ids, seed=seed)
    more = tuple(arm for arm in config.more_arms if arm not in other_arms.CLASSES)
    answers = numbered([fact.answers[0].casefold() for fact in base.facts])
    drawn = np.random.default_rng(0).random(len(base.facts))  # stands in for what the model would say of each
    halves = split.arms(roles, ids.relation, drawn, config.split, more=more, answer=answers)
    counts = np.bincount(roles.role, minlength=len(split.ROLES)).tolist()
    return Sizes(
        n_facts=len(base.facts),
        n_training=counts[split.TRAIN],
        n_dev=counts[split.DEV],
        n_held_out=counts[split.HELD_OUT],
        arms={arm: len(halves.arms.get(facts_of(arm), ())) for arm in config.arms},
        n_splits=len({cell.split for cell in wanted}),
        n_runs=len(wanted),
    )


def weights(config: Config, base: Base) -> Weights:
    """Return the model's size by its config, its weights not being needed; InputError where that cannot be reached."""
    name = base.model.name
    try:
        settings = AutoConfig.from_pretrained(models.converted(name) or name, revision=base.model.revision)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(
            f"{name}: its config cannot be read ({str(error).strip().splitlines()[0]}).\n"
            "Name a checkpoint folder, or a hub id that is cached or can be reached."
        ) from error
    with torch.device("meta"):
        network: Any = models.auto_class(settings).from_config(settings)
        n_parameters = n_trained = network.num_parameters()
        if config.finetune.method == "lora":
            network = finetune.with_adapter(config.finetune.lora, network, name)
            n_trained = network.get_nb_trainable_parameters()[0]
    size = models.dtype(base.model.precision).itemsize
    # A gradient and two moments of each trained weight, an adapter in float32.
    trained = 16 * n_trained if config.finetune.method == "lora" else 3 * size * n_trained
    return Weights(n_parameters, n_trained, size * n_parameters + trained, memory.free(models.device()))


def time_stages(config: Config, base: Base) -> Timing:
    """Return what each stage takes for one fact; InputError where the model cannot be loaded."""
    model = base.read()
    ids = study.identify(base.facts)
    roles = study.roles(config, ids, seed=0)
    order = np.random.default_rng(0).permutation(len(base.facts))
    pool = [base.facts[row] for row in order if roles.role[row] == split.TRAIN]
    sample = pool[:N_ASKED]
    greedy = replace(config.knownness, measure="logprob" if sample[0].choices else "greedy", classes=False)
    asked, recall = _timed(lambda: knownness.score(greedy, model, sample, pool, seed=0).value)
    score = 0.0
    if config.knownness.measure != "popularity" or config.knownness.classes:
        score = _timed(lambda: knownness.score(config.knownness, model, sample[:N_TIMED], pool, seed=0))[1]
    own = sample[:N_TIMED]
    encoded = model.format.ask(own, new_tokens=config.evaluate.max_new_tokens)
    answering = _timed(lambda: evaluate.answer(config.evaluate, model, own, encoded))[1]
    measuring = _timed(lambda: measure.arm("base", model, _questions(own, encoded), None, config.evaluate))[1]
    return Timing(
        score=score / len(own),
        recall=recall / len(sample),
        finetune=_finetuning(config, base, pool),
        measure=measuring / len(own),
        answer=answering / len(own),
        recalled=float((asked > 0).mean() if sample[0].choices else (asked >= 0.5).mean()),
        n_asked=len(sample),
    )


def _questions(facts: Sequence[Any], encoded: Sequence[Any]) -> Questions:
    """Return these facts as if they were a study's held-out ones."""
    rows, none = np.arange(len(facts)), np.zeros(len(facts))
    role = np.full(len(facts), split.HELD_OUT, dtype=np.int8)
    ids = study.identify(facts)
    return Questions(facts, encoded, ids.subject, ids.relation, none, role, rows, none.astype(bool), {}, 0)


def _finetuning(config: Config, base: Base, pool: Sequence[Any]) -> float:
    """Return the seconds of a finetuning step by the number of its facts."""
    settings = config.finetune.train
    own = pool[: N_STEPS * settings.batch_size]
    model = base.load()
    encoded = model.format.ask(own, new_tokens=config.evaluate.max_new_tokens)
    quick = replace(settings, epochs=1, n_records=1, batch_size=min(settings.batch_size, -(-len(own) // N_STEPS)))
    given = config.finetune
    plain = FinetuneConfig(method=given.method, learning_rates=given.learning_rates, lora=given.lora, train=quick)
    ends = []
    with tempfile.TemporaryDirectory() as work:
        finetune.run(
            plain,
            model,
            encoded,
            learning_rate=min(config.finetune.learning_rates),
            seed=0,
            work=Path(work),
            evaluate=lambda network: {},
            progress=lambda doing, share: ends.append(time.monotonic()),
        )
    steps = np.diff(ends)
    n_own = train.n_steps(quick, len(encoded))
    return plain_statistics.median(steps) * n_own / len(encoded)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _warning(base: Base, recalled: float, n: int) -> str | None:
    return evaluate.guessing(base.model.name, recalled, n, is_choice=bool(base.facts[0].choices))


def _n_rates(config: Config) -> int:
    """Return how many finetunings choose an arm's rate."""
    n_rates = len(config.finetune.learning_rates)
    return n_rates if n_rates > 1 else 0


def _print_sizes(config: Config, sizes: Sizes, console: Console) -> None:
    console.print(
        f"{sizes.n_facts:,} facts: {sizes.n_training:,} for training, {sizes.n_dev:,} dev, {sizes.n_held_out:,} held "
        f"out. {sizes.n_runs} runs on {sizes.n_splits} splits, {sizes.n_trainings(config):,} finetunings."
    )
    table = Table("arm", "facts", "steps", box=None)
    for arm, n in sizes.arms.items():
        how = finetune.training(finetuning(config.finetune, arm), sizes.n_training // 2)
        table.add_row(arm, f"{n:,}" if n else "?", f"{train.n_steps(how, n):,}" if n else "?")
    console.print(table)


def _print_weights(config: Config, base: Base, found: Weights, console: Console) -> None:
    is_short = found.bytes_needed > found.bytes_free
    console.print(
        f"{base.model.name}: {found.n_parameters / 1e6:,.0f} million parameters, {found.n_trained / 1e6:,.1f} million "
        f"trained ({config.finetune.method}, {base.model.precision}). Weights, gradients and moments take "
        f"{found.bytes_needed / 1e9:.1f} GB beside the activations; {found.bytes_free / 1e9:.1f} GB are free."
        + (" That is too little." if is_short else ""),
        style="yellow" if is_short else None,
    )


def _print_time(config: Config, sizes: Sizes, timing: Timing, console: Console) -> None:
    table = Table("stage", "facts/s", "hours", box=None)
    speed = {"scoring": timing.score or timing.recall, "finetuning": timing.finetune, "measuring": timing.measure}
    total = timing.total(sizes, config)
    for stage, seconds in total.items():
        table.add_row(stage, f"{1 / speed[stage]:,.1f}", f"{seconds / 3600:.2f}")
    table.add_row("all", "", f"{sum(total.values()) / 3600:.2f}")
    console.print(table)
    console.print(f"The base model recalls {timing.recalled:.1%} of {timing.n_asked} training facts, after examples.")
