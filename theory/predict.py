"""R5 and R6 applied to a world: where each arm's attention will go, and how salient each fact is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from theory import evaluate, flow
from theory.facts import FactStore
from theory.model import Weights

ELEMENTS = 2**22
"""An arm's mean force is taken over as many of its facts, evenly spaced, as have this many values."""
PRETRAINING_ATTENTION = 0.5
"""On the subject, uniform over (subject, relation)."""
RTOL = 1e-5
"""Relative error of the integration: far below the batches' noise that it is compared with."""


def arm_flow(
    base: Weights,
    store: FactStore,
    rows: Int[np.ndarray, " row"],
    times: Real[np.ndarray, " time"],
    *,
    shared_share: float,
) -> flow.Flow:
    """Return the predicted path of held-out prompts' attention while the facts in `rows` are finetuned on (R5, R3).

    Held-out logits move at the rates of the shared directions: ρ on the subject, ρ plus 1-ρ times the chance of meeting
    the same relation on the relation, and 1 on the template.

    Args:
        times: rate of W_KQ times steps.
    """
    relation = np.bincount(store.relation[rows]) / len(rows)
    rates = (shared_share, shared_share + (1 - shared_share) * float(relation @ relation), 1.0)
    chosen = spread(rows, base)
    values = evaluate.token_values(base, store, chosen)
    return flow.reduced_flow(values, store.answer[chosen], times, rates=rates, rtol=RTOL)


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
    rate = config["pretrain"]["learning_rate"] * (1 - config["model"]["shared_share"])
    exposure = rate * PRETRAINING_ATTENTION * draws / config["pretrain"]["batch_size"]
    competitors = flow.fit_competitors(exposure, measured, PRETRAINING_ATTENTION)
    return flow.salience_growth(exposure, PRETRAINING_ATTENTION, competitors)
