import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from core import statistics
from core.errors import InputError
from core.facts.record import Fact
from core.split import HELD_OUT, TRAIN
from empirical import attention, evaluate, measure
from empirical.evaluate import EvaluateConfig
from empirical.lm import capture, completion, multiple_choice, prompts, reading, tokenizer
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.measure import Questions
from empirical.pieces import UNKEPT
from empirical.progress import uncounted


def _fact(i, answer="Rome", relation="city", question=None):
    name = f"Ann{i}"
    return Fact(str(i), name, relation, question or f"Where is {name}?", (answer,), float(i))


FACTS = [_fact(i, "Rome" if i % 3 else "Ulm") for i in range(9)] + [_fact(9, question="Where is she?")]


@pytest.fixture
def model(llama, words):
    return LanguageModel(llama, words, "made")


@pytest.fixture
def questions(words):
    n = len(FACTS)
    role = np.array([TRAIN] * 4 + [HELD_OUT] * (n - 4), dtype=np.int8)
    return Questions(
        FACTS,
        prompts.encode(words, [prompts.build(fact) for fact in FACTS]),
        np.arange(n),
        np.zeros(n, dtype=int),
        np.arange(n, dtype=float),
        role,
        np.arange(4, n),
        np.array([True, True, False, False, False, False]),
        measure.generic_answers(FACTS[:4]),
        0,
    )


def test_the_generic_answer_is_the_most_frequent_of_equals_the_first_by_name():
    facts = [_fact(0, "Ulm"), _fact(1, "Rome"), _fact(2, "b", "job"), _fact(3, "a", "job"), _fact(4, "b", "job")]
    assert measure.generic_answers(facts) == {"city": "Rome", "job": "b"}


def _answers(monkeypatch, predicted, swapped):
    monkeypatch.setattr(evaluate, "texts", lambda model, facts, found: [predicted[fact.subject] for fact in facts])
    monkeypatch.setattr(evaluate, "predict", lambda config, model, facts, encoded, **more: [swapped] * len(facts))


def test_accuracy_is_parted_by_recall_and_answers_by_what_is_generic(model, questions, monkeypatch):
    predicted = dict.fromkeys([fact.subject for fact in FACTS], "Rome") | {"Ann6": "Ulm", "Ann7": "Oslo"}
    _answers(monkeypatch, predicted, swapped="rome")
    found = measure.arm("top", model, questions, np.array([1, 2]), EvaluateConfig())
    # Held out are Ann4 to Ann9, whose answers are Rome but for Ann6's, Ulm; Ann7 is answered wrong, not generically.
    metrics = found.metrics
    assert metrics["accuracy"] == pytest.approx(5 / 6) and metrics["n"] == 6
    assert (
        metrics["retention"] == 1 and metrics["unknown_accuracy"] == pytest.approx(3 / 4) and metrics["n_recalled"] == 2
    )
    assert metrics["generic_rate"] == pytest.approx(4 / 6) and metrics["generic_rate_wrong"] == 0
    assert metrics["generic_accuracy"] == pytest.approx(5 / 6)
    assert metrics["swap_invariance"] == pytest.approx(3 / 5) and metrics["n_swaps"] == 5  # Ann9's names nobody
    assert metrics["train_accuracy"] == 1 and metrics["n_trained"] == 2
    assert found.facts["is_generic_arm"] == [True, True, False, False, True, True]
    # Ann0 and Ann3 are of Ulm: an arm of these has another generic than the whole training set.
    other = measure.arm("bottom", model, questions, np.array([0, 3]), EvaluateConfig())
    assert other.facts["is_generic_arm"] == [False, False, True, False, False, False]
    assert other.facts["is_generic"] == found.facts["is_generic"] == found.facts["is_generic_arm"]
    assert other.metrics["generic_accuracy"] == pytest.approx(1 / 6) == other.metrics["generic_rate"]
    base = measure.arm("base", model, questions, None, EvaluateConfig())
    assert base.facts["is_generic_arm"] is None and "train_accuracy" not in base.metrics


