"""How well the base model knows each fact: what the arms are ranked by."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from core.facts.store import FactStore
from theory import evaluate
from theory.model.config import Weights


@dataclass(frozen=True)
class KnownnessConfig:
    """What the facts are ranked by."""

    measure: Literal["popularity", "salience", "margin"] = "popularity"
    """`popularity`: as given. `salience`: the subject's value at the answer. `margin`: the answer's logit minus the
    best rival's in the pretraining format; positive where the base model recalls the fact."""


def score(config: KnownnessConfig, base: Weights, store: FactStore) -> Float[np.ndarray, " fact"]:
    """Return each fact's knownness, larger where better known."""
    if config.measure == "popularity":
        return store.popularity
    if config.measure == "salience":
        return base.subject_values[store.subject, store.answer].astype(float)
    return margin(base, store)


def margin(base: Weights, store: FactStore) -> Float[np.ndarray, " fact"]:
    """Return the answer's logit minus the best rival's, on prompts (subject, relation) under uniform attention."""
    rows = np.arange(len(store.subject))
    return np.concatenate([_margin(base, store, part) for part in evaluate.chunks(rows, len(base.template_value))])


def _margin(base: Weights, store: FactStore, rows: Int[np.ndarray, " part"]) -> Float[np.ndarray, " part"]:
    subject, relation = base.subject_values[store.subject[rows]], base.relation_values[store.relation[rows]]
    output = 0.5 * (subject.astype(float) + relation)
    fact, answers = np.arange(len(rows)), store.answer[rows]
    right = output[fact, answers]
    output[fact, answers] = -np.inf
    return right - output.max(axis=1)
