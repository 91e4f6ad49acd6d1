r"""The factored model: the tokens' values and attention logits as arrays, with closed-form gradients.

With structured embeddings φ(s) = √ρ θ_S + √(1-ρ) e_s the dense model's SGD is a linear map on these arrays: an update
through φ(x) reaches what x shares with its kind at rate ρ and what is its own at rate 1-ρ (tested against the dense
form over whole runs). A step touches the rows of its batch only, so its cost does not depend on the number of subjects.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from theory.model.config import MAX_LOSS, ModelConfig, Prompt, Weights
from theory.model.traced import Constants, Rates, rates


class Values(NamedTuple):
    """The value v_x of each token: what attention to it adds to the output logits."""

    subject: Float[Array, "subject output"]
    relation: Float[Array, "relation output"]
    template: Float[Array, " output"]
    shared: Float[Array, "kind output"]
    """Read by all subjects (0) and all relations (1); moves only where `value_share` > 0."""


class Logits(NamedTuple):
    """The attention logits, in the parts that W_KQ's update moves apart."""

    shared: Float[Array, " kind"]
    subject: Float[Array, " subject"]
    relation: Float[Array, " relation"]
    template: Float[Array, ""]
    shared_by_relation: Float[Array, " relation"]
    """All subjects, seen from one relation as the query; moves only where the query is the relation."""
    subject_by_relation: Float[Array, "subject relation"]


class Facts(NamedTuple):
    """A batch of facts, or all of them, as ids."""

    subject: Int[Array | np.ndarray, "*fact"]
    relation: Int[Array | np.ndarray, "*fact"]
    answer: Int[Array | np.ndarray, "*fact"]

    def take(self, index: Int[Array | np.ndarray, "*row"]) -> "Facts":
        return Facts(*(ids[index] for ids in self))


class Term(NamedTuple):
    """What a remedy adds to the loss of a batch of question prompts, and its negative gradients, fact by fact."""

    loss: Callable[[Float[Array, "token fact"], Float[Array, "fact output"]], Float[Array, ""]]
    """From attention and output logits: what the dense model differentiates."""
    residual: Callable[[Float[Array, "fact output"]], Float[Array, "fact output"]] | None = None
    """From the output's probabilities to the negative gradient on the output logits."""
    force: Callable[[Float[Array, "token fact"]], Float[Array, "token fact"]] | None = None
    """From attention to the negative gradient on the attention logits, beside what goes through the output."""


def initial_values(config: ModelConfig, n_subjects: int, n_relations: int, n_answers: int, dtype: jnp.dtype) -> Values:
    """Return the values before pretraining: nothing stored, the template followed by filler."""
    n_outputs = n_answers + config.n_filler
    return Values(
        jnp.zeros((n_subjects, n_outputs), dtype),
        jnp.zeros((n_relations, n_outputs), dtype),
        jnp.asarray(template_value(config, n_answers, dtype)),
        jnp.zeros((2, n_outputs), dtype),
    )


def template_value(config: ModelConfig, n_answers: int, dtype: Any) -> Float[np.ndarray, " output"]:
    """Return the value of the template: filler follows it. No step of pretraining reads or moves it."""
    value = np.zeros(n_answers + config.n_filler, dtype)
    value[n_answers:] = config.template_strength
    return value


def initial_logits(values: Values, prompt: Prompt) -> Logits:
    """Return uniform attention over the prompt's tokens (a prompt without template gives it none)."""
    n_subjects, n_relations, dtype = len(values.subject), len(values.relation), values.template.dtype
    by_relation = 0 if prompt == "template" else n_relations
    return Logits(
        jnp.zeros(2, dtype),
        jnp.zeros(n_subjects, dtype),
        jnp.zeros(n_relations, dtype),
        jnp.asarray(0.0 if prompt == "template" else -jnp.inf, dtype),
        jnp.zeros(by_relation, dtype),
        jnp.zeros((n_subjects if by_relation else 0, by_relation), dtype),
    )


