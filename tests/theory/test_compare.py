"""Verdicts on constructed numbers."""

from dataclasses import replace

import numpy as np
import pytest

from core import signs
from core.statistics import Interval
from theory import compare
from theory import config as configs
from theory.compare import Outcome
from theory.config import Config
from theory.finetune import FinetuneConfig
from theory.model.config import ModelConfig

ARMS = ("base", "top", "bottom")
N_FACTS = 6


def outcome(world: int = 0, *, top: float = 0.7, bottom: float = 0.5, predicted=(0.72, 0.55), config=None) -> Outcome:
    """Return what a run leaves whose facts are recalled where the share is above one half, and that says so."""
    shares = {"base": 0.4, "top": top, "bottom": bottom}
    facts, trace = {}, {}
    for arm, share in shares.items():
        own = share + np.array([-0.3, -0.1, -0.05, 0.0, 0.05, 0.2])
        facts[arm] = {
            "subject": np.array(["s0", "s0", "s1", "s1", "s2", "s2"]),
            "relation": np.repeat("r0", N_FACTS),
            "answer": np.array(["a0", "a0", "a1", "a1", "a1", "a2"]),
            "role": np.array(["train", "held_out"] * 3),
            "fact": np.arange(N_FACTS),
            "correct": own > 0.501,
            "salience": np.array([4.0, 3.9, 3.0, 2.9, 1.1, 1.0]),
            "salience_threshold": np.full(N_FACTS, 2.95),
            "exposure": np.array([80.0, 80, 40, 40, 5, 5]),
            "critical_low": np.full(N_FACTS, 0.501),
            "critical_high": np.full(N_FACTS, np.inf),
            "subject_attention": 0.8 * own,
            "relation_attention": 0.8 * (1 - own),
        }
        trace[arm] = {"step": np.array([0, 10]), "subject_share": np.array([0.5, share])}
        if arm != "base" and predicted:
            trace[arm]["predicted_subject_share"] = np.array([0.5, predicted[arm == "bottom"]])
    metrics = {arm: {"accuracy": 0.6, "predicted_accuracy": 0.62} for arm in ARMS[1:]} if predicted else {}
    return Outcome(world, configs.to_json(config or Config()), facts, trace, metrics)


def outcomes(shares, **options) -> list[Outcome]:
    return [outcome(world, top=top, bottom=bottom, **options) for world, (top, bottom) in enumerate(shares)]


@pytest.mark.parametrize(
    ("predicted", "interval", "verdict"),
    [
        (0.1, Interval(0.2, 0.1, 0.3), "holds"),
        (-0.1, Interval(-0.2, -0.3, -0.1), "holds"),
        (0.1, Interval(-0.2, -0.3, -0.1), "fails"),
        (-0.1, Interval(0.2, 0.1, 0.3), "fails"),
        (0.1, Interval(0.2, -0.1, 0.5), "undecided"),
        (0.1, Interval(0.2, 0.0, 0.4), "undecided"),
        (0.1, Interval(0.2, np.nan, np.nan), "undecided"),
    ],
)
def test_a_predicted_sign_holds_fails_or_is_undecided_by_the_interval(predicted, interval, verdict):
    assert signs.verdict(interval, predicted) == verdict


AHEAD = [(0.7, 0.5), (0.72, 0.5), (0.69, 0.5)]
BEHIND = [(bottom, top) for top, bottom in AHEAD]
EVEN = [(0.7, 0.5), (0.5, 0.7), (0.6, 0.6)]


@pytest.mark.parametrize(
    ("shares", "verdict"), [(AHEAD, "holds"), (BEHIND, "fails"), (EVEN, "undecided"), (AHEAD[:1], "undecided")]
)
def test_order_of_the_arms_is_judged_over_worlds(shares, verdict):
    lead, *arms = compare.order(outcomes(shares))
    assert (lead["result"], lead["arm"], lead["verdict"]) == ("R5", "top − bottom", verdict)
    difference = np.mean([top - bottom for top, bottom in shares])
    assert lead["predicted"] == pytest.approx(0.17) and lead["measured"] == pytest.approx(difference)
    assert lead["error"] == pytest.approx(abs(0.17 - difference))
    assert (lead["p_value"] < 0.05) == (shares in (AHEAD, BEHIND))
    assert "before any finetuning" in lead["note"]
    assert [row["arm"] for row in arms] == ["top", "bottom"]


