"""Results read back: experiments of either flow with their finished runs; columns of their tables as arrays."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Shaped

from paper_figs import files
from paper_figs.files import InputError
from paper_figs.screen import Screen
from paper_figs.sweep import Sweep

THEORY, EMPIRICAL = "theory", "empirical"
"""The flows, by their folders."""
ARMS = ("top", "whole", "random", "bottom")
"""The finetuned arms in the order in which every figure shows them."""
SWEEPS = ("phase-exposure", "phase-format", "dose-share", "dose-size", "remedies")
"""The names that figures read; experiments have all others."""
STUDIES = ("tiny", "tiny-lora")
"""The language model's that figures read."""
SCREEN = "screen"
"""The study of many worlds, of which one table is read and no run."""

Columns = dict[str, Shaped[np.ndarray, " row"]]


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
        return files.read_table(self.path / f"{name}.parquet", columns)

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

    @property
    def path(self) -> Path:
        """The folder of all runs."""
        return self.runs[0].path.parents[2]

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

    def predictions(self) -> pa.Table:
        """Return what was compared with the theory; InputError where it is missing, or rests on other runs."""
        path = self.path / "predictions.parquet"
        found = files.read_table(path) if path.exists() else None
        if found is None or set(found["seeds"].to_pylist()) != {len(self.runs)}:
            remedy = f"python -m {self.path.parent.name} compare {self.name} --out {self.path.parents[1]}"
            raise InputError(f"{path} is missing, or rests on other runs than those beside it.\nMake it: {remedy}")
        return found


class Results(NamedTuple):
    """What a folder holds, by name."""

    experiments: dict[str, Experiment]
    sweeps: dict[str, Sweep]
    studies: dict[str, Experiment]
    """The language model's."""
    screens: dict[str, Screen]
    """The screen study, if its table is there."""


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
    found = Results(
        _experiments(folder / THEORY),
        {path.parent.name: Sweep.read(path.parent) for path in sorted(folder.glob(f"{THEORY}/*/table.parquet"))},
        _experiments(folder / EMPIRICAL),
        {SCREEN: Screen(table)} if table.is_file() else {},
    )
    if not any(found):
        raise InputError(f"no finished runs under {folder}.\nMake some: {command('paper', folder)}")
    return found


def command(name: str, folder: Path) -> str:
    """Return the command that makes an experiment's runs, a sweep or a study, where the figures look for them."""
    if name in STUDIES:
        return f"python -m empirical run {name} --seeds 5 --pretrain-seeds 3 --out {folder}"
    if name == SCREEN:
        return f"python -m empirical run {name} --out {folder}"
    if name in SWEEPS:
        return f"python -m theory sweep {name} --out {folder}"
    options = " --facts.table FILE" if name.startswith("popqa") else ""
    return f"python -m theory {'deep' if name.startswith('deep-') else 'run'} {name}{options} --seeds 10 --out {folder}"


def _experiments(folder: Path) -> dict[str, Experiment]:
    """Return a flow's experiments with finished runs, those of single worlds of the screen study left out."""
    by_name: dict[str, list[Run]] = {}
    for path in sorted(folder.glob("*/pretrain_*/split_*/seed_*/report.json"), key=_natural):
        name = path.relative_to(folder).parts[0]
        if not name.startswith(f"{SCREEN}-"):
            by_name.setdefault(name, []).append(read(path))
    return {name: _experiment(name, runs) for name, runs in by_name.items()}


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
    report = files.read_json(path)
    with files.damage(path):
        if "config" not in report:
            raise ValueError("it names no config")
    return Run(path.parent, report)


def _natural(path: Path) -> list[str | int]:
    """Return a sort key that puts seed_2 before seed_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