def loss_and_residual(
    output: Float[Array, "fact output"],
    answer: Int[Array | np.ndarray, " fact"],
    count: Float[Array | np.ndarray, " output"] | None = None,
    *,
    n_filler: Float[Array | np.ndarray, ""] | None = None,
) -> tuple[Float[Array, " fact"], Float[Array, "fact output"]]:
    r"""Return the loss $-\log p_a$ and its negative gradient on the output logits, $e_a - p$.

    Of outputs that stand for several, each one's probability and gradient.

    The softmax is shifted by the answer's logit, not by the largest: the loss is then the log of the sum, and no pass
    for the maximum is needed. Gaps above `MAX_LOSS` are cut, which leaves a loss of at least `MAX_LOSS`: divergence.

    Args:
        n_filler: how many more outputs there are, all of logit 0; the gradients are then less a filler's.
    """
    at_answer = jnp.take_along_axis(output, answer[:, None], axis=-1, mode="promise_in_bounds")
    odds = _apart(jnp.exp(jnp.minimum(output - at_answer, MAX_LOSS)))
    # As a product with a vector: a CPU's sum along rows is slow.
    counted = jnp.ones((output.shape[-1], 1), output.dtype) if count is None else jnp.asarray(count)[:, None]
    total = odds @ counted
    is_answer = jnp.arange(output.shape[-1]) == answer[:, None]
    if n_filler is None:
        return jnp.log(total[:, 0]), is_answer - odds * (1 / total)
    filler = jnp.exp(jnp.minimum(-at_answer, MAX_LOSS))
    total += n_filler * filler
    return jnp.log(total[:, 0]), is_answer - (odds - filler) * (1 / total)


def probability(
    output: Float[Array, "fact output"], count: Float[Array | np.ndarray, " output"] | None
) -> Float[Array, "fact output"]:
    """Return the softmax; of outputs that stand for several, each one's."""
    if count is None:
        return jax.nn.softmax(output)
    return jax.nn.softmax(output + jnp.log(count)) / count


def recalled(output: Float[Array, "fact output"], answer: Int[Array | np.ndarray, " fact"]) -> Bool[Array, " fact"]:
    """Return whether the answer's logit is strictly the largest: a tie is not recalled. (XLA's argmax is slow.)"""
    is_answer = jnp.arange(output.shape[-1]) == answer[:, None]
    best_rival = jnp.where(is_answer, -jnp.inf, output).max(axis=-1)
    return jnp.take_along_axis(output, answer[:, None], axis=-1)[:, 0] > best_rival


def fact_logits(values: Values, facts: Facts, constants: Constants) -> Float[Array, "fact output"]:
    """Return the output logits of pretraining prompts (subject, relation) under uniform attention."""
    output = 0.5 * (_rows(values.subject, facts.subject) + _rows(values.relation, facts.relation))
    return output + 0.5 * values.shared.sum(axis=0) if constants.value_share is not None else output


def _rows(values: Float[Array, "token output"], ids: Int[Array | np.ndarray, " fact"]) -> Float[Array, "fact output"]:
    """Return the tokens' rows, copied out before anything is computed from them (fused, a CPU gathers one by one)."""
    return _apart(values.at[ids].get(mode="promise_in_bounds"))


def on_cpu() -> bool:
    """Return whether programs are compiled for a CPU, which is fast at other things than an accelerator."""
    return jax.default_backend() == "cpu"


def _apart(computed: Array) -> Array:
    """Return the array, on a CPU computed before what reads it; a GPU's kernels are few if they are fused."""
    return jax.lax.optimization_barrier(computed) if on_cpu() else computed


def _add_rows(
    to: Float[Array, "row ..."], ids: Int[Array | np.ndarray, " fact"], change: Float[Array | np.ndarray, "fact ..."]
) -> Float[Array, "row ..."]:
    """Return the few rows with what each fact adds to its own.

    A GPU would add the many facts of a row one at a time, in an order of its own: there it is a product.
    """
    if on_cpu():
        return to.at[ids].add(change, mode="promise_in_bounds")
    is_own = jnp.arange(len(to))[:, None] == ids
    return to + is_own.astype(change.dtype) @ change


