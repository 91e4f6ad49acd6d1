"""What of the gap between two arms' models moves with the attention, or the values, that one is given of the other."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from core import shares, split
from core.columns import Columns
from core.shares import DONOR, RECEIVER, Outcome
from theory import evaluate
from theory.evaluate import Read
from theory.pipeline import Simulation

PAIRS = (("bottom", "top"), ("top", "bottom"))
"""Receiver and donor."""
INTERVENTIONS: dict[str, Callable[[Read, Read], Read]] = {
    RECEIVER: lambda own, given: own,
    DONOR: lambda own, given: given,
    "attention@subject": lambda own, given: own._replace(attention=_looking_at(given.attention[:, :1], own.attention)),
    "attention@all": lambda own, given: own._replace(attention=given.attention),
    "value@subject": lambda own, given: own._replace(
        values=np.concatenate([given.values[:, :1], own.values[:, 1:]], 1)
    ),
    "value@all": lambda own, given: own._replace(values=given.values),
}
"""What is read of the receiver's own and the donor's, by the names that patches of a language model have. All attention
is W_KQ, and all values are W_V."""


def tables(simulation: Simulation) -> list[Columns]:
    """Return what moves in the answers to held-out questions, a table for each of `PAIRS`."""
    store, rows, made = simulation.store, np.flatnonzero(simulation.split.role == split.HELD_OUT), []
    for receiver, donor in PAIRS:
        models, found = (simulation.weights[receiver], simulation.weights[donor]), {}
        for name, mix in INTERVENTIONS.items():
            answers = evaluate.answer_between(models, store, rows, mix)
            found[name] = Outcome(answers.answer_logprob, answers.correct)
        columns = shares.table(found, store.subject[rows], seed=simulation.cell.split)
        made.append({"receiver": receiver, "donor": donor, **columns})
    return made


def _subject_first(
    subject: Float[np.ndarray, "fact 1 output"], values: Float[np.ndarray, "fact token output"]
) -> Float[np.ndarray, "fact token output"]:
    """Return values with these as the subject's."""
    return np.concatenate([subject, values[:, 1:]], axis=1)


def _looking_at(
    subject: Float[np.ndarray, "fact 1"], attention: Float[np.ndarray, "fact token"]
) -> Float[np.ndarray, "fact token"]:
    """Return attention with this much on the subject, the other tokens keeping their proportions."""
    others = attention[:, 1:]
    return np.concatenate([subject, (1 - subject) * others / others.sum(axis=1, keepdims=True)], axis=1)
