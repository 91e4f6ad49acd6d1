"""What of the gap between two arms' models moves with the attention, or the values, that one is given of the other."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from core import shares, split
from core.columns import Columns
from core.shares import DONOR, RECEIVER, Outcome
from theory import evaluate
from theory.evaluate import Answers, Read
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
        models = simulation.weights[receiver], simulation.weights[donor]
        parts: dict[str, list[Answers]] = {name: [] for name in INTERVENTIONS}
        for part in evaluate.chunks(rows, 3 * len(models) * len(models[0].template_value)):
            own, given = (evaluate.read(weights, store, part) for weights in models)
            for name, mix in INTERVENTIONS.items():
                parts[name].append(evaluate.answer_read(mix(own, given), store.answer[part]))
        found = {
            name: Outcome(
                np.concatenate([part.answer_logprob for part in answers]),
                np.concatenate([part.correct for part in answers]),
            )
            for name, answers in parts.items()
        }
        columns = shares.table(found, store.subject[rows], seed=simulation.cell.split)
        made.append({"receiver": receiver, "donor": donor, **columns})
    return made


def _looking_at(
    subject: Float[np.ndarray, "fact 1"], attention: Float[np.ndarray, "fact token"]
) -> Float[np.ndarray, "fact token"]:
    """Return attention with this much on the subject, the other tokens keeping their proportions."""
    others = attention[:, 1:]
    return np.concatenate([subject, (1 - subject) * others / others.sum(axis=1, keepdims=True)], axis=1)
