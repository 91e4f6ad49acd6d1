"""Which remedies close the gap between the halves, what they do for the lesser-known one, and what they cost."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.errors import InputError
from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Sweep
from paper_figs.reads import Read, Rows

REMEDY, NONE = "remedy", "none"
READS = (
    Read("sweep", "remedies", (Rows("table", (REMEDY, "accuracy", "trained_accuracy"), {"arm": ("top", "bottom")}),)),
)


class Remedies(NamedTuple):
    """What the figure shows of each remedy, in percentage points, paired by world; "none" is the first."""

    names: tuple[str, ...]
    gap: Interval
    """Held-out accuracy, top less bottom."""
    narrowing: Interval
    """The gap without a remedy less the gap with it."""
    gain: Interval
    """Held-out accuracy of bottom, less the same without a remedy."""
    trained: Interval
    """Accuracy of bottom on the facts finetuned on, less the same without a remedy."""
    n_worlds: int


def measure(sweep: Sweep) -> Remedies:
    """Return every remedy's effects; InputError where the sweep has no row without a remedy."""
    names = [str(name) for name in sweep.levels(REMEDY)]
    if NONE not in names:
        raise InputError(f"{sweep.path / 'table.parquet'} has no remedy {NONE!r} to compare with.\nMake it again.")
    order = [names.index(NONE), *(at for at, name in enumerate(names) if name != NONE)]
    top, bottom = (sweep.by_world(arm, "accuracy", REMEDY)[:, order] for arm in ("top", "bottom"))
    trained, gap = sweep.by_world("bottom", "trained_accuracy", REMEDY)[:, order], top - bottom
    effects = (gap, gap[:, :1] - gap, bottom - bottom[:, :1], trained - trained[:, :1])
    gaps, narrowing, gain, kept = (over_worlds(effect).scaled(100) for effect in effects)
    return Remedies(tuple(names[at] for at in order), gaps, narrowing, gain, kept, len(top))


def claim(remedies: Remedies) -> str:
    """Return how many remedies narrow the gap from below, and what the one that gains most costs."""
    before, n_remedies = remedies.gap.at(0), len(remedies.names) - 1
    if before.sign <= 0:
        return f"Without a remedy there is no clear gap to close ({before.text(1, ' points', signed=True)})"
    helping = np.flatnonzero((remedies.narrowing.signs > 0) & (remedies.gain.signs > 0)).tolist()
    how = f"the gap of {before.text(1)} points by raising the lesser-known arm"
    if not helping:
        return f"None of {n_remedies} remedies clearly narrows {how}"
    n_closed = int(np.sum(remedies.gap.signs[helping] <= 0))
    best = max(helping, key=lambda at: float(remedies.gain.mean[at]))
    gain, trained = (change.at(best).text(1, signed=True) for change in (remedies.gain, remedies.trained))
    name = remedies.names[best].replace(" ", "\N{NO-BREAK SPACE}")
    return (
        f"{len(helping)} of {n_remedies} remedies narrow {how}, {n_closed or 'none'} to no clear gap; "
        f"“{name}” raises it most: {gain} points held out, {trained} trained on"
    )


def draw(sweeps: Mapping[str, Sweep]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    remedies = measure(sweeps["remedies"])
    sentence = claim(remedies)
    note = style.worlds(remedies.n_worlds) + " Paired by world. b and c: the arm finetuned on lesser-known facts, less"
    note += " the same without a remedy. Dashed: without a remedy. Hollow: the interval holds zero."
    if np.isnan(remedies.gap.mean).any():
        note += " No number: training diverged."
    figure, axes = style.figure(sentence, note, 1.35 + 0.19 * len(remedies.names), ncols=3, sharey=True)
    headings = ("gap: top − bottom", "gain of bottom, held out", "gain of bottom, trained on")
    style.headings(axes, *headings)
    axes[0].axvline(float(remedies.gap.mean[0]), color="black", linewidth=0.7, linestyle=(0, (4, 3)))
    for axis, effect in zip(axes, (remedies.gap, remedies.gain, remedies.trained), strict=True):
        _forest(axis, effect, is_change=effect is not remedies.gap)
        axis.set_xlabel("points of accuracy")
    axes[0].set(yticks=range(len(remedies.names)), yticklabels=remedies.names, ylim=(len(remedies.names) - 0.5, -0.5))
    return sentence, figure


def _forest(axis: Axes, effect: Interval, *, is_change: bool) -> None:
    """Draw each remedy's effect beside a line at zero, with its numbers; a change has none where there is no remedy."""
    axis.axvline(0, color=style.GREY, linewidth=0.6)
    for at in range(int(is_change), len(effect.mean)):
        shown, right = effect.at(at), axis.get_yaxis_transform()
        text = shown.text(1, signed=True) if np.isfinite(shown.mean) else "no number"
        axis.text(1.02, at, text, transform=right, va="center", ha="left", fontsize=6.5)
        look = {"color": "black", "marker": "o", "markersize": 3.5, "elinewidth": 0.9}
        axis.errorbar(shown.mean, at, xerr=style.bars(shown), mfc="black" if shown.sign else "white", **look)
