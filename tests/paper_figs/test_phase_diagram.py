"""The phase diagram's boundaries, words and marks, on a made-up plane whose boundaries are known (see conftest.py)."""

import numpy as np
import pytest

from paper_figs import fig7_phase_diagram as fig7


def _measure(results, name="phase-exposure"):
    return fig7.measure(results.read_sweep(name), fig7.PLANES[name])


def test_boundaries_of_both_planes_and_their_distance_are_found(results):
    for name in fig7.PLANES:
        results.add_sweep(name)
    exposure, strength = _measure(results), _measure(results, "phase-format")
    np.testing.assert_allclose(exposure.boundary, [11.1, 11.5, 11.9])
    np.testing.assert_allclose(exposure.predicted_boundary, [11.35, 11.75, 12.15])
    assert exposure.distance == pytest.approx(0.25)
    np.testing.assert_allclose(strength.boundary, [4, 6, 8])
    assert strength.distance == pytest.approx(0.5)


def test_cells_hold_the_paired_lead_and_its_interval_over_worlds(results):
    results.add_sweep("phase-exposure")
    phase = _measure(results)
    lead = 0.05 * (10.5 + np.array([0.6, 1.0, 1.4])[:, None] - phase.y)
    np.testing.assert_allclose(phase.share.mean, lead)
    np.testing.assert_allclose(phase.accuracy.mean, 100 * lead)
    np.testing.assert_allclose(phase.share.high - lead, 4.302653 * 0.004 / np.sqrt(3))
    # R5 errs only in cells within a quarter of a doubling beyond the boundary, none of which is clear.
    assert phase.foreseen.mean() == 1 and len(phase.foreseen) == np.sum(np.abs(lead) > 4.302653 * 0.004 / np.sqrt(3))


def test_claim_says_which_part_of_the_plane_is_reversed_and_how_far_r5_is_off(results):
    results.add_sweep("phase-exposure")
    signs = _measure(results).share.signs
    assert fig7.claim(_measure(results)) == (
        f"Lesser-known facts cost subject attention in {100 * np.mean(signs > 0):.0f} % of the plane and add to it in "
        f"{100 * np.mean(signs < 0):.0f} %; the base models alone predict this boundary (R5), to 0.25 doublings of "
        "pretraining"
    )


def test_claim_says_when_there_is_no_boundary_or_r5_has_none(results):
    axes, measure, _ = results.named("phase-exposure")
    results.add_sweep("phase-exposure", axes | {"pretrain.steps": [500, 1000]})
    assert fig7.claim(_measure(results)).endswith("100 % of the plane and add to it in 0 %; no boundary crosses it")
    assert _caption(results) == (
        "no column has a measured zero, no column has a zero of R5's\nR5 gives the sign of 100 % of 6 clear cells"
    )
    unforeseen = {"predicted_subject_share": 0.7}
    results.add_sweep("phase-exposure", measure=lambda *row: measure(*row) | unforeseen)
    assert fig7.claim(_measure(results)).endswith("the base models alone (R5) do not predict this boundary")
    assert _caption(results).startswith("no column has a zero of R5's")


def _caption(results):
    return _draw(results).axes[1].texts[-1].get_text()


def _draw(results):
    _, figure = fig7.draw({"phase-exposure": results.read_sweep("phase-exposure")})
    figure.draw_without_rendering()
    return figure


def test_dots_mark_the_cells_whose_interval_holds_zero(results):
    results.add_sweep("phase-exposure")
    phase = _measure(results)
    for axis, lead in zip(_draw(results).axes, (phase.accuracy, phase.share), strict=False):
        dots = np.stack(axis.lines[0].get_data(), axis=1)
        cells = [(x, y) for at, x in enumerate(phase.x) for by, y in enumerate(phase.y) if not lead.signs[at, by]]
        np.testing.assert_allclose(dots, cells)


def test_both_zero_lines_are_drawn_where_the_leads_change_sign(results):
    results.add_sweep("phase-exposure")
    measured, predicted = (
        np.array(found.get_paths()[0].vertices, float) for found in _draw(results).axes[1].collections[1:3]
    )
    np.testing.assert_allclose(measured[:, 1], 10.5 + measured[:, 0])
    np.testing.assert_allclose(predicted[:, 1], 10.75 + predicted[:, 0])


def test_colours_are_centred_at_zero_and_steps_are_told_in_doublings(results):
    results.add_sweep("phase-exposure")
    axis = _draw(results).axes[1]
    low, high = axis.collections[0].get_clim()
    assert low == -high < 0
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["500", "1,000", "2,000", "4,000", "8,000", "16,000"]


def test_diverged_cell_stays_grey_and_is_counted_nowhere(results):
    _, measure, _ = results.named("phase-exposure")

    def diverging(levels, arm, spread):
        is_lost = (levels[1] == 16000) & (levels[0] == 0.6) & (spread == 0) & (arm == "top")
        return {name: np.where(is_lost, np.nan, column) for name, column in measure(levels, arm, spread).items()}

    results.add_sweep("phase-exposure", measure=diverging)
    phase = _measure(results)
    assert np.argwhere(np.isnan(phase.share.mean)).tolist() == [[0, 5]] and phase.share.signs[0, 5] == 0
    n_above = np.sum(phase.share.signs > 0)
    assert f"attention in {100 * n_above / 17:.0f} % of the plane" in fig7.claim(phase)
    figure = _draw(results)
    assert "Grey: training diverged." in figure.get_supxlabel()
    cells = figure.axes[1].collections[0].get_array()
    assert isinstance(cells, np.ma.MaskedArray) and np.argwhere(cells.mask).tolist() == [[5, 0]]
