import json
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from core.errors import InputError
from core.facts import entity_questions, texts
from core.facts.request import Request

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "entity_questions"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="EntityQuestions is not in ../shared/data/entity_questions")
TEMPLATES = {"P19": "Where was [X] born?", "P40": "Who is [X]'s child?", "P106": "What does [X] do?"}


def record(subject, *answers, relation="P19"):
    return {"question": TEMPLATES[relation].replace("[X]", subject), "answers": list(answers) or ["x"]}


def write(folder, parts, templates=None):
    """Write files by their path under the folder, each a list of records or its text."""
    (folder / "relation_query_templates.json").write_text(json.dumps(TEMPLATES if templates is None else templates))
    for name, content in parts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return folder


def test_the_subject_is_what_stands_in_the_templates_place(tmp_path):
    parts = {"test/P40.test.json": [record("Ada's [X] born?", "Ö", "y", "Ö", relation="P40")]}
    (fact,) = entity_questions.read(Request(write(tmp_path, parts), part="test")).facts
    assert (fact.id, fact.subject, fact.relation) == ("test/P40/0", "Ada's [X] born?", "P40")
    assert (fact.question, fact.answers) == ("Who is Ada's [X] born?'s child?", ("Ö", "y"))
    assert (fact.popularity, fact.choices, fact.source) == (None, (), "entity_questions")


def test_relations_stand_by_number_and_can_be_chosen(tmp_path):
    parts = {f"test/{name}.test.json": [record("Ada", relation=name)] for name in TEMPLATES}
    write(tmp_path, parts)
    everything = entity_questions.read(Request(tmp_path, part="test"))
    assert [fact.relation for fact in everything.facts] == ["P19", "P40", "P106"]
    chosen = entity_questions.read(Request(tmp_path, part="test", relations=("P106", "P19")))
    assert [fact.relation for fact in chosen.facts] == ["P19", "P106"]
    with pytest.raises(InputError, match=r"no relation 'P7'; there are P19, P40, P106\."):
        entity_questions.read(Request(tmp_path, part="test", relations=("P7",)))


def test_exact_repeats_are_left_out_and_counted(tmp_path):
    parts = {"test/P19.test.json": [record("Ada", "x"), record("Ada", "y"), record("Ada", "x")]}
    found = entity_questions.read(Request(write(tmp_path, parts), part="test"))
    assert [fact.answers for fact in found.facts] == [("x",), ("y",)]
    assert found.notes == (
        "1 of 3 facts repeat another's question and answers: left out",
        "1 questions stand there with several answers, each a fact of its own",
    )


def test_texts_are_composed_and_counted_and_a_question_of_a_later_split_is_known_whatever_its_form(tmp_path):
    parts = {
        "train/P19.train.json": [record("Zoe\u0308", "a\u0301"), record("Ren\u00e9"), record("Bea", "x\u200b")],
        "test/P19.test.json": [record("Rene\u0301")],
    }
    found = entity_questions.read(Request(write(tmp_path, parts), part="train"))
    assert [(fact.subject, fact.answers) for fact in found.facts] == [("Zo\u00eb", ("\u00e1",)), ("Bea", ("x",))]
    assert found.notes == ("1 facts have a question of dev or test: left out", f"2 records {texts.UNICODE}")


def test_a_split_holds_no_question_of_a_later_one(tmp_path):
    names: dict[Literal["train", "dev", "test"], str] = {"train": "ABCD", "dev": "BC", "test": "CE"}
    write(tmp_path, {f"{split}/P19.{split}.json": [record(name) for name in names[split]] for split in names})
    kept = {split: entity_questions.read(Request(tmp_path, part=split)) for split in names}
    assert ["".join(fact.subject for fact in kept[split].facts) for split in names] == ["AD", "B", "CE"]
    assert kept["train"].notes == ("2 facts have a question of dev or test: left out",)
    assert kept["test"].notes == ()


def test_buckets_give_an_order_of_popularity_and_lose_the_questions_of_later_splits(tmp_path):
    parts = {f"rand_ent/P19/bucket{i}.test.json": [record(f"S{i}"), record("twice")] for i in range(8)}
    write(tmp_path, parts | {"dev/P19.dev.json": [record("S3")]})
    found = entity_questions.read(Request(tmp_path, part="train", buckets=tmp_path / "rand_ent"))
    assert {fact.subject: fact.popularity for fact in found.facts} == {
        "S0": 8, "twice": 8, "S1": 7, "S2": 6, "S4": 4, "S5": 3, "S6": 2, "S7": 1
    }  # fmt: skip
    assert found.notes == (
        "7 of 16 facts repeat another's question and answers: left out",
        "1 facts have a question of dev or test: left out",
    )
    with pytest.raises(InputError, match=r"no folders Pxx of buckets.\nName rand_ent or train_ent"):
        entity_questions.read(Request(tmp_path, part="train", buckets=tmp_path))
    (tmp_path / "rand_ent/P19/bucket5.test.json").unlink()
    with pytest.raises(InputError, match=r"bucket5.test.json: cannot be read"):
        entity_questions.read(Request(tmp_path, part="train", buckets=tmp_path / "rand_ent"))


