"""python -m paper_figs.collect: keep of finished results what the figures read, small enough to commit.

Of every experiment and study the reports are kept, of a study also what was compared with the theory and, of a single
base model, the covariances that intervals over its questions take; of their tables, and of sweeps, the rows and columns
that some figure's READS name; the screen study's table is kept whole. Numbers are in single precision. Nothing of a
real table's rows is kept, nor where the table or a model was.
"""

import copy
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from core import questions, runs, shares
from core.columns import MEASURES
from core.console import exit_code
from core.errors import InputError
from core.questions import Covariance
from paper_figs import load
from paper_figs.__main__ import OUTPUT
from paper_figs.figures import is_read, rows_read
from paper_figs.load import EMPIRICAL, THEORY, Experiment, Results, Run, Sweep
from paper_figs.reads import Kind, Rows
from paper_figs.screen import Screen
from paper_figs.sweep import SEEDS

DESIGN = ("sweep", "schema", "configs", "seeds", "arms", "versions", "device", "git_commit")
"""Kept of a sweep's grid.json; its axes' levels are in the table."""
_PLACE = "place in the table"


@dataclass(frozen=True)
class Options:
    """Keep what the figures read of finished results; those kept before under the same names are replaced."""

    runs: Path
    """Folder that `python -m theory run … --out DIR`, `sweep` or `deep` wrote, or `python -m empirical run`."""
    out: Path = Path(__file__).parent / "results"
    """Folder of the kept results."""


