"""The cells of a table: CSV, TSV, JSON, Parquet or a hub's data set, every mistake named by its line and column.

No cell is converted: in CSV and TSV each is text, so that "None" and "0" stay what they are. Text files are UTF-8, or
what their byte order mark says; any file may be compressed by gzip. CSV and TSV quote with `"`, doubled inside a quoted
cell. A row is named by the line of the file on which it starts, in Parquet and JSON lists by its number, from 1.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import InputError
from core.facts import json_rows, texts

HUB = "hub:"
HUB_FORM = "hub:OWNER/NAME[/CONFIG][@REVISION][#SPLIT]"
SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
LONGEST_CELL = 2**31 - 1
"""In characters: the most that the csv module takes everywhere. Its own default, 131,072, is less than an article."""
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""The encodings that a byte order mark names, in the order in which they are looked for."""
_GZIP = b"\x1f\x8b"
_WHOLE = re.compile(r"-?[0-9]+\.0")


@dataclass(frozen=True)
class Table:
    """A file's cells by column, unconverted, and where each row stands in the file."""

    path: Path
    columns: dict[str, list[Any]]
    unit: str
    numbers: Sequence[int]
    notes: tuple[str, ...] = ()
    """How the file was read, where its name does not say so, a line each."""
    found: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """The cells, by column and row, in which reading their text changed or found something: see `texts`."""

    @cached_property
    def whole(self) -> frozenset[str]:
        """The columns of text with nothing but whole numbers written as 1982.0, and gaps: what a gap makes of integers.

        One text of another form, and such numbers may be meant as they stand: the column is not among these.
        """
        return frozenset(name for name, cells in self.columns.items() if _are_whole(cells))

    def text(self, column: str, row: int, value: Any) -> str:
        """Return a cell, or an element of its list, as text, and enter in `found` what that changed.

        Raises:
            InputError: it is neither text, number, truth value nor date.
        """
        try:
            content, kinds = texts.written(value)
        except ValueError as error:
            raise self.mistake(row, column, f"{str(value)[:40]!r} is neither text nor number.") from error
        if isinstance(value, str) and column in self.whole and content.endswith(".0"):
            content, kinds = content.removesuffix(".0"), [*kinds, texts.WHOLE]
        for kind in kinds:
            self.enter(kind, column, row)
        return content

    def enter(self, kind: str, column: str, row: int) -> None:
        """Enter in `found` that this was done to the cell, or found in it."""
        self.found.setdefault(kind, set()).add((column, row))

    def mistake(self, row: int, column: str, problem: str) -> InputError:
        """Return the error that names file, row and column before the problem."""
        return InputError(f"{self.path}, {self.unit} {self.numbers[row]}, column {column!r}: {problem}")

    def require(self, column: str, flag: str, remedy: str = "") -> list[Any]:
        """Return a column's cells; InputError naming the flag that asked for it, and the remedy, if it is missing."""
        if column not in self.columns:
            problem = f"no column {column!r} ({flag}); the columns are {', '.join(self.columns)}"
            raise InputError(f"{self.path}: {problem}.\n{remedy}" if remedy else f"{self.path}: {problem}")
        return self.columns[column]


def _are_whole(cells: list[Any]) -> bool:
    """Return whether all cells but empty ones, and at least one, are texts such as 1982.0."""
    filled = [cell for cell in cells if not (cell is None or (isinstance(cell, str) and not cell.strip()))]
    return bool(filled) and all(isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()) for cell in filled)


def read(path: Path) -> Table:
    """Return the file's cells, by its extension; InputError if there is no such table or not one row in it.

    "hub:OWNER/NAME[/CONFIG][@REVISION][#SPLIT]" names a data set of the Hugging Face hub in place of a file; without
    a split, all of them are joined.
    """
    table = _read_hub(path) if str(path).startswith(HUB) else _read_file(path)
    if not table.numbers:
        raise InputError(f"{path}: the table has no rows")
    return table


