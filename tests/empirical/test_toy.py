"""What the toy predicts of a study, from run directories of both."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from core import runs as results
from core.errors import InputError
from core.seeds import Cell
from empirical import __main__ as command
from empirical import compare, toy

ARMS = ("base", "top", "bottom", "random", "whole")
N = 60


def write(out, flow, name, cell, gap, *, arms=ARMS):
    """Write a run whose top half answers more held-out questions than its bottom half, by `gap` of them.

    The toy has neither swapped subjects nor a knockout, nor a sink.
    """
    is_model, parts = flow == "empirical", []
    for arm in arms:
        n_right = round(N * (0.5 + gap / 2 * {"top": 1, "bottom": -1}.get(arm, 0))) + cell.pretrain
        parts.append(
            {
                "arm": arm,
                "fact": np.arange(N),
                "subject": [f"s{row}" for row in range(N)],
                "relation": "r",
                "knownness": np.arange(N, 0, -1.0),
                "role": "held_out",
                "correct": np.arange(N) < n_right,
                "base_correct": np.arange(N) < N // 3,
                "predicted": ["x"] * N,
                "swapped_predicted": ["x"] * N if is_model else None,
                "is_generic_arm": None if arm == "base" else np.arange(N) >= n_right,
                "generic_correct": [False] * N,
                "subject_attention": np.full(N, n_right / N),
                "subject_attention_nonsink": np.full(N, 0.5) if is_model else None,
                "knockout_drop": np.ones(N) if is_model else None,
            }
        )
    metrics = {arm: {"accuracy": 0.5} for arm in arms}
    config = {"facts": {"source": "table"}, "model": {"name": "published"}}
    report = {"config": config, "experiment": name, "seeds": cell._asdict(), "metrics": metrics}
    report |= {"choices": {arm: {"learning_rate": 1e-5, "dev_accuracy": {}} for arm in arms[1:]}}
    results.write_run(results.directory(out, flow, name, cell), report, {"facts": parts})


@pytest.fixture
def out(tmp_path):
    """Three worlds of the toy, whose gap is 0.2, and two splits of a study, whose gap is 0.4."""
    for world in range(3):
        write(tmp_path, "theory", "questions", Cell(world, world, world), 0.2)
    for split in range(2):
        write(tmp_path, "empirical", "published", Cell(0, split, split), 0.4)
    return tmp_path


def by_key(rows):
    return {(row["result"], row["arm"], row.get("stratum")): row for row in rows}


def test_the_toys_rows_are_a_studys_with_intervals_over_worlds_and_without_what_it_has_not(out):
    runs = toy.find(out / "theory" / "questions")
    rows = toy.rows(runs)
    row = by_key(rows)["a", "top − bottom", None]
    assert row["measured"] == pytest.approx(0.2)
    assert row["unit"] == "worlds" and row["note"] == "held-out accuracy (3 worlds)"
    assert {"swap", "knockout"}.isdisjoint(row["result"] for row in rows)
    assert {"swap", "knockout"} <= {row["result"] for row in compare.rows("", _study(out), list(ARMS))}
    assert [row["note"] for row in rows if row["result"] == "b"] == [
        "mean over layers and heads, at the last prompt token (3 worlds)"
    ]


def _study(out):
    return compare.read(results.find_runs(out, "empirical", "published"))


def test_each_measurement_gets_the_prediction_of_the_same_difference_and_part_of_the_facts(out):
    measured = compare.rows("published", _study(out), list(ARMS))
    by_toy = toy.rows(toy.find(out / "theory" / "questions"))
    rows = toy.predicted(measured, by_toy)
    assert [row["measured"] for row in rows] == [row["measured"] for row in measured]
    toys, found = by_key(by_toy), by_key(rows)
    for key in (("a", "top − bottom", None), ("c", "bottom − top", None), ("d", "top − bottom", "fifth 3")):
        assert found[key]["predicted"] == toys[key]["measured"]
        assert f"the toy {toys[key]['low']:+.3f} to" in found[key]["note"]
    assert "predicted" not in found["knockout", "top − bottom", None]
    of_attention = [row for row in rows if row["result"] == "b"]
    assert ["predicted" in row for row in of_attention] == [True, False]  # the toy has no sink


def test_an_arm_that_the_toy_has_not_run_is_not_predicted(out, tmp_path):
    write(tmp_path / "fewer", "theory", "questions", Cell(0, 0, 0), 0.2, arms=("base", "top", "bottom"))
    by_toy = toy.rows(toy.find(tmp_path / "fewer" / "theory" / "questions"))
    found = by_key(toy.predicted(compare.rows("published", _study(out), list(ARMS)), by_toy))
    assert found["a", "top − bottom", None]["predicted"] == pytest.approx(0.2)
    assert "predicted" not in found["f", "top − random", None]


def test_compare_prints_the_toy_alone_or_writes_it_beside_what_was_measured(out, capsys, monkeypatch):
    place = str(out / "theory" / "questions")
    assert command.main(["compare", "--toy", place, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "the toy, questions: held-out facts" in printed and "published" not in printed
    path = out / "empirical" / "published" / "predictions.parquet"
    assert not path.exists()
    assert command.main(["compare", "published", "--toy", place, "--out", str(out)]) == 0
    rows = by_key(pq.read_table(path).to_pylist())
    assert rows["a", "top − bottom", None]["predicted"] == pytest.approx(0.2)
    assert rows["a", "top − bottom", None]["measured"] == pytest.approx(0.4)
    assert rows["swap", "bottom − top", None]["predicted"] is None
    monkeypatch.chdir(out / "theory")
    assert toy.find(out.__class__("questions"))


@pytest.mark.parametrize("place", ["theory/nowhere", "empirical/published", "theory"])
def test_a_folder_without_the_toys_runs_is_refused_by_name(place, out, capsys):
    with pytest.raises(InputError, match=f"--toy .*{place}: no finished runs of the toy"):
        toy.find(out / place)
    assert command.main(["compare", "--toy", str(out / place), "--out", str(out)]) == 2
    assert "OUT/theory/EXPERIMENT" in capsys.readouterr().err
