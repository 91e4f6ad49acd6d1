"""The effect in small transformers of one to four layers, and the layers in which attention to the subject changes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.errors import InputError
from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Experiment, Run
from paper_figs.reads import Read, Rows

LABELS = {"deep-1": "1", "deep-2": "2", "deep-3": "3", "deep-4": "4", "deep-names": "2\nnames"}
HALVES = ("top", "bottom")
ATTENTION = Rows(
    "attention",
    ("layer", "head", "mean"),
    {"arm": ("base", *HALVES), "position": ("prompt_end",), "span": ("subject",)},
)
"""Attention from the last position to the subject, by arm, layer and head."""
READS = tuple(Read("experiment", name, (ATTENTION,), is_required=name == "deep-1") for name in LABELS)


class Depth(NamedTuple):
    """What the figure shows of one network."""

    gap: Interval
    """Held-out accuracy, top less bottom, in percentage points, paired by world."""
    attention_gap: Interval
    """Attention on the subject, top less bottom, averaged over layers and heads."""
    change: dict[str, Interval]
    """Attention on the subject less the base's, by half and layer, averaged over heads."""
    n_worlds: int


def measure(experiment: Experiment) -> Depth:
    """Return one network's effects."""
    attention = experiment.by_world(_by_layer)
    return Depth(
        over_worlds(experiment.metric("top", "accuracy") - experiment.metric("bottom", "accuracy")).scaled(100),
        over_worlds(experiment.metric("top", "subject_attention") - experiment.metric("bottom", "subject_attention")),
        {half: over_worlds(attention[:, 1 + at] - attention[:, 0]) for at, half in enumerate(HALVES)},
        experiment.n_worlds,
    )


def claim(depths: Mapping[str, Depth]) -> str:
    """Return in how many networks finetuning on lesser-known facts costs accuracy, and in how many attention."""
    counted = []
    for gaps in ([depth.gap for depth in depths.values()], [depth.attention_gap for depth in depths.values()]):
        costs, adds = (sum(gap.sign == sign for gap in gaps) for sign in (1, -1))
        counted.append(f"{costs} of {len(gaps)}" + (f" (and adds in {adds})" if adds else ""))
    largest = max(depths, key=lambda name: abs(float(depths[name].gap.mean)))
    size = depths[largest].gap.text(1, " points", signed=True)
    return (
        f"In small transformers, finetuning on lesser-known facts clearly costs held-out accuracy in {counted[0]} and "
        f"subject attention in {counted[1]}; the largest gap is {largest}'s, {size}"
    )


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    depths = {name: measure(experiment) for name, experiment in experiments.items()}
    sentence = claim(depths)
    counts = {depth.n_worlds for depth in depths.values()}
    note = style.worlds(max(counts)) + (f" In some networks {min(counts)}." if len(counts) > 1 else "")
    note += " Gaps: top − bottom, paired by world. Attention: from the last token to the subject, averaged over heads"
    note += " and in b over layers. names: subjects of two tokens, each shared with other subjects."
    figure, axes = style.figure(sentence, note, 2.8, ncols=3, width_ratios=(1, 1, 1.9))
    style.headings(axes, "accuracy gap (points)", "attention gap", "attention, less the base's")
    _by_depth(axes[0], {name: depth.gap for name, depth in depths.items()})
    _by_depth(axes[1], {name: depth.attention_gap for name, depth in depths.items()})
    _layers(axes[2], depths)
    return sentence, figure


def _by_layer(run: Run) -> Float[np.ndarray, "3 layer"]:
    """Return the attention on the subject of base, top and bottom, averaged over heads."""
    rows = run.rows(ATTENTION)
    arm, layer, mean = (rows[name].to_numpy() for name in ("arm", "layer", "mean"))
    n_layers = int(layer.max(initial=0)) + 1
    means = []
    for name in ("base", *HALVES):
        n_heads = np.bincount(layer[arm == name], minlength=n_layers)
        if not n_heads.all():
            raise InputError(f"{run.path / 'attention.parquet'} lacks layers of {name}.\nMake the run again.")
        means.append(np.bincount(layer[arm == name], mean[arm == name]) / n_heads)
    return np.array(means)


def _by_depth(axis: Axes, gaps: Mapping[str, Interval]) -> None:
    """Draw one point for each network."""
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    for at, gap in enumerate(gaps.values()):
        style.points(axis, [at], gap, style.MEASURED, markersize=4.5)
    axis.set(xlim=(-0.5, len(gaps) - 0.5), xticks=range(len(gaps)), xticklabels=[LABELS[name] for name in gaps])
    axis.set_xlabel("layers")
    axis.margins(y=0.15)


def _layers(axis: Axes, depths: Mapping[str, Depth]) -> None:
    """Draw the networks side by side, each layer by layer."""
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    start, ticks, labels = 0.0, [], []
    above = axis.get_xaxis_transform()
    for name, depth in depths.items():
        place = start + np.arange(len(depth.change["top"].mean))
        for half, shift in zip(HALVES, (-0.1, 0.1), strict=True):
            look, label = style.LOOKS[half], half if not ticks else None
            style.points(axis, place + shift, depth.change[half], look, linestyle=look.line, linewidth=0.9, label=label)
        axis.text(place.mean(), 0.99, LABELS[name], ha="center", va="top", fontsize=7, transform=above)
        if ticks:
            axis.axvline(start - 0.9, color=style.PALE, linewidth=0.8)
        ticks += list(place)
        labels += [f"{layer + 1}" for layer in range(len(place))]
        start = place[-1] + 1.8
    axis.set(xticks=ticks, xticklabels=labels, xlabel="layer")
    axis.margins(y=0.2)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=2, handlelength=1.6, columnspacing=1)
