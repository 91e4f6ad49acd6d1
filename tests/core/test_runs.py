import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from core import columns, config_json, runs
from core.errors import InputError
from core.seeds import Cell

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finetune:
    steps: int = 200
    rate: float = 1.0


@dataclass(frozen=True)
class Config:
    finetune: Finetune = Finetune()
    table: Path | None = None
    widths: tuple[int, ...] = (1, 2)


CONFIG = Config()
FACTS = [
    {"arm": "base", "fact": np.arange(3), "role": ["train", "train", "held_out"], "salience": np.array([1.0, 2, 3])},
    {"arm": "top", "fact": np.arange(3), "in_arm": np.array([True, False, False]), "critical_low": [0.25, None, 0.75]},
]
TRACE = {"arm": "top", "step": [0, 10], "loss": [2.0, 1.0]}
WEIGHTS = {"top/subject_values": np.eye(3), "subject": np.arange(3)}


def write(path, config=CONFIG, **options):
    report = {"flow": "theory", "experiment": "paper", "config": config, "metrics": {"top": {"accuracy": 0.5}}}
    runs.write_run(path, report, {"facts": FACTS, "trace": TRACE}, {"weights": WEIGHTS}, **options)


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    return runs.directory(tmp_path, "theory", "paper", Cell(0, 1, 2))


def test_run_directory_names_flow_experiment_and_the_three_seeds(tmp_path, path):
    assert path == tmp_path / "theory" / "paper" / "pretrain_0" / "split_1" / "seed_2"


def test_written_run_reads_back_as_it_was(path):
    write(path)
    run = runs.read_run(path)
    assert listing(path) == ["facts.parquet", "report.json", "trace.parquet", "weights.npz"]
    assert run.report["schema"] == runs.SCHEMA
    assert run.report["config"] == {"finetune": {"steps": 200, "rate": 1.0}, "table": None, "widths": [1, 2]}
    assert run.report["config_hash"] == config_json.config_hash(CONFIG)
    facts = run.table("facts")
    assert facts.schema.equals(columns.FACTS)
    assert facts["arm"].to_pylist() == ["base"] * 3 + ["top"] * 3
    assert facts["salience"].to_pylist() == [1.0, 2.0, 3.0, None, None, None]
    assert facts["critical_low"].to_pylist() == [None] * 3 + [0.25, None, 0.75]
    assert run.table("trace", ["step", "loss"]).to_pydict() == {"step": [0, 10], "loss": [2.0, 1.0]}
    for name, array in run.arrays().items():
        np.testing.assert_array_equal(array, WEIGHTS[name])


