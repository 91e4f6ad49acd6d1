"""Questions answered: generated text against the accepted answers, letters for multiple choice, swapped subjects."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from core.config_json import setting
from core.errors import InputError
from core.facts.record import LETTERS, Fact
from empirical.lm import batch, generate, multiple_choice, prompts, reading, scores
from empirical.lm.batch import QuestionBatch
from empirical.lm.model import LanguageModel
from empirical.lm.prompts import Encoded
from empirical.lm.reading import Reading
from empirical.pieces import UNKEPT, Pieces
from empirical.progress import Done, Progress, counter, silent, uncounted

RULES = ("strict_match", "squad_match", "substring_match", "token_f1")
"""Rules by which answers are scored beside the exact match, those of `scores` by name; none fits multiple choice."""
CHANCE = 0.02
"""Share of questions that a model must answer for a study of what it forgets to say anything."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How questions are answered."""

    max_new_tokens: int = 16
    """Number of tokens after which an answer is cut."""
    batch_size: int = 64
    """Number of questions answered at once; the answers depend on it by rounding alone, which in bfloat16 decides near
    ties."""
    batch_tokens: int | None = setting(None, is_later=True)
    """Number of tokens read at once, padding included: fewer questions are answered at once where they are long. Not
    given: 16,384, or fewer where the free memory holds fewer."""
    shots: int = setting(0, is_later=True)
    """Multiple choice alone: number of answered questions before each, when all are asked a second time; 0: they are
    not. MMLU's five are of its part dev."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers and their scores, one entry for each question."""

    predicted: list[str]
    exact_match: Bool[np.ndarray, " question"]
    """After normalisation (`scores.normalise`), against any accepted answer; of multiple choice the letter."""
    strict_match: list[bool | None]
    """To the letter; None for multiple choice, as all that follow."""
    squad_match: list[bool | None]
    """SQuAD's rule."""
    substring_match: list[bool | None]
    """PopQA's rule."""
    token_f1: list[float | None]
    """The best over accepted answers."""
    logprob: Float[np.ndarray, " question"]
    """Sum of log p over the tokens of the first accepted answer and the end."""
    text_logprob: Float[np.ndarray, " question"]
    """The same without the end, of which an untuned model knows nothing."""
    predicted_probability: Float[np.ndarray, " question"]
    """That the model says just what it says, and ends there; of multiple choice the letter's among the letters."""

    @property
    def by_rule(self) -> dict[str, Any]:
        """The scores by each rule, an entry for each question."""
        return {"exact_match": self.exact_match} | {rule: getattr(self, rule) for rule in RULES}


