r"""R1–R4, R6′ and R7: what each fact exerts on attention, what it needs to be recalled, and how salient it becomes.

The statements are ours, derived in closed form from the one-layer model and the salience
$S = \phi(a)^\top W_V\,\phi(s)$ of Ghosal et al. (2024); R5, R6 and R8, which integrate over time, are in `flow.py`. R2
and R3 assume structured embeddings whose shared directions $W_V$ does not read.

Symbols: a prompt's tokens $i$ are, in this order, subject $s$, relation $r$ and template $q$, with attention
$\alpha = \mathrm{softmax}(z)$ and values $v_i = W_U W_V\,\phi(x_i)$ over the outputs $b$. The logits are
$\sum_i \alpha_i v_i$, $p$ their softmax, $a$ the answer, $S = v_s[a]$, and the loss is $L = -\log p_a$. The subject's
share is $t = \alpha_s/(\alpha_s+\alpha_r)$.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Int8
from scipy import integrate, special

from core.closed_form import recalled

STATEMENTS = {
    "R1": "The force on a token's attention logit is its attention times its advantage over the average token.",
    "R2": "A fact's own step raises the subject's share if and only if its salience exceeds a closed-form threshold.",
    "R3": "One step on the training facts moves held-out attention by their mean forces, to first order in the rate.",
    "R4": "A fact is recalled if and only if the subject's share lies in an interval given by the values.",
    "R4+R5": "The base model's values alone predict the accuracy that finetuning an arm's attention ends at.",
    "R5": "The base model's values alone predict the share that finetuning an arm's attention ends at.",
    "R6": "Salience grows linearly with exposure while poorly stored, and logarithmically once well stored.",
    "R7": "The accuracy gap of two arms is, fact by fact, the difference of two interval memberships.",
    "R8": "The arms' order of subject share reverses beyond a level of pretraining that R5 predicts.",
    "R9": "No arm of as many facts ends at a higher share than the largest forces on attention allow.",
}
"""The theory's results, R1 onwards, a sentence each."""
BESIDE = {
    "claim": "Finetuning on the lesser-known half leaves fewer held-out facts recalled than on the better-known half.",
    "design": "Arms train on their own facts alone, and what is measured is measured on facts that no arm has seen.",
}
"""What is tested beside them: the paper's claim, and that the experiment is what it says."""
SUBJECT, RELATION, TEMPLATE = 0, 1, 2
GROWTH = np.concatenate([[0.0], np.geomspace(1e-3, 1e9, 6001)])
"""The parameter $u$ of R6′, where its curves are tabulated."""
_FACTS_AT_ONCE = 256  # R4 holds a few arrays of this many facts by all outputs, small enough to stay in cache


def probability(
    attention: Float[np.ndarray, "fact token"], values: Float[np.ndarray, "fact token output"]
) -> Float[np.ndarray, "fact output"]:
    r"""Return each output's probability, $p = \mathrm{softmax}(\sum_i \alpha_i v_i)$ (Ghosal et al. 2024)."""
    return special.softmax(_logits(attention, values), axis=1)


def force(
    attention: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    probability: Float[np.ndarray, "fact output"],
    answer: Int[np.ndarray, " fact"],
) -> Float[np.ndarray, "fact token"]:
    r"""Return the force on each token's attention logit, $G_i = -\partial L/\partial z_i$ (R1).

    The loss depends on $z$ through the logits alone: $-\partial L/\partial\,\mathrm{logits} = e_a - p$ and
    $\partial\,\mathrm{logits}/\partial z_i = \alpha_i (v_i - \sum_j \alpha_j v_j)$. With $u_i = (e_a - p)^\top v_i$,
    $$G_i = \alpha_i (u_i - \bar u), \qquad \bar u = \sum_j \alpha_j u_j.$$
    Exact. Positive where one gradient step moves attention toward the token; each fact's forces sum to zero.
    """
    advantage = _of_answer(values, answer) - np.einsum("fto,fo->ft", values, probability)
    return attention * (advantage - np.sum(attention * advantage, axis=1, keepdims=True))


def share_force(
    attention: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
) -> Float[np.ndarray, " fact"]:
    r"""Return the force on the log odds of the subject's share, $H = G_s - G_r$ (R2).

    Because $\mathrm{logit}(t) = z_s - z_r$, a fact's own small step raises its share $t$ if and only if $H > 0$.
    Exact, and accurate also where $p_a$ is within rounding of 1. The formula is in `share_force_at`.
    """
    salience = _of_answer(values, answer)[:, SUBJECT]
    return share_force_at(salience[:, None], attention, values, answer)[:, 0]


