"""R5, R6 and R8 against simulations and numerical integration."""

import numpy as np
import pytest
from scipy import integrate, special

from core import closed_form
from theory.law import flow, theorem


def arm(n_facts: int, seed: int):
    """Return values and answers of a small world: salient answers, a skewed relation, a template that wants filler."""
    rng = np.random.default_rng(seed)
    values, answer = 0.3 * rng.normal(size=(n_facts, 3, 12)), np.minimum(rng.geometric(0.3, n_facts) - 1, 7)
    values[np.arange(n_facts), 0, answer] += rng.exponential(3, n_facts)
    values[:, 1, :8] += np.linspace(3, 0, 8)
    values[:, 2] = np.where(np.arange(12) < 8, 0.0, 8.0)
    return values, answer


def test_flow_follows_small_steps_of_gradient_descent():
    values, answer = arm(40, seed=0)
    logits, step, path = np.array([0.2, -0.1, 0.0]), 0.01, []
    for _ in range(3001):
        path.append(logits)
        attention = np.broadcast_to(special.softmax(logits), (40, 3))
        mean = theorem.force(attention, values, theorem.probability(attention, values), answer).mean(axis=0)
        logits = logits + step * mean
    found = flow.reduced_flow(values, answer, step * np.arange(3001), start=(0.2, -0.1, 0.0))
    path = np.array(path)
    share = special.expit(path[:, 0] - path[:, 1])
    assert np.abs(found.share - share).max() <= 0.01 * np.ptp(share)
    assert np.abs(found.attention - special.softmax(path, axis=1)).max() < 0.01
    np.testing.assert_allclose(found.logits.sum(axis=1), 0.1, atol=1e-9)


def test_flow_takes_the_world_beyond_one_block_and_float32_values(monkeypatch):
    values, answer = arm(50, seed=1)
    times = np.array([0.0, 5.0])
    whole = flow.reduced_flow(values.astype(np.float32), answer, times)
    monkeypatch.setattr(flow, "_NUMBERS_AT_ONCE", 7 * 12)
    blocks = flow.reduced_flow(values.astype(np.float32), answer, times)
    np.testing.assert_allclose(blocks.logits, whole.logits, rtol=1e-6)
    np.testing.assert_array_equal(blocks.logits[0], 0)


def test_rates_follow_the_held_out_prompts_of_a_world_with_its_own_rho():
    n_subjects, n_relations, rho, step = 200, 4, 0.5, 0.05
    values, answer = arm(n_subjects * n_relations, seed=2)
    subject, relation = np.divmod(np.arange(n_subjects * n_relations), n_relations)
    common, of_subject, of_relation = np.zeros(3), np.zeros(n_subjects), np.zeros(n_relations)
    for _ in range(400):  # the factored model's full-batch step
        logits = np.tile(common, (len(answer), 1))
        logits[:, 0] += of_subject[subject]
        logits[:, 1] += of_relation[relation]
        attention = special.softmax(logits, axis=1)
        forces = theorem.force(attention, values, theorem.probability(attention, values), answer)
        common += step * np.array([rho, rho, 1]) * forces.mean(axis=0)
        of_subject += step * (1 - rho) * np.bincount(subject, weights=forces[:, 0]) / len(answer)
        of_relation += step * (1 - rho) * np.bincount(relation, weights=forces[:, 1]) / len(answer)
    measured = special.expit(common[0] - common[1] - of_relation).mean()
    rates = (rho, rho + (1 - rho) / n_relations, 1.0)
    found = flow.reduced_flow(values, answer, np.array([400 * step]), rates=rates)
    assert found.share[-1] == pytest.approx(measured, abs=0.005)
    assert np.sum(found.logits[-1] / rates) == pytest.approx(0, abs=1e-8)
    assert abs(flow.reduced_flow(values, answer, np.array([400 * step])).share[-1] - measured) > 0.01


@pytest.mark.parametrize("times", [[], [-1.0, 1.0], [0.0, 2.0, 1.0]])
def test_flow_refuses_times_that_are_none_negative_or_unordered(times):
    with pytest.raises(ValueError, match="times"):
        flow.reduced_flow(*arm(3, seed=3), np.array(times))


def test_mean_force_is_half_the_speed_of_the_shares_log_odds_without_a_template():
    values, answer = arm(60, seed=4)
    shares = np.array([0.2, 0.5, 0.8])
    found = flow.mean_force(values, answer, shares)
    for share, force in zip(shares, found, strict=True):
        log_odds = special.logit(share)
        start = (log_odds / 2, -log_odds / 2, -50.0)
        path = flow.reduced_flow(values, answer, np.array([0.0, 1e-4]), start=start)
        assert special.logit(path.share[1]) - log_odds == pytest.approx(2 * force * 1e-4, rel=1e-3)


