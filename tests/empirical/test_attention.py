from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from core.facts.record import Fact
from empirical import attention, evaluate, measure
from empirical.evaluate import EvaluateConfig
from empirical.lm import batch, capture, generate, knockout, prompts, reading
from empirical.lm.model import LanguageModel

QUESTIONS = {f"Ann{i}": f"Where is Ann{i}?" for i in range(9)} | {"Ann9": "Where is she?"}


@pytest.fixture
def model(llama, words):
    return LanguageModel(llama, words, "made")


@pytest.fixture
def encoded(words):
    """Return questions with their answers; the last does not name its subject."""
    facts = [Fact(name, name, "city", question, ("Rome",)) for name, question in QUESTIONS.items()]
    return prompts.encode(words, [prompts.build(fact) for fact in facts])


def test_attentions_intervals_are_robust_to_questions_that_share_a_subject(encoded):
    rng = np.random.default_rng(0)
    mass = rng.random((6, 1, 1, 1, 4))
    cluster = np.array([0, 0, 1, 1, 2, 3])
    table = attention.table("top", mass, 1 - mass, encoded[:6], cluster)
    for span in range(4):
        values = mass[:, 0, 0, 0, span]
        sums = [sum(values[cluster == c] - values.mean()) for c in range(4)]
        half = stats.t.ppf(0.975, 3) * np.sqrt(np.square(sums).sum()) / 6
        assert table["mean"][span] == pytest.approx(values.mean())
        assert table["high"][span] - table["mean"][span] == pytest.approx(half)
        assert table["mean"][span] - table["low"][span] == pytest.approx(half)
        assert table["value_weighted"][span] == pytest.approx(1 - values.mean())
        assert table["value_weighted_high"][span] - table["value_weighted_low"][span] == pytest.approx(2 * half)


def test_attention_is_unknown_where_no_question_names_its_subject(encoded):
    nameless = [question for question in encoded if not question.has_subject]
    mass = np.ones((1, 2, 1, 1, 4))
    assert attention.table("top", mass, mass, nameless, np.zeros(1, dtype=int)) == {}


def test_attention_is_that_of_each_question_alone_at_the_prompts_end_and_at_the_answers_first_token(model, encoded):
    grams = capture.weighing(model.network)
    both = attention.masses(model, reading.read(model.network, encoded, model.pad), grams=grams)
    mass, weighted = both["mass"], both["value_mass"]
    assert np.abs(mass - weighted).max() > 0.01
    for one, found, by_value in zip(encoded, mass, weighted, strict=True):
        tokens = torch.tensor([one.tokens[: one.n_prompt + 1]])
        spans = torch.zeros((1, 4, one.n_prompt + 1), dtype=torch.bool)
        spans[0, :, :-1] = torch.as_tensor(one.spans)
        queries = torch.tensor([[one.n_prompt - 1, one.n_prompt]])
        alone = capture.both(model.network, tokens, torch.ones_like(tokens), queries, spans, grams=grams)
        np.testing.assert_allclose(found, alone[0][0], atol=1e-6)
        np.testing.assert_allclose(by_value, alone[1][0], atol=1e-5)
    # At the prompt's end the spans hold everything; one token later they lack that token itself.
    np.testing.assert_allclose(mass[:, 0].sum(-1), 1, atol=1e-5)
    assert (mass[:, 1].sum(-1) < 0.999).all()


def test_the_table_of_attention_names_layer_head_position_and_span_of_each_mean(encoded):
    mass = np.random.default_rng(0).random((6, 2, 3, 4, 4))
    table = attention.table("top", mass, np.full_like(mass, np.nan), encoded[:6], np.arange(6))
    assert np.isnan(table["value_weighted"]).all()
    place = [attention.POSITIONS.index(name) for name in table["position"]]
    span = [capture.SPANS.index(name) for name in table["span"]]
    assert len(set(zip(table["layer"], table["head"], place, span, strict=True))) == 2 * 3 * 4 * 4
    np.testing.assert_allclose(table["mean"], mass.mean(0)[place, table["layer"], table["head"], span])


def test_the_drop_is_what_the_answer_loses_where_its_prediction_cannot_see_the_subject(model, encoded):
    drops = attention.knockout_drops(model, reading.read(model.network, encoded, model.pad))
    assert all(np.isnan(drops[name][-1]) for name in attention.DROPS)
    nameless = reading.read(model.network, encoded[-1:], model.pad)
    assert all(np.isnan(drop).all() for drop in attention.knockout_drops(model, nameless).values())
    for one, drop, of_first in zip(encoded[:-1], *(drops[name] for name in attention.DROPS), strict=False):
        tokens = torch.tensor([one.tokens])
        cut = torch.zeros_like(tokens, dtype=torch.bool)
        cut[0, : one.n_prompt] = torch.as_tensor(one.spans[0])
        alone = batch.of_questions([one], model.pad)
        whole, without = (knockout.logprob(model.network, alone, cut=those) for those in (None, cut))
        assert drop == pytest.approx(float(whole - without), abs=1e-5)
        only = torch.zeros_like(alone.completion)
        only[0, one.n_prompt] = True
        alone = replace(alone, completion=only)
        whole, without = (knockout.logprob(model.network, alone, cut=those) for those in (None, cut))
        assert of_first == pytest.approx(float(whole - without), abs=1e-5)
        assert drop != 0 and of_first != 0 and abs(drop - of_first) > 1e-4


def test_nothing_is_computed_in_float64_on_the_device(llama, words, monkeypatch):
    """Apple's GPUs have none: what leaves them does so before it is widened."""

    class Host(torch.Tensor):
        """What `cpu` has fetched."""

    fetch, widen = torch.Tensor.cpu, torch.Tensor.double

    def double(self):
        assert isinstance(self, Host)
        return widen(self)

    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: fetch(self).as_subclass(Host))
    monkeypatch.setattr(torch.Tensor, "double", double)
    model = LanguageModel(llama, words, "made")
    facts = [Fact(str(i), f"Ann{i}", "city", f"Where is Ann{i}?", ("Rome",)) for i in range(3)]
    encoded = model.format.ask(facts)
    asked = [one.prompt for one in encoded], [one.completion for one in encoded]
    assert np.isfinite(generate.answer_logprob(llama, *asked, pad=model.pad)).all()
    assert np.isfinite(evaluate.answer(EvaluateConfig(), model, facts, encoded).logprob).all()
    given = reading.read(llama, encoded, model.pad)
    assert np.isfinite(attention.seen(model, given, grams={})["knockout_drop"]).all()
    assert np.isfinite(measure.eval_subset(llama, encoded, model.pad)["subject_attention"])
