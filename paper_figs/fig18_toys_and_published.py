"""What tells knownness from rarity in toys, a small Llama and a published model: who has that model's signs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.arms import CONTRASTS, KNOWNNESS, MATCHED, RARITY
from paper_figs import style
from paper_figs.interval import Interval
from paper_figs.load import Experiment
from paper_figs.reads import Read
from paper_figs.style import Look

PUBLISHED = "smollm2-135m-entity-questions"
TOYS = {
    "crossed": "attention alone moves",
    "interference": "superposition, values move",
    "deep-attention": "two layers, no MLP",
    "deep-1": "one layer, MLP",
    "deep-2": "two layers, MLPs",
}
"""From the theory's own to the one that is most like a language model."""
SMALL = "tiny-crossed"
LABELS = TOYS | {SMALL: "a small Llama"}
READS = (
    *(Read("experiment", name, is_required=name in ("crossed", "deep-2")) for name in TOYS),
    Read("study", SMALL, is_required=False),
    Read("study", PUBLISHED),
)
ROWS = {
    "top − bottom": {"top": 1.0, "bottom": -1.0},
    "the same, answers matched": MATCHED,
    KNOWNNESS: CONTRASTS[KNOWNNESS],
    RARITY: CONTRASTS[RARITY],
}
METRICS = {"accuracy": "held-out accuracy", "retention": "facts that the base knows", "subject_attention": "attention"}
LOOKS = dict(zip(LABELS, style.series(len(LABELS)), strict=True)) | {
    PUBLISHED: Look(style.LOOKS["bottom"].colour, "*", "-")
}
Measured = dict[str, dict[str, Interval]]
"""By metric and row, in points."""


def measure(experiment: Experiment) -> Measured:
    """Return the contrasts of an experiment's arms."""
    return {
        metric: {row: experiment.interval(metric, weights).scaled(100) for row, weights in ROWS.items()}
        for metric in METRICS
    }


def claim(models: Mapping[str, Measured]) -> str:
    """Return how many of the published model's signs each of the others has."""
    wanted = models[PUBLISHED]
    cells = [(metric, row) for metric in METRICS for row in ROWS if wanted[metric][row].sign]

    def agreeing(name: str) -> int:
        return sum(models[name][metric][row].sign == wanted[metric][row].sign for metric, row in cells)

    counted = ", ".join(f"{agreeing(name)} ({label})" for name, label in LABELS.items() if name in models)
    return f"Of {len(cells)} clear signs of a published model, shown by others: {counted}"


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    models = {name: measure(experiments[name]) for name in LOOKS if name in experiments}
    sentence = claim(models)
    note = (
        "Differences between arms, in points: mean and 95 % interval over worlds or base models, of SmolLM2-135M over "
        f"{experiments[PUBLISHED].contrasts.counted}. "
    )
    note += "Known and unknown halves, rare and common answers are crossed in four arms of equal size. Facts that the "
    note += "base knows: accuracy on them."
    figure, axes = style.figure(sentence, note, 3.9, ncols=len(METRICS))
    style.headings(axes, *METRICS.values())
    for axis, metric in zip(axes, METRICS, strict=True):
        _panel(axis, {name: measured[metric] for name, measured in models.items()})
    style.rows(axes, [row.replace(", of", ",\nof").replace(", answers", ",\nanswers") for row in ROWS])
    # Below the middle panel, in the lines that its label leaves free: a legend in the layout would widen the panel.
    axes[1].set_xlabel("points\n\n\n")
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.3, -0.18), ncols=3, fontsize=6.5).set_in_layout(False)
    return sentence, figure


def _panel(axis: Axes, models: Mapping[str, Mapping[str, Interval]]) -> None:
    for offset, (name, rows) in zip(np.linspace(-0.3, 0.3, len(models)), models.items(), strict=True):
        look, label = LOOKS[name], LABELS.get(name, "SmolLM2-135M")
        for place, gap in enumerate(rows.values()):
            settings = {"color": look.colour, "marker": look.marker, "markersize": 4, "elinewidth": 0.9}
            settings["label"] = label if place == 0 else None
            axis.errorbar(float(gap.mean), place + offset, xerr=style.bars(gap), linestyle="none", **settings)
    axis.axvline(0, color=style.GREY, linewidth=0.7)
    axis.set_xlabel("points")
