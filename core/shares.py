"""How much of the gap between two models moves with an intervention: in one run, and over worlds, models or splits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from core import statistics
from core.columns import MEDIATION, Columns
from core.runs import Run
from core.statistics import Interval

COLUMNS = tuple(MEDIATION.names[2:])
"""Of one pair's table."""
VARIANCES = ("moved_variance", "gap_variance", "covariance")
READ = ("receiver", "donor", "intervention", "accuracy", "logprob", *VARIANCES)
"""Of a run's mediation table, the columns that `of_runs` reads."""
PATCHES = (
    *("attention@subject", "attention@all", "value@subject", "value@end", "mlp@subject_last", "mlp@end"),
    *("layer@subject", "layer@end"),
)
"""Activations that are given where nothing else is said, WHAT@WHERE: of language models and of the deep toy alike."""
BY_QUESTION = "mediation_by_question"
"""The arrays in which a run keeps each question's outcomes, by pair and intervention."""
RECEIVER, DONOR = "receiver", "donor"
"""The rows of the two models as they are."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model makes of the true answers, an entry for each question."""

    logprob: Float[np.ndarray, " question"]
    """In nats, summed over the answer's tokens and the end."""
    is_right: Bool[np.ndarray, " question"]
    """Whether each of those tokens is the likeliest, given the true ones before it: the greedy answer is the first
    accepted one to the letter, which is stricter than an exact match."""


def table(found: Mapping[str, Outcome], cluster: Int[np.ndarray, " question"], *, seed: int) -> Columns:
    """Return a row for each outcome: its accuracy, and the share of the gap that moved, with 95 % intervals.

    The share is what the intervention adds to the receiver's mean, over what the donor has more. Intervals are over the
    clusters: bootstraps of accuracy, Fieller's of shares; where the two models hardly differ these are unbounded.

    Args:
        found: By intervention, and of the two models as they are (RECEIVER, DONOR).
        cluster: Questions of one subject share it.
    """
    own, other, rows = found[RECEIVER], found[DONOR], []
    gap, gap_of_logprob = other.is_right.astype(float) - own.is_right, other.logprob - own.logprob
    n_clusters = len(np.unique(cluster))
    for name, outcome in found.items():
        right = outcome.is_right.astype(float)
        moved, covariance = _ratio(right - own.is_right, gap, cluster, n_clusters)
        of_logprob, _ = _ratio(outcome.logprob - own.logprob, gap_of_logprob, cluster, n_clusters)
        accuracy = statistics.clustered_interval(right, cluster, seed=seed)
        variances = covariance[0, 0], covariance[1, 1], covariance[0, 1]
        numbers = (*accuracy, float(outcome.logprob.mean()), *moved, *map(float, variances), *of_logprob)
        rows.append((name, len(right), *numbers))
    return dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))


def _ratio(
    moved: Float[np.ndarray, " question"], gap: Float[np.ndarray, " question"], cluster: np.ndarray, n_clusters: int
) -> tuple[Interval, Float[np.ndarray, "2 2"]]:
    covariance = statistics.clustered_covariance(np.stack([moved, gap], axis=1), cluster)
    df = max(1, n_clusters - 1)
    return statistics.fieller(float(moved.mean()), float(gap.mean()), covariance, df=df), covariance


class Share(NamedTuple):
    """What an intervention moves."""

    receiver: str
    donor: str
    intervention: str
    accuracy: float
    """Of the receiver under it, the mean over runs."""
    gap: float
    """The donor's accuracy less the receiver's own."""
    share: Interval
    """Of the gap in accuracy: over base models, or of a single one over the subjects of all its splits' questions."""
    by_unit: tuple[float, ...]
    """The same in each base model and split."""
    logprob_share: float
    """Of the gap in the true answer's log-probability."""


