"""Results read back: experiments with their finished runs, and sweeps; columns of their tables as arrays."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Shaped

FLOW = "theory"
ARMS = ("top", "whole", "random", "bottom")
"""The finetuned arms in the order in which every figure shows them."""
SEEDS = ("pretrain_seed", "split_seed", "seed")
"""Of a sweep's rows; the first is the world's."""
SWEEPS = ("phase-exposure", "phase-format", "dose-share", "dose-size", "remedies")
"""The names that figures read; experiments have all others."""

Columns = dict[str, Shaped[np.ndarray, " row"]]


class InputError(Exception):
    """A mistake of the user's: its message names the file and the remedy, and no traceback follows."""


@dataclass(frozen=True)
class Run:
    """A finished run: its report in memory, its tables read when asked for."""

    path: Path
    report: dict[str, Any]

    @property
    def world(self) -> int:
        """The pretraining seed."""
        return self._entry("seeds", "pretrain")

    def metric(self, arm: str, name: str) -> float:
        """Return one number of the report; InputError if it has none."""
        return float(self._entry("metrics", arm, name))

    def facts(self, arm: str, *columns: str, role: str | None = None) -> Columns:
        """Return these columns of an arm's facts, or of those with one role; InputError where a cell is empty."""
        found = self._rows("facts", arm, [*columns, "role"])
        if role is not None:
            found = found.filter(pc.field("role") == role)
        for name in columns:
            if len(found) == 0 or found[name].null_count:
                kind = f"{role.replace('_', '-')} facts" if role else "facts"
                raise InputError(f"{self.path / 'facts.parquet'}: no {name} in {kind} of {arm}.\nMake the run again.")
        return {name: found[name].to_numpy() for name in columns}

    def trace(self, arm: str, *columns: str) -> Columns:
        """Return these columns of an arm's trace; nan where there was nothing to record."""
        found = self._rows("trace", arm, list(columns))
        return {name: found[name].to_numpy() for name in columns}

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return `<name>.parquet`, or only these of its columns; InputError where it is damaged or lacks one."""
        return _table(self.path / f"{name}.parquet", columns)

    def _entry(self, *keys: str) -> Any:
        value: Any = self.report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            raise InputError(f"{self.path / 'report.json'} has no {'.'.join(keys)}.\nMake the run again.")
        return value

    def _rows(self, name: str, arm: str, columns: Sequence[str]) -> pa.Table:
        found = self.table(name, ["arm", *columns]).filter(pc.field("arm") == arm)
        if len(found) == 0:
            raise InputError(f"{self.path / f'{name}.parquet'} has no rows of {arm}.\nMake the run again.")
        return found


@dataclass(frozen=True)
class Experiment:
    """A named experiment's finished runs, all of one config."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def n_worlds(self) -> int:
        """How many worlds the intervals rest on."""
        return len({run.world for run in self.runs})

    def by_world(self, measure: Callable[[Run], Float[np.ndarray, "..."] | float]) -> Float[np.ndarray, "world ..."]:
        """Return what `measure` gives for each run, runs of one world averaged."""
        measured = np.array([measure(run) for run in self.runs], dtype=float)
        worlds = np.array([run.world for run in self.runs])
        return np.stack([measured[worlds == world].mean(axis=0) for world in np.unique(worlds)])

    def metric(self, arm: str, name: str) -> Float[np.ndarray, " world"]:
        """Return one number of the reports, by world."""
        return self.by_world(lambda run: run.metric(arm, name))


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: what was swept, in memory, and its rows, read when asked for."""

    path: Path
    grid: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Sweep":
        """Return the sweep in this folder; InputError where its design is damaged."""
        return cls(path, _json(path / "grid.json"))

    def levels(self, axis: str) -> Shaped[np.ndarray, " level"]:
        """Return the values of a swept field: numbers in order, words in the design's order."""
        column = self.table([axis])[axis].to_numpy()
        found, first = np.unique(column, return_index=True)
        return found if np.issubdtype(found.dtype, np.number) else found[np.argsort(first)]

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
        return _table(self.path / "table.parquet", columns)

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


class Results(NamedTuple):
    """What a folder holds, by name."""

    experiments: dict[str, Experiment]
    sweeps: dict[str, Sweep]


def results(folder: Path) -> Results:
    """Return the experiments with finished runs and the finished sweeps under `folder`.

    Raises:
        InputError: no such folder, nothing finished in it, a damaged report, or an experiment whose runs differ in
            config.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}.\nName one that `python -m theory run … --out DIR` wrote.")
    by_name: dict[str, list[Run]] = {}
    for path in sorted(folder.glob(f"{FLOW}/*/pretrain_*/split_*/seed_*/report.json"), key=_natural):
        by_name.setdefault(path.relative_to(folder).parts[1], []).append(read(path))
    tables = sorted(folder.glob(f"{FLOW}/*/table.parquet"))
    if not by_name and not tables:
        raise InputError(f"no finished runs under {folder}.\nMake some: {command('paper', folder)}")
    experiments = {name: _experiment(name, runs) for name, runs in by_name.items()}
    return Results(experiments, {path.parent.name: Sweep.read(path.parent) for path in tables})


def command(name: str, folder: Path) -> str:
    """Return the command that makes an experiment's runs, or a sweep, where the figures look for them."""
    if name in SWEEPS:
        return f"python -m theory sweep {name} --out {folder}"
    options = " --facts.table FILE" if name.startswith("popqa") else ""
    return f"python -m theory {'deep' if name.startswith('deep-') else 'run'} {name}{options} --seeds 10 --out {folder}"


def _experiment(name: str, runs: Sequence[Run]) -> Experiment:
    for run in runs[1:]:
        if run.report["config"] != runs[0].report["config"]:
            raise InputError(
                f"{runs[0].path} and {run.path} are runs of different configs: no interval can hold both.\n"
                "Make one of them again with --overwrite, or keep them in different folders."
            )
    return Experiment(name, tuple(runs))


def read(path: Path) -> Run:
    """Return the run of this report; InputError where it is damaged."""
    report = _json(path)
    with _damage(path):
        if "config" not in report:
            raise ValueError("it names no config")
    return Run(path.parent, report)


def _json(path: Path) -> dict[str, Any]:
    with _damage(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    return found


def _table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    with _damage(path), pq.ParquetFile(path) as parquet:
        if absent := sorted(set(columns or ()) - set(parquet.schema_arrow.names)):
            raise ValueError(f"it has no column {', '.join(absent)}")
        return parquet.read(columns and list(columns))


def _natural(path: Path) -> list[str | int]:
    """Return a sort key that puts seed_2 before seed_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn a file's being missing or damaged into an InputError."""
    try:
        path.open("rb").close()  # Arrow's own message for a missing file repeats its path twice.
        yield
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]
        raise InputError(f"cannot read {path}: {reason}\nIt is missing or damaged: make it again.") from error
