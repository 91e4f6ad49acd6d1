"""What remedies do to an arm of a study, beside the same arm without: over base models or splits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from core import statistics
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
    """Return the effects of all remedied arms, in the order of the reports; runs of one unit are averaged."""
    named = [arm.partition("+") for arm in runs[0].report["metrics"]]
    return [_effect(runs, arm, remedy) for arm, plus, remedy in named if plus and arm in runs[0].report["metrics"]]


def _effect(runs: Sequence[Run], arm: str, remedy: str) -> Effect:
    given = f"{arm}+{remedy}"
    changes = {name: _by_unit(runs, given, name) - _by_unit(runs, arm, name) for name in METRICS}
    intervals = {name: Interval(*map(float, statistics.t_interval(change))) for name, change in changes.items()}
    closed = Interval(*3 * (float("nan"),))
    if arm != "top" and "top" in runs[0].report["metrics"]:
        gap = _by_unit(runs, "top", "accuracy") - _by_unit(runs, arm, "accuracy")
        closed = statistics.ratio_interval(changes["accuracy"], gap)
    seconds = [run.report["seconds"][given] / run.report["seconds"][arm] for run in runs]
    return Effect(arm, remedy, **intervals, closed=closed, seconds=float(np.mean(seconds)))


def _by_unit(runs: Sequence[Run], arm: str, metric: str) -> Float[np.ndarray, " unit"]:
    """Return a metric in every base model and split."""
    units = [(run.report["seeds"]["pretrain"], run.report["seeds"]["split"]) for run in runs]
    values = [run.report["metrics"][arm].get(metric) for run in runs]
    number = {unit: at for at, unit in enumerate(dict.fromkeys(units))}
    return statistics.by_world([number[unit] for unit in units], values)
