"""The dense model: W_V and W_KQ trained by autodiff with any optax optimizer, on any embeddings."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from core.errors import InputError
from theory.model import embeddings, factored
from theory.model.config import ModelConfig, Prompt, Weights
from theory.model.embeddings import Embeddings
from theory.model.traced import Constants, Number


class Parameters(NamedTuple):
    """What is trained."""

    value: Float[Array, "embedding embedding"]
    """W_V, from what attention has read to what is written out."""
    attention: Float[Array, "embedding embedding"]
    """W_KQ, key side first."""


class State(NamedTuple):
    """Parameters and the optimizer's memory."""

    parameters: Parameters
    optimizer: PyTree


def initial(constants: Constants, vectors: Embeddings, n_answers: int) -> Parameters:
    """Return the parameters before pretraining: W_V maps the template to the filler, and nothing else is stored."""
    strength = jnp.where(jnp.arange(len(vectors.output)) < n_answers, 0.0, constants.template_strength)
    reader = embeddings.read(vectors.template, vectors.shared, constants.value_share)[0]
    written = jnp.linalg.pinv(vectors.output) @ strength
    value = jnp.outer(written, reader) / (reader @ reader)
    return Parameters(value, jnp.zeros_like(value))


def forward(
    parameters: Parameters, vectors: Embeddings, facts: factored.Facts, constants: Constants, prompt: Prompt
) -> tuple[Float[Array, "token fact"], Float[Array, "fact output"]]:
    """Return attention and output logits; a prompt without template has no third token."""
    tokens = [vectors.subject[facts.subject], vectors.relation[facts.relation]]
    if prompt == "template":
        tokens.append(jnp.broadcast_to(vectors.template, tokens[0].shape))
    stacked = jnp.stack(tokens)
    query = tokens[-1] @ parameters.attention.T
    attention = jax.nn.softmax((stacked * query).sum(axis=-1), axis=0)
    read = jnp.asarray(embeddings.read(stacked, vectors.shared, constants.value_share))
    if prompt == "fresh_relation":
        read = read.at[1].set(0.0)
    context = (attention[..., None] * read).sum(axis=0)
    return attention, context @ parameters.value.T @ vectors.output.T


def optimizer(name: str, *, value: Number | None, attention: Number | None) -> optax.GradientTransformation:
    """Return optax's optimizer of that name with a rate of its own for each matrix; one without a rate is frozen.

    Raises:
        InputError: optax has no such optimizer, or it needs more than a learning rate.
    """
    build: Any = getattr(optax, name, None)
    rates: dict[Hashable, Number | None] = {"value": value, "attention": attention}
    try:
        chosen = {field: optax.set_to_zero() if rate is None else build(rate) for field, rate in rates.items()}
    except TypeError:
        chosen = {}
    if not chosen or not all(isinstance(transform, optax.GradientTransformation) for transform in chosen.values()):
        raise InputError(f"no optimizer {name!r} in optax that takes a learning rate.\nTry sgd, adam, adamw or lion.")
    return optax.partition(chosen, Parameters._make(Parameters._fields))


def stepper(
    vectors: Embeddings,
    constants: Constants,
    prompt: Prompt,
    transform: optax.GradientTransformation,
    terms: Callable[[factored.Facts], Sequence[factored.Term]] = lambda batch: (),
) -> Callable[[State, factored.Facts], tuple[State, Float[Array, " fact"]]]:
    """Return the function that takes one training step and returns the new state and the batch's losses."""

    def mean_loss(parameters, batch):
        attention, output = forward(parameters, vectors, batch, constants, prompt)
        losses = optax.softmax_cross_entropy_with_integer_labels(output, batch.answer)
        total = losses.mean()
        for term in terms(batch):
            total += term.loss(attention, output)
        return total, losses

    def step(state, batch):
        gradient, losses = jax.grad(mean_loss, has_aux=True)(state.parameters, batch)
        updates, memory = transform.update(gradient, state.optimizer, state.parameters)
        moved: Any = optax.apply_updates(state.parameters, updates)
        return State(Parameters(*moved), memory), losses

    return step


def weights(parameters: Parameters, vectors: Embeddings, config: ModelConfig, prompt: Prompt) -> Weights:
    """Return every token's value and attention logit, as the measurements see them."""
    value, attention = np.asarray(parameters.value), np.asarray(parameters.attention)
    subject, relation, template, shared, output = (np.asarray(rows) for rows in vectors)

    def values(tokens):
        return np.asarray(embeddings.read(tokens, shared, config.value_share)) @ value.T @ output.T

    query = template if prompt == "template" else relation
    subject_logit = subject @ attention @ query.T
    relation_logit = relation @ attention @ query.T
    relation_values = values(relation)
    return Weights(
        values(subject),
        np.zeros_like(relation_values) if prompt == "fresh_relation" else relation_values,
        values(template)[0],
        subject_logit[:, 0] if prompt == "template" else subject_logit,
        relation_logit[:, 0] if prompt == "template" else np.diagonal(relation_logit).copy(),
        np.asarray((template @ attention @ template.T)[0, 0] if prompt == "template" else -np.inf, value.dtype),
    )