def fact_step(
    values: Values,
    batch: Facts,
    rate: Float[Array, ""],
    constants: Constants,
    *,
    n_filler: Float[Array | np.ndarray, ""] | None = None,
) -> tuple[Values, Float[Array, " fact"]]:
    """Return the values after one SGD step on prompts (subject, relation) under uniform attention, and the losses.

    Args:
        n_filler: how many fillers there are, if the values are less a filler's, which then is none of the outputs.
    """
    output = fact_logits(values, batch, constants)
    loss, residual = loss_and_residual(output, batch.answer, constants.multiplicity, n_filler=n_filler)
    weight = jnp.full_like(loss, 0.5 * rate / len(loss))
    return _add_values(values, batch, (weight, weight, None), residual, constants), loss


def with_filler(
    rows: Float[Array, "*token answer"], n_filler: Float[Array | np.ndarray, ""]
) -> Float[Array, "*token output"]:
    """Return values with one filler's after the answers', from values less the filler's.

    A step leaves the sum over all outputs as it is, which is 0 at the start: residuals add up to nothing.
    """
    filler = rows.sum(axis=-1, keepdims=True) * (-1 / (rows.shape[-1] + n_filler))
    return jnp.concatenate([rows + filler, filler], axis=-1)


def forward(
    values: Values, logits: Logits, facts: Facts, constants: Constants
) -> tuple[Float[Array, "token fact"], tuple[Float[Array, "..."], ...], Float[Array, "fact output"]]:
    """Return attention, the three tokens' values and the output logits of question prompts."""
    subject_logit = logits.shared[0] + logits.subject[facts.subject]
    if logits.shared_by_relation.size:
        subject_logit += logits.shared_by_relation[facts.relation]
        subject_logit += logits.subject_by_relation[facts.subject, facts.relation]
    relation_logit = logits.shared[1] + logits.relation[facts.relation]
    scores = jnp.stack([subject_logit, relation_logit, jnp.broadcast_to(logits.template, subject_logit.shape)])
    attention = jax.nn.softmax(scores, axis=0)
    subject, relation = _rows(values.subject, facts.subject), _rows(values.relation, facts.relation)
    if constants.value_share is not None:
        subject, relation = subject + values.shared[0], relation + values.shared[1]
    token_values = (subject, relation, values.template[None])
    output = sum(weight[:, None] * value for weight, value in zip(attention, token_values, strict=True))
    return attention, token_values, jnp.asarray(output)


def question_step(
    values: Values,
    logits: Logits,
    batch: Facts,
    rate: Float[Array, ""] | None,
    value_rate: Float[Array, ""] | None,
    constants: Constants,
    prompt: Prompt,
    terms: Sequence[Term] = (),
) -> tuple[Values, Logits, Float[Array, " fact"]]:
    r"""Return values and logits after one SGD step on question prompts, and the losses.

    The force on token i's logit is $G_i = α_i (u_i - Σ_j α_j u_j)$ with $u_i = (e_a - p)^⊤ v_i$ (R1).
    The logits move at `rate` and the values at `value_rate`; what has no rate stays. Terms add their own residuals and
    forces; the losses are without them.
    """
    attention, token_values, output = forward(values, logits, batch, constants)
    count = constants.multiplicity
    loss, residual = loss_and_residual(output, batch.answer, count)
    residuals = [term.residual for term in terms if term.residual is not None]
    if residuals:
        tuned = jax.nn.one_hot(batch.answer, residual.shape[-1], dtype=residual.dtype) - residual
        residual = sum((of(tuned) for of in residuals), start=residual)
    if rate is not None:
        total_residual = residual if count is None else residual * count
        # As products with a vector: a CPU's sum along rows is slow.
        ones = jnp.ones((total_residual.shape[-1], 1), total_residual.dtype)
        advantage = jnp.stack([((total_residual * value) @ ones)[:, 0] for value in token_values])
        force = attention * (advantage - (attention * advantage).sum(axis=0))
        forces = [term.force for term in terms if term.force is not None]
        force = sum((of(attention) for of in forces), start=force)
        logits = _add_logits(logits, batch, force * (rate / len(loss)), rates(constants.shared_share, prompt))
    if value_rate is not None:
        subject, relation, template = attention * (value_rate / len(loss))
        values = _add_values(values, batch, (subject, relation, template), residual, constants)
    return values, logits, loss


