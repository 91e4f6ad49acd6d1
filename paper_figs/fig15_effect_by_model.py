"""The effect from the toy to published models: accuracy, attention and generic answers, top half less bottom half."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Experiment, Run
from paper_figs.reads import Read
from paper_figs.style import Look

TOY = "paper"
MODELS = {
    TOY: "toy",
    "tiny": "1 million,\nsynthetic",
    "tiny-popqa": "1 million,\nPopQA",
    "tiny-entity-questions": "1 million,\nEntityQ.",
    "smollm2-135m-entity-questions": "135 million,\nEntityQ.",
    "gemma-3-270m-entity-questions": "270 million,\nEntityQ.",
}
"""The models by what they were tested on, in the order of their parameters."""
READS = tuple(
    Read("experiment" if name == TOY else "study", name, is_required=name in (TOY, "tiny")) for name in MODELS
)
GAP = {"top": 1.0, "bottom": -1.0}
PRETRAINED_HERE, PUBLISHED = Look(style.LOOKS["top"].colour, "o", "-"), Look(style.LOOKS["bottom"].colour, "D", "-")


class Effect(NamedTuple):
    """Top half less bottom half."""

    accuracy: Interval
    """In points."""
    attention: Interval
    """To the subject, in percent of the base model's."""
    generic: Interval
    """Answers that are the relation's most frequent in the arm, in points."""
    is_published: bool


def measure(experiment: Experiment) -> Effect:
    """Return the effect in one model."""
    generic = "generic_rate_arm" if experiment.name == TOY else "generic_rate"
    return Effect(
        accuracy=experiment.interval("accuracy", GAP).scaled(100),
        attention=_relative(experiment).scaled(100),
        generic=experiment.interval(generic, GAP).scaled(100),
        is_published=experiment.is_published,
    )


def _relative(experiment: Experiment) -> Interval:
    """Return the gap in attention to the subject, relative to the base model's."""
    if experiment.is_published and experiment.contrasts.known:
        found = experiment.contrasts.ratio("subject_attention", GAP, {"base": 1.0})
        return Interval(*(np.asarray(end) for end in found))

    def relative(run: Run) -> float:
        top, bottom, base = (run.metric(arm, "subject_attention") for arm in ("top", "bottom", "base"))
        return (top - bottom) / base

    if experiment.is_published:
        return over_worlds(np.array([relative(run) for run in experiment.runs]))
    return over_worlds(experiment.by_world(relative))


def claim(effects: Mapping[str, Effect]) -> str:
    """Return in how many models each of the theory's signs is seen, of those with several worlds or splits."""
    counted = [effect for effect in effects.values() if np.isfinite(effect.accuracy.low)]
    n = len(counted)

    def seen(name: str, sign: int) -> int:
        return sum(getattr(effect, name).sign == sign for effect in counted)

    rest = f" ({len(effects) - n} more in one world alone)" if n < len(effects) else ""
    agree, against = seen("generic", -1), seen("generic", 1)
    return (
        f"Lesser-known facts cost accuracy in {seen('accuracy', 1)} of {n} models{rest} and attention to the subject "
        f"in {seen('attention', 1)}; they make answers more generic in {agree}, and less generic in {against}"
    )


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    effects = {name: measure(experiments[name]) for name in MODELS if name in experiments}
    sentence = claim(effects)
    note = "Top half less bottom half, mean and 95 % interval over worlds or base models (circles), of a published "
    published = [experiments[name] for name, effect in effects.items() if effect.is_published]
    counted = " or ".join(dict.fromkeys(one.contrasts.counted for one in published))
    note += f"model over {counted} (diamonds). " if counted else "model (diamonds). "
    note += "By parameters of the model; the small Llamas are pretrained here."
    figure, axes = style.figure(sentence, note, 3.2, ncols=3)
    style.headings(axes, "held-out accuracy", "attention to the subject", "generic answers")
    labels = ("points", "% of the base model's", "points")
    for axis, name, label in zip(axes, ("accuracy", "attention", "generic"), labels, strict=True):
        _panel(axis, effects, name, label)
    style.rows(axes, [MODELS[model] for model in effects])
    return sentence, figure


def _panel(axis: Axes, effects: Mapping[str, Effect], name: str, label: str) -> None:
    for place, effect in enumerate(effects.values()):
        gap, look = getattr(effect, name), PUBLISHED if effect.is_published else PRETRAINED_HERE
        settings = {"color": look.colour, "marker": look.marker, "markersize": 4, "elinewidth": 0.9}
        axis.errorbar(float(gap.mean), place, xerr=style.bars(gap), linestyle="none", **settings)
    axis.axvline(0, color=style.GREY, linewidth=0.7)
    axis.set_xlabel(f"top − bottom, {label}")