def share_force_at(
    salience: Float[np.ndarray, "fact point"],
    attention: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
) -> Float[np.ndarray, "fact point"]:
    r"""Return the share force each fact would exert at other saliences, everything else fixed (R2).

    The other outputs' mean value $m_i = \sum_{b\ne a} p_b v_i[b]/(1-p_a)$ does not depend on $S$, and
    $u_i = (1-p_a) w_i$ with $w_i = v_i[a] - m_i$. Put into $G_s - G_r$ of R1:
    $$H = (1-p_a)\,[\alpha_s(1-\alpha_s+\alpha_r) w_s - \alpha_r(1+\alpha_s-\alpha_r) w_r
        - (\alpha_s-\alpha_r)\alpha_q w_q].$$
    Only $w_s = S - m_s$ and $p_a$ move with $S$, so $H = (1-p_a)\,\alpha_s(1-\alpha_s+\alpha_r)\,(S - S^*)$: one
    zero, a single peak above it, and a decay to zero as the fact becomes certain. Exact.
    """
    slope, intercept, log_odds = _share_force_terms(attention, values, answer)
    uncertainty = special.expit(log_odds[:, None] - attention[:, [SUBJECT]] * salience)
    return uncertainty * (slope[:, None] * salience - intercept[:, None])


def salience_threshold(
    attention: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
) -> Float[np.ndarray, " fact"]:
    r"""Return the salience $S^*$ at which each fact's share force changes sign (R2).

    The bracket of `share_force_at` is linear in $S$; its zero is
    $$S^* = m_s + \frac{\alpha_r(1+\alpha_s-\alpha_r) w_r + (\alpha_s-\alpha_r)\alpha_q w_q}
        {\alpha_s(1-\alpha_s+\alpha_r)}.$$
    Exact for $\alpha_s, \alpha_r > 0$. In units of logits, of either sign; $H > 0$ for all $S \ge 0$ iff $S^* < 0$.
    """
    slope, intercept, _ = _share_force_terms(attention, values, answer)
    return intercept / slope


def salience_peak(
    attention: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
) -> Float[np.ndarray, " fact"]:
    r"""Return the salience at which each fact's share force is largest (R2).

    With $1-p_a = 1/(1+e^{\alpha_s S - c})$, $\partial H/\partial S = 0$ reads $p_a\,\alpha_s (S - S^*) = 1$, hence
    $$S = S^* + [1 + \omega(c - \alpha_s S^* - 1)]/\alpha_s,$$ with $\omega$ the Wright omega function. Exact, and
    always above $S^*$. Beyond it the less salient of two otherwise equal facts exerts the larger force.
    """
    slope, intercept, log_odds = _share_force_terms(attention, values, answer)
    threshold, subject = intercept / slope, attention[:, SUBJECT]
    return threshold + (1 + special.wrightomega(log_odds - subject * threshold - 1)) / subject


def transfer(
    force: Float[np.ndarray, "train_fact token"],
    relation: Int[np.ndarray, " train_fact"],
    attention: Float[np.ndarray, "fact token"],
    held_out_relation: Int[np.ndarray, " fact"],
    *,
    rho: float,
    rate: float,
) -> Float[np.ndarray, "fact token"]:
    r"""Return the change of held-out prompts' attention after one full-batch step on $W_{KQ}$ (R3).

    The step adds $\eta\,E_D[\sum_i G_i \phi(x_i)]\,\phi(q)^\top$, so $\Delta z_j = \eta\,E_D[\sum_i G_i
    \phi(x_j)^\top\phi(x_i)]$. Two subjects overlap by $\rho$, two relations by $\rho$ or (the same one) by 1:
    $$\Delta z_{s'} = \eta\rho E_D[G_s], \quad \Delta z_{r'} = \eta(\rho E_D[G_r] + (1-\rho) E_D[1\{r=r'\} G_r]),
        \quad \Delta z_q = \eta E_D[G_q],$$
    and $\Delta\alpha = \alpha \odot (\Delta z - \alpha\cdot\Delta z) + O(\eta^2)$.

    Args:
        attention: of the held-out prompts before the step; their subjects must be absent from the training facts.
        rho: share of an embedding that lies in its kind's common direction, 0 to 1.
        rate: SGD rate $\eta$ on $W_{KQ}$.
    """
    mean = force.mean(axis=0)
    n_relations = int(max(relation.max(), held_out_relation.max())) + 1
    of_relation = np.bincount(relation, weights=force[:, RELATION], minlength=n_relations) / len(force)
    change = np.empty_like(attention)
    change[:, SUBJECT] = rate * rho * mean[SUBJECT]
    change[:, RELATION] = rate * (rho * mean[RELATION] + (1 - rho) * of_relation[held_out_relation])
    change[:, TEMPLATE] = rate * mean[TEMPLATE]
    return attention * (change - np.sum(attention * change, axis=1, keepdims=True))


