"""Published models: what finetuning on facts costs by how well they are known and how rare their answers are."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.arms import CONTRASTS, KNOWNNESS, RARITY
from paper_figs import style
from paper_figs.interval import Interval
from paper_figs.load import Experiment
from paper_figs.reads import Read
from paper_figs.style import Look

CROSSED, OTHER = "smollm2-135m-entity-questions", "gemma-3-270m-entity-questions"
READS = (Read("study", CROSSED), Read("study", OTHER, is_required=False))
TITLES = {CROSSED: "SmolLM2-135M", OTHER: "Gemma 3 270M"}
ARMS = {
    "top": "top half",
    "whole": "whole",
    "random": "random half",
    "bottom": "bottom half",
    "common": "common answers",
    "rare": "rare answers",
    "top_matched": "top, matched",
    "bottom_matched": "bottom, matched",
    "known_common": "known, common",
    "known_rare": "known, rare",
    "unknown_common": "unknown, common",
    "unknown_rare": "unknown, rare",
    "size_25": "25 % at random",
    "size_10": "10 % at random",
    "size_5": "5 % at random",
}
"""The arms in the order in which they are shown."""
SIZES = ("size_25", "size_10", "size_5")
LABELLED = ("top", "bottom", "rare", "known_rare", "known_common", "unknown_rare", "unknown_common", "size_5")
"""The arms that are named in the panel of attention; to name all would be a thicket."""
ANSWERS = ("common", "rare")
LOOKS = {"known": style.LOOKS["top"], "unknown": style.LOOKS["bottom"]}
MODELS = {CROSSED: Look("black", "o", "-"), OTHER: Look(style.GREY, "s", "-")}


class Model(NamedTuple):
    """What the figure shows of a model, by arm."""

    accuracy: dict[str, Interval]
    """In percent."""
    attention: dict[str, Interval]
    contrasts: dict[str, Interval]
    """Effects of knownness, rarity and both on accuracy, in points; empty where they were not crossed."""
    counted: str
    """What the intervals count."""


def measure(experiment: Experiment) -> Model:
    """Return the finished arms of a study."""
    arms = [arm for arm in ARMS if all(arm in run.report["metrics"] for run in experiment.runs)]
    contrasts = {name: weights for name, weights in CONTRASTS.items() if set(weights) <= set(arms)}
    return Model(
        {arm: experiment.interval("accuracy", {arm: 1.0}).scaled(100) for arm in arms},
        {arm: experiment.interval("subject_attention", {arm: 1.0}) for arm in arms},
        {name: experiment.interval("accuracy", weights).scaled(100) for name, weights in contrasts.items()},
        experiment.contrasts.counted,
    )


def claim(model: Model) -> str:
    """Return what knownness and rarity each do, and whether rare answers help as the toy says."""
    known, rare = model.contrasts[KNOWNNESS], model.contrasts[RARITY]
    verdict = {1: "help, as the toy says", -1: "cost, against the toy", 0: "do nothing clear"}[int(rare.signs)]
    return (
        f"On a published model both count: well-known facts are worth {known.text(1, ' points', signed=True)}, "
        f"and rare answers {verdict} ({rare.text(1, signed=True)})"
    )


def draw(studies: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    models = {name: measure(study) for name, study in studies.items()}
    crossed = models[CROSSED]
    sentence = claim(crossed)
    counted = " or ".join(dict.fromkeys(model.counted for model in models.values()))
    note = f"EntityQuestions, all weights finetuned. Mean and 95 % interval over {counted}; "
    note += (
        "c: means. Known, unknown: halves by the answer's log-probability after five examples; common, rare: by how "
    )
    note += "many training facts of the relation have the answer; matched: halves with equally frequent answers."
    figure, axes = style.figure(sentence, note, 3.7, rows=[[1.0, 0.9, 1.15]])
    style.headings(axes, "accuracy by arm", f"crossed, {TITLES[CROSSED]}", f"attention, {TITLES[CROSSED]}")
    _by_arm(axes[0], models)
    _crossing(axes[1], crossed)
    _attention(axes[2], crossed)
    return sentence, figure


def _by_arm(axis: Axes, models: Mapping[str, Model]) -> None:
    for name, model in models.items():
        for arm, accuracy in model.accuracy.items():
            place = list(ARMS).index(arm) + (0.0 if name == CROSSED else 0.25)
            look = {"color": MODELS[name].colour, "marker": MODELS[name].marker, "markersize": 3.5, "elinewidth": 0.9}
            axis.errorbar(float(accuracy.mean), place, xerr=style.bars(accuracy), linestyle="none", **look)
    axis.annotate(TITLES[CROSSED], (float(models[CROSSED].accuracy["top"].mean), -0.6), ha="center", fontsize=6)
    if OTHER in models:
        place = (float(models[OTHER].accuracy["top"].low) - 1, 0.3)
        axis.annotate(TITLES[OTHER], place, ha="right", va="center", fontsize=6, color=MODELS[OTHER].colour)
    axis.set(yticks=range(len(ARMS)), yticklabels=list(ARMS.values()), ylim=(len(ARMS) - 0.5, -1.4))
    axis.set_xlabel("held-out accuracy, %")


def _crossing(axis: Axes, model: Model) -> None:
    for known, look in LOOKS.items():
        means = [model.accuracy[f"{known}_{answer}"] for answer in ANSWERS]
        axis.plot(range(2), [float(mean.mean) for mean in means], color=look.colour, linestyle=look.line)
        for at, mean in enumerate(means):
            style.points(axis, [at], mean, look)
        axis.annotate(f"{known} facts", (0.45, float(means[0].mean)), color=look.colour)
    axis.set(xticks=range(2), xticklabels=ANSWERS, xlim=(-0.3, 1.3), xlabel="answers finetuned on")
    axis.set_ylabel("held-out accuracy, %")


def _attention(axis: Axes, model: Model) -> None:
    for arm, attention in model.attention.items():
        place = (float(attention.mean), float(model.accuracy[arm].mean))
        look = style.LOOKS.get(arm, Look(style.GREY if arm in SIZES else "black", "x" if arm in SIZES else ".", "-"))
        axis.plot(*place, color=look.colour, marker=look.marker, markersize=5)
        if arm in LABELLED:
            right = place[0] > np.mean([other.mean for other in model.attention.values()])
            below = -9 if arm != "unknown_rare" else 4
            offset, side = ((-4, below), "right") if right else ((4, below), "left")
            axis.annotate(ARMS[arm], place, xytext=offset, textcoords="offset points", fontsize=6, ha=side)
    axis.set(xlabel="attention to the subject", ylabel="held-out accuracy, %")
    axis.margins(x=0.12, y=0.12)
