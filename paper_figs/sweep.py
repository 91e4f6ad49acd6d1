"""Sweeps read back: an arm's metric at every combination of the levels that were swept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Shaped

from core import runs
from core.errors import InputError

SEEDS = ("pretrain_seed", "split_seed", "seed")
"""The seeds of a sweep's rows; the first is the world's."""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: what was swept, in memory, and its rows, read when asked for."""

    path: Path
    grid: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Sweep":
        """Return the sweep in this folder; InputError where its design is damaged or of another schema."""
        grid = runs.read_json(path / "grid.json")
        runs.check_schema(path, grid.get("schema"), runs.SWEEP_SCHEMA)
        return cls(path, grid)

    def levels(self, axis: str) -> Shaped[np.ndarray, " level"]:
        """Return the values of a swept field: numbers in order, words in the design's order."""
        column = self.table([axis])[axis].to_numpy()
        levels, first = np.unique(column, return_index=True)
        return levels if np.issubdtype(levels.dtype, np.number) else levels[np.argsort(first)]

    def by_world(self, arm: str, metric: str, *axes: str) -> Float[np.ndarray, "world ..."]:
        """Return an arm's metric in each world at each level of each axis, runs of one world averaged.

        nan where a run has no such number: its training diverged, or the metric does not apply.

        Raises:
            InputError: a column, the arm, or a combination of levels is missing, or one is there more than once, since
                other fields were swept too.
        """
        rows = self.table(["arm", *SEEDS, *axes, metric]).filter(pc.field("arm") == arm)
        if len(rows) == 0:
            raise InputError(
                f"{self.path / 'table.parquet'} has no rows of {arm}.\nMake the sweep again with this arm."
            )
        places, shape = zip(*(self._places(rows, name) for name in (*SEEDS, *axes)), strict=True)
        self._check_one_each(np.asarray(np.ravel_multi_index(places, shape)), axes)
        shape = (shape[0], *shape[len(SEEDS) :])
        cell = np.ravel_multi_index((places[0], *places[len(SEEDS) :]), shape)
        n_rows = np.bincount(cell, minlength=int(np.prod(shape)))
        if not n_rows.all():
            raise InputError(
                f"{self.path / 'table.parquet'} lacks {np.sum(n_rows == 0)} of {n_rows.size} combinations of world, "
                f"{', '.join(axes)}.\nMake the sweep again as a full grid."
            )
        return (np.bincount(cell, rows[metric].to_numpy().astype(float)) / n_rows).reshape(shape)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Return these columns; InputError where the table is damaged or lacks one."""
        return runs.read_table(self.path / "table.parquet", list(columns))

    def _places(self, rows: pa.Table, axis: str) -> tuple[Shaped[np.ndarray, " row"], int]:
        """Return each row's place among the axis' levels, and their number."""
        levels = self.levels(axis)
        order = np.argsort(levels)
        return order[np.searchsorted(levels, rows[axis].to_numpy(), sorter=order)], len(levels)

    def _check_one_each(self, units: Shaped[np.ndarray, " row"], axes: Sequence[str]) -> None:
        if len(np.unique(units)) < len(units):
            raise InputError(
                f"{self.path / 'table.parquet'} has several rows for one {', '.join(axes)} and seed: other fields were "
                "swept too.\nMake the sweep again without them."
            )
