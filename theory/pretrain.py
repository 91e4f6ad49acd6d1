"""Pretraining: the model stores the facts, popular ones first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core.config_json import setting, structure
from core.errors import InputError
from theory.engine import loop, sampling
from theory.engine.batched import Program
from theory.model import dense, factored, traced
from theory.model.config import ModelConfig, check_rate
from theory.model.embeddings import Embeddings

LANES = 16
"""float32 numbers in a CPU's widest register: the outputs are padded to a multiple, so that no loop has a remainder."""
NEVER = -1e6
"""Value of an output that pads: no probability, hence no gradient."""
BLOCK = 100
"""Steps whose facts are drawn at once."""
Base = factored.Values | dense.Parameters
"""What pretraining leaves: the factored model's values, or the dense model's matrices."""


@dataclass(frozen=True)
class PretrainConfig:
    """Prompts (subject, relation), sampled by popularity, under uniform attention."""

    steps: int = setting(2000, traced=0)
    """SGD steps. Long pretraining stores everything and reverses the arms' order. A shorter pretraining of a world is
    the beginning of a longer one."""
    batch_size: int = 256
    """Facts per step."""
    learning_rate: float = setting(40.0, traced=0.0)
    """Rate of the dense W_V; a token's own value moves at (1-ρ) times it."""
    train: Literal["values", "everything"] = "values"
    """`values`: W_V only, attention stays uniform. `everything`: W_KQ too (dense model only)."""
    optimizer: str = "sgd"
    """Any optimizer of optax that takes a learning rate (dense model). The factored model is exact for sgd only: Adam,
    for one, is not invariant to the change of basis."""


def check(config: PretrainConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    for flag, value in {"steps": config.steps, "batch-size": config.batch_size}.items():
        if value < 1:
            raise InputError(f"--pretrain.{flag} is {value}: it must be at least 1.")
    check_rate("pretrain.learning-rate", config.learning_rate)


class World(NamedTuple):
    """What the pretraining of one world reads. Worlds of one shape are stacked along a leading axis."""

    facts: factored.Facts
    sampler: sampling.AliasTable
    probe: Int[np.ndarray, "*world probe"]
    """Facts on which the trace measures accuracy."""
    vectors: Embeddings | None
    """The dense model's embeddings."""
    constants: traced.Constants
    learning_rate: Float[np.ndarray, "*world"]
    seed: Int[np.ndarray, "*world"]


class Sizes(NamedTuple):
    """The lengths of a world's axes."""

    n_subjects: int
    n_relations: int
    n_answers: int


class _Parts(NamedTuple):
    """One world's pretraining in one of the two parametrisations."""

    state: Any
    step: Callable[[Any, factored.Facts], tuple[Any, Float[Array, " fact"]]]
    outputs: Callable[[Any, factored.Facts], Float[Array, "fact output"]]
    """Output logits in the pretraining format."""
    finish: Callable[[Any], Base]


def run(
    config: PretrainConfig,
    model: ModelConfig,
    worlds: World,
    sizes: Sizes,
    *,
    records: Int[np.ndarray, "world record"],
    keep: Literal["last", "all"] = "last",
) -> tuple[Base, loop.Trace]:
    """Return the stacked worlds' base models and traces (accuracy on the probe, prompted without template).

    Args:
        config: its steps and learning rate are not read: `records` and `worlds` hold every world's own.
        records: the steps at which to measure, the last of which ends the training.
        keep: `all` returns the models at all records, along an axis after the worlds'.
    """
    return _program(structure(config), structure(model), sizes, keep, worlds.learning_rate.dtype.name)(records, worlds)


@lru_cache(maxsize=32)
def _program(config: PretrainConfig, model: ModelConfig, sizes: Sizes, keep: Literal["last", "all"], dtype: str):
    def pretrain(records: Int[Array, " record"], world: World):
        def draw(key: Array, n: Int[Array, ""]) -> factored.Facts:
            return world.facts.take(sampling.draw(key, world.sampler, (BLOCK, config.batch_size)))

        if model.parametrisation == "dense":
            state, step, outputs, finish = _dense_parts(config, world, sizes, jnp.dtype(dtype))
        else:
            state, step, outputs, finish = _factored_parts(model, world, sizes, jnp.dtype(dtype))

        def measure(state) -> tuple[Float[Array, ""], Any]:
            facts = world.facts.take(world.probe)
            accuracy = factored.recalled(outputs(state, facts), facts.answer).mean()
            return accuracy, finish(state) if keep == "all" else None

        key = jax.random.key(world.seed)
        state, trace = loop.run(step, state, draw, measure, records=records, block=BLOCK, key=key)
        accuracy, kept = trace.measured
        base = finish(state) if keep == "last" else jax.tree.map(lambda rows: rows[1:], kept)
        return base, trace._replace(measured=accuracy)

    return Program(pretrain)


def _factored_parts(model: ModelConfig, world: World, sizes: Sizes, dtype: jnp.dtype) -> _Parts:
    # Trained less a filler's values, which are then 0 and need no column: probabilities do not tell the difference.
    assert world.constants.multiplicity is not None
    n_filler = jnp.asarray(world.constants.multiplicity[-1])
    constants = world.constants._replace(multiplicity=None)
    values = factored.initial_values(replace(model, n_filler=0), *sizes, dtype)
    padding = -sizes.n_answers % LANES

    def pad(rows: Float[Array, "*token output"]) -> Float[Array, "*token padded"]:
        return jnp.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, padding)], constant_values=NEVER)

    def finish(values: factored.Values) -> factored.Values:
        # The template's value is the caller's to set.
        return jax.tree.map(lambda rows: factored.with_filler(rows[..., : sizes.n_answers], n_filler), values)

    def outputs(values, facts):
        return jnp.pad(factored.fact_logits(values, facts, constants), ((0, 0), (0, 1)))

    def step(values, batch):
        return factored.fact_step(values, batch, jnp.asarray(world.learning_rate), constants, n_filler=n_filler)

    return _Parts(jax.tree.map(pad, values), step, outputs, finish)


def _dense_parts(config: PretrainConfig, world: World, sizes: Sizes, dtype: jnp.dtype) -> _Parts:
    vectors = jax.tree.map(lambda rows: rows.astype(dtype), world.vectors)
    parameters = dense.initial(world.constants, vectors, sizes.n_answers)
    attention_rate = world.learning_rate if config.train == "everything" else None
    transform = dense.optimizer(config.optimizer, value=world.learning_rate, attention=attention_rate)

    def outputs(state, facts):
        return dense.forward(state.parameters, vectors, facts, world.constants, "bare")[1]

    state = dense.State(parameters, transform.init(parameters))
    step = dense.stepper(vectors, world.constants, "bare", transform)
    return _Parts(state, step, outputs, lambda state: state.parameters)
