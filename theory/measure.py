"""What a run directory holds: every fact's row, every arm's metrics and trace."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from core import split, statistics
from core.facts.store import FactStore
from theory import config as configs
from theory import curriculum, evaluate, inputs, selection
from theory.config import Config
from theory.evaluate import Answers
from theory.law import forecast, predict, theorem
from theory.law import selection as law
from theory.law.flow import HeldOutFlow
from theory.model.config import Weights
from theory.pipeline import Simulation

MAX_ROWS = 10**6
"""Facts in a run's table at most; of more, every n-th by popularity within each role. Metrics are complete."""
N_FORETOLD = 10**4
"""Held-out facts, at most, whose share that is answered is predicted."""


@runtime_checkable
class Ranked(Protocol):
    """What the plain and the deep simulation have in common: a world's facts, ranked and split."""

    @property
    def store(self) -> FactStore: ...

    @property
    def split(self) -> split.Split: ...

    @property
    def knownness(self) -> Float[np.ndarray, " fact"]: ...


def run(config: Config, simulation: Simulation) -> tuple[dict[str, dict[str, float]], list[dict], list[dict]]:
    """Return metrics by arm, the columns of facts.parquet by arm, and those of trace.parquet by arm."""
    store, foreground = simulation.store, np.flatnonzero(~simulation.store.is_background)
    rows = foreground if len(foreground) <= MAX_ROWS else _sample(foreground, store, simulation.split)
    paths = predicted_paths(config, simulation)
    predictions = _predictions(config, simulation, paths)
    generic_answers, metrics, facts = _generic_answers(simulation), {}, []
    for arm, weights in simulation.weights.items():
        columns = _arm_columns(config, simulation, arm, foreground, generic_answers)
        metrics[arm] = metrics_of(columns, store.subject[foreground], seed=simulation.cell.split)
        metrics[arm] |= {"n_trained": len(simulation.split.arms[arm])} if arm != "base" else {}
        metrics[arm] |= predictions.get(arm, {})
        kept = np.searchsorted(foreground, rows)
        columns = {name: value[kept] if isinstance(value, np.ndarray) else value for name, value in columns.items()}
        if arm == "base":
            columns["predicted_salience"] = predict.salience(
                columns["exposure"], columns["salience"], configs.to_json(config)
            )
        facts.append(named(columns | _theory_columns(weights, store, rows), store))
    return metrics, facts, trace_columns(simulation, paths)


def arm_metrics(config: Config, simulation: Simulation, arm: str) -> dict[str, float]:
    """Return one arm's metrics, as `run` does."""
    foreground = np.flatnonzero(~simulation.store.is_background)
    columns = _arm_columns(config, simulation, arm, foreground, _generic_answers(simulation))
    return metrics_of(columns, simulation.store.subject[foreground], seed=simulation.cell.split)


def _generic_answers(simulation: Simulation) -> dict[str, Int[np.ndarray, " relation"]]:
    """Return each relation's most frequent answer in every arm."""
    return {arm: evaluate.generic_answers(simulation.store, rows) for arm, rows in simulation.split.arms.items()}


def _arm_columns(
    config: Config,
    simulation: Simulation,
    arm: str,
    foreground: Int[np.ndarray, " row"],
    generic_answers: Mapping[str, Int[np.ndarray, " relation"]],
) -> dict[str, Any]:
    """Return what one arm does on each fact of the foreground."""
    answers = evaluate.answer(simulation.weights[arm], simulation.store, foreground)
    base_correct = simulation.margin[foreground] > 0
    n_draws = config.pretrain.steps * config.pretrain.batch_size
    return fact_columns(simulation, arm, answers, foreground, base_correct, generic_answers, n_draws=n_draws)


