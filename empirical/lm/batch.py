"""Rows of tokens padded to one length, and where prompt, spans and answer stand in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from empirical.lm.prompts import Encoded

IGNORED = -100
"""The label of a token that is not scored; PyTorch's own."""


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


def of_questions(encoded: Sequence[Encoded], pad: int, *, answer_tokens: int | None = None) -> QuestionBatch:
    """Return the questions as a batch.

    Args:
        answer_tokens: Keep only so many tokens of each answer; None for all.
    """
    stops = [len(q.tokens) if answer_tokens is None else q.n_prompt + answer_tokens for q in encoded]
    padded = pad_right([q.tokens[:stop] for q, stop in zip(encoded, stops, strict=True)], pad)
    spans = torch.zeros((len(encoded), len(encoded[0].spans), padded.tokens.shape[1]), dtype=torch.bool)
    for row, question in enumerate(encoded):
        spans[row, :, : question.n_prompt] = torch.as_tensor(question.spans)
    n_prompt = [question.n_prompt for question in encoded]
    return QuestionBatch(padded.tokens, padded.mask, spans, padded.tail(n_prompt), torch.tensor(n_prompt) - 1)


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
