"""The steps of a study of a published model: how many facts go through each, and what one fact costs there."""

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core import arms as other_arms
from core import config_json, runs, split
from core.facts.record import Fact
from core.numbering import numbered
from core.seeds import Cell
from empirical import config as configs
from empirical import evaluate, exemplars, finetune, knownness, labels, measure, study
from empirical.arm import facts_of, finetuning
from empirical.config import Config
from empirical.finetune import FinetuneConfig
from empirical.lm import cost, order, shape
from empirical.lm.cost import Meter, Operations
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.measure import Questions
from empirical.study import Base

N_ASKED = 200
"""Facts, at most, from which the base model's recall is estimated before anything is known."""
N_TIMED = 64
"""Facts, at most, on which measuring is timed."""
N_RELATIONS = 8
"""Relations, at most, of the facts in a sample: those of one share their examples, which are read once."""
N_STEPS = 4
"""Finetuning steps that are timed; the first is left out."""
STEPS = ("scoring", "rates", "finetuning", "measuring")
"""In their order; within them facts are scored, recalled, tuned, traced, measured or answered."""


@dataclass(frozen=True)
class Sizes:
    """How many facts a study has of each kind, and how much of everything it does."""

    n_facts: int
    n_training: int
    n_dev: int
    n_held_out: int
    arms: dict[str, int]
    """Facts of each arm (of arms that depend on the model's answers: about so many); 0 where only the model knows."""
    n_splits: int
    n_runs: int
    n_first: int = 0
    """Runs of finetuning seed 0, whose arms without remedies take the weights of the best rate."""
    is_choice: bool = False

    def n_trainings(self, config: Config) -> int:
        """Return the number of finetunings."""
        n_tried = len(self.chosen) * self.n_splits * _n_rates(config)
        return n_tried + len(self.arms) * self.n_runs - len(self._taken(config)) * self.n_first

    def _taken(self, config: Config) -> list[str]:
        """Return the arms that seed 0 does not finetune again."""
        return [arm for arm in self.arms if facts_of(arm) == arm] if _n_rates(config) else []

    def _n_read(self, config: Config, arm: str, n: int) -> int:
        """Return how many facts a finetuning of an arm of n facts reads in all its steps."""
        settings = finetune.training(finetuning(config.finetune, arm), self.n_training // 2)
        epochs, rest = divmod(order.n_steps(settings, n), max(1, math.ceil(n / settings.batch_size)))
        return epochs * n + min(n, rest * settings.batch_size)

    @property
    def chosen(self) -> dict[str, int]:
        """The arms without remedies, for which rates are tried, and their facts."""
        return {facts_of(arm): n for arm, n in self.arms.items()}

    def facts(self, config: Config) -> dict[str, dict[str, int]]:
        """Return by step how many facts go through each kind of work, over the whole study and all its steps."""
        n_rates = _n_rates(config)
        n_traced = (config.finetune.train.n_records + 1) * min(study.N_EVAL, self.n_dev or self.n_held_out)
        tuned = {arm: self._n_read(config, arm, n) for arm, n in self.arms.items()}
        plain = {arm: self._n_read(config, arm, n) for arm, n in self.chosen.items()}
        n_again = sum(plain[arm] for arm in self._taken(config)) * self.n_first
        in_arms, wanted = sum(self.arms.values()), labels.needs(config.finetunings)
        n_recalled = self.n_held_out + self.n_training * (wanted.recalled + wanted.texts)
        n_tried, n_tuned = len(self.chosen) * self.n_splits * n_rates, len(self.arms) * self.n_runs
        return {
            "scoring": {"score": self.n_splits * self.n_facts, "recall": self.n_splits * n_recalled},
            "rates": {
                "tune": sum(plain.values()) * self.n_splits * n_rates,
                "trace": n_tried * n_traced,
                "answer": n_tried * (self.n_dev + self.n_held_out),
            },
            "finetuning": {
                "tune": sum(tuned.values()) * self.n_runs - n_again,
                "trace": (n_tuned - len(self._taken(config)) * self.n_first) * n_traced,
            },
            "measuring": {
                "measure": self.n_held_out * (self.n_splits + n_tuned),
                "answer": in_arms * self.n_runs,
            },
        }


def _n_rates(config: Config) -> int:
    """Return how many finetunings choose an arm's rate."""
    n_rates = len(config.finetune.learning_rates)
    return n_rates if n_rates > 1 else 0


@dataclass(frozen=True)
class Unit:
    """What one fact costs in one kind of work."""

    tokens: float
    flops: float
    seconds: float | None
    """None where nothing was timed."""


@dataclass(frozen=True)
class Costs:
    """What each kind of work costs for one fact, from a sample of the study's own."""

    units: dict[str, Unit]
    recalled: float | None
    """Share of the sample that the base model answers after examples; None: it was not there to be asked."""
    n_asked: int

    @property
    def is_timed(self) -> bool:
        """Whether there are seconds."""
        return all(unit.seconds is not None for unit in self.units.values())

    def total(self, facts: Mapping[str, int], what: str) -> float:
        """Return tokens, flops or seconds of so many facts by kind of work."""
        return sum(n * (getattr(self.units[kind], what) or 0.0) for kind, n in facts.items())


def sizes_of(config: Config, base: Base, wanted: Sequence[Cell]) -> Sizes:
    """Return how much there is of everything; InputError where there are too few facts for the arms."""
    ids, seed = study.identify(base.facts), wanted[0].split
    roles = study.roles(config, ids, seed=seed)
    more = tuple(arm for arm in config.more_arms if arm not in other_arms.CLASSES)
    answers = numbered([fact.answers[0].casefold() for fact in base.facts])
    drawn = np.random.default_rng(0).random(len(base.facts))  # stands in for what the model would say of each
    halves = split.arms(roles, ids.relation, drawn, config.split, more=more, answer=answers)
    counts = np.bincount(roles.role, minlength=len(split.ROLES)).tolist()
    return Sizes(
        n_facts=len(base.facts),
        n_training=counts[split.TRAIN],
        n_dev=counts[split.DEV],
        n_held_out=counts[split.HELD_OUT],
        arms={arm: len(halves.arms.get(facts_of(arm), ())) for arm in config.arms},
        n_splits=len({cell.split for cell in wanted}),
        n_runs=len(wanted),
        n_first=sum(cell.seed == 0 for cell in wanted),
        is_choice=evaluate.are_choices(base.facts),
    )


def done(config: Config, facts_hash: str | None, folder: Path, wanted: Sequence[Cell]) -> dict[str, float]:
    """Return which share of each step's work is finished, 0 to 1.

    Args:
        folder: The study's, which holds its runs.
    """
    stored = config_json.plain(configs.to_json(config))

    def is_there(path: Path) -> bool:
        try:
            report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return report.get("config") == stored and report.get("facts_hash") == facts_hash

    def has_arm(cell: Cell, arm: str) -> bool:
        run = runs.directory(folder.parent.parent, folder.parent.name, folder.name, cell)
        return is_there(run) or is_there(run.parent / f".seed_{cell.seed}.work" / arm)

    def shared(cell: Cell, *names: str) -> bool:
        run = runs.directory(folder.parent.parent, folder.parent.name, folder.name, cell)
        return is_there(run.parent.joinpath(".shared", *names))

    splits = list({cell.split: cell for cell in wanted}.values())
    tried = [(cell, arm) for cell in splits for arm in dict.fromkeys(map(facts_of, config.arms))]
    tuned = [(cell, arm) for cell in wanted for arm in config.arms]
    n_tuned = sum(has_arm(cell, arm) for cell, arm in tuned)
    n_measured = n_tuned + sum(shared(cell, "base") for cell in splits)
    return {
        "scoring": sum(shared(cell, "base") for cell in splits) / len(splits),
        "rates": sum(shared(cell, "rates", arm) for cell, arm in tried) / len(tried),
        "finetuning": n_tuned / len(tuned),
        "measuring": n_measured / (len(tuned) + len(splits)),
    }


def stand_in(base: Base, network: Any, tokenizer: Any) -> LanguageModel:
    """Return a model of a few weights that reads with a tokenizer as a large one does: what it reads can be counted."""
    n_positions = shape.positions(network) or 1 << 20
    ids = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    sizes: dict[str, Any] = dict(zip(("pad_token_id", "bos_token_id", "eos_token_id"), ids, strict=True))
    sizes |= {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = LlamaForCausalLM(
            LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=n_positions, **sizes)
        ).eval()
    return LanguageModel(made, tokenizer, base.model.name, is_chat=base.model.chat)


def costs(
    config: Config, base: Base, model: LanguageModel, reads: Operations, trains: Operations, *, is_timed: bool
) -> Costs:
    """Return what each kind of work costs, by passing a sample of the facts through the study's own code.

    Args:
        model: The base model as it is measured, or its stand-in.
        reads: The base model's operations in reading.
        trains: Its operations in training.
        is_timed: Whether it is the base model, so that times and answers mean something.
    """
    pool = _sample(base, study.roles(config, study.identify(base.facts), seed=0).role)
    shown, seed = (list(base.examples), None) if base.examples else (pool, 0)
    asked, own = pool[:N_ASKED], pool[:N_TIMED]
    encoded = model.format.ask(own, new_tokens=config.evaluate.max_new_tokens)
    is_choice, said = bool(own[0].choices), {}
    greedy = replace(config.knownness, measure="logprob" if is_choice else "greedy", classes=False)

    def recall() -> None:
        said["value"] = knownness.score(greedy, model, asked, shown, seed=seed).value

    def trace() -> None:
        measure.eval_subset(model.network, encoded, model.pad, tokens=config.evaluate.batch_tokens)

    shots = exemplars.choose(own, shown, config.evaluate.shots, seed=seed)
    tested = replace(_questions(own, encoded), shots=shots)
    meter = Meter(model.network.device)
    meter.watch(model.network, model.pad)

    def unit(work: Callable[[], object], n: int) -> Unit:
        before, started = meter.seen, time.monotonic()
        work()
        seconds, spent = time.monotonic() - started, meter.seen - before
        return Unit(spent.n_tokens / n, reads.forward(spent) / n, seconds / n if is_timed else None)

    units = {
        "score": unit(lambda: knownness.score(config.knownness, model, own, shown, seed=seed), len(own)),
        "recall": unit(recall, len(asked)),
        "trace": unit(trace, len(own)),
        "measure": unit(lambda: measure.arm("base", model, tested, None, config.evaluate), len(own)),
        "answer": unit(lambda: evaluate.answer(config.evaluate, model, own, encoded), len(own)),
    }
    trained = model.format.ask(pool[: max(N_TIMED, N_STEPS * config.finetune.train.batch_size)])
    work, n = cost.of_training(trained), len(trained)
    seconds = _finetuning(config, base, trained) if is_timed else None
    units["tune"] = Unit(work.n_tokens / n, trains.training(work) / n, seconds)
    right = said["value"] > 0 if is_choice else said["value"] >= 0.5
    return Costs(units, float(right.mean()) if is_timed else None, len(asked))


def _sample(base: Base, role: np.ndarray) -> list[Fact]:
    """Return training facts in random order, those of the first few relations in front."""
    rows = np.random.default_rng(0).permutation(len(base.facts))
    pool = [base.facts[row] for row in rows if role[row] == split.TRAIN]
    first = list(dict.fromkeys(fact.relation for fact in pool))[:N_RELATIONS]
    return sorted(pool, key=lambda fact: fact.relation not in first)


def _questions(facts: Sequence[Fact], encoded: Sequence[Encoded]) -> Questions:
    """Return these facts as if they were a study's held-out ones."""
    rows, none = np.arange(len(facts)), np.zeros(len(facts))
    role = np.full(len(facts), split.HELD_OUT, dtype=np.int8)
    ids = study.identify(facts)
    return Questions(facts, encoded, ids.subject, ids.relation, none, role, rows, none.astype(bool), {}, 0)


def _finetuning(config: Config, base: Base, encoded: Sequence[Encoded]) -> float:
    """Return the seconds of a finetuning step by the number of its facts."""
    settings = config.finetune.train
    own = encoded[: N_STEPS * settings.batch_size]
    quick = replace(
        settings, epochs=1, steps=None, n_records=1, batch_size=min(settings.batch_size, -(-len(own) // N_STEPS))
    )
    given = config.finetune
    plain = FinetuneConfig(method=given.method, learning_rates=given.learning_rates, lora=given.lora, train=quick)
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        finetune.run(
            plain,
            base.load(),
            own,
            learning_rate=min(config.finetune.learning_rates),
            seed=0,
            work=Path(work),
            evaluate=lambda network: {},
            progress=lambda doing, share: ends.append(time.monotonic()),
        )
    return median(np.diff(ends)) * order.n_steps(quick, len(own)) / len(own)
