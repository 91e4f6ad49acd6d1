"""A table as keyed facts, (subject, relation) → one answer, each with a popularity: what a toy world is made of."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from core.facts import cells, files, table
from core.facts.files import Table
from core.facts.record import Fact, FactSet
from core.facts.request import Request

NAMES = {
    "subject": ("subject", "subj"),
    "relation": ("relation", "prop"),
    "answers": ("answer", "possible_answers", "answers", "obj"),
    "popularity": ("popularity", "s_pop"),
}
"""The column names recognised for each part of a fact, the preferred one first."""


def read(request: Request, *, min_facts: int) -> FactSet:
    """Return the facts of a table: each (subject, relation) once, each relation with at least `min_facts` of them.

    Each fact has one answer, a popularity above 0 and no question. The answer is, row by row, the first filled one of
    the recognised columns, and of a list its first element. `possible_answers` goes before `obj`: in PopQA both hold
    the same labels, but where a subject has several objects, each on a row of its own, only the list is the same on all
    of them (and the reassembled file often lacks `obj`).

    Raises:
        InputError: no such table, column or row; a popularity that is no positive number; a relation with one answer.
    """
    source = files.read(request.path)
    names = table.recognise(source, request.columns, NAMES, needed=tuple(NAMES))
    usable, notes = _usable(source, names, files.matching(source, request.where))
    unique, repeats = _most_popular(usable)
    frequent, rare = _frequent_relations(source.path, unique, min_facts)
    _check_answers(source.path, frequent)
    return FactSet(tuple(frequent), (*notes, *repeats, *rare))


def _usable(source: Table, names: dict[str, list[str]], matching: list[int]) -> tuple[list[Fact], list[str]]:
    """Return the facts of the matching rows that have popularity and all of subject, relation and answer, and notes."""
    popularity = {row: cells.popularity(source, names["popularity"][0], row, positive=True) for row in matching}
    known = {row: number for row, number in popularity.items() if number is not None}
    facts = [_fact(source, names, row, number) for row, number in known.items()]
    filled = [fact for fact in facts if fact.subject and fact.relation and fact.answers]
    counts = {
        "do not match --facts.where": len(source.numbers) - len(matching),
        "have no popularity": len(popularity) - len(known),
        "have an empty subject, relation or answer": len(facts) - len(filled),
    }
    notes = cells.left_out(source, len(filled), counts)
    return filled, notes


def _fact(source: Table, names: dict[str, list[str]], row: int, popularity: float) -> Fact:
    return Fact(
        id=f"{source.unit} {source.numbers[row]}",
        subject=cells.text(source, names["subject"][0], row),
        relation=cells.text(source, names["relation"][0], row),
        question="",
        answers=_answer(source, names["answers"], row),
        popularity=popularity,
        source="table",
    )


def _answer(source: Table, columns: list[str], row: int) -> tuple[str, ...]:
    """Return the row's first filled text among the columns, where a list stands for its first element; or nothing."""
    for column in columns:
        first = cells.strings(source, column, row)[:1]
        if any(first):
            return first
    return ()


def _most_popular(facts: Sequence[Fact]) -> tuple[list[Fact], list[str]]:
    """Return only the most popular fact of each subject and relation (of equals the first), and a note on repeats."""
    keys = [(fact.subject, fact.relation) for fact in facts]
    kept = cells.most_popular(facts, keys)
    if len(kept) == len(facts):
        return kept, []
    n_repeated = sum(count > 1 for count in Counter(keys).values())
    n_left_out = len(facts) - len(kept)
    return kept, [f"{n_repeated:,} keys (subject, relation) are repeated: {n_left_out:,} less popular rows left out"]


def _frequent_relations(path: Path, facts: Sequence[Fact], min_facts: int) -> tuple[list[Fact], list[str]]:
    """Return the facts without the relations that have fewer than `min_facts` of them, and a note that names those."""
    counts = Counter(fact.relation for fact in facts)
    rare = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()) if n < min_facts)
    if max(counts.values()) < min_facts:
        raise InputError(f"{path}: every relation has fewer than {min_facts} facts.\nLower --facts.min-facts: {rare}")
    notes = [f"relations with fewer than {min_facts} facts: left out: {rare}"] if rare else []
    return [fact for fact in facts if counts[fact.relation] >= min_facts], notes


def _check_answers(path: Path, facts: Sequence[Fact]) -> None:
    """Raise InputError for a relation whose facts all have one answer: nothing could be answered wrongly."""
    answers: dict[str, list[str]] = {}
    for fact in facts:
        answers.setdefault(fact.relation, []).append(fact.answers[0])
    for relation, given in answers.items():
        if len(set(given)) == 1:
            count = len(given)
            raise InputError(
                f"{path}: relation {relation!r} has one answer, {given[0]!r}, in all its {count} facts.\n"
                f"Leave the relation out (--facts.where, or --facts.min-facts {count + 1}), or give it another answer."
            )
