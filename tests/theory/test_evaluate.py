from dataclasses import replace

import numpy as np
import pytest

from theory import attention, evaluate
from theory.model.config import Weights


@pytest.mark.parametrize("by_relation", [False, True])
def test_answers_are_the_models_own_formula_fact_by_fact(store, random_weights, by_relation):
    weights = random_weights(0, by_relation=by_relation)
    rows = np.array([5, 0, 17, 17, 23])
    found = evaluate.answer(weights, store, rows)
    for i, row in enumerate(rows):
        s, r, a = store.subject[row], store.relation[row], store.answer[row]
        of_subject = weights.subject_logit[s, r] if by_relation else weights.subject_logit[s]
        odds = np.exp([of_subject, weights.relation_logit[r], weights.template_logit])
        share = odds / odds.sum()
        logits = share @ [weights.subject_values[s], weights.relation_values[r], weights.template_value]
        np.testing.assert_allclose(found.attention[i], share)
        assert found.predicted[i] == logits.argmax()
        assert found.correct[i] == (logits.argmax() == a)
        assert found.answer_logprob[i] == pytest.approx(logits[a] - np.log(np.exp(logits).sum()))
        assert found.salience[i] == weights.subject_values[s, a]


def test_the_answer_does_not_depend_on_how_many_facts_are_handled_at_once(store, random_weights, monkeypatch):
    weights, rows = random_weights(1), np.arange(24)[::-1]
    whole = evaluate.answer(weights, store, rows)
    monkeypatch.setattr(evaluate, "ELEMENTS", 5 * 3 * len(weights.template_value))
    assert [len(part) for part in evaluate.chunks(rows, 3 * len(weights.template_value))] == [5, 5, 5, 5, 4]
    for one, other in zip(whole, evaluate.answer(weights, store, rows), strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(evaluate, "ELEMENTS", 1)
    assert [len(part) for part in evaluate.chunks(rows[:2], 100)] == [1, 1]


def test_a_tie_with_another_answer_is_not_recalled(store, random_weights):
    weights = random_weights(2)
    nothing = [np.zeros_like(part) for part in weights[:3]]
    tied = Weights(*nothing, *weights[3:])
    first = int(np.flatnonzero(store.answer == 0)[0])
    found = evaluate.answer(tied, store, np.array([first]))
    assert found.predicted[0] == store.answer[first] == 0
    assert not found.correct[0]
    tied.subject_values[store.subject[first], 0] = 1e-9
    assert evaluate.answer(tied, store, np.array([first])).correct[0]


def test_single_precision_weights_are_measured_in_double_precision(store, random_weights):
    single = Weights(*(part.astype(np.float32) for part in random_weights(3)))
    double = Weights(*(part.astype(np.float64) for part in single))
    found, expected = (evaluate.answer(weights, store, np.arange(24)) for weights in (single, double))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_generic_answers_are_the_most_frequent_of_the_given_facts_ties_to_the_lowest(store):
    made = replace(store, relation=np.zeros(24, np.int32), answer=np.array([3, 1, 1, 3, 2] + [0] * 19, np.int32))
    np.testing.assert_array_equal(evaluate.generic_answers(made, np.arange(5)), [1, -1])
    np.testing.assert_array_equal(evaluate.generic_answers(made, np.arange(24)), [0, -1])
    np.testing.assert_array_equal(evaluate.generic_answers(made, np.array([0, 3, 4])), [3, -1])


def test_a_prompt_without_template_gives_it_no_attention(store, random_weights):
    weights = random_weights(4)._replace(template_logit=np.array(-np.inf))
    found = attention.measure(weights, store.subject, store.relation)
    np.testing.assert_array_equal(found[:, 2], 0)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_the_subjects_share_leaves_the_template_out():
    found = attention.subject_share(np.array([[0.2, 0.2, 0.6], [0.3, 0.1, 0.6], [0.5, 0.0, 0.5]]))
    np.testing.assert_allclose(found, [0.5, 0.75, 1.0])
