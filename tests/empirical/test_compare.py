from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from core import runs as results
from core import statistics
from core.columns import PREDICTIONS
from core.seeds import Cell
from empirical import compare
from empirical import groups as of_groups
from empirical.groups import Group

LATER = (of_groups.GENERIC_WRONG, of_groups.SWAP_DIFFERING, "knockout_drop_first", *compare.CHOICES)
ARMS = ("base", "top", "bottom", "whole", "random")
RATE = {"base": 0.0, "top": 0.7, "whole": 0.6, "random": 0.6, "bottom": 0.3}


def _write(out, cell, rng, *, rate=RATE, n_relations=2, n=100, subject="s", has_choice=True):
    parts = []
    for arm in ARMS:
        correct = rng.random(n) < rate[arm]
        parts.append(
            {
                "arm": arm,
                "fact": np.arange(n),
                "subject": [subject and f"{subject}{i % 40}" for i in range(n)],
                "relation": [f"r{i % n_relations}" for i in range(n)],
                "knownness": np.arange(n, 0, -1.0),
                "role": "held_out",
                "correct": correct,
                "base_correct": np.arange(n) < 50,
                "predicted": ["x"] * n,
                "swapped_predicted": ["x" if arm == "bottom" else "y"] * n,
                "is_generic_arm": None if arm == "base" else ~correct,
                "generic_correct": [False] * n,
                "subject_attention": np.full(n, rate[arm]) + 0.01 * rng.normal(size=n),
                "subject_attention_nonsink": np.full(n, 0.5),
                "knockout_drop": np.full(n, rate[arm]),
                "knockout_drop_first": np.full(n, rate[arm] / 2),
                "swap_differs": np.arange(n) % 4 > 0,
            }
        )
        if has_choice:
            # Every fourth question has no choice; half of the wrong choices are the prior's.
            there = np.where(np.arange(n) % 4 < 3, 1.0, np.nan)
            chosen = [np.where(correct | even, there, there * 0) for even in (False, np.arange(n) % 2 == 0)]
            bits = [[None if np.isnan(v) else bool(v) for v in column] for column in chosen]
            parts[-1] |= dict(zip(compare.CHOICES, bits, strict=True))
    report = {"config": {}, "experiment": "made", "seeds": cell._asdict(), "metrics": {arm: {} for arm in ARMS}}
    path = results.directory(out, "empirical", "made", cell)
    results.write_run(path, report, {"facts": parts})


def _rows(out):
    runs = results.find_runs(out, "empirical", "made")
    rows = compare.of_runs("made", runs)
    compare.write("made", out, rows)
    return {(row["result"], row["arm"], row["note"]): row for row in rows}


def _one(rows, result, arm):
    return next(row for (name, pair, _), row in rows.items() if (name, pair) == (result, arm))


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    out = tmp_path_factory.mktemp("four")
    rng = np.random.default_rng(0)
    for world in range(4):
        for seed in range(2):
            _write(out, Cell(world, 0, seed), rng)
    return out


def test_a_clear_effect_holds_and_its_opposite_fails(four, tmp_path):
    rows = _rows(four)
    row = _one(rows, "a", "top − bottom")
    assert row["verdict"] == "holds" and row["measured"] == pytest.approx(0.4, abs=0.1) and row["seeds"] == 8
    assert "4 base models" in row["note"]
    opposite = RATE | {"top": 0.3, "bottom": 0.7}
    for world in range(3):
        _write(tmp_path, Cell(world, 0, 0), np.random.default_rng(world), rate=opposite)
    assert _one(_rows(tmp_path), "a", "top − bottom")["verdict"] == "fails"


