"""What the screen study prints: gaps of every world beside the toy's, effects of the factors, fine levels, recipes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from core import statistics
from core.factors import FACTORS
from empirical.screen import table as screen_table
from empirical.screen.table import METRICS, Effect, Gaps, Row

TOY_METRICS = ("accuracy", "subject_attention")
"""Outcomes of the toy that are set beside the language model's."""


def print_all(rows: Sequence[Row], console: Console) -> None:
    """Print every part that has rows."""
    factorial, toy = (screen_table.gaps(rows, "factorial", flow) for flow in ("lm", "toy"))
    if factorial.about:
        _print_worlds("the factorial part: top − bottom, by world", factorial, toy, ("world",), console)
        _print_agreement(factorial, toy, console)
        _print_effects(_named_effects(factorial, toy), console)
    fine, toy = (_with_value(screen_table.gaps(rows, "fine", flow)) for flow in ("lm", "toy"))
    if fine.about:
        _print_worlds("one factor at a time: top − bottom", fine, toy, ("series", "value"), console)
    recipe = screen_table.gaps(rows, "recipe", "lm")
    if recipe.about:
        nothing = screen_table.gaps(rows, "recipe", "toy")
        labels = ("series", "method", "learning_rate", "epochs")
        _print_worlds("finetuning at the two ends: top − bottom", recipe, nothing, labels, console)


def _with_value(gaps: Gaps) -> Gaps:
    """Return the gaps with the value of the factor that is varied."""
    return Gaps([row | {"value": row[row["series"]]} for row in gaps.about], gaps.value)


def _print_worlds(title: str, lm: Gaps, toy: Gaps, labels: Sequence[str], console: Console) -> None:
    """Print the gaps of every world, averaged over its base models, the toy's beside them."""
    toys = [f"toy: {METRICS[name]}" for name in TOY_METRICS] if toy.about else []
    table = Table(*labels, "base models", *METRICS.values(), *toys, title=title)
    for label, values in sorted(_by_world(lm, labels).items()):
        beside = _by_world(toy, labels).get(label)
        cells = [_gap(values[:, i]) for i in range(len(METRICS))]
        if toys:
            places = [list(METRICS).index(name) for name in TOY_METRICS]
            cells += ["" if beside is None else _gap(beside[:, i]) for i in places]
        table.add_row(*(_text(part) for part in label), str(len(values)), *cells)
    console.print(table, "Mean over base models, the lowest and highest of them in brackets.")
    if "world" in labels:
        for place, factor in enumerate(FACTORS):
            levels = f"l {factor.low:g}, h {factor.high:g}"
            console.print(f"[dim]letter {place + 1}, {factor.name}: {levels} ({factor.unit})[/dim]")


def _print_agreement(lm: Gaps, toy: Gaps, console: Console) -> None:
    """Print in how many worlds the toy has the language model's sign, and their rank correlation."""
    both = _by_world(lm, ("world",)), _by_world(toy, ("world",))
    worlds = [world for world in both[0] if world in both[1]]
    if len(worlds) < 3:
        return
    for name in TOY_METRICS:
        place = list(METRICS).index(name)
        ours, theirs = (np.array([found[world][:, place].mean() for world in worlds]) for found in both)
        correlation, p_value = stats.spearmanr(ours, theirs)
        alike = int((np.sign(ours) == np.sign(theirs)).sum())
        console.print(
            f"toy and language model, {METRICS[name]}: same sign in {alike} of {len(worlds)} worlds, "
            f"rank correlation {correlation:+.2f} (p {p_value:.3f})"
        )


def _named_effects(factorial: Gaps, toy: Gaps) -> dict[str, list[Effect]]:
    """Return the effects by column: the language model's on every outcome, then the toy's."""
    found: dict[str, list[Effect]] = {}
    for effect in screen_table.effects(factorial):
        found.setdefault(effect.outcome, []).append(effect)
    for effect in screen_table.effects(toy):
        if effect.outcome in [METRICS[name] for name in TOY_METRICS]:
            found.setdefault(f"toy: {effect.outcome}", []).append(effect)
    return found


def _print_effects(found: Mapping[str, Sequence[Effect]], console: Console) -> None:
    """Print what each factor does to each gap, with its interval over base models; bold where it excludes zero."""
    if not found:
        console.print("Too few base models for the effects of seven factors: at least nine are needed.")
        return
    table = Table("factor", *found, title="effect of raising a factor on top − bottom, ± half of its 95 % interval")
    for effects in zip(*found.values(), strict=True):
        table.add_row(effects[0].factor, *(_effect(effect.found) for effect in effects))
    console.print(table)


def _by_world(gaps: Gaps, labels: Sequence[str]) -> dict[tuple, np.ndarray]:
    """Return each world's gaps, a row for each base model."""
    keys = [tuple(row[label] for label in labels) for row in gaps.about]
    return {key: gaps.value[[other == key for other in keys]] for key in dict.fromkeys(keys)}


def _gap(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return ""
    spread = f" [{values.min():+.3f}, {values.max():+.3f}]" if len(values) > 1 else ""
    return f"{values.mean():+.3f}{spread}"


def _effect(found: statistics.PairedInterval) -> str:
    text = f"{found.mean:+.3f} ± {found.high - found.mean:.3f}"
    return f"[bold]{text}[/bold]" if found.low > 0 or found.high < 0 else text


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
