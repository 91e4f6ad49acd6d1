"""How well the base model knows each fact: what the arms are ranked by."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from core.facts.store import FactStore
from theory import evaluate
from theory.model.config import Weights


@dataclass(frozen=True)
class KnownnessConfig:
    """What the facts are ranked by."""

    measure: Literal["popularity", "salience", "margin", "logprob"] = "popularity"
    """`popularity`: as given. `salience`: the subject's value at the answer. `margin`: the answer's logit minus the
    best rival's in the pretraining format; positive where the base model recalls the fact. `logprob`: the answer's
    log-probability in that format, in nats."""


def score(config: KnownnessConfig, base: Weights, store: FactStore) -> Float[np.ndarray, " fact"]:
    """Return each fact's knownness, larger where better known."""
    if config.measure == "popularity":
        return store.popularity
    if config.measure == "salience":
        return base.subject_values[store.subject, store.answer].astype(float)
    return margin(base, store) if config.measure == "margin" else logprob(base, store)


def margin(base: Weights, store: FactStore) -> Float[np.ndarray, " fact"]:
    """Return the answer's logit minus the best rival's, on prompts (subject, relation) under uniform attention."""
    return _by_part(_margin, base, store)


def logprob(base: Weights, store: FactStore) -> Float[np.ndarray, " fact"]:
    """Return the answer's log-probability, on prompts (subject, relation) under uniform attention."""
    return _by_part(_logprob, base, store)


def _by_part(
    function: Callable[[Float[np.ndarray, "part output"], Int[np.ndarray, " part"]], Float[np.ndarray, " part"]],
    base: Weights,
    store: FactStore,
) -> Float[np.ndarray, " fact"]:
    """Return a function of every fact's logits and answer, some facts at a time."""
    found = []
    for rows in evaluate.chunks(np.arange(len(store.subject)), len(base.template_value)):
        subject, relation = base.subject_values[store.subject[rows]], base.relation_values[store.relation[rows]]
        found.append(function(0.5 * (subject.astype(float) + relation), store.answer[rows]))
    return np.concatenate(found)


def _margin(output: Float[np.ndarray, "part output"], answers: Int[np.ndarray, " part"]) -> Float[np.ndarray, " part"]:
    fact = np.arange(len(answers))
    right = output[fact, answers]
    output[fact, answers] = -np.inf
    return right - output.max(axis=1)


def _logprob(output: Float[np.ndarray, "part output"], answers: Int[np.ndarray, " part"]) -> Float[np.ndarray, " part"]:
    return output[np.arange(len(answers)), answers] - special.logsumexp(output, axis=1)
