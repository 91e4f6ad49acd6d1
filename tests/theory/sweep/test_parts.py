from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import runs
from core.columns import SWEEP, table
from core.errors import InputError
from theory.sweep import parts

ARMS = ["base", "top", "bottom"]


def rows(*units: str, arms=ARMS, config="{}") -> pa.Table:
    """Return rows that tell their unit and arm: accuracy is a number made of both."""
    pairs = [(unit, arm) for unit in units for arm in arms]
    columns = {
        "unit": [unit for unit, _ in pairs],
        "arm": [arm for _, arm in pairs],
        "config": [f"{config}{unit}" for unit, _ in pairs],
        "accuracy": [accuracy(*pair) for pair in pairs],
        "n_trained": [None if arm == "base" else 7 for _, arm in pairs],
    }
    return table(columns, SWEEP)


def accuracy(unit: str, arm: str) -> float:
    return int.from_bytes(f"{unit}{arm}".encode()[:6]) / 2**48


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, told):
    return parts.Store(tmp_path / "out" / "theory" / "sweep", told.append)


def files(store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir() if path.name != ".locks")


def units_of(found: pa.Table) -> list[str]:
    return found["unit"].to_pylist()[:: len(ARMS)]


def test_what_was_written_is_done_for_every_process(store, told):
    assert store.done() == {}
    first, second = store.write(rows("a", "b")), store.write(rows("c"))
    assert store.done() == {"a": first, "b": first, "c": second}
    assert parts.Store(store.folder, told.append).done() == store.done()
    assert told == [] and len(files(store)) == 2
    assert runs.read_table(first).schema.equals(SWEEP)
    second.unlink()
    assert set(store.done()) == {"a", "b"}


def test_parts_read_once_are_not_read_again(store, monkeypatch):
    store.write(rows("a"))
    store.done()
    monkeypatch.setattr(parts, "_load", None)
    assert set(store.done()) == {"a"}


@pytest.mark.parametrize(
    "wrong",
    [
        pa.concat_tables([rows("a"), rows("b", arms=ARMS[:2])]),
        pa.concat_tables([rows("a"), rows("a", arms=["top"])]),
        pa.concat_tables([rows("a", arms=ARMS[:2]), rows("b", arms=ARMS[1:])]),
        rows("a").drop_columns(["loss"]),
        rows("a").rename_columns([{"loss": "lost"}.get(name, name) for name in SWEEP.names]),
    ],
    ids=["an arm missing", "an arm twice", "other arms", "a column missing", "another column"],
)
def test_units_that_are_not_whole_are_not_written(store, wrong):
    with pytest.raises(ValueError, match="each of its units once"):
        store.write(wrong)
    assert not store.folder.exists()


def assembled(store, units, values=None) -> pa.Table:
    return store.assemble(units, values or [{"pretrain.steps": len(unit)} for unit in units], ARMS)


def test_the_table_has_every_unit_and_arm_once_in_the_designs_order_with_the_swept_fields_first(store):
    store.write(rows("b", "x", "a", arms=ARMS[::-1]))
    store.write(rows("c", "a"))
    store.write(rows("another sweep's"))
    units = ["c", "a", "b"]
    swept = {"model.parametrisation": "factored", "facts.path": Path("t.csv")}
    values = [swept | {"model.dimension": n} for n in (None, 3, 4)]
    found = assembled(store, units, values)
    pairs = list(zip(found["unit"].to_pylist(), found["arm"].to_pylist(), strict=True))
    assert pairs == [(unit, arm) for unit in units for arm in ARMS]
    assert found["accuracy"].to_pylist() == [accuracy(*pair) for pair in pairs]
    assert found["config"].to_pylist() == [f"{{}}{unit}" for unit, _ in pairs]
    assert found["n_trained"].to_pylist() == [None, 7, 7] * 3
    assert found.column_names == [*swept, "model.dimension", *SWEEP.names]
    assert found["model.dimension"].to_pylist() == [n for n in (None, 3, 4) for _ in ARMS]
    assert set(found["facts.path"].to_pylist()) == {"t.csv"}
    assert found.select(SWEEP.names).schema.equals(SWEEP)
    assert runs.read_table(store.write_table(found)).equals(found)


def test_a_unit_that_the_design_has_twice_is_there_twice(store):
    store.write(rows("a", "b"))
    assert units_of(assembled(store, ["a", "b", "a"])) == ["a", "b", "a"]


def test_of_a_unit_in_two_parts_one_parts_rows_are_used_and_always_the_same(store):
    one, other = rows("a", "b", config="1"), rows("c", "a", config="2")
    paths = {store.write(one): "1a", store.write(other): "2a"}
    for units in ("a", "abc", "cba"):
        found = assembled(store, units)
        configs = [text for text in found["config"].to_pylist() if "a" in text]
        assert configs == [paths[min(paths)]] * len(ARMS)


NAMES = "abcdefgh"


@settings(max_examples=15)
@given(st.permutations(NAMES), st.sets(st.integers(1, 7)), st.permutations(NAMES), st.permutations(NAMES))
def test_the_same_rows_give_the_same_file_whatever_parts_they_lie_in(tmp_path_factory, order, cuts, again, wanted):
    whole = parts.Store(tmp_path_factory.mktemp("whole"), print)
    divided = parts.Store(tmp_path_factory.mktemp("divided"), print)
    whole.write(rows(*NAMES))
    bounds = [0, *sorted(cuts), 8]
    for low, high in zip(bounds, bounds[1:], strict=False):
        divided.write(rows(*order[low:high]))
    divided.write(rows(*again[:2], "other"))
    one, other = (each.write_table(assembled(each, wanted)) for each in (whole, divided))
    assert one.read_bytes() == other.read_bytes()


