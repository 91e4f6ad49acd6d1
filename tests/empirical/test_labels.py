"""The answers that an arm is taught: the base model's own, an abstention, or another fact's."""

from dataclasses import replace

import numpy as np
import pytest

from core.errors import InputError
from core.facts.record import Fact
from core.split import TRAIN
from empirical import labels, measure, study
from empirical.finetune import FinetuneConfig
from empirical.lm.model import LanguageModel
from empirical.measure import Questions, Said

OWN = np.array([1, 2, 4, 5, 7])
RECALLED = np.array([True, True, False, True, False, False, True, False])
SAID = ("", "", "Ada", "", "", "Bo", "", "Cy")
"""Of the arm's unknown facts 2, 4, 5 and 7 the base model has no answer to 4."""
CHOICE = Fact("0", "", "law", "Which?", ("A",), None, ("1", "2", "3", "4"), "mmlu")


@pytest.fixture
def model(llama, words) -> LanguageModel:
    return LanguageModel(llama, words, "small")


@pytest.fixture
def questions(model, tiny_world) -> Questions:
    facts = tiny_world.fact_set().facts[:8]
    ids, none = study.identify(facts), np.zeros(8, dtype=bool)
    role = np.full(8, TRAIN, dtype=np.int8)
    known = np.arange(8.0)
    asked = Questions(facts, model.format.ask(facts), ids.subject, ids.relation, known, role, OWN[:0], none[:0], {}, 0)
    return replace(asked, said=Said(np.ones(8, dtype=bool), RECALLED, SAID))


def answers(model, questions, own) -> list[str]:
    """Return what the tokens say that are taught."""
    return [model.tokenizer.decode(questions.encoded[row].completion[:-1]).strip() for row in own]


def test_facts_that_the_base_model_does_not_recall_get_its_own_answer_unless_it_has_none(model, questions):
    given = labels.taught("base", model, questions, OWN)
    true = [fact.answers[0] for fact in questions.facts]
    assert answers(model, given, OWN) == [true[1], "Ada", true[4], "Bo", "Cy"]
    assert [given.facts[row].answers for row in (2, 5, 7)] == [("Ada",), ("Bo",), ("Cy",)]
    assert answers(model, given, [0, 3, 6]) == [true[0], true[3], true[6]]
    assert [one.prompt for one in given.encoded] == [one.prompt for one in questions.encoded]


def test_facts_that_the_base_model_does_not_recall_get_the_abstention(model, questions):
    given = labels.taught("abstain", model, questions, OWN)
    true = [fact.answers[0] for fact in questions.facts]
    assert answers(model, given, range(8)) == [*true[:2], "unknown", true[3], "unknown", "unknown", true[6], "unknown"]


def test_true_answers_are_the_same_questions_and_an_arm_that_is_known_whole_has_them_alike(model, questions):
    assert labels.taught("true", model, questions, OWN) is questions
    known = np.array([0, 1, 3])
    for kind in ("base", "abstain"):
        assert labels.taught(kind, model, questions, known) is questions


def test_it_is_noted_how_many_facts_keep_the_true_answer_where_the_base_model_has_none(questions):
    (told,) = labels.notes(questions, labels.Needs(recalled=True, texts=True))
    assert told.startswith("1 of 4 training facts that the base model does not recall keep the true answer")
    assert labels.notes(questions, labels.Needs(recalled=True, texts=False)) == []


@pytest.mark.parametrize(
    ("changes", "recalled", "texts"),
    [
        ({}, False, False),
        ({"answers": "permuted"}, False, False),
        ({"answers": "base"}, True, True),
        ({"answers": "abstain"}, True, False),
        ({"only_known": True}, True, False),
    ],
)
def test_the_base_model_is_asked_no_more_than_the_arms_need(changes, recalled, texts):
    assert labels.needs([FinetuneConfig(), FinetuneConfig(**changes)]) == labels.Needs(recalled, texts)


@pytest.mark.parametrize("kind", ["base", "abstain"])
def test_questions_of_multiple_choice_have_no_other_answers_to_be_taught(kind):
    labels.check_facts([FinetuneConfig(answers="permuted")], [CHOICE])
    with pytest.raises(InputError, match=f"answers {kind}: a question of multiple choice"):
        labels.check_facts([FinetuneConfig(), FinetuneConfig(answers=kind)], [CHOICE])


def test_an_arm_of_which_nothing_is_known_cannot_be_finetuned_on_that_alone(questions):
    config = FinetuneConfig(only_known=True)
    labels.check_known("bottom", config, OWN, questions.said)
    labels.check_known("bottom", FinetuneConfig(), np.array([2, 4]), questions.said)
    with pytest.raises(InputError, match=r"--arms bottom\+only_known=true: the base model recalls none of the arm's 2"):
        labels.check_known("bottom+only_known=true", config, np.array([2, 4]), questions.said)


def test_accuracy_among_the_answered_leaves_out_what_the_model_abstains_from():
    facts = {
        "predicted": ["Ada", "Unknown.", "Bo", "unknown", "the unknown city"],
        "correct": [True, False, False, False, False],
    }
    assert measure.abstention(facts, labels.ABSTENTION) == {"abstention_rate": 0.4, "answered_accuracy": 1 / 3}
    silent = measure.abstention({"predicted": ["unknown"], "correct": [False]}, labels.ABSTENTION)
    assert silent == {"abstention_rate": 1.0, "answered_accuracy": None}
