"""The deep toy: the theory's worlds, prompts and stages through a small transformer trained by Adam.

Pretraining tells the facts by exposure, (subject, relation) → answer, and shows the template followed by filler; the
arms are the theory's own, by popularity; finetuning asks (subject, relation, template) → answer, training all weights.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree, UInt

from core import split
from core.facts.store import FactStore
from theory import facts, inputs
from theory.deep.config import DeepConfig, DeepStage, Sizes, check, sizes, write_prompts
from theory.deep.network import RELATION, TEMPLATE, Output, initial, read
from theory.engine import batched, loop, sampling
from theory.engine.batched import pick, stack

PROBE = 1000
"""Facts, at most, on which the traces measure."""
BLOCK = 64
"""Steps whose batches are drawn at once."""


class World(NamedTuple):
    """The facts of one seed as training reads them; worlds of one shape are stacked along a leading axis."""

    prompts: Int[np.ndarray, "*world fact token"]
    answer: Int[np.ndarray, "*world fact"]
    seed: UInt[np.ndarray, "*world"]


class Arm(NamedTuple):
    """The facts that one finetuning draws from, stacked like worlds."""

    rows: Int[np.ndarray, "*world row"]
    """Beyond `size` they are padding."""
    size: Int[np.ndarray, "*world"]


class State(NamedTuple):
    """What a step changes: the network's parameters, and Adam's moments."""

    parameters: PyTree
    optimizer: Any


class Measured(NamedTuple):
    """Recorded along finetuning: means over the probe, those of attention over layers and heads too."""

    accuracy: Float[Array | np.ndarray, "*record"]
    subject_attention: Float[Array | np.ndarray, "*record"]
    subject_share: Float[Array | np.ndarray, "*record"]


@dataclass(frozen=True, eq=False)
class DeepRun:
    """Everything one run made, before it is measured."""

    config: DeepConfig
    seed: int
    """The one seed of the world, its names and split, the initial weights and the batches."""
    store: FactStore
    split: split.Split
    prompts: Int[np.ndarray, "fact token"]
    parameters: dict[str, PyTree]
    """The networks by arm; `base` is what pretraining left."""
    traces: dict[str, loop.Trace]
    """The trainings' records by arm; `base` is pretraining's, its accuracy in the pretraining format."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage, shared by the runs simulated together."""

    @property
    def knownness(self) -> Float[np.ndarray, " fact"]:
        """What the arms are ranked by: popularity."""
        return self.store.popularity


def simulate(config: DeepConfig, seeds: Sequence[int]) -> list[DeepRun]:
    """Return the runs of these seeds, trained together.

    Raises:
        InputError: a setting means nothing, the facts do not suffice, or training diverged.
    """
    check(config)
    seconds, clock = {}, time.perf_counter()
    stores = [facts.build(config.facts, seed=seed) for seed in seeds]
    splits = [_split(config, store, seed) for store, seed in zip(stores, seeds, strict=True)]
    worlds = [
        World(write_prompts(config, store, seed=seed), store.answer, np.asarray(seed, np.uint32))
        for store, seed in zip(stores, seeds, strict=True)
    ]
    bases, pretraining = _pretrain(config, stores, worlds)
    seconds["pretrain"] = time.perf_counter() - clock
    tuned, finetuning = _finetune(config, bases, worlds, splits, sizes(config, stores[0]))
    seconds["finetune"] = time.perf_counter() - clock - seconds["pretrain"]
    runs = []
    for row, seed in enumerate(seeds):
        arms = {arm: row * len(splits[row].arms) + which for which, arm in enumerate(splits[row].arms)}
        parameters = {"base": pick(bases, row)} | {arm: pick(tuned, at) for arm, at in arms.items()}
        traces = {"base": pick(pretraining, row)} | {arm: pick(finetuning, at) for arm, at in arms.items()}
        runs.append(DeepRun(config, seed, stores[row], splits[row], worlds[row].prompts, parameters, traces, seconds))
    return runs


def _pretrain(config: DeepConfig, stores: list[FactStore], worlds: list[World]) -> tuple[PyTree, loop.Trace]:
    """Return the base models and their traces, stacked."""
    size = sizes(config, stores[0])
    fresh = [initial(config, size, seed=int(world.seed)) for world in worlds]
    samplers = stack([sampling.alias_table(store.exposure) for store in stores])
    probe = np.stack([inputs.spread(np.flatnonzero(~store.is_background), PROBE) for store in stores])
    given = stack(fresh), stack(worlds), samplers, probe
    bases, trace = _pretraining(config, size)(_records(config, config.pretrain, len(worlds)), *given)
    loop.check_finite(trace, "pretrain", [f"seed {world.seed}" for world in worlds])
    return bases, trace


