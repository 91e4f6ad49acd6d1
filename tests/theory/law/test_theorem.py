"""R1–R4 and R7 against independent computations."""

import numpy as np
import pytest
from scipy import integrate, optimize, special

from core.closed_form import recalled
from theory.law import theorem


def draw(n_facts: int, n_outputs: int, seed: int, scale: float = 3.0):
    """Return random attention, values and answers; attention at least 0.02 on every token."""
    rng = np.random.default_rng(seed)
    attention = 0.02 + 0.94 * rng.dirichlet(np.ones(3), n_facts)
    return attention, scale * rng.normal(size=(n_facts, 3, n_outputs)), rng.integers(0, n_outputs, n_facts)


def own_force(attention, values, answer):
    return theorem.force(attention, values, theorem.probability(attention, values), answer)


def with_salience(values, answer, salience):
    changed = values.copy()
    changed[np.arange(len(answer)), 0, answer] = salience
    return changed


def test_every_result_has_a_statement_of_one_line():
    assert list(theorem.STATEMENTS) == sorted([*(f"R{i}" for i in range(1, 10)), "R4+R5"])
    assert all(text.endswith(".") and "\n" not in text for text in theorem.STATEMENTS.values())


def test_probability_is_the_softmax_of_the_attended_values():
    attention, values, _ = draw(5, 7, seed=0)
    expected = [special.softmax(sum(a[i] * v[i] for i in range(3))) for a, v in zip(attention, values, strict=True)]
    np.testing.assert_allclose(theorem.probability(attention, values), expected, rtol=1e-13)


def test_force_equals_the_complex_step_derivative_of_the_loss():
    attention, values, answer = draw(200, 9, seed=1)
    step = 1e-30
    expected = np.empty_like(attention)
    for token in range(3):
        logits = np.log(attention).astype(complex)
        logits[:, token] += 1j * step
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        output = np.einsum("ft,fto->fo", weights, values)
        loss = np.log(np.exp(output).sum(axis=1)) - output[np.arange(len(answer)), answer]
        expected[:, token] = -loss.imag / step
    found = own_force(attention, values, answer)
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-13)


def test_share_force_is_the_difference_of_the_forces_on_subject_and_relation():
    attention, values, answer = draw(5000, 8, seed=2)
    forces = own_force(attention, values, answer)
    np.testing.assert_allclose(
        theorem.share_force(attention, values, answer), forces[:, 0] - forces[:, 1], rtol=1e-9, atol=1e-12
    )


def test_share_force_stays_accurate_where_the_answer_is_certain_within_rounding():
    attention, values, answer = draw(50, 8, seed=3)
    certain = with_salience(values, answer, np.full(50, 60 / attention[:, 0]))
    found = theorem.share_force(attention, certain, answer)
    assert np.all(found > 0) and found.max() < 1e-15


def test_salience_threshold_is_the_root_a_bracketing_search_finds():
    attention, values, answer = draw(300, 8, seed=4)
    found = theorem.salience_threshold(attention, values, answer)
    for i in range(len(answer)):
        one = slice(i, i + 1)

        def difference(salience, one=one):
            forces = own_force(attention[one], with_salience(values[one], answer[one], salience), answer[one])
            return float(forces[0, 0] - forces[0, 1])

        # Below the threshold the force grows without bound; above, rounding hides it once the fact is certain.
        root = optimize.brentq(difference, found[i] - 50, found[i] + 2, xtol=1e-13)
        assert root == pytest.approx(found[i], abs=1e-8)


def test_share_force_has_one_zero_one_peak_and_a_decay_in_20000_draws():
    attention, values, answer = draw(20_000, 6, seed=5)
    threshold = theorem.salience_threshold(attention, values, answer)
    peak = theorem.salience_peak(attention, values, answer)
    assert np.all(peak > threshold)
    span = 1 / attention[:, 0]
    points = [threshold + span * x for x in (-20, -10, -5, -1, -1e-3)]
    points += [threshold + (peak - threshold) * x for x in (1e-3, 0.2, 0.4, 0.6, 0.8, 0.999)]
    points += [peak + span * x for x in (1e-2, 0.5, 1, 2, 4, 8, 12)]
    swept = []
    for salience in points:  # from the forces, not from the closed form
        forces = own_force(attention, with_salience(values, answer, salience), answer)
        swept.append(forces[:, 0] - forces[:, 1])
    swept = np.stack(swept, axis=1)
    assert np.all(swept[:, :5] < 0) and np.all(swept[:, 5:] > 0)
    assert np.all(np.diff(swept[:, :11], axis=1) > 0) and np.all(np.diff(swept[:, 11:], axis=1) < 0)
    assert np.all(swept[:, -1] < 0.01 * swept[:, 10])
    closed = theorem.share_force_at(np.stack(points, axis=1), attention, values, answer)
    np.testing.assert_allclose(closed, swept, rtol=1e-6, atol=1e-10)


