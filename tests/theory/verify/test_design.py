"""An experiment that is not what it says is noticed."""

from dataclasses import replace

import numpy as np

from theory.model import factored
from theory.verify import design


def verdicts(rows):
    return [row["verdict"] for row in rows]


def test_a_held_out_subject_whose_logit_moved_is_noticed(small, simulations):
    world = simulations[0]
    assert verdicts(design.arms(small, [world])) == ["holds"] * 3
    held_out = world.store.subject[world.split.role == 2][0]
    weights = {arm: of._replace(subject_logit=of.subject_logit.copy()) for arm, of in world.weights.items()}
    weights["top"].subject_logit[held_out] += 0.01
    assert verdicts(design.arms(small, [replace(world, weights=weights)])) == ["fails", "holds", "holds"]


def test_halves_in_the_wrong_order_and_a_random_half_that_is_not_are_noticed(small, simulations):
    world, arms = simulations[0], simulations[0].split.arms
    swapped = replace(world.split, arms=arms | {"top": arms["bottom"], "bottom": arms["top"]})
    weights = world.weights | {"top": world.weights["bottom"], "bottom": world.weights["top"]}
    rows = design.arms(small, [replace(world, split=swapped, weights=weights)])
    assert verdicts(rows) == ["holds", "fails", "holds"]
    best = replace(world.split, arms=arms | {"random": arms["top"]})
    weights = world.weights | {"random": world.weights["top"]}
    assert verdicts(design.arms(small, [replace(world, split=best, weights=weights)]))[2] == "fails"


def test_metrics_of_other_facts_and_a_trace_of_another_share_are_noticed(small, simulations, monkeypatch):
    assert verdicts(design.measurements(small, simulations[:1])) == ["holds", "holds"]
    real = design.measure.metrics_of

    def of_training_facts(columns, subject, *, seed):
        role = np.where(columns["role"] == "train", "held_out", "train")
        return real(columns | {"role": role}, subject, seed=seed)

    monkeypatch.setattr(design.measure, "metrics_of", of_training_facts)
    assert verdicts(design.measurements(small, simulations[:1])) == ["fails", "holds"]
    monkeypatch.undo()
    traces = dict(simulations[0].traces)
    measured = traces["top"].measured
    traces["top"] = traces["top"]._replace(measured=measured._replace(subject_share=measured.subject_attention))
    assert verdicts(design.measurements(small, [replace(simulations[0], traces=traces)])) == ["holds", "fails"]


def test_a_tie_that_counts_as_recalled_is_noticed(small, simulations, monkeypatch):
    assert verdicts(design.ties(small, simulations)) == ["holds"]

    def at_least(output, answer):
        return output[np.arange(len(answer)), answer] >= output.max(axis=1)

    monkeypatch.setattr(factored, "recalled", at_least)
    assert verdicts(design.ties(small, simulations)) == ["fails"]
