"""The subject's share of attention along finetuning, with R5's curves from the base model alone."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import ARMS, Experiment, Run

NEEDS = ("paper",)
WANTS = ("stored",)
"""A second panel, where its runs are there."""


class Paths(NamedTuple):
    """One experiment's shares of attention, by arm and recorded step."""

    step: Float[np.ndarray, " step"]
    measured: dict[str, Interval]
    predicted: dict[str, Interval]
    """R5's; nan where it does not apply."""
    end: Interval
    """Top less bottom at the last step, paired by world."""
    predicted_end: Interval
    pretraining_steps: int
    n_worlds: int


def measure(experiment: Experiment) -> Paths:
    """Return an experiment's paths."""
    found = {arm: experiment.by_world(lambda run, arm=arm: _shares(run, arm)) for arm in ARMS}
    measured, predicted = ({arm: over_worlds(rows[:, at]) for arm, rows in found.items()} for at in (1, 2))
    end, predicted_end = (over_worlds(found["top"][:, at, -1] - found["bottom"][:, at, -1]) for at in (1, 2))
    steps = int(experiment.runs[0].report["config"]["pretrain"]["steps"])
    return Paths(found["top"][0, 0], measured, predicted, end, predicted_end, steps, experiment.n_worlds)


def claim(paths: Mapping[str, Paths]) -> str:
    """Return how top and bottom end in each experiment, and whether R5 foresaw their order."""
    words = {1: "above", -1: "below", 0: "not clearly apart from"}
    ends = [
        f"{words[one.end.sign]} {'it' if nth else 'bottom'} after {one.pretraining_steps:,}"
        for nth, one in enumerate(paths.values())
    ]
    told = f"top ends {', '.join(ends)} pretraining steps"
    pairs = [(one.end.sign, np.sign(float(one.predicted_end.mean))) for one in paths.values()]
    if any(measured and predicted == -measured for measured, predicted in pairs):
        return f"The base model alone does not predict which half ends with more attention on the subject: {told}"
    if all(measured and predicted == measured for measured, predicted in pairs):
        return f"The base model alone predicts which half ends with more attention on the subject: {told}"
    return f"In the subject's share of attention, {told}"


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    paths = {name: measure(experiments[name]) for name in (*NEEDS, *WANTS) if name in experiments}
    sentence = claim(paths)
    note = style.worlds(paths["paper"].n_worlds) + " Measured on held-out facts. R5: computed before any finetuning."
    width = style.WIDTH if len(paths) > 1 else 5.0
    made, axes = style.figure(sentence, note, 3.0, width=width, ncols=len(paths), sharey=True)
    style.headings(axes, *(f"{name}: {one.pretraining_steps:,} pretraining steps" for name, one in paths.items()))
    for axis, one in zip(axes, paths.values(), strict=True):
        _panel(axis, one)
    axes[0].set_ylabel("subject's share of attention")
    return sentence, made


def _shares(run: Run, arm: str) -> Float[np.ndarray, "3 step"]:
    """Return step, measured share and predicted share."""
    columns = ("step", "subject_share", "predicted_subject_share")
    trace = run.trace(arm, *columns)
    return np.array([trace[name] for name in columns], dtype=float)


def _panel(axis: Axes, paths: Paths) -> None:
    for arm in ARMS:
        style.path(axis, paths.step, paths.measured[arm], style.LOOKS[arm], label=arm)
    for arm in ARMS:
        label = "R5, each arm" if arm == ARMS[0] else None
        axis.plot(paths.step, paths.predicted[arm].mean, color="black", linewidth=0.7, label=label)
    axis.set_xlabel("finetuning step")
    axis.legend(loc="lower right")
