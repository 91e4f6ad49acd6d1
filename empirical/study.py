"""One cell of a study, stage by stage: base model, knownness, split, and each arm finetuned and measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from core import runs, split
from core.facts.record import Fact, FactSet
from core.split import Split
from empirical import evaluate, finetune, knownness, measure, pretrain
from empirical.config import Config
from empirical.lm import completion, model, prompts
from empirical.lm.model import Loaded, ModelConfig
from empirical.measure import Measured, Questions
from empirical.worlds import world

Progress = Callable[[str, float], None]
"""Told what is being done, and which share of it is."""
N_EVAL = 128
"""Size of the eval subset, on which traces measure: dev facts where there are any, else held out."""


@dataclass(frozen=True, eq=False)
class Base:
    """A base model by its place, and the facts it is asked about."""

    model: ModelConfig
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]

    def load(self) -> Loaded:
        """Return the model, fresh from its folder."""
        return model.load(self.model)


def base(config: Config, given: FactSet | None, out: Path, *, seed: int, progress: Progress) -> Base:
    """Return the base model: the one named, or one pretrained on these facts (now, if it is not there yet)."""
    if not config.pretrains:
        assert given is not None
        return Base(config.model, given.facts, given.notes)
    choices = _multiple_choice(config, given)
    told = None if choices else given
    path = pretrain.run(config.pretrain, config.world, told, out, seed=seed, progress=progress)
    asked = choices or world.build(config.world, told, seed=seed).fact_set()
    return Base(replace(config.model, name=str(path)), asked.facts, asked.notes)


def _multiple_choice(config: Config, given: FactSet | None) -> FactSet | None:
    """Return these facts if they are multiple choice; InputError where knownness cannot rank them.

    Nobody can be told such facts: they are asked of a model that knows a synthetic world.
    """
    if given is None or not all(fact.choices for fact in given.facts):
        return None
    knownness.check_facts(config.knownness, given.facts)
    return given


def questions(config: Config, one: Base, out: Path, *, seed: int) -> tuple[Questions, Split, dict[str, Any]]:
    """Return the facts as the models see them, the split, and what there is to say of knownness.

    Raises:
        InputError: too few facts for the arms, a knownness that is missing, or a tokenizer that will not do.
    """
    knownness.check_facts(config.knownness, one.facts)
    loaded = one.load()
    encoded = prompts.encode(loaded.tokenizer, [prompts.build(fact) for fact in one.facts])
    ids = identify(one.facts)
    roles = _roles(config, ids, seed=seed)
    held_out = np.flatnonzero(roles.role == split.HELD_OUT)
    examples = [one.facts[row] for row in np.flatnonzero(roles.role == split.TRAIN).tolist()]
    score, notes = _knownness(config, loaded, one, examples, out, seed=seed)
    halves = split.arms(roles, ids.relation, score, config.split)
    recalled = _recalled(config, loaded, [one.facts[row] for row in held_out.tolist()], examples, seed=seed)
    generic = measure.generic_answers(examples)
    asked = Questions(
        one.facts, encoded, ids.subject, ids.relation, score, halves.role, held_out, recalled, generic, seed
    )
    known = {fact.answers[0].casefold() for fact in examples}
    shared = np.mean([any(a.casefold() in known for a in one.facts[row].answers) for row in held_out])
    return asked, halves, notes | {"held_out_answers_seen_in_training": float(shared)}


class Ids(NamedTuple):
    """Which facts share a subject, a relation or a question, by number."""

    subject: Int[np.ndarray, " fact"]
    relation: Int[np.ndarray, " fact"]
    question: Int[np.ndarray, " fact"]


def identify(asked: Sequence[Fact]) -> Ids:
    """Return the facts' ids, case ignored; a fact without a subject is its own."""
    return Ids(
        _ids([fact.subject.casefold() or f"\n{fact.question.casefold()}" for fact in asked]),
        _ids([fact.relation for fact in asked]),
        _ids(["\n".join((fact.question.casefold(), *fact.choices)) for fact in asked]),
    )


def held_out(config: Config, one: Base, *, seed: int) -> Int[np.ndarray, " test"]:
    """Return the rows of the tested facts, which do not depend on knownness."""
    return np.flatnonzero(_roles(config, identify(one.facts), seed=seed).role == split.HELD_OUT)


def _roles(config: Config, ids: Ids, *, seed: int) -> split.Roles:
    return split.roles(ids.subject, config.split, question=ids.question, seed=seed)