def test_an_arm_whose_mean_force_is_never_less_stays_ahead():
    values, answer = arm(60, seed=5)
    stronger = values.copy()
    stronger[np.arange(60), 0, answer] += 0.5
    shares, start = np.linspace(0.02, 0.98, 49), (0.0, 0.0, -50.0)
    assert np.all(flow.mean_force(stronger, answer, shares) >= flow.mean_force(values, answer, shares))
    times = np.linspace(0, 50, 101)
    ahead, behind = (flow.reduced_flow(v, answer, times, start=start).share for v in (stronger, values))
    assert np.all(ahead[1:] > behind[1:])


@pytest.mark.parametrize(("attention", "competitors"), [(0.5, 7.0), (0.5, 130.0), (0.3, 0.05), (1.0, 1e6)])
def test_salience_growth_solves_its_differential_equation(attention, competitors):
    exposure = np.array([0.0, 0.01, 0.3, 2.0, 20.0, 300.0])

    def speed(_, salience):
        return competitors / (np.exp(attention * salience) + competitors)

    solved = integrate.solve_ivp(speed, (0, 300), [0.0], method="LSODA", t_eval=exposure, rtol=1e-11, atol=1e-12)
    found = flow.salience_growth(exposure, attention, competitors)
    np.testing.assert_allclose(found, solved.y[0], rtol=1e-7, atol=1e-9)


def test_salience_grows_linearly_at_first_and_logarithmically_in_the_end():
    early = flow.salience_growth(np.array([1e-3, 2e-3]), 0.5, 1000.0)
    late = flow.salience_growth(np.array([1e7, 2e7]), 0.5, 1000.0)
    assert early[1] / early[0] == pytest.approx(2, rel=1e-3)
    assert late[1] - late[0] == pytest.approx(np.log(2) / 0.5, rel=1e-3)


@pytest.mark.parametrize("competitors", [0.2, 7.0, 5000.0])
def test_fit_competitors_finds_the_mass_that_made_the_saliences(competitors):
    rng = np.random.default_rng(6)
    exposure = 1000 * np.arange(1, 1001.0) ** -1
    salience = flow.salience_growth(exposure, 0.5, competitors)
    assert flow.fit_competitors(exposure, salience, 0.5) == pytest.approx(competitors, rel=1e-5)
    noisy = salience + 0.1 * rng.normal(size=1000)
    found = flow.fit_competitors(exposure, noisy, 0.5)
    assert found == pytest.approx(competitors, rel=0.02)
    assert closed_form.r_squared(flow.salience_growth(exposure, 0.5, found), noisy) > 0.95


def test_reversal_boundary_interpolates_the_crossing_in_doublings():
    steps = np.array([500, 1000, 2000, 4000, 8000])
    assert flow.reversal_boundary(steps, np.array([0.1, 0.2, 0.2, 0.1, -0.1])) == pytest.approx(4000 * np.sqrt(2))
    assert flow.reversal_boundary(steps, np.array([0.1, 0.1, 0.3, -0.1, -0.1])) == pytest.approx(2000 * 2**0.75)


def test_reversal_boundary_is_the_last_crossing_downward_and_nan_without_one():
    steps = np.array([1.0, 2.0, 4.0, 8.0])
    assert flow.reversal_boundary(steps, np.array([0.1, -0.1, 0.1, -0.1])) == pytest.approx(4 * np.sqrt(2))
    assert np.isnan(flow.reversal_boundary(steps, np.array([-0.2, -0.1, 0.1, 0.2])))
    assert np.isnan(flow.reversal_boundary(steps, np.full(4, 0.1)))
    with pytest.raises(ValueError, match="increasing"):
        flow.reversal_boundary(steps[::-1], np.full(4, 0.1))


def test_boundary_distance_is_the_median_of_doublings_over_columns_that_have_both():
    predicted, measured = np.array([1000.0, 4000.0, np.nan, 800.0]), np.array([2000.0, 1000.0, 10.0, 800.0])
    assert flow.boundary_distance(predicted, measured) == pytest.approx(1)
    assert np.isnan(flow.boundary_distance(np.array([np.nan]), np.array([1.0])))


def test_the_held_out_flow_of_one_relation_is_the_reduced_flow_at_its_rates():
    values, answer = arm(30, seed=5)
    times = np.linspace(0.0, 20.0, 6)
    path = flow.held_out_flow(values, answer, np.zeros(30, int), times, rho=0.3)
    reduced = flow.reduced_flow(values, answer, times, rates=(0.3, 1.0, 1.0))
    np.testing.assert_allclose(path.share, reduced.share, atol=1e-4)
    np.testing.assert_allclose(path.attention, reduced.attention, atol=1e-4)


