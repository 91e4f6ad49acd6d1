"""Odd tables, as hand and library write them: none ends but by InputError, and no row is lost without a count."""

import random

import pytest

from core.errors import InputError
from core.facts import keyed, table
from core.facts.request import Request

N_TABLES = 200


@pytest.mark.parametrize(
    "read", [table.read, lambda request: keyed.read("table", request, min_facts=1)], ids=["table", "keyed"]
)
def test_an_odd_table_is_refused_by_name_or_all_of_its_rows_are_used_or_counted(odd_tables, tmp_path, read):
    rng = random.Random("odd tables")
    n_refused = n_read = 0
    for i in range(N_TABLES):
        if (path := odd_tables.odd_file(rng, tmp_path)) is None:
            continue
        try:
            found = read(Request(path))
        except InputError as error:
            assert str(path) in str(error), i
            assert str(error).count("\n") <= 1, (i, str(error))
            n_refused += 1
            continue
        n_read += 1
        n_rows, left_out = odd_tables.counted(found.notes)
        n_rows = n_rows or {len(table.files.read(path).numbers)}
        assert n_rows == {len(found.facts) + left_out}, (i, found.notes)
        assert all(fact.answers and all(fact.answers) for fact in found.facts), i
        assert all(text == text.strip() for fact in found.facts for text in (fact.subject, *fact.answers)), i
    print(n_refused, n_read)  # shown by pytest -rP
    assert min(n_refused, n_read) > N_TABLES // 8
