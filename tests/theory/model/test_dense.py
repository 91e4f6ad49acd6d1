"""The dense model, its embeddings and optimizers, and its agreement with the factored model over whole runs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import split
from core.errors import InputError
from core.facts.store import FactStore
from core.seeds import Cell
from theory import evaluate, pipeline
from theory.config import Config
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.model import dense, embeddings, factored, traced
from theory.model.config import ModelConfig
from theory.pretrain import PretrainConfig

RUN = Config(
    facts=FactsConfig(n_subjects=16, n_relations=3, n_answers=5),
    model=ModelConfig(n_filler=6, shared_share=0.4),
    pretrain=PretrainConfig(steps=200, batch_size=32),
    finetune=FinetuneConfig(steps=60, batch_size=32, value_learning_rate=0.5),
    precision="float64",
    n_records=2,
)


@pytest.mark.parametrize(
    ("prompt", "train", "value_share"),
    [
        ("template", "attention", 0.3),
        ("template", "everything", 0.3),
        ("bare", "attention", 0.0),
        ("bare", "everything", 0.3),
        ("fresh_relation", "attention", 0.0),
    ],
)
def test_both_forms_are_one_model_over_a_whole_run(prompt, train, value_share):
    finetune = replace(RUN.finetune, prompt=prompt, train=train)
    config = replace(RUN, finetune=finetune, model=replace(RUN.model, value_share=value_share))
    as_dense = replace(config, model=replace(config.model, parametrisation="dense"))
    one, other = (pipeline.simulate(form, [Cell(3, 3, 3)])[0] for form in (config, as_dense))
    for arm in ("base", *split.ARMS):
        for name, here, there in zip(one.weights[arm]._fields, one.weights[arm], other.weights[arm], strict=True):
            np.testing.assert_allclose(here, there, rtol=0, atol=1e-9, err_msg=f"{arm} {name}")
        np.testing.assert_allclose(one.traces[arm].loss, other.traces[arm].loss, atol=1e-9)
    # Something was learned, and moved.
    assert np.abs(one.weights["base"].subject_values).max() > 1
    assert np.abs(one.weights["top"].subject_logit - one.weights["base"].subject_logit).max() > 0.01
    has_moved = (one.weights["top"].subject_values != one.weights["base"].subject_values).any()
    assert has_moved == (train == "everything")


def vectors_of(**settings) -> embeddings.Embeddings:
    return embeddings.build(ModelConfig(parametrisation="dense", **settings), 7, 3, 12, seed=0)


def test_structured_embeddings_share_a_direction_within_a_kind_and_nothing_else():
    vectors = vectors_of(shared_share=0.3)
    tokens = np.concatenate([vectors.subject, vectors.relation, vectors.template])
    expected = np.eye(11)
    expected[:7, :7] += 0.3 * (1 - np.eye(7))
    expected[7:10, 7:10] += 0.3 * (1 - np.eye(3))
    np.testing.assert_allclose(tokens @ tokens.T, expected, atol=1e-12)
    np.testing.assert_allclose(vectors.output @ vectors.output.T, np.eye(12), atol=1e-12)


def test_random_embeddings_overlap_and_are_decided_by_the_seed():
    config = ModelConfig(parametrisation="dense", embeddings="random", dimension=5, shared_share=0.0)
    one, same, other = (embeddings.build(config, 7, 3, 12, seed=seed) for seed in (1, 1, 2))
    assert one.subject.shape == (7, 5) and one.output.shape == (12, 5)
    np.testing.assert_allclose(np.linalg.norm(one.subject, axis=1), 1)
    np.testing.assert_allclose(one.shared @ one.shared.T, np.eye(2), atol=1e-12)
    assert np.abs(one.subject @ one.subject.T - np.eye(7)).max() > 0.1
    np.testing.assert_array_equal(one.subject, same.subject)
    assert (one.subject != other.subject).any()
    assert vectors_of(embeddings="random").subject.shape == (7, 4)


@pytest.mark.parametrize("value_share", [0.0, 0.25, 1.0])
def test_the_values_read_only_their_share_of_the_common_direction(value_share):
    vectors = vectors_of(shared_share=0.36)
    read = np.asarray(embeddings.read(vectors.subject, vectors.shared, value_share))
    np.testing.assert_allclose(read @ vectors.shared[0], 0.6 * np.sqrt(value_share), atol=1e-12)
    np.testing.assert_allclose(read @ read.T, 0.64 * np.eye(7) + 0.36 * value_share, atol=1e-12)


@pytest.mark.parametrize("prompt", ["template", "bare", "fresh_relation"])
@pytest.mark.parametrize("kind", ["structured", "random"])
def test_the_measurements_see_what_the_dense_forward_pass_does(kind, prompt):
    rng = np.random.default_rng(0)
    model = ModelConfig(
        parametrisation="dense", embeddings=kind, value_share=0.0 if prompt == "fresh_relation" else 0.2
    )
    subject, relation, answer = (rng.integers(n, size=20).astype(np.int32) for n in (7, 3, 8))
    store = FactStore(subject, relation, answer, np.ones(20), np.full(20, 0.05), np.zeros(20, bool), 7, 3, 8)
    with jax.enable_x64(True):
        vectors = jax.tree.map(jnp.asarray, embeddings.build(model, 7, 3, 12, seed=0))
        size = vectors.subject.shape[1]
        parameters = dense.Parameters(*(jnp.asarray(rng.normal(size=(size, size))) for _ in range(2)))
        attention, output = dense.forward(
            parameters,
            vectors,
            factored.Facts(*map(jnp.asarray, (subject, relation, answer))),
            traced.uncounted(model),
            prompt,
        )
        weights = dense.weights(parameters, vectors, model, prompt)
    found = evaluate.answer(weights, store, np.arange(20))
    np.testing.assert_allclose(found.attention[:, : len(attention)], attention.T, atol=1e-12)
    np.testing.assert_array_equal(found.predicted, np.asarray(output).argmax(axis=1))
    assert len(attention) == (3 if prompt == "template" else 2)


def test_the_dense_model_starts_with_nothing_stored_but_the_template():
    model = ModelConfig(parametrisation="dense", n_filler=4, template_strength=3.0)
    vectors = jax.tree.map(jnp.asarray, embeddings.build(model, 7, 3, 12, seed=0))
    weights = dense.weights(dense.initial(traced.uncounted(model), vectors, 8), vectors, model, "template")
    np.testing.assert_allclose(weights.template_value, [0.0] * 8 + [3.0] * 4, atol=1e-6)
    np.testing.assert_allclose(weights.subject_values, 0, atol=1e-6)
    np.testing.assert_allclose(weights.subject_logit, 0, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_each_matrix_has_its_own_rate_and_a_rate_of_zero_freezes_it(name):
    transform = dense.optimizer(name, value=0.1, attention=0.0)
    parameters = dense.Parameters(jnp.ones((2, 2)), jnp.ones((2, 2)))
    updates, _ = transform.update(parameters, transform.init(parameters), parameters)
    assert isinstance(updates, dense.Parameters)
    np.testing.assert_allclose(updates.value, -0.1, rtol=1e-2)
    np.testing.assert_array_equal(updates.attention, 0.0)


@pytest.mark.parametrize("name", ["sdg", "apply_updates", "partition", "__doc__", "Params"])
def test_an_optimizer_that_optax_lacks_is_an_input_error_that_names_some(name):
    with pytest.raises(InputError, match=f"no optimizer '{name}' in optax .*\nTry sgd, adam"):
        dense.optimizer(name, value=1.0, attention=1.0)


def test_other_optimizers_and_training_everything_learn_the_facts_in_the_dense_model():
    config = replace(
        RUN,
        model=replace(RUN.model, parametrisation="dense"),
        pretrain=PretrainConfig(steps=300, batch_size=32, optimizer="adam", learning_rate=0.02, train="everything"),
        finetune=replace(RUN.finetune, optimizer="adam", learning_rate=0.01, train="everything", prompt="bare"),
        precision="float32",
    )
    simulation = pipeline.simulate(config, [Cell(0, 0, 0)])[0]
    assert simulation.traces["base"].measured[-1] > 0.8
    assert np.abs(simulation.weights["base"].subject_logit).max() > 0.1  # W_KQ has learned with the relation as query
    for arm in split.ARMS:
        loss = simulation.traces[arm].loss
        assert loss[-1] < loss[0]
