"""What is printed when a command is done."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from core import arms, report_tables
from core.runs import Run
from empirical import compare, published, tables
from empirical.compare import Group

ARMS = ("base", "top", "bottom", "whole", "random")


def run(world: int, shift: float, seed: int = 0, **changed) -> Run:
    metrics = {
        arm: {name: 0.5 + shift * (arm == "top") + world / 10 for name in tables.METRICS} | changed for arm in ARMS
    }
    choices = {arm: choice(3e-4) for arm in ARMS[1:]}
    seeds = {"pretrain": world, "split": 0, "seed": seed}
    return Run(Path("run"), {"seeds": seeds, "metrics": metrics, "choices": choices})


def choice(rate: float, **accuracy: float) -> dict:
    return {"learning_rate": rate, "dev_accuracy": accuracy}


def printed(show, *arguments, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(*arguments, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(text: str) -> dict[str, list[str]]:
    """Return a table's rows by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}


def test_arms_have_their_means_over_base_models_and_the_gap_is_paired():
    text = printed(tables.print_arms, "tiny", [run(0, 0.2), run(0, 0.2, seed=1), run(1, 0.2)])
    rows = cells(text)
    assert list(rows) == ["base", "top", "whole", "random", "bottom", "top − bottom"]
    assert "3 runs of 2 base models" in text and "95 % interval over base models" in text
    assert set(rows["bottom"]) == {"0.550 ± 0.635"}  # two base models: Student's t at one degree of freedom
    assert set(rows["top"]) == {"0.750 ± 0.635"}
    assert rows["top − bottom"] == ["+0.200 ± 0.000"] * len(tables.METRICS)


def test_finetuning_seeds_of_one_base_model_are_averaged_without_an_interval():
    text = printed(tables.print_arms, "tiny", [run(0, 0.2), run(0, 0.4, seed=1)])
    assert set(cells(text)["top"]) == {"0.800"}
    assert set(cells(text)["top − bottom"]) == {"+0.300"}
    assert "one base model: no interval" in text and "2 runs of 1 base model" in text


def test_a_metric_that_does_not_apply_is_a_dash_and_the_others_stay():
    rows = cells(printed(tables.print_arms, "mmlu", [run(0, 0.2, subject_attention=None), run(1, 0.2)]))
    place = list(tables.METRICS).index("subject_attention")
    assert {row[place] for row in rows.values()} == {"–"}
    assert rows["top"][0] == "0.750 ± 0.635"


def test_arms_not_run_have_no_gap():
    one = run(0, 0.2)
    del one.report["metrics"]["bottom"]
    assert "top − bottom" not in cells(printed(tables.print_arms, "tiny", [one]))


def test_each_base_model_and_split_has_its_chosen_rates_once():
    one, again, other = run(0, 0.0), run(0, 0.0, seed=1), run(1, 0.0)
    for made in (one, again):
        made.report["choices"]["top"] = choice(1e-3, **{"0.0003": 0.25, "0.001": 0.5})
    rows = cells(printed(tables.print_choices, [one, again, other]))
    assert list(rows) == ["0 / 0", "1 / 0"]
    assert rows["0 / 0"][0] == "0.001 (0.0003: 0.250, 0.001: 0.500)"


def test_no_choice_is_no_table():
    assert printed(tables.print_choices, [run(0, 0.0)]) == ""


@pytest.mark.parametrize("verdict", ["holds", "fails", "undecided", "reported"])
def test_signs_stand_under_their_statement_with_numbers_and_verdict(verdict):
    row = {"result": "a", "statement": "Accuracy is higher.", "arm": "top − bottom", "note": "held-out", "low": -0.1}
    row |= {"measured": 0.25, "high": 0.6, "p_value": 0.04, "verdict": verdict}
    lines = printed(
        report_tables.print_verdicts, [row, row | {"result": "b", "low": np.nan, "p_value": np.nan}]
    ).splitlines()
    assert lines[0].strip() == "a  Accuracy is higher." and lines[3].strip() == "b  Accuracy is higher."
    assert lines[2].split() == f"top − bottom: held-out +0.25 -0.1 to +0.6 0.04 {verdict}".split()
    assert lines[5].split() == f"top − bottom: held-out +0.25 {verdict}".split()


def test_every_row_of_a_comparison_is_printed_in_120_columns():
    rng = np.random.default_rng(0)
    names = (
        "correct",
        "subject_attention",
        "subject_attention_nonsink",
        "is_generic_arm",
        "retained",
        "unknown_accuracy",
    )
    names += ("generic_correct", "is_swap_invariant", "knockout_drop", *compare.CHOICES)
    all_arms = (*ARMS, *arms.NAMES)
    columns = {arm: {name: rng.random((1, 50)) for name in names} for arm in all_arms}
    group = Group(0, (0,), columns, np.arange(50), np.arange(50) // 10, False)
    rows = compare.rows("tiny", [group], all_arms)
    text = printed(report_tables.print_verdicts, rows, width=120)
    assert all(statement in " ".join(text.split()) for statement in compare.STATEMENTS.values())
    measured = [f"{row['measured']:+.3g}" for row in rows]
    assert len(rows) > len(compare.STATEMENTS) and all(number in text for number in measured)
    assert sum(text.count(verdict) for verdict in ("holds", "fails", "undecided", "reported")) >= len(rows)
    assert max(len(line) for line in text.splitlines()) <= 120


def test_published_results_are_printed_with_their_source_and_what_they_are_not():
    text = " ".join(printed(tables.print_published, width=300).split())
    for row in published.rows():
        assert f"{row['metric']} {row['value']} {row['unit']}" in text
        assert f"{row['source']}; {row['confidence']}" in text
    assert published.NOTE in text