def _read_file(path: Path) -> Table:
    """Return the table of a file, compressed or not."""
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_json,
        ".ndjson": _read_json,
        ".parquet": _read_parquet,
    }
    content = _content(path)
    suffix = _suffix(path)
    if suffix in SPREADSHEETS:
        raise InputError(f"{path}: a spreadsheet.\nSave the sheet as CSV (in Excel: CSV UTF-8) and name that file.")
    if suffix not in readers:
        raise InputError(
            f"{path}: unknown extension {suffix!r}; name it {', '.join(readers)} by what it holds, or such a name with "
            ".gz"
        )
    return readers[suffix](path, content)


def _suffix(path: Path) -> str:
    """Return the extension that says what the file holds, compressed or not."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def matching(table: Table, where: str | None) -> list[int]:
    """Return the rows in whose cell, or in an element of whose list, the expression of "COLUMN=REGEX" is found.

    None keeps all rows.
    """
    if where is None:
        return list(range(len(table.numbers)))
    column, equals, expression = where.partition("=")
    if not equals:
        raise InputError(f"--facts.where is {where!r}: write it as COLUMN=REGEX.")
    column = column.strip()
    cells = table.require(column, f"--facts.where {where}", "Give --facts.where None to keep every row.")
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"--facts.where is {where!r}: {expression!r} is no regular expression ({error}).") from error
    ending = ".0" if column in table.whole else ""
    return [
        row for row, cell in enumerate(cells) if any(pattern.search(text.removesuffix(ending)) for text in _texts(cell))
    ]


def _texts(cell: Any) -> list[str]:
    """Return what an expression is looked for in: a cell's text, or that of each element of a list."""
    if isinstance(cell, list):
        return [text for item in cell for text in _texts(item)]
    try:
        return ["" if cell is None else texts.written(cell)[0]]
    except ValueError:  # what is no fact's text may still be chosen by
        return [str(cell).strip()]


def read_text(path: Path) -> str:
    """Return a text file's content; InputError if it cannot be read or holds something else."""
    return _decoded(path, _content(path))


def read_rows(path: Path, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Return the cells of each row that is not blank, and the lines on which they start; InputError for bad quoting."""
    csv.field_size_limit(LONGEST_CELL)  # one for the whole process, whatever a library has set it to
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
    """Return a file's bytes, decompressed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if content.startswith(_GZIP):
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: a damaged gzip file ({error}); fetch it anew") from error
    if path.suffix.lower() == ".gz":
        raise InputError(f"{path}: not a gzip file; name it without .gz, or fetch it anew")
    return content


def _read_hub(path: Path) -> Table:
    """Return the table of a hub's data set: of the split that is named, or of all of them."""
    name, config, revision, split = _hub_parts(path)
    try:
        import datasets  # optional, and slow to import
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise InputError(
            f"{path}: needs the package datasets.\nInstall it, or download the table and name it."
        ) from error
    try:
        loaded = datasets.load_dataset(name, config, revision=revision, split=split)
        splits = {} if split else dict(cast(Any, loaded))
        rows = datasets.concatenate_datasets(list(splits.values())) if splits else loaded
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # RuntimeError: it needs a script
        # The library names the configurations or splits that there are, and then its own call.
        reason = " ".join(str(error).partition("Example of usage")[0].split()) or type(error).__name__
        remedy = f"Download the table and name the file, or name it as {HUB_FORM}."
        raise InputError(f"{path}: cannot be loaded ({reason}).\n{remedy}") from error
    notes = []
    if len(splits) > 1:
        sizes = ", ".join(f"{each} ({len(part):,} rows)" for each, part in splits.items())
        notes.append(f"all splits are read as one table: {sizes}; {path}#SPLIT reads one of them")
    features = cast(Any, rows).features
    columns = {column: [_named_class(features[column], cell) for cell in rows[column]] for column in rows.column_names}
    return Table(path, _named(path, columns), "row", range(1, len(rows) + 1), tuple(notes))


def _named_class(feature: Any, cell: Any) -> Any:
    """Return a hub's cell, a class (or a list of classes) by its name: it is kept as a number, -1 for none."""
    if isinstance(cell, list):
        return [_named_class(getattr(feature, "feature", None), item) for item in cell]
    if not isinstance(cell, int) or not hasattr(feature, "int2str"):
        return cell
    return feature.int2str(cell) if cell >= 0 else None


def _hub_parts(path: Path) -> tuple[str, str | None, str | None, str | None]:
    """Return data set, configuration, revision and split of HUB_FORM; a local folder is a data set as it stands."""
    found = re.fullmatch(r"([^@#]+)(?:@([^#]+))?(?:#(.+))?", str(path).removeprefix(HUB))
    if found is None:
        raise InputError(f"{path}: no name of a data set.\nName it as {HUB_FORM}.")
    name, revision, split = found.groups()
    if name.startswith((".", "/", "~")):
        return name, None, revision, split
    owner, *rest = name.split("/")
    return "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None, revision, split


def _encoding(content: bytes) -> str:
    """Return the encoding that the byte order mark names, without one UTF-8."""
    return next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), "utf-8-sig")


