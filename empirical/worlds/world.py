"""A rendered world: facts that we pretrain a model on ourselves, each told as often as we choose.

The facts are a fact store (`core.facts.store`), sampled or made of a source's facts, so that both flows can
run in one world. Here they get names, an expected number of sentences each, and sentences.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int

from core.errors import InputError
from core.facts import store as fact_store
from core.facts.record import Fact, FactSet
from core.facts.store import Background, FactStore
from empirical.worlds import exposure, names, templates
from empirical.worlds.exposure import Exposure
from empirical.worlds.names import NameParts

RELATIONS = ("occupation", "place of birth", "sport", "religion", "P69", "P740", "genre", "P264")
"""What a synthetic world tells of its subjects, the first n_relations of these."""


@dataclass(frozen=True)
class WorldConfig:
    """Which facts there are, how they are named, and how often and in which words the model reads of each."""

    n_subjects: int = 750
    """Number of subjects in a sampled world."""
    n_relations: int = 4
    """Number of relations in a sampled world."""
    facts_per_subject: int = 2
    """Number of facts about each subject of a sampled world, their relations drawn at random."""
    n_answers: int = 40
    """Number of answers of each relation in a sampled world; relations share none."""
    answer_skew: float = 1.0
    """Answers of a sampled world are drawn in proportion to rank^-answer_skew."""
    distinct_relations: int = 0
    """Number of relations in a sampled world, the last ones, that have nearly as many answers as facts."""
    min_facts: int = 10
    """Least number of facts of a source's relation; relations with fewer are left out, and a note names them."""
    background: Background = Background()
    """Other subjects that share the relations' answers: pretrained on, never finetuned or tested."""
    exposure: Exposure = Exposure()
    """How often the model reads of each fact."""
    paraphrases: int = 6
    """Number of paraphrases of each fact, at most 8."""
    names: NameParts = "shared"
    """Made-up subjects' names: `shared`: of words that many subjects share; `distinctive`: of words of their own."""
    longest_name: int = 3
    """Number of words in a made-up name, at most."""
    qa_share: float = 0.0
    """Share of pretraining sentences in the question format; they are about subjects that are neither finetuned on nor
    tested. 0 keeps that format out of pretraining."""
    qa_facts: int = 400
    """Number of facts about those other subjects, if qa_share is above 0."""


@dataclass(frozen=True, eq=False)
class World:
    """A fact store with names and expected counts; background facts last, then those told as questions."""

    store: FactStore
    exposures: Float64[np.ndarray, " fact"]
    """Expected number of pretraining sentences about each fact."""
    is_asked: Bool[np.ndarray, " fact"]
    """Facts of which half the sentences are in the question format."""
    subjects: tuple[str, ...]
    relations: tuple[str, ...]
    answers: tuple[str, ...]
    n_paraphrases: int
    given: tuple[Fact, ...]
    """A source's own facts, the store's first; none in a sampled world."""
    notes: tuple[str, ...] = ()

    def sentences(self, fact: int) -> list[tuple[str, str]]:
        """Return the fact's paraphrases as (before the answer, the rest from the answer on)."""
        slots = {"subject": self.subjects[self.store.subject[fact]], "answer": self.answers[self.store.answer[fact]]}
        phrasing = templates.for_relation(self.relations[self.store.relation[fact]])
        return [split_at_answer(paraphrase, slots) for paraphrase in phrasing.paraphrases[: self.n_paraphrases]]

    def fact_set(self) -> FactSet:
        """Return the facts that can be finetuned on and tested: all but the background."""
        return FactSet(tuple(self.fact(int(row)) for row in np.flatnonzero(~self.store.is_background)), self.notes)

    def fact(self, row: int) -> Fact:
        """Return the fact as a question, a source's in its own words. Its popularity is what it was told."""
        if row < len(self.given):
            return replace(self.given[row], popularity=float(self.exposures[row]))
        subject = self.subjects[self.store.subject[row]]
        relation = self.relations[self.store.relation[row]]
        question = templates.for_relation(relation).question.format(subject=subject)
        answer = self.answers[self.store.answer[row]]
        return Fact(str(row), subject, relation, question, (answer,), float(self.exposures[row]), (), "world")


def split_at_answer(paraphrase: str, slots: dict[str, str]) -> tuple[str, str]:
    """Return a paraphrase filled in, cut where its answer begins; a space before the answer goes with it."""
    before, after = paraphrase.split("{answer}")
    answer = slots["answer"] + after.format(**slots)
    if before.endswith(" "):
        answer = " " + answer
    return before.rstrip(" ").format(**slots), answer


