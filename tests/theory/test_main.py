"""The command line in this process: what it writes, what it finds done, and how it goes on."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core import runs as results
from theory import __main__ as command_line
from theory import config as configs
from theory import measure
from theory.experiments import EXPERIMENTS
from theory.law import theorem
from theory.verify import checks


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_flags) -> Path:
    """Two finished runs of a small `paper`; not to be changed."""
    out = tmp_path_factory.mktemp("finished")
    assert command_line.main(["run", "paper", *small_flags, "--seeds", "2", "--out", str(out)]) == 0
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


def same(found: tuple, expected: tuple) -> None:
    """Require the same, but for last bits of the trace's means: programs of one world and of two round them apart."""
    *others, trace = found
    assert others == list(expected[:-1]) and trace.keys() == expected[-1].keys()
    for name, column in expected[-1].items():
        assert [value is None for value in trace[name]] == [value is None for value in column]
        pairs = [pair for pair in zip(trace[name], column, strict=True) if None not in pair]
        for value, other in pairs:
            assert value == (pytest.approx(other, rel=1e-6, nan_ok=True) if isinstance(other, float) else other), name


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
    assert {"claim", "R2", "R4", "R4+R5", "R5", "R6", "R7"} == set(predictions["result"].to_pylist())
    assert set(predictions["seeds"].to_pylist()) == {2}


def test_what_is_done_is_found_done_and_left_as_it_is(runs, tell, small_flags):
    before = files(runs)
    told = tell("run", "paper", *small_flags, "--seeds", 2, "--out", runs)
    assert told.code == 0
    assert "0 runs made, 2 found done" in told.out
    for arm in ("top", "bottom", "whole", "random", "base", "top − bottom"):
        assert arm in told.out
    after = files(runs)
    assert {name: after[name] for name in after if "pretrain" in name} == {
        name: before[name] for name in before if "pretrain" in name
    }


def test_another_config_is_refused_with_both_remedies_until_overwriting_is_asked_for(runs, tell, small_flags):
    before = files(runs)
    other = ["run", "paper", *small_flags, "--knownness.measure", "margin", "--out", runs]
    told = tell(*other)
    assert told.code == 2
    assert "knownness.measure: popularity → margin" in told.error
    assert "--overwrite" in told.error and "--out" in told.error
    assert files(runs) == before
    # Seed 0 alone: seed 1 would be left of the other config, and be averaged with it.
    told = tell(*other, "--overwrite")
    assert told.code == 2 and "seed_1" in told.error
    assert files(runs) == before
    told = tell(*other, "--overwrite", "--seeds", 2)
    assert told.code == 0, told.error
    for seed in (0, 1):
        assert contents(seed_directory(runs, seed))[0]["config"]["knownness"] == {"measure": "margin"}


def test_an_interrupted_command_keeps_what_is_done_and_goes_on_from_there(
    finished, tmp_path, tell, monkeypatch, small_flags
):
    real, calls = measure.run, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    command = ("run", "paper", *small_flags, "--seeds", 2, "--out", tmp_path)
    monkeypatch.setattr(measure, "run", interrupted)
    told = tell(*command)
    assert told.code == 130 and "interrupted: finished runs are kept" in told.err
    assert sorted({Path(name).parts[2] for name in files(tmp_path)}) == ["pretrain_0"]
    monkeypatch.undo()
    told = tell(*command)
    assert told.code == 0 and "1 runs made, 1 found done" in told.out
    for seed in range(2):
        same(contents(seed_directory(tmp_path, seed)), contents(seed_directory(finished, seed)))
    name = "theory/paper/predictions.parquet"
    assert pq.read_table(tmp_path / name) == pq.read_table(finished / name)


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
    assert again[0]["metrics"] == expected[0]["metrics"]
    same(again[1:], expected[1:])
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


def test_a_damaged_run_is_named(runs, tell, small_flags):
    path = seed_directory(runs, 0) / "facts.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in tell("compare", "--out", runs).error
    (seed_directory(runs, 1) / "report.json").write_text("{")
    assert "--overwrite" in tell("run", "paper", *small_flags, "--seed", 1, "--out", runs).error


def test_list_tells_every_experiment(tell):
    told = tell("list")
    assert told.code == 0
    for name, (sentence, _) in EXPERIMENTS.items():
        assert name in told.out and sentence.split()[0] in told.out


@pytest.fixture
def verdicts(monkeypatch):
    """Stand in for the long checks: rows that tests may change, and how often they were asked for."""
    row = {"experiment": "verify", "seeds": 1, "result": "R1", "statement": "a force", "note": "error", "error": 0.5}
    rows, calls = [row | {"verdict": "holds"}, row | {"verdict": "reported"}], []
    others = [name for name in theorem.STATEMENTS | theorem.BESIDE if name != "R1"]
    rows += [row | {"result": name, "verdict": "holds", "refuted_by": "a distance"} for name in others]
    monkeypatch.setattr(checks, "run", lambda config, seeds, progress: calls.append(seeds) or rows)
    return rows, calls


def test_verify_ends_with_1_if_a_result_fails_and_0_if_none_does(verdicts, tmp_path, tell):
    rows, _ = verdicts
    told = tell("verify", "--out", tmp_path / "a")
    assert told.code == 0 and "No rows failed (tested now)" in told.out and "R1  a force" in told.out
    rows[0]["verdict"] = "fails"
    told = tell("verify", "--out", tmp_path / "b")
    assert told.code == 1 and "1 row failed" in told.out
    assert "refuted by a distance" in told.out
    written = pq.read_table(tmp_path / "b/theory/verify/predictions.parquet")
    assert written["verdict"].to_pylist()[:3] == ["fails", "reported", "holds"]
    assert written["refuted_by"].to_pylist()[1:3] == [None, "a distance"]


def test_what_default_settings_leave_undecided_fails_and_of_other_settings_is_told(verdicts, tmp_path, tell):
    rows, _ = verdicts
    rows[-1]["verdict"] = "undecided"
    told = tell("verify", "--out", tmp_path / "a")
    assert told.code == 1 and "without a verdict: design; default settings must decide all." in told.out
    for options in (["--seeds", 1], ["--facts.n-subjects", 50]):
        told = tell("verify", *options, "--out", tmp_path / "b")
        assert told.code == 0 and "without a verdict: design; more --seeds" in told.out


def test_verify_is_not_repeated_for_the_same_config_unless_asked(verdicts, tmp_path, tell):
    rows, calls = verdicts
    rows[0]["verdict"] = "fails"
    asked = [], [], ["--overwrite"], ["--seeds", 2], ["--seeds", 2, "--facts.n-subjects", 50]
    told = [tell("verify", *options, "--out", tmp_path) for options in asked]
    assert [one.code for one in told] == [1] * 5
    assert ["found done" in one.out for one in told] == [False, True, False, False, False]
    assert calls == [3, 3, 2, 2]
