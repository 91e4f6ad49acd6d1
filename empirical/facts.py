"""Facts from any source, as one record type."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from core import arms, config_json
from core import facts as core_facts
from core.config_json import setting
from core.errors import InputError
from core.facts import Source
from core.facts.record import Fact, FactSet
from core.facts.request import Request, TableColumns
from core.numbering import numbered

__all__ = ["Fact", "FactSet", "FactsConfig", "check", "fingerprint", "load"]


@dataclass(frozen=True)
class FactsConfig:
    """Where the questions come from."""

    source: Literal["world", Source] = "world"
    """`world`: a synthetic one, of which we pretrain a model ourselves. The others are read from `path`."""
    path: Path | None = None
    """PopQA's or one's own table (CSV, TSV, JSON, JSONL, gzip too, Parquet), or the folder of EntityQuestions or MMLU;
    hub:OWNER/NAME[/CONFIG][@REVISION][#SPLIT] for a data set of the Hugging Face hub (PopQA, tables)."""
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
    per_relation: int | None = setting(None, is_later=True)
    """At most so many facts of each relation, drawn at random (always the same); not given: all."""
    columns: TableColumns = field(default_factory=TableColumns)
    """The columns of one's own table."""


def check(config: FactsConfig) -> None:
    """Raise InputError for settings that do not fit, naming the flag; a path is missed where it is read (`load`)."""
    if config.source == "world" and config.path is not None:
        raise InputError("--facts.path is of no use to a synthetic world.\nAdd --facts.source, or leave the path.")
    for flag, limit in {"limit": config.limit, "per-relation": config.per_relation}.items():
        if limit is not None and limit < 1:
            raise InputError(f"--facts.{flag} is {limit}: it must be at least 1.")


def load(config: FactsConfig) -> FactSet | None:
    """Return the source's facts; None for a synthetic world, whose facts depend on its seed.

    Raises:
        InputError: the file cannot be understood, no fact is left, or the source does not take a setting.
    """
    check(config)
    if config.source == "world":
        return None
    if config.path is None:
        raise InputError(f"the source {config.source} needs its file or folder.\nName it with --facts.path.")
    request = Request(config.path, config.part, config.relations, config.where, config.buckets, config.columns)
    return _limited(_limited_each(core_facts.read(config.source, request), config.per_relation), config.limit)


def fingerprint(given: FactSet | None) -> str | None:
    """Return the SHA-256 of facts and examples, which tells whether a file has changed; None where there are none."""
    return None if given is None else config_json.config_hash([asdict(one) for one in (*given.facts, *given.examples)])


def _limited_each(chosen: FactSet, limit: int | None) -> FactSet:
    """Return at most `limit` of the facts of each relation, drawn at random, always the same."""
    relation = numbered([fact.relation for fact in chosen.facts])
    if limit is None or np.bincount(relation).max() <= limit:
        return chosen
    place = arms.ranks(relation, np.zeros(len(relation)), np.random.default_rng(0))[0]
    rows = np.flatnonzero(place < limit)
    note = f"{len(rows):,} of {len(relation):,} facts were drawn, {limit} of each relation (--facts.per-relation)"
    return replace(chosen, facts=tuple(chosen.facts[row] for row in rows), notes=(*chosen.notes, note))


def _limited(chosen: FactSet, limit: int | None) -> FactSet:
    """Return at most `limit` of the facts, drawn at random, always the same."""
    if limit is None or len(chosen.facts) <= limit:
        return chosen
    rows = np.sort(np.random.default_rng(0).permutation(len(chosen.facts))[:limit])
    note = f"{limit} of {len(chosen.facts)} facts were drawn (--facts.limit)"
    return replace(chosen, facts=tuple(chosen.facts[row] for row in rows), notes=(*chosen.notes, note))