def test_no_effect_is_undecided(tmp_path):
    for world in range(3):
        _write(tmp_path, Cell(world, 0, 0), np.random.default_rng(world), rate=dict.fromkeys(ARMS, 0.5))
    assert _one(_rows(tmp_path), "a", "top − bottom")["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.5, "holds"), (-0.1, 0.5, "undecided"), (-0.5, 0.1, "undecided"), (-0.5, -0.1, "fails")],
)
def test_a_sign_is_decided_by_an_interval_that_leaves_out_zero(low, high, verdict):
    found = statistics.PairedInterval((low + high) / 2, low, high, 0.5)
    for is_sign, expected in ((True, verdict), (False, "reported")):
        assert compare._measured("a", "top − bottom", found, 0.5, "", is_sign=is_sign)["verdict"] == expected


def test_base_models_are_the_unit_from_three_on(four):
    groups = compare.read(results.find_runs(four, "empirical", "made"))
    means = np.array([compare.difference(group, "top", "bottom", "correct").mean() for group in groups])
    row = _one(_rows(four), "a", "top − bottom")
    found = statistics.paired_interval(means, np.zeros(4))
    assert (row["measured"], row["low"], row["high"]) == pytest.approx((found.mean, found.low, found.high))


def _group(world, **columns):
    """Return a group of ten questions, a cluster each, whose columns differ between top and bottom by these."""
    by_arm = {
        "top": {name: np.atleast_2d(np.asarray(gap, dtype=float)) for name, gap in columns.items()},
        "bottom": {name: np.zeros((1, len(gap))) for name, gap in columns.items()},
    }
    n = len(next(iter(columns.values())))
    return Group(world, (0,), by_arm, np.arange(n), np.arange(n) * 5 // n, False)


def _gap(group):
    return compare.difference(group, "top", "bottom", "correct")


def test_splits_of_one_base_model_count_once():
    gaps = [0.1, 0.3, 0.5, 0.9]
    worlds = [0, 1, 2, 2]
    groups = [_group(world, correct=[gap] * 10) for world, gap in zip(worlds, gaps, strict=True)]
    assert (compare.unit(groups), compare.counted(groups)) == ("base models", "3 base models")
    expected = statistics.paired_interval(np.array([0.1, 0.3, 0.7]), np.zeros(3))
    assert compare.interval(groups, _gap) == pytest.approx(expected)


def test_the_gap_at_a_common_rate_is_that_of_the_rates_that_both_halves_of_all_were_tried_at():
    gaps = {0: {1e-3: 0.25, 1e-2: 0.5}, 1: {1e-3: 0.75}, 2: {1e-3: 0.5, 1e-1: 1.0}}
    by_rate = {
        world: {rate: {"top": np.full((1, 8), gap), "bottom": np.zeros((1, 8))} for rate, gap in of_world.items()}
        for world, of_world in gaps.items()
    }
    by_rate[1][1e-2] = {"top": np.ones((1, 8))}
    groups = [replace(_group(world, correct=[0.0] * 8), by_rate=tried) for world, tried in by_rate.items()]
    assert compare._common_rates(groups) == [1e-3]
    row = compare._at_rate(groups, 1e-3)
    expected = statistics.paired_interval(np.array([0.25, 0.75, 0.5]), np.zeros(3))
    assert (row["measured"], row["low"], row["high"], row["p_value"]) == pytest.approx(expected)
    assert (row["verdict"], row["stratum"]) == ("reported", "rate 0.001") and "3 base models" in row["note"]
    row = compare._at_rate(
        [replace(groups[0], by_rate={1e-3: {"top": np.eye(1, 8), "bottom": np.zeros((1, 8))}})], 1e-3
    )
    assert row["measured"] == 1 / 8 and row["low"] == 0 < row["high"] and "questions by subject" in row["note"]


def test_two_base_models_are_too_few_to_be_the_unit_and_weigh_alike():
    groups = [_group(0, correct=[0.0] * 10), _group(1, correct=[1.0] * 50)]
    found = compare.interval(groups, _gap)
    assert compare.unit(groups) == "questions by subject"
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)  # no question differs from its like


def test_questions_without_a_value_are_left_out_of_mean_and_interval():
    gap = np.array([1.0, 0, 0, 1, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan])
    found = compare.interval([_group(0, correct=gap)], _gap)
    assert found.mean == 0.5 and 0 <= found.low < 0.5 < found.high <= 1