def test_a_facts_own_small_step_raises_its_share_exactly_where_its_salience_exceeds_the_threshold():
    attention, values, answer = draw(2000, 8, seed=6)
    before = np.log(attention[:, 0] / attention[:, 1])
    stepped = special.softmax(np.log(attention) + 1e-6 * own_force(attention, values, answer), axis=1)
    rose = np.log(stepped[:, 0] / stepped[:, 1]) > before
    salience = values[np.arange(len(answer)), 0, answer]
    np.testing.assert_array_equal(rose, salience > theorem.salience_threshold(attention, values, answer))
    assert 0.1 < rose.mean() < 0.9


def dense_attention(matrix, subject, relation, embeddings):
    subjects, relations, template = embeddings
    keys = np.stack(
        [subjects[subject], relations[relation], np.broadcast_to(template, (len(subject), template.size))], 1
    )
    return special.softmax(keys @ matrix @ template, axis=1), keys


def test_transfer_is_off_by_the_square_of_the_rate_from_a_dense_step():
    rng = np.random.default_rng(7)
    n_subjects, n_relations, rho = 12, 4, 0.3
    basis = np.linalg.qr(rng.normal(size=(n_subjects + n_relations + 3,) * 2))[0]
    subjects = np.sqrt(rho) * basis[0] + np.sqrt(1 - rho) * basis[3 : 3 + n_subjects]
    relations = np.sqrt(rho) * basis[1] + np.sqrt(1 - rho) * basis[3 + n_subjects :]
    embeddings = (subjects, relations, basis[2])
    matrix = 0.5 * rng.normal(size=basis.shape)
    train_subject, held_subject = np.repeat([0, 1, 2, 3, 4], 3), np.repeat(np.arange(5, n_subjects), n_relations)
    relation = rng.integers(0, n_relations - 1, train_subject.size)  # the last relation is only asked about
    held_relation = np.tile(np.arange(n_relations), n_subjects - 5)
    values, answer = 3 * rng.normal(size=(train_subject.size, 3, 6)), rng.integers(0, 6, train_subject.size)
    attention, keys = dense_attention(matrix, train_subject, relation, embeddings)
    forces = own_force(attention, values, answer)
    gradient = np.outer(np.einsum("ft,ftd->d", forces, keys) / len(answer), basis[2])
    before, _ = dense_attention(matrix, held_subject, held_relation, embeddings)
    errors = []
    for rate in (1e-1, 1e-2, 1e-3):
        after, _ = dense_attention(matrix + rate * gradient, held_subject, held_relation, embeddings)
        predicted = theorem.transfer(forces, relation, before, held_relation, rho=rho, rate=rate)
        errors.append(np.abs(after - before - predicted).max())
        assert errors[-1] < 0.5 * np.abs(after - before).max()
    assert errors[0] / errors[1] >= 50 and errors[1] / errors[2] >= 50


def argmax_recall(values, template, answer, share):
    """Return which facts' answer strictly exceeds every other output at this share."""
    attention = np.stack([(1 - template) * share, (1 - template) * (1 - share), template], axis=1)
    logits = np.einsum("ft,fto->fo", attention, values)
    own = logits[np.arange(len(answer)), answer]
    logits[np.arange(len(answer)), answer] = -np.inf
    return own > logits.max(axis=1)


def test_critical_attention_agrees_with_argmax_at_every_share():
    rng = np.random.default_rng(8)
    _, values, answer = draw(700, 5, seed=8)
    values[np.arange(700), 0, answer] += rng.exponential(5, 700)
    template = rng.uniform(0, 0.9, 700)
    lower, upper = theorem.critical_attention(values, template, answer)
    kinds = np.array(
        [np.mean(lower >= upper), np.mean((lower > 0) & (upper < 1)), np.mean((lower == 0) & (upper == 1))]
    )
    assert np.all(kinds > 0.01), "the draw should hold empty, two-sided and full intervals"
    assert np.all((lower >= 0) & (upper <= 1))
    for share in np.linspace(0, 1, 402)[1:-1]:
        expected = argmax_recall(values, template, answer, share)
        np.testing.assert_array_equal(recalled(np.full(700, share), lower, upper), expected)


