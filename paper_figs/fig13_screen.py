"""Which properties of a world open the gap in a language model, if the toy foresees it, and what finetuning does."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from core.columns import FACTORS
from paper_figs import screen, style
from paper_figs.interval import Interval, number
from paper_figs.reads import Read
from paper_figs.screen import Effects, Gaps, Screen

READS = (Read("screen", "screen"),)
LABELS = {
    "tail": "deep tail",
    "background": "background",
    "answers": "many answers",
    "names": "distinctive names",
    "relations": "distinct answers",
    "facts_per_subject": "facts per subject",
    "format": "questions seen",
}
"""What each factor's high level is called."""
SIDES = LABELS | {"tail": "least exposures", "answers": "answers", "names": "names", "relations": "distinct relations"}
"""What each factor is called along a panel."""
LOOKS = {
    "accuracy": style.Look("black", "o", "-"),
    "retention": style.Look("#c2128d", "^", "-"),
    "subject_attention": style.Look("black", "s", "-"),
}
TOY = style.Look(style.GREY, "s", style.PREDICTED_LINE)
PER_ROW = 4
MOST_NAMED = 3
"""Factors that the claim names."""


class Worlds(NamedTuple):
    """Gaps in accuracy by world of the factorial part, in points, with the lowest and the highest base model."""

    model: Interval
    toy: Interval
    correlation: float
    p_value: float
    is_high: Shaped[np.ndarray, " world"]
    """Has the world the high level of the factor that moves the gap most?"""


class Shown(NamedTuple):
    """What the figure shows; accuracies and retention in percentage points."""

    effects: Effects
    worlds: Worlds | None
    """None where the toy was not run."""
    fine: dict[str, tuple[Gaps, Gaps]]
    """The language model's gaps and the toy's, by series."""
    recipe: dict[str, Gaps]
    n_models: int
    n_worlds: int


def measure(study: Screen) -> Shown:
    """Return effects, worlds, and what of the further parts has been run."""
    factorial, effects = study.gaps("factorial", "lm"), screen.effects(study)
    fine, toys, recipe = study.gaps("fine", "lm"), study.gaps("fine", "toy"), study.gaps("recipe", "lm")
    return Shown(
        effects,
        _worlds(factorial, study.gaps("factorial", "toy"), effects),
        {name: (part, toys.where(toys.about["series"] == name)) for name, part in _series(fine).items()},
        _series(recipe),
        len(factorial),
        len(np.unique(factorial.about["world"])),
    )


def claim(shown: Shown) -> str:
    """Return which properties clearly move the gap in accuracy, the strongest first, and if the toy foresees it."""
    effect = shown.effects.effect["accuracy"].scaled(100)
    order = np.argsort(-np.abs(effect.mean)).tolist()
    clear = [f"{LABELS[FACTORS[at]]} {effect.at(at).text(1, signed=True)}" for at in order if effect.signs[at]]
    verb = "change" if len(clear) > 1 else "changes"
    text = f"of {len(FACTORS)} properties of a world clearly {verb} what lesser-known facts cost a language model"
    if clear:
        most = "most " if len(clear) > MOST_NAMED else ""
        text = f"{len(clear)} {text}: {most}{', '.join(clear[:MOST_NAMED])} points of accuracy"
    else:
        strongest = effect.at(order[0])
        name = LABELS[FACTORS[order[0]]]
        text = f"None {text}; at most {name}, {strongest.text(1, signed=True)} points of accuracy"
    if shown.worlds is None or not np.isfinite(shown.worlds.correlation):
        return text
    rank = f"(rank correlation {number(shown.worlds.correlation, 2, signed=True)})"
    if not shown.worlds.p_value < 0.05:
        return f"{text}; the toy does not clearly rank the worlds alike {rank}"
    return (
        f"{text}; the toy ranks the worlds {'alike' if shown.worlds.correlation > 0 else 'the other way round'} {rank}"
    )


