"""Rows of tokens as one batch: right-padded, with the marks that go with each token."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int

from empirical.lm.prompts import Encoded


class Batch(NamedTuple):
    """Right-padded tokens, and which of them are no padding."""

    tokens: Int[torch.Tensor, "row token"]
    mask: Int[torch.Tensor, "row token"]


def of_rows(rows: Sequence[Sequence[int]], padding: int) -> Batch:
    """Return the rows as a batch."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), padding)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return Batch(tokens, mask)


def spans(encoded: Sequence[Encoded], width: int) -> Bool[torch.Tensor, "row span token"]:
    """Return which tokens of a batch of this width are subject, relation, template and sink; none beyond the prompt."""
    marked = torch.zeros((len(encoded), len(encoded[0].spans), width), dtype=torch.bool)
    for index, text in enumerate(encoded):
        marked[index, :, : text.n_prompt] = torch.as_tensor(np.asarray(text.spans))
    return marked


def between(ends: Iterable[tuple[int, int]], width: int) -> Bool[torch.Tensor, "row token"]:
    """Return which tokens lie from the first end on and before the second, by row."""
    limits = torch.tensor(list(ends)).reshape(-1, 2)
    place = torch.arange(width)
    return (place >= limits[:, :1]) & (place < limits[:, 1:])
