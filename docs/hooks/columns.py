"""The page of columns, made of the schemas in `core/columns.py` and of the comment beside each column there."""

import ast
import inspect
import io
import tokenize
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow as pa

from core import columns

MARKER = "<!-- columns -->"
TYPES = {"bool": "true, false", "int32": "integer", "float": "float", "double": "double", "string": "text"}
FILES = {
    "FACTS": "facts.parquet",
    "TRACE": "trace.parquet",
    "ATTENTION": "attention.parquet",
    "MEDIATION": "mediation.parquet",
    "RATES": "rates.parquet",
    "PREDICTIONS": "predictions.parquet",
    "COVARIANCE": "covariance.parquet, of a collected study",
    "SWEEP": "table.parquet, of a sweep",
    "SCREEN": "table.parquet, of the screen",
}
"""The file that has each schema's columns; a schema that is not named here is called by its own name."""


class Schema(NamedTuple):
    """The columns of one kind of file with what is said of each, and what a row of it is."""

    name: str
    columns: pa.Schema
    comments: dict[str, str]
    row: str


def schemas(module: ModuleType) -> list[Schema]:
    """Return every schema of the module, in its order."""
    text = inspect.getsource(module)
    body, remarks = ast.parse(text).body, comments(text)
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        if isinstance(schema := getattr(module, name, None), pa.Schema):
            found.append(Schema(name, schema, _beside(node, remarks), _docstring(after)))
    return found


def comments(text: str) -> dict[int, str]:
    """Return the comment of every line that has one, by the line's number."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put a heading and a table for every schema where a page has the marker."""
    return markdown.replace(MARKER, "\n\n".join(map(_section, schemas(columns))))


def _beside(node: ast.stmt, remarks: dict[int, str]) -> dict[str, str]:
    """Return the comments beside the names that stand in a statement."""
    names = [part for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return {str(name.value): remarks[name.lineno] for name in names if name.lineno in remarks}


def _docstring(node: ast.stmt | None) -> str:
    """Return the string that stands alone in a statement; empty where there is none."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def _section(schema: Schema) -> str:
    rows = [f"| `{field.name}` | {_kind(field.type)} | {_cell(schema, field.name)} |" for field in schema.columns]
    head = ["| column | type | meaning |", "|---|---|---|"]
    return "\n".join([f"### {FILES.get(schema.name, schema.name)}", "", schema.row, "", *head, *rows])


def _cell(schema: Schema, column: str) -> str:
    return schema.comments.get(column, "").replace("|", "&#124;").replace("<", "&lt;")


def _kind(kind: pa.DataType) -> str:
    return "text" if pa.types.is_dictionary(kind) else TYPES.get(str(kind), str(kind))
