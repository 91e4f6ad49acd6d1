"""Runs of one study: each arm's results kept as soon as they are there, and one directory written when all are.

Several processes on one study divide it: the base model, its scoring, each (arm, rate) and each (arm, seed) are made by
one of them, and each comes back for what the others had when it passed.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from core import provenance, runs
from core.columns import Columns
from core.console import ERRORS
from core.facts.record import FactSet
from core.runs import Run
from core.seeds import Cell
from core.split import ROLES, Split
from empirical import arm as of_arm
from empirical import config as configs
from empirical import evaluate, facts, parts, rates, study, taught
from empirical.config import Config
from empirical.lm import identity
from empirical.lm import model as models
from empirical.lm.model import LanguageModel
from empirical.measure import Questions
from empirical.parts import Part, Parts
from empirical.pieces import Pieces
from empirical.progress import Progress, forwards, part
from empirical.rates import Trial
from empirical.study import Base

FLOW = "empirical"
TABLES = ("facts", "trace", "attention")
WAIT = 0.5
"""Seconds between looks at what other processes are doing."""


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
    keeps: bool = False,
    progress: Progress,
) -> "Made":
    """Make the runs, one after another, with whatever other processes are at them.

    A run that was interrupted goes on after its last arm or checkpoint, whoever made it.

    Args:
        keeps: Whether the arms' models are kept beside the runs.
        progress: Called with what is being done, and how many of the runs are done (with a fraction).
    """
    configs.check(config)
    job = _Job(config, given, facts.fingerprint(given), name, out, overwrite, keeps)
    groups: dict[tuple[int, int], _Group] = {}
    cells = []
    for cell in wanted:
        group = groups.setdefault(cell[:2], _Group(job, cell.pretrain, cell.split, []))
        group.seeds.append(cell.seed)
        cells.append(_Cell(job, group, cell))
    left, told, n_written, is_last = list(cells), forwards(progress), 0, False
    while left:
        n_made = sum(group.n_made for group in groups.values())
        for one in list(left):
            label, n_done = "/".join(map(str, one.cell)), len(cells) - len(left)
            if one.advance(part(told, label, n_done, n_done + 1)):
                left.remove(one)
                told(label, n_done + 1.0)
                n_written += one.is_ours
                is_last = is_last or (one.is_ours and all(other.is_written() for other in cells))
        if left and n_made == sum(group.n_made for group in groups.values()):
            told("waiting for another process", 0.0)
            time.sleep(WAIT)
    return Made(n_written, is_last)


class Made(NamedTuple):
    """What this process did of the runs."""

    n_written: int
    is_last: bool
    """Whether all were there when it had written one."""


@dataclass(frozen=True, eq=False)
class _Job:
    """What all runs share."""

    config: Config
    given: FactSet | None
    facts_hash: str | None
    name: str
    out: Path
    overwrite: bool
    keeps: bool

    @property
    def ends(self) -> Ends:
        return OWN if self.config.pretrains else NAMED

    def path(self, cell: Cell) -> Path:
        return runs.directory(self.out, FLOW, self.name, cell)


@dataclass(frozen=True, eq=False)
class Mediated:
    """What moved between the arms of pairs."""

    tables: list[Columns] = field(default_factory=list)
    by_question: dict[str, np.ndarray] = field(default_factory=dict)
    """Log-probabilities, and whether the true answer was the likeliest, by pair and intervention."""


@dataclass(eq=False)
class _Group:
    """What all finetuning seeds of one base model and split share, once it is prepared."""

    job: _Job
    pretrain: int
    split: int
    seeds: list[int]
    """Those whose runs are wanted."""
    base: Base = field(init=False)
    parts: Parts = field(init=False)
    questions: Questions | None = field(init=False, default=None)
    halves: Split = field(init=False)
    notes: dict[str, Any] = field(init=False)

    @property
    def n_made(self) -> int:
        """How many parts this process has made."""
        return self.parts.n_made if self.questions is not None else 0

    @property
    def folder(self) -> Path:
        """What all seeds of a split share: the base model's measurements, the chosen rates."""
        return self.job.path(Cell(self.pretrain, self.split, 0)).parent / ".shared"

    def prepare(self, progress: Progress) -> bool:
        """See to base model, knownness and split; return whether they are there: another process may be at them."""
        if self.questions is not None:
            return True
        job, root = self.job, self.folder.parent.parent
        pretraining = part(progress, "pretraining", 0.0, job.ends.pretraining)
        scoring = part(progress, "questions:", job.ends.pretraining, job.ends.scoring)
        with parts.claimed(root, "model") as is_held:
            if not is_held:
                return False
            self.base = study.base(job.config, job.given, job.out, seed=self.pretrain, progress=pretraining)
        with parts.claimed(root, f"split_{self.split}") as is_held:
            if not is_held:
                return False
            scoring("", 0.0)
            questions, self.halves, self.notes = study.questions(
                job.config, self.base, job.out, seed=self.split, progress=scoring
            )
        if not job.config.pretrains:
            share, is_choice = float(questions.base_correct.mean()), bool(questions.facts[0].choices)
            if told := evaluate.guessing(self.base.model.name, share, len(questions.held_out), is_choice=is_choice):
                ERRORS.print(told, style="yellow", markup=False)
        stored, model = configs.to_json(job.config), identity.of(self.base.model)
        self.parts = Parts(root, stored, job.facts_hash, model, job.overwrite)
        self.questions = questions
        return True

    def keep_base(self, progress: Progress) -> bool:
        """See to the base model's measurements; return whether they are there."""
        folder = self.folder / "base"
        return self.parts.keep(folder, lambda: self.measured_base(folder, progress))

    def measured_base(self, folder: Path, progress: Progress) -> Part:
        """Return the base model's measurements, made now."""
        assert self.questions is not None
        measuring = part(progress, "base:", self.job.ends.scoring, self.job.ends.measuring)
        pieces = Pieces(self.parts.work(folder))
        found = study.measure_base(self.job.config, self.base, self.questions, pieces=pieces, progress=measuring)
        return Part("base", found)

    def rates(self, facts_of: str) -> Path:
        """Return where the rate that an arm's facts take is kept."""
        return self.folder / "rates" / facts_of

    def trial(self, facts_of: str) -> Trial:
        """Return the trial of an arm's rates. With remedies an arm takes the one that it takes without."""
        assert self.questions is not None
        # The arm of seed 0 is the very model of the best rate.
        keeps = 0 in self.seeds and facts_of in self.job.config.arms
        work = self.parts.work(self.rates(facts_of))
        return Trial(self.job.config, self.base, self.questions, self.halves.arms[facts_of], work, keeps=keeps)

    def choose(self, facts_of: str, progress: Progress) -> bool:
        """See to the learning rate of an arm's facts; return whether it is chosen."""
        folder = self.rates(facts_of)
        if self.parts.is_there(folder):
            return True
        trial = self.trial(facts_of)
        for number, rate in enumerate(trial.rates):
            begin, end = (place / len(trial.rates) for place in (number, number + 1))
            with self.parts.claim(folder / f"{rate:g}") as is_held:
                if is_held and rate not in trial.found() and not self.parts.is_there(folder):
                    trial.attempt(rate, part(progress, f"rate {rate:g}", begin, end))
                    self.parts.n_made += 1
        if len(trial.found()) < len(trial.rates):
            return self.parts.is_there(folder)

        def chosen() -> Part:
            choice = trial.choice()._asdict()
            if not choice["diverged"]:
                del choice["diverged"]
            return Part(facts_of, choice=choice, rates=trial.table(facts_of))

        return self.parts.keep(folder, chosen, leaves_work=trial.keeps)


