"""Held-out accuracy and attention against the share of well-known facts in an arm, and against the arm's size."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Sweep
from paper_figs.reads import Read, Rows

ARM = "mixture"
SHARE, SIZE = "split.known_share", "split.size"
METRICS = ("accuracy", "subject_share", "predicted_subject_share")
MIXTURES = (Rows("table", (SHARE, SIZE, *METRICS), {"arm": (ARM,)}),)
READS = (Read("sweep", "dose-share", MIXTURES), Read("sweep", "dose-size", MIXTURES, is_required=False))
LABELS = {SHARE: "share of well-known facts", SIZE: "size (share of the training facts)"}
SIDES = {"dose-share": (SHARE, SIZE), "dose-size": (SIZE, SHARE)}
"""What each sweep is drawn against, and what its lines differ in."""


class Dose(NamedTuple):
    """What the figure shows of a sweep [line level]; accuracies in percent."""

    levels: Float[np.ndarray, " level"]
    lines: Float[np.ndarray, " line"]
    accuracy: Interval
    share: Interval
    """The subject's share of the attention on subject and relation."""
    predicted: Interval
    """R5's share; nan where it predicts none."""
    change: Interval
    """The change of accuracy along each line, from the first level to the last."""
    n_worlds: int


def measure(sweep: Sweep, along: str, by: str) -> Dose:
    """Return a sweep's mixtures along one field, a line for each value of the other."""
    accuracy, share, predicted = (sweep.by_world(ARM, metric, by, along) for metric in METRICS)
    return Dose(
        sweep.levels(along).astype(float),
        sweep.levels(by).astype(float),
        over_worlds(accuracy).scaled(100),
        over_worlds(share),
        over_worlds(predicted),
        over_worlds(accuracy[..., -1] - accuracy[..., 0]).scaled(100),
        len(accuracy),
    )


def claim(dose: Dose) -> str:
    """Return what well-known facts in place of lesser-known ones do to accuracy, and how far R5 is off."""
    changes = [(line, dose.change.at(at)) for at, line in enumerate(dose.lines)]
    ends = [changes[0], changes[-1]] if len(changes) > 1 else changes
    gains = [f"{change.text(1, ' points', signed=True)} at size {line:g}" for line, change in ends]
    signs = [change.sign for _, change in ends]
    verb = "raises" if min(signs) > 0 else "lowers" if max(signs) < 0 else "does not everywhere clearly raise"
    error = np.abs(dose.predicted.mean - dose.share.mean)
    foreseen = f"; R5 foresees the subject's share to {np.nanmean(error):.3f}" if np.isfinite(error).any() else ""
    return f"Finetuning on more well-known facts {verb} held-out accuracy ({', '.join(gains)}){foreseen}"


def draw(sweeps: Mapping[str, Sweep]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    doses = {name: measure(sweep, *SIDES[name]) for name, sweep in sweeps.items()}
    sentence = claim(doses["dose-share"])
    note = style.worlds(doses["dose-share"].n_worlds) + " Dashed: R5, computed before any finetuning."
    width = style.WIDTH if len(doses) > 1 else 5.5
    grid = {"nrows": 2, "ncols": len(doses), "sharex": "col", "sharey": "row", "width": width}
    figure, axes = style.figure(sentence, note, 4.3, **grid)
    style.headings(axes, *["held-out accuracy (%)"] * len(doses), *["subject's share of attention"] * len(doses))
    for column, (name, dose) in enumerate(doses.items()):
        along, by = SIDES[name]
        upper, lower = axes[column], axes[len(doses) + column]
        _lines(upper, lower, dose)
        upper.legend(title=LABELS[by].partition(" (")[0], title_fontsize=7, handlelength=1.6, alignment="left")
        lower.set_xlabel(LABELS[along])
        if along == SIZE:
            lower.set_xscale("log")
            ticks = dose.levels[:: 1 + len(dose.levels) // 7]
            lower.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            lower.minorticks_off()
    return sentence, figure


def _lines(upper: Axes, lower: Axes, dose: Dose) -> None:
    """Draw each line's accuracies, connected, and its shares with R5's curve."""
    for at, (line, look) in enumerate(zip(dose.lines, style.series(len(dose.lines)), strict=True)):
        options = {"label": f"{line:g}", "markersize": 3.5}
        style.points(upper, dose.levels, dose.accuracy.at(at), look, linestyle="-", linewidth=0.9, **options)
        style.points(lower, dose.levels, dose.share.at(at), look, **options)
        lower.plot(dose.levels, dose.predicted.mean[at], color=look.colour, linestyle=style.PREDICTED_LINE)