def _finetune(
    config: DeepConfig, bases: PyTree, worlds: list[World], splits: list[split.Split], size: Sizes
) -> tuple[PyTree, loop.Trace]:
    """Return the tuned models and their traces, stacked: world by world, and arm by arm within."""
    longest = max(len(rows) for halves in splits for rows in halves.arms.values())
    held_out = [np.flatnonzero(halves.role == split.HELD_OUT) for halves in splits]
    n_probe = min(PROBE, *map(len, held_out))
    tasks = []
    for row, (world, halves) in enumerate(zip(worlds, splits, strict=True)):
        base, probe = pick(bases, row), inputs.spread(held_out[row], n_probe)
        for rows in halves.arms.values():
            rows = rows.astype(np.int32)
            tasks.append((base, world, Arm(np.resize(rows, longest), np.asarray(len(rows), np.int32)), probe))
    labels = [
        f"{arm} of seed {world.seed}" for world, halves in zip(worlds, splits, strict=True) for arm in halves.arms
    ]
    tuned, trace = _finetuning(config, size)(_records(config, config.finetune, len(tasks)), *stack(tasks))
    loop.check_finite(trace, "finetune", labels)
    return tuned, trace


@lru_cache(maxsize=8)
def _pretraining(config: DeepConfig, size: Sizes) -> batched.Program:
    """Return the program that pretrains a network."""

    def losses(output: Output, answer: Int[Array, " fact"]) -> Float[Array, " fact"]:
        # The expectation over which prompts end in the template, and over the filler that follows it.
        answering = optax.softmax_cross_entropy_with_integer_labels(output.logits[:, RELATION], answer)
        filler = -jax.nn.log_softmax(output.logits[:, TEMPLATE])[:, size.n_answers :].mean(axis=1)
        return (1 - config.template_share) * answering + config.template_share * filler

    def pretrain(records: Array, fresh: PyTree, world: World, sampler: sampling.AliasTable, probe: Array):
        def draw(key: Array, _: Array) -> Array:
            return sampling.draw(key, sampler, (BLOCK, config.pretrain.batch_size))

        def measure(state: State) -> Float[Array, ""]:
            logits = read(config, size, state.parameters, world.prompts[probe]).logits[:, RELATION]
            return (logits.argmax(axis=-1) == world.answer[probe]).mean()

        step, state = _stepper(config, size, config.pretrain, losses, fresh, world)
        key = jax.random.fold_in(jax.random.key(world.seed), 1)
        state, trace = loop.run(step, state, draw, measure, records=records, block=BLOCK, key=key)
        return state.parameters, trace

    return batched.Program(pretrain)


@lru_cache(maxsize=8)
def _finetuning(config: DeepConfig, size: Sizes) -> batched.Program:
    """Return the program that finetunes a network on one arm."""

    def losses(output: Output, answer: Int[Array, " fact"]) -> Float[Array, " fact"]:
        return optax.softmax_cross_entropy_with_integer_labels(output.logits[:, TEMPLATE], answer)

    def finetune(records: Array, base: PyTree, world: World, arm: Arm, probe: Array):
        def draw(key: Array, _: Array) -> Array:
            shape = BLOCK, config.finetune.batch_size
            return arm.rows[sampling.integers(key, shape, 0, arm.size, most=len(arm.rows))]

        def measure(state: State) -> Measured:
            output = read(config, size, state.parameters, world.prompts[probe])
            attention = output.attention[..., TEMPLATE, :].mean(axis=(0, 2))
            subject = attention[:, :RELATION].sum(axis=1)
            share = subject / (subject + attention[:, RELATION])
            is_right = output.logits[:, TEMPLATE].argmax(axis=-1) == world.answer[probe]
            return Measured(is_right.mean(), subject.mean(), share.mean())

        step, state = _stepper(config, size, config.finetune, losses, base, world)
        # One key for all arms: they differ in their facts alone.
        key = jax.random.fold_in(jax.random.key(world.seed), 2)
        state, trace = loop.run(step, state, draw, measure, records=records, block=BLOCK, key=key)
        return state.parameters, trace

    return batched.Program(finetune)


def _stepper(
    config: DeepConfig, size: Sizes, stage: DeepStage, losses: Callable, parameters: PyTree, world: World
) -> tuple[Callable, State]:
    """Return a step of Adam on a batch of facts, and the state before the first."""
    adam = optax.adamw(stage.learning_rate, weight_decay=config.weight_decay)

    def step(state: State, rows: Int[Array, " fact"]) -> tuple[State, Float[Array, " fact"]]:
        def mean(parameters: PyTree):
            each = losses(read(config, size, parameters, world.prompts[rows]), world.answer[rows])
            return each.mean(), each

        gradient, each = jax.grad(mean, has_aux=True)(state.parameters)
        update, optimizer = adam.update(gradient, state.optimizer, state.parameters)
        return State(optax.apply_updates(state.parameters, update), optimizer), each

    return step, State(parameters, adam.init(parameters))


def _split(config: DeepConfig, store: FactStore, seed: int) -> split.Split:
    """Return the theory's arms, by popularity."""
    columns = store.subject, store.relation, store.popularity
    more: dict[str, Any] = {"more": config.more_arms, "answer": store.answer, "keys": store.keys}
    return split.select(*columns, config.split, is_background=store.is_background, **more, seed=seed)


def _records(config: DeepConfig, stage: DeepStage, n: int) -> Int[np.ndarray, "world record"]:
    return np.tile(loop.record_steps(stage.steps, config.n_records), (n, 1))
