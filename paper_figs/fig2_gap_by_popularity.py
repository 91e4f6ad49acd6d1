"""Accuracy by popularity, and where the gap between the halves lives, with R7's prediction on it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.closed_form import recalled, subject_share
from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Columns, Experiment, Run
from paper_figs.reads import Read, Rows

HALVES = ("top", "bottom")
COLUMNS = ("popularity", "correct", "critical_low", "critical_high", "subject_attention", "relation_attention")
PREDICTED = "predicted_subject_share"
READS = (
    Read(
        "experiment",
        "paper",
        (
            Rows("facts", COLUMNS, {"arm": HALVES, "role": ("held_out",)}),
            Rows("trace", (PREDICTED,), {"arm": HALVES}),
        ),
    ),
)
N_BUCKETS = 10
_BUCKETS = np.arange(1, N_BUCKETS + 1)


class Gap(NamedTuple):
    """What the figure shows by bucket of held-out facts, from the best known to the least known, in percent."""

    accuracy: dict[str, Interval]
    gap: Interval
    """Top less bottom, paired by world."""
    by_measured_share: Interval
    """R7's gap: each fact's critical interval against its own share of attention in either arm."""
    by_predicted_share: Interval
    """R7's gap with the shares that R5 predicts from the base model alone; nan where it predicts none."""
    n_worlds: int


def measure(experiments: Mapping[str, Experiment]) -> Gap:
    """Return accuracies and gaps of the `paper` world."""
    paper = experiments["paper"]
    buckets = paper.by_world(_by_bucket)
    top, bottom, gap, measured, predicted = (over_worlds(buckets[:, row]).scaled(100) for row in range(5))
    return Gap({"top": top, "bottom": bottom}, gap, measured, predicted, paper.n_worlds)


def claim(gap: Gap) -> str:
    """Return where the clear gaps are largest, and how large it is at both ends of the popularity range."""
    clear = [bucket for bucket in range(N_BUCKETS) if gap.gap.at(bucket).sign]
    if not clear:
        return "No decile of popularity shows a clear accuracy gap between top and bottom"
    widest = max(clear, key=lambda bucket: abs(gap.gap.mean[bucket]))
    where = "in the middle of the popularity range"
    if not 2 <= widest < N_BUCKETS - 2:
        where = f"toward the {'best' if widest < 2 else 'least'}-known facts"
    size, best, least = (gap.gap.at(bucket).text(1) for bucket in (widest, 0, N_BUCKETS - 1))
    return (
        f"The accuracy gap is widest {where}: {size} points in decile {widest + 1}, "
        f"{best} among the best-known and {least} among the least-known facts"
    )


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    gap = measure(experiments)
    sentence = claim(gap)
    note = style.worlds(gap.n_worlds) + " R7: net share of facts whose critical share of attention lies between the"
    note += " arms' shares, as measured (identical fact by fact), and as R5 predicts them before finetuning."
    figure, axes = style.figure(sentence, note, 2.9, ncols=2)
    style.headings(axes, "held-out accuracy (%)", "accuracy, top − bottom (points)")
    for arm, accuracy in gap.accuracy.items():
        look = style.LOOKS[arm]
        style.points(axes[0], _BUCKETS, accuracy, look, linestyle=look.line, label=arm)
    axes[0].set_ylim(0, 105)
    axes[0].legend(title="facts finetuned on", title_fontsize=7)
    _gaps(axes[1], gap)
    for axis in axes:
        axis.set(xticks=_BUCKETS, xlabel="popularity decile of held-out facts (1: best known)")
    return sentence, figure


def _by_bucket(run: Run) -> Float[np.ndarray, "5 bucket"]:
    """Return both accuracies, their gap, and R7's gap with measured and with predicted shares."""
    top, bottom = (run.facts(half, *COLUMNS, role="held_out") for half in HALVES)
    by_share = [_recalled(facts, _share(facts)) for facts in (top, bottom)]
    ends = [run.trace(half, PREDICTED)[PREDICTED][-1] for half in HALVES]
    at_ends = [_recalled(facts, float(end)) for facts, end in zip((top, bottom), ends, strict=True)]
    forecast = np.subtract(*at_ends, dtype=float) if np.isfinite(ends).all() else np.full(len(by_share[0]), np.nan)
    correct = top["correct"].astype(float), bottom["correct"].astype(float)
    rows = [*correct, correct[0] - correct[1], np.subtract(*by_share, dtype=float), forecast]
    order = np.argsort(-top["popularity"], kind="stable")
    return np.array([[part.mean() for part in np.array_split(row[order], N_BUCKETS)] for row in rows])


def _share(facts: Columns) -> Float[np.ndarray, " fact"]:
    return subject_share(facts["subject_attention"], facts["relation_attention"])


def _recalled(facts: Columns, share: Float[np.ndarray, " fact"] | float) -> Bool[np.ndarray, " fact"]:
    return recalled(share, facts["critical_low"], facts["critical_high"])


def _gaps(axis: Axes, gap: Gap) -> None:
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    axis.plot(_BUCKETS, gap.by_measured_share.mean, color=style.GREY, linewidth=2, label="R7")
    axis.plot(_BUCKETS, gap.by_predicted_share.mean, color="black", linestyle=(0, (2, 1.5)), label="R7, R5's shares")
    style.points(axis, _BUCKETS, gap.gap, style.MEASURED, label="measured")
    axis.legend()
