"""Finished deep runs beside the theory's signs, and where in the network attention to the subject changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from core import signs, statistics
from core.runs import Run
from theory import compare
from theory.compare import Row

THIRDS = ("least known third", "middle third", "best known third")
"""Strata of the facts by knownness; in results they are counted from the best known: third 3, third 2, third 1."""


@dataclass(frozen=True)
class Outcome:
    """What one run left."""

    world: int
    metrics: dict[str, dict[str, Any]]
    gaps: Float[np.ndarray, " third"]
    """Accuracy gap, top − bottom, of the held-out facts by third of popularity."""


@dataclass(frozen=True)
class Change:
    """Attention to the subject from one position in one layer, its heads averaged; arrays count worlds."""

    layer: int
    position: str
    base: Float[np.ndarray, " world"]
    top: Float[np.ndarray, " world"]
    bottom: Float[np.ndarray, " world"]
    largest: Float[np.ndarray, " world"]
    """Top − bottom of the head where it is largest in size. Heads of different worlds are different heads."""


def read(run: Run) -> Outcome:
    """Return the outcome of a run directory."""
    facts = run.table("facts", ["arm", "fact", "role", "knownness", "correct"])
    arm, role = (np.asarray(facts[name].to_pylist()) for name in ("arm", "role"))
    correct, knownness = (facts[name].to_numpy() for name in ("correct", "knownness"))
    top, bottom = (np.flatnonzero((arm == half) & (role == "held_out")) for half in ("top", "bottom"))
    lead = correct[top].astype(float) - correct[bottom]
    by_knownness = np.array_split(lead[np.argsort(knownness[top], kind="stable")], len(THIRDS))
    return Outcome(
        run.report["seeds"]["pretrain"], run.report["metrics"], np.array([third.mean() for third in by_knownness])
    )


def rows(experiment: str, outcomes: Sequence[Outcome]) -> list[Row]:
    """Return the rows of predictions.parquet: each sign with its interval over worlds, and the verdict on it."""

    def of(arm: str, metric: str) -> Float[np.ndarray, " world"]:
        return np.array([outcome.metrics[arm][metric] for outcome in outcomes], float)

    def difference(result: str, ahead: str, behind: str, metric: str, note: str) -> Row:
        a, b = of(ahead, metric), of(behind, metric)
        return _row(result, f"{ahead} − {behind}", a - b, note)

    thirds = np.array([outcome.gaps for outcome in outcomes])
    is_ahead = of("top", "accuracy").mean() >= of("bottom", "accuracy").mean()
    first, last = ("top", "bottom") if is_ahead else ("bottom", "top")
    judged = [
        difference("a", "top", "bottom", "accuracy", "held-out accuracy"),
        difference("b", "top", "bottom", "subject_attention", "mean over layers and heads, from the last token"),
        difference("c", "bottom", "top", "generic_rate", "share of answers that are the relation's generic one"),
        _row("d", "top − bottom", thirds[:, 1] - thirds[:, 0], f"accuracy gap, {THIRDS[1]} − {THIRDS[0]}"),
        _row("d", "top − bottom", thirds[:, 1] - thirds[:, 2], f"accuracy gap, {THIRDS[1]} − {THIRDS[2]}"),
        difference("f", first, "random", "accuracy", "held-out accuracy"),
        difference("f", "random", last, "accuracy", "held-out accuracy"),
    ]
    judged += [
        _row("d", "top − bottom", thirds[:, third], f"accuracy gap, {name}")
        | {"verdict": "reported", "predicted": None, "stratum": f"third {len(THIRDS) - third}"}
        for third, name in enumerate(THIRDS)
    ]
    common = {"experiment": experiment, "seeds": len(outcomes)}
    return [common | {"statement": signs.SIGNS[row["result"]]} | row for row in judged]


def changes(runs: Sequence[Run]) -> list[Change]:
    """Return where attention to the subject changes: every layer, seen from the last token and from the relation."""
    looked = [_by_head(run) for run in runs]
    by_layer = []
    for position, arms in looked[0].items():
        for layer in range(len(arms["base"])):
            base, top, bottom = (np.array([world[position][arm][layer] for world in looked]) for arm in _ARMS)
            gap = top - bottom
            largest = gap[np.arange(len(gap)), np.abs(gap).argmax(axis=1)]
            means = [heads.mean(axis=1) for heads in (base, top, bottom)]
            by_layer.append(Change(layer, position, means[0], means[1], means[2], largest))
    return by_layer


_ARMS = ("base", "top", "bottom")


def _by_head(run: Run) -> dict[str, dict[str, Float[np.ndarray, "layer head"]]]:
    """Return a run's attention to the subject by position and arm."""
    table = run.table("attention", ["arm", "layer", "head", "position", "span", "mean"])
    arm, position, span = (np.asarray(table[name].to_pylist()) for name in ("arm", "position", "span"))
    layer, head, mean = (table[name].to_numpy() for name in ("layer", "head", "mean"))
    attention: dict[str, dict[str, np.ndarray]] = {}
    for where in dict.fromkeys(position):
        attention[where] = {}
        for which in _ARMS:
            chosen = (arm == which) & (position == where) & (span == "subject")
            attention[where][which] = np.empty((layer.max() + 1, head.max() + 1))
            attention[where][which][layer[chosen], head[chosen]] = mean[chosen]
    return attention


def _row(result: str, arm: str, differences: Float[np.ndarray, " world"], note: str) -> Row:
    """Return the row of a difference that is predicted to be positive (`predicted`: the sign alone)."""
    *ends, p_value = statistics.paired_interval(differences, np.zeros_like(differences))
    interval = statistics.Interval(*ends)
    return {
        "result": result,
        "arm": arm,
        "predicted": None,
        "measured": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "unit": compare.unit(interval),
        "p_value": p_value,
        "verdict": signs.verdict(interval),
        "note": note,
    }
