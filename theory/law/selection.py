"""R9: which facts move attention furthest to the subject, and how far no choice of facts moves it.

The statement is ours. Symbols as in `theorem.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import integrate, optimize, special

from theory.law import theorem

START = 0.5
"""The share before finetuning: attention is uniform."""
_LOGITS = np.linspace(0.0, 7.0, 71)
"""Where forces are tabulated, in the share's log odds: from the start to a share of .999."""

Forces = Callable[[float], Float[np.ndarray, " fact"]]
"""From a share to every fact's subject force."""


class Best(NamedTuple):
    """The facts that rest at the highest share of all arms of as many, and the bound on all of them."""

    rows: Int[np.ndarray, " n"]
    """Indices of the facts, increasing."""
    resting_share: float
    """$t^*$; the start where no arm of as many rises at all, and the last share of the table where the bound does not
    come to rest."""
    is_resting: bool
    """Whether the premises hold: the bound crosses zero once, and these facts' mean force is positive up to there."""
    shares: Float[np.ndarray, " point"]
    bound: Float[np.ndarray, " point"]
    r"""$\Phi_n$ at these shares, from the start on."""


def subject_force(
    values: Float[np.ndarray, "fact token output"], answer: Int[np.ndarray, " fact"], share: float
) -> Float[np.ndarray, " fact"]:
    r"""Return each fact's force on the subject's logit, $g_f(t)$, at a share $t$, the template suppressed (R9).

    $G_s$ of R1 at $\alpha = (t, 1-t, 0)$.
    """
    attention = np.broadcast_to([share, 1 - share, 0.0], (len(answer), 3))
    return theorem.force(attention, values, theorem.probability(attention, values), answer)[:, theorem.SUBJECT]


def tabulate(forces: Forces) -> Float[np.ndarray, "point fact"]:
    """Return every fact's force at the shares, from the start on, that `best` reads (R9)."""
    return np.stack([forces(share) for share in _shares()])


def best(table: Float[np.ndarray, "point fact"], forces: Forces, n: int) -> Best:
    r"""Return the n facts that rest highest, with the bound (R9).

    Values are frozen, the template is suppressed, and all questions have one share $t$: an arm $D$ moves as
    $d\,\mathrm{logit}(t)/d\tau = 2\,E_D[g_f(t)]$ (R5). With $\Phi_n(t)$ the mean of the $n$ largest forces,
    $E_D[g_f(t)] \le \Phi_n(t)$ at every share, so by comparison no arm of $n$ facts, and no curriculum over such arms,
    is ever ahead of
    $$\frac{d\,\mathrm{logit}(t)}{d\tau} = 2\,\Phi_n(t)$$ from the same start. Where $\Phi_n$ crosses zero once, at
    $t^*$, no arm rests above $t^*$, and the $n$ facts of largest force at $t^*$ rest exactly there if their mean force
    is positive from the start to $t^*$. The higher share need not be the higher accuracy: R4 says which is.

    Args:
        table: what `tabulate` returns for these forces.
        n: from 1 to all facts.
    """
    shares = _shares()
    bound = _largest(table, n).mean(axis=1)
    falls = np.flatnonzero((bound[:-1] > 0) & (bound[1:] <= 0))
    if len(falls):
        first = int(falls[0])
        found = optimize.root_scalar(
            lambda share: _largest(forces(share)[None], n).mean(), bracket=(shares[first], shares[first + 1])
        )
        resting = float(found.root)
    else:
        resting = float(shares[-1] if bound[0] > 0 else shares[0])
    rows = np.sort(np.argsort(-forces(resting), kind="stable")[:n])
    n_crossings = int(np.sum(np.diff(bound > 0)))
    is_positive = bool((table[shares < resting][:, rows].mean(axis=1) > 0).all())
    return Best(rows, resting, len(falls) == 1 and n_crossings == 1 and is_positive, shares, bound)


def bound_share(best: Best, times: Float[np.ndarray, " time"], *, rate: float = 2.0) -> Float[np.ndarray, " time"]:
    r"""Return the share that no arm of as many facts is ahead of, at each time, from uniform attention (R9).

    Args:
        times: increasing from 0, $\tau$ = SGD rate on $W_{KQ}$ times steps.
        rate: of the log odds, relative to $\Phi_n$: 2 where subject and relation share all of their embeddings, and
            $2\rho + (1-\rho)/R$ at a world's own $\rho$ in the mean over $R$ relations of equal size (R3).
    """
    start, logits = special.logit(START), special.logit(best.shares)

    def velocity(_: float, logit: np.ndarray) -> np.ndarray:
        return rate * np.interp(logit, logits, best.bound)

    path = integrate.solve_ivp(velocity, (0.0, float(times[-1])), [start], t_eval=times, rtol=1e-6, atol=1e-8)
    return special.expit(path.y[0])


def _shares() -> Float[np.ndarray, " point"]:
    return special.expit(special.logit(START) + _LOGITS)


def _largest(force: Float[np.ndarray, "point fact"], n: int) -> Float[np.ndarray, "point n"]:
    """Return the n largest forces at each share, in no order."""
    return -np.partition(-force, n - 1, axis=1)[:, :n]
