"""From a table's cells to usable facts, still as text: columns recognised, unusable rows counted, keys made unique."""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Shaped

from core.errors import InputError
from core.facts import files
from core.facts.files import Table

COLUMNS = {
    "subject": ("subject", "subj"),
    "relation": ("relation", "prop"),
    "answers": ("answer", "possible_answers", "answers", "obj"),
    "popularity": ("popularity", "s_pop"),
}
"""The column names recognised for each part of a fact, the preferred one first."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The usable facts of a table in the file's order, and a note on each kind of row that was left out."""

    subject: Shaped[np.ndarray, " row"]
    relation: Shaped[np.ndarray, " row"]
    answer: Shaped[np.ndarray, " row"]
    popularity: Float64[np.ndarray, " row"]
    """In the table's unit, above 0."""
    notes: tuple[str, ...]

    def take(self, kept: Shaped[np.ndarray, " kept"], *notes: str) -> "Rows":
        """Return some of the rows, with notes added."""
        columns = (self.subject, self.relation, self.answer, self.popularity)
        return Rows(*(column[kept] for column in columns), notes=self.notes + notes)


def read(path: Path, columns: dict[str, str | None], where: str | None, min_facts: int) -> Rows:
    """Return the facts of a table: each (subject, relation) once, each relation with at least `min_facts` of them.

    The answer is, row by row, the first filled one of the recognised columns, and of a list its first element.
    `possible_answers` goes before `obj`: in PopQA both hold the same labels, but where a subject has several objects,
    each on a row of its own, only the list is the same on all of them (and the reassembled file often lacks `obj`).

    Args:
        columns: The column of each part of a fact, None where it is to be recognised by name.
        where: "COLUMN=REGEX": keep the rows in whose cell the expression is found.

    Raises:
        InputError: no such table, column or row; a popularity that is no positive number; a relation with one answer.
    """
    table = files.read(path)
    names = {part: _recognise(table, part, given) for part, given in columns.items()}
    rows = _usable(table, names, _matching(table, where))
    rows = _most_popular(rows)
    rows = _frequent_relations(path, rows, min_facts)
    _check_answers(path, rows)
    return rows


def number(names: Shaped[np.ndarray, " fact"]) -> tuple[Int32[np.ndarray, " fact"], tuple[str, ...]]:
    """Return ids counted from 0 in the order of appearance, and the names that they stand for."""
    ids: dict[str, int] = {}
    return np.array([ids.setdefault(name, len(ids)) for name in names], dtype=np.int32), tuple(ids)


def _recognise(table: Table, part: str, given: str | None) -> list[str]:
    """Return the columns that hold a part of the fact: one, or for the answer all that are recognised."""
    flag = f"--facts.columns.{part}"
    if given is not None:
        table.require(given, flag)
        return [given]
    names = [name for name in COLUMNS[part] if name in table.columns]
    if not names:
        raise InputError(
            f"{table.path}: no column for the {part} (looked for {', '.join(COLUMNS[part])}).\n"
            f"Name one by {flag}; the columns are {', '.join(table.columns)}."
        )
    return names if part == "answers" else names[:1]


def _matching(table: Table, where: str | None) -> list[int]:
    """Return the indices of the rows whose cell matches "COLUMN=REGEX"."""
    if where is None:
        return list(range(len(table.numbers)))
    column, equals, expression = where.partition("=")
    if not equals:
        raise InputError(f"--facts.where is {where!r}: write it as COLUMN=REGEX.")
    if column not in table.columns:
        raise InputError(
            f"{table.path}: no column {column!r} (--facts.where {where}); the columns are {', '.join(table.columns)}.\n"
            "Give --facts.where None to keep every row."
        )
    cells = table.columns[column]
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(f"--facts.where is {where!r}: {expression!r} is no regular expression ({error}).") from error
    return [row for row, cell in enumerate(cells) if pattern.search(_text(cell))]


