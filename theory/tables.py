"""What a run of the toy prints of its arms."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from core import report_tables
from core.runs import Run
from theory import selection

METRICS = {
    "accuracy": "accuracy",
    "subject_attention": "subject attention",
    "generic_rate": "generic rate",
    "retention": "retention",
    "generic_accuracy": "generic guess",
}
SELECTION = {
    "n_trained": "n",
    "predicted_accuracy": "predicted",
    "accuracy": "accuracy",
    "ahead": "less popular",
    "subject_share": "share",
    "bound_subject_share": "at most",
    "train_accuracy": "own",
    "generic_rate": "generic",
    "loss": "loss",
    "ece": "ECE",
}
"""What is printed of arms that rules chose."""
CURRICULUM = ("curriculum_subject_share", "curriculum_accuracy")


def print_arms(experiment: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms' metrics over held-out facts, with 95 % intervals over worlds, and the paired gap top − bottom."""
    report_tables.print_arms(f"{experiment}: held-out facts", runs, METRICS, unit="world", console=console)


def print_selection(experiment: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms that rules chose: accuracy predicted and measured, and what each costs; nothing without such."""
    rules = {arm: rule for arm in report_tables.arms(runs[0]) if (rule := selection.parse(arm))}
    if not rules:
        return
    worlds = [run.report["seeds"]["pretrain"] for run in runs]
    caption = "predicted: from the base model alone; at most: no arm of as many facts passes it (R9); own: of its facts"
    title = f"{experiment}: which facts to finetune on, held-out facts"
    name = Column("facts", no_wrap=True)  # not cut: it is what a user types
    printed = Table(name, *SELECTION.values(), title=title, caption=caption, padding=0)
    for arm, rule in rules.items():
        values = report_tables.by_world(runs, worlds, arm, SELECTION)
        popular, best = (selection.name(one, rule.size) for one in ("popular", selection.BEST))
        if popular in rules and popular != arm:
            of_popular = report_tables.by_world(runs, worlds, popular, {"accuracy": ""})["accuracy"]
            values["ahead"] = values["accuracy"] - of_popular
        if best in rules:
            values["bound_subject_share"] = report_tables.by_world(runs, worlds, best, SELECTION)["bound_subject_share"]
        n_facts = f"{values.pop('n_trained').mean():,.0f}"
        cells = [report_tables.interval(values[name], signed=name == "ahead") for name in list(SELECTION)[1:]]
        printed.add_row(arm, n_facts, *cells)
    console.print(printed)
    for arm in (arm for arm, rule in rules.items() if rule.name == selection.BEST):
        found = report_tables.by_world(runs, worlds, arm, {"resting_share": "", "is_resting": ""})
        resting, n_failing = report_tables.interval(found["resting_share"]), int((found["is_resting"] < 1).sum())
        failing = f" In {n_failing} of {len(found['is_resting'])} worlds the premise fails (R9)." if n_failing else ""
        console.print(f"{arm}: no arm of as many facts rests at a share above {resting}.{failing}", style="dim")
        led = report_tables.by_world(runs, worlds, arm, dict.fromkeys(CURRICULUM, ""))
        if np.isfinite(led["curriculum_accuracy"]).all():
            share, accuracy = (report_tables.interval(led[name]) for name in CURRICULUM)
            console.print(
                f"{arm}: chosen anew at every step they come to a share of {share} and an accuracy of {accuracy}.",
                style="dim",
            )
