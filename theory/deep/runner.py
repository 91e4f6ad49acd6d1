"""Deep runs: the named experiments, and one directory for each finished seed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from core import arms, provenance, runs
from core.errors import InputError
from core.seeds import Cell
from theory import runner
from theory.compare import Row
from theory.deep import compare, measure, mediation, pipeline
from theory.deep import config as deep_config
from theory.deep.config import DeepConfig, DeepStage
from theory.deep.pipeline import DeepRun

TWO = DeepConfig(more_arms=arms.CROSSED)

DEEP: dict[str, tuple[str, DeepConfig]] = {
    "deep-1": ("A transformer of one layer.", replace(TWO, layers=1, pretrain=DeepStage(2000))),
    "deep-2": ("Two layers.", TWO),
    "deep-3": ("Three layers.", replace(TWO, layers=3, pretrain=DeepStage(1250))),
    "deep-4": ("Four layers.", replace(TWO, layers=4, pretrain=DeepStage(1000))),
    "deep-names": (
        "Two layers; subjects are named by two tokens that they share with others.",
        replace(TWO, subject_tokens=2, name_parts=200),
    ),
    "deep-attention": (
        "Two layers, all but without MLPs: one hidden unit each.",
        replace(TWO, d_ff=1, pretrain=DeepStage(2250)),
    ),
}
"""Name to what it is in a sentence, and its configuration.

Chosen on two worlds that no run uses by default. Deeper networks store faster: each is pretrained for about as many
steps, in units of 250, as first bring the recall of the most popular fifth of the facts to 95 %; of the least popular
fifth it is then about 40 %, where a generic guess is right in 28 %. The rate of finetuning is, of 3e-5, 1e-4 and 3e-4,
the one with the best held-out accuracy of the whole arm, averaged over one, two and four layers. The 200 name parts of
`deep-names` were chosen after its result with 60, at which the whole arm guesses, had been seen.
"""


def run(
    config: DeepConfig,
    experiment: str,
    wanted: Sequence[Cell],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str], object] = lambda doing: None,
) -> None:
    """Train the cells' networks together, measure each and write its directory.

    Args:
        progress: told what is being done.

    Raises:
        InputError: a setting means nothing, the facts do not suffice, training diverged, or the disk refuses.
    """
    deep_config.check(config)
    if not wanted:
        return
    progress(f"training {len(wanted)} world{'s' * (len(wanted) > 1)} together")
    for simulated, cell in zip(pipeline.simulate(config, [cell.seed for cell in wanted]), wanted, strict=True):
        progress(f"measuring seed {cell.seed}")
        _write(experiment, simulated, runs.directory(out, runner.FLOW, experiment, cell), cell, overwrite=overwrite)


def write_predictions(experiment: str, out: Path) -> list[Row]:
    """Compare an experiment's finished runs with the theory's signs, and write and return predictions.parquet's rows.

    Raises:
        InputError: there are no finished runs.
    """
    finished = runs.find_runs(out, runner.FLOW, experiment)
    if not finished:
        raise InputError(
            f"no finished runs of {experiment} under {out}.\nRun: python -m theory deep {experiment} --out {out}"
        )
    rows = compare.rows(experiment, [compare.read(each) for each in finished])
    runs.write_predictions(out / runner.FLOW / experiment / "predictions.parquet", rows)
    return rows


def _write(experiment: str, simulated: DeepRun, path: Path, cell: Cell, *, overwrite: bool) -> None:
    metrics, facts, trace, attention = measure.run(simulated)
    report = {
        "flow": runner.FLOW,
        "experiment": experiment,
        "seeds": cell._asdict(),
        "config": deep_config.to_json(simulated.config),
        "metrics": metrics,
        "notes": simulated.store.notes,
        "seconds": simulated.seconds,
    } | provenance.environment()
    tables = {"facts": facts, "trace": trace, "attention": attention, "mediation": mediation.tables(simulated)}
    runs.write_run(path, report, tables, overwrite=overwrite)
