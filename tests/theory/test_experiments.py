"""The experiments on real facts, from a made-up table."""

import json
from pathlib import Path

import numpy as np
import pytest

from core import runs


@pytest.fixture
def popqa(tmp_path) -> Path:
    """A table of PopQA's shape: 5 relations of 40 facts, one of 3, some without popularity, some of a biased source."""
    rng = np.random.default_rng(0)
    rows = ["id\tsubj\tprop\tpossible_answers\tpop_source\ts_pop"]
    for i in range(203):
        answers = json.dumps([f"answer {min(rng.geometric(0.4), 9)}", "alias"])
        popularity = "" if i in (4, 9) else int(10 ** rng.uniform(2, 6))
        rows.append(
            f"{i}\tsubject {i}\trelation {i // 40}\t{answers}\t{'C' if i % 40 == 0 else 'AB'[i % 2]}\t{popularity}"
        )
    (tmp_path / "popqa.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "popqa.tsv"


@pytest.mark.parametrize("name", ["popqa", "popqa-bare"])
def test_real_facts_are_read_from_the_users_table_told_by_name_and_without_their_background(
    name, popqa, tmp_path, tell
):
    flags = ["--pretrain.steps", 400, "--finetune.steps", 50, "--n-records", 2]
    told = tell("run", name, "--facts.path", popqa, *flags, "--out", tmp_path / "runs")
    assert told.code == 0
    for note in ("6 of 203 rows do not match", "2 of 203 rows have no popularity", "relation 5 (2)"):
        assert note in " ".join(told.out.split())
    run = runs.read_run(tmp_path / "runs/theory" / name / "pretrain_0/split_0/seed_0")
    facts = run.table("facts").to_pydict()
    assert len(facts["arm"]) == 5 * (200 - 5 - 2)
    assert set(facts["relation"]) == {f"relation {i}" for i in range(5)}
    assert set(facts["role"]) == {"train", "held_out"}
    assert set(facts["answer"]) <= {f"answer {i}" for i in range(1, 10)}
    draws = sum(facts["exposure"]) / 5 / (400 * 256)
    assert draws == pytest.approx(0.5 if name == "popqa" else 1.0)
    assert run.report["notes"] and run.report["config"]["facts"]["path"] == str(popqa)
