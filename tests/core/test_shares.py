import numpy as np
import pytest

from core import runs, shares, statistics
from core.runs import Run
from core.shares import Outcome


def test_a_share_is_of_the_gap_and_its_interval_is_over_subjects():
    right = np.zeros(40, dtype=bool)
    own, theirs = Outcome(np.full(40, -2.0), right), Outcome(np.full(40, -1.0), np.arange(40) < 20)
    found = {"receiver": own, "donor": theirs, "half": Outcome(np.full(40, -1.5), np.arange(40) < 10)}
    columns = shares.table(found, np.arange(40) % 13, seed=0)
    assert columns["share"][2] == 0.5 and columns["logprob_share"][2] == 0.5
    assert columns["share_low"][2] < 0.5 < columns["share_high"][2] and columns["accuracy"][2] == 0.25
    assert columns["logprob_share_low"][2] == pytest.approx(0.5)


def test_models_that_do_not_differ_have_no_shares():
    same = Outcome(np.full(4, -2.0), np.zeros(4, dtype=bool))
    columns = shares.table({"receiver": same, "donor": same, "any": same}, np.arange(4), seed=0)
    assert np.isnan(columns["share"]).all() and np.isnan(columns["logprob_share"]).all()


def test_a_gap_in_a_few_subjects_alone_has_a_share_without_bounds():
    none, one = np.zeros(5, dtype=bool), np.arange(5) == 0
    found = {"receiver": Outcome(np.full(5, -2.0), none), "donor": Outcome(np.full(5, -1.0), one)}
    columns = shares.table(found, np.arange(5), seed=0)
    assert columns["share"][1] == 1 and np.isinf(columns["share_low"][1])


def written(path, seeds, **accuracy) -> Run:
    rows = {"receiver": "bottom", "donor": "top", "intervention": list(accuracy)}
    rows |= {"moved_variance": 0.0004, "gap_variance": 0.0001, "covariance": 0.0}
    rows |= {"accuracy": list(accuracy.values()), "logprob": [4 * one for one in accuracy.values()]}
    place = path / "-".join(map(str, seeds))
    report = {"seeds": dict(zip(("pretrain", "split", "seed"), seeds, strict=True)), "config": {}}
    runs.write_run(place, report, {"mediation": [rows]})
    return runs.read_run(place)


def test_shares_over_runs_are_of_the_mean_gap_and_finetunings_of_a_base_are_averaged(tmp_path):
    cells = {(0, 0, 0): (0.1, 0.5, 0.2), (0, 0, 1): (0.3, 0.5, 0.4), (1, 0, 0): (0.2, 0.6, 0.2)}
    made = [
        written(tmp_path, seeds, receiver=own, donor=other, mlp=given) for seeds, (own, other, given) in cells.items()
    ]
    (share,) = shares.of_runs(made)
    assert share[:3] == ("bottom", "top", "mlp") and share.by_unit == pytest.approx((0.1 / 0.3, 0.0))
    assert share.share.mean == pytest.approx(0.1 / 0.7) and share.gap == pytest.approx(0.35)
    assert share.logprob_share == pytest.approx(0.1 / 0.7)
    assert share.share[1:] == pytest.approx(statistics.ratio_interval(np.array([0.1, 0.0]), np.array([0.3, 0.4]))[1:])


def test_shares_of_one_base_model_are_over_the_questions_of_all_its_splits(tmp_path):
    cells = {(0, 0, 0): (0.2, 0.6, 0.3), (0, 1, 1): (0.2, 0.6, 0.5)}
    made = [
        written(tmp_path, seeds, receiver=own, donor=other, mlp=given) for seeds, (own, other, given) in cells.items()
    ]
    (share,), (alone,) = shares.of_runs(made), shares.of_runs(made[:1])
    assert share.by_unit == pytest.approx((0.25, 0.75)) and share.share.mean == pytest.approx(0.5)
    for found, moved, n in ((share, 0.2, 2), (alone, 0.1, 1)):
        for ratio in found.share[1:]:
            error = np.sqrt((0.0004 + ratio**2 * 0.0001) / n)
            assert abs(moved - ratio * 0.4) == pytest.approx(1.95996 * error, rel=1e-4)


def kept(path, split, subjects, moved) -> Run:
    """Write a run whose donor is right and receiver wrong everywhere, and what is given moves these questions."""
    n = len(moved)
    outcomes = {"receiver": np.zeros(n, bool), "donor": np.arange(n) < n - 1, "mlp": np.asarray(moved, bool)}
    found = {name: Outcome(np.zeros(n), right) for name, right in outcomes.items()}
    rows = {"receiver": "bottom", "donor": "top", **shares.table(found, np.arange(n), seed=0)}
    facts = {"arm": "base", "role": "held_out", "subject": subjects, "fact": np.arange(n)}
    arrays = {"mediation_by_question": {f"bottom:top/{name}/is_right": right for name, right in outcomes.items()}}
    report = {"seeds": {"pretrain": 0, "split": split, "seed": 0}, "config": {}}
    runs.write_run(path / str(split), report, {"mediation": [rows], "facts": [facts]}, arrays)
    return runs.read_run(path / str(split))


def test_a_split_of_the_same_questions_adds_nothing_and_one_of_others_does(tmp_path):
    names, moved = [f"s{i}" for i in range(40)], np.arange(40) % 3 == 0
    splits = {0: names, 1: names, 2: [name.upper() for name in names], 3: [f"t{i}" for i in range(40)]}
    made = {split: kept(tmp_path, split, own, moved) for split, own in splits.items()}

    def width(*split):
        (share,) = shares.of_runs([made[one] for one in split])
        return share.share.high - share.share.low

    assert width(0, 1) == pytest.approx(width(0), rel=0.05) == pytest.approx(width(0, 2), rel=0.05)
    assert width(0, 3) == pytest.approx(width(0) / np.sqrt(2), rel=0.05)


def test_runs_in_which_nothing_was_given_have_no_shares(tmp_path):
    runs.write_run(tmp_path / "run", {"seeds": {}, "config": {}}, {})
    assert shares.of_runs([runs.read_run(tmp_path / "run")]) == []
