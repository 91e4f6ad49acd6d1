from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.facts.record import Fact
from empirical import evaluate
from empirical.evaluate import EvaluateConfig
from empirical.lm import prompts, tokenizer
from empirical.lm.model import LanguageModel


def _fact(i, subject, *, relation="city", question="Where is {}?", answers=("Rome", "Roma")):
    return Fact(str(i), subject, relation, question.format(subject), answers)


FACTS = [_fact(i, f"Ann{i}") for i in range(10)]
CHOICES = [
    Fact(str(i), "", "law", f"Which is {'long ' * i}{i}?", ("ABCD"[i % 4],), None, ("1", "2", "3", "4"))
    for i in range(6)
]


@pytest.fixture
def model(llama, words):
    """Return a model of random weights, made large so that its answers differ."""
    for weight in llama.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1
    return LanguageModel(llama, words, "made")


@pytest.fixture
def lettered(model):
    """Return the same with a tokenizer to which " A" is one token."""
    return LanguageModel(model.network, tokenizer.train(["A: A B C D"], size=265), "made")


def _encode(model, facts):
    return prompts.encode(model.tokenizer, [prompts.build(fact) for fact in facts])


@torch.no_grad()
def _logprobs(model, tokens):
    return model.network(torch.tensor([tokens])).logits[0].log_softmax(-1)


def _greedy(model, tokens, n):
    """Return what a loop of single steps says, up to the end token or a line's end."""
    tokens, start = list(tokens), len(tokens)
    for _ in range(n):
        tokens.append(int(_logprobs(model, tokens)[-1].argmax()))
        text = model.tokenizer.decode(tokens[start:])
        if tokens[-1] == model.tokenizer.eos_token_id or "\n" in text:
            break
    return model.tokenizer.decode(tokens[start:], skip_special_tokens=True).split("\n")[0].strip()


def test_answers_are_the_most_likely_tokens_whatever_is_answered_beside(model):
    encoded = _encode(model, FACTS)
    expected = [_greedy(model, one.prompt, 3) for one in encoded]
    assert len(set(expected)) > 2
    for batch_size, tokens in ((1, 999), (4, 999), (64, 50), (64, 999)):
        assert evaluate.predict(EvaluateConfig(3, batch_size, tokens), model, FACTS, encoded) == expected
    assert evaluate.predict(EvaluateConfig(), model, [], []) == []


def test_each_question_has_every_score_against_any_of_its_answers(model, monkeypatch):
    said = ["the Rome.", "the Eternal City, Roma", "roma", "Ulm", ""]
    monkeypatch.setattr(evaluate, "texts", lambda *given: said)
    encoded = _encode(model, FACTS[:5])
    found = evaluate.answer(EvaluateConfig(), model, FACTS[:5], encoded)
    assert found.predicted == said
    assert found.exact_match.tolist() == found.squad_match == [True, False, True, False, False]
    assert found.strict_match == [False] * 5
    assert found.substring_match == [True, True, True, False, False]
    assert found.token_f1 == pytest.approx([1, 2 * (1 / 3) / (4 / 3), 1, 0, 0])
    for one, logprob in zip(encoded, found.logprob, strict=True):
        after = _logprobs(model, one.tokens)
        expected = sum(after[i - 1, one.tokens[i]] for i in range(one.n_prompt, len(one.tokens)))
        assert logprob == pytest.approx(float(expected), rel=1e-4)


def test_a_sure_answer_has_the_probability_of_its_tokens_and_its_end_whatever_is_answered_beside(model):
    encoded = _encode(model, FACTS)
    stop = sorted(model.format.stop)
    alone, together = (
        evaluate.answer(EvaluateConfig(3, size), model, FACTS, encoded).predicted_probability for size in (1, 64)
    )
    np.testing.assert_allclose(alone, together, rtol=1e-3)
    for one, probability in zip(encoded, together, strict=True):
        tokens, expected = list(one.prompt), 1.0
        for _ in range(3):
            following = _logprobs(model, tokens)[-1].exp()
            tokens.append(int(following.argmax()))
            expected *= float(following[stop].sum() if tokens[-1] in stop else following[tokens[-1]])
            if tokens[-1] in stop:
                break
        assert probability == pytest.approx(expected, rel=1e-3)


def test_of_multiple_choice_the_most_likely_letter_is_the_answer_and_its_only_score(lettered):
    encoded = _encode(lettered, CHOICES)
    tokens = [lettered.tokenizer(f"A: {letter}")["input_ids"][-1] for letter in "ABCD"]
    expected = ["ABCD"[int(_logprobs(lettered, one.prompt)[-1, tokens].argmax())] for one in encoded]
    assert len(set(expected)) > 1
    for batch_size in (1, 4):
        found = evaluate.answer(EvaluateConfig(batch_size=batch_size), lettered, CHOICES, encoded)
        assert found.predicted == expected
        among = [_logprobs(lettered, one.prompt)[-1, tokens].softmax(-1).max() for one in encoded]
        np.testing.assert_allclose(found.predicted_probability, among, rtol=1e-4)
        right = [letter in fact.answers for letter, fact in zip(expected, CHOICES, strict=True)]
        assert found.exact_match.tolist() == right
        assert all(getattr(found, rule) == [None] * len(CHOICES) for rule in evaluate.RULES)


