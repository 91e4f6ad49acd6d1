"""Questions answered: by what, with what probability, and with what attention."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from core.facts.store import FactStore
from theory import attention
from theory.model.config import Weights

ELEMENTS = 2**22
"""Array elements handled at once: bounds memory at any number of facts."""


class Answers(NamedTuple):
    """What one model does on each question, in float64 whatever it was trained in."""

    predicted: Int[np.ndarray, " fact"]
    correct: Bool[np.ndarray, " fact"]
    """The right answer's logit is strictly the largest: a tie is not recalled."""
    answer_logprob: Float[np.ndarray, " fact"]
    probability: Float[np.ndarray, " fact"]
    """Of what it predicts."""
    salience: Float[np.ndarray, " fact"]
    """S(s, r, a) = v_s[a]."""
    attention: Float[np.ndarray, "fact token"]


class Read(NamedTuple):
    """What the last token reads of each question's tokens: subject, relation, template."""

    attention: Float[np.ndarray, "fact token"]
    values: Float[np.ndarray, "fact token output"]


def answer(weights: Weights, store: FactStore, rows: Int[np.ndarray, " fact"]) -> Answers:
    """Return what the model does on the questions of these facts."""
    parts = (
        answer_read(read(weights, store, part), store.answer[part])
        for part in chunks(rows, 3 * len(weights.template_value))
    )
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def read(weights: Weights, store: FactStore, rows: Int[np.ndarray, " fact"]) -> Read:
    """Return what the model reads of the questions of these facts."""
    attended = attention.measure(weights, store.subject[rows], store.relation[rows])
    return Read(attended, token_values(weights, store, rows))


def chunks(rows: Int[np.ndarray, " fact"], row_size: int) -> Iterator[Int[np.ndarray, " part"]]:
    """Return the rows in parts of at most `ELEMENTS` elements, at `row_size` elements a row."""
    length = max(1, ELEMENTS // row_size)
    return (rows[start : start + length] for start in range(0, len(rows), length))


def token_values(
    weights: Weights, store: FactStore, rows: Int[np.ndarray, " fact"]
) -> Float[np.ndarray, "fact token output"]:
    """Return the values of each question's tokens, in float64."""
    values = np.empty((len(rows), 3, len(weights.template_value)))
    values[:, 0] = weights.subject_values[store.subject[rows]]
    values[:, 1] = weights.relation_values[store.relation[rows]]
    values[:, 2] = weights.template_value
    return values


def generic_answers(store: FactStore, rows: Int[np.ndarray, " fact"]) -> Int[np.ndarray, " relation"]:
    """Return each relation's most frequent answer among these facts (ties: lowest id); -1 where it has none."""
    generic = np.full(store.n_relations, -1)
    for relation in np.unique(store.relation[rows]):
        counts = np.bincount(store.answer[rows][store.relation[rows] == relation])
        generic[relation] = counts.argmax()
    return generic


def answer_read(read: Read, answers: Int[np.ndarray, " fact"]) -> Answers:
    """Return what comes of what was read, given the right answers."""
    output = np.einsum("ft,fto->fo", read.attention, read.values)
    fact = np.arange(len(answers))
    right, mass = output[fact, answers], logsumexp(output, axis=1)
    predicted = output.argmax(axis=1)
    probability = np.exp(output[fact, predicted] - mass)
    output[fact, answers] = -np.inf
    is_right = right > output.max(axis=1)
    return Answers(predicted, is_right, right - mass, probability, read.values[fact, 0, answers], read.attention)
