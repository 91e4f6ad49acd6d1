"""What a command prints when it is done: arms with intervals, and the theory's signs with verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from empirical import window
from empirical.compare import Row
from theory import statistics
from theory.results import Run

COLUMNS = {
    "accuracy": "accuracy",
    "retention": "retention",
    "guessed": "guessed",
    "generic_rate": "generic rate",
    "majority_accuracy": "majority guess",
    "subject_blindness": "subject blindness",
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
    """Print the learning rate that each arm of each base model took, with its accuracy on development facts."""
    made: dict[tuple[int, int], Mapping[str, Any]] = {}
    for run in runs:
        seeds = run.report["seeds"]
        made.setdefault((seeds["pretrain"], seeds["split"]), run.report["choices"])
    if not any(choice["development_accuracy"] for choices in made.values() for choice in choices.values()):
        return
    arms = list(next(iter(made.values())))
    table = Table("base model / split", *arms, title="learning rates chosen on development facts (accuracy at each)")
    for (world, split), choices in made.items():
        table.add_row(f"{world} / {split}", *(_choice(choices[arm]) for arm in arms))
    console.print(table)


def print_signs(rows: Sequence[Row], console: Console) -> None:
    """Print each statement, and under it what was measured, with the verdict."""
    for result in dict.fromkeys(row["result"] for row in rows):
        of_result = [row for row in rows if row["result"] == result]
        table = Table(box=None, padding=(0, 1), title=f"{result}  {of_result[0]['statement']}", title_justify="left")
        table.add_column("what", width=70)
        for heading, width in {"measured": 9, "95 % interval": 18, "p": 8}.items():
            table.add_column(heading, width=width, justify="right")
        table.add_column("verdict", width=9)
        for row in of_result:
            span = f"{row['low']:+.3f} to {row['high']:+.3f}" if np.isfinite(row["low"]) else ""
            p_value = f"{row['p_value']:.3f}" if np.isfinite(row["p_value"]) else ""
            verdict = f"[{STYLE[row['verdict']]}]{row['verdict']}[/]"
            table.add_row(f"{row['arm']}: {row['note']}", f"{row['measured']:+.3f}", span, p_value, verdict)
        console.print(table)


def print_worlds(about: Sequence[Mapping[str, Any]], gap: np.ndarray, toy: np.ndarray, console: Console) -> None:
    """Print the gaps top − bottom of every world, averaged over its base models, the toy's beside them."""
    headings = [*window.OUTCOMES.values(), *(f"toy: {name}" for name in window.TOY_OUTCOMES.values())]
    table = Table("world", "base models", *headings, title="top − bottom, by world")
    both = np.concatenate([gap, toy], axis=1)
    names = list(dict.fromkeys(one["world"] for one in about))
    means = np.array([both[[one["world"] == name for one in about]].mean(0) for name in names])
    for name, values in zip(names, means, strict=True):
        cells = (f"{value:+.3f}" if np.isfinite(value) else "" for value in values)
        table.add_row(name, str(sum(one["world"] == name for one in about)), *cells)
    console.print(table)
    outcomes = list(window.OUTCOMES.values())
    for place, outcome in enumerate(window.TOY_OUTCOMES.values()):
        pairs = means[:, [outcomes.index(outcome), len(outcomes) + place]]
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs) > 2:
            correlation, p_value = stats.spearmanr(pairs[:, 0], pairs[:, 1])
            alike = int((np.sign(pairs[:, 0]) == np.sign(pairs[:, 1])).sum())
            console.print(
                f"toy and language model, {outcome}: rank correlation over {len(pairs)} worlds {correlation:+.2f} "
                f"(p {p_value:.3f}), same sign in {alike}"
            )
    for place, factor in enumerate(window.FACTORS):
        console.print(f"[dim]letter {place + 1}, {factor.name}: l {factor.low}; h {factor.high}[/dim]")


def print_effects(effects: Sequence[window.Effect], console: Console) -> None:
    """Print what each factor does to each gap, with its interval over base models; bold where it excludes zero."""
    if not effects:
        console.print("Too few base models for the effects of seven factors: at least nine are needed.")
        return
    outcomes = list(dict.fromkeys(effect.outcome for effect in effects))
    table = Table("factor", *outcomes, title="effect of raising a factor on top − bottom, ± half of its 95 % interval")
    for factor in dict.fromkeys(effect.factor for effect in effects):
        cells = {effect.outcome: effect.found for effect in effects if effect.factor == factor}
        table.add_row(factor, *(_effect(cells[outcome]) if outcome in cells else "" for outcome in outcomes))
    console.print(table)


def _effect(found: statistics.PairedInterval) -> str:
    text = f"{found.mean:+.3f} ± {found.high - found.mean:.3f}"
    return f"[bold]{text}[/bold]" if found.low > 0 or found.high < 0 else text


def _choice(choice: Mapping[str, Any]) -> str:
    tried = ", ".join(f"{rate}: {accuracy:.3f}" for rate, accuracy in choice["development_accuracy"].items())
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