def test_a_swapped_subject_is_another_of_the_relation_in_its_very_place():
    facts = [_fact(i, name, question="Is Annabel {}?") for i, name in enumerate(("Ann", "Bo", "Cy"))]
    facts += [_fact(3, "Di", relation="job"), _fact(4, "Ed", relation="job")]
    seen = set()
    for seed in range(20):
        swapped = evaluate.swapped(facts, seed=seed)
        for fact, other in zip(facts, swapped, strict=True):
            assert other is not None and other.subject != fact.subject and other.relation == fact.relation
            assert other.question == fact.question.replace(f" {fact.subject}?", f" {other.subject}?")
            seen.add((fact.subject, other.subject))
    assert seen == {(a, b) for group in ("Ann Bo Cy", "Di Ed") for a in group.split() for b in group.split() if a != b}


def test_a_subject_is_swapped_wherever_the_question_names_it_in_another_case():
    facts = [_fact(0, "Ann", question="was ANN here?"), _fact(1, "Bo")]
    assert [one and one.question for one in evaluate.swapped(facts, seed=0)] == ["was Bo here?", "Where is Ann?"]


@pytest.mark.parametrize(
    "facts",
    [
        [_fact(0, "Ann"), _fact(1, "Bo", relation="job")],
        [_fact(0, "Ann"), _fact(1, "Ann", question="Where does {} live?")],
        [_fact(0, "Ann"), _fact(1, "ANN", question="Where does {} live?")],
        [_fact(0, "Ann"), _fact(1, "", question="Where?")],
        [_fact(0, "Ann", question="Where is she?"), _fact(1, "Ann")],
        CHOICES[:2],
    ],
    ids=["other relation", "same subject", "in another case", "no subject", "not named", "multiple choice"],
)
def test_where_there_is_no_other_subject_or_no_place_for_it_nothing_is_swapped(facts):
    assert evaluate.swapped(facts, seed=0) == [None, None]


def test_a_swapped_question_has_the_answers_of_every_fact_about_the_other_subject():
    facts = [_fact(0, "Ann"), _fact(1, "Bo"), replace(_fact(2, "BO"), answers=("Ulm", "Pisa"))]
    other = evaluate.swapped(facts, seed=0)[0]
    assert other is not None and (other.subject, other.answers) == ("Bo", (*facts[1].answers, "Ulm", "Pisa"))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(("Rome",), ("Ulm",), False), (("Rome", "Roma"), ("Ulm", "the roma."), True), (("C",), ("C++",), False)],
)
def test_facts_are_alike_where_one_accepted_answer_is_right_of_both(one, other, expected):
    pair = replace(_fact(0, "Ann"), answers=one), replace(_fact(1, "Bo"), answers=other)
    assert evaluate.is_alike(*pair) is evaluate.is_alike(*pair[::-1]) is expected


def test_swaps_are_a_seeds():
    assert evaluate.swapped(FACTS, seed=0) == evaluate.swapped(FACTS, seed=0) != evaluate.swapped(FACTS, seed=1)


def test_examples_before_questions_of_a_free_answer_are_refused():
    evaluate.check_facts(EvaluateConfig(shots=5), CHOICES)
    evaluate.check_facts(EvaluateConfig(), FACTS)
    with pytest.raises(InputError, match="--evaluate.shots: .*multiple choice"):
        evaluate.check_facts(EvaluateConfig(shots=5), [*CHOICES, *FACTS])
    with pytest.raises(InputError, match="--evaluate.shots is -1"):
        evaluate.check(EvaluateConfig(shots=-1))


@pytest.mark.parametrize("changes", [{"max_new_tokens": 0}, {"batch_size": 0}, {"batch_tokens": 0}])
def test_no_tokens_or_no_questions_at_once_are_refused(changes):
    with pytest.raises(InputError, match="--evaluate"):
        evaluate.check(EvaluateConfig(**changes))


@pytest.mark.parametrize(
    ("recalled", "n", "is_choice", "is_told"),
    [
        (0.019, 1000, False, True),
        (0.021, 1000, False, False),
        (0.27, 1000, True, True),  # a quarter and two standard errors are .277
        (0.28, 1000, True, False),
        (0.28, 100, True, True),
    ],
)
def test_a_model_that_answers_as_guessing_would_is_told_of(recalled, n, is_choice, is_told):
    told = evaluate.guessing("small", recalled, n, is_choice=is_choice)
    assert (told is not None) == is_told
    assert told is None or f"small answers {recalled:.1%} of {n:,}" in told


def test_answers_that_cannot_be_said_are_counted_with_the_first_of_them_and_a_remedy(model):
    facts = [
        _fact(0, "Ann"),
        _fact(1, "Bo", answers=("first\nsecond",)),
        _fact(2, "Cy", answers=("one\ntwo", "Rome")),
        _fact(3, "Di", answers=("of very many words " * 4,)),
        _fact(4, "Ed", answers=("", "  ")),
    ]
    encoded = _encode(model, facts)
    longest = len(encoded[3].completion) - 1
    (told,) = evaluate.unreachable(EvaluateConfig(16), model, facts, encoded)
    assert told.startswith("3 of 5 questions count as wrong") and "Where is Bo?" in told and "first\\nsecond" in told
    assert longest > 16 and f"--evaluate.max-new-tokens {longest}" in told
    (told,) = evaluate.unreachable(EvaluateConfig(longest), model, facts, encoded)
    assert told.startswith("2 of 5") and "--evaluate" not in told
    assert evaluate.unreachable(EvaluateConfig(16), model, FACTS, _encode(model, FACTS)) == []
