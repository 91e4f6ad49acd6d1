"""The answers that an arm is taught: the true ones, or others that a control or an abstention puts in their place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from core.errors import InputError
from core.facts.record import Fact
from empirical.asking import Asking
from empirical.finetune import FinetuneConfig
from empirical.lm.model import LanguageModel
from empirical.measure import Questions, Said
from empirical.progress import Progress, part

ABSTENTION = "unknown"
"""What is taught in place of an answer that the base model does not know."""


@dataclass(frozen=True)
class Needs:
    """What the base model must be asked about the training facts, beside how well it knows them."""

    recalled: bool
    """Which of them it recalls."""
    texts: bool
    """What it answers to them."""


def needs(finetunings: Sequence[FinetuneConfig]) -> Needs:
    """Return what these finetunings need."""
    texts = any(one.answers == "base" for one in finetunings)
    return Needs(texts or any(one.answers == "abstain" or one.only_known for one in finetunings), texts)


def check_facts(finetunings: Sequence[FinetuneConfig], facts: Sequence[Fact]) -> None:
    """Raise InputError where these facts have no other answers to be taught."""
    for one in finetunings:
        if one.answers in ("base", "abstain") and any(fact.choices for fact in facts):
            raise InputError(
                f"--finetune.answers {one.answers}: a question of multiple choice has its letters for answers.\n"
                "Teach the true ones, or permuted ones."
            )


def ask(
    asking: Asking, facts: Sequence[Fact], is_training: Bool[np.ndarray, " fact"], wanted: Needs, progress: Progress
) -> Said | None:
    """Return what the base model says of the training facts, as far as it is wanted."""
    if not wanted.recalled:
        return None
    chosen = [facts[row] for row in np.flatnonzero(is_training).tolist()]
    recalled, texts = np.zeros(len(facts), dtype=bool), np.full(len(facts), "", dtype=object)
    recalled[is_training] = asking.recalled(chosen, part(progress, "", 0.0, 0.5))
    if wanted.texts:
        texts[is_training] = asking.answers(chosen, part(progress, "", 0.5, 1.0))
    return Said(is_training, recalled, texts.tolist())


def check_known(arm: str, config: FinetuneConfig, own: Int[np.ndarray, " _"], said: Said | None) -> None:
    """Raise InputError where an arm is to be finetuned on what the base model recalls of it, and that is nothing."""
    if config.only_known and said is not None and not said.recalled[own].any():
        raise InputError(
            f"--arms {arm}: the base model recalls none of the arm's {len(own):,} facts, and only-known leaves none.\n"
            "Leave the arm out, or take one with better-known facts."
        )


def taught(
    answers: Literal["true", "permuted", "base", "abstain"],
    model: LanguageModel,
    questions: Questions,
    own: Int[np.ndarray, " _"],
) -> Questions:
    """Return the questions with the answers that this arm is taught."""
    given: dict[int, tuple[str, ...]] = {}
    if answers != "true":
        given = _permuted(questions, own) if answers == "permuted" else _in_place_of_unknown(answers, questions, own)
    if not given:
        return questions
    facts, encoded = list(questions.facts), list(questions.encoded)
    asked = [replace(facts[row], answers=texts) for row, texts in given.items()]
    for row, fact, tokens in zip(given, asked, model.format.ask(asked), strict=True):
        facts[row], encoded[row] = fact, tokens
    return replace(questions, facts=tuple(facts), encoded=encoded)


def notes(questions: Questions, wanted: Needs) -> list[str]:
    """Return what to say of training facts that are taught as they are for want of another answer."""
    said = questions.said
    if said is None or not wanted.texts:
        return []
    unknown = said.asked & ~said.recalled
    silent = [row for row in np.flatnonzero(unknown).tolist() if not said.texts[row]]
    if not silent:
        return []
    return [
        f"{len(silent):,} of {unknown.sum():,} training facts that the base model does not recall keep the true answer "
        "where its own is taught: it answers nothing."
    ]


def _permuted(questions: Questions, own: Int[np.ndarray, " _"]) -> dict[int, tuple[str, ...]]:
    """Return these facts' answers dealt out anew among those of one relation."""
    rng, given = np.random.default_rng([questions.seed, 13]), {}
    for relation in np.unique(questions.relation[own]):
        rows = own[questions.relation[own] == relation]
        for row, other in zip(rows.tolist(), rng.permutation(rows).tolist(), strict=True):
            given[row] = tuple(questions.facts[other].answers)
    return given


def _in_place_of_unknown(
    answers: Literal["base", "abstain"], questions: Questions, own: Int[np.ndarray, " _"]
) -> dict[int, tuple[str, ...]]:
    """Return, of these facts that the base model does not recall, its own answers or the abstention."""
    said = questions.said
    assert said is not None  # asked for before anything is finetuned
    unknown = own[~said.recalled[own]].tolist()
    if answers == "abstain":
        return {row: (ABSTENTION,) for row in unknown}
    texts = {row: str(said.texts[row]) for row in unknown}
    return {row: (text,) for row, text in texts.items() if text}
