"""Results read back: experiments of either flow with their finished runs; columns of their tables as arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Shaped

from core import runs
from core.contrasts import Contrasts
from core.errors import InputError
from paper_figs.interval import Interval, over_worlds
from paper_figs.reads import EVERY, Kind, Read, Rows
from paper_figs.screen import Screen
from paper_figs.sweep import Sweep

THEORY, EMPIRICAL = "theory", "empirical"
"""The flows, by their folders."""
ARMS = ("top", "whole", "random", "bottom")
"""The finetuned arms in the order in which every figure shows them."""
SCREEN = "screen"
"""The study of many worlds, of which one table is read and no run."""

Columns = dict[str, Shaped[np.ndarray, " row"]]


class Run(runs.Run):
    """A finished run with what figures ask of it: numbers of its report, and columns of its tables."""

    @property
    def world(self) -> int:
        """The pretraining seed."""
        return self._entry("seeds", "pretrain")

    def metric(self, arm: str, name: str) -> float:
        """Return one number of the report; InputError if it has none."""
        return float(self._entry("metrics", arm, name))

    def facts(self, arm: str, *columns: str, role: str | None = None) -> Columns:
        """Return these columns of an arm's facts, or of those with one role; InputError where a cell is empty."""
        facts = self._rows_of("facts", arm, [*columns, "role"])
        if role is not None:
            facts = facts.filter(pc.field("role") == role)
        for name in columns:
            if len(facts) == 0 or facts[name].null_count:
                kind = f"{role.replace('_', '-')} facts" if role else "facts"
                raise InputError(f"{self.path / 'facts.parquet'}: no {name} in {kind} of {arm}.\nMake the run again.")
        return {name: facts[name].to_numpy() for name in columns}

    def trace(self, arm: str, *columns: str) -> Columns:
        """Return these columns of an arm's trace; nan where there was nothing to record."""
        trace = self._rows_of("trace", arm, columns)
        return {name: trace[name].to_numpy() for name in columns}

    def rows(self, rows: Rows) -> pa.Table:
        """Return some rows of a table; InputError where it is damaged or lacks a column."""
        return rows.of(self.table(rows.table, list(rows.all_columns)))

    def _entry(self, *keys: str) -> Any:
        value: Any = self.report
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            raise InputError(f"{self.path / 'report.json'} has no {'.'.join(keys)}.\nMake the run again.")
        return value

    def _rows_of(self, name: str, arm: str, columns: Sequence[str]) -> pa.Table:
        of_arm = self.rows(Rows(name, tuple(columns), {"arm": (arm,)}))
        if len(of_arm) == 0:
            raise InputError(f"{self.path / f'{name}.parquet'} has no rows of {arm}.\nMake the run again.")
        return of_arm


@dataclass(frozen=True)
class Experiment:
    """The finished runs of a named experiment or study, all of one config."""

    name: str
    runs: tuple[Run, ...]

    @property
    def path(self) -> Path:
        """The folder of all runs."""
        return self.runs[0].path.parents[2]

    @cached_property
    def n_worlds(self) -> int:
        """How many worlds the intervals rest on."""
        return len({run.world for run in self.runs})

    @property
    def is_published(self) -> bool:
        """Is this a study of a model that was pretrained elsewhere? Its runs are splits of the same questions."""
        return bool(self.runs[0].report["config"].get("model", {}).get("name"))

    @cached_property
    def contrasts(self) -> Contrasts:
        """Weighted sums of the arms, and what their intervals count."""
        return Contrasts(self.runs)

    def interval(self, metric: str, weights: Mapping[str, float]) -> Interval:
        """Return a weighted sum of arms in a metric, over worlds; of a published model over what `contrasts` counts."""
        if self.is_published:
            return Interval(*(np.asarray(end) for end in self.contrasts.interval(metric, weights)))
        return over_worlds(np.sum([weight * self.metric(arm, metric) for arm, weight in weights.items()], axis=0))

    def by_world(self, measure: Callable[[Run], Float[np.ndarray, "..."] | float]) -> Float[np.ndarray, "world ..."]:
        """Return what `measure` gives for each run, runs of one world averaged."""
        measured = np.array([measure(run) for run in self.runs], dtype=float)
        worlds = np.array([run.world for run in self.runs])
        return np.stack([measured[worlds == world].mean(axis=0) for world in np.unique(worlds)])

    def metric(self, arm: str, name: str) -> Float[np.ndarray, " world"]:
        """Return one number of the reports, by world."""
        return self.by_world(lambda run: run.metric(arm, name))

    def predictions(self) -> pa.Table:
        """Return what was compared with the theory; InputError where it is missing, or rests on other runs."""
        path = self.path / "predictions.parquet"
        rows = runs.read_table(path) if path.exists() else None
        if rows is None or set(rows["seeds"].to_pylist()) != {len(self.runs)}:
            remedy = f"python -m {self.path.parent.name} compare {self.name} --out {self.path.parents[1]}"
            raise InputError(f"{path} is missing, or rests on other runs than those beside it.\nMake it: {remedy}")
        return rows


