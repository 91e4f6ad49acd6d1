r"""R5, R6 and R8: how attention and salience move over time, predicted without training.

The statements are ours, derived from the one-layer model and the salience $S = \phi(a)^\top W_V\,\phi(s)$ of Ghosal et
al. (2024). Symbols as in `theorem.py`; $\kappa = (\kappa_S, \kappa_R, \kappa_q)$ are the attention logits of the three
kinds of token, and $\tau$ is time in units of SGD rate times steps.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real
from scipy import integrate, interpolate, optimize, special

from core import closed_form

OWN_LOGIT_TURNS = 2
"""How often a path is found anew with the subjects' own logits of the one before."""
OWN_LOGIT_TIMES = 40
"""Times between which the own logits are linear."""
_NUMBERS_AT_ONCE = 2**17  # gaps of so many stay in cache, which halves the force's time
_NUMBERS_FOR_THREADS = 2**20  # gaps of fewer facts take less time than threads take to be told


@dataclass(frozen=True)
class Flow:
    """The path of the shared attention logits under `reduced_flow`."""

    times: Float[np.ndarray, " time"]
    logits: Float[np.ndarray, "time token"]

    @property
    def attention(self) -> Float[np.ndarray, "time token"]:
        """Attention on subject, relation and template."""
        return special.softmax(self.logits, axis=1)

    @property
    def share(self) -> Float[np.ndarray, " time"]:
        """The subject's share of the attention on subject and relation."""
        return special.expit(self.logits[:, 0] - self.logits[:, 1])


def reduced_flow(
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
    times: Float[np.ndarray, " time"],
    *,
    rates: tuple[float, float, float] = (1.0, 1.0, 1.0),
    start: tuple[float, float, float] = (0.0, 0.0, 0.0),
    rtol: float = 1e-8,
) -> Flow:
    r"""Return the path that finetuning an arm's attention takes, from the base model's values alone (R5).

    All facts share the attention $\alpha = \mathrm{softmax}(\kappa)$, their values are frozen, and gradient descent in
    small full-batch steps follows
    $$d\kappa_i/d\tau = \mathrm{rate}_i\,E[G_i],$$ with $G$ of R1 and the mean over the arm. At rates 1 this is the
    negative gradient of the arm's mean loss. $\sum_i G_i = 0$ conserves $\sum_i \kappa_i/\mathrm{rate}_i$, so the flow
    is two-dimensional. Error: $O(\mathrm{SGD\ rate})$ of the steps it stands for.

    Args:
        values: of the arm's facts, as the base model holds them.
        times: non-negative and increasing, $\tau$ = SGD rate on $W_{KQ}$ times steps.
        rates: (ρ, ρ + (1 − ρ)/n_relations, 1) follows held-out prompts at the world's own ρ, averaged over relations of
            equal size (R3), where an arm's subjects are so many that one's own logit hardly moves.
        start: κ at τ = 0; zero is uniform attention.
        rtol: relative error of the integration, a hundred times the absolute one.

    Raises:
        ValueError: if `times` is empty, negative or not increasing.
        RuntimeError: if the integration fails.
    """
    gaps, speed = _gaps(values, answer), np.array(rates)

    def velocity(_: float, logits: np.ndarray) -> np.ndarray:
        return speed * _mean_force(gaps, special.softmax(logits))

    return Flow(times, _integrate(velocity, np.array(start, dtype=float), times, rtol))


@dataclass(frozen=True)
class HeldOutFlow:
    """The path of held-out prompts' attention logits under `held_out_flow`, one prompt for each relation."""

    times: Float[np.ndarray, " time"]
    relations: Int[np.ndarray, " relation"]
    """Their ids, increasing."""
    logits: Float[np.ndarray, "time relation token"]
    weight: Float[np.ndarray, " relation"]
    """Each relation's share of the facts; the means below are over facts."""

    @property
    def attention(self) -> Float[np.ndarray, "time token"]:
        """Mean attention on subject, relation and template."""
        return np.einsum("hrt,r->ht", special.softmax(self.logits, axis=2), self.weight)

    @property
    def share(self) -> Float[np.ndarray, " time"]:
        """Mean share of the subject in the attention on subject and relation."""
        return special.expit(self.logits[..., 0] - self.logits[..., 1]) @ self.weight


