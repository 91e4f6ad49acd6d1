import json
from dataclasses import replace

import numpy as np
import pytest

from core import closed_form, config_json, split
from core.seeds import Cell
from theory import evaluate, measure, pipeline

ARMS = ("base", *split.ARMS)


@pytest.fixture(scope="module")
def simulation(small):
    return pipeline.simulate(small, [Cell(0, 0, 0)])[0]


@pytest.fixture(scope="module")
def measured(small, simulation):
    return measure.run(small, simulation)


def by_arm(columns):
    return {part["arm"]: part for part in columns}


def test_every_arm_has_every_foreground_fact_and_every_metric(measured, simulation):
    metrics, facts, trace = measured
    assert tuple(metrics) == tuple(by_arm(facts)) == tuple(by_arm(trace)) == ARMS
    for arm in ARMS:
        np.testing.assert_array_equal(by_arm(facts)[arm]["fact"], np.arange(1200))
        absent = {name for name, value in metrics[arm].items() if np.isnan(value)}
        assert absent == ({"train_accuracy", "generic_rate_arm"} if arm == "base" else set())
    json.dumps(config_json.plain(metrics), allow_nan=False)


def test_metrics_are_means_over_held_out_facts(measured, simulation):
    metrics, facts, _ = measured
    for arm, columns in by_arm(facts).items():
        held_out = columns["role"] == "held_out"
        found = metrics[arm]
        assert found["n"] == held_out.sum() == 600
        for metric, name in {
            "accuracy": "correct",
            "base_recall": "base_correct",
            "generic_accuracy": "generic_correct",
            "generic_rate": "is_generic",
            "subject_attention": "subject_attention",
            "template_attention": "template_attention",
        }.items():
            assert found[metric] == pytest.approx(columns[name][held_out].mean()), metric
        assert found["loss"] == pytest.approx(-columns["answer_logprob"][held_out].mean())
        known = held_out & columns["base_correct"]
        assert found["retention"] == pytest.approx(columns["correct"][known].mean())
        assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
        if arm != "base":
            assert found["train_accuracy"] == pytest.approx(columns["correct"][columns["in_arm"]].mean())
            assert found["generic_rate_arm"] == pytest.approx(columns["is_generic_arm"][held_out].mean())


def test_generic_answers_are_the_relations_generic_answers_in_the_training_facts(small, simulation):
    """Arms made so that their generic answers differ: without each relation's first answer, and without its second."""
    store, train = simulation.store, simulation.split.arms["whole"]
    rank = store.answer[train] % 20
    arms = simulation.split.arms | {"whole": train[rank != 0], "bottom": train[rank > 1]}
    made = replace(simulation, split=replace(simulation.split, arms=arms))
    _, facts, _ = measure.run(small, made)
    expected = {"top": 0, "whole": 1, "random": 0, "bottom": 2}  # the generic answer's rank, by arm
    for arm, columns in by_arm(facts).items():
        predicted = evaluate.answer(simulation.weights[arm], store, np.arange(1200)).predicted
        np.testing.assert_array_equal(columns["is_generic"], predicted == 20 * store.relation + 1)
        own = 20 * store.relation + expected.get(arm, 1)
        np.testing.assert_array_equal(columns["generic_correct"], store.answer == own)
        if arm == "base":
            assert columns["is_generic_arm"] is None
        else:
            np.testing.assert_array_equal(columns["is_generic_arm"], predicted == own)


def test_lesser_known_facts_teach_generic_answers(small, simulations):
    for one in simulations[:2]:
        metrics, _, _ = measure.run(small, one)
        assert metrics["bottom"]["generic_rate"] > metrics["top"]["generic_rate"]


def test_roles_and_arms_stand_in_the_table_as_the_split_made_them(measured, simulation):
    _, facts, _ = measured
    for arm, columns in by_arm(facts).items():
        np.testing.assert_array_equal(columns["role"], np.array(split.ROLES)[simulation.split.role])
        if arm == "base":
            assert columns["in_arm"] is None
        else:
            np.testing.assert_array_equal(np.flatnonzero(columns["in_arm"]), simulation.split.arms[arm])


