"""Held-out accuracy and subject attention by arm, and the gap between the halves in every experiment."""

from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_figs import style
from paper_figs.interval import Interval, effects, number, over_worlds
from paper_figs.load import ARMS, Experiment
from paper_figs.reads import EVERY, Read

READS = (Read("experiment", "paper"), Read("experiment", EVERY, is_required=False))
KNOWN = ("paper", "everything", "value-share", "superposition", "popqa", "popqa-bare", "stored", "same-format")
"""The first experiments of panel c, from above; others follow by name."""


class Effect(NamedTuple):
    """What the figure shows; accuracies in percent, gaps top less bottom and paired by world."""

    accuracy: dict[str, Interval]
    attention: dict[str, Interval]
    accuracy_gap: Interval
    attention_gap: Interval
    gaps: dict[str, Interval]
    """The gap in accuracy, by experiment."""
    n_worlds: dict[str, int]


def measure(experiments: Mapping[str, Experiment]) -> Effect:
    """Return the `paper` world's arms and every experiment's gap."""
    paper = experiments["paper"]
    arms = ("base", *ARMS)
    names = sorted(experiments, key=lambda name: (KNOWN.index(name) if name in KNOWN else len(KNOWN), name))
    gaps = {name: _gap(experiments[name], "accuracy").scaled(100) for name in names}
    return Effect(
        {arm: over_worlds(paper.metric(arm, "accuracy")).scaled(100) for arm in arms},
        {arm: over_worlds(paper.metric(arm, "subject_attention")) for arm in arms},
        gaps["paper"],
        _gap(paper, "subject_attention"),
        gaps,
        {name: experiments[name].n_worlds for name in names},
    )


def claim(effect: Effect) -> str:
    """Return what finetuning on the lesser-known half does to accuracy and attention, as the intervals allow."""
    what_it_does = effects(effect.accuracy_gap, effect.attention_gap)
    return f"Finetuning on lesser-known rather than well-known facts {what_it_does}"


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    effect = measure(experiments)
    note = style.worlds(effect.n_worlds["paper"]) + " Gaps are paired by world." + _other_counts(effect.n_worlds)
    sentence = claim(effect)
    figure, axes = style.figure(sentence, note, 2.7, ncols=3, width_ratios=(1, 1, 1.1))
    style.headings(axes, "held-out accuracy (%)", "attention on the subject", "accuracy, top − bottom (points)")
    _arms(axes[0], effect.accuracy, 1)
    _arms(axes[1], effect.attention, 2)
    _forest(axes[2], effect.gaps)
    return sentence, figure


def _gap(experiment: Experiment, metric: str) -> Interval:
    return over_worlds(experiment.metric("top", metric) - experiment.metric("bottom", metric))


def _arms(axis: Axes, intervals: Mapping[str, Interval], digits: int) -> None:
    """Draw one point for each arm, and the base's number as text: its point would flatten the others."""
    for at, arm in enumerate(ARMS):
        style.points(axis, [at], intervals[arm], style.LOOKS[arm], markersize=5)
    base = number(float(intervals["base"].mean), digits)
    axis.text(0.03, 0.03, f"before finetuning: {base}", transform=axis.transAxes, fontsize=7)
    axis.set(xlim=(-0.5, len(ARMS) - 0.5), xticks=range(len(ARMS)), xticklabels=ARMS, xlabel="facts finetuned on")
    axis.tick_params(axis="x", labelsize=6.5)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.margins(y=0.2)


def _forest(axis: Axes, gaps: Mapping[str, Interval]) -> None:
    """Draw each experiment's gap beside a line at zero, and its numbers on the right."""
    axis.axvline(0, color=style.GREY, linewidth=0.6)
    for at, gap in enumerate(gaps.values()):
        axis.errorbar(
            gap.mean, at, xerr=style.bars(gap), color="black", marker="o", elinewidth=0.9, markersize=3.5, capsize=0
        )
        right = axis.get_yaxis_transform()
        axis.text(1.03, at, gap.text(1, signed=True), transform=right, va="center", ha="left", fontsize=7)
    axis.set(yticks=range(len(gaps)), yticklabels=list(gaps), ylim=(len(gaps) - 0.5, -0.5))


def _other_counts(n_worlds: Mapping[str, int]) -> str:
    others = [f"{name} {n}" for name, n in n_worlds.items() if n != n_worlds["paper"]]
    return f" Worlds in c, where their number differs: {', '.join(others)}." if others else ""
