"""One's own question-answer table: CSV, TSV, JSON, Parquet, or a data set of the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
LEAST_NAMED = 0.1
"""Of questions with choices, if fewer name their subject, it is their topic: of MMLU's 0.6 % do."""


def read(request: Request) -> FactSet:
    """Return the table's facts in its order, each question with the same answers once; a fact's id names its row.

    Rows without question or answers are left out and counted; a subject that its question does not name is kept.

    Raises:
        InputError: the file cannot be read, lacks a needed column, or a cell cannot be understood; no row is left, or
            no such relation.
    """
    request.check_taken("a table", "where", "columns")
    table = files.read(request.path)
    recognised, spelled = recognise(table, request.columns, NAMES, needed=NEEDED)
    names = {part: next(iter(columns), None) for part, columns in recognised.items()}
    matching = files.matching(table, request.where)
    facts = [_fact(table, names, row) for row in matching]
    usable = [fact for fact in facts if fact.question and fact.answers]
    counts = {
        "do not match --facts.where": len(table.numbers) - len(matching),
        "have no question or no answer": len(facts) - len(usable),
    }
    notes = [*table.notes, *spelled, *cells.left_out(table, len(usable), counts)]
    if request.columns.subject is None and names["relation"] is None:
        usable, topics = _by_topic(usable, names["subject"])
        notes += topics
    kept, repeats = cells.deduplicate(usable)
    notes += [*repeats, *cells.unnamed(kept), *cells.findings(table)]
    return cells.of_relations(FactSet(kept, tuple(notes)), request.relations)


def recognise(
    table: Table, columns: TableColumns, recognised: Mapping[str, tuple[str, ...]], *, needed: tuple[str, ...]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the table's columns for each part of a fact: the one given, else all that have a recognised name.

    A column that is given for one part serves that alone. A name is recognised in any case, which a note says.

    Raises:
        InputError: a part that is needed has no column, or two that differ by case alone.
    """
    given = {part: name if (name := getattr(columns, part)) is None else name.strip() for part in recognised}
    free = [name for name in table.columns if name not in given.values()]
    names: dict[str, list[str]] = {}
    notes = []
    for part, known in recognised.items():
        flag = f"--facts.columns.{part}"
        if (column := given[part]) is not None:
            table.require(column, flag)
            names[part] = [column]
            continue
        names[part] = [column for name in known for column in _called(table, name, free, flag)]
        notes += [f"column {column!r} is taken for the {part}" for column in names[part] if column not in known]
        if part in needed and not names[part]:
            raise InputError(
                f"{table.path}: no column for the {part} (looked for {', '.join(known)}).\n"
                f"Name one by {flag}; the columns are {', '.join(table.columns)}."
            )
    return names, notes


def _called(table: Table, name: str, columns: Sequence[str], flag: str) -> list[str]:
    """Return the column of that name, or else the one that differs from it by case alone; none if there is none."""
    alike = [column for column in columns if column.casefold() == name]
    if name in alike or len(alike) < 2:
        return [name] if name in alike else alike
    raise InputError(f"{table.path}: columns {' and '.join(map(repr, alike))} differ by case.\nName one by {flag}.")


def _by_topic(facts: list[Fact], column: str | None) -> tuple[list[Fact], list[str]]:
    """Return multiple-choice facts whose questions hardly name their subject with it as relation, and a note.

    So the hub has MMLU: its `subject` is abstract_algebra, which, read as what the question is about, would hold out
    whole topics. All other facts are returned as they are.
    """
    named = sum(bool(fact.subject) and fact.subject.lower() in fact.question.lower() for fact in facts)
    if column is None or not all(fact.choices for fact in facts) or named >= LEAST_NAMED * len(facts):
        return facts, []
    note = (
        f"column {column!r} is taken for the relation: {named:,} of {len(facts):,} questions with choices name it "
        f"(--facts.columns.subject {column} has it otherwise)"
    )
    return [replace(fact, subject="", relation=fact.subject) for fact in facts], [note]


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
