"""How much attention each held-out fact needs on its subject (R4), and what the arms' attention recalls of them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.closed_form import recalled
from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import ARMS, Columns, Experiment
from paper_figs.reads import Read, Rows

COLUMNS = ("critical_low", "critical_high")
READS = (Read("experiment", "paper", (Rows("facts", COLUMNS, {"arm": ("whole",), "role": ("held_out",)}),)),)
SHARES = np.linspace(0, 1, 201)[1:-1]
EDGES = np.linspace(0, 1, 21)
CLOSE = 1.0
"""Percentage points up to which an arm's accuracy counts as lying on the curve."""


class Recall(NamedTuple):
    """What the figure shows of the held-out facts, in percent of them."""

    needed: Interval
    """Facts by the critical share that they need, in bins parted at EDGES."""
    curve: Interval
    """Facts recalled at each of SHARES."""
    share: dict[str, Interval]
    """The subject's share of the attention on subject and relation, by arm."""
    accuracy: dict[str, Interval]
    deviation: float
    """Largest mean difference of an arm's accuracy from the curve at its share."""
    n_worlds: int


def measure(experiments: Mapping[str, Experiment]) -> Recall:
    """Return the `paper` world's held-out facts, at the attention on the template that the whole arm ended at."""
    paper = experiments["paper"]
    facts = {run.path: run.facts("whole", *COLUMNS, role="held_out") for run in paper.runs}
    needed = paper.by_world(lambda run: _needs(facts[run.path]))
    curve = paper.by_world(lambda run: np.array([_recalled(facts[run.path], share) for share in SHARES]))
    share, accuracy = ({arm: paper.metric(arm, name) for arm in ARMS} for name in ("subject_share", "accuracy"))
    on_curve = {
        arm: paper.by_world(lambda run, arm=arm: _recalled(facts[run.path], run.metric(arm, "subject_share")))
        for arm in ARMS
    }
    return Recall(
        over_worlds(needed).scaled(100),
        over_worlds(curve).scaled(100),
        {arm: over_worlds(values) for arm, values in share.items()},
        {arm: over_worlds(values).scaled(100) for arm, values in accuracy.items()},
        100 * max(abs(float(np.mean(accuracy[arm] - on_curve[arm]))) for arm in ARMS),
        paper.n_worlds,
    )


def claim(recall: Recall) -> str:
    """Return how far the arms' accuracies follow from their mean share of attention alone."""
    if recall.deviation <= CLOSE:
        return (
            "The subject's share of attention alone sets held-out accuracy: one curve of facts recalled passes within "
            f"{recall.deviation:.1f} points of every arm"
        )
    return (
        "The subject's share of attention does not alone set held-out accuracy: one curve of facts recalled misses "
        f"an arm by {recall.deviation:.1f} points"
    )


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    recall = measure(experiments)
    sentence = claim(recall)
    note = style.worlds(recall.n_worlds) + " Critical share: R4, computed for each held-out fact from the values."
    figure, axes = style.figure(sentence, note, 3.0, ncols=2)
    style.headings(axes, "held-out facts by the share they need (%)", "held-out facts recalled (%)")
    _needed(axes[0], recall)
    _curve(axes[1], recall)
    inset = axes[1].inset_axes((0.56, 0.13, 0.38, 0.34))
    _curve(inset, recall)
    _zoom(inset, recall)
    axes[1].indicate_inset_zoom(inset, linewidth=0.5)
    axes[1].set(xlabel="subject's share of attention", xlim=(0, 1), ylim=(0, 100))
    axes[1].legend(loc="upper left", handlelength=1)
    return sentence, figure


def _needs(facts: Columns) -> Float[np.ndarray, " bin"]:
    """Return the share of facts in each bin of the critical share."""
    return np.histogram(facts["critical_low"], EDGES)[0] / len(facts["critical_low"])


def _recalled(facts: Columns, share: float) -> float:
    """Return the share of facts whose critical interval holds this share of attention."""
    return float(np.mean(recalled(share, *(facts[name] for name in COLUMNS))))


def _needed(axis: Axes, recall: Recall) -> None:
    """Draw how many facts need how much, with the arms' shares: what lies between two of them is their gap (R7)."""
    axis.stairs(recall.needed.mean, EDGES, fill=True, color=style.PALE)
    style.points(axis, (EDGES[:-1] + EDGES[1:]) / 2, recall.needed, style.Look("#777777", "none", "none"))
    for arm in ARMS:
        look = style.LOOKS[arm]
        axis.axvline(float(recall.share[arm].mean), color=look.colour, linestyle=look.line, label=arm)
    axis.text(0.065, float(recall.needed.mean[0]) * 0.8, "the relation alone\nanswers right", fontsize=7)
    axis.set(xlabel="critical share of attention on the subject", xlim=(0, 1), ylim=(0, None))
    axis.legend(title="arm's share", title_fontsize=7)


def _curve(axis: Axes, recall: Recall) -> None:
    """Draw the curve and the arms on it."""
    style.path(axis, SHARES, recall.curve, style.Look(style.GREY, "none", "-"))
    for arm in ARMS:
        share = recall.share[arm]
        style.points(axis, share.mean, recall.accuracy[arm], style.LOOKS[arm], xerr=style.bars(share), label=arm)


def _zoom(axis: Axes, recall: Recall) -> None:
    """Show the neighbourhood of the arms alone."""
    for interval, limits in ((recall.share, axis.set_xlim), (recall.accuracy, axis.set_ylim)):
        ends = [float(end) for of_arm in interval.values() for end in of_arm if np.isfinite(end)]
        margin = 0.1 * (max(ends) - min(ends)) or 0.01
        limits(min(ends) - margin, max(ends) + margin)
    axis.tick_params(labelsize=6)
