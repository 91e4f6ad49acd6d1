"""One world as large as the machine holds: time, memory, visits, and R6 against what was stored."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from scipy import stats

from benchmarks import memory, report, scale_report, theory
from core import closed_form, split
from core.errors import InputError
from core.seeds import Cell
from theory import evaluate, facts, finetune, pipeline, pretrain
from theory.config import Config
from theory.engine import sampling
from theory.law import flow, predict
from theory.pipeline import Prepared, Unit

ARMS = ("top", "bottom")
DRAWS = 2**22
"""Draws that are counted at once."""
PROBE = 10**5
"""Held-out facts, at most, on which each arm's means are taken."""
ROWS = 2**16
"""Subjects whose values are looked at at once."""


@dataclass(frozen=True)
class Settings:
    """Build, pretrain, finetune and measure one world, and say what each stage took."""

    subjects: int = 10**7
    """Subjects of the world. A GPU of 139 GiB holds the values of 10^8."""
    relations: int = 4
    """Relations of every subject."""
    steps: int = 200_000
    """Steps of pretraining, 256 facts each."""
    finetune_steps: int = 200
    """Steps of finetuning each arm, top and bottom."""
    sample: int = 20_000
    """Facts, at most, of each decade of popularity on which accuracies and R6 are measured."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it runs; cuda needs a build of jax for it."""
    out: Path | None = None
    """Write every figure to this JSON file."""


class Decade(NamedTuple):
    """Subjects of popularity rank 1–10, 11–100, …; means are over their facts."""

    first: int
    """Rank of the most popular, from 1."""
    n_subjects: int
    n_facts: int
    expected_visits: float
    """Times that a fact was drawn in pretraining: steps × batch × exposure."""
    visits: float
    """Counted."""
    expected_drawn: float
    """Share of the facts that were drawn at least once."""
    drawn: float
    salience: float
    predicted_salience: float
    """Salience that R6 predicts from exposure alone."""
    r_squared: float
    """R² of that prediction, over subjects: the means of their facts."""
    r_squared_visits: float
    """The same with visits counted in place of those expected: what is due to the luck of the draw is gone."""
    accuracy: dict[str, float]
    """Accuracy by arm, on held-out facts."""


class Stage(NamedTuple):
    """What a stage took."""

    stage: str
    seconds: float
    peak_bytes: int
    """Most of this process's RAM in use while it ran."""
    device_peak_bytes: int | None
    """Most of the accelerators' memory in use until then; None without one."""


def run(settings: Settings) -> None:
    """Run it, print the tables, and write the JSON file if one is named.

    Raises:
        InputError: settings that mean nothing, a device that is not there, a file that cannot be written.
    """
    for name in ("subjects", "relations", "steps", "finetune_steps", "sample"):
        if getattr(settings, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(settings, name)}: it must be at least 1.")
    machine = report.describe_machine(settings.device, theory.prepare(settings.device, settings.out))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        found = measure(settings, lambda doing: progress.update(task, description=doing))
    machine["load_after"] = os.getloadavg()
    scale_report.show(settings.subjects, machine, found)
    if settings.out:
        used = asdict(settings) | {"out": str(settings.out)}
        report.write_json(settings.out, {"settings": used, "machine": machine} | found)


