"""What a command prints when it is done: arms with intervals, and theorem rows with verdicts."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from core import statistics
from core.runs import Run
from theory.compare import Row

COLUMNS = {
    "accuracy": "accuracy",
    "subject_attention": "subject attention",
    "generic_rate": "generic rate",
    "retention": "retention",
    "generic_accuracy": "generic guess",
}
VERDICT_STYLE = {"holds": "green", "fails": "bold red", "undecided": "yellow", "reported": "dim"}


def print_arms(experiment: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms' metrics over held-out facts, with 95 % intervals over worlds, and the paired gap top - bottom."""
    worlds = [run.report["seeds"]["pretrain"] for run in runs]
    n_worlds = len(set(worlds))
    title = f"{experiment}: held-out facts, {len(runs)} runs of {n_worlds} world{'s' * (n_worlds > 1)}"
    caption = "mean ± half of its 95 % interval over worlds" if n_worlds > 1 else "one world: no interval"
    table = Table("arm", *COLUMNS.values(), title=title, caption=caption)
    arms = ("base", "top", "whole", "random", "bottom")
    by_arm = {
        arm: {name: _by_world(worlds, [run.report["metrics"][arm][name] for run in runs]) for name in COLUMNS}
        for arm in arms
    }
    for arm in arms:
        table.add_row(arm, *(interval(values) for values in by_arm[arm].values()))
    table.add_section()
    gaps = [by_arm["top"][metric] - by_arm["bottom"][metric] for metric in COLUMNS]
    table.add_row("top − bottom", *(interval(gap, signed=True) for gap in gaps))
    console.print(table)


def print_predictions(rows: Sequence[Row], console: Console) -> None:
    """Print each result's statement, and under it what was predicted and measured, with the verdict."""
    for result in dict.fromkeys(row["result"] for row in rows):
        of_result = [row for row in rows if row["result"] == result]
        table = Table(box=None, padding=(0, 1), title=f"{result}  {of_result[0]['statement']}", title_justify="left")
        table.add_column("what", width=44)
        for heading, width in {"predicted": 9, "measured": 9, "95 % interval": 16, "error": 9, "tolerance": 9}.items():
            table.add_column(heading, width=width, justify="right")
        table.add_column("verdict", width=9)
        for row in of_result:
            numbers = [_number(row.get(name)) for name in ("predicted", "measured")]
            low, high = (_number(row.get(name)) for name in ("low", "high"))
            numbers += [f"{low} to {high}" if low else "", _number(row.get("error")), _number(row.get("tolerance"))]
            what = ": ".join(part for part in (row.get("arm"), row.get("note")) if part)
            table.add_row(what, *numbers, f"[{VERDICT_STYLE[row['verdict']]}]{row['verdict']}[/]")
        console.print(table)


def _by_world(worlds: Sequence[int], values: Sequence[float | None]) -> np.ndarray:
    _, world = np.unique(worlds, return_inverse=True)
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.bincount(world, numbers) / np.bincount(world)


def interval(values: np.ndarray, *, signed: bool = False) -> str:
    """Return the mean over worlds and half of its interval; a dash where there was nothing to average over."""
    if not np.isfinite(values).all():
        return "–"
    found = statistics.mean_interval(values)
    half = f" ± {(found.high - found.low) / 2:.3f}" if np.isfinite(found.low) else ""
    return f"{found.mean:{'+' if signed else ''}.3f}{half}"


def _number(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f"{value:.3g}"
