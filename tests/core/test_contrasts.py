from pathlib import Path

import numpy as np
import pytest

from core import runs, statistics
from core.contrasts import Contrasts
from core.runs import Run

GAP = {"top": 1.0, "bottom": -1.0}


def report(model, split, top, bottom, seed=0):
    metrics = {"top": {"accuracy": top}, "bottom": {"accuracy": bottom}}
    return {"seeds": {"pretrain": model, "split": split, "seed": seed}, "config": {}, "metrics": metrics}


def alone(*cells) -> Contrasts:
    """Return the contrasts of runs that keep no questions."""
    return Contrasts([Run(Path("absent"), report(*cell)) for cell in cells])


def test_base_models_are_the_units_and_their_splits_and_seeds_are_averaged():
    cells = [(0, 0, 0.5, 0.2), (0, 1, 0.7, 0.2), (1, 0, 0.6, 0.4), (2, 0, 0.5, 0.2), (2, 0, 0.5, 0.4, 1)]
    made = alone(*cells)
    np.testing.assert_allclose(made.by_unit("accuracy", GAP), [0.4, 0.2, 0.2])
    expected = statistics.mean_interval(np.array([0.4, 0.2, 0.2]))
    assert made.interval("accuracy", GAP) == pytest.approx(expected) and made.counted == "base models"


def test_splits_without_their_questions_are_taken_for_independent_and_said_to_be():
    made = alone((0, 0, 0.5, 0.2), (0, 1, 0.7, 0.2))
    assert made.counted == "splits, taken for independent"
    assert made.interval("accuracy", GAP) == pytest.approx(statistics.mean_interval(np.array([0.3, 0.5])))
    half = made.ratio("accuracy", {"top": 0.5}, {"top": 1.0})
    assert half.mean == pytest.approx(0.5)


def test_splits_of_one_model_are_over_the_questions_that_they_share(tmp_path):
    right = {"top": np.arange(100) % 5 > 1, "bottom": np.arange(100) % 3 > 1}
    rows = [
        {
            **{"arm": arm, "role": "held_out", "fact": np.arange(100), "subject": [f"s{i}" for i in range(100)]},
            **{"relation": ["r"] * 100, "correct": correct, "base_correct": True, "is_generic": False},
        }
        for arm, correct in right.items()
    ]
    top, bottom = (float(correct.mean()) for correct in right.values())
    for split in range(2):
        runs.write_run(tmp_path / str(split), report(0, split, top, bottom), {"facts": rows})
    one, both = (Contrasts([runs.read_run(tmp_path / str(split)) for split in range(n)]) for n in (1, 2))
    assert (one.counted, both.counted) == ("questions", "questions, which splits share")
    # The second split asks the same again: it adds nothing, where independent splits that agree would leave no width.
    gap = right["top"].astype(float) - right["bottom"]
    half = 1.984 * gap.std(ddof=1) / 10
    for found in (one.interval("accuracy", GAP), both.interval("accuracy", GAP)):
        assert found == pytest.approx((gap.mean(), gap.mean() - half, gap.mean() + half), abs=1e-4)
    whole = both.ratio("accuracy", GAP, GAP)
    assert whole == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_what_is_no_mean_over_held_out_questions_has_no_interval_where_they_are_counted(tmp_path):
    rows = {"arm": ["top"], "role": "held_out", "fact": [0], "correct": [True], "base_correct": True}
    for split in range(2):
        own = report(0, split, 0.5, 0.2)
        own["metrics"] = {"top": {"accuracy": 1.0, "train_accuracy": 0.5 + 0.1 * split}}
        runs.write_run(tmp_path / str(split), own, {"facts": [rows]})
    made = Contrasts([runs.read_run(tmp_path / str(split)) for split in range(2)])
    found = made.interval("train_accuracy", {"top": 1.0})
    assert found.mean == pytest.approx(0.55) and np.isnan(found.low)
