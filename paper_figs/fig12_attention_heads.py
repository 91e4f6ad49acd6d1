"""Attention to the subject in each head of a small language model, and what finetuning on either half does to it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.errors import InputError
from paper_figs import style
from paper_figs.interval import Interval, number, over_worlds
from paper_figs.load import Experiment, Run
from paper_figs.reads import Read, Rows

ARMS = ("base", "top", "bottom")
ATTENTION = Rows(
    "attention", ("layer", "head", "mean"), {"arm": ARMS, "position": ("prompt_end",), "span": ("subject",)}
)
"""Attention from the last prompt position to the subject, by arm, layer and head."""
READS = (Read("study", "tiny", (ATTENTION,)),)
BASE = style.Look("#555555", "s", ":")
MOST_WRITTEN = 40
"""Cells of a map up to which each bears its number."""


class Heads(NamedTuple):
    """What the figure shows: attention on the subject, heads of a layer in the order of the base model's own."""

    base: Interval
    """[layer head]"""
    gap: Interval
    """Top less bottom [layer head], paired by base model."""
    by_layer: dict[str, Interval]
    """Attention by arm and layer, averaged over heads."""
    gap_by_layer: Interval
    n_worlds: int


def measure(study: Experiment) -> Heads:
    """Return a study's heads.

    Heads of two base models with the same number have nothing in common, so that means over base models are of ranks:
    each base model's heads are ordered within their layer, the one that looks at the subject most first.
    """
    attention = study.by_world(_ordered)
    return Heads(
        over_worlds(attention[:, 0]),
        over_worlds(attention[:, 1] - attention[:, 2]),
        {arm: over_worlds(attention[:, at].mean(axis=-1)) for at, arm in enumerate(ARMS)},
        over_worlds((attention[:, 1] - attention[:, 2]).mean(axis=-1)),
        study.n_worlds,
    )


def claim(heads: Heads) -> str:
    """Return in how many layers and heads lesser-known facts cost attention to the subject, and where most."""
    gap = heads.gap_by_layer
    most = int(np.argmax(np.abs(gap.mean)))
    where = f"most in layer {most + 1}: {gap.at(most).scaled(-1).text(3, signed=True)}"
    if heads.n_worlds < 2:
        lower, n = int(np.sum(heads.gap.mean > 0)), heads.gap.mean.size
        text = f"subject attention is lower after finetuning on lesser-known than on well-known facts in {lower} of {n}"
        return f"In one base model, {text} heads, {where.removesuffix(' in one world')}"
    counted = []
    for name, signs in (("layers", gap.signs), ("heads", heads.gap.signs)):
        adds = f" (and raises it in {np.sum(signs < 0)})" if np.any(signs < 0) else ""
        counted.append(f"{np.sum(signs > 0)} of {signs.size} {name}{adds}")
    text = (
        "Finetuning on lesser-known rather than well-known facts clearly lowers a language model's subject attention in"
    )
    return f"{text} {' and '.join(counted)}; {where}"


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    heads = measure(experiments["tiny"])
    sentence = claim(heads)
    if heads.n_worlds > 1:
        note = (
            f"Mean over {heads.n_worlds} base models, paired; c: 95 % intervals. In brackets: the interval holds zero."
        )
    else:
        note = "One base model: no interval."
    note += (
        " From the last prompt token. Heads of each layer in the order of the base model's attention to the subject:"
    )
    note += " their numbers mean nothing across base models."
    figure, axes = style.figure(sentence, note, 3.0, ncols=3, width_ratios=(1, 1, 0.9))
    style.headings(axes, "base model", "top − bottom", "mean over heads")
    high, limit = float(heads.base.mean.max()), float(np.abs(heads.gap.mean).max()) or 1.0
    maps = ((heads.base, "Greys", (0, 1.1 * high)), (heads.gap, style.LEAD, (-limit, limit)))
    for axis, (shown, colours, limits) in zip(axes, maps, strict=False):
        mesh = axis.imshow(shown.mean, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", origin="lower")
        figure.colorbar(mesh, ax=axis, pad=0.02, aspect=25)
        _cells(axis, shown, signed=limits[0] < 0, dark=0.6 * limits[1])
    _layers(axes[2], heads)
    return sentence, figure


def _ordered(run: Run) -> Float[np.ndarray, "arm layer head"]:
    """Return the attention on the subject, heads in the base model's order; InputError where a head is missing."""
    rows = run.rows(ATTENTION)
    arm, layer, head, mean = (rows[name].to_numpy() for name in ("arm", "layer", "head", "mean"))
    shape = (len(ARMS), int(layer.max(initial=0)) + 1, int(head.max(initial=0)) + 1)
    attention = np.full(shape, np.nan)
    for at, name in enumerate(ARMS):
        attention[at, layer[arm == name], head[arm == name]] = mean[arm == name]
    if np.isnan(attention).any():
        raise InputError(f"{run.path / 'attention.parquet'} lacks heads of an arm.\nMake the run again.")
    order = np.argsort(-attention[0], axis=-1, kind="stable")
    return np.take_along_axis(attention, order[None], axis=-1)


def _cells(axis: Axes, shown: Interval, *, signed: bool, dark: float) -> None:
    """Label the map's sides, and write each cell's number where there is room."""
    n_layers, n_heads = shown.mean.shape
    axis.set(xlabel="head, by rank", ylabel="layer")
    for side, n in ((axis.xaxis, n_heads), (axis.yaxis, n_layers)):
        ticks = np.arange(0, n, 1 + n // 8)
        side.set_ticks(ticks, [str(tick + 1) for tick in ticks])
    if shown.mean.size > MOST_WRITTEN:
        return
    is_unclear = np.isfinite(shown.low) & (shown.signs == 0)
    for layer, head in np.ndindex(shown.mean.shape):
        value = float(shown.mean[layer, head])
        text = number(value, 2, signed=signed)
        text = f"({text})" if is_unclear[layer, head] else text
        axis.text(
            head, layer, text, ha="center", va="center", fontsize=6, color="white" if abs(value) > dark else "black"
        )


def _layers(axis: Axes, heads: Heads) -> None:
    """Draw base, top and bottom by layer."""
    looks = {"base": BASE} | {arm: style.LOOKS[arm] for arm in ("top", "bottom")}
    for shift, (arm, look) in zip((0, -0.12, 0.12), looks.items(), strict=True):
        attention = heads.by_layer[arm]
        place = np.arange(len(attention.mean)) + shift
        style.points(axis, place, attention, look, linestyle=look.line, linewidth=0.9, label=arm)
    n_layers = len(heads.gap_by_layer.mean)
    axis.set(xticks=range(n_layers), xticklabels=[str(layer + 1) for layer in range(n_layers)], xlabel="layer")
    axis.margins(y=0.1)
    axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
    axis.legend(loc="upper left", ncols=3, borderpad=0, columnspacing=0.8, handlelength=1.6, handletextpad=0.4)
