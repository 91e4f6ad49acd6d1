"""What is printed when a command is done."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from core import arms, report_tables
from core.runs import Run
from empirical import compare, groups, published, tables
from empirical.groups import Group

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
    text = printed(tables.print_arms, "tiny", [run(0, 0.2), run(0, 0.2, seed=1), run(1, 0.2), run(2, 0.2)])
    rows = cells(text)
    assert list(rows) == ["base", "top", "whole", "random", "bottom", "top − bottom"]
    assert "4 runs of 3 base models" in text and "95 % interval over base models" in text
    assert set(rows["bottom"]) == {"0.600 ± 0.248"}  # three base models: Student's t at two degrees of freedom
    assert set(rows["top"]) == {"0.800 ± 0.248"}
    assert rows["top − bottom"] == ["+0.200 ± 0.000"] * len(tables.METRICS)


def test_below_three_base_models_means_and_gap_have_intervals_over_questions(monkeypatch):
    rng = np.random.default_rng(0)
    columns = {
        arm: {tables.COLUMNS.get(one, one): rng.random((2, 40)) for one in tables.METRICS} for arm in ("top", "bottom")
    }
    columns["top"]["subject_attention"][:] = np.nan
    splits = [Group(0, (0, 1), columns, np.arange(40) + 20 * split, np.arange(40) // 8, False) for split in range(2)]
    monkeypatch.setattr(groups, "read", lambda runs: splits)
    runs = [run(0, 0.2), run(0, 0.4, seed=1)]
    for one in runs:
        one.report["metrics"] = {"top": {}, "bottom": {}}
    text = printed(tables.print_arms, "smollm2", runs)
    rows = cells(text)
    assert "2 runs, 1 base model, 2 splits" in text and "over questions by subject" in text
    of_gap = groups.interval(splits, lambda group: groups.difference(group, "top", "bottom", "correct"))
    of_top = groups.interval(splits, lambda group: groups.values_of(group, "top", "correct"))
    assert rows["top − bottom"][0] == f"{of_gap.mean:+.3f} ± {(of_gap.high - of_gap.low) / 2:.3f}"
    assert rows["top"][0] == f"{of_top.mean:.3f} ± {(of_top.high - of_top.low) / 2:.3f}"
    place = list(tables.METRICS).index("subject_attention")
    assert rows["top"][place] == rows["top − bottom"][place] == "–" != rows["bottom"][place]
    del runs[0].report["metrics"]["bottom"]
    assert list(cells(printed(tables.print_arms, "smollm2", runs))) == ["top"]


def test_a_metric_that_does_not_apply_is_a_dash_and_the_others_stay():
    made = [run(0, 0.2, subject_attention=None), run(1, 0.2), run(2, 0.2)]
    rows = cells(printed(tables.print_arms, "mmlu", made))
    place = list(tables.METRICS).index("subject_attention")
    assert {row[place] for row in rows.values()} == {"–"}
    assert rows["top"][0] == "0.800 ± 0.248"


def test_arms_not_run_have_no_gap():
    made = [run(world, 0.2) for world in range(3)]
    for one in made:
        del one.report["metrics"]["bottom"]
    assert "top − bottom" not in cells(printed(tables.print_arms, "tiny", made))


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
    names += ("generic_correct", "is_swap_invariant", "knockout_drop", "knockout_drop_first", *compare.CHOICES)
    names += (groups.GENERIC_WRONG, groups.SWAP_DIFFERING)
    all_arms = (*ARMS, *arms.NAMES)
    columns = {arm: {name: rng.random((1, 50)) for name in names} for arm in all_arms}
    by_rate = {1e-3: {arm: rng.random((1, 50)) for arm in ("top", "bottom")}}
    group = Group(0, (0,), columns, np.arange(50), np.arange(50) // 10, False, by_rate)
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
