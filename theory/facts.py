"""The world: facts sampled from a few distributions, or read from a source, and a background population beside them."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats

from core.config_json import setting
from core.errors import InputError
from core.facts import Source, keyed
from core.facts import store as fact_store
from core.facts.request import Request, TableColumns
from core.facts.store import Background, FactStore


@dataclass(frozen=True)
class FactsConfig:
    """Where the facts come from, and how often pretraining shows each."""

    n_subjects: int = 1000
    """Subjects of a sampled world."""
    n_relations: int = 4
    """Relations of a sampled world."""
    n_answers: int = 20
    """Answers of each relation in a sampled world, shared with no other relation."""
    answer_skew: float = setting(1.0, traced=0.0)
    """Answers of a sampled world are drawn ∝ rank^-skew; skew is what makes a generic answer exist."""
    popularity_exponent: float = setting(1.0, traced=0.0)
    """Zipf: popularity is rank^-exponent, in a sampled world and with `popularity` = rank."""
    facts_per_subject: int | None = None
    """Facts about each subject of a sampled world, each of another relation, at random; none given: all relations."""
    path: Path | None = None
    """Read the facts from this CSV, TSV, JSON, JSONL (gzip too) or Parquet file, or from the source's folder, instead
    of sampling; hub:OWNER/NAME[/CONFIG][@REVISION][#SPLIT] for a hub data set."""
    source: Source = setting("table", is_later=True)
    """What the path holds. `table`: subjects, relations, answers and popularity, with or without questions."""
    part: Literal["train", "dev", "val", "test"] = setting("train", is_later=True)
    """The files' own split that is read (EntityQuestions); arms and held-out facts are drawn from it anew."""
    relations: tuple[str, ...] = setting((), is_later=True)
    """Only these relations of what is read; none named: all."""
    buckets: Path | None = setting(None, is_later=True)
    """EntityQuestions' folder of frequency buckets, which it has its popularity from: P19 and P170 alone."""
    columns: TableColumns = TableColumns()
    """The table's columns of subjects, relations, answers and popularity; questions and choices are not read.
    Popularity must be above 0. The first of a list of answers counts; not given: answer, possible_answers, answers or
    obj."""
    where: str | None = None
    """COLUMN=REGEX: keep the rows in whose cell the expression is found (tables, PopQA)."""
    popularity: Literal["given", "rank"] = "given"
    """Of facts that are read: the source's number, or Zipf by its rank (equal numbers share their mean rank)."""
    exposure_exponent: float = setting(1.0, traced=0.0)
    """Exposure is ∝ popularity^exponent; below 1 it tempers a heavy tail such as page views."""
    min_facts: int = 10
    """Relations with fewer facts are dropped and named, where facts are read."""
    background: Background = Background()
    """Background population of any world."""


def build(config: FactsConfig, *, seed: int) -> FactStore:
    """Return the world: sampled or read, then the background population. InputError for what cannot be."""
    store = sample(config, seed=seed) if config.path is None else read(config)
    return fact_store.add_background(store, config.background, seed=seed, flag="--facts.background")


def sample(config: FactsConfig, *, seed: int) -> FactStore:
    """Return a sampled world, without its background population."""
    check(config)
    return fact_store.sample(
        n_subjects=config.n_subjects,
        n_relations=config.n_relations,
        n_answers=config.n_answers,
        answer_skew=config.answer_skew,
        popularity_exponent=config.popularity_exponent,
        exposure_exponent=config.exposure_exponent,
        facts_per_subject=config.facts_per_subject,
        seed=seed,
    )


def read(config: FactsConfig) -> FactStore:
    """Return the facts of `config.path`, in the source's order; ids count names in the order of appearance.

    Of several facts of one subject and relation the most popular is kept. What is left out stands in the notes, with
    counts. `keyed.read` says what is read.

    Raises:
        InputError: as `keyed.read`, among them for a relation with one answer, which no model could get wrong.
    """
    check(config)
    assert config.path is not None
    request = Request(config.path, config.part, config.relations, config.where, config.buckets, config.columns)
    given = keyed.read(config.source, request, min_facts=config.min_facts)
    popularity = np.array([fact.popularity for fact in given.facts], dtype=np.float64)
    if config.popularity == "rank":
        popularity = stats.rankdata(-popularity) ** -config.popularity_exponent
    store = fact_store.of_names(
        [fact.subject for fact in given.facts],
        [fact.relation for fact in given.facts],
        [fact.answers[0] for fact in given.facts],
        popularity,
    )
    exposure = fact_store.exposure(popularity, config.exposure_exponent)
    return replace(store, exposure=exposure, notes=given.notes)


def check(config: FactsConfig) -> None:
    """Raise InputError for a setting out of range, its background's too, naming the flag."""
    at_least = {"n_subjects": 1, "n_relations": 1, "n_answers": 2, "min_facts": 1}
    at_least |= {"answer_skew": 0, "popularity_exponent": 0, "exposure_exponent": 0}
    for name, least in at_least.items():
        fact_store.check_range(f"--facts.{name}", getattr(config, name), least, math.inf)
    if config.facts_per_subject is not None:
        fact_store.check_range("--facts.facts_per_subject", config.facts_per_subject, 1, config.n_relations)
    fact_store.check_background(config.background, "--facts.background")
    for name in ("source", "part", "relations", "buckets"):
        if config.path is None and getattr(config, name) != getattr(FactsConfig, name):
            raise InputError(
                f"--facts.{name} is of no use to a sampled world.\nName the source's file or folder with --facts.path."
            )
