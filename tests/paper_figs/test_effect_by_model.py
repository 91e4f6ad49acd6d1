"""Words and numbers of the figure of the effect by model, on made-up results in which it is known."""

import pytest

from paper_figs import fig15_effect_by_model as fig15


def test_effects_are_top_less_bottom_over_worlds_and_over_the_splits_of_a_published_model(results):
    results.add_worlds()
    for world in range(3):
        results.add_study("tiny", world, gap=0.1 + 0.01 * world)
    results.add_crossed()
    found = {name: fig15.measure(one) for name, one in results.read_studies().items()}
    # The toy's halves lie at shares of 0.717 and 0.5 on average, its base at 0.5.
    assert float(found["paper"].attention.mean) == pytest.approx(100 * (2.15 / 3 - 0.5) / 0.5)
    assert float(found["paper"].generic.mean) == pytest.approx(-100 * (2.15 / 3 - 0.5))
    assert float(found["tiny"].accuracy.mean) == pytest.approx(11)
    assert float(found["tiny"].accuracy.high - found["tiny"].accuracy.low) == pytest.approx(
        2 * 4.303 / 3**0.5, abs=1e-3
    )
    assert float(found["tiny"].generic.mean) == pytest.approx(-22)
    published = found["smollm2-135m-entity-questions"]
    assert [model for model, effect in found.items() if effect.is_published] == ["smollm2-135m-entity-questions"]
    assert float(published.accuracy.mean) == pytest.approx(10) and float(published.generic.mean) == pytest.approx(5)
    assert float(published.attention.mean) == 0


def test_of_a_published_model_questions_are_counted_where_they_are_kept(results):
    results.add_crossed()
    results.add_questions()
    study = results.read_studies()["smollm2-135m-entity-questions"]
    found, known = fig15.measure(study), study.contrasts.known["accuracy"]
    half = 100 * 1.96 * known.of({"top": 1.0, "bottom": -1.0})[0, 0] ** 0.5
    assert float(found.accuracy.high - found.accuracy.mean) == pytest.approx(half, rel=0.02)
    # Top's questions have 0.08 of attention, bottom's 0.06, the base's 0.07, all of them alike.
    assert float(found.attention.low) == pytest.approx(float(found.attention.mean), abs=1e-6)


def test_a_model_of_one_world_is_drawn_but_not_counted(results):
    results.add_worlds()
    results.add_study("tiny", gap=0.1)
    claim, figure = fig15.draw(results.read_studies())
    assert claim.startswith(
        "Lesser-known facts cost accuracy in 1 of 1 models (1 more in one world alone) and attention"
    )
    assert len(figure.axes[0].get_yticklabels()) == 2


def test_the_claim_counts_the_models_that_show_each_sign(results):
    results.add_everything()
    claim, figure = fig15.draw(results.read_studies())
    assert claim == (
        "Lesser-known facts cost accuracy in 6 of 6 models and attention to the subject in 4; "
        "they make answers more generic in 4, and less generic in 2"
    )
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == list(fig15.MODELS.values())
    figure.draw_without_rendering()
