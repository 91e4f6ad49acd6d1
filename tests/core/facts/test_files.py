import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from core.facts import files

CELLS = {"subject": ["Ü, «1»", 'the "quoted"\nlines'], "answer": ["None", "0"]}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_all_four_formats_give_the_same_text(tmp_path):
    row = '"Ü, «1»"{0}None\n"the ""quoted""\nlines"{0}0\n'
    paths = [
        write(tmp_path, "a.csv", "subject,answer\n" + row.format(",")),
        write(tmp_path, "a.tsv", "subject\tanswer\n" + row.format("\t")),
        write(
            tmp_path,
            "a.jsonl",
            '{"subject": "Ü, «1»", "answer": "None"}\n\n{"subject": "the \\"quoted\\"\\nlines", "answer": "0"}',
        ),
        tmp_path / "a.PARQUET",
    ]
    pq.write_table(pa.table(CELLS), paths[-1])
    for path in paths:
        assert files.read(path).columns == CELLS, path.name


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_no_text(tmp_path):
    table = files.read(write(tmp_path, "a.csv", "\ufeffsubject,answer\r\n\r\nA,b\r\n\r\nC,d\r\n"))
    assert table.columns == {"subject": ["A", "C"], "answer": ["b", "d"]}
    assert list(table.numbers) == [3, 5]


def test_a_row_is_named_by_the_line_on_which_it_starts(tmp_path):
    table = files.read(write(tmp_path, "a.csv", 'subject,answer\n"two\nlines",b\nC,d\n'))
    assert list(table.numbers) == [2, 4]
    assert str(table.mistake(1, "answer", "wrong")) == f"{tmp_path}/a.csv, line 4, column 'answer': wrong"


def test_a_key_that_a_json_row_lacks_is_an_empty_cell(tmp_path):
    assert files.read(write(tmp_path, "a.jsonl", '{"a": 1}\n{"b": [2]}')).columns == {
        "a": [1, None],
        "b": [None, [2]],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", "subject", "unknown extension '.xlsx'"),
        ("a.csv", "", "the table has no rows"),
        ("a.csv", "subject,answer\n", "the table has no rows"),
        ("a.jsonl", "\n\n", "the table has no rows"),
        ("a.csv", "subject,subject\nA,b\n", "two columns are called 'subject'"),
        ("a.csv", "subject,answer\nA,b\nC\n", "line 3: 1 cells, but the header has 2"),
        ("a.tsv", "subject\tanswer\nA\tb\tc\n", "line 2: 3 cells, but the header has 2"),
        ("a.csv", 'subject,answer\nA,b\n"C,d\nE,f\n', "line 3: malformed quoting"),
        ("a.csv", b"subject,answer\nA,b\nC,\xff\n", "line 3: not UTF-8"),
        ("a.tsv", b"subject\tanswer\nA\tb\0\n", "line 2: a NUL byte"),
        ("a.csv", "subject,answer\nA," + 140_000 * "b", "line 2: malformed quoting .field larger"),
        ("a.jsonl", '{"a": ' + 5000 * "1" + "}", "line 1: malformed JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: malformed JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', "line 3: not a JSON object"),
        ("a.parquet", "not Parquet", "not a readable Parquet file"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        files.read(write(tmp_path, name, content))
    assert name in str(caught.value)


def test_a_truncated_parquet_file_is_an_input_error(tmp_path):
    pq.write_table(pa.table(CELLS), tmp_path / "a.parquet")
    cut = write(tmp_path, "cut.parquet", (tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        files.read(cut)


def test_a_parquet_file_whose_text_is_not_utf8_is_an_input_error(tmp_path):
    pq.write_table(pa.table({"a": ["Abba!"] * 3}), tmp_path / "a.parquet", compression="none")
    bent = write(tmp_path, "bent.parquet", (tmp_path / "a.parquet").read_bytes().replace(b"Abba!", b"Abb\xff!"))
    with pytest.raises(InputError, match="bent.parquet: not a readable Parquet file"):
        files.read(bent)


def test_rows_are_chosen_by_an_expression_found_in_a_column(tmp_path):
    table = files.read(write(tmp_path, "a.jsonl", '{"a": "BC"}\n{"a": null}\n{"a": 12}\n'))
    assert files.matching(table, None) == [0, 1, 2]
    assert files.matching(table, "a=[C1]") == [0, 2]
    assert files.matching(table, "a=^$") == [1]
    for where, message in {"a": "write it as COLUMN=REGEX", "b=x": "no column 'b'", "a=[": "no regular exp"}.items():
        with pytest.raises(InputError, match=message):
            files.matching(table, where)


def test_a_missing_file_or_a_folder_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"gone.csv: cannot be read \(No such file"):
        files.read(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        files.read(tmp_path)


def test_a_hub_data_set_is_read_through_datasets_all_splits_together(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "facts"
    folder.mkdir()
    (folder / "train.csv").write_text("subject,answer\nAda,x\nBea,y\n")
    (folder / "test.csv").write_text("subject,answer\nCid,z\n")
    table = files.read(Path(f"hub:{folder}"))
    assert sorted(table.columns["subject"]) == ["Ada", "Bea", "Cid"]
    assert (table.unit, list(table.numbers)) == ("row", [1, 2, 3])


def test_a_hub_that_cannot_answer_is_an_input_error_with_a_remedy(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*_args, **_options):
        raise ConnectionError("Couldn't reach 'some/facts' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match="hub:some/facts@main: cannot be loaded .*\n.*Download the table"):
        files.read(Path("hub:some/facts@main"))


def test_a_hub_data_set_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package datasets"):
        files.read(Path("hub:some/facts"))


def test_an_expression_is_looked_for_in_each_element_of_a_list(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"answer": ["x", "also"]}\n{"answer": ["y"]}\n{"answer": "z"}\n{"answer": null}\n{"answer": []}\n')
    table = files.read(path)
    assert files.matching(table, "answer=^[xy]$") == [0, 1]
    assert files.matching(table, "answer=also") == [0]
    assert files.matching(table, "answer=^$") == [3]
    assert files.matching(table, None) == [0, 1, 2, 3, 4]
