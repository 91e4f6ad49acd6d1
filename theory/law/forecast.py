r"""R5 over many worlds and arms at once: where finetuning will take held-out attention, from the base models alone.

The flow is that of `flow.held_out_flow`, the reference, which takes one arm at a time. It is stiff along the template's
logit: explicit methods took up to 30 times as many steps, implicit Runge–Kutta methods 4 to 10 times as long. A
Rosenbrock method needs the exact Jacobian, which costs less than the force: both are means over the same probabilities.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core.config_json import remedies
from theory.config import Config
from theory.engine import rosenbrock
from theory.engine.batched import Program, stack
from theory.inputs import Prepared
from theory.law import predict
from theory.model import factored
from theory.model.traced import Constants

TOLERANCE = 3e-2
"""Error allowed per step in each attention logit, absolute plus relative: shares stay within 0.001 of the reference."""
SHORT = 100.0
"""Horizon below which the tolerance shrinks with it: the flow forgets early errors, but not at once."""
FINEST = 1 / 30
"""Least share of the tolerance that is asked for."""
MAX_STEPS = 500
"""Most steps of one arm, refused ones included; 10 to 40 are usual. A flow that needs more gives nan."""


class Forecast(NamedTuple):
    """Held-out prompts' attention at the end of finetuning: means over the relations, weighted by the arm's facts."""

    subject_share: Float[np.ndarray, "world arm"]
    subject_attention: Float[np.ndarray, "world arm"]


def applies(config: Config) -> bool:
    """Return whether finetuning is what R5 is about: question prompts with a template, plain SGD, nothing added."""
    is_sgd = config.finetune.optimizer == "sgd" and config.finetune.train != "values"
    return not remedies(config.finetune) and is_sgd and config.finetune.prompt == "template"


def run(prepared: Sequence[Prepared], arms: Sequence[str]) -> Forecast:
    """Return the forecast of these arms, as `integrate` does, for factored models of one structure.

    Of a base model that diverged it means nothing, and says nothing of an overflow.
    """
    sizes = np.array([[len(base.split.arms[arm]) for arm in arms] for base in prepared])
    rows = np.zeros((*sizes.shape, sizes.max()), np.int32)
    for (world, arm), size in np.ndenumerate(sizes):
        rows[world, arm, :size] = prepared[world].split.arms[arms[arm]]
    finetunings = [base.unit.config.finetune for base in prepared]
    horizon = np.array([finetuning.learning_rate * finetuning.steps for finetuning in finetunings])
    horizon[[base.diverged_at >= 0 for base in prepared]] = 0.0
    values, facts, constants = stack([(of.base, of.world.facts, of.world.constants) for of in prepared])
    return integrate(values, facts, constants, rows, sizes, horizon=horizon)


def integrate(
    values: factored.Values,
    facts: factored.Facts,
    constants: Constants,
    rows: Int[np.ndarray, "world arm row"],
    sizes: Int[np.ndarray, "world arm"],
    *,
    horizon: Float[np.ndarray, " world"],
) -> Forecast:
    r"""Return where each arm's flow is at its horizon (R5 with R3's rates), in the precision of `values`.

    Finetuning is by SGD on W_KQ alone, of question prompts with the template. Of an arm with more than
    `predict.ELEMENTS` values, evenly spaced facts stand for all, as in `predict.arm_flow`. nan where the base model is
    not finite, the arm empty, the odds against an answer beyond the precision's range, or the flow not at its end after
    `MAX_STEPS`: of the last two there is a warning.

    Args:
        values: the base models', stacked over worlds.
        facts: all facts of each world, stacked over worlds.
        constants: the models', stacked over worlds: ρ, and how many outputs each one of the values stands for.
        rows: facts of each arm; those beyond an arm's size are padding.
        sizes: the arms' numbers of facts.
        horizon: τ = SGD rate on W_KQ times steps.

    Raises:
        ValueError: if a horizon is negative or nan.
    """
    if not np.all(horizon >= 0):
        raise ValueError("horizons must be numbers, and not negative")
    rows, sizes = _spread(rows, sizes, max(1, predict.ELEMENTS // (3 * values.template.shape[-1])))
    widths = np.array([_width(int(size)) for size in sizes.max(axis=0)])
    layout = tuple((int(width), tuple(np.flatnonzero(widths == width).tolist())) for width in np.unique(widths))
    rows = np.pad(rows, ((0, 0), (0, 0), (0, widths.max())))[..., : widths.max()]
    is_real = np.ones(len(rows), values.template.dtype)
    worlds = (values, facts, constants, rows, sizes, horizon.astype(is_real.dtype))
    share, attention, is_late, overflows = _program(layout)(is_real, *worlds)
    overflows = overflows & (horizon[:, None] > 0)
    for which, what in ((is_late, f"were not at their end after {MAX_STEPS} steps"), (overflows, "overflow")):
        if which.any():
            warnings.warn(f"R5: {which.sum()} of {which.size} flows {what}: nan", RuntimeWarning, stacklevel=2)
    return Forecast(share, attention)


def _spread(rows: np.ndarray, sizes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most n rows of each arm, evenly spaced, and how many they are."""
    if sizes.max() <= n:
        return rows, sizes
    fewer = np.minimum(sizes, n)
    chosen = np.zeros((*sizes.shape, n), np.int64)
    for arm, size in np.ndenumerate(sizes):
        chosen[arm][: fewer[arm]] = np.linspace(0, size - 1, fewer[arm]).astype(int)
    return np.take_along_axis(rows, chosen, axis=2), fewer


