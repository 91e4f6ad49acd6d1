"""Rows of tokens padded to one length, and where prompt, spans and answer stand in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from empirical.lm.prompts import Encoded

IGNORED = -100
"""The label of a token that is not scored; PyTorch's own."""
TOKENS = 16_384
"""Tokens that are read at once, where nothing else is said: what batches of long texts hold, not of short ones."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of tokens, all of one length."""

    tokens: Int[torch.Tensor, "row token"]
    mask: Int[torch.Tensor, "row token"]
    """1 for a token, 0 for padding."""

    def tail(self, first: Sequence[int]) -> Bool[torch.Tensor, "row token"]:
        """Return which places hold a token at or after the row's `first` place."""
        place = torch.arange(self.tokens.shape[1])
        return (place >= torch.tensor(first)[:, None]) & self.mask.bool()


@dataclass(frozen=True, eq=False)
class QuestionBatch(Batch):
    """Questions with their answers, padding on the right."""

    spans: Bool[torch.Tensor, "row span token"]
    """Which tokens of the prompt are subject, relation, template and sink (`capture.SPANS`)."""
    completion: Bool[torch.Tensor, "row token"]
    """Which tokens are the answer's, the end token included."""
    prompt_end: Int[torch.Tensor, " row"]
    """The prompt's last token, which predicts the answer's first."""

    @property
    def labels(self) -> Int[torch.Tensor, "row token"]:
        """The answers' tokens; all others are IGNORED."""
        return self.tokens.masked_fill(~self.completion, IGNORED)


def of_questions(
    encoded: Sequence[Encoded], pad: int, *, answer_tokens: int | None = None, aligned: bool = False
) -> QuestionBatch:
    """Return the questions as a batch.

    Args:
        answer_tokens: Keep only so many tokens of each answer; None for all.
        aligned: Let all prompts end at one place, with padding on both sides; else padding is on the right alone.
    """
    stops = [len(q.tokens) if answer_tokens is None else q.n_prompt + answer_tokens for q in encoded]
    n_prompt = np.array([question.n_prompt for question in encoded])
    before = n_prompt.max() - n_prompt if aligned else np.zeros_like(n_prompt)
    rows = [question.tokens[:stop] for question, stop in zip(encoded, stops, strict=True)]
    place = np.arange(max(len(row) + n for row, n in zip(rows, before, strict=True)))
    after = before + [len(row) for row in rows]
    padded = _filled(rows, (place >= before[:, None]) & (place < after[:, None]), pad)
    spans = torch.zeros((len(encoded), len(encoded[0].spans), len(place)), dtype=torch.bool)
    for row, question in enumerate(encoded):
        spans[row, :, before[row] : before[row] + question.n_prompt] = torch.as_tensor(question.spans)
    ends = before + n_prompt
    return QuestionBatch(padded.tokens, padded.mask, spans, padded.tail(ends.tolist()), torch.from_numpy(ends) - 1)


def in_turn(lengths: Sequence[int], *, rows: int, tokens: int, is_packed: bool = False) -> list[range]:
    """Return the rows in batches, each as long as it may be.

    Args:
        rows: Most rows of a batch.
        tokens: Most tokens of a batch, padding included; a row that is longer is a batch of its own.
        is_packed: Whether there is no padding.
    """
    batches, first, longest, total = [], 0, 0, 0
    for row, length in enumerate(lengths):
        longest, total = max(longest, length), total + length
        width = total if is_packed else (row - first + 1) * longest
        if row > first and (row - first == rows or width > tokens):
            batches.append(range(first, row))
            first, longest, total = row, length, length
    return [*batches, range(first, len(lengths))] if lengths else []


def of_like_length(lengths: Sequence[int], *, rows: int, tokens: int) -> list[list[int]]:
    """Return the rows in batches of like length, the longest first: what does not fit into memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches = in_turn([lengths[row] for row in order], rows=rows, tokens=tokens)
    return [[order[place] for place in batch] for batch in batches]


def of_one_length(lengths: Sequence[int], *, rows: int, tokens: int) -> list[list[int]]:
    """Return the rows in batches of one length each, the longest first: they need no padding."""
    same: dict[int, list[int]] = {}
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        same.setdefault(lengths[row], []).append(row)
    return [
        [own[place] for place in batch]
        for length, own in same.items()
        for batch in in_turn([length] * len(own), rows=rows, tokens=tokens)
    ]


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> Batch:
    """Return the rows with padding after them."""
    length = np.array([len(row) for row in rows])
    return _filled(rows, np.arange(length.max()) < length[:, None], pad)


def pad_left(rows: Sequence[Sequence[int]], pad: int, *, prefix: Sequence[int] = ()) -> Batch:
    """Return the rows with padding before them, or between them and a prefix that they all have."""
    length = np.array([len(row) for row in rows])
    place = np.arange(len(prefix) + length.max())
    is_token = (place < len(prefix)) | (place >= len(place) - length[:, None])
    return _filled([[*prefix, *row] for row in rows], is_token, pad)


def _filled(rows: Sequence[Sequence[int]], is_token: Bool[np.ndarray, "row token"], pad: int) -> Batch:
    tokens = np.full(is_token.shape, pad, dtype=np.int64)
    tokens[is_token] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return Batch(torch.from_numpy(tokens), torch.from_numpy(is_token.astype(np.int64)))
