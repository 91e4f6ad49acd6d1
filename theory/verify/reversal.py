"""R8, the reversal: the pretraining at which the arms' order of subject share reverses, and why it stays reversed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from core import config_json, signs, statistics
from core.facts.store import FactStore
from core.seeds import Cell
from theory import evaluate, measure, pipeline
from theory.compare import Row
from theory.config import Config
from theory.law import flow, predict
from theory.law import reversal as law
from theory.pipeline import Simulation
from theory.verify import judge

LEVELS = (500, 1000, 2000, 4000, 8000, 16000)
"""Pretraining steps."""
EXPONENTS = (0.8, 1.0, 1.2)
"""Popularity exponents."""
MAX_DISTANCE = 0.1
"""R8 holds up to this median distance between predicted and measured boundary, in doublings of pretraining."""
ALONE = (1.0, 8000)
"""Popularity exponent and pretraining steps, beyond the boundary, at which subjects' other answers are taken out."""


class _Found(NamedTuple):
    """What is found in one world at one level of pretraining."""

    predicted: float
    """t_top - t_bottom after finetuning, from its base model."""
    measured: float
    share: float
    """The mean of both arms' shares, measured."""
    exposure: float
    """Of the median fact: kτ of R6."""
    frequency: Float[np.ndarray, " answer"]
    """Of the relations' answers, the most frequent first, in the mean over relations."""


def boundary(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """Return where t_top - t_bottom changes sign over pretraining, on a coarse grid; nothing for a real table's facts.

    Beside it stands the median fact's exposure there, as R8′ has it from the answers' frequencies; and t_top - t_bottom
    beyond it where subjects know nothing else. The worlds are those of the simulations, pretrained anew at every level.
    """
    if config.facts.path is not None:
        return []
    cells, steps = [world.cell for world in simulations], np.array(LEVELS)
    reported, boundaries, alone = [], [], []
    for exponent in EXPONENTS:
        by_level = []
        for level in LEVELS:
            of_level = _at(config, exponent, level)
            worlds = _simulate(of_level, cells)
            by_level.append([_found(of_level, world) for world in worlds])
            if (exponent, level) == ALONE:
                alone = _alone(of_level, worlds, [found.predicted for found in by_level[-1]])
        by_world = list(zip(*by_level, strict=True))
        leads = np.array([[(one.predicted, one.measured) for one in world] for world in by_world])
        reversed_at = np.array([[flow.reversal_boundary(steps, lead) for lead in world.T] for world in leads])
        boundaries.append(reversed_at)
        crossing = np.isfinite(reversed_at).all(axis=1)
        if crossing.any():
            own = f"popularity exponent {exponent}"
            note = f"pretraining steps at which the shares' order reverses, {own}"
            reported.append(_reported(reversed_at[crossing], note))
            pairs = [_exposures(by_world[world], exponent, reversed_at[world, 1]) for world in np.flatnonzero(crossing)]
            note = f"exposure kτ of the median fact there, and that at which halves pull alike (R8′), {own}"
            reported.append(_reported(np.array(pairs), note))
    distance = flow.boundary_distance(*np.concatenate(boundaries).T)
    grid = f"{len(EXPONENTS)} exponents × {len(cells)} worlds, {len(LEVELS)} levels of pretraining"
    note = f"median |Δ log2 steps| between predicted and measured boundary, {grid}"
    row = judge.bounded("R8", distance, MAX_DISTANCE, note, f"a median distance above {MAX_DISTANCE} doublings")
    if not np.isfinite(distance):
        row |= {"verdict": "undecided", "note": f"{note}; no world reverses in both"}
    return [*reported, *alone, row | {"arm": "top − bottom"}]


def _at(config: Config, exponent: float, steps: int) -> Config:
    """Return the config at one popularity exponent and level of pretraining."""
    facts, pretrain = replace(config.facts, popularity_exponent=exponent), replace(config.pretrain, steps=steps)
    return replace(config, facts=facts, pretrain=pretrain, n_records=1)


def _simulate(config: Config, cells: Sequence[Cell]) -> list[Simulation]:
    return [world for group in pipeline.groups(config, cells) for world in pipeline.simulate(config, group)]


def _found(config: Config, world: Simulation) -> _Found:
    halves = ("top", "bottom")
    predicted = [float(measure.predicted_path(config, world, arm).share[-1]) for arm in halves]
    measured = [float(world.traces[arm].measured.subject_share[-1]) for arm in halves]
    store = world.store
    draws = config.pretrain.steps * config.pretrain.batch_size * np.median(store.exposure[~store.is_background])
    exposure = float(predict.exposure_of(np.array([draws]), config_json.to_json(config))[0])
    lead = predicted[0] - predicted[1], measured[0] - measured[1]
    return _Found(*lead, float(np.mean(measured)), exposure, _frequency(store))


def _frequency(store: FactStore) -> Float[np.ndarray, " answer"]:
    counts = np.zeros((store.n_relations, store.n_answers))
    np.add.at(counts, (store.relation, store.answer), 1)
    by_rank = -np.sort(-counts / counts.sum(axis=1, keepdims=True), axis=1)
    mean = by_rank.mean(axis=0)
    return mean[mean > 0]


def _exposures(levels: Sequence[_Found], exponent: float, steps: float) -> tuple[float, float]:
    """Return the median fact's exposure at which halves pull alike (R8′), and that at the world's own boundary."""
    place = np.log2(steps)
    share = float(np.interp(place, np.log2(LEVELS), [level.share for level in levels]))
    predicted = law.median_exposure(levels[0].frequency, exponent=exponent, share=share)
    return predicted, levels[0].exposure * steps / LEVELS[0]


def _alone(config: Config, worlds: Sequence[Simulation], with_others: Sequence[float]) -> list[Row]:
    """Return the row on t_top - t_bottom, by R5, without the subjects' other answers; none where there are none."""
    if all(len(np.unique(world.store.subject)) == len(world.store.subject) for world in worlds):
        return []
    end = np.array([config.finetune.learning_rate * config.finetune.steps])
    leads = []
    for world in worlds:
        base, store = world.weights["base"], world.store
        is_told = np.zeros(base.subject_values.shape, bool)
        is_told[store.subject, store.answer] = True
        share = []
        for arm in ("top", "bottom"):
            rows = world.split.arms[arm]
            facts = store.answer[rows], store.relation[rows]
            values = law.without_other_answers(
                evaluate.token_values(base, store, rows), facts[0], is_told[store.subject[rows]]
            )
            path = flow.held_out_flow(
                values, *facts, end, rho=config.model.shared_share, relations=np.unique(store.relation)
            )
            share.append(float(path.share[-1]))
        leads.append(share[0] - share[1])
    interval = statistics.mean_interval(np.array(leads))
    where = f"{config.pretrain.steps:,} steps of pretraining"
    return [
        {"result": "R8", "arm": "top − bottom", "measured": interval.mean, "low": interval.low, "high": interval.high}
        | {"verdict": signs.verdict(interval), "unit": "worlds"}
        | {"refuted_by": "a reversed order"}
        | {"note": f"share after {where} without the subjects' other answers; with them {np.mean(with_others):+.3f}"}
    ]


def _reported(pairs: Float[np.ndarray, "world 2"], note: str) -> Row:
    """Return the row of what was predicted and what was measured in each world."""
    predicted, measured = pairs.T
    interval = statistics.mean_interval(measured)
    return {
        "result": "R8",
        "arm": "top − bottom",
        "predicted": float(np.mean(predicted)),
        "measured": interval.mean,
    } | {"low": interval.low, "high": interval.high, "verdict": "reported", "unit": "worlds", "note": note}
