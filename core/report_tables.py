"""What a command prints when it is done, alike in both flows: arms with intervals, and statements with verdicts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core import effects, shares, statistics
from core.arms import CONTRASTS, MATCHED
from core.contrasts import Contrasts
from core.runs import Run

ARM_ORDER = ("base", "top", "whole", "random", "bottom")
"""The arms in the order in which every table shows them; others follow."""
CROSSED = {
    "accuracy": "accuracy",
    "retention": "of known facts",
    "generic_rate": "generic rate",
    "subject_attention": "subject attention",
}
"""What is printed of arms that tell knownness from rarity: metrics, and their headings."""
VERDICT_STYLE = {"holds": "green", "fails": "bold red", "undecided": "yellow", "reported": "dim"}
_NUMBERS = {
    "predicted": "predicted",
    "measured": "measured",
    "interval": "95 % interval",
    "p_value": "p",
    "error": "error",
    "tolerance": "tolerance",
}


def print_arms(title: str, runs: Sequence[Run], metrics: Mapping[str, str], *, unit: str, console: Console) -> None:
    """Print the arms' metrics with 95 % intervals over worlds, and the paired gap top − bottom.

    Args:
        title: What was measured, such as "paper: held-out facts".
        metrics: By name in the reports, the column's heading.
        unit: What a pretraining seed stands for: "world" or "base model".
    """
    worlds = [run.report["seeds"]["pretrain"] for run in runs]
    n_worlds = len(set(worlds))
    many = "s" if n_worlds > 1 else ""
    caption = f"mean ± half of its 95 % interval over {unit}s" if n_worlds > 1 else f"one {unit}: no interval"
    table = Table(
        "arm", *metrics.values(), title=f"{title}, {len(runs)} runs of {n_worlds} {unit}{many}", caption=caption
    )
    by_arm = {arm: by_world(runs, worlds, arm, metrics) for arm in arms(runs[0])}
    for arm, values in by_arm.items():
        table.add_row(arm, *(interval(values[name]) for name in metrics))
    if {"top", "bottom"} <= by_arm.keys():
        table.add_section()
        gaps = (by_arm["top"][name] - by_arm["bottom"][name] for name in metrics)
        table.add_row("top − bottom", *(interval(gap, signed=True) for gap in gaps))
    console.print(table)


def print_crossed(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print what tells knownness from rarity, with 95 % intervals over worlds; nothing without such arms."""
    worlds = [run.report["seeds"]["pretrain"] for run in runs]
    contrasts = {"top − bottom, answers equally frequent": MATCHED} | CONTRASTS
    there = {title: weights for title, weights in contrasts.items() if set(weights) <= set(runs[0].report["metrics"])}
    printed = Table("difference", *CROSSED.values(), title=f"{name}: knownness and rarity of answers, held-out facts")
    for title, weights in there.items():
        parts = {arm: by_world(runs, worlds, arm, CROSSED) for arm in weights}
        gaps = {metric: sum(weight * parts[arm][metric] for arm, weight in weights.items()) for metric in CROSSED}
        printed.add_row(title, *(interval(np.asarray(gap), signed=True) for gap in gaps.values()))
    if printed.row_count:
        console.print(printed)


