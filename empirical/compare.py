"""Finished runs of a study beside the theory's signs: effect sizes, intervals, p-values, verdicts.

The unit of an interval is what the result is meant to hold for. With three base models or more that are the pretraining
seeds: a t-interval over their means. With fewer it is the questions: a bootstrap that draws finetuning seeds and
clusters of questions, by relation where there are ten or more, else by subject; a row's note says which.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from core import runs as results
from core import signs, statistics
from core.arms import CONTRASTS, RARITY
from core.numbering import numbered
from core.runs import Run
from empirical.lm.scores import normalise

Row = dict[str, Any]

SIGNS = signs.SIGNS | signs.OF_ANSWERS
STATEMENTS = SIGNS | {
    "whole": "Finetuning on well-known facts is at least as good as on all of them (Ghosal et al. 2024).",
    "retention": "Facts that the base model recalls survive finetuning on well-known facts better.",
    "unknown": "Facts that the base model does not recall are answered, by guessing, after which half?",
    "swap": "The subject decides the answer more often after finetuning on well-known facts.",
    "knockout": "The answer depends more on attention to the subject after the well-known.",
    "choice": "The likeliest of the relation's answers by first token, and with the model's prior subtracted.",
    "rarity": "Facts whose answers are rare, of whatever knownness, against those with common ones.",
    "matched": "Halves by knownness whose answers are equally frequent: what is left of the effect.",
    "common_rate": "The same gap where both halves are finetuned at one learning rate, at each that was tried.",
    "crossed": "Knownness and rarity crossed, in four arms of equal size: what each does, and both together.",
}
"""Beside the theory's signs what is read with them, as accuracy mixes what was kept with what was guessed."""
CROSSED_COLUMNS = {
    "correct": "held-out accuracy",
    "retained": "accuracy where the base model recalls the fact",
    "is_generic_arm": "answers that are the relation's most frequent in the arm",
    "subject_attention": "attention to the subject",
}
CHOICES = {
    "chosen_correct": "right first token, the likeliest of those of the relation's answers",
    "chosen_correct_less_prior": "the same, less the model's prior over them",
}
"""Chosen among the relation's answers (`empirical.choice`)."""
MIN_WORLDS, MIN_RELATIONS = 3, 10
N_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Group:
    """The runs of one base model and split: the same questions after every finetuning seed."""

    world: int
    seeds: tuple[int, ...]
    columns: dict[str, dict[str, np.ndarray]]
    """By arm: facts.parquet's columns, each (seed, question)."""
    cluster: Int[np.ndarray, " question"]
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
    return [_group(key[0], members) for key, members in sorted(groups.items())]


def of_runs(experiment: str, runs: Sequence[Run]) -> list[Row]:
    """Return the rows of predictions.parquet of a study's finished runs, over the arms that they have."""
    return rows(experiment, read(runs), list(runs[0].report["metrics"]))


