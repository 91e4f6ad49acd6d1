"""The single stages on one's own model and questions, a command each."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from rich.table import Table
from scipy import stats

from core import arms, config_json, split, statistics
from core.columns import ATTENTION, table
from core.console import OUTPUT, absolute, progress
from core.errors import InputError
from core.report_tables import print_notes
from empirical import attention, evaluate, exemplars, knownness, processes, room, study, taught
from empirical import config as configs
from empirical.arm import facts_of, finetuning
from empirical.lm import capture
from empirical.lm import model as models
from empirical.lm.cost import Meter
from empirical.measure import Questions
from empirical.on_model import OnModel, Result, Watched
from empirical.pieces import Pieces
from empirical.progress import Progress, counter, part
from empirical.rates import Trial


@dataclass(frozen=True)
class Score(OnModel):
    """Score how well a model knows each question's fact, and write scores.parquet."""

    def __call__(self) -> int:
        trained = self.trained()
        base_model = Watched(trained.model, trained.facts, trained.notes)
        place = self.result(base_model, "scores.parquet")
        with progress("scoring", len(base_model.facts)) as advance:
            scoring = part(absolute(advance), "", 0, len(base_model.facts))
            try:
                questions, halves, notes = study.questions(
                    self.config, base_model, self.out, seed=self.split_seed, progress=scoring
                )
            except split.TooFewError as error:
                if knownness.needs_examples(self.config.knownness, base_model.facts):
                    raise
                return self._unsplit(base_model, place, scoring, str(error).splitlines()[0])
        in_arm = {arm: np.isin(np.arange(len(base_model.facts)), rows) for arm, rows in halves.arms.items()}
        role = {"role": [split.ROLES[code] for code in halves.role]}
        columns = _columns(base_model, questions.knownness, questions.known_class)
        place.write(pa.table(columns | role | in_arm), base_model.reached)
        print_notes((*base_model.notes, *questions.notes), OUTPUT)
        print_recall(questions)
        OUTPUT.print(json.dumps(config_json.plain(notes)))
        OUTPUT.print(
            f"{len(questions.held_out):,} held-out questions: arms that answer as many as the model does now differ "
            f"visibly (80 % power) from {100 * notes['smallest_gap']:.1f} points on."
        )
        OUTPUT.print(f"{len(base_model.facts)} questions scored: {place.path}", soft_wrap=True)
        return 0

    def _unsplit(self, base_model: Watched, place: Result, scoring: Progress, reason: str) -> int:
        """Score facts that are too few to be split: they have neither role nor arms."""
        scored = study.score_unsplit(self.config, base_model, self.out, seed=self.split_seed, progress=scoring)
        n = len(base_model.facts)
        nothing = {"role": pa.nulls(n, pa.string())} | {
            arm: pa.nulls(n, pa.bool_()) for arm in (*self.config.split.names, *self.config.more_arms)
        }
        place.write(pa.table(_columns(base_model, scored.value, scored.known_class) | nothing), base_model.reached)
        print_notes((*base_model.notes, f"role and arms are left empty: {reason}"), OUTPUT)
        OUTPUT.print(f"{n} questions scored: {place.path}", soft_wrap=True)
        return 0


