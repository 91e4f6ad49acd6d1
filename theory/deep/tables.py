"""What `python -m theory deep` prints: the networks side by side, and layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from core import report_tables, signs
from core.runs import Run
from theory.deep import compare

ARMS = ("top", "whole", "random", "bottom")


def print_depths(experiments: Mapping[str, Sequence[Run]], console: Console) -> None:
    """Print accuracy by arm, the theory's signs, and attention by layer, a row for each experiment's finished runs."""
    _print_accuracy(experiments, console)
    _print_signs(experiments, console)
    _print_layers(experiments, console)


def _print_accuracy(experiments: Mapping[str, Sequence[Run]], console: Console) -> None:
    table = Table(
        "experiment", "layers", "seeds", "base recall", *ARMS, "top − bottom", title="accuracy, held-out facts"
    )
    table.caption = "base recall: before finetuning, in the pretraining format; ± half of the 95 % interval over worlds"
    for name, runs in experiments.items():
        metrics = {arm: _of(runs, arm, "accuracy") for arm in ARMS}
        cells = [
            str(runs[0].report["config"]["layers"]),
            str(len(runs)),
            f"{_of(runs, 'base', 'base_recall').mean():.3f}",
        ]
        cells += [f"{metrics[arm].mean():.3f}" for arm in ARMS]
        table.add_row(name, *cells, report_tables.interval(metrics["top"] - metrics["bottom"], signed=True))
    console.print(table)


def _print_signs(experiments: Mapping[str, Sequence[Run]], console: Console) -> None:
    columns = ("experiment", "attention, top − bottom", "most in")
    table = Table(*columns, *signs.SIGNS, title="attention to the subject, and the theory's signs")
    table.caption = "\n".join(f"{sign}  {statement}" for sign, statement in signs.SIGNS.items())
    for name, runs in experiments.items():
        rows = compare.rows(name, [compare.read(run) for run in runs])
        gap = _of(runs, "top", "subject_attention") - _of(runs, "bottom", "subject_attention")
        layers = [change for change in compare.changes(runs) if change.position == "prompt_end"]
        most = max(layers, key=lambda change: abs(float((change.top - change.bottom).mean())))
        verdicts = (signs.overall(rows, sign) for sign in signs.SIGNS)
        marks = (f"[{report_tables.VERDICT_STYLE[verdict]}]{verdict}[/]" for verdict in verdicts)
        table.add_row(name, report_tables.interval(gap, signed=True), f"layer {most.layer + 1}", *marks)
    console.print(table)


def _print_layers(experiments: Mapping[str, Sequence[Run]], console: Console) -> None:
    table = Table("experiment", "seen from", "layer", "base", "top", "bottom", "top − bottom", "largest head")
    table.title = "attention to the subject by layer, heads averaged"
    table.caption = (
        "prompt_end: the template, at which the question is answered. largest head: top − bottom where it is largest"
    )
    for name, runs in experiments.items():
        for change in compare.changes(runs):
            means = (f"{of.mean():.3f}" for of in (change.base, change.top, change.bottom))
            gaps = (report_tables.interval(gap, signed=True) for gap in (change.top - change.bottom, change.largest))
            table.add_row(name, change.position, str(change.layer + 1), *means, *gaps)
        table.add_section()
    console.print(table)


def _of(runs: Sequence[Run], arm: str, metric: str) -> np.ndarray:
    return np.array([run.report["metrics"][arm][metric] for run in runs], float)
