"""The dense model as the oracle: of R1 by autodiff, and of the factored model over a whole run, in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core import seeds
from core.facts.store import Background
from theory import attention, pipeline
from theory.config import Config
from theory.law import theorem
from theory.model import dense, embeddings, factored, traced
from theory.model.config import ModelConfig, Weights

N_SUBJECTS, N_RELATIONS, N_ANSWERS = 40, 4, 20
"""The small world."""


def force_error(config: ModelConfig, *, seed: int) -> float:
    """Return max|ΔG| / max|G| between R1's force and the dense model's derivative, at random parameters."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        model = replace(config, parametrisation="dense", embeddings="structured", dimension=None)
        vectors = embeddings.build(model, N_SUBJECTS, N_RELATIONS, N_ANSWERS + model.n_filler, seed=seed)
        vectors = jax.tree.map(jnp.asarray, vectors)
        subject = np.arange(N_SUBJECTS)
        relation, answer = rng.integers(N_RELATIONS, size=N_SUBJECTS), rng.integers(N_ANSWERS, size=N_SUBJECTS)
        facts = factored.Facts(*map(jnp.asarray, (subject, relation, answer)))
        start = dense.initial(traced.uncounted(model), vectors, N_ANSWERS)
        parameters = jax.tree.map(lambda matrix: matrix + rng.standard_normal(matrix.shape), start)
        measured = _force_by_autodiff(parameters, vectors, facts, model)
        weights = dense.weights(parameters, vectors, model, "template")
    attended = attention.measure(weights, subject, relation)
    template = np.broadcast_to(weights.template_value, (N_SUBJECTS, len(weights.template_value)))
    values = np.stack([weights.subject_values[subject], weights.relation_values[relation], template], axis=1)
    predicted = theorem.force(attended, values, theorem.probability(attended, values), answer)
    return float(np.abs(predicted - measured).max() / np.abs(measured).max())


def _force_by_autodiff(
    parameters: dense.Parameters, vectors: embeddings.Embeddings, facts: factored.Facts, model: ModelConfig
) -> Float[np.ndarray, "fact token"]:
    """Return G from ∂L/∂W_KQ = -Σ_i G_i φ(x_i) φ(q)ᵀ, fact by fact: the tokens' embeddings are independent."""

    def loss(matrix: Float[Array, "embedding embedding"], fact: factored.Facts) -> Float[Array, ""]:
        single = jax.tree.map(lambda ids: ids[None], fact)
        given = parameters._replace(attention=matrix)
        _, output = dense.forward(given, vectors, single, traced.uncounted(model), "template")
        return -jax.nn.log_softmax(output[0])[fact.answer]

    gradient = jax.vmap(jax.grad(loss), (None, 0))(parameters.attention, facts)
    pulled = -(gradient @ vectors.template[0])
    template = jnp.broadcast_to(vectors.template, pulled.shape)
    tokens = jnp.stack([vectors.subject[facts.subject], vectors.relation[facts.relation], template], axis=2)
    return np.asarray(jax.vmap(lambda basis, target: jnp.linalg.lstsq(basis, target)[0])(tokens, pulled))


def parametrisations_error(config: Config, cell: seeds.Cell) -> float:
    """Return the largest difference between both parametrisations' weights after all is pretrained and finetuned."""
    as_factored = replace(
        config,
        facts=replace(config.facts, path=None, n_subjects=N_SUBJECTS, background=Background()),
        model=replace(config.model, parametrisation="factored", embeddings="structured", dimension=None),
        pretrain=replace(config.pretrain, steps=300, train="values", optimizer="sgd"),
        finetune=replace(config.finetune, steps=100, train="everything", optimizer="sgd"),
        precision="float64",
        n_records=5,
    )
    as_dense = replace(as_factored, model=replace(as_factored.model, parametrisation="dense"))
    of_factored, of_dense = (pipeline.simulate(form, [cell])[0].weights for form in (as_factored, as_dense))
    return max(_difference(of_factored[arm], of_dense[arm]) for arm in of_factored)


def _difference(one: Weights, other: Weights) -> float:
    """Return the largest difference of any value or attention logit; absent tokens' infinite logits are equal."""
    pairs = zip(one, other, strict=True)
    return max(float(np.abs(np.subtract(a, b, out=np.zeros(np.shape(a)), where=a != b)).max()) for a, b in pairs)