def critical_attention(
    values: Float[np.ndarray, "fact token output"],
    template_attention: Float[np.ndarray, " fact"],
    answer: Int[np.ndarray, " fact"],
) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"]]:
    r"""Return the bounds $(t_{lo}, t_{hi})$ of the subject shares at which each fact is recalled (R4).

    With $\alpha_q$ held, the margin over an output $b \ne a$, $\sum_i \alpha_i (v_i[a] - v_i[b])$, is linear in $t$:
    $(1-t)\,M_0 + t\,M_1$, with $M_0$ (all on the relation) and $M_1$ (all on the subject). It is positive on $(0,1)$
    beyond $M_0/(M_0-M_1)$ if $M_0 \le 0 < M_1$, below it if $M_1 \le 0 < M_0$, everywhere or nowhere otherwise. The
    intersection over $b$ is an open interval: for every $0 < t < 1$, `lower < t < upper` is recall (argmax; a tie is
    not recalled). Exact. Bounds lie in $[0, 1]$; `lower >= upper` where no share recalls the fact.
    """
    lower, upper = np.empty(len(answer)), np.empty(len(answer))
    for first in range(0, len(answer), _FACTS_AT_ONCE):
        part = slice(first, first + _FACTS_AT_ONCE)
        lower[part], upper[part] = _critical(values[part].astype(np.float64), template_attention[part], answer[part])
    return lower, upper


def gap_by_fact(
    share_a: Float[np.ndarray, " fact"],
    interval_a: tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"]],
    share_b: Float[np.ndarray, " fact"],
    interval_b: tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"]],
) -> Int8[np.ndarray, " fact"]:
    r"""Return each fact's contribution to arm A's lead over arm B, $-1$, 0 or 1 (R7).

    By R4, $1\{t_{lo,A} < t_A < t_{hi,A}\} - 1\{t_{lo,B} < t_B < t_{hi,B}\}$; the mean is the accuracy gap. Exact.

    Args:
        interval_a: what `critical_attention` returns for arm A's own values and template attention.
        interval_b: the same for arm B.
    """
    return recalled(share_a, *interval_a).astype(np.int8) - recalled(share_b, *interval_b).astype(np.int8)


def net_crossing(
    share_a: Float[np.ndarray, " fact"],
    share_b: Float[np.ndarray, " fact"],
    lower: Float[np.ndarray, " fact"],
    upper: Float[np.ndarray, " fact"],
) -> float:
    r"""Return the net share of facts whose critical share lies between the arms' shares (R7).

    At equal template attention and frozen values both arms have one interval, and the gap is a count of crossings:
    going from $t_B$ to $t_A$, a $t_{lo}$ passed upward or a $t_{hi}$ passed downward gains the fact, and the reverse
    loses it. Facts with an empty interval gain and lose nothing. Exact; from $-1$ to 1.
    """
    gained = (lower < share_a).astype(np.int8) - (lower < share_b)
    lost = (upper <= share_a).astype(np.int8) - (upper <= share_b)
    return float(np.mean((gained - lost) * (lower < upper)))


