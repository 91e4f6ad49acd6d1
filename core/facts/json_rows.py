"""Rows of JSON: a list of objects, or one object a line; every mistake named by its line or record."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from core.errors import InputError


def read(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int], str]:
    """Return the objects, their numbers and what these count; InputError for anything else."""
    if text.lstrip().startswith("["):
        return *_listed(path, text), "record"
    return *_lines(path, text), "line"


class _Repeating(dict[str, Any]):
    """A JSON object that has a key twice."""

    key = ""


def loads(text: str) -> Any:
    """Return what the JSON text stands for; ValueError or RecursionError where it is none."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; of one that has a key twice remember which."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    repeating = _Repeating(made)
    repeating.key = Counter(key for key, _ in pairs).most_common(1)[0][0]
    return repeating


def repeated(value: Any) -> str | None:
    """Return a key that an object in this value, as `loads` made it, has twice: only the last of them was read."""
    if isinstance(value, _Repeating):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((key for key in map(repeated, inner) if key is not None), None)


def _check_distinct(place: str, row: dict[str, Any]) -> None:
    if (key := repeated(row)) is not None:
        raise InputError(f"{place}: the key {key!r} is there twice; leave one, or write a list of both values")


def _listed(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the objects of a JSON list, and their numbers."""
    try:
        rows = loads(text)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: a number of 5,000 digits
        place = f"{path}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else f"{path}"
        raise InputError(f"{place}: malformed JSON ({error})") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, record {number}: not a JSON object; write each row as {{column: value}}")
        _check_distinct(f"{path}, record {number}", row)
    return rows, list(range(1, len(rows) + 1))


def _lines(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the JSON objects, one a line, and their lines."""
    rows, numbers = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except (ValueError, RecursionError) as error:
            if not rows and _is_object(text):
                remedy = "write a list of rows, [{column: value}, …] (pandas: orient='records')"
                raise InputError(f"{path}: one JSON object over several lines; {remedy}") from error
            raise InputError(f"{path}, line {number}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; write one {{column: value}} a line")
        _check_distinct(f"{path}, line {number}", row)
        rows.append(row)
        numbers.append(number)
    return rows, numbers


def _is_object(text: str) -> bool:
    """Return whether the whole text is one JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