def build(config: WorldConfig, fact_set: FactSet | None = None, *, seed: int) -> World:
    """Return the world of this seed: sampled, or of the facts given.

    Of several given facts of one subject and relation the most popular is kept. Where the source says nothing of
    popularity, an order is drawn, and the notes say so.

    Raises:
        InputError: a setting out of range, or facts that make no world.
    """
    check(config)
    if fact_set is None:
        given: tuple[Fact, ...] = ()
        notes: tuple[str, ...] = ()
        store = _sampled(config, seed=seed)
    else:
        given, notes = _usable(fact_set, config, seed=seed)
        store = _stored(given)
    own = exposure.expected(config.exposure, store.popularity)
    n_own = len(own)
    store = fact_store.add_background(store, config.background, seed=seed, flag="--world.background")
    share = config.background.share if config.background.size else 0.0
    exposures = np.concatenate([own, np.full(len(store.subject) - n_own, 0.0)])
    exposures[n_own:] = own.sum() * share / (1 - share) / max(1, len(exposures) - n_own)
    n_before = len(exposures)
    if config.qa_share:
        store = _with_asked(store, n_own, config, seed=seed)
        n_asked = len(store.subject) - n_before
        # Half of their sentences are paraphrases, so that the format is learnt on something known.
        total = exposures.sum() * 2 * config.qa_share / (1 - 2 * config.qa_share)
        exposures = np.concatenate([exposures, np.full(n_asked, total / n_asked)])
    store = replace(store, exposure=exposures / exposures.sum())
    is_asked = np.arange(len(exposures)) >= n_before
    subjects, relations, answers = _named(store, given, config, seed=seed)
    return World(store, exposures, is_asked, subjects, relations, answers, config.paraphrases, given, notes)


def _sampled(config: WorldConfig, *, seed: int) -> FactStore:
    """Return the facts of a sampled world."""
    store = fact_store.sample(
        n_subjects=config.n_subjects,
        n_relations=config.n_relations,
        n_answers=config.n_answers,
        answer_skew=config.answer_skew,
        facts_per_subject=config.facts_per_subject,
        seed=seed,
    )
    return _distinct(store, config, seed=seed)


def _usable(given: FactSet, config: WorldConfig, *, seed: int) -> tuple[tuple[Fact, ...], tuple[str, ...]]:
    """Return the facts that a model can be told, each (subject, relation) once, and notes on what was left out."""
    notes = list(given.notes)
    named = [fact for fact in given.facts if fact.subject and fact.relation and not fact.choices]
    if len(named) < len(given.facts):
        notes.append(f"{len(given.facts) - len(named)} facts without a subject or a relation cannot be told")
    if any(fact.popularity is None for fact in named):
        rank = np.random.default_rng([seed, 8]).permutation(len(named)) + 1.0
        named = [replace(fact, popularity=float(1 / r)) for fact, r in zip(named, rank, strict=True)]
        notes.append("popularity is drawn at random, for the source has none of some facts")
    best: dict[tuple[str, str], Fact] = {}
    for fact in named:
        key = (fact.subject, fact.relation)
        if key not in best or (best[key].popularity or 0) < (fact.popularity or 0):
            best[key] = fact
    if len(best) < len(named):
        notes.append(f"{len(named) - len(best)} facts share subject and relation with a better known one")
    answers: dict[str, Counter[str]] = {}
    for fact in best.values():
        answers.setdefault(fact.relation, Counter())[fact.answers[0]] += 1
    kept = {name for name, count in answers.items() if count.total() >= config.min_facts and len(count) > 1}
    for name in sorted(set(answers) - kept):
        notes.append(f"relation {name}: {answers[name].total()} facts, {len(answers[name])} answers: left out")
    usable = tuple(fact for fact in best.values() if fact.relation in kept)
    if not usable:
        raise InputError(
            "no relation has enough facts with a subject to tell a model.\nLower --world.min-facts, or give more facts."
        )
    return usable, tuple(notes)


def _stored(given: tuple[Fact, ...]) -> FactStore:
    """Return the facts as a store."""
    return fact_store.of_names(
        [fact.subject for fact in given],
        [fact.relation for fact in given],
        [fact.answers[0] for fact in given],
        np.array([fact.popularity for fact in given], dtype=float),
    )


