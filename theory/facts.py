"""The world: a list of facts (subject, relation) → answer, sampled or read from a table, some told more often.

A fact's *popularity* says how well known its subject is; its *exposure* is the probability that a pretraining draw is
this fact. A background population, of other subjects that share the relations' answers, is only ever pretrained on.
"""

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int, Int32
from scipy import stats

from theory import fact_rows
from theory.errors import InputError


@dataclass(frozen=True)
class Background:
    """Other subjects that share the relations' answers: pretrained on, never finetuned or tested."""

    size: float = 0.0
    """Background facts per fact of a relation, each with a subject of its own; 0 for none."""
    share: float = 0.5
    """Their part of the pretraining draws, equal among them."""
    skew: float = 1.0
    """Their answers are the relation's own, ∝ rank^-skew, ranked by how many of its facts have them."""


@dataclass(frozen=True)
class FactsConfig:
    """Where the facts come from, and how often each is told in pretraining."""

    n_subjects: int = 1000
    """Subjects of a sampled world."""
    n_relations: int = 4
    """Relations of a sampled world."""
    n_answers: int = 20
    """Answers of each relation in a sampled world, shared with no other relation."""
    answer_skew: float = 1.0
    """Answers of a sampled world are drawn ∝ rank^-skew; skew is what makes a generic answer exist."""
    popularity_exponent: float = 1.0
    """Zipf: popularity is rank^-exponent, in a sampled world and with `popularity` = rank."""
    relations_per_subject: int | None = None
    """Relations that each subject of a sampled world has, at random; none given: all of them."""
    table: Path | None = None
    """Read the facts from this CSV, TSV, JSONL or Parquet file instead of sampling; hub:ID for a hub data set."""
    subject_column: str | None = None
    """The table's column of subjects; not given: subject or subj."""
    relation_column: str | None = None
    """The table's column of relations; not given: relation or prop."""
    answer_column: str | None = None
    """The table's column of answers (of a list, the first); not given: answer, possible_answers, answers or obj."""
    popularity_column: str | None = None
    """The table's column of popularity, any positive unit; not given: popularity or s_pop."""
    where: str | None = None
    """COLUMN=REGEX: keep the table's rows in whose cell the expression is found."""
    popularity: Literal["given", "rank"] = "given"
    """Of a table's facts: the column's number, or Zipf by its rank (equal numbers share their mean rank)."""
    exposure_exponent: float = 1.0
    """Exposure is ∝ popularity^exponent; below 1 it tempers a heavy tail such as page views."""
    min_facts: int = 10
    """A table's relations with fewer facts are dropped and named."""
    background: Background = Background()
    """Background population of any world."""


@dataclass(frozen=True, eq=False)
class FactStore:
    """A list of facts, their ids counted from 0. Names are None in a sampled world."""

    subject: Int32[np.ndarray, " fact"]
    relation: Int32[np.ndarray, " fact"]
    answer: Int32[np.ndarray, " fact"]
    """Ids common to all relations, whose answers may overlap."""
    popularity: Float64[np.ndarray, " fact"]
    """Above 0; of a background fact the median of the others, which no stage reads."""
    exposure: Float64[np.ndarray, " fact"]
    """Probability that a pretraining draw is this fact; sums to 1."""
    is_background: Bool[np.ndarray, " fact"]
    n_subjects: int
    n_relations: int
    n_answers: int
    subject_names: tuple[str, ...] | None = None
    relation_names: tuple[str, ...] | None = None
    answer_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """What reading left out, a line each, with counts."""


_ARRAYS = ("subject", "relation", "answer", "popularity", "exposure", "is_background")
_METADATA = b"fact_store"


def build(config: FactsConfig, *, seed: int) -> FactStore:
    """Return the world: sampled or read, then the background population. InputError for what cannot be."""
    store = sample(config, seed=seed) if config.table is None else read_table(config)
    return add_background(store, config.background, seed=seed)


