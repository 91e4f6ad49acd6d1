"""A sweep's results on disk: parts of whole units, which any number of processes add, and one table made of them.

A part is named by the hash of its bytes, so that any damage shows, and is never changed.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from core import config_json, lock, writing
from core.columns import SWEEP
from core.errors import InputError
from core.runs import SWEEP_SCHEMA

_KEY = b"sweep_schema"


class _DamageError(Exception):
    """A part holds other bytes than were written."""


@dataclass
class Store:
    """The parts in a sweep's folder. Any number of processes may each have one on the same folder."""

    folder: Path
    tell: Callable[[str], object]
    """Called with a sentence for every part that is set aside or left unread."""
    _units: dict[Path, list[str]] = field(default_factory=dict, init=False, repr=False)
    """The units of each part read so far, whose content its name vouches for; none of another schema's."""

    def done(self) -> dict[str, Path]:
        """Return the finished units, each with the part that holds it, as the folder is now.

        A damaged part is renamed to `damaged-…`, so that its units count as unfinished; one of another schema stays as
        it is, for the version that wrote it. What killed writers left is removed.
        """
        self._remove_leftovers()
        where: dict[str, Path] = {}
        for path in sorted(self.folder.glob("part-*.parquet")):
            if path not in self._units and (rows := self._read(path, ["unit"])) is not None:
                self._units[path] = rows["unit"].unique().to_pylist()
            for unit in self._units.get(path, ()):
                where.setdefault(unit, path)
        return where

    def write(self, rows: pa.Table) -> Path:
        """Write units as one part, and return its path once it is durable; it is there whole or not at all.

        Raises:
            ValueError: the columns are not SWEEP's, or some unit does not have every arm of the others just once.
            InputError: the disk refuses.
        """
        rows = rows.unify_dictionaries()
        keys = rows.select(["unit", "arm"]).group_by(["unit", "arm"]).aggregate([])
        n_product = len(keys["unit"].unique()) * len(keys["arm"].unique())
        if not rows.schema.equals(SWEEP) or not len(rows) == len(keys) == n_product:
            raise ValueError("a part has SWEEP's columns, and each of its units once with each of their arms")
        content = _encode(rows)
        path = self.folder / _name(content)
        self.replace(path.name, lambda file: file.write(content))
        return path

    def replace(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file of the folder atomically, while no other process does; InputError when the disk refuses."""
        with self._lock("write", wait=True):
            writing.replace_file(self.folder / name, write)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold the key as long as the block runs, and give True; or False if another process or thread holds it.

        The system frees it when its holder dies, however it does. Ask `done` again once it is held: its last holder may
        have finished the work. Keys know nothing of units: who divides them in another way is not kept out, and both do
        some of them, which harms nothing.
        """
        with self._lock(hashlib.sha256(key.encode()).hexdigest()[:16], wait=False) as is_held:
            yield is_held

    def assemble(self, units: Sequence[str], values: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> pa.Table:
        """Return each unit's row of each arm just once, in the order given, whatever parts hold them.

        Args:
            values: Each unit's values of the swept fields, by dotted name: columns before SWEEP's.

        Raises:
            InputError: a unit is in no part.
            ValueError: the parts have a unit with other arms.
        """
        names = list(dict.fromkeys(units))
        rows = self._gather(names)
        unit, arm = _index(rows["unit"].to_pylist(), names), _index(rows["arm"].to_pylist(), arms)
        wanted = np.flatnonzero((unit >= 0) & (arm >= 0))[::-1]  # of a unit in two parts the first one's rows count
        place = np.full((len(names), len(arms)), -1)
        place[unit[wanted], arm[wanted]] = wanted
        if (place < 0).any():
            raise ValueError(f"the parts in {self.folder} have other arms than {', '.join(arms)}")
        ordered = rows.take(place[_index(units, names)].ravel())
        repeated = np.repeat(np.arange(len(units)), len(arms))
        columns: dict[str, pa.Array] = {}
        for name in values[0] if units else ():
            column = pa.array([config_json.plain(row[name]) for row, _ in zip(values, units, strict=True)])
            columns[name] = column.take(repeated)
        return pa.table(columns | {name: _by_appearance(ordered[name]) for name in ordered.column_names})

    def write_table(self, table: pa.Table) -> Path:
        """Write what `assemble` returned to table.parquet, the same bytes for the same rows, and return its path."""
        content = _encode(table)
        self.replace("table.parquet", lambda file: file.write(content))
        return self.folder / "table.parquet"

    def _gather(self, units: Sequence[str]) -> pa.Table:
        """Return the rows of the parts that hold these units, part after part."""
        while True:
            where = self.done()
            if missing := [unit for unit in units if unit not in where]:
                raise InputError(
                    f"{self.folder}: {len(missing):,} of {len(units):,} units have no results.\n"
                    "Give the same command again: it computes what is missing."
                )
            read = [self._read(path) for path in sorted({where[unit] for unit in units})]
            sound = [part for part in read if part is not None]
            if len(sound) == len(read):  # else one was damaged since it was read first
                return pa.concat_tables([SWEEP.empty_table(), *sound]).unify_dictionaries().combine_chunks()

    def _read(self, path: Path, columns: list[str] | None = None) -> pa.Table | None:
        """Return a part's rows; None if it is gone, damaged and now set aside, or of another version."""
        try:
            rows = _load(path, columns)
        except FileNotFoundError:
            return None  # another process has set it aside
        except _DamageError:
            self._set_aside(path)
            return None
        if rows is None and path not in self._units:
            self._units[path] = []
            self.tell(f"{path} was written by another version: left as it is, and not used.")
        return rows

    def _set_aside(self, path: Path) -> None:
        """Rename a damaged part, unless another process has done so, and maybe written it anew, since it was read."""
        with self._lock("write", wait=True):
            try:
                _load(path, [])
                return
            except FileNotFoundError:
                return
            except _DamageError:
                aside = path
                while aside.exists():
                    aside = aside.with_name(f"damaged-{aside.name}")
                path.rename(aside)
        self.tell(f"{path} is damaged: renamed to {aside.name}, and its units are computed again.")

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left, unless a process is writing just now."""
        if any(self.folder.glob(".*.parquet.*partial")):
            with self._lock("write", wait=False) as is_alone:
                for leftover in self.folder.glob(".*.parquet.*partial") if is_alone else ():
                    leftover.unlink(missing_ok=True)

    def _lock(self, name: str, *, wait: bool) -> AbstractContextManager[bool]:
        """Hold a lock as long as the block runs, if it is free or we wait for it; gives whether it is held."""
        return lock.held(self.folder / ".locks" / name, wait=wait)


def _name(content: bytes) -> str:
    return f"part-{hashlib.sha256(content).hexdigest()[:16]}.parquet"


def _encode(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_KEY: str(SWEEP_SCHEMA)}), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _load(path: Path, columns: list[str] | None) -> pa.Table | None:
    """Return a part's rows; None if they are of another schema, or have other columns than SWEEP's."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}.\nMend that, or move it away: its units are then computed again."
        ) from error
    if path.name != _name(content):
        raise _DamageError
    with pq.ParquetFile(pa.BufferReader(content)) as parquet:
        schema = parquet.schema_arrow
        is_ours = (schema.metadata or {}).get(_KEY) == str(SWEEP_SCHEMA).encode() and schema.equals(SWEEP)
        return parquet.read(columns) if is_ours else None


def _index(texts: Sequence[str], names: Sequence[str]) -> Int[np.ndarray, " text"]:
    """Return where each text stands among the names; -1 where it does not."""
    at = {name: index for index, name in enumerate(names)}
    return np.array([at.get(text, -1) for text in texts], int)


def _by_appearance(column: pa.ChunkedArray) -> pa.Array:
    """Return the column in one piece; its dictionary, if it has one, holds what it uses, in the order of first use."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        return array
    used = array.indices.unique().drop_null()
    rank = np.zeros(len(array.dictionary), np.int32)
    rank[used.to_numpy()] = np.arange(len(used))
    return pa.DictionaryArray.from_arrays(pa.array(rank).take(array.indices), array.dictionary.take(used))