def check(config: WorldConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    at_least = {"n_subjects": 1, "n_relations": 1, "n_answers": 2, "answer_skew": 0}
    for name, least in at_least.items():
        fact_store.check_range(f"--world.{name}", getattr(config, name), least, math.inf)
    fact_store.check_range("--world.facts_per_subject", config.facts_per_subject, 1, config.n_relations)
    fact_store.check_background(config.background, "--world.background")
    exposure.check(config.exposure)
    if not 1 <= config.paraphrases <= 8:
        raise InputError(f"--world.paraphrases is {config.paraphrases}: it must lie between 1 and 8.")
    if not 1 <= config.longest_name <= 4:
        raise InputError(f"--world.longest-name is {config.longest_name}: it must lie between 1 and 4.")
    if not 0 <= config.qa_share <= 0.4:
        raise InputError(f"--world.qa-share is {config.qa_share}: it must lie between 0 and 0.4.")
    if config.qa_facts < 1:
        raise InputError(f"--world.qa-facts is {config.qa_facts}: it must be at least 1.")
    if config.n_relations > len(RELATIONS):
        raise InputError(f"--world.n-relations is {config.n_relations}: there are phrasings for {len(RELATIONS)}.")
    if not 0 <= config.distinct_relations <= config.n_relations:
        raise InputError(
            f"--world.distinct-relations is {config.distinct_relations} of {config.n_relations} relations."
        )
    if config.min_facts < 1:
        raise InputError(f"--world.min-facts is {config.min_facts}: it must be at least 1.")


def _distinct(store: FactStore, config: WorldConfig, *, seed: int) -> FactStore:
    """Return the store with fresh answers for its last relations, each drawn evenly among as many as it has facts."""
    if not config.distinct_relations:
        return store
    rng = np.random.default_rng([seed, 3])
    answer, n_answers = store.answer.copy(), store.n_answers
    for relation in range(store.n_relations - config.distinct_relations, store.n_relations):
        rows = np.flatnonzero(store.relation == relation)
        answer[rows] = n_answers + rng.integers(len(rows), size=len(rows))
        n_answers += len(rows)
    return replace(store, answer=answer, n_answers=n_answers)


def _with_asked(store: FactStore, n_own: int, config: WorldConfig, *, seed: int) -> FactStore:
    """Return the store with facts about new subjects after all others, their relation and answer those of a fact."""
    rng = np.random.default_rng([seed, 4])
    like = rng.integers(n_own, size=config.qa_facts)

    def grown(old: Int[np.ndarray, " fact"], new: Int[np.ndarray, " new"]) -> Int[np.ndarray, " more"]:
        return np.concatenate([old, new.astype(old.dtype)])

    subject = np.arange(store.n_subjects, store.n_subjects + config.qa_facts)
    return replace(
        store,
        subject=grown(store.subject, subject),
        relation=grown(store.relation, store.relation[like]),
        answer=grown(store.answer, store.answer[like]),
        popularity=np.concatenate([store.popularity, np.full(config.qa_facts, np.median(store.popularity))]),
        exposure=np.concatenate([store.exposure, np.zeros(config.qa_facts)]),
        is_background=np.concatenate([store.is_background, np.ones(config.qa_facts, dtype=bool)]),
        n_subjects=store.n_subjects + config.qa_facts,
    )


def _named(
    store: FactStore, given: tuple[Fact, ...], config: WorldConfig, *, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the names of subjects, relations and answers: a source's own, or made up. Other subjects' are made up."""
    rng = np.random.default_rng([seed, 5])
    if store.relation_names is None or store.answer_names is None:
        subjects = names.people(store.n_subjects, config.names, config.longest_name, rng)
        taken = frozenset(word for name in subjects for word in name.split())
        answers = names.words(store.n_answers, rng, taken=taken)
        return tuple(subjects), RELATIONS[: store.n_relations], tuple(answers)
    own = tuple(dict.fromkeys(fact.subject for fact in given))
    made_up = names.people(store.n_subjects - len(own), config.names, config.longest_name, rng, taken=frozenset(own))
    return own + tuple(made_up), store.relation_names, store.answer_names


def to_table(world: World) -> dict[str, list[str | float]]:
    """Return the facts as columns that either flow reads as a table; popularity is what they were told."""
    rows = np.flatnonzero(~world.store.is_background)
    return {
        "subject": [world.subjects[i] for i in world.store.subject[rows]],
        "relation": [world.relations[i] for i in world.store.relation[rows]],
        "answer": [world.answers[i] for i in world.store.answer[rows]],
        "popularity": world.exposures[rows].tolist(),
    }
