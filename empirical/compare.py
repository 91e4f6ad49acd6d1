"""Finished runs of a study beside the theory's signs: effect sizes, intervals, p-values, verdicts.

A row's note says what its interval counts (`groups`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from core import runs as results
from core import signs, statistics
from core.arms import CONTRASTS, RARITY
from core.runs import Run
from empirical.groups import (
    CHOICES,
    GENERIC_WRONG,
    MIN_WORLDS,
    SWAP_DIFFERING,
    Group,
    counted,
    difference,
    draws,
    interval,
    n_worlds,
    read,
    unit,
    values_of,
)

Row = dict[str, Any]

SIGNS = signs.SIGNS | signs.OF_ANSWERS
STATEMENTS = SIGNS | {
    "whole": "Finetuning on well-known facts is at least as good as on all of them (Ghosal et al. 2024).",
    "retention": "Facts that the base model recalls survive finetuning on well-known facts better.",
    "unknown": "Facts that the base model does not recall are answered, by guessing, after which half?",
    "wrong": "Of wrong answers alone, fewer are generic after finetuning on well-known facts.",
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


def of_runs(experiment: str, runs: Sequence[Run]) -> list[Row]:
    """Return the rows of predictions.parquet of a study's finished runs, over the arms that they have."""
    return rows(experiment, read(runs), list(runs[0].report["metrics"]))


def rows(experiment: str, groups: Sequence[Group], arms: Sequence[str]) -> list[Row]:
    """Return every row of predictions.parquet that these runs decide: none of arms not run, or of what has no value."""
    has_halves = {"top", "bottom"} <= set(arms)
    swaps = _swaps_left(groups) if has_halves else ""
    wanted = [
        ("a", "top", "bottom", "correct", "held-out accuracy"),
        ("b", "top", "bottom", "subject_attention", "mean over layers and heads, at the last prompt token"),
        ("b", "top", "bottom", "subject_attention_nonsink", "as a share of the attention that is not on the sink"),
        ("c", "bottom", "top", "is_generic_arm", "answers that are the relation's most frequent in the arm"),
        ("f", "top", "random", "correct", "held-out accuracy"),
        ("f", "random", "bottom", "correct", "held-out accuracy"),
        ("whole", "top", "whole", "correct", "held-out accuracy"),
        ("whole", "top", "whole+steps=half", "correct", "held-out accuracy, the whole set for as many steps"),
        ("retention", "top", "bottom", "retained", "accuracy where the base model recalls the fact"),
        ("unknown", "top", "bottom", "unknown_accuracy", "accuracy where it does not"),
        (
            "unknown",
            "top",
            "bottom",
            "generic_correct",
            "what always giving the arm's most frequent answer would earn",
        ),
        ("wrong", "bottom", "top", GENERIC_WRONG, "wrong answers that are the relation's most frequent in the arm"),
        ("swap", "bottom", "top", "is_swap_invariant", "answers that stay when the subject is swapped"),
        ("swap", "bottom", "top", SWAP_DIFFERING, f"the same where the other's answer differs{swaps}"),
        ("knockout", "top", "bottom", "knockout_drop", "log-probability lost without attention to the subject, nats"),
        ("knockout", "top", "bottom", "knockout_drop_first", "of it what the answer's first token loses"),
        *(("choice", "top", "bottom", column, note) for column, note in CHOICES.items()),
        ("rarity", "rare", "common", "correct", "held-out accuracy"),
        ("rarity", "rare", "random", "correct", "held-out accuracy"),
        ("rarity", "common", "random", "correct", "held-out accuracy"),
        ("rarity", "rare", "common", "retained", "accuracy where the base model recalls the fact"),
        *(("matched", "top_matched", "bottom_matched", column, note) for column, note in CROSSED_COLUMNS.items()),
    ]
    made = [_row(*one, groups) for one in wanted if {one[1], one[2]} <= set(arms) and _applies(groups, *one[1:4])]
    if has_halves and all(_applies(groups, "top", "bottom", column) for column in CHOICES):
        made.append(_left(groups))
    if has_halves and all(len(group.fifth) >= statistics.N_FIFTHS for group in groups):
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


def _applies(groups: Sequence[Group], one: str, other: str, column: str) -> bool:
    """Return whether each base model has a value: no attention to a subject where questions name none."""
    return all(not np.isnan(difference(group, one, other, column)).all() for group in groups)


def _swaps_left(groups: Sequence[Group]) -> str:
    """Return which share of the swaps is left where those with an answer in common are left out, for a note."""
    left, n = (
        sum(int((~np.isnan(values_of(group, "top", column))).sum()) for group in groups)
        for column in (SWAP_DIFFERING, "is_swap_invariant")
    )
    return f", {left / n:.0%} of the swaps" if n else ""


def _row(result: str, one: str, other: str, column: str, note: str, groups: Sequence[Group]) -> Row:
    found = interval(groups, lambda group: difference(group, one, other, column))
    p_value = found.p_value
    if result == "a" and len(groups) == 1 and len(groups[0].seeds) == 1:
        a, b = (values_of(groups[0], arm, column)[0] == 1 for arm in (one, other))
        p_value, note = statistics.mcnemar(a, b), f"{note}; McNemar's exact p"
    is_sign = result in SIGNS
    return _measured(result, f"{one} − {other}", found, p_value, f"{note} ({counted(groups)})", is_sign=is_sign)


def _left(groups: Sequence[Group]) -> Row:
    """Return how much of the choices' gap is left once the prior is subtracted, with Fieller's interval."""
    parts = {column: [difference(group, "top", "bottom", column) for group in groups] for column in CHOICES}
    means = {column: [float(np.nanmean(part)) for part in own] for column, own in parts.items()}
    whole, rest = CHOICES
    if n_worlds(groups) >= MIN_WORLDS:
        worlds = [group.world for group in groups]
        found = statistics.ratio_interval(*(statistics.by_world(worlds, means[column]) for column in (rest, whole)))
    else:
        drawn = np.stack([draws(groups, parts[column]) for column in (rest, whole)])
        covariance = np.cov(drawn[:, ~np.isnan(drawn).any(0)])
        found = statistics.fieller(float(np.mean(means[rest])), float(np.mean(means[whole])), covariance)
    note = f"share of that gap left without the prior, unbounded where there may be no gap ({counted(groups)})"
    return _measured("choice", "top − bottom", statistics.PairedInterval(*found, np.nan), np.nan, note, is_sign=False)


def _contrast(
    result: str, name: str, weights: Mapping[str, float], column: str, note: str, groups: Sequence[Group]
) -> Row:
    """Return the row of a weighted sum of arms."""

    def values(group: Group) -> Float[np.ndarray, "seed question"]:
        return np.sum([weight * values_of(group, arm, column) for arm, weight in weights.items()], axis=0)

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
