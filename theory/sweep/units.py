"""The units of a sweep: what each is known by, and how much room the results of many take.

A *unit* is one resolved config with its three seeds. Its results are a row for every arm.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from core import config_json
from core.errors import InputError
from core.facts.files import HUB
from core.runs import SWEEP_SCHEMA

DISK, MEMORY = 400, 1000
"""Bytes per row, a quarter above what was measured for random numbers, which hardly shrink. On disk: 130 in a part and
104 in the table, which is there twice for a moment. In memory: 800 when the table is made."""


def identities(config: Mapping[str, Any], cells: Sequence[tuple[int, int, int]], arms: Sequence[str]) -> list[str]:
    """Return the units' names: 32 hex digits of SHA-256, the same iff config, seeds, set of arms and SWEEP_SCHEMA are.

    Args:
        config: As `config.to_json` gives it. The file of `facts.path` counts by its content, a hub's data set by name.
        cells: Seeds of pretraining, split and finetuning.

    Raises:
        InputError: the table of facts cannot be read.
    """
    resolved = _canonical(config)
    if resolved.get("facts", {}).get("path"):
        resolved["facts"]["path"] = _content(resolved["facts"]["path"])
    shared = config_json.config_hash({"schema": SWEEP_SCHEMA, "config": resolved, "arms": sorted(arms)})
    return [hashlib.sha256(f"{shared} {p} {q} {n}".encode()).hexdigest()[:32] for p, q, n in cells]


def _canonical(value: Any) -> Any:
    """Return a copy in which equal numbers, 1 and 1.0, are one, and unequal ones, inf and nan, are not."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else repr(float(value))
    return value


def _content(table: str) -> str:
    """Return what stands for a table of facts."""
    if table.startswith(HUB):
        return table
    try:
        status = os.stat(table)
        return _digest(table, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError as error:
        raise InputError(f"{table}: cannot be read ({error.strerror}); check --facts.path") from error


@lru_cache
def _digest(path: str, *_: int) -> str:
    """Return the hash of a file and its extension, by which it is read; hashed again when its status changes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() + Path(path).suffix.lower()


def estimate_bytes(n_units: int, n_arms: int) -> int:
    """Return what the parts and the table of so many units take on disk."""
    return DISK * n_units * n_arms


def check_space(folder: Path, n_units: int, n_arms: int) -> None:
    """Raise InputError, saying how large and what to change, if so many units do not fit on disk or in memory."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    disk = estimate_bytes(n_units, n_arms), shutil.disk_usage(existing).free, existing
    memory = (
        MEMORY * n_units * n_arms,
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "this machine's memory",
    )
    for needed, available, place in (disk, memory):
        if needed > available:
            remedy = ", or name another place by --out DIR" if place == existing else ""
            raise InputError(
                f"{n_units:,} units of {n_arms} arms take {needed / 1e9:,.1f} GB, and {place} has "
                f"{available / 1e9:,.1f} GB.\nTake fewer seeds or a coarser grid{remedy}."
            )
