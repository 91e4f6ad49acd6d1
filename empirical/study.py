"""One cell of a study, stage by stage: base model, knownness, split, and each arm finetuned and measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from peft import PeftModel

from core import shares, split, statistics
from core.columns import Columns
from core.errors import InputError
from core.facts.record import Fact, FactSet
from core.numbering import numbered
from core.shares import Outcome
from core.split import Split
from empirical import arm as of_arm
from empirical import evaluate, exemplars, finetune, knownness, labels, measure, mediation, pretrain, taught
from empirical.asking import Asking
from empirical.config import Config
from empirical.lm import identity, scores
from empirical.lm import model as models
from empirical.lm.model import LanguageModel, ModelConfig
from empirical.lm.remedies import Ranked
from empirical.measure import Measured, Questions
from empirical.mediation import Asked
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Progress, counter, part, silent
from empirical.worlds import world

N_EVAL = 128
"""Size of the eval subset, on which traces measure: dev facts where there are any, else held out."""


TIED = 0.05
"""Share of the halves' facts from which on it is told that chance parted them."""


@dataclass(frozen=True, eq=False)
class Base:
    """A base model by its place, and the facts it is asked about."""

    model: ModelConfig
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    examples: tuple[Fact, ...] = ()
    """What the source keeps for few-shot prompts; none: training facts are shown."""
    gets_adapter: bool = False
    """Whether finetuning puts an adapter on it: its own weights stay, so that it is loaded once for all arms."""

    def load(self) -> LanguageModel:
        """Return the model to finetune, fresh from its folder."""
        return models.load(self.model)

    def bare(self) -> LanguageModel:
        """Return the model to finetune or to measure. The one that last had an adapter on it is spent then."""
        if not self.gets_adapter or self.model.precision == "mixed":  # whose weights are measured in bfloat16
            return self.load()
        shared = _shared(self.model, str(identity.of(self.model)))
        if isinstance(shared.network, PeftModel):  # its own adapter must stay
            return self.load()
        return replace(shared, network=finetune.without_adapter(shared.network))

    def read(self) -> LanguageModel:
        """Return the model to measure, in the precision and the way in which finetuned ones are measured."""
        return models.read_only(self.bare())


@lru_cache(maxsize=1)
def _shared(model: ModelConfig, _: str) -> LanguageModel:
    """Return a base model whose weights nobody changes."""
    return models.load(model)


def base(config: Config, given: FactSet | None, out: Path, *, seed: int, progress: Progress) -> Base:
    """Return the base model: the one named, or one pretrained on these facts (now, if it is not there yet)."""
    gets_adapter = config.finetune.method == "lora"
    if not config.pretrains:
        assert given is not None
        return Base(models_config(config), given.facts, given.notes, given.examples, gets_adapter)
    choices = _multiple_choice(config, given)
    told_facts = None if choices else given
    path = pretrain.run(config.pretrain, config.world, told_facts, out, seed=seed, progress=progress)
    fact_set = choices or world.build(config.world, told_facts, seed=seed).fact_set()
    settings = replace(models_config(config), name=str(path))
    return Base(settings, fact_set.facts, fact_set.notes, fact_set.examples, gets_adapter)


def models_config(config: Config) -> ModelConfig:
    """Return which model is finetuned, its precision resolved for this machine."""
    trains_all = config.finetune.method == "full"
    return replace(config.model, precision=models.resolved(config.model.precision, trains_all=trains_all))


def _multiple_choice(config: Config, given: FactSet | None) -> FactSet | None:
    """Return these facts if they are multiple choice; InputError where knownness cannot rank them.

    Nobody can be told such facts: they are asked of a model that knows a synthetic world.
    """
    if given is None or not all(fact.choices for fact in given.facts):
        return None
    knownness.check_facts(config.knownness, given.facts)
    labels.check_facts(config.finetunings, given.facts)
    return given


