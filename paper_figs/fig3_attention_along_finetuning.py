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
from paper_figs.reads import Read, Rows

COLUMNS = ("step", "subject_share", "predicted_subject_share")
TRACES = (Rows("trace", COLUMNS, {"arm": ARMS}),)
READS = (Read("experiment", "paper", TRACES), Read("experiment", "stored", TRACES, is_required=False))
"""Each experiment has a panel of its own."""


class Paths(NamedTuple):
    """One experiment's shares of attention, by arm and recorded step."""

    step: Float[np.ndarray, " step"]
    measured: dict[str, Interval]
    predicted: dict[str, Interval]
    """R5's shares; nan where it does not apply."""
    end: Interval
    """Top less bottom at the last step, paired by world."""
    predicted_end: Interval
    pretraining_steps: int
    n_worlds: int


def measure(experiment: Experiment) -> Paths:
    """Return an experiment's paths."""
    shares = {arm: experiment.by_world(lambda run, arm=arm: _shares(run, arm)) for arm in ARMS}
    measured, predicted = ({arm: over_worlds(rows[:, at]) for arm, rows in shares.items()} for at in (1, 2))
    end, predicted_end = (over_worlds(shares["top"][:, at, -1] - shares["bottom"][:, at, -1]) for at in (1, 2))
    steps = int(experiment.runs[0].report["config"]["pretrain"]["steps"])
    return Paths(shares["top"][0, 0], measured, predicted, end, predicted_end, steps, experiment.n_worlds)


def claim(paths: Mapping[str, Paths]) -> str:
    """Return how top and bottom end in each experiment, and whether R5 foresaw their order."""
    words = {1: "above", -1: "below", 0: "not clearly apart from"}
    ends = [
        f"{words[path.end.sign]} {'it' if nth else 'bottom'} after {path.pretraining_steps:,}"
        for nth, path in enumerate(paths.values())
    ]
    order = f"top ends {', '.join(ends)} pretraining steps"
    pairs = [(path.end.sign, np.sign(float(path.predicted_end.mean))) for path in paths.values()]
    if any(measured and predicted == -measured for measured, predicted in pairs):
        return f"The base model alone does not predict which half ends with more attention on the subject: {order}"
    if all(measured and predicted == measured for measured, predicted in pairs):
        return f"The base model alone predicts which half ends with more attention on the subject: {order}"
    return f"In the subject's share of attention, {order}"


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    paths = {name: measure(experiment) for name, experiment in experiments.items()}
    sentence = claim(paths)
    note = style.worlds(paths["paper"].n_worlds) + " Measured on held-out facts. R5: computed before any finetuning."
    width = style.WIDTH if len(paths) > 1 else 5.0
    figure, axes = style.figure(sentence, note, 3.0, width=width, ncols=len(paths), sharey=True)
    style.headings(axes, *(f"{name}: {shown.pretraining_steps:,} pretraining steps" for name, shown in paths.items()))
    for axis, shown in zip(axes, paths.values(), strict=True):
        _panel(axis, shown)
    axes[0].set_ylabel("subject's share of attention")
    return sentence, figure


def _shares(run: Run, arm: str) -> Float[np.ndarray, "3 step"]:
    """Return step, measured share and predicted share."""
    trace = run.trace(arm, *COLUMNS)
    return np.array([trace[name] for name in COLUMNS], dtype=float)


def _panel(axis: Axes, paths: Paths) -> None:
    for arm in ARMS:
        style.path(axis, paths.step, paths.measured[arm], style.LOOKS[arm], label=arm)
    for arm in ARMS:
        label = "R5, each arm" if arm == ARMS[0] else None
        axis.plot(paths.step, paths.predicted[arm].mean, color="black", linewidth=0.7, label=label)
    axis.set_xlabel("finetuning step")
    axis.legend(loc="lower right")
