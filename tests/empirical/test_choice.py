from dataclasses import replace

import numpy as np
import pytest
import torch

from core.facts.record import Fact
from empirical import choice, evaluate
from empirical.evaluate import EvaluateConfig
from empirical.lm.model import LanguageModel


@pytest.fixture
def model(llama, words):
    return LanguageModel(llama, words, "made")


def _facts(*answers, relation="city"):
    return [Fact(str(i), f"Ann{i}", relation, f"Where is Ann{i}?", (text,)) for i, text in enumerate(answers)]


def _first(model, text):
    return model.format.ask(_facts(text))[0].completion[0]


def test_the_prior_is_the_mean_probability_over_all_other_questions():
    logprob = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=5))
    expected = [np.delete(np.exp(logprob), row, axis=0).mean(0) for row in range(5)]
    np.testing.assert_allclose(np.exp(choice.log_prior(logprob)), expected)
    # What is left out of a sum is not lost beside it.
    np.testing.assert_allclose(choice.log_prior(np.array([[0.0], [-200.0]])), [[-200.0], [0.0]])


def test_options_are_the_first_tokens_of_the_relations_own_answers(model):
    facts = [*_facts("Paris", "Lima", "Paris"), *_facts("baker", relation="job")]
    found = choice.options(facts, model.format.ask(facts))
    assert sorted(found.tokens) == list(found.tokens) and len(found.tokens) == 3
    own = {relation: set(found.tokens[places].tolist()) for relation, places in found.of_relation.items()}
    assert own == {"city": {_first(model, "Paris"), _first(model, "Lima")}, "job": {_first(model, "baker")}}


def test_the_likeliest_option_is_chosen_and_less_the_prior_what_is_likelier_than_after_other_questions(model):
    facts = _facts("Paris", "Lima", "Turin")
    encoded = model.format.ask(facts)
    given = choice.options(facts, encoded)
    # Every question is answered Paris; each true answer is likelier than it is after the other questions.
    probability = {"Paris": [0.8, 0.6, 0.6], "Lima": [0.1, 0.3, 0.1], "Turin": [0.1, 0.1, 0.3]}
    logprob = np.empty((3, 3))
    for text, column in probability.items():
        logprob[:, np.searchsorted(given.tokens, _first(model, text))] = np.log(column)
    found = choice.columns(model, facts, encoded, given, logprob)
    assert found["chosen_correct"] == [True, False, False]
    assert found["chosen_correct_less_prior"] == [True, True, True]
    # Paris is accepted of the second too; of an empty name, and of one that cannot be said there, nothing is.
    wide = [facts[0], replace(facts[1], answers=("Lima", "", "Paris", "\n" * 600)), facts[2]]
    assert choice.columns(model, wide, encoded, given, logprob)["chosen_correct"] == [True, True, False]


def test_relations_are_apart_and_one_with_a_single_question_has_no_choice(model):
    facts = [*_facts("Paris", "Lima"), *_facts("baker", relation="job")]
    encoded = model.format.ask(facts)
    given = choice.options(facts, encoded)
    logprob = np.full((3, 3), -5.0)
    logprob[:, np.searchsorted(given.tokens, _first(model, "baker"))] = -0.01  # no city, however likely
    logprob[[0, 1], [np.searchsorted(given.tokens, _first(model, text)) for text in ("Paris", "Lima")]] = -1.0
    found = choice.columns(model, facts, encoded, given, logprob)
    assert found["chosen_correct"] == found["chosen_correct_less_prior"] == [True, True, None]


def test_an_answer_that_the_tokenizer_merges_with_the_prompt_is_left_out(model, monkeypatch):
    facts = [replace(fact, answers=(*fact.answers, "Turin")) for fact in _facts("Paris", "Lima")]
    encoded = model.format.ask(facts)
    given = choice.options([*facts, *_facts("Turin")], [*encoded, *model.format.ask(_facts("Turin"))])
    logprob = np.where(given.tokens == _first(model, "Turin"), -0.1, -5.0)[None].repeat(2, 0)
    assert choice.columns(model, facts, encoded, given, logprob)["chosen_correct"] == [True, True]
    short = LanguageModel(model.network, model.tokenizer, "made")
    monkeypatch.setattr(short.network.config, "max_position_embeddings", len(encoded[0].prompt))
    assert choice.columns(short, facts, encoded, given, logprob)["chosen_correct"] == [False, False]


def test_the_log_probabilities_are_those_right_after_each_prompt(model):
    facts = _facts("Paris", "Lima", "a longer answer")
    encoded, first = model.format.ask(facts), np.array([7, 300, 5])
    found = evaluate.each(
        EvaluateConfig(2, 2),
        model,
        encoded,
        lambda given: evaluate.asked(EvaluateConfig(2), model, given, is_choice=False, first=first),
    )
    for one, logprob in zip(encoded, found["first_logprob"], strict=True):
        with torch.no_grad():
            after = model.network(torch.tensor([one.prompt])).logits[0, -1].log_softmax(-1)
        np.testing.assert_allclose(logprob, after[first], atol=1e-4)