def test_the_held_out_flow_follows_small_full_batch_steps_with_relations_apart():
    values, answer = arm(40, seed=6)
    relation, rho, step, n_steps = np.repeat([3, 8], [30, 10]), 0.4, 0.01, 1000
    subject, by_relation, template = 0.0, np.zeros(2), 0.0
    of = (relation == 8).astype(int)
    for _ in range(n_steps):
        logits = np.stack([np.full(40, subject), by_relation[of], np.full(40, template)], axis=1)
        attention = special.softmax(logits, axis=1)
        force = theorem.force(attention, values, theorem.probability(attention, values), answer).sum(axis=0) / 40
        own = theorem.force(attention, values, theorem.probability(attention, values), answer)[:, 1]
        subject += step * rho * force[0]
        template += step * force[2]
        by_relation = by_relation + step * (rho * force[1] + (1 - rho) * np.bincount(of, own) / 40)
    path = flow.held_out_flow(values, answer, relation, np.array([0.0, step * n_steps]), rho=rho)
    np.testing.assert_allclose(path.logits[-1, :, 1], by_relation, atol=5e-3)
    np.testing.assert_allclose(path.logits[-1, :, 0], subject, atol=5e-3)
    np.testing.assert_allclose(path.weight, [0.75, 0.25])


def test_the_held_out_flow_with_own_logits_follows_small_full_batch_steps_that_move_them():
    values, answer = arm(12, seed=7)
    relation, owner, rho, step, n_steps = np.repeat([3, 8], [8, 4]), np.arange(12) // 2, 0.4, 0.01, 2000
    of = (relation == 8).astype(int)
    state, by_relation, own = np.zeros(2), np.zeros(2), np.zeros(6)
    for _ in range(n_steps):
        logits = np.stack([state[0] + own[owner], by_relation[of], np.full(12, state[1])], axis=1)
        attention = special.softmax(logits, axis=1)
        force = theorem.force(attention, values, theorem.probability(attention, values), answer) / 12
        state += step * np.array([rho * force[:, 0].sum(), force[:, 2].sum()])
        by_relation += step * (rho * force[:, 1].sum() + (1 - rho) * np.bincount(of, force[:, 1]))
        own += step * (1 - rho) * np.bincount(owner, force[:, 0])
    times = np.array([0.0, step * n_steps])
    without = flow.held_out_flow(values, answer, relation, times, rho=rho).logits[-1]
    path = flow.held_out_flow(values, answer, relation, times, rho=rho, subject=owner + 100).logits[-1]
    expected = np.stack([np.full(2, state[0]), by_relation, np.full(2, state[1])], axis=1)
    assert np.abs(without - expected).max() > 0.1
    np.testing.assert_allclose(path, expected, atol=0.01)


def test_threads_change_no_bit_of_the_held_out_flow(monkeypatch):
    values, answer = arm(90, seed=4)
    relation, times = np.arange(90) % 5, np.linspace(0, 8, 4)
    alone, own = [
        flow.held_out_flow(values, answer, relation, times, rho=0.4, subject=subject) for subject in (None, relation)
    ]
    monkeypatch.setattr(flow, "_NUMBERS_FOR_THREADS", 0)
    for subject, before in ((None, alone), (relation, own)):
        threaded = flow.held_out_flow(values, answer, relation, times, rho=0.4, subject=subject)
        np.testing.assert_array_equal(threaded.logits, before.logits)


@pytest.mark.parametrize(("decimals", "scale"), [(0, 1), (15, 1), (15, 1000)])
def test_the_force_is_the_mean_over_facts_also_where_outputs_are_of_equal_or_large_values(decimals, scale):
    values, answer = arm(30, seed=8)
    values[::2, 1:] = values[:1, 1:]
    values = scale * values.round(decimals)
    n_classes = flow._gaps(values, answer)[0].n_classes
    assert n_classes.max() < 12 if decimals == 0 else n_classes.min() == 12
    for share in (0.2, 0.7):
        attention = np.array([share, 1 - share, 0.0])
        p = special.softmax(np.einsum("i,fio->fo", attention, values), axis=1)
        advantage = values[np.arange(30), :, answer] - np.einsum("fio,fo->fi", values, p)
        expected = attention[0] * (advantage[:, 0] - advantage @ attention)
        assert flow.mean_force(values, answer, np.array([share]))[0] == pytest.approx(expected.mean(), rel=1e-12)


def test_outputs_are_one_class_only_where_all_tokens_values_are_equal():
    values, answer = np.zeros((2, 3, 4)), np.array([0, 3])
    values[0, 2] = [1, 1, 2, 2]
    values[1, 0], values[1, 1] = [5, 4, 5, 4], [0, 0, 0, 1]
    found = flow._gaps(values, answer)[0]
    np.testing.assert_array_equal(found.n_classes, [2, 3])
    assert sorted(found.n_outputs[:2]) == [2, 2] and sorted(found.n_outputs[2:]) == [1, 1, 2]
    of_first, of_second = np.split(found.values.T, [2])
    np.testing.assert_array_equal(of_first[:, 2], [0, 1])
    np.testing.assert_array_equal(sorted(of_second.tolist()), [[0, -1, 0], [0, 0, 0], [1, -1, 0]])
