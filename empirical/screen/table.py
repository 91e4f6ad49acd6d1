"""The screen study's table, one row per world, flow, seeds and arm; gaps between the arms, and what moves them.

`OUT/empirical/screen/table.parquet` is rewritten as soon as a base model is done. What it holds is not run again, so
that the study can go on in pieces, elsewhere too: the table is all that has to be taken along.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from core import config_json, former, statistics, writing
from core import runs as results
from core.columns import MEASURES, SCREEN
from core.factors import FACTORS
from core.remedies import Remedies
from core.runs import Run
from core.seeds import Cell
from empirical import config as configs
from empirical import runner
from empirical.screen import design
from empirical.screen.design import Variant

METRICS = {
    "accuracy": "accuracy",
    "retention": "retention",
    "unknown_accuracy": "on unknown facts",
    "generic_accuracy": "generic guess",
    "subject_attention": "subject attention",
}
"""Whose differences top − bottom are the outcomes, and what they are called."""
IDENTITY = ("world", "config_hash", "flow", "pretrain_seed", "seed", "arm")

Row = dict[str, Any]


def path(out: Path) -> Path:
    """Return where the table belongs."""
    return out / runner.FLOW / "screen" / "table.parquet"


def read(out: Path) -> list[Row]:
    """Return the table's rows, none where there is no table yet; InputError for one that is damaged."""
    place = path(out)
    former.refuse_screen(place)
    return results.read_table(place, SCREEN.names).to_pylist() if place.exists() else []


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write the table, whole or not at all."""
    table = pa.Table.from_pylist(sorted(rows, key=_order), schema=SCREEN)
    writing.replace_file(path(out), lambda file: pq.write_table(table, file, compression="zstd"))


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return all rows, of one identity the newer."""
    by_identity = {tuple(row[name] for name in IDENTITY): row for row in (*old, *new)}
    return list(by_identity.values())


def is_done(rows: Sequence[Row], variant: Variant, flow: str, pretrain: int, seed: int) -> bool:
    """Return whether the table holds these results."""
    wanted = (variant.name, _hash(variant), flow, pretrain, seed)
    return any(tuple(row[name] for name in IDENTITY[:-1]) == wanted for row in rows)


def of_model(variant: Variant, out: Path, cells: Sequence[Cell]) -> list[Row]:
    """Return the rows of a language model's finished runs."""
    runs = [results.read_run(results.directory(out, runner.FLOW, variant.name, cell)) for cell in cells]
    return [row for run in runs for row in _rows(variant, "lm", run.report["seeds"], run)]


def of_toy(variant: Variant, run: Run, pretrain: int) -> list[Row]:
    """Return the rows of the toy's run in a base model's world."""
    return list(_rows(variant, "toy", {"pretrain": pretrain, "seed": 0}, run))


def _rows(variant: Variant, flow: str, seeds: dict[str, int], run: Run) -> list[Row]:
    finetune = variant.config.finetune
    common: Row = {
        "part": variant.part,
        "series": variant.series,
        "world": variant.name,
        "config_hash": _hash(variant),
        "flow": flow,
        "method": finetune.method,
        "epochs": finetune.train.epochs,
        "pretrain_seed": seeds["pretrain"],
        "seed": seeds["seed"],
    } | design.values(variant.config.world)
    made = []
    for arm in ("base", *design.ARMS):
        metrics = run.report["metrics"][arm]
        rate = run.report.get("choices", {}).get(arm, {}).get("learning_rate")
        numbers = {name: metrics.get(name) for name in ("n", *MEASURES)}
        made.append(common | {"arm": arm, "learning_rate": rate} | numbers)
    return made


def _hash(variant: Variant) -> str:
    """Return the hash of a config without the remedies that are off: rows from before there were any stay the same."""
    stored, used = configs.to_json(variant.config), config_json.remedies(variant.config.finetune)
    off = {field.name for field in fields(Remedies)} - set(used)
    tuned = {name: value for name, value in stored["finetune"].items() if name not in off}
    return config_json.config_hash(stored | {"finetune": tuned})


def _order(row: Row) -> tuple:
    return (design.PARTS.index(row["part"]), *(row[name] for name in ("series", "world", "flow", "pretrain_seed")))


@dataclass(frozen=True, eq=False)
class Gaps:
    """Top − bottom of every base model, the mean over its finetuning seeds."""

    about: list[Row]
    """A row of each base model, that of the top arm."""
    value: Float[np.ndarray, "model outcome"]
    """The gap in each of METRICS; nan where it does not apply."""


def gaps(rows: Sequence[Row], part: str, flow: str) -> Gaps:
    """Return the gaps of a part of the study."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["part"] == part and row["flow"] == flow:
            groups.setdefault((row["series"], row["world"], row["pretrain_seed"]), []).append(row)
    about = [next(row for row in group if row["arm"] == "top") for group in groups.values()]
    found = [[_mean(group, "top", m) - _mean(group, "bottom", m) for m in METRICS] for group in groups.values()]
    return Gaps(about, np.array(found, dtype=float).reshape(-1, len(METRICS)))


def _mean(rows: Sequence[Row], arm: str, name: str) -> float:
    values = [row[name] for row in rows if row["arm"] == arm]
    return float(np.mean([np.nan if value is None else value for value in values]))


@dataclass(frozen=True)
class Effect:
    """What raising a factor from low to high does to an outcome, with a 95 % interval over base models."""

    factor: str
    outcome: str
    found: statistics.PairedInterval


def effects(factorial: Gaps) -> list[Effect]:
    """Return the main effects of the screen's factors on each outcome, by least squares.

    An outcome is left out where there are too few base models.
    """
    levels = np.array([[1 if row[f.name] == f.high else -1 for f in FACTORS] for row in factorial.about], dtype=float)
    made = []
    for index, outcome in enumerate(METRICS.values()):
        there = np.isfinite(factorial.value[:, index])
        matrix = np.column_stack([np.ones(there.sum()), levels.reshape(-1, len(FACTORS))[there] / 2])
        try:
            fit = statistics.least_squares(matrix, factorial.value[there, index])
        except ValueError:
            continue
        labels = ["mean of all worlds", *(factor.name for factor in FACTORS)]
        made += [
            Effect(label, outcome, statistics.PairedInterval(*(float(number) for number in numbers)))
            for label, *numbers in zip(labels, fit.value, fit.low, fit.high, fit.p_value, strict=True)
        ]
    return made