def _width(size: int) -> int:
    """Return the size rounded up, by an eighth at most: splits that differ by a few facts share a program."""
    step = 1 << max(0, size.bit_length() - 4)
    return max(1, -(-size // step) * step)


@lru_cache(maxsize=32)
def _program(layout: tuple[tuple[int, tuple[int, ...]], ...]) -> Program:
    """Return the program for arms of these widths: pairs of a width and the arms that have it."""
    order = np.argsort(np.concatenate([arms for _, arms in layout]))

    def forecast(is_real, values, facts, constants, rows, sizes, horizon):
        def one_arm(group):
            arm = _arm(values, facts, constants, *group)
            end = _flow(arm, constants.shared_share, is_real * horizon)
            weight = arm.weight.sum(axis=1)
            share = jax.nn.sigmoid(end.state[0] - end.state[2:]) @ weight
            overflows = jnp.isfinite(arm.gap).all() & jnp.isfinite(weight).all() & jnp.isnan(share) & ~end.is_late
            return share, _attention(end.state)[:, 0] @ weight, end.is_late, overflows

        groups = [(rows[np.array(arms), :width], sizes[np.array(arms)]) for width, arms in layout]
        forecasts = [jax.lax.map(one_arm, group) for group in groups]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[order], *forecasts)

    # What pads a turn has `is_real` 0, hence horizon 0, and takes no time.
    return Program(forecast)


class _Arm(NamedTuple):
    """What the force reads of an arm."""

    weight: Float[Array, "relation fact"]
    """A fact's share of the arm at its relation, 0 at others; rows beyond the arm's size have none."""
    relation: Int[Array, " fact"]
    gap: Float[Array, "fact output"]
    """The subject's value less its entry for the answer."""
    at_answer: Float[Array, "fact 2"]
    """The relation's and the template's value for the answer."""
    relation_values: Float[Array, "relation output"]
    template: Float[Array, " output"]
    log_count: Float[Array, " output"]
    """Logarithm of the number of outputs that this one stands for."""


def _arm(
    values: factored.Values,
    facts: factored.Facts,
    constants: Constants,
    rows: Int[Array, " fact"],
    size: Int[Array, ""],
) -> _Arm:
    """Return the arm of the first `size` rows, its values gathered."""
    subject, relation, answer = map(jnp.asarray, facts.take(rows))
    own = values.subject[subject] + values.shared[0]
    relation_values = values.relation + values.shared[1]
    is_fact = (jnp.arange(len(relation_values))[:, None] == relation) & (jnp.arange(len(rows)) < size)
    count = constants.multiplicity
    return _Arm(
        jnp.where(size > 0, is_fact / size.astype(own.dtype), jnp.nan),
        relation,
        own - jnp.take_along_axis(own, answer[:, None], axis=1),
        jnp.stack([relation_values[relation, answer], values.template[answer]], axis=1),
        relation_values,
        values.template,
        jnp.zeros_like(values.template) if count is None else jnp.log(count),
    )


def _flow(arm: _Arm, rho: Float[Array, ""], horizon: Float[Array, ""]) -> rosenbrock.End:
    """Return the end of the flow of κ_S, κ_q and every relation's logit, from uniform attention."""

    def velocity(logits):
        attention = _attention(logits)
        return _velocity(attention, _advantage(arm, _probability(arm, attention)), rho)

    def linearise(logits):
        attention = _attention(logits)
        p = _probability(arm, attention)
        advantage, covariance = _advantage(arm, p), _covariance(arm, p)

        def nearby(logits):
            moved = _attention(logits)
            return _velocity(moved, advantage - jnp.einsum("rij,rj->ri", covariance, moved - attention), rho)

        return nearby(logits), jax.jacfwd(nearby)(logits)

    start = jnp.zeros(2 + len(arm.relation_values), arm.gap.dtype)
    tolerance = TOLERANCE * jnp.clip(horizon / SHORT, FINEST, 1)
    return rosenbrock.integrate(velocity, linearise, start, horizon, tolerance=tolerance, max_steps=MAX_STEPS)


def _attention(logits: Float[Array, " logit"]) -> Float[Array, "relation token"]:
    """Return the attention of each relation's prompts on subject, relation and template."""
    shared = jnp.broadcast_to(logits[:2, None], (2, len(logits) - 2))
    return jax.nn.softmax(jnp.stack([shared[0], logits[2:], shared[1]], axis=1), axis=1)


def _probability(arm: _Arm, attention: Float[Array, "relation token"]) -> Float[Array, "fact output"]:
    """Return p of every output. Logits are taken less the answer's, whose excess above 88 nats overflows to nan."""
    by_relation = attention[:, 1:2] * arm.relation_values + attention[:, 2:] * arm.template + arm.log_count
    own = attention[arm.relation]
    logits = own[:, :1] * arm.gap + by_relation[arm.relation] - (own[:, 1:] * arm.at_answer).sum(axis=1)[:, None]
    odds = jnp.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


def _advantage(arm: _Arm, p: Float[Array, "fact output"]) -> Float[Array, "relation token"]:
    """Return E[1{r} u_i], u_i = v_i[a] - p·v_i being the advantage of attention to token i (R1)."""
    expected = arm.weight @ p
    subject = arm.weight @ (p * arm.gap).sum(axis=1)
    relation = (expected * arm.relation_values).sum(axis=1)
    at_answer = arm.weight @ arm.at_answer
    return jnp.stack([-subject, at_answer[:, 0] - relation, at_answer[:, 1] - expected @ arm.template], axis=1)


def _covariance(arm: _Arm, p: Float[Array, "fact output"]) -> Float[Array, "relation token token"]:
    """Return E[1{r} Cov_p(v_i, v_j)]: less it is the derivative of `_advantage` by attention."""
    relation, template, own = arm.relation_values, arm.template, p * arm.gap
    mean = jnp.stack([own.sum(axis=1), (p * relation[arm.relation]).sum(axis=1), p @ template], axis=1)
    by_subject, by_relation = arm.weight @ own, (arm.weight @ p) * relation
    products = [
        arm.weight @ (own * arm.gap).sum(axis=1),
        (by_subject * relation).sum(axis=1),
        by_subject @ template,
        (by_relation * relation).sum(axis=1),
        by_relation @ template,
        (arm.weight @ p) @ template**2,
    ]
    square = jnp.stack(products, axis=1)[:, np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])]
    return square - jnp.einsum("rf,fi,fj->rij", arm.weight, mean, mean)


def _velocity(
    attention: Float[Array, "relation token"], advantage: Float[Array, "relation token"], rho: Float[Array, ""]
) -> Float[Array, " logit"]:
    """Return dκ/dτ at R3's rates, from R1's force."""
    force = attention * (advantage - (attention * advantage).sum(axis=1, keepdims=True))
    subject, relation, template = force.sum(axis=0)
    return jnp.concatenate([jnp.stack([rho * subject, template]), rho * relation + (1 - rho) * force[:, 1]])
