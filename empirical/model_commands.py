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
from empirical import attention, evaluate, facts, study
from empirical import config as configs
from empirical.arm import facts_of, finetuning
from empirical.config import Config
from empirical.lm import model as models
from empirical.measure import Questions
from empirical.pieces import Pieces
from empirical.progress import part

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class OnModel:
    """What the single stages share: a model, questions, and the split that says which of them are tested."""

    config: Annotated[Config, Flat] = field(default_factory=Config)
    split_seed: int = 0
    """Random seed of the held-out set and the random half; give every stage the same one."""
    out: Path = Path("runs")
    """Folder of the results."""

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
        asked = facts.fingerprint(facts.FactSet(base_model.facts))
        identity = config_json.config_hash([[*settings, self.split_seed], asked, models.stamp(base_model.model.name)])
        return self.out / f".{name}.{identity[:16]}.work"

    def held_out(self, base_model: study.Base) -> list[Fact]:
        """Return the questions that `finetune` with the same split seed never saw."""
        rows = study.held_out(self.config, base_model, seed=self.split_seed)
        return [base_model.facts[row] for row in rows.tolist()]

    def trained(self) -> study.Base:
        """Return the same, in the precision in which a study would finetune it."""
        return replace(self.base(), model=study.models_config(self.config))


@dataclass(frozen=True)
class Score(OnModel):
    """Score how well a model knows each question's fact, and write scores.parquet."""

    def __call__(self) -> int:
        base_model = self.trained()
        with progress("scoring", len(base_model.facts)) as advance:
            scoring = part(absolute(advance), "", 0, len(base_model.facts))
            questions, halves, notes = study.questions(
                self.config, base_model, self.out, seed=self.split_seed, progress=scoring
            )
        path = self.out / "scores.parquet"
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
            "role": [split.ROLES[code] for code in halves.role],
        }
        written = pa.table(columns | in_arm)
        runs.replace_file(path, lambda file: pq.write_table(written, file))
        for note in base_model.notes:
            OUTPUT.print(f"[dim]{note}[/dim]")
        print_recall(questions)
        OUTPUT.print(json.dumps(config_json.plain(notes)))
        OUTPUT.print(
            f"{len(questions.held_out):,} held-out questions: arms that answer as many as the model does now differ "
            f"visibly (80 % power) from {100 * notes['smallest_gap']:.1f} points on."
        )
        OUTPUT.print(f"{len(base_model.facts)} questions scored: {path}", soft_wrap=True)
        return 0


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
        if chosen in arms.NAMES or chosen != self.arm:
            config = replace(config, arms=(self.arm,))
            configs.check(config)
            config = replace(config, finetune=finetuning(config.finetune, self.arm))
        base_model, path = self.trained(), self.out / self.arm
        if path.exists():
            raise InputError(f"{path} is there already.\nName another place with --out DIR, or remove it.")
        with progress("scoring", len(base_model.facts)) as advance:
            scoring = part(absolute(advance), "", 0, len(base_model.facts))
            questions, halves, _ = study.questions(config, base_model, self.out, seed=self.split_seed, progress=scoring)
        own = halves.arms[chosen]
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
        models.save(tuned, path)
        for finished in self.out.glob(f".{self.arm}.*.work"):
            shutil.rmtree(finished, ignore_errors=True)
        OUTPUT.print(f"{len(own)} facts, rate {rate:g} {by_rate or ''}, loss {trace[-1]['loss']:.3f}: {path}")
        return 0


@dataclass(frozen=True)
class Evaluate(OnModel):
    """Ask a model the held-out questions, or all of them, and write answers.parquet."""

    which: Literal["held_out", "all"] = "held_out"
    """Which questions to ask: `held_out` are those that `finetune` with the same split seed never saw."""

    def __call__(self) -> int:
        base_model = self.base()
        chosen = self.held_out(base_model) if self.which == "held_out" else list(base_model.facts)
        model = base_model.read()
        encoded = model.format.ask(chosen)
        pieces = Pieces(self.work(base_model, "answers", configs.to_json(self.config), self.which))
        with progress("asking", len(chosen)) as advance:
            asking = part(absolute(advance), "", 0, len(chosen))
            answers = evaluate.answer(self.config.evaluate, model, chosen, encoded, pieces=pieces, progress=asking)
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
        runs.replace_file(path, lambda file: pq.write_table(pa.table(columns), file))
        pieces.forget()
        OUTPUT.print(f"{len(chosen)} questions, exact match {answers.exact_match.mean():.3f}: {path}", soft_wrap=True)
        return 0


@dataclass(frozen=True)
class Attention(OnModel):
    """Measure where a model looks when it answers the held-out questions, and write attention.parquet."""

    def __call__(self) -> int:
        base_model = self.base()
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
        path = self.out / "attention.parquet"
        written = table(columns, ATTENTION)
        runs.replace_file(path, lambda file: pq.write_table(written, file))
        OUTPUT.print(f"{written.num_rows} rows (layer, head, position, span): {path}", soft_wrap=True)
        return 0
