"""Words and numbers of the dose and remedy figures, on made-up sweeps in which they are known (see conftest.py)."""

import numpy as np
import pytest

from core.errors import InputError
from paper_figs import fig8_dose_response as fig8
from paper_figs import fig9_remedies as fig9


def _dose(results, name="dose-share"):
    return fig8.measure(results.read_sweep(name), *fig8.SIDES[name])


def test_dose_has_a_line_for_each_size_along_the_share_and_for_each_share_along_the_size(results):
    for name in fig8.SIDES:
        results.add_sweep(name)
    by_size, by_share = _dose(results), _dose(results, "dose-size")
    share, size = by_size.levels, by_size.lines
    np.testing.assert_allclose(by_size.accuracy.mean, 60 + 10 * share + 2 * np.log2(size)[:, None])
    share, size = by_share.lines, by_share.levels
    np.testing.assert_allclose(by_share.accuracy.mean, 60 + 10 * share[:, None] + 2 * np.log2(size))
    np.testing.assert_allclose(by_share.predicted.mean - by_share.share.mean, 0.004)


def test_dose_tells_the_change_along_the_share_at_both_ends_of_size(results):
    # Gains of 9, 10 and 11 points: half-width 4.303 · 1 / √3.
    results.add_sweep("dose-share")
    assert fig8.claim(_dose(results)) == (
        "Finetuning on more well-known facts raises held-out accuracy (+10.0 ± 2.5 points at size 0.125, "
        "+10.0 ± 2.5 points at size 0.5); R5 foresees the subject's share to 0.004"
    )


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (lambda share, size: -0.1 * share, "lowers held-out accuracy (−10.0 ± 0.0 points at size 0.125,"),
        (lambda share, size: 0.1 * share * (size > 0.3), "does not everywhere clearly raise held-out accuracy (0.0 ±"),
        (lambda share, size: 0.1 * share * (size - 0.3), "does not everywhere clearly raise held-out accuracy (−1.8 ±"),
    ],
)
def test_dose_is_worded_as_the_intervals_allow_and_without_r5_where_it_has_no_say(results, gain, words):
    results.add_sweep(
        "dose-share",
        measure=lambda levels, arm, spread: {"accuracy": 0.5 + gain(*levels), "subject_share": 0.0 * levels[0]},
    )
    claim = fig8.claim(_dose(results))
    assert words in claim and "R5" not in claim


def test_shares_of_the_mixture_stand_beside_r5_as_a_dashed_line(results):
    results.add_sweep("dose-share")
    sweep = results.read_sweep("dose-share")
    _, figure = fig8.draw({"dose-share": sweep})
    dashed = [line for line in figure.axes[1].lines if line.is_dashed()]
    assert len(dashed) == 3
    np.testing.assert_allclose(np.array(dashed[0].get_ydata(), float), 0.554 + 0.1 * sweep.levels("split.known_share"))
    assert [handle.get_label() for handle in figure.axes[0].get_legend_handles_labels()[0]] == ["0.125", "0.25", "0.5"]


def _remedies(results, **replaced):
    if replaced:
        axes, measure, _ = results.named("remedies")

        def changed(levels, arm, spread):
            found = measure(levels, arm, spread)
            for label, change in replaced.items():
                rows = (levels[0] == label) & (arm == "bottom")
                found["accuracy"] = np.where(rows, found["accuracy"] + change * (1 + spread), found["accuracy"])
            return found

        results.add_sweep("remedies", axes, changed)
    else:
        results.add_sweep("remedies")
    return fig9.measure(results.read_sweep("remedies"))


def test_remedies_are_compared_with_none_which_comes_first(results):
    remedies = _remedies(results)
    assert remedies.names == ("none", "early stopping", "KL 0.1", "values only")
    np.testing.assert_allclose(remedies.gap.mean, [10, 6, 0, 10], atol=1e-9)
    np.testing.assert_allclose(remedies.narrowing.mean, [0, 4, 10, 0], atol=1e-9)
    np.testing.assert_allclose(remedies.gain.mean, [0, 4, 10, -10], atol=1e-9)
    np.testing.assert_allclose(remedies.trained.mean, [0, -10, -5, 5], atol=1e-9)


def test_remedies_are_paired_by_world(results):
    # All arms of a world share its spread, which differences cancel.
    remedies = _remedies(results)
    for effect in (remedies.gap, remedies.gain, remedies.trained):
        np.testing.assert_allclose(effect.high - effect.low, 0, atol=1e-9)
    widened = _remedies(results, **{"KL 0.1": 0.02})
    np.testing.assert_allclose((widened.gap.high - widened.gap.mean)[2], 4.302653 * 2 / np.sqrt(3), rtol=1e-6)


def test_remedies_say_how_many_narrow_and_close_the_gap_and_what_the_best_costs(results):
    claim = fig9.claim(_remedies(results)).replace("\N{NO-BREAK SPACE}", " ")
    assert claim == (
        "2 of 3 remedies narrow the gap of 10.0 ± 0.0 points by raising the lesser-known arm, 1 to no clear gap; "
        "“KL 0.1” raises it most: +10.0 ± 0.0 points held out, −5.0 ± 0.0 trained on"
    )


def test_remedies_say_when_none_narrows_or_there_is_no_gap(results):
    claim = fig9.claim(_remedies(results, **{"KL 0.1": -0.1, "early stopping": -0.04}))
    assert claim == "None of 3 remedies clearly narrows the gap of 10.0 ± 0.0 points by raising the lesser-known arm"
    claim = fig9.claim(_remedies(results, none=0.2))
    assert claim == "Without a remedy there is no clear gap to close (−10.0 ± 49.7 points)"


def test_remedy_that_lowers_both_arms_is_no_help_though_it_narrows_the_gap(results):
    axes, measure, _ = results.named("remedies")

    def lowering(levels, arm, spread):
        found = measure(levels, arm, spread)
        return found | {"accuracy": np.where(levels[0] == "values only", 0.3 + 0.01 * spread, found["accuracy"])}

    results.add_sweep("remedies", axes, lowering)
    remedies = fig9.measure(results.read_sweep("remedies"))
    assert remedies.narrowing.at(3).sign == 1 and "2 of 3 remedies narrow" in fig9.claim(remedies)


def test_remedy_that_diverged_is_named_so_and_the_others_stand(results):
    remedies = _remedies(results, **{"KL 0.1": np.nan})
    assert "1 of 3 remedies narrow" in fig9.claim(remedies)
    _, figure = fig9.draw({"remedies": results.read_sweep("remedies")})
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "+10.0 ± 0.0",
        "+6.0 ± 0.0",
        "no number",
        "+10.0 ± 0.0",
    ]


def test_sweep_without_the_row_to_compare_with_is_named(results):
    axes, measure, _ = results.named("remedies")
    results.add_sweep("remedies", {"remedy": ["KL 0.1"]}, measure)
    with pytest.raises(InputError, match="has no remedy 'none' to compare with"):
        fig9.measure(results.read_sweep("remedies"))
