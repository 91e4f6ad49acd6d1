import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.closed_form import recalled, subject_share
from core.columns import MEASURES
from core.runs import SCHEMA
from paper_figs import collect, load
from paper_figs.figures import FIGURES
from paper_figs.reads import Rows

RESULTS = Path(collect.__file__).parent / "results"


def test_collected_results_give_every_figure_the_same_claim(results, tmp_path, capsys):
    results.add_everything()
    assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 0
    printed = capsys.readouterr().out.strip()
    assert re.search(
        r"runs: crossed 3, deep-1 3, .*, stored 3; sweeps: dose-share, .*, remedies; "
        r"studies: gemma-3-270m-entity-questions 3, smollm2-135m-entity-questions 3, "
        r"smollm2-135m-entity-questions-mediation 1, smollm2-135m-entity-questions-remedies 1, tiny 3, "
        r"tiny-crossed 3, tiny-entity-questions 3, tiny-lora 3, tiny-mediation 1, tiny-popqa 3, "
        r"tiny-remedies 3, screen$",
        printed,
    )
    whole, kept = load.results(results.folder), load.results(tmp_path / "kept")
    for name, module in FIGURES.items():
        assert module.draw(kept.read_by(module.READS))[0] == module.draw(whole.read_by(module.READS))[0], name


def test_a_published_models_questions_are_kept_as_covariances_alone(results, tmp_path):
    results.add_crossed()
    results.add_questions()
    assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 0
    whole, kept = (
        load.results(folder).studies["smollm2-135m-entity-questions"] for folder in (results.folder, tmp_path / "kept")
    )
    assert not list((tmp_path / "kept").rglob("facts.parquet"))
    assert kept.contrasts.counted == whole.contrasts.counted == "questions, which splits share"
    for metric in ("accuracy", "retention", "subject_attention"):
        one, other = (study.interval(metric, {"top": 1.0, "bottom": -1.0}) for study in (whole, kept))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_only_what_figures_read_of_sweeps_and_deep_runs_is_kept(results, tmp_path):
    results.add_everything()
    (results.add_sweep("phase-format").parent / "phase-format").rename(results.folder / "theory" / "my-own")
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    kept = tmp_path / "kept" / "theory"
    assert not (kept / "my-own").exists()
    table = pq.read_table(kept / "phase-exposure" / "table.parquet")
    assert not {"unit", "config", "n", "loss"} & set(table.column_names)
    assert "double" not in {str(kind) for kind in table.schema.types}
    assert len(table) == 3 * 6 * 3 * 2 and set(table["arm"].to_pylist()) == {"top", "bottom"}
    grid = json.loads((kept / "phase-exposure" / "grid.json").read_text())
    assert grid == {"sweep": "phase-exposure", "schema": SCHEMA, "arms": ["base", "top", "bottom"], "collected": True}
    deep = kept / "deep-2" / "pretrain_0" / "split_0" / "seed_0"
    assert {file.name for file in deep.iterdir()} == {"report.json", "attention.parquet", "mediation.parquet"}
    # Two layers of two heads, of base, top and bottom; the subject's span alone.
    assert len(pq.read_table(deep / "attention.parquet")) == 3 * 2 * 2


def test_only_what_figures_read_of_synthetic_facts_is_kept(results, tmp_path):
    path = results.add()
    results.add("stored")
    results.add("popqa")
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    kept = tmp_path / "kept" / path.relative_to(results.folder)
    facts = pq.read_table(kept / "facts.parquet")
    assert not {"answer", "predicted", "relation"} & set(facts.column_names)
    # 40 of the base, 20 held-out ones of three arms, and the ten that each half was trained on.
    assert len(facts) == 40 + 3 * 20 + 2 * 10
    assert not list((tmp_path / "kept").glob("theory/stored/**/facts.parquet"))
    (trace,) = (pq.read_table(file) for file in (tmp_path / "kept").glob("theory/stored/**/trace.parquet"))
    assert set(trace["arm"].to_pylist()) == set(load.ARMS) and "loss" not in trace.column_names
    assert not list((tmp_path / "kept").glob("theory/popqa/**/*.parquet"))


