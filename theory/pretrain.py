"""Pretraining: the model stores the facts, popular ones first."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from theory import dense, sampling, table, train
from theory.embeddings import Embeddings
from theory.model import ModelConfig

LANES = 16
"""float32 numbers in a CPU's widest register: the outputs are padded to a multiple, so that no loop has a remainder."""
NEVER = -1e6
"""Value of an output that pads: no probability, hence no gradient."""
Base = table.Values | dense.Parameters
"""What pretraining leaves: the table form's values, or the dense form's matrices."""


@dataclass(frozen=True)
class PretrainConfig:
    """Prompts (subject, relation), sampled by popularity, under uniform attention."""

    steps: int = 2000
    """SGD steps. Long pretraining stores everything and reverses the arms' order."""
    batch_size: int = 256
    """Facts per step."""
    learning_rate: float = 40.0
    """Rate of the dense W_V; a token's own value moves at (1-ρ) times it."""
    train: Literal["values", "everything"] = "values"
    """`values`: W_V only, attention stays uniform. `everything`: W_KQ too (dense form only)."""
    optimizer: str = "sgd"
    """Any optimizer of optax that takes a learning rate (dense form). The table form is exact for sgd only: Adam, for
    one, is not invariant to the change of basis."""


class World(NamedTuple):
    """What the pretraining of one world reads. Worlds of one shape are stacked along a leading axis."""

    facts: table.Facts
    sampler: sampling.AliasTable
    probe: Int[np.ndarray, "*world probe"]
    """Facts on which the trace measures accuracy."""
    vectors: Embeddings | None
    """The dense form's embeddings."""
    seed: Int[np.ndarray, "*world"]


class Sizes(NamedTuple):
    """The lengths of a world's axes."""

    n_subjects: int
    n_relations: int
    n_answers: int


def run(
    config: PretrainConfig, model: ModelConfig, worlds: World, sizes: Sizes, *, n_records: int, dtype: str
) -> tuple[Base, train.Trace]:
    """Return the stacked worlds' base models and traces (accuracy on the probe, prompted without template)."""
    return _program(config, model, sizes, n_records, dtype)(worlds)


@lru_cache(maxsize=8)
def _program(config: PretrainConfig, model: ModelConfig, sizes: Sizes, n_records: int, dtype: str):
    def pretrain(world: World):
        def draw(key: Array, n_steps: int) -> table.Facts:
            return world.facts.take(sampling.draw(key, world.sampler, (n_steps, config.batch_size)))

        form = _pretrain_dense if model.form == "dense" else _pretrain_table
        state, step, outputs, finish = form(config, model, world, sizes, jnp.dtype(dtype))

        def accuracy(state) -> Float[Array, ""]:
            facts = world.facts.take(world.probe)
            return (outputs(state, facts).argmax(axis=-1) == facts.answer).mean()

        key = jax.random.key(world.seed)
        state, trace = train.run(step, state, draw, accuracy, n_steps=config.steps, n_records=n_records, key=key)
        return finish(state), trace

    return train.over_worlds(pretrain)


def _pretrain_table(config: PretrainConfig, model: ModelConfig, world: World, sizes: Sizes, dtype: jnp.dtype):
    values = table.initial_values(model, *sizes, dtype)
    rate = jnp.asarray(config.learning_rate, dtype)
    n_outputs = len(values.template)
    padding = -n_outputs % LANES

    def pad(rows: Float[Array, "*token output"]) -> Float[Array, "*token padded"]:
        return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, padding)], constant_values=NEVER)

    def finish(values: table.Values) -> table.Values:
        return jax.tree.map(lambda rows: rows[..., :n_outputs], values)

    def outputs(values, facts):
        return table.stored(values, facts, model)

    return jax.tree.map(pad, values), lambda values, batch: table.store(values, batch, rate, model), outputs, finish


def _pretrain_dense(config: PretrainConfig, model: ModelConfig, world: World, sizes: Sizes, dtype: jnp.dtype):
    vectors = jax.tree.map(lambda rows: rows.astype(dtype), world.vectors)
    parameters = dense.initial(model, vectors, sizes.n_answers)
    attention_rate = config.learning_rate if config.train == "everything" else 0.0
    transform = dense.optimizer(config.optimizer, value=config.learning_rate, attention=attention_rate)

    def outputs(state, facts):
        return dense.forward(state.parameters, vectors, facts, model, "bare")[1]

    state = dense.State(parameters, transform.init(parameters))
    return state, dense.stepper(vectors, model, "bare", transform), outputs, lambda state: state.parameters
