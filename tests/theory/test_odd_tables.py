"""Odd tables through the toy's command, up to the split: a world of all rows, or what is wrong and nothing written.

`pytest --odd-tables 1000` takes more of them than the suite does. Nothing is trained: a world's names are but numbers.
"""

import random

import numpy as np

from core.facts import files
from theory import __main__ as command
from theory import pipeline
from theory.engine import loop

FLAGS = ["--facts.where", "None", "--facts.min-facts", "1"]


def test_an_odd_table_becomes_a_world_whole_or_is_refused(odd_tables, request, tmp_path, monkeypatch, capsys):
    reached = []

    def split_alone(units, clock):
        worlds = pipeline._worlds(units, clock)
        nothing = loop.Trace(np.zeros(1, int), np.zeros(1), None, np.array(-1))
        reached.extend(pipeline._prepared(units, worlds, [(None, nothing)] * len(units), clock))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "pretrained", split_alone)
    rng, n_tables, n_refused = random.Random("odd worlds"), request.config.getoption("--odd-tables"), 0
    for i in range(n_tables):
        if (path := odd_tables.odd_file(rng, tmp_path)) is None:
            continue
        out, n_before = tmp_path / f"out{i}", len(reached)
        code = command.main(["run", "popqa-bare", *FLAGS, "--facts.path", str(path), "--out", str(out)])
        told = capsys.readouterr().err
        assert not list(out.rglob("*.parquet")) and "Traceback" not in told, (i, told)
        if len(reached) == n_before:
            assert code == 2 and "error: " in told, (i, code, told)
            n_refused += 1
            continue
        world = reached[-1]
        n_read, n_left_out = odd_tables.counted(world.store.notes)
        assert (n_read or {len(files.read(path).numbers)}) == {len(world.store.subject) + n_left_out}, (i, told)
        assert len(world.split.role) == len(world.store.subject), i
    print(len(reached), n_refused)  # shown by pytest -rP
    assert n_refused > 0