def test_parquet_is_compressed_by_zstd(path):
    write(path)
    assert pq.ParquetFile(path / "facts.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_report_is_valid_json_whatever_it_holds(path):
    metrics = {"loss": float("nan"), "low": -np.inf, "n": np.int64(3), "by_step": np.array([0.5, np.nan]), 5: Path("a")}
    runs.write_run(path, {"config": {}, "metrics": metrics}, {})
    text = (path / "report.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert report["metrics"] == {"loss": None, "low": None, "n": 3, "by_step": [0.5, None], "5": "a"}


def test_config_hash_depends_on_values_and_not_on_order_or_kind_of_mapping():
    as_json = json.loads(json.dumps(config_json.plain(CONFIG)))
    shuffled = dict(reversed(as_json.items()))
    assert config_json.config_hash(shuffled) == config_json.config_hash(CONFIG)
    assert config_json.config_hash(replace(CONFIG, widths=(1, 3))) != config_json.config_hash(CONFIG)
    assert config_json.config_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_run_is_done_iff_it_was_written_with_this_config(path):
    assert not runs.is_done(path, CONFIG)
    write(path)
    assert runs.is_done(path, CONFIG)


def test_run_of_another_config_is_refused_with_what_differs_and_the_remedies(path):
    write(path)
    other = Config(Finetune(steps=500), table=Path("facts.tsv"))
    with pytest.raises(InputError) as error:
        runs.is_done(path, other)
    message = str(error.value)
    assert str(path) in message
    assert "finetune.steps: 200 → 500" in message
    assert "table: None → facts.tsv" in message
    assert "rate" not in message
    assert "--overwrite" in message and "--out" in message


def test_of_many_differences_only_the_first_are_named(path):
    runs.write_run(path, {"config": {f"field_{i}": i for i in range(6)}}, {})
    with pytest.raises(InputError, match="field_2: 2 → absent, and 3 more"):
        runs.is_done(path, {})


def test_run_of_another_schema_is_refused(path, monkeypatch):
    write(path)
    monkeypatch.setattr(runs, "SCHEMA", runs.SCHEMA + 1)
    with pytest.raises(InputError, match=r"schema 2, now 3(.|\n)*python -m core migrate"):
        runs.is_done(path, CONFIG)


def test_run_of_another_base_model_is_refused_by_what_both_say_of_it(path):
    runs.write_run(path, {"config": {}, "model": {"weights": "a", "precision": "float32"}}, {})
    assert runs.is_done(path, {}, model={"weights": "a", "schema": 1})
    with pytest.raises(InputError, match=r"another base model: its precision differ(.|\n)*--overwrite(.|\n)*--out"):
        runs.is_done(path, {}, model={"weights": "a", "precision": "bfloat16"})


def test_finished_run_is_replaced_only_when_asked(path):
    write(path)
    other = replace(CONFIG, widths=())
    with pytest.raises(InputError, match="cannot write"):
        write(path, other)
    assert runs.is_done(path, CONFIG)
    write(path, other, overwrite=True)
    assert runs.is_done(path, other)
    assert listing(path.parent) == ["seed_2"]


def fail_at(monkeypatch, call, error):
    """Make the given call of fsync fail: every file of a run passes one, and every folder."""
    calls = iter(range(1, 100))
    real = os.fsync

    def fsync(descriptor):
        if next(calls) == call:
            raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
N_FILES = 4


@pytest.mark.parametrize("call", range(1, N_FILES + 2))
@pytest.mark.parametrize(("error", "raised"), [(FULL, InputError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_failure_while_writing_leaves_nothing_and_the_next_run_works(path, call, error, raised):
    with pytest.MonkeyPatch.context() as patched, pytest.raises(raised):
        fail_at(patched, call, error)
        write(path)
    assert listing(path.parent) == []
    assert not runs.is_done(path, CONFIG)
    write(path)
    assert runs.is_done(path, CONFIG)


@pytest.mark.parametrize("call", range(1, N_FILES + 2))
def test_failure_while_overwriting_keeps_the_old_run(path, call):
    write(path)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(InputError):
        fail_at(patched, call, FULL)
        write(path, replace(CONFIG, widths=()), overwrite=True)
    assert listing(path.parent) == ["seed_2"]
    assert runs.is_done(path, CONFIG)


def test_old_run_comes_back_when_the_new_one_cannot_be_renamed(path, monkeypatch):
    write(path)
    real = Path.rename

    def rename(self, target):
        if self.name.endswith(".partial"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(InputError, match="Permission denied"):
        write(path, replace(CONFIG, widths=()), overwrite=True)
    assert runs.is_done(path, CONFIG)
    assert listing(path.parent) == ["seed_2"]


def test_full_disk_is_said_with_path_and_remedy(path, monkeypatch):
    fail_at(monkeypatch, 1, FULL)
    with pytest.raises(InputError) as error:
        write(path)
    message = str(error.value)
    assert str(path) in message and "No space left on device" in message and "--out" in message
    assert len(message.splitlines()) <= 2


def _in_subprocess(setup, path):
    program = f"""
import os, resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
import numpy as np
from core import runs
path = Path({str(path)!r})
def write(**options):
    values = {{"a": np.random.default_rng(0).random(100_000)}}
    runs.write_run(path, {{"config": 1}}, {{"trace": {{"loss": [1.0]}}}}, {{"weights": values}}, **options)
{setup}
write()
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_file_that_the_system_refuses_leaves_nothing(path):
    done = _in_subprocess(f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))", path)
    assert "InputError" in done.stderr and "File too large" in done.stderr
    assert listing(path.parent) == []


@pytest.mark.parametrize("call", [1, 3])
def test_kill_in_the_middle_leaves_no_run_directory_and_the_next_run_cleans_up(path, call, tmp_path):
    kill = f"""
calls, real = iter(range(1, 100)), os.fsync
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == {call} else real(descriptor)
"""
    assert _in_subprocess(kill, path).returncode == -signal.SIGKILL
    (left,) = listing(path.parent)
    assert left.startswith(".seed_2.") and left.endswith(".partial")
    assert runs.find_runs(tmp_path) == []
    assert not runs.is_done(path, 1)
    write(path)
    assert listing(path.parent) == ["seed_2"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", "\x00"])
def test_damaged_report_is_named_with_the_remedy(path, damage):
    write(path)
    (path / "report.json").write_text(damage)
    for read in (lambda: runs.read_run(path), lambda: runs.is_done(path, CONFIG)):
        with pytest.raises(InputError, match=r"report\.json(.|\n)*--overwrite"):
            read()


def test_directory_without_a_report_is_no_run(path):
    path.mkdir(parents=True)
    with pytest.raises(InputError, match=r"report\.json: No such file"):
        runs.is_done(path, CONFIG)


@pytest.mark.parametrize("keep", [0, 4, 200])
@pytest.mark.parametrize("name", ["facts.parquet", "weights.npz"])
def test_damaged_table_or_array_is_named(path, name, keep):
    write(path)
    file = path / name
    file.write_bytes(file.read_bytes()[:keep])
    run = runs.read_run(path)
    with pytest.raises(InputError, match=name):
        run.table("facts") if name.endswith("parquet") else run.arrays()


def test_missing_table_and_missing_column_are_named(path):
    write(path)
    run = runs.read_run(path)
    with pytest.raises(InputError, match=r"attention\.parquet: No such file"):
        run.table("attention")
    with pytest.raises(InputError, match="no column colour"):
        run.table("facts", ["arm", "colour"])


def test_runs_are_found_in_the_order_of_their_numbers(tmp_path):
    for experiment, seed in [("paper", 10), ("paper", 2), ("stored", 0)]:
        write(runs.directory(tmp_path, "theory", experiment, Cell(0, 0, seed)))
    (tmp_path / "theory" / "sweep").mkdir()
    (tmp_path / "theory" / "sweep" / "grid.json").write_text("{}")
    names = [str(run.path.relative_to(tmp_path / "theory")) for run in runs.find_runs(tmp_path)]
    assert [name.split("/")[-1] for name in names] == ["seed_2", "seed_10", "seed_0"]
    assert len(runs.find_runs(tmp_path, "theory", "paper")) == 2
    assert runs.find_runs(tmp_path, "empirical") == []
    assert runs.find_runs(tmp_path / "nowhere") == []


def test_predictions_are_replaced_as_a_whole(tmp_path):
    path = tmp_path / "out" / "predictions.parquet"
    rows = [
        {"experiment": "paper", "seeds": 10, "result": "R1", "error": 1e-12, "tolerance": 1e-10, "verdict": "holds"},
        {"experiment": "paper", "seeds": 10, "result": "R6", "measured": float("nan"), "verdict": "reported"},
    ]
    runs.write_predictions(path, rows)
    read = runs.read_table(path)
    assert read.schema.equals(columns.PREDICTIONS)
    assert read["error"].to_pylist() == [1e-12, None]
    assert read["measured"].to_pylist() == [None, None]
    runs.write_predictions(path, rows[:1])
    assert runs.read_table(path).num_rows == 1
    with pytest.MonkeyPatch.context() as patched, pytest.raises(InputError, match="No space left"):
        fail_at(patched, 1, FULL)
        runs.write_predictions(path, rows)
    assert runs.read_table(path).num_rows == 1
    assert listing(path.parent) == ["predictions.parquet"]
    with pytest.raises(KeyError, match="mesured"):
        runs.write_predictions(path, [{"mesured": 1.0}])


def test_folder_with_an_equals_sign_adds_no_column(tmp_path):
    path = runs.directory(tmp_path / "rate=1", "theory", "paper", Cell(0, 0, 0))
    write(path)
    assert runs.read_run(path).table("facts").schema.equals(columns.FACTS)


def _refuse_folders(monkeypatch, code):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_a_folder_is_written_to(path, monkeypatch, code):
    _refuse_folders(monkeypatch, code)
    write(path)
    assert runs.is_done(path, CONFIG)


def test_a_folder_whose_sync_fails_is_an_error(path, monkeypatch):
    _refuse_folders(monkeypatch, errno.EIO)
    with pytest.raises(InputError, match="cannot write"):
        write(path)