def rows(experiment: str, groups: Sequence[Group], arms: Sequence[str]) -> list[Row]:
    """Return every row of predictions.parquet that these runs decide: none of arms not run, or of what has no value."""
    wanted = [
        ("a", "top", "bottom", "correct", "held-out accuracy"),
        ("b", "top", "bottom", "subject_attention", "mean over layers and heads, at the last prompt token"),
        ("b", "top", "bottom", "subject_attention_nonsink", "as a share of the attention that is not on the sink"),
        ("c", "bottom", "top", "is_generic_arm", "answers that are the relation's most frequent in the arm"),
        ("f", "top", "random", "correct", "held-out accuracy"),
        ("f", "random", "bottom", "correct", "held-out accuracy"),
        ("whole", "top", "whole", "correct", "held-out accuracy"),
        ("retention", "top", "bottom", "retained", "accuracy where the base model recalls the fact"),
        ("unknown", "top", "bottom", "unknown_accuracy", "accuracy where it does not"),
        (
            "unknown",
            "top",
            "bottom",
            "generic_correct",
            "what always giving the arm's most frequent answer would earn",
        ),
        ("swap", "bottom", "top", "is_swap_invariant", "answers that stay when the subject is swapped"),
        ("knockout", "top", "bottom", "knockout_drop", "log-probability lost without attention to the subject, nats"),
        *(("choice", "top", "bottom", column, note) for column, note in CHOICES.items()),
        ("rarity", "rare", "common", "correct", "held-out accuracy"),
        ("rarity", "rare", "random", "correct", "held-out accuracy"),
        ("rarity", "common", "random", "correct", "held-out accuracy"),
        ("rarity", "rare", "common", "retained", "accuracy where the base model recalls the fact"),
        *(("matched", "top_matched", "bottom_matched", column, note) for column, note in CROSSED_COLUMNS.items()),
    ]
    made = [_row(*one, groups) for one in wanted if {one[1], one[2]} <= set(arms) and _applies(groups, *one[1:4])]
    if {"top", "bottom"} <= set(arms) and all(_applies(groups, "top", "bottom", column) for column in CHOICES):
        made.append(_left(groups))
    if {"top", "bottom"} <= set(arms) and all(len(group.fifth) >= statistics.N_FIFTHS for group in groups):
        made += [_middle(groups)] + [_fifth(groups, fifth) for fifth in range(statistics.N_FIFTHS)]
    made += [
        _contrast("g" if name == RARITY else "crossed", name, weights, column, note, groups)
        for name, weights in CONTRASTS.items()
        for column, note in CROSSED_COLUMNS.items()
        if set(weights) <= set(arms) and all(_applies(groups, arm, arm, column) for arm in weights)
    ]
    made += [_at_rate(groups, rate) for rate in _common_rates(groups)]
    n_runs = sum(len(group.seeds) for group in groups)
    common = {"experiment": experiment, "seeds": n_runs, "unit": unit(groups)}
    return [common | {"statement": STATEMENTS[row["result"]]} | row for row in made]


def difference(group: Group, one: str, other: str, column: str) -> Float[np.ndarray, "seed question"]:
    """Return the paired differences of a column between two arms; nan where a question has no part in it."""
    return _values(group, one, column) - _values(group, other, column)


def _applies(groups: Sequence[Group], one: str, other: str, column: str) -> bool:
    """Return whether each base model has a value: no attention to a subject where questions name none."""
    return all(not np.isnan(difference(group, one, other, column)).all() for group in groups)


def interval(
    groups: Sequence[Group], values: Callable[[Group], Float[np.ndarray, "seed question"]]
) -> statistics.PairedInterval:
    """Return the mean of paired differences with its 95 % interval and two-sided p-value (see the module)."""
    parts = [values(group) for group in groups]
    worlds = [group.world for group in groups]
    if len(set(worlds)) >= MIN_WORLDS:
        means = statistics.by_world(worlds, [float(np.nanmean(part)) for part in parts])
        return statistics.paired_interval(means, np.zeros_like(means))
    draws = _draws(groups, parts)
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [0.025, 0.975])
    p_value = min(1.0, 2 * min((draws <= 0).mean(), (draws >= 0).mean()) + 2 / N_DRAWS)
    mean = float(np.mean([np.nanmean(part) for part in parts]))
    return statistics.PairedInterval(mean, float(low), float(high), float(p_value))


def _draws(groups: Sequence[Group], parts: Sequence[np.ndarray]) -> Float[np.ndarray, " draw"]:
    """Return each draw of `_bootstrap`, the mean over groups (seed × question): the same draws whatever the values."""
    return np.mean([_bootstrap(part, group.cluster) for part, group in zip(parts, groups, strict=True)], axis=0)


def unit(groups: Sequence[Group]) -> str:
    """Return what intervals count."""
    if _n_worlds(groups) >= MIN_WORLDS:
        return "base models"
    return "questions by " + ("relation" if all(group.by_relation for group in groups) else "subject")


def counted(groups: Sequence[Group]) -> str:
    """Return the unit as notes tell it: base models with their number."""
    return f"{_n_worlds(groups)} base models" if unit(groups) == "base models" else unit(groups)


