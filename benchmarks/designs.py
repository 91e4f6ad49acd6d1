"""The sweeps that are timed, and how many steps are in them."""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from core import seeds, split
from theory import design, pipeline
from theory.config import Config
from theory.facts import FactsConfig
from theory.finetune import FinetuneConfig
from theory.pretrain import PretrainConfig
from theory.sweep import runner

STAGES = ("facts", "pretrain", "split", "finetune")
"""What a sweep's time is divided into; the rest is R5's forecast, rows and files."""
Kind = Literal["apart", "shared"]
"""`apart`: every config has a pretraining of its own. `shared`: configs that differ in its length share one."""


@dataclass(frozen=True)
class Size:
    """How large the sweep is."""

    n_configs: int
    n_subjects: int
    steps: int
    """Steps of pretraining: every config's, or on average where the length is swept."""
    finetune_steps: int = FinetuneConfig.steps
    """Steps of finetuning each of the four arms."""


class Counts(NamedTuple):
    """Config-steps of a sweep. One is one SGD step of one config: of its pretraining, or of finetuning one arm."""

    pretrain: int
    """Every config's own length, whether or not another config's pretraining contains it."""
    pretrain_done: int
    """The longest of every pretraining that configs share."""
    finetune: int

    @property
    def counted(self) -> int:
        """What running the configs one after another takes."""
        return self.pretrain + self.finetune

    @property
    def done(self) -> int:
        """What the sweep really computes."""
        return self.pretrain_done + self.finetune


def build(kind: Kind, size: Size) -> design.Design:
    """Return the popularity exponents 0.6 to 1.6, crossed with learning rates (apart) or lengths (shared).

    The two axes are as near to equally long as divisors of `n_configs` are.
    """
    n_rows = max(n for n in range(1, math.isqrt(size.n_configs) + 1) if size.n_configs % n == 0)
    n_columns = size.n_configs // n_rows
    base = Config(
        facts=FactsConfig(n_subjects=size.n_subjects),
        pretrain=PretrainConfig(steps=size.steps),
        finetune=FinetuneConfig(steps=size.finetune_steps),
    )
    axes = {"facts.popularity_exponent": np.linspace(0.6, 1.6, n_rows).tolist()}
    if kind == "apart":
        return design.grid(base, axes | {"pretrain.learning_rate": np.geomspace(10, 60, n_columns).tolist()})
    return design.grid(base, axes | {"pretrain.steps": _lengths(size.steps, n_columns)})


def count(configs: list[Config]) -> Counts:
    """Return the sweep's steps, of one seed and the four arms."""
    longest: dict[pipeline.Unit, int] = {}
    for config in configs:
        family = pipeline.family(pipeline.Unit(config, seeds.Cell(0, 0, 0)))
        longest[family] = max(config.pretrain.steps, longest.get(family, 0))
    pretrain = sum(config.pretrain.steps for config in configs)
    return Counts(pretrain, sum(longest.values()), sum(len(split.ARMS) * config.finetune.steps for config in configs))


class Timed(NamedTuple):
    """One run of a sweep, from nothing to its table on disk."""

    seconds: float
    stages: dict[str, float]
    """Seconds by `STAGES`."""

    @property
    def training(self) -> float:
        """Seconds in the two trainings, measurements at their ends included."""
        return self.stages["pretrain"] + self.stages["finetune"]


def run(chosen: design.Design) -> Timed:
    """Run the sweep with one seed into a folder that is deleted afterwards."""
    stages: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def engine(chunks: Iterable[runner.Chunk]) -> Iterator[tuple[runner.Chunk, pa.Table]]:
        for chunk in chunks:
            clock = pipeline.Clock()
            yield chunk, runner.compute(chunk, clock)
            for stage in STAGES:
                stages[stage] += clock.laps[stage]

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        runner.run("benchmark", chosen, seeds=1, out=Path(folder), engine=engine, tell=lambda _: None)
        return Timed(time.perf_counter() - start, stages)


def _lengths(mean: int, n: int) -> list[int]:
    """Return n equally spaced lengths of this mean, the longest 2 n / (n + 1) of it."""
    return [max(1, round(2 * mean * k / (n + 1))) for k in range(1, n + 1)]
