"""The figures: every module of this package that is named fig<number>_<what it shows>, in the order of numbers.

Such a module has READS, what it reads (see `reads`), and `draw`, which returns the claim and the figure of a mapping
from names to results: those of READS that are there, in its order.
"""

import importlib
import pkgutil
import re
from types import ModuleType

import paper_figs
from paper_figs.reads import Kind, Read, Rows


def _discover() -> dict[str, ModuleType]:
    """Return the modules of figures by name."""
    numbers = {
        module.name: int(number[1])
        for module in pkgutil.iter_modules(paper_figs.__path__)
        if (number := re.match(r"fig(\d+)_", module.name))
    }
    return {name: importlib.import_module(f"paper_figs.{name}") for name in sorted(numbers, key=lambda n: numbers[n])}


FIGURES = _discover()
"""The modules of figures by name."""


def rows_read(kind: Kind, name: str) -> list[Rows]:
    """Return what all figures together read of the tables of some results."""
    return [rows for read in _reads(kind, name) for rows in read.rows]


def is_read(kind: Kind, name: str) -> bool:
    """Return whether some figure reads these results."""
    return bool(_reads(kind, name))


def _reads(kind: Kind, name: str) -> list[Read]:
    return [read for figure in FIGURES.values() for read in figure.READS if read.matches(kind, name)]
