"""What of the gap between the halves' models moves when one is given the other's attention, outputs or weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core import shares
from core.shares import Share
from paper_figs import style
from paper_figs.interval import Interval, number
from paper_figs.load import Experiment
from paper_figs.reads import Read, Rows
from paper_figs.style import Look

TOY, DEEP = "everything", "deep-2"
MODELS = {
    TOY: "the toy",
    DEEP: "the deep toy",
    "tiny-mediation": "a small Llama",
    "smollm2-135m-entity-questions-mediation": "SmolLM2-135M",
}
"""The models in the order of their parameters; of the toy the one whose attention and values are both finetuned,
and the deep one of two layers."""
READS = tuple(
    Read(
        "experiment" if name in (TOY, DEEP) else "study",
        name,
        (Rows("mediation", shares.READ),),
        is_required=name in (TOY, "tiny-mediation"),
    )
    for name in MODELS
)
ROWS = {
    "attention@subject": "attention to the subject",
    "attention@all": "all attention",
    "value@subject": "values at the subject",
    "value@end": "values at the prompt's end",
    "mlp@subject_last": "MLP outputs at the subject's end",
    "mlp@end": "MLP outputs at the prompt's end",
    "layer@subject": "layers' outputs at the subject",
    "query_key": "weights: query and key",
    "value_output": "weights: value and output",
    "mlp": "weights: MLP",
    "query_key+value_output": "weights: all of attention",
    "value_output+mlp": "weights: value, output and MLP",
    "embeddings": "weights: embeddings",
}
"""Interventions from the top of the figure to its bottom: activations, then weights."""
OF_TOY = {"query_key": "attention@all", "value_output": "value@all"}
"""In the toy all attention is W_KQ's and all values are W_V's."""
GIVEN = {
    ("bottom", "top"): Look(style.LOOKS["top"].colour, "o", "-"),
    ("top", "bottom"): Look(style.LOOKS["bottom"].colour, "D", "-"),
}
"""Receiver and donor, and how they are drawn."""
RANGE = (-0.75, 1.75)
"""Shares that are shown; what lies beyond is drawn at the edge."""


def measure(experiment: Experiment) -> dict[tuple[str, str], dict[str, Share]]:
    """Return the shares by receiver and donor, and by row."""
    found: dict[tuple[str, str], dict[str, Share]] = {pair: {} for pair in GIVEN}
    for share in shares.of_runs(experiment.runs):
        for row in ROWS:
            name = OF_TOY.get(row, row) if experiment.name == TOY else row
            if share.intervention == name and (share.receiver, share.donor) in found:
                found[share.receiver, share.donor][row] = share
    return found


def claim(models: Mapping[str, dict[tuple[str, str], dict[str, Share]]]) -> str:
    """Return what attention and the MLP's weights move in each model, the bottom half's given the top half's."""

    def listed(row: str) -> str:
        moved = {name: given["bottom", "top"].get(row) for name, given in models.items()}
        parts = [f"{number(100 * one.share.mean, 0)} % in {MODELS[name]}" for name, one in moved.items() if one]
        return _joined(parts)

    sentence = f"Of the gap, giving the bottom half's model the top half's attention moves {listed('attention@all')}"
    weights = listed("mlp")
    return f"{sentence}; giving it the MLP's weights, {weights}" if weights else sentence


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    measured = {name: measure(experiments[name]) for name in MODELS if name in experiments}
    models = {name: given for name, given in measured.items() if given["bottom", "top"]}
    sentence = claim(models)
    note = "Share of the gap in held-out accuracy between the two halves' models that moves when one is given the "
    note += "other's (0: nothing, 1: all; shares need not add up). Circles: bottom given top's; diamonds: top given "
    note += f"bottom's. 95 % intervals over worlds or base models{_counted(experiments)}; what lies "
    note += "beyond the axis is an arrow. Hollow: no interval, or an unbounded one, as there may be no gap. "
    note += "In the toy, query and key are all of attention, value and output all values."
    figure, axes = style.figure(sentence, note, 4.4, ncols=len(models))
    style.headings(axes, *(MODELS[name] for name in models))
    for axis, given in zip(axes, models.values(), strict=True):
        _panel(axis, given)
    style.rows(axes, list(ROWS.values()))
    return sentence, figure


def _counted(experiments: Mapping[str, Experiment]) -> str:
    """Return what the intervals of published models count, for the note."""
    published = [one for one in experiments.values() if one.is_published]
    if not published:
        return ""
    is_known = all(shares.covariances(one.runs) for one in published)
    return ", of SmolLM2-135M over subjects" + (
        ", which its splits share" if is_known else ", its splits taken for independent"
    )


def _panel(axis: Axes, given: Mapping[tuple[str, str], Mapping[str, Share]]) -> None:
    for offset, (pair, look) in zip((-0.15, 0.15), GIVEN.items(), strict=True):
        for place, row in enumerate(ROWS):
            if row in given[pair]:
                share = given[pair][row].share
                mean, is_bounded = float(np.clip(share.mean, *RANGE)), np.isfinite(share.low)
                shown = share if is_bounded else (share.mean,) * 3
                bars = style.bars(Interval(*(np.clip(np.asarray(end), *RANGE) for end in shown)))
                marker = look.marker if mean == share.mean else "<" if mean == RANGE[0] else ">"
                settings = {"color": look.colour, "marker": marker, "markersize": 3.5, "elinewidth": 0.9}
                face = look.colour if is_bounded else "white"
                axis.errorbar(mean, place + offset, xerr=bars, linestyle="none", mfc=face, **settings)
    for at in (0, 1):
        axis.axvline(at, color=style.GREY, linewidth=0.7)
    first_weight = next(place for place, row in enumerate(ROWS) if "@" not in row)
    axis.axhline(first_weight - 0.5, color=style.PALE, linewidth=0.7)
    axis.set(xlim=(RANGE[0] - 0.05, RANGE[1] + 0.05), xlabel=f"share of a gap\nof {_gap(given)}")


def _gap(given: Mapping[tuple[str, str], Mapping[str, Share]]) -> str:
    gap = next(iter(given["bottom", "top"].values())).gap
    return f"{100 * gap:.1f} points"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
