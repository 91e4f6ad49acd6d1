"""Any source as keyed facts, (subject, relation) → one answer, each with a popularity: what a toy world is made of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from core.errors import InputError
from core.facts import Source, cells, files, table
from core.facts import read as read_source
from core.facts.files import Table
from core.facts.record import Fact, FactSet
from core.facts.request import Request

NAMES = {
    "subject": ("subject", "subj"),
    "relation": ("relation", "prop"),
    "answers": ("answer", "possible_answers", "answers", "obj"),
    "popularity": ("popularity", "s_pop"),
}
"""The column names of a table recognised for each part of a fact, the preferred one first."""
WITHOUT_SUBJECT: tuple[Source, ...] = ("mmlu",)
"""Sources that are refused before they are read, so that nobody first mends what would not help."""


def read(source: Source, request: Request, *, min_facts: int) -> FactSet:
    """Return a source's facts: each (subject, relation) once, each relation with at least `min_facts` of them.

    Each fact has one answer, the first of its own, a popularity above 0 and no question.

    Raises:
        InputError: the source's own; it has no subjects or no popularity; a relation with one answer.
    """
    given = _of_table(request) if source == "table" else _of_source(source, request)
    unique, repeats = _most_popular(given.facts, "rows" if source == "table" else "facts")
    frequent, rare = _frequent_relations(request, unique, min_facts)
    _check_answers(request, frequent, "--facts.where" if source == "table" else "--facts.relations")
    return FactSet(tuple(frequent), (*given.notes, *repeats, *rare))


def _of_source(source: Source, request: Request) -> FactSet:
    """Return what a source's reader gives, without the facts that lack subject, relation or popularity."""
    given = FactSet(()) if source in WITHOUT_SUBJECT else read_source(source, request)
    keyed = [fact for fact in given.facts if fact.subject and fact.relation]
    if not keyed:
        raise InputError(
            f"{request.path}: {source} names no subjects and relations, which the toy looks its answers up by.\n"
            "Take another --facts.source, or run the language model on it: python -m empirical."
        )
    known = [fact for fact in keyed if fact.popularity]
    if not known:
        raise InputError(
            f"{request.path}: no fact of {source} has a popularity above 0, which says how often the toy is told it.\n"
            "Name EntityQuestions' frequency buckets by --facts.buckets FOLDER, or take another --facts.source."
        )
    counts = {
        "have no subject or no relation": len(given.facts) - len(keyed),
        "have no popularity above 0": len(keyed) - len(known),
    }
    notes = [f"{n:,} of {len(given.facts):,} facts {reason}: left out" for reason, n in counts.items() if n]
    bare = (replace(fact, question="", choices=(), answers=fact.answers[:1]) for fact in known)
    return FactSet(tuple(bare), (*given.notes, *notes))


def _of_table(request: Request) -> FactSet:
    """Return the usable rows of a table, which needs no questions.

    The answer is, row by row, the first filled one of the recognised columns, and of a list its first element.
    `possible_answers` goes before `obj`: in PopQA both hold the same labels, but where a subject has several objects,
    each on a row of its own, only the list is the same on all of them (and the reassembled file often lacks `obj`).

    Raises:
        InputError: no such table, column, row or relation; a popularity that is no number of at least 0.
    """
    request.check_taken("a table", "where", "columns")
    cellwise = files.read(request.path)
    names, spelled = table.recognise(cellwise, request.columns, NAMES, needed=tuple(NAMES))
    usable, left_out = _usable(cellwise, names, files.matching(cellwise, request.where))
    notes = (*cellwise.notes, *spelled, *left_out, *cells.findings(cellwise))
    return cells.of_relations(FactSet(tuple(usable), notes), request.relations)


def _usable(source: Table, names: dict[str, list[str]], matching: list[int]) -> tuple[list[Fact], list[str]]:
    """Return the facts of the matching rows that have popularity and all of subject, relation and answer, and notes."""
    popularity = {row: cells.popularity(source, names["popularity"][0], row) for row in matching}
    known = {row: number for row, number in popularity.items() if number}
    facts = [_fact(source, names, row, number) for row, number in known.items()]
    filled = [fact for fact in facts if fact.subject and fact.relation and fact.answers]
    counts = {
        "do not match --facts.where": len(source.numbers) - len(matching),
        "have no popularity above 0": len(popularity) - len(known),
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
    """Return the row's first filled text among the columns, of a list its first filled one; or nothing."""
    for column in columns:
        if first := cells.distinct(cells.strings(source, column, row))[:1]:
            return first
    return ()


def _most_popular(facts: Sequence[Fact], called: str) -> tuple[list[Fact], list[str]]:
    """Return only the most popular fact of each subject and relation (of equals the first), and a note on repeats."""
    keys = [(fact.subject, fact.relation) for fact in facts]
    kept = cells.most_popular(facts, keys)
    notes = _case_variants(kept)
    if len(kept) == len(facts):
        return kept, notes
    answers: dict[tuple[str, str], list[str]] = {}
    for key, fact in zip(keys, facts, strict=True):
        answers.setdefault(key, []).append(fact.answers[0])
    repeated = [given for given in answers.values() if len(given) > 1]
    n_left_out = len(facts) - len(kept)
    found = f"{len(repeated):,} keys (subject, relation) are repeated: {n_left_out:,} less popular {called} left out"
    n_several = sum(len(set(given)) > 1 for given in repeated)
    contradicted = [f"{n_several:,} of the repeated keys have several answers"] if n_several else []
    return kept, [found, *contradicted, *notes]


def _case_variants(facts: Sequence[Fact]) -> list[str]:
    """Return a note if subjects, relations or answers differ by case alone: a toy's names are but ids, so they stay."""
    counts = {
        "subjects": cells.case_variants(fact.subject for fact in facts),
        "relations": cells.case_variants(fact.relation for fact in facts),
        "answers": cells.case_variants(fact.answers[0] for fact in facts),
    }
    return [f"{n:,} {part} differ from another by case alone: they stay distinct" for part, n in counts.items() if n]


def _frequent_relations(request: Request, facts: Sequence[Fact], min_facts: int) -> tuple[list[Fact], list[str]]:
    """Return the facts without the relations that have fewer than `min_facts` of them, and a note that names those."""
    counts = Counter(fact.relation for fact in facts)
    rare = ", ".join(f"{name} ({n})" for name, n in sorted(counts.items()) if n < min_facts)
    if max(counts.values()) < min_facts:
        raise InputError(
            f"{request.path}: every relation has fewer than {min_facts} facts.\nLower --facts.min-facts: {rare}"
        )
    notes = [f"relations with fewer than {min_facts} facts: left out: {rare}"] if rare else []
    return [fact for fact in facts if counts[fact.relation] >= min_facts], notes


def _check_answers(request: Request, facts: Sequence[Fact], flag: str) -> None:
    """Raise InputError for a relation whose facts all have one answer: nothing could be answered wrongly.

    Args:
        flag: That can leave a relation out.
    """
    answers: dict[str, list[str]] = {}
    for fact in facts:
        answers.setdefault(fact.relation, []).append(fact.answers[0])
    for relation, given in answers.items():
        if len(set(given)) == 1:
            count = len(given)
            raise InputError(
                f"{request.path}: relation {relation!r} has one answer, {given[0]!r}, in all its {count} facts.\n"
                f"Leave the relation out ({flag}, or --facts.min-facts {count + 1}), or give it another answer."
            )
