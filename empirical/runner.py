"""Runs of one study: each arm's results kept as soon as they are there, and one directory written when all are."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core import config_json, provenance, runs
from core.columns import Columns
from core.console import ERRORS
from core.errors import InputError
from core.facts.record import FactSet
from core.runs import Run
from core.seeds import Cell
from core.split import ROLES, Split
from empirical import arm as of_arm
from empirical import config as configs
from empirical import evaluate, facts, room, study
from empirical.config import Config
from empirical.lm import model as models
from empirical.lm.model import LanguageModel
from empirical.measure import Measured, Questions
from empirical.pieces import Pieces
from empirical.progress import Progress, part
from empirical.study import Base

FLOW = "empirical"
TABLES = ("facts", "trace", "attention")


class Ends(NamedTuple):
    """Shares of a run's time, roughly, by which the base model is there, its facts are scored, and it is measured."""

    pretraining: float
    scoring: float
    measuring: float


OWN, NAMED = Ends(0.3, 0.33, 0.35), Ends(0.0, 0.15, 0.2)
"""Of a model that the study pretrains, and of one that is there."""
CHOOSING, TUNING = 0.6, 0.85
"""Shares of an arm's time, roughly, by which its learning rate is chosen, and by which it is finetuned."""
MEDIATING = 0.7
"""Share of a run's time, roughly, by which all arms are done, where models are then given what others have."""


def run(
    config: Config,
    given: FactSet | None,
    name: str,
    wanted: Sequence[Cell],
    out: Path,
    *,
    overwrite: bool = False,
    progress: Progress,
) -> None:
    """Run the cells, one after another; a cell that was interrupted goes on after its last arm or checkpoint.

    Args:
        progress: Called with what is being done, and how many of the cells are done (with a fraction).
    """
    configs.check(config)
    if not config.pretrains:
        room.check(config, study.models_config(config))
    facts_hash = facts.fingerprint(given)
    for number, cell in enumerate(wanted):
        label = f"{cell.pretrain}/{cell.split}/{cell.seed}"
        own = part(progress, label, number, number + 1)
        pretraining = part(own, "pretraining", 0.0, _ends(config).pretraining)
        base = study.base(config, given, out, seed=cell.pretrain, progress=pretraining)
        _Cell(config, facts_hash, name, cell, base, out, overwrite, own).run()
        progress(label, number + 1.0)


def _ends(config: Config) -> Ends:
    return OWN if config.pretrains else NAMED


@dataclass(frozen=True, eq=False)
class Part:
    """What is kept of one arm before the run is whole."""

    arm: str
    measured: Measured | None = None
    choice: dict[str, Any] = field(default_factory=dict)
    trace: Columns = field(default_factory=dict)
    throughput: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Mediated:
    """What moved between the arms of pairs."""

    tables: list[Columns] = field(default_factory=list)
    by_question: dict[str, np.ndarray] = field(default_factory=dict)
    """Log-probabilities, and whether the true answer was the likeliest, by pair and intervention."""


