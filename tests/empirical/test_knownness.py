import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.arms import CLASSES
from core.errors import InputError
from core.facts.record import Fact
from empirical import exemplars, knownness
from empirical.knownness import KnownnessConfig
from empirical.lm import generate, multiple_choice, prompts, tokenizer
from empirical.lm.model import LanguageModel
from empirical.pieces import Pieces


def ask(number, relation="capital", answers=None, popularity=None):
    answers = answers or (f"city {number % 3}",)
    return Fact(
        f"{relation}{number}", f"S{number}", relation, f"What is the {relation} of S{number}?", answers, popularity
    )


FACTS = [ask(n, relation) for relation in ("capital", "sport") for n in range(9)]
CHOICES = [Fact(f"m{n}", "", "law", f"Number {n}?", ("ABCD"[n % 4],), None, ("p", "q", "r", "s")) for n in range(8)]


@pytest.fixture(scope="module")
def words():
    texts = [prompts.build(fact).text + prompts.build(fact).completion + "\n\n" for fact in FACTS]
    chosen = [f"{prompts.choices(fact)}\nAnswer: {fact.answers[0]}\n\n" for fact in CHOICES]
    return tokenizer.train(texts + chosen * 9, size=500)


@pytest.fixture(scope="module")
def model(words):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LanguageModel(LlamaForCausalLM(config).eval(), words, "made")


def says(monkeypatch, words, greedy, sampled=None):
    """Make generation say what the functions return for a prompt's text; return the settings of every call."""
    calls = []

    def speak(answer):
        def continuations(model, ids, **settings):
            calls.append(settings)
            return [words(" " + answer(words.decode(row)) + "\n", add_special_tokens=False)["input_ids"] for row in ids]

        return continuations

    monkeypatch.setattr(generate, "greedy", speak(greedy))
    monkeypatch.setattr(generate, "sample", speak(sampled or greedy))
    return calls


def asked(prompt):
    """Return the last question's subject of a few-shot prompt."""
    return prompt.rpartition(" of ")[2].partition("?")[0]


def test_popularity_is_the_source_s_and_needs_no_model():
    facts = [ask(0, popularity=3.0), ask(1, popularity=0.5)]
    assert knownness.popularity(facts).tolist() == [3.0, 0.5]


def test_missing_popularity_is_counted_and_the_remedy_named(model):
    facts = [ask(0, popularity=3.0), ask(1), ask(2)]
    with pytest.raises(InputError, match="2 of 3 facts have no popularity") as error:
        knownness.score(KnownnessConfig(), model, facts, facts, seed=0)
    assert "--knownness.measure logprob" in str(error.value)


@pytest.mark.parametrize("shots", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_log_probability_per_token_is_that_of_full_passes_over_the_few_shot_texts(model, words, shots, batch_size):
    config = KnownnessConfig("logprob", shots=shots, n_prompts=2, batch_size=batch_size)
    found = knownness.score(config, model, FACTS, FACTS[:12], seed=4)
    expected = np.zeros((2, len(FACTS)))
    for prompt in range(2):
        chosen = exemplars.choose(FACTS, FACTS[:12], shots, seed=4, prompt=prompt)
        for row, (fact, own) in enumerate(zip(FACTS, chosen, strict=True)):
            before = "".join(f"Question: {f.question}\nAnswer: {f.answers[0]}\n\n" for f in own)
            text = f"{before}Question: {fact.question}\nAnswer:"
            n_prompt = len(words(text)["input_ids"])
            ids = torch.tensor([words(f"{text} {fact.answers[0]}")["input_ids"]])
            with torch.no_grad():
                logprobs = model.network(ids).logits[0, n_prompt - 1 : -1].double().log_softmax(-1)
            expected[prompt, row] = logprobs.gather(1, ids[0, n_prompt:, None]).mean()
    np.testing.assert_allclose(found.value, expected.mean(axis=0), atol=1e-5)
    assert found.known_class is None
    assert not shots or np.abs(expected[0] - expected[1]).max() > 0.01


def test_of_a_chat_model_examples_are_earlier_turns(model, words, monkeypatch):
    chatty, seen = copy.deepcopy(words), []
    chatty.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}assistant:"
    chat = LanguageModel(model.network, chatty, "made", is_chat=True)
    calls = says(monkeypatch, words, lambda text: seen.append(text) or "city 0")
    found = knownness.score(KnownnessConfig("greedy", shots=2, n_prompts=1), chat, FACTS, FACTS, seed=0)
    assert found.value.tolist() == [float(fact.answers == ("city 0",)) for fact in FACTS]
    chosen = exemplars.choose(FACTS, FACTS, 2, seed=0)
    turns = [[f"user:{f.question}</s>assistant:{f.answers[0]}</s>" for f in own] for own in chosen]
    expected = ["".join(own) + f"user:{f.question}</s>assistant:" for own, f in zip(turns, FACTS, strict=True)]
    assert sorted(seen) == sorted(expected) and calls[0]["stop"] == chat.format.stop


