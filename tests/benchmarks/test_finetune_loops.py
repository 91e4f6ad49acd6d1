import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import roofline, torch_loop
from theory import facts
from theory.model import factored, traced
from theory.model.config import ModelConfig

STORE = facts.build(facts.FactsConfig(n_subjects=50), seed=0)
MODEL = ModelConfig(n_filler=10)
N_OUTPUTS = STORE.n_answers + MODEL.n_filler
ARM = np.arange(0, len(STORE.subject), 2)


@pytest.fixture(scope="module")
def values() -> factored.Values:
    rng = np.random.default_rng(0)
    start = factored.initial_values(MODEL, STORE.n_subjects, STORE.n_relations, STORE.n_answers, jnp.dtype(jnp.float32))
    subject, relation = (jnp.asarray(rng.normal(0, 2, x.shape), jnp.float32) for x in (start.subject, start.relation))
    return start._replace(subject=subject, relation=relation)


@pytest.fixture(scope="module")
def batches() -> torch_loop.Batches:
    return torch_loop.draw(STORE, 20, batch_size=64, seed=0, arm=ARM)


def tuned(name: str, values: factored.Values, batches: torch_loop.Batches) -> list[np.ndarray]:
    loop = torch_loop.LOOPS[name]
    tables = torch_loop.ValueTables(STORE.n_subjects, STORE.n_relations, N_OUTPUTS)
    for rows, filled in ((tables.subject, values.subject), (tables.relation, values.relation)):
        rows.weight.data[:] = torch.from_numpy(np.array(filled))
    template = torch.from_numpy(np.array(values.template))
    attention = torch_loop.Attention(tables, template, is_sparse=loop.is_sparse)
    loop.finetune(attention, batches)
    logits = (attention.shared, attention.subject.weight[:, 0], attention.relation.weight[:, 0], attention.template)
    return [logit.detach().numpy() for logit in logits]


@pytest.mark.parametrize("name", torch_loop.LOOPS)
def test_every_loop_finetunes_as_the_simulator_does(
    name: str, values: factored.Values, batches: torch_loop.Batches
) -> None:
    logits, rate = factored.initial_logits(values, "template"), jnp.float32(1.0)
    for step in zip(*(jnp.asarray(ids.numpy()) for ids in batches), strict=True):
        constants = traced.uncounted(MODEL)
        _, logits, _ = factored.question_step(values, logits, factored.Facts(*step), rate, None, constants, "template")
    assert float(jnp.abs(logits.shared).max()) > 0.1  # it has learned something
    for found, expected in zip(tuned(name, values, batches), logits[:4], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_batches_of_an_arm_hold_all_of_its_facts_alone() -> None:
    drawn = torch_loop.draw(STORE, 100, batch_size=64, seed=0, arm=ARM)
    pairs = set(zip(drawn.subject.ravel().tolist(), drawn.relation.ravel().tolist(), strict=True))
    assert pairs == set(zip(STORE.subject[ARM].tolist(), STORE.relation[ARM].tolist(), strict=True))


def test_a_step_of_finetuning_reads_rows_and_writes_attention_alone() -> None:
    # 256 rows of 81 outputs; of each fact four ids, and an attention logit for each of three tokens.
    assert roofline.question_work(256, 81) == roofline.Work(256 * 84, 256 * (81 * 4 + 16 + 12))
