"""What a command prints when it is done: arms with intervals, and the theory's signs with verdicts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from core import report_tables
from core.runs import Run
from empirical import groups, published
from empirical.groups import Group

METRICS = {
    "accuracy": "accuracy",
    "retention": "retention",
    "unknown_accuracy": "on unknown facts",
    "generic_rate": "generic rate",
    "generic_rate_wrong": "of wrong answers",
    "generic_accuracy": "generic guess",
    "swap_invariance_differing": "swap invariance",
    "subject_attention": "subject attention",
    "subject_attention_nonsink": "of non-sink",
    "knockout_drop": "knockout, nats",
}
COLUMNS = {
    "accuracy": "correct",
    "retention": "retained",
    "generic_rate": groups.GENERIC,
    "generic_rate_wrong": groups.GENERIC_WRONG,
    "generic_accuracy": "generic_correct",
    "swap_invariance_differing": groups.SWAP_DIFFERING,
}
"""The column of a question that a metric is the mean of, where that has another name."""


def print_arms(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms' metrics over held-out questions with 95 % intervals, and top − bottom.

    Intervals are over base models, of fewer than three over their questions (`groups`).
    """
    models = {run.report["seeds"]["pretrain"] for run in runs}
    if len(models) >= groups.MIN_WORLDS:
        report_tables.print_arms(f"{name}: held-out questions", runs, METRICS, unit="base model", console=console)
        return
    grouped, arms = groups.read(runs), report_tables.arms(runs[0])
    numbers = {"run": len(runs), "base model": len(models), "split": len(grouped)}
    counts = ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in numbers.items())
    caption = f"mean ± half of its 95 % interval over {groups.unit(grouped)}"
    table = Table("arm", *METRICS.values(), title=f"{name}: held-out questions, {counts}", caption=caption)
    for arm in arms:
        table.add_row(arm, *(_mean(grouped, partial(groups.values_of, arm=arm, column=one)) for one in _columns()))
    if {"top", "bottom"} <= set(arms):
        table.add_section()
        gap = partial(groups.difference, one="top", other="bottom")
        table.add_row("top − bottom", *(_mean(grouped, partial(gap, column=one), sign="+") for one in _columns()))
    console.print(table)


def _columns() -> list[str]:
    return [COLUMNS.get(metric, metric) for metric in METRICS]


def _mean(grouped: Sequence[Group], values: Callable[[Group], np.ndarray], *, sign: str = "") -> str:
    """Return a mean with half of its interval; a dash where a base model has no value."""
    if any(np.isnan(values(group)).all() for group in grouped):
        return "–"
    found = groups.interval(grouped, values)
    return f"{found.mean:{sign}.3f} ± {(found.high - found.low) / 2:.3f}"


def print_toy(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print the metrics of the toy's arms that it shares with a language model, with 95 % intervals over worlds."""
    shared = ("accuracy", "retention", "generic_rate_arm", "subject_attention")
    headings = {metric: METRICS.get(metric, METRICS["generic_rate"]) for metric in shared}
    report_tables.print_arms(f"the toy, {name}: held-out facts", runs, headings, unit="world", console=console)


def print_choices(runs: Sequence[Run], console: Console) -> None:
    """Print the learning rate that each arm of each base model took, with its accuracy on dev facts."""
    made: dict[tuple[int, int], Mapping[str, Any]] = {}
    for run in runs:
        seeds = run.report["seeds"]
        made.setdefault((seeds["pretrain"], seeds["split"]), run.report["choices"])
    if not any(choice["dev_accuracy"] for choices in made.values() for choice in choices.values()):
        return
    arms = list(next(iter(made.values())))
    table = Table("base model / split", *arms, title="learning rates chosen on dev facts (accuracy at each)")
    for (world, split), choices in made.items():
        table.add_row(f"{world} / {split}", *(_choice(choices[arm]) for arm in arms))
    console.print(table)


def print_published(console: Console) -> None:
    """Print what others measured, with its source."""
    table = Table("study", "data", "model", "arm", "measured", "source", title="published results", box=None)
    for row in published.rows():
        measured = f"{row['metric']} {row['value']} {row['unit']}"
        source = f"{row['source']}; {row['confidence']}"
        table.add_row(row["study"], row["dataset"], row["model"], row["arm"], measured, source)
    console.print(table)
    console.print(f"[dim]{published.NOTE}[/dim]")


def _choice(choice: Mapping[str, Any]) -> str:
    tried = ", ".join(f"{rate}: {accuracy:.3f}" for rate, accuracy in choice["dev_accuracy"].items())
    return f"{choice['learning_rate']:g} ({tried})"
