"""Multiple choice by letter, as MMLU is scored: the log-probability of A, B, C and D after "Answer:".

The format is that of Hendrycks et al. 2021, evaluate.py, but for the doubled blank before its subjects' names.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import PreTrainedTokenizerBase

from core.errors import InputError
from core.facts.record import LETTERS, Fact
from empirical.lm import generate, prompts


def format_question(fact: Fact, *, with_answer: bool) -> str:
    """Return question and choices, a line each, up to "Answer:", or with the letter and an empty line after it."""
    return prompts.format_choices(fact) + prompts.AFTER + (f" {fact.answers[0]}\n\n" if with_answer else "")


def prompt(fact: Fact, shots: Sequence[Fact] = ()) -> str:
    """Return the text that the letter follows: the header, the answered questions, then the one that is asked."""
    answered = "".join(format_question(shot, with_answer=True) for shot in shots)
    return prompts.header(fact.relation) + answered + format_question(fact, with_answer=False)


Tokens = tuple[tuple[int, ...], ...]
"""What follows "Answer:", by letter: one token each, or a blank and a letter."""


def tokens(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Return the tokens of " A", " B", " C" and " D" where they follow "Answer:".

    Raises:
        InputError: a letter has no tokens of its own there.
    """
    found = tuple(_after_answer(tokenizer, letter) for letter in LETTERS)
    if not all(found) or len(set(found)) < len(LETTERS):
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no tokens of their own for ' A', ' B', ' C' and ' D' "
            f"after 'Answer:'.\nMultiple choice is scored by these: name a model of another tokenizer."
        )
    return found


def choose(
    model: generate.Model,
    prompt_ids: Sequence[Sequence[int]],
    following: Tokens,
    *,
    pad: int,
    batch_size: int = 64,
) -> Float[np.ndarray, "question letter"]:
    """Return the log-probability of each letter after each prompt, in nats, over the whole vocabulary."""
    settings: dict[str, Any] = {"pad": pad, "batch_size": batch_size}
    if all(len(letter) == 1 for letter in following):  # one pass for all four
        wanted = [[(len(ids), letter) for (letter,) in following] for ids in prompt_ids]
        found = generate.token_logprobs(model, prompt_ids, wanted, **settings)
    else:
        repeated = [ids for ids in prompt_ids for _ in following]
        found = generate.answer_logprob(model, repeated, following * len(prompt_ids), **settings)
    return np.reshape(found, (len(prompt_ids), len(LETTERS)))


def answer(
    model: generate.Model,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    shots: Sequence[Sequence[Fact]],
    *,
    batch_size: int = 64,
) -> Float[np.ndarray, "fact letter"]:
    """Return the letters' log-probabilities for each fact after its own answered questions.

    Facts of one subject with the same `shots` are scored together: what their prompts share is read once.

    Raises:
        InputError: the tokenizer does not part the letter from the prompt.
    """
    following = tokens(tokenizer)
    settings: dict[str, Any] = {"pad": tokenizer.pad_token_id, "batch_size": batch_size}
    groups: dict[str, list[int]] = defaultdict(list)
    texts = [prompt(fact, own) for fact, own in zip(facts, shots, strict=True)]
    for row, (fact, text) in enumerate(zip(facts, texts, strict=True)):
        groups[text.removesuffix(format_question(fact, with_answer=False))].append(row)
    found = np.empty((len(facts), len(LETTERS)))
    for rows in groups.values():
        # A letter stands in for the answer: the prompt's tokens must be those that go before one.
        asked = [prompts.Prompt(texts[row], " " + LETTERS[0], (0, len(texts[row])), None) for row in rows]
        ids = [encoded.prompt for encoded in prompts.encode(tokenizer, asked)]
        found[rows] = choose(model, ids, following, **settings)
    return found


def margin(logprobs: Float[np.ndarray, "fact letter"], facts: Sequence[Fact]) -> Float[np.ndarray, " fact"]:
    """Return by how many nats the right letter goes before the best other one; negative where the choice is wrong."""
    row = np.arange(len(facts))
    right = np.array([LETTERS.index(fact.answers[0]) for fact in facts], dtype=int)
    others = logprobs.copy()
    others[row, right] = -np.inf
    return logprobs[row, right] - others.max(axis=1)


def _after_answer(tokenizer: PreTrainedTokenizerBase, letter: str) -> tuple[int, ...]:
    """Return the tokens of " A" in "Answer: A", none if one of them begins before the blank."""
    before = prompts.AFTER.strip()
    joint = tokenizer(f"{before} {letter}", return_offsets_mapping=True)
    pairs = zip(joint["input_ids"], joint["offset_mapping"], strict=True)
    after = [(token, start) for token, (start, stop) in pairs if stop > len(before)]
    return tuple(token for token, start in after) if all(start >= len(before) for _, start in after) else ()
