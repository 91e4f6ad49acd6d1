r"""What the theory's closed forms say of numbers already measured: recomputed alike by the flows and the figures.

The derivations are in `theory.law`; here is the arithmetic that needs no model, only columns of results.
"""

import numpy as np
from jaxtyping import Bool, Float


def subject_share(subject: Float[np.ndarray, "..."], relation: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    r"""Return the subject's share of the attention on subject and relation, $t = \alpha_s/(\alpha_s+\alpha_r)$."""
    return subject / (subject + relation)


def recalled(
    share: Float[np.ndarray, " fact"] | float, lower: Float[np.ndarray, " fact"], upper: Float[np.ndarray, " fact"]
) -> Bool[np.ndarray, " fact"]:
    r"""Return which facts are recalled at their own share, or all at one: $t_{lo} < t < t_{hi}$ (R4).

    The mean is the accuracy. The bounds are those of `theory.law.theorem.critical_attention`.
    """
    return (lower < share) & (share < upper)


def boundary(position: Float[np.ndarray, " level"], lead: Float[np.ndarray, " level"], *, falls: bool = True) -> float:
    """Return where a lead last passes from above zero to zero or below (R8), by linear interpolation; nan if nowhere.

    Args:
        position: of the levels at which the lead is known, increasing.
        falls: False for the last passage in either direction.
    """
    before, after = lead[:-1], lead[1:]
    passes = (before > 0) & (after <= 0)
    if not falls:
        passes |= (before <= 0) & (after > 0)
    if not passes.any():
        return float("nan")
    at = int(np.flatnonzero(passes)[-1])
    low, high = position[at : at + 2]
    return float(low + before[at] / (before[at] - after[at]) * (high - low))


def median_distance(predicted: Float[np.ndarray, " column"], measured: Float[np.ndarray, " column"]) -> float:
    """Return the median distance of predicted and measured boundary over the columns that have both, or nan (R8)."""
    distance = np.abs(predicted - measured)
    return float(np.median(distance[np.isfinite(distance)])) if np.isfinite(distance).any() else float("nan")


def r_squared(predicted: Float[np.ndarray, " fact"], measured: Float[np.ndarray, " fact"]) -> float:
    """Return the share of the measured variance that the prediction explains; 1 at best, below 0 if worse than a mean.

    Undefined (nan) where the measurements do not vary.
    """
    total = np.sum((measured - measured.mean()) ** 2)
    return float(1 - np.sum((measured - predicted) ** 2) / total) if total > 0 else float("nan")