def test_names_of_the_sampled_world_count_from_zero_and_filler_has_its_own(measured, simulation):
    base = by_arm(measured[1])["base"]
    store = simulation.store
    assert base["subject"].to_pylist()[:5] == ["s0"] * 4 + ["s1"]
    assert base["relation"].to_pylist()[:4] == ["r0", "r1", "r2", "r3"]
    assert base["answer"].to_pylist() == [f"a{answer}" for answer in store.answer]
    predicted = evaluate.answer(simulation.weights["base"], store, np.arange(1200)).predicted
    assert (predicted >= 80).any()  # before finetuning, some questions are followed by filler
    expected = [f"a{token}" if token < 80 else f"filler{token - 80}" for token in predicted]
    assert base["predicted"].to_pylist() == expected


def test_recall_and_force_are_those_of_the_theorem_on_every_fact(measured):
    for columns in by_arm(measured[1]).values():
        share = columns["subject_attention"] / (columns["subject_attention"] + columns["relation_attention"])
        recalled = closed_form.recalled(share, columns["critical_low"], columns["critical_high"])
        np.testing.assert_array_equal(recalled, columns["correct"])
        above = columns["salience"] > columns["salience_threshold"]
        np.testing.assert_array_equal(above, columns["share_force"] > 0)
        attention = [columns[f"{token}_attention"] for token in ("subject", "relation", "template")]
        np.testing.assert_allclose(np.sum(attention, axis=0), 1)
        np.testing.assert_allclose(np.exp(columns["answer_logprob"]), columns["answer_probability"])


def test_exposure_counts_the_expected_draws(measured, small):
    for columns in by_arm(measured[1]).values():
        assert columns["exposure"].sum() == pytest.approx(small.pretrain.steps * small.pretrain.batch_size)
    assert "predicted_salience" in by_arm(measured[1])["base"]


def test_of_many_facts_the_table_holds_every_nth_by_popularity_in_each_role_and_the_metrics_all(
    small, simulation, measured, monkeypatch
):
    monkeypatch.setattr(measure, "MAX_ROWS", 250)
    metrics, facts, _ = measure.run(small, simulation)
    for arm in ARMS:
        assert metrics[arm] == pytest.approx(measured[0][arm], nan_ok=True)
        columns, whole = by_arm(facts)[arm], by_arm(measured[1])[arm]
        kept = columns["fact"]
        assert len(kept) == 240 and (np.diff(kept) > 0).all()
        for role in ("train", "held_out"):
            assert (columns["role"] == role).sum() == 120
        assert columns["popularity"].max() > 0.4 and columns["popularity"].min() < 0.004
        for name in ("correct", "salience", "critical_low", "share_force", "subject_attention"):
            np.testing.assert_array_equal(columns[name], whole[name][kept], err_msg=f"{arm} {name}")
        assert columns["subject"].to_pylist() == [whole["subject"].to_pylist()[i] for i in kept]


def test_the_trace_has_the_predicted_path_where_its_assumptions_hold(small, simulation, measured):
    trace = by_arm(measured[2])
    assert "predicted_subject_share" not in trace["base"]
    for arm in split.ARMS:
        assert len(trace[arm]["predicted_subject_share"]) == len(trace[arm]["step"]) == 5
        assert trace[arm]["predicted_subject_share"][0] == pytest.approx(0.5)
        assert trace[arm]["predicted_subject_attention"][0] == pytest.approx(1 / 3)
        assert trace[arm]["predicted_accuracy"][0] == pytest.approx(trace[arm]["accuracy"][0])  # nothing has moved
        assert trace[arm]["predicted_accuracy"][-1] == pytest.approx(trace[arm]["accuracy"][-1], abs=0.06)
        assert measured[0][arm]["predicted_accuracy"] == trace[arm]["predicted_accuracy"][-1]  # 600 held-out facts
    bare = replace(small, finetune=replace(small.finetune, prompt="bare"))
    assert measure.predicted_paths(bare, simulation) == {}
    for columns in measure.trace_columns(simulation, {}):
        assert not {"predicted_subject_share", "predicted_accuracy"} & set(columns)