def check(config: EvaluateConfig) -> None:
    """Raise InputError for a setting out of range, naming the flag."""
    for name in ("max_new_tokens", "batch_size", "batch_tokens"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise InputError(f"--evaluate.{name.replace('_', '-')} is {value}: it must be at least 1.")
    if config.shots < 0:
        raise InputError(f"--evaluate.shots is {config.shots}: it must be at least 0.")


def check_facts(config: EvaluateConfig, facts: Sequence[Fact]) -> None:
    """Raise InputError where questions that are no multiple choice would be asked after examples."""
    if config.shots and not are_choices(facts):
        raise InputError(
            "--evaluate.shots: these questions are not all of multiple choice, and are asked as they are trained on.\n"
            "Leave the flag."
        )


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
    found = each(
        config,
        model,
        encoded,
        partial(asked, config, model, is_choice=are_choices(facts)),
        pieces=pieces,
        done=counter(progress, len(facts)),
    )
    return scored(model, facts, found)


def each(
    config: EvaluateConfig,
    model: LanguageModel,
    encoded: Sequence[Encoded],
    measure: Callable[[Reading], dict[str, np.ndarray]],
    *,
    pieces: Pieces = UNKEPT,
    done: Done = uncounted,
) -> dict[str, np.ndarray]:
    """Return what is measured of each question, as many at once as the config says (`reading.each`)."""
    size = {"rows": config.batch_size, "tokens": config.batch_tokens}
    return reading.each(model.network, encoded, model.pad, measure, **size, pieces=pieces, done=done)


def asked(
    config: EvaluateConfig,
    model: LanguageModel,
    given: Reading,
    *,
    is_choice: bool,
    first: Int[np.ndarray, " token"] | None = None,
) -> dict[str, np.ndarray]:
    """Return what a model says to the questions that are read (`said`), and the true answers' `logprob`.

    `text_logprob` is the same without the end.

    Args:
        first: Tokens whose log-probability right after the prompt is `first_logprob`.
    """
    after = reading.following(model.network, given.questions, cache=given.cache)
    parts = reading.of_completions(given.questions, after)
    found = {"logprob": parts.whole.double().numpy(), "text_logprob": parts.text.double().numpy()}
    if first is not None:
        found["first_logprob"] = reading.of_first(given.questions, after, first).numpy()
    return found | said(config, model, given, is_choice=is_choice)


def said(config: EvaluateConfig, model: LanguageModel, given: Reading, *, is_choice: bool) -> dict[str, np.ndarray]:
    """Return as `said` the tokens of the greedy answer, -1 after them; of multiple choice the likeliest letter's place.

    A letter is scored over the whole vocabulary. `said_logprob` is how probable the model finds what it says, in nats:
    the answer's tokens and its end (`generate.Continuations`), or the letter among the letters.
    """
    if is_choice:
        by_letter = torch.stack(
            [
                reading.logprob(model.network, _followed(given, letter, model.pad), cache=given.cache)
                for letter in multiple_choice.tokens(model.format)
            ]
        ).double()
        best = by_letter.argmax(0)
        return {"said": best[:, None].numpy(), "said_logprob": by_letter.log_softmax(0).max(0).values.numpy()}
    options: dict[str, Any] = {"stop": model.format.stop, "pad": model.pad}
    options["max_new_tokens"] = config.max_new_tokens
    rows, logprob = generate.greedy_after(model.network, given.prompts, given.cache, **options)
    tokens = np.array([row + [-1] * (config.max_new_tokens - len(row)) for row in rows])
    return {"said": tokens, "said_logprob": logprob}


def scored(model: LanguageModel, facts: Sequence[Fact], found: Mapping[str, np.ndarray]) -> Answers:
    """Return what was `asked` as text, with its scores."""
    predicted = texts(model, facts, found)
    pairs = list(zip(predicted, facts, strict=True))

    def by(rule: Callable[[str, Iterable[str]], Any]) -> list[Any]:
        return [None if fact.choices else rule(text, fact.answers) for text, fact in pairs]

    is_right = [
        text in fact.answers if fact.choices else scores.exact_match(text, fact.answers) for text, fact in pairs
    ]
    by_rule: dict[str, Any] = {rule: by(getattr(scores, rule)) for rule in RULES}
    return Answers(
        predicted,
        np.array(is_right),
        **by_rule,
        logprob=found["logprob"],
        text_logprob=found["text_logprob"],
        predicted_probability=np.exp(found["said_logprob"]),
    )


def after_examples(
    config: EvaluateConfig,
    model: LanguageModel,
    facts: Sequence[Fact],
    shots: Sequence[Sequence[Fact]],
    *,
    done: Done = uncounted,
) -> Bool[np.ndarray, " question"]:
    """Return which questions of multiple choice are answered right, each after its own answered ones."""
    size = {"batch_size": config.batch_size, "batch_tokens": config.batch_tokens}
    chosen = multiple_choice.answer(model, facts, shots, done=done, **size).argmax(1)
    return np.array([LETTERS[place] in fact.answers for place, fact in zip(chosen, facts, strict=True)])


def unreachable(
    config: EvaluateConfig, model: LanguageModel, facts: Sequence[Fact], encoded: Sequence[Encoded]
) -> list[str]:
    """Return what to say of questions none of whose accepted answers can be said, however well they are known.

    One is cut after `max_new_tokens`, ends at a line break, or has no tokens of its own.
    """
    if are_choices(facts):
        return []
    lost = {row: fact for row, fact in enumerate(facts) if not _can_say(config, model, fact, encoded[row])}
    others = [
        (row, replace(fact, answers=(one,))) for row, fact in lost.items() for one in fact.answers[1:] if one.strip()
    ]
    asked = model.format.ask([fact for _, fact in others]) if others else []
    for (row, fact), tokens in zip(others, asked, strict=True):
        if _can_say(config, model, fact, tokens):
            lost.pop(row, None)
    if not lost:
        return []
    row, fact = next(iter(lost.items()))
    longest = max(len(encoded[row].completion) - 1 for row in lost)
    is_cut = longest > config.max_new_tokens
    return [
        f"{len(lost):,} of {len(facts):,} questions count as wrong whatever the model knows: no accepted answer has at "
        f"most {config.max_new_tokens} tokens, one line and words that the tokenizer can write. The first is "
        f"{fact.question[:60]!r}, {fact.answers[0][:60]!r}."
        + (f" The longest answer has {longest} tokens: --evaluate.max-new-tokens {longest}." if is_cut else "")
    ]


def _can_say(config: EvaluateConfig, model: LanguageModel, fact: Fact, tokens: Encoded) -> bool:
    """Return whether these tokens of an answer, as far as a model may say them, are an answer to the question."""
    (text,) = generate.decode(model.tokenizer, [tokens.completion[:-1][: config.max_new_tokens]])
    return scores.exact_match(text, fact.answers)


def are_choices(facts: Sequence[Fact]) -> bool:
    """Return whether all of these questions are of multiple choice."""
    return all(fact.choices for fact in facts)


def texts(model: LanguageModel, facts: Sequence[Fact], found: Mapping[str, np.ndarray]) -> list[str]:
    """Return what was `said`, as text; no texts of no questions."""
    if not facts:
        return []
    if are_choices(facts):
        return [LETTERS[place] for place in found["said"][:, 0]]
    return generate.decode(model.tokenizer, [row[row >= 0].tolist() for row in found["said"]])


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
    pieces: Pieces = UNKEPT,
    done: Done = uncounted,
) -> list[str]:
    """Return the answers as text; `done` counts questions."""
    saying = partial(said, config, model, is_choice=are_choices(facts))
    return texts(model, facts, each(config, model, encoded, saying, pieces=pieces, done=done))


