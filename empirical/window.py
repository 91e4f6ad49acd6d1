"""The window study: which properties of a world open or close the effect, by a two-level fractional factorial design.

Seven factors at two levels in 16 worlds, of resolution IV: main effects are clear of each other and of all two-factor
interactions (Box, Hunter and Hunter 2005, table 6.14). Every world has several base models; the base model is the unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from empirical import compare, runner, toy
from empirical.config import Config
from empirical.facts.world import WorldConfig
from empirical.study import Cell, Progress
from theory import results, statistics
from theory.facts import Background

N_FACTS = 800
"""Facts of every world, whatever the number of subjects."""
ARMS = ("top", "random", "bottom")


@dataclass(frozen=True)
class Factor:
    """A property of worlds at two levels."""

    name: str
    low: str
    high: str


FACTORS = (
    Factor("tail", "told 8 times or more", "told 0.5 times or more"),
    Factor("background", "none", "as many other subjects, 30 % of the sentences"),
    Factor("answers", "10 a relation", "100 a relation"),
    Factor("names", "of shared words", "of words of their own"),
    Factor("relations", "alike", "half of them with nearly distinct answers"),
    Factor("facts per subject", "1", "4"),
    Factor("format", "questions never seen", "10 % of the sentences are questions about others"),
)
OUTCOMES = {
    "correct": "accuracy",
    "retained": "retention",
    "guessed": "guessed",
    "majority_correct": "majority guess",
    "subject_attention": "subject attention",
}
"""Columns of facts.parquet whose differences top − bottom are the outcomes."""


def design() -> Int[np.ndarray, "world factor"]:
    """Return the levels, −1 or 1: a full factorial of four factors, and products of three of these for the others."""
    a, b, c, d = (np.array(np.meshgrid(*[[-1, 1]] * 4, indexing="ij")).reshape(4, -1))[::-1]
    return np.stack([a, b, c, d, a * b * c, b * c * d, a * c * d], axis=1)


def name(levels: Int[np.ndarray, " factor"]) -> str:
    """Return the study's name of a world: window-, then a sign for each factor, h or l."""
    return "window-" + "".join("h" if level > 0 else "l" for level in levels)


def config(base: Config, levels: Int[np.ndarray, " factor"]) -> Config:
    """Return the config of a world with these levels."""
    tail, background, answers, names, relations, per_subject, form = levels > 0
    world = base.world
    per = 4 if per_subject else 1
    return replace(
        base,
        arms=ARMS,
        world=WorldConfig(
            n_subjects=N_FACTS // per,
            n_relations=4,
            facts_per_subject=per,
            n_answers=100 if answers else 10,
            distinct_relations=2 if relations else 0,
            background=Background(size=1.0 if background else 0.0, share=0.3, skew=1.0),
            exposure=replace(world.exposure, low=0.5 if tail else 8.0),
            statements=world.statements,
            names="distinctive" if names else "shared",
            qa_share=0.1 if form else 0.0,
        ),
    )


def run(base: Config, worlds: Sequence[int], n_pretrain: int, n_seeds: int, out: Path, *, progress: Progress) -> None:
    """Run these worlds of the design, each with its base models and finetuning seeds; finished ones are not run again.

    Args:
        progress: told what is being done, and how many of all runs (with a fraction) are done by then.
    """
    wanted = [Cell(p, p, k) for p in range(n_pretrain) for k in range(n_seeds)]
    for number, levels in enumerate(design()[list(worlds)]):
        one, label = config(base, levels), name(levels)
        left = runner.unfinished(one, label, wanted, out, overwrite=False)
        done = (number + 1) * len(wanted) - len(left)

        def tell(doing: str, share: float, label: str = label, done: int = done) -> None:
            progress(f"{label} {doing}", done + share)

        runner.run(one, label, left, out, progress=tell)


TOY_OUTCOMES = {"accuracy": "accuracy", "subject_attention": "subject attention"}
"""Metrics of the toy's report, and the outcomes that they are set beside."""


def toy_gaps(out: Path, about: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, "model outcome"]:
    """Return the toy's gaps top − bottom in these base models' worlds (TOY_OUTCOMES); nan where it has not run."""
    found = np.full((len(about), len(TOY_OUTCOMES)), np.nan)
    for row, one in enumerate(about):
        runs = results.find_runs(toy.directory(out, one["world"], seed=one["pretrain"]), "theory", "paper")
        if runs:
            metrics = runs[0].report["metrics"]
            found[row] = [metrics["top"][name] - metrics["bottom"][name] for name in TOY_OUTCOMES]
    return found


def run_toy(base: Config, worlds: Sequence[int], n_pretrain: int, out: Path, *, progress: Progress) -> None:
    """Run the toy in the worlds of these base models; finished ones are not run again."""
    for number, levels in enumerate(design()[list(worlds)]):
        for seed in range(n_pretrain):
            toy.run(config(base, levels).world, name(levels), out, seed=seed)
            progress(f"toy in {name(levels)}", number * n_pretrain + seed + 1)


@dataclass(frozen=True)
class Effect:
    """What raising a factor from low to high does to an outcome, with a 95 % interval over base models."""

    factor: str
    outcome: str
    found: statistics.PairedInterval


def gaps(out: Path) -> tuple[list[dict[str, Any]], Float[np.ndarray, "model outcome"]]:
    """Return, for each finished base model of the design, its world and levels, and its gaps top − bottom."""
    about, found = [], []
    for levels in design():
        runs = results.find_runs(out, runner.FLOW, name(levels))
        for group in compare.read(runs) if runs else []:
            about.append({"world": name(levels), "levels": levels, "pretrain": group.world})
            found.append([_gap(group, column) for column in OUTCOMES])
    return about, np.array(found, dtype=float).reshape(-1, len(OUTCOMES))


def _gap(group: compare.Group, column: str) -> float:
    values = compare.difference(group, "top", "bottom", column)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def effects(levels: Int[np.ndarray, "model factor"], gap: Float[np.ndarray, "model outcome"]) -> list[Effect]:
    """Return every main effect on every outcome, and first the mean gap: least squares over base models.

    The interval is Student's, of the residual spread of a model with main effects alone. Base models whose gap is not
    defined (no fact recalled) are left out of that outcome. Nothing where there are too few base models.
    """
    made = []
    for index, outcome in enumerate(OUTCOMES):
        there = np.isfinite(gap[:, index])
        matrix = np.column_stack([np.ones(there.sum()), levels[there] / 2])
        spare = len(matrix) - matrix.shape[1]
        if spare < 1 or np.linalg.matrix_rank(matrix) < matrix.shape[1]:
            continue
        values, *_ = np.linalg.lstsq(matrix, gap[there, index], rcond=None)
        residual = gap[there, index] - matrix @ values
        error = np.sqrt(residual @ residual / spare * np.diag(np.linalg.inv(matrix.T @ matrix)))
        half = stats.t.ppf(0.975, spare) * error
        p_value = 2 * stats.t.sf(np.abs(values) / error, spare)
        labels = ["mean of all worlds", *(factor.name for factor in FACTORS)]
        made += [
            Effect(label, outcome, statistics.PairedInterval(float(v), float(v - h), float(v + h), float(p)))
            for label, v, h, p in zip(labels, values, half, p_value, strict=True)
        ]
    return made
