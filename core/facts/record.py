"""The one record of every source: a question about a subject, and the answers that count as right."""

from dataclasses import dataclass

LETTERS = ("A", "B", "C", "D")
"""Letters of the four choices of a question, in order."""


@dataclass(frozen=True)
class Fact:
    """A question, its accepted answers, and what it is about."""

    id: str
    """Distinct within its source."""
    subject: str
    """As it stands in the question; empty where the source names none (MMLU)."""
    relation: str
    """What is asked: PopQA's `prop`, a Wikidata property, MMLU's subject; empty where the source does not say."""
    question: str
    answers: tuple[str, ...]
    """Accepted strings, at least one; the first is trained on. A letter where there are choices."""
    popularity: float | None = None
    """How well known the subject is, in the source's own unit; None where the source does not say."""
    choices: tuple[str, ...] = ()
    """The four texts of a multiple-choice question, else empty."""
    source: str = ""


@dataclass(frozen=True)
class FactSet:
    """Facts in their source's order."""

    facts: tuple[Fact, ...]
    notes: tuple[str, ...] = ()
    """What reading left out or found, a line each, with counts."""
    examples: tuple[Fact, ...] = ()
    """Facts of a part that the source keeps for few-shot prompts, in the order in which these show them."""
