import math
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from empirical import __main__ as command
from empirical import overlap


def _write(folder, values, *, top, ids=None, roles=None):
    n = len(values)
    columns = {"id": ids or [str(i) for i in range(n)], "knownness": values, "role": roles or ["train"] * n}
    folder.mkdir()
    pq.write_table(pa.table(columns | {"top": [i in top for i in range(n)]}), folder / "scores.parquet")
    return folder


def test_the_share_of_the_first_ones_top_half_and_the_rank_correlation(tmp_path):
    one = _write(tmp_path / "one", [4.0, 3.0, 2.0, 1.0], top={0, 1})
    other = _write(tmp_path / "other", [4.0, 2.0, 3.0, 1.0], top={0, 2})
    reverse = _write(tmp_path / "reverse", [1.0, 2.0, 3.0, 4.0], top={2, 3})
    found = overlap.table([one, other / "scores.parquet", reverse])
    assert [[round(a.top, 6) for a in row] for row in found] == [[1, 0.5, 0], [0.5, 1, 0.5], [0, 0.5, 1]]
    assert found[0][1].rank_correlation == pytest.approx(0.8) and found[0][2].rank_correlation == pytest.approx(-1)


def test_only_facts_that_both_train_on_count(tmp_path):
    one = _write(tmp_path / "one", [4.0, 3.0, 2.0], top={0, 1}, roles=["train", "held_out", "train"])
    other = _write(tmp_path / "other", [1.0, 1.0], top={0}, ids=["0", "9"])
    found = overlap.agreement(overlap.read(one), overlap.read(other))
    assert (found.n, found.top) == (1, 1) and math.isnan(found.rank_correlation)
    with pytest.raises(InputError, match="share no training fact"):
        overlap.agreement(overlap.read(one), {"8": (1.0, True)})


def test_the_command_prints_a_row_a_file_and_refuses_what_it_cannot_compare(tmp_path, capsys):
    files = [str(_write(tmp_path / name, [3.0, 2.0], top={0})) for name in ("a", "b")]
    os.environ.setdefault("COLUMNS", "200")
    assert command.main(["overlap", *files]) == 0
    assert "2 training facts" in capsys.readouterr().out
    (tmp_path / "text.parquet").write_text("no table")
    for given, told in ((files[:1], "two scorings"), ([*files, str(tmp_path / "text.parquet")], "text.parquet")):
        assert command.main(["overlap", *given]) == 2
        assert told in capsys.readouterr().err
    assert command.main(["overlap", files[0], str(tmp_path / "absent")]) == 2
    assert "cannot be read as scores" in capsys.readouterr().err
