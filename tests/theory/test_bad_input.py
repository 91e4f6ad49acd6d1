"""What the user may get wrong, and what the machine may: a short message, exit 2, nothing half-written."""

import errno
import signal
import sys
import time
from pathlib import Path

import pytest

from core import writing
from theory import __main__ as command_line

ROOT = Path(__file__).resolve().parents[2]


def files(out: Path) -> list[Path]:
    """Return every file under a folder, hidden ones too."""
    return [path for path in out.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["run", "papr"], "paper, everything, stored"),
        (["run", "paper", "--finetune.step", "5"], "--finetune.steps"),
        (["run", "paper", "--pretrain.steps", "many"], "--pretrain.steps"),
        (["run", "paper", "--model.parametrisation", "tabel"], "'factored', 'dense'"),
        (["runn"], "run, select, sweep, deep, verify, compare, list"),
    ],
)
def test_a_misspelt_command_is_refused_with_a_suggestion(arguments, suggestion, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert suggestion in " ".join(told.replace("│", " ").split())
    assert "Traceback" not in told


ROW = "Q{0},capital,city {1},{2}"
TABLES = {
    "fine": [ROW.format(i, i % 3, i + 1) for i in range(40)],
    "words": [ROW.format(i, i % 3, "often" if i == 7 else i + 1) for i in range(40)],
    "negative": [ROW.format(i, i % 3, -5 if i == 3 else i + 1) for i in range(40)],
    "one answer": [ROW.format(i, 0, i + 1) for i in range(40)],
    "two facts": [ROW.format(i, i % 2, i + 1) for i in range(2)],
    "empty": [],
}


@pytest.mark.parametrize(
    ("table", "flags", "named"),
    [
        ("words", [], ["words.csv", "line 9", "popularity", "'often'", "is not a number of at least 0"]),
        ("negative", [], ["negative.csv", "line 5", "popularity", "'-5'", "is not a number of at least 0"]),
        ("one answer", [], ["one answer.csv", "relation 'capital' has one answer, 'city 0'", "--facts.where"]),
        ("two facts", [], ["every relation has fewer than 10 facts", "Lower --facts.min-facts"]),
        (
            "two facts",
            ["--facts.min-facts", 1, "--pretrain.steps", 1],
            ["2 facts leave 1 to train on", "give more facts"],
        ),
        ("empty", [], ["empty.csv", "no rows"]),
        ("fine", ["--facts.columns.answers", "reply"], ["fine.csv", "'reply'", "--facts.columns.answers"]),
        ("fine", ["--facts.where", "kind=x"], ["no column 'kind'", "--facts.where None"]),
        ("missing", [], ["missing.csv", "No such file"]),
        ("folder", [], ["folder.csv", "directory"]),
        ("binary", [], ["binary.csv", "UTF-8"]),
    ],
)
def test_a_bad_table_is_named_with_its_remedy_and_nothing_is_written(table, flags, named, tmp_path, tell):
    path, out = tmp_path / f"{table}.csv", tmp_path / "runs"
    if table in TABLES:
        path.write_text("\n".join(["subject,relation,answer,popularity", *TABLES[table]]))
    elif table == "folder":
        path.mkdir()
    elif table == "binary":
        path.write_bytes(bytes(range(256)) * 10)
    told = tell("run", "paper", "--facts.path", path, *flags, "--out", out)
    assert told.code == 2
    for part in named:
        assert part in told.error
    assert files(out) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "popqa"], "popqa needs a table of facts.\nName PopQA's with --facts.path FILE."),
        (["run", "popqa-bare"], "--facts.path FILE"),
        (["run", "paper", "--seeds", "0"], "--seeds is 0"),
        (["verify", "--seeds", "0"], "--seeds is 0"),
        (["run", "paper", "--finetune.optimizer", "adam"], "Add --model.parametrisation dense."),
        (["run", "superposition", "--pretrain.optimizer", "adm"], "no optimizer 'adm' in optax"),
        (["run", "paper", "--facts.n-subjects", "1", "--pretrain.steps", "1"], "Raise it, or give more facts."),
    ],
)
def test_settings_that_cannot_be_run_are_refused_and_nothing_is_written(arguments, named, tmp_path, tell):
    told = tell(*arguments, "--out", tmp_path / "runs")
    assert told.code == 2
    assert named in told.error
    assert files(tmp_path / "runs") == []


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_computed(tmp_path, tell):
    (tmp_path / "runs").write_text("a file")
    for command in (["run", "paper"], ["verify"]):
        told = tell(*command, "--out", tmp_path / "runs")
        assert told.code == 2 and f"cannot write {tmp_path / 'runs'}" in told.error


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        ("pretrain", ["--pretrain.learning-rate", "1e6"]),
        ("finetune", ["--finetune.train", "everything", "--finetune.value-learning-rate", "1e6"]),
    ],
)
def test_divergence_names_the_stage_and_the_step(stage, flags, tmp_path, tell, small_flags):
    told = tell("run", "paper", *small_flags, *flags, "--out", tmp_path)
    assert told.code == 2
    assert told.error.startswith(f"error: {stage} diverged at step ")
    step = int(told.error.split(" at step ")[1].split()[0])
    assert 0 < step < 20
    assert f"Lower --{stage}.learning-rate" in told.error
    assert files(tmp_path) == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tell, monkeypatch, small_flags):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_through", full)
    told = tell("run", "paper", *small_flags, "--out", tmp_path)
    assert told.code == 2
    assert told.error.startswith(
        f"error: cannot write {tmp_path}/theory/paper/pretrain_0/split_0/seed_0: No space left on device"
    )
    assert "--out DIR" in told.error
    assert files(tmp_path) == []


def test_ctrl_c_ends_the_program_at_once_with_130_and_nothing_half_written(tmp_path, interruptible):
    out = tmp_path / "runs"
    endless = ["--pretrain.steps", "100000000", "--pretrain.batch-size", "1", "--n-records", "100000"]
    command = [sys.executable, "-m", "theory", "run", "paper", *endless, "--out", str(out)]
    process = interruptible(command)
    try:
        deadline = time.monotonic() + 60
        while not out.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - start < 10
    assert "interrupted" in err and "Traceback" not in err
    assert files(out) == []
