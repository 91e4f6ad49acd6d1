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
READ = ("receiver", "donor", "intervention", "accuracy", "logprob", "share", "share_low", "share_high")
"""Of a run's mediation table, the columns that `of_runs` reads."""
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
    for name, outcome in found.items():
        n, right = len(outcome.is_right), outcome.is_right.astype(float)
        moved = [
            statistics.clustered_ratio(after - mine, theirs - mine, cluster)
            for after, mine, theirs in (
                (right, own.is_right.astype(float), other.is_right.astype(float)),
                (outcome.logprob, own.logprob, other.logprob),
            )
        ]
        accuracy = statistics.clustered_interval(right, cluster, seed=seed)
        numbers = (n, *accuracy, float(outcome.logprob.mean()), *moved[0], *moved[1])
        rows.append((name, *numbers))
    return dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))


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
    """Of the gap in accuracy: over base models, or over splits of a published one; of a single run over subjects."""
    by_unit: tuple[float, ...]
    """The same in each base model or split."""
    logprob_share: Interval
    """Of the gap in the true answer's log-probability."""


def of_runs(runs: Sequence[Run]) -> list[Share]:
    """Return the shares of every pair of arms, in the order of the runs' tables; runs of one unit are averaged.

    Runs without such a table, in which no arm was given anything, are left out.
    """
    found: dict[tuple[str, str, str], dict[tuple[int, int], list[dict]]] = defaultdict(lambda: defaultdict(list))
    for run in (run for run in runs if (run.path / "mediation.parquet").exists()):
        seeds = run.report["seeds"]
        for row in run.table("mediation", list(READ)).to_pylist():
            name = row["receiver"], row["donor"], row["intervention"]
            found[name][seeds["pretrain"], seeds["split"]].append(row)
    return [_share(name, found) for name in found if name[2] not in (RECEIVER, DONOR)]


def _share(name: tuple[str, str, str], found: dict) -> Share:
    own, other, after = (found[*name[:2], which] for which in (RECEIVER, DONOR, name[2]))

    def means(rows: dict, column: str) -> np.ndarray:
        return np.array([np.mean([row[column] for row in of_unit]) for of_unit in rows.values()])

    moved, gap = {}, {}
    for column in ("accuracy", "logprob"):
        mine = means(own, column)
        moved[column], gap[column] = means(after, column) - mine, means(other, column) - mine
    share = statistics.ratio_interval(moved["accuracy"], gap["accuracy"])
    rows = [row for of_unit in after.values() for row in of_unit]
    if len(rows) == 1:
        share = Interval(*(float("nan") if rows[0][end] is None else rows[0][end] for end in READ[-3:]))
    with np.errstate(invalid="ignore", divide="ignore"):  # no gap in one of them
        by_unit = tuple(float(one) for one in moved["accuracy"] / gap["accuracy"])
    logprob_share = statistics.ratio_interval(moved["logprob"], gap["logprob"])
    accuracy = float(means(after, "accuracy").mean())
    return Share(*name, accuracy, float(gap["accuracy"].mean()), share, by_unit, logprob_share)