def draw(screens: Mapping[str, Screen]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    shown = measure(screens["screen"])
    sentence = claim(shown)
    names = list(shown.fine)
    fine = [row.tolist() for row in np.array_split(names, -(-len(names) // PER_ROW))] if names else []
    rows = [(1.25, 1, *([1.25] if shown.worlds else [])), *((1,) * len(row) for row in fine)]
    rows += [(1,) * len(shown.recipe)] if shown.recipe else []
    heights = [2.5, *[1.5] * (len(rows) - 1)]
    figure, axes = style.figure(sentence, _note(shown), 1.1 + sum(heights), rows=rows, height_ratios=heights)
    panels = iter(axes)
    headed = [_effects(next(panels), next(panels), shown.effects)]
    if shown.worlds:
        headed.append(_compare(next(panels), shown))
    fine_panels = [_fine(next(panels), name, *gaps) for name, gaps in shown.fine.items()]
    recipe_panels = [_recipe(next(panels), name, gaps, _recipes(shown)) for name, gaps in shown.recipe.items()]
    for part in (fine_panels, recipe_panels):
        _alike([axis for axis, _ in part])
    headed += [part[0] for part in (fine_panels, recipe_panels) if part]
    style.headings([axis for axis, _ in headed], *(text for _, text in headed))
    if recipe_panels:
        recipe_panels[-1][0].legend(loc="center left", bbox_to_anchor=(1, 0.5), borderpad=0.2)
    return sentence, figure


def _series(gaps: Gaps) -> dict[str, Gaps]:
    return {str(name): gaps.where(gaps.about["series"] == name) for name in np.unique(gaps.about["series"])}


def _worlds(factorial: Gaps, toy: Gaps, effects: Effects) -> Worlds | None:
    """Return both flows' gaps in the worlds that both have been run in."""
    is_kept = np.isin(factorial.about["world"], toy.about["world"])
    factorial, toy = factorial.where(is_kept), toy.where(np.isin(toy.about["world"], factorial.about["world"]))
    if len(factorial) == 0:
        return None
    ours, theirs = (screen.spread(100 * gaps.value["accuracy"], gaps.about["world"]) for gaps in (factorial, toy))
    is_varied = all(len(np.unique(of_flow.mean)) > 1 for of_flow in (ours, theirs))
    rank = np.array(stats.spearmanr(ours.mean, theirs.mean) if is_varied else (np.nan, np.nan), dtype=float)
    is_high = effects.is_high[is_kept][:, effects.strongest].astype(float)
    high = screen.spread(is_high, factorial.about["world"]).mean > 0.5
    return Worlds(ours, theirs, float(rank[0]), float(rank[1]), high)


def _note(shown: Shown) -> str:
    """Return what intervals are, and what the marks mean."""
    mean = shown.effects.mean["accuracy"].scaled(100).text(1, signed=True)
    units = f"{shown.n_models} base models of {shown.n_worlds} worlds; mean gap {mean} points"
    note = f"a: what the high level does to top − bottom (least squares; 95 % intervals over {units}). Hollow: the"
    note += " interval holds zero. b to d: means over base models, bars from the lowest to the highest."
    if shown.worlds:
        note += f" b: a point is a world; filled: {LABELS[FACTORS[shown.effects.strongest]]}."
    return note + (" c: one factor varied, levels evenly spaced; grey squares: the toy." if shown.fine else "")


def _effects(left: Axes, right: Axes, effects: Effects) -> tuple[Axes, str]:
    """Draw each factor's effect on accuracy and retention, and beside it on attention."""
    for axis, names, scale in ((left, ("accuracy", "retention"), 100), (right, ("subject_attention",), 1)):
        axis.axvline(0, color=style.GREY, linewidth=0.6)
        for shift, name in zip((-0.15, 0.15) if len(names) > 1 else (0.0,), names, strict=True):
            _forest(axis, effects.effect[name].scaled(scale), LOOKS[name], shift, name)
        axis.locator_params(axis="x", nbins=4)
        axis.set(ylim=(len(FACTORS) - 0.5, -0.5), yticks=range(len(FACTORS)), yticklabels=[])
    ends = zip(FACTORS, effects.low, effects.high, strict=True)
    left.set_yticklabels([f"{LABELS[name]}\n{low:g} → {high:g}" for name, low, high in ends], fontsize=6.5)
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, borderpad=0, handlelength=1, columnspacing=1)
    right.set_title("on attention")
    return left, "effect on the gap (points)"


def _forest(axis: Axes, effect: Interval, look: style.Look, shift: float, label: str) -> None:
    for at in range(len(effect.mean)):
        of_factor = effect.at(at)
        options = {"mfc": look.colour if of_factor.sign else "white", "label": label if at == 0 else None}
        mark = {"color": look.colour, "marker": look.marker, "markersize": 3.5, "elinewidth": 0.9}
        axis.errorbar(of_factor.mean, at + shift, xerr=style.bars(of_factor), linestyle="none", **mark, **options)


def _compare(axis: Axes, shown: Shown) -> tuple[Axes, str]:
    """Draw the language model's gap against the toy's, a point for each world."""
    worlds = shown.worlds
    assert worlds is not None
    for line in (axis.axhline, axis.axvline):
        line(0, color=style.GREY, linewidth=0.6)
    for is_high, fill in ((True, {}), (False, {"mfc": "white"})):
        at = np.flatnonzero(worlds.is_high == is_high)
        toy, model = (Interval(*(end[at] for end in gaps)) for gaps in (worlds.toy, worlds.model))
        style.points(axis, toy.mean, model, style.MEASURED, xerr=style.bars(toy), markersize=3.5, **fill)
    axis.set(xlabel="toy", ylabel="language model")
    rank = number(worlds.correlation, 2, signed=True) if np.isfinite(worlds.correlation) else "none"
    return axis, f"accuracy gap; rank corr. {rank}"


def _fine(axis: Axes, series: str, model: Gaps, toy: Gaps) -> tuple[Axes, str]:
    """Draw the gap at each level of the factor that varies."""
    factor = screen.varied(model, series)
    levels = np.unique(np.concatenate([model.about[factor], toy.about[factor]]))
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    for gaps, look in ((toy, TOY), (model, LOOKS["accuracy"])):
        place = np.searchsorted(levels, gaps.about[factor])
        if len(gaps):
            _line(axis, place, 100 * gaps.value["accuracy"], look)
    axis.set(xticks=range(len(levels)), xticklabels=[f"{level:g}" for level in levels], xlabel=SIDES[factor])
    axis.tick_params(axis="x", labelsize=6.5)
    return axis, "accuracy gap (points)"


def _recipes(shown: Shown) -> dict[tuple[str, int], style.Look]:
    """Return the look of each method and number of epochs."""
    pairs = {
        (str(method), int(epochs))
        for gaps in shown.recipe.values()
        for method, epochs in zip(gaps.about["method"], gaps.about["epochs"], strict=True)
    }
    return dict(zip(sorted(pairs), style.series(len(pairs)), strict=True))


def _recipe(axis: Axes, end: str, gaps: Gaps, looks: Mapping[tuple[str, int], style.Look]) -> tuple[Axes, str]:
    """Draw one world's gap against the learning rate, a line for each method and number of epochs."""
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    for (method, epochs), look in looks.items():
        is_recipe = (gaps.about["method"] == method) & (gaps.about["epochs"] == epochs)
        if is_recipe.any():
            rate, value = gaps.about["learning_rate"][is_recipe], 100 * gaps.value["accuracy"][is_recipe]
            name = {"full": "every weight", "lora": "adapter"}.get(method, method)
            _line(axis, rate, value, look, label=f"{name}, {epochs} epochs")
    rates = np.unique(gaps.about["learning_rate"])
    axis.set(xscale="log", xlabel="learning rate")
    axis.set_xticks(rates, [f"{rate:.0e}".replace("e-0", "e−") for rate in rates], fontsize=6.5)
    axis.minorticks_off()
    axis.set_title(f"{end} world")
    return axis, f"accuracy gap, {end} world"


def _alike(axes: list[Axes]) -> None:
    """Give panels the same vertical range."""
    ends = np.array([axis.get_ylim() for axis in axes])
    for axis in axes:
        axis.set_ylim(ends[:, 0].min(), ends[:, 1].max())


def _line(
    axis: Axes, x: Shaped[np.ndarray, " model"], value: Float[np.ndarray, " model"], look: style.Look, **options: Any
) -> None:
    """Draw means over base models, connected, with bars to the lowest and the highest."""
    spread, place = screen.spread(value, x), np.unique(x)
    style.points(axis, place, spread, look, linestyle=look.line, linewidth=0.9, markersize=3.5, **options)
