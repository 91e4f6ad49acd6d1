"""The single stages on one's own model and questions, a command each."""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.table import Table
from scipy import stats

from core import arms, config_json, runs, split
from core.columns import ATTENTION, table
from core.console import OUTPUT, absolute, progress
from core.errors import InputError
from core.facts.record import Fact
from core.report_tables import print_notes
from empirical import attention, evaluate, facts, study, taught
from empirical import config as configs
from empirical.arm import facts_of, finetuning
from empirical.config import Config
from empirical.lm import model as models
from empirical.measure import Questions
from empirical.pieces import Pieces
from empirical.progress import part

Flat = tyro.conf.arg(name="")
IDENTITY = b"identity"
"""Name of the hash in a table's metadata."""


@dataclass(frozen=True)
class OnModel:
    """What the single stages share: a model, questions, and the split that says which of them are tested."""

    config: Annotated[Config, Flat] = field(default_factory=Config)
    split_seed: int = 0
    """Random seed of the held-out set and the random half, of a model that was not finetuned by `finetune`: such a one
    brings along what it was trained on, and is asked what was held out then."""
    out: Path = Path("runs")
    """Folder of the results."""
    overwrite: bool = False
    """Replace a result of other settings, questions or weights."""

    def base(self) -> study.Base:
        """Return the model named and the questions."""
        configs.check(self.config)
        given = facts.load(self.config.facts)
        if self.config.pretrains or given is None:
            raise InputError(
                "name the model with --model.name (a hub id or a folder) and the questions with --facts.source and "
                "--facts.path.\nA study of our own small model: python -m empirical run tiny"
            )
        runs.check_writable(self.out)
        return study.Base(self.config.model, given.facts, given.notes)

    def work(self, base_model: study.Base, name: str, *settings: Any) -> Path:
        """Return where checkpoints and pieces lie, apart from those of other settings, questions or weights."""
        return self.out / f".{name}.{self._identity(base_model, *settings)[:16]}.work"

    def _identity(self, base_model: study.Base, *settings: Any) -> str:
        asked = facts.fingerprint(facts.FactSet(base_model.facts))
        return config_json.config_hash([[*settings, self.split_seed], asked, models.stamp(base_model.model.name)])

    def result(self, base_model: study.Base, name: str, *settings: Any) -> "Result":
        """Return where a table goes; InputError if one of other settings, questions or weights is there."""
        identity = self._identity(base_model, configs.to_json(self.config), base_model.model.name, *settings)
        place = Result(self.out / name, identity)
        if not self.overwrite:
            place.check()
        return place

    def held_out(self, base_model: study.Base, *others: str) -> list[Fact]:
        """Return the questions that the model never saw, nor any of these other models.

        Of one that `finetune` made, those that were held out then; else those of the split.

        Raises:
            InputError: there is none.
        """
        names = (base_model.model.name, *others)
        records = [record for name in names if (record := taught.read(name)) is not None]
        if not records:
            rows = study.held_out(self.config, base_model, seed=self.split_seed)
            return [base_model.facts[row] for row in rows.tolist()]
        rows = np.arange(len(base_model.facts))
        for record in records:
            rows = np.intersect1d(rows, record.rows_held_out(base_model.facts))
        n_then = min(len(record.held_out) for record in records)
        if not len(rows):
            raise InputError(
                f"none of the {n_then:,} questions held out when {' and '.join(names)} was finetuned is among these.\n"
                "Name the questions that it was finetuned on with --facts.path, or ask it all: evaluate --which all."
            )
        if len(rows) < n_then:
            told = f"{n_then - len(rows):,} of {n_then:,} questions that were held out are not among these"
            print_notes([told], OUTPUT)
        return [base_model.facts[row] for row in rows.tolist()]

    def trained(self) -> study.Base:
        """Return the same, in the precision in which a study would finetune it."""
        return replace(self.base(), model=study.models_config(self.config))


@dataclass(frozen=True)
class Result:
    """A table's file, and in it the hash of what it depends on."""

    path: Path
    identity: str

    def check(self) -> None:
        """Raise InputError if the file is there and depends on something else."""
        if self.path.exists() and self._written() != self.identity:
            raise InputError(
                f"{self.path} is there already, of other settings, questions or weights.\n"
                "Name another place with --out DIR, or give --overwrite."
            )

    def _written(self) -> str | None:
        try:
            return (pq.read_schema(self.path).metadata or {}).get(IDENTITY, b"").decode()
        except (OSError, ValueError):  # damaged, or none of ours
            return None

    def write(self, table: pa.Table) -> None:
        """Write the table, whole or not at all."""
        marked = table.replace_schema_metadata({**(table.schema.metadata or {}), IDENTITY: self.identity})
        runs.replace_file(self.path, lambda file: pq.write_table(marked, file))


