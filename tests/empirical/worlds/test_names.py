import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.worlds import names


def _people(n, parts, longest, *, seed=0, taken=frozenset()):
    return names.people(n, parts, longest, np.random.default_rng(seed), taken=taken)


def test_words_are_distinct_capitalised_and_not_taken():
    made = names.words(300, np.random.default_rng(0))
    assert len(set(made)) == 300 and all(word.isalpha() and word == word.capitalize() for word in made)
    others = names.words(300, np.random.default_rng(0), taken=frozenset(made[:100]))
    assert len(set(others)) == 300 and not set(others) & set(made[:100])


def test_where_two_syllables_make_too_few_words_a_third_is_added(monkeypatch):
    monkeypatch.setattr(names, "ONSETS", ("b", "d"))
    monkeypatch.setattr(names, "VOWELS", ("a", "o"))
    monkeypatch.setattr(names, "CODAS", ("",))
    made = names.words(60, np.random.default_rng(0))
    assert len(set(made)) == 60 and {len(word) for word in made} == {4, 6}


@settings(max_examples=30)
@given(st.sampled_from(["shared", "distinctive"]), st.integers(1, 4), st.integers(1, 50), st.integers(0, 3))
def test_as_many_distinct_names_are_made_as_are_wanted(parts, longest, n, seed):
    made = _people(n, parts, longest, seed=seed)
    assert len(set(made)) == len(made) == n
    lengths = {len(name.split()) for name in made}
    assert max(lengths) <= max(longest, 2 if parts == "shared" else 1)
    assert made == _people(n, parts, longest, seed=seed) != _people(n, parts, longest, seed=seed + 9)


def test_names_are_as_often_of_each_length():
    counts = np.bincount([len(name.split()) for name in _people(300, "distinctive", 3)])
    assert counts.tolist() == [0, 100, 100, 100]


def test_shared_words_are_of_many_names_and_distinctive_ones_of_one():
    shared, own = ([word for name in _people(200, p, 3) for word in name.split()] for p in ("shared", "distinctive"))
    assert len(set(shared)) <= names.SHARED < len(shared) / 2 and len(set(own)) == len(own)


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_where_all_pairs_of_shared_words_are_names_longer_ones_are_made(longest, monkeypatch):
    monkeypatch.setattr(names, "SHARED", 3)
    made = _people(60, "shared", longest)
    lengths = np.bincount([len(name.split()) for name in made])
    assert len(set(made)) == 60 and lengths[2] == 9 and lengths[3] == 27 and lengths[4] == 24


def test_a_name_that_is_taken_is_nobodys(monkeypatch):
    monkeypatch.setattr(names, "SHARED", 3)
    pairs = frozenset(_people(9, "shared", 2))
    assert not pairs & set(_people(20, "shared", 2, taken=pairs))
    single = frozenset(name for name in _people(30, "distinctive", 3) if " " not in name)
    assert len(single) == 10 and not single & set(_people(30, "distinctive", 3, taken=single))
