"""Runs of one experiment: simulated together, measured, written one directory each, and compared with the theory."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core import provenance, runs
from core.columns import Columns
from core.errors import InputError
from core.seeds import Cell
from theory import compare, measure, mediation, pipeline
from theory import config as configs
from theory.config import Config
from theory.experiments import PAPER as DEFAULT
from theory.pipeline import Simulation

FLOW = "theory"


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
    finished = runs.find_runs(out, FLOW, experiment)
    if not finished:
        raise InputError(
            f"no finished runs of {experiment} under {out}.\nRun: python -m theory run {experiment} --out {out}"
        )
    is_default = all(each.report["config"] == configs.to_json(DEFAULT) for each in finished)
    rows = compare.rows(experiment, [compare.read(each) for each in finished], is_default_world=is_default)
    runs.write_predictions(out / FLOW / experiment / "predictions.parquet", rows)
    return rows


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
    path = runs.directory(out, FLOW, experiment, simulation.cell)
    tables: dict[str, Sequence[Columns]] = {"facts": facts, "trace": trace}
    if config.finetune.train == "everything":  # else one of attention and values carries all of any gap
        tables["mediation"] = mediation.tables(simulation)
    runs.write_run(path, report, tables, arrays, overwrite=overwrite)


def _arrays(simulation: Simulation) -> dict[str, np.ndarray]:
    """Return everything from which facts.parquet can be recomputed."""
    store, halves = simulation.store, simulation.split
    facts = {name: getattr(store, name) for name in ("subject", "relation", "answer", "popularity", "exposure")}
    in_arm = {f"{arm}/in_arm": np.isin(np.arange(len(halves.role)), rows) for arm, rows in halves.arms.items()}
    models = {
        f"{arm}/{name}": array
        for arm, weights in simulation.weights.items()
        for name, array in weights._asdict().items()
    }
    return facts | {"role": halves.role} | in_arm | models
