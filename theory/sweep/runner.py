"""Sweeps: every config of a design with every seed, worlds of one shape together in one compiled program.

Resumable: finished parts are kept, whatever ends a sweep, and a changed design reuses what it shares with them. Several
processes on one folder divide the work.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from core import config_json, provenance, split, writing
from core.columns import SWEEP, table
from core.config_json import structure
from core.errors import InputError
from core.runs import SWEEP_SCHEMA
from core.seeds import Cell
from theory import config as configs
from theory import finetune, pipeline
from theory.design import Design
from theory.engine.batched import free_memory
from theory.law import forecast
from theory.pipeline import Prepared, Trained, Unit
from theory.sweep import parts
from theory.sweep.units import check_space, identities

CHUNK = 512
"""Units, at most, that are computed together and become one part."""
FAMILIES = 16
"""Worlds, at most, of one chunk: each is pretrained once, for all the lengths of pretraining in the chunk."""
ACCELERATED = 32
"""An accelerator, which vectorises over worlds, gets so many times more of both."""
N_PROBE = 10**5
"""Held-out facts, at most, on which an arm is measured."""
WAIT = 0.5
"""Seconds between looks at what other processes are doing."""


class Chunk(NamedTuple):
    """What is computed together: its units have one structure."""

    units: list[Unit]
    names: list[str]
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """What a call of `run` did."""

    table: pa.Table
    path: Path
    n_units: int
    n_computed: int
    """Units computed by this call; the others were there, or came from other processes."""
    seconds: float


Progress = Callable[[str, int], None]
Engine = Callable[[Iterable[Chunk]], Iterator[tuple[Chunk, pa.Table]]]


def local(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, pa.Table]]:
    """Compute the chunks one after another on this machine's devices, each giving its rows."""
    for chunk in chunks:
        yield chunk, compute(chunk)


def run(
    name: str,
    design: Design,
    *,
    seeds: int = 8,
    arms: Sequence[str] = split.ARMS,
    out: Path | str = "runs",
    engine: Engine = local,
    progress: Progress = lambda doing, n_done: None,
    tell: Callable[[str], object] = print,
) -> Summary:
    """Compute what is missing of a sweep and return its table: the design's order × seeds × arms.

    Args:
        seeds: Replications of every config: k is world k, split k and batches k.
        progress: Told what is being done, and how many more units are there.
        tell: Told of every part that is set aside.

    Raises:
        InputError: the arms are none, the disk has no room, or a unit's facts do not suffice.
    """
    start = time.perf_counter()
    _check(design, seeds, arms)
    folder = Path(out) / "theory" / name
    n_units = len(design.configs) * seeds
    check_space(folder, n_units, len(arms) + 1)
    units, names = _units(design, seeds, arms)
    writing.check_writable(folder)
    store = parts.Store(folder, tell)
    store.replace("grid.json", lambda file: file.write(_describe(name, design, seeds, arms)))
    distinct = dict(zip(names, units, strict=True))  # a random design may have a config twice
    progress("", len(distinct.keys() & store.done().keys()))
    n_computed = 0
    with closing(_Claims(store, _chunks([*distinct.values()], [*distinct], tuple(arms)), progress)) as claims:
        while claims.pending:
            n_before = n_computed
            for chunk, rows in engine(claims.take()):
                store.write(rows)
                claims.release(chunk)
                n_computed += len(chunk.units)
                progress("", len(chunk.units))
            if claims.pending and n_computed == n_before:
                progress("waiting for another process", 0)
                time.sleep(WAIT)
    swept = [values for values in design.values for _ in range(seeds)]
    whole = store.assemble(names, swept, ("base", *arms))
    path = store.write_table(whole)
    return Summary(whole, path, n_units, n_computed, time.perf_counter() - start)


