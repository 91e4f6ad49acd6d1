"""Whether the experiment is what it says: who is trained on what, what is measured on whom, and what a tie counts."""

from collections.abc import Sequence

import jax
import numpy as np
from scipy import special

from core import split
from core.closed_form import recalled
from core.facts.store import FactStore
from theory import evaluate, measure
from theory.compare import Row
from theory.config import Config
from theory.inputs import PROBE, spread
from theory.law import theorem
from theory.model import factored
from theory.model.config import Weights
from theory.pipeline import Simulation
from theory.verify import judge

MOVED = 1e-4
"""A subject's logit differs from a held-out one's by more than this: it was trained on."""
TIED = 4096
"""Facts with values so small and whole that many answers tie, and sums are exact."""


def arms(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """Return which subjects each arm's training moved, and how its halves are ordered."""
    n_foreign, n_unordered, n, lean = 0, 0, 0, 0.0
    for world in simulations:
        store, halves = world.store, world.split
        for arm, rows in halves.arms.items():
            n_foreign += len(np.setdiff1d(_moved(world, arm), store.subject[rows]))
            n_foreign += len(np.intersect1d(rows, np.flatnonzero(halves.role != split.TRAIN)))
            n += store.n_subjects - len(np.unique(store.subject[rows]))
        group = store.relation if config.split.within_relation else np.zeros_like(store.relation)
        for each in np.unique(group):
            top, bottom = (rows[group[rows] == each] for rows in (halves.arms["top"], halves.arms["bottom"]))
            known = world.knownness[bottom]
            n_unordered += int(np.sum(world.knownness[top] < known.max(initial=-np.inf)))
        in_top = np.isin(halves.arms["random"], halves.arms["top"])
        lean = max(lean, abs(float(in_top.mean()) - 0.5) * np.sqrt(len(in_top)))
    of_subjects = f"subjects of {n:,} outside their arm whose attention logit its training moved"
    return [
        judge.bounded("design", n_foreign, 0, of_subjects, "one subject that an arm was trained on and has not"),
        judge.bounded(
            "design", n_unordered, 0, "facts of top less known than a fact of bottom", "one fact in the wrong half"
        ),
        judge.bounded("design", lean, 2.0, "share of random that is top's, less ½, in 1/√n", "a half not at random"),
    ]


def measurements(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """Return how far what runs report is from the definitions, computed here on facts whose subjects no arm has."""
    reported, recorded = 0.0, 0.0
    for world in simulations:
        store = world.store
        seen = np.unique(np.concatenate([store.subject[rows] for rows in world.split.arms.values()]))
        unseen = np.flatnonzero(~np.isin(store.subject, seen) & ~store.is_background & (world.split.role != split.DEV))
        probe = spread(np.flatnonzero(world.split.role == split.HELD_OUT), PROBE)
        for arm, weights in world.weights.items():
            metrics = measure.arm_metrics(config, world, arm)
            expected = _by_definition(weights, store, unseen)
            reported = max(reported, *(abs(metrics[name] - expected[name]) for name in expected))
            if arm == "base":
                continue
            trace, ends = world.traces[arm].measured, (("base", 0), (arm, -1))
            for model, record in ends:
                expected = _by_definition(world.weights[model], store, probe)
                gaps = (abs(float(getattr(trace, name)[record]) - value) for name, value in expected.items())
                recorded = max(recorded, *gaps)
    names = "accuracy, attention, share and loss"
    return [
        judge.bounded("design", reported, 1e-9, f"{names} of held-out facts by definition: max |Δ|", "another number"),
        judge.bounded(
            "design", recorded, 2e-3, f"{names} recorded in training, in its own precision: max |Δ|", "another number"
        ),
    ]


def ties(config: Config, simulations: Sequence[Simulation]) -> list[Row]:
    """Return whether an answer that is only as likely as another counts as recalled: in no program, and not in R4."""
    rng = np.random.default_rng(simulations[0].cell.pretrain)
    values, answer = rng.integers(-1, 2, (TIED, 3, 4)).astype(float), rng.integers(0, 4, TIED)
    attended = np.tile([0.25, 0.25, 0.5], (TIED, 1))
    output = (values * attended[..., None]).sum(axis=1)
    right = output[np.arange(TIED), answer]
    is_right = (output >= right[:, None]).sum(axis=1) == 1
    is_tied = ~is_right & (right == output.max(axis=1))
    with jax.enable_x64(True):
        in_training = np.asarray(factored.recalled(jax.numpy.asarray(output), answer))
    answers = evaluate.answer_read(evaluate.Read(attended, values), answer)
    of_theory = recalled(np.full(TIED, 0.5), *theorem.critical_attention(values, attended[:, 2], answer))
    n_wrong = sum(int(np.sum(found != is_right)) for found in (in_training, answers.correct, of_theory))
    note = f"answers judged otherwise in training, measurement or R4, of {TIED:,}, {is_tied.sum():,} of them tied"
    return [judge.bounded("design", n_wrong, 0, note, "one tie counted as recalled, or one answer misjudged")]


def _moved(world: Simulation, arm: str) -> np.ndarray:
    """Return the subjects whose attention logit is their own after training an arm."""
    logit, store = world.weights[arm].subject_logit, world.store
    common = np.median(logit[np.unique(store.subject[world.split.role == split.HELD_OUT])])
    return np.flatnonzero(np.abs(logit - common) > MOVED)


def _by_definition(weights: Weights, store: FactStore, rows: np.ndarray) -> dict[str, float]:
    """Return the means over some facts, written out anew."""
    subject, relation, answer = store.subject[rows], store.relation[rows], store.answer[rows]
    logits = weights.subject_logit[subject], weights.relation_logit[relation], weights.template_logit
    odds = [np.exp(np.broadcast_to(logit, len(rows)).astype(float)) for logit in logits]
    s, r, q = (of_token / sum(odds) for of_token in odds)
    output = (
        s[:, None] * weights.subject_values[subject].astype(float)
        + r[:, None] * weights.relation_values[relation].astype(float)
        + q[:, None] * weights.template_value.astype(float)
    )
    right = output[np.arange(len(rows)), answer]
    n_as_likely = (output >= right[:, None]).sum(axis=1)
    return {
        "accuracy": float(np.mean(n_as_likely == 1)),
        "subject_attention": float(s.mean()),
        "subject_share": float((s / (s + r)).mean()),
        "loss": float((np.asarray(special.logsumexp(output, axis=1)) - right).mean()),
    }
