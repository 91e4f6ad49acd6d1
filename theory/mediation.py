"""What of the gap between two arms' models moves with the attention, or the values, that one is given of the other."""

from collections.abc import Callable

import numpy as np

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
    "attention@subject": lambda own, given: own._replace(attention=_subject(given.attention, own.attention)),
    "attention@all": lambda own, given: own._replace(attention=given.attention),
    "value@subject": lambda own, given: own._replace(values=_subject(given.values, own.values)),
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


def _subject(given: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the first token's from the one and the others' from the other."""
    return np.concatenate([given[:, :1], own[:, 1:]], axis=1)
