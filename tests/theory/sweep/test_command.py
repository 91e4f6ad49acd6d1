"""`python -m theory sweep`: what it computes and prints, and what it refuses in a line or two, writing nothing."""

import re
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core import split
from core.errors import InputError
from theory import design
from theory.config import Config
from theory.experiments import SWEEPS
from theory.sweep import runner

ROOT = Path(__file__).resolve().parents[3]
SIZES = ["facts.n_subjects=60", "pretrain.batch_size=64", "finetune.batch_size=64", "finetune.steps=40"]
TINY = ["--seeds", 2, "--arms", "top", "bottom", "--grid", *SIZES]


def files(out: Path) -> list[Path]:
    """Return every file under a folder, hidden ones too, but for locks."""
    return [path for path in out.rglob("*") if path.is_file() and ".locks" not in path.parts]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_grid_is_computed_printed_and_then_found_done(out, tell):
    command = ["sweep", "tiny", *TINY, "facts.popularity_exponent=0.6,1.4", "pretrain.steps=50,80", "--out", out]
    told = tell(*command)
    assert told.code == 0, told.err
    assert "8 of 8 units computed here" in told.out and "programs compiled" in told.out
    for text in ("tiny: 2 seeds each", "facts.", "top", "bottom", str(out / "theory/tiny/table.parquet")):
        assert text in told.out
    assert "8 of 8 done" in told.err
    assert "0 of 8 units computed here" in tell(*command).out
    found = pq.read_table(out / "theory/tiny/table.parquet")
    assert found.num_rows == 4 * 2 * 3
    assert found["pretrain.steps"].to_pylist()[::6] == [50, 80, 50, 80]
    assert sorted(path.name for path in (out / "theory/tiny").glob("[!p.]*")) == ["grid.json", "table.parquet"]


@pytest.mark.parametrize("method", ["random", "lhs", "sobol"])
def test_a_random_design_has_as_many_configs_as_asked_for(method, out, tell):
    axes = ["facts.popularity_exponent=0.6:1.4", "pretrain.learning_rate=20:40:log", "pretrain.steps=50,80"]
    name = f"drawn-{method}"
    command = ["sweep", name, *TINY, *axes, "--design", method, "--samples", 4, "--design-seed", 3, "--out", out]
    told = tell(*command)
    assert told.code == 0, told.err
    assert "8 of 8 units computed here" in told.out
    found = pq.read_table(out / "theory" / name / "table.parquet")
    assert len(set(found["facts.popularity_exponent"].to_pylist())) == 4
    assert all(0.6 <= exponent <= 1.4 for exponent in found["facts.popularity_exponent"].to_pylist())
    assert "0 of 8 units computed here" in tell(*command).out


def test_a_dry_run_says_how_large_it_is_and_writes_nothing(tmp_path, tell):
    told = tell("sweep", "tiny", *TINY, "pretrain.steps=50,80", "--dry-run", "--out", tmp_path / "runs")
    assert told.code == 0 and "2 configs × 2 seeds = 4 units" in told.out and "MB" in told.out
    told = tell("sweep", "phase-exposure", "--dry-run", "--out", tmp_path / "runs")
    assert "400 configs × 8 seeds = 3,200 units" in told.out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "n_configs"),
    [("phase-exposure", 400), ("phase-format", 400), ("dose-share", 33), ("dose-size", 27), ("remedies", 13)],
)
def test_every_named_sweep_builds_its_design(name, n_configs):
    named = SWEEPS[name]
    made = named.design()
    assert len(made.configs) == len(set(made.configs)) == n_configs
    assert set(named.arms) <= {*split.ARMS, split.MIXTURE}
    runner._check(made, named.seeds, named.arms)
    assert len(made.values) == n_configs and set(made.values[0]) == set(made.axes)