def questions(
    config: Config, base_model: Base, out: Path, *, seed: int, progress: Progress = silent
) -> tuple[Questions, Split, dict[str, Any]]:
    """Return the facts as the models see them, the split, and what there is to say of knownness.

    Raises:
        InputError: too few facts for the arms, a knownness that is missing, or a tokenizer that will not do.
    """
    knownness.check_facts(config.knownness, base_model.facts)
    labels.check_facts(config.finetunings, base_model.facts)
    evaluate.check_facts(config.evaluate, base_model.facts)
    model = base_model.read()
    finetune.check_base(config.finetune, model)
    encoded = model.format.ask(base_model.facts, new_tokens=config.evaluate.max_new_tokens)
    ids = identify(base_model.facts)
    drawn = roles(config, ids, seed=seed)
    held_out = np.flatnonzero(drawn.role == split.HELD_OUT)
    examples = [base_model.facts[row] for row in np.flatnonzero(drawn.role == split.TRAIN).tolist()]
    scoring, recalling = part(progress, "scoring", 0.0, 0.7), part(progress, "what the base model recalls", 0.7, 0.8)
    shown = list(base_model.examples) or examples
    asking = Asking(config, model, base_model.model, shown, out, None if base_model.examples else seed)
    scored = asking.scores(config.knownness, base_model.facts, scoring)
    halves = split.arms(
        drawn,
        ids.relation,
        scored.value,
        config.split,
        more=config.more_arms,
        answer=numbered([scores.normalise(fact.answers[0]) for fact in base_model.facts]),
        known_class=scored.known_class,
    )
    tested = [base_model.facts[row] for row in held_out.tolist()]
    wanted = labels.needs(config.finetunings)
    questions = Questions(
        facts=base_model.facts,
        encoded=encoded,
        subject=ids.subject,
        relation=ids.relation,
        knownness=scored.value,
        known_class=scored.known_class,
        role=halves.role,
        held_out=held_out,
        base_correct=asking.recalled(tested, recalling),
        generic=measure.generic_answers(examples),
        seed=seed,
        n_half=len(halves.arms["top"]),
        shots=exemplars.choose(tested, asking.examples, config.evaluate.shots, seed=asking.seed),
        notes=(
            *_drawn_by_lot(config, halves, ids, scored.value),
            *evaluate.unreachable(config.evaluate, model, base_model.facts, encoded),
        ),
        said=labels.ask(
            asking, base_model.facts, drawn.role == split.TRAIN, wanted, part(progress, "labels", 0.8, 1.0)
        ),
    )
    questions = replace(questions, notes=(*questions.notes, *labels.notes(questions, wanted)))
    for arm in config.arms:
        named = of_arm.finetuning(config.finetune, arm)
        labels.check_known(arm, named, halves.arms[of_arm.facts_of(arm)], questions.said)
    known = {fact.answers[0].casefold() for fact in examples}
    shared = np.mean([any(answer.casefold() in known for answer in fact.answers) for fact in tested])
    popularity = np.array([np.nan if fact.popularity is None else fact.popularity for fact in base_model.facts])
    notes = {
        "knownness": config.knownness.measure,
        "rank_correlation": knownness.rank_correlation(popularity, scored.value),
        "held_out_answers_seen_in_training": float(shared),
        "smallest_gap": statistics.smallest_gap(len(held_out), float(questions.base_correct.mean())),
    }
    return questions, halves, notes


def score_unsplit(
    config: Config, base_model: Base, out: Path, *, seed: int, progress: Progress = silent
) -> knownness.Scores:
    """Return how well each fact is known by a measure that needs no examples, and so no split."""
    knownness.check_facts(config.knownness, base_model.facts)
    asking = Asking(
        config,
        base_model.read(),
        base_model.model,
        list(base_model.examples),
        out,
        None if base_model.examples else seed,
    )
    return asking.scores(config.knownness, base_model.facts, progress)


def _drawn_by_lot(config: Config, halves: Split, ids: "Ids", value: Float[np.ndarray, " fact"]) -> list[str]:
    """Return what to say of facts that equal knownness leaves to chance; InputError where halves are nothing else."""
    tied = len(split.tied(halves, ids.relation, value, config.split))
    n = len(halves.arms["top"]) + len(halves.arms["bottom"])
    if tied == n and {"top", "bottom"} & set(map(of_arm.facts_of, config.arms)):
        raise InputError(
            f"all training facts are equally known by --knownness.measure {config.knownness.measure}: the top and the "
            "bottom half would be drawn by lot.\nRank them by something that differs: --knownness.measure logprob."
        )
    told = f"{tied:,} of {n:,} training facts are as well known as facts of the other half: chance parted them"
    return [told] if tied > TIED * n else []


class Ids(NamedTuple):
    """Which facts share a subject, a relation or a question, by number."""

    subject: Int[np.ndarray, " fact"]
    relation: Int[np.ndarray, " fact"]
    question: Int[np.ndarray, " fact"]
    keys: list[str]
    """What tells subjects apart."""


def identify(facts: Sequence[Fact]) -> Ids:
    """Return the facts' ids, case ignored; a fact without a subject is its own."""
    keys = [fact.subject.casefold() or f"\n{fact.question.casefold()}" for fact in facts]
    return Ids(
        numbered(keys),
        numbered([fact.relation for fact in facts]),
        numbered([taught.key(fact.question, fact.choices) for fact in facts]),
        keys,
    )


