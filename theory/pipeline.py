"""The stages in order, for many worlds at once: facts, pretrain, knownness, split, finetune."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from core import split
from core.facts.store import FactStore
from core.seeds import Cell
from theory import facts, finetune, knownness, pretrain, remedies, selection
from theory.config import Config
from theory.engine import loop
from theory.engine.batched import pick, stack
from theory.inputs import PROBE, Prepared, Unit, family, n_bytes, pad_arms, task, world
from theory.law.selection import Best
from theory.model import dense, factored, finetuners, traced
from theory.model.config import Prompt, Weights

MEMORY = 2**30
"""Bytes of values trained at once; more worlds than fit go one group after another."""


@dataclass(frozen=True)
class Simulation:
    """Everything one run made, before it is measured."""

    cell: Cell
    store: FactStore
    split: split.Split
    knownness: np.ndarray
    margin: np.ndarray
    """The base model's margin in the pretraining format: positive where it recalls the fact."""
    weights: dict[str, Weights]
    """The models by arm; `base` is the model before finetuning, at the question prompt."""
    traces: dict[str, loop.Trace]
    """The trainings' records by arm; `base` is pretraining's."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage, shared by the runs simulated together."""
    bounds: dict[str, Best] = field(default_factory=dict)
    """R9's bound for every arm that is drawn by it."""


