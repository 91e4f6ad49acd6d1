"""Odd tables through a command: it ends with a result of all of its rows, or with what is wrong and nothing written.

`pytest --odd-tables 1000` takes more of them than the suite does.
"""

import random

import pyarrow.parquet as pq

from core.errors import InputError
from core.facts import table
from core.facts.request import Request
from empirical import __main__ as command


def test_an_odd_table_is_scored_whole_or_refused(odd_tables, request, llama, words, tmp_path, capsys):
    for of_model in (llama, words):
        of_model.save_pretrained(tmp_path / "model")
    rng, n_tables, n_scored, n_refused = random.Random("odd commands"), request.config.getoption("--odd-tables"), 0, 0
    flags = ["--knownness.measure", "logprob", "--knownness.shots", "0", "--knownness.n-prompts", "1"]
    flags += ["--evaluate.max-new-tokens", "1", "--model.name", str(tmp_path / "model"), "--facts.source", "table"]
    for i in range(n_tables):
        if (path := odd_tables.odd_file(rng, tmp_path)) is None:
            continue
        out = tmp_path / f"out{i}"
        code = command.main(["score", *flags, "--facts.path", str(path), "--out", str(out)])
        printed = capsys.readouterr()
        if code:
            assert code == 2 and not list(out.rglob("*.parquet")), (i, printed.err)
            assert "error: " in printed.err and "Traceback" not in printed.err, (i, printed.err)
            n_refused += 1
            continue
        n_scored += 1
        try:
            found = table.read(Request(path))
        except InputError:
            raise AssertionError(i) from None
        rows = pq.read_table(out / "scores.parquet").to_pylist()
        assert [row["id"] for row in rows] == [fact.id for fact in found.facts], i
        assert all(row["knownness"] < 0 for row in rows), i
        n_read, n_left_out = odd_tables.counted(found.notes)
        assert (n_read or {len(table.files.read(path).numbers)}) == {len(rows) + n_left_out}, (i, found.notes)
        told = " ".join(printed.out.split())
        assert all(" ".join(note.split()) in told for note in found.notes), (i, found.notes, printed.out)
    print(n_scored, n_refused)  # shown by pytest -rP
    assert n_scored > 0
