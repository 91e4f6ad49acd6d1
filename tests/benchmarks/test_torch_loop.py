import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import roofline, torch_loop
from theory import facts
from theory.model import factored, traced
from theory.model.config import ModelConfig

N_STEPS = 30
STORE = facts.build(facts.FactsConfig(n_subjects=50), seed=0)
N_OUTPUTS = STORE.n_answers + ModelConfig.n_filler


@pytest.fixture(scope="module")
def batches() -> torch_loop.Batches:
    return torch_loop.draw(STORE, N_STEPS, batch_size=64, seed=0)


def trained(name: str, batches: torch_loop.Batches) -> tuple[np.ndarray, np.ndarray]:
    loop = torch_loop.LOOPS[name]
    tables = torch_loop.ValueTables(STORE.n_subjects, STORE.n_relations, N_OUTPUTS, is_sparse=loop.is_sparse)
    loop.train(tables, batches)
    return tables.subject.weight.detach().numpy(), tables.relation.weight.detach().numpy()


def reference(batches: torch_loop.Batches) -> tuple[np.ndarray, np.ndarray]:
    """The same update in float64, a step at a time."""
    subjects, relations = np.zeros((STORE.n_subjects, N_OUTPUTS)), np.zeros((STORE.n_relations, N_OUTPUTS))
    for subject, relation, answer in zip(*(ids.numpy() for ids in batches), strict=True):
        logits = 0.5 * (subjects[subject] + relations[relation])
        gradient = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient[np.arange(len(answer)), answer] -= 1
        step = -torch_loop.TABLE_RATE * 0.5 * gradient / len(answer)
        np.add.at(subjects, subject, step)
        np.add.at(relations, relation, step)
    return subjects, relations


@pytest.mark.parametrize("name", torch_loop.LOOPS)
def test_every_loop_makes_the_reference_update(name: str, batches: torch_loop.Batches) -> None:
    for values, expected in zip(trained(name, batches), reference(batches), strict=True):
        assert np.abs(expected).max() > 1  # it has learned something
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_sparse_gradients_train_as_dense_ones_do(batches: torch_loop.Batches) -> None:
    for sparse, dense in zip(trained("sparse", batches), trained("dense", batches), strict=True):
        np.testing.assert_allclose(sparse, dense, atol=1e-5)


def test_the_simulator_makes_the_same_steps(batches: torch_loop.Batches) -> None:
    config = ModelConfig()
    values = factored.initial_values(
        config, STORE.n_subjects, STORE.n_relations, STORE.n_answers, jnp.dtype(jnp.float32)
    )
    rate = jnp.float32(torch_loop.TABLE_RATE / (1 - config.shared_share))
    for step in zip(*(jnp.asarray(ids.numpy()) for ids in batches), strict=True):
        values, _ = factored.fact_step(values, factored.Facts(*step), rate, traced.uncounted(config))
    subjects, relations = trained("dense", batches)
    np.testing.assert_allclose(values.subject, subjects, atol=1e-5)
    np.testing.assert_allclose(values.relation, relations, atol=1e-5)


def test_only_the_sparse_loop_keeps_gradients_of_the_batch_alone(batches: torch_loop.Batches) -> None:
    one = torch_loop.Batches(*(ids[:1] for ids in batches))
    for is_sparse in (False, True):
        tables = torch_loop.ValueTables(STORE.n_subjects, STORE.n_relations, N_OUTPUTS, is_sparse=is_sparse)
        tables(one.subject[0], one.relation[0]).sum().backward()
        assert tables.subject.weight.grad is not None
        assert tables.subject.weight.grad.is_sparse == is_sparse


def test_facts_are_drawn_as_often_as_their_exposure_says() -> None:
    drawn = torch_loop.draw(STORE, 1000, batch_size=256, seed=1)
    counts = np.bincount(drawn.subject.numpy().ravel(), minlength=STORE.n_subjects)
    expected = 256_000 * np.bincount(STORE.subject, weights=STORE.exposure)
    assert (((counts - expected) ** 2 / expected).sum()) < 100  # chi square of 49 degrees of freedom: 1 in 25,000


def test_a_step_of_256_facts_and_130_outputs_is_counted_right() -> None:
    # 256 rows of 520 bytes are read for the logits, then read and written again; and four ids of 4 bytes for each fact.
    assert roofline.work(256, 130) == roofline.Work(exponentials=33_280, bytes=3 * 133_120 + 4_096)


def test_the_limit_is_the_slower_of_arithmetic_and_traffic() -> None:
    needed = roofline.Work(exponentials=1000, bytes=4000)
    machine = roofline.Machine({"numpy": 1e6, "jax": 2e6}, {"read": 1e6, "gather": 4e6})
    # 0.5 ms of exponentials and 1 ms of traffic, at the faster rate of each.
    assert roofline.limit(needed, machine) == pytest.approx((1000.0, 1000 / 1.5, "bytes"))
    assert roofline.limit(roofline.Work(4000, 4000), machine).bound_by == "exponentials"


def test_the_fastest_of_several_measurements_counts() -> None:
    busy, idle = roofline.Machine({"jax": 1.0}, {"read": 5.0}), roofline.Machine({"jax": 2.0}, {"read": 4.0})
    assert roofline.fastest(busy, idle) == roofline.Machine({"jax": 2.0}, {"read": 5.0})
