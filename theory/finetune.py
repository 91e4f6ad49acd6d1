"""Finetuning: the question format is taught on one arm's facts, and attention moves."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from theory import dense, table, train
from theory.embeddings import Embeddings
from theory.model import ModelConfig, Prompt
from theory.pretrain import Base


@dataclass(frozen=True)
class FinetuneConfig:
    """Question prompts, drawn uniformly over an arm's facts; the same number of steps for every arm."""

    steps: int = 200
    """SGD steps."""
    batch_size: int = 256
    """Facts per step."""
    learning_rate: float = 1.0
    """Rate of W_KQ."""
    train: Literal["attention", "everything"] = "attention"
    """`attention`: W_KQ only, as in the proof. `everything`: W_V too."""
    value_learning_rate: float = 1.0
    """Rate of W_V where it is trained."""
    optimizer: str = "sgd"
    """Any optimizer of optax that takes a learning rate (dense form); the table form takes sgd only."""
    prompt: Prompt = "template"
    """`template`: (subject, relation, template). `bare`: the pretraining format (subject, relation). `fresh_relation`:
    (subject, a new relation token whose value is zero). The last two are ablations without the effect."""


class Task(NamedTuple):
    """What one world's finetuning reads. Tasks of one shape are stacked along a leading axis."""

    base: Base
    facts: table.Facts
    arms: Int[np.ndarray, "*world arm row"]
    """Fact indices; rows beyond an arm's size are padding."""
    sizes: Int[np.ndarray, "*world arm"]
    probe: Int[np.ndarray, "*world probe"]
    """Held-out facts on which the trace measures."""
    vectors: Embeddings | None
    seed: Int[np.ndarray, "*world"]
    """One seed for all arms: they differ in their facts alone."""


class Tuned(NamedTuple):
    """One arm's model."""

    values: table.Values | None
    """None where the values stayed the base's."""
    logits: table.Logits | None
    parameters: dense.Parameters | None
    """The dense form's."""


class Measured(NamedTuple):
    """Recorded along finetuning: means over the probe."""

    accuracy: Float[Array, "*record"]
    subject_attention: Float[Array, "*record"]
    subject_share: Float[Array, "*record"]


def run(config: FinetuneConfig, model: ModelConfig, tasks: Task, *, n_records: int) -> tuple[Tuned, train.Trace]:
    """Return the tuned models and traces, world by world and arm by arm."""
    return _program(config, model, n_records)(tasks)


def start(base: table.Values, prompt: Prompt) -> tuple[table.Values, table.Logits]:
    """Return the table form as finetuning begins: uniform attention over the prompt's tokens."""
    values = base._replace(relation=jnp.zeros_like(base.relation)) if prompt == "fresh_relation" else base
    return values, table.initial_logits(values, prompt)


@lru_cache(maxsize=8)
def _program(config: FinetuneConfig, model: ModelConfig, n_records: int):
    form = _finetune_dense if model.form == "dense" else _finetune_table

    def finetune(task: Task):
        def one_arm(arm: tuple[Array, Array]):
            rows, size = arm
            state, step, look, result = form(config, model, task)

            def draw(key: Array, n_steps: int) -> table.Facts:
                chosen = jax.random.randint(key, (n_steps, config.batch_size), 0, size)
                return task.facts.take(rows[chosen])

            def measure(state) -> Measured:
                facts = task.facts.take(task.probe)
                attention, output = look(state, facts)
                share = attention[0] / (attention[0] + attention[1])
                is_right = output.argmax(axis=-1) == facts.answer
                return Measured(is_right.mean(), attention[0].mean(), share.mean())

            key = jax.random.key(task.seed)
            state, trace = train.run(step, state, draw, measure, n_steps=config.steps, n_records=n_records, key=key)
            return result(state), trace

        return jax.lax.map(one_arm, (task.arms, task.sizes))

    return train.over_worlds(finetune)


def _finetune_table(config: FinetuneConfig, model: ModelConfig, task: Task):
    assert isinstance(task.base, table.Values)
    values, logits = start(task.base, config.prompt)
    rate = jnp.asarray(config.learning_rate, logits.shared.dtype)
    value_rate = jnp.asarray(config.value_learning_rate, rate.dtype) if config.train == "everything" else None

    # Values that stay the base's are closed over, so that the loop carries no copy of them.
    def unpack(state: Any) -> tuple[table.Values, table.Logits]:
        return state if config.train == "everything" else (values, state)

    def step(state, batch):
        moved_values, moved, losses = table.answer_questions(
            *unpack(state), batch, rate, value_rate, model, config.prompt
        )
        return (moved_values, moved) if config.train == "everything" else moved, losses

    def look(state, facts):
        attention, _, output = table.forward(*unpack(state), facts, model)
        return attention, output

    def result(state):
        moved_values, moved = unpack(state)
        return Tuned(moved_values if config.train == "everything" else None, moved, None)

    return (values, logits) if config.train == "everything" else logits, step, look, result


def _finetune_dense(config: FinetuneConfig, model: ModelConfig, task: Task):
    assert isinstance(task.base, dense.Parameters)
    parameters = task.base
    vectors = jax.tree.map(lambda rows: rows.astype(parameters.value.dtype), task.vectors)
    value_rate = config.value_learning_rate if config.train == "everything" else 0.0
    transform = dense.optimizer(config.optimizer, value=value_rate, attention=config.learning_rate)

    def look(state, facts):
        return dense.forward(state.parameters, vectors, facts, model, config.prompt)

    state = dense.State(parameters, transform.init(parameters))
    return (
        state,
        dense.stepper(vectors, model, config.prompt, transform),
        look,
        lambda s: Tuned(None, None, s.parameters),
    )
