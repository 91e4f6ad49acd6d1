import numpy as np
import pyarrow as pa
import pytest

from core import columns


def test_table_has_every_column_of_the_schema_in_order_and_type():
    facts = columns.table({"salience": np.array([0.5, 1.5]), "fact": [3, 4], "arm": "top"}, columns.FACTS)
    assert facts.schema.equals(columns.FACTS)
    assert facts["arm"].to_pylist() == ["top", "top"]
    assert facts["fact"].to_pylist() == [3, 4]
    assert facts["role"].null_count == 2


@pytest.mark.parametrize("schema", [*columns.TABLES.values(), columns.PREDICTIONS])
def test_no_schema_names_a_column_twice(schema):
    assert len(set(schema.names)) == len(schema.names)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.array([1.0, np.nan]), [1.0, None]),
        ([1.0, None], [1.0, None]),
        (np.array([1, 2]), [1.0, 2.0]),
        (pa.chunked_array([[1.0], [2.0]]), [1.0, 2.0]),
        (np.float32(0.5), [0.5, 0.5]),
        (float("nan"), [None, None]),
        (None, [None, None]),
        (np.array([-np.inf, np.inf]), [-np.inf, np.inf]),
    ],
)
def test_nan_is_null_and_scalars_fill_their_column(value, stored):
    facts = columns.table({"fact": [0, 1], "critical_low": value}, columns.FACTS)
    assert facts["critical_low"].to_pylist() == stored


@pytest.mark.parametrize(
    "names",
    [
        ["france", None],
        np.array(["france", None], dtype=object),
        pa.DictionaryArray.from_arrays(pa.array([1, None], pa.int8()), ["peru", "france"]),
    ],
)
def test_names_may_be_text_or_codes(names):
    facts = columns.table({"fact": [0, 1], "answer": names}, columns.FACTS)
    assert facts["answer"].type == columns.NAME
    assert facts["answer"].to_pylist() == ["france", None]


def test_double_columns_lose_no_digit():
    exact = np.random.default_rng(0).random(100)
    facts = columns.table({"critical_low": exact, "subject_attention": exact, "knownness": exact}, columns.FACTS)
    for name in ("critical_low", "subject_attention", "knownness"):
        np.testing.assert_array_equal(facts[name].to_numpy(), exact)


def test_unknown_column_and_unequal_lengths_are_refused():
    with pytest.raises(KeyError, match="subject_atention"):
        columns.table({"fact": [0], "subject_atention": [0.5]}, columns.FACTS)
    with pytest.raises(ValueError, match="length"):
        columns.table({"fact": [0, 1], "salience": [0.5]}, columns.FACTS)
    with pytest.raises(ValueError, match="3000000000"):
        columns.table({"fact": np.array([3_000_000_000])}, columns.FACTS)


def test_no_columns_make_no_rows():
    assert columns.table({}, columns.PREDICTIONS).num_rows == 0