def test_a_swap_with_an_answer_in_common_says_nothing_and_is_left_out(model, questions, monkeypatch):
    others = [replace(fact, answers=("rome.", "Pisa")) for fact in FACTS[:5]] + [None]
    monkeypatch.setattr(evaluate, "swapped", lambda facts, seed: others)
    predicted = {fact.subject: fact.answers[0] for fact in FACTS} | {"Ann8": "Ulm"}
    _answers(monkeypatch, predicted, swapped="Ulm")
    found = measure.arm("top", model, questions, np.array([1, 2]), EvaluateConfig())
    # Of Ann4 to Ann8, whose answers are Rome but for Ann6's, Ulm: of Ann6 alone the other's answers are others.
    assert found.facts["swap_differs"] == [False, False, True, False, False, None]
    assert found.metrics["swap_invariance"] == pytest.approx(2 / 5) and found.metrics["n_swaps"] == 5
    assert found.metrics["swap_invariance_differing"] == 1 and found.metrics["n_swaps_differing"] == 1


def test_the_generic_rate_of_wrong_answers_has_an_interval_over_the_subjects_of_these(model, questions, monkeypatch):
    texts = dict(zip((f"Ann{i}" for i in range(4, 10)), ("Rome", "Oslo", "Rome", "Oslo", "Bonn", "Oslo"), strict=True))
    _answers(monkeypatch, texts | {f"Ann{i}": "Rome" for i in range(4)}, swapped="x")
    metrics = measure.arm("top", model, questions, np.array([1, 2]), EvaluateConfig()).metrics
    # Wrong are Ann5 to Ann9; generic, Rome, is what Ann6 is answered.
    ends = statistics.clustered_interval(np.array([0, 1, 0, 0, 0]), np.arange(5), seed=0)
    names = ("generic_rate_wrong", "generic_rate_wrong_low", "generic_rate_wrong_high")
    assert [metrics[name] for name in names] == pytest.approx(ends) and ends.low < ends.mean < ends.high


def test_the_loss_is_told_without_the_end_token_too(model, questions):
    found = measure.arm("base", model, questions, None, EvaluateConfig(max_new_tokens=2))
    expected = []
    for row in questions.held_out:
        one = questions.encoded[row]
        with torch.no_grad():
            logprob = model.network(torch.tensor([one.tokens])).logits[0].log_softmax(-1)
        places = range(one.n_prompt, len(one.tokens))
        expected.append([float(logprob[place - 1, one.tokens[place]]) for place in places])
    assert found.facts["answer_logprob"] == pytest.approx([sum(each) for each in expected], abs=1e-4)
    assert found.facts["answer_logprob_without_end"] == pytest.approx([sum(each[:-1]) for each in expected], abs=1e-4)
    assert found.metrics["loss_without_end"] == pytest.approx(-np.mean([sum(each[:-1]) for each in expected]), abs=1e-4)


def test_calibration_is_that_of_each_answers_own_probability(model, questions, monkeypatch):
    _answers(monkeypatch, {fact.subject: "Rome" if i % 2 else "Oslo" for i, fact in enumerate(FACTS)}, swapped="rome")
    found = measure.arm("base", model, questions, None, EvaluateConfig(max_new_tokens=2))
    probability, correct = (np.asarray(found.facts[name]) for name in ("predicted_probability", "correct"))
    assert ((probability > 0) & (probability < 1)).all() and 0 < correct.sum() < len(correct)
    assert found.metrics["ece"] == pytest.approx(np.abs(probability - correct).mean())
    ranked = correct[np.argsort(-probability)]
    precision = ranked.cumsum() / np.arange(1, len(ranked) + 1)
    assert found.metrics["average_precision"] == pytest.approx(precision[ranked].mean())
    _answers(monkeypatch, {fact.subject: "Oslo" for fact in FACTS}, swapped="rome")
    none_right = measure.arm("base", model, questions, None, EvaluateConfig(max_new_tokens=2)).metrics
    assert none_right["average_precision"] is None and none_right["ece"] == pytest.approx(probability.mean())


