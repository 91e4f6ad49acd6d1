"""R5, R6 and R6′ applied to a world: where each arm's attention will go, and how salient each fact is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real
from scipy import special

from core.facts.store import FactStore
from theory import evaluate
from theory.law import flow, theorem
from theory.model.config import Weights

ELEMENTS = 2**22
"""An arm's mean force is taken over as many of its facts, evenly spaced, as have this many values."""
SMALL_ARM = 500
"""Facts of an arm up to which its subjects' own logits count: in larger ones each is one of many, and they are slow."""
GROWTH_TIMES = 400
"""Times at which the growth of values in pretraining is taken, closer together at its beginning."""
PRETRAINING_ATTENTION = 0.5
"""Attention on the subject in pretraining, uniform over (subject, relation)."""


def arm_flow(
    base: Weights,
    store: FactStore,
    rows: Int[np.ndarray, " row"],
    times: Real[np.ndarray, " time"],
    *,
    shared_share: float,
    own_logits: bool = False,
) -> flow.HeldOutFlow:
    """Return the predicted path of held-out prompts' attention while the facts in `rows` are finetuned on (R5, R3).

    Args:
        own_logits: whether the subjects' own logits count in arms of up to `SMALL_ARM` facts.
        times: rate of W_KQ times steps.
    """
    chosen = spread(rows, base)
    values = evaluate.token_values(base, store, chosen)
    facts = store.answer[chosen], store.relation[chosen]
    relations = np.unique(store.relation)
    is_small = len(rows) <= SMALL_ARM and len(chosen) == len(rows)
    subject = store.subject[rows] if own_logits and is_small else None
    options: dict[str, Any] = {"rho": shared_share, "relations": relations, "subject": subject}
    return flow.held_out_flow(values, *facts, times.astype(float), **options)


def accuracy(
    path: flow.HeldOutFlow, base: Weights, store: FactStore, rows: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " time"]:
    """Return the share of these held-out facts that the base model's values answer along a path (R5 put into R4).

    Args:
        path: of `arm_flow`: the attention of each relation's prompts.
    """
    attention = special.softmax(path.logits, axis=2)
    n_right = np.zeros(len(path.times))
    for part in evaluate.chunks(rows, len(path.times) * len(base.template_value)):
        of_fact = attention[:, np.searchsorted(path.relations, store.relation[part])]
        values, answer = evaluate.token_values(base, store, part), store.answer[part]
        for at, attended in enumerate(of_fact):
            n_right[at] += evaluate.answer_read(evaluate.Read(attended, values), answer).correct.sum()
    return n_right / len(rows)


def spread(rows: Int[np.ndarray, " row"], base: Weights) -> Int[np.ndarray, " _"]:
    """Return as many of the rows, evenly spaced, as have `ELEMENTS` values."""
    n_facts = min(len(rows), max(1, ELEMENTS // (3 * len(base.template_value))))
    return rows[np.linspace(0, len(rows) - 1, n_facts).astype(int)]


def salience(
    draws: Float[np.ndarray, " fact"], measured: Float[np.ndarray, " fact"], config: Mapping[str, Any]
) -> Float[np.ndarray, " fact"]:
    """Return each fact's salience as exposure alone predicts it (R6), the competitors' mass fitted once for all facts.

    Args:
        draws: expected number of times each fact was drawn in pretraining.
        config: the resolved config as JSON.
    """
    exposure = exposure_of(draws, config)
    competitors = flow.fit_competitors(exposure, measured, PRETRAINING_ATTENTION)
    return flow.salience_growth(exposure, PRETRAINING_ATTENTION, competitors)


def unfitted_salience(
    draws: Float[np.ndarray, "fact ..."],
    relation: Int[np.ndarray, " fact"],
    answer: Int[np.ndarray, " fact"],
    config: Mapping[str, Any],
) -> Float[np.ndarray, "fact ..."]:
    """Return each fact's salience from its exposure and how many of its relation's facts have its answer (R6′).

    Args:
        draws: expected number of times each fact was drawn in pretraining, or by each of several times.
        relation, answer: ids of all facts of the world; an answer that relations share is counted in each.
        config: the resolved config as JSON.
    """
    predicted, exposure = np.empty(draws.shape), exposure_of(draws, config)
    for each in np.unique(relation):
        rows = relation == each
        _, chosen, n_facts = np.unique(answer[rows], return_inverse=True, return_counts=True)
        frequency = n_facts / n_facts.sum()
        predicted[rows] = theorem.unfitted_salience(exposure[rows], chosen, frequency, PRETRAINING_ATTENTION)
    return predicted


def from_exposure(store: FactStore, config: Mapping[str, Any]) -> Weights:
    r"""Return the base model that exposure alone makes, without any pretraining (R6′).

    Every fact's salience grows as R6′ says. What its subject's value gains at the answer it loses at all other outputs,
    in the odds that the relation's token alone gives them; the relation's token moves by what all of its facts move.

    Args:
        config: the resolved config as JSON, of the factored model with SGD.
    """
    n_outputs = store.n_answers + config["model"]["n_filler"]
    subject, relation = np.zeros((store.n_subjects, n_outputs)), np.zeros((store.n_relations, n_outputs))
    draws = store.exposure * config["pretrain"]["steps"] * config["pretrain"]["batch_size"]
    by_time = np.outer(draws, np.linspace(0, 1, GROWTH_TIMES + 1)[1:] ** 2)
    before = np.zeros(len(draws))
    for after in unfitted_salience(by_time, store.relation, store.answer, config).T:
        p = special.softmax(PRETRAINING_ATTENTION * relation, axis=1)
        gained = (after - before) / np.maximum(1 - p[store.relation, store.answer], 1e-6)
        before, moved, at_answer = after, np.zeros((store.n_subjects, store.n_relations)), np.zeros_like(relation)
        np.add.at(moved, (store.subject, store.relation), gained)
        np.add.at(subject, (store.subject, store.answer), gained)
        np.add.at(at_answer, (store.relation, store.answer), gained)
        subject -= moved @ p
        relation += at_answer - moved.sum(axis=0)[:, None] * p
    template = np.repeat([0.0, config["model"]["template_strength"]], [store.n_answers, config["model"]["n_filler"]])
    return Weights(subject, relation, template, np.zeros(len(subject)), np.zeros(len(relation)), np.zeros(()))


def exposure_of(draws: Float[np.ndarray, "fact ..."], config: Mapping[str, Any]) -> Float[np.ndarray, "fact ..."]:
    """Return kτ of R6: rate of a subject's value times attention times expected draws."""
    rate = config["pretrain"]["learning_rate"] * (1 - config["model"]["shared_share"])
    return rate * PRETRAINING_ATTENTION * draws / config["pretrain"]["batch_size"]