def held_out_flow(
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
    relation: Int[np.ndarray, " fact"],
    times: Float[np.ndarray, " time"],
    *,
    rho: float,
    relations: Int[np.ndarray, " relation"] | None = None,
    subject: Int[np.ndarray, " fact"] | None = None,
    rtol: float = 1e-5,
) -> HeldOutFlow:
    r"""Return the path of held-out attention at the world's own rates, a logit for each relation (R5 with R3's rates).

    Held-out prompts see what all subjects and all relations share at rate $\rho$, and of their own relation's token the
    rest as well:
    $$\dot\kappa_S = \rho E[G_s], \quad \dot\kappa_r = \rho E[G_r] + (1-\rho) E[1\{r'=r\} G_{r'}], \quad
        \dot\kappa_q = E[G_q].$$
    A training prompt sees its own subject's logit as well, $\dot\kappa_s = (1-\rho) E[1\{s'=s\} G_{s'}]$, which matters
    the more the fewer subjects there are. It is left out unless `subject` is given; then the path is found anew with
    what its own logits would be along the path before, `OWN_LOGIT_TURNS` times. Error: the learning rate's.

    Args:
        values: of the arm's facts, as the base model holds them.
        times: non-negative and increasing, $\tau$ = SGD rate on $W_{KQ}$ times steps.
        rho: share of an embedding that lies in its kind's common direction, 0 to 1.
        relations: of the prompts, increasing; those that the facts have among them. None: the facts' own.
        subject: of each fact, for the subjects' own logits.
        rtol: relative error of the integration, a hundred times the absolute one.

    Raises:
        ValueError: if `times` is empty, negative or not increasing, or the facts have a relation that is not given.
        RuntimeError: if the integration fails.
    """
    relations = np.unique(relation) if relations is None else relations
    if not np.isin(relation, relations).all():
        raise ValueError("the facts have other relations than those given")
    order = np.argsort(relation, kind="stable")
    counts = np.searchsorted(relation[order], relations, side="right")
    blocks = [_gaps(values[rows], answer[rows]) for rows in np.split(order, counts[:-1])]
    weight = np.diff(counts, prepend=0) / len(relation)

    def prompts(state: np.ndarray) -> np.ndarray:
        """Return the logits [relation token] of the state (κ_S, κ_q, κ_1 …)."""
        return np.stack([np.full(len(weight), state[0]), state[2:], np.full(len(weight), state[1])], axis=1)

    def motion(force: np.ndarray) -> np.ndarray:
        """Return the state's velocity under the mean forces [relation token]."""
        of_subject, of_relation, template = force.sum(axis=0)
        return np.concatenate([[rho * of_subject, template], rho * of_relation + (1 - rho) * force[:, 1]])

    def without_own(_: float, state: np.ndarray) -> np.ndarray:
        attention = special.softmax(prompts(state), axis=1)
        return motion(weight[:, None] * np.array(list(apply(_mean_force, blocks, attention))))

    def forces(state: np.ndarray, own: np.ndarray) -> list[np.ndarray]:
        """Return the force [token fact] on each fact's prompt, by relation, where subjects have logits of their own."""
        logits = [np.repeat(one[:, None], n, axis=1) for one, n in zip(prompts(state), sizes, strict=True)]
        for one, of_facts in zip(logits, np.split(own[place], counts[:-1]), strict=True):
            one[0] += of_facts
        return list(apply(_forces, blocks, [special.softmax(one, axis=0) for one in logits]))

    sizes = np.diff(counts, prepend=0)
    start = np.zeros(2 + len(weight))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        apply = pool.map if values.size > _NUMBERS_FOR_THREADS else map
        if subject is None:
            states = _integrate(without_own, start, times, rtol)
        else:
            place = np.unique(subject, return_inverse=True)[1][order]
            # The first moves are the fastest.
            grid = np.union1d(times, times[-1] * np.linspace(0, 1, OWN_LOGIT_TIMES) ** 2)
            path, own = _integrate(without_own, start, grid, rtol), np.zeros((len(grid), place.max() + 1))
            for _ in range(OWN_LOGIT_TURNS):
                of_facts = [np.concatenate(forces(*at), axis=1)[0] for at in zip(path, own, strict=True)]
                drift = np.array([np.bincount(place, force) for force in of_facts]) * (1 - rho) / len(place)
                found = integrate.cumulative_trapezoid(drift, grid, axis=0, initial=0)
                own = (own + found) / 2 if own.any() else found  # what follows overshoots, now up and now down
                at_time = interpolate.make_interp_spline(grid, own, k=1)

                def with_own(time: float, state: np.ndarray, own=at_time) -> np.ndarray:
                    return motion(np.array([force.sum(axis=1) for force in forces(state, own(time))]) / len(place))

                path = _integrate(with_own, start, grid, rtol)
            states = path[np.searchsorted(grid, times)]
    return HeldOutFlow(times, relations, np.stack([prompts(state) for state in states]), weight)