def fact_columns(
    simulation: Ranked,
    arm: str,
    answers: Answers,
    rows: Int[np.ndarray, " row"],
    base_correct: Bool[np.ndarray, " row"],
    generic_answers: Mapping[str, Int[np.ndarray, " relation"]],
    *,
    n_draws: int,
) -> dict[str, Any]:
    """Return what one arm does on each fact, ids not yet named.

    Args:
        answers: the arm's, to the facts of `rows`.
        base_correct: whether the base model recalls each of them in the pretraining format.
        generic_answers: by arm, each relation's most frequent answer among the arm's facts.
        n_draws: how many facts pretraining drew, by exposure.
    """
    store, halves = simulation.store, simulation.split
    in_arm = np.zeros(len(store.subject), bool)
    if arm != "base":
        in_arm[halves.arms[arm]] = True
    relation, answer = store.relation[rows], store.answer[rows]
    generic = generic_answers["whole"][relation]
    own = generic_answers.get(arm, generic_answers["whole"])[relation]
    return {
        "arm": arm,
        "fact": rows,
        "subject": store.subject[rows],
        "relation": relation,
        "answer": answer,
        "popularity": store.popularity[rows],
        "exposure": store.exposure[rows] * n_draws,
        "knownness": simulation.knownness[rows],
        "salience": answers.salience,
        "role": np.array(split.ROLES)[halves.role[rows]],
        "in_arm": in_arm[rows] if arm != "base" else None,
        "correct": answers.correct,
        "base_correct": base_correct,
        "answer_probability": np.exp(answers.answer_logprob),
        "answer_logprob": answers.answer_logprob,
        "predicted": answers.predicted,
        "predicted_probability": answers.probability,
        "is_generic": answers.predicted == generic,
        "is_generic_arm": answers.predicted == own if arm != "base" else None,
        "generic_correct": own == answer,
        "subject_attention": answers.attention[:, 0],
        "relation_attention": answers.attention[:, 1],
        "template_attention": answers.attention[:, 2],
    }