def test_the_models_answers_are_those_to_the_first_prompt_and_kept_relation_by_relation(
    model, words, monkeypatch, tmp_path
):
    calls = says(monkeypatch, words, lambda prompt: f"It is {asked(prompt)}.")
    config, pieces = KnownnessConfig(shots=2, n_prompts=3, max_new_tokens=7), Pieces(tmp_path)
    found = knownness.answers(config, model, FACTS, FACTS, seed=0, pieces=pieces)
    assert found == [f"It is {fact.subject}." for fact in FACTS]
    n_calls = len(calls)
    assert {call["max_new_tokens"] for call in calls} == {7} and len(list(tmp_path.iterdir())) == n_calls
    assert knownness.answers(config, model, FACTS, FACTS, seed=0, pieces=pieces) == found and len(calls) == n_calls


@pytest.mark.parametrize("measure", ["greedy", "sampled"])
def test_answers_are_cut_after_as_many_tokens_as_the_settings_say(measure, model, words, monkeypatch):
    calls = says(monkeypatch, words, lambda text: "Paris", lambda text: "Paris")
    config = KnownnessConfig(measure, shots=1, n_prompts=1, samples=1, max_new_tokens=5)
    knownness.score(config, model, FACTS, FACTS, seed=0)
    assert calls and {call["max_new_tokens"] for call in calls} == {5}


def test_greedy_correctness_is_the_share_of_prompts_answered_with_any_alias(model, words, monkeypatch):
    facts = [ask(n, answers=("Paris", "City of Light")) for n in range(6)]
    seen = {}

    def answer(prompt):
        subject = asked(prompt)
        seen[subject] = seen.get(subject, 0) + 1
        return {"S0": "the city of light.", "S1": "paris" if seen[subject] > 1 else "rome"}.get(subject, "rome")

    says(monkeypatch, words, answer)
    config = KnownnessConfig("greedy", shots=2, n_prompts=4)
    found = knownness.score(config, model, facts, facts, seed=0)
    assert found.value.tolist() == [1.0, 0.75, 0, 0, 0, 0]
    assert found.known_class is None


def test_sampled_correctness_gives_the_four_classes_in_the_order_of_its_values(model, words, monkeypatch):
    facts = [ask(n, answers=("Paris",)) for n in range(6)]
    seen = {}

    def greedy(prompt):
        subject = asked(prompt)
        seen[subject] = seen.get(subject, 0) + 1
        return "Paris" if subject in ("S0", "S1") or (subject in ("S2", "S3") and seen[subject] == 1) else "Rome"

    calls = says(monkeypatch, words, greedy, lambda prompt: "Paris" if asked(prompt) in ("S1", "S3", "S4") else "Rome")
    config = KnownnessConfig("sampled", shots=2, n_prompts=2, samples=3, temperature=0.7, batch_size=5)
    found = knownness.score(config, model, facts, facts, seed=0)
    assert found.known_class is not None
    classes = ["highly_known", "highly_known", "maybe_known", "maybe_known", "weakly_known", "unknown"]
    assert [CLASSES[index] for index in found.known_class] == classes
    assert found.value.tolist() == [1, 1.25, 0.5, 0.75, 0.25, 0]
    assert {call["batch_size"] for call in calls} == {5}
    assert {call.get("temperature") for call in calls} == {None, 0.7}
    seeds = [call["seed"] for call in calls if "seed" in call]
    assert len(set(seeds)) == len(seeds) > 1


@pytest.mark.parametrize("measure", ["popularity", "logprob", "greedy"])
def test_classes_asked_for_beside_another_measure_are_those_of_random_answers_and_change_no_value(
    model, words, monkeypatch, measure
):
    facts = [ask(n, answers=("Paris",), popularity=float(n)) for n in range(6)]
    settings: dict[str, Any] = {"shots": 2, "n_prompts": 2, "samples": 3, "batch_size": 5}
    owns: list[dict[str, Any]] = [{"measure": measure}, {"measure": measure, "classes": True}, {"measure": "sampled"}]
    says(monkeypatch, words, lambda text: "Paris" if asked(text) in ("S0", "S1") else "Rome", lambda text: "Paris")
    plain, both, sampled = (
        knownness.score(KnownnessConfig(**settings | own), model, facts, facts, seed=0) for own in owns
    )
    np.testing.assert_array_equal(both.value, plain.value)
    assert plain.known_class is None and both.known_class is not None and sampled.known_class is not None
    assert both.known_class.tolist() == sampled.known_class.tolist() == [0, 0, 2, 2, 2, 2]
    assert set(plain.arrays()) == {"value"} and set(both.arrays()) == {"value", "known_class"}