def _usable(table: Table, names: dict[str, list[str]], matching: list[int]) -> Rows:
    """Return the matching rows that have popularity and all of subject, relation and answer."""
    popularity = {row: _popularity(table, names["popularity"][0], row) for row in matching}
    known = {row: number for row, number in popularity.items() if number is not None}
    subjects, relations = (table.columns[names[part][0]] for part in ("subject", "relation"))
    facts = {row: (_text(subjects[row]), _text(relations[row]), _answer(table, names["answers"], row)) for row in known}
    filled = {row: fact for row, fact in facts.items() if all(fact)}
    left_out = {
        "do not match --facts.where": len(table.numbers) - len(matching),
        "have no popularity": len(popularity) - len(known),
        "have an empty subject, relation or answer": len(facts) - len(filled),
    }
    notes = [f"{n:,} of {len(table.numbers):,} rows {why}: left out" for why, n in left_out.items() if n]
    if not filled:
        raise InputError(f"{table.path}: no usable row ({'; '.join(notes)}).")
    text = (np.array(column, dtype=object) for column in zip(*filled.values(), strict=True))
    return Rows(*text, popularity=np.array([known[row] for row in filled]), notes=tuple(notes))


def _popularity(table: Table, column: str, row: int) -> float | None:
    """Return the cell's number, None if it is empty."""
    text = _text(table.columns[column][row])
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        remedy = "Correct it, or empty the cell to leave the row out."
        raise table.mistake(row, column, f"popularity {text!r} is not a positive number.\n{remedy}")
    return number


def _answer(table: Table, columns: list[str], row: int) -> str:
    """Return the row's first non-empty text among the columns; a list stands for its first element."""
    for column in columns:
        cell = table.columns[column][row]
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            cell = _unpacked(table, column, row, cell)
        if text := _text(cell):
            return text
    return ""


def _unpacked(table: Table, column: str, row: int, cell: str) -> Any:
    """Return the list that a cell's JSON text stands for; a text in mere brackets as it is."""
    try:
        return json.loads(cell)
    except (json.JSONDecodeError, RecursionError) as error:
        # "[untitled]" is a name, but "['a', 'b']" would silently become one answer of that spelling.
        if re.match(r"\s*\[\s*[\"']", cell):
            raise table.mistake(row, column, f"{cell[:40]!r} is not a JSON list ({error}).") from error
        return cell


def _text(cell: Any) -> str:
    """Return a cell as text without surrounding blanks; an empty one, or an empty list, as ""."""
    if isinstance(cell, list):
        cell = cell[0] if cell else None
    return "" if cell is None else str(cell).strip()


def _most_popular(rows: Rows) -> Rows:
    """Return the rows with only the most popular one of each subject and relation (of equals the first)."""
    keys = list(zip(rows.subject, rows.relation, strict=True))
    best: dict[tuple[str, str], int] = {}
    for row in np.argsort(-rows.popularity, kind="stable").tolist():
        best.setdefault(keys[row], row)
    n_repeats = len(keys) - len(best)
    n_repeated = sum(count > 1 for count in Counter(keys).values())
    note = f"{n_repeated:,} keys (subject, relation) are repeated: {n_repeats:,} less popular rows left out"
    return rows.take(np.sort(list(best.values())), *[note] * bool(n_repeats))


def _frequent_relations(path: Path, rows: Rows, min_facts: int) -> Rows:
    """Return the rows without the relations that have fewer than `min_facts` facts."""
    names, relation, counts = np.unique(rows.relation, return_inverse=True, return_counts=True)
    rare = ", ".join(f"{name} ({n})" for name, n in zip(names, counts, strict=True) if n < min_facts)
    if counts.max() < min_facts:
        raise InputError(f"{path}: every relation has fewer than {min_facts} facts.\nLower --facts.min-facts: {rare}")
    note = f"relations with fewer than {min_facts} facts: left out: {rare}"
    return rows.take(counts[relation] >= min_facts, *[note] * bool(rare))


def _check_answers(path: Path, rows: Rows) -> None:
    """Raise InputError for a relation whose facts all have one answer: nothing could be answered wrongly."""
    answers: dict[str, set[str]] = {}
    for relation, answer in zip(rows.relation, rows.answer, strict=True):
        answers.setdefault(relation, set()).add(answer)
    for relation, distinct in answers.items():
        if len(distinct) == 1:
            count = int(np.sum(rows.relation == relation))
            raise InputError(
                f"{path}: relation {relation!r} has one answer, {next(iter(distinct))!r}, in all its {count} facts.\n"
                f"Leave the relation out (--facts.where, or --facts.min-facts {count + 1}), or give it another answer."
            )
