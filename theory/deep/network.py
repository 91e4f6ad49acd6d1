"""The deep toy's network: a small pre-norm transformer that reads a subject's tokens, a relation and a template.

The prompt is (subject token, …, relation, template). Attention is causal, so what the network says at the relation is
its answer in the pretraining format, and what it says at the template its answer to the question: one pass gives both.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from theory.deep.config import DeepConfig, Sizes

RELATION, TEMPLATE = -2, -1
"""Positions of the prompt's last two tokens."""

Hook = Callable[[str, int, Array], Array]
"""Of an activation's name (attention, value, mlp, layer), its layer and itself, returns what goes on in its place."""


def unchanged(name: str, layer: int, activation: Array) -> Array:
    """Return the activation as it is."""
    return activation


class Output(NamedTuple):
    """What the network says after every token, and where it looked."""

    logits: Float[Array, "fact token output"]
    attention: Float[Array, "layer fact head query key"]


class Block(nnx.Module):
    """Attention and an MLP, each on the normalised residual stream and added to it."""

    def __init__(self, config: DeepConfig, *, rngs: nnx.Rngs):
        d_model, d_ff, head = config.d_model, config.d_ff, (config.heads, config.d_model // config.heads)
        self.attention_norm = nnx.RMSNorm(d_model, rngs=rngs)
        self.query_key_value = nnx.LinearGeneral(d_model, (3, *head), use_bias=False, rngs=rngs)
        self.mix = nnx.LinearGeneral(head, d_model, axis=(-2, -1), use_bias=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(d_model, rngs=rngs)
        self.up = nnx.Linear(d_model, d_ff, rngs=rngs)
        self.down = nnx.Linear(d_ff, d_model, rngs=rngs)

    def __call__(
        self, stream: Float[Array, "fact token d_model"], layer: int, hook: Hook
    ) -> tuple[Float[Array, "fact token d_model"], Float[Array, "fact head query key"]]:
        query, key, value = jnp.moveaxis(self.query_key_value(self.attention_norm(stream)), 2, 0)
        score = jnp.einsum("fqhd,fkhd->fhqk", query, key) / query.shape[-1] ** 0.5
        is_past = jnp.tri(stream.shape[1], dtype=bool)
        attention = hook("attention", layer, jax.nn.softmax(jnp.where(is_past, score, -jnp.inf), axis=-1))
        stream = stream + self.mix(jnp.einsum("fhqk,fkhd->fqhd", attention, hook("value", layer, value)))
        added = hook("mlp", layer, self.down(jax.nn.gelu(self.up(self.mlp_norm(stream)))))
        return hook("layer", layer, stream + added), attention


class Network(nnx.Module):
    """Learned token and position embeddings, blocks, and a readout over the answers and the filler."""

    def __init__(self, config: DeepConfig, size: Sizes, *, rngs: nnx.Rngs):
        self.token = nnx.Embed(size.n_names + size.n_relations + 1, config.d_model, rngs=rngs)
        self.position = nnx.Embed(config.subject_tokens + 2, config.d_model, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = nnx.RMSNorm(config.d_model, rngs=rngs)
        self.readout = nnx.Linear(config.d_model, size.n_answers + config.n_filler, use_bias=False, rngs=rngs)

    def __call__(self, prompts: Int[Array | np.ndarray, "fact token"], hook: Hook = unchanged) -> Output:
        stream = self.token(jnp.asarray(prompts)) + self.position(jnp.arange(prompts.shape[1]))
        attention = []
        for layer, block in enumerate(self.blocks):
            stream, looked = block(stream, layer, hook)
            attention.append(looked)
        return Output(self.readout(self.norm(stream)), jnp.stack(attention))


def initial(config: DeepConfig, size: Sizes, *, seed: int) -> PyTree:
    """Return the parameters of a fresh network for a world of this size: arrays in nested dicts."""
    return nnx.to_pure_dict(nnx.state(Network(config, size, rngs=nnx.Rngs(params=seed)), nnx.Param))


def read(
    config: DeepConfig,
    size: Sizes,
    parameters: PyTree,
    prompts: Int[Array | np.ndarray, "fact token"],
    hook: Hook = unchanged,
) -> Output:
    """Return what the network of these parameters says on the prompts, its activations passed through the hook."""
    return nnx.merge(_structure(config, size), parameters)(prompts, hook)


@lru_cache(maxsize=8)
def _structure(config: DeepConfig, size: Sizes) -> Any:
    """Return the network without its parameters."""
    return nnx.graphdef(nnx.eval_shape(lambda: Network(config, size, rngs=nnx.Rngs(params=0))))
