"""What intervals of a study count: base models where there are three or more, else questions, which splits share.

A published model is split again with each seed, and a question is held out by several splits. So splits are not
independent: a cluster of questions, by relation where there are ten or more, else by subject, counts once in all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from scipy import stats

from core.columns import COVARIANCE, table
from core.runs import Run, read_table
from core.statistics import Interval

MIN_MODELS, MIN_RELATIONS = 3, 10
COLUMNS = {
    "accuracy": "correct",
    "retention": "correct",
    "generic_rate": "is_generic_arm",
    "subject_attention": "subject_attention",
}
"""By metric of the reports, the column of a question that it is the mean of."""
FILE = "covariance.parquet"
"""Beside a study's collected runs, which keep no questions, what intervals take of these."""


@dataclass(frozen=True, eq=False)
class Covariance:
    """The covariance of several means over all splits' questions."""

    names: tuple[str, ...]
    matrix: Float[np.ndarray, "name name"]
    n_clusters: int

    def of(self, *contrasts: Mapping[str, float]) -> Float[np.ndarray, "contrast contrast"]:
        """Return the covariance of weighted sums of these means."""
        weights = np.array([[contrast.get(name, 0.0) for name in self.names] for contrast in contrasts])
        return weights @ self.matrix @ weights.T

    def interval(self, mean: float, contrast: Mapping[str, float]) -> Interval:
        """Return the t-interval of a weighted sum of these means, which is `mean`."""
        half = stats.t.ppf(0.975, max(1, self.n_clusters - 1)) * np.sqrt(self.of(contrast)[0, 0])
        return Interval(mean, float(mean - half), float(mean + half))


def covariance(
    names: Sequence[str],
    values: Sequence[Float[np.ndarray, "seed question name"]],
    clusters: Sequence[Sequence[str]],
) -> Covariance:
    """Return the covariance of means over questions, of these over finetuning seeds, and of these over splits.

    It is robust to questions that share a cluster, in one split or several. Where a split has several seeds, what their
    means differ by is added. A question without a value (nan) has no part in that mean; means of none are nan.

    Args:
        values: Of each split.
        clusters: The name of each question's cluster, of each split; the same names stand for the same clusters.
    """
    n_splits, of_questions, of_seeds = len(values), [], np.zeros((len(names), len(names)))
    for own in values:
        is_there = ~np.isnan(own)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.nansum(own, axis=1) / is_there.sum(axis=1)
            shares = np.where(is_there, own - means[:, None], 0.0) / is_there.sum(axis=1)[:, None]
        of_questions.append(shares.mean(axis=0) / n_splits)
        if len(own) > 1:
            of_seeds += np.cov(means.T).reshape(of_seeds.shape) / (len(own) * n_splits**2)
    _, index = np.unique([name for own in clusters for name in own], return_inverse=True)
    sums = np.stack([np.bincount(index, column) for column in np.concatenate(of_questions).T])
    n_clusters = sums.shape[1]
    correction = n_clusters / (n_clusters - 1) if n_clusters > 1 else float("nan")
    return Covariance(tuple(names), correction * (sums @ sums.T) + of_seeds, n_clusters)


def n_models(runs: Sequence[Run]) -> int:
    """Return the number of base models."""
    return len({run.report["seeds"]["pretrain"] for run in runs})


def of_arms(runs: Sequence[Run]) -> dict[str, Covariance]:
    """Return the covariance of the arms' means over held-out questions, by metric.

    None where base models are counted, or where no questions are kept.
    """
    if n_models(runs) >= MIN_MODELS:
        return {}
    if runs[0].report.get("collected"):
        return {metric: of for (pair, metric), of in kept(runs).items() if pair is None}
    arms = list(runs[0].report["metrics"])
    tables = [[_held_out(run) for run in own] for own in by_split(runs)]
    if not all(set(arms) <= set(of_run["arm"]) for own in tables for of_run in own):
        return {}
    names = []
    for of_run, *_ in tables:
        rows = [row for row, arm in enumerate(of_run["arm"]) if arm == arms[0]]
        names.append(clusters(*([of_run[name][row] for row in rows] for name in ("relation", "subject", "fact")))[0])
    return {
        metric: covariance(arms, [np.stack([_values(one, metric, arms) for one in own]) for own in tables], names)
        for metric in COLUMNS
    }