def compute(chunk: Chunk, clock: pipeline.Clock | None = None) -> pa.Table:
    """Return a chunk's rows, every unit's arms after its base. A diverged training gives nulls and its step.

    Args:
        clock: Told of every stage; None where nobody asks how long it took.
    """
    clock = clock or pipeline.Clock()
    precision = chunk.units[0].config.precision
    with jax.enable_x64(precision == "float64"):
        prepared = pipeline.pretrained_to_ends(chunk.units, clock)
        ends = pipeline.records_at_end(prepared)
        trained = pipeline.finetuned(prepared, clock, records=ends, n_probe=N_PROBE, arms=chunk.arms)
        predicted = _predict(prepared, chunk.arms)
    rows = [
        row
        for name, unit, forecasts in zip(chunk.names, trained, predicted, strict=True)
        for row in _rows(name, unit, chunk.arms, forecasts)
    ]
    return table({column: [row.get(column) for row in rows] for column in SWEEP.names}, SWEEP)


def _check(design: Design, seeds: int, arms: Sequence[str]) -> None:
    if not 1 <= seeds < 2**31:
        raise InputError(f"--seeds is {seeds}: it counts replications, so it must be at least 1.")
    known = (*split.ARMS, split.MIXTURE)
    for arm in arms:
        if arm not in known:
            raise InputError(f"--arms {arm}: there is no such arm.\nChoose from {', '.join(known)}.")
    if not arms or len(set(arms)) < len(arms):
        raise InputError("--arms: name each arm once, and at least one.")
    if split.MIXTURE in arms and any(config.split.known_share is None for config in design.configs):
        raise InputError("the arm mixture needs a share of well-known facts.\nAdd split.known_share to the grid.")


def _units(design: Design, seeds: int, arms: Sequence[str]) -> tuple[list[Unit], list[str]]:
    cells = [Cell(k, k, k) for k in range(seeds)]
    units = [Unit(config, cell) for config in design.configs for cell in cells]
    names = [name for config in design.configs for name in identities(configs.to_json(config), cells, arms)]
    return units, names


def _describe(name: str, design: Design, seeds: int, arms: Sequence[str]) -> bytes:
    axes = {
        axis: list(dict.fromkeys(json.dumps(config_json.plain(row[axis])) for row in design.values))
        for axis in design.axes
    }
    described = {
        "sweep": name,
        "schema": SWEEP_SCHEMA,
        "configs": len(design.configs),
        "seeds": seeds,
        "arms": list(arms),
        "axes": {axis: [json.loads(value) for value in values] for axis, values in axes.items()},
    }
    return json.dumps(described | provenance.environment(), indent=2).encode() + b"\n"


def _chunks(units: Sequence[Unit], names: list[str], arms: tuple[str, ...]) -> list[Chunk]:
    """Return all units in chunks of one structure, those that share a pretraining together."""
    by_structure: dict[Any, dict[Unit, list[int]]] = {}
    for index, unit in enumerate(units):
        families = by_structure.setdefault(structure(unit.config), {})
        families.setdefault(pipeline.family(unit), []).append(index)
    chunks = []
    for families in by_structure.values():
        limit, at_once = _limits(units[next(iter(families.values()))[0]])
        chosen: list[int] = []
        n_families = 0
        # Worlds of one length side by side, so that no device waits for another.
        for members in sorted(families.values(), key=lambda m: -max(units[i].config.pretrain.steps for i in m)):
            for start in range(0, len(members), limit):
                some = members[start : start + limit]
                if chosen and (n_families == at_once or len(chosen) + len(some) > limit):
                    chunks.append(chosen)
                    chosen, n_families = [], 0
                chosen, n_families = chosen + some, n_families + 1
        chunks.append(chosen)
    return [Chunk([units[i] for i in chunk], [names[i] for i in chunk], arms) for chunk in chunks]


