"""One run of a study, arm by arm: finetuned, measured, given what others have, and written once all are there."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from core import provenance, runs
from core.columns import Columns
from core.runs import Run
from core.seeds import Cell
from core.split import ROLES
from empirical import arm as of_arm
from empirical import config as configs
from empirical import parts, rates, study, taught
from empirical.lm import model as models
from empirical.lm.model import LanguageModel
from empirical.parts import Part
from empirical.pieces import Pieces
from empirical.progress import Progress, part
from empirical.shared import FLOW, Job, Shared, Stamp

TABLES = ("facts", "trace", "attention")
CHOOSING, TUNING = 0.6, 0.85
"""Shares of an arm's time, roughly, by which its learning rate is chosen, and by which it is finetuned."""
NEVER = (0, 0)
"""When a run that is not there was written."""
MEDIATING = 0.7
"""Share of a run's time, roughly, by which all arms are done, where models are then given what others have."""


@dataclass(frozen=True, eq=False)
class Mediated:
    """What moved between the arms of pairs."""

    tables: list[Columns] = field(default_factory=list)
    by_question: dict[str, np.ndarray] = field(default_factory=dict)
    """Log-probabilities, and whether the true answer was the likeliest, by pair and intervention."""


@dataclass(eq=False)
class Arms:
    """One run, arm by arm."""

    job: Job
    shared: Shared
    cell: Cell
    is_ours: bool = field(init=False, default=False)
    """Whether this process wrote it."""

    def advance(self, progress: Progress) -> bool:
        """Make what nobody else is making of the run; return whether it is written."""
        if self.is_written():
            return True
        if not self.shared.prepare(progress):
            return False
        there = [self.shared.keep_base(progress)]
        config, ends = self.job.config, self.job.ends
        width = ((MEDIATING if config.mediation.pairs else 1.0) - ends.measuring) / len(config.arms)
        for number, arm in enumerate(config.arms):
            begin = ends.measuring + width * number
            there.append(self._arm(arm, part(progress, f"{arm}:", begin, begin + width)))
        return all(there) and self._finish(progress)

    def is_written(self) -> bool:
        """Return whether the run is there, and not only the one that is to be overwritten."""
        if self.written() in (NEVER, self.job.replaced.get(self.cell)):
            return False
        return runs.is_done(self.job.path(self.cell), configs.to_json(self.job.config), self.job.facts_hash)

    def written(self) -> Stamp:
        """Return when the run that is there was written."""
        return written(self.job.path(self.cell))

    def share(self) -> float:
        """Return which share of the run is there, 0 to 1, by the parts that are kept, whoever made them."""
        if self.is_written():
            return 1.0
        shared, config, ends = self.shared, self.job.config, self.job.ends
        n_rates = len(config.finetune.learning_rates)
        begin = CHOOSING * (n_rates > 1)  # of one rate there is nothing to try
        there = [
            begin * _is_kept(shared.rates(of_arm.facts_of(arm))) + (1 - begin) * _is_kept(self._work / arm)
            for arm in config.arms
        ]
        end = MEDIATING if config.mediation.pairs else 1.0
        return ends.measuring * _is_kept(shared.folder / "base") + (end - ends.measuring) * sum(there) / len(there)

    @property
    def _work(self) -> Path:
        return self.job.path(self.cell).with_name(f".seed_{self.cell.seed}.work")

    @property
    def _models(self) -> Path:
        """Where the arms' models are: kept beside the run, or until it is written."""
        return models_of(self.job.path(self.cell)) if self.job.keeps else self._work / "weights"

    def _arm(self, arm: str, progress: Progress) -> bool:
        facts_of = of_arm.facts_of(arm)
        if self.is_written() or not self.shared.choose(facts_of, part(progress, "", 0.0, CHOOSING)):
            return False
        saves = self.job.keeps or arm in self.job.config.mediation.arms
        return self.shared.parts.keep(
            self._work / arm,
            lambda: self._tuned(arm, facts_of, progress, saves=saves),
            is_over=self.is_written,
            is_whole=lambda: not saves or (self._models / arm).exists(),
        )

    def _tuned(self, arm: str, facts_of: str, progress: Progress, *, saves: bool) -> Part:
        """Return an arm finetuned and measured; that of seed 0 without remedies was finetuned when it was chosen."""
        shared, seed, questions = self.shared, self.cell.seed, self.shared.questions
        assert questions is not None
        config = replace(self.job.config, finetune=of_arm.finetuning(self.job.config.finetune, arm))
        own, work = shared.halves.arms[facts_of], shared.parts.work(self._work / arm)
        choice = runs.read_run(shared.rates(facts_of)).report["choice"]
        rate, finetuning = choice["learning_rate"], part(progress, "finetuning", CHOOSING, TUNING)
        kept = shared.trial(facts_of).tuned(rate, finetuning) if seed == 0 and arm == facts_of else None
        if kept is None:
            options: dict[str, Any] = {"rate": rate, "seed": seed, "work": work, "progress": finetuning}
            model, trace = study.tune(config, shared.base, questions, own, **options)
            kept = rates.Tuned(model, trace, rates.reached(model), seconds=0.0)
        if saves:
            self._save(kept.model, arm, own)
        pieces, measuring = Pieces(work / "measured"), part(progress, "", TUNING, 1.0)
        measured = study.measure_arm(config, arm, kept.model, questions, own, pieces=pieces, progress=measuring)
        columns = {name: [record.get(name) for record in kept.trace] for name in kept.trace[-1]}
        return Part(arm, measured, choice, {"arm": arm} | columns, seconds=kept.seconds, throughput=kept.throughput)

    def _save(self, tuned: LanguageModel, arm: str, own: Int[np.ndarray, " _"]) -> None:
        """Save an arm's model, with what it was finetuned on beside it: whole, or not at all."""
        shared, folder = self.shared, self._models / arm
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        earlier = taught.read(shared.base.model.name)
        models.save(
            tuned,
            folder,
            beside=lambda path: taught.write(path, shared.base.facts, shared.halves.role, own, earlier=earlier),
        )

    def _finish(self, progress: Progress) -> bool:
        """Write the run of its parts, unless another process does; return whether it is written."""
        path, shared = self.job.path(self.cell), self.shared
        with shared.parts.claim(path) as is_held:
            if not is_held:
                return False
            if self.is_written():
                return True
            folders = [shared.folder / "base", *(self._work / arm for arm in self.job.config.arms)]
            self._write([runs.read_run(folder) for folder in folders], self._mediated(progress))
            self.is_ours = True
            shared.parts.n_made += 1
            shutil.rmtree(self._work, ignore_errors=True)
            if not self.job.keeps:
                shutil.rmtree(models_of(path), ignore_errors=True)  # those of a run that was overwritten
            if self.job.path(self.cell._replace(seed=0)).exists():  # the best rate's weights have been taken
                for facts_of in map(of_arm.facts_of, self.job.config.arms):
                    shared.parts.forget(shared.rates(facts_of))
        return True

    def _mediated(self, progress: Progress) -> Mediated:
        """Return what moves between the arms of every pair."""
        made, pairs, questions = Mediated(), self.job.config.mediation.pairs, self.shared.questions
        assert questions is not None
        for number, pair in enumerate(pairs):
            receiver, donor = pair.split(":")
            begin, end = (MEDIATING + (1 - MEDIATING) * place / len(pairs) for place in (number, number + 1))
            columns, outcomes = study.mediate(
                self.job.config,
                self.shared.base,
                (self._models / receiver, self._models / donor),
                questions,
                pieces=Pieces(self.shared.parts.work(self._work / "mediation") / pair),
                progress=part(progress, f"{receiver} given of {donor}:", begin, end),
            )
            made.tables.append({"receiver": receiver, "donor": donor, **columns})
            for name, outcome in outcomes.items():
                made.by_question.update({f"{pair}/{name}/{what}": array for what, array in vars(outcome).items()})
        return made

    def _write(self, kept: Sequence[Run], mediated: Mediated) -> None:
        job, shared, base, questions = self.job, self.shared, self.shared.base, self.shared.questions
        assert questions is not None
        by_arm = {one.report["arm"]: one for one in kept}
        choices = {arm: one.report["choice"] for arm, one in by_arm.items() if arm != "base"}
        chosen = [runs.read_run(shared.rates(arm)) for arm in dict.fromkeys(map(of_arm.facts_of, job.config.arms))]
        diverged = [
            f"{one.report['arm']}: finetuning diverged at {', '.join(there)}, which counts as no right answer"
            for one in chosen
            if (there := one.report["choice"].get("diverged"))
        ]
        roles = {role: int((shared.halves.role == code).sum()) for code, role in enumerate(ROLES)}
        report = {
            "flow": FLOW,
            "experiment": job.name,
            "seeds": self.cell._asdict(),
            "config": configs.to_json(job.config),
            "facts_hash": job.facts_hash,
            "metrics": {arm: one.report["metrics"] for arm, one in by_arm.items()},
            "choices": choices,
            "split": shared.notes | roles,
            "notes": [*base.notes, *questions.notes, *diverged],
            "model": {"name": shared.base.model.name, "revision": shared.base.model.revision}
            | dict(shared.parts.model),
            "seconds": {arm: one.report["seconds"] for arm, one in by_arm.items()},
            "throughput": {arm: one.report.get("throughput", {}) for arm, one in by_arm.items() if arm != "base"},
        } | provenance.environment()
        stacked = {
            name: [parts.columns(one, name) for one in (*kept, *chosen) if (one.path / f"{name}.parquet").exists()]
            for name in (*TABLES, "rates")
        } | {"mediation": mediated.tables}
        tables = {name: those for name, those in stacked.items() if those}
        arrays = {"attention_by_question": {arm: one.arrays("by_question")["mass"] for arm, one in by_arm.items()}}
        if mediated.by_question:
            arrays["mediation_by_question"] = mediated.by_question
        runs.write_run(job.path(self.cell), report, tables, arrays, overwrite=job.overwrite)


def written(run: Path) -> Stamp:
    """Return when the run that is there was written."""
    report = run / "report.json"
    return (report.stat().st_mtime_ns, report.stat().st_ino) if report.exists() else NEVER


def _is_kept(part: Path) -> bool:
    return (part / "report.json").exists()


def models_of(run: Path) -> Path:
    """Return where a run's models are kept, if they are: each arm's in a folder of its name."""
    return run.with_name(f"{run.name}.models")