def sample(config: FactsConfig, *, seed: int) -> FactStore:
    """Return a sampled world. Subject s is the (s+1)-th most popular, π_s = (s+1)^-popularity_exponent.

    Relation r has the answers r·n_answers to (r+1)·n_answers − 1, drawn ∝ rank^-answer_skew, the lowest id the most
    frequent. Facts are sorted by subject, then relation.
    """
    check(config)
    rng = np.random.default_rng([seed, 0])
    n_each = config.relations_per_subject or config.n_relations
    subject = np.repeat(np.arange(config.n_subjects, dtype=np.int32), n_each)
    order = rng.random((config.n_subjects, config.n_relations)).argsort(axis=1)
    relation = np.sort(order[:, :n_each], axis=1).ravel().astype(np.int32)
    rank = rng.choice(config.n_answers, len(subject), p=_zipf(config.n_answers, config.answer_skew))
    popularity = (subject + 1.0) ** -config.popularity_exponent
    return FactStore(
        subject=subject,
        relation=relation,
        answer=(relation * config.n_answers + rank).astype(np.int32),
        popularity=popularity,
        exposure=_exposure(popularity, config.exposure_exponent),
        is_background=np.zeros(len(subject), dtype=bool),
        n_subjects=config.n_subjects,
        n_relations=config.n_relations,
        n_answers=config.n_relations * config.n_answers,
    )


def read_table(config: FactsConfig) -> FactStore:
    """Return the facts of `config.table`, in the file's order; ids count names in the order of appearance.

    Of several rows of one subject and relation the most popular is kept. What is left out stands in the notes, with
    counts. `fact_rows.read` says how cells are understood.

    Raises:
        InputError: as `fact_rows.read`, among them for a relation with one answer, which no model could get wrong.
    """
    check(config)
    assert config.table is not None
    columns = {part: getattr(config, f"{part}_column") for part in fact_rows.COLUMNS}
    rows = fact_rows.read(config.table, columns, config.where, config.min_facts)
    subject, subject_names = fact_rows.number(rows.subject)
    relation, relation_names = fact_rows.number(rows.relation)
    answer, answer_names = fact_rows.number(rows.answer)
    popularity = rows.popularity
    if config.popularity == "rank":
        popularity = stats.rankdata(-popularity) ** -config.popularity_exponent
    return FactStore(
        subject=subject,
        relation=relation,
        answer=answer,
        popularity=popularity,
        exposure=_exposure(popularity, config.exposure_exponent),
        is_background=np.zeros(len(subject), dtype=bool),
        n_subjects=len(subject_names),
        n_relations=len(relation_names),
        n_answers=len(answer_names),
        subject_names=subject_names,
        relation_names=relation_names,
        answer_names=answer_names,
        notes=rows.notes,
    )


def add_background(store: FactStore, background: Background, *, seed: int) -> FactStore:
    """Return the store with background facts after its own, which keep 1 − share of the exposure.

    A relation gets size × its facts, rounded so that the total is the same for every seed; each is about a new subject,
    their answers drawn from those that its facts have. Ranks are by frequency in the store, ties by id.
    """
    _check_background(background)
    if background.size == 0:
        return store
    rng = np.random.default_rng([seed, 1])
    n_facts = np.bincount(store.relation, minlength=store.n_relations)
    n_new = np.diff(np.rint(background.size * np.cumsum(n_facts)), prepend=0).astype(int)
    n_total = int(n_new.sum())
    if n_total == 0:
        raise InputError(f"--facts.background.size is {background.size}: too small for one fact; raise it, or set 0.")
    new = {
        "subject": np.arange(store.n_subjects, store.n_subjects + n_total),
        "relation": np.repeat(np.arange(store.n_relations), n_new),
        "answer": _background_answers(store, n_new, background.skew, rng),
        "popularity": np.full(n_total, np.median(store.popularity)),
        "exposure": np.full(n_total, background.share / n_total),
        "is_background": np.ones(n_total, dtype=bool),
    }
    own = {name: getattr(store, name) for name in _ARRAYS} | {"exposure": store.exposure * (1 - background.share)}
    names = store.subject_names and store.subject_names + tuple(f"background {i}" for i in range(n_total))
    joined = {name: np.concatenate([own[name], new[name].astype(own[name].dtype)]) for name in _ARRAYS}
    return replace(store, **joined, n_subjects=store.n_subjects + n_total, subject_names=names)


