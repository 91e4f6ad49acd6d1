import numpy as np
import pytest

from empirical import attention, evaluate, measure, prompts, tokenizer
from empirical.evaluate import EvaluateConfig
from empirical.facts.record import Fact
from empirical.measure import Questions
from empirical.model import Loaded
from theory.split import HELD_OUT, TRAIN


def _fact(i, answer="Rome", relation="city", question=None):
    name = f"Ann{i}"
    return Fact(str(i), name, relation, question or f"Where is {name}?", (answer,), float(i))


FACTS = [_fact(i, "Rome" if i % 3 else "Ulm") for i in range(9)] + [_fact(9, question="Where is she?")]


@pytest.fixture
def loaded(llama, words):
    return Loaded(llama, words, "made")


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
        measure.majority_answers(FACTS[:4]),
        0,
    )


def test_the_majority_answer_is_the_most_frequent_of_equals_the_first_by_name():
    facts = [_fact(0, "Ulm"), _fact(1, "Rome"), _fact(2, "b", "job"), _fact(3, "a", "job"), _fact(4, "b", "job")]
    assert measure.majority_answers(facts) == {"city": "Rome", "job": "b"}


def _answers(monkeypatch, predicted, swapped):
    def answer(config, loaded, facts, encoded):
        texts = [predicted[fact.subject] for fact in facts]
        right = np.array([text in fact.answers for text, fact in zip(texts, facts, strict=True)])
        n = len(facts)
        return evaluate.Answers(texts, right, [True] * n, [1.0] * n, np.full(n, -1.0))

    monkeypatch.setattr(evaluate, "answer", answer)
    monkeypatch.setattr(evaluate, "predict", lambda config, loaded, facts, encoded: [swapped] * len(facts))


def test_accuracy_is_parted_by_recall_and_answers_by_what_is_generic(loaded, questions, monkeypatch):
    predicted = dict.fromkeys([fact.subject for fact in FACTS], "Rome") | {"Ann6": "Ulm", "Ann7": "Oslo"}
    _answers(monkeypatch, predicted, swapped="rome")
    found = measure.arm("top", loaded, questions, np.array([1, 2]), EvaluateConfig())
    # Held out are Ann4 to Ann9, whose answers are Rome but for Ann6's, Ulm; Ann7 is answered wrong, not generically.
    metrics = found.metrics
    assert metrics["accuracy"] == pytest.approx(5 / 6) and metrics["n"] == 6
    assert metrics["retention"] == 1 and metrics["guessed"] == pytest.approx(3 / 4) and metrics["n_recalled"] == 2
    assert metrics["generic_rate"] == pytest.approx(4 / 6) and metrics["generic_rate_wrong"] == 0
    assert metrics["majority_accuracy"] == pytest.approx(5 / 6)
    assert metrics["subject_blindness"] == pytest.approx(3 / 5)  # Ann9's question names nobody to swap
    assert metrics["train_accuracy"] == 1 and metrics["n_trained"] == 2
    assert found.facts["is_generic_arm"] == [True, True, False, False, True, True]
    base = measure.arm("base", loaded, questions, None, EvaluateConfig())
    assert base.facts["is_generic_arm"] is None and "train_accuracy" not in base.metrics


def test_a_question_that_does_not_name_its_subject_has_no_attention_to_it(loaded, questions):
    found = measure.arm("base", loaded, questions, None, EvaluateConfig(max_new_tokens=2))
    columns = found.facts
    for name in (*(f"{span}_attention" for span in attention.SPANS), "subject_attention_nonsink", "knockout_drop"):
        values = np.asarray(columns[name], dtype=float)
        assert np.isnan(values[-1]) and np.isfinite(values[:-1]).all(), name
    assert columns["swapped_predicted"][-1] is None
    total = sum(np.asarray(columns[f"{span}_attention"])[:-1] for span in attention.SPANS)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert found.metrics["subject_attention"] == pytest.approx(np.nanmean(columns["subject_attention"]))
    assert {row for row in found.attention["n"]} == {5}


def test_attentions_intervals_are_robust_to_questions_that_share_a_subject(questions):
    rng = np.random.default_rng(0)
    encoded = [one for one in questions.encoded if one.has_subject][:6]
    mass = rng.random((6, 1, 1, 1, 4))
    cluster = np.array([0, 0, 1, 1, 2, 3])
    table = measure.attention_table("top", mass, encoded, cluster)
    for span in range(4):
        values = mass[:, 0, 0, 0, span]
        sums = [sum(values[cluster == c] - values.mean()) for c in range(4)]
        half = 1.96 * np.sqrt(np.square(sums).sum()) / 6
        assert table["mean"][span] == pytest.approx(values.mean())
        assert table["high"][span] - table["mean"][span] == pytest.approx(half)


def test_the_probe_counts_answers_of_which_every_token_is_the_likeliest(loaded, questions):
    found = measure.probe(questions.encoded[:6], loaded.model, loaded.pad)
    assert found["accuracy"] == 0  # random weights
    mass = measure.attend(loaded, questions.encoded[:6], batch_size=2)
    assert found["subject_attention"] == pytest.approx(mass[:, 0, :, :, 0].mean(), abs=1e-6)


def test_swapped_subjects_are_others_of_the_relation_and_none_where_there_is_no_other():
    facts = [*FACTS, _fact(10, "b", "job")]
    swapped = evaluate.swapped(facts, seed=0)
    for fact, other in zip(facts[:9], swapped, strict=False):
        assert other is not None and other.subject != fact.subject and other.relation == fact.relation
        assert other.question == f"Where is {other.subject}?"
    assert swapped[9] is None and swapped[10] is None
    assert evaluate.swapped(facts, seed=0) == swapped != evaluate.swapped(facts, seed=1)


def test_every_score_is_one_a_question_and_letters_have_no_substring(llama, words):
    loaded = Loaded(llama, words, "made")
    encoded = prompts.encode(words, [prompts.build(fact) for fact in FACTS])
    found = evaluate.answer(EvaluateConfig(max_new_tokens=2), loaded, FACTS, encoded)
    assert {len(part) for part in (found.predicted, found.exact_match, found.token_f1, found.logprob)} == {10}
    plain = tokenizer.train(["A: A B C D"], size=265)
    asked = [Fact(str(i), "", "law", f"Which {i}?", ("B",), None, ("1", "2", "3", "4")) for i in range(3)]
    encoded = prompts.encode(plain, [prompts.build(fact) for fact in asked])
    letters = evaluate.answer(EvaluateConfig(), Loaded(llama, plain, "made"), asked, encoded)
    assert set(letters.predicted) <= set("ABCD") and letters.substring_match == letters.token_f1 == [None] * 3
