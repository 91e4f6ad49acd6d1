"""A sweep on a Ray cluster, with a worker killed, and as jobs of a queue: the same table as on this machine."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from theory import design
from theory.config import Config
from theory.sweep import cluster, runner

ROOT = Path(__file__).resolve().parents[3]
AXES = [
    *("facts.n_subjects=60", "pretrain.batch_size=64", "finetune.batch_size=64", "finetune.steps=40"),
    *("facts.popularity_exponent=0.6,1,1.4", "pretrain.steps=50,80"),
]
SWEEP = ["sweep", "tiny", "--arms", "top", "bottom", "--seeds", "4", "--grid", *AXES]
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed (extra cluster)")
needs_submitit = pytest.mark.skipif(not importlib.util.find_spec("submitit"), reason="no submitit (extra cluster)")

ON_TWO_WORKERS = """
import sys
import ray
from theory.sweep import runner
from theory.__main__ import main
runner.CHUNK = 4
ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
print("workers:", int(ray.cluster_resources()["CPU"]), flush=True)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def environment(tmp_path):
    """Return what a driver starts with: a home of its own, where Ray keeps its token."""
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(tmp_path / "home")}


@pytest.fixture
def start(environment):
    """Return a function that starts a driver, which is ended with all that it started."""
    started = []

    def begin(*command: str) -> subprocess.Popen:
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def local_table(tmp_path_factory) -> bytes:
    out = tmp_path_factory.mktemp("local")
    summary = runner.run("tiny", design.grid(Config(), AXES), seeds=4, arms=("top", "bottom"), out=out)
    return summary.path.read_bytes()


def finish(process: subprocess.Popen) -> str:
    printed, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint.decode()
    return printed.decode()


def table(out: Path) -> bytes:
    return (out / "theory/tiny/table.parquet").read_bytes()


@needs_ray
@pytest.mark.slow
def test_two_workers_of_a_cluster_give_the_same_table_and_none_of_it_stays(start, local_table, tmp_path):
    driver = start("-W", "error", "-c", ON_TWO_WORKERS, *SWEEP, "--engine", "ray", "--out", str(tmp_path))
    seen = {}
    while driver.poll() is None:
        for child in psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else ():
            seen[child.pid] = child
        time.sleep(0.2)
    printed = finish(driver)
    assert "workers: 2" in printed and "24 of 24 units computed here" in printed
    assert table(tmp_path) == local_table
    assert len(seen) > 2
    assert psutil.wait_procs(list(seen.values()), timeout=10)[1] == []


def workers_at_work(driver: psutil.Process) -> list[psutil.Process]:
    """Return the cluster's processes that compute a chunk."""
    found = []
    for child in driver.children(recursive=True):
        try:
            if child.name().startswith("ray::compute"):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@needs_ray
@pytest.mark.slow
def test_a_worker_killed_in_the_middle_costs_nothing_but_time(start, local_table, tmp_path):
    """Prints what was killed and when (pytest -s)."""
    driver = start("-c", ON_TWO_WORKERS, *SWEEP, "--engine", "ray", "--out", str(tmp_path))
    watched, deadline = psutil.Process(driver.pid), time.monotonic() + 120
    while not (at_work := workers_at_work(watched)):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    n_parts = len(list(tmp_path.rglob("part-*.parquet")))
    at_work[0].send_signal(signal.SIGKILL)
    printed = finish(driver)
    print(f"\nkilled {at_work[0].pid} of {len(at_work)} workers at work, {n_parts} parts written\n{printed[-300:]}")
    assert n_parts < 6
    assert "24 of 24 units computed here" in printed
    assert table(tmp_path) == local_table


def test_without_a_cluster_chunks_are_computed_here():
    with cluster.engine("local") as engine:
        assert engine is runner.local


JOBS = """
import subprocess, sys
import submitit
executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="local")
executor.update_parameters(timeout_min=10)
command = submitit.helpers.CommandFunction([sys.executable, "-m", "theory", *sys.argv[2:]], verbose=False)
jobs = [executor.submit(command) for _ in range(2)]
for job in jobs:
    print(job.result())
"""


@needs_submitit
@pytest.mark.slow
def test_jobs_of_a_queue_on_one_folder_divide_the_work(start, local_table, tmp_path):
    printed = finish(start("-c", JOBS, str(tmp_path / "jobs"), *SWEEP, "--out", str(tmp_path)))
    computed = [int(line.split()[0]) for line in printed.splitlines() if " units computed here" in line]
    assert len(computed) == 2 and sum(computed) == 24
    assert table(tmp_path) == local_table
