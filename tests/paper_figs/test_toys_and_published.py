"""Words and numbers of the figure of toys beside a published model, on made-up results in which they are known."""

import pytest

from core.arms import KNOWNNESS, RARITY
from paper_figs import fig18_toys_and_published as fig18
from paper_figs import load


@pytest.fixture
def finished(results):
    for name, rare in {"crossed": 0.2, "interference": -0.1}.items():
        results.add_worlds(name)
        results.add_contrasts(name, known=0.05, rare=rare)
    for world in range(3):
        results.add_deep("deep-2", world)
    results.add_contrasts("deep-2", known=0.05, rare=-0.1)
    results.add_crossed(known=0.1, rare=-0.05)
    return load.results(results.folder).read_by(fig18.READS)


def test_contrasts_are_over_worlds_in_points(finished):
    of_toy = fig18.measure(finished["interference"])
    # 5, 6 and 7 points: half-width 4.303 · 1 / √3.
    assert of_toy["accuracy"][KNOWNNESS].mean == pytest.approx(6)
    assert of_toy["accuracy"][KNOWNNESS].high == pytest.approx(6 + 4.3027 / 3**0.5, abs=1e-3)
    assert of_toy["retention"][RARITY].mean == pytest.approx(-20)
    assert of_toy["subject_attention"][RARITY].mean == pytest.approx(0)


def test_the_claim_counts_the_published_models_signs_that_each_toy_has(finished):
    claim, figure = fig18.draw(finished)
    # Accuracy and retention in four rows; attention is the same in all arms. One toy gets rarity wrong twice.
    assert claim == (
        "Of 8 clear signs of a published model, shown by others: 6 (attention alone moves), 8 (superposition, values "
        "move), 8 (two layers, MLPs)"
    )
    assert len(figure.axes) == 3 and len(figure.axes[0].get_yticklabels()) == len(fig18.ROWS)
