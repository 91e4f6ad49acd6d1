"""python -m paper_figs.collect: keep of finished runs and sweeps what the figures read, small enough to commit.

Every experiment keeps its reports and traces; a deep one, instead of traces, its attention on the subject. `paper`
keeps the columns of facts that the figures read as well. Of a sweep, the arms and columns that a figure reads are kept,
or nothing. Numbers are in single precision. Nothing of a real table's rows is kept, nor where the table was.
"""

import copy
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro

from paper_figs import fig10_deep_toy, load
from paper_figs.__main__ import ERRORS, OF_SWEEPS, OUTPUT
from paper_figs.load import FLOW, SEEDS, InputError, Run, Sweep

WITH_FACTS = ("paper",)
"""The experiments of which a figure reads facts."""

_BASE = ("subject", "popularity", "exposure", "salience", "predicted_salience", "salience_threshold", "share_force")
_HELD_OUT = ("popularity", "correct", "critical_low", "critical_high", "subject_attention", "relation_attention")
_TRAIN = ("in_arm", "salience", "salience_threshold", "share_force")
KEPT = (
    ("base", None, ("fact", *_BASE)),
    ("top", "held_out", _HELD_OUT),
    ("top", "train", ("fact", *_TRAIN)),
    ("whole", "held_out", ("critical_low", "critical_high")),
    ("bottom", "held_out", _HELD_OUT),
    ("bottom", "train", ("fact", *_TRAIN)),
)
"""Arm, role (None: any) and columns that some figure reads; of training facts, those that the arm was trained on."""
SWEPT = {name: wanted for module in OF_SWEEPS for name, wanted in module.COLUMNS.items()}
"""Arms and columns that some figure reads, by sweep."""
DESIGN = ("sweep", "schema", "configs", "seeds", "arms", "versions", "device", "git_commit")
"""Kept of a sweep's grid.json; its axes' levels are in the table."""


@dataclass(frozen=True)
class Options:
    """Keep what the figures read of finished runs and sweeps; those kept before under the same names are replaced."""

    runs: Path
    """Folder that `python -m theory run … --out DIR`, `sweep` or `deep` wrote."""
    out: Path = Path(__file__).parent / "results"
    """Folder of the kept results."""


def run(options: Options) -> int:
    """Collect every experiment and sweep, print what was kept, and return 0.

    Raises:
        InputError: no or damaged results, or an `out` that holds whole ones of these names or cannot be written to.
    """
    experiments, sweeps = load.results(options.runs)
    sweeps = {name: sweep for name, sweep in sweeps.items() if name in SWEPT}
    kept, partial = options.out / FLOW, options.out / f".{FLOW}"
    for name in (*experiments, *sweeps):
        _check_replaceable(kept / name)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, experiment in experiments.items():
            for one in experiment.runs:
                _keep(one, partial / one.path.relative_to(options.runs / FLOW), name)
        for name, sweep in sweeps.items():
            _keep_sweep(sweep, partial / name, *SWEPT[name])
        kept.mkdir(parents=True, exist_ok=True)
        for name in (*experiments, *sweeps):
            shutil.rmtree(kept / name, ignore_errors=True)
            (partial / name).rename(kept / name)
    except OSError as error:
        raise InputError(f"cannot write {options.out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
    counts = ", ".join(f"{name} {len(experiment.runs)}" for name, experiment in experiments.items())
    OUTPUT.print(f"{kept}: {size / 1e6:.2f} MB; runs: {counts or 'none'}; sweeps: {', '.join(sweeps) or 'none'}")
    return 0


def is_real(report: dict[str, Any]) -> bool:
    """Return whether the run's facts come from a table, whose rows are not ours to keep."""
    return report["config"].get("facts", {}).get("table") is not None


def _check_replaceable(folder: Path) -> None:
    """Raise InputError where a run or a sweep stands that is not a collected one: collecting would destroy it."""
    for report in folder.glob("*/*/*/report.json"):
        if not load.read(report).report.get("collected"):
            raise InputError(f"{report.parent} is a whole run, which would be lost.\nName another folder with --out.")
    if any(folder.glob("part-*.parquet")) or (
        (folder / "table.parquet").exists() and not Sweep.read(folder).grid.get("collected")
    ):
        raise InputError(f"{folder} is a whole sweep, which would be lost.\nName another folder with --out.")


def _keep(run: Run, folder: Path, experiment: str) -> None:
    """Write a run's report and trace or attention, and its facts where they are wanted and synthetic."""
    folder.mkdir(parents=True)
    report: dict[str, Any] = copy.deepcopy(run.report) | {"collected": True}
    if is_real(report):
        report["config"]["facts"]["table"] = Path(report["config"]["facts"]["table"]).name
    _write_json(report, folder / "report.json")
    if experiment in fig10_deep_toy.LABELS:
        _write(fig10_deep_toy.subject_rows(run), folder / "attention.parquet")
    else:
        _write(run.table("trace"), folder / "trace.parquet")
    if experiment in WITH_FACTS and not is_real(report):
        _write(_facts(run), folder / "facts.parquet")


def _keep_sweep(sweep: Sweep, folder: Path, arms: Sequence[str], columns: Sequence[str]) -> None:
    """Write the rows of these arms, and of the design what tells nothing of a machine."""
    folder.mkdir(parents=True)
    rows = sweep.table(["arm", *SEEDS, *columns]).filter(pc.field("arm").isin(list(arms)))
    _write(rows.unify_dictionaries(), folder / "table.parquet")
    kept = {key: sweep.grid[key] for key in DESIGN if key in sweep.grid}
    _write_json(kept | {"collected": True}, folder / "grid.json")


def _facts(run: Run) -> pa.Table:
    """Return the cells that some figure reads; the others are empty."""
    columns = {name for _, _, names in KEPT for name in names}
    facts = run.table("facts", ["arm", "role", *sorted(columns)])
    parts = []
    for arm, role, names in KEPT:
        rows = pc.field("arm") == arm
        rows = rows & (pc.field("role") == role) if role else rows
        rows = rows & pc.field("in_arm") if role == "train" else rows
        parts.append(facts.filter(rows).select(["arm", "role", *names]))
    return pa.concat_tables(parts, promote_options="default").unify_dictionaries()


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write(table: pa.Table, path: Path) -> None:
    """Write a table small: single precision, bytes of equal weight side by side."""
    fields = [f.with_type(pa.float32()) if f.type == pa.float64() else f for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), path, compression="zstd", compression_level=19)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for a mistake in the input."""
    options = tyro.cli(Options, prog="python -m paper_figs.collect", args=arguments)
    try:
        return run(options)
    except InputError as error:
        ERRORS.print(f"error: {error}", style="red")
        return 2


if __name__ == "__main__":
    sys.exit(main())
