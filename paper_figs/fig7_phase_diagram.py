"""The phase diagram (R8): where which half leads in accuracy and in attention, and the boundary that R5 predicts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from core.closed_form import boundary, median_distance
from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Sweep
from paper_figs.reads import Read, Rows

ARMS = ("top", "bottom")
METRICS = ("accuracy", "subject_share", "predicted_subject_share")
DOTS = {"linestyle": "none", "marker": "o", "color": "#3a3a3a", "markeredgewidth": 0}
MEASURED = {"colors": "black", "linewidths": 1.6, "linestyles": "solid"}
PREDICTED = {"colors": "#c2128d", "linewidths": 1.4, "linestyles": [style.PREDICTED_LINE]}


class Axis(NamedTuple):
    """A swept field as a side of the plane."""

    field: str
    label: str
    is_log: bool = False
    """Drawn, and interpolated, in doublings."""

    def position(self, levels: Float[np.ndarray, " level"]) -> Float[np.ndarray, " level"]:
        """Return where the levels lie."""
        return np.log2(levels) if self.is_log else levels


class Plane(NamedTuple):
    """The two sides of a plane, and how far apart zero lines are said to be."""

    x: Axis
    y: Axis
    unit: str
    """The unit of distances along y."""
    falls: bool
    """Is only a lead of top that is lost toward higher y a boundary, or any change of the lead?"""


PLANES = {
    "phase-exposure": Plane(
        Axis("facts.popularity_exponent", "popularity exponent"),
        Axis("pretrain.steps", "pretraining steps", is_log=True),
        "doublings of pretraining",
        falls=True,
    ),
    "phase-format": Plane(
        Axis("facts.answer_skew", "answer skew"),
        Axis("model.template_strength", "template strength"),
        "of template strength",
        falls=False,
    ),
}
READS = tuple(
    Read(
        "sweep",
        name,
        (Rows("table", (plane.x.field, plane.y.field, *METRICS), {"arm": ARMS}),),
        is_required=name == "phase-exposure",
    )
    for name, plane in PLANES.items()
)


class Phase(NamedTuple):
    """What the figure shows of a plane: top less bottom in each cell [x y], paired by world."""

    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"]
    accuracy: Interval
    """The lead in accuracy, in percentage points."""
    share: Interval
    """The lead in the subject's share of the attention on subject and relation."""
    predicted: Float[np.ndarray, "x y"]
    """R5's mean lead in share; nan where it predicts none."""
    boundary: Float[np.ndarray, " x"]
    """Where along y the mean of `share` changes sign; nan where it does not."""
    predicted_boundary: Float[np.ndarray, " x"]
    n_worlds: int

    @property
    def distance(self) -> float:
        """Median distance along y of predicted and measured boundary, over the columns that have both; else nan."""
        return median_distance(self.predicted_boundary, self.boundary)

    @property
    def foreseen(self) -> Float[np.ndarray, " _"]:
        """1 for each cell that is clearly led by one half which R5 foresaw, 0 where it foresaw the other."""
        is_clear = (self.share.signs != 0) & np.isfinite(self.predicted)
        return (np.sign(self.predicted) == self.share.signs)[is_clear].astype(float)


def measure(sweep: Sweep, plane: Plane) -> Phase:
    """Return a plane's cells and boundaries."""
    fields = (plane.x.field, plane.y.field)
    x, y = (axis.position(sweep.levels(axis.field).astype(float)) for axis in (plane.x, plane.y))
    leads = [np.subtract(*(sweep.by_world(arm, metric, *fields) for arm in ARMS)) for metric in METRICS]
    accuracy, share, predicted = (over_worlds(lead) for lead in leads)
    measured_zeros, predicted_zeros = (
        np.array([boundary(y, row, falls=plane.falls) for row in lead.mean]) for lead in (share, predicted)
    )
    return Phase(x, y, accuracy.scaled(100), share, predicted.mean, measured_zeros, predicted_zeros, len(leads[0]))


def claim(phase: Phase) -> str:
    """Return in how much of the exposure plane which half leads, and how well R5 finds the boundary."""
    signs = phase.share.signs[np.isfinite(phase.share.mean)]
    above, below = (f"{100 * np.mean(signs == sign):.0f} %" for sign in (1, -1))
    text = f"Lesser-known facts cost subject attention in {above} of the plane and add to it in {below}"
    if not np.isfinite(phase.boundary).any():
        return f"{text}; no boundary crosses it"
    if not np.isfinite(phase.distance):
        return f"{text}; the base models alone (R5) do not predict this boundary"
    return f"{text}; the base models alone predict this boundary (R5), to {phase.distance:.2f} doublings of pretraining"