def test_each_arms_share_is_judged_by_its_distance_from_the_prediction():
    _, top, bottom = compare.order(outcomes(AHEAD))
    assert top["error"] == pytest.approx(0.72 - np.mean([0.7, 0.72, 0.69])) and bottom["error"] == pytest.approx(0.05)
    assert (top["verdict"], bottom["verdict"]) == ("holds", "fails")
    assert top["tolerance"] == compare.MAX_DISTANCE == 0.02 and "0.02" in top["refuted_by"]


@pytest.mark.parametrize(
    ("shares", "verdict"), [(AHEAD, "holds"), (BEHIND, "fails"), (EVEN, "undecided"), (AHEAD[:1], "undecided")]
)
def test_the_claim_is_judged_on_the_default_world_alone(shares, verdict):
    runs = outcomes(shares)
    row = compare.claim(runs, is_judged=True)
    gaps = [run.facts["top"]["correct"][1::2].mean() - run.facts["bottom"]["correct"][1::2].mean() for run in runs]
    assert row["measured"] == pytest.approx(np.mean(gaps)) and row["verdict"] == verdict
    assert compare.claim(runs, is_judged=False)["verdict"] == "reported"


@pytest.mark.parametrize(
    "config",
    [
        Config(finetune=FinetuneConfig(train="everything")),
        Config(model=ModelConfig(value_share=0.1)),
        Config(model=ModelConfig(parametrisation="dense", embeddings="random")),
    ],
)
def test_outside_its_assumptions_the_order_is_reported_without_a_verdict(config):
    lead, *arms = compare.order(outcomes(AHEAD, config=config))
    assert {row["verdict"] for row in arms} == {"reported"}
    assert lead["verdict"] == "reported" and "outside R5's assumptions" in lead["note"]


def test_without_a_predicted_path_there_is_no_row_on_the_order():
    assert compare.order(outcomes(AHEAD, predicted=None)) == []


def test_runs_of_one_world_are_averaged_before_the_interval():
    runs = [outcome(0, top=0.9), outcome(0, top=0.7), outcome(1, top=0.6)]
    interval = compare.over_worlds(runs, [0.9, 0.7, 0.6])
    assert interval.mean == pytest.approx(0.7)
    assert interval.high - interval.mean == pytest.approx(
        12.706 * 0.1, rel=1e-4
    )  # Student's t at one degree of freedom


def test_threshold_counts_the_facts_above_it_before_finetuning():
    row = compare.threshold(outcomes(AHEAD))
    assert row["measured"] == pytest.approx(0.5) and row["verdict"] == "reported"


def test_recall_holds_only_if_every_fact_of_every_arm_agrees():
    runs = outcomes(AHEAD)
    row = compare.recall(runs)
    assert (row["verdict"], row["error"]) == ("holds", 0)
    accuracy = [run.facts[arm]["correct"][1::2] for run in runs for arm in ARMS]
    assert row["predicted"] == row["measured"] == pytest.approx(np.mean(accuracy))  # of held-out facts
    runs[1].facts["bottom"]["correct"][0] ^= True
    row = compare.recall(runs)
    assert (row["verdict"], row["error"]) == ("fails", 1)
    assert "of 54 " in row["note"]


def test_the_gap_holds_only_if_it_is_the_sum_of_the_held_out_facts_crossings():
    runs = outcomes(AHEAD)
    row = compare.gap(runs)
    leads = [
        np.mean([run.facts[arm]["correct"][1::2].astype(int) for run in runs], axis=0) for arm in ("top", "bottom")
    ]
    assert row["measured"] == row["predicted"] == pytest.approx(np.mean(leads[0] - leads[1]))
    assert row["measured"] > 0 and (row["verdict"], row["error"]) == ("holds", 0)
    runs[0].facts["top"]["correct"][0] ^= True  # a training fact: no part of the gap
    assert compare.gap(runs)["verdict"] == "holds"
    runs[0].facts["top"]["correct"][1] ^= True
    row = compare.gap(runs)
    assert (row["verdict"], row["error"]) == ("fails", 1)


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, "holds"), (4.0, "fails")])
def test_growth_is_judged_on_the_default_world_by_subjects_means(noise, verdict):
    runs = outcomes(AHEAD)
    for run in runs:
        base = run.facts["base"]
        base["salience"] = compare.predict.salience(base["exposure"], base["salience"], run.config) + noise * np.array(
            [-1, -1, 1, 1, 1, 1]
        )
    judged = compare.growth(runs, is_judged=True)
    assert [row["verdict"] for row in judged[:3]] == [verdict, "reported", "reported"]
    assert judged[0]["note"] == "R², subjects" and judged[0]["tolerance"] == pytest.approx(0.05)
    assert {row["verdict"] for row in compare.growth(runs, is_judged=False)} == {"reported"}


