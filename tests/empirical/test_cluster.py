"""How a study is handed to workers: how many, what each takes, what each refuses, and how far all are."""

import os
from types import SimpleNamespace

import pytest

from core.errors import InputError
from core.seeds import Cell
from empirical import __main__ as command
from empirical import cell, cluster, runner
from empirical.config import Config
from empirical.finetune import FinetuneConfig
from empirical.runner import Made
from empirical.shared import OWN, Job

CELLS = [Cell(0, 0, 0), Cell(0, 0, 1)]


def node(cpu: float, gpu: float = 0.0, *, is_alive: bool = True) -> dict:
    return {"Alive": is_alive, "Resources": {"CPU": cpu, "memory": 1e9} | ({"GPU": gpu} if gpu else {})}


@pytest.mark.parametrize(
    ("nodes", "n_workers", "expected"),
    [
        ([node(16, 4), node(8, 2), node(64), node(64, 8, is_alive=False)], None, (6, {"num_gpus": 1, "num_cpus": 4})),
        ([node(16, 4)], 2, (2, {"num_gpus": 1, "num_cpus": 4})),
        ([node(16), node(8), node(0)], None, (2, {"num_cpus": 8})),
        ([node(16), node(16)], 6, (6, {"num_cpus": 5})),
        ([node(2)], 8, (8, {"num_cpus": 1})),
        ([node(0)], None, (1, {"num_cpus": 1})),
    ],
)
def test_a_worker_takes_a_gpu_or_a_machine_and_more_workers_share_it(nodes, n_workers, expected):
    assert cluster.shares(nodes, n_workers) == expected


class Here:
    """Ray as far as it is used, its workers this process, which work when they are waited for."""

    def __init__(self, at_look) -> None:
        self.options, self.at_look = {}, at_look

    def nodes(self) -> list[dict]:
        return [node(2)]

    def remote(self, **options):
        self.options = options
        return lambda work: SimpleNamespace(remote=lambda given: lambda: work(given))

    def put(self, value):
        return value

    def wait(self, left, timeout):
        self.at_look()
        return left[:1], left[1:]

    def get(self, reference):
        return reference()

    exceptions = SimpleNamespace(RayTaskError=KeyError)


@pytest.fixture
def job(tmp_path):
    """Return a study of which nothing is there."""
    tuning = FinetuneConfig(learning_rates=(1e-3, 1e-2))
    return Job(Config(arms=("top", "bottom"), finetune=tuning), None, None, "tiny", tmp_path, False, False)


def test_workers_are_given_all_runs_and_the_bar_counts_the_parts_that_are_there(job, monkeypatch):
    given, told, places = [], [], [".shared/base", ".shared/rates/top", ".seed_0.work/top", ".seed_1.work/top"]
    monkeypatch.setattr(runner, "local", lambda job, wanted, progress: given.append((job, wanted)) or Made(1, False))

    def at_look() -> None:
        folder = job.path(CELLS[0]).parent / (places.pop(0) if places else "nothing")
        folder.mkdir(parents=True)
        (folder / "report.json").touch()

    here, before = Here(at_look), os.getcwd()
    made = cluster._on_ray(here, 4, job, CELLS, lambda doing, share: told.append((doing, share)))
    assert made == (2, True) and given == [(job, tuple(CELLS))] * 4 and os.getcwd() == before
    assert here.options == {"max_retries": 5, "scheduling_strategy": "SPREAD", "num_cpus": 1}
    assert {doing for doing, _ in told} == {"workers: 4"}
    left = 1 - OWN.measuring
    steps = [OWN.measuring, OWN.measuring + left * 0.3, OWN.measuring + left * 0.4, OWN.measuring + left * 0.5]
    assert [share for _, share in told] == pytest.approx(
        [2 * steps[0], 2 * steps[1], steps[1] + steps[3], 2 * steps[3]]
    )


def test_a_run_that_is_to_be_overwritten_is_not_there_until_it_is_written_anew(job, monkeypatch):
    monkeypatch.setattr(cell.runs, "is_done", lambda *_: True)
    path, seen = job.path(CELLS[0]), []
    path.mkdir(parents=True)
    (path / "report.json").touch()

    def engine(job, wanted, progress):
        (one,) = runner.arms(job, wanted)
        seen.append(one.is_written())
        (path / "report.json").write_text("anew")
        seen.extend([one.is_written(), runner.arms(job, wanted)[0].is_written()])  # as one that begins again sees it
        return Made(1, True)

    options = {"overwrite": True, "engine": engine, "progress": lambda doing, share: None}
    assert runner.run(job.config, None, "tiny", CELLS[:1], job.out, **options) == (1, True)
    assert seen == [False, True, True]


def test_a_worker_that_does_not_see_the_folders_refuses(job, tmp_path):
    for here, mark, named in (
        (tmp_path / "elsewhere", tmp_path, "elsewhere"),
        (tmp_path, tmp_path / "out" / ".shared-x", "out"),
    ):
        with pytest.raises(InputError, match=rf"{named} is not the same folder on .*\n.* all machines"):
            cluster._work((job, CELLS, here, mark))


def test_workers_without_a_cluster_are_refused(capsys, tmp_path):
    for flags in (["--workers", "2"], ["--engine", "ray", "--workers", "0"]):
        assert command.main(["run", "tiny", *flags, "--out", str(tmp_path / "out")]) == 2
        assert "--workers" in capsys.readouterr().err and not (tmp_path / "out").exists()
