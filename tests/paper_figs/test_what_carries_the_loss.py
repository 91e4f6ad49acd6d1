"""Words and numbers of the figure of what carries the loss, on made-up results in which they are known."""

import pytest

from paper_figs import fig16_what_carries_the_loss as fig16


@pytest.fixture
def made(results):
    results.add_worlds("everything")
    results.add_mediation("everything", flow="theory", moved={"attention@subject": 3.0, "attention@all": 0.5})
    results.add_study("tiny-mediation")
    results.add_mediation()
    return results


def test_shares_are_over_worlds_and_of_a_single_run_over_subjects(made):
    toy, llama = (fig16.measure(made.read_studies()[name]) for name in ("everything", "tiny-mediation"))
    # 0.5, 0.505 and 0.51 of the gap: mean 0.505, half-width 4.303 · 0.005 / √3.
    share = toy["bottom", "top"]["query_key"].share
    assert toy["bottom", "top"]["attention@all"].share == share and share.mean == pytest.approx(0.505)
    assert share.high - share.mean == pytest.approx(4.3027 * 0.005 / 3**0.5, rel=1e-2)
    alone = llama["top", "bottom"]["mlp"]
    assert alone.share == pytest.approx((0.6, 0.6 - 1.96 * 0.05, 0.6 + 1.96 * 0.05), abs=1e-4)
    assert alone.gap == pytest.approx(-0.1)
    assert set(llama["bottom", "top"]) == {"attention@all", "mlp"}


def test_the_claim_names_what_moved_in_each_model(made):
    claim, figure = fig16.draw(made.read_studies())
    assert claim == (
        "Of the gap, giving the bottom half's model the top half's attention moves 50 % in the toy and 25 % in a small "
        "Llama; giving it the MLP's weights, 60 % in a small Llama"
    )
    assert len(figure.axes) == 2 and figure.axes[1].get_xlabel() == "share of a gap\nof 10.0 points"


def test_a_model_that_was_given_nothing_is_left_out(made):
    for path in (made.folder / "theory" / "everything").rglob("mediation.parquet"):
        path.unlink()
    _, figure = fig16.draw(made.read_studies())
    assert len(figure.axes) == 1 and len(figure.axes[0].get_yticklabels()) == len(fig16.ROWS)
