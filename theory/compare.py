"""Prediction beside measurement, from finished runs alone: rows of predictions.parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import closed_form, signs, statistics
from core.runs import Run
from theory.law import predict, theorem

Row = dict[str, Any]
Columns = dict[str, np.ndarray]

MIN_R_SQUARED = {"subjects": 0.95, "single facts, nothing fitted (R6′)": 0.985}
"""R6 and R6′ hold on the default world from here on. Of single facts, one competitors' mass fitted for all reaches
0.93, and 1/q_a − 1 held fixed 0.984."""
MAX_DISTANCE = 0.02
"""R5 holds up to this distance between an arm's predicted and measured share, each the mean over worlds."""
MAX_ACCURACY_ERROR = 0.03
"""R5 put into R4 predicts accuracy if it is off by no more, in the mean over arms and worlds."""
MAX_BEYOND = 0.01
"""No arm ends farther beyond R9's bound: the error that R5 is allowed."""


@dataclass(frozen=True)
class Outcome:
    """What one run left, by arm."""

    world: int
    """Pretraining seed: the unit that intervals count."""
    config: dict[str, Any]
    facts: dict[str, Columns]
    trace: dict[str, Columns]
    metrics: dict[str, dict[str, float]]


def read(run: Run) -> Outcome:
    """Return the outcome of a run directory."""
    numbers = ["fact", "correct", "salience", "exposure", "salience_threshold", "critical_low", "critical_high"]
    columns = ["arm", "subject", "relation", "answer", "role", *numbers, "subject_attention", "relation_attention"]
    facts, trace = _by_arm(run.table("facts", columns)), _by_arm(run.table("trace"))
    return Outcome(run.report["seeds"]["pretrain"], run.report["config"], facts, trace, run.report["metrics"])


def rows(experiment: str, outcomes: Sequence[Outcome], *, is_default_world: bool) -> list[Row]:
    """Return every row that finished runs of one experiment decide; the claim and R6 on the default world alone."""
    growths = growth(outcomes, is_judged=is_default_world)
    first, beforehand = claim(outcomes, is_judged=is_default_world), [*accuracy(outcomes), *order(outcomes)]
    rest = [*beforehand, *growths, gap(outcomes), *bound(outcomes)]
    judged = [first, threshold(outcomes), recall(outcomes), *rest]
    return [{"experiment": experiment, "seeds": len(outcomes), "statement": _statement(row)} | row for row in judged]


def claim(outcomes: Sequence[Outcome], *, is_judged: bool) -> Row:
    """Return by how much the top half leaves more held-out facts recalled than the bottom half: the paper's claim."""
    lead = over_worlds(outcomes, [float(np.mean(_lead(*map(_held_out, _pair(outcome))))) for outcome in outcomes])
    return {
        "result": "claim",
        "arm": "top − bottom",
        "verdict": signs.verdict(lead) if is_judged else "reported",
        "note": "accuracy on held-out facts" + ("" if is_judged else "; the claim is judged on the world of `paper`"),
        "refuted_by": "an interval below zero" if is_judged else None,
    } | _measured(lead)


def threshold(outcomes: Sequence[Outcome]) -> Row:
    """Return how many facts lie above R2's salience threshold before finetuning: where attention to subjects gains."""
    bases = [outcome.facts["base"] for outcome in outcomes]
    above = [float(np.mean(base["salience"] > base["salience_threshold"])) for base in bases]
    return {"result": "R2", "arm": "base", "verdict": "reported", "note": "share of facts above their threshold"} | (
        _measured(over_worlds(outcomes, above))
    )


