"""Runs of one experiment: simulated together, measured, written one directory each, and compared with the theory."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from theory import compare, measure, pipeline, provenance, results
from theory import config as configs
from theory.columns import Columns
from theory.config import Config
from theory.errors import InputError
from theory.experiments import PAPER as DEFAULT
from theory.pipeline import Cell, Simulation

FLOW = "theory"


@dataclass(frozen=True)
class Seeds:
    """The random states to run, each kind counted from 0."""

    seeds: int = 1
    """Replications. Without the next two flags each has its own world, split and batches (intervals count worlds); with
    one of them, this many finetuning seeds for every world and split."""
    pretrain_seeds: int | None = None
    """Worlds and base models."""
    split_seeds: int | None = None
    """Held-out sets and random halves for each world."""
    seed: int | None = None
    """This replication alone, instead of a count."""


def cells(seeds: Seeds) -> list[Cell]:
    """Return the random states asked for.

    Raises:
        InputError: a count below 1, or a negative seed.
    """
    for flag, value in {
        "seeds": seeds.seeds,
        "pretrain-seeds": seeds.pretrain_seeds,
        "split-seeds": seeds.split_seeds,
    }.items():
        if value is not None and value < 1:
            raise InputError(f"--{flag} is {value}: it counts random states, so it must be at least 1.")
    if seeds.seed is not None and not 0 <= seeds.seed < 2**31:
        raise InputError(f"--seed is {seeds.seed}: it must lie between 0 and {2**31 - 1:,}.")
    chosen = range(seeds.seeds) if seeds.seed is None else [seeds.seed]
    if seeds.pretrain_seeds is None and seeds.split_seeds is None:
        return [Cell(k, k, k) for k in chosen]
    return [
        Cell(p, q, k) for p in range(seeds.pretrain_seeds or 1) for q in range(seeds.split_seeds or 1) for k in chosen
    ]


def directory(out: Path, experiment: str, cell: Cell) -> Path:
    """Return where a run belongs."""
    return results.run_directory(out, FLOW, experiment, **cell._asdict())


def unfinished(config: Config, experiment: str, wanted: Sequence[Cell], out: Path, *, overwrite: bool) -> list[Cell]:
    """Return the cells still to be run.

    Raises:
        InputError: a directory holds a run of another config, or cannot be written to.
    """
    return unfinished_cells(configs.to_json(config), experiment, wanted, out, overwrite=overwrite)


def unfinished_cells(
    stored: dict[str, Any], experiment: str, wanted: Sequence[Cell], out: Path, *, overwrite: bool
) -> list[Cell]:
    """Return the cells still to be run of a config as JSON, of this flow's or of the deep toy's kind.

    Raises:
        InputError: a directory holds a run of another config, or cannot be written to.
    """
    results.check_writable(out)
    replaced = {directory(out, experiment, cell) for cell in wanted} if overwrite else set()
    # Runs of another config under other seeds, too, would be averaged with these.
    for run in results.find_runs(out, FLOW, experiment):
        if run.path not in replaced:
            results.is_done(run.path, stored)
    if overwrite:
        return list(wanted)
    return [cell for cell in wanted if not results.is_done(directory(out, experiment, cell), stored)]


def run(
    config: Config,
    experiment: str,
    wanted: Sequence[Cell],
    out: Path,
    *,
    overwrite: bool = False,
    save_weights: bool = False,
    progress: Callable[[str, int], None] = lambda stage, n_done: None,
) -> None:
    """Run the cells and write each one's directory as soon as its group is simulated.

    Args:
        progress: told what is being done, and how many more runs were finished.
    """
    configs.check(config)
    for group in pipeline.groups(config, wanted) if wanted else ():
        progress(f"training {len(group)} world{'s' * (len(group) > 1)} together", 0)
        for simulation in pipeline.simulate(config, group):
            progress(f"measuring {simulation.cell.pretrain}/{simulation.cell.split}/{simulation.cell.seed}", 0)
            _write(config, experiment, simulation, out, overwrite=overwrite, save_weights=save_weights)
            progress("", 1)


def write_predictions(experiment: str, out: Path) -> list[compare.Row]:
    """Compare an experiment's finished runs with the theory, and write and return predictions.parquet's rows.

    Raises:
        InputError: there are no finished runs.
    """
    found = results.find_runs(out, FLOW, experiment)
    if not found:
        raise InputError(
            f"no finished runs of {experiment} under {out}.\nRun: python -m theory run {experiment} --out {out}"
        )
    is_default = all(one.report["config"] == configs.to_json(DEFAULT) for one in found)
    rows = compare.rows(experiment, [compare.read(one) for one in found], is_default_world=is_default)
    results.write_predictions(out / FLOW / experiment / "predictions.parquet", rows)
    return rows


def read_verdicts(path: Path, config: Config, n_seeds: int) -> list[compare.Row] | None:
    """Return the rows of an earlier `verify` of this config by this very code; None if there is none."""
    if not (path / "report.json").exists():
        return None
    if results.read_run(path).report["config_hash"] != results.config_hash(_verify_config(config, n_seeds)):
        return None
    return results.read_table(path / "predictions.parquet").to_pylist()


def write_verdicts(path: Path, config: Config, n_seeds: int, rows: list[compare.Row]) -> None:
    """Write the rows of `verify`, and last the report that says what they are of."""
    (path / "report.json").unlink(missing_ok=True)
    results.write_predictions(path / "predictions.parquet", rows)
    stored = _verify_config(config, n_seeds)
    report = {"schema": results.SCHEMA, "config": stored, "config_hash": results.config_hash(stored)}
    text = json.dumps(report | provenance.environment(), indent=2)
    results.replace_file(path / "report.json", lambda file: file.write(text.encode() + b"\n"))


def _verify_config(config: Config, n_seeds: int) -> dict[str, Any]:
    """Return what verdicts depend on; the code is part of it, so that a corrected theorem is tested anew."""
    return configs.to_json(config) | {"seeds": n_seeds, "code": provenance.code_hash(Path(__file__).parent)}


def _write(
    config: Config, experiment: str, simulation: Simulation, out: Path, *, overwrite: bool, save_weights: bool
) -> None:
    metrics, facts, trace = measure.run(config, simulation)
    report = {
        "flow": FLOW,
        "experiment": experiment,
        "seeds": simulation.cell._asdict(),
        "config": configs.to_json(config),
        "metrics": metrics,
        "notes": simulation.store.notes,
        "seconds": simulation.seconds,
    } | provenance.environment()
    arrays = {"weights": _arrays(simulation)} if save_weights else None
    path = directory(out, experiment, simulation.cell)
    tables: dict[str, Sequence[Columns]] = {"facts": facts, "trace": trace}
    results.write_run(path, report, tables, arrays, overwrite=overwrite)


def _arrays(simulation: Simulation) -> dict[str, np.ndarray]:
    """Return everything from which facts.parquet can be recomputed."""
    store, halves = simulation.store, simulation.split
    facts = {name: getattr(store, name) for name in ("subject", "relation", "answer", "popularity", "exposure")}
    in_arm = {f"{arm}/in_arm": np.isin(np.arange(len(halves.role)), rows) for arm, rows in halves.arms.items()}
    weights = {
        f"{arm}/{name}": array for arm, one in simulation.weights.items() for name, array in one._asdict().items()
    }
    return facts | {"role": halves.role} | in_arm | weights