class Results(NamedTuple):
    """What a folder holds, by name."""

    experiments: dict[str, Experiment]
    sweeps: dict[str, Sweep]
    studies: dict[str, Experiment]
    """The language model's."""
    screens: dict[str, Screen]
    """The screen study, if its table is there."""

    def of(self, kind: Kind) -> Mapping[str, Any]:
        """Return the results of a kind."""
        kinds = {"experiment": self.experiments, "sweep": self.sweeps, "study": self.studies, "screen": self.screens}
        return kinds[kind]

    def read_by(self, reads: Sequence[Read]) -> dict[str, Any]:
        """Return what a figure reads, by name and in its order; what is not there is left out."""
        return {
            name: result
            for read in reads
            for name, result in self.of(read.kind).items()
            if read.matches(read.kind, name)
        }

    def missing(self, reads: Sequence[Read]) -> list[Read]:
        """Return what a figure reads and is not there."""
        return [read for read in reads if read.name != EVERY and read.name not in self.of(read.kind)]


def results(folder: Path) -> Results:
    """Return what is finished under `folder`: the theory's experiments and sweeps, the language model's studies.

    Raises:
        InputError: no such folder, nothing finished in it, a damaged report, or an experiment whose runs differ in
            config.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}.\n"
            "Name one that `python -m theory run … --out DIR` wrote, or `python -m empirical run`."
        )
    table = folder / EMPIRICAL / SCREEN / "table.parquet"
    finished = Results(
        _experiments(folder, THEORY),
        {path.parent.name: Sweep.read(path.parent) for path in sorted(folder.glob(f"{THEORY}/*/table.parquet"))},
        _experiments(folder, EMPIRICAL),
        {SCREEN: Screen(table)} if table.is_file() else {},
    )
    if not any(finished):
        raise InputError(f"no finished runs under {folder}.\nMake some: {command(Read('experiment', 'paper'), folder)}")
    return finished


def command(read: Read, folder: Path) -> str:
    """Return the command that makes results where the figures look for them."""
    theory = "deep" if read.name.startswith("deep-") else "run"
    made_by = {
        "experiment": f"theory {theory} {read.name} --seeds 10",
        "sweep": f"theory sweep {read.name}",
        "study": f"empirical run {read.name} "
        + ("--seeds 5 --pretrain-seeds 3" if "tiny" in read.name else "--seeds 3"),
        "screen": f"empirical run {read.name}",
    }
    return f"python -m {made_by[read.kind]} --out {folder}"


def _experiments(folder: Path, flow: str) -> dict[str, Experiment]:
    """Return a flow's experiments with finished runs, those of single worlds of the screen study left out."""
    names = sorted(path.name for path in folder.glob(f"{flow}/*/") if not path.name.startswith(f"{SCREEN}-"))
    by_name = {name: [Run(run.path, run.report) for run in runs.find_runs(folder, flow, name)] for name in names}
    return {name: _experiment(name, members) for name, members in by_name.items() if members}


def _experiment(name: str, members: Sequence[Run]) -> Experiment:
    first = members[0]
    for run in members[1:]:
        if run.report["config"] != first.report["config"]:
            raise InputError(
                f"{first.path} and {run.path} are runs of different configs: no interval can hold both.\n"
                "Make one of them again with --overwrite, or keep them in different folders."
            )
    return Experiment(name, tuple(members))
