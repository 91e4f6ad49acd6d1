"""Facts from any source, as one record type."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from core import runs
from core.errors import InputError
from core.facts import entity_questions, mmlu, popqa, table
from core.facts.record import Fact, FactSet
from core.facts.table import TableColumns

__all__ = ["Fact", "FactSet", "FactsConfig", "check", "fingerprint", "load"]


@dataclass(frozen=True)
class FactsConfig:
    """Where the questions come from."""

    source: Literal["world", "popqa", "entity_questions", "mmlu", "table"] = "world"
    """`world`: a synthetic one, of which we pretrain a model ourselves. The others are read from `path`."""
    path: Path | None = None
    """PopQA's or one's own table (CSV, TSV, JSONL, Parquet), or the folder of EntityQuestions or MMLU; hub:ID or
    hub:ID@REVISION for a data set of the Hugging Face hub (PopQA, tables)."""
    part: Literal["train", "dev", "val", "test"] = "train"
    """The files' own split that is read (EntityQuestions, MMLU); arms and held-out facts are drawn from it anew."""
    relations: tuple[str, ...] = ()
    """Only these relations: PopQA's names, Wikidata properties, MMLU's subjects (`history`: those whose name holds it,
    prehistory not); none named: all."""
    where: str | None = None
    """COLUMN=REGEX: only rows in whose cell the expression is found (PopQA, tables)."""
    buckets: Path | None = None
    """EntityQuestions' folder of frequency buckets: popularity by bucket, P19 and P170 alone."""
    limit: int | None = None
    """At most so many facts, drawn at random (always the same); not given: all."""
    columns: TableColumns = field(default_factory=TableColumns)
    """The columns of one's own table."""


def check(config: FactsConfig) -> None:
    """Raise InputError for settings that do not fit, naming the flag."""
    if config.source == "world" and config.path is not None:
        raise InputError("--facts.path is of no use to a synthetic world.\nAdd --facts.source, or leave the path.")
    if config.source != "world" and config.path is None:
        raise InputError(f"the source {config.source} needs its file or folder.\nName it with --facts.path.")
    if config.limit is not None and config.limit < 1:
        raise InputError(f"--facts.limit is {config.limit}: it must be at least 1.")


def load(config: FactsConfig) -> FactSet | None:
    """Return the source's facts; None for a synthetic world, whose facts depend on its seed.

    Raises:
        InputError: the file cannot be understood, or no fact is left.
    """
    check(config)
    if config.source == "world":
        return None
    assert config.path is not None
    if config.source == "popqa":
        found = _of(popqa.read(config.path, where=config.where), config.relations)
    elif config.source == "table":
        found = _of(table.read(config.path, config.columns, where=config.where), config.relations)
    elif config.source == "entity_questions":
        if config.part == "val":
            raise InputError("EntityQuestions has no part val.\nName train, dev or test with --facts.part.")
        found = entity_questions.read(
            config.path, split=config.part, relations=config.relations, buckets=config.buckets
        )
    else:
        if config.part == "train":
            raise InputError("MMLU has no part train.\nName dev, val or test with --facts.part.")
        found = mmlu.read(config.path, split=config.part, subjects=config.relations)
    return _limited(found, config.limit)


def fingerprint(given: FactSet | None) -> str | None:
    """Return the SHA-256 of the facts, which tells whether their file has changed; None where there are none."""
    return None if given is None else runs.config_hash([asdict(fact) for fact in given.facts])


def _of(found: FactSet, relations: tuple[str, ...]) -> FactSet:
    """Return the facts of these relations, all if none is named."""
    if not relations:
        return found
    known = {fact.relation for fact in found.facts}
    for name in relations:
        if name not in known:
            raise InputError(f"--facts.relations: there is no relation {name!r}; there are {', '.join(sorted(known))}.")
    return replace(found, facts=tuple(fact for fact in found.facts if fact.relation in relations))


def _limited(found: FactSet, limit: int | None) -> FactSet:
    if limit is None or len(found.facts) <= limit:
        return found
    rows = np.sort(np.random.default_rng(0).permutation(len(found.facts))[:limit])
    note = f"{limit} of {len(found.facts)} facts were drawn (--facts.limit)"
    return FactSet(tuple(found.facts[row] for row in rows), (*found.notes, note))
