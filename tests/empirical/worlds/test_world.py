from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.facts.record import Fact, FactSet
from core.facts.store import Background
from empirical import facts
from empirical.facts import FactsConfig
from empirical.worlds import corpus, exposure, world
from empirical.worlds.world import Exposure, WorldConfig
from theory import facts as toy_facts

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "popqa" / "popqa.tsv"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason="PopQA is not at ../shared/data/popqa/popqa.tsv")
SMALL = WorldConfig(n_subjects=60, n_relations=3, facts_per_subject=2, n_answers=6)


def test_by_rank_exposure_is_log_spaced_between_cap_and_tail():
    popularity = np.array([5.0, 1.0, 3.0, 9.0, 7.0])
    found = exposure.expected(Exposure(low=1.0, high=16.0), popularity)
    np.testing.assert_allclose(found, [4, 1, 2, 16, 8])


def test_by_popularity_exposure_is_tempered_capped_and_of_the_wanted_mean():
    popularity = np.random.default_rng(0).lognormal(7, 2.2, size=500)
    config = Exposure(by="popularity", low=0.5, high=300.0, exponent=0.5, mean=40.0)
    found = exposure.expected(config, popularity)
    assert found.mean() == pytest.approx(40, rel=1e-6) and found.min() >= 0.5 and found.max() <= 300
    free = (found > 0.5) & (found < 300)
    ratio = found[free] / popularity[free] ** 0.5
    np.testing.assert_allclose(ratio, ratio[0])


def test_what_has_no_popularity_at_all_is_told_as_the_tail():
    found = exposure.expected(Exposure(by="popularity", low=1.0, high=100.0, mean=20.0), np.array([0.0, 4.0, 9.0]))
    assert found[0] == 1 and found.mean() == pytest.approx(20)


def test_a_steep_exponent_tells_one_fact_often_and_the_tail_seldom():
    config = Exposure(by="popularity", low=0.5, high=300.0, exponent=3.0, mean=100.0)
    found = exposure.expected(config, np.array([0.0, 0.0, 4.0, 100.0]))
    assert found[0] == found[1] and found.mean() == pytest.approx(100) and 0.5 <= found.min() < found.max() <= 300


@pytest.mark.parametrize("by", ["rank", "popularity"])
def test_equal_popularity_is_told_equally_often(by):
    found = exposure.expected(Exposure(by=by, low=1.0, high=100.0, mean=20.0), np.array([4.0, 2.0, 2.0, 2.0, 1.0]))
    assert found[1] == found[2] == found[3] and found[0] > found[1] > found[4]


def test_the_background_is_told_its_share_and_never_asked():
    made = world.build(replace(SMALL, background=Background(size=1.0, share=0.3, skew=1.0)), seed=0)
    is_background = made.store.is_background
    assert made.exposures[is_background].sum() / made.exposures.sum() == pytest.approx(0.3)
    assert len(set(made.exposures[is_background])) == 1
    own = made.fact_set().facts
    assert len(own) == (~is_background).sum() == 120
    asked = {fact.subject for fact in own}
    others = {made.subjects[i] for i in made.store.subject[is_background]}
    assert others and not asked & others
    answers = {made.answers[i] for i in made.store.answer[is_background]}
    assert answers <= {fact.answers[0] for fact in own}


def test_the_question_format_is_told_of_other_people_alone_or_of_nobody():
    assert not any("Question:" in text for text in corpus.texts(world.build(SMALL, seed=0)))
    made = world.build(replace(SMALL, qa_share=0.1, qa_facts=30), seed=0)
    asked = [text for text in corpus.texts(made) if text.startswith("Question:")]
    assert len(asked) == 30
    people = {made.subjects[i] for i in made.store.subject[made.is_asked]}
    assert not people & {fact.subject for fact in made.fact_set().facts}
    assert made.exposures[made.is_asked].sum() / 2 / made.exposures.sum() == pytest.approx(0.1)


def test_relations_with_distinct_answers_have_nearly_as_many_as_facts():
    made = world.build(replace(SMALL, n_subjects=300, facts_per_subject=1, distinct_relations=1), seed=0)
    counts = {}
    for fact in made.fact_set().facts:
        counts.setdefault(fact.relation, []).append(fact.answers[0])
    share = [len(set(answers)) / len(answers) for answers in counts.values()]
    assert sorted(share)[-1] > 0.5 and sorted(share)[-2] < 0.1


@pytest.mark.parametrize("parts", ["shared", "distinctive"])
def test_names_are_distinct_and_of_one_to_three_words(parts):
    made = world.build(replace(SMALL, names=parts), seed=0)
    assert len(set(made.subjects)) == len(made.subjects)
    words = [name.split() for name in made.subjects]
    assert {len(name) for name in words} == ({2, 3} if parts == "shared" else {1, 2, 3})
    n_distinct = len({word for name in words for word in name})
    assert n_distinct <= 80 if parts == "shared" else n_distinct == sum(map(len, words))