def _limits(unit: Unit) -> tuple[int, int]:
    """Return how many units of this size, and how many worlds, may be held at once."""
    more = 1 if jax.default_backend() == "cpu" else ACCELERATED
    n_bytes = 2 * pipeline.n_bytes(unit.config, unit.cell.pretrain)  # the base model, and a copy to be finetuned
    return int(np.clip(0.25 * free_memory() // n_bytes, 1, more * CHUNK)), more * FAMILIES


class _Claims:
    """The chunks that this process has taken from those that others may be at work on."""

    def __init__(self, store: parts.Store, chunks: list[Chunk], progress: Progress):
        self.pending = chunks
        """Those that are not ours, and were not done when they were last looked at."""
        self._store, self._progress = store, progress
        self._held: dict[str, ExitStack] = {}

    def take(self) -> Iterator[Chunk]:
        """Take each pending chunk that no other process has, with what is missing of it.

        It ends rather than wait for the others while some of ours are in work: they might be waiting for those.
        """
        tried, self.pending = self.pending, []
        for chunk in tried:
            if self._store.done().keys() >= set(chunk.names):
                continue
            missing = self._take(chunk)
            if missing is None:
                self.pending.append(chunk)
            elif missing.units:
                self._progress(f"{len(missing.units)} units together", 0)
                yield missing

    def _take(self, chunk: Chunk) -> Chunk | None:
        """Return what is missing of the chunk, now ours; None where another process has it."""
        claim = ExitStack()
        if not claim.enter_context(self._store.claim(config_json.config_hash(chunk.names))):
            return None
        done = self._store.done()  # its last holder may have finished it
        missing = [i for i, name in enumerate(chunk.names) if name not in done]
        some = Chunk([chunk.units[i] for i in missing], [chunk.names[i] for i in missing], chunk.arms)
        if missing:
            self._held[some.names[0]] = claim
        else:
            claim.close()
        return some

    def release(self, chunk: Chunk) -> None:
        """Give a chunk back that is written."""
        self._held.pop(chunk.names[0]).close()

    def close(self) -> None:
        """Give everything back."""
        for claim in self._held.values():
            claim.close()


def _predict(prepared: Sequence[Prepared], arms: Sequence[str]) -> list[list[dict[str, float]]]:
    """Return R5's forecast by unit and arm, nothing where it does not apply."""
    config = prepared[0].unit.config
    if not forecast.applies(config) or config.model.parametrisation != "factored" or config.model.value_share:
        return [[{} for _ in arms] for _ in prepared]
    forecasts = np.stack(forecast.run(prepared, arms), axis=-1).tolist()
    names = ("predicted_subject_share", "predicted_subject_attention")
    return [[dict(zip(names, pair, strict=True)) for pair in of_unit] for of_unit in forecasts]


def _rows(name: str, trained: Trained, arms: Sequence[str], forecasts: Sequence[dict]) -> list[dict[str, Any]]:
    """Return a unit's rows, the base first."""
    prepared = trained.prepared
    config, cell = prepared.unit
    common = {
        "unit": name,
        "config": json.dumps(configs.to_json(config), sort_keys=True, separators=(",", ":")),
        "pretrain_seed": cell.pretrain,
        "split_seed": cell.split,
        "seed": cell.seed,
        "n": min(N_PROBE, int((prepared.split.role == split.HELD_OUT).sum())),
    }
    base = {field: float(values[0, 0]) for field, values in trained.trace.measured._asdict().items()}
    rows = [common | {"arm": "base"} | base | {"trained_accuracy": None}]
    for index, arm in enumerate(arms):
        measured = {field: float(values[index]) for field, values in trained.measured._asdict().items()}
        rows.append(common | {"arm": arm, "n_trained": len(prepared.split.arms[arm])} | measured | forecasts[index])
    for index, row in enumerate(rows):
        at = prepared.diverged_at
        at = at if at >= 0 or index == 0 else int(trained.trace.diverged_at[index - 1])
        if at >= 0:
            row |= dict.fromkeys(finetune.Measured._fields) | dict.fromkeys(forecasts[0]) | {"diverged_at": at}
    return rows
