"""What a source is asked for: where its files are, and which of its facts."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from core.errors import InputError


@dataclass(frozen=True)
class TableColumns:
    """The columns of one's own table; one that is not given is recognised by its name."""

    question: str | None = None
    """Not given: question."""
    answers: str | None = None
    """A list, a JSON list in the cell, or one text; not given: answers, answer or possible_answers. Where there are
    choices: the letter of the right one, or its number from 0."""
    subject: str | None = None
    """Whom or what the question is about, as it stands in it; not given: subject or subj, if there is one."""
    relation: str | None = None
    """What kind of question it is; not given: relation or prop, if there is one."""
    popularity: str | None = None
    """How well known the subject is, any unit, at least 0; not given: popularity or s_pop, if there is one."""
    choices: str | None = None
    """A list of four texts, or a JSON list in the cell; not given: choices, if there is one."""


@dataclass(frozen=True)
class Request:
    """Files and a choice of their facts; each source takes `path` and those of the rest that it has a use for."""

    path: Path
    """A file or a folder; hub:OWNER/NAME[/CONFIG][@REVISION][#SPLIT] for a data set of the Hugging Face hub."""
    part: Literal["train", "dev", "val", "test"] = "train"
    """The files' own split; sources without one read all they have."""
    relations: tuple[str, ...] = ()
    """Only facts of these relations; none named: all."""
    where: str | None = None
    """"COLUMN=REGEX": only rows in whose cell the expression is found."""
    buckets: Path | None = None
    """A folder of EntityQuestions' frequency buckets."""
    columns: TableColumns = TableColumns()

    def check_taken(self, source: str, *names: str) -> None:
        """Raise InputError, naming the flag, if a setting is given that the source has no use for.

        Args:
            names: Of the settings it takes, besides `path`, `part` and `relations`.
        """
        for setting in fields(self):
            if setting.name in ("path", "part", "relations", *names):
                continue
            if getattr(self, setting.name) != setting.default:
                raise InputError(f"--facts.{setting.name} is of no use to {source}.\nLeave it out, or set it to None.")
