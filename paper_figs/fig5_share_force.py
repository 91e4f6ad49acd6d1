"""Each fact's push on the subject's share against its salience's distance from R2's threshold, before and after."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figs import style
from paper_figs.interval import Interval, number, over_worlds
from paper_figs.load import Experiment, Run
from paper_figs.reads import Read, Rows

HALVES = ("top", "bottom")
COLUMNS = ("fact", "salience", "salience_threshold", "share_force")
READS = (
    Read(
        "experiment",
        "paper",
        (
            Rows("facts", COLUMNS, {"arm": ("base",), "role": ("train",)}),
            Rows("facts", COLUMNS, {"arm": HALVES, "role": ("train",), "in_arm": (True,)}),
        ),
    ),
)
EDGES = np.arange(-24.0, 25.0, 2.0)
"""Edges of the bins in which means are taken, in units of salience."""
MIN_FACTS = 10
"""A bin with fewer facts in some world shows no mean."""


class Cloud(NamedTuple):
    """One half's facts, at the attention of one model."""

    distance: Float[np.ndarray, " fact"]
    """Salience less its threshold, in the first run: the dots."""
    force: Float[np.ndarray, " fact"]
    binned: Interval
    """Mean force by bin; nan where there are too few facts."""
    mean: Float[np.ndarray, " world"]
    """Mean force over all facts."""
    above: Interval
    """Share of facts above their threshold."""
    n_facts: int
    """Number of facts in all runs."""
    n_exceptions: int
    """Facts whose force and distance from the threshold differ in sign."""


class Forces(NamedTuple):
    """What the figure shows of the facts of each half."""

    before: dict[str, Cloud]
    """The facts of each half at the base model's uniform attention."""
    after: dict[str, Cloud]
    """The facts of each half at the attention that finetuning on it ended at."""
    n_worlds: int


def measure(experiments: Mapping[str, Experiment]) -> Forces:
    """Return the training facts of both halves of the `paper` world."""
    paper = experiments["paper"]
    before = {half: _cloud(paper, half, "base") for half in HALVES}
    after = {half: _cloud(paper, half, half) for half in HALVES}
    return Forces(before, after, paper.n_worlds)


def claim(forces: Forces) -> str:
    """Return whether the threshold decides each force's sign, and which half pushes harder at the same attention."""
    clouds = [*forces.before.values(), *forces.after.values()]
    n_exceptions, n_facts = sum(cloud.n_exceptions for cloud in clouds), sum(cloud.n_facts for cloud in clouds)
    exceptions = f"{n_exceptions or 'no'} exception{'s' * (n_exceptions > 1)} in {n_facts:,}"
    return (
        f"Facts draw attention to their subject only above a salience threshold ({exceptions}); "
        f"before finetuning, {_comparison(*(forces.before[half].mean for half in HALVES))}"
    )


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    forces = measure(experiments)
    sentence = claim(forces)
    note = f"Counts and dots: training facts of one world. Markers: binned. {style.worlds(forces.n_worlds)}"
    grid = {"nrows": 2, "ncols": 2, "sharex": "col", "height_ratios": (1, 4)}
    figure, axes = style.figure(sentence, note, 3.5, **grid)
    style.headings(axes[:2], "before finetuning: uniform attention", "after finetuning on these facts")
    for at, clouds in enumerate((forces.before, forces.after)):
        _counts(axes[at], clouds)
        _panel(axes[2 + at], clouds)
    axes[0].set_ylabel("facts (%)")
    axes[2].set_ylabel("force on the subject's share")
    return sentence, figure


def _comparison(top: Float[np.ndarray, " world"], bottom: Float[np.ndarray, " world"]) -> str:
    """Return which half draws less, or pushes harder away where both push away."""
    lead = over_worlds(top - bottom)
    if lead.sign == 0:
        return "neither half clearly draws more"
    less, by = "lesser-known" if lead.sign > 0 else "well-known", lead.scaled(lead.sign).text(2)
    both_push = max(top.mean(), bottom.mean()) < 0
    return f"{less} ones push {by} harder away" if both_push else f"{less} ones draw {by} less"


def _training(run: Run, half: str, arm: str) -> tuple[Float[np.ndarray, " fact"], Float[np.ndarray, " fact"]]:
    """Return distance and force of a half's facts in the model of an arm."""
    trained = run.facts(half, "fact", "in_arm", role="train")
    facts = run.facts(arm, *COLUMNS, role="train")
    is_trained = np.isin(facts["fact"], trained["fact"][trained["in_arm"]])
    distance = facts["salience"].astype(float) - facts["salience_threshold"]
    return distance[is_trained], facts["share_force"].astype(float)[is_trained]


def _cloud(experiment: Experiment, half: str, arm: str) -> Cloud:
    facts = {run.path: _training(run, half, arm) for run in experiment.runs}
    distance, force = (np.concatenate(column) for column in zip(*facts.values(), strict=True))
    return Cloud(
        *facts[experiment.runs[0].path],
        over_worlds(experiment.by_world(lambda run: _binned(*facts[run.path]))),
        experiment.by_world(lambda run: facts[run.path][1].mean()),
        over_worlds(experiment.by_world(lambda run: float(np.mean(facts[run.path][0] > 0)))),
        len(force),
        int(np.sum((force > 0) != (distance > 0))),
    )


def _binned(distance: Float[np.ndarray, " fact"], force: Float[np.ndarray, " fact"]) -> Float[np.ndarray, " bin"]:
    counts, _ = np.histogram(distance, EDGES)
    sums, _ = np.histogram(distance, EDGES, weights=force)
    return np.where(counts >= MIN_FACTS, sums / np.maximum(counts, 1), np.nan)


def _counts(axis: Axes, clouds: Mapping[str, Cloud]) -> None:
    """Draw where each half's facts lie."""
    for half, cloud in clouds.items():
        look = style.LOOKS[half]
        share, _ = np.histogram(cloud.distance, EDGES)
        axis.stairs(100 * share / len(cloud.distance), EDGES, color=look.colour, linestyle=look.line, linewidth=1)
    axis.axvline(0, color=style.GREY, linewidth=0.6)


def _panel(axis: Axes, clouds: Mapping[str, Cloud]) -> None:
    """Draw each half's forces, and the lines where the threshold and no force are."""
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    axis.axvline(0, color=style.GREY, linewidth=0.6)
    dots = {"linestyle": "none", "marker": ".", "markersize": 2, "markeredgewidth": 0, "alpha": 0.4, "rasterized": True}
    for half, cloud in clouds.items():
        axis.plot(cloud.distance, cloud.force, color=style.LOOKS[half].colour, **dots)
    for half, cloud in clouds.items():
        label = f"{half}: {number(100 * float(cloud.above.mean), 1)} % above threshold"
        centres = (EDGES[:-1] + EDGES[1:]) / 2
        style.points(axis, centres, cloud.binned, style.LOOKS[half], label=label, mec="white", mew=0.4)
    spread = np.concatenate([cloud.distance for cloud in clouds.values()])
    axis.set(xlabel="salience − threshold", xlim=(spread.min() - 1, spread.max() + 1))
    axis.legend(loc="upper left", handlelength=1)
