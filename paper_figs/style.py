"""One look for every figure: an arm keeps its colour, marker and line everywhere."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from paper_figs.interval import Interval

WIDTH = 7.0
"""Width of two columns, in inches."""
GREY, PALE = "#8a8a8a", "#d5d9dd"


class Look(NamedTuple):
    """How an arm, or anything else, is drawn."""

    colour: str
    marker: str
    line: Any


# Lightness rises from top over whole and bottom to random: told apart in greyscale, and with any colour blindness.
LOOKS = {
    "top": Look("#0b3470", "o", "-"),
    "whole": Look("#1f7a6d", "s", (0, (5, 1, 1, 1))),
    "random": Look("#9aa5ae", "^", (0, (1, 1))),
    "bottom": Look("#e07b1a", "D", (0, (4, 1.5))),
}
MEASURED = Look("black", "o", "-")
PREDICTED_LINE = (0, (3, 1.5))
LEAD = LinearSegmentedColormap.from_list(
    "lead", ["#6e3200", LOOKS["bottom"].colour, "white", "#6c93c7", "#0b3470"]
).with_extremes(bad="#a9a9a9")
"""Colours of top less bottom: blue where top leads, orange where bottom does, white at zero, grey without a number."""


def series(n: int) -> list[Look]:
    """Return the looks of an ordered series of lines, from dark to light."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, n))
    return [Look(to_hex(colour), "osD^vP"[at % 6], "-") for at, colour in enumerate(colours)]


def figure(claim: str, note: str, height: float, **panels: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with the claim as its title and the note below, and its panels in reading order.

    Args:
        height: in inches, title included.
        panels: as for `Figure.subplots`; `width` in inches, if it is not that of two columns; `rows` in place of a
            grid, the widths of each row's panels relative to one another.
    """
    width, rows = panels.pop("width", WIDTH), panels.pop("rows", None)
    matplotlib.style.use(Path(__file__).parent / "paper.mplstyle")
    empty = Figure(figsize=(width, height))
    empty.suptitle(_wrapped(claim, width, 9 * 0.62), x=0.01, ha="left", fontsize=9, fontweight="bold")
    empty.supxlabel(_wrapped(note, width, 6.5 * 0.54), x=0.01, ha="left", fontsize=6.5, color="#555555")
    return empty, _in_rows(empty, rows, **panels) if rows else list(np.ravel(empty.subplots(**panels)))


def _in_rows(empty: Figure, rows: Sequence[Sequence[float | int]], **grid: Any) -> list[Axes]:
    """Return the panels of rows that are divided each in its own way."""
    cells = empty.add_gridspec(len(rows), 1, **grid)
    parts = [cells[at, 0].subgridspec(1, len(widths), width_ratios=widths) for at, widths in enumerate(rows)]
    return [empty.add_subplot(part[0, at]) for part in parts for at in range(part.ncols)]


def headings(axes: Sequence[Axes], *texts: str) -> None:
    """Put a heading over each panel, with a letter where there are several."""
    for axis, letter, text in zip(axes, "abcdef", texts, strict=False):
        axis.set_title(rf"$\mathbf{{{letter}}}$   {text}" if len(axes) > 1 else text)


def rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Give panels the same rows, from the top, named at the first panel alone."""
    for number, axis in enumerate(axes):
        names = labels if number == 0 else []
        axis.set(yticks=range(len(labels)), yticklabels=names, ylim=(len(labels) - 0.5, -0.5))


def points(axis: Axes, x: Any, y: Interval, look: Look, **options: Any) -> None:
    """Draw means with their intervals, unconnected unless `linestyle` says otherwise."""
    settings = {"linestyle": "none", "color": look.colour, "marker": look.marker, "elinewidth": 0.9}
    axis.errorbar(x, np.ravel(y.mean), yerr=bars(y), **(settings | options))


def path(axis: Axes, x: Float[np.ndarray, " point"], y: Interval, look: Look, **options: Any) -> None:
    """Draw a line of means and the band of their intervals."""
    axis.plot(x, y.mean, color=look.colour, linestyle=look.line, **options)
    axis.fill_between(x, y.low, y.high, color=look.colour, alpha=0.18, linewidth=0)


def bars(interval: Interval) -> Float[np.ndarray, "2 point"]:
    """Return the lengths of error bars; none where there is no interval."""
    lengths = np.array([interval.mean - interval.low, interval.high - interval.mean])
    return np.nan_to_num(lengths).reshape(2, -1)


def worlds(n: int) -> str:
    """Return the sentence that says what intervals are."""
    return f"Mean and 95 % interval over {n} worlds." if n > 1 else "One world: no interval."


def _wrapped(text: str, width: float, letter: float) -> str:
    """Return the text in lines that fit a figure of this width in inches.

    Args:
        letter: mean width of a letter in points: of this font 0.62 of its size where bold, else 0.54.
    """
    return textwrap.fill(text, int(width * 72 / letter), break_on_hyphens=False)
