"""python -m theory run and select: an experiment with the arms of its config, or with arms chosen by rules."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, Union

import tyro

from core import report_tables, runs
from core.console import ERRORS, OUTPUT, progress
from core.seeds import Seeds
from theory import calibrate, experiments, runner, selection, tables
from theory import config as configs
from theory.compare import Row
from theory.config import Config
from theory.experiments import EXPERIMENTS

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Run:
    """One experiment; every setting is a flag. What is finished already is not run again."""

    name: tyro.conf.Suppress[str]
    config: Annotated[Config, Flat]
    seeds: Annotated[Seeds, Flat] = field(default_factory=Seeds)
    out: Path = Path("runs")
    """Folder of results: OUT/theory/EXPERIMENT/pretrain_P/split_Q/seed_N."""
    overwrite: bool = False
    """Replace finished runs, of this config or another."""
    save_weights: bool = False
    """Write weights.npz too: values and attention logits of every arm."""
    dry_run: bool = False
    """Print the resolved config as JSON and stop."""
    from_run: Path | None = None
    """Take the config of this run directory in place of the experiment's own and its flags."""
    recall: float | None = None
    """Choose --pretrain.steps: so many that the base model of seed 0 recalls this share of the facts, 0 to 1. The share
    that a language model recalls makes the toy its counterpart. What is chosen is printed, and stands in the runs'
    config; a dry run does not choose."""

    def __call__(self) -> int:
        config = configs.from_json(runs.read_run(self.from_run).report["config"]) if self.from_run else self.config
        configs.check(config)
        if self.dry_run:
            print(json.dumps(configs.to_json(config), indent=2))
            return 0
        experiments.check_table(self.name.removeprefix("select-"), config.facts.path)
        if self.recall is not None:
            config = _calibrated(config, self.recall)
        wanted = self.seeds.cells()
        stored = configs.to_json(config)
        left = runs.unfinished(self.out, runner.FLOW, self.name, wanted, stored, overwrite=self.overwrite)
        with progress(self.name, len(left)) as tell:
            options = {"overwrite": self.overwrite, "save_weights": self.save_weights, "progress": tell}
            runner.run(config, self.name, left, self.out, **options)
        rows = runner.write_predictions(self.name, self.out)
        self.show(runs.find_runs(self.out, runner.FLOW, self.name), rows)
        report_tables.print_done(len(left), len(wanted), self.out / runner.FLOW / self.name, OUTPUT)
        return 0

    def show(self, finished: Sequence[runs.Run], rows: Sequence[Row]) -> None:
        """Print what there is of the experiment, and how it compares with the theory."""
        report_tables.print_notes(finished[0].report["notes"], OUTPUT)
        tables.print_arms(self.name, finished, OUTPUT)
        report_tables.print_crossed(self.name, finished, OUTPUT)
        tables.print_selection(self.name, finished, OUTPUT)
        report_tables.print_shares(self.name, finished, OUTPUT)
        report_tables.print_verdicts(rows, OUTPUT)


@dataclass(frozen=True)
class Select(Run):
    """Which facts to finetune on: arms by rules, predicted from the base model alone, finetuned and measured."""

    seeds: Annotated[Seeds, Flat] = field(default_factory=lambda: Seeds(10))
    rules: tuple[str, ...] = tuple(selection.RULES)
    """What facts are chosen by. From the table or world alone: popular, unpopular, random, rarest (the rarest answers),
    not_modal (answers that are not their relation's most frequent, popular ones first). From the base model: salient,
    margin, logprob, force (the largest force on attention to the subject at a share of ½), best (R9)."""
    sizes: tuple[float, ...] = (0.5,)
    """How many facts each rule chooses: a share of the training facts below 1, or a number of facts."""

    def __call__(self) -> int:
        ruled = tuple(selection.name(rule, size) for size in self.sizes for rule in self.rules)
        config = replace(self.config, more_arms=tuple(dict.fromkeys((*self.config.more_arms, *ruled))))
        return Run.__call__(replace(self, config=config, name=f"select-{self.name}"))


def _calibrated(config: Config, recall: float) -> Config:
    """Return the config with the length of pretraining that recalls this share of the facts, and say it on stderr."""
    found = calibrate.steps(config, recall)
    ERRORS.print(
        f"--pretrain.steps {found.steps}: the base model recalls {found.recall:.3f} of the facts, by fifths of "
        f"popularity {', '.join(f'{share:.2f}' for share in found.by_fifth)}; "
        f"the relations' generic answers alone are right for {found.generic:.3f}."
    )
    return replace(config, pretrain=replace(config.pretrain, steps=found.steps))


def _named(kind: type[Run]) -> tuple[Any, ...]:
    """Return a subcommand for every named experiment."""
    return tuple(
        Annotated[kind, tyro.conf.subcommand(name, default=kind(name, config), description=sentence)]
        for name, (sentence, config) in EXPERIMENTS.items()
    )


_Experiment: TypeAlias = Union[_named(Run)]  # type: ignore  # noqa: UP007
_World: TypeAlias = Union[_named(Select)]  # type: ignore  # noqa: UP007


@dataclass(frozen=True)
class Experiment:
    """Run a named experiment; what is finished already is not run again."""

    run: Annotated[_Experiment, Flat]  # pyright: ignore[reportInvalidTypeForm]
    """The experiment's name."""

    def __call__(self) -> int:
        return self.run()


@dataclass(frozen=True)
class Selection:
    """Which facts to finetune on, in a named experiment's world: rules compared, predicted before they are measured."""

    run: Annotated[_World, Flat]  # pyright: ignore[reportInvalidTypeForm]
    """The experiment whose world it is."""

    def __call__(self) -> int:
        return self.run()