def test_a_seed_is_a_world():
    same, again, other = (world.build(SMALL, seed=seed).fact_set() for seed in (0, 0, 1))
    assert same == again and same != other


def test_a_seed_draws_the_facts_and_the_names():
    one, other = (world.build(SMALL, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one.store.answer, other.store.answer)
    assert one.subjects != other.subjects and one.answers != other.answers


def _given(*rows):
    return FactSet(
        tuple(
            Fact(str(i), subject, relation, f"What of {subject}?", (answer,), popularity, (), "given")
            for i, (subject, relation, answer, popularity) in enumerate(rows)
        )
    )


def test_a_sources_facts_keep_their_words_and_what_cannot_be_told_is_noted():
    rows = [(f"S{i}", "job", f"a{i % 3}", float(i + 1)) for i in range(12)]
    rows += [("S3", "job", "b", 100.0), ("S4", "rare", "c", 1.0), ("", "job", "a0", 1.0)]
    made = world.build(WorldConfig(min_facts=10), _given(*rows), seed=0)
    facts = made.fact_set().facts
    assert len(facts) == 12 and {fact.relation for fact in facts} == {"job"}
    (kept,) = [fact for fact in facts if fact.subject == "S3"]
    assert kept.answers == ("b",) and kept.question == "What of S3?"
    assert kept.popularity == max(fact.popularity or 0 for fact in facts) == pytest.approx(400)
    notes = "; ".join(made.notes)
    assert "1 facts without a subject" in notes and "1 facts share subject and relation" in notes and "rare" in notes


def test_a_relation_is_told_from_min_facts_on_if_its_answers_differ():
    rows = [(f"S{i}", "job", f"a{i % 3}", 1.0) for i in range(10)]
    rows += [(f"S{i}", "same", "a0", 1.0) for i in range(10)] + [(f"S{i}", "few", f"a{i}", 1.0) for i in range(9)]
    made = world.build(WorldConfig(min_facts=10), _given(*rows), seed=0)
    assert [fact.relation for fact in made.fact_set().facts] == ["job"] * 10
    few, same = "relation few: 9 facts, 9 answers: left out", "relation same: 10 facts, 1 answers: left out"
    assert made.notes == (few, same)


def test_where_the_source_has_no_popularity_an_order_is_drawn_and_said():
    given = _given(*((f"S{i}", "job", f"a{i % 3}", None) for i in range(12)))
    first, second = (world.build(WorldConfig(), given, seed=seed) for seed in (0, 1))
    assert any("drawn at random" in note for note in first.notes)
    assert len(set(first.exposures)) == 12 and not np.array_equal(first.exposures, second.exposures)


def _csv(folder, rows):
    lines = [f"What of {s}?,{s},{r},{a},{p:g}" for s, r, a, p in rows]
    path = folder / "facts.csv"
    path.write_text("\n".join(["question,subject,relation,answer,popularity", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_file_becomes_a_world_told_by_its_popularity(tmp_path):
    rows = [(f"Émile {i}", "job", f"a{i % 3}", 4.0**i) for i in range(12)]
    given = facts.load(FactsConfig(source="table", path=_csv(tmp_path, rows)))
    told = Exposure(by="popularity", low=0.5, high=200.0, exponent=0.5, mean=20.0)
    made = world.build(WorldConfig(exposure=told), given, seed=0)
    assert made.exposures.mean() == pytest.approx(20)
    assert made.exposures[6] / made.exposures[5] == pytest.approx(2)
    assert made.sentences(2)[0] == ("The job of Émile 2 is", " a2.")
    pq.write_table(pa.table(world.to_table(made)), tmp_path / "world.parquet")
    store = toy_facts.build(toy_facts.FactsConfig(path=tmp_path / "world.parquet"), seed=0)
    assert store.subject_names == tuple(row[0] for row in rows)
    np.testing.assert_allclose(store.exposure, made.exposures / made.exposures.sum())


@pytest.mark.parametrize("parts", ["shared", "distinctive"])
def test_whom_a_source_names_is_nobody_of_the_background_or_the_asked(parts):
    config = WorldConfig(names=parts, background=Background(size=1.0), qa_share=0.1, qa_facts=9)
    plain = _given(*((f"S{i}", "job", f"a{i % 3}", float(i + 1)) for i in range(12)))
    people = [name for name in world.build(config, plain, seed=0).subjects if name[1:].isalpha() or " " in name]
    named = _given(*((name, "job", f"a{i % 3}", float(i + 1)) for i, name in enumerate(people[:12])))
    made = world.build(config, named, seed=0)
    assert len(people) == 21 and made.subjects[:12] == tuple(people[:12])
    assert len(set(made.subjects)) == len(made.subjects) == 33


def test_slots_in_a_name_stay_as_they_are():
    rows = [(f"{{answer}} {i}", "a {subject}", f"{{}} {i % 3}", 1.0) for i in range(12)]
    made = world.build(WorldConfig(), _given(*rows), seed=0)
    assert made.sentences(1)[0] == ("The a (subject) of {answer} 1 is", " {} 1.")


@needs_real
def test_popqa_becomes_a_world_whose_facts_are_asked_in_popqas_words():
    given = facts.load(FactsConfig(source="popqa", path=REAL, where="pop_source=[AB]"))
    assert given is not None
    told = Exposure(by="popularity", low=0.5, high=600.0, mean=60.0)
    made = world.build(WorldConfig(exposure=told, background=Background(size=1.0, share=0.3)), given, seed=0)
    own = made.fact_set().facts
    n_facts = len({(fact.subject, fact.relation) for fact in given.facts})
    assert len(own) == n_facts and len(made.exposures) == 2 * n_facts
    assert len(made.subjects) == len(set(made.subjects))
    by_id = {fact.id: fact for fact in given.facts}
    for fact in own:
        assert replace(fact, popularity=None) == replace(by_id[fact.id], popularity=None)
    expected = np.array([by_id[fact.id].popularity for fact in own])
    assert np.all(np.diff(made.exposures[: len(own)][np.argsort(expected, kind="stable")]) >= 0)
    assert made.exposures[: len(own)].mean() == pytest.approx(60)


def test_no_relation_with_enough_facts_is_an_error():
    with pytest.raises(InputError, match="--world.min-facts"):
        world.build(WorldConfig(), _given(("S", "job", "a", 1.0)), seed=0)


def test_the_table_has_every_fact_that_can_be_asked_and_no_other():
    made = world.build(replace(SMALL, background=Background(size=1.0), qa_share=0.1, qa_facts=9), seed=0)
    told = [(fact.subject, fact.relation, *fact.answers, fact.popularity) for fact in made.fact_set().facts]
    assert list(zip(*world.to_table(made).values(), strict=True)) == told


def test_the_toy_reads_the_same_world(tmp_path):
    made = world.build(SMALL, seed=0)
    pq.write_table(pa.table(world.to_table(made)), tmp_path / "world.parquet")
    config = toy_facts.FactsConfig(path=tmp_path / "world.parquet", min_facts=1)
    store = toy_facts.build(config, seed=0)
    assert len(store.subject) == len(made.fact_set().facts)
    np.testing.assert_allclose(np.sort(store.exposure), np.sort(made.exposures / made.exposures.sum()), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"exposure": Exposure(low=0.0)}, "--world.exposure.low"),
        ({"exposure": Exposure(low=9.0, high=8.0)}, "--world.exposure.low"),
        ({"exposure": Exposure(high=float("inf"))}, "--world.exposure.low"),
        ({"exposure": Exposure(exponent=-1.0)}, "--world.exposure.exponent"),
        ({"exposure": Exposure(exponent=float("nan"))}, "--world.exposure.exponent"),
        ({"n_subjects": 0}, "--world.n-subjects"),
        ({"n_answers": 1}, "--world.n-answers"),
        ({"n_relations": 0}, "--world.n-relations"),
        ({"facts_per_subject": 4}, "--world.facts-per-subject"),
        ({"answer_skew": -1.0}, "--world.answer-skew"),
        ({"background": Background(size=-1.0)}, "--world.background.size"),
        ({"background": Background(size=1e-9)}, "--world.background.size"),
        ({"background": Background(share=1.0)}, "--world.background.share"),
        ({"background": Background(skew=-1.0)}, "--world.background.skew"),
        ({"paraphrases": 0}, "--world.paraphrases"),
        ({"longest_name": 5}, "--world.longest-name"),
        ({"qa_share": -0.1}, "--world.qa-share"),
        ({"exposure": Exposure(by="popularity", mean=0.1)}, "--world.exposure.mean"),
        ({"paraphrases": 9}, "--world.paraphrases"),
        ({"longest_name": 0}, "--world.longest-name"),
        ({"qa_share": 0.5}, "--world.qa-share"),
        ({"qa_facts": 0}, "--world.qa-facts"),
        ({"n_relations": 9}, "--world.n-relations"),
        ({"distinct_relations": 5}, "--world.distinct-relations"),
        ({"min_facts": 0}, "--world.min-facts"),
    ],
)
def test_a_setting_out_of_range_names_its_flag(changes, flag):
    with pytest.raises(InputError, match=flag):
        world.build(replace(SMALL, **changes), seed=0)


def test_an_exposure_by_something_else_is_refused_where_types_are_not_checked():
    config = Exposure()
    object.__setattr__(config, "by", "length")
    with pytest.raises(InputError, match=r"--world\.exposure\.by"):
        exposure.check(config)
