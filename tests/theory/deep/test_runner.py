"""Deep runs on disk: written, resumed, compared and printed."""

import re
from dataclasses import replace

import pytest

from core import runs
from core.errors import InputError
from core.seeds import Cell, Seeds
from theory.deep import command, pipeline
from theory.deep import config as deep_config
from theory.deep import runner as deep_runner
from theory.deep.command import Deep


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory):
    """Return a folder in which two seeds of deep-2 are finished, and what was told on the way."""
    folder = tmp_path_factory.mktemp("runs")
    deep_runner.run(tiny, "deep-2", Seeds(2).cells(), folder)
    return folder


@pytest.fixture
def untrained(monkeypatch):
    """Fail if anything is trained."""
    monkeypatch.setattr(pipeline, "simulate", lambda *given: pytest.fail("trained again"))


def test_a_finished_run_has_the_columns_of_every_theory_run(tiny, out):
    found = runs.find_runs(out, "theory", "deep-2")
    assert [run.report["seeds"]["pretrain"] for run in found] == [0, 1]
    for run in found:
        assert sorted(path.name for path in run.path.iterdir()) == [
            "attention.parquet",
            "facts.parquet",
            "mediation.parquet",
            "report.json",
            "trace.parquet",
        ]
        assert run.report["config"] == deep_config.to_json(tiny)
        assert set(run.report["metrics"]) == {"base", "top", "bottom", "whole", "random"}
        assert run.report["seconds"].keys() == {"pretrain", "finetune"}
        assert "flax" in run.report["versions"]
        assert run.table("facts").num_rows == 5 * 120
        assert run.table("attention").num_rows == 5 * 2 * 2 * 7


def test_finished_seeds_are_found_done_and_others_are_left(tiny, out):
    wanted = Seeds(3).cells()
    left = runs.unfinished(out, "theory", "deep-2", wanted, deep_config.to_json(tiny), overwrite=False)
    assert left == wanted[2:]
    assert runs.unfinished(out, "theory", "deep-2", wanted, deep_config.to_json(tiny), overwrite=True) == wanted


def test_nothing_left_trains_nothing(tiny, out, untrained):
    deep_runner.run(tiny, "deep-2", [], out)


def test_a_run_of_another_config_is_refused(tiny, out):
    changed = replace(tiny, template_share=0.3)
    with pytest.raises(InputError, match=r"template_share: 0.2 → 0.3\).\nReplace it with --overwrite"):
        runs.unfinished(out, "theory", "deep-2", Seeds(1).cells(), deep_config.to_json(changed), overwrite=False)
    for overwrite in (False, True):  # under another seed too: both would be averaged
        with pytest.raises(InputError, match="another config"):
            runs.unfinished(out, "theory", "deep-2", [Cell(5, 5, 5)], deep_config.to_json(changed), overwrite=overwrite)


def test_predictions_are_written_from_finished_runs_alone(out, untrained):
    rows = deep_runner.write_predictions("deep-2", out)
    table = runs.read_table(out / "theory" / "deep-2" / "predictions.parquet")
    assert table.num_rows == len(rows)
    assert set(table["result"].to_pylist()) == set("abcdf")
    with pytest.raises(
        InputError, match=r"no finished runs of deep-1 under .*\nRun: python -m theory deep deep-1 --out"
    ):
        deep_runner.write_predictions("deep-1", out)


def test_the_command_resumes_and_prints_the_networks_side_by_side(tiny, out, untrained, capsys):
    assert Deep("deep-2", tiny, seeds=2, out=out)() == 0
    told = capsys.readouterr().out.replace("│", " ")
    assert "0 runs made, 2 found done" in told
    gap = [run.report["metrics"] for run in runs.find_runs(out, "theory", "deep-2")]
    mean = sum(one["top"]["accuracy"] - one["bottom"]["accuracy"] for one in gap) / 2
    assert re.search(rf"deep-2 +2 +2 .* {re.escape(f'{mean:+.3f}')} ± ", told)
    assert re.search(r"deep-2 +prompt_end +1 .*\n +deep-2 +prompt_end +2 .*\n +deep-2 +relation +1 ", told)
    assert "The random half lies between the top and the bottom half." in told
    assert re.search(r"top +bottom +attention@subject ", told) and "knownness and rarity" not in told


def test_the_command_refuses_bad_settings_before_it_touches_the_disk(tiny, tmp_path):
    with pytest.raises(InputError, match="--layers is 0"):
        Deep("deep-1", replace(tiny, layers=0), out=tmp_path / "runs")()
    assert not (tmp_path / "runs").exists()
    with pytest.raises(InputError, match="--seeds is 0"):
        Deep("deep-1", tiny, seeds=0, out=tmp_path)()


def test_a_dry_run_prints_the_config_alone(tiny, untrained, capsys, tmp_path):
    assert Deep("deep-1", tiny, out=tmp_path, dry_run=True)() == 0
    assert '"subject_tokens": 2' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_named_experiments_are_four_depths_one_of_shared_names_and_one_without_mlps():
    assert list(deep_runner.DEEP) == ["deep-1", "deep-2", "deep-3", "deep-4", "deep-names", "deep-attention"]
    assert [config.layers for _, config in deep_runner.DEEP.values()] == [1, 2, 3, 4, 2, 2]
    assert deep_runner.DEEP["deep-names"][1].subject_tokens == 2
    for _, config in deep_runner.DEEP.values():
        deep_config.check(config)
    assert command.DEEP is deep_runner.DEEP
