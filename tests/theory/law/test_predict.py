import numpy as np
import pytest

from core import closed_form, split, statistics
from theory import config as configs
from theory import evaluate
from theory.law import predict, theorem


@pytest.fixture(scope="module")
def one(simulations):
    return simulations[0]


def test_salience_is_predicted_from_exposure_alone(one, small):
    """R6: the subjects' means are predicted, by the steps, rates and draws of this very pretraining."""
    store, base = one.store, one.weights["base"]
    measured = base.subject_values[store.subject, store.answer].astype(float)
    draws = store.exposure * small.pretrain.steps * small.pretrain.batch_size
    predicted = predict.salience(draws, measured, configs.to_json(small))
    means = [np.bincount(store.subject, of) / 4 for of in (predicted, measured)]
    assert closed_form.r_squared(*means) > 0.9
    # The rarest facts grow linearly: rate · attention · push, where each push is the error in a batch.
    rare = store.subject > 200
    rate = small.pretrain.learning_rate * 0.5 * 0.5 / small.pretrain.batch_size
    share_wrong = predicted[rare] / (rate * draws[rare])
    assert (0.5 < share_wrong).all() and (share_wrong < 1).all()


def test_attention_along_finetuning_is_predicted_before_it(simulations, small):
    """R5 with R3's rates: the held-out share's path, from the base model and the arm's facts."""
    errors = {"own": [], "other's": []}
    for one in simulations:
        times = small.finetune.learning_rate * np.asarray(one.traces["top"].step)
        for arm, other in (("top", "bottom"), ("bottom", "top")):
            for whose, facts_of in (("own", arm), ("other's", other)):
                rows = one.split.arms[facts_of]
                path = predict.arm_flow(one.weights["base"], one.store, rows, times, shared_share=0.5)
                errors[whose].append(np.abs(path.share - one.traces[arm].measured.subject_share).max())
    assert np.mean(errors["own"]) < 0.03
    assert np.mean(errors["own"]) < 0.5 * np.mean(errors["other's"])


@pytest.mark.parametrize("rho", [0.2, 0.9])
def test_the_path_starts_at_the_rates_of_held_out_prompts(one, rho):
    """R3 is the flow's first step, as seen from one prompt of each relation."""
    base, store, rows, rate = one.weights["base"], one.store, one.split.arms["top"], 1e-4
    values, relation = evaluate.token_values(base, store, rows), store.relation[rows]
    uniform = np.full((len(rows), 3), 1 / 3)
    force = theorem.force(uniform, values, theorem.probability(uniform, values), store.answer[rows])
    change = theorem.transfer(force, relation, uniform[:4], np.arange(4), rho=rho, rate=rate)
    path = predict.arm_flow(base, store, rows, np.array([0.0, rate]), shared_share=rho)
    np.testing.assert_allclose(path.attention[1] - 1 / 3, np.bincount(relation) / len(rows) @ change, rtol=0.01)


def test_attention_is_predicted_from_exposure_alone_too(simulations, small):
    """R6′ makes the base model, R5 takes it from there; nothing is trained."""
    times, errors = np.array([0.0, small.finetune.learning_rate * small.finetune.steps]), []
    for one in simulations:
        base, store = one.weights["base"], one.store
        made = predict.from_exposure(store, configs.to_json(small))
        np.testing.assert_allclose(made.subject_values.sum(axis=1), 0, atol=1e-8)
        assert np.corrcoef(made.relation_values.ravel(), base.relation_values.ravel())[0, 1] > 0.97
        assert np.corrcoef(made.subject_values.ravel(), base.subject_values.ravel())[0, 1] > 0.9
        np.testing.assert_array_equal(made.template_value, base.template_value)
        for arm in ("top", "bottom"):
            path = predict.arm_flow(made, store, one.split.arms[arm], times, shared_share=0.5)
            errors.append(path.share[-1] - one.traces[arm].measured.subject_share[-1])
    assert np.abs(errors).mean() < 0.05


def test_the_predicted_order_of_the_arms_is_the_measured_one(simulations, small):
    times = np.array([0.0, small.finetune.learning_rate * small.finetune.steps])
    leads = {"predicted": [], "measured": []}
    for one in simulations:
        ends = {
            arm: predict.arm_flow(one.weights["base"], one.store, one.split.arms[arm], times, shared_share=0.5)
            for arm in ("top", "bottom")
        }
        leads["predicted"].append(ends["top"].share[-1] - ends["bottom"].share[-1])
        shares = [float(one.traces[arm].measured.subject_share[-1]) for arm in ("top", "bottom")]
        leads["measured"].append(shares[0] - shares[1])
    for values in leads.values():
        assert statistics.mean_interval(np.array(values)).low > 0
    assert np.mean(leads["predicted"]) == pytest.approx(np.mean(leads["measured"]), rel=0.3)


def test_salience_of_single_facts_needs_nothing_but_exposure_and_frequency(one, small):
    store, config = one.store, configs.to_json(small)
    measured = one.weights["base"].subject_values[store.subject, store.answer].astype(float)
    draws = store.exposure * small.pretrain.steps * small.pretrain.batch_size
    found = predict.unfitted_salience(draws, store.relation, store.answer, config)
    fitted = predict.salience(draws, measured, config)
    assert closed_form.r_squared(found, measured) > 0.97 > closed_form.r_squared(fitted, measured)


def test_many_facts_are_represented_by_evenly_spaced_ones(one, monkeypatch):
    base, rows = one.weights["base"], one.split.arms["whole"]
    np.testing.assert_array_equal(predict.spread(rows, base), rows)
    monkeypatch.setattr(predict, "ELEMENTS", 3 * len(base.template_value) * 7)
    chosen = predict.spread(rows, base)
    assert len(chosen) == 7 and chosen[0] == rows[0] and chosen[-1] == rows[-1]
    assert np.isin(chosen, rows).all()
    assert np.ptp(np.diff(np.searchsorted(rows, chosen))) <= 1
    monkeypatch.setattr(predict, "ELEMENTS", 1)
    assert len(predict.spread(rows, base)) == 1


def test_prediction_reads_the_facts_that_are_finetuned_on_and_no_others(one):
    """Facts outside the arm may be anything."""
    base, store, rows = one.weights["base"], one.store, one.split.arms["top"]
    times = np.array([0.0, 10.0])
    path = predict.arm_flow(base, store, rows, times, shared_share=0.5)
    others = np.ones(store.n_subjects, bool)
    others[store.subject[rows]] = False
    changed = base.subject_values.copy()
    changed[others] = 99.0
    same = predict.arm_flow(base._replace(subject_values=changed), store, rows, times, shared_share=0.5)
    np.testing.assert_array_equal(path.share, same.share)
    assert split.TRAIN == 0 and (one.split.role[rows] == split.TRAIN).all()
    assert evaluate.token_values(base, store, rows).dtype == float