def print_shares(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print how much of the gap between two arms moves with activations or weights; nothing where none was given.

    An interval is unbounded where the two models may not differ at all.
    """
    headings = (
        "receiver",
        "donor",
        "given",
        "accuracy",
        "of a gap of",
        "share",
        "95 % interval",
        "of log-probability's",
    )
    printed = Table(*headings, title=f"{name}: what moves when one arm's model is given something of another's")
    for one in shares.of_runs(runs):
        numbers = f"{one.accuracy:.3f}", f"{one.gap:+.3f}", f"{one.share.mean:.2f}"
        ends = f"{one.share.low:.2f} to {one.share.high:.2f}" if np.isfinite(one.share.low) else "unbounded"
        printed.add_row(one.receiver, one.donor, one.intervention, *numbers, ends, f"{one.logprob_share:.2f}")
    if printed.row_count:
        console.print(printed)


def print_remedies(name: str, runs: Sequence[Run], console: Console) -> None:
    """Print what remedies do to an arm; nothing where there are none."""
    headings = ("arm", "remedy", "held out", "gap closed", "of known facts", "of its own facts", "subject attention")
    caption = "with the remedy less without: mean ± half of its 95 % interval over "
    caption += f"{Contrasts(runs).counted}; time relative to without"
    printed = Table(*headings, "time", title=f"{name}: remedies", caption=caption)
    for effect in effects.of_runs(runs):
        changes = (effect.accuracy, effect.closed, effect.retention, effect.train_accuracy, effect.subject_attention)
        cells = [_signed(change) for change in changes]
        printed.add_row(effect.arm, effect.remedy, *cells, f"× {effect.seconds:.1f}")
    if printed.row_count:
        console.print(printed)


def _signed(change: statistics.Interval) -> str:
    half = (change.high - change.low) / 2
    return f"{change.mean:+.3f}" + (f" ± {half:.3f}" if np.isfinite(half) else "")


def arms(run: Run) -> list[str]:
    """Return the arms that a run measured, in the order of every table."""
    there = list(run.report["metrics"])
    return sorted(
        there, key=lambda arm: ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER) + there.index(arm)
    )


def by_world(runs: Sequence[Run], worlds: Sequence[int], arm: str, metrics: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return each world's mean of an arm's metrics; nan where one does not apply."""
    return {
        name: statistics.by_world(worlds, [run.report["metrics"][arm].get(name) for run in runs]) for name in metrics
    }


def print_notes(notes: Iterable[str], console: Console) -> None:
    """Print what reading the facts left out or found; brackets in users' texts are no markup."""
    for note in notes:
        console.print(note, style="dim", markup=False)


def print_done(n_made: int, n_wanted: int, place: Path, console: Console) -> None:
    """Print how many of the wanted runs were made now, and where all of them are."""
    console.print(f"{n_made} runs made, {n_wanted - n_made} found done. Results: {place}", soft_wrap=True)


def print_verdicts(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print each statement, and under it what was predicted and measured, with the verdict; no empty column."""
    for result in dict.fromkeys(row["result"] for row in rows):
        of_result = [row for row in rows if row["result"] == result]
        cells = [{name: _cell(row, name) for name in _NUMBERS} for row in of_result]
        shown = [name for name in _NUMBERS if any(row[name] for row in cells)]
        table = Table(box=None, padding=(0, 1), title=f"{result}  {of_result[0]['statement']}", title_justify="left")
        table.add_column("what", width=62 if len(shown) < 4 else 44)
        for name in shown:
            table.add_column(_NUMBERS[name], width=18 if name == "interval" else 9, justify="right")
        table.add_column("verdict", width=9)
        for row, numbers in zip(of_result, cells, strict=True):
            what = Text(": ".join(part for part in (row.get("arm"), row.get("note")) if part))
            if row.get("refuted_by"):
                what.append(f"\nrefuted by {row['refuted_by']}", style="dim")
            verdict = f"[{VERDICT_STYLE[row['verdict']]}]{row['verdict']}[/]"
            table.add_row(what, *(numbers[name] for name in shown), verdict)
        console.print(table)


def interval(values: np.ndarray, *, signed: bool = False) -> str:
    """Return the mean over worlds and half of its interval; a dash where there was nothing to average over."""
    if not np.isfinite(values).all():
        return "–"
    mean, low, high = statistics.mean_interval(values)
    half = f" ± {(high - low) / 2:.3f}" if np.isfinite(low) else ""
    return f"{mean:{'+' if signed else ''}.3f}{half}"


def _cell(row: Mapping[str, Any], name: str) -> str:
    """Return a row's number as text, nothing where it has none; a difference of two arms shows its sign."""
    is_signed = "−" in (row.get("arm") or "") and name in ("predicted", "measured", "interval")
    if name == "interval":
        low, high = (_number(row.get(end), signed=is_signed) for end in ("low", "high"))
        return f"{low} to {high}" if low else ""
    return _number(row.get(name), signed=is_signed)


def _number(value: float | None, *, signed: bool) -> str:
    if value is None or not np.isfinite(value):
        return ""
    return f"{value:+.3g}" if signed else f"{value:.3g}"
