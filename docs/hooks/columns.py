"""The page of columns, made of the schemas in `core/columns.py` and of the comment beside each column there."""

import ast
import io
import tokenize
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).resolve().parents[2] / "core" / "columns.py"
MARKER = "<!-- columns -->"
TYPES = {"NAME": "text", "BOOL": "true, false", "INT": "integer", "SINGLE": "float", "DOUBLE": "double"}
FILES = {
    "FACTS": "facts.parquet",
    "TRACE": "trace.parquet",
    "ATTENTION": "attention.parquet",
    "PREDICTIONS": "predictions.parquet",
    "SWEEP": "table.parquet",
}
"""The file that has each schema's columns; a schema that is not named here is called by its own name."""


class Column(NamedTuple):
    """A column, and what its comment says."""

    name: str
    kind: str
    meaning: str


class Schema(NamedTuple):
    """The columns of one kind of file, and what a row of it is."""

    name: str
    columns: tuple[Column, ...]
    row: str


def schemas(text: str) -> list[Schema]:
    """Return every schema of a module of this text, in its order."""
    body, remarks = ast.parse(text).body, comments(text)
    following = [*body[1:], None]
    return [
        Schema(ast.unparse(node.targets[0]), _columns(node.value, remarks), _docstring(after))
        for node, after in zip(body, following, strict=True)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("pa.schema(")
    ]


def comments(text: str) -> dict[int, str]:
    """Return the comment of every line that has one, by the line's number."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def markdown(found: list[Schema]) -> str:
    """Return a heading and a table for every schema."""
    return "\n\n".join(_section(schema) for schema in found)


def on_page_markdown(markdown_text: str, page: Any, **_: Any) -> str:
    """Put the tables where a page has the marker."""
    if MARKER not in markdown_text:
        return markdown_text
    return markdown_text.replace(MARKER, markdown(schemas(SOURCE.read_text(encoding="utf-8"))))


def _columns(schema: ast.expr, remarks: dict[int, str]) -> tuple[Column, ...]:
    """Return the schema's pairs of name and type, in the order in which they stand."""
    pairs = [node for node in ast.walk(schema) if isinstance(node, ast.Tuple) and len(node.elts) == 2]
    pairs.sort(key=lambda pair: (pair.lineno, pair.col_offset))
    return tuple(
        Column(ast.literal_eval(pair.elts[0]), _kind(pair.elts[1]), remarks.get(pair.lineno, "")) for pair in pairs
    )


def _kind(node: ast.expr) -> str:
    name = ast.unparse(node)
    return TYPES.get(name, "text" if "string" in name else name)


def _docstring(node: ast.stmt | None) -> str:
    """Return the string that stands alone in a statement; empty where there is none."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def _section(schema: Schema) -> str:
    rows = [f"| `{name}` | {kind} | {meaning.replace('|', '&#124;')} |" for name, kind, meaning in schema.columns]
    head = ["| column | type | meaning |", "|---|---|---|"]
    return "\n".join([f"### {FILES.get(schema.name, schema.name)}", "", schema.row, "", *head, *rows])
