"""Finetuning: the question format is taught on one arm's facts, and attention moves."""

import math
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from core import remedies as shared
from core.config_json import is_used, setting, structure
from core.errors import InputError
from core.remedies import Remedies
from theory import remedies
from theory.engine import loop, sampling
from theory.engine.batched import Program
from theory.model import factored, finetuners
from theory.model.config import ModelConfig, Prompt, check_rate
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
    check_rate("finetune.learning-rate", config.learning_rate)
    check_rate("finetune.value-learning-rate", config.value_learning_rate)
    shared.check(config)
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

    marked = {one.name for one in fields(config) if one.metadata.get("is_remedy") and "traced" in one.metadata}
    strengths = {name: getattr(config, name) for name in sorted(marked)}
    return Rates(
        number(config.learning_rate, config.train != "values"),
        number(config.value_learning_rate, config.train != "attention"),
        {name: number(strength, strength) for name, strength in strengths.items()},
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
        terms = partial(remedies.terms, config, task)
        if model.parametrisation == "dense":
            finetuner = finetuners.of_dense(config.prompt, config.optimizer, task, terms)
        else:
            finetuner = finetuners.of_factored(config.prompt, task, terms)
        probe = task.facts.take(task.probe)
        is_stored = factored.recalled(finetuner.recall(probe), probe.answer)

        def one_arm(arm: tuple[Array, Array]):
            rows, size = arm

            def measure(state) -> Measured:
                own, is_own = _spread(rows, size)
                return _measure(finetuner.look, state, task, is_stored, task.facts.take(own), is_own)

            score = remedies.score(config, task, finetuner.look)
            state, trace = loop.run(
                finetuner.step,
                finetuner.state,
                lambda key, n: task.facts.take(_draw(config, task, rows, size, records[-1], key, n)),
                measure,
                records=records,
                block=BLOCK,
                key=jax.random.key(task.seed),
                score=score,
            )
            # Where a remedy chose the state, the last record is of another.
            last = jax.tree.map(lambda records: records[-1], trace.measured)
            return finetuner.result(state), trace, last if score is None else measure(state)

        return jax.lax.map(one_arm, (task.arms, task.sizes))

    return Program(finetune)


def _draw(
    config: FinetuneConfig, task: Task, rows: Array, size: Array, n_steps: Array, key: Array, n: Array
) -> Int[Array, "step fact"]:
    """Return the facts of the block of steps from step n on."""
    block = remedies.Block(config, task, rows, size, n + jnp.arange(BLOCK)[:, None], n_steps)
    return remedies.rows(block, lambda key: rows[sampling.integers(key, block.shape, 0, size, most=len(rows))])(key)


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
