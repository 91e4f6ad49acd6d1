import pytest

from core.errors import InputError
from core.facts.record import Fact
from empirical import exemplars


def ask(number, relation="capital"):
    asked = f"What is the {relation} of S{number}?"
    return Fact(f"{relation}{number}", f"S{number}", relation, asked, (f"city {number % 3}",))


FACTS = [ask(n, relation) for relation in ("capital", "sport") for n in range(9)]


def test_examples_come_from_the_pool_and_the_relation_and_never_give_the_answer_away():
    pool = [*FACTS[:6], ask(3, "river"), Fact("twin", "T", "capital", FACTS[0].question, ("city 9",))]
    chosen = exemplars.choose(FACTS, pool, 3, seed=0)
    for fact, own in zip(FACTS, chosen, strict=True):
        assert len({id(candidate) for candidate in own}) == 3
        assert all(candidate in pool for candidate in own)
        assert all(candidate.question != fact.question and candidate.subject != fact.subject for candidate in own)
        if fact.relation == "capital":
            assert {candidate.relation for candidate in own} == {"capital"}


def test_too_few_of_the_relation_are_made_up_from_others_and_too_few_of_all_are_an_error():
    facts = [ask(0, "river"), ask(1, "river"), ask(2), ask(3)]
    chosen = exemplars.choose(facts[:1], facts, 3, seed=0)
    assert chosen[0][0] is facts[1]
    assert {fact.relation for fact in chosen[0][1:]} == {"capital"}
    with pytest.raises(InputError, match="4 examples are needed .* has 3 facts"):
        exemplars.choose(facts[:1], facts, 4, seed=0)


def test_examples_are_shared_within_a_relation_and_change_with_seed_and_draw():
    first = exemplars.choose(FACTS, FACTS, 2, seed=0)
    assert len({tuple(fact.id for fact in own) for own in first[:9]}) <= 2 + 2
    assert first == exemplars.choose(FACTS, FACTS, 2, seed=0)
    assert first != exemplars.choose(FACTS, FACTS, 2, seed=1)
    assert first != exemplars.choose(FACTS, FACTS, 2, seed=0, prompt=1)