def mean_force(
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
    share: Float[np.ndarray, " point"],
) -> Float[np.ndarray, " point"]:
    r"""Return an arm's mean force on the subject, $E[G_s]$, at each share $t$, the template suppressed (R5).

    With $\alpha = (t, 1-t, 0)$, $G_r = -G_s$ and $d\,\mathrm{logit}(t)/d\tau = E[H] = 2E[G_s]$, a scalar flow: of two
    arms that start together, the one whose mean force is at least the other's at every $t$ on the path stays ahead.
    """
    gaps = _gaps(values, answer)
    return np.array([_mean_force(gaps, np.array([t, 1 - t, 0.0]))[0] for t in share])


def salience_growth(
    exposure: Float[np.ndarray, " fact"], attention: float, competitors: float
) -> Float[np.ndarray, " fact"]:
    r"""Return each fact's salience $S$ after pretraining, from its exposure $k\tau$ alone (R6).

    With the attention $\alpha$ on the subject and the competitors' mass $Z$ held fixed, $dS/d\tau = k(1-p)$ with
    $p = e^{\alpha S}/(e^{\alpha S}+Z)$. Separating variables from $S = 0$,
    $$S + (e^{\alpha S} - 1)/(\alpha Z) = k\tau,$$ hence with $c = \alpha k\tau + 1/Z$ and the Wright omega function
    $\alpha S = c - \omega(c - \ln Z)$. Linear in exposure while $e^{\alpha S} \ll Z$, logarithmic beyond. Exact under
    these assumptions, to about $10^{-16}/Z$ in floating point; that $Z$ is one constant is the approximation.

    Args:
        exposure: $k\tau$ = value rate (factored model) × attention × steps × the fact's sampling probability.
        attention: $\alpha$ on the subject, above 0 (one half in pretraining).
        competitors: $Z$, above 0.
    """
    c = attention * exposure + 1 / competitors
    return (c - special.wrightomega(c - np.log(competitors))) / attention


def fit_competitors(
    exposure: Float[np.ndarray, " fact"], salience: Float[np.ndarray, " fact"], attention: float
) -> float:
    r"""Return the competitors' mass $Z$ that explains all saliences best, in least squares over $\ln Z$ (R6).

    Searched from $e^{-20}$ to $e^{60}$; the upper end means that no saturation is to be seen.
    """

    def loss(log_z: float) -> float:
        return float(np.sum((salience_growth(exposure, attention, np.exp(log_z)) - salience) ** 2))

    coarse = np.arange(-20.0, 61.0, 2.0)  # the loss has plateaus on both sides, which mislead a local search
    best = coarse[np.argmin([loss(log_z) for log_z in coarse])]
    bounds = (max(best - 2, coarse[0]), min(best + 2, coarse[-1]))
    return float(np.exp(optimize.fminbound(loss, *bounds, xtol=1e-9)))


def reversal_boundary(steps: Real[np.ndarray, " level"], difference: Float[np.ndarray, " level"]) -> float:
    r"""Return the pretraining steps beyond which the arms' order of subject share is reversed (R8).

    The last place where $t_{top} - t_{bottom}$ passes from above zero to zero or below, between two levels by linear
    interpolation in $\log_2$ steps; nan if there is none. For R5's difference and the measured one alike.

    Raises:
        ValueError: if `steps` is not positive and increasing.
    """
    if np.any(steps <= 0) or np.any(np.diff(steps) <= 0):
        raise ValueError("steps must be positive and increasing")
    return float(2 ** closed_form.boundary(np.log2(steps), difference))