def _columns(
    base_model: study.Base, value: Float[np.ndarray, " fact"], known_class: Int[np.ndarray, " fact"] | None
) -> dict[str, Any]:
    """Return what scores.parquet says of each fact, but its role and arms; no class where facts were not sorted."""
    facts = base_model.facts
    classes = [None] * len(facts) if known_class is None else [arms.CLASSES[code] for code in known_class]
    return {
        "id": [fact.id for fact in facts],
        "question": [fact.question for fact in facts],
        "subject": [fact.subject for fact in facts],
        "relation": [fact.relation for fact in facts],
        "answer": [fact.answers[0] for fact in facts],
        "popularity": pa.array([fact.popularity for fact in facts], pa.float64()),
        "knownness": value,
        "percentile": stats.rankdata(value) / len(facts),
        "known_class": pa.array(classes, pa.string()),
    }


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
        room.check(config, base_model.model)
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
        # Shared out or not, it is the same training: one goes on from the other's checkpoint.
        apart = replace(config, finetune=replace(config.finetune, train=replace(config.finetune.train, shard=False)))
        work = self.work(base_model, self.arm, configs.to_json(apart), self.seed)
        n_rates = len(config.finetune.learning_rates)
        n_trainings = n_rates + 1 if n_rates > 1 else 1
        with progress(f"finetuning on {self.arm}", n_trainings) as advance:
            now = absolute(advance)
            choosing, tuning = part(now, "", 0, n_trainings - 1), part(now, "", n_trainings - 1, n_trainings)
            trial = Trial(config, base_model, questions, own, work, keeps=self.seed == 0, tests=False)
            rate, by_rate, _ = trial.all(choosing)
            kept = trial.tuned(rate, tuning) if self.seed == 0 else None
            tuned, trace = (
                kept[:2]
                if kept
                else study.tune(
                    config, base_model, questions, own, rate=rate, seed=self.seed, work=work, progress=tuning
                )
            )

        def record(folder: Path) -> None:
            taught.write(folder, base_model.facts, halves.role, own, earlier=earlier)
            if tuned.throughput:
                (folder / "throughput.json").write_text(json.dumps(tuned.throughput.report(), indent=2) + "\n")

        if processes.is_first():
            shutil.rmtree(path, ignore_errors=True)
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
        evaluate.check_facts(self.config.evaluate, chosen)
        if self.config.evaluate.shots and not base_model.examples:
            raise InputError("--evaluate.shots: the questions come without examples.\nLeave the flag.")
        shots = exemplars.choose(chosen, base_model.examples, self.config.evaluate.shots, seed=None)
        model = base_model.read()
        encoded = model.format.ask(chosen, new_tokens=self.config.evaluate.max_new_tokens)
        record = taught.read(base_model.model.name)
        is_trained = np.zeros(len(chosen), dtype=bool) if record is None else record.is_trained(chosen)
        print_notes(evaluate.unreachable(self.config.evaluate, model, chosen, encoded), OUTPUT)
        pieces = Pieces(self.work(base_model, "answers", configs.to_json(self.config), self.which))
        meter = Meter(model.network.device)
        meter.watch(model.network, model.pad)
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
            "answer_logprob_without_end": answers.text_logprob,
            "predicted_probability": answers.predicted_probability,
        }
        exact = f"exact match {answers.exact_match.mean():.3f}"
        if any(shots):
            right = evaluate.after_examples(self.config.evaluate, model, chosen, shots)
            columns["few_shot_correct"] = right
            exact += f" ({right.mean():.3f} after {len(shots[0])} examples)"
        place.write(pa.table(columns), meter.throughput("evaluation", len(chosen)))
        pieces.forget()
        error = statistics.calibration_error(answers.predicted_probability, answers.exact_match)
        told = f"{len(chosen)} questions, {exact}, calibration error {error:.3f}"
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
        grams = capture.weighing(model.network)
        with progress("measuring", len(chosen)) as advance:
            measuring = part(absolute(advance), "", 0, len(chosen))
            found = evaluate.each(
                self.config.evaluate,
                model,
                encoded,
                partial(attention.masses, model, grams=grams),
                done=counter(measuring, len(chosen)),
            )
        cluster = study.identify(chosen).subject
        columns = attention.table("model", found["mass"], found["value_mass"], encoded, cluster)
        if not columns:
            raise InputError("no held-out question names its subject, so there is no attention to measure.")
        written = table(columns, ATTENTION)
        place.write(written)
        print_attention(written)
        OUTPUT.print(f"{written.num_rows} rows (layer, head, position, span): {place.path}", soft_wrap=True)
        return 0


def print_attention(rows: pa.Table) -> None:
    """Print the means over layers and heads: of attention, and of it weighted by values where that was measured."""
    means = rows.group_by(["position", "span"], use_threads=False).aggregate(
        [("mean", "mean"), ("value_weighted", "mean")]
    )
    printed = Table("from", "to", "attention", "value-weighted", title="mean over layers and heads")
    for row in means.to_pylist():
        weighted = row["value_weighted_mean"]
        cells = f"{row['mean_mean']:.3f}", "–" if weighted is None else f"{weighted:.3f}"
        printed.add_row(row["position"], row["span"], *cells)
    OUTPUT.print(printed)