def _add_values(
    values: Values,
    batch: Facts,
    weights: tuple[Float[Array, " fact"], Float[Array, " fact"], Float[Array, " fact"] | None],
    residual: Float[Array, "fact output"],
    constants: Constants,
) -> Values:
    """Return the values moved by each token's weight times residual, each part at its rate."""
    own = 1 - constants.shared_share
    by_subject, by_relation, by_template = weights
    subject_residual = by_subject[:, None] * residual
    relation_residual = by_relation[:, None] * residual
    moved = values._replace(
        subject=values.subject.at[batch.subject].add(own * subject_residual, mode="promise_in_bounds"),
        relation=_add_rows(values.relation, batch.relation, own * relation_residual),
    )
    if by_template is not None:
        moved = moved._replace(template=values.template + by_template @ residual)
    if constants.value_share is not None:
        both = jnp.stack([subject_residual.sum(axis=0), relation_residual.sum(axis=0)])
        moved = moved._replace(shared=values.shared + constants.shared_share * constants.value_share * both)
    return moved


def _add_logits(logits: Logits, batch: Facts, change: Float[Array, "token fact"], rate: Rates) -> Logits:
    """Return the logits moved by `change`, summed over the batch, each part at its rate."""
    subject, relation, template = change
    by_relation = _add_rows(jnp.zeros_like(logits.relation), batch.relation, relation)
    moved = Logits(
        logits.shared + jnp.stack([rate.shared[0] * subject.sum(), rate.shared[1] * relation.sum()]),
        logits.subject.at[batch.subject].add(rate.subject * subject),
        logits.relation + rate.relation * by_relation,
        logits.template + rate.template * template.sum(),
        logits.shared_by_relation,
        logits.subject_by_relation,
    )
    if not logits.shared_by_relation.size:
        return moved
    return moved._replace(
        shared_by_relation=moved.shared_by_relation.at[batch.relation].add(rate.shared_by_relation * subject),
        subject_by_relation=moved.subject_by_relation.at[batch.subject, batch.relation].add(
            rate.subject_by_relation * subject
        ),
    )


def of_weights(weights: Weights) -> tuple[Values, Logits]:
    """Return a model as its measurements see it as one that is trained on, in float64; to be called under x64."""
    subject, relation, template, *logits = (jnp.asarray(part, jnp.float64) for part in weights)
    values = Values(subject, relation, template, jnp.zeros((2, len(template))))
    start = initial_logits(values, "template")
    return values, start._replace(subject=logits[0], relation=logits[1], template=logits[2])


def weights(values: Values, logits: Logits, *, n_filler: int = 1, alike: Weights | None = None) -> Weights:
    """Return the model as its measurements see it, the last output as often as it stands for a filler.

    Args:
        alike: a model of the same values, whose arrays are taken: the filler is not repeated once more.
    """
    value: Any
    value, logit = jax.tree.map(np.asarray, (values, logits))
    subject_logit = logit.shared[0] + logit.subject
    if logit.shared_by_relation.size:
        subject_logit = subject_logit[:, None] + logit.shared_by_relation + logit.subject_by_relation
    relation_logit = logit.shared[1] + logit.relation
    if alike is not None:
        return alike._replace(subject_logit=subject_logit, relation_logit=relation_logit, template_logit=logit.template)
    if n_filler > 1:
        repeats = np.append(np.ones(value.template.shape[-1] - 1, int), n_filler)
        value = jax.tree.map(lambda rows: np.repeat(rows, repeats, axis=-1), value)
    is_shared = value.shared.any()
    return Weights(
        value.subject + value.shared[0] if is_shared else value.subject,
        value.relation + value.shared[1] if is_shared else value.relation,
        value.template,
        subject_logit,
        relation_logit,
        logit.template,
    )