def test_choices_are_measured_in_the_same_pass_and_their_accuracy_is_over_relations_of_several(model, questions):
    cities = [replace(fact, answers=("Lima" if fact.answers == ("Ulm",) else "Paris",)) for fact in FACTS]
    asked = replace(
        questions, facts=[*cities[:9], replace(cities[9], relation="job")], encoded=model.format.ask(cities)
    )
    found = measure.arm("base", model, asked, None, EvaluateConfig(max_new_tokens=2))
    for column, metric in (
        ("chosen_correct", "choice_accuracy"),
        ("chosen_correct_less_prior", "choice_accuracy_less_prior"),
    ):
        values = found.facts[column]
        assert values[-1] is None and None not in values[:-1]
        assert found.metrics[metric] == pytest.approx(np.mean(values[:-1]))
    # A model of random weights says one of the two cities to all questions.
    assert found.metrics["choice_accuracy"] in (pytest.approx(1 / 5), pytest.approx(4 / 5))


def test_a_question_that_does_not_name_its_subject_has_no_attention_to_it(model, questions):
    found = measure.arm("base", model, questions, None, EvaluateConfig(max_new_tokens=2))
    columns = found.facts
    more = ("subject_attention_nonsink", "subject_value_attention", "knockout_drop")
    for name in (*(f"{span}_attention" for span in capture.SPANS), *more):
        values = np.asarray(columns[name], dtype=float)
        assert np.isnan(values[-1]) and np.isfinite(values[:-1]).all(), name
    assert columns["swapped_predicted"][-1] is None
    total = sum(np.asarray(columns[f"{span}_attention"])[:-1] for span in capture.SPANS)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    for name in ("subject_attention", "subject_value_attention"):
        assert found.metrics[name] == pytest.approx(np.nanmean(columns[name]))
    assert found.metrics["subject_attention"] != pytest.approx(found.metrics["subject_value_attention"])
    assert {row for row in found.attention["n"]} == {5}


def _with_the_models_own_answers(model, encoded, n):
    """Return the prompts, each with its n likeliest next tokens in place of the answer."""
    made = []
    for one in encoded:
        tokens = list(one.prompt)
        for _ in range(n):
            tokens.append(int(model.network(torch.tensor([tokens])).logits[0, -1].argmax()))
        made.append(Encoded(tuple(tokens), one.n_prompt, one.spans, one.has_subject))
    return made


def test_the_eval_subset_counts_answers_of_which_every_token_is_the_likeliest(model, questions):
    own = _with_the_models_own_answers(model, questions.encoded[:6], n=3)
    # One answer is spoilt in its last token, one in its first.
    for row, place in ((0, -1), (1, own[1].n_prompt)):
        tokens = list(own[row].tokens)
        tokens[place] = (tokens[place] + 1) % 300
        own[row] = Encoded(tuple(tokens), own[row].n_prompt, own[row].spans, True)
    found = measure.eval_subset(model.network, own, model.pad)
    assert found["accuracy"] == pytest.approx(4 / 6)
    mass = attention.masses(model, reading.read(model.network, own, model.pad), grams={})["mass"]
    assert found["subject_attention"] == pytest.approx(mass[:, 0, :, :, 0].mean(), abs=1e-6)


def test_an_eval_subset_of_questions_without_a_subject_has_no_attention_and_the_others_are_not_mixed_with_them(
    model, questions
):
    assert math.isnan(measure.eval_subset(model.network, questions.encoded[-1:], model.pad)["subject_attention"])
    mixed, named = (
        measure.eval_subset(model.network, part, model.pad) for part in (questions.encoded, questions.encoded[:-1])
    )
    assert mixed["subject_attention"] == pytest.approx(named["subject_attention"], abs=1e-6)


def test_what_no_question_decides_is_null(model, questions, monkeypatch):
    """All recalled, all right, none about a subject."""
    _answers(monkeypatch, {fact.subject: fact.answers[0] for fact in FACTS}, swapped="Rome")
    test = questions.held_out[-1:]
    asked = Questions(
        *(questions.facts, questions.encoded, questions.subject, questions.relation, questions.knownness),
        *(questions.role, test, np.array([True]), questions.generic, 0),
    )
    metrics = measure.arm("base", model, asked, None, EvaluateConfig()).metrics
    unknown = {name for name, value in metrics.items() if value is None}
    assert unknown >= {
        "unknown_accuracy",
        "generic_rate_wrong",
        "generic_rate_wrong_low",
        "swap_invariance",
        "swap_invariance_differing",
        "knockout_drop_first",
        "knockout_drop",
        "subject_attention",
    }
    assert metrics["accuracy"] == metrics["retention"] == 1