def test_the_middle_is_three_fifths_less_the_outer_two():
    gap = [0.1, 0.3, 0.5, 0.7, 0.9, 0.9, 0.4, 0.4, 0.0, 0.2]
    row = compare._middle([_group(0, correct=gap)])
    assert row["measured"] == pytest.approx(np.mean(gap[2:8]) - np.mean(gap[:2] + gap[8:]))
    assert row["result"] == "d" and row["verdict"] in ("holds", "undecided")


def test_fewer_questions_than_fifths_have_no_fifths():
    rows = compare.rows("made", [_group(0, correct=[1.0, 0.0, 1.0], generic_correct=[0.0] * 3)], ["top"])
    assert rows == []
    columns = dict.fromkeys(
        ("correct", "subject_attention", "subject_attention_nonsink", "is_generic_arm", "retained", "unknown_accuracy"),
        [1.0, 0.0, 1.0],
    ) | dict.fromkeys(("generic_correct", "is_swap_invariant", "knockout_drop", *LATER), [0.0] * 3)
    rows = compare.rows("made", [_group(0, **columns)], ["top", "bottom"])
    results = {"a", "b", "c", "retention", "unknown", "wrong", "swap", "knockout", "choice"}
    assert {row["result"] for row in rows} == results


def test_each_sign_is_taken_in_the_direction_that_its_statement_says(four):
    rows = _rows(four)
    for result, arm, gap in (
        ("a", "top − bottom", 0.4),
        ("b", "top − bottom", 0.4),
        ("c", "bottom − top", 0.4),
        ("f", "top − random", 0.1),
        ("f", "random − bottom", 0.3),
        ("whole", "top − whole", 0.1),
        ("swap", "bottom − top", 1.0),
        ("knockout", "top − bottom", 0.4),
    ):
        row = _one(rows, result, arm)
        assert row["measured"] == pytest.approx(gap, abs=0.1), result
        allowed = {"f": ("holds", "undecided")}.get(result, ("holds",)) if result in "abcf" else ("reported",)
        assert row["verdict"] in allowed, result


def test_a_relation_is_a_cluster_only_where_there_are_ten_and_a_fact_without_a_subject_is_its_own(tmp_path):
    _write(tmp_path, Cell(0, 0, 0), np.random.default_rng(0), n_relations=10)
    _write(tmp_path, Cell(0, 1, 0), np.random.default_rng(0), n_relations=9)
    by_relation, by_subject = compare.read(results.find_runs(tmp_path, "empirical", "made"))
    assert by_relation.by_relation and len(set(by_relation.cluster)) == 10
    assert not by_subject.by_relation and len(set(by_subject.cluster)) == 40
    assert compare.unit([by_relation, by_subject]) == "questions by subject"
    _write(tmp_path, Cell(0, 2, 0), np.random.default_rng(0), subject="")
    assert len(set(compare.read(results.find_runs(tmp_path, "empirical", "made"))[2].cluster)) == 100


@pytest.mark.parametrize(("n_relations", "unit"), [(2, "questions by subject"), (12, "questions by relation")])
def test_below_three_questions_are_the_unit(n_relations, unit, tmp_path):
    for seed in range(2):
        _write(tmp_path, Cell(0, 0, seed), np.random.default_rng(seed), n_relations=n_relations)
    row = _one(_rows(tmp_path), "a", "top − bottom")
    assert row["unit"] == unit and unit in row["note"] and row["low"] < row["measured"] < row["high"]


def test_one_run_has_mcnemars_exact_p(tmp_path):
    _write(tmp_path, Cell(0, 0, 0), np.random.default_rng(3), rate=RATE | {"top": 0.55, "bottom": 0.45})
    (group,) = compare.read(results.find_runs(tmp_path, "empirical", "made"))
    top, bottom = (group.columns[arm]["correct"][0] == 1 for arm in ("top", "bottom"))
    row = _one(_rows(tmp_path), "a", "top − bottom")
    assert row["p_value"] == statistics.mcnemar(top, bottom) and "McNemar" in row["note"]


