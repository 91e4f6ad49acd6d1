"""What remedies do for the lesser-known half: in the toy, in a small Llama, in a published model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core import effects
from paper_figs import fig9_remedies, style
from paper_figs.interval import Interval, over_worlds
from paper_figs.load import Experiment
from paper_figs.reads import Read

TOY = "remedies"
MODELS = {
    TOY: "the toy",
    "tiny-remedies": "a small Llama",
    "smollm2-135m-entity-questions-remedies": "SmolLM2-135M",
}
READS = (
    Read("sweep", TOY, fig9_remedies.READS[0].rows),
    Read("study", "tiny-remedies"),
    Read("study", "smollm2-135m-entity-questions-remedies", is_required=False),
)
ROWS = {
    "early_stopping=true": "early stopping",
    "kl_weight=0.1": "KL 0.1",
    "kl_weight=1": "KL 1",
    "replay=0.1": "repeat 10 %",
    "replay=0.2": "repeat 20 %",
    "curriculum=known_first": "known first",
    "curriculum=known_last": "known last",
    "frozen=query_key": "query and key frozen",
    "frozen=mlp": "MLP frozen",
    "frozen=value_output,mlp": "all but query and key frozen",
    "frozen_layers=2": "two lowest layers frozen",
    "update_share=0.5": "half of the update kept",
}
"""What stands behind the arm's name, and what it is called, in the toy too: that has those of the first rows."""


class Gains(NamedTuple):
    """Held-out accuracy of the lesser-known half with remedies less without, in points."""

    by_row: dict[str, Interval]
    gap: float
    """Top less bottom without a remedy."""


def of_toy(sweep: Any) -> Gains:
    """Return the toy's gains."""
    found = fig9_remedies.measure(sweep)
    by_name = {name: found.gain.at(at) for at, name in enumerate(found.names)}
    return Gains({row: by_name[name] for row, name in ROWS.items() if name in by_name}, float(found.gap.mean[0]))


def of_study(study: Experiment) -> Gains:
    """Return a language model's gains."""
    by_row = {
        one.remedy: Interval(*(np.asarray(100 * end) for end in one.accuracy))
        for one in effects.of_runs(study.runs)
        if one.arm == "bottom" and one.remedy in ROWS
    }
    gap = over_worlds(100 * (study.metric("top", "accuracy") - study.metric("bottom", "accuracy")))
    return Gains(by_row, float(gap.mean))


def claim(models: Mapping[str, Gains]) -> str:
    """Return which remedies help clearly in how many models, and where toy and language models disagree."""
    seen = {row: [gains.by_row[row].sign for gains in models.values() if row in gains.by_row] for row in ROWS}
    everywhere = [ROWS[row] for row, signs in seen.items() if len(signs) == len(models) and min(signs) > 0]
    nowhere = [ROWS[row] for row, signs in seen.items() if len(signs) == len(models) and max(signs) <= 0]
    both = sum(len(signs) == len(models) for signs in seen.values())
    named = f" ({', '.join(everywhere)})" if everywhere else ""
    return (
        f"Of {both} remedies tried on {len(models)} models, {len(everywhere) or 'none'}{named} clearly helps the "
        f"lesser-known half on all of them, {both - len(everywhere) - len(nowhere)} on some and {len(nowhere)} on none"
    )


def draw(results: Mapping[str, Any]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    models = {
        name: of_toy(results[name]) if name == TOY else of_study(results[name]) for name in MODELS if name in results
    }
    sentence = claim(models)
    note = "Held-out accuracy after finetuning on the lesser-known half with a remedy, less the same without; mean and "
    published = [of for name, of in results.items() if name != TOY and of.is_published]
    counted = "".join(f", of SmolLM2-135M over {study.contrasts.counted}" for study in published)
    note += f"95 % interval over worlds or base models{counted}. Dashed: what the well-known half "
    note += "is ahead without a remedy. Hollow: the interval holds zero, or there is none."
    figure, axes = style.figure(sentence, note, 3.9, ncols=len(models))
    style.headings(axes, *(MODELS[name] for name in models))
    for axis, gains in zip(axes, models.values(), strict=True):
        _panel(axis, gains)
    style.rows(axes, list(ROWS.values()))
    return sentence, figure


def _panel(axis: Axes, gains: Gains) -> None:
    axis.axvline(0, color=style.GREY, linewidth=0.7)
    axis.axvline(gains.gap, color="black", linewidth=0.7, linestyle=(0, (4, 3)))
    for place, row in enumerate(ROWS):
        if row in gains.by_row:
            gain = gains.by_row[row]
            look = {"color": "black", "marker": "o", "markersize": 3.5, "elinewidth": 0.9}
            face = "black" if gain.sign else "white"
            axis.errorbar(float(gain.mean), place, xerr=style.bars(gain), mfc=face, linestyle="none", **look)
    axis.set_xlabel("points of accuracy")
