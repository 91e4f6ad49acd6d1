"""The command line in this process: what it writes, what it finds done, and how it refuses."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from theory import __main__ as command_line
from theory import config as configs
from theory import measure, results, verify
from theory.experiments import EXPERIMENTS

ROOT = Path(results.__file__).resolve().parent.parent
SMALL = [
    *("--facts.n-subjects", "300", "--pretrain.steps", "600", "--pretrain.batch-size", "128"),
    *("--finetune.batch-size", "128", "--n-records", "4"),
]
"""The small world's flags, so that its programs are compiled once."""


class Told:
    """What a command returned and printed."""

    def __init__(self, code: int, captured):
        self.code, self.out, self.err = code, captured.out, captured.err

    @property
    def error(self) -> str:
        """The message, without the progress bar before it."""
        assert "Traceback" not in self.err + self.out
        message = self.err[self.err.index("error: ") :].strip()
        assert len(message.splitlines()) <= 2, message
        return message


@pytest.fixture
def tell(capsys):
    def run(*arguments) -> Told:
        capsys.readouterr()
        code = command_line.main([str(argument) for argument in arguments])
        return Told(code, capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Two finished runs of a small `paper`; not to be changed."""
    out = tmp_path_factory.mktemp("finished")
    assert command_line.main(["run", "paper", *SMALL, "--seeds", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture
def runs(finished, tmp_path) -> Path:
    """A copy of the finished runs."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    """Every file under a folder, hidden ones too, with its time and content."""
    return {
        str(path.relative_to(out)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def contents(run: Path) -> tuple:
    """What a run directory says, but for the times that it took."""
    report = json.loads((run / "report.json").read_text())
    report.pop("seconds")
    return report, *(pq.read_table(run / f"{name}.parquet").to_pydict() for name in ("facts", "trace"))


def seed_directory(out: Path, seed: int) -> Path:
    return out / "theory" / "paper" / f"pretrain_{seed}" / f"split_{seed}" / f"seed_{seed}"


def test_a_run_leaves_its_directory_and_the_experiments_predictions(finished):
    names = ["facts.parquet", "report.json", "trace.parquet"]
    expected = [f"theory/paper/pretrain_{k}/split_{k}/seed_{k}/{name}" for k in range(2) for name in names]
    assert sorted(files(finished)) == sorted([*expected, "theory/paper/predictions.parquet"])
    report, facts, trace = contents(seed_directory(finished, 1))
    assert report["seeds"] == {"pretrain": 1, "split": 1, "seed": 1}
    assert (report["flow"], report["experiment"], report["schema"]) == ("theory", "paper", results.SCHEMA)
    assert report["config"]["pretrain"]["steps"] == 600
    assert {"versions", "device", "git_commit", "config_hash", "notes", "metrics"} <= set(report)
    assert list(report["metrics"]) == ["base", "top", "bottom", "whole", "random"]
    assert len(facts["arm"]) == 5 * 1200 and len(trace["arm"]) == 5 * 5
    predictions = pq.read_table(finished / "theory/paper/predictions.parquet")
    assert {"R2", "R4", "R5", "R6", "R7"} == set(predictions["result"].to_pylist())
    assert set(predictions["seeds"].to_pylist()) == {2}


def test_what_is_done_is_found_done_and_left_as_it_is(runs, tell):
    before = files(runs)
    told = tell("run", "paper", *SMALL, "--seeds", 2, "--out", runs)
    assert told.code == 0
    assert "0 runs made, 2 found done" in told.out
    for arm in ("top", "bottom", "whole", "random", "base", "top − bottom"):
        assert arm in told.out
    after = files(runs)
    assert {name: after[name] for name in after if "pretrain" in name} == {
        name: before[name] for name in before if "pretrain" in name
    }


def test_another_config_is_refused_with_both_remedies_until_overwriting_is_asked_for(runs, tell):
    before = files(runs)
    other = ["run", "paper", *SMALL, "--knownness.measure", "margin", "--out", runs]
    told = tell(*other)
    assert told.code == 2
    assert "knownness.measure: popularity → margin" in told.error
    assert "--overwrite" in told.error and "--out" in told.error
    assert files(runs) == before
    assert tell(*other, "--overwrite").code == 0
    assert contents(seed_directory(runs, 0))[0]["config"]["knownness"] == {"measure": "margin"}
    assert contents(seed_directory(runs, 1))[0]["config"]["knownness"] == {"measure": "popularity"}


def test_an_interrupted_command_keeps_what_is_done_and_goes_on_from_there(finished, tmp_path, tell, monkeypatch):
    real, calls = measure.run, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    command = ("run", "paper", *SMALL, "--seeds", 2, "--out", tmp_path)
    monkeypatch.setattr(measure, "run", interrupted)
    told = tell(*command)
    assert told.code == 130 and "interrupted: finished runs are kept" in told.err
    assert sorted({Path(name).parts[2] for name in files(tmp_path)}) == ["pretrain_0"]
    monkeypatch.undo()
    told = tell(*command)
    assert told.code == 0 and "1 runs made, 1 found done" in told.out
    for seed in range(2):
        assert contents(seed_directory(tmp_path, seed)) == contents(seed_directory(finished, seed))
    name = "theory/paper/predictions.parquet"
    assert pq.read_table(tmp_path / name) == pq.read_table(finished / name)


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tell, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "_write", full)
    told = tell("run", "paper", *SMALL, "--out", tmp_path)
    assert told.code == 2
    assert told.error.startswith(f"error: cannot write {seed_directory(tmp_path, 0)}: No space left on device")
    assert "--out DIR" in told.error
    assert files(tmp_path) == {}


def test_dry_run_prints_the_resolved_config_and_writes_nothing(tmp_path, tell):
    told = tell("run", "stored", "--facts.n-subjects", 77, "--dry-run", "--out", tmp_path / "runs")
    config = configs.from_json(json.loads(told.out))
    assert told.code == 0
    assert config.facts.n_subjects == 77
    assert config.pretrain == EXPERIMENTS["stored"][1].pretrain
    assert not (tmp_path / "runs").exists()


def test_a_runs_own_config_is_taken_from_its_directory(finished, tmp_path, tell):
    source = seed_directory(finished, 1)
    told = tell("run", "stored", "--from-run", source, "--dry-run")
    assert configs.to_json(configs.from_json(json.loads(told.out))) == contents(source)[0]["config"]
    told = tell("run", "stored", "--from-run", source, "--seed", 1, "--out", tmp_path)
    assert told.code == 0
    again = contents(tmp_path / "theory/stored/pretrain_1/split_1/seed_1")
    expected = contents(source)
    assert again[0]["metrics"] == expected[0]["metrics"] and again[1:] == expected[1:]
    told = tell("run", "paper", "--from-run", tmp_path / "gone")
    assert told.code == 2 and "gone/report.json: No such file" in told.error


def test_compare_writes_the_runs_own_predictions_again(runs, tell):
    path = runs / "theory/paper/predictions.parquet"
    expected = pq.read_table(path)
    path.unlink()
    for arguments in ((), ("paper",)):
        told = tell("compare", *arguments, "--out", runs)
        assert told.code == 0
        assert pq.read_table(path) == expected
        assert "R7" in told.out and "holds" in told.out
    assert tell("compare", "stored", "--out", runs).error == (
        f"error: no finished runs of stored under {runs}.\nRun: python -m theory run stored --out {runs}"
    )
    assert tell("compare", "--out", runs / "nowhere").code == 2


def test_a_damaged_run_is_named(runs, tell):
    path = seed_directory(runs, 0) / "facts.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in tell("compare", "--out", runs).error
    (seed_directory(runs, 1) / "report.json").write_text("{")
    assert "--overwrite" in tell("run", "paper", *SMALL, "--seed", 1, "--out", runs).error


def test_list_tells_every_experiment(tell):
    told = tell("list")
    assert told.code == 0
    for name, (sentence, _) in EXPERIMENTS.items():
        assert name in told.out and sentence.split()[0] in told.out


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["run", "papr"], "paper, everything, stored"),
        (["run", "paper", "--finetune.step", "5"], "--finetune.steps"),
        (["run", "paper", "--pretrain.steps", "many"], "--pretrain.steps"),
        (["run", "paper", "--model.form", "tabel"], "'table', 'dense'"),
        (["runn"], "run, verify, compare, list"),
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
        ("words", [], ["words.csv", "line 9", "popularity", "'often'", "is not a positive number"]),
        ("negative", [], ["negative.csv", "line 5", "popularity", "'-5'", "is not a positive number"]),
        ("one answer", [], ["one answer.csv", "relation 'capital' has one answer, 'city 0'", "--facts.where"]),
        ("two facts", [], ["every relation has fewer than 10 facts", "Lower --facts.min-facts"]),
        ("two facts", ["--facts.min-facts", 1], ["2 facts leave 1 to train on", "give more facts"]),
        ("empty", [], ["empty.csv", "no rows"]),
        ("fine", ["--facts.answer-column", "reply"], ["fine.csv", "'reply'", "--facts.answer-column"]),
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
    told = tell("run", "paper", "--facts.table", path, *flags, "--out", out)
    assert told.code == 2
    for part in named:
        assert part in told.error
    assert files(out) == {}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "popqa"], "popqa needs a table of facts.\nName PopQA's with --facts.table FILE."),
        (["run", "popqa-bare"], "--facts.table FILE"),
        (["run", "paper", "--seeds", "0"], "--seeds is 0"),
        (["verify", "--seeds", "0"], "--seeds is 0"),
        (["run", "paper", "--finetune.optimizer", "adam"], "Add --model.form dense."),
        (["run", "superposition", "--pretrain.optimizer", "adm"], "no optimizer 'adm' in optax"),
        (["run", "paper", "--facts.n-subjects", "1"], "Raise it, or give more facts."),
    ],
)
def test_settings_that_cannot_be_run_are_refused_and_nothing_is_written(arguments, named, tmp_path, tell):
    told = tell(*arguments, "--out", tmp_path / "runs")
    assert told.code == 2
    assert named in told.error
    assert files(tmp_path / "runs") == {}


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
def test_divergence_names_the_stage_and_the_step(stage, flags, tmp_path, tell):
    told = tell("run", "paper", *SMALL, *flags, "--out", tmp_path)
    assert told.code == 2
    assert told.error.startswith(f"error: {stage} diverged at step ")
    step = int(told.error.split(" at step ")[1].split()[0])
    assert 0 < step < 20
    assert f"Lower --{stage}.learning-rate" in told.error
    assert files(tmp_path) == {}


def test_ctrl_c_ends_the_program_at_once_with_130_and_nothing_half_written(tmp_path):
    out = tmp_path / "runs"
    endless = ["--pretrain.steps", "100000000", "--pretrain.batch-size", "1", "--n-records", "100000"]
    command = [sys.executable, "-m", "theory", "run", "paper", *endless, "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not out.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - start < 10
    assert "interrupted" in err and "Traceback" not in err
    assert files(out) == {}


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
    told = tell("run", name, "--facts.table", popqa, *flags, "--out", tmp_path / "runs")
    assert told.code == 0
    for note in ("6 of 203 rows do not match", "2 of 203 rows have no popularity", "relation 5 (2)"):
        assert note in " ".join(told.out.split())
    run = results.read_run(tmp_path / "runs/theory" / name / "pretrain_0/split_0/seed_0")
    facts = run.table("facts").to_pydict()
    assert len(facts["arm"]) == 5 * (200 - 5 - 2)
    assert set(facts["relation"]) == {f"relation {i}" for i in range(5)}
    assert set(facts["role"]) == {"train", "held_out"}
    assert set(facts["answer"]) <= {f"answer {i}" for i in range(1, 10)}
    draws = sum(facts["exposure"]) / 5 / (400 * 256)
    assert draws == pytest.approx(0.5 if name == "popqa" else 1.0)
    assert run.report["notes"] and run.report["config"]["facts"]["table"] == str(popqa)


@pytest.fixture
def verdicts(monkeypatch):
    """Stand in for the long checks: rows that tests may change, and how often they were asked for."""
    row = {"experiment": "verify", "seeds": 1, "result": "R1", "statement": "a force", "note": "error", "error": 0.5}
    rows, calls = [row | {"verdict": "holds"}, row | {"verdict": "reported"}], []
    monkeypatch.setattr(verify, "run", lambda config, seeds, progress: calls.append(seeds) or rows)
    return rows, calls


def test_verify_ends_with_1_if_a_result_fails_and_0_if_none_does(verdicts, tmp_path, tell):
    rows, _ = verdicts
    told = tell("verify", "--out", tmp_path / "a")
    assert told.code == 0 and "No rows failed (tested now)" in told.out and "R1  a force" in told.out
    rows[0]["verdict"] = "fails"
    told = tell("verify", "--out", tmp_path / "b")
    assert told.code == 1 and "1 row failed" in told.out
    written = pq.read_table(tmp_path / "b/theory/verify/predictions.parquet")
    assert written["verdict"].to_pylist() == ["fails", "reported"]


def test_verify_is_not_repeated_for_the_same_config_unless_asked(verdicts, tmp_path, tell):
    rows, calls = verdicts
    rows[0]["verdict"] = "fails"
    asked = [], [], ["--overwrite"], ["--seeds", 2], ["--seeds", 2, "--facts.n-subjects", 50]
    told = [tell("verify", *options, "--out", tmp_path) for options in asked]
    assert [one.code for one in told] == [1] * 5
    assert ["found done" in one.out for one in told] == [False, True, False, False, False]
    assert calls == [3, 3, 2, 2]