def save(store: FactStore, path: Path) -> None:
    """Write the whole store as Parquet, a row a fact; counts, names and notes are JSON in the schema's metadata."""
    rest = {field.name: getattr(store, field.name) for field in fields(store) if field.name not in _ARRAYS}
    table = pa.table({name: getattr(store, name) for name in _ARRAYS})
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        pq.write_table(table.replace_schema_metadata({_METADATA: json.dumps(rest)}), unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> FactStore:
    """Return the store that `save` wrote, exactly; InputError if the file is another."""
    try:
        table = pq.ParquetFile(path, thrift_string_size_limit=2**31 - 1).read()
        rest = json.loads((table.schema.metadata or {})[_METADATA])
        arrays = {name: table[name].to_numpy() for name in _ARRAYS}
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a fact store saved by this program ({str(error).splitlines()[0]}).") from error
    rest |= {name: tuple(value) for name, value in rest.items() if isinstance(value, list)}
    return FactStore(**arrays, **rest)


def _background_answers(
    store: FactStore, n_new: Int[np.ndarray, " relation"], skew: float, rng: np.random.Generator
) -> Int[np.ndarray, " new"]:
    """Return answers for the new facts, relation after relation, drawn ∝ rank^-skew among the relation's own."""
    pairs, counts = np.unique(store.relation.astype(np.int64) * store.n_answers + store.answer, return_counts=True)
    bounds = np.searchsorted(pairs, np.arange(store.n_relations + 1) * store.n_answers)
    answers = []
    for relation in np.flatnonzero(n_new):
        own = slice(bounds[relation], bounds[relation + 1])
        by_frequency = pairs[own][np.argsort(-counts[own], kind="stable")] % store.n_answers
        answers.append(rng.choice(by_frequency, n_new[relation], p=_zipf(len(by_frequency), skew)))
    return np.concatenate(answers)


def _zipf(n: int, exponent: float) -> Float64[np.ndarray, " rank"]:
    weight = np.arange(1, n + 1) ** -float(exponent)
    return weight / weight.sum()


def _exposure(popularity: Float64[np.ndarray, " fact"], exponent: float) -> Float64[np.ndarray, " fact"]:
    # In logarithms: a power of page views may overflow.
    logarithm = exponent * np.log(popularity)
    weight = np.exp(logarithm - logarithm.max())
    return weight / weight.sum()


def check(config: FactsConfig) -> None:
    """Raise InputError for a setting out of range, its background's too, naming the flag."""
    at_least = {"n_subjects": 1, "n_relations": 1, "n_answers": 2, "min_facts": 1}
    at_least |= {"answer_skew": 0, "popularity_exponent": 0, "exposure_exponent": 0}
    for name, least in at_least.items():
        _check_range(f"--facts.{name}", getattr(config, name), least, math.inf)
    if config.relations_per_subject is not None:
        _check_range("--facts.relations_per_subject", config.relations_per_subject, 1, config.n_relations)
    _check_background(config.background)


def _check_background(background: Background) -> None:
    _check_range("--facts.background.size", background.size, 0, math.inf)
    _check_range("--facts.background.skew", background.skew, 0, math.inf)
    if not 0 < background.share < 1:
        raise InputError(f"--facts.background.share is {background.share}: it must lie between 0 and 1, both excluded.")


def _check_range(flag: str, value: float | int, low: int, high: float | int) -> None:
    if not (low <= value <= high and math.isfinite(value)):
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise InputError(f"{flag.replace('_', '-')} is {value}: it must be {limits}.")