def unfitted_salience(
    exposure: Float[np.ndarray, "fact ..."],
    answer: Int[np.ndarray, " fact"],
    frequency: Float[np.ndarray, " answer"],
    attention: float,
) -> Float[np.ndarray, "fact ..."]:
    r"""Return each fact's salience after pretraining from exposure and its answer's frequency, nothing fitted (R6′).

    The facts are one relation's, whose value has learnt the answers' frequencies $q_b$. A prompt then moves the
    subject's value by $dv/d(k\tau) = e_a - p$, $p_b \propto q_b e^{\alpha v_b}$, from $v = 0$. With
    $D = \sum_b q_b e^{\alpha v_b}$ and $du = d(k\tau)/D$ each competitor obeys
    $e^{-\alpha v_b} = 1 + \alpha q_b u$, and $\sum_b v_b = 0$, so
    $$S(u) = \frac1\alpha \sum_{b\ne a} \ln(1 + \alpha q_b u), \qquad
        k\tau = S + q_a \int_0^u e^{\alpha S(u')}\,du'.$$
    Where competitors are many and each is rare, $S = (1-q_a)u$ and this is R6 with $Z = 1/q_a - 1$; otherwise they are
    pushed down as the fact is stored, and $Z$ falls. Exact under these assumptions; computed to about $10^{-3}$ nats.

    Args:
        exposure: $k\tau$ of R6.
        answer: indices into `frequency`.
        frequency: $q$ of the relation's answers, at least 0; they sum to 1.
        attention: $\alpha$ on the subject, above 0 (one half in pretraining).
    """
    salience = np.empty(exposure.shape)
    for chosen, needed, reached in growth(frequency, np.unique(answer), attention):
        rows = answer == chosen
        salience[rows] = np.interp(exposure[rows], needed, reached)
    return salience


def growth(
    frequency: Float[np.ndarray, " answer"], answers: Int[np.ndarray, " chosen"], attention: float
) -> Iterator[tuple[int, Float[np.ndarray, " point"], Float[np.ndarray, " point"]]]:
    r"""Yield each of these answers with $k\tau(u)$ and $S(u)$ of R6′, at the `GROWTH` of $u$."""
    of_all = np.log1p(attention * frequency[:, None] * GROWTH).sum(axis=0)
    for chosen in answers.tolist():
        log_odds = of_all - np.log1p(attention * frequency[chosen] * GROWTH)
        odds = np.exp(np.minimum(log_odds, 600.0))
        needed = log_odds / attention + frequency[chosen] * integrate.cumulative_trapezoid(odds, GROWTH, initial=0)
        yield chosen, needed, log_odds / attention


def _logits(attention: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the logits [fact output]."""
    return np.einsum("ft,fto->fo", attention, values)


def _of_answer(values: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Return every token's value for the fact's own answer [fact token]."""
    return np.take_along_axis(values, answer[:, None, None], axis=2)[..., 0]


def _share_force_terms(
    attention: np.ndarray, values: np.ndarray, answer: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Return slope, intercept and $c$ such that $H(S) = (slope\,S - intercept)/(1 + e^{\alpha_s S - c})$."""
    logits = _logits(attention, values)
    np.put_along_axis(logits, answer[:, None], -np.inf, axis=1)
    log_mass = np.asarray(special.logsumexp(logits, axis=1))
    own, others = _of_answer(values, answer), np.einsum("fto,fo->ft", values, np.exp(logits - log_mass[:, None]))
    s, r, q = attention.T
    w = own - others
    slope = s * (1 - s + r)
    intercept = slope * others[:, SUBJECT] + r * (1 + s - r) * w[:, RELATION] + (s - r) * q * w[:, TEMPLATE]
    return slope, intercept, log_mass - r * own[:, RELATION] - q * own[:, TEMPLATE]


def _critical(values: np.ndarray, template_attention: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `critical_attention` of a few facts."""
    margin = _of_answer(values, answer)[..., None] - values
    template = template_attention[:, None]
    at_zero = (1 - template) * margin[:, RELATION] + template * margin[:, TEMPLATE]
    at_one = (1 - template) * margin[:, SUBJECT] + template * margin[:, TEMPLATE]
    for ends in (at_zero, at_one):  # the answer is no competitor of its own
        np.put_along_axis(ends, answer[:, None], 1.0, axis=1)
    root = np.divide(at_zero, at_zero - at_one, out=np.zeros_like(at_zero), where=(at_zero > 0) != (at_one > 0))
    lower = np.max(root, axis=1, where=(at_zero <= 0) & (at_one > 0), initial=0.0)
    upper = np.min(root, axis=1, where=(at_zero > 0) & (at_one <= 0), initial=1.0)
    never = np.any((at_zero <= 0) & (at_one <= 0), axis=1)
    return np.where(never, 1.0, lower), np.where(never, 0.0, upper)
