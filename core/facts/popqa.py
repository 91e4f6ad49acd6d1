"""PopQA (Mallen et al. 2023): questions about entities of known popularity, monthly views of their Wikipedia page.

Three forms are read alike: the original TSV, a reassembly that has popularity for part of the rows, and the hub's data
set (`hub:akariasai/PopQA`). Of their columns these are needed: subj, prop, question, possible_answers (a JSON list in
the cell) and s_pop; an id and an obj where there is one. The object is what is trained on; possible_answers, labels and
aliases of all objects that the question has, are what is accepted.
"""

from dataclasses import replace
from pathlib import Path

from core.errors import InputError
from core.facts import cells, files
from core.facts.files import Table
from core.facts.record import Fact, FactSet
from core.facts.request import Request

COLUMNS = ("subj", "prop", "question", "possible_answers", "s_pop")
OBJECT = "obj"


def read(request: Request) -> FactSet:
    """Return PopQA's facts in the file's order, each question with the same answers once, its most popular row.

    A question that stands there with several answers (different works of one name) stays as often: split by question.
    A row without an id of its own is called "row N", counted from 0 as in the original file.

    Raises:
        InputError: the file cannot be read, lacks a column, or a cell is damaged; no row is left; no such relation.
    """
    request.check_taken("PopQA", "where")
    table = files.read(request.path)
    for column in COLUMNS:
        table.require(column, "needed of PopQA; for another table give --facts.source table")
    matching = files.matching(table, request.where)
    facts = [_fact(table, row) for row in matching]
    usable = [fact for fact in facts if fact.subject and fact.relation and fact.question and fact.answers]
    _check_ids(table.path, usable)
    counts = {
        "do not match --facts.where": len(table.numbers) - len(matching),
        "have an empty subject, relation, question or list of answers": len(facts) - len(usable),
    }
    notes = [*table.notes, *cells.left_out(table, len(usable), counts)]
    kept, repeats = cells.deduplicate(usable)  # a question once, though it has a row for each of its objects
    kept, without = _with_object_first(table, dict(zip((fact.id for fact in facts), matching, strict=True)), kept)
    notes += [*repeats, *without, *_unpopular(kept), *cells.unnamed(kept), *cells.findings(table)]
    return cells.of_relations(FactSet(kept, tuple(notes)), request.relations)


def _fact(table: Table, row: int) -> Fact:
    own_id = cells.text(table, "id", row) if "id" in table.columns else ""
    return Fact(
        id=own_id or f"row {row}",
        subject=cells.text(table, "subj", row),
        relation=cells.text(table, "prop", row),
        question=cells.text(table, "question", row),
        answers=cells.distinct(cells.json_strings(table, "possible_answers", row)),
        popularity=cells.popularity(table, "s_pop", row),
        source="popqa",
    )


def _with_object_first(
    table: Table, rows: dict[str, int], facts: tuple[Fact, ...]
) -> tuple[tuple[Fact, ...], list[str]]:
    """Return the facts with their row's object as first answer, and a note of those whose row names none.

    Args:
        rows: By fact's id.
    """
    if OBJECT not in table.columns:
        return facts, []
    objects = [cells.text(table, OBJECT, rows[fact.id]) for fact in facts]
    pairs = zip(facts, objects, strict=True)
    made = tuple(replace(fact, answers=cells.distinct((name, *fact.answers))) for fact, name in pairs)
    without = objects.count("")
    told = f"{without:,} of {len(facts):,} facts name no {OBJECT}: the first of their possible answers is trained on"
    return made, [told] if without else []


def _check_ids(path: Path, facts: list[Fact]) -> None:
    """Raise InputError for two facts of one id that are not the same row twice."""
    seen: dict[str, Fact] = {}
    for fact in facts:
        other = seen.setdefault(fact.id, fact)
        if (other.question, other.answers) != (fact.question, fact.answers):
            raise InputError(
                f"{path}, column 'id': {fact.id!r} stands for {other.question!r} and for {fact.question!r}.\n"
                "Give each row an id of its own, or leave the cell empty."
            )


def _unpopular(facts: tuple[Fact, ...]) -> list[str]:
    """Return a note if some facts have no popularity."""
    n_missing = sum(fact.popularity is None for fact in facts)
    if not n_missing:
        return []
    return [f"{n_missing:,} of {len(facts):,} facts have no popularity"]
