"""Results of the former schema: refused where they are read, rewritten by one command, no number changed."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import __main__ as command_line
from core import columns, config_json, former, migrate, runs
from core.errors import InputError

CONFIG = {
    "facts": {"table": "popqa.tsv", "subject_column": None, "answer_column": "obj", "relations_per_subject": 2},
    "model": {"form": "table", "shared_share": 0.5},
    "finetune": {"stop": "early", "kl": 0.1, "order": "mixed", "steps": 200},
    "split": {"development": 0.1},
}
REPORT = {
    "schema": 1,
    "flow": "theory",
    "experiment": "paper",
    "seeds": {"pretrain": 0, "split": 0, "seed": 0},
    "config": CONFIG,
    "config_hash": "old",
    "metrics": {"top": {"accuracy": 0.5, "majority_accuracy": 0.25, "guessed": 0.1}},
    "choices": {"top": {"learning_rate": 0.1, "development_accuracy": {"0.1": 0.5}}},
    "split": {"development": 3, "train": 5},
}


def words(*values: str) -> pa.DictionaryArray:
    return pa.array(values).dictionary_encode()


@pytest.fixture
def old(tmp_path):
    """A folder with a run, its predictions, a sweep and the table of the screen, all of the former schema."""
    folder = tmp_path / "runs"
    run = folder / "theory" / "paper" / "pretrain_0" / "split_0" / "seed_0"
    run.mkdir(parents=True)
    (run / "report.json").write_text(json.dumps(REPORT, indent=2))
    facts = {"arm": words("top", "top"), "role": words("development", "train"), "majority_correct": [True, False]}
    pq.write_table(pa.table(facts | {"salience": np.array([0.1, 0.2])}), run / "facts.parquet")
    notes = words("accuracy gap, fifth 2 (5 base models)", "share (questions by subject)", "no interval")
    rows = {"experiment": words(*["paper"] * 3), "result": words("d", "blindness", "R2"), "note": notes}
    pq.write_table(pa.table(rows | {"low": [0.1, 0.2, None]}), folder / "theory" / "paper" / "predictions.parquet")
    sweep = folder / "theory" / "mine"
    sweep.mkdir()
    design = {"schema": 1, "axes": {"finetune.stop": ["end", "early"], "finetune.kl": [0.5]}}
    (sweep / "grid.json").write_text(json.dumps(design))
    swept = {"finetune.stop": ["end", "early"], "finetune.kl": [0.5, 0.5], "config": words(*[json.dumps(CONFIG)] * 2)}
    pq.write_table(pa.table(swept | {"accuracy": [0.3, 0.4]}), sweep / "table.parquet")
    screen = folder / "empirical" / "window"
    screen.mkdir(parents=True)
    row = {"part": ["screen"], "world": ["window-hl"], "config_hash": ["old"], "guessed": [0.25]}
    pq.write_table(pa.table(row).replace_schema_metadata({"collected": "true"}), screen / "table.parquet")
    return folder


def test_a_former_run_is_refused_with_the_command_that_rewrites_it(old):
    with pytest.raises(InputError, match=r"schema 1, now 2(.|\n)*python -m core migrate"):
        runs.find_runs(old)


def test_a_former_sweep_and_a_former_table_of_the_screen_are_refused_by_the_figures_and_by_the_study(old):
    sweep, screen = pytest.importorskip("paper_figs.sweep"), pytest.importorskip("paper_figs.screen")
    with pytest.raises(InputError, match="python -m core migrate"):
        sweep.Sweep.read(old / "theory" / "mine")
    with pytest.raises(InputError, match="python -m core migrate"):
        screen.Screen(old / "empirical" / "window" / "table.parquet").table()
    shutil.move(old / "empirical" / "window", old / "empirical" / "screen")
    with pytest.raises(InputError, match="python -m core migrate"):
        pytest.importorskip("empirical.screen.table").read(old)


def test_names_and_words_become_the_present_ones_and_numbers_stay(old):
    assert migrate.run(old) == {"runs": 1, "predictions": 1, "sweeps": 1, "screens": 1}
    (run,) = runs.find_runs(old)
    assert run.report["config"] == {
        "facts": {
            "path": "popqa.tsv",
            "columns": {"subject": None, "answers": "obj", "question": None, "choices": None},
            "facts_per_subject": 2,
        },
        "model": {"parametrisation": "factored", "shared_share": 0.5},
        "finetune": {"early_stopping": True, "kl_weight": 0.1, "curriculum": "mixed", "steps": 200},
        "split": {"dev": 0.1},
    }
    assert run.report["metrics"]["top"] == {"accuracy": 0.5, "generic_accuracy": 0.25, "unknown_accuracy": 0.1}
    assert run.report["choices"]["top"]["dev_accuracy"] == {"0.1": 0.5} and run.report["split"]["dev"] == 3
    assert run.report["config_hash"] == config_json.config_hash(run.report["config"])
    facts = run.table("facts")
    assert facts["role"].to_pylist() == ["dev", "train"] and facts["generic_correct"].to_pylist() == [True, False]
    assert facts["salience"].to_pylist() == [0.1, 0.2]
    rows = runs.read_table(old / "theory" / "paper" / "predictions.parquet")
    assert rows["result"].to_pylist() == ["d", "swap", "R2"]
    assert rows["stratum"].to_pylist() == ["fifth 2", None, None]
    assert rows["unit"].to_pylist() == ["base models", "questions by subject", None]


def test_a_sweeps_table_and_design_have_the_present_fields(old):
    migrate.run(old)
    table = runs.read_table(old / "theory" / "mine" / "table.parquet")
    assert table["finetune.early_stopping"].to_pylist() == [False, True]
    assert table["finetune.kl_weight"].to_pylist() == [0.5, 0.5] and table["accuracy"].to_pylist() == [0.3, 0.4]
    assert json.loads(table["config"][0].as_py())["finetune"]["early_stopping"] is True
    design = json.loads((old / "theory" / "mine" / "grid.json").read_text())
    assert design == {"schema": 2, "axes": {"finetune.early_stopping": [False, True], "finetune.kl_weight": [0.5]}}


def test_the_screens_table_moves_and_its_rows_keep_their_identity(old):
    migrate.run(old)
    assert not (old / "empirical" / "window").exists()
    table = runs.read_table(old / "empirical" / "screen" / "table.parquet")
    assert table["world"].to_pylist() == ["screen-hl"] and table["part"].to_pylist() == ["factorial"]
    assert table["unknown_accuracy"].to_pylist() == [0.25] and table.schema.metadata == {b"collected": b"true"}
    assert table["config_hash"].to_pylist() == [runs.find_runs(old)[0].report["config_hash"]]


def test_a_second_time_changes_nothing_and_an_interrupted_one_goes_on(old, tmp_path, monkeypatch, capsys):
    shutil.copytree(old, tmp_path / "again")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(migrate, "_write_json", stop)
        assert command_line.main(["migrate", str(tmp_path / "again")]) == 130
    assert command_line.main(["migrate", str(tmp_path / "again")]) == 0
    migrate.run(old)
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (old, tmp_path / "again")]
    assert files[0] == files[1]
    assert command_line.main(["migrate", str(old)]) == 0
    assert "nothing was of the former schema" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_refused(tmp_path, capsys):
    assert command_line.main(["migrate", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_no_former_name_is_still_a_column():
    schemas = (columns.FACTS, columns.TRACE, columns.ATTENTION, columns.PREDICTIONS, columns.SWEEP, columns.SCREEN)
    assert not {name for schema in schemas for name in schema.names} & former.COLUMNS.keys()
