"""Salience against popularity and exposure, with R6's curve."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from core.closed_form import r_squared
from paper_figs import style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Experiment, Run
from paper_figs.reads import Read, Rows

COLUMNS = ("popularity", "exposure", "salience", "predicted_salience")
READS = (Read("experiment", "paper", (Rows("facts", ("subject", "role", *COLUMNS), {"arm": ("base",)}),)),)
N_BINS = 24


class Growth(NamedTuple):
    """What the figure shows, by bin of the subjects' popularity rank; a subject counts as the mean of its facts."""

    rank: Float[np.ndarray, " bin"]
    exposure: Float[np.ndarray, " bin"]
    """Expected number of times that a fact was drawn in pretraining."""
    salience: Interval
    predicted: Interval
    r_squared: Interval
    """The variance over all subjects that the prediction explains, in percent."""
    n_worlds: int


def measure(experiments: Mapping[str, Experiment]) -> Growth:
    """Return the base model's salience in the `paper` world."""
    paper = experiments["paper"]
    subjects = {run.path: _subjects(run) for run in paper.runs}
    edges = _edges(min(len(of_run) for of_run in subjects.values()))
    bins = paper.by_world(lambda run: _binned(subjects[run.path], edges))
    rank, exposure = bins[:, 0].mean(axis=0), bins[:, 1].mean(axis=0)
    fit = over_worlds(paper.by_world(lambda run: r_squared(*subjects[run.path].T[[3, 2]]))).scaled(100)
    return Growth(rank, exposure, over_worlds(bins[:, 2]), over_worlds(bins[:, 3]), fit, paper.n_worlds)


def claim(growth: Growth) -> str:
    """Return how well exposure alone predicts salience."""
    return (
        f"Exposure in pretraining alone explains {growth.r_squared.text(1, ' %')} of the variance of subjects' salience"
    )


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    growth = measure(experiments)
    sentence = claim(growth)
    note = style.worlds(growth.n_worlds) + " Base model; subjects binned by popularity rank."
    figure, axes = style.figure(sentence, note, 2.8, ncols=2)
    style.headings(axes, "salience", "salience, both axes logarithmic")
    axes[1].plot(
        growth.exposure, _linear(growth), color="black", linestyle=(0, (1, 1.5)), label="in proportion to exposure"
    )
    for axis, x in zip(axes, (growth.rank, growth.exposure), strict=True):
        axis.plot(x, growth.predicted.mean, color=style.GREY, linewidth=2, label="R6, from exposure alone")
        style.points(axis, x, growth.salience, style.MEASURED, markersize=3.5, label="measured")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(LogFormatter())
        axis.legend()
    axes[0].set(xlabel="popularity rank of the subject", ylim=(0, None))
    low, high = growth.predicted.mean.min(), growth.predicted.mean.max()
    axes[1].set(xlabel="expected draws of the fact in pretraining", yscale="log", ylim=(low / 1.5, high * 1.8))
    axes[1].yaxis.set_major_formatter(LogFormatter())
    return sentence, figure


def _edges(n_subjects: int) -> Int[np.ndarray, " edge"]:
    """Return the positions that part subjects in order of rank: evenly spaced in logarithms, no bin empty."""
    return np.unique(np.round(np.geomspace(1, n_subjects + 1, N_BINS + 1)).astype(int)) - 1


def _subjects(run: Run) -> Float[np.ndarray, "subject 4"]:
    """Return each subject's means of COLUMNS, the most popular first."""
    facts = run.facts("base", "subject", *COLUMNS)
    _, subject = np.unique(facts["subject"].astype(str), return_inverse=True)
    means = [np.bincount(subject, facts[name]) / np.bincount(subject) for name in COLUMNS]
    return np.stack(means, axis=1)[np.argsort(-means[0], kind="stable")]


def _binned(subjects: Float[np.ndarray, "subject 4"], edges: Int[np.ndarray, " edge"]) -> Float[np.ndarray, "4 bin"]:
    """Return mean rank, exposure, salience and predicted salience by bin."""
    parts = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    ranked = np.column_stack([np.arange(1.0, len(subjects) + 1), subjects[:, 1:]])
    return np.array([ranked[part].mean(axis=0) for part in parts]).T


def _linear(growth: Growth) -> Float[np.ndarray, " bin"]:
    """Return the salience in proportion to exposure that starts where the least exposed facts are."""
    least = int(np.argmin(growth.exposure))
    return growth.predicted.mean[least] * growth.exposure / growth.exposure[least]
