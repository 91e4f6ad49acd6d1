"""What remedies do to an arm of a study, beside the same arm without: over base models or questions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.contrasts import Contrasts
from core.runs import Run
from core.statistics import Interval

METRICS = ("accuracy", "retention", "train_accuracy", "subject_attention")


class Effect(NamedTuple):
    """A remedied arm less the same arm as it is."""

    arm: str
    remedy: str
    accuracy: Interval
    """On held-out facts."""
    retention: Interval
    """On held-out facts that the base model recalls."""
    train_accuracy: Interval
    """On the arm's own facts."""
    subject_attention: Interval
    closed: Interval
    """Share of the gap to the top half's accuracy that the remedy closes; nan where top was not finetuned."""
    seconds: float
    """What the arm took, relative to the same without a remedy."""


def of_runs(runs: Sequence[Run]) -> list[Effect]:
    """Return the effects of all remedied arms, in the order of the reports, with the intervals of `Contrasts`."""
    named = [arm.partition("+") for arm in runs[0].report["metrics"]]
    contrasts = Contrasts(runs)
    return [_effect(contrasts, arm, remedy) for arm, plus, remedy in named if plus and arm in runs[0].report["metrics"]]


def _effect(contrasts: Contrasts, arm: str, remedy: str) -> Effect:
    given, runs = f"{arm}+{remedy}", contrasts.runs
    change = {given: 1.0, arm: -1.0}
    intervals = {name: contrasts.interval(name, change) for name in METRICS}
    closed = Interval(*3 * (float("nan"),))
    if arm != "top" and "top" in runs[0].report["metrics"]:
        closed = contrasts.ratio("accuracy", change, {"top": 1.0, arm: -1.0})
    seconds = [run.report["seconds"][given] / run.report["seconds"][arm] for run in runs]
    return Effect(arm, remedy, **intervals, closed=closed, seconds=float(np.mean(seconds)))
