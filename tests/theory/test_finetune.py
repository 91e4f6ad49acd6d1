"""Both trainings on a small world: which facts are drawn, what is moved, and what the traces say of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import split
from core.seeds import Cell
from theory import evaluate, finetune, knownness, pipeline, pretrain
from theory.engine import sampling
from theory.finetune import FinetuneConfig
from theory.model import factored, finetuners
from theory.model.config import Prompt


@pytest.fixture(scope="module")
def everything(small):
    """One world with all weights finetuned; the arms differ in size, so all but the whole are padded."""
    config = replace(small, finetune=replace(small.finetune, train="everything"))
    return pipeline.simulate(config, [Cell(0, 0, 0)])[0]


def test_pretraining_draws_facts_by_exposure_and_never_one_without(small):
    store = pipeline.facts.build(small.facts, seed=0)
    exposure = np.full(len(store.subject), 1e-30)
    often, rarely = store.subject == 7, store.subject == 8
    exposure[often], exposure[rarely] = 0.225, 0.025
    world = pipeline.world(small, replace(store, exposure=exposure / exposure.sum()), 0)
    sizes = pretrain.Sizes(store.n_subjects, store.n_relations, store.n_answers)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf]), world)
    values, trace = pretrain.run(small.pretrain, small.model, stacked, sizes, records=np.array([[50]], np.int32))
    assert isinstance(values, factored.Values)
    moved = np.flatnonzero(np.asarray(values.subject[0]).any(axis=1))
    np.testing.assert_array_equal(moved, [7, 8])
    salience = np.asarray(values.subject[0])[store.subject, store.answer]
    assert salience[often].mean() > 1.3 * salience[rarely].mean() > 0
    np.testing.assert_array_equal(trace.step, [[0, 50]])


def test_pretraining_loss_falls_from_uniform_guessing_and_popular_facts_are_stored_first(simulations):
    for one in simulations:
        trace, store = one.traces["base"], one.store
        assert trace.loss[0] == pytest.approx(np.log(store.n_answers + 50), rel=1e-5)
        assert (np.diff(trace.loss) < 0).all()
        stored = one.margin > 0
        assert stored[store.subject < 30].mean() > 0.9 > stored.mean() > stored[store.subject > 200].mean()


def test_pretrainings_trace_is_the_recall_that_its_final_weights_show(simulations):
    for one in simulations:
        recalled = knownness.margin(one.weights["base"], one.store) > 0
        probe = np.unique(np.linspace(0, len(recalled) - 1, pipeline.PROBE).astype(int))
        assert one.traces["base"].measured[-1] == pytest.approx(recalled[probe].mean(), abs=0.002)


def test_finetunings_trace_is_what_its_final_weights_show_on_held_out_facts(simulations):
    for one in simulations:
        held_out = np.flatnonzero(one.split.role == split.HELD_OUT)
        for arm in split.ARMS:
            answers, measured = evaluate.answer(one.weights[arm], one.store, held_out), one.traces[arm].measured
            assert measured.accuracy[-1] == pytest.approx(answers.correct.mean(), abs=0.004)
            assert measured.subject_attention[-1] == pytest.approx(answers.attention[:, 0].mean(), abs=1e-5)
            share = answers.attention[:, 0] / answers.attention[:, :2].sum(axis=1)
            assert measured.subject_share[-1] == pytest.approx(share.mean(), abs=1e-5)


def test_all_arms_start_from_the_same_base(simulations):
    for one in simulations:
        before = {tuple(np.ravel([field[0] for field in one.traces[arm].measured[:-1]])) for arm in split.ARMS}
        assert len(before) == 1
        assert one.traces["top"].measured.subject_attention[0] == pytest.approx(1 / 3)


def test_an_arm_is_finetuned_on_all_of_its_facts_and_on_no_others(everything):
    base = everything.weights["base"]
    for arm in split.ARMS:
        rows = everything.split.arms[arm]
        moved = (everything.weights[arm].subject_values != base.subject_values).any(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(moved), np.unique(everything.store.subject[rows]))
        own = everything.weights[arm].subject_logit - np.median(everything.weights[arm].subject_logit)
        assert (np.abs(own[~moved]) < 1e-6).all() and (np.abs(own[moved]) > 1e-6).all()
    assert len(everything.split.arms["whole"]) == 2 * len(everything.split.arms["top"])


def test_attention_alone_leaves_every_value_as_it_was(simulations):
    for one in simulations:
        for arm in split.ARMS:
            for name in ("subject_values", "relation_values", "template_value"):
                np.testing.assert_array_equal(getattr(one.weights[arm], name), getattr(one.weights["base"], name))
            assert one.weights[arm].template_logit < 0 < np.median(one.weights[arm].subject_logit)
            # One copy for all arms: with the filler repeated, values are most of a large world's memory.
            assert np.shares_memory(one.weights[arm].subject_values, one.weights["base"].subject_values)


def test_a_fresh_relation_token_starts_without_a_value_and_other_prompts_with_the_stored_one(small):
    values = factored.initial_values(small.model, 3, 2, 4, jnp.dtype(jnp.float32))
    values = values._replace(relation=values.relation + 1)
    cases: list[tuple[Prompt, int]] = [("template", 1), ("bare", 1), ("fresh_relation", 0)]
    for prompt, expected in cases:
        started, logits = finetuners.start(values, prompt)
        np.testing.assert_array_equal(started.relation, np.full((2, 54), expected))
        assert started.subject is values.subject
        assert np.isfinite(logits.template) == (prompt == "template")


def test_the_alias_table_of_a_world_is_that_of_its_exposure(small, simulations):
    store = simulations[0].store
    found = pipeline.world(small, store, 0).sampler
    for one, other in zip(found, sampling.alias_table(store.exposure), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_programs_are_given_the_configs_own_rates():
    """Where finetuning has come to rest, its outcome tells little of the rate."""
    given = FinetuneConfig(train="everything", learning_rate=0.3, value_learning_rate=0.7)
    found = finetune.rates(given, "float64")
    assert (found.attention, found.value) == (0.3, 0.7)
    assert finetune.rates(FinetuneConfig(), "float64").value is None
    assert finetune.rates(FinetuneConfig(train="values"), "float64").attention is None