def test_cells_are_kept_if_some_figure_reads_them_and_the_others_of_their_rows_are_empty():
    table = pa.table(
        {
            "arm": pa.array(["top", "top", "base", "whole"]).dictionary_encode(),
            "in_arm": [True, None, False, True],
            "a": [1.0, 2.0, 3.0, 4.0],
            "b": ["p", "q", "r", "s"],
            "c": [1, 2, 3, 4],
        }
    )
    wanted = [
        Rows("facts", ("a",), {"arm": ("top", "base")}),
        Rows("facts", ("b",), {"arm": ("top",), "in_arm": (True,)}),
    ]
    assert collect.kept_cells(table.select, wanted).to_pylist() == [
        {"arm": "top", "a": 1.0, "in_arm": True, "b": "p"},
        {"arm": "top", "a": 2.0, "in_arm": None, "b": None},
        {"arm": "base", "a": 3.0, "in_arm": None, "b": None},
    ]
    assert len(collect.kept_cells(table.select, [Rows("facts", ("c",))])) == 4


def test_no_row_of_a_real_table_is_kept_nor_its_place(results, tmp_path):
    for experiment in ("paper", "popqa"):
        results.add(experiment, path="/home/somebody/data/popqa.tsv")
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    names = {file.name for file in (tmp_path / "kept").rglob("*") if file.is_file()}
    assert names == {"report.json", "trace.parquet"}
    for report in (tmp_path / "kept").rglob("report.json"):
        assert json.loads(report.read_text())["config"]["facts"]["path"] == "popqa.tsv"
        assert "somebody" not in report.read_text()


def test_rows_are_taken_for_real_ones_where_a_report_does_not_say_that_they_are_not(results, tmp_path):
    path = results.add()
    report = json.loads((path / "report.json").read_text())
    report["config"]["facts"] = {"n_subjects": 10}
    (path / "report.json").write_text(json.dumps(report))
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    assert not list((tmp_path / "kept").rglob("facts.parquet"))


def test_only_what_figures_read_of_studies_is_kept_and_no_place_on_a_machine(results, tmp_path):
    results.add_study("tiny")
    results.add_study("tiny-popqa", path="/home/somebody/data/popqa.tsv")
    results.add_study("screen-hhhhhhh")
    assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 0
    kept = tmp_path / "kept" / "empirical"
    assert sorted(path.name for path in kept.iterdir()) == ["tiny", "tiny-popqa"]
    tiny, popqa = (kept / name / "pretrain_0" / "split_0" / "seed_0" for name in ("tiny", "tiny-popqa"))
    assert {file.name for file in tiny.iterdir()} == {"report.json", "attention.parquet"}
    assert {file.name for file in popqa.iterdir()} == {"report.json"}
    # Two layers of two heads, of base, top and bottom; one position and one span alone.
    assert len(pq.read_table(tiny / "attention.parquet")) == 3 * 2 * 2
    for name in ("tiny", "tiny-popqa"):
        assert len(pq.read_table(kept / name / "predictions.parquet")) == 7
    assert not any("somebody" in file.read_text() for file in kept.rglob("report.json"))
    report = json.loads((popqa / "report.json").read_text())
    assert report["config"]["facts"] == {"path": "popqa.tsv", "buckets": "popqa.tsv"}
    assert (report["config"]["model"]["name"], report["model"]["name"]) == ("lm", "seed0")


