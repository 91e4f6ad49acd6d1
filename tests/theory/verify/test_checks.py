"""Every result is tested on fresh small worlds, and a wrong theorem is caught."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from theory.law import flow, forecast, theorem
from theory.verify import checks, flows, oracle, reversal, steps


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
        patch.setattr(reversal, "ALONE", (1.0, 3000))
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
    assert set(results) == {*(f"R{i}" for i in range(1, 10)), "R4+R5", "claim", "design"}
    for row in rows:
        assert row["statement"] == (theorem.STATEMENTS | theorem.BESIDE)[row["result"]]
        assert row["verdict"] in ("holds", "fails", "undecided", "reported")
        assert bool(row.get("refuted_by")) == (row["verdict"] != "reported"), row
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
        if row["verdict"] != "reported" and row["tolerance"] == 0:
            assert row["error"] == 0
    assert [row["arm"] for row in of(rows, "R2") if "of 2,400" in row["note"]] == ["base", "bottom", "base"]


def test_the_design_of_the_experiment_holds(rows):
    assert len(of(rows, "design")) == 6 and {row["verdict"] for row in of(rows, "design")} == {"holds"}
    (ties,) = (row for row in of(rows, "design") if "tied" in row["note"])
    assert ties["error"] == 0 and ", 0 of them tied" not in ties["note"]


def test_identities_are_called_so(rows):
    assert all(row["note"].startswith("identity") for row in [*of(rows, "R4"), *of(rows, "R7")])


def test_the_reduced_flow_is_followed_along_the_whole_path(rows):
    paths = [row for row in of(rows, "R5") if "on the path" in row["note"]]
    assert [row["arm"] for row in paths] == ["top", "bottom", "top"]
    assert "from where bottom ended" in paths[2]["note"]
    assert all(row["verdict"] == "holds" and 0 < row["error"] <= 0.01 for row in paths)


def test_the_window_s_boundary_is_predicted_and_measured(rows):
    crossing, exposure, _, distance = of(rows, "R8")
    for name in ("predicted", "measured"):
        assert 600 < crossing[name] < 3000
    assert crossing["verdict"] == exposure["verdict"] == "reported" and distance["tolerance"] == reversal.MAX_DISTANCE
    assert distance["verdict"] == ("holds" if distance["error"] <= 0.1 else "fails")
    assert 0 <= distance["error"] < 1
    assert "1 exponents × 2 worlds, 2 levels" in distance["note"]


def test_the_median_facts_exposure_at_the_boundary_is_near_where_halves_pull_alike(rows, config):
    crossing, exposure, *_ = of(rows, "R8")
    rate = config.pretrain.learning_rate * (1 - config.model.shared_share) / 2
    median = np.median(1 / np.arange(1, 301)) / np.sum(1 / np.arange(1, 301)) / 4
    assert 0.5 < exposure["predicted"] / exposure["measured"] < 2
    assert exposure["measured"] == pytest.approx(rate * crossing["measured"] * median, rel=1e-3)


def test_the_order_does_not_reverse_without_the_subjects_other_answers(rows):
    alone = of(rows, "R8")[2]
    with_others = float(alone["note"].split()[-1])
    assert alone["measured"] > 0 > with_others
    assert alone["verdict"] == ("holds" if alone["low"] > 0 else "undecided")


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
        (steps.own, "salience_threshold"),
        (steps.own, "share_force"),
        (steps.transfer, "force"),
        (steps.transfer, "transfer"),
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
    assert steps.transfer(config, fresh)[0]["verdict"] == "fails"


def test_a_flow_of_the_wrong_speed_fails(config, fresh, monkeypatch):
    real = flow.reduced_flow

    def slow(values, answer, times, **options):
        return real(values, answer, 0.7 * times, **options)

    monkeypatch.setattr(flow, "reduced_flow", slow)
    assert {row["verdict"] for row in flows.reduced_path(config, fresh)[:2]} == {"fails"}


@pytest.mark.parametrize("term", range(3))
def test_a_wrong_term_of_the_held_out_flow_fails_in_its_own_row(term, config, fresh, monkeypatch):
    real = flow.held_out_flow

    def wrong(*arguments, **options):
        path = real(*arguments, **options)
        path.logits[..., term] *= 1.1
        return path

    monkeypatch.setattr(flow, "held_out_flow", wrong)
    verdicts = [row["verdict"] for row in flows.held_out_terms(config, fresh)]
    assert [place for place, verdict in enumerate(verdicts) if verdict == "fails"] == [term]


def test_a_batched_forecast_that_differs_from_the_reference_fails(config, fresh, monkeypatch):
    (row,) = flows.batched(config, fresh)
    assert row["verdict"] == "holds" and row["error"] > 0
    real = forecast.integrate
    monkeypatch.setattr(forecast, "integrate", lambda *of, horizon: real(*of, horizon=0.9 * horizon))
    assert flows.batched(config, fresh)[0]["verdict"] == "fails"


def test_a_mean_force_at_the_wrong_share_fails(config, fresh, monkeypatch):
    real = flow.mean_force
    monkeypatch.setattr(flow, "mean_force", lambda values, answer, share: real(values, answer, 1 - share))
    assert {row["verdict"] for row in flows.mean_force(config, fresh)} == {"fails"}


def test_unsettled_names_what_is_undecided_or_has_no_verdict():
    every = [{"result": name, "verdict": "holds"} for name in theorem.STATEMENTS | theorem.BESIDE]
    assert checks.unsettled(every) == []
    undecided = [row | {"verdict": "undecided"} if row["result"] == "R5" else row for row in every]
    assert checks.unsettled(undecided) == ["R5"]
    reported = [row | {"verdict": "reported"} if row["result"] == "claim" else row for row in every]
    assert checks.unsettled(reported) == ["claim"]


def test_settings_that_cannot_be_run_are_refused_before_any_world_is_made(config, monkeypatch):
    monkeypatch.setattr(checks, "simulate", lambda *_: pytest.fail("a world was made"))
    with pytest.raises(InputError, match="--n-records"):
        checks.run(replace(config, n_records=0), 1)
    with pytest.raises(InputError, match="Leave --finetune.prompt at template."):
        checks.run(replace(config, finetune=replace(config.finetune, prompt="bare")), 1)
