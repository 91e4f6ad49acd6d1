"""What moves between two deep networks, and where it must move nothing or everything."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import shares, split
from core.arms import CROSSED
from core.facts.store import Background
from theory.deep import mediation, pipeline
from theory.deep.config import DeepConfig, DeepStage
from theory.facts import FactsConfig

ONE = DeepConfig(
    facts=FactsConfig(n_subjects=40, n_relations=2, n_answers=5, background=Background(size=0.5, share=0.1)),
    subject_tokens=2,
    name_parts=12,
    layers=1,
    heads=2,
    d_model=16,
    d_ff=32,
    n_filler=4,
    pretrain=DeepStage(60, batch_size=64, learning_rate=5e-3),
    finetune=DeepStage(30, batch_size=32, learning_rate=5e-3),
    n_records=1,
)
ALL = list(mediation.PARTS)


@pytest.fixture(scope="module")
def simulated():
    return pipeline.simulate(replace(ONE, layers=2, more_arms=CROSSED), [0])[0]


def outcome(simulated, parameters, **given):
    rows = np.flatnonzero(simulated.split.role == split.HELD_OUT)
    return mediation.outcome(simulated, parameters, rows, **given).logprob


def differ(simulated):
    own, given = simulated.parameters["bottom"], simulated.parameters["top"]
    assert np.abs(outcome(simulated, own) - outcome(simulated, given)).max() > 0.05
    return own, given


@pytest.mark.parametrize("patch", shares.PATCHES)
def test_a_network_given_its_own_activations_is_itself(simulated, patch):
    own, _ = differ(simulated)
    np.testing.assert_allclose(
        outcome(simulated, own, donor=own, patch=patch), outcome(simulated, own), rtol=0, atol=2e-6
    )


def test_given_all_that_leaves_the_layers_or_all_weights_it_is_the_other(simulated):
    own, given = differ(simulated)
    read_alike = mediation.grafted(own, given, ["norms", "embeddings"])
    patched = outcome(simulated, read_alike, donor=given, patch="layer@end")
    np.testing.assert_allclose(patched, outcome(simulated, given), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(outcome(simulated, mediation.grafted(own, given, ALL)), outcome(simulated, given))
    np.testing.assert_array_equal(outcome(simulated, mediation.grafted(own, own, ALL)), outcome(simulated, own))


def test_every_weight_is_in_one_part(simulated):
    own, given = differ(simulated)
    ones, zeros = (jax.tree.map(lambda leaf, to=to: np.full_like(leaf, to), own) for to in (1.0, 0.0))
    total = sum(sum(np.sum(leaf) for leaf in jax.tree.leaves(mediation.grafted(zeros, ones, [part]))) for part in ALL)
    assert total == sum(np.size(leaf) for leaf in jax.tree.leaves(own))


def test_where_two_networks_of_one_layer_differ_in_one_part_its_activations_are_all_that_moves():
    simulated = pipeline.simulate(ONE, [0])[0]
    own, given = differ(simulated)
    moved = {"attention@all": ["query_key"], "mlp@end": ["mlp"]}
    for patch, parts in moved.items():
        donor = mediation.grafted(own, given, parts)
        assert np.abs(outcome(simulated, donor) - outcome(simulated, own)).max() > 1e-3
        patched = outcome(simulated, own, donor=donor, patch=patch)
        np.testing.assert_allclose(patched, outcome(simulated, donor), rtol=0, atol=2e-6, err_msg=patch)
        untouched = outcome(simulated, own, donor=donor, patch="value@subject")
        np.testing.assert_allclose(untouched, outcome(simulated, own), rtol=0, atol=2e-6)


def test_attention_to_the_subject_is_the_others_and_the_rest_keeps_its_proportions():
    own, other = jnp.array([[[0.1, 0.3, 0.4, 0.2]]]), jnp.array([[[0.2, 0.5, 0.1, 0.2]]])
    is_key = jnp.array([True, True, False, False])
    np.testing.assert_allclose(mediation._mixed(own, other, is_key), [[[0.2, 0.5, 0.2, 0.1]]], rtol=1e-6)


def test_arms_that_cross_knownness_and_rarity_are_finetuned_too(simulated):
    assert set(CROSSED) < set(simulated.parameters)