def run(options: Options) -> int:
    """Collect everything that is there, print what was kept, and return 0.

    Raises:
        InputError: no or damaged results, or an `out` that holds whole ones of these names or cannot be written to.
    """
    finished = load.results(options.runs)
    writers = _writers(finished)
    for place in writers:
        _check_replaceable(options.out / place)
    unfinished = options.out / ".collecting"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        for place, write in writers.items():
            write(unfinished / place)
        for place in writers:
            shutil.rmtree(options.out / place, ignore_errors=True)
            (options.out / place).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / place).rename(options.out / place)
    except OSError as error:
        raise InputError(f"cannot write {options.out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    OUTPUT.print(f"{options.out}: {size / 1e6:.2f} MB; {_summary(finished)}")
    return 0


def _writers(finished: Results) -> dict[Path, Callable[[Path], None]]:
    """Return what writes each kept experiment, sweep or study, by its folder below that of the kept results."""
    return (
        {Path(THEORY, n): partial(_keep_runs, "experiment", kept) for n, kept in finished.experiments.items()}
        | {Path(THEORY, n): partial(_keep_sweep, kept) for n, kept in finished.sweeps.items() if is_read("sweep", n)}
        | {Path(EMPIRICAL, n): partial(_keep_study, kept) for n, kept in finished.studies.items()}
        | {Path(EMPIRICAL, n): partial(_keep_screen, kept) for n, kept in finished.screens.items()}
    )


def _summary(finished: Results) -> str:
    """Return what was kept, in a line."""
    experiments, studies = (
        [f"{name} {len(kept.runs)}" for name, kept in part.items()] for part in (finished.experiments, finished.studies)
    )
    sweeps = [name for name in finished.sweeps if is_read("sweep", name)]
    summary = f"runs: {', '.join(experiments) or 'none'}; sweeps: {', '.join(sweeps) or 'none'}"
    studies += finished.screens
    return f"{summary}; studies: {', '.join(studies)}" if studies else summary


def is_real(report: dict[str, Any]) -> bool:
    """Return whether the run's facts come, or may come, from a file, whose rows are not ours to keep."""
    return report["config"].get("facts", {}).get("path", "unknown") is not None


def _check_replaceable(folder: Path) -> None:
    """Raise InputError where results stand that are not collected ones: collecting would destroy them."""
    for report in folder.glob("*/*/*/report.json"):
        if not runs.read_run(report.parent).report.get("collected"):
            raise InputError(f"{report.parent} is a whole run, which would be lost.\nName another folder with --out.")
    table = folder / "table.parquet"
    if folder.name == load.SCREEN and table.exists():
        is_whole = not Screen(table).is_collected
    else:
        is_whole = table.exists() and not Sweep.read(folder).grid.get("collected")
    if is_whole or any(folder.glob("part-*.parquet")):
        kind = "study" if folder.name == load.SCREEN else "sweep"
        raise InputError(f"{folder} is a whole {kind}, which would be lost.\nName another folder with --out.")


def _keep_runs(kind: Kind, experiment: Experiment, folder: Path) -> None:
    """Write each run's report and what figures read of its tables; of its facts only where they are synthetic."""
    wanted = rows_read(kind, experiment.name)
    for run in experiment.runs:
        place = folder / run.path.relative_to(experiment.path)
        place.mkdir(parents=True)
        _write_json(_report(run), place / "report.json")
        for name in dict.fromkeys(rows.table for rows in wanted):
            if name != "facts" or not is_real(run.report):
                cells = kept_cells(partial(run.table, name), [rows for rows in wanted if rows.table == name])
                _write(cells, place / f"{name}.parquet")


def _keep_study(study: Experiment, folder: Path) -> None:
    """Write what is kept of a study's runs, what was compared with the theory, and what intervals take of questions."""
    _keep_runs("study", study, folder)
    _write(study.predictions(), folder / "predictions.parquet")
    moved = shares.covariances([run for run in study.runs if (run.path / "mediation.parquet").exists()])
    known: dict[tuple[str | None, str], Covariance] = {
        (None, metric): of for metric, of in study.contrasts.known.items()
    }
    known |= {(f"{receiver}:{donor}", what): of for (receiver, donor, what), of in moved.items()}
    if known:
        _write(questions.table_of(known), folder / questions.FILE)


def _keep_sweep(sweep: Sweep, folder: Path) -> None:
    """Write the cells that figures read, and of the design what tells nothing of a machine."""
    folder.mkdir(parents=True)
    wanted = [replace(rows, columns=(*SEEDS, *rows.columns)) for rows in rows_read("sweep", sweep.path.name)]
    _write(kept_cells(sweep.table, wanted), folder / "table.parquet")
    design = {key: sweep.grid[key] for key in DESIGN if key in sweep.grid}
    _write_json(design | {"collected": True}, folder / "grid.json")


def _keep_screen(screen: Screen, folder: Path) -> None:
    """Write the whole table: the study goes on from it, so that what identifies its rows stays in double precision."""
    folder.mkdir(parents=True)
    table = screen.table().replace_schema_metadata({"collected": "true"})
    _write(table, folder / "table.parquet", single=MEASURES)


def kept_cells(read: Callable[[list[str]], pa.Table], wanted: Sequence[Rows]) -> pa.Table:
    """Return the cells of a table that some of these rows hold; the other cells of their rows are empty.

    Args:
        read: returns these columns of the table.
    """
    names = list(dict.fromkeys(name for rows in wanted for name in rows.all_columns))
    table = read(names)
    numbered = table.append_column(_PLACE, pa.array(np.arange(len(table))))
    is_held = {name: np.zeros(len(table), dtype=bool) for name in names}
    for rows in wanted:
        held = rows.of(numbered)[_PLACE].to_numpy()
        for name in rows.all_columns:
            is_held[name][held] = True
    is_kept = np.logical_or.reduce(list(is_held.values()))
    columns = {
        name: table[name].take(pa.array(np.flatnonzero(is_kept), mask=~held[is_kept])) for name, held in is_held.items()
    }
    return pa.table(columns).unify_dictionaries()


def _report(run: Run) -> dict[str, Any]:
    """Return a run's report without places on this machine, marked as collected."""
    report: dict[str, Any] = copy.deepcopy(run.report) | {"collected": True}
    config = report["config"]
    for name in ("path", "buckets"):
        _shorten(config.get("facts"), name)
    for part in (config.get("model"), report.get("model")):
        _shorten(part, "name")
    return report


def _shorten(part: Any, name: str) -> None:
    """Reduce a place to its last component, if it is there."""
    if isinstance(part, dict) and part.get(name):
        part[name] = PurePath(part[name]).name


def _write_json(value: dict[str, Any], path: Path) -> None:
    # One line: what is kept is read by programs, and indentation would be a third of it.
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def _write(table: pa.Table, path: Path, *, single: Sequence[str] | None = None) -> None:
    """Write a table small: single precision, in all columns or in these."""
    is_cast = [f.type == pa.float64() and (single is None or f.name in single) for f in table.schema]
    fields = [f.with_type(pa.float32()) if cast else f for f, cast in zip(table.schema, is_cast, strict=True)]
    schema = pa.schema(fields, metadata=table.schema.metadata)
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    options = {
        "use_byte_stream_split": floats,  # a third smaller: exponents lie beside exponents
        "use_dictionary": [name for name in schema.names if name not in floats],
        "write_statistics": False,
    }
    pq.write_table(table.cast(schema), path, compression="zstd", compression_level=19, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 2 for a mistake in the input, 130 for Ctrl-C."""
    options = tyro.cli(Options, prog="python -m paper_figs.collect", args=arguments)
    return exit_code(lambda: run(options), interrupted="interrupted: what was kept before is as it was.")


if __name__ == "__main__":
    sys.exit(main())
