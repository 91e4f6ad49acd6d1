"""How much of the gap between two models moves with an intervention: in one run, and over worlds, models or splits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from core import questions, statistics
from core.columns import MEDIATION, Columns
from core.questions import Covariance
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
MOVED, GAP = "moved", "gap"
"""The change in accuracy, and the donor's accuracy less the receiver's."""
Name = tuple[str, str, str]
"""Receiver, donor and intervention."""


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
    which its interval takes into account. Where neither each question's outcomes are kept nor what `collect` makes of
    them, it takes splits for independent.
    """
    given = [run for run in runs if (run.path / "mediation.parquet").exists()]
    if not given:
        return []
    n_models = questions.n_models(given)
    found: dict[Name, dict[int, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for run in given:
        unit = run.report["seeds"]["pretrain" if n_models > 1 else "split"]
        for row in run.table("mediation", list(READ)).to_pylist():
            found[row["receiver"], row["donor"], row["intervention"]][unit].append(row)
    known = covariances(given)
    names = (name for name in found if name[2] not in (RECEIVER, DONOR))
    return [_share(name, found, known.get(name), n_models=n_models) for name in names]


def covariances(runs: Sequence[Run]) -> dict[Name, Covariance]:
    """Return the covariance of what moves and of the gap over the questions of all splits of one model.

    By receiver, donor and intervention. None where there are several models, or no questions are kept.
    """
    if questions.n_models(runs) != 1:
        return {}
    if runs[0].report.get("collected"):
        return {_name(pair, what): of for (pair, what), of in questions.kept(runs).items() if pair is not None}
    if not all((run.path / f"{BY_QUESTION}.npz").exists() for run in runs):
        return {}
    splits = questions.by_split(runs)
    arrays = [[run.arrays(BY_QUESTION) for run in own] for own in splits]
    subjects = [_subjects(own[0]) for own in splits]
    found = {}
    for key in arrays[0][0]:
        pair, intervention, what = key.split("/")
        if what == "is_right" and intervention not in (RECEIVER, DONOR):
            values = [np.stack([_moved_and_gap(kept, pair, intervention) for kept in own]) for own in arrays]
            found[_name(pair, intervention)] = questions.covariance((MOVED, GAP), values, subjects)
    return found


def _name(pair: str, intervention: str) -> Name:
    receiver, _, donor = pair.partition(":")
    return receiver, donor, intervention


def _moved_and_gap(kept: Mapping[str, np.ndarray], pair: str, intervention: str) -> Float[np.ndarray, "question 2"]:
    mine, other, after = (kept[f"{pair}/{which}/is_right"].astype(float) for which in (RECEIVER, DONOR, intervention))
    return np.stack([after - mine, other - mine], axis=1)


def _share(
    name: Name, found: Mapping[Name, Mapping[int, Sequence[dict]]], known: Covariance | None, *, n_models: int
) -> Share:
    own, other, after = (found[*name[:2], which] for which in (RECEIVER, DONOR, name[2]))

    def means(rows: Mapping[int, Sequence[dict]], column: str) -> np.ndarray:
        values = [[np.nan if row[column] is None else row[column] for row in of_unit] for of_unit in rows.values()]
        return np.array([np.mean(of_unit) for of_unit in values])

    moved, gap = {}, {}
    for column in ("accuracy", "logprob"):
        mine = means(own, column)
        moved[column], gap[column] = means(after, column) - mine, means(other, column) - mine
    both = float(moved["accuracy"].mean()), float(gap["accuracy"].mean())
    if known is not None:
        share = statistics.fieller(*both, known.matrix, df=max(1, known.n_clusters - 1))
    elif n_models > 1:
        share = statistics.ratio_interval(moved["accuracy"], gap["accuracy"])
    else:
        of_moved, of_gap, shared = (means(after, column).sum() / len(after) ** 2 for column in VARIANCES)
        share = statistics.fieller(*both, np.array([[of_moved, shared], [shared, of_gap]], dtype=float))
    with np.errstate(invalid="ignore", divide="ignore"):  # no gap in one of them
        by_unit = tuple(float(one) for one in moved["accuracy"] / gap["accuracy"])
        logprob_share = float(moved["logprob"].mean() / gap["logprob"].mean())
    accuracy = float(means(after, "accuracy").mean())
    return Share(*name, accuracy, float(gap["accuracy"].mean()), share, by_unit, logprob_share)


def _subjects(run: Run) -> list[str]:
    """Return what tells the subjects of a run's held-out questions apart, in their order."""
    rows = run.table("facts", ["arm", "role", "subject", "fact"]).to_pylist()
    asked = [row for row in rows if row["arm"] == "base" and row["role"] == "held_out"]
    return questions.of_subjects([row["subject"] for row in asked], [row["fact"] for row in asked])