@dataclass(frozen=True, eq=False)
class _Cell:
    """One run, arm by arm."""

    config: Config
    facts_hash: str | None
    name: str
    cell: Cell
    base: Base
    out: Path
    overwrite: bool
    progress: Progress

    def run(self) -> None:
        """Measure base and arms, those that are not kept already, and write the run."""
        path = runs.directory(self.out, FLOW, self.name, self.cell)
        ends = _ends(self.config)
        scoring = part(self.progress, "questions:", ends.pretraining, ends.scoring)
        scoring("", 0.0)
        questions, halves, notes = study.questions(
            self.config, self.base, self.out, seed=self.cell.split, progress=scoring
        )
        if not self.config.pretrains:
            share, is_choice = float(questions.base_correct.mean()), bool(questions.facts[0].choices)
            if told := evaluate.guessing(self.base.model.name, share, len(questions.held_out), is_choice=is_choice):
                ERRORS.print(told, style="yellow", markup=False)
        parts = [self._keep(self._shared / "base", lambda: self._base(questions))]
        pairs = self.config.mediation.pairs
        width = ((MEDIATING if pairs else 1.0) - ends.measuring) / len(self.config.arms)
        for number, arm in enumerate(self.config.arms):
            begin = ends.measuring + width * number
            own = part(self.progress, f"{arm}:", begin, begin + width)
            parts.append(self._arm(arm, questions, halves, own))
        roles = {role: int((halves.role == code).sum()) for code, role in enumerate(ROLES)}
        told = [*self.base.notes, *questions.notes]
        self._write(path, parts, self._mediated(questions), notes | roles, told)
        shutil.rmtree(self._work, ignore_errors=True)

    @property
    def _shared(self) -> Path:
        """What all seeds of a split share: the base model's measurements, the chosen rates."""
        return runs.directory(self.out, FLOW, self.name, self.cell).parent / ".shared"

    @property
    def _work(self) -> Path:
        return runs.directory(self.out, FLOW, self.name, self.cell).parent / f".seed_{self.cell.seed}.work"

    def _training(self, folder: Path) -> Path:
        """Return where a part's checkpoints and pieces lie, apart from those of another config or of other facts."""
        identity = config_json.config_hash([configs.to_json(self.config), self.facts_hash])
        return folder.with_name(f"{folder.name}.{identity[:16]}.work")

    def _base(self, questions: Questions) -> Part:
        measuring = part(self.progress, "base:", _ends(self.config).scoring, _ends(self.config).measuring)
        pieces = Pieces(self._training(self._shared / "base"))
        return Part("base", study.measure_base(self.config, self.base, questions, pieces=pieces, progress=measuring))

    def _arm(self, arm: str, questions: Questions, halves: Split, progress: Progress) -> Run:
        facts_of = of_arm.facts_of(arm)
        own, rates = halves.arms[facts_of], self._shared / "rates" / facts_of
        config = replace(self.config, finetune=of_arm.finetuning(self.config.finetune, arm))

        def choose() -> Part:
            # With remedies an arm takes the rate that it takes without: they alone are what differs.
            work, choosing = self._training(rates), part(progress, "", 0.0, CHOOSING)
            rate, by_rate = study.choose_rate(self.config, self.base, questions, own, work=work, progress=choosing)
            return Part(facts_of, choice={"learning_rate": rate, "dev_accuracy": by_rate})

        choice = self._keep(rates, choose).report["choice"]

        def tune() -> Part:
            work = self._training(self._work / arm)
            tuned, trace = study.tune(
                config,
                self.base,
                questions,
                own,
                rate=choice["learning_rate"],
                seed=self.cell.seed,
                work=work,
                progress=part(progress, "finetuning", CHOOSING, TUNING),
            )
            if arm in self.config.mediation.arms:
                self._save(tuned, arm)
            kept: dict[str, Any] = {"pieces": Pieces(work / "measured"), "progress": part(progress, "", TUNING, 1.0)}
            measured = study.measure_arm(config, arm, tuned, questions, own, **kept)
            columns = {name: [record.get(name) for record in trace] for name in trace[-1]}
            reached = tuned.throughput.report() if tuned.throughput else {}
            return Part(arm, measured, choice, {"arm": arm} | columns, reached)

        return self._keep(self._work / arm, tune)

    def _save(self, tuned: LanguageModel, arm: str) -> None:
        """Save an arm's model until the run is written."""
        shutil.rmtree(self._weights(arm), ignore_errors=True)
        self._weights(arm).parent.mkdir(parents=True, exist_ok=True)
        models.save(tuned, self._weights(arm))

    def _weights(self, arm: str) -> Path:
        return self._work / "weights" / arm

    def _mediated(self, questions: Questions) -> Mediated:
        """Return what moves between the arms of every pair."""
        made, pairs = Mediated(), self.config.mediation.pairs
        for number, pair in enumerate(pairs):
            receiver, donor = pair.split(":")
            begin, end = (MEDIATING + (1 - MEDIATING) * place / len(pairs) for place in (number, number + 1))
            columns, outcomes = study.mediate(
                self.config,
                self.base,
                (self._weights(receiver), self._weights(donor)),
                questions,
                pieces=Pieces(self._training(self._work / "mediation") / pair),
                progress=part(self.progress, f"{receiver} given of {donor}:", begin, end),
            )
            made.tables.append({"receiver": receiver, "donor": donor, **columns})
            for name, outcome in outcomes.items():
                made.by_question.update({f"{pair}/{name}/{what}": array for what, array in vars(outcome).items()})
        return made

    def _keep(self, folder: Path, make: Callable[[], Part]) -> Run:
        """Return the part kept in this folder, made now unless it is there."""
        stored = configs.to_json(self.config)
        try:
            if runs.is_done(folder, stored, self.facts_hash):
                return runs.read_run(folder)
        except InputError:
            if not self.overwrite:
                raise
        started = time.monotonic()
        kept = make()
        report = {"config": stored, "facts_hash": self.facts_hash, "arm": kept.arm, "choice": kept.choice}
        report |= {"seconds": time.monotonic() - started, "throughput": kept.throughput}
        tables: dict[str, Columns] = {"trace": kept.trace} if kept.trace else {}
        arrays = None
        if kept.measured is not None:
            report["metrics"] = kept.measured.metrics
            tables |= {"facts": kept.measured.facts, "attention": kept.measured.attention}
            arrays = {"by_question": {"mass": kept.measured.by_question}}
        runs.write_run(folder, report, tables, arrays, overwrite=self.overwrite)
        for finished in folder.parent.glob(f"{folder.name}.*.work"):
            shutil.rmtree(finished, ignore_errors=True)
        return runs.read_run(folder)

    def _write(
        self, path: Path, parts: Sequence[Run], mediated: Mediated, notes: dict[str, Any], told: Sequence[str]
    ) -> None:
        by_arm = {part.report["arm"]: part for part in parts}
        report = {
            "flow": FLOW,
            "experiment": self.name,
            "seeds": self.cell._asdict(),
            "config": configs.to_json(self.config),
            "facts_hash": self.facts_hash,
            "metrics": {arm: part.report["metrics"] for arm, part in by_arm.items()},
            "choices": {arm: part.report["choice"] for arm, part in by_arm.items() if arm != "base"},
            "split": notes,
            "notes": told,
            "model": {name: getattr(self.base.model, name) for name in ("name", "revision", "precision")},
            "seconds": {arm: part.report["seconds"] for arm, part in by_arm.items()},
            "throughput": {arm: part.report.get("throughput", {}) for arm, part in by_arm.items() if arm != "base"},
        } | provenance.environment()
        tables = {
            name: [_columns(part, name) for part in parts if (part.path / f"{name}.parquet").exists()]
            for name in TABLES
        } | ({"mediation": mediated.tables} if mediated.tables else {})
        arrays = {"attention_by_question": {arm: part.arrays("by_question")["mass"] for arm, part in by_arm.items()}}
        if mediated.by_question:
            arrays["mediation_by_question"] = mediated.by_question
        runs.write_run(path, report, tables, arrays, overwrite=self.overwrite)


def _columns(part: Run, name: str) -> Columns:
    table = part.table(name)
    return dict(zip(table.column_names, table.columns, strict=True))
