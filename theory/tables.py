"""What a run of the toy prints of its arms."""

from collections.abc import Sequence

from rich.console import Console

from core import report_tables
from core.runs import Run

METRICS = {
    "accuracy": "accuracy",
    "subject_attention": "subject attention",
    "generic_rate": "generic rate",
    "retention": "retention",
    "generic_accuracy": "generic guess",
}


def print_arms(experiment: str, runs: Sequence[Run], console: Console) -> None:
    """Print the arms' metrics over held-out facts, with 95 % intervals over worlds, and the paired gap top − bottom."""
    report_tables.print_arms(f"{experiment}: held-out facts", runs, METRICS, unit="world", console=console)