def held_out(config: Config, base_model: Base, *, seed: int) -> Int[np.ndarray, " test"]:
    """Return the rows of the tested facts, which do not depend on knownness."""
    return np.flatnonzero(roles(config, identify(base_model.facts), seed=seed).role == split.HELD_OUT)


def roles(config: Config, ids: Ids, *, seed: int) -> split.Roles:
    """Return which facts are trained on, dev or held out; InputError where there are too few."""
    return split.roles(ids.subject, ids.relation, config.split, question=ids.question, keys=ids.keys, seed=seed)


def measure_base(
    config: Config, base_model: Base, questions: Questions, *, pieces: Pieces = UNKEPT, progress: Progress = silent
) -> Measured:
    """Return the base model's own measurements, in the questions' format."""
    return measure.arm("base", base_model.read(), questions, None, config.evaluate, pieces=pieces, progress=progress)


def measure_arm(
    config: Config,
    arm: str,
    tuned: LanguageModel,
    questions: Questions,
    own: Int[np.ndarray, " _"],
    *,
    pieces: Pieces = UNKEPT,
    progress: Progress = silent,
) -> Measured:
    """Return the measurements of an arm's finetuned model."""
    with models.measuring(tuned) as model:
        found = measure.arm(arm, model, questions, own, config.evaluate, pieces=pieces, progress=progress)
    if config.finetune.answers != "abstain":
        return found
    return replace(found, metrics=found.metrics | measure.abstention(found.facts, labels.ABSTENTION))


def mediate(
    config: Config,
    base_model: Base,
    folders: Sequence[Path],
    questions: Questions,
    *,
    pieces: Pieces = UNKEPT,
    progress: Progress = silent,
) -> tuple[Columns, dict[str, Outcome]]:
    """Return what of the gap between two finetuned models moves with what the first is given, and all outcomes.

    Args:
        folders: Where receiver and donor were saved.
    """
    _shared.cache_clear()  # there are two models now
    settings = (replace(base_model.model, name=str(folder), revision=None) for folder in folders)
    receiver, donor = (models.merged(models.measured(models.load(one))) for one in settings)
    tried = mediation.interventions(config.mediation, receiver)
    asked = Asked(config.evaluate, [questions.encoded[row] for row in questions.held_out.tolist()])
    count = counter(progress, (len(tried) + 2) * len(asked.encoded))
    found = mediation.outcomes(receiver, donor, tried, asked, pieces=pieces, told=lambda name, n: count(n))
    return shares.table(found, questions.subject[questions.held_out], seed=0), found


def tune(
    config: Config,
    base_model: Base,
    questions: Questions,
    own: Int[np.ndarray, " _"],
    *,
    rate: float,
    seed: int,
    work: Path,
    progress: Progress,
) -> tuple[LanguageModel, list[dict[str, Any]]]:
    """Return a fresh copy of the base model finetuned on an arm's facts, and its trace."""
    model = base_model.bare()
    questions = labels.taught(config.finetune.answers, model, questions, own)
    dev = np.flatnonzero(questions.role == split.DEV)
    subset = [questions.encoded[row] for row in (dev if len(dev) else questions.held_out)[:N_EVAL]]
    return finetune.run(
        config.finetune,
        model,
        [questions.encoded[row] for row in own],
        learning_rate=rate,
        seed=seed,
        work=work,
        evaluate=lambda network: measure.eval_subset(network, subset, model.pad, tokens=config.evaluate.batch_tokens),
        ranked=_ranked(questions, own),
        n_half=questions.n_half,
        progress=progress,
    )


def _ranked(questions: Questions, own: Int[np.ndarray, " _"]) -> Ranked:
    """Return what remedies read: the arm's facts by knownness, the best known of all training facts, the dev facts."""
    by_knownness = np.argsort(-questions.knownness, kind="stable")
    training = by_knownness[questions.role[by_knownness] == split.TRAIN]
    rows = (
        by_knownness[np.isin(by_knownness, own)],
        training[: max(1, len(training) // 10)],
        np.flatnonzero(questions.role == split.DEV),
    )
    ranked, known, dev = ([questions.encoded[row] for row in chosen.tolist()] for chosen in rows)
    recalled = [] if questions.said is None else rows[0][questions.said.recalled[rows[0]]].tolist()
    return Ranked(ranked, known, dev, questions.knownness[rows[0]], [questions.encoded[row] for row in recalled])