@pytest.mark.parametrize(("noise", "verdict"), [(0.0, "holds"), (1.0, "fails")])
def test_growth_of_single_facts_is_judged_with_nothing_fitted(noise, verdict):
    runs = outcomes(AHEAD)
    for run in runs:
        base = run.facts["base"]
        relation, answer = (np.unique(base[name], return_inverse=True)[1] for name in ("relation", "answer"))
        exact = compare.predict.unfitted_salience(base["exposure"], relation, answer, run.config)
        base["salience"] = exact + noise * np.array([1.0, -1, 1, -1, 1, -1])
    row = compare.growth(runs, is_judged=True)[3]
    assert "R6′" in row["note"] and row["verdict"] == verdict and row["tolerance"] == pytest.approx(0.015)


def test_growth_says_nothing_of_saliences_that_do_not_vary():
    runs = outcomes(AHEAD)
    for run in runs:
        run.facts["base"]["salience"][:] = 1.5
    assert compare.growth(runs, is_judged=True) == []


def test_unit_is_worlds_where_there_is_an_interval():
    for shares, unit in ((AHEAD, "worlds"), (AHEAD[:1], None)):
        rows = compare.rows("mine", outcomes(shares), is_default_world=False)
        assert {row["unit"] for row in rows if "low" in row} == {unit}


def test_every_row_names_its_statement_experiment_and_runs():
    rows = compare.rows("mine", outcomes(AHEAD), is_default_world=False)
    wanted = ["claim", "R2", "R4", *["R4+R5"] * 3, *["R5"] * 3, *["R6"] * 4, "R7"]
    assert [row["result"] for row in rows] == wanted
    assert {row["experiment"] for row in rows} == {"mine"} and {row["seeds"] for row in rows} == {3}
    assert all(row["statement"] for row in rows)
    assert {row["verdict"] for row in rows} <= {"holds", "fails", "undecided", "reported"}


@pytest.mark.parametrize(("error", "verdict"), [(0.01, "holds"), (0.05, "fails")])
def test_accuracy_foretold_is_judged_by_its_mean_error_over_arms_and_worlds(error, verdict):
    made = outcomes(AHEAD)
    for one in made:
        one.metrics["top"]["predicted_accuracy"] = 0.6 + 2 * error
        one.metrics["bottom"]["predicted_accuracy"] = 0.6
    of_all, top, bottom = compare.accuracy(made)
    assert of_all["verdict"] == verdict and of_all["error"] == pytest.approx(error)
    assert (top["arm"], bottom["arm"]) == ("top", "bottom") and top["verdict"] == "reported"
    assert top["predicted"] == pytest.approx(0.6 + 2 * error) and top["measured"] == pytest.approx(0.6)
    moving = replace(Config(), finetune=FinetuneConfig(train="everything"))
    assert compare.accuracy(outcomes(AHEAD, config=moving))[0]["verdict"] == "reported"
    assert compare.accuracy(outcomes(AHEAD, predicted=None)) == []


@pytest.mark.parametrize(("beyond", "verdict"), [(-0.02, "holds"), (0.005, "holds"), (0.02, "fails")])
def test_an_arm_beyond_the_bound_of_its_size_fails_it(beyond, verdict):
    made = outcomes(AHEAD)
    for one in made:
        own = {"n_trained": 3, "subject_share": 0.7, "is_resting": 1.0, "bound_subject_share": 0.72}
        one.metrics.update({"best@3": own, "random@3": {"n_trained": 3, "subject_share": 0.6}})
        one.metrics["larger"] = {"n_trained": 4, "subject_share": 0.9}
    made[1].metrics["random@3"]["subject_share"] = 0.72 + beyond
    (row,) = compare.bound(made)
    assert (row["result"], row["arm"], row["verdict"]) == ("R9", "best@3", verdict)
    assert row["error"] == pytest.approx(max(0.0, beyond)) and "of 2 choices" in row["note"]
    made[0].metrics["best@3"]["is_resting"] = 0.0
    assert "premise fails in 1 worlds" in compare.bound(made)[0]["note"]
    assert compare.bound(outcomes(AHEAD)) == []
