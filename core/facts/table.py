"""One's own question-answer table: CSV, TSV, JSONL, Parquet, or a data set of the hub."""

from collections.abc import Mapping

from core.errors import InputError
from core.facts import cells, files
from core.facts.files import Table
from core.facts.record import LETTERS, Fact, FactSet
from core.facts.request import Request, TableColumns

NAMES = {
    "question": ("question",),
    "answers": ("answers", "answer", "possible_answers"),
    "subject": ("subject", "subj"),
    "relation": ("relation", "prop"),
    "popularity": ("popularity", "s_pop"),
    "choices": ("choices",),
}
"""The column names recognised for each part of a fact, the preferred one first."""
NEEDED = ("question", "answers")


def read(request: Request) -> FactSet:
    """Return the table's facts in its order, each question with the same answers once; a fact's id names its row.

    Rows without question or answers are left out and counted; a subject that its question does not name is kept.

    Raises:
        InputError: the file cannot be read, lacks a needed column, or a cell cannot be understood; no row is left, or
            no such relation.
    """
    request.check_taken("a table", "where", "columns")
    table = files.read(request.path)
    recognised = recognise(table, request.columns, NAMES, needed=NEEDED)
    names = {part: next(iter(columns), None) for part, columns in recognised.items()}
    matching = files.matching(table, request.where)
    facts = [_fact(table, names, row) for row in matching]
    usable = [fact for fact in facts if fact.question and fact.answers]
    counts = {
        "do not match --facts.where": len(table.numbers) - len(matching),
        "have no question or no answer": len(facts) - len(usable),
    }
    notes = cells.left_out(table, len(usable), counts)
    kept, repeats = cells.deduplicate(usable)
    return cells.of_relations(FactSet(kept, (*notes, *repeats, *cells.unnamed(kept))), request.relations)


def recognise(
    table: Table, columns: TableColumns, recognised: Mapping[str, tuple[str, ...]], *, needed: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return the table's columns for each part of a fact: the one given, else all that have a recognised name.

    A column that is given for one part serves that alone. InputError for a part that is needed and has no column.
    """
    given = {part: getattr(columns, part) for part in recognised}
    names: dict[str, list[str]] = {}
    for part, known in recognised.items():
        flag = f"--facts.columns.{part}"
        if given[part] is not None:
            table.require(given[part], flag)
            names[part] = [given[part]]
            continue
        names[part] = [name for name in known if name in table.columns and name not in given.values()]
        if part in needed and not names[part]:
            raise InputError(
                f"{table.path}: no column for the {part} (looked for {', '.join(known)}).\n"
                f"Name one by {flag}; the columns are {', '.join(table.columns)}."
            )
    return names


def _fact(table: Table, names: dict[str, str | None], row: int) -> Fact:
    assert names["answers"] is not None
    choices = _choices(table, names["choices"], row)
    return Fact(
        id=f"{table.unit} {table.numbers[row]}",
        subject=cells.text(table, names["subject"], row),
        relation=cells.text(table, names["relation"], row),
        question=cells.text(table, names["question"], row),
        answers=_answers(table, names["answers"], row, choices),
        popularity=cells.popularity(table, names["popularity"], row),
        choices=choices,
        source="table",
    )


def _choices(table: Table, column: str | None, row: int) -> tuple[str, ...]:
    """Return the row's four choices, none where the cell is empty."""
    choices = () if column is None else cells.strings(table, column, row)
    if column is not None and choices and len(choices) != len(LETTERS):
        raise table.mistake(row, column, f"{len(choices)} choices.\nGive four, or none for a free answer.")
    return choices


def _answers(table: Table, column: str, row: int, choices: tuple[str, ...]) -> tuple[str, ...]:
    return _letter(table, column, row) if choices else cells.distinct(cells.strings(table, column, row))


def _letter(table: Table, column: str, row: int) -> tuple[str, ...]:
    """Return the right choice's letter, given as such or as its number from 0; nothing where the cell is empty."""
    content = cells.text(table, column, row)
    letters = dict(zip(LETTERS, LETTERS, strict=True)) | {str(i): letter for i, letter in enumerate(LETTERS)}
    if content and content not in letters:
        raise table.mistake(row, column, f"answer {content!r} is none of the choices.\nWrite A, B, C or D, or 0 to 3.")
    return (letters[content],) if content else ()
