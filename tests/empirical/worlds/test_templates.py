import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from empirical.worlds import templates

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.mark.parametrize("name", [*templates.PHRASINGS, "birth year", "", "odd {name}"])
def test_each_relation_has_eight_statements_with_each_slot_once(name):
    phrasing = templates.for_relation(name)
    assert len(set(phrasing.paraphrases)) == 8
    assert phrasing.question.count("{subject}") == 1
    for statement in phrasing.paraphrases:
        assert statement.count("{subject}") == statement.count("{answer}") == 1
        filled = statement.format(subject="S{0}", answer="A")
        assert "{subject}" not in filled and "Question:" not in filled and "Answer:" not in filled
        assert phrasing.question not in statement


@pytest.mark.parametrize("name", [*templates.PHRASINGS, "birth year"])
def test_most_statements_end_with_the_answer_which_an_autoregressive_model_must_produce(name):
    statements = templates.for_relation(name).paraphrases
    assert sum(one.split("{answer}")[1] == "." for one in statements) >= 5
    assert sum(one.startswith("{answer}") for one in statements) >= 1


def test_no_two_relations_share_a_statement():
    counts = Counter(one for phrasing in templates.PHRASINGS.values() for one in phrasing.paraphrases)
    assert [one for one, count in counts.items() if count > 1] == []


@pytest.mark.skipif(not (DATA / "popqa").exists(), reason="PopQA's table is not there")
def test_popqas_relations_are_asked_in_its_own_words():
    with (DATA / "popqa" / "popqa.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["subj"]]
    asked = [templates.PHRASINGS[row["prop"]].question.replace("{subject}", row["subj"]) for row in rows]
    assert asked == [row["question"] for row in rows]


@pytest.mark.skipif(not (DATA / "entity_questions").exists(), reason="EntityQuestions is not there")
def test_entity_questions_relations_are_asked_in_its_own_words():
    folder = DATA / "entity_questions"
    asked = json.loads((folder / "relation_query_templates.json").read_text(encoding="utf-8"))
    names = {path.name.split(".")[0] for path in (folder / "test").glob("*.json")}
    assert {name: templates.PHRASINGS[name].question for name in names} == {
        name: asked[name].replace("[X]", "{subject}") for name in names
    }
