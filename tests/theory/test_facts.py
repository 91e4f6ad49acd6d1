import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.facts import store as fact_store
from core.facts import texts
from core.facts.store import Background
from theory import facts
from theory.facts import FactsConfig

TABLE = "subject,relation,answer,popularity\nA,r,x,100\nA,s,z,100\nB,r,y,1\nC,s,x,10\nD,s,é,10\n"

POPQA = Path(os.environ.get("POPQA") or Path(__file__).resolve().parents[3] / "shared/data/popqa/popqa.tsv")
GOLDEN = {
    "pop_source=[AB]": {
        "counts": [2685, 2513, 16, 1953],
        "subject": "d71dd68856453fa95e20ad3c8075c2534ebfdafc46b38d951c81b1292e0d61f8",
        "relation": "91cfd19fa3659e1dd03bfaac74fe1cff03e8ff0bc8ba71a364448e06ffc574fe",
        "answer": "ca853cdee43874639e6c9f57308053d77831c307635d81ecabacf434e0bdd804",
        "popularity": "010a32f5e7bf09a52185b9c6fc0b52e9f486c8d77427b40172d18092b8997f4b",
        "exposure": "009714d9c3a6ffa84eba8c7445bcf0e19b6be43423428c0b0bf409bd1a2d69c4",
        "subject_names": "48dba7478decb439b471b9be68f0e7dc79af6fc405fa30ea646e1befc5c24fe6",
        "relation_names": "fa9d3cfabc5d888043ba943aec72e26d6f70a34e164c25dad87a988c6c2b60eb",
        "answer_names": "d2471f00e4466c98378c0ecad7bc607deb8f58ca5f4a1b6e8a587a6c6994b20b",
        "notes": (
            "11,534 of 14,267 rows do not match --facts.where: left out",
            f"1 cells {texts.UNICODE}",
            "43 keys (subject, relation) are repeated: 48 less popular rows left out",
            "39 of the repeated keys have several answers",
            "2 subjects differ from another by case alone: they stay distinct",
        ),
    },
    None: {
        "counts": [4448, 4169, 16, 2696],
        "subject": "0927957df395f29bdb5525dc9a49d66ac9b4961c2b52c5d9bf4e55894b57dbd0",
        "relation": "2036743f135d73f805e397882850b9f704b4e504a8360a404ac493e554e00e95",
        "answer": "a520085734f091d3183de9067e69a3f722255943206f75970384e5f72169ecaa",
        "popularity": "838d0c403cab02d6ba50f8fde28178a2c7ce2429e875f9b2105af352ed368c56",
        "exposure": "a719f70287e8325b2a3b704ef61e4e6674547bd99bc18b156c0037071961cf41",
        "subject_names": "06a82967bd46f60272d3c884be035cb303087cf189e21bbc995910c0448f3e3f",
        "relation_names": "fa9d3cfabc5d888043ba943aec72e26d6f70a34e164c25dad87a988c6c2b60eb",
        "answer_names": "72073deb071fe7b8671e80e88f947d054e43efbb243965142714a13c4eed0d20",
        "notes": (
            "9,528 of 14,267 rows have no popularity above 0: left out",
            f"3 cells {texts.UNICODE}",
            "197 keys (subject, relation) are repeated: 291 less popular rows left out",
            "52 of the repeated keys have several answers",
            "6 subjects differ from another by case alone: they stay distinct",
        ),
    },
}
"""What PopQA's table gives by --facts.where: counts of facts, subjects, relations and answers; SHA-256 of the rest."""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text(TABLE, encoding="utf-8")
    return FactsConfig(path=path, min_facts=1)


def as_dict(store):
    return {field.name: getattr(store, field.name) for field in dataclasses.fields(store)}