def test_screen_study_is_kept_whole_so_that_it_can_go_on_from_there(results, tmp_path):
    path = results.add_screen()
    collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")])
    whole, kept = pq.read_table(path), pq.read_table(tmp_path / "kept" / path.relative_to(results.folder))
    assert kept.column_names == whole.column_names and len(kept) == len(whole)
    # What identifies rows and worlds stays as it is, measurements are in single precision.
    for name in set(whole.column_names) - set(MEASURES):
        assert kept[name].equals(whole[name]), name
    assert str(kept["accuracy"].type) == "float"
    np.testing.assert_allclose(kept["accuracy"], whole["accuracy"], rtol=1e-6)


def test_collecting_again_replaces_what_has_the_same_name_and_keeps_the_rest(results, tmp_path):
    arguments = ["--runs", str(results.folder), "--out", str(tmp_path / "kept")]
    results.add_worlds("stored")
    results.add_sweep("remedies")
    assert collect.main(arguments) == 0
    shutil.rmtree(results.folder / "theory")
    results.add("paper")
    results.add("stored", world=7)
    assert collect.main(arguments) == 0
    kept = load.results(tmp_path / "kept")
    worlds = {name: [run.world for run in experiment.runs] for name, experiment in kept.experiments.items()}
    assert worlds == {"paper": [0], "stored": [7]}
    assert list(kept.sweeps) == ["remedies"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["theory"]


@pytest.mark.parametrize("file", ["table.parquet", "part-0123.parquet"])
def test_whole_runs_and_sweeps_are_never_replaced(results, file, capsys):
    path = results.add()
    assert collect.main(["--runs", str(results.folder), "--out", str(results.folder)]) == 2
    assert "is a whole run, which would be lost" in capsys.readouterr().err
    assert (path / "facts.parquet").exists()
    shutil.rmtree(results.folder / "theory")
    path = results.add_sweep("remedies")
    shutil.copytree(results.folder, results.folder.parent / "other")
    (path / "table.parquet").rename(path / file)
    arguments = ["--runs", str(results.folder.parent / "other"), "--out", str(results.folder)]
    assert collect.main(arguments) == 2
    assert "is a whole sweep, which would be lost" in capsys.readouterr().err
    assert (path / file).exists()


def test_whole_studies_are_never_replaced_and_collected_ones_are(results, tmp_path, capsys):
    path = results.add_study()
    assert collect.main(["--runs", str(results.folder), "--out", str(results.folder)]) == 2
    assert "is a whole run, which would be lost" in capsys.readouterr().err and (path / "facts.parquet").exists()
    shutil.rmtree(results.folder / "empirical")
    table = results.add_screen(["factorial"])
    assert collect.main(["--runs", str(results.folder), "--out", str(results.folder)]) == 2
    assert "is a whole study, which would be lost" in capsys.readouterr().err and table.exists()
    for _ in range(2):
        assert collect.main(["--runs", str(results.folder), "--out", str(tmp_path / "kept")]) == 0


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
    for run in (run for kept in load.results(RESULTS).experiments.values() for run in kept.runs):
        if collect.is_real(run.report):
            assert not (run.path / "facts.parquet").exists()
            assert "/" not in run.report["config"]["facts"]["path"]
    assert not list(RESULTS.glob("empirical/**/facts.parquet"))
    assert not list(RESULTS.glob("empirical/screen-*"))


def test_single_precision_moves_no_committed_fact_across_its_critical_share():
    for run in load.results(RESULTS).experiments["paper"].runs:
        for arm in ("top", "bottom"):
            columns = ("correct", "critical_low", "critical_high", "subject_attention", "relation_attention")
            facts = run.facts(arm, *columns, role="held_out")
            share = subject_share(facts["subject_attention"], facts["relation_attention"])
            answered = recalled(share, facts["critical_low"], facts["critical_high"])
            np.testing.assert_array_equal(answered, facts["correct"])


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_whose_results_are_kept_is_in_the_gallery(name):
    missing = load.results(RESULTS).missing(FIGURES[name].READS)
    is_drawable = not any(read.is_required for read in missing)
    assert (RESULTS.parent / "gallery" / f"{name}.png").is_file() == is_drawable
