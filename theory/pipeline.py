"""The stages in order, for many worlds at once: facts, pretrain, knownness, split, finetune."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from theory import dense, embeddings, facts, finetune, knownness, pretrain, sampling, split, table, train
from theory.config import Config
from theory.model import Prompt, Weights

PROBE = 1000
"""Facts, at most, on which the traces measure."""
MEMORY = 2**30
"""Bytes of values trained at once; more worlds than fit go one group after another."""


class Cell(NamedTuple):
    """The three kinds of randomness of one run."""

    pretrain: int
    """The world and the base model."""
    split: int
    """The held-out set, the random half, ties."""
    seed: int
    """The batches of finetuning."""


@dataclass(frozen=True)
class Simulation:
    """Everything one run made, before it is measured."""

    cell: Cell
    store: facts.FactStore
    split: split.Split
    knownness: np.ndarray
    margin: np.ndarray
    """Of the base model in the pretraining format: positive where it recalls the fact."""
    weights: dict[str, Weights]
    """By arm; `base` is the model before finetuning, at the question prompt."""
    traces: dict[str, train.Trace]
    """By arm; `base` is pretraining's."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each stage, shared by the runs simulated together."""


def groups(config: Config, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Return the cells in groups that are simulated together, within `MEMORY`."""
    store = facts.build(config.facts, seed=cells[0].pretrain)
    n_values = store.n_subjects * (store.n_answers + config.model.n_filler)
    if config.model.form == "dense":
        n_values = (store.n_subjects + store.n_relations + store.n_answers + config.model.n_filler) ** 2
    n_copies = len(split.ARMS) if config.finetune.train == "everything" or config.model.form == "dense" else 1
    n_together = max(1, MEMORY // (n_values * (1 + n_copies) * np.dtype(config.precision).itemsize))
    return (list(cells[at : at + n_together]) for at in range(0, len(cells), n_together))


def simulate(config: Config, cells: Sequence[Cell]) -> list[Simulation]:
    """Return the simulations of these cells, trained together.

    Raises:
        InputError: the facts do not suffice, or training diverged.
    """
    with jax.enable_x64(config.precision == "float64"):
        return _simulate(config, cells)


def _simulate(config: Config, cells: Sequence[Cell]) -> list[Simulation]:
    clock = _Clock()
    seeds = sorted({cell.pretrain for cell in cells})
    stores = {seed: facts.build(config.facts, seed=seed) for seed in seeds}
    worlds = {seed: world(config, stores[seed], seed) for seed in seeds}
    clock.lap("facts")

    sizes = pretrain.Sizes(*(getattr(stores[seeds[0]], name) for name in pretrain.Sizes._fields))
    stacked = _stack([worlds[seed] for seed in seeds])
    bases, traces = pretrain.run(
        config.pretrain, config.model, stacked, sizes, n_records=config.n_records, dtype=config.precision
    )
    train.check_finite(traces, "pretrain", [f"pretraining seed {seed}" for seed in seeds])
    base, base_trace = ({seed: _pick(tree, i) for i, seed in enumerate(seeds)} for tree in (bases, traces))
    clock.lap("pretrain")

    base_weights = {seed: weights_of(config, worlds[seed], base[seed]) for seed in seeds}
    # What is known was asked with the relation's own token, also where finetuning has a fresh one.
    original = replace(config, finetune=replace(config.finetune, prompt="template"))
    asked = {seed: weights_of(original, worlds[seed], base[seed]) for seed in seeds}
    known = {seed: knownness.score(config.knownness, asked[seed], stores[seed]) for seed in seeds}
    splits = {
        (cell.pretrain, cell.split): split.select(
            stores[cell.pretrain].subject,
            stores[cell.pretrain].relation,
            known[cell.pretrain],
            config.split,
            is_background=stores[cell.pretrain].is_background,
            seed=cell.split,
        )
        for cell in cells
    }
    clock.lap("split")

    tasks = [task(config, worlds[c.pretrain], base[c.pretrain], splits[c.pretrain, c.split], c.seed) for c in cells]
    tuned, traces = finetune.run(config.finetune, config.model, _stack(_pad_arms(tasks)), n_records=config.n_records)
    train.check_finite(traces, "finetune", [f"{arm} of {cell}" for cell in cells for arm in split.ARMS])
    clock.lap("finetune")

    simulations = []
    for row, cell in enumerate(cells):
        arms = {arm: _pick(_pick(tuned, row), i) for i, arm in enumerate(split.ARMS)}
        of = worlds[cell.pretrain]
        weights = {arm: weights_of(config, of, base[cell.pretrain], one) for arm, one in arms.items()}
        arm_traces = {arm: _pick(_pick(traces, row), i) for i, arm in enumerate(split.ARMS)}
        simulations.append(
            Simulation(
                cell,
                stores[cell.pretrain],
                splits[cell.pretrain, cell.split],
                known[cell.pretrain],
                knownness.margin(asked[cell.pretrain], stores[cell.pretrain]),
                {"base": base_weights[cell.pretrain]} | weights,
                {"base": base_trace[cell.pretrain]} | arm_traces,
                clock.laps,
            )
        )
    return simulations


def world(config: Config, store: facts.FactStore, seed: int) -> pretrain.World:
    """Return what pretraining reads of a store."""
    foreground = np.flatnonzero(~store.is_background)
    vectors = None
    if config.model.form == "dense":
        n_outputs = store.n_answers + config.model.n_filler
        vectors = embeddings.build(config.model, store.n_subjects, store.n_relations, n_outputs, seed=seed)
    return pretrain.World(
        table.Facts(store.subject, store.relation, store.answer),
        sampling.alias_table(store.exposure),
        _spread(foreground, PROBE),
        vectors,
        np.asarray(seed, np.uint32),
    )


def task(config: Config, of: pretrain.World, base: Any, halves: split.Split, seed: int) -> finetune.Task:
    """Return what finetuning reads of a world, its base model and its split."""
    arms = [halves.arms[arm] for arm in split.ARMS]
    rows = np.zeros((len(arms), max(map(len, arms))), np.int32)
    for row, arm in zip(rows, arms, strict=True):
        row[: len(arm)] = arm
    held_out = np.flatnonzero(halves.role == split.ROLES.index("held_out"))
    sizes = np.array([len(arm) for arm in arms], np.int32)
    return finetune.Task(base, of.facts, rows, sizes, _spread(held_out, PROBE), of.vectors, np.asarray(seed, np.uint32))


def weights_of(config: Config, of: pretrain.World, base: Any, tuned: finetune.Tuned | None = None) -> Weights:
    """Return a model as its measurements see it: tuned, or the base at the question prompt."""
    prompt: Prompt = config.finetune.prompt
    if config.model.form == "dense":
        parameters = tuned.parameters if tuned else base
        assert parameters is not None and of.vectors is not None
        return dense.weights(parameters, of.vectors, config.model, prompt)
    values, logits = finetune.start(jax.tree.map(jnp.asarray, base), prompt)
    if tuned:
        values, logits = tuned.values or values, tuned.logits
    assert logits is not None
    return table.weights(values, logits)


def _spread(rows: np.ndarray, n: int) -> np.ndarray:
    """Return at most n of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)].astype(np.int32)


def _pad_arms(tasks: list[finetune.Task]) -> list[finetune.Task]:
    """Return the tasks with arms and probes of one length (splits of a real table differ by a few facts)."""
    width, n_probe = max(t.arms.shape[1] for t in tasks), min(len(t.probe) for t in tasks)
    return [
        t._replace(arms=np.pad(t.arms, ((0, 0), (0, width - t.arms.shape[1]))), probe=t.probe[:n_probe]) for t in tasks
    ]


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _pick(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


class _Clock:
    """Wall time between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
