"""What a sweep prints when it is done."""

from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from core import statistics
from core.report_tables import interval
from theory.engine import batched
from theory.sweep.runner import Summary

MAX_CONFIGS = 60
"""Most configs in the table on the screen; of more, counts are printed."""


def print_sweep(name: str, summary: Summary, axes: Sequence[str], console: Console) -> None:
    """Print each config's arms with 95 % intervals over seeds, or of many configs how many show what; then the cost."""
    arms = [arm for arm in dict.fromkeys(summary.table["arm"].to_pylist()) if arm != "base"]
    n_seeds = len(set(summary.table["pretrain_seed"].to_pylist()))
    shape = (-1, n_seeds, len(arms) + 1)

    def of(column: str, arm: str) -> np.ndarray:
        """[config, seed]"""
        numbers = summary.table[column].to_numpy().astype(float).reshape(shape)
        return numbers[..., 1 + arms.index(arm)]

    axes = [axis for axis in axes if len(set(summary.table[axis].to_pylist())) > 1] or axes
    swept = list(zip(*(summary.table[axis].to_pylist()[:: shape[1] * shape[2]] for axis in axes), strict=True))
    has_gap = {"top", "bottom"} <= set(arms)
    if len(swept) <= MAX_CONFIGS:
        headings = [f"accuracy, {arm}" for arm in arms]
        headings += ["accuracy, top − bottom", "subject share, top − bottom"] if has_gap else []
        seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
        table = Table(*axes, *headings, title=f"{name}: {seeds} each")
        for row, values in enumerate(swept):
            cells = [interval(of("accuracy", arm)[row]) for arm in arms]
            for column in ("accuracy", "subject_share") if has_gap else ():
                cells.append(interval(of(column, "top")[row] - of(column, "bottom")[row], signed=True))
            table.add_row(*(_plain(value) for value in values), *cells)
        console.print(table)
    elif has_gap:
        _print_orders(name, of, len(swept), n_seeds, console)
    n_diverged = len(summary.table) - summary.table["diverged_at"].null_count
    if n_diverged:
        console.print(f"{n_diverged} trainings diverged: no numbers, and their step in the column diverged_at.")
    speed = f" ({summary.n_computed / summary.seconds:,.1f} units/s)" if summary.n_computed else ""
    cost = ""
    if batched.PROCESS.compilations:  # none where workers computed
        n_compiled, n_bytes = batched.PROCESS.compilations, batched.PROCESS.bytes_per_world
        cost = f"; {n_compiled} programs compiled; at most {n_bytes / 1e6:,.1f} MB a world"
    console.print(
        f"{summary.n_computed:,} of {summary.n_units:,} units computed here in {summary.seconds:,.1f} s{speed}{cost}."
    )
    console.print(f"Results: {summary.path}", soft_wrap=True)


def _print_orders(name: str, of: Callable[[str, str], np.ndarray], n_configs: int, n_seeds: int, console) -> None:
    """Print for how many configs top leads bottom, trails it, or neither by its interval over seeds, and R5's word."""
    table = Table(
        "top − bottom", "leads", "trails", "interval holds 0", title=f"{name}: {n_configs} configs × {n_seeds} seeds"
    )
    for column in ("accuracy", "subject_share"):
        gap = of(column, "top") - of(column, "bottom")
        intervals = [statistics.mean_interval(seeds) for seeds in gap if np.isfinite(seeds).all()]
        leads, trails = sum(i.low > 0 for i in intervals), sum(i.high < 0 for i in intervals)
        table.add_row(column, str(leads), str(trails), str(n_configs - leads - trails))
    console.print(table)
    predicted, measured = (
        (of(column, "top") - of(column, "bottom")).mean(axis=1)
        for column in ("predicted_subject_share", "subject_share")
    )
    sound = np.isfinite(predicted) & np.isfinite(measured)
    if sound.any():
        agree = np.sign(predicted[sound]) == np.sign(measured[sound])
        error = np.abs(predicted[sound] - measured[sound])
        console.print(
            f"R5, from the base models alone, has the order of the shares right in {agree.sum()} of {sound.sum()} "
            f"configs; median error of their difference {np.median(error):.4f}, largest {error.max():.4f}."
        )


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
