"""A fact store: facts (subject, relation) → answer as arrays of ids, some told more often than others.

A fact's *popularity* says how well known its subject is; its *exposure* is the probability that a pretraining draw is
this fact. A background population, of other subjects that share the relations' answers, is only ever pretrained on.
"""

import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int, Int32

from core.config_json import setting
from core.errors import InputError


@dataclass(frozen=True)
class Background:
    """Other subjects that share the relations' answers: pretrained on, never finetuned or tested."""

    size: float = 0.0
    """Background facts per fact of a relation, each with a subject of its own; 0 for none."""
    share: float = setting(0.5, traced=0.5)
    """Share of the pretraining draws that are about background facts, equally many about each."""
    skew: float = setting(1.0, traced=0.0)
    """Background answers are the relation's own, in proportion to rank^-skew by how many of its facts have them."""


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

    @property
    def keys(self) -> list[str] | None:
        """The name of each fact's subject; None in a sampled world."""
        names = self.subject_names
        return None if names is None else [names[subject] for subject in self.subject.tolist()]


_ARRAYS = ("subject", "relation", "answer", "popularity", "exposure", "is_background")
_METADATA = b"fact_store"


def sample(
    *,
    n_subjects: int,
    n_relations: int,
    n_answers: int,
    answer_skew: float,
    popularity_exponent: float = 1.0,
    exposure_exponent: float = 1.0,
    facts_per_subject: int | None = None,
    seed: int,
) -> FactStore:
    """Return a sampled world. Subject s is the (s+1)-th most popular, π_s = (s+1)^-popularity_exponent.

    Relation r has the answers r·n_answers to (r+1)·n_answers − 1, drawn ∝ rank^-answer_skew, the lowest id the most
    frequent. Facts are sorted by subject, then relation.

    Args:
        facts_per_subject: Relations that each subject has, at random; None for all of them.
    """
    bits = np.random.PCG64([seed, 0])
    rng = np.random.Generator(bits)
    n_each = facts_per_subject or n_relations
    subject = np.repeat(np.arange(n_subjects, dtype=np.int32), n_each)
    if n_each == n_relations:
        bits.advance(n_subjects * n_relations)  # what follows is drawn as if these had been
        relation = np.tile(np.arange(n_relations, dtype=np.int32), n_subjects)
    else:
        order = rng.random((n_subjects, n_relations)).argsort(axis=1)
        relation = np.sort(order[:, :n_each], axis=1).ravel().astype(np.int32)
    answer = rng.choice(n_answers, len(subject), p=_zipf(n_answers, answer_skew)).astype(np.int32)
    answer += relation * np.int32(n_answers)
    popularity = subject + 1.0
    popularity **= -popularity_exponent
    return FactStore(
        subject=subject,
        relation=relation,
        answer=answer,
        popularity=popularity,
        exposure=exposure(popularity, exposure_exponent),
        is_background=np.zeros(len(subject), dtype=bool),
        n_subjects=n_subjects,
        n_relations=n_relations,
        n_answers=n_relations * n_answers,
    )


def of_names(
    subject: list[str], relation: list[str], answer: list[str], popularity: Float64[np.ndarray, " fact"]
) -> FactStore:
    """Return the store of named facts in their order, each exposed alike; ids count names as they appear."""
    ids, names = {}, {}
    for part, texts in {"subject": subject, "relation": relation, "answer": answer}.items():
        place = {name: index for index, name in enumerate(dict.fromkeys(texts))}
        ids[part] = np.array([place[text] for text in texts], dtype=np.int32)
        names[part] = tuple(place)
    return FactStore(
        **ids,
        popularity=popularity,
        exposure=np.full(len(subject), 1 / len(subject)),
        is_background=np.zeros(len(subject), dtype=bool),
        n_subjects=len(names["subject"]),
        n_relations=len(names["relation"]),
        n_answers=len(names["answer"]),
        subject_names=names["subject"],
        relation_names=names["relation"],
        answer_names=names["answer"],
    )


def exposure(popularity: Float64[np.ndarray, " fact"], exponent: float) -> Float64[np.ndarray, " fact"]:
    """Return the probability of each fact, ∝ popularity^exponent."""
    # In logarithms: a power of page views may overflow. In place: of 10⁸ subjects each array is gigabytes.
    weight = np.log(popularity)
    weight *= exponent
    weight -= weight.max()
    np.exp(weight, out=weight)
    weight /= weight.sum()
    return weight


def add_background(store: FactStore, background: Background, *, seed: int, flag: str) -> FactStore:
    """Return the store with background facts after its own, which keep 1 − share of the exposure.

    A relation gets size × its facts, rounded so that the total is the same for every seed; each is about a new subject,
    their answers drawn from those that its facts have. Ranks are by frequency in the store, ties by id.

    Args:
        flag: Of the background's settings, for errors: --facts.background, say.

    Raises:
        InputError: a setting out of range, or too small a size for one fact.
    """
    check_background(background, flag)
    if background.size == 0:
        return store
    rng = np.random.default_rng([seed, 1])
    n_facts = np.bincount(store.relation, minlength=store.n_relations)
    n_new = np.diff(np.rint(background.size * np.cumsum(n_facts)), prepend=0).astype(int)
    n_total = int(n_new.sum())
    if n_total == 0:
        raise InputError(f"{flag}.size is {background.size}: too small for one fact; raise it, or set 0.")
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


def check_background(background: Background, flag: str) -> None:
    """Raise InputError for a setting out of range."""
    check_range(f"{flag}.size", background.size, 0, math.inf)
    check_range(f"{flag}.skew", background.skew, 0, math.inf)
    if not 0 < background.share < 1:
        raise InputError(f"{flag}.share is {background.share}: it must lie between 0 and 1, both excluded.")


def check_range(flag: str, value: float | int, low: int, high: float | int) -> None:
    """Raise InputError, naming the flag, unless the value is finite and between the limits."""
    if not (low <= value <= high and math.isfinite(value)):
        limits = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise InputError(f"{flag.replace('_', '-')} is {value}: it must be {limits}.")


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
