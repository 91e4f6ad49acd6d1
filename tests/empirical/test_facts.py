"""Facts drawn from a table: at most so many of all, and of each relation."""

from collections import Counter
from pathlib import Path

import pytest

from core.errors import InputError
from empirical import facts
from empirical.facts import FactsConfig

SIZES = {"job": 30, "home": 12, "river": 3}


@pytest.fixture
def table(tmp_path) -> Path:
    """Return a table of three relations, in turn as long as each has questions."""
    rows = [(i, f"What is the {name} of Ann{i}?,Bo{i % 5},{name}") for name, n in SIZES.items() for i in range(n)]
    lines = [line for _, line in sorted(rows, key=lambda row: row[0])]
    (tmp_path / "questions.csv").write_text("\n".join(["question,answer,relation", *lines]))
    return tmp_path / "questions.csv"


def _load(path, **settings):
    found = facts.load(FactsConfig(source="table", path=path, **settings))
    assert found is not None
    return found


def _counts(found):
    return dict(Counter(fact.relation for fact in found.facts))


@pytest.mark.parametrize("limit", [1, 3, 10, 29])
def test_each_relation_gives_at_most_so_many_facts_and_a_smaller_one_all(limit, table):
    found, everything = _load(table, per_relation=limit), _load(table)
    assert _counts(found) == {name: min(n, limit) for name, n in SIZES.items()}
    ids = [fact.id for fact in found.facts]
    assert ids == [fact.id for fact in everything.facts if fact.id in set(ids)]  # in the table's order
    assert found.notes[-1] == f"{len(ids)} of 45 facts were drawn, {limit} of each relation (--facts.per-relation)"
    assert set(everything.notes) < set(found.notes)


def test_the_draw_is_always_the_same_and_not_the_tables_first(table):
    found = _load(table, per_relation=10)
    assert found.facts == _load(table, per_relation=10).facts
    first = [fact.id for fact in _load(table).facts if fact.relation == "job"][:10]
    assert [fact.id for fact in found.facts if fact.relation == "job"] != first


@pytest.mark.parametrize("limit", [30, 31, None])
def test_a_limit_that_no_relation_reaches_changes_nothing(limit, table):
    found = _load(table, per_relation=limit)
    assert _counts(found) == SIZES and found == _load(table)


def test_the_limit_of_all_is_drawn_from_what_the_limit_of_each_leaves(table):
    found, of_each = _load(table, per_relation=5, limit=9), _load(table, per_relation=5)
    assert len(found.facts) == 9 and set(found.facts) <= set(of_each.facts)
    assert [note.rpartition("(")[2] for note in found.notes[-2:]] == ["--facts.per-relation)", "--facts.limit)"]


@pytest.mark.parametrize(("setting", "flag"), [("per_relation", "per-relation"), ("limit", "limit")])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_below_one_is_refused(setting, flag, value, table):
    with pytest.raises(InputError, match=f"--facts.{flag} is {value}: it must be at least 1"):
        _load(table, **{setting: value})


def test_facts_without_a_path_are_refused_where_they_are_read():
    facts.check(FactsConfig(source="popqa"))  # a dry run reads none
    with pytest.raises(InputError, match=r"popqa needs its file or folder.\nName it with --facts.path"):
        facts.load(FactsConfig(source="popqa"))
