"""The screen study read back: gaps between the halves by base model, and what each property of a world does to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Shaped

from core import factors, former, runs, statistics
from core.columns import FACTORS
from core.errors import InputError
from paper_figs.interval import Interval

METRICS = ("accuracy", "retention", "subject_attention")
"""Whose gaps the figures show."""
UNIT = ("series", "world", "pretrain_seed", "method", "epochs")
"""What the runs of one base model have in common; base models are the unit of every interval."""


class Gaps(NamedTuple):
    """Top less bottom of each base model, the mean over its finetuning seeds."""

    about: dict[str, Shaped[np.ndarray, " model"]]
    """UNIT, the learning rate and the factors."""
    value: dict[str, Float[np.ndarray, " model"]]
    """Values by metric; nan where it does not apply."""

    def where(self, is_kept: Shaped[np.ndarray, " model"]) -> "Gaps":
        """Return some of the base models."""
        return Gaps(*({name: column[is_kept] for name, column in part.items()} for part in self))

    def __len__(self) -> int:
        return len(self.about["world"])


@dataclass(frozen=True)
class Screen:
    """The table of the screen study, read when asked for."""

    path: Path

    @property
    def is_collected(self) -> bool:
        """Whether the table is what paper_figs.collect left of one."""
        return b"collected" in (self.table(["world"]).schema.metadata or {})

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the table, or these of its columns; InputError where it is damaged, former or lacks one."""
        former.refuse_screen(self.path)
        return runs.read_table(self.path, list(columns) if columns else None)

    def gaps(self, part: str, flow: str) -> Gaps:
        """Return the gaps of a part of the study; InputError where an arm of a base model is missing."""
        rows = self.table(["part", "flow", "arm", *UNIT, "learning_rate", *FACTORS, *METRICS])
        rows = rows.filter((pc.field("part") == part) & (pc.field("flow") == flow))
        top, bottom = (_by_model(rows.filter(pc.field("arm") == arm)) for arm in ("top", "bottom"))
        if not top.select(UNIT).equals(bottom.select(UNIT)):
            raise InputError(f"{self.path} lacks an arm of some base model.\nMake the study again.")
        about = {name: top[name].to_numpy() for name in (*UNIT, "learning_rate", *FACTORS)}
        return Gaps(about, {name: _numbers(top, name) - _numbers(bottom, name) for name in METRICS})


class Effects(NamedTuple):
    """What raising each of FACTORS from low to high does to the gaps, by metric, over base models."""

    effect: dict[str, Interval]
    mean: dict[str, Interval]
    """The gap itself, midway between the levels."""
    low: Float[np.ndarray, " factor"]
    high: Float[np.ndarray, " factor"]
    is_high: Shaped[np.ndarray, "model factor"]

    @property
    def strongest(self) -> int:
        """The place of the factor that does most to the gap in accuracy."""
        return int(np.argmax(np.abs(self.effect["accuracy"].mean)))


def effects(screen: Screen) -> Effects:
    """Return the main effects in the language model's factorial part, by least squares on levels coded ±1/2.

    The high level is the design's, which of the tail is the smaller number: the deep one.

    Raises:
        InputError: a factor without two levels, or too few worlds to tell the factors apart.
    """
    factorial = screen.gaps("factorial", "lm")
    levels = [np.unique(factorial.about[name]) for name in FACTORS]
    if odd := [name for name, values in zip(FACTORS, levels, strict=True) if len(values) != 2]:
        raise InputError(
            f"{screen.path}: {', '.join(odd)} has not two levels in the factorial part.\nFinish the study."
        )
    low, high = np.array(levels).T
    for at in range(len(FACTORS)):
        if factors.FACTORS[at].high < factors.FACTORS[at].low:
            low[at], high[at] = high[at], low[at]
    is_high = np.stack([factorial.about[name] == top for name, top in zip(FACTORS, high, strict=True)], axis=1)
    fits = {}
    for name, value in factorial.value.items():
        is_known = np.isfinite(value)
        matrix = np.column_stack([np.ones(len(value)), is_high - 0.5])[is_known]
        try:
            fit = statistics.least_squares(matrix, value[is_known])
        except ValueError as error:
            raise InputError(
                f"{screen.path} has too few base models with {name} in the factorial part.\nFinish the study."
            ) from error
        fits[name] = Interval(fit.value, fit.low, fit.high)
    each = {name: Interval(*(end[1:] for end in fit)) for name, fit in fits.items()}
    return Effects(each, {name: fit.at(0) for name, fit in fits.items()}, low, high, is_high)


def spread(value: Float[np.ndarray, " model"], group: Shaped[np.ndarray, " model"]) -> Interval:
    """Return the mean of each group in the groups' order, with its lowest and its highest base model for ends."""
    parts = [value[group == member] for member in np.unique(group)]
    return Interval(*(np.array([measure(part) for part in parts]) for measure in (np.mean, np.min, np.max)))


def varied(gaps: Gaps, series: str) -> str:
    """Return the factor that varies in a series; of several, or of none, the one that names it."""
    varying = [name for name in FACTORS if len(np.unique(gaps.about[name])) > 1]
    return series if series in FACTORS and (series in varying or not varying) else (varying or FACTORS)[0]


def _by_model(rows: pa.Table) -> pa.Table:
    """Return an arm's means by base model, in the order of UNIT."""
    constant = [(name, "max") for name in ("learning_rate", *FACTORS)]
    means = rows.group_by(list(UNIT)).aggregate([*constant, *((name, "mean") for name in METRICS)])
    names = [name.removesuffix("_max").removesuffix("_mean") for name in means.column_names]
    return means.rename_columns(names).sort_by([(name, "ascending") for name in UNIT])


def _numbers(table: pa.Table, name: str) -> Float[np.ndarray, " model"]:
    """Return a column, null as nan."""
    return table[name].to_numpy().astype(float)
