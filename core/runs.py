"""Run directories: written whole or not at all, known by their config, read back lazily.

A run lives in `<out>/<flow>/<experiment>/pretrain_<p>/split_<q>/seed_<n>/` and exists iff it finished: its files go to
a hidden sibling first, which is then renamed.
"""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import config_json, writing
from core.columns import PREDICTIONS, TABLES, Columns, table
from core.errors import InputError
from core.seeds import Cell

SCHEMA = 2
"""Raised by one whenever a column changes its meaning, so that old and new runs are never mixed."""
SWEEP_SCHEMA = 2
"""The same of a sweep's units, tables and design; raised when a column of SWEEP, or how it comes about, changes."""


def directory(out: Path, flow: str, experiment: str, cell: Cell) -> Path:
    """Return where the run of these three seeds belongs."""
    return out / flow / experiment / f"pretrain_{cell.pretrain}" / f"split_{cell.split}" / f"seed_{cell.seed}"


def is_done(path: Path, config: Any, facts_hash: str | None = None, model: Mapping[str, Any] | None = None) -> bool:
    """Return whether this very run has finished: same resolved config, result schema and facts (where these are given).

    Args:
        model: What is known of the base model, by name; what the run's report says of it must be the same.

    Raises:
        InputError: something else stands in its place; it names the fields that differ.
    """
    if not path.exists():
        return False
    report = read_run(path).report
    if difference := _difference(_flat(report["config"]), _flat(config_json.plain(config))):
        raise InputError(
            f"{path} holds a run of another config ({difference}).\n"
            "Replace it with --overwrite, with all other seeds of its experiment, or name another place with --out DIR."
        )
    if facts_hash != report.get("facts_hash"):
        raise InputError(
            f"{path} holds a run on other facts: their file has changed since.\n"
            "Put it back, replace the run with --overwrite, or name another place with --out DIR."
        )
    stored = report.get("model", {})
    if changed := [name for name, value in (model or {}).items() if stored.get(name, value) != value]:
        raise InputError(
            f"{path} holds a run of another base model: its {' and '.join(changed)} differ.\n"
            "Put it back, replace the run with --overwrite, or name another place with --out DIR."
        )
    return True


def unfinished(
    out: Path,
    flow: str,
    experiment: str,
    wanted: Sequence[Cell],
    config: Any,
    facts_hash: str | None = None,
    model: Mapping[str, Any] | None = None,
    *,
    overwrite: bool,
) -> list[Cell]:
    """Return the cells still to be run of this config, and on these facts and model where they are told (`is_done`).

    Raises:
        InputError: a directory holds a run of another config or on other facts, under whatever seed (both would be
            averaged), unless it is one to be overwritten; or the folder cannot be written to.
    """
    writing.check_writable(out)
    places = {cell: directory(out, flow, experiment, cell) for cell in wanted}
    for run in find_runs(out, flow, experiment):
        if not overwrite or run.path not in places.values():
            is_done(run.path, config, facts_hash, model)
    if overwrite:
        return list(wanted)
    return [cell for cell, place in places.items() if not is_done(place, config, facts_hash, model)]


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the config's leaves by their dotted names."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    inner = [_flat(value, f"{prefix}.{key}" if prefix else key) for key, value in config.items()]
    return {name: value for leaves in inner for name, value in leaves.items()}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], at_most: int = 3) -> str:
    """Return "name: old → new" of the first fields that differ, or nothing."""
    differing = [n for n in {**old, **new} if (n in old) != (n in new) or old[n] != new[n]]
    named = [f"{name}: {old.get(name, 'absent')} → {new.get(name, 'absent')}" for name in differing[:at_most]]
    rest = [f"and {len(differing) - at_most} more"] if len(differing) > at_most else []
    return ", ".join(named + rest)


