"""The cells of a table: CSV, TSV, JSONL, Parquet or a hub's data set, every mistake named by its line and column.

No cell is converted: in CSV and TSV each is text, so that "None" and "0" stay what they are. Text files are UTF-8; CSV
and TSV quote with `"`, doubled inside a quoted cell. A row is named by the line of the file on which it starts, in
Parquet by its number, from 1.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import InputError

HUB = "hub:"


@dataclass(frozen=True)
class Table:
    """A file's cells by column, unconverted, and where each row stands in the file."""

    path: Path
    columns: dict[str, list[Any]]
    unit: str
    numbers: Sequence[int]

    def mistake(self, row: int, column: str, problem: str) -> InputError:
        """Return the error that names file, row and column before the problem."""
        return InputError(f"{self.path}, {self.unit} {self.numbers[row]}, column {column!r}: {problem}")

    def require(self, column: str, flag: str, remedy: str = "") -> list[Any]:
        """Return a column's cells; InputError naming the flag that asked for it, and the remedy, if it is missing."""
        if column not in self.columns:
            problem = f"no column {column!r} ({flag}); the columns are {', '.join(self.columns)}"
            raise InputError(f"{self.path}: {problem}.\n{remedy}" if remedy else f"{self.path}: {problem}")
        return self.columns[column]


def read(path: Path) -> Table:
    """Return the file's cells, by its extension; InputError if there is no such table or not one row in it.

    "hub:ID" or "hub:ID@REVISION" names a data set of the Hugging Face hub, all splits of it, in place of a file.
    """
    if str(path).startswith(HUB):
        return _read_hub(path)
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    content = _content(path)
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: unknown extension {path.suffix!r}; name it {', '.join(readers)} by what it holds")
    table = readers[path.suffix.lower()](path, content)
    if not table.numbers:
        raise InputError(f"{path}: the table has no rows")
    return table


def matching(table: Table, where: str | None) -> list[int]:
    """Return the rows in whose cell, or in an element of whose list, the expression of "COLUMN=REGEX" is found.

    None keeps all rows.
    """
    if where is None:
        return list(range(len(table.numbers)))
    column, equals, expression = where.partition("=")
    if not equals:
        raise InputError(f"--facts.where is {where!r}: write it as COLUMN=REGEX.")
    cells = table.require(column, f"--facts.where {where}", "Give --facts.where None to keep every row.")
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"--facts.where is {where!r}: {expression!r} is no regular expression ({error}).") from error
    return [row for row, cell in enumerate(cells) if any(map(pattern.search, _texts(cell)))]


def _texts(cell: Any) -> list[str]:
    """Return what an expression is looked for in: a cell's text, or that of each element of a list."""
    if isinstance(cell, list):
        return [text for item in cell for text in _texts(item)]
    return ["" if cell is None else str(cell).strip()]


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text; InputError if it cannot be read or holds something else."""
    return _decoded(path, _content(path))


def read_rows(path: Path, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Return the cells of each row that is not blank, and the lines on which they start; InputError for bad quoting."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, numbers, line = [], [], 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: malformed quoting ({error}); double each quote in a cell") from error
    return rows, numbers


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _read_hub(path: Path) -> Table:
    """Return the table of a hub's data set."""
    name, _, revision = str(path).removeprefix(HUB).partition("@")
    try:
        import datasets  # optional, and slow to import
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise InputError(
            f"{path}: needs the package datasets.\nInstall it, or download the table and name it."
        ) from error
    try:
        splits = datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be loaded ({reason}).\nDownload the table and name the file.") from error
    rows = datasets.concatenate_datasets(list(splits.values()))
    return Table(path, {column: list(rows[column]) for column in rows.column_names}, "row", range(1, len(rows) + 1))


def _decoded(path: Path, content: bytes) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text; convert the file to UTF-8") from error
    if (place := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise InputError(f"{path}, line {line}: a NUL byte, so the file is damaged or no text; fetch it anew")
    return text


def _read_csv(path: Path, content: bytes) -> Table:
    """Return the table of a CSV or TSV file, whose first row is the header."""
    tab = path.suffix.lower() == ".tsv"
    rows, numbers = read_rows(path, _decoded(path, content), "\t" if tab else ",")
    header = _distinct(path, rows[0] if rows else [])
    for row, number in zip(rows, numbers, strict=True):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} cells, but the header has {len(header)} columns")
    cells = [list(column) for column in zip(*rows[1:], strict=True)] or [[] for _ in header]
    return Table(path, dict(zip(header, cells, strict=True)), "line", numbers[1:])


def _read_jsonl(path: Path, content: bytes) -> Table:
    """Return the table of a file with one JSON object a line; a key that a row lacks is an empty cell."""
    rows, numbers = [], []
    for number, line in enumerate(_decoded(path, content).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # not only JSONDecodeError: a number of 5,000 digits
            raise InputError(f"{path}, line {number}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; write one {{column: value}} a line")
        rows.append(row)
        numbers.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(path, {name: [row.get(name) for row in rows] for name in names}, "line", numbers)


def _read_parquet(path: Path, content: bytes) -> Table:
    """Return the table of a Parquet file."""
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        cells = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable Parquet file ({reason})") from error
    names = _distinct(path, table.column_names)
    return Table(path, dict(zip(names, cells, strict=True)), "row", range(1, table.num_rows + 1))


def _distinct(path: Path, names: list[str]) -> list[str]:
    """Return the column names as they are, if none is repeated."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InputError(f"{path}: two columns are called {name!r}; rename one")
    return names
