"""R5 over many worlds at once, against the reference flow of one arm at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import evaluate, inputs
from theory.engine.batched import stack
from theory.inputs import Prepared, Unit
from theory.law import flow, forecast, predict
from theory.model import factored
from theory.model.traced import Constants

RHO = np.array([0.5, 0.1, 0.9, 0.0], np.float32)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Allow few steps: several times as many are needed where the Jacobian is not exact, or the method explicit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "MAX_STEPS", 40)
        forecast._program.cache_clear()
        yield
    forecast._program.cache_clear()


@pytest.fixture(scope="module")
def worlds(simulations):
    """Return the arguments of `integrate` for four base models, and each world's arms.

    The third arm has 7 facts of relation 2, none of relation 1, and all of the others.
    """
    arms = []
    for one in simulations:
        whole, relation = one.split.arms["whole"], one.store.relation
        odd = np.sort(np.concatenate([whole[np.isin(relation[whole], [0, 3])], whole[relation[whole] == 2][:7]]))
        arms.append([one.split.arms["top"], one.split.arms["bottom"], odd])
    values = stack([base_values(one) for one in simulations])
    facts = stack([factored.Facts(one.store.subject, one.store.relation, one.store.answer) for one in simulations])
    sizes = np.array([[len(rows) for rows in of_world] for of_world in arms])
    rows = np.full((4, 3, sizes.max() + 3), 5, np.int32)
    for world, arm in np.ndindex(4, 3):
        rows[world, arm, : sizes[world, arm]] = arms[world][arm]
    return (values, facts, Constants(RHO, None, np.full(4, 20.0, np.float32)), rows, sizes), arms


def base_values(one):
    """Return the values of a simulation's base model."""
    base = one.weights["base"]
    nothing = np.zeros((2, len(base.template_value)), np.float32)
    return factored.Values(*map(jnp.asarray, (base.subject_values, base.relation_values, base.template_value, nothing)))


def alone(worlds, world):
    """Return the arguments for one world."""
    return [jax.tree.map(lambda leaf: leaf[world : world + 1], part) for part in worlds]


def reference(one, rows, rho, horizon):
    """Return share and attention that `held_out_flow` arrives at."""
    values = evaluate.token_values(one.weights["base"], one.store, rows)
    facts = one.store.answer[rows], one.store.relation[rows]
    path = flow.held_out_flow(values, *facts, np.array([0.0, horizon]), rho=rho, rtol=1e-8)
    return path.share[-1], path.attention[-1, 0]


def test_the_forecast_ends_where_the_reference_flow_does(worlds, simulations):
    """At every ρ and horizon, of arms of several sizes whose relations are unequal, or absent."""
    horizons = np.array([2000.0, 5.0, 1.0, 40.0])
    found = forecast.integrate(*worlds[0], horizon=horizons)
    for world, one in enumerate(simulations):
        for arm, rows in enumerate(worlds[1][world]):
            share, attention = reference(one, rows, float(RHO[world]), horizons[world])
            assert abs(found.subject_share[world, arm] - share) < 1e-3
            assert abs(found.subject_attention[world, arm] - attention) < 1e-3
    assert np.ptp(found.subject_share) > 0.1


def test_with_no_finetuning_attention_is_uniform(worlds):
    found = forecast.integrate(*worlds[0], horizon=np.zeros(4))
    np.testing.assert_allclose(found.subject_share, 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.subject_attention, 1 / 3, rtol=1e-6)


def test_worlds_together_are_each_as_if_alone(worlds):
    horizons = np.array([20.0, 2.0, 0.5, 60.0])
    together = forecast.integrate(*worlds[0], horizon=horizons)
    for world in (0, 3):
        single = forecast.integrate(*alone(worlds[0], world), horizon=horizons[world : world + 1])
        np.testing.assert_allclose(together.subject_share[world], single.subject_share[0], atol=1e-6)
        np.testing.assert_allclose(together.subject_attention[world], single.subject_attention[0], atol=1e-6)


def test_what_pads_an_arm_is_not_read(worlds):
    values, facts, constants, rows, sizes = worlds[0]
    other = np.where(np.arange(rows.shape[2]) < sizes[..., None], rows, 11).astype(np.int32)
    assert (other != rows).any()
    horizon = np.full(4, 20.0)
    found = forecast.integrate(*worlds[0], horizon=horizon)
    same = forecast.integrate(values, facts, constants, other, sizes, horizon=horizon)
    np.testing.assert_array_equal(found, same)


def test_common_values_count_as_every_subjects_and_relations_own(worlds):
    values, *rest = worlds[0]
    shared = np.random.default_rng(0).normal(size=values.shared.shape).astype(np.float32)
    apart = values._replace(
        subject=values.subject - shared[:, :1], relation=values.relation - shared[:, 1:], shared=shared
    )
    horizon = np.full(4, 20.0)
    found, same = (forecast.integrate(one, *rest, horizon=horizon) for one in (values, apart))
    np.testing.assert_allclose(found.subject_share, same.subject_share, atol=1e-5)