def by_split(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs of each base model and split together: they differ by their finetuning seed."""
    groups: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.report["seeds"]["pretrain"], run.report["seeds"]["split"]), []).append(run)
    return list(groups.values())


def clusters(
    relation: Sequence[str | None], subject: Sequence[str | None], fact: Sequence[int]
) -> tuple[list[str], bool]:
    """Return the name of each question's cluster, and whether these are relations; a fact of no subject is its own."""
    if len(set(relation)) >= MIN_RELATIONS:
        return [name or "" for name in relation], True
    return of_subjects(subject, fact), False


def of_subjects(subject: Sequence[str | None], fact: Sequence[int]) -> list[str]:
    """Return what tells the questions' subjects apart; a fact of no subject is its own."""
    return [(name or "").casefold() or f"fact {number}" for name, number in zip(subject, fact, strict=True)]


def table_of(found: Mapping[tuple[str | None, str], Covariance]) -> pa.Table:
    """Return these as the table of FILE; they are of a pair of arms or none, and of a quantity."""
    rows = [
        (pair, quantity, one, other, float(of.matrix[row, column]), of.n_clusters)
        for (pair, quantity), of in found.items()
        for row, one in enumerate(of.names)
        for column, other in enumerate(of.names)
    ]
    return table(dict(zip(COVARIANCE.names, map(list, zip(*rows, strict=True)), strict=False)), COVARIANCE)


def kept(runs: Sequence[Run]) -> dict[tuple[str | None, str], Covariance]:
    """Return what is kept in FILE beside collected runs, by pair and quantity; nothing where there is no such file."""
    path = runs[0].path.parents[2] / FILE
    rows: dict[tuple[str | None, str], list[dict]] = {}
    for row in read_table(path).to_pylist() if path.exists() else ():
        rows.setdefault((row["pair"], row["quantity"]), []).append(row)
    return {name: _square(own) for name, own in rows.items()}


def _square(rows: Sequence[Mapping]) -> Covariance:
    names = tuple(dict.fromkeys(row["one"] for row in rows))
    numbers = [np.nan if row["covariance"] is None else row["covariance"] for row in rows]
    return Covariance(names, np.array(numbers).reshape(len(names), -1), rows[0]["clusters"])


def _held_out(run: Run) -> dict[str, list]:
    """Return what is read of a run's held-out questions, by column; no rows where it keeps none."""
    names = [
        "arm",
        "role",
        "fact",
        "subject",
        "relation",
        "base_correct",
        "is_generic",
        *dict.fromkeys(COLUMNS.values()),
    ]
    if not (run.path / "facts.parquet").exists():
        return {name: [] for name in names}
    facts = run.table("facts", names)
    return facts.filter(np.array([role == "held_out" for role in facts["role"].to_pylist()], bool)).to_pydict()


def _values(columns: Mapping[str, list], metric: str, arms: Sequence[str]) -> Float[np.ndarray, "question arm"]:
    """Return what a metric is the mean of, nan where a question has no part in it."""
    own, base_correct, is_generic = (
        np.array([np.nan if value is None else float(value) for value in columns[name]])
        for name in (COLUMNS[metric], "base_correct", "is_generic")
    )
    if metric == "retention":
        own = np.where(base_correct == 1, own, np.nan)
    if metric == "generic_rate":  # the base has no training set of its own
        own = np.where(np.isnan(own), is_generic, own)
    of_arm = np.array(columns["arm"])
    return np.stack([own[of_arm == arm] for arm in arms], axis=1)
