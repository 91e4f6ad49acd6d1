"""The verdicts of `verify`: kept with what they are of, so that one program does not test one config twice."""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from core import config_json, provenance, runs, writing
from theory import config as configs
from theory.compare import Row
from theory.config import Config

PACKAGES = Path(provenance.__file__).parent, Path(configs.__file__).parent
"""The code that verdicts depend on: core and theory."""
LIBRARIES = ("jax", "jaxlib", "numpy", "optax", "scipy")
"""The libraries that compute them, whether they are loaded yet or not."""


def read(path: Path, config: Config, n_seeds: int) -> list[Row] | None:
    """Return the rows of an earlier `verify` of this config by this code, on these libraries and device; else None."""
    if not (path / "report.json").exists():
        return None
    if runs.read_run(path).report["config_hash"] != config_json.config_hash(_stored(config, n_seeds)):
        return None
    return runs.read_table(path / "predictions.parquet").to_pylist()


def write(path: Path, config: Config, n_seeds: int, rows: list[Row]) -> None:
    """Write the rows of `verify`, and last the report that says what they are of."""
    (path / "report.json").unlink(missing_ok=True)
    runs.write_predictions(path / "predictions.parquet", rows)
    stored = _stored(config, n_seeds)
    report = {"schema": runs.SCHEMA, "config": stored, "config_hash": config_json.config_hash(stored)}
    text = json.dumps(report | provenance.environment(), indent=2)
    writing.replace_file(path / "report.json", lambda file: file.write(text.encode() + b"\n"))


def _stored(config: Config, n_seeds: int) -> dict[str, Any]:
    """Return what verdicts depend on; the code is part of it, so that a corrected theorem is tested anew."""
    versions = {name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    program = {"code": provenance.code_hash(*PACKAGES), "versions": versions, "device": provenance.device()}
    return configs.to_json(config) | {"seeds": n_seeds} | program
