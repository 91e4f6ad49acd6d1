"""Every result is tested on fresh small worlds, and a wrong theorem is caught."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from theory.law import flow, theorem
from theory.verify import checks, oracle, reversal


@pytest.fixture(scope="module")
def config(small):
    """Fewer steps of finetuning: the reduced flow is simulated in ten times as many."""
    return replace(small, finetune=replace(small.finetune, steps=50))


@pytest.fixture(scope="module")
def rows(config):
    """All rows on two fresh worlds, the reversal on two levels that lie on either side of its boundary."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reversal, "LEVELS", (600, 3000))
        patch.setattr(reversal, "EXPONENTS", (1.0,))
        made = checks.run(config, 2, lambda doing, n: told.append((doing, n)))
    assert sum(n for _, n in told) == len(checks.CHECKS)
    return made


@pytest.fixture(scope="module")
def fresh(config):
    return checks.simulate(config, 2)


def of(rows, result):
    return [row for row in rows if row["result"] == result]


def test_every_result_has_rows_in_order_with_its_statement(rows):
    results = [row["result"] for row in rows]
    assert results == sorted(results)
    assert set(results) == {"R4+R5", *(f"R{i}" for i in range(1, 9))}
    for row in rows:
        assert row["statement"] == theorem.STATEMENTS[row["result"]]
        assert row["verdict"] in ("holds", "fails", "undecided", "reported")
        assert (row["experiment"], row["seeds"]) == ("verify", 2)


@pytest.mark.parametrize("result", ["R1", "R2", "R3", "R4", "R7"])
def test_the_exact_results_hold(rows, result):
    verdicts = {row["verdict"] for row in of(rows, result)}
    assert "holds" in verdicts and verdicts <= {"holds", "reported"}


def test_forms_and_force_agree_in_double_precision(rows):
    force, forms = of(rows, "R1")
    assert 0 < force["error"] <= force["tolerance"] == 1e-10
    assert 0 < forms["error"] <= forms["tolerance"] == 1e-9


def test_exact_results_hold_on_every_fact(rows):
    for row in [*of(rows, "R2"), *of(rows, "R4"), *of(rows, "R7")]:
        if row["verdict"] != "reported":
            assert row["error"] == row["tolerance"] == 0
    assert any("of 2,400" in row["note"] for row in of(rows, "R2"))


def test_the_reduced_flow_is_followed_along_the_whole_path(rows):
    paths = [row for row in of(rows, "R5") if row.get("tolerance") == 0.01]
    assert [row["arm"] for row in paths] == ["top", "bottom"]
    assert all(row["verdict"] == "holds" and 0 < row["error"] <= 0.01 for row in paths)


def test_the_window_s_boundary_is_predicted_and_measured(rows):
    crossing, distance = of(rows, "R8")
    for name in ("predicted", "measured"):
        assert 600 < crossing[name] < 3000
    assert crossing["verdict"] == distance["verdict"] == "reported"
    assert 0 <= distance["error"] < 1
    assert "1 exponents × 2 worlds, 2 levels" in distance["note"]


def test_a_real_tables_facts_have_no_reversal(config, fresh):
    named = replace(config, facts=replace(config.facts, path=Path("facts.tsv")))
    assert reversal.boundary(named, fresh) == []


def negated(function):
    def wrong(*arguments, **options):
        return -function(*arguments, **options)

    return wrong


@pytest.mark.parametrize(
    ("check", "name"),
    [
        (checks.own_step, "salience_threshold"),
        (checks.first_step, "force"),
        (checks.first_step, "transfer"),
    ],
)
def test_a_theorem_of_the_wrong_sign_fails(check, name, config, fresh, monkeypatch):
    monkeypatch.setattr(theorem, name, negated(getattr(theorem, name)))
    assert "fails" in {row["verdict"] for row in check(config, fresh)}


def test_a_force_of_the_wrong_sign_is_not_the_derivative(config, monkeypatch):
    assert oracle.force_error(config.model, seed=1) < 1e-10
    monkeypatch.setattr(theorem, "force", negated(theorem.force))
    assert oracle.force_error(config.model, seed=1) == pytest.approx(2)


def test_a_theorem_that_forgets_the_facts_of_the_same_relation_fails(config, fresh, monkeypatch):
    real = theorem.transfer

    def forgetful(force, relation, attention, held_out_relation, **options):
        return real(force, relation, attention, np.full_like(held_out_relation, relation.max() + 1), **options)

    monkeypatch.setattr(theorem, "transfer", forgetful)
    assert checks.first_step(config, fresh)[0]["verdict"] == "fails"


def test_a_flow_of_the_wrong_speed_fails(config, fresh, monkeypatch):
    real = flow.reduced_flow
    monkeypatch.setattr(flow, "reduced_flow", lambda values, answer, times: real(values, answer, 0.7 * times))
    assert {row["verdict"] for row in checks.reduced_path(config, fresh)} == {"fails"}


def test_settings_that_cannot_be_run_are_refused_before_any_world_is_made(config, monkeypatch):
    monkeypatch.setattr(checks, "simulate", lambda *_: pytest.fail("a world was made"))
    with pytest.raises(InputError, match="--n-records"):
        checks.run(replace(config, n_records=0), 1)
    with pytest.raises(InputError, match="Leave --finetune.prompt at template."):
        checks.run(replace(config, finetune=replace(config.finetune, prompt="bare")), 1)