def _n_worlds(groups: Sequence[Group]) -> int:
    return len({group.world for group in groups})


def _group(world: int, runs: Sequence[Run]) -> Group:
    tables = [run.table("facts").filter(_held_out(run)) for run in runs]
    names = list(dict.fromkeys(tables[0]["arm"].to_pylist()))
    columns: dict[str, dict[str, np.ndarray]] = {}
    for arm in names:
        of_arm = [_arm_columns(table, arm) for table in tables]
        columns[arm] = {name: np.stack([one[name] for one in of_arm]) for name in of_arm[0]}
    first = tables[0].filter(np.array([arm == "base" for arm in tables[0]["arm"].to_pylist()]))
    relation, subject, fact = (first[name].to_pylist() for name in ("relation", "subject", "fact"))
    by_relation = len(set(relation)) >= MIN_RELATIONS
    own = [name or str(number) for name, number in zip(subject, fact, strict=True)]
    cluster = numbered(relation if by_relation else own)
    seeds = tuple(run.report["seeds"]["seed"] for run in runs)
    fifth = statistics.fifth(first["knownness"].to_numpy())
    return Group(world, seeds, columns, cluster, fifth, by_relation, _by_rate(runs[0], fact))


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


def _held_out(run: Run) -> np.ndarray:
    return np.array([role == "held_out" for role in run.table("facts", ["role"])["role"].to_pylist()])


_COLUMNS = ("correct", "is_generic_arm", "generic_correct", "base_correct", "knockout_drop")
_LATER = tuple(CHOICES)
"""Columns that runs from before there were any do not have."""
_ATTENTION = ("subject_attention", "subject_attention_nonsink")


def _arm_columns(table: Any, arm: str) -> dict[str, np.ndarray]:
    """Return an arm's columns as numbers, null as nan, and those that are made of two."""
    one = table.filter(np.array([name == arm for name in table["arm"].to_pylist()]))
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
    return numbers


def _values(group: Group, arm: str, column: str) -> Float[np.ndarray, "seed question"]:
    return group.columns[arm][column]


def _bootstrap(
    values: Float[np.ndarray, "seed question"], cluster: Int[np.ndarray, " question"]
) -> Float[np.ndarray, " draw"]:
    """Return means over redrawn seeds and clusters, questions without a value left out; nan where that leaves none."""
    rng = np.random.default_rng(0)
    n_clusters = cluster.max() + 1
    sums, counts = (np.zeros((len(values), n_clusters)) for _ in range(2))
    for seed, row in enumerate(values):
        there = ~np.isnan(row)
        sums[seed] = np.bincount(cluster[there], row[there], n_clusters)
        counts[seed] = np.bincount(cluster[there], minlength=n_clusters)
    seeds = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), N_DRAWS)
    clusters = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), N_DRAWS)
    total = np.einsum("ds,sc,dc->d", seeds, sums, clusters)
    count = np.einsum("ds,sc,dc->d", seeds, counts, clusters)
    return np.divide(total, count, out=np.full(N_DRAWS, np.nan), where=count > 0)


def _row(result: str, one: str, other: str, column: str, note: str, groups: Sequence[Group]) -> Row:
    found = interval(groups, lambda group: difference(group, one, other, column))
    p_value = found.p_value
    if result == "a" and len(groups) == 1 and len(groups[0].seeds) == 1:
        a, b = (_values(groups[0], arm, column)[0] == 1 for arm in (one, other))
        p_value, note = statistics.mcnemar(a, b), f"{note}; McNemar's exact p"
    is_sign = result in SIGNS
    return _measured(result, f"{one} − {other}", found, p_value, f"{note} ({counted(groups)})", is_sign=is_sign)


