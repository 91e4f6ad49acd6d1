"""What a command prints when it is done: arms with intervals, and the theory's signs with verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from core import statistics
from core.runs import Run
from empirical import published
from empirical.compare import Row

COLUMNS = {
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
STYLE = {"holds": "green", "fails": "bold red", "undecided": "yellow", "reported": "dim"}


def print_arms(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms' metrics over held-out questions with 95 % intervals over base models, and top − bottom."""
    worlds = [run.report["seeds"]["pretrain"] for run in runs]
    n_worlds = len(set(worlds))
    title = f"{name}: held-out questions, {len(runs)} runs of {n_worlds} base model{'s' * (n_worlds > 1)}"
    caption = (
        "mean ± half of its 95 % interval over base models" if n_worlds > 1 else "one base model: no interval here"
    )
    table = Table("arm", *COLUMNS.values(), title=title, caption=caption)
    arms = list(runs[0].report["metrics"])
    for arm in arms:
        table.add_row(arm, *(_cell(_by_world(runs, worlds, arm, metric)) for metric in COLUMNS))
    if {"top", "bottom"} <= set(arms):
        table.add_section()
        gaps = (_by_world(runs, worlds, "top", m) - _by_world(runs, worlds, "bottom", m) for m in COLUMNS)
        table.add_row("top − bottom", *(_cell(gap, signed=True) for gap in gaps))
    console.print(table)


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


def print_signs(rows: Sequence[Row], console: Console) -> None:
    """Print each statement, and under it what was measured, with the verdict."""
    for result in dict.fromkeys(row["result"] for row in rows):
        of_result = [row for row in rows if row["result"] == result]
        table = Table(box=None, padding=(0, 1), title=f"{result}  {of_result[0]['statement']}", title_justify="left")
        table.add_column("what", width=68)
        for heading, width in {"measured": 9, "95 % interval": 18, "p": 8}.items():
            table.add_column(heading, width=width, justify="right")
        table.add_column("verdict", width=11)
        for row in of_result:
            span = f"{row['low']:+.3f} to {row['high']:+.3f}" if np.isfinite(row["low"]) else ""
            p_value = f"{row['p_value']:.3f}" if np.isfinite(row["p_value"]) else ""
            verdict = f"[{STYLE[row['verdict']]}]{row['verdict']}[/]"
            table.add_row(f"{row['arm']}: {row['note']}", f"{row['measured']:+.3f}", span, p_value, verdict)
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


def _by_world(runs: Sequence[Run], worlds: Sequence[int], arm: str, metric: str) -> np.ndarray:
    """Return each base model's mean of a metric; nan where it does not apply."""
    values = np.array([run.report["metrics"][arm].get(metric) for run in runs], dtype=float)
    return np.array([values[np.array(worlds) == world].mean() for world in dict.fromkeys(worlds)])


def _cell(values: np.ndarray, *, signed: bool = False) -> str:
    if not np.isfinite(values).all():
        return ""
    found = statistics.mean_interval(values)
    mean = f"{found.mean:+.3f}" if signed else f"{found.mean:.3f}"
    return mean if np.isnan(found.high) else f"{mean} ± {found.high - found.mean:.3f}"