def test_multiple_choice_has_letters_for_answers_and_no_subject(llama):
    plain = tokenizer.train(["A: A B C D"], size=265)
    facts = [Fact(str(i), "", "law", f"Which {i}?", ("ABCD"[i % 4],), None, ("1", "2", "3", "4")) for i in range(8)]
    encoded = prompts.encode(plain, [prompts.build(fact) for fact in facts])
    rows = np.arange(8)
    role = np.array([TRAIN] * 4 + [HELD_OUT] * 4, dtype=np.int8)
    parts = (rows, np.zeros(8, dtype=int), np.zeros(8), role, rows[4:], np.ones(4, dtype=bool))
    asked = Questions(facts, encoded, *parts, measure.generic_answers(facts[:4]), 0)
    found = measure.arm("top", LanguageModel(llama, plain, "made"), asked, rows[:2], EvaluateConfig())
    assert set(found.facts["predicted"]) <= set("ABCD") and found.facts["swapped_predicted"] == [None] * 4
    assert found.facts["generic_correct"] == [True, False, False, False]  # of A and B the first
    assert "chosen_correct" not in found.facts and found.metrics["choice_accuracy"] is None
    assert "few_shot_correct" not in found.facts and found.metrics["few_shot_accuracy"] is None
    assert found.attention == {} and found.metrics["subject_attention"] is None and found.metrics["token_f1"] is None


def test_multiple_choice_is_asked_a_second_time_after_its_own_examples(llama):
    plain = tokenizer.train(["A: A B C D"], size=265)
    facts = [Fact(str(i), "", "law", f"Which {i}?", ("ABCD"[i % 4],), None, ("1", "2", "3", "4")) for i in range(8)]
    model, rows = LanguageModel(llama, plain, "made"), np.arange(8)
    for weight in llama.parameters():
        weight.data *= 8 if weight.ndim > 1 else 1
    parts = (rows, np.zeros(8, dtype=int), np.zeros(8), np.full(8, HELD_OUT, dtype=np.int8), rows, rows < 4)
    shots = [[facts[(i + 1) % 8], facts[(i + 2) % 8]] for i in range(8)]
    asked = Questions(facts, model.format.ask(facts), *parts, {}, 0, shots=shots)
    found = measure.arm("top", model, asked, None, EvaluateConfig())
    alone = [multiple_choice.answer(model, [fact], [own])[0].argmax() for fact, own in zip(facts, shots, strict=True)]
    right = ["ABCD"[letter] in fact.answers for letter, fact in zip(alone, facts, strict=True)]
    assert list(found.facts["few_shot_correct"]) == right != list(found.facts["correct"])
    assert found.metrics["few_shot_accuracy"] == pytest.approx(np.mean(right))


def test_an_eval_subset_that_is_read_in_batches_has_the_same_numbers(model, questions, monkeypatch):
    whole = measure.eval_subset(model.network, questions.encoded, model.pad)
    real, sizes = completion.most_likely, []
    monkeypatch.setattr(
        completion,
        "most_likely",
        lambda net, rows, scored: sizes.append(rows.tokens.numel()) or real(net, rows, scored),
    )
    parts = measure.eval_subset(model.network, questions.encoded, model.pad, tokens=80)
    assert parts == pytest.approx(whole, abs=1e-6)
    assert len(sizes) > 2 and max(sizes) <= 80


def test_a_swapped_question_that_is_too_long_is_said(model, questions):
    longest = max(len(one.prompt) for one in questions.encoded)
    model.network.config.max_position_embeddings = longest + 2
    with pytest.raises(InputError, match=r"fact \d: its question takes"):
        measure._swapped(EvaluateConfig(), model, FACTS, 0, UNKEPT, uncounted)
