"""Finished runs as the groups that intervals are over: the same questions, after every finetuning seed, by arm.

The unit of an interval is what the result is meant to hold for. With three base models or more that are the pretraining
seeds: a t-interval over their means. With fewer it is the questions: a bootstrap that draws finetuning seeds and
clusters of questions, by relation where there are ten or more, else by subject. Splits of one model share questions and
are not independent: a cluster that is drawn is drawn in all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from core import questions, statistics
from core.runs import Run
from empirical.lm.scores import normalise

CHOICES = {
    "chosen_correct": "right first token, the likeliest of those of the relation's answers",
    "chosen_correct_less_prior": "the same, less the model's prior over them",
}
"""Chosen among the relation's answers (`empirical.choice`)."""
SWAP_DIFFERING = "is_swap_invariant_differing"
"""Whether an answer stays, of the swaps whose other subject has another answer."""
GENERIC, GENERIC_WRONG = "is_generic_own", "is_generic_of_wrong"
"""Whether the answer is generic in the arm, of the base in the whole training set; the same of wrong answers alone."""
MIN_WORLDS = questions.MIN_MODELS
N_DRAWS = 2000
_COLUMNS = ("correct", "is_generic", "is_generic_arm", "generic_correct", "base_correct", "knockout_drop")
_LATER = (*CHOICES, "knockout_drop_first", "swap_differs")
"""Columns that runs from before there were any do not have."""
_ATTENTION = ("subject_attention", "subject_attention_nonsink")


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one base model and split: the same questions after every finetuning seed."""

    world: int
    seeds: tuple[int, ...]
    columns: dict[str, dict[str, np.ndarray]]
    """By arm: facts.parquet's columns, each (seed, question)."""
    cluster: Int[np.ndarray, " question"]
    """A number stands for the same cluster in all groups."""
    fifth: Int[np.ndarray, " question"]
    """Which fifth of the tested facts by knownness each is in, 0 the best known."""
    by_relation: bool
    by_rate: dict[float, dict[str, Float[np.ndarray, "1 question"]]] = field(default_factory=dict)
    """By learning rate and arm: whether answers are right after finetuning with seed 0, where several were tried."""


def read(runs: Sequence[Run]) -> list[Group]:
    """Return the finished runs by base model and split."""
    groups: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        seeds = run.report["seeds"]
        groups.setdefault((seeds["pretrain"], seeds["split"]), []).append(run)
    tables = {key: [_held_out(run) for run in members] for key, members in sorted(groups.items())}
    names = {key: _clusters(of_group[0]) for key, of_group in tables.items()}
    number = {name: at for at, name in enumerate(dict.fromkeys(name for own, _ in names.values() for name in own))}
    made = []
    for key, (own, by_relation) in names.items():
        seeds = tuple(run.report["seeds"]["seed"] for run in groups[key])
        one = _group(key[0], seeds, tables[key], np.array([number[name] for name in own]), by_relation)
        made.append(replace(one, by_rate=_by_rate(groups[key][0], _of_arm(tables[key][0], "base")["fact"].to_pylist())))
    return made


def values_of(group: Group, arm: str, column: str) -> Float[np.ndarray, "seed question"]:
    """Return an arm's column; nan where a question has no part in it."""
    return group.columns[arm][column]


def difference(group: Group, one: str, other: str, column: str) -> Float[np.ndarray, "seed question"]:
    """Return the paired differences of a column between two arms; nan where a question has no part in it."""
    return values_of(group, one, column) - values_of(group, other, column)


def interval(
    groups: Sequence[Group], values: Callable[[Group], Float[np.ndarray, "seed question"]]
) -> statistics.PairedInterval:
    """Return the mean of paired differences with its 95 % interval and two-sided p-value (see the module)."""
    parts = [values(group) for group in groups]
    worlds = [group.world for group in groups]
    if len(set(worlds)) >= MIN_WORLDS:
        means = statistics.by_world(worlds, [float(np.nanmean(part)) for part in parts])
        return statistics.paired_interval(means, np.zeros_like(means))
    drawn = draws(groups, parts)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    p_value = min(1.0, 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()) + 2 / N_DRAWS)
    mean = float(np.mean([np.nanmean(part) for part in parts]))
    return statistics.PairedInterval(mean, float(low), float(high), float(p_value))


def draws(groups: Sequence[Group], parts: Sequence[np.ndarray]) -> Float[np.ndarray, " draw"]:
    """Return the mean over groups (seed × question) at each draw of `_redrawn`: the same draws whatever the values.

    Each group's seeds are drawn by themselves, clusters once for all groups.
    """
    rng = np.random.default_rng(0)
    seeds = [_multinomial(rng, len(part)) for part in parts]
    names, place = np.unique(np.concatenate([group.cluster for group in groups]), return_inverse=True)
    clusters = _multinomial(rng, len(names))
    of_group = np.split(place, np.cumsum([len(group.cluster) for group in groups])[:-1])
    drawn = [_redrawn(*one, clusters) for one in zip(parts, of_group, seeds, strict=True)]
    return np.mean(drawn, axis=0)


