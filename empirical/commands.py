"""The commands, one class each: its fields are the flags, calling it does the work and returns the exit code."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.table import Table

from empirical import compare, evaluate, facts, measure, pretrain, prompts, runner, study, tables, window
from empirical import config as configs
from empirical import model as models
from empirical.config import Config
from empirical.experiments import STUDIES, WINDOW
from empirical.study import Cell
from theory import results, split
from theory.columns import ATTENTION, table
from theory.console import ERRORS, OUTPUT, progress
from theory.errors import InputError

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Seeds:
    """The random states to run, each kind counted from 0."""

    seeds: int = 1
    """Finetuning seeds of every base model and split: batches, adapters, dropout."""
    pretrain_seeds: int = 1
    """Worlds and base models (only where the study pretrains its own)."""
    split_seeds: int = 1
    """Held-out sets and random halves of every base model."""
    seed: int | None = None
    """This finetuning seed alone, instead of a count."""

    def cells(self) -> list[Cell]:
        """Return the runs asked for; InputError for a count below 1 or a negative seed."""
        for name in ("seeds", "pretrain_seeds", "split_seeds"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be at least 1.")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise InputError(f"--seed is {self.seed}: it must lie between 0 and {2**31 - 1:,}.")
        chosen = range(self.seeds) if self.seed is None else [self.seed]
        return [Cell(p, q, k) for p in range(self.pretrain_seeds) for q in range(self.split_seeds) for k in chosen]


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
    dry_run: bool = False
    """Print the resolved config, what it needs and the runs as JSON, and stop."""
    from_run: Path | None = None
    """Take the config of this run directory in place of the study's own and its flags."""

    def __call__(self) -> int:
        config = configs.from_json(results.read_run(self.from_run).report["config"]) if self.from_run else self.config
        wanted = self.seeds.cells()
        if not config.pretrains and self.seeds.pretrain_seeds > 1:
            raise InputError(f"--pretrain-seeds: {config.model.name} is one model.\nLeave it, or use --split-seeds.")
        if self.dry_run:
            cells = [cell._asdict() for cell in wanted]
            print(json.dumps({"config": configs.to_json(config), "needs": needs(config), "runs": cells}, indent=2))
            return 0
        configs.check(config)
        for line in needs(config):
            ERRORS.print(f"[dim]{line}[/dim]")
        left = runner.unfinished(config, self.name, wanted, self.out, overwrite=self.overwrite)
        with progress(self.name, len(left)) as told:
            runner.run(config, self.name, left, self.out, overwrite=self.overwrite, progress=_absolute(told))
        found = results.find_runs(self.out, runner.FLOW, self.name)
        for note in found[0].report["notes"]:
            OUTPUT.print(f"[dim]{note}[/dim]")
        report(self.name, self.out, found)
        done = f"{len(left)} runs made, {len(wanted) - len(left)} found done"
        OUTPUT.print(f"{done}. Results: {self.out / runner.FLOW / self.name}", soft_wrap=True)
        return 0


def report(name: str, out: Path, found: list[results.Run]) -> None:
    """Write predictions.parquet from the finished runs of a study, and print what they say."""
    rows = compare.write(name, out, found)
    tables.print_arms(name, found, OUTPUT)
    tables.print_choices(found, OUTPUT)
    tables.print_signs(rows, OUTPUT)
    if "mmlu" in name and found[0].report["config"]["model"]["name"] == "":
        OUTPUT.print("A model this small is at chance on MMLU (0.25): this shows the mechanics, nothing else.")


def needs(config: Config) -> list[str]:
    """Return what a study of a published model asks of the machine; nothing where it pretrains its own."""
    if config.pretrains:
        return []
    how = "an adapter and its moments beside it" if config.finetune.method == "lora" else "gradients and moments too"
    return [
        f"{config.model.name}: weights from the hub or a folder; some need their licence accepted there first.",
        f"In {config.model.precision} precision a billion parameters take 2 GB (bfloat16) or 4 GB (float32); {how}.",
        f"Each arm is finetuned once for each of {len(config.finetune.learning_rates)} rates, then once a seed.",
    ]


def _absolute(told: Any) -> Any:
    """Return a progress function that takes how many are done in place of how many more."""
    done = 0.0

    def tell(doing: str, now: float) -> None:
        nonlocal done
        told(doing, now - done)
        done = now

    return tell


