"""Results of the former schema, rewritten in place: old names become the new ones, and no number changes.

`python -m core migrate FOLDER`. Interrupted, it goes on from where it was: a run's report is rewritten last. A sweep's
table and design are rewritten, its parts are not: where the sweep goes on, they are computed anew.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core import config_json, former, runs, writing
from core.columns import PREDICTIONS
from core.errors import InputError


def run(folder: Path, tell: Callable[[str], object] = lambda doing: None) -> dict[str, int]:
    """Rewrite every result of the former schema under a folder, and return how many of each kind there were.

    Raises:
        InputError: no such folder, a damaged file, or a disk that refuses.
    """
    if not folder.is_dir():
        raise InputError(
            f"there is no folder {folder}.\nName the one that --out named, with theory/ or empirical/ in it."
        )
    hashes: dict[str, str] = {}
    n_runs = sum(_run(path, hashes, tell) for path in sorted(folder.glob("*/*/pretrain_*/split_*/seed_*/report.json")))
    n_tables = sum(_predictions(path) for path in sorted(folder.glob("*/*/predictions.parquet")))
    n_sweeps = sum(_sweep(path.parent) for path in sorted(folder.glob("theory/*/grid.json")))
    n_screens = sum(_screen(path, hashes) for path in sorted(folder.glob("empirical/window/table.parquet")))
    for path in sorted(folder.glob("empirical/window*")):
        path.rename(path.with_name(former.study(path.name)))
    return {"runs": n_runs, "predictions": n_tables, "sweeps": n_sweeps, "screens": n_screens}


def _run(path: Path, hashes: dict[str, str], tell: Callable[[str], object]) -> bool:
    """Rewrite a run's tables, then its report; note what its config's hash became."""
    report = runs.read_json(path)
    if report.get("schema") != former.SCHEMA:
        return False
    tell(str(path.parent))
    for name in ("facts", "attention"):
        table = path.with_name(f"{name}.parquet")
        if table.exists():
            _rewrite(table, former.table)
    new = former.report(report)
    new |= {"schema": runs.SCHEMA, "config_hash": config_json.config_hash(new["config"])}
    hashes[report["config_hash"]] = new["config_hash"]
    _write_json(path, new)
    return True


def _predictions(path: Path) -> bool:
    """Rewrite what was compared with the theory."""
    old = runs.read_table(path)
    if set(old.column_names) >= {"stratum", "unit"}:
        return False
    new = former.predictions(old)
    ordered = new.select([name for name in PREDICTIONS.names if name in new.column_names])
    writing.replace_file(path, lambda file: pq.write_table(ordered, file, compression="zstd"))
    return True


def _sweep(folder: Path) -> bool:
    """Rewrite a sweep's table and its design."""
    design = runs.read_json(folder / "grid.json")
    if design.get("schema") != former.SWEEP_SCHEMA:
        return False
    if (folder / "table.parquet").exists():
        _rewrite(folder / "table.parquet", former.sweep)
    _write_json(folder / "grid.json", former.grid(design))
    return True


def _screen(path: Path, hashes: Mapping[str, str]) -> bool:
    """Rewrite the table of the screen; rows whose runs are not in the folder keep the hash of their former config."""
    if former.is_screen(runs.read_table(path).column_names):
        _rewrite(path, lambda table: former.screen(table, hashes))
        return True
    return False


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite a table in the encodings that it had."""
    old = runs.read_table(path)
    new = change(old)
    if new is old:
        return
    split = [name for name, encodings in _encodings(path) if "BYTE_STREAM_SPLIT" in encodings]
    options: dict[str, Any] = {}
    if split:
        places = [new.column_names[old.column_names.index(name)] for name in split]
        rest = [name for name in new.column_names if name not in places]
        options = {"use_byte_stream_split": places, "use_dictionary": rest}
    writing.replace_file(path, lambda file: pq.write_table(new, file, compression="zstd", **options))


def _encodings(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_row_groups:
            group = file.metadata.row_group(0)
            yield from ((c.path_in_schema, c.encodings) for c in map(group.column, range(group.num_columns)))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    # Kept results are a line each, whole ones are indented.
    indent = 2 if path.read_text(encoding="utf-8").startswith("{\n") else None
    separators = None if indent else (",", ":")
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False)
    writing.replace_file(path, lambda file: file.write(text.encode() + b"\n"))