@dataclass(frozen=True)
class Score(OnModel):
    """Score how well a model knows each question's fact, and write scores.parquet."""

    def __call__(self) -> int:
        base_model = self.trained()
        place = self.result(base_model, "scores.parquet")
        with progress("scoring", len(base_model.facts)) as advance:
            scoring = part(absolute(advance), "", 0, len(base_model.facts))
            questions, halves, notes = study.questions(
                self.config, base_model, self.out, seed=self.split_seed, progress=scoring
            )
        in_arm = {arm: np.isin(np.arange(len(base_model.facts)), rows) for arm, rows in halves.arms.items()}
        columns = {
            "id": [fact.id for fact in base_model.facts],
            "question": [fact.question for fact in base_model.facts],
            "subject": [fact.subject for fact in base_model.facts],
            "relation": [fact.relation for fact in base_model.facts],
            "answer": [fact.answers[0] for fact in base_model.facts],
            "popularity": pa.array([fact.popularity for fact in base_model.facts], pa.float64()),
            "knownness": questions.knownness,
            "percentile": stats.rankdata(questions.knownness) / len(base_model.facts),
            "known_class": pa.array(_classes(questions), pa.string()),
            "role": [split.ROLES[code] for code in halves.role],
        }
        place.write(pa.table(columns | in_arm))
        print_notes((*base_model.notes, *questions.notes), OUTPUT)
        print_recall(questions)
        OUTPUT.print(json.dumps(config_json.plain(notes)))
        OUTPUT.print(
            f"{len(questions.held_out):,} held-out questions: arms that answer as many as the model does now differ "
            f"visibly (80 % power) from {100 * notes['smallest_gap']:.1f} points on."
        )
        OUTPUT.print(f"{len(base_model.facts)} questions scored: {place.path}", soft_wrap=True)
        return 0


def _classes(questions: Questions) -> list[str | None]:
    """Return each fact's class; None where facts were not sorted."""
    if questions.known_class is None:
        return [None] * len(questions.facts)
    return [arms.CLASSES[code] for code in questions.known_class]


def print_recall(questions: Questions) -> None:
    """Print what the model recalls of the held-out facts, relation by relation."""
    relation = np.array([questions.facts[row].relation for row in questions.held_out])
    printed = Table("relation", "asked", "recalled", title="held-out facts that the model answers after examples")
    for name in np.unique(relation):
        own = questions.base_correct[relation == name]
        printed.add_row(str(name), f"{len(own):,}", f"{own.mean():.3f}")
    printed.add_row("all", f"{len(relation):,}", f"{questions.base_correct.mean():.3f}")
    OUTPUT.print(printed)


