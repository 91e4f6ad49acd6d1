"""Finetuning: the question format is taught on one arm's facts, and attention moves."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from core import remedies
from core.config_json import is_used, setting, structure
from core.errors import InputError
from core.remedies import Remedies
from theory.engine import loop
from theory.engine.batched import Program
from theory.model import factored, finetuners
from theory.model.config import ModelConfig, Prompt
from theory.model.finetuners import Rates, Task, Tuned

BLOCK = 10
"""Steps whose facts are drawn at once."""
PROBE = 1000
"""Facts, at most, of an arm's own on which its accuracy is measured."""


@dataclass(frozen=True)
class FinetuneConfig(Remedies):
    """Question prompts, drawn uniformly over an arm's facts; the same number of steps for every arm."""

    steps: int = setting(200, traced=0)
    """SGD steps."""
    batch_size: int = 256
    """Facts per step."""
    learning_rate: float = setting(1.0, traced=0.0)
    """Rate of W_KQ."""
    train: Literal["attention", "everything", "values"] = "attention"
    """`attention`: W_KQ only, as in the proof. `everything`: W_V too. `values`: W_V only, W_KQ frozen (a remedy)."""
    value_learning_rate: float = setting(1.0, traced=0.0)
    """Rate of W_V where it is trained."""
    optimizer: str = "sgd"
    """Any optimizer of optax that takes a learning rate (dense model); the factored model takes sgd only."""
    prompt: Prompt = "template"
    """`template`: (subject, relation, template). `bare`: the pretraining format (subject, relation). `fresh_relation`:
    (subject, a new relation token whose value is zero). The last two are ablations without the effect."""
    attention_floor: float = setting(0.0, traced=is_used, is_remedy=True)
    """Weight of ½ max(0, ½ − t)², which holds the subject's share t of attention at the base's. A remedy."""


