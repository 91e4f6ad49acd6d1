"""Deep runs beside the theory's signs, from tables whose numbers are known."""

import numpy as np
import pytest

from core import columns, signs
from core import runs as results
from theory.deep import compare
from theory.deep.compare import Outcome

ACCURACY = {"base": 0.0, "top": 0.6, "whole": 0.58, "random": 0.5, "bottom": 0.4}


def outcome(world: int, gaps=(0.1, 0.3, 0.2), **changed) -> Outcome:
    """A run in which everything is as the theory predicts, but for what is changed."""
    rng = np.random.default_rng(world)
    metrics = {
        arm: {"accuracy": value, "subject_attention": value, "generic_rate": 1 - value}
        for arm, value in ACCURACY.items()
    }
    for arm, numbers in changed.items():
        metrics[arm] |= numbers
    noisy = {arm: {name: value + 0.01 * rng.normal() for name, value in of.items()} for arm, of in metrics.items()}
    return Outcome(world, noisy, np.array(gaps) + 0.01 * rng.normal(size=3))


def verdicts(**changed) -> dict[str, str]:
    made = compare.rows("mine", [outcome(world, **changed) for world in range(4)])
    return {sign: signs.overall(made, sign) for sign in signs.SIGNS}


def test_every_sign_holds_where_everything_is_as_predicted():
    assert verdicts() == dict.fromkeys("abcdf", "holds")


@pytest.mark.parametrize(
    ("changed", "sign", "expected"),
    [
        ({"top": {"accuracy": 0.2}}, "a", "fails"),
        ({"top": {"accuracy": 0.4}}, "a", "undecided"),
        ({"top": {"subject_attention": 0.2}}, "b", "fails"),
        ({"top": {"generic_rate": 0.9}}, "c", "fails"),
        ({"gaps": (0.1, 0.2, 0.3)}, "d", "fails"),
        ({"gaps": (0.1, 0.3, 0.3)}, "d", "undecided"),
        ({"random": {"accuracy": 0.7}}, "f", "fails"),
        ({"random": {"accuracy": 0.6}}, "f", "undecided"),
    ],
)
def test_a_sign_fails_or_is_undecided_by_its_interval(changed, sign, expected):
    assert verdicts(**changed)[sign] == expected


def test_between_means_between_also_where_the_order_of_the_halves_is_reversed():
    found = verdicts(top={"accuracy": 0.4}, bottom={"accuracy": 0.6})
    assert (found["a"], found["f"]) == ("fails", "holds")


def test_one_world_decides_nothing():
    made = compare.rows("mine", [outcome(0)])
    assert {signs.overall(made, sign) for sign in signs.SIGNS} == {"undecided"}


def test_rows_are_rows_of_the_table_of_predictions():
    made = compare.rows("mine", [outcome(world) for world in range(3)])
    assert all(set(row) <= set(columns.PREDICTIONS.names) for row in made)
    first = made[0]
    assert (first["experiment"], first["seeds"], first["result"], first["arm"]) == ("mine", 3, "a", "top − bottom")
    assert first["measured"] == pytest.approx(0.2, abs=0.03)
    assert first["low"] < first["measured"] < first["high"] and first["unit"] == "worlds"


def test_thirds_are_strata_that_are_counted_from_the_best_known():
    made = compare.rows("mine", [outcome(0)])
    strata = {row["stratum"]: row["note"] for row in made if "stratum" in row}
    assert strata == {
        "third 3": "accuracy gap, least known third",
        "third 2": "accuracy gap, middle third",
        "third 1": "accuracy gap, best known third",
    }
    assert {row["unit"] for row in made} == {None}


def finished(folder, world: int, **tables) -> results.Run:
    """A run directory whose tables are made up."""
    path = folder / str(world)
    results.write_run(path, {"config": {}, "seeds": {"pretrain": world}, "metrics": {}}, tables)
    return results.read_run(path)


def test_the_gap_by_third_is_over_held_out_facts_in_the_order_of_knownness(tmp_path):
    knownness = np.array([5.0, 1.0, 3.0, 6.0, 2.0, 4.0, 100.0])
    role = ["held_out"] * 6 + ["train"]
    correct = {"top": [1, 0, 1, 1, 1, 1, 0], "bottom": [0, 0, 0, 1, 1, 1, 1]}
    parts = [
        {"arm": arm, "fact": np.arange(7), "role": role, "knownness": knownness, "correct": np.array(right, bool)}
        for arm, right in correct.items()
    ]
    found = compare.read(finished(tmp_path, 0, facts=parts))
    # Sorted by knownness the leads are 0 0 | 1 0 | 1 0.
    np.testing.assert_allclose(found.gaps, [0, 0.5, 0.5])


def test_changes_name_the_layer_and_each_worlds_largest_head(tmp_path):
    def run(world: int, top: list[list[float]]) -> results.Run:
        rows = [
            {"arm": arm, "layer": layer, "head": head, "position": "prompt_end", "span": span}
            | {"mean": value if span == "subject" else 99.0}
            for arm, of in {"base": [[0.1] * 2] * 2, "top": top, "bottom": [[0.2] * 2] * 2}.items()
            for layer, heads in enumerate(of)
            for head, value in enumerate(heads)
            for span in ("subject", "template")
        ]
        return finished(tmp_path, world, attention={name: [row[name] for row in rows] for name in rows[0]})

    runs = [run(0, [[0.2, 0.2], [0.6, 0.1]]), run(1, [[0.2, 0.2], [0.2, -0.5]])]
    first, second = compare.changes(runs)
    assert (first.layer, second.layer, second.position) == (0, 1, "prompt_end")
    np.testing.assert_allclose(second.base, 0.1)
    np.testing.assert_allclose(second.top - second.bottom, [0.15, -0.35])
    np.testing.assert_allclose(second.largest, [0.4, -0.7])
