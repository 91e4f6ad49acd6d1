"""Learning rates that an arm tries: what each answers, which one is taken, and the best one's weights until then."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from core import split, writing
from core.columns import Columns
from core.errors import InputError
from empirical import evaluate, finetune, processes, study
from empirical.config import Config
from empirical.lm import model as models
from empirical.lm.model import LanguageModel
from empirical.measure import Questions
from empirical.pieces import Pieces
from empirical.progress import Progress, part
from empirical.study import Base


@dataclass(frozen=True, eq=False)
class Tried:
    """What the model of one rate answers, finetuned with seed 0; nothing where its training diverged."""

    dev: Bool[np.ndarray, " dev"]
    held_out: Bool[np.ndarray, " test"]
    """Empty where these were not asked."""
    is_diverged: bool

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what there is, by name, to be stored."""
        return {name: np.asarray(value) for name, value in vars(self).items()}


class Choice(NamedTuple):
    """The rate that an arm takes, and the dev accuracy by rate that chose it; none where there was no choice."""

    learning_rate: float
    dev_accuracy: dict[str, float]
    diverged: list[str]
    """Rates at which the training diverged, whose accuracy counts as 0."""


class Tuned(NamedTuple):
    """A finetuned model."""

    model: LanguageModel
    trace: list[dict[str, Any]]
    throughput: dict[str, Any]
    """What finetuning it reached."""
    seconds: float
    """What finetuning it took, if that was before."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One arm's rates, each finetuned with seed 0, so that all seeds of a split take the same one."""

    config: Config
    base: Base
    questions: Questions
    own: Int[np.ndarray, " _"]
    work: Path
    """Folder of checkpoints and results; its name holds all that they depend on."""
    keeps: bool = False
    """Whether the best rate's weights are kept, for whoever finetunes with seed 0 at that rate."""
    tests: bool = True
    """Whether the held-out questions are asked, too."""

    @property
    def rates(self) -> list[float]:
        """The rates that are tried, the lowest first; none where there is but one."""
        rates = sorted(self.config.finetune.learning_rates)
        return rates if len(rates) > 1 else []

    def found(self) -> dict[float, Tried]:
        """Return the rates that have been tried."""
        names = {rate: self.work / f"{_name(rate)}.npz" for rate in self.rates}
        return {rate: _tried(dict(np.load(path))) for rate, path in names.items() if path.exists()}

    def attempt(self, rate: float, progress: Progress) -> Tried:
        """Return what a rate answers, finetuned now unless it is kept."""
        made = _tried(Pieces(self.work).jointly(_name(rate), lambda: self._answers(rate, progress).arrays()))
        if self.keeps and processes.is_first():
            tried = self.found()
            for other in set(tried) - {_best(tried)}:
                self._weights(other).unlink(missing_ok=True)
        return made

    def all(self, progress: Progress) -> Choice:
        """Return the choice once every rate has been tried."""
        for number, rate in enumerate(self.rates):
            trying = part(progress, f"rate {rate:g}", number / len(self.rates), (number + 1) / len(self.rates))
            self.attempt(rate, trying)
        return self.choice()

    def choice(self) -> Choice:
        """Return the rate that answers most dev facts (ties: the lowest); all must have been tried.

        Raises:
            InputError: finetuning diverged at every rate.
        """
        if not self.rates:
            return Choice(self.config.finetune.learning_rates[0], {}, [])
        tried = self.found()
        diverged = [f"{rate:g}" for rate, one in tried.items() if one.is_diverged]
        if len(diverged) == len(tried):
            raise InputError(f"finetuning diverged at every rate: {', '.join(diverged)}.\n{finetune.LOWER}")
        return Choice(_best(tried), {f"{rate:g}": _accuracy(one) for rate, one in tried.items()}, diverged)

    def table(self, arm: str) -> list[Columns]:
        """Return the columns of `rates.parquet`, a table for each rate; none where there was no choice."""
        rows = self.questions.held_out
        return [
            {"arm": [arm] * len(rows), "learning_rate": rate, "fact": rows, "correct": one.held_out}
            for rate, one in self.found().items()
        ]

    def tuned(self, rate: float, progress: Progress) -> Tuned | None:
        """Return the model of a rate that was tried; None where its weights are not kept."""
        path = self._weights(rate)
        if not processes.agreed(path.exists()):
            return None
        kept = torch.load(path, map_location="cpu", weights_only=True)
        model = finetune.restored(self.config.finetune, self.base.bare(), kept["weights"])
        progress("", 1.0)
        return Tuned(model, kept["trace"], kept["throughput"], kept["seconds"])

    def _answers(self, rate: float, progress: Progress) -> Tried:
        questions = self.questions
        dev = np.flatnonzero(questions.role == split.DEV)
        held_out = questions.held_out if self.tests else dev[:0]
        try:
            model = self._finetuned(rate, progress)
        except finetune.DivergedError:
            return Tried(np.zeros(len(dev), dtype=bool), np.zeros(len(held_out), dtype=bool), is_diverged=True)

        def right(rows: Int[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
            facts, encoded = [questions.facts[row] for row in rows], [questions.encoded[row] for row in rows]
            return evaluate.answer(self.config.evaluate, measured, facts, encoded).exact_match

        with models.measuring(model) as measured:
            return Tried(right(dev), right(held_out) if len(held_out) else np.zeros(0, dtype=bool), is_diverged=False)

    def _finetuned(self, rate: float, progress: Progress) -> LanguageModel:
        """Return the model of a rate, and keep its weights, where they are wanted, before measuring changes them."""
        if self.keeps and (kept := self.tuned(rate, progress)) is not None:
            return kept.model
        options: dict[str, Any] = {"seed": 0, "work": self.work / f"rate_{rate:g}", "progress": progress}
        started = time.monotonic()
        model, trace = study.tune(self.config, self.base, self.questions, self.own, rate=rate, **options)
        if self.keeps and processes.is_first():
            state = {"weights": finetune.trained(model), "trace": trace, "throughput": reached(model)}
            state["seconds"] = time.monotonic() - started
            writing.replace_file(self._weights(rate), lambda file: torch.save(state, file))
        return model

    def _weights(self, rate: float) -> Path:
        return self.work / f"tuned_{rate:g}.pt"


def reached(model: LanguageModel) -> dict[str, Any]:
    """Return what a model's finetuning reached, as reports hold it; nothing where it was not finetuned just now."""
    return model.throughput.report() if model.throughput else {}


def _name(rate: float) -> str:
    return f"right_{rate:g}"


def _tried(arrays: Mapping[str, np.ndarray]) -> Tried:
    return Tried(arrays["dev"], arrays["held_out"], bool(arrays["is_diverged"]))


def _accuracy(tried: Tried) -> float:
    return float(tried.dev.mean())


def _best(tried: Mapping[float, Tried]) -> float:
    """Return the rate that answers most dev facts, of equals the lowest; of none that diverged."""
    return max(tried, key=lambda rate: (not tried[rate].is_diverged, _accuracy(tried[rate]), -rate))