def of_runs(runs: Sequence[Run]) -> list[Share]:
    """Return the shares of every pair of arms, in the order of the runs' tables; runs of one unit are averaged.

    Runs without such a table, in which no arm was given anything, are left out. Splits of one model share questions,
    which its interval takes into account where runs keep each question's outcomes; of collected results, which do not,
    it takes splits for independent.
    """
    found: dict[tuple[str, str, str], dict[tuple[int, int], list[dict]]] = defaultdict(lambda: defaultdict(list))
    units: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for run in (run for run in runs if (run.path / "mediation.parquet").exists()):
        seeds = run.report["seeds"]
        units[seeds["pretrain"], seeds["split"]].append(run)
        for row in run.table("mediation", list(READ)).to_pylist():
            name = row["receiver"], row["donor"], row["intervention"]
            found[name][seeds["pretrain"], seeds["split"]].append(row)
    return [_share(name, found, list(units.values())) for name in found if name[2] not in (RECEIVER, DONOR)]


def _share(name: tuple[str, str, str], found: dict, units: Sequence[Sequence[Run]]) -> Share:
    own, other, after = (found[*name[:2], which] for which in (RECEIVER, DONOR, name[2]))

    def means(rows: dict, column: str) -> np.ndarray:
        values = [[np.nan if row[column] is None else row[column] for row in of_unit] for of_unit in rows.values()]
        return np.array([np.mean(of_unit) for of_unit in values])

    moved, gap = {}, {}
    for column in ("accuracy", "logprob"):
        mine = means(own, column)
        moved[column], gap[column] = means(after, column) - mine, means(other, column) - mine
    if len({model for model, _ in after}) > 1:
        share = statistics.ratio_interval(moved["accuracy"], gap["accuracy"])
    else:
        of_moved, of_gap, shared = (means(after, column).sum() / len(after) ** 2 for column in VARIANCES)
        covariance = np.array([[of_moved, shared], [shared, of_gap]], dtype=float)
        if len(units) > 1 and all((run.path / f"{BY_QUESTION}.npz").exists() for own in units for run in own):
            covariance = _over_questions(units, name)
        share = statistics.fieller(float(moved["accuracy"].mean()), float(gap["accuracy"].mean()), covariance)
    with np.errstate(invalid="ignore", divide="ignore"):  # no gap in one of them
        by_unit = tuple(float(one) for one in moved["accuracy"] / gap["accuracy"])
        logprob_share = float(moved["logprob"].mean() / gap["logprob"].mean())
    accuracy = float(means(after, "accuracy").mean())
    return Share(*name, accuracy, float(gap["accuracy"].mean()), share, by_unit, logprob_share)


def _over_questions(units: Sequence[Sequence[Run]], name: tuple[str, str, str]) -> Float[np.ndarray, "2 2"]:
    """Return the covariance of what moves and of the gap, means over splits, robust to a subject's questions in all."""
    receiver, donor, intervention = name
    deviations, subjects = [], []
    for own in units:
        kept = [run.arrays(BY_QUESTION) for run in own]
        mine, other, after = (
            np.mean([arrays[f"{receiver}:{donor}/{which}/is_right"] for arrays in kept], axis=0)
            for which in (RECEIVER, DONOR, intervention)
        )
        values = np.stack([after - mine, other - mine], axis=1)
        deviations.append((values - values.mean(axis=0)) / (len(values) * len(units)))
        subjects += _subjects(own[0])
    _, cluster = np.unique(subjects, return_inverse=True)
    sums = np.stack([np.bincount(cluster, column) for column in np.concatenate(deviations).T])
    n_clusters = sums.shape[1]
    return (n_clusters / (n_clusters - 1) if n_clusters > 1 else float("nan")) * (sums @ sums.T)


def _subjects(run: Run) -> list[str]:
    """Return what tells the subjects of a run's held-out questions apart, in their order."""
    rows = run.table("facts", ["arm", "role", "subject", "fact"]).to_pylist()
    asked = [row for row in rows if row["arm"] == "base" and row["role"] == "held_out"]
    return [(row["subject"] or "").casefold() or f"\n{row['fact']}" for row in asked]