def test_multiple_choice_has_no_classes(model):
    with pytest.raises(
        InputError, match="--knownness.classes: questions of multiple choice have none.\nLeave the flag"
    ):
        knownness.score(KnownnessConfig("logprob", classes=True), model, CHOICES, CHOICES, seed=0)


def test_the_model_s_own_samples_depend_on_the_seed_alone(model, words):
    facts = [ask(n, answers=tuple(words.decode([token]) for token in range(3, len(words)))) for n in range(8)]
    config = KnownnessConfig("sampled", shots=1, n_prompts=1, samples=4, temperature=2.0)
    first, again, other = (knownness.score(config, model, facts, facts, seed=s).value for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize(
    ("greedy", "sampled", "expected"),
    [(1, 0, 0), (1, 1, 0), (0.75, 0, 1), (0.01, 1, 1), (0, 0.01, 2), (0, 1, 2), (0, 0, 3)],
)
def test_the_classes_are_gekhman_s(greedy, sampled, expected):
    found = knownness.classify(np.array([float(greedy)]), np.array([float(sampled)]))
    assert found.tolist() == [expected]


def test_examples_that_a_source_keeps_are_shown_in_its_order(model):
    dev = [replace(fact, id=f"dev/{i}", question=f"Dev {i}?") for i, fact in enumerate(CHOICES[:6])]
    own = [fact for fact in dev if fact.relation == CHOICES[0].relation]
    assert exemplars.choose(CHOICES[:1], dev, len(own), seed=None) == [own]
    found = knownness.score(KnownnessConfig("logprob"), model, CHOICES, dev, seed=None)
    shots = exemplars.choose(CHOICES, dev, 5, seed=None)
    expected = multiple_choice.margin(multiple_choice.answer(model, CHOICES, shots), CHOICES)
    np.testing.assert_allclose(found.value, expected)


def test_multiple_choice_is_known_by_the_margin_of_its_letter_after_five_examples(model):
    found = knownness.score(KnownnessConfig("logprob"), model, CHOICES, CHOICES, seed=2)
    shots = exemplars.choose(CHOICES, CHOICES, 5, seed=2)
    expected = multiple_choice.margin(multiple_choice.answer(model, CHOICES, shots), CHOICES)
    np.testing.assert_allclose(found.value, expected)
    assert len(set(found.value)) == len(CHOICES)


@pytest.mark.parametrize(
    ("measure", "facts"), [("greedy", CHOICES), ("sampled", CHOICES), ("logprob", CHOICES + FACTS)]
)
def test_a_measure_that_does_not_fit_multiple_choice_is_refused(model, measure, facts):
    with pytest.raises(InputError, match="8 of .* multiple choice"):
        knownness.score(KnownnessConfig(measure), model, facts, facts, seed=0)


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ({"shots": -1}, "--knownness.shots"),
        ({"n_prompts": 0}, "--knownness.n-prompts"),
        ({"samples": 0}, "--knownness.samples"),
        ({"batch_size": 0}, "--knownness.batch-size"),
        ({"temperature": 0.0}, "--knownness.temperature"),
        ({"temperature": float("nan")}, "--knownness.temperature"),
    ],
)
def test_a_setting_out_of_range_is_named(model, setting, flag):
    with pytest.raises(InputError, match=flag):
        knownness.score(KnownnessConfig(**setting), model, [], [], seed=0)


def test_the_rank_correlation_is_over_the_facts_that_have_both():
    popularity = np.array([1.0, 2.0, np.nan, 4.0, 100.0])
    assert knownness.rank_correlation(popularity, np.array([1.0, 3.0, -9.0, 5.0, 6.0])) == pytest.approx(1)
    assert knownness.rank_correlation(popularity, np.array([1.0, 3.0, 0.0, 2.0, np.nan])) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [[1.0, 1.0, 1.0], [np.nan, 2.0, np.nan]])
def test_without_variation_there_is_no_rank_correlation(value):
    assert np.isnan(knownness.rank_correlation(np.array([1.0, 2.0, 3.0]), np.array(value)))
