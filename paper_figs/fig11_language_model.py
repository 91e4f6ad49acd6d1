"""The toy and a small language model side by side: accuracy and attention by arm, and what the accuracy is of."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from core.errors import InputError
from paper_figs import style
from paper_figs.interval import Interval, effects, number, over_worlds
from paper_figs.load import ARMS, Experiment
from paper_figs.reads import Read

TOY, MODEL, ADAPTER = "paper", "tiny", "tiny-lora"
READS = (Read("experiment", TOY), Read("study", MODEL), Read("study", ADAPTER, is_required=False))
SPLIT = {"retention": "recalled by the base", "unknown_accuracy": "not recalled"}
"""The two kinds of facts that a language model's accuracy is of."""
N_FIFTHS = 5
HOLLOW = {"markerfacecolor": "white"}


class Flow(NamedTuple):
    """What the figure shows of the toy or a language model; accuracies in percent, gaps top less bottom."""

    accuracy: dict[str, Interval]
    """Accuracy by arm, the base too."""
    attention: dict[str, Interval]
    accuracy_gap: Interval
    attention_gap: Interval
    split: dict[str, dict[str, Interval]]
    """Accuracy on each kind of facts, by arm; empty for the toy."""
    retention_gap: Interval | None
    fifths: Interval | None
    """Accuracy gap by fifth of knownness, the best known first."""
    unit: str
    """What the fifths' intervals count; empty for the toy."""
    n_worlds: int


def measure(experiment: Experiment) -> Flow:
    """Return an experiment's arms and gaps."""
    is_model = experiment.name != TOY
    arms = ("base", *ARMS)
    fifths, unit = _fifths(experiment) if is_model else (None, "")
    return Flow(
        {arm: over_worlds(experiment.metric(arm, "accuracy")).scaled(100) for arm in arms},
        {arm: over_worlds(experiment.metric(arm, "subject_attention")) for arm in arms},
        _gap(experiment, "accuracy").scaled(100),
        _gap(experiment, "subject_attention"),
        {kind: {arm: over_worlds(experiment.metric(arm, kind)).scaled(100) for arm in ARMS} for kind in SPLIT}
        if is_model
        else {},
        _gap(experiment, "retention").scaled(100) if is_model else None,
        fifths,
        unit,
        experiment.n_worlds,
    )


def claim(flows: Mapping[str, Flow]) -> str:
    """Return what lesser-known facts do to the language model, whether to the toy too, and on which facts."""
    toy, model = flows[TOY], flows[MODEL]
    text = "In a small language model{} finetuning on lesser-known rather than well-known facts "
    text += effects(model.accuracy_gap, model.attention_gap)
    signs = [(flow.accuracy_gap.sign, flow.attention_gap.sign) for flow in (model, toy)]
    if signs[0] == signs[1] and all(signs[0]):
        text = text.format(" as in the toy,")
    else:
        text = text.format(",") + f"; in the toy it {effects(toy.accuracy_gap, toy.attention_gap)}"
    if model.retention_gap is None or model.n_worlds < 2:
        return text
    gap = model.retention_gap.text(1, " points", signed=True)
    return f"{text}; on facts that the base model recalls, top − bottom is {gap}"


def draw(experiments: Mapping[str, Experiment]) -> tuple[str, Figure]:
    """Return the claim and the figure."""
    flows = {name: measure(experiment) for name, experiment in experiments.items()}
    sentence = claim(flows)
    figure, axes = style.figure(sentence, _note(flows), 5.1, nrows=2, ncols=3)
    style.headings(
        axes,
        "toy: held-out accuracy (%)",
        "language model: the same",
        "by what the base recalls (%)",
        "toy: attention on the subject",
        "language model: the same",
        "accuracy, top − bottom (points)",
    )
    models = [flows[name] for name in (MODEL, ADAPTER) if name in flows]
    for column, shown in enumerate(([flows[TOY]], models)):
        _arms(axes[column], [flow.accuracy for flow in shown])
        base = ", ".join(dict.fromkeys(number(float(flow.accuracy["base"].mean), 1) for flow in shown))
        axes[column].text(0.03, 0.03, f"before finetuning: {base}", transform=axes[column].transAxes, fontsize=7)
        _arms(axes[3 + column], [flow.attention for flow in shown])
        _base_line(axes[3 + column], shown[0].attention["base"])
        axes[3 + column].set_xlabel("facts finetuned on")
    _split(axes[2], models)
    _by_fifth(axes[5], models)
    if len(models) > 1:
        _key(axes[1])
    return sentence, figure


def _gap(experiment: Experiment, metric: str) -> Interval:
    return over_worlds(experiment.metric("top", metric) - experiment.metric("bottom", metric))


