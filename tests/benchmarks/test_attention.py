import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from benchmarks import attention, memory
from core.errors import InputError

SMALL = attention.Settings(lengths=(16, 8), batch=2, layers=1, d_model=32, heads=2, key_heads=1, repeats=2)


def test_each_way_is_timed_and_only_eager_attention_takes_memory_for_every_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(SMALL, lengths=(512, 8), heads=8, layers=2, out=tmp_path / "all.json")
    attention.run(settings)
    found = json.loads((tmp_path / "all.json").read_text())
    ways = [(row["length"], row["way"]) for row in found["rows"]]
    assert ways == [(length, way) for length in (8, 512) for way in attention.TITLES]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in found["rows"])
    assert found["settings"]["lengths"] == [512, 8] and "transformers" in found["machine"]["versions"]
    assert "with the capture" in capsys.readouterr().out
    if memory._RESET.exists():  # elsewhere one peak is kept for the whole process
        peaks = {row["way"]: row["peak_bytes"] for row in found["rows"] if row["length"] == 512}
        weights = 4 * settings.batch * settings.heads * settings.layers * 512**2
        assert peaks["eager"] > weights > 3 * peaks["capture"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"repeats": 0}, "--repeats is 0"),
        ({"lengths": (32, 1)}, "each at least 2"),
        ({"key_heads": 3}, "--key-heads 3: .* multiple"),
        ({"out": Path("nowhere/all.json")}, "there is no folder nowhere"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        attention.run(replace(SMALL, **change))
