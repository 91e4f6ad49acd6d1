"""Each claim's words and numbers, on made-up results in which they are known (see conftest.py)."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from core.errors import InputError
from paper_figs import (
    fig1_effect_by_arm,
    fig2_gap_by_popularity,
    fig3_attention_along_finetuning,
    fig4_salience_by_popularity,
    fig5_share_force,
    fig6_critical_attention,
    fig10_deep_toy,
    load,
)
from paper_figs.figures import FIGURES


def test_effect_names_the_gap_of_accuracy_and_attention(results):
    # Gaps of 4, 4 and 5 facts of 20: mean 21.67 points, half-width 4.303 · 2.887 / √3 = 7.17.
    results.add_worlds()
    results.add_worlds("stored", tops=(0.4, 0.4, 0.4))
    effect = fig1_effect_by_arm.measure(results.read())
    assert fig1_effect_by_arm.claim(effect) == (
        "Finetuning on lesser-known rather than well-known facts costs 21.7 ± 7.2 points of held-out accuracy "
        "and 0.217 ± 0.072 of subject attention"
    )
    assert {name: round(float(gap.mean), 6) for name, gap in effect.gaps.items()} == {"paper": 21.666667, "stored": -10}


@pytest.mark.parametrize(
    ("tops", "words"),
    [
        ((0.3, 0.3, 0.25), "adds 21.7 ± 7.2 points to held-out accuracy and 0.217 ± 0.072 to subject attention"),
        ((0.4, 0.6, 0.5), "does not clearly change held-out accuracy (0.0 ± 24.8 points) and subject attention (0.000"),
        ((0.7,), "changes held-out accuracy by −20.0 points in one world"),
    ],
)
def test_effect_is_worded_as_the_interval_allows(results, tops, words):
    results.add_worlds(tops=tops)
    assert words in fig1_effect_by_arm.claim(fig1_effect_by_arm.measure(results.read()))


def test_gap_lives_between_the_shares_of_the_arms(results):
    # Two held-out facts a decile: facts 10 to 13 lie between the shares, fact 14 in one world of three.
    results.add_worlds()
    gap = fig2_gap_by_popularity.measure(results.read())
    expected = [0, 0, 0, 0, 0, 100, 100, 50 / 3, 0, 0]
    for found in (gap.gap, gap.by_measured_share, gap.by_predicted_share):
        np.testing.assert_allclose(found.mean, expected)
    assert fig2_gap_by_popularity.claim(gap) == (
        "The accuracy gap is widest in the middle of the popularity range: 100.0 ± 0.0 points in decile 6, "
        "0.0 ± 0.0 among the best-known and 0.0 ± 0.0 among the least-known facts"
    )


def test_gap_predicted_by_r5_follows_its_shares_and_is_absent_without_them(results):
    results.add_worlds(predicted={"top": 0.8, "bottom": 0.7})
    predicted = fig2_gap_by_popularity.measure(results.read()).by_predicted_share.mean
    np.testing.assert_allclose(predicted, [0, 0, 0, 0, 0, 0, 0, 100, 0, 0])
    results.add("paper", 3, predicted={"top": np.nan})
    assert np.isnan(fig2_gap_by_popularity.measure(results.read()).by_predicted_share.mean).all()


def test_gap_at_an_end_or_nowhere_is_not_called_middling(results):
    results.add_worlds("paper", tops=(0.1, 0.1, 0.1), bottom=0.0)
    claim = fig2_gap_by_popularity.claim(fig2_gap_by_popularity.measure(results.read()))
    assert "widest toward the best-known facts: 100.0" in claim
    results.add("paper", 3, bottom=0.7)
    claim = fig2_gap_by_popularity.claim(fig2_gap_by_popularity.measure(results.read()))
    assert claim == "No decile of popularity shows a clear accuracy gap between top and bottom"


def _path_claim(results):
    return fig3_attention_along_finetuning.claim(
        {name: fig3_attention_along_finetuning.measure(found) for name, found in results.read().items()}
    )


def test_paths_say_how_the_halves_end_and_that_r5_foresaw_it(results):
    results.add_worlds()
    results.add_worlds("stored", tops=(0.4, 0.4, 0.4), steps=8000)
    assert _path_claim(results) == (
        "The base model alone predicts which half ends with more attention on the subject: "
        "top ends above bottom after 2,000, below it after 8,000 pretraining steps"
    )


def test_paths_say_where_r5_is_wrong_or_nothing_is_decided(results):
    results.add_worlds("paper", predicted={"top": 0.4})
    assert _path_claim(results).startswith("The base model alone does not predict")
    results.add("paper", 3, top=0.2, predicted={"top": 0.4})
    assert _path_claim(results) == (
        "In the subject's share of attention, top ends not clearly apart from bottom after 2,000 pretraining steps"
    )


def test_growth_reports_how_much_variance_exposure_explains(results):
    # A prediction that is off by c on every subject leaves c² of the variance (40² − 1) / 12 / 4 unexplained.
    results.add_worlds(changes={"base": {"predicted_salience": 20 - np.arange(40) / 2 - 1}})
    growth = fig4_salience_by_popularity.measure(results.read())
    expected = 100 * (1 - 1 / ((40**2 - 1) / 48))
    np.testing.assert_allclose(growth.r_squared.mean, expected)
    assert f"alone explains {expected:.1f} ± 0.0 % of the variance" in fig4_salience_by_popularity.claim(growth)
    np.testing.assert_allclose(growth.salience.mean - growth.predicted.mean, 1)
    np.testing.assert_allclose(growth.salience.mean, 20 - (growth.rank - 1) / 2)


def test_forces_count_exceptions_from_the_threshold(results):
    results.add_worlds()
    forces = fig5_share_force.measure(results.read())
    # Salience 10 = threshold is a held-out fact; the top half's training facts lie above, the bottom half's below.
    assert float(forces.before["top"].above.mean) == 1 and float(forces.before["bottom"].above.mean) == 0
    assert fig5_share_force.claim(forces) == (
        "Facts draw attention to their subject only above a salience threshold (no exception in 120); "
        "before finetuning, lesser-known ones draw 10.00 ± 0.00 less"
    )
    force = 10 - np.arange(40) / 2
    force[21] = 1
    results.add("paper", 3, changes={"base": {"share_force": force}})
    assert "(1 exception in 160)" in fig5_share_force.claim(fig5_share_force.measure(results.read()))


def test_forces_compare_pushes_where_both_halves_push_away(results):
    far = {arm: {"salience_threshold": np.full(40, 30.0), "share_force": -10 - np.arange(40) / 2} for arm in ("base",)}
    results.add_worlds(changes=far)
    claim = fig5_share_force.claim(fig5_share_force.measure(results.read()))
    assert claim.endswith("before finetuning, lesser-known ones push 10.00 ± 0.00 harder away")


def test_recall_says_how_far_the_arms_lie_from_the_curve(results):
    results.add_worlds()
    recall = fig6_critical_attention.measure(results.read())
    assert recall.deviation == pytest.approx(0)
    # What facts need is spread evenly, in steps of 5 %.
    np.testing.assert_allclose(recall.curve.mean, 100 * fig6_critical_attention.SHARES, rtol=0, atol=2.5 + 1e-9)
    assert "alone sets held-out accuracy: one curve of facts recalled passes within 0.0 points" in (
        fig6_critical_attention.claim(recall)
    )


def test_recall_says_when_the_curve_misses_an_arm(results):
    # Four held-out facts of 20 are beyond recall by the whole arm's values, though the report counts them as answered.
    results.add_worlds(changes={"whole": {"critical_high": np.where(np.arange(40) < 8, 0.0, 1.0)}})
    claim = fig6_critical_attention.claim(fig6_critical_attention.measure(results.read()))
    assert claim.endswith(
        "does not alone set held-out accuracy: one curve of facts recalled misses an arm by 20.0 points"
    )


def test_depths_count_clear_gaps_and_follow_attention_by_layer(results):
    for world in range(3):
        results.add_deep("deep-1", world, layers=1, gap=-0.1)
        results.add_deep("deep-2", world, gap=0.1)
        results.add_deep("deep-3", world, layers=3, gap=0.2)
        results.add_deep("deep-names", world, gap=(0.1, -0.1, 0.0)[world])
    found = {name: fig10_deep_toy.measure(one) for name, one in results.read().items()}
    np.testing.assert_allclose(found["deep-3"].change["top"].mean, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(found["deep-3"].change["bottom"].mean, [-0.1, 0.0, 0.1], atol=1e-12)
    np.testing.assert_allclose([found[name].attention_gap.mean for name in found], [-0.1, 0.1, 0.2, 0], atol=1e-12)
    assert fig10_deep_toy.claim(found) == (
        "In small transformers, finetuning on lesser-known facts clearly costs held-out accuracy in 2 of 4 (and adds "
        "in 1) and subject attention in 2 of 4 (and adds in 1); the largest gap is deep-3's, +20.0 ± 0.0 points"
    )


def test_deep_run_without_the_attention_of_an_arm_is_named(results):
    path = results.add_deep() / "attention.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.field("arm") != "bottom"), path)
    with pytest.raises(InputError, match="attention.parquet lacks layers of bottom"):
        fig10_deep_toy.measure(results.read()["deep-2"])


@pytest.mark.parametrize("n_worlds", [1, 3])
def test_every_figure_is_titled_by_its_claim(results, n_worlds):
    results.add_everything(n_worlds)
    finished = load.results(results.folder)
    for name, module in FIGURES.items():
        claim, figure = module.draw(finished.read_by(module.READS))
        figure.draw_without_rendering()
        assert figure.get_suptitle().replace("\n", " ") == claim, name
        assert "nan" not in claim, name