def test_a_sweep_of_nothing_makes_an_empty_table(store):
    assert store.assemble([], [], ARMS).schema.equals(SWEEP)


def test_missing_units_are_counted_and_other_arms_refused(store):
    store.write(rows("a", "b"))
    with pytest.raises(InputError, match=r"sweep: 2 of 3 units have no results\.\nGive the same command again"):
        assembled(store, ["a", "x", "y"])
    with pytest.raises(ValueError, match="have other arms than base, whole"):
        store.assemble(["a"], [{}], ["base", "whole"])
    with pytest.raises(ValueError, match="is longer"):
        store.assemble(["a", "b"], [{"n_records": 1}], ARMS)


@settings(max_examples=40)
@given(st.data())
def test_any_damage_to_a_part_is_noticed_the_part_kept_and_its_units_unfinished(tmp_path_factory, data):
    folder, told = tmp_path_factory.mktemp("sweep"), []
    store = parts.Store(folder, told.append)
    sound, path = store.write(rows("a")), store.write(rows("b", "c"))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1), "at")
    if data.draw(st.booleans(), "truncated"):
        content = content[:at]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(content)
    assert store.done() == {"a": sound}
    assert files(store) == sorted([f"damaged-{path.name}", sound.name])
    assert told == [f"{path} is damaged: renamed to damaged-{path.name}, and its units are computed again."]
    assert (folder / f"damaged-{path.name}").read_bytes() == content
    store.write(rows("b", "c"))
    assert units_of(assembled(store, ["c", "a", "b"])) == ["c", "a", "b"] and len(told) == 1


def test_a_part_damaged_again_replaces_no_earlier_one(store, told):
    for damage in (b"1", b"2", b""):
        path = store.write(rows("a"))
        path.write_bytes(damage)
        assert store.done() == {}
    assert files(store) == [f"{'damaged-' * n}{path.name}" for n in (3, 2, 1)]
    assert len(told) == 3


def test_damage_after_a_part_was_read_is_noticed_when_the_table_is_made(store, told):
    one, other = store.write(rows("a")), store.write(rows("a", "b"))
    assert set(store.done()) == {"a", "b"}
    min(one, other).write_bytes(b"")
    if one < other:
        assert units_of(assembled(store, ["a", "b"])) == ["a", "b"]
    else:
        assert units_of(assembled(store, ["a"])) == ["a"]
    assert len(told) == 1
    max(one, other).write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1 units have no results"):
        assembled(store, ["a"])


@pytest.mark.parametrize("change", ["set aside", "mended"])
def test_a_damaged_part_that_another_process_sees_to_first_is_left_alone(store, told, monkeypatch, change):
    path = store.write(rows("a"))
    sound = path.read_bytes()
    path.write_bytes(b"")
    lock = parts.Store._lock

    def late(self, name, *, wait):
        path.unlink() if change == "set aside" else path.write_bytes(sound)
        return lock(self, name, wait=wait)

    monkeypatch.setattr(parts.Store, "_lock", late)
    assert store.done() == {}
    assert store.done() == ({} if change == "set aside" else {"a": path})
    assert files(store) == ([] if change == "set aside" else [path.name])
    assert told == []


def test_a_part_that_is_set_aside_before_it_can_be_read_is_passed_over(store, told, monkeypatch):
    store.write(rows("a"))
    load = parts._load
    monkeypatch.setattr(parts, "_load", lambda path, columns: (path.unlink(), load(path, columns))[1])
    assert store.done() == {} and told == []


@pytest.mark.parametrize("change", ["schema", "columns"])
def test_a_part_of_another_version_is_named_once_and_neither_used_nor_touched(store, told, change):
    with pytest.MonkeyPatch.context() as patched:
        if change == "schema":
            patched.setattr(parts, "SWEEP_SCHEMA", parts.SWEEP_SCHEMA + 1)
            path = store.write(rows("a"))
        else:
            older = pa.schema([*list(SWEEP)[:-1], ("old", pa.float64())])
            patched.setattr(parts, "SWEEP", older)
            path = store.write(rows("a").rename_columns(older.names).cast(older))
        assert parts.Store(store.folder, told.append).done() == {"a": path}
    store.write(rows("b"))
    assert set(store.done()) == set(store.done()) == {"b"}
    assert told == [f"{path} was written by another version: left as it is, and not used."]
    assert path.exists()
    with pytest.raises(InputError, match="1 of 2 units"):
        assembled(store, ["a", "b"])


def test_a_part_that_may_not_be_read_is_named_and_left(store):
    path = store.folder / "part-0000.parquet"
    path.mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot read .*part-0000\.parquet: Is a directory\.\n.*move it away"):
        store.done()
    assert path.exists()


def test_a_place_without_locks_is_an_input_error(store):
    store.folder.mkdir(parents=True)
    (store.folder / ".locks").write_text("")
    with pytest.raises(InputError, match=r"cannot lock .*: File exists\.\n.*--out DIR"):
        store.write(rows("a"))
    assert files(store) == []
