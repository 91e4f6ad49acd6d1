"""What is measured of a deep run, recomputed from its tables and its own networks."""

import numpy as np
import pytest

from core import columns, split, statistics
from theory import evaluate, facts
from theory.deep import measure, pipeline
from theory.deep.config import sizes, write_prompts
from theory.deep.network import initial, read
from theory.engine.loop import Trace


@pytest.fixture(scope="module")
def simulated(tiny):
    """Return a run of networks that nobody trained: each arm's is a fresh one."""
    store = facts.build(tiny.facts, seed=3)
    halves = split.select(
        store.subject, store.relation, store.popularity, tiny.split, is_background=store.is_background, seed=3
    )
    arms = ["base", *split.ARMS]
    parameters = {arm: initial(tiny, sizes(tiny, store), seed=at) for at, arm in enumerate(arms)}
    looked = pipeline.Measured(*np.linspace(0, 1, 12).reshape(3, 4))
    traces = {arm: Trace(np.arange(4), np.arange(4.0), looked, np.array(-1)) for arm in arms}
    traces["base"] = traces["base"]._replace(measured=np.linspace(0, 1, 4))
    return pipeline.DeepRun(tiny, 3, store, halves, write_prompts(tiny, store, seed=3), parameters, traces)


@pytest.fixture(scope="module")
def measured(simulated):
    return measure.run(simulated)


def by_arm(parts, schema) -> dict[str, dict[str, np.ndarray]]:
    tables = [columns.table(part, schema).to_pydict() for part in parts]
    return {one["arm"][0]: {name: np.array(column) for name, column in one.items()} for one in tables}


@pytest.mark.parametrize("arm", ["base", *split.ARMS])
def test_the_table_of_facts_says_what_the_network_says(tiny, simulated, measured, arm):
    found = by_arm(measured[1], columns.FACTS)[arm]
    store = simulated.store
    output = read(tiny, sizes(tiny, store), simulated.parameters[arm], simulated.prompts[:120])
    logits = np.asarray(output.logits, float)[:, -1]
    answer = store.answer[:120]
    names = np.array([f"a{i}" for i in range(10)] + [f"filler{i}" for i in range(4)])
    np.testing.assert_array_equal(found["fact"], range(120))
    np.testing.assert_array_equal(found["predicted"], names[logits.argmax(axis=1)])
    np.testing.assert_array_equal(found["correct"], logits.argmax(axis=1) == answer)
    expected = logits[np.arange(120), answer] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(found["answer_logprob"], expected, rtol=1e-5)
    attention = np.asarray(output.attention, float).mean(axis=(0, 2))[:, -1]
    for name, expected in {
        "subject_attention": attention[:, 0] + attention[:, 1],
        "relation_attention": attention[:, 2],
        "template_attention": attention[:, 3],
    }.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    assert found["salience"].tolist() == [None] * 120


def test_base_correct_is_the_bases_answer_in_the_pretraining_format(tiny, simulated, measured):
    prompts = simulated.prompts[:120, :-1]
    output = read(tiny, sizes(tiny, simulated.store), simulated.parameters["base"], prompts)
    expected = np.asarray(output.logits)[:, -1].argmax(axis=1) == simulated.store.answer[:120]
    for found in by_arm(measured[1], columns.FACTS).values():
        np.testing.assert_array_equal(found["base_correct"], expected)
    assert 0 < expected.sum() < 120


@pytest.mark.parametrize("arm", ["base", *split.ARMS])
def test_metrics_are_means_over_the_held_out_facts_of_the_table(measured, arm):
    found, metrics = by_arm(measured[1], columns.FACTS)[arm], measured[0][arm]
    chosen = found["role"] == "held_out"
    known = chosen & found["base_correct"].astype(bool)
    assert metrics["n"] == chosen.sum() == 60
    assert metrics["accuracy"] == pytest.approx(found["correct"][chosen].mean())
    assert metrics["retention"] == pytest.approx(found["correct"][known].mean())
    assert metrics["generic_rate"] == pytest.approx(found["is_generic"][chosen].mean())
    assert metrics["loss"] == pytest.approx(-found["answer_logprob"][chosen].mean(), rel=1e-5)
    assert metrics["subject_attention"] == pytest.approx(found["subject_attention"][chosen].mean())


@pytest.mark.parametrize("arm", ["base", *split.ARMS])
def test_attention_by_layer_and_head_averages_to_the_metric_and_sums_to_one(measured, arm):
    looked = by_arm(measured[3], columns.ATTENTION)[arm]

    def mean(position: str, span: str) -> np.ndarray:
        chosen = (looked["position"] == position) & (looked["span"] == span)
        np.testing.assert_array_equal(looked["layer"][chosen], [0, 0, 1, 1])
        np.testing.assert_array_equal(looked["head"][chosen], [0, 1, 0, 1])
        return looked["mean"][chosen]

    assert mean("prompt_end", "subject").mean() == pytest.approx(measured[0][arm]["subject_attention"])
    assert mean("prompt_end", "relation").mean() == pytest.approx(measured[0][arm]["relation_attention"])
    whole = mean("prompt_end", "subject") + mean("prompt_end", "relation") + mean("prompt_end", "template")
    np.testing.assert_allclose(whole, 1, rtol=1e-5)
    np.testing.assert_allclose(mean("relation", "subject") + mean("relation", "relation"), 1, rtol=1e-5)
    assert not ((looked["position"] == "relation") & (looked["span"] == "template")).any()
    for position in ("prompt_end", "relation"):
        assert (mean(position, "subject_last") < mean(position, "subject")).all()
    assert (looked["n"] == 60).all()


def test_intervals_of_attention_agree_with_the_bootstrap_over_subjects(simulated):
    rng = np.random.default_rng(0)
    looked, subject = rng.random((90, 1, 1, 2, 4)), np.repeat(np.arange(30), 3)
    looked += rng.normal(size=30)[subject, None, None, None, None]
    found = measure.attention_columns(looked, subject)
    one = statistics.clustered_interval(looked[:, 0, 0, 0, 1], subject, seed=0)
    at = int(np.flatnonzero((found["position"] == "prompt_end") & (found["span"] == "subject_last"))[0])
    assert found["mean"][at] == pytest.approx(one.mean)
    assert found["low"][at] == pytest.approx(one.low, abs=0.15 * (one.high - one.low))
    assert found["high"][at] == pytest.approx(one.high, abs=0.15 * (one.high - one.low))


def test_the_trace_holds_every_recorded_step(simulated, measured):
    traces = by_arm(measured[2], columns.TRACE)
    assert list(traces) == ["base", *split.ARMS]
    np.testing.assert_array_equal(traces["base"]["accuracy"], np.linspace(0, 1, 4))
    assert traces["base"]["subject_attention"].tolist() == [None] * 4
    for arm in split.ARMS:
        np.testing.assert_array_equal(traces[arm]["step"], range(4))
        for name, expected in simulated.traces[arm].measured._asdict().items():
            np.testing.assert_array_equal(traces[arm][name], expected)


def test_facts_are_measured_in_parts_that_change_nothing(simulated, monkeypatch):
    rows = np.arange(20)
    whole = measure.answer(simulated, "top", rows)
    monkeypatch.setattr(evaluate, "ELEMENTS", 7 * 2 * 4 * 32)
    parts = measure.answer(simulated, "top", rows)
    np.testing.assert_allclose(parts.attention, whole.attention, rtol=1e-5)
    np.testing.assert_allclose(parts.answered.answer_logprob, whole.answered.answer_logprob, rtol=1e-5)
    assert whole.attention.shape == (20, 2, 2, 2, 4)