def _left(groups: Sequence[Group]) -> Row:
    """Return how much of the choices' gap is left once the prior is subtracted, with Fieller's interval."""
    parts = {column: [difference(group, "top", "bottom", column) for group in groups] for column in CHOICES}
    means = {column: [float(np.nanmean(part)) for part in own] for column, own in parts.items()}
    whole, rest = CHOICES
    if _n_worlds(groups) >= MIN_WORLDS:
        worlds = [group.world for group in groups]
        found = statistics.ratio_interval(*(statistics.by_world(worlds, means[column]) for column in (rest, whole)))
    else:
        draws = np.stack([_draws(groups, parts[column]) for column in (rest, whole)])
        covariance = np.cov(draws[:, ~np.isnan(draws).any(0)])
        found = statistics.fieller(float(np.mean(means[rest])), float(np.mean(means[whole])), covariance)
    note = f"share of that gap left without the prior, unbounded where there may be no gap ({counted(groups)})"
    return _measured("choice", "top − bottom", statistics.PairedInterval(*found, np.nan), np.nan, note, is_sign=False)


def _contrast(
    result: str, name: str, weights: Mapping[str, float], column: str, note: str, groups: Sequence[Group]
) -> Row:
    """Return the row of a weighted sum of arms."""

    def values(group: Group) -> Float[np.ndarray, "seed question"]:
        return np.sum([weight * _values(group, arm, column) for arm, weight in weights.items()], axis=0)

    found = interval(groups, values)
    is_sign = result in SIGNS and column == "correct"
    return _measured(result, name, found, found.p_value, f"{note} ({counted(groups)})", is_sign=is_sign)


def _measured(
    result: str, arm: str, found: statistics.PairedInterval, p_value: float, note: str, *, is_sign: bool
) -> Row:
    verdict = signs.verdict(found) if is_sign else "reported"
    return {
        "result": result,
        "arm": arm,
        "measured": found.mean,
        "low": found.low,
        "high": found.high,
        "p_value": p_value,
        "verdict": verdict,
        "note": note,
    }


def _in_fifth(group: Group, fifth: int) -> Float[np.ndarray, "seed question"]:
    gap = difference(group, "top", "bottom", "correct")
    return np.where(group.fifth == fifth, gap, np.nan)


def _fifth(groups: Sequence[Group], fifth: int) -> Row:
    found = interval(groups, lambda group: _in_fifth(group, fifth))
    place = {0: " (best known)", statistics.N_FIFTHS - 1: " (least known)"}.get(fifth, "")
    note = f"accuracy gap, fifth {fifth + 1}{place} ({counted(groups)})"
    return _measured("d", "top − bottom", found, found.p_value, note, is_sign=False) | {"stratum": f"fifth {fifth + 1}"}


def _common_rates(groups: Sequence[Group]) -> list[float]:
    """Return the rates that both halves of every base model and split were tried at."""
    tried = [{rate for rate, arms in group.by_rate.items() if {"top", "bottom"} <= set(arms)} for group in groups]
    return sorted(set.intersection(*tried))


def _at_rate(groups: Sequence[Group], rate: float) -> Row:
    found = interval(groups, lambda group: group.by_rate[rate]["top"] - group.by_rate[rate]["bottom"])
    note = f"held-out accuracy at rate {rate:g}, finetuning seed 0 ({counted(groups)})"
    row = _measured("common_rate", "top − bottom", found, found.p_value, note, is_sign=False)
    return row | {"stratum": f"rate {rate:g}"}


def _middle(groups: Sequence[Group]) -> Row:
    """Return the gap in the three middle fifths minus that in the outer two, every fifth weighing alike."""

    def contrast(group: Group) -> Float[np.ndarray, "seed question"]:
        gap = difference(group, "top", "bottom", "correct")
        outer = (group.fifth == 0) | (group.fifth == statistics.N_FIFTHS - 1)
        weight = np.where(outer, -1 / outer.mean(), 1 / (~outer).mean())
        return gap * weight

    found = interval(groups, contrast)
    note = f"accuracy gap, three middle fifths − outer two ({counted(groups)})"
    return _measured("d", "top − bottom", found, found.p_value, note, is_sign=True)


def write(experiment: str, out: Any, made: Sequence[Row]) -> None:
    """Write the rows of a study as its predictions.parquet."""
    results.write_predictions(out / "empirical" / experiment / "predictions.parquet", made)