def _fifths(study: Experiment) -> tuple[Interval, str]:
    """Return the accuracy gap by fifth as compared with the theory, and what its intervals count."""
    by_stratum = {row["stratum"]: row for row in study.predictions().to_pylist() if row["result"] == "d"}
    try:
        rows = [by_stratum[f"fifth {fifth}"] for fifth in range(1, N_FIFTHS + 1)]
    except KeyError as error:
        path = study.path / "predictions.parquet"
        raise InputError(f"{path} lacks {error.args[0]} of the accuracy gap.\nMake it again.") from error
    ends = [np.array([row[end] for row in rows], dtype=float) for end in ("measured", "low", "high")]
    return Interval(*ends).scaled(100), rows[0]["unit"]


def _note(flows: Mapping[str, Flow]) -> str:
    """Return what intervals are, and what the marks mean."""
    toy, model = flows[TOY], flows[MODEL]
    unit = f"over {model.n_worlds} base models" if model.n_worlds > 1 else "no interval, as there is one base model"
    over = f"over {toy.n_worlds} worlds" if toy.n_worlds > 1 else "no interval, as there is one world"
    of_fifths = f"{model.n_worlds} base models" if model.unit == "base models" else model.unit
    note = f"95 % intervals. Toy: {over}. Language model: {unit}; f: over {of_fifths}."
    if ADAPTER in flows and flows[ADAPTER].n_worlds != model.n_worlds:
        note += f" Base models of {ADAPTER}: {flows[ADAPTER].n_worlds}."
    note += " c: held-out facts that the base model completes in the sentences it was pretrained on, and the others."
    return note + " d, e: from the last prompt token, mean over layers and heads; dashed: before finetuning."


def _places(n: int) -> list[float]:
    """Return where n marks stand side by side about a tick."""
    return [0.26 * (at - (n - 1) / 2) for at in range(n)]


def _fill(at: int) -> dict[str, str]:
    """Return how the marks of the first study and of the second are filled."""
    return HOLLOW if at else {}


def _arms(axis: Axes, shown: list[dict[str, Interval]]) -> None:
    """Draw a point for each arm of each study."""
    for at, (shift, intervals) in enumerate(zip(_places(len(shown)), shown, strict=True)):
        for place, arm in enumerate(ARMS):
            style.points(axis, [place + shift], intervals[arm], style.LOOKS[arm], markersize=5, **_fill(at))
    axis.set(xlim=(-0.5, len(ARMS) - 0.5), xticks=range(len(ARMS)), xticklabels=ARMS)
    axis.tick_params(axis="x", labelsize=6.5)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.margins(y=0.2)


def _base_line(axis: Axes, base: Interval) -> None:
    """Draw the base's attention across, with its interval."""
    axis.axhline(float(base.mean), color=style.GREY, linestyle=style.PREDICTED_LINE, linewidth=0.9)
    if np.isfinite(base.low):
        axis.axhspan(float(base.low), float(base.high), color=style.GREY, alpha=0.15, linewidth=0)


def _split(axis: Axes, models: list[Flow]) -> None:
    """Draw accuracy on both kinds of facts, a line through the arms of each."""
    for kind, line in zip(SPLIT, ("-", ":"), strict=True):
        shown = [flow.split[kind] for flow in models]
        means = [float(shown[0][arm].mean) for arm in ARMS]
        places = np.arange(len(ARMS)) + _places(len(models))[0]
        axis.plot(places, means, color=style.GREY, linestyle=line, linewidth=0.8, label=SPLIT[kind])
        _arms(axis, shown)
    axis.set_ylim(0, 1.35 * axis.get_ylim()[1])
    axis.legend(loc="upper right", borderpad=0)


def _by_fifth(axis: Axes, models: list[Flow]) -> None:
    """Draw the gap by fifth of knownness."""
    axis.axhline(0, color=style.GREY, linewidth=0.6)
    for at, (shift, flow) in enumerate(zip(_places(len(models)), models, strict=True)):
        assert flow.fifths is not None
        style.points(axis, np.arange(N_FIFTHS) + shift, flow.fifths, style.MEASURED, **_fill(at))
    labels = ["1\nbest", *map(str, range(2, N_FIFTHS)), f"{N_FIFTHS}\nleast"]
    axis.set(xticks=range(N_FIFTHS), xticklabels=labels, xlim=(-0.5, N_FIFTHS - 0.5))
    axis.set_xlabel("fifth of facts, by knownness")


def _key(axis: Axes) -> None:
    """Tell the two ways of finetuning apart."""
    labels = {"every weight": {}, "an adapter (LoRA)": HOLLOW}
    marks = [
        Line2D([], [], color="#555555", marker="o", linestyle="none", label=n, **fill) for n, fill in labels.items()
    ]
    axis.legend(handles=marks, loc="upper right", borderpad=0, handletextpad=0.2)
