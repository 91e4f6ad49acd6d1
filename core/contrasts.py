"""Weighted sums of the arms' metrics in a study's runs, and their ratios, with intervals over what the study repeats.

With three base models or more these are the units: t-intervals over their means. With fewer it is the questions, which
splits share (`core.questions`). Where these are not kept, splits of a single model are taken for independent, and
`counted` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from core import questions, statistics
from core.questions import Covariance
from core.runs import Run
from core.statistics import Interval


@dataclass(frozen=True)
class Contrasts:
    """What can be said of the arms of these runs."""

    runs: Sequence[Run]

    @cached_property
    def known(self) -> dict[str, Covariance]:
        """What is known of the arms' questions, by metric; nothing where base models are counted."""
        return questions.of_arms(self.runs)

    @property
    def counted(self) -> str:
        """What intervals count, in words."""
        n_models, n_splits = questions.n_models(self.runs), len(questions.by_split(self.runs))
        if self.known:
            return "questions, which splits share" if n_splits > n_models else "questions"
        return "base models" if n_models > 1 or n_splits == 1 else "splits, taken for independent"

    def interval(self, metric: str, weights: Mapping[str, float]) -> Interval:
        """Return a weighted sum of arms in a metric; without ends where there is one unit alone."""
        values = self.by_unit(metric, weights)
        if metric in self.known:
            return self.known[metric].interval(float(values.mean()), weights)
        if self.known:  # of questions that are not kept, such as an arm's own
            return Interval(float(values.mean()), float("nan"), float("nan"))
        return Interval(*(float(end) for end in statistics.t_interval(values)))

    def ratio(self, metric: str, above: Mapping[str, float], below: Mapping[str, float]) -> Interval:
        """Return what one weighted sum is of another, with Fieller's interval."""
        of_above, of_below = self.by_unit(metric, above), self.by_unit(metric, below)
        if metric not in self.known:
            return statistics.ratio_interval(of_above, of_below)
        known = self.known[metric]
        means = float(of_above.mean()), float(of_below.mean())
        return statistics.fieller(*means, known.of(above, below), df=max(1, known.n_clusters - 1))

    def by_unit(self, metric: str, weights: Mapping[str, float]) -> Float[np.ndarray, " unit"]:
        """Return a weighted sum of arms in every base model; of fewer than are counted, in every split."""
        counts_models = questions.n_models(self.runs) > 1 and not self.known
        names = ("pretrain",) if counts_models else ("pretrain", "split")
        seeds = [tuple(run.report["seeds"][name] for name in names) for run in self.runs]
        number = {unit: at for at, unit in enumerate(dict.fromkeys(seeds))}
        units = [number[unit] for unit in seeds]
        parts = [
            weight * statistics.by_world(units, [run.report["metrics"][arm].get(metric) for run in self.runs])
            for arm, weight in weights.items()
        ]
        return np.sum(parts, axis=0)