def test_a_single_file_takes_its_relation_from_its_name_and_its_template_from_a_folder_above(tmp_path):
    write(tmp_path, {"dev/P19.dev.json": [record("Ada")], "test/P19.test.json": [record("Ada")]})
    (fact,) = entity_questions.read(Request(tmp_path / "dev/P19.dev.json", part="train")).facts
    assert (fact.id, fact.subject, fact.relation) == ("P19.dev/0", "Ada", "P19")
    (tmp_path / "dev/P19.dev.json").rename(tmp_path / "dev/own.json")
    with pytest.raises(InputError, match=r"own.json: .* has no relation 'own'"):
        entity_questions.read(Request(tmp_path / "dev/own.json", part="train"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"question": "Where was A born?",\n"answers": ["x"}\n]', "line 3: malformed JSON"),
        ("[" * 100_000, "malformed JSON"),
        ("{}", "not a JSON list of records"),
        ("[]", "not a JSON list of records"),
        ([record("A"), 3], "record 2: not a JSON object"),
        ([record("A"), {"question": "Where was B born?"}], "record 2: 'answers' is None, no filled text"),
        ([record("A"), record("B") | {"answers": []}], "record 2: 'answers' is"),
        ([record("A"), record("B") | {"answers": ["x", 3]}], "record 2: 'answers' is"),
        ([record("A"), record("B") | {"answers": "x"}], "record 2: 'answers' is"),
        ([record("A"), record("B", " ")], "record 2: 'answers' is"),
        ([record("A"), record("B", "\ud800")], "record 2: 'answers' holds half a character"),
        ([record("A"), {"answers": ["x"]}], r"record 2: 'question' is \[None\], no filled text"),
        ([record("A"), record("B", relation="P40")], "record 2: .* does not fit the relation's template"),
        ([record("A"), record(" ")], "record 2: .* does not fit"),
        ([record("A"), {"question": "Where was born?", "answers": ["x"]}], "record 2: .* does not fit"),
        ('[{"question": "Where was A born?", "answers": ["x"], "question": "Where was B born?"}]', "a key twice"),
    ],
)
def test_a_damaged_file_is_named_with_line_or_record(tmp_path, content, message):
    write(tmp_path, {"test/P19.test.json": content})
    with pytest.raises(InputError, match=message) as caught:
        entity_questions.read(Request(tmp_path, part="test"))
    assert "test/P19.test.json" in str(caught.value)


def test_a_folder_without_the_split_or_the_templates_is_an_input_error(tmp_path):
    write(tmp_path, {"test/P19.test.json": [record("A")]})
    with pytest.raises(InputError, match=r"no files train/Pxx.train.json"):
        entity_questions.read(Request(tmp_path, part="train"))
    for templates, message in (([], "not one JSON object"), ({"P19": "Where?"}, r"P19: .* has no single \[X\]")):
        write(tmp_path, {}, templates)
        with pytest.raises(InputError, match=message):
            entity_questions.read(Request(tmp_path, part="test"))
    (tmp_path / "relation_query_templates.json").unlink()
    with pytest.raises(InputError, match=r"relation_query_templates.json is not there"):
        entity_questions.read(Request(tmp_path, part="test"))


@needs_real
@pytest.mark.parametrize(
    ("split", "n_rows", "n_repeats", "n_shared"),
    [
        pytest.param("train", "176,560", 366, 976, marks=pytest.mark.slow),
        ("dev", "22,068", 7, 60),
        ("test", "22,075", 4, 0),
    ],
)
def test_the_real_splits_have_the_counts_that_their_description_says(split, n_rows, n_repeats, n_shared):
    found = entity_questions.read(Request(REAL, part=split))
    assert found.notes[0] == f"{n_repeats} of {n_rows} facts repeat another's question and answers: left out"
    assert len(found.facts) == int(n_rows.replace(",", "")) - n_repeats - n_shared
    relations = Counter(fact.relation for fact in found.facts)
    assert len(relations) == 24 and min(relations, key=lambda name: relations[name]) == "P800"


@needs_real
def test_one_real_relation_of_train_loses_repeats_and_questions_of_dev_and_test():
    found = entity_questions.read(Request(REAL, part="train", relations=("P36",)))
    assert {fact.relation for fact in found.facts} == {"P36"}
    assert found.notes == (
        "13 of 7,084 facts repeat another's question and answers: left out",
        "189 questions stand there with several answers, each a fact of its own",
        "252 facts have a question of dev or test: left out",
    )


@needs_real
def test_the_real_buckets_have_the_counts_that_their_description_says():
    buckets = REAL / "frequency_buckets" / "rand_ent"
    found = entity_questions.read(Request(REAL, part="train", buckets=buckets))
    assert found.notes[0] == "24 of 11,925 facts repeat another's question and answers: left out"
    assert {fact.relation for fact in found.facts} == {"P19", "P170"}
    known = {fact.subject: fact.popularity for fact in found.facts if fact.relation == "P19"}
    assert set(known.values()) == set(range(1, 9))