def test_what_was_kept_and_what_was_guessed_are_parted_by_what_the_base_recalls(four):
    (group, *_) = compare.read(results.find_runs(four, "empirical", "made"))
    columns = group.columns["top"]
    assert np.isnan(columns["retained"][:, 50:]).all() and np.isnan(columns["unknown_accuracy"][:, :50]).all()
    np.testing.assert_array_equal(columns["retained"][:, :50], columns["correct"][:, :50])


def test_fifths_part_the_questions_by_knownness(four):
    (group, *_) = compare.read(results.find_runs(four, "empirical", "made"))
    np.testing.assert_array_equal(group.fifth, np.repeat(np.arange(5), 20))
    rows = [row for row in _rows(four).values() if row["result"] == "d"]
    gaps = {row["stratum"]: row["measured"] for row in rows if "stratum" in row}
    assert list(gaps) == [f"fifth {fifth}" for fifth in range(1, 6)]
    assert np.mean(list(gaps.values())) == pytest.approx(_one(_rows(four), "a", "top − bottom")["measured"])


def test_an_answer_that_stays_but_for_its_writing_is_swap_invariant(tmp_path):
    _write(tmp_path, Cell(0, 0, 0), np.random.default_rng(0))
    (run,) = results.find_runs(tmp_path, "empirical", "made")
    table = run.table("facts")
    for swapped in ("x", "The X."):
        one = table.set_column(
            table.schema.get_field_index("swapped_predicted"), "swapped_predicted", [[swapped] * 500]
        )
        assert of_groups._arm_columns(one, "top")["is_swap_invariant"].all()


def test_swaps_with_an_answer_in_common_are_left_out_beside_all_and_the_note_says_how_many_stay(four):
    every, differing = (row for row in _rows(four).values() if row["result"] == "swap")
    assert "75% of the swaps" in differing["note"] and "of the swaps" not in every["note"]
    (group, *_) = compare.read(results.find_runs(four, "empirical", "made"))
    columns = group.columns["bottom"]
    left = np.arange(100) % 4 > 0
    assert np.isnan(columns[of_groups.SWAP_DIFFERING][:, ~left]).all()
    np.testing.assert_array_equal(columns[of_groups.SWAP_DIFFERING][:, left], columns["is_swap_invariant"][:, left])


def test_what_has_no_value_has_no_row(tmp_path):
    _write(tmp_path, Cell(0, 0, 0), np.random.default_rng(0))
    (group,) = compare.read(results.find_runs(tmp_path, "empirical", "made"))
    for column in ("knockout_drop", "knockout_drop_first"):
        group.columns["top"][column][:] = np.nan
    assert "knockout" not in {row["result"] for row in compare.rows("made", [group], ARMS)}


def test_predictions_are_written_in_the_columns_of_both_flows(four):
    made = _rows(four)
    table = results.read_table(four / "empirical" / "made" / "predictions.parquet")
    assert table.num_rows == len(made) and table.schema.names == PREDICTIONS.names
    assert set(table["verdict"].to_pylist()) <= {"holds", "fails", "undecided", "reported"}
    of_other_arms = {"g", "rarity", "matched", "crossed", "common_rate"}
    assert set(compare.STATEMENTS) - of_other_arms == set(table["result"].to_pylist())