def test_units_are_forecast_at_their_own_rates_lengths_and_arms(simulations, small):
    """As `predict.arm_flow` does, one by one. A unit's base has one filler for all, and its arms differ in size."""
    n_filler = small.model.n_filler
    prepared = []
    for one, rho, rate, steps in zip(simulations, (0.5, 0.2, 0.8), (1.0, 0.3, 2.0), (200, 20, 7), strict=False):
        model = replace(small.model, shared_share=rho)
        config = replace(small, model=model, finetune=replace(small.finetune, learning_rate=rate, steps=steps))
        values = base_values(one)
        assert (values.subject[:, -n_filler:] == values.subject[:, -1:]).all()
        base = factored.Values(*(part[..., : 1 - n_filler] for part in values))
        of = inputs.world(config, one.store, one.cell.pretrain)
        unit = Unit(config, one.cell)
        prepared.append(Prepared(unit, one.store, of, base, one.traces["base"], one.knownness, one.split))
    arms = ("whole", "random")
    found = forecast.run(prepared, arms)
    for number, one in enumerate(prepared):
        rho, finetuning = one.unit.config.model.shared_share, one.unit.config.finetune
        times = np.array([0.0, finetuning.learning_rate * finetuning.steps])
        for arm, name in enumerate(arms):
            base, rows = simulations[number].weights["base"], one.split.arms[name]
            path = predict.arm_flow(base, one.store, rows, times, shared_share=rho)
            assert abs(found.subject_share[number, arm] - path.share[-1]) < 1e-3
            assert abs(found.subject_attention[number, arm] - path.attention[-1, 0]) < 1e-3


def test_many_facts_are_represented_by_evenly_spaced_ones(worlds, monkeypatch):
    values, facts, constants, rows, sizes = worlds[0]
    most = int(sizes.max()) - 3
    fewer = np.minimum(sizes, most)
    assert (fewer < sizes).any() and (fewer == sizes).any()
    chosen = np.zeros((4, 3, most), np.int32)
    for arm, size in np.ndenumerate(sizes):
        chosen[arm][: fewer[arm]] = rows[arm][np.linspace(0, size - 1, fewer[arm]).astype(int)]
    horizon = np.full(4, 20.0)
    monkeypatch.setattr(predict, "ELEMENTS", 3 * values.template.shape[1] * most)
    found = forecast.integrate(*worlds[0], horizon=horizon)
    same = forecast.integrate(values, facts, constants, chosen, fewer, horizon=horizon)
    np.testing.assert_array_equal(found, same)


def test_what_cannot_be_forecast_is_nan_and_spares_the_rest(worlds):
    """A base model that diverged, and an arm without facts."""
    values, facts, constants, rows, sizes = worlds[0]
    subject = values.subject.copy()
    subject[1] = np.nan
    sizes = sizes.copy()
    sizes[2, 2] = 0
    found = forecast.integrate(
        values._replace(subject=subject), facts, constants, rows, sizes, horizon=np.full(4, 20.0)
    )
    expected = np.zeros((4, 3), bool)
    expected[1], expected[2, 2] = True, True
    np.testing.assert_array_equal(np.isnan(found.subject_share), expected)
    np.testing.assert_array_equal(np.isnan(found.subject_attention), expected)


def test_a_flow_that_is_not_at_its_end_is_nan_and_warned_of(worlds):
    with pytest.warns(RuntimeWarning, match="3 of 12 flows were not at their end after 40 steps: nan"):
        found = forecast.integrate(*worlds[0], horizon=np.array([0.0, 0.01, np.inf, 0.0]))
    for mean in found:
        np.testing.assert_array_equal(np.isnan(mean), np.arange(4)[:, None] == [2, 2, 2])


def test_a_flow_whose_odds_overflow_is_nan_and_warned_of(worlds):
    """The template's filler is e^93 times as likely as an answer that is not stored."""
    values, *others = worlds[0]
    template = values.template.copy()
    template[2, -50:] = 280.0
    with pytest.warns(RuntimeWarning, match="R5: 3 of 12 flows overflow: nan"):
        found = forecast.integrate(values._replace(template=template), *others, horizon=np.full(4, 5.0))
    np.testing.assert_array_equal(np.isnan(found.subject_share), np.arange(4)[:, None] == [2, 2, 2])


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_a_horizon_before_the_start_is_refused(worlds, bad):
    with pytest.raises(ValueError, match="not negative"):
        forecast.integrate(*worlds[0], horizon=np.array([1.0, 1.0, bad, 1.0]))


@pytest.mark.parametrize(("sizes", "width"), [((0, 1), 1), ((7, 7), 7), ((993, 1024), 1024), ((1025, 1100), 1152)])
def test_arms_of_nearly_one_size_have_one_width(sizes, width):
    assert {forecast._width(size) for size in sizes} == {width}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"train": "everything", "steps": 7, "learning_rate": 0.1}, True),
        ({"train": "values"}, False),
        ({"prompt": "bare"}, False),
        ({"optimizer": "adam"}, False),
        ({"early_stopping": True}, False),
        ({"kl_weight": 0.5}, False),
        ({"attention_floor": 0.5}, False),
        ({"curriculum": "known_first"}, False),
        ({"replay": 0.1}, False),
    ],
)
def test_the_statement_is_of_plain_finetuning_alone(small, change, expected):
    assert forecast.applies(replace(small, finetune=replace(small.finetune, **change))) is expected
