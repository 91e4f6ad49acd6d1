"""python -m theory deep NAME: train small transformers on the theory's worlds, and print them side by side."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias, Union

import tyro

from core import report_tables
from core import runs as results
from core.console import ERRORS, OUTPUT
from core.seeds import Seeds
from theory import runner
from theory.deep import config as deep_config
from theory.deep import runner as deep_runner
from theory.deep import tables as deep_tables
from theory.deep.config import DeepConfig
from theory.deep.runner import DEEP

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Deep:
    """One deep experiment; every setting is a flag. What is finished already is not run again."""

    name: tyro.conf.Suppress[str]
    config: Annotated[DeepConfig, Flat]
    seeds: int = 5
    """Replications, each with a world, a split, initial weights and batches of its own."""
    seed: int | None = None
    """This replication alone, instead of a count."""
    out: Path = Path("runs")
    """Folder of results: OUT/theory/EXPERIMENT/pretrain_K/split_K/seed_K."""
    overwrite: bool = False
    """Replace finished runs, of this config or another."""
    dry_run: bool = False
    """Print the resolved config as JSON and stop."""

    def __call__(self) -> int:
        deep_config.check(self.config)
        if self.dry_run:
            print(json.dumps(deep_config.to_json(self.config), indent=2))
            return 0
        wanted = Seeds(self.seeds, seed=self.seed).cells()
        stored = deep_config.to_json(self.config)
        left = results.unfinished(self.out, runner.FLOW, self.name, wanted, stored, overwrite=self.overwrite)
        with ERRORS.status(self.name) as status:
            options = {"overwrite": self.overwrite, "progress": lambda doing: status.update(f"{self.name}: {doing}")}
            deep_runner.run(self.config, self.name, left, self.out, **options)
        rows = deep_runner.write_predictions(self.name, self.out)
        report_tables.print_verdicts(rows, OUTPUT)
        finished = {name: results.find_runs(self.out, runner.FLOW, name) for name in DEEP}
        deep_tables.print_depths({name: runs for name, runs in finished.items() if runs}, OUTPUT)
        report_tables.print_crossed(self.name, finished[self.name], OUTPUT)
        report_tables.print_shares(self.name, finished[self.name], OUTPUT)
        report_tables.print_done(len(left), len(wanted), self.out / runner.FLOW / self.name, OUTPUT)
        return 0


_EXPERIMENTS = tuple(
    Annotated[Deep, tyro.conf.subcommand(name, default=Deep(name, config), description=sentence)]
    for name, (sentence, config) in DEEP.items()
)
_Experiment: TypeAlias = Union[_EXPERIMENTS]  # type: ignore  # noqa: UP007


@dataclass(frozen=True)
class DeepExperiment:
    """The same worlds, stages and measurements through a small multi-layer transformer trained by Adam."""

    run: Annotated[_Experiment, Flat]  # pyright: ignore[reportInvalidTypeForm]
    """The experiment's name."""

    def __call__(self) -> int:
        return self.run()
