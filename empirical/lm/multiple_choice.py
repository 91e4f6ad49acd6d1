"""Multiple choice by letter, as MMLU is scored: the log-probability of A, B, C and D after "Answer:"."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from core.errors import InputError
from core.facts.record import LETTERS, Fact
from empirical import processes
from empirical.lm import generate
from empirical.lm.formats import Format
from empirical.lm.model import LanguageModel
from empirical.progress import Done, uncounted

Tokens = tuple[tuple[int, ...], ...]
"""What follows "Answer:", by letter: one token each, or a space and a letter."""


def tokens(form: Format) -> Tokens:
    """Return the tokens of A, B, C and D where they follow a question: of plain text those of " A" after "Answer:".

    Raises:
        InputError: a letter has no tokens of its own there.
    """
    by_letter = tuple(_after(form, letter) for letter in LETTERS)
    if not all(by_letter) or len(set(by_letter)) < len(LETTERS):
        letters = ", ".join(repr(form.gap + letter) for letter in LETTERS)
        raise InputError(
            f"the tokenizer of {form.tokenizer.name_or_path!r} has no tokens of their own for {letters} after "
            f"{form.before!r}.\nMultiple choice is scored by these: name a model of another tokenizer."
        )
    return by_letter


def choose(
    model: generate.Model,
    prompt_ids: Sequence[Sequence[int]],
    following: Tokens,
    *,
    pad: int,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    done: Done = uncounted,
) -> Float[np.ndarray, "question letter"]:
    """Return the log-probability of each letter after each prompt, in nats, over the whole vocabulary.

    `done` counts prompts.
    """
    settings: dict[str, Any] = {"pad": pad, "batch_size": batch_size, "batch_tokens": batch_tokens}
    if all(len(letter) == 1 for letter in following):  # one pass for all four
        wanted = [[(len(ids), letter) for (letter,) in following] for ids in prompt_ids]
        logprobs = generate.token_logprobs(model, prompt_ids, wanted, done=done, **settings)
    else:
        repeated = [ids for ids in prompt_ids for _ in following]
        settings["done"] = lambda n_texts: done(n_texts / len(following))
        logprobs = generate.answer_logprob(model, repeated, following * len(prompt_ids), **settings)
    return np.reshape(logprobs, (len(prompt_ids), len(LETTERS)))


def answer(
    model: LanguageModel,
    facts: Sequence[Fact],
    shots: Sequence[Sequence[Fact]],
    *,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    done: Done = uncounted,
) -> Float[np.ndarray, "fact letter"]:
    """Return the letters' log-probabilities for each fact after its own answered questions.

    Facts of one subject with the same `shots` are scored together: what their prompts share is read once. `done` counts
    facts.

    Raises:
        InputError: the tokenizer does not separate the letter from the prompt.
    """
    form = model.format
    following = tokens(form)
    settings: dict[str, Any] = {"pad": model.pad, "batch_size": batch_size, "batch_tokens": batch_tokens, "done": done}
    # A letter stands in for the answer: the prompt's tokens must be those that go before one.
    asked_prompts = [
        replace(form.build(fact, own), completion=form.gap + LETTERS[0]) for fact, own in zip(facts, shots, strict=True)
    ]
    groups: dict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(asked_prompts):
        groups[prompt.text[: prompt.question[0]]].append(row)
    logprobs, found = np.empty((len(facts), len(LETTERS))), {}
    for place, rows in processes.share(groups.values()):
        ids = [encoded.prompt for encoded in form.encode([asked_prompts[row] for row in rows])]
        found[place] = choose(model.network, ids, following, **settings)
    for rows, chosen in zip(groups.values(), processes.gathered(found), strict=True):
        logprobs[rows] = chosen
    return logprobs


def margin(logprobs: Float[np.ndarray, "fact letter"], facts: Sequence[Fact]) -> Float[np.ndarray, " fact"]:
    """Return by how many nats the right letter goes before the best other one; negative where the choice is wrong."""
    row = np.arange(len(facts))
    right = np.array([LETTERS.index(fact.answers[0]) for fact in facts], dtype=int)
    others = logprobs.copy()
    others[row, right] = -np.inf
    return logprobs[row, right] - others.max(axis=1)


def _after(form: Format, letter: str) -> tuple[int, ...]:
    """Return the tokens of " A" in "Answer: A", or of the format's like, none if one of them begins before the gap."""
    text, n_before = form.before + form.gap + letter, len(form.before)
    is_plain = form.end is None
    options: dict[str, Any] = {"add_special_tokens": is_plain, "split_special_tokens": is_plain}
    joint = form.tokenizer(text, return_offsets_mapping=True, **options)
    pairs = zip(joint["input_ids"], joint["offset_mapping"], strict=True)
    after = [(token, start) for token, (start, stop) in pairs if stop > n_before]
    return tuple(token for token, start in after) if all(start >= n_before for _, start in after) else ()