def check(config: FinetuneConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    for flag, value in {"steps": config.steps, "batch-size": config.batch_size}.items():
        if value < 1:
            raise InputError(f"--finetune.{flag} is {value}: it must be at least 1.")
    for flag, value in {
        "learning-rate": config.learning_rate,
        "value-learning-rate": config.value_learning_rate,
    }.items():
        if not 0 < value < math.inf:
            raise InputError(f"--finetune.{flag} is {value}: it must be a positive number.")
    remedies.check(config)
    if not 0 <= config.attention_floor < math.inf:
        raise InputError(f"--finetune.attention-floor is {config.attention_floor}: it must be a number, at least 0.")


class Measured(NamedTuple):
    """Means over the probe, recorded along finetuning; the last of several arms' axes is the record."""

    accuracy: Float[Array | np.ndarray, "*record"]
    subject_attention: Float[Array | np.ndarray, "*record"]
    relation_attention: Float[Array | np.ndarray, "*record"]
    template_attention: Float[Array | np.ndarray, "*record"]
    subject_share: Float[Array | np.ndarray, "*record"]
    loss: Float[Array | np.ndarray, "*record"]
    generic_rate: Float[Array | np.ndarray, "*record"]
    retention: Float[Array | np.ndarray, "*record"]
    """Accuracy on the facts that the base recalls in the pretraining format; nan where there are none."""
    trained_accuracy: Float[Array | np.ndarray, "*record"]
    """Accuracy on the arm's own facts."""


def rates(config: FinetuneConfig, dtype: str) -> Rates:
    """Return the config's numbers, of one world."""

    def number(value: float, is_used: bool | float) -> Float[np.ndarray, ""] | None:
        return np.asarray(value, dtype) if is_used else None

    return Rates(
        number(config.learning_rate, config.train != "values"),
        number(config.value_learning_rate, config.train != "attention"),
        number(config.kl_weight, config.kl_weight),
        number(config.attention_floor, config.attention_floor),
        number(config.replay, config.replay),
    )


def run(
    config: FinetuneConfig, model: ModelConfig, tasks: Task, *, records: Int[np.ndarray, "world record"]
) -> tuple[Tuned, loop.Trace, Measured]:
    """Return the tuned models, their traces, and what they measure, world by world and arm by arm.

    Args:
        config: its steps and numbers are not read: `records` and `tasks` hold every world's own.
        records: the steps at which to measure, the last of which ends the training.
    """
    return _program(structure(config), structure(model))(records, tasks)


@lru_cache(maxsize=32)
def _program(config: FinetuneConfig, model: ModelConfig):
    def finetune(records: Int[Array, " record"], task: Task):
        if model.parametrisation == "dense":
            finetuner = finetuners.of_dense(config.prompt, config.optimizer, task)
        else:
            finetuner = finetuners.of_factored(config.prompt, task)
        probe = task.facts.take(task.probe)
        is_stored = factored.recalled(finetuner.recall(probe), probe.answer)

        def one_arm(arm: tuple[Array, Array]):
            rows, size = arm

            def measure(state) -> Measured:
                own, is_own = _spread(rows, size)
                return _measure(finetuner.look, state, task, is_stored, task.facts.take(own), is_own)

            def dev_loss(state) -> Float[Array, ""]:
                facts = task.facts.take(task.dev)
                loss = factored.loss_and_residual(
                    finetuner.look(state, facts)[1], facts.answer, task.constants.multiplicity
                )[0]
                return _mean(loss, jnp.arange(len(loss)) < task.n_rows[1])

            state, trace = loop.run(
                finetuner.step,
                finetuner.state,
                lambda key, n: task.facts.take(_draw(config, task, rows, size, records[-1], key, n)),
                measure,
                records=records,
                block=BLOCK,
                key=jax.random.key(task.seed),
                score=dev_loss if config.early_stopping else None,
            )
            # Of an early stop the last record is of another state.
            last = jax.tree.map(lambda records: records[-1], trace.measured)
            return finetuner.result(state), trace, measure(state) if config.early_stopping else last

        return jax.lax.map(one_arm, (task.arms, task.sizes))

    return Program(finetune)


def _draw(
    config: FinetuneConfig, task: Task, rows: Array, size: Array, n_steps: Array, key: Array, n: Array
) -> Int[Array, "step fact"]:
    """Return the facts of the block of steps from step n on."""
    shape = (BLOCK, config.batch_size)
    low, high = jnp.zeros_like(size), size
    if config.curriculum != "mixed":
        is_first = (n + jnp.arange(BLOCK)[:, None]) < n_steps / 2
        half = size // 2
        of_known = is_first if config.curriculum == "known_first" else ~is_first
        low, high = jnp.where(of_known, 0, half), jnp.where(of_known, half, size)
    if task.rates.replay is None:
        return rows[jax.random.randint(key, shape, low, high)]
    key, repeat_key, known_key = jax.random.split(key, 3)
    repeated = task.known[jax.random.randint(known_key, shape, 0, task.n_rows[2])]
    is_repeated = jax.random.uniform(repeat_key, shape) < task.rates.replay
    return jnp.where(is_repeated, repeated, rows[jax.random.randint(key, shape, low, high)])


def _spread(rows: Int[Array, " row"], size: Int[Array, ""]) -> tuple[Int[Array, " own"], Bool[Array, " own"]]:
    """Return at most `PROBE` of an arm's facts, evenly spaced, and which of them are facts and not padding."""
    n_own = min(len(rows), PROBE)
    index = (jnp.arange(n_own) * (jnp.maximum(size, n_own) / n_own)).astype(jnp.int32)
    return rows[jnp.minimum(index, len(rows) - 1)], index < size


def _measure(look, state, task: Task, is_stored, own: factored.Facts, is_own) -> Measured:
    probe = task.facts.take(task.probe)
    attention, output = look(state, probe)
    is_right = factored.recalled(output, probe.answer)
    is_right_own = factored.recalled(look(state, own)[1], own.answer)
    is_probe = jnp.arange(len(task.probe)) < task.n_rows[0]
    loss, _ = factored.loss_and_residual(output, probe.answer, task.constants.multiplicity)
    no_template = jnp.zeros((), output.dtype)
    return Measured(
        _mean(is_right, is_probe),
        _mean(attention[0], is_probe),
        _mean(attention[1], is_probe),
        _mean(attention[2], is_probe) if len(attention) == 3 else no_template,
        _mean(attention[0] / (attention[0] + attention[1]), is_probe),
        _mean(loss, is_probe),
        _mean(factored.recalled(output, task.generic[probe.relation]), is_probe),
        _mean(is_right, is_stored & is_probe),
        _mean(is_right_own, is_own),
    )


def _mean(values: Array, where: Bool[Array, " fact"]) -> Float[Array, ""]:
    """Return the mean over some of the facts; nan over none."""
    return jnp.where(where, values, 0).sum() / where.sum()
