"""What the stages read: a unit of work, its world for pretraining, its task for finetuning, all of one shape."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from core import split
from core.facts.store import FactStore
from core.seeds import Cell
from theory import evaluate, facts, finetune, pretrain, remedies
from theory.config import Config
from theory.engine import loop, sampling
from theory.law.selection import Best
from theory.model import embeddings, factored, finetuners, traced

PROBE = 1000
"""Facts, at most, on which the traces measure."""


class Unit(NamedTuple):
    """One experiment with one random state."""

    config: Config
    cell: Cell


class Prepared(NamedTuple):
    """A unit with its base model and its arms."""

    unit: Unit
    store: FactStore
    world: pretrain.World
    base: Any
    trace: loop.Trace
    knownness: np.ndarray
    split: split.Split
    bounds: dict[str, Best] = {}
    """R9's bound for every arm that is drawn by it."""

    @property
    def diverged_at(self) -> int:
        """The step of the unit's own pretraining at which it diverged; -1 if it did not, whatever longer ones did."""
        step = int(self.trace.diverged_at)
        return step if step < self.unit.config.pretrain.steps else -1


def n_bytes(config: Config, seed: int) -> int:
    """Return the size of one base model."""
    store = facts.build(config.facts, seed=seed)
    n_values = (store.n_subjects + store.n_relations + 1) * (store.n_answers + 1)
    if config.model.parametrisation == "dense":
        n_outputs = store.n_answers + config.model.n_filler
        n_values = (store.n_subjects + store.n_relations + n_outputs) ** 2
    return n_values * np.dtype(config.precision).itemsize


def family(unit: Unit) -> Unit:
    """Return what decides a unit's pretraining but for its length."""
    model = unit.config.model
    if model.parametrisation == "factored":
        model = replace(model, template_strength=0.0)  # nothing in pretraining reads the template's value
    config = Config(
        facts=unit.config.facts,
        model=model,
        pretrain=replace(unit.config.pretrain, steps=0),
        precision=unit.config.precision,
    )
    return Unit(config, Cell(unit.cell.pretrain, 0, 0))


def world(config: Config, store: FactStore, seed: int) -> pretrain.World:
    """Return what pretraining reads of a store."""
    foreground = np.flatnonzero(~store.is_background)
    vectors = None
    if config.model.parametrisation == "dense":
        n_outputs = store.n_answers + config.model.n_filler
        vectors = embeddings.build(config.model, store.n_subjects, store.n_relations, n_outputs, seed=seed)
    return pretrain.World(
        factored.Facts(store.subject, store.relation, store.answer),
        sampling.alias_table(store.exposure),
        spread(foreground, PROBE),
        vectors,
        traced.of(config.model, store.n_answers, config.precision),
        np.asarray(config.pretrain.learning_rate, config.precision),
        np.asarray(seed, np.uint32),
    )


def task(prepared: Prepared, *, n_probe: int, arms: Sequence[str] | None = None) -> finetuners.Task:
    """Return what finetuning reads of a world, its base model and its split."""
    config, halves = prepared.unit.config, prepared.split
    chosen = [halves.arms[arm] for arm in arms or halves.arms]
    training, known = halves.arms["whole"], np.zeros(0, np.int32)
    reads = remedies.reads(config.finetune)
    if reads & {"order", "known"}:
        ranked = np.argsort(-prepared.knownness, kind="stable")
        if "order" in reads:
            chosen = [ranked[np.isin(ranked, arm)] for arm in chosen]
        if "known" in reads:
            known = ranked[np.isin(ranked, training)][: max(1, len(training) // 10)].astype(np.int32)
    rows = np.zeros((len(chosen), max(map(len, chosen))), np.int32)
    for row, arm in zip(rows, chosen, strict=True):
        row[: len(arm)] = arm
    dev = halves.role == split.DEV if "dev" in reads else np.zeros(0, bool)
    probe = spread(np.flatnonzero(halves.role == split.HELD_OUT), n_probe)
    stop_by = spread(np.flatnonzero(dev), n_probe)
    return finetuners.Task(
        prepared.base,
        prepared.world.facts,
        rows,
        np.array([len(arm) for arm in chosen], np.int32),
        probe,
        stop_by,
        known,
        np.array([len(probe), len(stop_by), len(known)], np.int32),
        evaluate.generic_answers(prepared.store, training).astype(np.int32),
        prepared.world.vectors,
        prepared.world.constants,
        finetune.rates(config.finetune, config.precision),
        np.asarray(prepared.unit.cell.seed, np.uint32),
    )


def spread(rows: np.ndarray, n: int) -> np.ndarray:
    """Return at most n of the rows, evenly spaced."""
    if not len(rows):
        return rows.astype(np.int32)
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)].astype(np.int32)


def pad_arms(tasks: list[finetuners.Task]) -> list[finetuners.Task]:
    """Return the tasks with arms and other sets of one length (splits of a real table differ by a few facts)."""
    longest = {name: max(getattr(t, name).shape[-1] for t in tasks) for name in ("arms", "probe", "dev", "known")}

    def pad(rows: np.ndarray, n: int) -> np.ndarray:
        return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, n - rows.shape[-1])])

    return [t._replace(**{name: pad(getattr(t, name), n) for name, n in longest.items()}) for t in tasks]
