"""Result files read, whichever flow wrote them; what is wrong with one is said in a line that names it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class InputError(Exception):
    """A mistake of the user's: its message names the file and the remedy, and no traceback follows."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in this file; InputError where it is damaged, or no object."""
    with damage(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    return found


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table, or only these of its columns; InputError where it is damaged or lacks one."""
    with damage(path), pq.ParquetFile(path) as parquet:
        if absent := sorted(set(columns or ()) - set(parquet.schema_arrow.names)):
            raise ValueError(f"it has no column {', '.join(absent)}")
        return parquet.read(columns and list(columns))


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn a file's being missing or damaged into an InputError."""
    try:
        path.open("rb").close()  # Arrow's own message for a missing file repeats its path twice.
        yield
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]
        raise InputError(f"cannot read {path}: {reason}\nIt is missing or damaged: make it again.") from error