@dataclass(eq=False)
class _Cell:
    """One run, arm by arm."""

    job: _Job
    group: _Group
    cell: Cell
    is_ours: bool = field(init=False, default=False)
    """Whether this process wrote it."""

    def __post_init__(self) -> None:
        self._before = self._stamp()

    def advance(self, progress: Progress) -> bool:
        """Make what nobody else is making of the run; return whether it is written."""
        if self.is_written():
            return True
        if not self.group.prepare(progress):
            return False
        there = [self.group.keep_base(progress)]
        config, ends = self.job.config, self.job.ends
        width = ((MEDIATING if config.mediation.pairs else 1.0) - ends.measuring) / len(config.arms)
        for number, arm in enumerate(config.arms):
            begin = ends.measuring + width * number
            there.append(self._arm(arm, part(progress, f"{arm}:", begin, begin + width)))
        return all(there) and self._finish(progress)

    def is_written(self) -> bool:
        """Return whether the run is there, and not only the one that is to be overwritten."""
        stamp, job = self._stamp(), self.job
        if stamp is None or (job.overwrite and stamp == self._before):
            return False
        return runs.is_done(job.path(self.cell), configs.to_json(job.config), job.facts_hash)

    def _stamp(self) -> tuple[int, int] | None:
        """Return what tells the run that is there from a later one; None: there is none."""
        report = self.job.path(self.cell) / "report.json"
        return (report.stat().st_mtime_ns, report.stat().st_ino) if report.exists() else None

    @property
    def _work(self) -> Path:
        return self.job.path(self.cell).with_name(f".seed_{self.cell.seed}.work")

    @property
    def _models(self) -> Path:
        """Where the arms' models are: kept beside the run, or until it is written."""
        return models_of(self.job.path(self.cell)) if self.job.keeps else self._work / "weights"

    def _arm(self, arm: str, progress: Progress) -> bool:
        facts_of = of_arm.facts_of(arm)
        if self.is_written() or not self.group.choose(facts_of, part(progress, "", 0.0, CHOOSING)):
            return False
        saves = self.job.keeps or arm in self.job.config.mediation.arms
        return self.group.parts.keep(
            self._work / arm,
            lambda: self._tuned(arm, facts_of, progress, saves=saves),
            is_over=self.is_written,
            is_whole=lambda: not saves or (self._models / arm).exists(),
        )

    def _tuned(self, arm: str, facts_of: str, progress: Progress, *, saves: bool) -> Part:
        """Return an arm finetuned and measured; that of seed 0 without remedies was finetuned when it was chosen."""
        group, seed, questions = self.group, self.cell.seed, self.group.questions
        assert questions is not None
        config = replace(self.job.config, finetune=of_arm.finetuning(self.job.config.finetune, arm))
        own, work = group.halves.arms[facts_of], group.parts.work(self._work / arm)
        choice = runs.read_run(group.rates(facts_of)).report["choice"]
        rate, finetuning = choice["learning_rate"], part(progress, "finetuning", CHOOSING, TUNING)
        kept = group.trial(facts_of).tuned(rate, finetuning) if seed == 0 and arm == facts_of else None
        if kept is None:
            options: dict[str, Any] = {"rate": rate, "seed": seed, "work": work, "progress": finetuning}
            kept = rates.Tuned(*study.tune(config, group.base, questions, own, **options), seconds=0.0)
        if saves:
            self._save(kept.model, arm, own)
        pieces, measuring = Pieces(work / "measured"), part(progress, "", TUNING, 1.0)
        measured = study.measure_arm(config, arm, kept.model, questions, own, pieces=pieces, progress=measuring)
        columns = {name: [record.get(name) for record in kept.trace] for name in kept.trace[-1]}
        return Part(arm, measured, choice, {"arm": arm} | columns, seconds=kept.seconds)

    def _save(self, tuned: LanguageModel, arm: str, own: Int[np.ndarray, " _"]) -> None:
        """Save an arm's model, with what it was finetuned on beside it: whole, or not at all."""
        group, folder = self.group, self._models / arm
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        earlier = taught.read(group.base.model.name)
        models.save(
            tuned,
            folder,
            beside=lambda path: taught.write(path, group.base.facts, group.halves.role, own, earlier=earlier),
        )

    def _finish(self, progress: Progress) -> bool:
        """Write the run of its parts, unless another process does; return whether it is written."""
        path, group = self.job.path(self.cell), self.group
        with group.parts.claim(path) as is_held:
            if not is_held:
                return False
            if self.is_written():
                return True
            folders = [group.folder / "base", *(self._work / arm for arm in self.job.config.arms)]
            self._write([runs.read_run(folder) for folder in folders], self._mediated(progress))
            self.is_ours = True
            group.parts.n_made += 1
            shutil.rmtree(self._work, ignore_errors=True)
            if not self.job.keeps:
                shutil.rmtree(models_of(path), ignore_errors=True)  # those of a run that was overwritten
            if self.cell.seed == 0:  # the best rate's weights have been taken
                for facts_of in map(of_arm.facts_of, self.job.config.arms):
                    group.parts.forget(group.rates(facts_of))
        return True

    def _mediated(self, progress: Progress) -> Mediated:
        """Return what moves between the arms of every pair."""
        made, pairs, questions = Mediated(), self.job.config.mediation.pairs, self.group.questions
        assert questions is not None
        for number, pair in enumerate(pairs):
            receiver, donor = pair.split(":")
            begin, end = (MEDIATING + (1 - MEDIATING) * place / len(pairs) for place in (number, number + 1))
            columns, outcomes = study.mediate(
                self.job.config,
                self.group.base,
                (self._models / receiver, self._models / donor),
                questions,
                pieces=Pieces(self.group.parts.work(self._work / "mediation") / pair),
                progress=part(progress, f"{receiver} given of {donor}:", begin, end),
            )
            made.tables.append({"receiver": receiver, "donor": donor, **columns})
            for name, outcome in outcomes.items():
                made.by_question.update({f"{pair}/{name}/{what}": array for what, array in vars(outcome).items()})
        return made

    def _write(self, kept: Sequence[Run], mediated: Mediated) -> None:
        job, group, questions = self.job, self.group, self.group.questions
        assert questions is not None
        by_arm = {one.report["arm"]: one for one in kept}
        choices = {arm: one.report["choice"] for arm, one in by_arm.items() if arm != "base"}
        chosen = [runs.read_run(group.rates(arm)) for arm in dict.fromkeys(map(of_arm.facts_of, job.config.arms))]
        diverged = [
            f"{one.report['arm']}: finetuning diverged at {', '.join(there)}, which counts as no right answer"
            for one in chosen
            if (there := one.report["choice"].get("diverged"))
        ]
        roles = {role: int((group.halves.role == code).sum()) for code, role in enumerate(ROLES)}
        report = {
            "flow": FLOW,
            "experiment": job.name,
            "seeds": self.cell._asdict(),
            "config": configs.to_json(job.config),
            "facts_hash": job.facts_hash,
            "metrics": {arm: one.report["metrics"] for arm, one in by_arm.items()},
            "choices": choices,
            "split": group.notes | roles,
            "notes": [*group.base.notes, *questions.notes, *diverged],
            "model": {"name": group.base.model.name, "revision": group.base.model.revision} | dict(group.parts.model),
            "seconds": {arm: one.report["seconds"] for arm, one in by_arm.items()},
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


def models_of(run: Path) -> Path:
    """Return where a run's models are kept, if they are: each arm's in a folder of its name."""
    return run.with_name(f"{run.name}.models")