def measure(settings: Settings, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return every figure: `stages`, `decades`, and what concerns the whole world."""
    clock = _Clock(tell)
    config = Config(
        facts=facts.FactsConfig(n_subjects=settings.subjects, n_relations=settings.relations),
        pretrain=pretrain.PretrainConfig(steps=settings.steps),
        finetune=finetune.FinetuneConfig(steps=settings.finetune_steps),
        n_records=1,
    )
    prepared = pipeline.pretrained([Unit(config, Cell(0, 0, 0))], clock)
    ends = pipeline.records_at_end(prepared)
    trained = pipeline.finetuned(prepared, clock, records=ends, n_probe=PROBE, arms=ARMS)[0]
    visits = count_visits(trained.prepared.world, config)
    clock.lap("visits")
    of_world, of_decades = _measure_base(trained.prepared, visits, settings.sample)
    clock.lap("R6")
    accuracy = _accuracies(trained, settings.sample)
    clock.lap("answers")
    decades = [
        Decade(**decade, accuracy={arm: row[place] for arm, row in accuracy.items()})
        for place, decade in enumerate(of_decades)
    ]
    names = ("accuracy", "retention", "subject_share", "subject_attention")
    arms = {arm: {name: float(getattr(trained.measured, name)[row]) for name in names} for row, arm in enumerate(ARMS)}
    return {
        **of_world,
        "arms": arms,
        "decades": [decade._asdict() for decade in decades],
        "stages": [stage._asdict() for stage in clock.stages],
    }


def count_visits(world: pretrain.World, config: Config) -> Int[np.ndarray, " fact"]:
    """Return how many times each fact was drawn in pretraining, from the very draws: same key, same sampler."""
    block, batch_size, n_steps = pretrain.BLOCK, config.pretrain.batch_size, config.pretrain.steps
    n_blocks = max(1, DRAWS // (block * batch_size))

    @jax.jit
    def draw(key: jax.Array, which: jax.Array, sampler: sampling.AliasTable) -> jax.Array:
        return jax.lax.map(lambda n: sampling.draw(jax.random.fold_in(key, n), sampler, (block, batch_size)), which)

    key, sampler = jax.random.key(world.seed), jax.tree.map(jnp.asarray, world.sampler)
    visits = np.zeros(len(world.facts.subject), np.int32)
    for first in range(0, -(-n_steps // block), n_blocks):
        drawn = np.asarray(draw(key, jnp.arange(first, first + n_blocks), sampler)).reshape(-1, batch_size)
        np.add.at(visits, drawn[: n_steps - first * block].ravel(), 1)
    return visits


def decades_of(subject: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """Return the decades of popularity rank, 1–10, 11–100 …: a sampled world's ids are ranks, counted from 0."""
    return np.searchsorted(10 ** np.arange(1, 10), subject.astype(np.int64), side="right")


class _Clock(pipeline.Clock):
    """Wall time and peak memory between laps."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        memory.reset()
        super().__init__()
        self.stages: list[Stage] = []
        self._tell = tell

    def lap(self, name: str) -> None:
        super().lap(name)
        self.stages.append(Stage(name, self.laps[name], memory.peak(), memory.device_peak()))
        memory.reset()
        self._tell(f"after {name}")


def _measure_base(
    prepared: Prepared, visits: Int[np.ndarray, " fact"], sample: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return visits and R6 of the whole world, and by decade."""
    config, store = prepared.unit.config, prepared.store
    n_draws = config.pretrain.steps * config.pretrain.batch_size
    expected = store.exposure * n_draws
    drawn = -np.expm1(n_draws * np.log1p(-store.exposure))
    base = prepared.base.subject
    salience = base[store.subject, store.answer].astype(float)
    decade = decades_of(store.subject)
    chosen = np.concatenate([_every(np.flatnonzero(decade == d), sample) for d in range(decade.max() + 1)])
    predicted, of_visits = (_r6(draws, salience, chosen, config) for draws in (expected, visits.astype(float)))

    n_facts = np.bincount(store.subject)
    by_subject = [np.bincount(store.subject, of_fact) / n_facts for of_fact in (salience, predicted, of_visits)]
    groups = decades_of(np.arange(store.n_subjects))
    totals = [np.bincount(decade, of_fact) for of_fact in (expected, visits, drawn, visits > 0, salience, predicted)]
    sizes = np.bincount(decade)
    names = ("expected_visits", "visits", "expected_drawn", "drawn", "salience", "predicted_salience")
    decades = []
    for d, n in enumerate(sizes):
        own = [of_subject[groups == d] for of_subject in by_subject]
        means = {name: float(total[d] / n) for name, total in zip(names, totals, strict=True)}
        fits = {
            "r_squared": closed_form.r_squared(own[1], own[0]),
            "r_squared_visits": closed_form.r_squared(own[2], own[0]),
        }
        decades.append({"first": 10**d + (d > 0), "n_subjects": len(own[0]), "n_facts": int(n), **means, **fits})
    chi_square = float(((totals[1] - totals[0]) ** 2 / totals[0]).sum())
    world = {
        "n_facts": len(store.subject),
        "n_draws": n_draws,
        "distinct": int((visits > 0).sum()),
        "expected_distinct": float(drawn.sum()),
        "chi_square": chi_square,
        "chi_square_p": float(stats.chi2.sf(chi_square, len(sizes) - 1)) if len(sizes) > 1 else float("nan"),
        "subjects_drawn": int(np.count_nonzero(np.bincount(store.subject, visits))),
        "subjects_moved": sum(int(base[at : at + ROWS].any(axis=1).sum()) for at in range(0, len(base), ROWS)),
        "r_squared": closed_form.r_squared(by_subject[1], by_subject[0]),
        "r_squared_visits": closed_form.r_squared(by_subject[2], by_subject[0]),
    }
    return world, decades


def _r6(
    draws: Float[np.ndarray, " fact"],
    salience: Float[np.ndarray, " fact"],
    chosen: Int[np.ndarray, " row"],
    config: Config,
) -> Float[np.ndarray, " fact"]:
    """Return the salience that so many draws lead to, the competitors' mass fitted on the chosen facts."""
    attention = predict.PRETRAINING_ATTENTION
    rate = config.pretrain.learning_rate * (1 - config.model.shared_share)
    exposure = rate * attention * draws / config.pretrain.batch_size
    competitors = flow.fit_competitors(exposure[chosen], salience[chosen], attention)
    return flow.salience_growth(exposure, attention, competitors)


def _accuracies(trained: pipeline.Trained, sample: int) -> dict[str, list[float]]:
    """Return each arm's accuracy by decade, on held-out facts; nan where there are none."""
    prepared = trained.prepared
    store, held_out = prepared.store, np.flatnonzero(prepared.split.role == split.HELD_OUT)
    decade = decades_of(store.subject[held_out])
    n_decades = 1 + int(decades_of(np.array([store.n_subjects - 1]))[0])
    rows = np.concatenate([_every(held_out[decade == d], sample) for d in range(n_decades)])
    # A world of the sampled subjects alone: the model is not spread out for all of them.
    subjects, subject = np.unique(store.subject[rows], return_inverse=True)
    columns = {name: getattr(store, name)[rows] for name in ("relation", "answer", "popularity", "exposure")}
    columns |= {"subject": subject.astype(np.int32), "is_background": store.is_background[rows]}
    sampled = replace(store, **columns, n_subjects=len(subjects))
    base = prepared.base._replace(subject=prepared.base.subject[subjects])
    found = {}
    for place, arm in enumerate(ARMS):
        tuned = jax.tree.map(lambda leaf, place=place: leaf[place], trained.tuned)
        tuned = tuned._replace(logits=tuned.logits._replace(subject=tuned.logits.subject[subjects]))
        weights = pipeline.weights_of(prepared.unit.config, prepared.world, base, tuned)
        correct = evaluate.answer(weights, sampled, np.arange(len(rows))).correct
        of_decade = decades_of(store.subject[rows])
        found[arm] = [
            float(correct[of_decade == d].mean()) if (of_decade == d).any() else float("nan") for d in range(n_decades)
        ]
    return found


def _every(rows: Int[np.ndarray, " row"], n: int) -> Int[np.ndarray, " _"]:
    """Return at most n of the rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]
