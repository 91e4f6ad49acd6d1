r"""R8′: at how much pretraining the arms' order reverses, from the answers' frequencies alone, and why it stays so.

The statement is ours. Symbols as in `theorem.py`; $k\tau$ is the exposure of R6.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, special

from theory.law import theorem

_RANKS = (np.arange(400) + 0.5) / 400
"""Ranks of a half, as parts of it."""
_EXPOSURES = np.geomspace(1e-2, 1e4, 601)
"""Where a fact's force is tabulated."""
_EVERY = 10
"""Of the points of R6′'s curves, which are as fine as its integral asks for, one in so many is enough for the force."""
_SEARCHED = np.geomspace(0.3, 100, 60)
"""Exposures of the median fact among which the reversal is looked for."""


def force_by_exposure(
    frequency: Float[np.ndarray, " answer"], share: float, *, attention: float = 0.5
) -> Float[np.ndarray, " exposure"]:
    r"""Return the mean force on the subject of a relation's facts that were all exposed alike, at `_EXPOSURES` (R8′).

    A fact's values are those of R6′: the subject's $v_b = -\ln(1+\alpha q_b u)/\alpha$ and $v_a = S(u)$, the relation's
    $\ln q_b/(1-\alpha)$, which gives the frequencies $q$ in pretraining, where the subject has $\alpha$. The force is
    $t(1-t)$ times what attention to the subject argues for the answer, less what attention to the relation does.

    Args:
        frequency: $q$ of the relation's answers, above 0; they sum to 1.
        share: $t$, the template suppressed.
        attention: $\alpha$ on the subject in pretraining.
    """
    relation = np.log(frequency) / (1 - attention)
    total = np.zeros(len(_EXPOSURES))
    pushed_down = -np.log1p(attention * frequency[:, None] * theorem.GROWTH[::_EVERY]) / attention
    for answer, *curve in theorem.growth(frequency, np.arange(len(frequency)), attention):
        exposure, salience = (points[::_EVERY] for points in curve)
        subject = pushed_down.copy()
        subject[answer] = salience
        p = special.softmax(share * subject + (1 - share) * relation[:, None], axis=0)
        of_subject = salience - (p * subject).sum(axis=0)
        of_relation = relation[answer] - relation @ p
        total += frequency[answer] * np.interp(_EXPOSURES, exposure, of_subject - of_relation)
    return share * (1 - share) * total


def median_exposure(
    frequency: Float[np.ndarray, " answer"], *, exponent: float, share: float, attention: float = 0.5
) -> float:
    r"""Return the exposure $k\tau$ of the median fact at which both halves pull alike on the subject (R8′).

    With popularity $\propto \mathrm{rank}^{-e}$ and $m$ the median's exposure, a fact at the part $v$ of the better
    known half has $m v^{-e}$, one at the part $v$ of the other $m(1+v)^{-e}$. With $F_t$ of `force_by_exposure` they
    pull alike where
    $$\int_0^1 F_t(m v^{-e})\,dv = \int_1^2 F_t(m v^{-e})\,dv.$$
    $F_t$ has one peak, beyond which a fact is too certain to pull: below $m$ the better known half pulls more, above it
    less. At the shares where arms rest, .6 to .75, $m$ hardly depends on $e$ or $t$ (`paper`: 3.3 to 3.7).

    What it leaves out: the subject's other answers, which hold both halves back (`without_other_answers`) and so decide
    at which share they rest. The share is therefore an argument, to be measured or taken from R5.

    Args:
        exponent: $e$ of popularity, above 0.

    Returns:
        The least such exposure from 0.3 to 100; nan if there is none.
    """
    force = force_by_exposure(frequency, share, attention=attention)

    def lead(log_median: float) -> float:
        top, bottom = (np.exp(log_median) * part**-exponent for part in (_RANKS, 1 + _RANKS))
        return float(np.mean(np.interp(top, _EXPOSURES, force) - np.interp(bottom, _EXPOSURES, force)))

    grid = np.log(_SEARCHED)
    leads = np.array([lead(place) for place in grid])
    passes = np.flatnonzero((leads[:-1] > 0) & (leads[1:] <= 0))
    if not len(passes):
        return float("nan")
    return float(np.exp(optimize.root_scalar(lead, bracket=tuple(grid[passes[0] : passes[0] + 2])).root))


def without_other_answers(
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
    is_told: Bool[np.ndarray, "fact output"],
) -> Float[np.ndarray, "fact token output"]:
    """Return the values of facts as if their subjects had never been told any other answer (R8′).

    A subject's value at its other facts' answers becomes the median of its value at outputs that it was never told.
    These answers compete whatever the fact's own salience, so that a well-known subject's question, whose competitors
    from its own relation are gone, rests where they balance: at a lower share than a less known one's. Without them the
    better known half rests higher at any pretraining.

    Args:
        is_told: whether the output is the answer of a fact about the same subject.
    """
    of_subject = np.where(is_told, np.nan, values[:, theorem.SUBJECT])
    others = is_told.copy()
    np.put_along_axis(others, answer[:, None], False, axis=1)
    result = values.copy()
    result[:, theorem.SUBJECT] = np.where(others, np.nanmedian(of_subject, axis=1)[:, None], values[:, theorem.SUBJECT])
    return result
