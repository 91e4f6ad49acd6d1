"""python -m paper_figs.collect: keep of finished results what the figures read, small enough to commit.

Every experiment keeps its reports and traces; a deep one, instead of traces, its attention on the subject. `paper`
keeps the columns of facts that the figures read as well. Of a sweep, the arms and columns that a figure reads are kept,
or nothing. A language model's study keeps its reports and what was compared with the theory, `tiny` its attention
to the subject too; the screen study, its table. Numbers are in single precision. Nothing of a real table's rows is
kept, nor where the table or a model was.
"""

import copy
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro

from paper_figs import fig10_deep_toy, fig12_attention_heads, load
from paper_figs.__main__ import ERRORS, OF_SWEEPS, OUTPUT
from paper_figs.load import EMPIRICAL, THEORY, Experiment, InputError, Results, Run, Sweep
from paper_figs.screen import METRICS, OTHERS, Screen
from paper_figs.sweep import SEEDS

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
    found = load.results(options.runs)
    wanted = _wanted(found)
    for place in wanted:
        _check_replaceable(options.out / place)
    unfinished = options.out / ".collecting"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        for place, keep in wanted.items():
            keep(unfinished / place)
        for place in wanted:
            shutil.rmtree(options.out / place, ignore_errors=True)
            (options.out / place).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / place).rename(options.out / place)
    except OSError as error:
        raise InputError(f"cannot write {options.out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    OUTPUT.print(f"{options.out}: {size / 1e6:.2f} MB; {_told(found)}")
    return 0


def _wanted(found: Results) -> dict[Path, Callable[[Path], None]]:
    """Return what writes each kept experiment, sweep or study, by its folder below that of the kept results."""
    return (
        {Path(THEORY, name): partial(_keep_experiment, one) for name, one in found.experiments.items()}
        | {Path(THEORY, name): partial(_keep_sweep, one) for name, one in found.sweeps.items() if name in SWEPT}
        | {Path(EMPIRICAL, name): partial(_keep_study, one) for name, one in found.studies.items()}
        | {Path(EMPIRICAL, name): partial(_keep_screen, one) for name, one in found.screens.items()}
    )


def _told(found: Results) -> str:
    """Return what was kept, in a line."""
    counted = [[f"{name} {len(one.runs)}" for name, one in part.items()] for part in (found.experiments, found.studies)]
    runs, studies, sweeps = (
        counted[0],
        counted[1] + list(found.screens),
        [name for name in found.sweeps if name in SWEPT],
    )
    told = f"runs: {', '.join(runs) or 'none'}; sweeps: {', '.join(sweeps) or 'none'}"
    return f"{told}; studies: {', '.join(studies)}" if studies else told


def is_real(report: dict[str, Any]) -> bool:
    """Return whether the run's facts come from a table, whose rows are not ours to keep."""
    return report["config"].get("facts", {}).get("table") is not None


def _check_replaceable(folder: Path) -> None:
    """Raise InputError where results stand that are not collected ones: collecting would destroy them."""
    for report in folder.glob("*/*/*/report.json"):
        if not load.read(report).report.get("collected"):
            raise InputError(f"{report.parent} is a whole run, which would be lost.\nName another folder with --out.")
    table = folder / "table.parquet"
    if folder.name == load.SCREEN and table.exists():
        is_whole = not Screen(table).is_collected
    else:
        is_whole = table.exists() and not Sweep.read(folder).grid.get("collected")
    if is_whole or any(folder.glob("part-*.parquet")):
        kind = "study" if folder.name == load.SCREEN else "sweep"
        raise InputError(f"{folder} is a whole {kind}, which would be lost.\nName another folder with --out.")


def _keep_experiment(experiment: Experiment, folder: Path) -> None:
    """Write each run's report and trace or attention, and its facts where they are wanted and synthetic."""
    for run in experiment.runs:
        place, report = _report_kept(run, experiment, folder)
        if experiment.name in fig10_deep_toy.LABELS:
            _write(fig10_deep_toy.subject_rows(run), place / "attention.parquet")
        else:
            _write(run.table("trace"), place / "trace.parquet")
        if experiment.name in WITH_FACTS and not is_real(report):
            _write(_facts(run), place / "facts.parquet")


def _keep_study(study: Experiment, folder: Path) -> None:
    """Write a study's verdicts, each run's report, and of those that a figure shows the attention on the subject."""
    for run in study.runs:
        place, _ = _report_kept(run, study, folder)
        if study.name in fig12_attention_heads.NEEDS:
            _write(fig12_attention_heads.subject_rows(run), place / "attention.parquet")
    _write(study.predictions(), folder / "predictions.parquet")


def _keep_sweep(sweep: Sweep, folder: Path) -> None:
    """Write the rows and columns that a figure reads, and of the design what tells nothing of a machine."""
    folder.mkdir(parents=True)
    arms, columns = SWEPT[sweep.path.name]
    rows = sweep.table(["arm", *SEEDS, *columns]).filter(pc.field("arm").isin(list(arms)))
    _write(rows.unify_dictionaries(), folder / "table.parquet")
    kept = {key: sweep.grid[key] for key in DESIGN if key in sweep.grid}
    _write_json(kept | {"collected": True}, folder / "grid.json")


def _keep_screen(screen: Screen, folder: Path) -> None:
    """Write the whole table: the study goes on from it, so that what identifies its rows stays in double precision."""
    folder.mkdir(parents=True)
    table = screen.table().replace_schema_metadata({"collected": "true"})
    _write(table, folder / "table.parquet", single=(*METRICS, *OTHERS))


def _report_kept(run: Run, experiment: Experiment, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write a run's report without places on this machine; return its folder, and what was written."""
    place = folder / run.path.relative_to(experiment.path)
    place.mkdir(parents=True)
    report: dict[str, Any] = copy.deepcopy(run.report) | {"collected": True}
    config = report["config"]
    for name in ("table", "path", "buckets"):
        _shorten(config.get("facts"), name)
    for part in (config.get("model"), report.get("model")):
        _shorten(part, "name")
    _write_json(report, place / "report.json")
    return place, report


def _shorten(part: Any, name: str) -> None:
    """Reduce a place to its last component, if it is there."""
    if isinstance(part, dict) and part.get(name):
        part[name] = PurePath(part[name]).name


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
    """Return the exit code: 0, or 2 for a mistake in the input."""
    options = tyro.cli(Options, prog="python -m paper_figs.collect", args=arguments)
    try:
        return run(options)
    except InputError as error:
        ERRORS.print(f"error: {error}", style="red")
        return 2


if __name__ == "__main__":
    sys.exit(main())