def test_the_gap_of_choices_is_told_with_the_prior_and_without_and_how_much_of_it_is_left(four, tmp_path):
    rows = [row for row in _rows(four).values() if row["result"] == "choice"]
    whole, rest, left = (row["measured"] for row in rows)
    groups = compare.read(results.find_runs(four, "empirical", "made"))
    expected = [
        np.mean([np.nanmean(compare.difference(group, "top", "bottom", column)) for group in groups])
        for column in compare.CHOICES
    ]
    assert [whole, rest] == pytest.approx(expected) and 0 < rest < whole
    assert left == pytest.approx(rest / whole) and rows[2]["low"] < left < rows[2]["high"] < 1
    assert {row["verdict"] for row in rows} == {"reported"} and np.isnan(rows[2]["p_value"])
    # Of one base model over its questions: wider, and around the same ratio of means.
    for seed in range(2):
        _write(tmp_path, Cell(0, 0, seed), np.random.default_rng(seed))
    *_, alone = (row for row in _rows(tmp_path).values() if row["result"] == "choice")
    assert alone["low"] < alone["measured"] < alone["high"] and "questions by subject" in alone["note"]
    assert alone["high"] - alone["low"] > rows[2]["high"] - rows[2]["low"]


def test_the_share_left_of_no_gap_is_unbounded():
    gap = np.tile([1.0, -1.0], 5)
    row = compare._left([_group(0, chosen_correct=gap + 0.01, chosen_correct_less_prior=gap)])
    assert (row["low"], row["high"]) == (-np.inf, np.inf)


def test_runs_from_before_some_columns_were_measured_are_compared_as_before(four, tmp_path):
    _write(tmp_path, Cell(0, 0, 0), np.random.default_rng(0), has_choice=False)
    (run,) = results.find_runs(tmp_path, "empirical", "made")
    old = run.table("facts").drop_columns([*compare.CHOICES, "knockout_drop_first", "swap_differs"])
    pq.write_table(old, run.path / "facts.parquet")
    rows = _rows(tmp_path)
    assert [row["note"].partition(" (")[0] for row in rows.values() if row["result"] in ("swap", "knockout")] == [
        "answers that stay when the subject is swapped",
        "log-probability lost without attention to the subject, nats",
    ]
    assert {row["result"] for row in rows.values()} == {row["result"] for row in _rows(four).values()} - {"choice"}
    _write(tmp_path, Cell(0, 0, 1), np.random.default_rng(1))  # one old and one new seed of a base model
    assert "choice" in {row["result"] for row in _rows(tmp_path).values()}


ALL_ARMS = (
    *("rare", "common", "random", "top_matched", "bottom_matched"),
    *("known_common", "known_rare", "unknown_common", "unknown_rare"),
)
COLUMNS = ("correct", "retained", "is_generic_arm", "subject_attention")


def _of_arms(world, arms, given):
    """Return a group of four questions, a cluster each, whose columns are zero but for those given by arm."""
    columns = {arm: {name: np.zeros((1, 4)) for name in COLUMNS} for arm in arms}
    for arm, of_arm in given.items():
        columns[arm] |= {name: np.atleast_2d(np.asarray(values, dtype=float)) for name, values in of_arm.items()}
    return Group(world, (0,), columns, np.arange(4), np.zeros(4, dtype=int), False)


def _by_place(made):
    """Return rows by result, arm and the note before its unit."""
    return {(row["result"], row["arm"], row["note"].partition(" (")[0]): row for row in made}


CROSSED = {
    "known_common": {"correct": [1, 1, 1, 0], "retained": [1, np.nan, 1, np.nan]},
    "known_rare": {"correct": [1, 1, 1, 1], "retained": [1, np.nan, 1, np.nan]},
    "unknown_common": {"correct": [1, 0, 0, 0], "retained": [0, np.nan, 0, np.nan]},
    "unknown_rare": {"correct": [1, 1, 0, 0], "retained": [1, np.nan, 0, np.nan]},
}
"""Accuracies 3/4, 1, 1/4 and 1/2; of what the base recalls 1, 1, 0 and 1/2."""


