"""What a table's cell says: a text, a list of answers, a popularity; and which facts repeat others."""

import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from core.errors import InputError
from core.facts import json_rows, texts
from core.facts.files import Table
from core.facts.record import Fact, FactSet

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PACKED = re.compile(r"\s*(\[|\{\s*[\"'])")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?")


def text(table: Table, column: str | None, row: int) -> str:
    """Return a cell as text without surrounding blanks; an empty one, and that of no column, as ""."""
    cell = None if column is None else table.columns[column][row]
    return "" if cell is None else _string(table, column or "", row, cell)


def strings(table: Table, column: str, row: int) -> tuple[str, ...]:
    """Return a cell's texts, in order: of a list or an object, of JSON for one in text, or one text; none if empty.

    An object is read where it is a known data set's: SQuAD's {"text": [...]}, TriviaQA's {"value", "aliases"}.

    Raises:
        InputError: text that looks like a list of quoted texts and is no JSON; an element that is no text or number.
    """
    cell = table.columns[column][row]
    if isinstance(cell, str) and _PACKED.match(cell):
        cell = _unpacked(table, column, row, cell)
    if isinstance(cell, dict):
        cell = _of_object(table, column, row, cell)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return ()
    items = cell if isinstance(cell, list) else [cell]
    if None in items:
        table.enter(texts.NULLS, column, row)
    return tuple(_string(table, column, row, item) for item in items if item is not None)


def _of_object(table: Table, column: str, row: int, cell: dict[str, Any]) -> Any:
    """Return the answers that an object of a known shape holds; any other as it is."""
    if isinstance(cell.get("text"), list):
        table.enter(texts.SQUAD, column, row)
        return cell["text"]
    if "value" in cell and isinstance(cell.get("aliases"), list):
        table.enter(texts.TRIVIA_QA, column, row)
        return [cell["value"], *cell["aliases"]]
    return cell


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


def popularity(table: Table, column: str | None, row: int) -> float | None:
    """Return the cell's number, at least 0; None if the cell is empty or of no column."""
    cell = None if column is None else table.columns[column][row]
    if column is None or cell is None:
        return None
    content = texts.clean(str(cell))
    if not content:
        return None
    if _THOUSANDS.fullmatch(content):
        table.enter(texts.THOUSANDS, column, row)
        content = content.replace(",", "")
    try:
        number = float(content)
    except ValueError:
        number = math.nan
    if math.isfinite(number) and number >= 0:
        return number
    remedy = "Correct it, or empty the cell."
    if -math.inf < number < 0:
        remedy = "Correct it. If these are logarithms, give their exponentials, or ranks, the most popular the highest."
    raise table.mistake(row, column, f"popularity {content!r} is not a number of at least 0.\n{remedy}")


def most_popular(facts: Sequence[Fact], keys: Sequence[Hashable]) -> list[Fact]:
    """Return one fact of each key, in order: the most popular, of equals the first."""
    best: dict[Hashable, int] = {}
    popularities = [-1.0 if fact.popularity is None else fact.popularity for fact in facts]
    for index in sorted(range(len(facts)), key=lambda index: -popularities[index]):
        best.setdefault(keys[index], index)
    return [facts[index] for index in sorted(best.values())]


def deduplicate(facts: Sequence[Fact]) -> tuple[tuple[Fact, ...], list[str]]:
    """Return the facts without repeats of question, choices and answers, and notes on these and on contradictions.

    Of repeats the most popular is kept, of equals the first. A question asked again with other answers stays: it is
    about another thing of the same name, and the split keeps both on one side. So does one in another case.
    """
    kept = tuple(most_popular(facts, [(fact.question, fact.choices, fact.answers) for fact in facts]))
    notes, n_repeats = [], len(facts) - len(kept)
    if n_repeats:
        notes.append(f"{n_repeats:,} of {len(facts):,} facts repeat another's question and answers: left out")
    answers: dict[Hashable, list[tuple[str, ...]]] = {}
    for fact in kept:
        folded = tuple(answer.casefold() for answer in fact.answers)
        answers.setdefault((fact.question.casefold(), fact.choices), []).append(folded)
    n_several = sum(len(set(each)) > 1 for each in answers.values())
    if n_several:
        notes.append(f"{n_several:,} questions stand there with several answers, each a fact of its own")
    n_case = sum(len(each) - len(set(each)) for each in answers.values())
    if n_case:
        notes.append(f"{n_case:,} facts differ from another by case alone: facts of their own")
    return kept, notes


def case_variants(names: Iterable[str]) -> int:
    """Return how many of the names differ from another one by case alone."""
    distinct_names = set(names)
    counts = Counter(name.casefold() for name in distinct_names)
    return sum(counts[name.casefold()] > 1 for name in distinct_names)


def left_out(table: Table, n_usable: int, counts: Mapping[str, int]) -> list[str]:
    """Return a note on each reason for which rows were left out, with their number; InputError if no row is usable."""
    notes = [f"{n:,} of {len(table.numbers):,} rows {reason}: left out" for reason, n in counts.items() if n]
    if not n_usable:
        raise InputError(f"{table.path}: no usable row ({'; '.join(notes)}).")
    return notes


def findings(table: Table) -> list[str]:
    """Return a note on each thing that reading the cells changed or found, with the number of cells."""
    return [f"{len(found):,} cells {kind}" for kind, found in table.found.items()]


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
    """Return a text, or a number, truth value or date as text, without surrounding blanks."""
    content = table.text(column, row, cell)
    if LONE_SURROGATE.search(content):
        raise table.mistake(row, column, f"{content[:40]!a} holds half a character (a lone surrogate).")
    return content


def _unpacked(table: Table, column: str, row: int, cell: str) -> Any:
    """Return the list or object that a cell's JSON text stands for; a text in mere brackets as it is."""
    try:
        value = json_rows.loads(cell)
    except (ValueError, RecursionError) as error:
        # "[untitled]" is a name, but "['a', 'b']" would silently become one answer of that spelling.
        if found := re.match(r"\s*([\[{])\s*[\"']", cell):
            called = "list" if found[1] == "[" else "object"
            raise table.mistake(row, column, f"{cell[:40]!r} is not a JSON {called} ({error}).") from error
        return cell
    if (key := json_rows.repeated(value)) is not None:
        raise table.mistake(row, column, f"the key {key!r} is there twice; leave one.")
    return value
