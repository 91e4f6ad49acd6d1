"""A study's kept models measured anew, with the measures of today, and its runs rewritten without training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core import provenance, runs
from core.columns import Columns
from core.errors import InputError
from core.facts.record import FactSet
from core.runs import Run
from empirical import arm as of_arm
from empirical import config as configs
from empirical import facts, parts, study, taught
from empirical.cell import models_of
from empirical.config import Config
from empirical.lm import identity
from empirical.lm import model as models
from empirical.measure import Measured
from empirical.progress import Progress, part

CARRIED = ("trace", "rates", "mediation")
"""Tables of what training and interventions left, which are no measures of an arm's model."""


def check(found: Sequence[Run]) -> None:
    """Raise InputError where an arm's model is not kept, naming the remedy."""
    for run in found:
        kept = models_of(run.path)
        absent = [arm for arm in run.report["metrics"] if arm != "base" and not (kept / arm).is_dir()]
        if absent:
            raise InputError(
                f"{run.path}: the models of {', '.join(absent)} were not kept.\n"
                "Make the runs anew with --keep models --overwrite: the same models come out, and stay."
            )


def again(found: Sequence[Run], out: Path, progress: Progress) -> None:
    """Measure the base model and every kept model anew, and rewrite the runs, one after another.

    Args:
        progress: Called with what is being done, and how many of the runs are done (with a fraction).

    Raises:
        InputError: a model was not kept, or facts or base model are others than they were.
    """
    check(found)
    config = configs.from_json(found[0].report["config"])
    given = facts.load(config.facts)
    groups: dict[tuple[int, int], _Group] = {}
    for number, run in enumerate(found):
        seeds = run.report["seeds"]
        label = "/".join(str(seeds[kind]) for kind in ("pretrain", "split", "seed"))
        told = part(progress, label, number, number + 1)
        key = seeds["pretrain"], seeds["split"]
        if key not in groups:
            groups = {key: _Group(config, given, out, *key, run, part(told, "", 0.0, 0.3))}
        groups[key].measure(run, part(told, "", 0.3, 1.0))
        progress(label, number + 1.0)


class _Group:
    """The runs of one base model and split, which share its measurements."""

    def __init__(
        self, config: Config, given: FactSet | None, out: Path, pretrain: int, split: int, run: Run, progress: Progress
    ) -> None:
        self.config, self.facts_hash = config, facts.fingerprint(given)
        self.base = study.base(config, given, out, seed=pretrain, progress=part(progress, "pretraining", 0.0, 0.3))
        self._check(run)
        asked = study.questions(config, self.base, out, seed=split, progress=part(progress, "questions:", 0.3, 0.6))
        self.questions, self.halves = asked[:2]
        told = part(progress, "base:", 0.6, 1.0)
        self.measured = study.measure_base(config, self.base, self.questions, progress=told)
        shared = run.path.parent / ".shared" / "base"
        if shared.exists():  # it will be read for other finetuning seeds
            _rewrite(runs.read_run(shared), {"base": self.measured})

    def measure(self, run: Run, progress: Progress) -> None:
        """Measure the models of a run, and rewrite it."""
        self._check(run)
        arms = [arm for arm in run.report["metrics"] if arm != "base"]
        measured = {"base": self.measured}
        for number, arm in enumerate(arms):
            told = part(progress, f"{arm}:", number / len(arms), (number + 1) / len(arms))
            measured[arm] = self._measured(run, arm, told)
        _rewrite(run, measured)

    def _measured(self, run: Run, arm: str, progress: Progress) -> Measured:
        folder, own = models_of(run.path) / arm, self.halves.arms[of_arm.facts_of(arm)]
        record = taught.read(str(folder))
        if (
            record is None
            or not np.array_equal(record.rows_held_out(self.base.facts), self.questions.held_out)
            or not record.is_trained(self.base.facts)[own].all()
        ):
            raise InputError(
                f"{folder} was finetuned on other facts than the arm has now: the base model is asked otherwise.\n"
                "Make the runs anew: run with --overwrite."
            )
        config = replace(self.config, finetune=of_arm.finetuning(self.config.finetune, arm))
        tuned = models.load(replace(self.base.model, name=str(folder), revision=None))
        return study.measure_arm(config, arm, tuned, self.questions, own, progress=progress)

    def _check(self, run: Run) -> None:
        """Raise InputError where config, facts or base model of a run are others now."""
        stored = configs.to_json(self.config)
        runs.is_done(run.path, stored, self.facts_hash, identity.of(self.base.model))


def _rewrite(run: Run, measured: Mapping[str, Measured]) -> None:
    """Write a run, or the part of one that has the base alone, with these measurements in place of its own."""
    metrics = {arm: one.metrics for arm, one in measured.items()}
    is_part = "arm" in run.report
    report = run.report | {"metrics": metrics["base"] if is_part else metrics, "measured": provenance.environment()}
    tables: dict[str, list[Columns]] = {
        "facts": [one.facts for one in measured.values()],
        "attention": [one.attention for one in measured.values()],
    }
    tables |= {name: [parts.columns(run, name)] for name in CARRIED if (run.path / f"{name}.parquet").exists()}
    masses = {arm: one.by_question for arm, one in measured.items()}
    arrays = {"by_question": {"mass": masses["base"]}} if is_part else {"attention_by_question": masses}
    if (run.path / "mediation_by_question.npz").exists():
        arrays["mediation_by_question"] = run.arrays("mediation_by_question")
    runs.write_run(run.path, report, tables, arrays, overwrite=True)