@dataclass(frozen=True)
class Window:
    """Which properties of a world open or close the effect: 16 worlds of a factorial design."""

    config: Annotated[Config, Flat] = field(default_factory=lambda: WINDOW)
    worlds: tuple[int, ...] = tuple(range(16))
    """Only these of the 16 worlds, so that several processes or sessions can share the work."""
    pretrain_seeds: int = 2
    """Base models of each world: the unit of every interval."""
    seeds: int = 3
    """Finetuning seeds of each base model."""
    toy: bool = True
    """Run the toy in the same worlds, beside."""
    out: Path = Path("runs")
    """Folder of results: OUT/empirical/window-LEVELS/…, a letter for each factor, h(igh) or l(ow); OUT/toy."""

    def __call__(self) -> int:
        if not self.worlds or not set(self.worlds) <= set(range(16)):
            raise InputError("--worlds: name some of 0 to 15.")
        total = len(self.worlds) * self.pretrain_seeds * self.seeds
        with progress("window", total) as told:
            window.run(self.config, self.worlds, self.pretrain_seeds, self.seeds, self.out, progress=_absolute(told))
        if self.toy:
            with progress("toy", len(self.worlds) * self.pretrain_seeds) as told:
                window.run_toy(self.config, self.worlds, self.pretrain_seeds, self.out, progress=_absolute(told))
        about, gap = window.gaps(self.out)
        tables.print_worlds(about, gap, window.toy_gaps(self.out, about), OUTPUT)
        tables.print_effects(window.effects(np.array([one["levels"] for one in about]), gap), OUTPUT)
        return 0


_STUDIES = (
    *(
        Annotated[Run, tyro.conf.subcommand(name, default=Run(name, config), description=sentence)]
        for name, (sentence, config) in STUDIES.items()
    ),
    Annotated[Window, tyro.conf.subcommand("window")],
)


@dataclass(frozen=True)
class Study:
    """Run a named study; what is finished already is not run again."""

    run: Annotated[Union[_STUDIES], Flat] = field(  # type: ignore  # noqa: UP007
        default_factory=lambda: Run("tiny", STUDIES["tiny"][1])
    )

    def __call__(self) -> int:
        return self.run()


@dataclass(frozen=True)
class Pretrain:
    """Pretrain a small Llama on a world of facts, and save it as a checkpoint folder."""

    config: Annotated[Config, Flat] = field(default_factory=lambda: STUDIES["tiny"][1])
    seed: int = 0
    """Of world, weights and order."""
    out: Path = Path("runs")
    """The model goes to OUT/models."""

    def __call__(self) -> int:
        given = facts.load(self.config.facts)
        with progress("pretraining", 1) as told:
            path = pretrain.run(
                self.config.pretrain, self.config.world, given, self.out, seed=self.seed, progress=_absolute(told)
            )
        probes = json.loads((path / "pretraining.json").read_text(encoding="utf-8"))["recall"]
        printed = Table("step", *(f"fifth {i + 1}" for i in range(len(probes[0]["recall"]))), title="facts recalled")
        for probe in probes:
            printed.add_row(str(probe["step"]), *(f"{share:.2f}" for share in probe["recall"]))
        OUTPUT.print(printed)
        OUTPUT.print(str(path), soft_wrap=True)
        return 0


@dataclass(frozen=True)
class _OnModel:
    """What the single stages share: a model, questions, and the split that says which of them are tested."""

    config: Annotated[Config, Flat] = field(default_factory=Config)
    split_seed: int = 0
    """Of the held-out set and the random half: the same for every stage that belongs together."""
    out: Path = Path("runs")
    """Folder of what is written."""

    def base(self) -> study.Base:
        """Return the model named and the questions."""
        configs.check(self.config)
        given = facts.load(self.config.facts)
        if self.config.pretrains or given is None:
            raise InputError(
                "name the model with --model.name (a hub id or a folder) and the questions with --facts.source and "
                "--facts.path.\nA study of our own small model: python -m empirical run tiny"
            )
        results.check_writable(self.out)
        return study.Base(self.config.model, given.facts, given.notes)


