"""Questions answered: generated text against the accepted answers, letters for multiple choice, swapped subjects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from core.errors import InputError
from core.facts.record import LETTERS, Fact
from empirical.lm import generate, multiple_choice, prompts, scores
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Done, Progress, counter, silent, uncounted

CHANCE = 0.02
"""Share of questions that a model must answer for a study of what it forgets to say anything."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How questions are answered."""

    max_new_tokens: int = 16
    """Number of tokens after which an answer is cut."""
    batch_size: int = 64
    """Number of questions answered at once; the answers do not depend on it."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers and their scores, one entry for each question."""

    predicted: list[str]
    exact_match: Bool[np.ndarray, " question"]
    """After SQuAD's normalisation, against any accepted answer; of multiple choice the letter."""
    substring_match: list[bool | None]
    """PopQA's rule; None for multiple choice."""
    token_f1: list[float | None]
    """The best over accepted answers; None for multiple choice."""
    logprob: Float[np.ndarray, " question"]
    """Sum of log p over the tokens of the first accepted answer and the end."""


def check(config: EvaluateConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    if config.max_new_tokens < 1 or config.batch_size < 1:
        raise InputError("--evaluate.max-new-tokens and --evaluate.batch-size must be at least 1.")


def answer(
    config: EvaluateConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    encoded: Sequence[Encoded],
    *,
    pieces: Pieces = UNKEPT,
    progress: Progress = silent,
) -> Answers:
    """Return the model's greedy answers and their scores; of multiple choice the most likely letter."""
    done = counter(progress, 2 * len(facts))
    found = partial(done, len(facts))
    predicted = pieces.texts("predicted", lambda: predict(config, model, facts, encoded, done=done), found=found)
    asked = [question.prompt for question in encoded], [question.completion for question in encoded]
    options: dict[str, Any] = {"pad": model.pad, "batch_size": config.batch_size, "done": done}
    logprob = pieces.array("logprob", lambda: generate.answer_logprob(model.network, *asked, **options), found=found)
    pairs = list(zip(predicted, facts, strict=True))
    return Answers(
        predicted,
        np.array(
            [text in fact.answers if fact.choices else scores.exact_match(text, fact.answers) for text, fact in pairs]
        ),
        [None if fact.choices else scores.substring_match(text, fact.answers) for text, fact in pairs],
        [None if fact.choices else scores.token_f1(text, fact.answers) for text, fact in pairs],
        logprob,
    )


def guessing(name: str, right: float, n: int, *, is_choice: bool) -> str | None:
    """Return what to say, before anything is finetuned, of a model that knows next to nothing of its questions.

    Args:
        right: The share that it answers of `n` questions.
        is_choice: Multiple choice of four: chance is a quarter, and two standard errors.
    """
    if right >= (0.25 + 2 * (0.25 * 0.75 / n) ** 0.5 if is_choice else CHANCE):
        return None
    return f"{name} answers {right:.1%} of {n:,} such questions, as guessing would: there is nothing to lose."


def predict(
    config: EvaluateConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    encoded: Sequence[Encoded],
    *,
    done: Done = uncounted,
) -> list[str]:
    """Return the answers as text; `done` counts questions."""
    if not facts:
        return []
    starts = [question.prompt for question in encoded]
    options: dict[str, Any] = {"pad": model.pad, "batch_size": config.batch_size, "done": done}
    if all(fact.choices for fact in facts):
        following = multiple_choice.tokens(model.format)
        chosen = multiple_choice.choose(model.network, starts, following, **options)
        return [LETTERS[i] for i in chosen.argmax(1)]
    options["max_new_tokens"] = config.max_new_tokens
    return generate.decode(model.tokenizer, generate.greedy(model.network, starts, stop=model.format.stop, **options))


def swapped(facts: Sequence[Fact], *, seed: int) -> list[Fact | None]:
    """Return each question with its subject swapped for another of the same relation; None where there is no other."""
    rng = np.random.default_rng([seed, 9])
    of_relation: dict[str, dict[str, str]] = {}
    for fact in facts:
        if fact.subject:
            of_relation.setdefault(fact.relation, {}).setdefault(fact.subject.casefold(), fact.subject)
    return [_swap(fact, of_relation.get(fact.relation, {}), rng) for fact in facts]


def _swap(fact: Fact, subjects: Mapping[str, str], rng: np.random.Generator) -> Fact | None:
    """Return the question about another of these subjects, which are told apart by their keys: case ignored."""
    place = prompts.find_subject(fact)
    others = [name for key, name in subjects.items() if key != fact.subject.casefold()]
    if place is None or not others:
        return None
    name = others[rng.integers(len(others))]
    return replace(fact, subject=name, question=fact.question[: place[0]] + name + fact.question[place[1] :])
