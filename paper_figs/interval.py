"""Means over worlds with 95 % t-intervals at each point of a figure, and how a claim words them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from core import statistics


class Interval(NamedTuple):
    """Means over worlds and the ends of their 95 % intervals; the ends are nan where there is one world only."""

    mean: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]

    @property
    def sign(self) -> int:
        """1 or -1 where a single interval lies above or below zero; 0 where it holds zero, or there is none."""
        return int(self.signs)

    @property
    def signs(self) -> Int[np.ndarray, "..."]:
        """The sign at each point."""
        return np.asarray((self.low > 0).astype(int) - (self.high < 0))

    def at(self, index: int) -> "Interval":
        """Return one point's interval."""
        return Interval(*(np.asarray(end[index]) for end in self))

    def scaled(self, factor: int | float) -> "Interval":
        """Return the interval in another unit, or with the opposite sign."""
        low, high = (self.low, self.high) if factor > 0 else (self.high, self.low)
        return Interval(*(np.asarray(factor * end) for end in (self.mean, low, high)))

    def text(self, digits: int, unit: str = "", *, signed: bool = False) -> str:
        """Return "mean ± half the width" of a single interval, with its unit."""
        mean, half = number(float(self.mean), digits, signed=signed), float(self.high - self.low) / 2
        return f"{mean} ± {half:.{digits}f}{unit}" if np.isfinite(half) else f"{mean}{unit} in one world"


def over_worlds(values: Float[np.ndarray, "world ..."]) -> Interval:
    """Return the mean over worlds at each point, with its t-interval."""
    return Interval(*statistics.t_interval(values))


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """Return a number with a true minus sign, and none before zero."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("-+") if float(text) == 0 else text.replace("-", "−")


def effects(accuracy: Interval, attention: Interval) -> str:
    """Return what finetuning on lesser-known facts does, of two gaps top less bottom: as much as the intervals allow.

    Args:
        accuracy: In percentage points.
    """
    verbs = [_verb(gap) for gap in (accuracy, attention)]
    first, second = _change(accuracy, "held-out accuracy", 1, " points"), _change(attention, "subject attention", 3, "")
    return f"{verbs[0]} {first} and {second if verbs[0] == verbs[1] else f'{verbs[1]} {second}'}"


def _verb(gap: Interval) -> str:
    if np.isnan(gap.low):  # one world: what happened there, whatever it would be in others
        return "changes"
    return {1: "costs", -1: "adds", 0: "does not clearly change"}[gap.sign]


def _change(gap: Interval, what: str, digits: int, unit: str) -> str:
    """Return what follows the verb: how much less, or more, the bottom half leaves than the top half."""
    if np.isnan(gap.low):
        return f"{what} by {gap.scaled(-1).text(digits, unit, signed=True)}"
    if gap.sign == 0:
        return f"{what} ({gap.scaled(-1).text(digits, unit, signed=True)})"
    return f"{gap.scaled(gap.sign).text(digits, unit)} {'of' if gap.sign > 0 else 'to'} {what}"