def _theory_columns(weights: Weights, store: FactStore, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return R2's and R4's prediction for each fact."""
    parts = []
    for part in evaluate.chunks(rows, 3 * len(weights.template_value)):
        attended, values = evaluate.read(weights, store, part)
        answer = store.answer[part]
        parts.append(share_columns(attended, values, answer) | critical_columns(attended, values, answer))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def share_columns(
    attended: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
) -> dict[str, np.ndarray]:
    """Return what each fact's own step does to its share, and the salience at which that changes sign (R2)."""
    return {
        "share_force": theorem.share_force(attended, values, answer),
        "salience_threshold": theorem.salience_threshold(attended, values, answer),
    }


def critical_columns(
    attended: Float[np.ndarray, "fact token"],
    values: Float[np.ndarray, "fact token output"],
    answer: Int[np.ndarray, " fact"],
) -> dict[str, np.ndarray]:
    """Return the shares between which each fact is recalled (R4)."""
    low, high = theorem.critical_attention(values, attended[:, 2], answer)
    return {"critical_low": low, "critical_high": high}


def metrics_of(columns: dict[str, Any], subject: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return one arm's metrics over the held-out facts; accuracy's interval is bootstrapped over subjects."""
    held_out = columns["role"] == "held_out"

    def mean(name: str, where: np.ndarray = held_out) -> float:
        value = columns[name]
        return float("nan") if value is None or not where.any() else float(value[where].mean())

    accuracy = statistics.clustered_interval(columns["correct"][held_out], subject[held_out], seed=seed)
    both = columns["subject_attention"] + columns["relation_attention"]
    known = held_out & columns["base_correct"]
    return {
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "train_accuracy": mean("correct", columns["in_arm"]) if columns["in_arm"] is not None else float("nan"),
        "retention": mean("correct", known),
        "base_recall": mean("base_correct"),
        "generic_accuracy": mean("generic_correct"),
        "generic_rate": mean("is_generic"),
        "generic_rate_arm": mean("is_generic_arm"),
        "subject_attention": mean("subject_attention"),
        "relation_attention": mean("relation_attention"),
        "template_attention": mean("template_attention"),
        "subject_share": float((columns["subject_attention"] / both)[held_out].mean()),
        "loss": -mean("answer_logprob"),
        "ece": statistics.calibration_error(columns["predicted_probability"][held_out], columns["correct"][held_out]),
        "n": int(held_out.sum()),
    }


def predicted_paths(config: Config, simulation: Simulation) -> dict[str, HeldOutFlow]:
    """Return R5's path of the split's own arms and of those that a rule chose, at the steps that their traces record.

    None where R5's assumptions about the prompt do not hold, and none of other arms: an arm takes up to seconds.
    """
    if not forecast.applies(config):
        return {}
    wanted = [arm for arm in simulation.split.arms if arm in config.split.names or selection.parse(arm)]
    return {arm: predicted_path(config, simulation, arm) for arm in wanted}


def _predictions(
    config: Config, simulation: Simulation, paths: Mapping[str, HeldOutFlow]
) -> dict[str, dict[str, float]]:
    """Return what is known of each arm's end before finetuning: share and accuracy, and R9's bound if it has one."""
    base, store, rho = simulation.weights["base"], simulation.store, config.model.shared_share
    held_out = inputs.spread(np.flatnonzero(simulation.split.role == split.HELD_OUT), N_FORETOLD)
    known: dict[str, dict[str, float]] = {}
    for arm, path in paths.items():
        end = replace(path, times=path.times[-1:], logits=path.logits[-1:])
        accuracy = predict.accuracy(end, base, store, held_out)
        known[arm] = {"predicted_subject_share": float(end.share[0]), "predicted_accuracy": float(accuracy[0])}
        if arm in simulation.bounds:
            best, rate = simulation.bounds[arm], 2 * rho + (1 - rho) / store.n_relations
            share = law.bound_share(best, path.times, rate=rate)[-1]
            known[arm] |= {"bound_subject_share": float(share), "resting_share": best.resting_share}
            known[arm]["is_resting"] = float(best.is_resting)
            # It steps through tokens that share no direction of their own, as structured embeddings do.
            if config.finetune.train == "attention" and config.model.embeddings == "structured":
                training = simulation.split.arms["whole"]
                ended = curriculum.run(config, base, store, training, held_out, len(best.rows))
                known[arm] |= {f"curriculum_{name}": value for name, value in ended._asdict().items()}
    return known


def trace_columns(simulation: Simulation, paths: Mapping[str, HeldOutFlow]) -> list[dict[str, Any]]:
    """Return the traces, with R5's path and what R4 makes of it beside the arms that have one."""
    base, store = simulation.traces["base"], simulation.store
    probe = inputs.spread(np.flatnonzero(simulation.split.role == split.HELD_OUT), inputs.PROBE)
    columns = [{"arm": "base", "step": base.step, "loss": base.loss, "accuracy": base.measured}]
    for arm in simulation.split.arms:
        trace = simulation.traces[arm]
        recorded = {"arm": arm, "step": trace.step, "loss": trace.loss}
        recorded |= {name: getattr(trace.measured, name) for name in ("accuracy", "subject_attention", "subject_share")}
        if arm in paths:
            path = paths[arm]
            recorded |= {"predicted_subject_share": path.share, "predicted_subject_attention": path.attention[:, 0]}
            recorded["predicted_accuracy"] = predict.accuracy(path, simulation.weights["base"], store, probe)
        columns.append(recorded)
    return columns


def predicted_path(config: Config, simulation: Simulation, arm: str) -> HeldOutFlow:
    """Return R5's path of the arm at the steps its trace records."""
    base, store, rows = simulation.weights["base"], simulation.store, simulation.split.arms[arm]
    times = config.finetune.learning_rate * np.asarray(simulation.traces[arm].step)
    return predict.arm_flow(base, store, rows, times, shared_share=config.model.shared_share, own_logits=True)


def _sample(foreground: np.ndarray, store: FactStore, halves: split.Split) -> np.ndarray:
    """Return at most `MAX_ROWS` facts, every n-th by popularity within each role, so that shares are kept."""
    order = np.lexsort((store.popularity[foreground], halves.role[foreground]))
    return np.sort(foreground[order[:: -(-len(foreground) // MAX_ROWS)]])


def named(columns: dict[str, Any], store: FactStore) -> dict[str, Any]:
    """Return the columns with subjects, relations and answers by name; output tokens beyond the answers are filler."""
    n_filler = max(0, int(columns["predicted"].max()) + 1 - store.n_answers)
    answers = _names(store.answer_names, "a", store.n_answers) + [f"filler{i}" for i in range(n_filler)]
    return columns | {
        "subject": _dictionary(columns["subject"], _names(store.subject_names, "s", store.n_subjects)),
        "relation": _dictionary(columns["relation"], _names(store.relation_names, "r", store.n_relations)),
        "answer": _dictionary(columns["answer"], answers),
        "predicted": _dictionary(columns["predicted"], answers),
    }


def _names(given: tuple[str, ...] | None, prefix: str, n: int) -> list[str]:
    return list(given) if given is not None else [f"{prefix}{i}" for i in range(n)]


def _dictionary(ids: np.ndarray, names: list[str]) -> pa.DictionaryArray:
    """Return the ids as a dictionary column that holds only the names in use."""
    used, index = np.unique(ids, return_inverse=True)
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), pa.array([names[i] for i in used]))