def boundary_distance(predicted: Float[np.ndarray, " column"], measured: Float[np.ndarray, " column"]) -> float:
    r"""Return the median $|\Delta \log_2 \mathrm{steps}|$ between predicted and measured boundaries (R8).

    In doublings of pretraining. Columns in which either boundary is nan are left out; nan if none remains.
    """
    return closed_form.median_distance(np.log2(predicted), np.log2(measured))


def _integrate(
    velocity: Callable[[float, np.ndarray], np.ndarray], start: np.ndarray, times: np.ndarray, rtol: float
) -> np.ndarray:
    """Return the states [time number] of an autonomous flow that begins at `start` at τ = 0."""
    if times.size == 0 or times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ValueError("times must be non-negative and increasing, and there must be at least one")
    if times[-1] == 0:
        return start[None]
    # LSODA: the flow is stiff along the template's logit; explicit methods take up to six times the steps.
    span, atol = (0.0, times[-1]), rtol / 100
    path = integrate.solve_ivp(velocity, span, start, method="LSODA", t_eval=times, rtol=rtol, atol=atol)
    if not path.success:
        raise RuntimeError(f"the flow could not be integrated: {path.message}")
    return path.y.T


class _Gaps(NamedTuple):
    """v_i[b] − v_i[a]: the logits less the answer's are their sum weighted by attention.

    Outputs b whose gaps are equal for all tokens make one class: of PopQA's 2,003 they leave a fact 560.
    """

    values: Float[np.ndarray, "token class"]
    """The first fact's classes, then the second's, and so on."""
    n_outputs: Int[np.ndarray, " class"]
    n_classes: Int[np.ndarray, " fact"]


def _gaps(values: np.ndarray, answer: np.ndarray) -> list[_Gaps]:
    """Return the gaps of all facts, in float64 and in parts."""
    block = max(1, _NUMBERS_AT_ONCE // values.shape[2])
    return [_part(values[at : at + block], answer[at : at + block]) for at in range(0, len(values), block)]


def _part(values: np.ndarray, answer: np.ndarray) -> _Gaps:
    of_answer = np.take_along_axis(values, answer[:, None, None], axis=2)
    gaps = np.subtract(values, of_answer, dtype=np.float64)
    order = np.lexsort(gaps.swapaxes(0, 1))
    gaps = np.take_along_axis(gaps, order[:, None], axis=2)
    is_first = np.ones(order.shape, bool)
    is_first[:, 1:] = (gaps[..., 1:] != gaps[..., :-1]).any(axis=1)
    n_outputs = np.diff(np.flatnonzero(is_first), append=is_first.size)
    return _Gaps(np.stack([gap[is_first] for gap in gaps.swapaxes(0, 1)]), n_outputs, is_first.sum(axis=1))


def _mean_force(parts: list[_Gaps], attention: np.ndarray) -> np.ndarray:
    """Return E[G_i] [token] where all facts share one attention: R1 with E[u_i] = −E[Σ_b p_b (v_i[b] − v_i[a])]."""
    advantage = np.zeros(len(attention))
    for gaps, n_outputs, n_classes in parts:
        first = np.cumsum(n_classes) - n_classes
        odds = attention @ gaps
        odds -= np.repeat(np.maximum.reduceat(odds, first), n_classes)
        np.exp(odds, out=odds)
        odds *= n_outputs
        odds /= np.repeat(np.add.reduceat(odds, first), n_classes)
        advantage -= gaps @ odds
    advantage /= max(1, sum(len(part.n_classes) for part in parts))
    return attention * (advantage - attention @ advantage)


def _forces(parts: list[_Gaps], attention: np.ndarray) -> np.ndarray:
    """Return each fact's force G [token fact], where every fact has attention [token fact] of its own: R1."""
    forces, done = [], 0
    for gaps, n_outputs, n_classes in parts:
        first = np.cumsum(n_classes) - n_classes
        attended = attention[:, done : done + len(n_classes)]
        done += len(n_classes)
        odds = sum(np.repeat(weight, n_classes) * gap for weight, gap in zip(attended, gaps, strict=True))
        odds = n_outputs * np.exp(odds - np.repeat(np.maximum.reduceat(odds, first), n_classes))
        advantage = -np.add.reduceat(gaps * odds, first, axis=1) / np.add.reduceat(odds, first)
        forces.append(attended * (advantage - (attended * advantage).sum(axis=0)))
    return np.concatenate(forces, axis=1) if forces else np.zeros((3, 0))