@dataclass(frozen=True)
class Finetune(OnModel):
    """Finetune a model on one arm of the questions, and save model or adapter to OUT/ARM."""

    arm: str = "top"
    """Arm to finetune on: top, bottom, whole, random, or any other that --arms of a study takes, remedies included."""
    seed: int = 0
    """Random seed of batches, adapter and dropout."""

    def __call__(self) -> int:
        config, known = self.config, (*self.config.split.names, *arms.NAMES)
        if (chosen := facts_of(self.arm)) not in known:
            raise InputError(f"--arm is {self.arm!r}: it must be one of {', '.join(known)}.")
        config = replace(config, arms=(self.arm,))
        configs.check(config)
        config = replace(config, finetune=finetuning(config.finetune, self.arm))
        base_model, path = self.trained(), self.out / self.arm
        if path.exists() and not self.overwrite:
            raise InputError(f"{path} is there already.\nName another place with --out DIR, or give --overwrite.")
        earlier = taught.read(base_model.model.name)
        with progress("scoring", len(base_model.facts)) as advance:
            scoring = part(absolute(advance), "", 0, len(base_model.facts))
            questions, halves, _ = study.questions(config, base_model, self.out, seed=self.split_seed, progress=scoring)
        own = halves.arms[chosen]
        print_notes(questions.notes, OUTPUT)
        if earlier and (n := int(earlier.is_trained([base_model.facts[row] for row in questions.held_out]).sum())):
            OUTPUT.print(
                f"{base_model.model.name} was finetuned on {n:,} of the {len(questions.held_out):,} questions that are "
                "held out now: they will not be asked.",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        work = self.work(base_model, self.arm, configs.to_json(config), self.seed)
        n_rates = len(config.finetune.learning_rates)
        n_trainings = n_rates + 1 if n_rates > 1 else 1
        with progress(f"finetuning on {self.arm}", n_trainings) as advance:
            now = absolute(advance)
            choosing, tuning = part(now, "", 0, n_trainings - 1), part(now, "", n_trainings - 1, n_trainings)
            rate, by_rate = study.choose_rate(config, base_model, questions, own, work=work, progress=choosing)
            tuned, trace = study.tune(
                config, base_model, questions, own, rate=rate, seed=self.seed, work=work, progress=tuning
            )
        shutil.rmtree(path, ignore_errors=True)

        def record(folder: Path) -> None:
            taught.write(folder, base_model.facts, halves.role, own, earlier=earlier)

        models.save(tuned, path, beside=record)
        for finished in self.out.glob(f".{self.arm}.*.work"):
            shutil.rmtree(finished, ignore_errors=True)
        OUTPUT.print(f"{len(own)} facts, rate {rate:g} {by_rate or ''}, loss {trace[-1]['loss']:.3f}: {path}")
        return 0


@dataclass(frozen=True)
class Evaluate(OnModel):
    """Ask a model the held-out questions, or all of them, and write answers.parquet."""

    which: Literal["held_out", "all"] = "held_out"
    """Which questions to ask: `held_out` are those that the model never saw in finetuning."""

    def __call__(self) -> int:
        base_model = self.base()
        place = self.result(base_model, "answers.parquet", self.which)
        chosen = self.held_out(base_model) if self.which == "held_out" else list(base_model.facts)
        model = base_model.read()
        encoded = model.format.ask(chosen, new_tokens=self.config.evaluate.max_new_tokens)
        record = taught.read(base_model.model.name)
        is_trained = np.zeros(len(chosen), dtype=bool) if record is None else record.is_trained(chosen)
        print_notes(evaluate.unreachable(self.config.evaluate, model, chosen, encoded), OUTPUT)
        pieces = Pieces(self.work(base_model, "answers", configs.to_json(self.config), self.which))
        with progress("asking", len(chosen)) as advance:
            asking = part(absolute(advance), "", 0, len(chosen))
            answers = evaluate.answer(self.config.evaluate, model, chosen, encoded, pieces=pieces, progress=asking)
        columns = {
            "id": [fact.id for fact in chosen],
            "subject": [fact.subject for fact in chosen],
            "relation": [fact.relation for fact in chosen],
            "popularity": pa.array([fact.popularity for fact in chosen], pa.float64()),
            "question": [fact.question for fact in chosen],
            "answers": [list(fact.answers) for fact in chosen],
            "is_trained": is_trained,
            "predicted": answers.predicted,
            **answers.by_rule,
            "answer_logprob": answers.logprob,
        }
        place.write(pa.table(columns))
        pieces.forget()
        told = f"{len(chosen)} questions, exact match {answers.exact_match.mean():.3f}"
        if n := int(is_trained.sum()):
            told += f" (finetuned on {n:,} of them: {answers.exact_match[is_trained].mean():.3f} of these)"
        OUTPUT.print(f"{told}: {place.path}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Attention(OnModel):
    """Measure where a model looks when it answers the held-out questions, and write attention.parquet."""

    def __call__(self) -> int:
        base_model = self.base()
        place = self.result(base_model, "attention.parquet")
        chosen = self.held_out(base_model)
        model = base_model.read()
        encoded = model.format.ask(chosen)
        with progress("measuring", len(chosen)) as advance:
            mass = evaluate.each(
                self.config.evaluate,
                model,
                encoded,
                lambda given: {"mass": attention.mass_of(model, given)},
                done=lambda n: advance("", n),
            )["mass"]
        columns = attention.table("model", mass, encoded, study.identify(chosen).subject)
        if not columns:
            raise InputError("no held-out question names its subject, so there is no attention to measure.")
        written = table(columns, ATTENTION)
        place.write(written)
        OUTPUT.print(f"{written.num_rows} rows (layer, head, position, span): {place.path}", soft_wrap=True)
        return 0
