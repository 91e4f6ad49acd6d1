"""What a table's cell says: a text, a list of answers, a popularity; and which facts repeat others."""

import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from core.errors import InputError
from core.facts.files import Table
from core.facts.record import Fact, FactSet

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def text(table: Table, column: str | None, row: int) -> str:
    """Return a cell as text without surrounding blanks; an empty one, and that of no column, as ""."""
    cell = None if column is None else table.columns[column][row]
    return "" if cell is None else _string(table, column or "", row, cell)


def strings(table: Table, column: str, row: int) -> tuple[str, ...]:
    """Return a cell's texts, in order: of a list, of a JSON list in text, or one text; none if it is empty.

    Raises:
        InputError: text that looks like a list of quoted texts and is no JSON; an element that is no text or number.
    """
    cell = table.columns[column][row]
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = _unpacked(table, column, row, cell)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return ()
    return tuple(_string(table, column, row, item) for item in (cell if isinstance(cell, list) else [cell]))


def distinct(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts in order, without empty and repeated ones."""
    return tuple(dict.fromkeys(filter(None, texts)))


def json_strings(table: Table, column: str, row: int) -> tuple[str, ...]:
    """Return the texts of a list, or of a JSON list in text; none if the cell is empty, InputError for all else."""
    cell = table.columns[column][row]
    if cell is None or cell == "":
        return ()
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise table.mistake(row, column, f"{cell[:40]!r} is not a JSON list ({error}).") from error
    if not (isinstance(cell, list) and all(isinstance(item, str) for item in cell)):
        raise table.mistake(row, column, f"{str(cell)[:40]!r} is not a list of texts.")
    return tuple(_string(table, column, row, item) for item in cell)


def popularity(table: Table, column: str | None, row: int, *, positive: bool = False) -> float | None:
    """Return the cell's number, at least 0 or, if `positive`, above it; None if the cell is empty or of no column."""
    content = text(table, column, row)
    if column is None or not content:
        return None
    try:
        number = float(content)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and (number > 0 or (number == 0 and not positive)):
        return number
    problem = f"popularity {content!r} is not a number of at least 0.\nCorrect it, or empty the cell."
    if positive:
        remedy = "Correct it, or empty the cell to leave the row out."
        problem = f"popularity {content!r} is not a positive number.\n{remedy}"
    raise table.mistake(row, column, problem)


def most_popular(facts: Sequence[Fact], keys: Sequence[Hashable]) -> list[Fact]:
    """Return one fact of each key, in order: the most popular, of equals the first."""
    best: dict[Hashable, int] = {}
    popularities = [-1.0 if fact.popularity is None else fact.popularity for fact in facts]
    for index in sorted(range(len(facts)), key=lambda index: -popularities[index]):
        best.setdefault(keys[index], index)
    return [facts[index] for index in sorted(best.values())]


def deduplicate(facts: Sequence[Fact]) -> tuple[tuple[Fact, ...], list[str]]:
    """Return the facts without repeats of question, choices and answers, and a note if there were any.

    Of repeats the most popular is kept, of equals the first. A question asked again with other answers stays: it is
    about another thing of the same name, and the split keeps both on one side.
    """
    kept = tuple(most_popular(facts, [(fact.question, fact.choices, fact.answers) for fact in facts]))
    n_repeats = len(facts) - len(kept)
    if not n_repeats:
        return kept, []
    return kept, [f"{n_repeats:,} of {len(facts):,} facts repeat another's question and answers: left out"]


def left_out(table: Table, n_usable: int, counts: Mapping[str, int]) -> list[str]:
    """Return a note on each reason for which rows were left out, with their number; InputError if no row is usable."""
    notes = [f"{n:,} of {len(table.numbers):,} rows {reason}: left out" for reason, n in counts.items() if n]
    if not n_usable:
        raise InputError(f"{table.path}: no usable row ({'; '.join(notes)}).")
    return notes


def of_relations(facts: FactSet, relations: Sequence[str]) -> FactSet:
    """Return the facts of these relations, all if none is named; InputError for one that no fact has."""
    if not relations:
        return facts
    known = {fact.relation for fact in facts.facts}
    for name in relations:
        if name not in known:
            raise InputError(f"--facts.relations: there is no relation {name!r}; there are {', '.join(sorted(known))}.")
    return replace(facts, facts=tuple(fact for fact in facts.facts if fact.relation in relations))


def unnamed(facts: Sequence[Fact]) -> list[str]:
    """Return a note if some facts have a subject that does not occur, whatever its case, in their question."""
    missing = [fact for fact in facts if fact.subject.lower() not in fact.question.lower()]
    if not missing:
        return []
    first = f"the first is {missing[0].subject!r} in {missing[0].question!r}"
    return [f"{len(missing):,} facts do not name their subject in the question, excluded from attention: {first}"]


def _string(table: Table, column: str, row: int, cell: Any) -> str:
    """Return a text, or a number as text, without surrounding blanks."""
    if not isinstance(cell, str | int | float) or (isinstance(cell, float) and not math.isfinite(cell)):
        raise table.mistake(row, column, f"{str(cell)[:40]!r} is neither text nor number.")
    content = str(cell).strip()
    if LONE_SURROGATE.search(content):
        raise table.mistake(row, column, f"{content[:40]!a} holds half a character (a lone surrogate).")
    return content


def _unpacked(table: Table, column: str, row: int, cell: str) -> Any:
    """Return the list that a cell's JSON text stands for; a text in mere brackets as it is."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        # "[untitled]" is a name, but "['a', 'b']" would silently become one answer of that spelling.
        if re.match(r"\s*\[\s*[\"']", cell):
            raise table.mistake(row, column, f"{cell[:40]!r} is not a JSON list ({error}).") from error
        return cell