def _multinomial(rng: np.random.Generator, n: int) -> Int[np.ndarray, "draw _"]:
    """Return how often each of n is drawn, with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), N_DRAWS)


def unit(groups: Sequence[Group]) -> str:
    """Return what intervals count."""
    if n_worlds(groups) >= MIN_WORLDS:
        return "base models"
    return "questions by " + ("relation" if all(group.by_relation for group in groups) else "subject")


def counted(groups: Sequence[Group]) -> str:
    """Return the unit as notes tell it: base models with their number."""
    return f"{n_worlds(groups)} base models" if unit(groups) == "base models" else unit(groups)


def n_worlds(groups: Sequence[Group]) -> int:
    """Return the number of base models."""
    return len({group.world for group in groups})


def _group(
    world: int,
    seeds: tuple[int, ...],
    tables: Sequence[pa.Table],
    cluster: Int[np.ndarray, " question"],
    by_relation: bool,
) -> Group:
    names = list(dict.fromkeys(tables[0]["arm"].to_pylist()))
    columns: dict[str, dict[str, np.ndarray]] = {}
    for arm in names:
        of_arm = [_arm_columns(table, arm) for table in tables]
        columns[arm] = {name: np.stack([one[name] for one in of_arm]) for name in of_arm[0]}
    fifth = statistics.fifth(_of_arm(tables[0], "base")["knownness"].to_numpy())
    return Group(world, seeds, columns, cluster, fifth, by_relation)


def _by_rate(run: Run, facts: Sequence[int]) -> dict[float, dict[str, np.ndarray]]:
    """Return which of these facts are right at each rate of each arm; none where none was chosen."""
    if not (run.path / "rates.parquet").exists():
        return {}
    place = {fact: row for row, fact in enumerate(facts)}
    found: dict[float, dict[str, np.ndarray]] = {}
    for row in run.table("rates").to_pylist():
        of_rate = found.setdefault(row["learning_rate"], {})
        of_rate.setdefault(row["arm"], np.full((1, len(facts)), np.nan))[0, place[row["fact"]]] = row["correct"]
    return found


def _clusters(table: pa.Table) -> tuple[list[str], bool]:
    """Return the name of each question's cluster, and whether these are relations."""
    base = _of_arm(table, "base")
    return questions.clusters(*(base[name].to_pylist() for name in ("relation", "subject", "fact")))


def _held_out(run: Run) -> pa.Table:
    """Return the rows of facts.parquet that are of held-out questions."""
    table = run.table("facts")
    return table.filter(np.array([role == "held_out" for role in table["role"].to_pylist()]))


def _of_arm(table: pa.Table, arm: str) -> pa.Table:
    return table.filter(np.array([name == arm for name in table["arm"].to_pylist()]))


def _arm_columns(table: Any, arm: str) -> dict[str, np.ndarray]:
    """Return an arm's columns as numbers, null as nan, and those that are made of two."""
    one = _of_arm(table, arm)
    numbers = {
        name: np.array([np.nan if v is None else float(v) for v in one[name].to_pylist()])
        for name in (*_COLUMNS, *_ATTENTION, *set(_LATER).intersection(one.column_names))
    }
    numbers |= {name: np.full(len(one), np.nan) for name in set(_LATER).difference(one.column_names)}
    known = numbers["base_correct"] == 1
    numbers["retained"] = np.where(known, numbers["correct"], np.nan)
    numbers["unknown_accuracy"] = np.where(known, np.nan, numbers["correct"])
    pairs = zip(one["predicted"].to_pylist(), one["swapped_predicted"].to_pylist(), strict=True)
    numbers["is_swap_invariant"] = np.array(
        [np.nan if b is None else float(normalise(a) == normalise(b)) for a, b in pairs]
    )
    numbers[SWAP_DIFFERING] = np.where(numbers["swap_differs"] == 1, numbers["is_swap_invariant"], np.nan)
    own = numbers["is_generic"] if np.isnan(numbers["is_generic_arm"]).all() else numbers["is_generic_arm"]
    numbers |= {GENERIC: own, GENERIC_WRONG: _among(own, numbers["correct"] == 0)}
    return numbers


def _among(value: Float[np.ndarray, " question"], chosen: Bool[np.ndarray, " question"]) -> np.ndarray:
    """Return numbers, one for each question, whose mean is that of `value` among the chosen questions.

    A share whose denominator varies, linearised: r + 1{chosen} (value − r) / P(chosen), r being the share. So its
    interval is that of a mean, and two arms, each with chosen questions of its own, have a difference by question.
    """
    if not chosen.any():
        return np.full(len(value), np.nan)
    share = value[chosen].mean()
    return share + np.where(chosen, value - share, 0.0) / chosen.mean()


def _redrawn(
    values: Float[np.ndarray, "seed question"],
    cluster: Int[np.ndarray, " question"],
    seeds: Int[np.ndarray, "draw seed"],
    clusters: Int[np.ndarray, "draw cluster"],
) -> Float[np.ndarray, " draw"]:
    """Return means over redrawn seeds and clusters, questions without a value left out; nan where that leaves none."""
    n_clusters = clusters.shape[1]
    sums, counts = (np.zeros((len(values), n_clusters)) for _ in range(2))
    for seed, row in enumerate(values):
        there = ~np.isnan(row)
        sums[seed] = np.bincount(cluster[there], row[there], n_clusters)
        counts[seed] = np.bincount(cluster[there], minlength=n_clusters)
    total = np.einsum("ds,sc,dc->d", seeds, sums, clusters)
    count = np.einsum("ds,sc,dc->d", seeds, counts, clusters)
    return np.divide(total, count, out=np.full(N_DRAWS, np.nan), where=count > 0)