def _decoded(path: Path, content: bytes) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one."""
    encoding = _encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "ignore").count("\n") + 1
        called = encoding.removesuffix("-sig").upper()
        raise InputError(f"{path}, line {line}: not {called} text; convert the file to UTF-8") from error
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise InputError(f"{path}, line {line}: a NUL byte, so the file is damaged or no text; fetch it anew")
    return text


def _encoded_otherwise(content: bytes) -> list[str]:
    """Return a note if the text is not in UTF-8."""
    encoding = _encoding(content)
    return [] if encoding == "utf-8-sig" else [f"the file is read as {encoding.upper()}, as its byte order mark says"]


def _read_csv(path: Path, content: bytes) -> Table:
    """Return the table of a CSV or TSV file, whose first row is the header."""
    text = _decoded(path, content)
    delimiter, notes = _delimiter("\t" if _suffix(path) == ".tsv" else ",", text)
    rows, numbers = read_rows(path, text, delimiter)
    header = rows[0] if rows else []
    for row, number in zip(rows, numbers, strict=True):
        if len(row) != len(header):
            raise InputError(f"{path}, line {number}: {len(row)} cells, but the header has {len(header)} columns")
    cells = [list(column) for column in zip(*rows[1:], strict=True)] or [[] for _ in header]
    columns = dict(zip(_distinct(path, header), cells, strict=True))
    return Table(path, columns, "line", numbers[1:], (*_encoded_otherwise(content), *notes))


def _delimiter(usual: str, text: str) -> tuple[str, list[str]]:
    """Return what separates the cells: the usual, or what alone the header has in its place, with a note."""
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    there = [delimiter for delimiter in (",", ";", "\t") if delimiter in header]
    if usual in there or len(there) != 1:
        return usual, []
    called = {",": "commas", ";": "semicolons", "\t": "tabs"}
    return there[0], [f"cells are separated by {called[there[0]]}: the header has no {called[usual]}"]


def _read_json(path: Path, content: bytes) -> Table:
    """Return the table of a list of JSON objects, or of one a line; a key that a row lacks is an empty cell."""
    text = _decoded(path, content)
    rows, numbers, unit = json_rows.read(path, text)
    raw = list(dict.fromkeys(name for row in rows for name in row))
    columns = _named(path, {name: [row.get(name) for row in rows] for name in raw})
    return Table(path, columns, unit, numbers, tuple(_encoded_otherwise(content)))


def _read_parquet(path: Path, content: bytes) -> Table:
    """Return the table of a Parquet file."""
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        cells = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # these two: bad text, a date beyond 9999
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a readable Parquet file ({reason})") from error
    names = _distinct(path, table.column_names)
    return Table(path, dict(zip(names, cells, strict=True)), "row", range(1, table.num_rows + 1))


def _named(path: Path, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the columns by their names as `_distinct` has them."""
    return dict(zip(_distinct(path, list(columns)), columns.values(), strict=True))


def _distinct(path: Path, names: list[str]) -> list[str]:
    """Return the column names without surrounding blanks and invisible characters, if none is repeated."""
    cleaned = [texts.clean(name) for name in names]
    for index, name in enumerate(cleaned):
        if name in cleaned[:index]:
            raise InputError(f"{path}: two columns are called {name!r}; rename one")
    return cleaned
