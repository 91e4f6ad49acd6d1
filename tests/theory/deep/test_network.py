"""The deep toy's network: against torch, and its causality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from theory.deep import network
from theory.deep.config import DeepConfig, Sizes
from theory.deep.network import RELATION, TEMPLATE

CONFIG = DeepConfig(layers=2, heads=2, d_model=16, d_ff=24, subject_tokens=2, n_filler=3)
SIZE = Sizes(n_names=9, n_relations=2, n_answers=5)
PROMPTS = np.array([[0, 3, 9, 11], [3, 0, 9, 11], [8, 8, 10, 11]])


read = jax.jit(lambda parameters, prompts: network.read(CONFIG, SIZE, parameters, prompts))


@pytest.fixture(scope="module")
def parameters():
    """Return a fresh network's parameters, the norms' scales moved away from 1."""
    state = network.initial(CONFIG, SIZE, seed=0)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), state)


def torch_forward(parameters, prompts):
    """The same network in torch, from the same arrays."""
    tensors = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), parameters)
    n_tokens = prompts.shape[1]
    stream = tensors["token"]["embedding"][torch.tensor(prompts)] + tensors["position"]["embedding"][:n_tokens]
    looked = []
    for at in range(CONFIG.layers):
        block = tensors["blocks"][at]
        normed = F.rms_norm(stream, (CONFIG.d_model,), block["attention_norm"]["scale"], eps=1e-6)
        q, k, v = torch.einsum("ftw,wnhd->nfhtd", normed, block["query_key_value"]["kernel"])
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        looked.append(
            F.scaled_dot_product_attention(q, k, torch.eye(n_tokens).expand(*q.shape[:2], -1, -1), is_causal=True)
        )
        stream = stream + torch.einsum("fhtd,hdw->ftw", mixed, block["mix"]["kernel"])
        normed = F.rms_norm(stream, (CONFIG.d_model,), block["mlp_norm"]["scale"], eps=1e-6)
        up = F.gelu(normed @ block["up"]["kernel"] + block["up"]["bias"], approximate="tanh")
        stream = stream + up @ block["down"]["kernel"] + block["down"]["bias"]
    normed = F.rms_norm(stream, (CONFIG.d_model,), tensors["norm"]["scale"], eps=1e-6)
    return (normed @ tensors["readout"]["kernel"]).numpy(), torch.stack(looked).numpy()


def test_it_computes_what_a_pre_norm_transformer_in_torch_computes(parameters):
    output = read(parameters, PROMPTS)
    logits, attention = torch_forward(parameters, PROMPTS)
    np.testing.assert_allclose(output.logits, logits, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(output.attention, attention, rtol=2e-5, atol=2e-6)


def test_its_outputs_are_answers_and_filler_after_every_token(parameters):
    output = read(parameters, PROMPTS)
    assert output.logits.shape == (3, 4, 5 + 3)
    assert output.attention.shape == (2, 3, 2, 4, 4)
    np.testing.assert_allclose(output.attention.sum(axis=-1), 1, rtol=1e-6)


def test_a_logit_has_no_gradient_from_a_later_token(parameters):
    def totals(parameters):
        return (network.read(CONFIG, SIZE, parameters, PROMPTS).logits ** 2).sum(axis=(0, 2))

    gradient = jax.jit(jax.jacrev(totals))(parameters)["position"]["embedding"]
    reaches = np.abs(gradient).max(axis=2) > 0
    np.testing.assert_array_equal(reaches, np.tri(4, dtype=bool))


def test_the_answer_at_the_relation_is_that_of_the_prompt_without_template(parameters):
    whole = read(parameters, PROMPTS)
    bare = read(parameters, PROMPTS[:, :TEMPLATE])
    np.testing.assert_allclose(whole.logits[:, RELATION], bare.logits[:, -1], rtol=1e-5, atol=1e-6)


def test_the_order_of_a_subjects_tokens_matters(parameters):
    logits = read(parameters, PROMPTS).logits[:, TEMPLATE]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_fresh_networks_differ_by_seed_and_not_by_call():
    first, again, other = (network.initial(CONFIG, SIZE, seed=seed) for seed in (0, 0, 1))
    kernel = [np.asarray(one["readout"]["kernel"]) for one in (first, again, other)]
    np.testing.assert_array_equal(kernel[0], kernel[1])
    assert np.abs(kernel[0] - kernel[2]).max() > 0.01
    assert jnp.result_type(kernel[0]) == jnp.float32
