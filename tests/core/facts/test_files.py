import csv
import gzip
import json
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
        ("a.xlsx", "subject", "a spreadsheet.\nSave the sheet as CSV"),
        ("a.txt", "subject", "unknown extension '.txt'"),
        ("a.csv", "", "the table has no rows"),
        ("a.csv", "subject,answer\n", "the table has no rows"),
        ("a.jsonl", "\n\n", "the table has no rows"),
        ("a.csv", "subject,subject\nA,b\n", "two columns are called 'subject'"),
        ("a.csv", "subject,answer\nA,b\nC\n", "line 3: 1 cells, but the header has 2"),
        ("a.tsv", "subject\tanswer\nA\tb\tc\n", "line 2: 3 cells, but the header has 2"),
        ("a.csv", 'subject,answer\nA,b\n"C,d\nE,f\n', "line 3: malformed quoting"),
        ("a.csv", b"subject,answer\nA,b\nC,\xff\n", "line 3: not UTF-8"),
        ("a.tsv", b"subject\tanswer\nA\tb\0\n", "line 2: a NUL byte"),
        ("a.jsonl", '{"a": ' + 5000 * "1" + "}", "line 1: malformed JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: malformed JSON"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "b": 2, "a": 3}', "line 2: the key 'a' is there twice; leave one"),
        ("a.json", '[{"a": 1}, {"a": {"value": 1, "value": 2}}]', "record 2: the key 'value' is there twice"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', "line 3: not a JSON object"),
        ("a.parquet", "not Parquet", "not a readable Parquet file"),
        ("a.json", '[{"a": 1},\n{"a": 2}', "line 2: malformed JSON"),
        ("a.json", '[{"a": 1}, 2]', "record 2: not a JSON object"),
        ("a.json", "[]", "the table has no rows"),
        ("a.json", '{\n"a": {"0": 1}\n}', "one JSON object over several lines; write a list .*orient='records'"),
        ("a.jsonl", '{"a": 1, " a": 2}', "two columns are called 'a'"),
        ("a.csv", "subject,answer\nA,b\n".encode("utf-16")[:-1], "line 2: not UTF-16 text"),
        ("a.csv.gz", "subject,answer\nA,b\n", "not a gzip file; name it without .gz"),
        ("a.csv.gz", gzip.compress(b"subject,answer\nA,b\n", mtime=0)[:-9], "a damaged gzip file"),
        ("a.doc.gz", gzip.compress(b"subject", mtime=0), "unknown extension '.doc'"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        files.read(write(tmp_path, name, content))
    assert name in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("compressed", [False, True])
def test_encodings_with_a_mark_and_gzip_give_the_same_cells_and_are_said(tmp_path, suffix, encoding, compressed):
    rows = [{"subject": "Ü", "answer": "None"}, {"subject": "«1»", "answer": "0"}]
    cell = "\t" if suffix == ".tsv" else ","
    text = {
        ".json": json.dumps(rows, indent=1, ensure_ascii=False),
        ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    }
    text[".ndjson"] = text[".jsonl"]
    lines = ["subject,answer", *(",".join(row.values()) for row in rows)]
    content = text.get(suffix, "\n".join(lines).replace(",", cell)).encode(encoding)
    path = write(tmp_path, f"a{suffix}{'.gz' * compressed}", gzip.compress(content) if compressed else content)
    found = files.read(path)
    assert found.columns == {"subject": ["Ü", "«1»"], "answer": ["None", "0"]}
    wide = encoding in ("utf-16", "utf-32")
    assert found.notes == ((f"the file is read as {encoding.upper()}, as its byte order mark says",) if wide else ())
    assert found.unit == ("record" if suffix == ".json" else "line")


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_cells_separated_otherwise_are_told_by_a_header_without_the_usual(tmp_path, delimiter):
    called = {";": "semicolons", "\t": "tabs"}[delimiter]
    found = files.read(write(tmp_path, "a.csv", f"subject{delimiter}answer\nA, b{delimiter}c\n"))
    assert found.columns == {"subject": ["A, b"], "answer": ["c"]}
    assert found.notes == (f"cells are separated by {called}: the header has no commas",)
    assert files.read(write(tmp_path, "a.csv", f"subject,an{delimiter}swer\nA,b\n")).notes == ()
    assert files.read(write(tmp_path, "a.tsv", "subject,answer\nA,b\n")).columns == {"subject": ["A"], "answer": ["b"]}


def test_a_cell_may_be_longer_than_the_csv_module_takes_by_itself(tmp_path):
    csv.field_size_limit(131_072)
    found = files.read(write(tmp_path, "a.csv", "subject,answer\nA," + 140_000 * "b" + "\n"))
    assert [len(cell) for cell in found.columns["answer"]] == [140_000]


def test_blanks_and_marks_around_column_names_are_no_part_of_them(tmp_path):
    for name, content in {
        "a.csv": "subject ,\ufeff answer\nA,b\n",
        "a.jsonl": '{"subject ": "A", " answer": "b"}',
    }.items():
        table = files.read(write(tmp_path, name, content))
        assert table.columns == {"subject": ["A"], "answer": ["b"]}
        assert files.matching(table, "subject =A") == files.matching(table, "subject=A") == [0]


def test_an_expression_is_looked_for_in_what_the_fact_will_say(tmp_path):
    rows = '{"a": 1982.0, "b": true, "c": "1982.0"}\n{"a": 1983.5, "b": false, "c": null}\n'
    table = files.read(write(tmp_path, "a.jsonl", rows))
    assert (
        files.matching(table, "a=^1982$")
        == files.matching(table, "b=^true$")
        == files.matching(table, "c=^1982$")
        == [0]
    )


def test_a_date_that_no_library_knows_is_an_input_error(tmp_path):
    pq.write_table(pa.table({"a": pa.array([10_000_000], pa.date32())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a.parquet: not a readable Parquet file"):
        files.read(tmp_path / "a.parquet")


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
    assert table.notes == (
        f"all splits are read as one table: train (2 rows), test (1 rows); hub:{folder}#SPLIT reads one of them",
    )
    one = files.read(Path(f"hub:{folder}#test"))
    assert (one.columns, one.notes) == ({"subject": ["Cid"], "answer": ["z"]}, ())
    with pytest.raises(InputError, match=r"Unknown split \"dev\". Should be one of \['train', 'test'\].*\n.*#SPLIT"):
        files.read(Path(f"hub:{folder}#dev"))


def test_classes_of_a_hub_data_set_are_read_by_their_names(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    town = datasets.ClassLabel(names=["Riga", "Oslo"])
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "answer": town,
            "more": datasets.Sequence(town),
            "n": datasets.Value("int32"),
        }
    )
    rows = {"question": ["a", "b", "c"], "answer": [1, 0, -1], "more": [[0, 1], [], [1]], "n": [1, 0, 1]}
    made = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: datasets.DatasetDict(train=made))
    columns = files.read(Path("hub:some/towns")).columns
    assert columns["answer"] == ["Oslo", "Riga", None]
    assert columns["more"] == [["Riga", "Oslo"], [], ["Oslo"]] and columns["n"] == [1, 0, 1]


def test_configurations_of_a_hub_data_set_are_named_where_one_must_be(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "owner" / "facts"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- {config_name: one, data_files: one.csv}\n- {config_name: two, data_files: two.csv}\n---\n"
    )
    for name in ("one", "two"):
        (folder / f"{name}.csv").write_text(f"subject,answer\n{name},x\n")
    monkeypatch.chdir(tmp_path)
    assert files.read(Path("hub:owner/facts/two")).columns["subject"] == ["two"]
    for name in ("hub:owner/facts", "hub:owner/facts/three"):
        with pytest.raises(InputError, match=r"cannot be loaded \(.*\['one', 'two'\].*\n.*OWNER/NAME\[/CONFIG\]"):
            files.read(Path(name))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("squad", ("squad", None, None, None)),
        ("some/facts", ("some/facts", None, None, None)),
        ("some/facts/main@refs/pr/1#test[:9]", ("some/facts", "main", "refs/pr/1", "test[:9]")),
        ("some/facts#train+test", ("some/facts", None, None, "train+test")),
        ("/tmp/some/facts#test", ("/tmp/some/facts", None, None, "test")),
    ],
)
def test_configuration_revision_and_split_are_handed_to_the_library(name, asked, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(path, name, *, revision, split):
        assert (path, name, revision, split) == asked
        rows = datasets.Dataset.from_dict({"a": [1]})
        return rows if split else datasets.DatasetDict(train=rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert files.read(Path(f"hub:{name}")).columns == {"a": [1]}
    with pytest.raises(InputError, match=r"hub:@x: no name of a data set.\nName it as hub:OWNER/NAME"):
        files.read(Path("hub:@x"))


def test_splits_with_other_columns_are_an_input_error_that_names_the_form(monkeypatch):
    datasets = pytest.importorskip("datasets")
    splits = {"train": {"a": [1]}, "test": {"a": ["x"]}}
    loaded = datasets.DatasetDict({name: datasets.Dataset.from_dict(rows) for name, rows in splits.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_options: loaded)
    with pytest.raises(InputError, match=r"hub:some/facts: cannot be loaded .*\n.*\[#SPLIT\]"):
        files.read(Path("hub:some/facts"))


@pytest.mark.parametrize("error", [ConnectionError("Couldn't reach it"), RuntimeError("Scripts are not supported")])
def test_a_hub_that_cannot_answer_is_an_input_error_with_a_remedy(error, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*_args, **_options):
        raise error

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
