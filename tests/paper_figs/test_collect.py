import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from paper_figs import collect, load
from paper_figs.__main__ import FIGURES

RESULTS = Path(collect.__file__).parent / "results"


def test_collected_runs_give_every_figure_the_same_claim(results, tmp_path, capsys):
    results.add_worlds()
    results.add_worlds("stored", tops=(0.4, 0.4, 0.4), steps=8000)
    assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 0
    assert re.search(r"runs: paper 3, stored 3$", capsys.readouterr().out.strip())
    whole, kept = load.experiments(results.folder), load.experiments(tmp_path / "kept")
    for name, module in FIGURES.items():
        assert module.draw(kept)[0] == module.draw(whole)[0], name


def test_only_what_figures_read_of_synthetic_facts_is_kept(results, tmp_path):
    path = results.add()
    results.add("stored")
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    kept = tmp_path / "kept" / path.relative_to(results.folder)
    facts = pq.read_table(kept / "facts.parquet")
    assert not {"answer", "predicted", "relation"} & set(facts.column_names)
    # 40 of the base, 20 held-out ones of three arms, and the ten that each half was trained on.
    assert len(facts) == 40 + 3 * 20 + 2 * 10
    assert not list((tmp_path / "kept").glob("theory/stored/**/facts.parquet"))
    assert len(list((tmp_path / "kept").glob("theory/stored/**/trace.parquet"))) == 1


def test_no_row_of_a_real_table_is_kept_nor_its_place(results, tmp_path):
    for experiment in ("paper", "popqa"):
        results.add(experiment, table="/home/somebody/data/popqa.tsv")
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    names = {file.name for file in (tmp_path / "kept").rglob("*") if file.is_file()}
    assert names == {"report.json", "trace.parquet"}
    for report in (tmp_path / "kept").rglob("report.json"):
        assert json.loads(report.read_text())["config"]["facts"]["table"] == "popqa.tsv"
        assert "somebody" not in report.read_text()


def test_collecting_again_replaces_what_was_collected(results, tmp_path):
    results.add_worlds("stored")
    for _ in range(2):
        results.add("paper", world=len(list(results.folder.glob("theory/paper/*"))))
        assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 0
    assert {name: len(found.runs) for name, found in load.experiments(tmp_path / "kept").items()} == {
        "paper": 2,
        "stored": 3,
    }
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["theory"]


def test_whole_runs_are_never_replaced(results, capsys):
    path = results.add()
    assert collect.main(["--runs", str(results.folder), "--out", str(results.folder)]) == 2
    assert "is a whole run, which would be lost" in capsys.readouterr().err
    assert (path / "facts.parquet").exists()


def test_missing_columns_and_folders_are_named(results, tmp_path, capsys):
    path = results.add()
    facts = pq.read_table(path / "facts.parquet")
    pq.write_table(facts.drop_columns(["share_force"]), path / "facts.parquet")
    assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 2
    assert "it has no column share_force" in capsys.readouterr().err
    assert collect.main(["--runs", str(tmp_path / "absent"), "--out", str(tmp_path / "kept")]) == 2
    assert not (tmp_path / "kept" / "theory").exists()


def test_committed_results_are_small_and_hold_no_rows_of_a_real_table():
    files = [file for file in RESULTS.rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) < 3_000_000
    for run in (run for found in load.experiments(RESULTS).values() for run in found.runs):
        if collect.is_real(run.report):
            assert not (run.path / "facts.parquet").exists()
            assert "/" not in run.report["config"]["facts"]["table"]


def test_single_precision_moves_no_committed_fact_across_its_critical_share():
    for run in load.experiments(RESULTS)["paper"].runs:
        for arm in ("top", "bottom"):
            columns = ("correct", "critical_low", "critical_high", "subject_attention", "relation_attention")
            facts = run.facts(arm, *columns, role="held_out")
            share = facts["subject_attention"] / (facts["subject_attention"] + facts["relation_attention"])
            recalled = (facts["critical_low"] < share) & (share < facts["critical_high"])
            np.testing.assert_array_equal(recalled, facts["correct"])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_in_the_gallery_has_its_results(name):
    assert (RESULTS.parent / "gallery" / f"{name}.png").is_file()