@settings(max_examples=25)
@given(
    n_subjects=st.integers(1, 30),
    n_relations=st.integers(1, 4),
    n_answers=st.integers(2, 5),
    exponent=st.floats(0, 3),
    size=st.sampled_from([0.0, 1.0, 2.5]),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_every_world_is_a_distribution_over_distinct_facts(
    n_subjects, n_relations, n_answers, exponent, size, seed, data
):
    n_each = data.draw(st.none() | st.integers(1, n_relations))
    config = FactsConfig(
        n_subjects=n_subjects,
        n_relations=n_relations,
        n_answers=n_answers,
        popularity_exponent=exponent,
        facts_per_subject=n_each,
        background=Background(size=size),
    )
    store = facts.build(config, seed=seed)
    own = ~store.is_background
    assert store.exposure.sum() == pytest.approx(1)
    assert (store.exposure > 0).all() and (store.popularity > 0).all()
    assert len(np.unique(store.subject.astype(int) * n_relations + store.relation)) == len(store.subject)
    np.testing.assert_array_equal(np.bincount(store.subject[own]), np.full(n_subjects, n_each or n_relations))
    np.testing.assert_array_equal(store.answer // n_answers, store.relation)
    assert store.subject.max() == store.n_subjects - 1


def test_sampled_popularity_is_zipf_and_answers_are_skewed_as_stated():
    config = FactsConfig(n_subjects=20_000, n_relations=2, n_answers=4, answer_skew=1.0, popularity_exponent=1.5)
    store = facts.sample(config, seed=0)
    np.testing.assert_allclose(store.popularity, (store.subject + 1.0) ** -1.5)
    np.testing.assert_allclose(store.exposure, store.popularity / store.popularity.sum())
    share = np.bincount(store.answer).reshape(2, 4) / 20_000
    np.testing.assert_allclose(share, [np.array([12, 6, 4, 3]) / 25] * 2, atol=0.015)


def test_exposure_exponent_tempers_the_popularity():
    store = facts.sample(FactsConfig(exposure_exponent=0.5), seed=0)
    np.testing.assert_allclose(store.exposure[0] / store.exposure[-1], np.sqrt(1000))


def test_the_seed_alone_decides_the_world():
    config = FactsConfig(n_subjects=50, facts_per_subject=2, background=Background(size=1.0))
    first, again, other = (facts.build(config, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.answer, again.answer)
    assert (first.answer != other.answer).any() and (first.relation != other.relation).any()
    one, two = (
        fact_store.add_background(first, Background(size=1.0), seed=seed, flag="--facts.background") for seed in (0, 1)
    )
    assert (one.answer != two.answer).any()


def test_a_table_becomes_ids_names_and_exposure_in_the_order_of_the_file(table):
    store = facts.build(dataclasses.replace(table, exposure_exponent=0.5), seed=0)
    assert store.subject_names and store.relation_names and store.answer_names
    assert [store.subject_names[i] for i in store.subject] == ["A", "A", "B", "C", "D"]
    assert [store.relation_names[i] for i in store.relation] == ["r", "s", "r", "s", "s"]
    assert [store.answer_names[i] for i in store.answer] == ["x", "z", "y", "x", "é"]
    assert (store.n_subjects, store.n_relations, store.n_answers) == (4, 2, 4)
    np.testing.assert_allclose(store.exposure, np.sqrt([100, 100, 1, 10, 10]) / np.sqrt([100, 100, 1, 10, 10]).sum())


def test_another_source_is_read_by_its_own_reader_with_the_settings_it_takes(tmp_path):
    templates, folder = {"P19": "Where was [X] born?"}, tmp_path / "rand_ent" / "P19"
    folder.mkdir(parents=True)
    (tmp_path / "relation_query_templates.json").write_text(json.dumps(templates), encoding="utf-8")
    for bucket in range(8):
        records = [{"question": f"Where was {name}{bucket} born?", "answers": [name, "x"]} for name in "AB"]
        (folder / f"bucket{bucket}.test.json").write_text(json.dumps(records), encoding="utf-8")
    config = FactsConfig(path=tmp_path, source="entity_questions", buckets=tmp_path / "rand_ent", relations=("P19",))
    store = facts.build(config, seed=0)
    assert store.subject_names and store.subject_names[:3] == ("A0", "B0", "A1")
    assert store.relation_names == ("P19",) and store.answer_names == ("A", "B")
    np.testing.assert_array_equal(store.popularity[::2], np.arange(8, 0, -1))
    with pytest.raises(InputError, match="--facts.where is of no use to EntityQuestions"):
        facts.build(dataclasses.replace(config, where="a=b"), seed=0)
    with pytest.raises(InputError, match=r"no fact of entity_questions has a popularity(.|\n)*--facts.buckets FOLDER"):
        facts.build(dataclasses.replace(config, path=_split(tmp_path), buckets=None), seed=0)


def _split(folder):
    """Return the folder, with a part of EntityQuestions in it."""
    (folder / "train").mkdir()
    records = [{"question": "Where was C born?", "answers": ["y"]}]
    (folder / "train" / "P19.train.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def test_popularity_by_rank_is_zipf_and_keeps_equal_facts_equal(table):
    store = facts.read(dataclasses.replace(table, popularity="rank", popularity_exponent=2.0))
    np.testing.assert_allclose(store.popularity, np.array([1.5, 1.5, 5, 3.5, 3.5]) ** -2.0)


def test_background_facts_have_new_subjects_their_share_and_the_relations_own_answers():
    store = facts.sample(FactsConfig(n_subjects=500, facts_per_subject=1), seed=0)
    both = fact_store.add_background(store, Background(size=1.5, share=0.3), seed=0, flag="--facts.background")
    n_own, new = len(store.subject), both.is_background
    np.testing.assert_allclose(np.bincount(both.relation[new]), 1.5 * np.bincount(store.relation), atol=1)
    assert new.sum() == 750
    np.testing.assert_array_equal(np.flatnonzero(~new), np.arange(n_own))
    np.testing.assert_array_equal(both.subject[new], np.arange(500, 500 + new.sum()))
    np.testing.assert_allclose(both.exposure[~new], 0.7 * store.exposure)
    np.testing.assert_allclose(both.exposure[new], 0.3 / new.sum())
    assert both.n_subjects == 500 + new.sum()


def test_a_fraction_of_a_background_fact_makes_no_seed_larger_than_another():
    config = FactsConfig(n_subjects=40, facts_per_subject=2, background=Background(size=0.3))
    stores = [facts.build(config, seed=seed) for seed in range(5)]
    assert len({tuple(np.bincount(store.relation[~store.is_background])) for store in stores}) > 1
    for store in stores:
        assert store.is_background.sum() == 24
        n_own, n_new = (
            np.bincount(store.relation[of], minlength=4) for of in (~store.is_background, store.is_background)
        )
        assert (np.abs(n_new - 0.3 * n_own) < 1).all()


def test_background_answers_follow_the_frequency_ranks_of_the_store(tmp_path):
    answers = ["c"] * 2 + ["a"] * 5 + ["b"] * 2
    lines = [f"S{i},r,{answer},1" for i, answer in enumerate(answers)]
    (tmp_path / "a.csv").write_text("\n".join(["subject,relation,answer,popularity", *lines]))
    background = Background(size=2000.0, skew=1.0)
    store = facts.build(FactsConfig(path=tmp_path / "a.csv", min_facts=1, background=background), seed=0)
    share = np.bincount(store.answer[store.is_background]) / store.is_background.sum()
    # Ranks: a, then c before b, whose counts tie and whose ids are 0 and 2.
    np.testing.assert_allclose(share, np.array([3, 6, 2]) / 11, atol=0.015)
    assert store.subject_names and len(set(store.subject_names)) == store.n_subjects


@pytest.mark.parametrize("source", ["table", "sample"])
def test_a_saved_store_is_loaded_exactly(tmp_path, table, source):
    config = dataclasses.replace(table, where="subject=[ABD]") if source == "table" else FactsConfig(n_subjects=20)
    store = facts.build(dataclasses.replace(config, background=Background(size=1.0)), seed=0)
    fact_store.save(store, tmp_path / "store.parquet")
    loaded = fact_store.load(tmp_path / "store.parquet")
    for name, value in as_dict(store).items():
        other = getattr(loaded, name)
        assert type(other) is type(value)
        np.testing.assert_array_equal(other, value)
        assert getattr(other, "dtype", None) == getattr(value, "dtype", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.csv", "store.parquet"]


def test_a_store_that_was_not_saved_by_us_is_an_input_error(tmp_path):
    (tmp_path / "store.parquet").write_text("something else")
    for name in ("store.parquet", "gone.parquet"):
        with pytest.raises(InputError, match=f"{name}: not a fact store"):
            fact_store.load(tmp_path / name)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_subjects": 0}, "--facts.n-subjects is 0: it must be at least 1."),
        ({"n_relations": -1}, "--facts.n-relations is -1: it must be at least 1."),
        ({"n_answers": 1}, "--facts.n-answers is 1: it must be at least 2."),
        ({"answer_skew": -0.5}, "--facts.answer-skew is -0.5: it must be at least 0."),
        ({"popularity_exponent": float("nan")}, "--facts.popularity-exponent is nan: it must be at least 0."),
        ({"exposure_exponent": float("inf")}, "--facts.exposure-exponent is inf: it must be at least 0."),
        ({"facts_per_subject": 5}, "--facts.facts-per-subject is 5: it must be between 1 and 4."),
        ({"facts_per_subject": 0}, "--facts.facts-per-subject is 0: it must be between 1 and 4."),
        ({"min_facts": 0}, "--facts.min-facts is 0: it must be at least 1."),
        ({"source": "popqa"}, "--facts.source is of no use to a sampled world.\nName the source's file or folder with"),
        ({"relations": ("r",)}, "--facts.relations is of no use to a sampled world."),
        ({"background": Background(size=-1.0)}, "--facts.background.size is -1.0: it must be at least 0."),
        ({"background": Background(size=1.0, skew=-1.0)}, "--facts.background.skew is -1.0: it must be at least 0."),
        ({"background": Background(size=1.0, share=1.0)}, "--facts.background.share is 1.0: it must lie between"),
        ({"background": Background(size=1e-9)}, "--facts.background.size is 1e-09: too small for one fact"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_flag(setting, message):
    with pytest.raises(InputError) as caught:
        facts.build(FactsConfig(**setting), seed=0)
    assert str(caught.value).startswith(message)


def sha256(value):
    content = value.tobytes() if isinstance(value, np.ndarray) else "\n".join(value).encode()
    return hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(not POPQA.exists(), reason=f"needs PopQA's table at {POPQA}; name another by POPQA=FILE")
def test_popqa_by_its_own_reader_has_the_facts_that_it_has_as_a_table():
    """All but their answers: its reader takes the column obj, and a table the first of the possible ones."""
    table, popqa = (facts.read(FactsConfig(path=POPQA, source=source)) for source in ("table", "popqa"))
    for name in ("subject", "relation", "popularity", "exposure"):
        np.testing.assert_array_equal(getattr(popqa, name), getattr(table, name))


@pytest.mark.skipif(not POPQA.exists(), reason=f"needs PopQA's table at {POPQA}; name another by POPQA=FILE")
@pytest.mark.parametrize("where", GOLDEN)
def test_popqa_is_read_as_ever(where):
    store = facts.read(FactsConfig(path=POPQA, where=where))
    golden = dict(GOLDEN[where])
    assert [len(store.subject), store.n_subjects, store.n_relations, store.n_answers] == golden.pop("counts")
    assert store.notes == golden.pop("notes")
    # Processors differ in the last bits of a sum.
    found = as_dict(store) | {"exposure": store.exposure.astype(np.float32)}
    assert {name: sha256(found[name]) for name in golden} == golden
