"""Words and numbers of the figure of remedies in toy and language models, on made-up results."""

import pytest

from paper_figs import fig17_remedies_in_models as fig17
from paper_figs import load


@pytest.fixture
def finished(results):
    """Return the toy's sweep and a study of three base models, in which KL helps and frozen MLPs hurt."""
    results.add_sweep("remedies")
    for world in range(3):
        results.add_remedies(world=world)
    return load.results(results.folder).read_by(fig17.READS)


def test_gains_are_points_over_the_same_arm_without(finished):
    gains = fig17.of_study(finished["tiny-remedies"])
    assert set(gains.by_row) == {"kl_weight=1", "frozen=mlp"} and gains.gap == pytest.approx(10)
    assert float(gains.by_row["kl_weight=1"].mean) == pytest.approx(6 * 1.01)
    assert (gains.by_row["kl_weight=1"].sign, gains.by_row["frozen=mlp"].sign) == (1, -1)


def test_the_claim_counts_remedies_that_all_models_have(finished):
    toy, llama = fig17.of_toy(finished["remedies"]), fig17.of_study(finished["tiny-remedies"])
    both = set(toy.by_row) & set(llama.by_row)
    claim, figure = fig17.draw(finished)
    assert claim.startswith(f"Of {len(both)} remedies tried on 2 models, ")
    assert len(figure.axes) == 2 and len(figure.axes[0].get_yticklabels()) == len(fig17.ROWS)
    one = {"a": llama, "b": llama}
    assert fig17.claim(one) == (
        "Of 2 remedies tried on 2 models, 1 (KL 1) clearly helps the lesser-known half on all of them, 0 on some and 1 "
        "on none"
    )