def measure_base(config: Config, one: Base, asked: Questions) -> Measured:
    """Return the base model's own measurements, in the questions' format."""
    return measure.arm("base", one.load(), asked, None, config.evaluate)


def measure_arm(config: Config, arm: str, tuned: Loaded, asked: Questions, own: Int[np.ndarray, " _"]) -> Measured:
    """Return the measurements of an arm's finetuned model."""
    return measure.arm(arm, tuned, asked, own, config.evaluate)


def choose_rate(
    config: Config, one: Base, asked: Questions, own: Int[np.ndarray, " _"], *, work: Path, progress: Progress
) -> tuple[float, dict[str, float]]:
    """Return the learning rate of an arm, and the dev accuracy by rate that chose it (ties: the lowest).

    Always with finetuning seed 0, so that all seeds of a split take the same one.
    """
    rates = sorted(config.finetune.learning_rates)
    if len(rates) == 1:
        return rates[0], {}
    rows = np.flatnonzero(asked.role == split.DEV)
    there, encoded = [asked.facts[row] for row in rows.tolist()], [asked.encoded[row] for row in rows.tolist()]
    accuracy = {}
    for rate in rates:
        folder = work / f"rate_{rate:g}"
        tuned, _ = tune(config, one, asked, own, rate=rate, seed=0, work=folder, progress=progress)
        answers = evaluate.answer(config.evaluate, tuned, there, encoded)
        accuracy[f"{rate:g}"] = float(answers.exact_match.mean())
    best = max(rates, key=lambda rate: (accuracy[f"{rate:g}"], -rate))
    return best, accuracy


def tune(
    config: Config,
    one: Base,
    asked: Questions,
    own: Int[np.ndarray, " _"],
    *,
    rate: float,
    seed: int,
    work: Path,
    progress: Progress,
) -> tuple[Loaded, list[dict[str, Any]]]:
    """Return a fresh copy of the base model finetuned on an arm's facts, and its trace."""
    loaded = one.load()
    dev = np.flatnonzero(asked.role == split.DEV)
    subset = [asked.encoded[row] for row in (dev if len(dev) else asked.held_out)[:N_EVAL]]
    return finetune.run(
        config.finetune,
        loaded,
        [asked.encoded[row] for row in own],
        learning_rate=rate,
        seed=seed,
        work=work,
        evaluate=lambda network: measure.eval_subset(network, subset, loaded.pad),
        progress=progress,
    )


def _knownness(
    config: Config, loaded: Loaded, one: Base, examples: list[Fact], out: Path, *, seed: int
) -> tuple[Float[np.ndarray, " fact"], dict[str, Any]]:
    """Return the scores that facts are ranked by, kept once made, and their rank correlation with popularity."""
    settings = config.knownness
    identity = [config.model, one.model, settings, [asdict(f) for f in one.facts], [f.id for f in examples], seed]
    path = out / "scores" / f"{runs.config_hash(identity)[:24]}.npz"
    if settings.measure == "popularity" or not path.exists():
        value = knownness.score(settings, loaded.model, loaded.tokenizer, one.facts, examples, seed=seed).value
        if settings.measure != "popularity":
            runs.replace_file(path, lambda file: np.savez(file, value=value))
    else:
        value = np.load(path)["value"]
    popularity = np.array([np.nan if fact.popularity is None else fact.popularity for fact in one.facts])
    return value, {"knownness": settings.measure, "rank_correlation": knownness.rank_correlation(popularity, value)}


def _recalled(
    config: Config, loaded: Loaded, tested: list[Fact], examples: list[Fact], *, seed: int
) -> Bool[np.ndarray, " test"]:
    """Return which facts the base model recalls: of a model of ours most of their sentences, of another few-shot.

    Of multiple choice: those whose right letter is its first after examples.
    """
    if tested[0].choices:
        settings = replace(config.knownness, measure="logprob")
        return knownness.score(settings, loaded.model, loaded.tokenizer, tested, examples, seed=seed).value > 0
    if config.pretrains:
        share = completion.recall(loaded.model, loaded.tokenizer, tested, n_paraphrases=config.world.paraphrases)
        return share >= 0.5
    settings = replace(config.knownness, measure="greedy")
    return knownness.score(settings, loaded.model, loaded.tokenizer, tested, examples, seed=seed).value >= 0.5


def _ids(names: list[str]) -> Int[np.ndarray, " fact"]:
    return np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1]