def test_the_crossed_contrasts_are_half_sums_of_differences_and_the_difference_of_differences():
    rows = _by_place(compare.rows("made", [_of_arms(0, CROSSED, CROSSED)], list(CROSSED)))
    expected = {
        ("g", "rare − common, of equal knownness"): ((1 + 0.5) / 2 - (0.75 + 0.25) / 2, (1 + 0.5) / 2 - (1 + 0) / 2),
        ("crossed", "known − unknown, of equal rarity"): ((0.75 + 1) / 2 - (0.25 + 0.5) / 2, (1 + 1 - 0 - 0.5) / 2),
        ("crossed", "effect of rarity, known − unknown"): ((1 - 0.5) - (0.75 - 0.25), (1 - 0.5) - (1 - 0)),
    }
    for (result, arm), (accuracy, retained) in expected.items():
        measured = rows[result, arm, "held-out accuracy"]["measured"]
        assert measured == pytest.approx(accuracy, abs=1e-12)
        kept = rows[result, arm, "accuracy where the base model recalls the fact"]["measured"]
        assert kept == pytest.approx(retained, abs=1e-12)
    assert len(rows) == len(expected) * len(COLUMNS)
    assert all(row["statement"] == compare.STATEMENTS[row["result"]] for row in rows.values())


@pytest.mark.parametrize(
    ("result", "one", "other", "column"),
    [
        ("rarity", "rare", "common", "correct"),
        ("rarity", "rare", "random", "correct"),
        ("rarity", "common", "random", "correct"),
        ("rarity", "rare", "common", "retained"),
        *(("matched", "top_matched", "bottom_matched", column) for column in COLUMNS),
    ],
)
def test_rarity_and_matched_are_differences_of_two_arms(result, one, other, column):
    given = {one: {column: [1, 1, 0, 1]}, other: {column: [0, 1, 0, 0]}}
    made = compare.rows("made", [_of_arms(0, ALL_ARMS, given)], list(ALL_ARMS))
    notes = dict(zip(COLUMNS, compare.CROSSED_COLUMNS.values(), strict=True))
    row = _by_place(made)[result, f"{one} − {other}", notes[column]]
    assert row["measured"] == 0.5 and row["verdict"] == "reported" and row["unit"] == "questions by subject"


def test_only_accuracy_of_equal_knownness_is_a_sign_and_the_base_models_are_its_unit():
    def group(world, gap):
        shift = {arm: {"correct": np.full(4, gap * ("rare" in arm))} for arm in CROSSED}
        return _of_arms(world, CROSSED, shift)

    for sign, verdict in ((1, "holds"), (-1, "fails")):
        made = compare.rows(
            "made", [group(world, sign * gap) for world, gap in enumerate((0.2, 0.25, 0.3))], [*CROSSED]
        )
        row = _by_place(made)["g", "rare − common, of equal knownness", "held-out accuracy"]
        found = statistics.paired_interval(sign * np.array([0.2, 0.25, 0.3]), np.zeros(3))
        assert row["verdict"] == verdict and "3 base models" in row["note"]
        assert (row["measured"], row["low"], row["high"]) == pytest.approx((found.mean, found.low, found.high))
        assert [row["result"] for row in made if row["verdict"] != "reported"] == ["g"]


@pytest.mark.parametrize("absent", ALL_ARMS)
def test_an_arm_that_was_not_run_has_no_row(absent):
    arms = [arm for arm in ALL_ARMS if arm != absent]
    made = compare.rows("made", [_of_arms(0, arms, {})], arms)
    everything = compare.rows("made", [_of_arms(0, ALL_ARMS, {})], list(ALL_ARMS))

    def has_part(row):
        is_contrast = row["result"] in ("g", "crossed")
        return absent in CROSSED if is_contrast else absent in row["arm"].split(" − ")

    expected = [row for row in everything if not has_part(row)]
    assert made == expected and len(made) < len(everything)


def test_a_column_that_one_crossed_arm_has_no_value_of_has_no_row():
    given = CROSSED | {"known_rare": {"correct": [1, 1, 1, 1], "retained": [np.nan] * 4}}
    made = compare.rows("made", [_of_arms(0, CROSSED, given)], list(CROSSED))
    assert len(made) == 9 and not any("recalls" in row["note"] for row in made)
