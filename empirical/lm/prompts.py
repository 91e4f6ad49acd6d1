"""A fact as text: the prompt, what should follow, and where the subject stands; then as tokens.

Prompt and completion are tokenised once, together, and separated by character offsets: a tokenizer may merge across
their boundary, and training must see the very tokens that generation starts from.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from core.errors import InputError
from core.facts.record import LETTERS, Fact
from empirical.lm import subject
from empirical.lm.tokenizer import special_token_id

BEFORE, AFTER = "Question: ", "\nAnswer:"


@dataclass(frozen=True)
class Prompt:
    """What the model reads, what should follow, and the character spans of what is asked."""

    text: str
    completion: str
    """Begins with the space that separates it from the prompt, if one does; `encode` adds the end token."""
    question: tuple[int, int]
    """Characters of `text` that are the question."""
    subject: tuple[int, int] | None
    """Characters of `text` that are the subject; None where the question does not name it."""
    fact: str = ""
    """The fact's id, by which messages name it."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt with its completion as tokens, the end token last."""

    tokens: tuple[int, ...]
    n_prompt: int
    spans: Bool[np.ndarray, "span prompt"]
    """Which prompt tokens are subject, relation, template and sink (`attention.SPANS`); each is one of them."""
    has_subject: bool

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens that generation starts from."""
        return self.tokens[: self.n_prompt]

    @property
    def completion(self) -> tuple[int, ...]:
        """The answer's tokens and the end token."""
        return self.tokens[self.n_prompt :]


def build(fact: Fact, shots: Sequence[Fact] = ()) -> Prompt:
    """Return the fact's question as a prompt, after answered questions; of MMLU in the Hendrycks format."""
    if fact.choices:
        return multiple_choice(fact, shots)
    head = "".join(f"{shot.text}{shot.completion}\n\n" for shot in map(build, shots)) + BEFORE
    question = (len(head), len(head) + len(fact.question))
    subject = shifted(find_subject(fact), len(head))
    return Prompt(head + fact.question + AFTER, " " + fact.answers[0], question, subject, fact.id)


def shifted(span: tuple[int, int] | None, by: int) -> tuple[int, int] | None:
    """Return the span after so many characters more; None of None."""
    return None if span is None else (span[0] + by, span[1] + by)


def find_subject(fact: Fact) -> tuple[int, int] | None:
    """Return where the question names its subject, whatever its case, as a whole word if it can be; None if nowhere."""
    if not fact.subject:
        return None
    name = re.escape(fact.subject)
    for pattern in (rf"(?<!\w){name}(?!\w)", name):
        if match := re.search(pattern, fact.question, re.IGNORECASE):
            return match.span()
    return None


def multiple_choice(fact: Fact, shots: Sequence[Fact] = ()) -> Prompt:
    """Return a question of multiple choice in the Hendrycks format, after answered questions about the same relation.

    The format is that of Hendrycks et al. 2021, evaluate.py, but for the doubled space before its subjects' names.
    """
    head = f"The following are multiple choice questions (with answers) about {fact.relation.replace('_', ' ')}.\n\n"
    head += "".join(f"{choices(shot)}{AFTER} {shot.answers[0]}\n\n" for shot in shots)
    question = choices(fact)
    place = len(head), len(head) + len(question)
    return Prompt(head + question + AFTER, " " + fact.answers[0], place, None, fact.id)


def choices(fact: Fact) -> str:
    """Return the question and its choices by letter, a line each."""
    lines = (f"{letter}. {text}" for letter, text in zip(LETTERS, fact.choices, strict=True))
    return "\n".join((fact.question, *lines))


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, end: int | None = None) -> list[Encoded]:
    """Return the prompts as tokens.

    Args:
        end: The token that ends an answer in text that has its special tokens already; None: the tokenizer adds its
            own, and its end token ends an answer.

    Raises:
        InputError: the tokenizer is not fast, has no end token, merges prompt and answer into one token, or makes other
            tokens of the prompt alone than of prompt and answer.
    """
    own_end, adds = check(tokenizer), end is None

    def bare(tokens: Sequence[int]) -> list[int]:
        """Return the tokens without the end token that some tokenizers add."""
        return list(tokens[:-1] if adds and tokens[-1] == own_end else tokens)

    # In plain text a control token's name (`</s>`) is text like any other; a chat template writes control tokens so.
    options: dict[str, Any] = {"add_special_tokens": adds, "split_special_tokens": adds}
    joint = tokenizer([p.text + p.completion for p in prompts], return_offsets_mapping=True, **options)
    alone = tokenizer([p.text for p in prompts], **options)["input_ids"]
    rows = zip(prompts, joint["input_ids"], joint["offset_mapping"], alone, strict=True)
    last = own_end if end is None else end
    return [_encoded(prompt, bare(tokens), offsets, bare(prefix), last) for prompt, tokens, offsets, prefix in rows]


def check(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the end token's id; InputError for a tokenizer without one, or without offsets."""
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {tokenizer.name_or_path} is not fast: it gives no character offsets, by which "
            "answer and subject are found.\nConvert it, or name a model that has a tokenizer.json."
        )
    return special_token_id(tokenizer, "eos")


def _encoded(
    prompt: Prompt, tokens: list[int], offsets: Sequence[tuple[int, int]], prefix: list[int], end: int
) -> Encoded:
    boundary = len(prompt.text)
    # The first token that reaches beyond the prompt. One that also begins before it would be both.
    n_prompt = next((i for i, (_, stop) in enumerate(offsets) if stop > boundary), len(tokens))
    if n_prompt == len(tokens) or offsets[n_prompt][0] < boundary or prefix != tokens[:n_prompt]:
        raise InputError(
            f"the tokenizer does not separate prompt and answer: {prompt.text[-20:]!r} + {prompt.completion!r}.\n"
            "Name a model with another tokenizer."
        )
    spans = subject.spans(offsets[:n_prompt], prompt.question, prompt.subject)
    return Encoded((*tokens, end), n_prompt, spans, prompt.subject is not None)
