"""What all finetuning seeds of one base model and split share: model, knownness, split, base measurements, rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from core import runs
from core.console import ERRORS
from core.facts.record import FactSet
from core.seeds import Cell
from core.split import Split
from empirical import config as configs
from empirical import evaluate, parts, study
from empirical.config import Config
from empirical.lm import identity
from empirical.measure import Questions
from empirical.parts import Part, Parts
from empirical.pieces import Pieces
from empirical.progress import Progress, part
from empirical.rates import Trial
from empirical.study import Base

FLOW = "empirical"
Stamp = tuple[int, int]
"""When a run was written, and what tells it from another of that moment."""


class Ends(NamedTuple):
    """Shares of a run's time, roughly, by which the base model is there, its facts are scored, and it is measured."""

    pretraining: float
    scoring: float
    measuring: float


OWN, NAMED = Ends(0.3, 0.33, 0.35), Ends(0.0, 0.15, 0.2)
"""Of a model that the study pretrains, and of one that is there."""


@dataclass(frozen=True, eq=False)
class Job:
    """What all runs share."""

    config: Config
    given: FactSet | None
    facts_hash: str | None
    name: str
    out: Path
    overwrite: bool
    keeps: bool
    replaced: Mapping[Cell, Stamp] = field(default_factory=dict)
    """When those runs were written that were there before and are to be overwritten."""

    @property
    def ends(self) -> Ends:
        return OWN if self.config.pretrains else NAMED

    def path(self, cell: Cell) -> Path:
        return runs.directory(self.out, FLOW, self.name, cell)


@dataclass(eq=False)
class Shared:
    """What all finetuning seeds of one base model and split share, once it is prepared."""

    job: Job
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