def draw(sweeps: Mapping[str, Sweep]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    phases = {name: measure(sweep, PLANES[name]) for name, sweep in sweeps.items()}
    sentence = claim(phases["phase-exposure"])
    note = style.worlds(phases["phase-exposure"].n_worlds) + " Paired by world. R5: computed before any finetuning."
    if any(np.isnan(phase.share.mean).any() for phase in phases.values()):
        note += " Grey: training diverged."
    n_rows = len(phases)
    grid = {"nrows": n_rows + 1, "ncols": 2, "height_ratios": [*[1] * n_rows, 0.04]}
    figure, axes = style.figure(sentence, note, 0.85 + 2.6 * n_rows, **grid)
    style.headings(axes[:-2], *("accuracy, top − bottom (points)", "subject's share, top − bottom") * n_rows)
    for row, (name, phase) in enumerate(phases.items()):
        pair = axes[2 * row : 2 * row + 2]
        for axis, lead in zip(pair, (phase.accuracy, phase.share), strict=True):
            figure.colorbar(_heat(axis, phase, lead, PLANES[name]), ax=axis, pad=0.02, aspect=25)
        pair[0].set_ylabel(PLANES[name].y.label)
        _caption(pair[1], phase, PLANES[name])
    _keys(axes[-2], axes[-1])
    return sentence, figure


def _heat(axis: Axes, phase: Phase, lead: Interval, plane: Plane):
    """Draw a plane's cells, dots where the lead is not clear, and both zero lines of the share; return the cells."""
    limit = float(np.nanmax(np.abs(lead.mean), initial=0)) or 1.0
    cells = np.ma.masked_invalid(lead.mean.T)
    mesh = axis.pcolormesh(phase.x, phase.y, cells, cmap=style.LEAD, vmin=-limit, vmax=limit, rasterized=True)
    if phase.n_worlds > 1:
        unclear = np.argwhere((lead.signs == 0) & np.isfinite(lead.mean))
        size = min(1.6, 30 / max(lead.mean.shape))
        axis.plot(phase.x[unclear[:, 0]], phase.y[unclear[:, 1]], markersize=size, **DOTS)
    for line, look in ((phase.share.mean, MEASURED), (phase.predicted, PREDICTED)):
        if np.nanmin(line, initial=0) < 0 < np.nanmax(line, initial=0):
            axis.contour(phase.x, phase.y, np.ma.masked_invalid(line.T), levels=[0], **look)
    axis.set_xlabel(f"{plane.x.label}\n\n")  # Room for the caption, which may be wider than the plane.
    if plane.y.is_log:
        ticks = _doublings(2 ** phase.y[0], 2 ** phase.y[-1])
        axis.set_yticks(np.log2(ticks), [f"{tick:,}" for tick in ticks])
    return mesh


def _doublings(low: float, high: float) -> Int[np.ndarray, " tick"]:
    """Return the lowest level and its doublings up to the highest, every other one of many."""
    n_doublings = int(np.log2(high / low) + 1e-6)
    return np.round(low * 2.0 ** np.arange(0, n_doublings + 1, 1 + n_doublings // 7)).astype(int)


def _caption(axis: Axes, phase: Phase, plane: Plane) -> None:
    """Write below the plane how far the zero lines are apart, and how often R5 foresaw the sign."""
    if np.isfinite(phase.distance):
        n_both = int(np.sum(np.isfinite(phase.boundary) & np.isfinite(phase.predicted_boundary)))
        text = f"lines {phase.distance:.2g} {plane.unit} apart (median of {n_both} of {len(phase.x)} columns)"
    else:
        absent = [
            f"no column has {name}"
            for name, line in (("a measured zero", phase.boundary), ("a zero of R5's", phase.predicted_boundary))
            if not np.isfinite(line).any()
        ]
        text = ", ".join(absent) or "no column has both zeros"
    if len(phase.foreseen):
        text += f"\nR5 gives the sign of {100 * phase.foreseen.mean():.0f} % of {len(phase.foreseen)} clear cells"
    offset = {"xycoords": "axes fraction", "xytext": (0, -27), "textcoords": "offset points"}
    axis.annotate(text, (0.5, 0), ha="center", va="top", fontsize=6.5, **offset).set_in_layout(False)


def _keys(left: Axes, right: Axes) -> None:
    """Draw the legend across two empty panels."""
    keys = [
        Line2D([], [], color="black", linewidth=1.6, label="zero line of the lead in share, measured"),
        Line2D([], [], color=PREDICTED["colors"], linestyle=style.PREDICTED_LINE, label="the same, R5's"),
        Line2D([], [], markersize=2, label="95 % interval holds zero", **DOTS),
    ]
    for axis in (left, right):
        axis.set_axis_off()
    left.legend(handles=keys, loc="center left", ncols=3, borderpad=0).set_in_layout(False)
