import numpy as np
import pytest

from theory import evaluate, knownness
from theory.knownness import KnownnessConfig
from theory.model.config import Weights


@pytest.fixture
def base(random_weights) -> Weights:
    return random_weights(0)


def outputs(base: Weights, store) -> np.ndarray:
    """Output logits of the pretraining prompts: uniform attention over subject and relation."""
    return (base.subject_values[store.subject] + base.relation_values[store.relation]) / 2


def test_popularity_is_knownness_as_given(base, store):
    np.testing.assert_array_equal(knownness.score(KnownnessConfig(), base, store), store.popularity)


def test_salience_is_the_subjects_value_at_the_answer(base, store):
    found = knownness.score(KnownnessConfig("salience"), base, store)
    facts = zip(store.subject, store.answer, strict=True)
    np.testing.assert_array_equal(found, [base.subject_values[s, a] for s, a in facts])


def test_margin_is_the_answers_lead_over_its_best_rival(base, store, monkeypatch):
    logits, rows = outputs(base, store), np.arange(len(store.answer))
    own = logits[rows, store.answer]
    logits[rows, store.answer] = -np.inf
    found = knownness.score(KnownnessConfig("margin"), base, store)
    np.testing.assert_allclose(found, own - logits.max(axis=1))
    np.testing.assert_array_equal(found > 0, outputs(base, store).argmax(axis=1) == store.answer)
    monkeypatch.setattr(evaluate, "ELEMENTS", 40)
    np.testing.assert_array_equal(knownness.margin(base, store), found)


def test_a_fact_that_ties_with_a_rival_has_no_margin(base, store):
    nothing = Weights(*(np.zeros_like(part) for part in base))
    np.testing.assert_array_equal(knownness.margin(nothing, store), 0)


def test_margin_is_measured_in_double_precision_though_the_weights_are_single(base, store):
    single = Weights(*(np.zeros_like(part, dtype=np.float32) for part in base))
    single.subject_values[:] = 1
    single.relation_values[0, store.answer[0]] = 1e-9  # 1 + 1e-9 is 1 in single precision
    assert knownness.margin(single, store)[0] == pytest.approx(5e-10)