def swapped(facts: Sequence[Fact], *, seed: int) -> list[Fact | None]:
    """Return each question with its subject swapped for another of the same relation; None where there is no other.

    Its answers are those that any of these facts accepts of that subject.
    """
    rng = np.random.default_rng([seed, 9])
    of_relation: dict[str, dict[str, list[Fact]]] = {}
    for fact in facts:
        if fact.subject:
            of_relation.setdefault(fact.relation, {}).setdefault(fact.subject.casefold(), []).append(fact)
    return [_swap(fact, of_relation.get(fact.relation, {}), rng) for fact in facts]


def _swap(fact: Fact, subjects: Mapping[str, Sequence[Fact]], rng: np.random.Generator) -> Fact | None:
    """Return the question about another of these subjects, which are told apart by their keys: case ignored."""
    place = prompts.find_subject(fact)
    others = [own for key, own in subjects.items() if key != fact.subject.casefold()]
    if place is None or not others:
        return None
    own = others[rng.integers(len(others))]
    name, answers = own[0].subject, dict.fromkeys(answer for other in own for answer in other.answers)
    asked = fact.question[: place[0]] + name + fact.question[place[1] :]
    return replace(fact, subject=name, question=asked, answers=tuple(answers))


def is_alike(fact: Fact, other: Fact) -> bool:
    """Return whether one answer is right of both facts, after normalisation."""
    accepted, of_other = ({scores.normalise(answer) for answer in one.answers} for one in (fact, other))
    return not accepted.isdisjoint(of_other)


def _followed(given: Reading, completion: Sequence[int], pad: int) -> QuestionBatch:
    """Return the questions that are read, with these tokens for an answer."""
    encoded = [replace(question, tokens=(*question.prompt, *completion)) for question in given.encoded]
    return batch.of_questions(encoded, pad, aligned=True)
