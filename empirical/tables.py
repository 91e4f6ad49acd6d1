"""What a command prints when it is done: arms with intervals, and the theory's signs with verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from core import report_tables
from core.runs import Run
from empirical import published

METRICS = {
    "accuracy": "accuracy",
    "retention": "retention",
    "unknown_accuracy": "on unknown facts",
    "generic_rate": "generic rate",
    "generic_accuracy": "generic guess",
    "swap_invariance": "swap invariance",
    "subject_attention": "subject attention",
    "subject_attention_nonsink": "of non-sink",
    "knockout_drop": "knockout, nats",
}


def print_arms(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms' metrics over held-out questions with 95 % intervals, and top − bottom.

    Intervals are over base models; where there is one with several splits (a published model) over those.
    """
    models, splits = ({run.report["seeds"][kind] for run in runs} for kind in ("pretrain", "split"))
    seed, unit = ("split", "split") if len(models) == 1 < len(splits) else ("pretrain", "base model")
    report_tables.print_arms(f"{name}: held-out questions", runs, METRICS, unit=unit, seed=seed, console=console)


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
