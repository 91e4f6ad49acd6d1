import numpy as np
import pytest
from matplotlib.colors import to_rgb

from paper_figs import style
from paper_figs.interval import over_worlds
from paper_figs.load import ARMS


def _grey(colour):
    """Return a colour's lightness (CIE L*), which is what greyscale printing leaves of it."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return 116 * np.cbrt(0.2126 * red + 0.7152 * green + 0.0722 * blue) - 16


def test_arms_differ_in_marker_line_and_lightness():
    looks = [style.LOOKS[arm] for arm in ARMS]
    assert len({look.marker for look in looks}) == len({str(look.line) for look in looks}) == len(ARMS)
    lightness = sorted(_grey(look.colour) for look in looks)
    assert min(np.diff(lightness)) > 4
    assert _grey(style.LOOKS["bottom"].colour) - _grey(style.LOOKS["top"].colour) > 35


def test_title_and_note_fit_the_width_of_the_figure():
    made, _ = style.figure("Many words of a claim " * 8, "And of a note, smaller. " * 10, 3.0, ncols=2)
    made.draw_without_rendering()
    for text in made.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= made.bbox.width, text.get_text()


@pytest.mark.parametrize(("values", "expected"), [([[1.0], [3.0]], [[12.706], [12.706]]), ([[1.0]], [[0], [0]])])
def test_bars_reach_the_ends_of_the_interval_and_vanish_without_one(values, expected):
    np.testing.assert_allclose(style.bars(over_worlds(np.array(values))), expected, rtol=1e-4)


def test_leads_are_white_at_zero_and_told_apart_by_more_than_red_and_green():
    below, zero, above = (np.array(style.LEAD(at)[:3]) for at in (0.25, 0.5, 0.75))
    np.testing.assert_allclose(zero, 1, atol=0.01)
    assert above[2] - below[2] > 0.5
    assert style.LEAD(np.ma.masked_invalid([np.nan]))[0, :3].max() < 0.7


@pytest.mark.parametrize("n", [1, 3, 6])
def test_lines_of_a_series_differ_in_marker_and_rise_in_lightness(n):
    looks = style.series(n)
    assert len({look.marker for look in looks}) == n
    assert n == 1 or min(np.diff([_grey(look.colour) for look in looks])) > 4