def groups(config: Config, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Return the cells in groups that are simulated together, within `MEMORY`."""
    n_arms = len(split.ARMS) + len(config.more_arms)
    n_copies = n_arms if config.finetune.train != "attention" or config.model.parametrisation == "dense" else 1
    n_together = max(1, MEMORY // (n_bytes(config, cells[0].pretrain) * (1 + n_copies)))
    return (list(cells[at : at + n_together]) for at in range(0, len(cells), n_together))


def simulate(config: Config, cells: Sequence[Cell]) -> list[Simulation]:
    """Return the simulations of these cells, trained together.

    Raises:
        InputError: the facts do not suffice, or training diverged.
    """
    clock = Clock()
    with jax.enable_x64(config.precision == "float64"):
        prepared = pretrained([Unit(config, cell) for cell in cells], clock)
        otherwise = ", or use --precision float64 if the rate is meant"
        labels = [f"pretraining seed {cell.pretrain}" for cell in cells]
        loop.check_finite(stack([base.trace for base in prepared]), "pretrain", labels, otherwise=otherwise)
        trained = finetuned(prepared, clock, records=records_along(prepared), n_probe=PROBE)
        labels = [f"{arm} of {unit.prepared.unit.cell}" for unit in trained for arm in unit.prepared.split.arms]
        loop.check_finite(stack([unit.trace for unit in trained]), "finetune", labels, otherwise=otherwise)
        return [_simulation(unit, clock.laps) for unit in trained]


class Trained(NamedTuple):
    """A unit after finetuning; arms along the leading axis."""

    prepared: Prepared
    tuned: finetuners.Tuned
    trace: loop.Trace
    measured: finetune.Measured


def pretrained(units: Sequence[Unit], clock: "Clock") -> list[Prepared]:
    """Return the units with their base models, pretraining recorded at `n_records` steps.

    Args:
        units: Of one structure and one length of pretraining: arrays of one shape, settings that differ in numbers.
    """
    worlds = _worlds(units, clock)
    n_records = units[0].config.n_records
    records = np.stack([loop.record_steps(steps[0], n_records) for steps in worlds.ends.values()])
    bases = _pretrain(units, worlds, records, keep="last")
    clock.lap("pretrain")
    return _prepared(units, worlds, [bases[family(unit)] for unit in units], clock)


def pretrained_to_ends(units: Sequence[Unit], clock: "Clock") -> list[Prepared]:
    """Return the units with their base models; those whose worlds differ in the length of pretraining alone share it.

    Pretraining is recorded at its start and at the ends of all units that share it.

    Args:
        units: Of one structure: arrays of one shape, settings that differ only in numbers.
    """
    worlds = _worlds(units, clock)
    longest = max(map(len, worlds.ends.values()))
    records = [np.array(steps + steps[-1:] * (longest - len(steps)), np.int32) for steps in worlds.ends.values()]
    shared = _pretrain(units, worlds, np.stack(records), keep="all")
    clock.lap("pretrain")
    bases = []
    for unit in units:
        of_all, trace = shared[family(unit)]
        bases.append((pick(of_all, worlds.ends[family(unit)].index(unit.config.pretrain.steps)), trace))
    return _prepared(units, worlds, bases, clock)


class _Worlds(NamedTuple):
    """The worlds of some units: each pretrained once."""

    stores: dict[tuple[facts.FactsConfig, int], FactStore]
    """By the facts' settings and the seed."""
    ends: dict[Unit, list[int]]
    """Lengths of pretraining, increasing, by what the units that share it have in common."""
    of: dict[Unit, pretrain.World]


def _worlds(units: Sequence[Unit], clock: "Clock") -> _Worlds:
    stores = {(unit.config.facts, unit.cell.pretrain): None for unit in units}
    stores = {key: facts.build(key[0], seed=key[1]) for key in stores}
    for config, cell in units:
        selection.check_world(config.more_arms, stores[config.facts, cell.pretrain], config.split, seed=cell.split)
    ends: dict[Unit, list[int]] = {}
    for unit in units:
        ends.setdefault(family(unit), []).append(unit.config.pretrain.steps)
    ends = {key: sorted(set(steps)) for key, steps in ends.items()}
    worlds = {key: world(key.config, stores[key.config.facts, key.cell.pretrain], key.cell.pretrain) for key in ends}
    clock.lap("facts")
    return _Worlds(stores, ends, worlds)


def _pretrain(
    units: Sequence[Unit],
    worlds: _Worlds,
    records: Int[np.ndarray, "world record"],
    *,
    keep: Literal["last", "all"],
) -> dict[Unit, tuple[Any, loop.Trace]]:
    """Return every world's base model, or those at all records, and its trace."""
    config, first = units[0].config, next(iter(worlds.stores.values()))
    result = pretrain.run(
        config.pretrain,
        config.model,
        stack(list(worlds.of.values())),
        pretrain.Sizes(first.n_subjects, first.n_relations, first.n_answers),
        records=records,
        keep=keep,
    )
    return {key: pick(result, row) for row, key in enumerate(worlds.of)}


def _prepared(
    units: Sequence[Unit], worlds: _Worlds, bases: Sequence[tuple[Any, loop.Trace]], clock: "Clock"
) -> list[Prepared]:
    """Return the units with their splits."""
    splits: dict[Any, split.Split] = {}
    prepared = []
    for unit, (base, trace) in zip(units, bases, strict=True):
        store = worlds.stores[unit.config.facts, unit.cell.pretrain]
        prepared.append(_prepare(unit, store, worlds.of[family(unit)], base, trace, splits))
    clock.lap("split")
    return prepared


def _prepare(
    unit: Unit,
    store: FactStore,
    of: pretrain.World,
    base: Any,
    trace: loop.Trace,
    splits: dict[Any, split.Split],
) -> Prepared:
    """Return a unit of a family: its own numbers for the model, and its split, which units of equal knownness share."""
    config = unit.config
    of = of._replace(constants=traced.of(config.model, store.n_answers, config.precision))
    if isinstance(base, factored.Values):
        one_filler = replace(config.model, n_filler=1)
        base = base._replace(template=factored.template_value(one_filler, store.n_answers, base.template.dtype))
    is_given = config.knownness.measure == "popularity"
    known = store.popularity if is_given else knownness.score(config.knownness, _asked(config, of, base), store)
    plain = tuple(arm for arm in config.more_arms if not selection.parse(arm))
    key = (config.facts, config.split, plain, unit.cell.pretrain, unit.cell.split) if is_given else unit
    if key not in splits:
        ids, seed = (store.subject, store.relation, known), unit.cell.split
        more = {"is_background": store.is_background, "more": plain, "answer": store.answer}
        splits[key] = split.select(*ids, config.split, **more, keys=store.keys, seed=seed)
    halves, bounds = splits[key], {}
    if plain != config.more_arms:
        asked = _asked(config, of, base)
        ruled, bounds = selection.draw(config.more_arms, asked, store, halves, config.split, seed=unit.cell.split)
        halves = replace(halves, arms=halves.arms | ruled)
    return Prepared(unit, store, of, base, trace, known, halves, bounds)


def records_along(prepared: Sequence[Prepared]) -> Int[np.ndarray, "unit record"]:
    """Return the steps of finetuning to record at: each unit's `n_records`, evenly spaced."""
    configs = [base.unit.config for base in prepared]
    return np.stack([loop.record_steps(config.finetune.steps, config.n_records) for config in configs])


def records_at_end(prepared: Sequence[Prepared]) -> Int[np.ndarray, "unit record"]:
    """Return the last step of each unit alone; `records_along` where early stopping chooses among records."""
    if remedies.chooses_record(prepared[0].unit.config.finetune):
        return records_along(prepared)
    return np.stack([loop.record_steps(base.unit.config.finetune.steps, 1) for base in prepared])


def finetuned(
    prepared: Sequence[Prepared],
    clock: "Clock",
    *,
    records: Int[np.ndarray, "unit record"],
    n_probe: int,
    arms: Sequence[str] | None = None,
) -> list[Trained]:
    """Return the units after finetuning.

    Args:
        records: each unit's steps to record at, the last of which ends its training.
        n_probe: held-out facts, at most, on which the trace measures.
        arms: of the split; None for all.
    """
    config = prepared[0].unit.config
    tasks = pad_arms([task(base, n_probe=n_probe, arms=arms) for base in prepared])
    result = finetune.run(config.finetune, config.model, stack(tasks), records=records)
    clock.lap("finetune")
    return [Trained(base, *pick(result, row)) for row, base in enumerate(prepared)]


def _simulation(trained: Trained, seconds: dict[str, float]) -> Simulation:
    prepared = trained.prepared
    config, of = prepared.unit.config, prepared.world
    rows = {arm: index for index, arm in enumerate(prepared.split.arms)}
    base = weights_of(config, of, prepared.base)
    tuned = {arm: pick(trained.tuned, row) for arm, row in rows.items()}
    weights = {arm: weights_of(config, of, prepared.base, one, alike=base) for arm, one in tuned.items()}
    asked = base if config.finetune.prompt == "template" else _asked(config, of, prepared.base)
    return Simulation(
        prepared.unit.cell,
        prepared.store,
        prepared.split,
        prepared.knownness,
        knownness.margin(asked, prepared.store),
        {"base": base} | weights,
        {"base": prepared.trace} | {arm: pick(trained.trace, row) for arm, row in rows.items()},
        seconds,
        prepared.bounds,
    )


def _asked(config: Config, of: pretrain.World, base: Any) -> Weights:
    """Return the base as it is asked what it knows: with the relation's own token, whatever finetuning has."""
    return weights_of(replace(config, finetune=replace(config.finetune, prompt="template")), of, base)


def weights_of(
    config: Config,
    of: pretrain.World,
    base: Any,
    tuned: finetuners.Tuned | None = None,
    *,
    alike: Weights | None = None,
) -> Weights:
    """Return a model as its measurements see it: tuned, or the base at the question prompt.

    Args:
        alike: the base as it is seen, whose arrays are shared where the values stayed its own.
    """
    prompt: Prompt = config.finetune.prompt
    if config.model.parametrisation == "dense":
        parameters = tuned.parameters if tuned else base
        assert parameters is not None and of.vectors is not None
        return dense.weights(parameters, of.vectors, config.model, prompt)
    values, logits = finetuners.start(base, prompt)
    if tuned:
        alike = alike if tuned.values is None else None
        values, logits = tuned.values or values, tuned.logits
    assert logits is not None
    return factored.weights(values, logits, n_filler=config.model.n_filler, alike=alike)


class Clock:
    """Wall time between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
