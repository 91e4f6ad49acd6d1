"""Odd tables through a command: it ends with a result of all of its rows, or with what is wrong and nothing written."""

import random

import pyarrow.parquet as pq

from core.errors import InputError
from core.facts import table
from core.facts.request import Request
from empirical import __main__ as command

N_TABLES = 10


def test_an_odd_table_is_scored_whole_or_refused(odd_file, llama, words, tmp_path, capsys):
    for of_model in (llama, words):
        of_model.save_pretrained(tmp_path / "model")
    rng, n_scored = random.Random("odd commands"), 0
    flags = ["--knownness.measure", "logprob", "--knownness.shots", "0", "--knownness.n-prompts", "1"]
    flags += ["--evaluate.max-new-tokens", "1", "--model.name", str(tmp_path / "model"), "--facts.source", "table"]
    for i in range(N_TABLES):
        if (path := odd_file(rng, tmp_path)) is None:
            continue
        out = tmp_path / f"out{i}"
        code = command.main(["score", *flags, "--facts.path", str(path), "--out", str(out)])
        told = capsys.readouterr().err
        if code:
            assert code == 2 and told.startswith("error: ") and not list(out.rglob("*.parquet")), (i, told)
            continue
        n_scored += 1
        try:
            facts = table.read(Request(path)).facts
        except InputError:
            raise AssertionError(i) from None
        rows = pq.read_table(out / "scores.parquet").to_pylist()
        assert [row["id"] for row in rows] == [fact.id for fact in facts], i
        assert all(row["knownness"] < 0 for row in rows), i
    print(n_scored)  # shown by pytest -rP
    assert n_scored > 0
