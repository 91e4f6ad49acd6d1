import io
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from core import columns, runs
from core.errors import InputError
from core.factors import FACTORS
from core.seeds import Cell
from empirical.experiments import SCREEN
from empirical.screen import design, table, tables

VARIANTS = design.variants(SCREEN, ["factorial"])
TRUE = {"tail": 0.08, "answers": -0.05}
"""What raising a factor does to the gap in accuracy."""


def _metrics(gap, arm):
    value = 0.4 + (gap / 2 if arm == "top" else -gap / 2 if arm == "bottom" else 0)
    names = columns.MEASURES
    return dict.fromkeys(names, None) | {"n": 10, "accuracy": value, "retention": value, "subject_attention": value}


def _row(variant, flow, pretrain, seed, gap):
    run = runs.Run(
        Path(),
        {
            "metrics": {arm: _metrics(gap, arm) for arm in ("base", *design.ARMS)},
            "choices": {"top": {"learning_rate": 3e-4}},
        },
    )
    seeds = {"pretrain": pretrain, "seed": seed}
    return table._rows(variant, flow, seeds, run)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    made = []
    for variant, pretrain in product(VARIANTS, range(2)):
        values = design.values(variant.config.world)
        true = 0.1 + sum(
            e * (0.5 if values[f.name] == f.high else -0.5) for f in FACTORS for n, e in TRUE.items() if n == f.name
        )
        for seed in range(2):
            made += _row(variant, "lm", pretrain, seed, true + 0.001 * rng.normal())
        made += _row(variant, "toy", pretrain, 0, true)
    return made


def test_effects_are_those_that_made_the_gaps(rows):
    found = {e.factor: e.found for e in table.effects(table.gaps(rows, "factorial", "lm")) if e.outcome == "accuracy"}
    assert found["mean of all worlds"].mean == pytest.approx(0.1, abs=0.002)
    for factor in FACTORS:
        assert found[factor.name].mean == pytest.approx(TRUE.get(factor.name, 0.0), abs=0.003)
        assert found[factor.name].low < found[factor.name].mean < found[factor.name].high


def test_effects_equal_the_difference_of_the_means_at_both_levels(rows):
    gaps = table.gaps(rows, "factorial", "lm")
    found = {e.factor: e.found for e in table.effects(gaps) if e.outcome == "accuracy"}
    for factor in FACTORS:
        is_high = np.array([row[factor.name] == factor.high for row in gaps.about])
        assert found[factor.name].mean == pytest.approx(gaps.value[is_high, 0].mean() - gaps.value[~is_high, 0].mean())


def test_an_outcome_that_is_nowhere_defined_has_no_effects(rows):
    outcomes = {effect.outcome for effect in table.effects(table.gaps(rows, "factorial", "lm"))}
    assert outcomes == {"accuracy", "retention", "subject attention"}


def test_too_few_base_models_give_no_effects(rows):
    few = [row for row in rows if row["world"] in {variant.name for variant in VARIANTS[:3]}]
    assert table.effects(table.gaps(few, "factorial", "lm")) == []


def test_the_table_comes_back_as_it_was_written_and_newer_rows_replace_older_ones(rows, tmp_path):
    table.write(tmp_path, rows)
    again = table.read(tmp_path)
    assert len(again) == len(rows) and set(again[0]) == set(columns.SCREEN.names)
    newer = [rows[0] | {"accuracy": 0.99}]
    merged = table.merged(again, newer)
    assert len(merged) == len(rows)
    assert [row["accuracy"] for row in merged if row["accuracy"] == 0.99] == [0.99]


def test_no_table_has_no_rows_and_a_damaged_one_is_refused(tmp_path):
    assert table.read(tmp_path) == []
    table.path(tmp_path).parent.mkdir(parents=True)
    table.path(tmp_path).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="damaged"):
        table.read(tmp_path)


def test_what_the_table_holds_is_done_for_that_config_alone(rows):
    one = VARIANTS[0]
    assert table.is_done(rows, one, "lm", 0, 1)
    assert not table.is_done(rows, one, "lm", 0, 2)
    assert not table.is_done(rows, one, "lm", 2, 0)
    other = replace(one, config=replace(one.config, finetune=replace(one.config.finetune, learning_rates=(1e-3,))))
    assert not table.is_done(rows, other, "lm", 0, 1)


def test_the_kept_table_is_one_to_go_on_from(tmp_path):
    kept = Path(__file__).resolve().parents[3] / "paper_figs" / "results" / "empirical" / "screen" / "table.parquet"
    shutil.copytree(kept.parent, table.path(tmp_path).parent)
    found = table.read(tmp_path)
    assert all(table.is_done(found, variant, "lm", 0, 0) for variant in design.variants(SCREEN, design.PARTS))


def test_rows_of_another_remedy_are_others(rows):
    tuned = replace(SCREEN.finetune, kl_weight=0.1)
    (variant,) = design.variants(replace(SCREEN, finetune=tuned), ["factorial"])[:1]
    assert table.is_done(rows, VARIANTS[0], "lm", 0, 0)
    assert not table.is_done(rows, variant, "lm", 0, 0)


def test_rows_are_read_from_finished_runs(tmp_path):
    one, cell = VARIANTS[3], Cell(1, 1, 0)
    report = {
        "config": {},
        "seeds": cell._asdict(),
        "metrics": {arm: _metrics(0.2, arm) for arm in ("base", *design.ARMS)},
        "choices": {arm: {"learning_rate": 1e-3} for arm in design.ARMS},
    }
    runs.write_run(runs.directory(tmp_path, "empirical", one.name, cell), report, {})
    rows = table.of_model(one, tmp_path, [cell])
    assert [row["arm"] for row in rows] == ["base", *design.ARMS]
    assert {row["pretrain_seed"] for row in rows} == {1}
    assert rows[1]["learning_rate"] == 1e-3 and rows[0]["learning_rate"] is None
    assert rows[1]["accuracy"] - rows[3]["accuracy"] == pytest.approx(0.2)


def test_everything_is_printed(rows):
    printed = io.StringIO()
    console = Console(file=printed, width=300)
    tables.print_all(rows, console)
    text = printed.getvalue()
    assert "same sign in 16 of 16 worlds, rank correlation +" in text
    assert "+0.080 ± " in text and "screen-lllllll" in text
