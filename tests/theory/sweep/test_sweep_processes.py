"""Several processes on one sweep, and processes that are killed: the table is that of an uninterrupted run."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SIZES = ["facts.n_subjects=60", "pretrain.batch_size=64", "finetune.batch_size=64", "finetune.steps=40"]
FEW = [*SIZES, "facts.popularity_exponent=0.6,1,1.4", "pretrain.steps=50,80"]
MANY = [*SIZES, "facts.popularity_exponent=0.5:1.5:8", "pretrain.steps=50,80"]

IN_SMALL_CHUNKS = """
import sys
from theory.sweep import runner
from theory.__main__ import main
runner.CHUNK = 4
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return a function that starts `python -m theory sweep` in chunks of four units, its programs compiled once."""
    cache = str(tmp_path_factory.mktemp("programs"))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    started = []

    def begin(out: Path, axes: list[str], seeds: int) -> subprocess.Popen:
        command = [sys.executable, "-c", IN_SMALL_CHUNKS, "sweep", "tiny", "--arms", "top", "bottom"]
        command += ["--seeds", str(seeds), "--out", str(out), "--grid", *axes]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen) -> int:
    """Return how many units the process says it computed."""
    printed, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    found = re.search(r"([\d,]+) of [\d,]+ units computed here", printed)
    assert found, printed
    return int(found[1].replace(",", ""))


def kill(process: subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def wait_until_it_computes(process: subprocess.Popen, out: Path) -> None:
    description, since, deadline = out / "theory/tiny/grid.json", time.time(), time.monotonic() + 60
    while not description.exists() or description.stat().st_mtime < since:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def parts(out: Path) -> set[str]:
    return {path.name for path in out.rglob("part-*.parquet")}


def table(out: Path) -> bytes:
    return (out / "theory/tiny/table.parquet").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert finish(start(out, FEW, 4)) == 24
    return table(out)


def test_two_processes_divide_a_sweep_and_each_has_the_whole_table(start, uninterrupted, tmp_path):
    both = [start(tmp_path, FEW, 4) for _ in range(2)]
    computed = [finish(process) for process in both]
    assert sum(computed) == 24
    assert min(computed) > 0
    assert table(tmp_path) == uninterrupted


def test_a_sweep_killed_after_a_part_goes_on_from_there(start, uninterrupted, tmp_path):
    process = start(tmp_path, FEW, 4)
    deadline = time.monotonic() + 60
    while not parts(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    kept = parts(tmp_path)
    assert not (tmp_path / "theory/tiny/table.parquet").exists()
    assert finish(start(tmp_path, FEW, 4)) == 24 - 4 * len(kept)
    assert kept < parts(tmp_path) and table(tmp_path) == uninterrupted
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_byte(start, tmp_path):
    """Prints what happened (pytest -s). A sweep that ends before its kill is compared, and another begun."""
    began = time.monotonic()
    whole = tmp_path / "whole"
    n_units = finish(start(whole, MANY, 6))
    print(f"\nuninterrupted: {n_units} units, {len(parts(whole))} parts, {time.monotonic() - began:.1f} s")
    moments, n_sweeps, n_computed = random.Random(0), 0, 0
    n_killed = n_in_progress = 0
    while n_killed < 20 or n_in_progress:
        out = tmp_path / str(n_sweeps)
        process = start(out, MANY, 6)
        began, before = time.monotonic(), len(parts(out))
        moment = moments.uniform(0, 6) if n_killed < 20 else 300
        if n_killed % 4:  # a quarter of the moments count from the start, the others from when it computes
            wait_until_it_computes(process, out)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            kill(process)
            n_killed, n_in_progress = n_killed + 1, 1
            left = len(list(out.rglob("*.partial")))
            print(f"kill {n_killed:2} after {moment:4.1f} s: {before} → {len(parts(out))} parts, {left} half-written")
            continue
        n_computed = finish(process)
        assert table(out) == table(whole)
        assert not list(out.rglob("*.partial")) and not list(out.rglob("damaged-*"))
        print(f"ended after {time.monotonic() - began:.1f} s: {n_computed} units computed last, the same bytes")
        n_sweeps, n_in_progress = n_sweeps + 1, 0
    print(f"{n_killed} kills in {n_sweeps} sweeps of {n_units} units: every table.parquet has the same bytes")
