"""R8, the reversal: the pretraining at which the arms' order of subject share reverses, predicted and measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from core import statistics
from core.seeds import Cell
from theory import measure, pipeline
from theory.compare import Row
from theory.config import Config
from theory.law import flow
from theory.pipeline import Simulation
from theory.verify import judge

LEVELS = (500, 1000, 2000, 4000, 8000, 16000)
"""Pretraining steps."""
EXPONENTS = (0.8, 1.0, 1.2)
"""Popularity exponents."""
MAX_DISTANCE = 0.1
"""R8 holds up to this median distance between predicted and measured boundary, in doublings of pretraining."""


def boundary(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """Return where t_top - t_bottom changes sign over pretraining, on a coarse grid; nothing for a real table's facts.

    The grid's worlds are those of the simulations, pretrained anew at every level.
    """
    if config.facts.path is not None:
        return []
    cells, steps = [world.cell for world in simulations], np.array(LEVELS)
    by_exponent, boundaries = [], []
    for exponent in EXPONENTS:
        # [level, world, (predicted, measured)]
        lead = np.array([_leads(config, cells, exponent, level) for level in LEVELS])
        reversed_at = np.array(
            [[flow.reversal_boundary(steps, lead[:, w, k]) for k in (0, 1)] for w in range(len(cells))]
        )
        boundaries.append(reversed_at)
        crossing = reversed_at[np.isfinite(reversed_at).all(axis=1)]
        if len(crossing):
            interval = statistics.mean_interval(crossing[:, 1])
            by_exponent.append(
                {"result": "R8", "arm": "top − bottom", "predicted": float(crossing[:, 0].mean())}
                | {
                    "measured": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "verdict": "reported",
                    "unit": "worlds",
                }
                | {"note": f"pretraining steps at which the shares' order reverses, popularity exponent {exponent}"}
            )
    distance = flow.boundary_distance(*np.concatenate(boundaries).T)
    grid = f"{len(EXPONENTS)} exponents × {len(cells)} worlds, {len(LEVELS)} levels of pretraining"
    note = f"median |Δ log2 steps| between predicted and measured boundary, {grid}"
    row = judge.bounded("R8", distance, MAX_DISTANCE, note, f"a median distance above {MAX_DISTANCE} doublings")
    if not np.isfinite(distance):
        row |= {"verdict": "undecided", "note": f"{note}; no world reverses in both"}
    return [*by_exponent, row | {"arm": "top − bottom"}]


def _leads(config: Config, cells: Sequence[Cell], exponent: float, steps: int) -> list[tuple[float, float]]:
    """Return each world's t_top - t_bottom after finetuning, predicted from its base model and measured."""
    level = replace(
        config,
        facts=replace(config.facts, popularity_exponent=exponent),
        pretrain=replace(config.pretrain, steps=steps),
        n_records=1,
    )
    simulations = [world for group in pipeline.groups(level, cells) for world in pipeline.simulate(level, group)]
    return [
        (
            _lead({arm: measure.predicted_path(level, world, arm).share for arm in ("top", "bottom")}),
            _lead({arm: world.traces[arm].measured.subject_share for arm in ("top", "bottom")}),
        )
        for world in simulations
    ]


def _lead(shares: Mapping[str, np.ndarray]) -> float:
    return float(shares["top"][-1] - shares["bottom"][-1])