def write_run(
    path: Path,
    report: Mapping[str, Any],
    tables: Mapping[str, Columns | Sequence[Columns]],
    arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a run directory, complete or not at all, and durable once this returns.

    `tables` names TABLES; each is columns, or a list of them (one per arm, say) to be stacked. `arrays` become
    `<name>.npz`. `report` must hold the resolved `config`; schema and config hash are added. A killed run's leftovers
    are removed. Raises InputError when the disk refuses, or when a run stands there and `overwrite` is not set.
    """
    with writing.folder_of(path, overwrite=overwrite) as folder:
        _write_files(folder, report, tables, arrays or {})


def _write_files(
    folder: Path,
    report: Mapping[str, Any],
    tables: Mapping[str, Columns | Sequence[Columns]],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write every file of a run, and see that it has reached the disk."""
    for name, parts in tables.items():
        stacked = [parts] if isinstance(parts, Mapping) else parts
        whole = pa.concat_tables([table(part, TABLES[name]) for part in stacked]).unify_dictionaries()
        writing.write_through(folder / f"{name}.parquet", partial(pq.write_table, whole, compression="zstd"))
    for name, members in arrays.items():
        writing.write_through(folder / f"{name}.npz", partial(np.savez, allow_pickle=False, **members))
    full = {"schema": SCHEMA, "config_hash": config_json.config_hash(report["config"])} | config_json.plain(report)
    text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False)
    writing.write_through(folder / "report.json", lambda file: file.write(text.encode() + b"\n"))
    writing.sync(folder)


def write_predictions(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows as the whole file, in place of what it held; keys are columns of PREDICTIONS, absent ones null."""
    rows = list(rows)
    columns = {name: [row.get(name) for row in rows] for name in {key for row in rows for key in row}}
    whole = table(columns, PREDICTIONS)
    writing.replace_file(path, partial(pq.write_table, whole, compression="zstd"))


@dataclass(frozen=True)
class Run:
    """A finished run: its report in memory, its tables and arrays read when asked for."""

    path: Path
    report: dict[str, Any]

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return `<name>.parquet`, or only these of its columns."""
        return read_table(self.path / f"{name}.parquet", columns)

    def arrays(self, name: str = "weights") -> dict[str, np.ndarray]:
        """Return every array of `<name>.npz`."""
        with _damage(self.path / f"{name}.npz") as file, np.load(file) as members:
            return dict(members)


def read_run(path: Path) -> Run:
    """Return the run; InputError where its report is missing, damaged or of another schema."""
    report = read_json(path / "report.json", "config")
    check_schema(path, report.get("schema"), SCHEMA)
    return Run(path, report)


def read_json(path: Path, *entries: str) -> dict[str, Any]:
    """Return the object in this file; InputError where it is missing, damaged or lacks one of these entries."""
    with _damage(path) as file:
        value = json.load(file)
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        if absent := [entry for entry in entries if entry not in value]:
            raise ValueError(f"it names no {', '.join(absent)}")
    return value


def check_schema(path: Path, found: Any, known: int) -> None:
    """Raise InputError for results of another schema than this program's: their names may mean something else."""
    if found == known:
        return
    if isinstance(found, int) and found < known:
        raise InputError(
            f"{path} is of an earlier version (schema {found}, now {known}): its names have changed since.\n"
            "Rewrite the folder that --out named, no number changes: python -m core migrate FOLDER"
        )
    raise InputError(f"{path} has schema {found}, and this program knows {known}.\nUse the version that wrote it.")


def find_runs(out: Path, flow: str | None = None, experiment: str | None = None) -> list[Run]:
    """Return the finished runs under `out`, by flow, experiment and then the three seeds in the order of numbers."""
    reports = out.glob(f"{flow or '*'}/{experiment or '*'}/pretrain_*/split_*/seed_*/report.json")
    return [read_run(report.parent) for report in sorted(reports, key=_natural)]


def _natural(path: Path) -> list[str | int]:
    """Return a sort key that puts seed_2 before seed_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file's table, or only these columns; InputError where it is missing, damaged or lacks one."""
    # By its path: Arrow's threads and an open Python file can abort the interpreter at its end.
    with _damage(path), pq.ParquetFile(path) as parquet:
        if absent := sorted(set(columns or []) - set(parquet.schema_arrow.names)):
            raise ValueError(f"it has no column {', '.join(absent)}")
        return parquet.read(columns)


@contextmanager
def _damage(path: Path) -> Iterator[BinaryIO]:
    """Open the file, and turn its being missing or damaged into an InputError."""
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["damaged"])[0]
        raise InputError(
            f"cannot read {path}: {reason}\nIt is missing or damaged: make it again, a run with --overwrite."
        ) from error
