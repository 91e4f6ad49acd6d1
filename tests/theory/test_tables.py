"""What is printed when a command is done."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from core import report_tables
from core.runs import Run
from theory import tables

ARMS = ("base", "top", "whole", "random", "bottom")


def run(world: int, shift: float, **changed) -> Run:
    metrics = {
        arm: {name: 0.5 + shift * (arm == "top") + world / 10 for name in tables.METRICS} | changed for arm in ARMS
    }
    return Run(Path("run"), {"seeds": {"pretrain": world}, "metrics": metrics})


def printed(show, *arguments) -> str:
    console = Console(file=io.StringIO(), width=120)
    show(*arguments, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(text: str) -> dict[str, list[str]]:
    """Return a table's rows by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}


def test_arms_have_their_means_over_worlds_and_the_gap_is_paired():
    rows = cells(printed(tables.print_arms, "paper", [run(0, 0.2), run(0, 0.2), run(1, 0.2)]))
    assert list(rows) == [*ARMS, "top − bottom"]
    assert rows["bottom"] == ["0.550 ± 0.635"] * 5  # two worlds: Student's t at one degree of freedom
    assert rows["top"] == ["0.750 ± 0.635"] * 5
    assert rows["top − bottom"] == ["+0.200 ± 0.000"] * 5


def test_one_world_has_no_interval_and_says_so():
    text = printed(tables.print_arms, "paper", [run(0, 0.2), run(0, 0.2)])
    assert cells(text)["top"] == ["0.700"] * 5
    assert "one world: no interval" in text and "2 runs of 1 world" in text


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_a_metric_without_a_fact_to_average_over_is_a_dash(absent):
    rows = cells(printed(tables.print_arms, "paper", [run(0, 0.2), run(1, 0.2, retention=absent)]))
    assert {row[3] for row in rows.values()} == {"–"}
    assert rows["top"][0] == "0.750 ± 0.635"


def test_predictions_stand_under_their_statement_with_numbers_and_verdict():
    rows = [
        {"result": "R4", "statement": "recall", "note": "facts", "error": 3.0, "tolerance": 0.0, "verdict": "fails"},
        {"result": "R5", "statement": "order", "arm": "top", "predicted": 0.25, "measured": 0.5, "verdict": "holds"}
        | {"low": -0.1, "high": 1.1, "error": None, "p_value": float("nan")},
    ]
    lines = printed(report_tables.print_verdicts, rows).splitlines()
    assert lines[0].strip() == "R4  recall" and lines[2].split() == ["facts", "3", "0", "fails"]
    assert lines[3].strip() == "R5  order" and lines[5].split() == ["top", "0.25", "0.5", "-0.1", "to", "1.1", "holds"]
