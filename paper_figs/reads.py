"""What a figure reads, declared by its module as READS: which results, and which rows and columns of their tables.

From READS follow what a figure is given, the command that is named where results are missing, and what
`python -m paper_figs.collect` keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import and_
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["experiment", "sweep", "study", "screen"]
"""The theory's experiments (deep networks too) and sweeps; the language model's studies, and the screen of worlds."""
EVERY = "*"
"""The name that stands for all finished results of a kind."""


@dataclass(frozen=True)
class Rows:
    """Some rows and columns of a table."""

    table: str
    """The name of its file without the ending: facts, trace or attention of a run, table of a sweep."""
    columns: tuple[str, ...]
    where: Mapping[str, tuple[str | bool, ...]] = field(default_factory=dict)
    """The values that columns such as arm and role must have."""

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns of `where` and those of `columns`."""
        return tuple(dict.fromkeys((*self.where, *self.columns)))

    @property
    def condition(self) -> pc.Expression:
        """What is true of these rows alone."""
        parts = [pc.field(name).isin(list(values)) for name, values in self.where.items()]
        return reduce(and_, parts, pc.scalar(True))

    def of(self, table: pa.Table) -> pa.Table:
        """Return these rows of a table."""
        return table.filter(self.condition)


@dataclass(frozen=True)
class Read:
    """Results that a figure reads: the reports of their runs and these rows; of the screen, the whole table."""

    kind: Kind
    name: str
    """The name of their folder, or EVERY."""
    rows: tuple[Rows, ...] = ()
    is_required: bool = True
    """Is the figure skipped without them, or else drawn without a part?"""

    def matches(self, kind: Kind, name: str) -> bool:
        """Return whether these are results of that kind and name."""
        return self.kind == kind and self.name in (name, EVERY)
