"""Words and numbers of the figure of published models, on made-up studies in which both effects are known."""

import pytest

from paper_figs import fig14_published_models as fig14


@pytest.mark.parametrize(
    ("rare", "words"),
    [
        (-0.05, "rare answers cost, against the toy (−5.0 ± 0.0)"),
        (0.05, "rare answers help, as the toy says (+5.0 ± 0.0)"),
    ],
)
def test_knownness_and_rarity_are_told_with_their_signs_and_intervals_over_splits(results, rare, words):
    # Knownness is worth 9, 10 and 11 points: half-width 4.303 · 1 / √3.
    results.add_crossed(known=0.1, rare=rare)
    claim, figure = fig14.draw(results.read_studies())
    assert claim == f"On a published model both count: well-known facts are worth +10.0 ± 2.5 points, and {words}"
    figure.draw_without_rendering()


def test_the_note_says_what_intervals_count(results):
    results.add_crossed()
    _, figure = fig14.draw(results.read_studies())
    assert "interval over splits, taken for independent;" in " ".join(figure.texts[-1].get_text().split())
    results.add_questions()
    _, figure = fig14.draw(results.read_studies())
    assert "interval over questions, which splits share;" in " ".join(figure.texts[-1].get_text().split())


def test_a_second_model_is_drawn_beside_the_first_with_the_arms_it_has(results):
    results.add_crossed()
    results.add_study("gemma-3-270m-entity-questions")
    _, figure = fig14.draw(results.read_studies())
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words == ["SmolLM2-135M", "Gemma 3 270M"]