@dataclass(frozen=True)
class Score(_OnModel):
    """Score how well a model knows each question's fact, and write scores.parquet."""

    def __call__(self) -> int:
        one = self.base()
        asked, halves, notes = study.questions(self.config, one, self.out, seed=self.split_seed)
        path = self.out / "scores.parquet"
        in_arm = {arm: np.isin(np.arange(len(one.facts)), rows) for arm, rows in halves.arms.items()}
        columns = {
            "id": [fact.id for fact in one.facts],
            "question": [fact.question for fact in one.facts],
            "answer": [fact.answers[0] for fact in one.facts],
            "knownness": asked.knownness,
            "role": [split.ROLES[code] for code in halves.role],
        }
        written = pa.table(columns | in_arm)
        results.replace_file(path, lambda file: pq.write_table(written, file))
        for note in one.notes:
            OUTPUT.print(f"[dim]{note}[/dim]")
        OUTPUT.print(json.dumps(notes))
        OUTPUT.print(f"{len(one.facts)} questions scored: {path}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Finetune(_OnModel):
    """Finetune a model on one arm of the questions, and save model or adapter to OUT/ARM."""

    arm: str = "top"
    """top, bottom, whole or random (mixture, if --split.known-share is given)."""
    seed: int = 0
    """Of batches, adapter and dropout."""

    def __call__(self) -> int:
        one = self.base()
        asked, halves, _ = study.questions(self.config, one, self.out, seed=self.split_seed)
        if self.arm not in halves.arms:
            raise InputError(f"--arm is {self.arm!r}: it must be one of {', '.join(halves.arms)}.")
        path, own = self.out / self.arm, halves.arms[self.arm]
        if path.exists():
            raise InputError(f"{path} is there already.\nName another place with --out DIR, or remove it.")
        work = self.out / f".{self.arm}.work"
        with progress(f"finetuning on {self.arm}", 1) as told:
            options = {"work": work, "progress": _absolute(told)}
            rate, by_rate = study.choose_rate(self.config, one, asked, own, **options)
            tuned, trace = study.tune(self.config, one, asked, own, rate=rate, seed=self.seed, **options)
        models.save(tuned, path)
        OUTPUT.print(f"{len(own)} facts, rate {rate:g} {by_rate or ''}, loss {trace[-1]['loss']:.3f}: {path}")
        return 0


@dataclass(frozen=True)
class Evaluate(_OnModel):
    """Ask a model the held-out questions, or all of them, and write answers.parquet."""

    which: Literal["held_out", "all"] = "held_out"
    """Which questions: those that `finetune` with the same split seed never saw, or all."""

    def __call__(self) -> int:
        one = self.base()
        rows = study.held_out(self.config, one, seed=self.split_seed)
        rows = rows if self.which == "held_out" else np.arange(len(one.facts))
        chosen, loaded = [one.facts[row] for row in rows], one.load()
        encoded = prompts.encode(loaded.tokenizer, [prompts.build(fact) for fact in chosen])
        answers = evaluate.answer(self.config.evaluate, loaded, chosen, encoded)
        path = self.out / "answers.parquet"
        columns = {
            "id": [fact.id for fact in chosen],
            "relation": [fact.relation for fact in chosen],
            "question": [fact.question for fact in chosen],
            "predicted": answers.predicted,
            "exact_match": answers.exact_match,
            "substring_match": answers.substring_match,
            "token_f1": answers.token_f1,
            "answer_logprob": answers.logprob,
        }
        results.replace_file(path, lambda file: pq.write_table(pa.table(columns), file))
        OUTPUT.print(f"{len(rows)} questions, exact match {answers.exact_match.mean():.3f}: {path}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Attention(_OnModel):
    """Measure where a model looks when it answers the held-out questions, and write attention.parquet."""

    def __call__(self) -> int:
        one = self.base()
        chosen = [one.facts[row] for row in study.held_out(self.config, one, seed=self.split_seed)]
        loaded = one.load()
        encoded = prompts.encode(loaded.tokenizer, [prompts.build(fact) for fact in chosen])
        mass = measure.attend(loaded, encoded, batch_size=self.config.evaluate.batch_size)
        columns = measure.attention_table("model", mass, encoded, study.identify(chosen).subject)
        if not columns:
            raise InputError("no held-out question names its subject, so there is no attention to measure.")
        path = self.out / "attention.parquet"
        written = table(columns, ATTENTION)
        results.replace_file(path, lambda file: pq.write_table(written, file))
        OUTPUT.print(f"{written.num_rows} rows (layer, head, position, span): {path}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Compare:
    """Compare finished runs with the theory's signs again, from their files alone."""

    studies: tyro.conf.Positional[tuple[str, ...]] = ()
    """Their names; none for all that have finished runs."""
    out: Path = Path("runs")
    """Folder of results."""

    def __call__(self) -> int:
        found = {run.report["experiment"] for run in results.find_runs(self.out, runner.FLOW)}
        names = self.studies or sorted(found)
        if not names:
            raise InputError(f"no finished runs under {self.out}.\nRun: python -m empirical run tiny --out {self.out}")
        for name in names:
            runs = results.find_runs(self.out, runner.FLOW, name)
            if not runs:
                raise InputError(f"no finished runs of {name} under {self.out}.\nRun it first, or leave the name.")
            report(name, self.out, runs)
        return 0


@dataclass(frozen=True)
class List:
    """The named studies, a sentence each."""

    def __call__(self) -> int:
        printed = Table("study", "what it shows", box=None)
        for name, (sentence, _) in STUDIES.items():
            printed.add_row(name, sentence)
        OUTPUT.print(printed)
        return 0
