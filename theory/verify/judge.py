"""What the checks have in common: rows with their verdicts, and a world's models as they are trained."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from core.facts.store import FactStore
from theory import evaluate
from theory.compare import Row
from theory.law import theorem
from theory.model import factored
from theory.model.config import Weights
from theory.pipeline import Simulation


def bounded(result: str, error: float | int, tolerance: float | int, note: str, refuted_by: str) -> Row:
    """Return the row of a result whose error must not exceed its tolerance; one that is not a number does."""
    verdict = "holds" if error <= tolerance else "fails"
    numbers = {"error": float(error), "tolerance": float(tolerance)}
    return {"result": result, "note": note, "refuted_by": refuted_by, "verdict": verdict} | numbers


def facts(simulation: Simulation, rows: np.ndarray) -> factored.Facts:
    """Return some of a world's facts; to be called under x64."""
    store = simulation.store
    return factored.Facts(*(jnp.asarray(ids[rows]) for ids in (store.subject, store.relation, store.answer)))


def force(weights: Weights, store: FactStore, rows: Int[np.ndarray, " fact"]) -> Float[np.ndarray, "fact token"]:
    """Return R1's force of each fact under a model."""
    attended, values = evaluate.read(weights, store, rows)
    return theorem.force(attended, values, theorem.probability(attended, values), store.answer[rows])
