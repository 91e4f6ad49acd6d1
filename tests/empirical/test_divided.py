"""Processes that divide one study: the same result as of one, nothing twice, and a killed one's part is taken over.

They are started by hand, or are the workers of a Ray cluster.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from core import lock
from core import runs as results
from core.seeds import Cell
from empirical import __main__ as command_line
from empirical import runner, study

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--pretrain-seeds 1 --seeds 2 --world.n-subjects 40 --world.n-relations 2 --world.facts-per-subject 1 "
    "--world.n-answers 5 --world.exposure.low 0.5 --world.exposure.high 40 --pretrain.d-model 16 --pretrain.layers 1 "
    "--pretrain.heads 2 --pretrain.key-value-heads 1 --pretrain.vocabulary 400 --pretrain.batch-size 32 "
    "--pretrain.n-probes 1 --finetune.learning-rates 1e-3 1e-2 --finetune.train.epochs 2 --finetune.train.batch-size 4 "
    "--finetune.train.checkpoint-every 2 --finetune.train.n-records 1 --evaluate.max-new-tokens 4 --arms top bottom"
).split()
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_divided
sys.exit(test_divided.logged(Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
"""
ON_RAY = """
import sys
import ray
import test_divided
ray.init(
    address="local",
    num_cpus=2,
    log_to_driver=False,
    include_dashboard=False,
    runtime_env={"worker_process_setup_hook": "test_divided.begin_worker"},
)
sys.exit(test_divided.command_line.main(sys.argv[1:]))
"""
STAGES = {"measure_base": 1, "tune": 2 * 2 + 2, "measure_arm": 2 * 2}


def log_stages(patch: pytest.MonkeyPatch, log: Path, then: Callable[[str], object]) -> None:
    """Write the study's stages to a file as they begin, and do something in each."""

    def telling(name: str, stage: Callable) -> Callable:
        def call(*given, **more):
            with log.open("a") as file:
                file.write(f"{name}\n")
            then(name)
            return stage(*given, **more)

        return call

    patch.setattr(runner, "WAIT", 0.05)
    for name in STAGES:
        patch.setattr(study, name, telling(name, getattr(study, name)))


def logged(log: Path, pause: float, flags: list[str]) -> int:
    """Run the study, its stages logged, and take time in each finetuning and after each run."""

    def resting(write: Callable) -> Callable:
        def call(*given, **more):
            write(*given, **more)
            time.sleep(pause)

        return call

    with pytest.MonkeyPatch.context() as patch:
        log_stages(patch, log, lambda name: time.sleep(pause * (name == "tune")))
        patch.setattr(runner.Arms, "_write", resting(runner.Arms._write))
        return command_line.main(["run", "tiny", *FLAGS, *flags])


def begin_worker() -> None:
    """Log the stages of a worker on Ray; the first to finetune is killed within it."""
    folder = Path(os.environ["LOGS"])

    def kill_once(name: str) -> None:
        if name == "tune" and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    log_stages(pytest.MonkeyPatch(), folder / "log", kill_once)


@pytest.fixture
def start(tmp_path):
    """Start the study in a process of its own; killed at the end."""
    started = []

    def process(name: str, *, pause: float) -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path / name), str(pause)]
        command += ["--out", str(tmp_path / "out")]
        with (tmp_path / f"{name}.txt").open("w") as file:
            started.append(subprocess.Popen(command, stdout=file))
        return started[-1]

    yield process
    for one in started:
        one.kill()
        one.wait()


def _log(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _found(out: Path) -> list:
    found = results.find_runs(out, "empirical", "tiny")
    said = [{key: run.report[key] for key in ("metrics", "choices", "split", "config")} for run in found]
    return [*said, *(run.table(name) for run in found for name in ("facts", "trace", "attention", "rates"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list:
    """Return what one process finds."""
    out = tmp_path_factory.mktemp("alone")
    assert command_line.main(["run", "tiny", *FLAGS, "--out", str(out)]) == 0
    return _found(out)


def test_processes_divide_a_study_and_take_over_what_a_killed_one_was_at(start, alone, tmp_path, capsys):
    killed, other = start("killed", pause=600.0), start("other", pause=1.0)
    while not all("tune" in _log(tmp_path / name) for name in ("killed", "other")):
        assert killed.poll() is None and other.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    capsys.readouterr()
    assert logged(tmp_path / "own", 0.0, ["--out", str(tmp_path / "out")]) == other.wait() == 0
    printed = [capsys.readouterr().out, (tmp_path / "other.txt").read_text()]
    made = [Counter(_log(tmp_path / name)) for name in ("killed", "other", "own")]
    # Everything is made once, but for the finetuning within which one was killed.
    assert sum(made, Counter()) == Counter(STAGES) + Counter(["tune"]) and all(made)
    # The last one through tells what came out.
    assert sum("common_rate" in text for text in printed) == 1
    assert sum("Another process wrote the last" in text for text in printed) == 1
    folder = results.directory(tmp_path / "out", "empirical", "tiny", Cell(0, 0, 0)).parent
    assert sorted(path.name for path in folder.iterdir()) == [".shared", "seed_0", "seed_1"]
    assert not list(folder.rglob("*.work"))
    for path in (folder.parent / ".locks").iterdir():
        with lock.held(path, wait=False) as is_held:
            assert is_held
    assert _found(tmp_path / "out") == alone


@pytest.fixture
def cluster_environment(tmp_path):
    """Return what a driver of Ray starts with: a home of its own, where Ray keeps its token, and a place for logs."""
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    return kept | {"HOME": str(tmp_path / "home"), "LOGS": str(tmp_path), "PYTHONPATH": path}


needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed (extra cluster)")


@needs_ray
@pytest.mark.slow
def test_workers_on_ray_divide_a_study_and_one_that_is_killed_begins_again(cluster_environment, alone, tmp_path):
    flags = [*FLAGS, "--out", str(tmp_path / "out"), "--engine", "ray", "--workers", "2"]
    command = [sys.executable, "-c", ON_RAY, "run", "tiny", *flags]
    options = {"cwd": ROOT, "env": cluster_environment, "timeout": 300}
    ended = subprocess.run(command, **options, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "2 runs made, 0 found done." in ended.stdout and "common_rate" in ended.stdout
    assert "tiny: 2 of 2 done" in ended.stderr and "workers: 2" in ended.stderr
    assert Counter(_log(tmp_path / "log")) == Counter(STAGES) + Counter(["tune"])
    assert _found(tmp_path / "out") == alone
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


@needs_ray
@pytest.mark.slow
def test_a_mistake_that_a_worker_finds_ends_the_command_with_its_message(cluster_environment, tmp_path):
    flags = [*FLAGS, "--finetune.learning-rates", "1e30", "1e31", "--out", str(tmp_path / "out"), "--engine", "ray"]
    command = [sys.executable, "-m", "empirical", "run", "tiny", *flags]
    options = {"cwd": ROOT, "env": cluster_environment, "timeout": 300}
    ended = subprocess.run(command, **options, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.strip().endswith(
        "error: finetuning diverged at every rate: 1e+30, 1e+31.\nLower --finetune.learning-rates."
    )
    assert "Traceback" not in ended.stderr and list((tmp_path / "out").rglob("base/report.json"))  # which is kept