def test_critical_attention_is_exact_where_margins_are_constant_or_tied():
    half, small_integers = np.array([0.5]), np.random.default_rng(9).integers(-1, 2, (3000, 3, 3)).astype(float)
    tied = np.zeros((1, 3, 2))  # two outputs alike for every token
    assert not recalled(half, *theorem.critical_attention(tied, half, np.array([0])))[0]
    constant = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])  # the margin is 0.5 at every share
    assert theorem.critical_attention(constant, half, np.array([0])) == (np.array([0.0]), np.array([1.0]))
    mirrored = np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])  # a tie at one half exactly
    assert theorem.critical_attention(mirrored, half, np.array([0])) == (np.array([0.5]), np.array([1.0]))
    template, answer = np.full(3000, 0.5), np.zeros(3000, dtype=int)
    lower, upper = theorem.critical_attention(small_integers, template, answer)
    for share in np.arange(1, 64) / 64:  # all sums are exact in binary, ties included
        expected = argmax_recall(small_integers, template, answer, share)
        np.testing.assert_array_equal(recalled(np.full(3000, share), lower, upper), expected)


def test_critical_attention_does_not_depend_on_how_facts_are_grouped_or_stored():
    _, values, answer = draw(600, 5, seed=10)
    values, template = values.astype(np.float32), np.linspace(0, 0.9, 600)
    together = theorem.critical_attention(values, template, answer)
    for i in (0, 255, 256, 599):
        one = slice(i, i + 1)
        alone = theorem.critical_attention(values[one].astype(float), template[one], answer[one])
        assert (alone[0][0], alone[1][0]) == (together[0][i], together[1][i])


def test_gap_by_fact_is_the_difference_of_what_two_arms_answer():
    rng = np.random.default_rng(11)
    recalled, arms = [], []
    for seed in (12, 13):  # each arm has its own values, template attention and shares
        _, values, _ = draw(2000, 4, seed)
        answer, template, share = np.zeros(2000, dtype=int), rng.uniform(0, 0.5, 2000), rng.uniform(0.01, 0.99, 2000)
        recalled.append(argmax_recall(values, template, answer, share))
        arms += [share, theorem.critical_attention(values, template, answer)]
    found = theorem.gap_by_fact(*arms)
    np.testing.assert_array_equal(found, recalled[0].astype(int) - recalled[1])
    assert found.mean() == pytest.approx(recalled[0].mean() - recalled[1].mean(), abs=1e-15)
    assert set(found) == {-1, 0, 1}


@pytest.mark.parametrize("flipped", [False, True])
def test_net_crossing_is_the_accuracy_gap_at_equal_template_attention_and_frozen_values(flipped):
    rng = np.random.default_rng(14)
    _, values, answer = draw(2000, 4, seed=14)
    template, low, high = rng.uniform(0, 0.5, 2000), rng.uniform(0.1, 0.5, 2000), rng.uniform(0.4, 0.9, 2000)
    share_a, share_b = (low, high) if flipped else (high, low)
    lower, upper = theorem.critical_attention(values, template, answer)
    gap = np.mean(theorem.gap_by_fact(share_a, (lower, upper), share_b, (lower, upper)))
    assert theorem.net_crossing(share_a, share_b, lower, upper) == pytest.approx(gap, abs=1e-15)
    by_hand = np.array([0.3, 0.7, 0.5, 1.0]), np.array([1.0, 0.9, 0.6, 0.0])  # passed, not reached, both passed, empty
    assert theorem.net_crossing(np.full(4, 0.65), np.full(4, 0.2), *by_hand) == 0.25


@pytest.mark.parametrize("frequency", [[0.6, 0.3, 0.1], [0.2, 0.8], list(np.arange(1, 31) ** -1.0)])
def test_unfitted_salience_is_where_the_value_of_a_subject_goes(frequency):
    frequency = np.array(frequency) / np.sum(frequency)
    exposure, alpha = np.array([0.0, 0.3, 2.0, 10.0, 80.0, 800.0]), 0.5
    for answer in (0, len(frequency) - 1):

        def velocity(_, value, answer=answer):
            p = special.softmax(alpha * value + np.log(frequency))
            return (np.arange(len(frequency)) == answer) - p

        path = integrate.solve_ivp(velocity, (0, 800), 0 * frequency, "LSODA", exposure, rtol=1e-9, atol=1e-9)
        found = theorem.unfitted_salience(exposure, np.full(6, answer), frequency, alpha)
        np.testing.assert_allclose(found, path.y[answer], atol=2e-3)


def test_unfitted_salience_of_many_rare_competitors_is_that_of_a_fixed_mass():
    from theory.law import flow

    frequency = np.append(0.2, np.full(4000, 0.8 / 4000))
    exposure = np.array([1.0, 5.0, 20.0])
    found = theorem.unfitted_salience(exposure, np.zeros(3, int), frequency, 0.5)
    np.testing.assert_allclose(found, flow.salience_growth(exposure, 0.5, 1 / 0.2 - 1), atol=5e-3)