def test_the_list_of_experiments_has_every_named_sweep(tell):
    told = tell("list")
    assert all(f"sweep {name}" in told.out for name in SWEEPS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["phase-exposur"], ["no sweep 'phase-exposur'. Did you mean phase-exposure?", "--grid"]),
        (["mine"], ["no sweep 'mine'."]),
        (["mine", "--grid", "pretrain.stepz=1,2"], ["no field 'pretrain.stepz'", "Did you mean pretrain.steps"]),
        (["mine", "--grid", "popularity_exponent=1,2"], ["Did you mean facts.popularity_exponent"]),
        (["mine", "--grid", "pretrain.steps"], ["'pretrain.steps' gives no values", "NAME=VALUES"]),
        (["mine", "--grid", "pretrain.steps="], ["pretrain.steps has no values"]),
        (["mine", "--grid", "pretrain.steps=1:2"], ["pretrain.steps=1:2: not a range", "LOW:HIGH:COUNT"]),
        (["mine", "--grid", "pretrain.steps=5:2:3"], ["LOW is above HIGH"]),
        (["mine", "--grid", "pretrain.steps=5:9:0"], ["0 points"]),
        (["mine", "--grid", "pretrain.steps=many"], ["pretrain.steps cannot be 'many'", "whole number"]),
        (["mine", "--grid", "pretrain.steps=0,5"], ["--pretrain.steps is 0"]),
        (["mine", "--grid", "pretrain.steps=5", "--arms", "tops"], ["--arms tops: there is no such arm", "mixture"]),
        (["mine", "--grid", "pretrain.steps=5", "--arms", "top", "top"], ["name each arm once"]),
        (["mine", "--grid", "pretrain.steps=5", "--arms", "mixture"], ["the arm mixture needs", "split.known_share"]),
        (
            ["mine", "--grid", "split.known_share=0.9", "split.size=0.8", "--arms", "mixture"],
            ["each half has only 0.5"],
        ),
        (["mine", "--grid", "pretrain.steps=5", "--seeds", "0"], ["--seeds is 0", "at least 1"]),
        (["mine", "--grid", "pretrain.steps=5", "--seeds", "-1"], ["--seeds is -1"]),
        (
            ["mine", "--grid", "pretrain.steps=5", "--base", "papr"],
            ["--base papr: no such experiment. Did you mean paper?"],
        ),
        (
            ["mine", "--grid", "pretrain.steps=5", "--base", "popqa"],
            ["popqa needs a table of facts", "--facts.path FILE"],
        ),
        (["mine", "--grid", "finetune.early_stopping=false,true"], ["at finetune.early_stopping=True", "--split.dev"]),
        (["mine", "--grid", "pretrain.learning_rate=1:2:1001", "model.template_strength=1:2:1001"], ["1,002,001"]),
        (["mine", "--grid", "pretrain.steps=5", "--seeds", "2000000000"], ["2,000,000,000 units", "GB", "fewer seeds"]),
        (
            ["mine", "--grid", "pretrain.steps=5:9", "--design", "lhs", "--samples", "0"],
            ["a random design of 0 configs"],
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_and_nothing_is_written(arguments, named, tmp_path, tell):
    told = tell("sweep", *arguments, "--out", tmp_path / "runs")
    assert told.code == 2
    for part in named:
        assert part in told.error
    assert files(tmp_path / "runs") == []


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_computed(tmp_path, tell, monkeypatch):
    monkeypatch.setattr(runner, "compute", None)
    (tmp_path / "runs").write_text("a file")
    told = tell("sweep", "tiny", *TINY, "--out", tmp_path / "runs")
    assert told.code == 2 and f"cannot write {tmp_path / 'runs'}" in told.error


def test_a_damaged_part_is_named_and_computed_again_and_one_of_another_version_left(tmp_path, tell, monkeypatch):
    command = ["sweep", "tiny", *TINY, "facts.popularity_exponent=0.6,1.4", "pretrain.steps=50,80", "--out", tmp_path]
    monkeypatch.setattr(runner, "CHUNK", 4)
    assert tell(*command).code == 0
    folder = tmp_path / "theory/tiny"
    whole, (part, _) = (folder / "table.parquet").read_bytes(), sorted(folder.glob("part-*"))
    part.write_bytes(part.read_bytes()[:-9])
    told = tell(*command)
    assert told.code == 0 and "4 of 8 units computed here" in told.out
    said = " ".join(told.err.split())
    assert f"{part} is damaged: renamed to damaged-{part.name}" in said
    assert (folder / f"damaged-{part.name}").exists() and (folder / "table.parquet").read_bytes() == whole
    with monkeypatch.context() as patched:
        for module in ("sweep.parts", "sweep.units", "sweep.runner"):
            patched.setattr(f"theory.{module}.SWEEP_SCHEMA", 99)
        told = tell(*command)
        assert "8 of 8 units computed here" in told.out
        assert " ".join(told.err.split()).count("was written by another version: left as it is") == 2
    assert "0 of 8 units computed here" in tell(*command).out


def test_a_world_too_small_to_split_is_refused_and_nothing_half_written(tmp_path, tell):
    told = tell("sweep", "tiny", *TINY[:-4], "facts.n_subjects=1", "facts.n_relations=1", "--out", tmp_path)
    assert told.code == 2
    assert [path.name for path in files(tmp_path)] == ["grid.json"]


IN_SMALL_CHUNKS = """
import runpy, sys
from theory.sweep import runner
runner.CHUNK = 4
runpy.run_module("theory", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_ends_a_sweep_with_130_and_keeps_its_parts(tmp_path, interruptible):
    axes = ["facts.popularity_exponent=0.5:1.5:400", "pretrain.steps=50,80"]
    command = [sys.executable, "-c", IN_SMALL_CHUNKS, "sweep", "tiny", *map(str, TINY), *axes, "--out", str(tmp_path)]
    process = interruptible(command)
    try:
        deadline = time.monotonic() + 90
        while not list(tmp_path.rglob("part-*.parquet")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, complaint = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - start < 10
    assert "interrupted" in complaint and "Traceback" not in complaint
    names = {re.sub("part-.*", "part", path.name) for path in files(tmp_path)}
    assert names == {"part", "grid.json"}


def test_a_python_call_refuses_as_the_command_does(tmp_path):
    with pytest.raises(InputError, match="--arms: name each arm once, and at least one"):
        runner.run("mine", design.grid(Config(), []), arms=(), out=tmp_path)
    assert files(tmp_path) == []