def recall(outcomes: Sequence[Outcome]) -> Row:
    """Return whether R4's interval agrees with the answer on every fact of every arm."""
    predicted, measured, n_wrong, n = [], [], 0, 0
    for outcome in outcomes:
        for facts in outcome.facts.values():
            is_recalled = closed_form.recalled(_share(facts), facts["critical_low"], facts["critical_high"])
            is_held_out = facts["role"] == "held_out"
            predicted.append(is_recalled[is_held_out].mean())
            measured.append(facts["correct"][is_held_out].mean())
            n_wrong, n = n_wrong + int(np.sum(is_recalled != facts["correct"])), n + len(is_recalled)
    return {
        "result": "R4",
        "arm": "all",
        "predicted": float(np.mean(predicted)),
        "measured": float(np.mean(measured)),
        "error": float(n_wrong),
        "tolerance": 0.0,
        "verdict": "holds" if n_wrong == 0 else "fails",
        "note": f"identity, for any weights: accuracy; error = facts of {n:,} on which prediction and argmax differ",
        "refuted_by": "one fact recalled outside its interval, or not recalled inside",
    }


def order(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return R5's predicted final shares beside the measured ones: verdicts on their distance, and on the order."""
    predicted, measured = (
        {arm: [_last(o.trace[arm], name) for o in outcomes] for arm in outcomes[0].trace if arm != "base"}
        for name in ("predicted_subject_share", "subject_share")
    )
    if not np.isfinite(predicted["top"]).all():
        return []
    assumed = _meets_assumptions(outcomes[0].config)
    by_arm = []
    for arm in (arm for arm in measured if np.isfinite(predicted[arm]).all()):
        forecast, interval = over_worlds(outcomes, predicted[arm]), over_worlds(outcomes, measured[arm])
        distance = abs(forecast.mean - interval.mean)
        row = {"result": "R5", "arm": arm, "predicted": forecast.mean, "error": distance, "verdict": "reported"}
        row |= {"note": "final share, computed from the base model before any finetuning"} | _measured(interval)
        if assumed:
            row |= {"tolerance": MAX_DISTANCE, "verdict": "holds" if distance <= MAX_DISTANCE else "fails"}
            row |= {"refuted_by": f"a distance above {MAX_DISTANCE}"}
        by_arm.append(row)
    forecast, difference = (
        over_worlds(outcomes, np.subtract(shares["top"], shares["bottom"])) for shares in (predicted, measured)
    )
    return [
        {
            "result": "R5",
            "arm": "top − bottom",
            "predicted": forecast.mean,
            "error": abs(forecast.mean - difference.mean),
            "p_value": _p_value(outcomes, measured["top"], measured["bottom"]),
            "verdict": signs.verdict(difference, forecast.mean) if assumed else "reported",
            "note": "order of the arms' shares, predicted before any finetuning"
            + ("" if assumed else "; outside R5's assumptions"),
            "refuted_by": "an interval of the other sign" if assumed else None,
        }
        | _measured(difference),
        *by_arm,
    ]


def accuracy(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return each arm's accuracy as R5 put into R4 predicts it before finetuning, after the mean error of all."""
    arms = [arm for arm, metrics in outcomes[0].metrics.items() if "predicted_accuracy" in metrics]
    if not arms:
        return []
    predicted, measured = (
        np.array([[outcome.metrics[arm][name] for outcome in outcomes] for arm in arms])
        for name in ("predicted_accuracy", "accuracy")
    )
    error = over_worlds(outcomes, np.abs(predicted - measured).mean(axis=0)).mean
    of_all = {"result": "R4+R5", "arm": "all", "error": error, "verdict": "reported"}
    of_all["note"] = f"mean |error| of held-out accuracy, {len(arms)} arms"
    if _meets_assumptions(outcomes[0].config):
        of_all |= {"tolerance": MAX_ACCURACY_ERROR, "verdict": "holds" if error <= MAX_ACCURACY_ERROR else "fails"}
        of_all["refuted_by"] = f"an error above {MAX_ACCURACY_ERROR}"
    by_arm = [
        {"result": "R4+R5", "arm": arm, "predicted": float(of_arm.mean()), "error": float(np.abs(of_arm - own).mean())}
        | {"verdict": "reported", "note": "held-out accuracy, computed from the base model before any finetuning"}
        | _measured(over_worlds(outcomes, own))
        for arm, of_arm, own in zip(arms, predicted, measured, strict=True)
    ]
    return [of_all, *by_arm]


def bound(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return for every size of arms that R9 chose one of, whether an arm of that size ends beyond the bound."""
    judged = []
    for arm, metrics in outcomes[0].metrics.items():
        if "bound_subject_share" not in metrics:
            continue
        n_facts = metrics["n_trained"]
        alike = [name for name, other in outcomes[0].metrics.items() if other.get("n_trained") == n_facts]
        ends = np.array([[outcome.metrics[name]["subject_share"] for name in alike] for outcome in outcomes])
        if "curriculum_subject_share" in metrics:
            led = [outcome.metrics[arm]["curriculum_subject_share"] for outcome in outcomes]
            ends = np.column_stack([ends, led])
        limits = np.array([outcome.metrics[arm]["bound_subject_share"] for outcome in outcomes])
        beyond = float((ends.max(axis=1) - limits).max())
        n_failing = sum(not outcome.metrics[arm]["is_resting"] for outcome in outcomes)
        note = f"highest share of {ends.shape[1]} choices of as many facts, and the bound; error = farthest beyond it"
        note += f"; premise fails in {n_failing} worlds" if n_failing else ""
        row = {"result": "R9", "arm": arm, "predicted": over_worlds(outcomes, limits).mean, "error": max(0.0, beyond)}
        row |= {"note": note, "verdict": "reported"} | _measured(over_worlds(outcomes, ends.max(axis=1)))
        if _meets_assumptions(outcomes[0].config):
            row |= {"tolerance": MAX_BEYOND, "verdict": "holds" if beyond <= MAX_BEYOND else "fails"}
            row |= {"refuted_by": f"a share more than {MAX_BEYOND} beyond the bound"}
        judged.append(row)
    return judged


def growth(outcomes: Sequence[Outcome], *, is_judged: bool) -> list[Row]:
    """Return how well exposure alone predicts salience: R6 with one number fitted, R6′ with none.

    R6 of subjects' means, of their logarithms, and of single facts; R6′ of single facts.
    """
    fits = [_growth(outcome) for outcome in outcomes]
    by_kind = []
    for kind in fits[0]:
        values = [fit[kind] for fit in fits]
        if not np.isfinite(values).all():  # saliences that do not vary have no R²
            continue
        interval = over_worlds(outcomes, values)
        bound = MIN_R_SQUARED.get(kind) if is_judged else None
        verdict = "reported" if bound is None else "holds" if interval.mean >= bound else "fails"
        by_kind.append(
            {"result": "R6", "arm": "base", "predicted": 1.0, "error": 1 - interval.mean, "verdict": verdict}
            | {"tolerance": None if bound is None else 1 - bound, "note": f"R², {kind}"}
            | {"refuted_by": None if bound is None else f"R² below {bound}"}
            | _measured(interval)
        )
    return by_kind


def gap(outcomes: Sequence[Outcome]) -> Row:
    """Return whether the accuracy gap of top and bottom is R7's sum over facts."""
    errors, gaps = [], []
    for outcome in outcomes:
        top, bottom = map(_held_out, _pair(outcome))
        by_fact = theorem.gap_by_fact(_share(top), _interval(top), _share(bottom), _interval(bottom))
        lead = _lead(top, bottom)
        errors.append(int(np.sum(by_fact != lead)))
        gaps.append((by_fact.mean(), lead.mean()))
    interval = over_worlds(outcomes, [measured for _, measured in gaps])
    return {
        "result": "R7",
        "arm": "top − bottom",
        "predicted": float(np.mean([predicted for predicted, _ in gaps])),
        "error": float(sum(errors)),
        "tolerance": 0.0,
        "verdict": "holds" if not any(errors) else "fails",
        "note": "identity, for any weights: accuracy gap; error = held-out facts that contribute otherwise",
        "refuted_by": "one fact that contributes otherwise",
    } | _measured(interval)


def over_worlds(outcomes: Sequence[Outcome], values: Sequence[float] | np.ndarray) -> statistics.Interval:
    """Return the mean and its interval with worlds (pretraining seeds) as the unit; runs of one world are averaged."""
    return statistics.mean_interval(statistics.by_world(_worlds(outcomes), values))


def unit(interval: statistics.Interval) -> str | None:
    """Return what the interval counts; None where one world alone has none."""
    return "worlds" if np.isfinite(interval.low) else None


def _growth(outcome: Outcome) -> dict[str, float]:
    """Return R² of R6 for one world."""
    facts = outcome.facts["base"]
    salience = facts["salience"].astype(float)
    predicted = predict.salience(facts["exposure"], salience, outcome.config)
    relation, answer = (np.unique(facts[name], return_inverse=True)[1] for name in ("relation", "answer"))
    unfitted = predict.unfitted_salience(facts["exposure"], relation, answer, outcome.config)
    _, subject = np.unique(facts["subject"], return_inverse=True)
    means = [np.bincount(subject, of) / np.bincount(subject) for of in (predicted, salience)]
    positive = (means[0] > 0) & (means[1] > 0)
    return {
        "subjects": closed_form.r_squared(*means),
        "subjects' logarithms": closed_form.r_squared(*(np.log(mean[positive]) for mean in means)),
        "single facts": closed_form.r_squared(predicted, salience),
        "single facts, nothing fitted (R6′)": closed_form.r_squared(unfitted, salience),
    }


def _meets_assumptions(config: dict[str, Any]) -> bool:
    """Return whether R5's frozen values and structured embeddings are this config's."""
    model, finetune = config["model"], config["finetune"]
    return model["embeddings"] == "structured" and model["value_share"] == 0 and finetune["train"] == "attention"


def _statement(row: Row) -> str:
    return (theorem.STATEMENTS | theorem.BESIDE)[row["result"]]


def _worlds(outcomes: Sequence[Outcome]) -> list[int]:
    return [outcome.world for outcome in outcomes]


def _p_value(outcomes: Sequence[Outcome], a: Sequence[float], b: Sequence[float]) -> float:
    worlds = _worlds(outcomes)
    return statistics.paired_interval(statistics.by_world(worlds, a), statistics.by_world(worlds, b)).p_value


def _measured(interval: statistics.Interval) -> Row:
    return {"measured": interval.mean, "low": interval.low, "high": interval.high, "unit": unit(interval)}


def _share(facts: Columns) -> np.ndarray:
    return closed_form.subject_share(facts["subject_attention"], facts["relation_attention"])


def _interval(facts: Columns) -> tuple[np.ndarray, np.ndarray]:
    return facts["critical_low"], facts["critical_high"]


def _pair(outcome: Outcome) -> tuple[Columns, Columns]:
    return outcome.facts["top"], outcome.facts["bottom"]


def _held_out(facts: Columns) -> Columns:
    is_held_out = facts["role"] == "held_out"
    return {name: column[is_held_out] for name, column in facts.items()}


def _lead(top: Columns, bottom: Columns) -> np.ndarray:
    return top["correct"].astype(int) - bottom["correct"].astype(int)


def _last(trace: Columns, name: str) -> float:
    return float(trace[name][-1]) if name in trace else float("nan")


def _by_arm(table: Any) -> dict[str, Columns]:
    """Return an Arrow table's columns as arrays, by arm."""
    arms = np.asarray(table["arm"].to_pylist())
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "arm"}
    return {arm: {name: column[arms == arm] for name, column in columns.items()} for arm in dict.fromkeys(arms)}
